"""Attention on CUDA tensors: what is checked, which rung runs, what is launched."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ..softmax import check_heads
from .hopper import HopperBackwardParams, HopperParams, hopper_backward, hopper_forward
from .kernel import Kernel
from .launch import Grid, launch
from .params import BackwardParams, DeltaParams, ForwardParams
from .variants import flash_backward, flash_forward, row_delta

WIDTHS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)
ALIGNMENT = 16  # bytes, which one copy moves
LARGEST = 65535  # of the second and third axis of a grid


def forward(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m d"],
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Float[Tensor, "b h n d"], Float32[Tensor, "b h n"]]:
    """Attention and the log of each row's sum of exponentials (natural; -inf for a row of zeros).

    `out` is a new tensor in the layout of ``torch.empty_like(q)``: q's own unless q has gaps.

    Raises:
        ValueError: what :func:`check` refuses.
        RuntimeError: a GPU older than sm_80.
    """
    check(q, k, v)
    variant = q.shape[-1], causal, q.dtype == torch.float16
    if softcap is None and for_hopper(q, k, v):
        return run_forward(hopper_forward(*variant), q, k, v, scale=scale, window=window)
    kernel = flash_forward(*variant, softcap=softcap is not None)
    return run_forward(kernel, q, k, v, scale=scale, window=window, softcap=softcap)


def run_forward(
    kernel: Kernel,
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m d"],
    **options: int | float | None,
) -> tuple[Float[Tensor, "b h n d"], Float32[Tensor, "b h n"]]:
    """As :func:`forward`, without its checks, by a rung of the caller's choice.

    Args:
        options: scale, and of window and softcap what the rung knows.
    """
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    if not (q.numel() and k.numel()):
        return out.zero_(), lse.fill_(-torch.inf)
    if kernel.arch == 90:
        params = HopperParams.of(q, k, v, out, lse, kernel=kernel, **options)
    else:
        params = ForwardParams.of(q, k, v, out, lse, **options)
    launch(kernel, q, grid(kernel, q), params)
    return out, lse


def backward(
    d_out: Float[Tensor, "b h n d"],
    d_lse: Float32[Tensor, "b h n"] | None,
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m d"],
    out: Float[Tensor, "b h n d"],
    lse: Float32[Tensor, "b h n"],
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Float[Tensor, "b h n d"], Float[Tensor, "b g m d"], Float[Tensor, "b g m d"]]:
    """(dq, dk, dv) of (out, lse), the same bits at every call; `d_lse` is None if nobody uses lse.

    Raises: as :func:`forward`. `d_out` may have any strides: autograd hands out what it likes.
    """
    check(q, k, v)
    saved, variant = (out, lse), (q.shape[-1], causal, q.dtype == torch.float16)
    options, d_out = dict(scale=scale, window=window), aligned(d_out)
    if softcap is None and for_hopper(q, k, v, d_out):
        kernels = hopper_backward(*variant)
    else:
        kernels = flash_backward(*variant, softcap=softcap is not None)
        options["softcap"] = softcap
    return run_backward(kernels, (d_out, d_lse), saved, (q, k, v), **options)


def run_backward(
    kernels: tuple[Kernel, Kernel],
    above: tuple[Tensor, Tensor | None],
    saved: tuple[Tensor, Tensor],
    inputs: tuple[Tensor, Tensor, Tensor],
    **options: int | float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`backward`, without its checks, by a rung of the caller's choice.

    Args:
        kernels: the one that owns keys and gives dk and dv, the one that owns queries.
        above: d_out and d_lse, the gradients from above; d_lse may be None.
        saved: out and lse.
        inputs: q, k, v.
        options: scale, and of window and softcap what the rung knows.
    """
    q, k, _ = inputs
    grads = tuple(map(torch.empty_like, inputs))
    if not (q.numel() and k.numel()):
        return tuple(x.zero_() for x in grads)
    (d_out, d_lse), (out, lse) = above, saved
    delta, lse = run_delta(d_out, out, d_lse), lse.contiguous()
    for kernel, owned in zip(kernels, (k, q), strict=True):
        given = inputs, d_out, grads, lse, delta
        if kernel.arch == 90:
            params = HopperBackwardParams.of(*given, kernel=kernel, **options)
        else:
            params = BackwardParams.of(*given, **options)
        launch(kernel, q, grid(kernel, owned), params)
    return grads


def run_delta(
    d_out: Float[Tensor, "b h n d"],
    out: Float[Tensor, "b h n d"],
    d_lse: Float32[Tensor, "b h n"] | None,
) -> Float32[Tensor, "b h n"]:
    """:func:`~notes_lib.attention.twin.row_delta`, by a kernel; of at least one row."""
    d_out, out = aligned(d_out), aligned(out)
    d_lse = None if d_lse is None else d_lse.contiguous()
    delta = out.new_empty(out.shape[:3], dtype=torch.float32)
    kernel = row_delta(out.shape[-1], out.dtype == torch.float16)
    launch(kernel, out, grid(kernel, out), DeltaParams.of(d_out, out, d_lse, delta))
    return delta


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless the kernels can read the tensors."""
    check_heads(q, k, v)
    width, width_v = q.shape[-1], v.shape[-1]
    if width not in WIDTHS or width_v != width:
        raise ValueError(f"the kernels have widths 64 and 128, one for all; got {width, width_v}")
    if q.dtype not in DTYPES:
        raise ValueError(f"the kernels take bfloat16 and float16, got {q.dtype}")
    for name, x in {"q": q, "k": k, "v": v}.items():
        if not is_aligned(x):
            raise ValueError(
                f"the last axis of {name} must be contiguous and every row start at a multiple of "
                f"{ALIGNMENT} bytes, got strides {x.stride()} at address {x.data_ptr():#x}: call "
                f"{name}.clone(memory_format=torch.contiguous_format)"
            )


def is_aligned(x: Tensor) -> bool:
    """Whether the last axis is contiguous and each row starts where a copy of 16 bytes may."""
    starts = [stride for stride, size in zip(x.stride()[:-1], x.shape, strict=False) if size > 1]
    step = ALIGNMENT // x.element_size()
    aligned = x.data_ptr() % ALIGNMENT == 0 and all(stride % step == 0 for stride in starts)
    return x.stride(-1) == 1 and aligned


def aligned(x: Tensor) -> Tensor:
    """The tensor, or a copy that is aligned: `contiguous` would leave an odd address as it is."""
    return x if is_aligned(x) else x.clone(memory_format=torch.contiguous_format)


def for_hopper(*tensors: Tensor) -> bool:
    """Whether the GPU is a Hopper, and no axis repeats without being there, as the TMA wants it."""
    steps = [
        step for x in tensors for step, size in zip(x.stride(), x.shape, strict=True) if size > 1
    ]
    return torch.cuda.get_device_capability(tensors[0].device) == (9, 0) and all(steps)


def grid(kernel: Kernel, owned: Tensor) -> Grid:
    """Blocks that share the rows of `owned` "b h n d", the tensor of which a block owns a part."""
    batch, heads, length, _ = owned.shape
    if max(batch, heads) > LARGEST:
        raise ValueError(f"at most {LARGEST} heads and as many batches, got {heads} and {batch}")
    return -(-length // kernel.rows), heads, batch
