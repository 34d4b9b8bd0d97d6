"""The geometry of tiles: none too few, none too many, in either order of the loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.attention import Tiles, visible


@settings(deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    causal=st.booleans(),
    window=st.none() | st.integers(0, 20),
    tile=st.tuples(st.integers(1, 17), st.integers(1, 17)),
)
def test_exactly_the_tiles_that_hold_something_seen(n, m, causal, window, tile):
    """Whatever order the loops have, they visit the same tiles, and no tile without a seen key."""
    tiles = Tiles(n, m, causal, window, tile)
    seen = visible(torch.arange(n), torch.arange(m), m - n, causal=causal, window=window)
    needed = {
        (rows.start, cols.start)
        for rows in tiles.rows()
        for cols in tiles.cols()
        if seen[rows, cols].any()
    }
    assert {(i.start, j.start) for i in tiles.rows() for j in tiles.seen_by(i)} == needed
    assert {(i.start, j.start) for j in tiles.cols() for i in tiles.seeing(j)} == needed


@pytest.mark.parametrize("bad", [dict(shape=(0, 3)), dict(shape=(3, 0)), dict(window=-1)])
def test_tiles_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="got"):
        Tiles(5, 5, **bad)
