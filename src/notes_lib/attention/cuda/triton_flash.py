"""The forward schedule once more, in Triton: blocks and loops are ours, the rest its compiler's.

Layouts, swizzles, asynchronous copies and the choice of tensor-core instructions are not written
here at all. Triton comes with PyTorch for CUDA. TRITON_INTERPRET=1 runs the file on the CPU.
"""

import math
import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Tile(NamedTuple):
    """Queries and keys of a block, warps that share it, key blocks in flight."""

    rows: int = 128
    cols: int = 64
    warps: int = 8
    stages: int = 3


TILE = Tile()


@triton.jit
def _walk(
    o, m, ell, q, k_at, v_at, k_row, v_row, rows, first, last, shift, keys, scale_log2,
    COLS: tl.constexpr, CAUSAL: tl.constexpr, EDGE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The online softmax over keys first to last; k_at and v_at point at the blocks of `first`."""
    for start in range(first, last, COLS):
        cols = start + tl.arange(0, COLS)
        there = cols[:, None] < keys
        k = tl.load(k_at, mask=there, other=0.0) if EDGE else tl.load(k_at)
        s = tl.dot(q, tl.trans(k.to(DOT))) * scale_log2
        if EDGE:  # only these blocks hold a key that some query must not see
            s = tl.where(cols[None, :] < keys, s, float("-inf"))
            if CAUSAL:
                s = tl.where(cols[None, :] <= rows[:, None] + shift, s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)  # a row that has seen no key yet
        p = tl.exp2(s - m_safe[:, None])
        alpha = tl.exp2(m - m_safe)
        ell = ell * alpha + tl.sum(p, 1)
        v = tl.load(v_at, mask=there, other=0.0) if EDGE else tl.load(v_at)
        o = o * alpha[:, None] + tl.dot(p.to(v.dtype).to(DOT), v.to(DOT))
        m = m_new
        k_at += COLS * k_row
        v_at += COLS * v_row
    return o, m, ell


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    heads, group, queries, keys, scale_log2,
    ROWS: tl.constexpr, COLS: tl.constexpr, D: tl.constexpr,
    CAUSAL: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # under a causal mask the longest rows first
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    rows, cols, width = tile * ROWS + tl.arange(0, ROWS), tl.arange(0, COLS), tl.arange(0, D)
    inside = rows[:, None] < queries
    q_at = q_ptr + batch * q_batch + head * q_head + rows[:, None] * q_row + width[None, :]
    k_at = k_ptr + batch * k_batch + head // group * k_head + cols[:, None] * k_row + width[None, :]
    v_at = v_ptr + batch * v_batch + head // group * v_head + cols[:, None] * v_row + width[None, :]
    q = tl.load(q_at, mask=inside, other=0.0).to(DOT)
    o = tl.zeros([ROWS, D], tl.float32)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    ell = tl.zeros([ROWS], tl.float32)

    shift = keys - queries
    last, whole = keys, keys  # keys that some query sees, and keys that all of them see
    if CAUSAL:
        last = tl.maximum(tl.minimum(keys, (tile + 1) * ROWS + shift), 0)
        whole = tl.maximum(tl.minimum(keys, tile * ROWS + shift + 1), 0)
    whole = whole // COLS * COLS
    o, m, ell = _walk(
        o, m, ell, q, k_at, v_at, k_row, v_row, rows, 0, whole, shift, keys, scale_log2,
        COLS, CAUSAL, False, DOT,
    )  # fmt: skip
    o, m, ell = _walk(
        o, m, ell, q, k_at + whole * k_row, v_at + whole * v_row, k_row, v_row, rows, whole, last,
        shift, keys, scale_log2, COLS, CAUSAL, True, DOT,
    )  # fmt: skip

    seen = ell > 0
    ell = tl.where(seen, ell, 1.0)
    o = o / ell[:, None]
    lse = tl.where(seen, (m + tl.log2(ell)) * 0.6931471805599453, float("-inf"))
    o_at = o_ptr + batch * o_batch + head * o_head + rows[:, None] * o_row + width[None, :]
    tl.store(o_at, o.to(o_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + (batch * heads + head) * queries + rows, lse, mask=rows < queries)


def triton_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m d"],
    *,
    causal: bool = False,
    scale: float | None = None,
    tile: Tile = TILE,
) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b h n"]]:
    """softmax(scale Q K^T) V and its log-sum-exp; d a power of 2, the last axis contiguous."""
    (batch, heads, queries, d), (_, groups, keys, _) = q.shape, k.shape
    out = torch.empty_like(q)
    lse = q.new_empty((batch, heads, queries), dtype=torch.float32)
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:3]]
    scale_log2 = (d**-0.5 if scale is None else scale) * math.log2(math.e)
    # Triton's interpreter multiplies the bit patterns of bfloat16 (triton-lang/triton, issue 11584)
    dot = tl.float32 if INTERPRETED else getattr(tl, str(q.dtype).removeprefix("torch."))
    _forward[(triton.cdiv(queries, tile.rows), heads, batch)](
        q, k, v, out, lse, *strides, heads, heads // groups, queries, keys, scale_log2,
        tile.rows, tile.cols, d, causal, dot, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out, lse
