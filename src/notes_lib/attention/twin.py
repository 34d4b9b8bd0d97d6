"""FlashAttention's loops over tiles in PyTorch, forward and backward: the twin of the kernels.

The score matrix never exists: forward keeps a state (m, l, o) for each row of a block, backward
makes each tile of probabilities again from the saved log-sum-exp.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .online import absorb, decay, empty_state
from .softmax import scores
from .tiles import Tiles, fold, unfold

BLOCKS = (256, 512)


def precise(x: Tensor) -> torch.dtype:
    """The precision that sums are held in: float32, or float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)


def empty_out(q: Tensor, v: Tensor) -> Tensor:
    """Room for the output, in the layout of `q` where the widths agree."""
    if q.shape[-1] == v.shape[-1]:
        return torch.empty_like(q)
    return q.new_empty(*q.shape[:3], v.shape[-1])


def flash_forward(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m e"],
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    blocks: tuple[int, int] = BLOCKS,
) -> tuple[Float[Tensor, "b h n e"], Float[Tensor, "b h n"]]:
    """Attention and its lse by tiles, Dao (2023), algorithm 1, :eq:`eq-flash-attention-fa2`.

    Half precision is computed in float32, and the log-sum-exp stays in it. A query that sees no
    key gets 0 and -inf.

    Args:
        blocks: rows and keys of a tile, the paper's B_r and B_c.
    """
    heads, groups, n, m = q.shape[1], k.shape[1], q.shape[2], k.shape[2]
    tiles = Tiles(n, m, causal, window, blocks)
    out = empty_out(q, v)
    lse = q.new_empty(q.shape[:3], dtype=precise(q))
    for rows in tiles.rows():
        q_i = fold(q[:, :, rows].to(lse.dtype), groups)
        state = empty_state(q_i[..., 0], v.shape[-1])
        for cols in tiles.seen_by(rows):
            s = scores(q_i, k[:, :, cols].to(lse.dtype), scale, softcap)
            s = tiles.hide(s, rows, cols, -torch.inf)
            state = absorb(state, s, v[:, :, cols].to(lse.dtype))
        out[:, :, rows] = unfold(state.out, heads)
        lse[:, :, rows] = unfold(state.lse, heads)
    return out, lse


def flash_backward(
    d_out: Float[Tensor, "b h n e"],
    delta: Float[Tensor, "b h n"],
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m e"],
    lse: Float[Tensor, "b h n"],
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    blocks: tuple[int, int] = BLOCKS,
) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b g m d"], Float[Tensor, "b g m e"]]:
    r"""Gradients by tiles, Dao (2023), algorithm 2, :eq:`eq-flash-attention-backward`.

    .. math::

       \begin{aligned}
       P &= e^{S - L},\quad dV = P^\top dO,\quad dP = dO\,V^\top, \\
       dS &= P \circ (dP - D),\quad dQ = \tau\,dS\,K,\quad dK = \tau\,dS^\top Q
       \end{aligned}

    Args:
        delta: :math:`D`, see :func:`row_delta`.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    tiles = Tiles(q.shape[2], k.shape[2], causal, window, blocks)
    heads, dtype = q.shape[1], lse.dtype
    dq = torch.zeros_like(q, dtype=dtype)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    for cols in tiles.cols():
        k_j, v_j = k[:, :, cols].to(dtype), v[:, :, cols].to(dtype)
        dk_j, dv_j = torch.zeros_like(k_j), torch.zeros_like(v_j)
        for rows in tiles.seeing(cols):
            q_i, do_i, delta_i, lse_i = (
                fold(x[:, :, rows].to(dtype), k.shape[1]) for x in (q, d_out, delta, lse)
            )
            s = scores(q_i, k_j, scale, softcap)
            p = tiles.hide(decay(s, lse_i[..., None]), rows, cols, 0.0)
            ds = p * (do_i @ v_j.mT - delta_i[..., None])
            if softcap is not None:
                ds = ds * (1 - (s / softcap) ** 2)
            dv_j += p.mT @ do_i
            dk_j += scale * ds.mT @ q_i
            dq[:, :, rows] += scale * unfold(ds @ k_j, heads)
        dk[:, :, cols], dv[:, :, cols] = dk_j, dv_j
    return dq.to(q.dtype), dk, dv


def row_delta(
    d_out: Float[Tensor, "b h n e"],
    out: Float[Tensor, "b h n e"],
    d_lse: Float[Tensor, "b h n"] | None = None,
) -> Float[Tensor, "b h n"]:
    r"""All that the backward pass has to know of a whole row, :eq:`eq-flash-attention-delta`.

    .. math:: D = \operatorname{rowsum}(dO \circ O) - dL

    Args:
        d_lse: the gradient of the log-sum-exp, None if nobody uses it.
    """
    dtype = precise(out)
    delta = (d_out.to(dtype) * out.to(dtype)).sum(-1)
    return delta if d_lse is None else delta - d_lse
