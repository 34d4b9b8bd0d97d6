import math

import pytest
import torch

from notes_lib.nn import AdaLayerNorm, ResidualBlock, ResidualMLP, SinusoidalEmbedding


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
