r"""Softmax over scores that arrive a few at a time: the state (m, l, o) and how two of them merge.

`m` is the largest score so far, `ell` (the papers' :math:`\ell`) the sum of the exponentials
relative to `m`, and `o` the same sum with a value beside each exponential.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .softmax import check_heads, scores
from .tiles import Tiles, fold, unfold


class SoftmaxState(NamedTuple):
    """What rows know of the keys they have seen: `m` and `ell`, one number a row, and `o`, "e"."""

    m: Tensor
    ell: Tensor
    o: Tensor

    @property
    def out(self) -> Tensor:
        r"""The attention over these keys, :math:`o / \ell`, and 0 if there are none."""
        return ratio(self.o, self.ell[..., None])

    @property
    def lse(self) -> Tensor:
        r"""The log of the sum of the exponentials, :eq:`eq-flash-attention-lse`; -inf without keys.

        .. math:: L = m + \log \ell
        """
        return self.m + self.ell.log()


def decay(m: Tensor, m_new: Tensor) -> Tensor:
    """:math:`e^{m - m_new}`, and 0 where both are -inf, for which the formula says nan."""
    return (m - m_new.masked_fill(m_new == -torch.inf, 0.0)).exp_()


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b for b >= 0, and `a` where b is 0: an empty sum stays 0."""
    return a / b.masked_fill(b == 0, 1.0)


def empty_state(m: Float[Tensor, "*rows"], e: int) -> SoftmaxState:
    """The state before the first key, the identity of :func:`merge`: (-inf, 0, 0) like `m`."""
    return SoftmaxState(
        torch.full_like(m, -torch.inf), torch.zeros_like(m), m.new_zeros(*m.shape, e)
    )


def softmax_state(s: Float[Tensor, "*rows m"], v: Float[Tensor, "*batch m e"]) -> SoftmaxState:
    """The state of one block of keys, from its scores `s` (-inf hides a key) and values `v`."""
    m = s.amax(-1)
    p = decay(s, m[..., None])
    return SoftmaxState(m, p.sum(-1), p @ v)


def merge(a: SoftmaxState, b: SoftmaxState) -> SoftmaxState:
    r"""The state of the keys of both, :eq:`eq-flash-attention-merge`.

    .. math::

       \bar m = \max(m, m'),\quad
       \bar\ell = e^{m - \bar m}\ell + e^{m' - \bar m}\ell',\quad
       \bar o = e^{m - \bar m} o + e^{m' - \bar m} o'

    Associative and commutative, with :func:`empty_state` as identity: keys may be split and
    ordered at will.
    """
    m = torch.maximum(a.m, b.m)
    by_a, by_b = decay(a.m, m), decay(b.m, m)
    return SoftmaxState(
        m, by_a * a.ell + by_b * b.ell, by_a[..., None] * a.o + by_b[..., None] * b.o
    )


def absorb(
    state: SoftmaxState, s: Float[Tensor, "*rows m"], v: Float[Tensor, "*batch m e"]
) -> SoftmaxState:
    r"""A block of keys more, Dao (2023), algorithm 1, :eq:`eq-flash-attention-fa2`.

    .. math::

       \begin{aligned}
       m^{(j)} &= \max(m^{(j-1)}, \operatorname{rowmax} S),\quad
       \tilde P = e^{S - m^{(j)}},\quad \alpha = e^{m^{(j-1)} - m^{(j)}}, \\
       \ell^{(j)} &= \alpha\,\ell^{(j-1)} + \operatorname{rowsum}\tilde P,\quad
       \tilde O^{(j)} = \alpha\,\tilde O^{(j-1)} + \tilde P V
       \end{aligned}

    The same as :func:`merge` with :func:`softmax_state`; the block is taken relative to the new
    maximum at once, so that nothing but the old state is rescaled.
    """
    m = torch.maximum(state.m, s.amax(-1))
    p, alpha = decay(s, m[..., None]), decay(state.m, m)
    return SoftmaxState(m, alpha * state.ell + p.sum(-1), alpha[..., None] * state.o + p @ v)


def safe_softmax(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""Softmax that cannot overflow, in three passes over the row, :eq:`eq-flash-attention-safe`.

    .. math:: m = \max_j x_j, \qquad \ell = \sum_j e^{x_j - m}, \qquad a_i = e^{x_i - m} / \ell
    """
    m = x.amax()
    ell = decay(x, m).sum()
    return ratio(decay(x, m), ell)


def online_normaliser(x: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    r"""m and l in one pass, Milakov and Gimelshein (2018), :eq:`eq-flash-attention-online`.

    .. math::

       m_i = \max(m_{i-1}, x_i), \qquad
       \ell_i = \ell_{i-1}\, e^{m_{i-1} - m_i} + e^{x_i - m_i}
    """
    m, ell = torch.tensor(-torch.inf), torch.tensor(0.0)
    for x_i in x:
        m_old, m = m, torch.maximum(m, x_i)
        ell = ell * decay(m_old, m) + decay(x_i, m)
    return m, ell


def one_pass(x: Iterable[Tensor], v: Iterable[Tensor]) -> Tensor:
    r"""Attention of one row in one pass over scores and values, :eq:`eq-flash-attention-one-pass`.

    .. math::

       o_i = o_{i-1}\,\frac{\ell_{i-1}\, e^{m_{i-1} - m_i}}{\ell_i}
           + \frac{e^{x_i - m_i}}{\ell_i}\,v_i
    """
    m, ell, o = torch.tensor(-torch.inf), torch.tensor(0.0), torch.tensor(0.0)
    for x_i, v_i in zip(x, v, strict=True):
        m_old, m = m, torch.maximum(m, x_i)
        kept, new = ell * decay(m_old, m), decay(x_i, m)
        ell = kept + new
        o = ratio(kept * o + new * v_i, ell)
    return o


def online_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m e"],
    *,
    causal: bool = False,
    block: int = 64,
) -> Float[Tensor, "b h n e"]:
    """Exact attention with n x `block` scores at a time: states of blocks of keys, merged.

    Raises:
        ValueError: see :func:`~notes_lib.attention.softmax.softmax_attention`.
    """
    check_heads(q, k, v)
    heads, n = q.shape[1:3]
    rows, tiles = slice(0, n), Tiles(n, k.shape[2], causal, shape=(max(n, 1), block))
    q = fold(q, k.shape[1])
    states = (
        softmax_state(tiles.hide(scores(q, k[:, :, cols]), rows, cols, -torch.inf), v[:, :, cols])
        for cols in tiles.cols()
    )
    return unfold(reduce(merge, states, empty_state(q[..., 0], v.shape[-1])).out, heads)
