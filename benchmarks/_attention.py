"""Who takes part in the benchmark of attention on a GPU, and how a call is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from notes_lib.attention.cuda import device, variants
from notes_lib.attention.cuda.hopper import hopper_backward, hopper_forward

Run = Callable[[], Tensor | tuple[Tensor, ...]]
SAMPLES, SECONDS = 30, 0.3  # of one measurement: at most as many, about as long
FLUSH = 1 << 30  # bytes, many times the L2 cache; to write them takes longer than to launch a call
TILES = [(128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3)]  # for Triton


class Problem(NamedTuple):
    """q, k, v and the gradient of the output, "b h n d", heads next to each other in memory."""

    q: Tensor
    k: Tensor
    v: Tensor
    d_out: Tensor
    causal: bool

    @classmethod
    def of(cls, d: int, length: int, causal: bool, tokens: int, hidden: int) -> Problem:
        shape = tokens // length, length, hidden // d, d
        draws = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4))
        return cls(*(x.transpose(1, 2) for x in draws), causal)

    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    def flops(self, products: int) -> float:
        """Of so many matrix products of the scores' size; a causal mask needs half of each."""
        b, h, n, d = self.q.shape
        return products * 2 * b * h * n * n * d / (2 if self.causal else 1)

    def exact(self) -> list[Tensor]:
        """out, dq, dk, dv of the last head, in float64."""
        last = [x[-1:, -1:].double() for x in (*self.qkv(), self.d_out)]
        leaves = [x.requires_grad_() for x in last[:3]]
        with sdpa_kernel(SDPBackend.MATH):
            out = scaled_dot_product_attention(*leaves, is_causal=self.causal)
        return [out.detach(), *torch.autograd.grad(out, leaves, last[3])]


# ---------------------------------------------------------------------------------- contenders
# A contender prepares a run: forward(problem)() gives the output, backward(problem)() gradients.


def rung(kernel: Callable, problem: Problem) -> Run:
    made = kernel(problem.q.shape[-1], problem.causal, False)
    return lambda: device.run_forward(made, *problem.qkv(), scale=problem.q.shape[-1] ** -0.5)[0]


def naive(problem: Problem) -> Run:
    """In float32: it has no tensor cores to feed."""
    full = problem._replace(**{name: getattr(problem, name).float() for name in "qkv"})
    return rung(lambda d, causal, half: variants.naive(d, causal), full)


def triton(problem: Problem) -> Run:
    from notes_lib.attention.cuda.triton_flash import Tile, triton_attention

    tile = Tile(*best_tile(problem.q.shape[-1]))
    return lambda: triton_attention(*problem.qkv(), causal=problem.causal, tile=tile)[0]


@cache
def best_tile(d: int) -> tuple[int, ...]:
    """The fastest of TILES at 4096 tokens."""
    from notes_lib.attention.cuda.triton_flash import Tile, triton_attention

    problem = Problem.of(d, 4096, False, 16384, 2048)
    times = {}
    for tile in TILES:
        run = partial(triton_attention, *problem.qkv(), tile=Tile(*tile))
        times[tile] = timed(lambda run=run: run()[0])["ms"]
    return min(times, key=times.get)


def sdpa(backend: SDPBackend, problem: Problem, qkv: tuple[Tensor, ...] | None = None) -> Run:
    def run():
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(*qkv, is_causal=problem.causal)

    qkv = problem.qkv() if qkv is None else qkv
    return run


@cache
def compiled_flex() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = 64  # a shape each
    return torch.compile(flex_attention, dynamic=False)


def flex(problem: Problem, qkv: tuple[Tensor, ...] | None = None) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask

    qkv, n = problem.qkv() if qkv is None else qkv, problem.q.shape[2]
    seen = None
    if problem.causal:
        seen = create_block_mask(lambda b, h, i, j: i >= j, None, None, n, n, device="cuda")
    return lambda: compiled_flex()(*qkv, block_mask=seen)


def by_autograd(forward: Callable, problem: Problem) -> Run:
    leaves = tuple(x.detach().requires_grad_() for x in problem.qkv())
    out = forward(problem, leaves)()
    return lambda: torch.autograd.grad(out, leaves, problem.d_out, retain_graph=True)


def by_kernels(kernels: Callable, problem: Problem) -> Run:
    """All that autograd would launch: the kernel of delta, too."""
    qkv, scale = problem.qkv(), problem.q.shape[-1] ** -0.5
    variant = problem.q.shape[-1], problem.causal, False
    saved = device.run_forward(variants.flash_forward(*variant), *qkv, scale=scale)
    known = kernels(*variant), (problem.d_out, None), saved, qkv
    return lambda: device.run_backward(*known, scale=scale)


BACKENDS = {
    f"SDPA {name}": partial(sdpa, getattr(SDPBackend, f"{name}{rest}"))
    for name, rest in {
        "FLASH": "_ATTENTION", "CUDNN": "_ATTENTION", "EFFICIENT": "_ATTENTION", "MATH": ""
    }.items()
}  # fmt: skip
OURS = {
    "naive": naive,
    "tensor_cores": partial(rung, variants.tensor_cores),
    "flash_forward": partial(rung, variants.flash_forward),
    "triton": triton,
    "hopper_forward": partial(rung, hopper_forward),
}
OURS_BACKWARD = {
    "flash_backward": partial(by_kernels, variants.flash_backward),
    "hopper_backward": partial(by_kernels, hopper_backward),
}
FORWARD = OURS | BACKENDS | {"flex_attention": flex}
BACKWARD = OURS_BACKWARD | {
    name: partial(by_autograd, make) for name, make in (BACKENDS | {"flex_attention": flex}).items()
}


# ---------------------------------------------------------------------------------- measurement


@cache
def scratch() -> Tensor:
    return torch.empty(FLUSH, dtype=torch.uint8, device="cuda")


def timed(run: Run) -> dict[str, float]:
    """Milliseconds between events round each call, with the L2 cache emptied before it."""
    first = [sample(run) for _ in range(3)]  # compiles, allocates, warms up
    count = max(5, min(SAMPLES, math.ceil(SECONDS * 1e3 / elapsed(first)[0])))
    times = elapsed([sample(run) for _ in range(count)])
    p10, p90 = times[count // 10], times[-1 - count // 10]
    return {"ms": times[count // 2], "p10": p10, "p90": p90, "samples": count}


def sample(run: Run) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    scratch().zero_()
    start.record()
    run()
    end.record()
    return start, end


def elapsed(samples: list[tuple[torch.cuda.Event, torch.cuda.Event]]) -> list[float]:
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in samples)


def ceilings() -> Iterator[dict]:
    """What the machine can do at best: a large product, a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = timed(lambda: a @ b)
    yield {
        "what": "bf16 product, 8192 cubed",
        "unit": "TFLOP/s",
        "rate": 2 * 8192**3 / times["ms"] / 1e9,
    }
    x = torch.empty(1 << 32, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    times = timed(lambda: y.copy_(x))
    yield {
        "what": "copy of 4 GiB, read and written",
        "unit": "GB/s",
        "rate": 2 * x.numel() / times["ms"] / 1e6,
    }
