"""The attention kernels on the emulator: tensors in, tensors and counts out."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ..params import BackwardParams, DeltaParams, ForwardParams
from .emulated import Emulated, EmulationError

MARGIN = 128  # rows of NaN on either side of an output


def forward(
    emulated: Emulated,
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m d"],
    *,
    late: bool = False,
    scale: float | None = None,
    **masks: int | float | None,
) -> tuple[Float[Tensor, "b h n d"], Float32[Tensor, "b h n"], dict[str, int]]:
    """(out, lse, counts) of a kernel that takes ForwardParams.

    Args:
        late: see :class:`~notes_lib.attention.cuda.emulator.emulated.Emulated`.
        scale: of the scores; 1 / sqrt(d) when None.
        masks: window and softcap; the causal mask is the kernel's own.

    Raises:
        EmulationError: also where the kernel writes outside of its outputs.
    """
    out, lse = surrounded(torch.full_like(q, math.nan)), rows_of(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    params = ForwardParams.of(q, k, v, out, lse, scale=scale, **masks)
    counts = emulated(grid(emulated, q), params, late=late)
    refuse_strays(out, lse)
    return out, lse, counts


def row_delta(
    emulated: Emulated,
    d_out: Float[Tensor, "b h n d"],
    out: Float[Tensor, "b h n d"],
    d_lse: Float32[Tensor, "b h n"] | None = None,
    *,
    late: bool = False,
) -> tuple[Float32[Tensor, "b h n"], dict[str, int]]:
    """(rowsum(d_out * out) - d_lse, counts). Errors: see :func:`forward`."""
    delta = rows_of(out)
    counts = emulated(grid(emulated, out), DeltaParams.of(d_out, out, d_lse, delta), late=late)
    refuse_strays(delta)
    return delta, counts


def backward(
    emulated: tuple[Emulated, Emulated],
    d_out: Float[Tensor, "b h n d"],
    delta: Float32[Tensor, "b h n"],
    inputs: tuple[Tensor, Tensor, Tensor],
    lse: Float32[Tensor, "b h n"],
    *,
    late: bool = False,
    scale: float | None = None,
    **masks: int | float | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[dict[str, int], dict[str, int]]]:
    """((dq, dk, dv), counts of each kernel) of the pair of kernels that `flash_backward` names.

    Args:
        delta: see :func:`row_delta`.
        inputs: q, k and v.

    The other arguments, and errors: see :func:`forward`.
    """
    q, k, _ = inputs
    grads = tuple(surrounded(torch.full_like(x, math.nan)) for x in inputs)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    params = BackwardParams.of(inputs, d_out, grads, lse, delta, scale=scale, **masks)
    counts = tuple(
        kernel(grid(kernel, owned), params, late=late)
        for kernel, owned in zip(emulated, (k, q), strict=True)
    )
    refuse_strays(*grads)
    return grads, counts


def grid(emulated: Emulated, owned: Tensor) -> tuple[int, int, int]:
    batch, heads, length, _ = owned.shape
    return -(-length // emulated.kernel.rows), heads, batch


def surrounded(x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
    """The same numbers, with rows of NaN before and after those of each head."""
    b, h, n, d = x.shape
    whole = x.new_full((b, h, n + 2 * MARGIN, d), math.nan)
    return whole[:, :, MARGIN:-MARGIN].copy_(x)


def rows_of(q: Float[Tensor, "b h n d"]) -> Float32[Tensor, "b h n"]:
    """NaN for every row of q, contiguous, with NaN before and after."""
    b, h, n, _ = q.shape
    whole = torch.full((b + 2 * MARGIN, h, n), math.nan, dtype=torch.float32)
    return whole[MARGIN:-MARGIN]


def refuse_strays(*outputs: Tensor) -> None:
    """Raise EmulationError unless all that surrounds the outputs is still NaN."""
    for x in outputs:
        inside = torch.zeros(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.bool)
        inside.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
        whole = x.as_strided(inside.shape, (1,), 0)
        if not whole[~inside].isnan().all():
            raise EmulationError("the kernel wrote outside of its outputs")
