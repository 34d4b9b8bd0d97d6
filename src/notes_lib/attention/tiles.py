"""Which tiles of the score matrix have to be computed, and what is hidden inside one."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .softmax import visible


def blocks(low: int, high: int, size: int, length: int) -> Iterator[slice]:
    """The blocks of `size` places, of `length` in all, that meet the places low to high - 1."""
    low, high = max(low, 0), min(high, length)
    for start in range(low // size * size, high, size):
        yield slice(start, min(start + size, length))


def fold(x: Tensor, groups: int) -> Tensor:
    """The query heads that share keys, one below the other, "b g (r n) ...": one head's rows."""
    return rearrange(x, "b (g r) n ... -> b g (r n) ...", g=groups)


def unfold(x: Tensor, heads: int) -> Tensor:
    """The inverse of :func:`fold`, "b h n ..."."""
    return rearrange(x, "b g (r n) ... -> b (g r) n ...", r=heads // x.shape[1])


@dataclass(frozen=True)
class Tiles:
    """The score matrix of `n` queries and `m` keys, cut into tiles of `shape` (rows, keys).

    Args:
        causal, window: see :func:`~notes_lib.attention.softmax.visible`.

    Raises:
        ValueError: a negative window, or a side of `shape` below 1.
    """

    n: int
    m: int
    causal: bool = False
    window: int | None = None
    shape: tuple[int, int] = (64, 64)

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise ValueError(f"window must be None or at least 0, got {self.window}")
        if min(self.shape) < 1:
            raise ValueError(f"a tile needs at least one row and one key, got {self.shape}")

    @property
    def reach(self) -> tuple[int, int]:
        """How many keys a query sees before and behind its own place."""
        before = self.n + self.m if self.window is None else self.window
        return before, 0 if self.causal else before

    def rows(self) -> Iterator[slice]:
        """All blocks of queries."""
        return blocks(0, self.n, self.shape[0], self.n)

    def cols(self) -> Iterator[slice]:
        """All blocks of keys."""
        return blocks(0, self.m, self.shape[1], self.m)

    def seen_by(self, rows: slice) -> Iterator[slice]:
        """The blocks of keys of which some query of `rows` sees something."""
        before, behind = self.reach
        place = self.m - self.n
        low, high = rows.start + place - before, rows.stop + place + behind
        return blocks(low, high, self.shape[1], self.m)

    def seeing(self, cols: slice) -> Iterator[slice]:
        """The blocks of queries that see something of the keys `cols`."""
        before, behind = self.reach
        place = self.n - self.m
        low, high = cols.start + place - behind, cols.stop + place + before
        return blocks(low, high, self.shape[0], self.n)

    def hide(self, tile: Tensor, rows: slice, cols: slice, value: float) -> Tensor:
        """`tile` "... (r rows) cols" with `value` where a query does not see a key."""
        if not self.causal and self.window is None:
            return tile
        i, j = (torch.arange(x.start, x.stop, device=tile.device) for x in (rows, cols))
        seen = visible(i, j, self.m - self.n, causal=self.causal, window=self.window)
        if seen.all():
            return tile
        return tile.masked_fill(~seen.repeat(tile.shape[-2] // len(i), 1), value)
