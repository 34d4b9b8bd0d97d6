"""`flash_attention`: exact attention in memory linear in the length, as two operators of PyTorch.

On CPU tensors the operators run the loops of `twin.py`, on CUDA tensors the kernels of
`notes_lib.attention.cuda`. `torch.compile` traces through them, and autograd knows their gradients.
"""

from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from .softmax import check_heads
from .twin import empty_out, flash_backward, flash_forward, precise, row_delta


def flash_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m e"],
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "b h n e"]:
    """Equal to :func:`~notes_lib.attention.softmax.softmax_attention`, without its n x m matrices.

    Half precision is computed in float32 and rounded once. Gradients can be taken once, not twice.

    Args:
        causal, window: see :func:`~notes_lib.attention.softmax.visible`.
        scale, softcap: see :func:`~notes_lib.attention.softmax.scores`.

    Raises:
        ValueError: tensors that do not match or are not floating point, a negative window, a
            softcap that is not positive.
        ImportError: CUDA tensors without the packages that compile the kernels.
    """
    return flash_with_lse(q, k, v, causal=causal, scale=scale, window=window, softcap=softcap)[0]


def flash_with_lse(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m e"],
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "b h n e"], Float[Tensor, "b h n"]]:
    """:func:`flash_attention` and the log-sum-exp of every row: what merging needs of a part.

    Both may be differentiated. Arguments and errors: see :func:`flash_attention`.
    """
    check_heads(q, k, v)
    if not q.is_floating_point():
        raise ValueError(f"q, k and v need a floating-point dtype, got {q.dtype}")
    if window is not None and window < 0:
        raise ValueError(f"window must be None or at least 0, got {window}")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap must be None or above 0, got {softcap}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _forward(q, k, v, causal, scale, window, softcap)


@torch.library.custom_op("notes_lib::flash_forward", mutates_args=(), device_types="cpu")
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    return flash_forward(q, k, v, causal=causal, scale=scale, window=window, softcap=softcap)


@torch.library.custom_op("notes_lib::flash_backward", mutates_args=(), device_types="cpu")
def _backward(
    d_out: Tensor,
    d_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    delta = row_delta(d_out, out, d_lse)
    return flash_backward(
        d_out, delta, q, k, v, lse, causal=causal, scale=scale, window=window, softcap=softcap
    )


@_forward.register_fake
def _(q, k, v, causal, scale, window, softcap):
    return empty_out(q, v), q.new_empty(q.shape[:3], dtype=precise(q))


@_backward.register_fake
def _(d_out, d_lse, q, k, v, out, lse, causal, scale, window, softcap):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx, inputs, output) -> None:
    q, k, v, *ctx.options = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.set_materialize_grads(False)  # None, not zeros, for an output that nobody uses


def _gradients(ctx, d_out, d_lse):
    q, k, v, out, lse = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    return *_backward(d_out, d_lse, q, k, v, out, lse, *ctx.options), None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)


def _kernels() -> ModuleType:
    """The module that compiles and launches the CUDA kernels; imported at the first CUDA tensor."""
    try:
        from .cuda import device
    except ImportError as error:
        raise ImportError(
            "attention on CUDA tensors compiles its kernels with the packages cuda-bindings and "
            "nvidia-cuda-nvrtc: install requirements-gpu.txt, or move the tensors to the CPU"
        ) from error
    return device


@_forward.register_kernel("cuda")
def _(q, k, v, causal, scale, window, softcap):
    return _kernels().forward(q, k, v, causal, scale, window, softcap)


@_backward.register_kernel("cuda")
def _(d_out, d_lse, q, k, v, out, lse, causal, scale, window, softcap):
    grads = d_out, d_lse
    return _kernels().backward(*grads, q, k, v, out, lse, causal, scale, window, softcap)
