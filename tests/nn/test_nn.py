import math

import pytest
import torch

from notes_lib.nn import (
    AdaLayerNorm,
    ClassEmbedding,
    CrossAttention,
    Labelled,
    ResidualBlock,
    ResidualClassifier,
    ResidualMLP,
    SinusoidalEmbedding,
)


def test_sinusoidal_embedding_is_the_formula():
    got = SinusoidalEmbedding(8, scale=1000.0)(torch.tensor([0.0, 0.003]))
    angles = torch.tensor([3.0 * 10_000 ** (-2 * i / 8) for i in range(4)])
    torch.testing.assert_close(got[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(got[1], torch.cat([angles.cos(), angles.sin()]))


@pytest.mark.parametrize("dim", [0, 3, -2])
def test_sinusoidal_embedding_needs_pairs(dim):
    with pytest.raises(ValueError, match="even and positive"):
        SinusoidalEmbedding(dim)


def test_modules_that_start_at_zero_change_nothing():
    x, c = torch.randn(5, 6), torch.randn(5, 4)
    layer = AdaLayerNorm(6, 4)
    torch.testing.assert_close(layer(x, c), torch.nn.functional.layer_norm(x, (6,)))
    torch.testing.assert_close(ResidualBlock(6, 4)(x, c), x)
    assert ResidualMLP(12, 16, 2)(torch.randn(3, 1, 3, 4), torch.rand(3)).abs().max() == 0


def test_ada_layer_norm_is_the_formula():
    layer, x, c = AdaLayerNorm(6, 4), torch.randn(5, 6), torch.randn(5, 4)
    torch.nn.init.normal_(layer.map.weight)
    torch.nn.init.normal_(layer.map.bias)
    gain, bias = (c @ layer.map.weight.T + layer.map.bias).split(6, 1)
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x, c), normed * (1 + gain) + bias)


def test_every_parameter_of_the_mlp_learns():
    net = ResidualMLP(4, 8, 2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=1 / math.sqrt(8))
    net(torch.randn(3, 4), torch.rand(3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_one_time_for_all_is_embedded_once():
    net, x = ResidualMLP(4, 8, 2), torch.randn(3, 4)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    torch.testing.assert_close(net(x, torch.tensor([0.3])), net(x, torch.full((3,), 0.3)))


def test_samples_do_not_see_each_other():
    net, x, t = ResidualMLP(4, 8, 2), torch.randn(3, 4), torch.rand(3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, t), x)
    for i in range(3):
        for j in range(3):
            assert (jacobian[i, :, j].abs().max() > 0) == (i == j)


def test_class_embedding_drops_to_null_and_only_null():
    embedding, label = ClassEmbedding(10, 4), torch.arange(20_000) % 10
    dropped = embedding.drop(label, 0.1, torch.Generator().manual_seed(0))
    gone = dropped != label
    assert (dropped[gone] == embedding.null).all()
    assert abs(gone.double().mean() - 0.1) < 4 * (0.1 * 0.9 / 20_000) ** 0.5
    assert torch.equal(embedding.drop(label, 0.0), label)
    assert (embedding.drop(label, 1.0) == 10).all()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: ClassEmbedding(0, 4), "at least 1"),
        (lambda: ClassEmbedding(3, 4)(torch.tensor([0, 4])), r"0 \.\. 3"),
        (lambda: ClassEmbedding(3, 4)(torch.tensor([-1])), r"0 \.\. 3"),
        (lambda: ClassEmbedding(3, 4).drop(torch.tensor([1]), 1.5), "share"),
    ],
)
def test_class_embedding_refuses(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_a_zero_embedding_is_the_network_without_labels():
    net, x, t = ResidualMLP(6, 16, 2, condition=8), torch.randn(5, 6), torch.rand(5)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    labelled = Labelled(net, ClassEmbedding(3, 8))
    label = torch.tensor([0, 1, 2, 3, 0])
    assert not torch.allclose(labelled(x, t, label), net(x, t))
    torch.nn.init.zeros_(labelled.embedding.table.weight)
    assert torch.equal(labelled(x, t, label), net(x, t))


def test_classifier_starts_at_equal_odds_and_takes_one_time_for_all():
    net, x = ResidualClassifier(12, 5, 16), torch.randn(3, 1, 3, 4)
    assert net(x, torch.rand(3)).abs().max() == 0 and net(x, torch.rand(1)).shape == (3, 5)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.testing.assert_close(net(x, torch.full((1,), 0.3)), net(x, torch.full((3,), 0.3)))
    assert (net(x, torch.full((1,), 0.3)) - net(x, torch.full((1,), 0.6))).abs().max() > 0.1


def test_cross_attention_is_the_formula_and_blind_with_one_token():
    layer, x, y = CrossAttention(6, 4, heads=2), torch.randn(2, 5, 6), torch.randn(2, 3, 4)
    q, k, v = layer.to_q(x), layer.to_k(y), layer.to_v(y)
    heads = [
        (q[..., h] @ k[..., h].mT / 3**0.5).softmax(-1) @ v[..., h]
        for h in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(layer(x, y), layer.to_out(torch.cat(heads, -1)))
    one = layer(x, y[:, :1])
    torch.testing.assert_close(one, one[:, :1].expand_as(one))
    with pytest.raises(ValueError, match="multiple of heads"):
        CrossAttention(6, 4, heads=4)


def test_cross_attention_is_diffusers_attention_by_weight_copy():
    pytest.importorskip("diffusers", reason="peer: pip install -r requirements-peers.txt")
    from diffusers.models.attention_processor import Attention

    ours = CrossAttention(24, 10, heads=4)
    peer = Attention(24, cross_attention_dim=10, heads=4, dim_head=6).double()
    names = {"to_out.weight": "to_out.0.weight", "to_out.bias": "to_out.0.bias"}
    peer.load_state_dict({names.get(key, key): value for key, value in ours.state_dict().items()})
    x, y = torch.randn(2, 7, 24), torch.randn(2, 5, 10)
    torch.testing.assert_close(ours(x, y), peer(x, encoder_hidden_states=y), atol=1e-12, rtol=0)
