"""What every implementation of attention is tried on, and the answers in float64."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from notes_lib.attention import scores, softmax_attention, visible

OPTIONS = {
    "plain": {},
    "causal": dict(causal=True),
    "scale": dict(scale=0.3),
    "window": dict(window=3),
    "causal window": dict(causal=True, window=5),
    "own place only": dict(causal=True, window=0),
    "softcap": dict(softcap=1.5),
    "all": dict(causal=True, window=7, softcap=2.0, scale=0.5),
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a problem: see the glossary of the package."""

    n: int = 33
    m: int = 33
    heads: int = 2
    groups: int = 2
    d: int = 8
    e: int = 8
    batch: int = 2


SHAPES = {
    "square": Shape(),
    "ragged": Shape(n=37, m=70),
    "more queries than keys": Shape(n=70, m=37),
    "one query": Shape(n=1, m=45),
    "one key": Shape(n=45, m=1),
    "grouped": Shape(heads=4, groups=2),
    "one group, ragged": Shape(n=21, m=40, heads=3, groups=1),
    "wide values": Shape(d=5, e=11),
}


class Answer(NamedTuple):
    """The reference of a problem: output, log-sum-exp, and the gradients of a mix of both."""

    out: Tensor
    lse: Tensor
    d_out: Tensor
    d_lse: Tensor
    grads: tuple[Tensor, ...]


def problem(shape: Shape, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of a shape, in float64; `spread` multiplies the scores."""
    generator = torch.Generator().manual_seed(seed)
    b, h, g, n, m = shape.batch, shape.heads, shape.groups, shape.n, shape.m
    sizes = ((b, h, n, shape.d), (b, g, m, shape.d), (b, g, m, shape.e))
    q, k, v = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return spread * q, k, v


def answer(q: Tensor, k: Tensor, v: Tensor, **options) -> Answer:
    """What must come out, by the reference and PyTorch's autograd, in float64."""
    inputs = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out = softmax_attention(*inputs, **options)
    lse = log_sum_exp(*inputs[:2], **options)
    generator = torch.Generator().manual_seed(1)
    d_out, d_lse = (
        torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (out, lse)
    )
    grads = torch.autograd.grad((out, lse), inputs, (d_out, d_lse))
    return Answer(out.detach(), lse.detach(), d_out, d_lse, grads)


def log_sum_exp(
    q: Tensor,
    k: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """log sum exp of the scores a query sees, -inf where it sees none."""
    n, m = q.shape[2], k.shape[2]
    seen = visible(torch.arange(n), torch.arange(m), m - n, causal=causal, window=window)
    blind = ~seen.any(-1)
    s = scores(q, k, scale, softcap).masked_fill(~seen, -torch.inf)
    lse = s.masked_fill(blind[:, None], 0.0).logsumexp(-1)
    return lse.masked_fill(blind, -torch.inf)
