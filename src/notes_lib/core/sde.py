"""Stochastic differential equations dx = f(t, x) dt + g(t, x) dw, one small step at a time."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .ode import VectorField
from .tensor import Noise, check_finite

Diffusion = Callable[[Tensor, Tensor], Tensor]  # (t, x) -> g, anything that broadcasts to x


def euler_maruyama(
    drift: VectorField,
    diffusion: Diffusion,
    x: Float[Tensor, " b *d"],
    ts: Float[Tensor, " n"],
    noise: Noise = torch.randn_like,
) -> Iterator[Tensor]:
    r"""Yield the state after each interval of `ts`; `x`, at ``ts[0]``, is not yielded.

    .. math:: x \leftarrow x + f(t, x)\,h + g(t, x)\sqrt{|h|}\;z, \qquad z \sim \mathcal N(0, I)

    This is :eq:`eq-score-sde-step`. Maruyama (1955). On a falling grid h is negative and the
    equation is one that runs backwards in time, as :eq:`eq-score-sde-reverse`. The law of the end
    is wrong by O(h); where g depends on x, a single path is wrong by O(sqrt(h)), and elsewhere by
    O(h). Gradients flow unless autograd is off.

    Raises:
        ValueError: a start that is not finite, or a grid of fewer than two strictly monotone times.
    """
    check_finite("x", x)
    steps = ts.diff()
    if len(ts) < 2 or not ((steps < 0).all() or (steps > 0).all()):
        raise ValueError(f"ts must be 2 or more strictly monotone times, got {ts.tolist()}")
    return _euler_maruyama(drift, diffusion, x, ts, noise)


def _euler_maruyama(drift, diffusion, x, ts, noise) -> Iterator[Tensor]:
    for t, s in pairwise(ts):
        h = s - t
        x = x + h * drift(t, x) + h.abs().sqrt() * diffusion(t, x) * noise(x)
        yield x
