"""Blocks against PyTorch's, and the decoder: causal, tied, the same in pieces as at once."""

from functools import partial

import pytest
import torch
from torch import nn

from notes_lib.nn import CrossBlock, Decoder, TransformerBlock, post_norm, pre_norm

from .test_attention import copied

BLOCK = partial(TransformerBlock, heads=3)


def fill(theirs: nn.Module, ours: TransformerBlock) -> nn.Module:
    """PyTorch's layer with the weights of ours, every bias and gain drawn at random."""
    for parameter in ours.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    theirs.self_attn = copied(ours.attention)
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
    for i, norm in enumerate(ours.norms, 1):
        getattr(theirs, f"norm{i}").load_state_dict(norm.state_dict())
    return theirs.train()  # in evaluation it takes another path; there is no dropout to differ


@pytest.mark.equation(
    "eq-transformer-post-norm", "eq-transformer-pre-norm", "eq-transformer-feed-forward"
)
@pytest.mark.parametrize("residual", [pre_norm, post_norm])
def test_a_block_equals_pytorch(residual):
    ours, x = TransformerBlock(12, 3, residual=residual), torch.randn(2, 7, 12)
    options = dict(dropout=0.0, batch_first=True, norm_first=residual is pre_norm)
    theirs = fill(nn.TransformerEncoderLayer(12, 3, 48, **options), ours)
    torch.testing.assert_close(ours(x), theirs(x))
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, causal=True), theirs(x, hidden))


@pytest.mark.parametrize("residual", [pre_norm, post_norm])
def test_a_cross_block_equals_pytorch(residual):
    ours = CrossBlock(12, 3, residual=residual)
    x, memory = torch.randn(2, 7, 12), torch.randn(2, 5, 12)
    options = dict(dropout=0.0, batch_first=True, norm_first=residual is pre_norm)
    theirs = fill(nn.TransformerDecoderLayer(12, 3, 48, **options), ours)
    theirs.multihead_attn = copied(ours.cross)
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, memory, causal=True), theirs(x, memory, hidden))
    padded = torch.arange(5) >= torch.tensor([[5], [3]])
    masked = ours(x, memory, memory_mask=~padded[:, None, None])
    torch.testing.assert_close(masked, theirs(x, memory, memory_key_padding_mask=padded))


def test_a_layer_has_twelve_d_squared_weights():
    """4 d^2 in the attention and 8 d^2 in the feed-forward network, biases and gains apart."""
    for dim in (12, 48):
        weights = [p.numel() for p in TransformerBlock(dim, 3).parameters() if p.ndim == 2]
        assert sum(weights) == 12 * dim**2


@pytest.mark.equation("eq-transformer-causal")
def test_no_output_moves_when_a_later_token_does():
    model, tokens = Decoder(11, 12, 2, BLOCK), torch.randint(11, (2, 9))
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 1) % 11
    same = (model(tokens) == model(other)).all(-1).all(0)
    assert same[:5].all() and not same[5:].any()


@pytest.mark.parametrize("kv_heads", [1, 3])
@pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 1, 3, 1]])
def test_the_decoder_reads_on_from_where_it_was(sizes, kv_heads):
    model = Decoder(11, 12, 2, partial(BLOCK, kv_heads=kv_heads))
    tokens, read = torch.randint(11, (2, 9)), model.reader()
    pieces = [read(piece) for piece in tokens.split(sizes, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens))


def test_two_readers_do_not_share_their_memory():
    model, tokens = Decoder(11, 12, 1, BLOCK), torch.randint(11, (2, 9))
    first, second = model.reader(), model.reader()
    first(tokens)
    torch.testing.assert_close(second(tokens), model(tokens))


def test_a_table_of_positions_may_stand_for_the_sinusoids():
    model, tokens = Decoder(11, 12, 1, BLOCK, nn.Embedding(9, 12)), torch.randint(11, (2, 9))
    read = model.reader()
    read(tokens[:, :4])
    torch.testing.assert_close(read(tokens[:, 4:]), model(tokens)[:, 4:])


def test_every_parameter_of_the_decoder_learns():
    model = Decoder(11, 12, 2, BLOCK)
    model(torch.randint(11, (2, 9))).logsumexp(-1).sum().backward()
    silent = {name for name, p in model.named_parameters() if not p.grad.abs().max() > 1e-9}
    assert silent == {f"blocks.{i}.attention.k.bias" for i in range(2)}  # moves every score alike


def test_a_decoder_needs_a_layer():
    with pytest.raises(ValueError, match="at least 1"):
        Decoder(11, 12, 0, BLOCK)
