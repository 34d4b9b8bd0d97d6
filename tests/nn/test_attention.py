"""Heads against PyTorch's, and the memory that lets a model read on."""

import pytest
import torch
from torch import nn

from notes_lib.attention import fused_attention, softmax_attention
from notes_lib.nn import KVCache, MultiHeadAttention, TransformerBlock, recorded_qkv, with_attend


def copied(ours: MultiHeadAttention) -> nn.MultiheadAttention:
    """PyTorch's module with the weights of ours, biases drawn at random."""
    for layer in (ours.q, ours.k, ours.v, ours.out):
        nn.init.normal_(layer.bias)
    heads = ours.q.out_features // ours.width
    theirs = nn.MultiheadAttention(ours.q.in_features, heads, batch_first=True)
    parts = (ours.q, ours.k, ours.v)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


@pytest.mark.equation("eq-transformer-heads", "eq-transformer-attention")
@pytest.mark.parametrize("attend", [softmax_attention, fused_attention])
@pytest.mark.parametrize("heads", [1, 3, 6])
def test_it_equals_pytorch(heads, attend):
    ours, x, memory = MultiHeadAttention(12, heads, attend), torch.randn(2, 7, 12), None
    theirs = copied(ours)
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
    torch.testing.assert_close(ours(x, causal=True), theirs(x, x, x, attn_mask=hidden)[0])
    memory = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x, memory), theirs(x, memory, memory)[0])


def test_padding_equals_pytorch():
    ours, x = MultiHeadAttention(12, 3), torch.randn(2, 7, 12)
    theirs = copied(ours)
    padded = torch.arange(7) >= torch.tensor([[7], [4]])
    out = ours(x, mask=~padded[:, None, None])
    torch.testing.assert_close(out, theirs(x, x, x, key_padding_mask=padded)[0])
    other = x.masked_fill(padded[..., None], 9.0)
    assert torch.equal(ours(other, mask=~padded[:, None, None])[1, :4], out[1, :4])


@pytest.mark.equation("eq-transformer-heads")
def test_heads_joined_are_heads_summed():
    """concat(head_i) W = sum_i head_i W_i, W_i the columns of the output map for head i."""
    layer, x = MultiHeadAttention(12, 3, bias=False), torch.randn(2, 7, 12)
    heads = softmax_attention(*layer.qkv(x, x))
    parts = layer.out.weight.split(layer.width, 1)
    summed = sum(heads[:, i] @ part.T for i, part in enumerate(parts))
    torch.testing.assert_close(layer(x), summed)


def test_grouped_heads_are_heads_with_copied_weights():
    few, x = MultiHeadAttention(12, 6, kv_heads=2), torch.randn(2, 7, 12)
    full = MultiHeadAttention(12, 6)
    state = few.state_dict()
    for name in ("k.weight", "v.weight", "k.bias", "v.bias"):
        heads = state[name].unflatten(0, (2, 2))
        state[name] = heads.repeat_interleave(3, 0).flatten(0, 1)
    full.load_state_dict(state)
    torch.testing.assert_close(few(x, causal=True), full(x, causal=True))
    assert sum(p.numel() for p in few.parameters()) < sum(p.numel() for p in full.parameters())


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 1, 1, 2]])
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_reading_in_pieces_is_reading_at_once(sizes, kv_heads):
    layer, x = MultiHeadAttention(12, 3, kv_heads=kv_heads), torch.randn(2, 7, 12)
    cache = KVCache()
    pieces = [layer(piece, cache=cache, causal=True) for piece in x.split(sizes, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), layer(x, causal=True))
    assert len(cache) == 7 and len(KVCache()) == 0


def test_without_positions_order_does_not_count():
    """Permuted inputs give permuted outputs; nothing in a block knows where a token stands."""
    block, x, order = TransformerBlock(12, 3), torch.randn(2, 7, 12), torch.randperm(7)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])
    assert not torch.allclose(block(x[:, order], causal=True), block(x, causal=True)[:, order])


def test_recorded_queries_are_those_that_the_layer_made():
    layer, x = MultiHeadAttention(12, 3), torch.randn(2, 7, 12)
    (recorded,) = recorded_qkv(layer, x)
    for ours, theirs in zip(recorded, layer.qkv(x, x), strict=True):
        assert torch.equal(ours, theirs)
    assert layer.attend is softmax_attention


def test_with_attend_changes_a_copy():
    block, x = TransformerBlock(12, 3), torch.randn(2, 7, 12)
    other = with_attend(block, lambda q, k, v: v)
    torch.testing.assert_close(with_attend(other, softmax_attention)(x), block(x))
    assert block.attention.attend is softmax_attention
    assert not torch.allclose(other(x), block(x))


@pytest.mark.parametrize("sizes", [(12, 5, None), (12, 6, 4), (12, 0, None)])
def test_heads_that_do_not_divide_are_refused(sizes):
    dim, heads, kv_heads = sizes
    with pytest.raises(ValueError, match="must hold"):
        MultiHeadAttention(dim, heads, kv_heads=kv_heads)
