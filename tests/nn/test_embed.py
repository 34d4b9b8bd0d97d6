"""Positions turn, and one matrix reads and scores tokens."""

import pytest
import torch

from notes_lib.nn import PositionalEncoding, TokenEmbedding


@pytest.mark.equation("eq-transformer-positions")
def test_positions_are_the_formula():
    got = PositionalEncoding(6)(torch.tensor([0, 7]))
    assert got[0].tolist() == [0, 1, 0, 1, 0, 1]
    angles = [7 / 10_000 ** (2 * i / 6) for i in range(3)]
    expected = [f(torch.tensor(a)) for a in angles for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(got[1], torch.stack(expected))


@pytest.mark.equation("eq-transformer-shift")
@pytest.mark.parametrize("k", [-5, 0, 1, 40])
def test_a_shift_is_one_rotation_for_all_places(k):
    encode, places = PositionalEncoding(16), torch.arange(100)
    turn = encode.shift(k)
    torch.testing.assert_close(encode(places) @ turn.T, encode(places + k))
    torch.testing.assert_close(turn @ turn.T, torch.eye(16))


@pytest.mark.equation("eq-transformer-offset")
def test_products_of_positions_depend_on_their_distance_only():
    rows = PositionalEncoding(16)(torch.arange(50))
    gram = rows @ rows.T
    cosines = [torch.cos(3 / 10_000 ** (torch.arange(0, 16, 2) / 16)).sum()] * 47
    torch.testing.assert_close(gram.diagonal(3), torch.stack(cosines))
    torch.testing.assert_close(gram.diagonal(), torch.full((50,), 8.0))


def test_positions_need_pairs():
    with pytest.raises(ValueError, match="even and positive"):
        PositionalEncoding(5)


@pytest.mark.equation("eq-transformer-tied")
def test_one_matrix_reads_and_scores():
    embed = TokenEmbedding(7, 4)
    tokens, y = torch.randint(7, (2, 3)), torch.randn(2, 3, 4)
    torch.testing.assert_close(embed(tokens), 2 * embed.table[tokens])
    torch.testing.assert_close(
        embed.logits(y)[1, 2, 5], torch.dot(embed.table[5].detach(), y[1, 2])
    )
    assert [p.shape for p in embed.parameters()] == [(7, 4)]


def test_embedded_tokens_start_with_entries_of_variance_one():
    x = TokenEmbedding(1000, 64)(torch.arange(1000)[None])
    assert abs(x.var() - 1) < 4 * (2 / x.numel()) ** 0.5
