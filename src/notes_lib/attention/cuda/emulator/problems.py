"""Problems for the kernels: tensors, the right results in float64, and what a kernel gets wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...softmax import scores, softmax_attention, visible
from ..kernel import Kernel
from .attention import backward, forward, row_delta, rows_of, surrounded
from .emulated import Edit, EmulationError, build

# Relative error of out, dq, dk and dv. P or dS is rounded to 16 bits, and so is the result: twice
# 2^-9 = 3.9e-3 for bfloat16 and 4.9e-4 for half where one number decides, less where many do.
# Most in 7,000 problems: 3.9e-3 and 5.0e-4, of a few queries; of 150 and more 2.4e-3 and 2.8e-4.
TOLERANCE = {torch.bfloat16: 4.5e-3, torch.float16: 6e-4, torch.float32: 3e-6}


@dataclass(frozen=True)
class Problem:
    """Sizes and masks of one attention, of unit-normal tensors.

    Args:
        n, m: queries and keys.
        share: heads of q to each of the `groups` of k and v.
        magnitude: of q.
        axes: order of the axes in memory, the width last.
    """

    n: int
    m: int
    batch: int = 1
    groups: int = 1
    share: int = 2
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    magnitude: float = 1.0
    axes: str = "bhn"

    @property
    def masks(self) -> dict:
        return dict(window=self.window, softcap=self.softcap)

    def tensors(self, d: int, dtype: torch.dtype) -> list[Tensor]:
        """q, k, v and d_out: the same numbers at every call, and NaN around them."""
        random = torch.Generator().manual_seed(self.n * 1009 + self.m)
        heads = self.groups * self.share
        shapes = (heads, self.n), (self.groups, self.m), (self.groups, self.m), (heads, self.n)
        sizes = self.magnitude, 1.0, 1.0, 1.0
        return [
            laid_out(size * torch.randn(self.batch, h, n, d, generator=random), self.axes, dtype)
            for (h, n), size in zip(shapes, sizes, strict=True)
        ]


def laid_out(x: Tensor, axes: str, dtype: torch.dtype) -> Tensor:
    """The same "b h n d", rounded, kept in memory in another order and surrounded by NaN."""
    order = ["bhn".index(axis) for axis in axes]
    back = [axes.index(axis) for axis in "bhn"]
    return surrounded(x.to(dtype).permute(*order, 3)).permute(*back, 3)


@dataclass(frozen=True)
class Expected:
    """Float64, of the rounded inputs."""

    out: Tensor
    lse: Tensor
    grads: tuple[Tensor, ...]


def expected(problem: Problem, tensors: list[Tensor]) -> Expected:
    *inputs, d_out = (x.double() for x in tensors)
    leaves = [x.requires_grad_() for x in inputs]
    out = softmax_attention(*leaves, causal=problem.causal, **problem.masks)
    grads = torch.autograd.grad(out, leaves, d_out)
    q, k, _ = inputs
    places = torch.arange(problem.n), torch.arange(problem.m), problem.m - problem.n
    seen = visible(*places, causal=problem.causal, window=problem.window)
    s = scores(q, k, softcap=problem.softcap).detach().masked_fill(~seen, -torch.inf)
    return Expected(out.detach(), s.logsumexp(-1), grads)


def symptom(
    problem: Problem,
    kernels: tuple[Kernel, ...],
    *,
    edits: tuple[Edit, ...] = (),
    within: str = "",
    late: bool = False,
) -> str | None:
    """What is wrong with a forward kernel, that of delta, or the backward pair; None if nothing is.

    Args:
        edits: mistakes to make first, in the kernels whose name has `within`.
    """
    d, dtype = layout_of(kernels[0])
    tensors = problem.tensors(d, dtype)
    exact = expected(problem, tensors)
    built = tuple(build(kernel, edits if within in kernel.entry else ()) for kernel in kernels)
    runs = {"row_delta": run_delta}
    run = runs.get(kernels[0].entry, run_forward if len(built) == 1 else run_backward)
    try:
        results, counts = run(problem, built, tensors, exact, late)
    except EmulationError as error:
        return str(error)
    differences = (differ(name, *pair) for name, pair in results.items())
    return next(filter(None, differences), None) or slow(counts)


def run_forward(problem, built, tensors, exact: Expected, late: bool):
    out, lse, counts = forward(*built, *tensors[:3], late=late, **problem.masks)
    return dict(out=(out, exact.out), lse=(lse, exact.lse)), (counts,)


def run_delta(problem, built, tensors, exact: Expected, late: bool):
    """Of any two tensors "b h n d", with q for an output; lse stands for its own gradient."""
    q, *_, d_out = tensors
    d_lse = rows_of(q).copy_(exact.lse)
    wanted = (q.double() * d_out.double()).sum(-1) - d_lse.double()
    delta, counts = row_delta(*built, d_out, q, d_lse, late=late)
    return dict(delta=(delta, wanted)), (counts,)


def run_backward(problem, built, tensors, exact: Expected, late: bool):
    *inputs, d_out = tensors
    lse = rows_of(d_out).copy_(exact.lse)
    delta = rows_of(d_out).copy_((exact.out * d_out.double()).sum(-1))
    grads, counts = backward(built, d_out, delta, tuple(inputs), lse, late=late, **problem.masks)
    pairs = zip(grads, exact.grads, strict=True)
    return dict(zip(("dq", "dk", "dv"), pairs, strict=True)), counts


def differ(name: str, x: Tensor, exact: Tensor) -> str | None:
    """In words, how x differs from what it should be. An error of 1e-5 an entry is never one."""
    tolerance = TOLERANCE[x.dtype]
    x, finite = x.double(), exact.isfinite()
    if x.isnan().any():
        return f"{name} is not a number"
    if not torch.equal(x[~finite], exact[~finite]) or not x[finite].isfinite().all():
        return f"{name} is infinite in the wrong places"
    error, size = (x - exact)[finite].norm(), exact[finite].norm()
    if error > tolerance * size + 1e-5 * math.sqrt(x.numel()):
        return f"{name} is wrong by {error / size:.2g}"


def slow(counts: tuple[dict[str, int], ...]) -> str | None:
    """Bank conflicts of the kernels that should have none: those that use ldmatrix."""
    conflicts = sum(c["bank_conflicts"] for c in counts if c["ldmatrix"])
    return f"{conflicts} bank conflicts" if conflicts else None


def layout_of(kernel: Kernel) -> tuple[int, torch.dtype]:
    """Width and type of the tensors that a kernel takes."""
    macros = dict(kernel.macros)
    half = torch.float16 if macros.get("HALF") else torch.bfloat16
    return macros["D"], torch.float32 if macros.get("FLOAT") else half
