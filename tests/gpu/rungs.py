"""The rungs of the ladder and what they are compared with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from notes_lib.attention import softmax_attention
from notes_lib.attention.cuda import device, variants
from notes_lib.attention.cuda.hopper import hopper_backward, hopper_forward

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # for Triton's interpreter
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Rung:
    """How to run one: `attend(q, k, v, causal, scale)` gives (out, lse)."""

    kernel: Callable
    dtypes: tuple[torch.dtype, ...] = HALVES
    widths: tuple[int, ...] = (64, 128)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float):
        kernel = self.kernel(q.shape[-1], causal, q.dtype == torch.float16)
        return device.run_forward(kernel, q, k, v, scale=scale)


RUNGS = {
    "naive": Rung(lambda d, causal, half: variants.naive(d, causal), (torch.float32,)),
    "tensor_cores": Rung(variants.tensor_cores),
    "flash_forward": Rung(variants.flash_forward),
    "hopper_forward": Rung(hopper_forward),
}
BACKWARD = {"flash_backward": variants.flash_backward, "hopper_backward": hopper_backward}
# batch, heads of q, heads of k and v, queries, keys
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 4, 4, 128, 128),
    (1, 4, 2, 200, 333),
    (2, 2, 1, 300, 77),  # causal: the first rows see nothing
    (1, 8, 2, 1, 4097),
    (3, 6, 6, 65, 129),
    (1, 2, 2, 2048, 2048),
]


def inputs(batch, heads, groups, n, m, d=64, dtype=torch.bfloat16):
    """q, k, v "b h n d" as a network makes them: heads next to each other, so with strides."""
    sizes = (n, heads), (m, groups), (m, groups)
    made = [torch.randn(batch, length, count, d, device=DEVICE) for length, count in sizes]
    return [x.to(dtype).transpose(1, 2) for x in made]


def log_sum_exp(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    s = scale * q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT
    n, m = s.shape[-2:]
    hidden = torch.ones(n, m, dtype=torch.bool, device=s.device).triu(m - n + 1)
    return (s.masked_fill(hidden, -torch.inf) if causal else s).logsumexp(-1)


def error(x: Tensor, exact: Tensor) -> float:
    """Relative, in the norm; NaN is an error beyond all bounds."""
    size = exact.norm().item() or 1.0
    return ((x.double() - exact).norm() / size).nan_to_num(torch.inf).item()


def gradients(name: str, q, k, v, d_out, causal: bool, **options) -> list[Tensor]:
    """out by v2, and dq, dk, dv by a backward rung; options: scale, window, softcap."""
    variant = q.shape[-1], causal, q.dtype == torch.float16
    if options.get("softcap") is not None:
        variant += (True,)
    out, lse = device.run_forward(variants.flash_forward(*variant), q, k, v, **options)
    known = (d_out, None), (out, lse), (q, k, v)
    return [out, *device.run_backward(BACKWARD[name](*variant), *known, **options)]


def attention_and_gradients(q, k, v, d_out, **options) -> list[Tensor]:
    """out, dq, dk, dv by PyTorch, in the type of its arguments."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = softmax_attention(*leaves, **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, d_out)]


def assert_as_good_as_pytorch(ours: list[Tensor], half: list[Tensor], exact: list[Tensor]) -> None:
    """Ours are at most twice as far from float64 as PyTorch in our inputs' own type."""
    for name, *values in zip(("out", "dq", "dk", "dv"), ours, half, exact, strict=False):
        mine, theirs = (error(x, values[2]) for x in values[:2])
        # of what is 0 exactly, as the gradient of a single key, rounding leaves something
        assert mine <= 2 * theirs + 1e-5, f"{name}: {mine:.2e}, PyTorch {theirs:.2e}"


@contextmanager
def poisoned() -> Iterator[None]:
    """What PyTorch allocates without writing it is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
