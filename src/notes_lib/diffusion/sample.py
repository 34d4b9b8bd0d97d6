"""The one sampling loop. A guided, clipped or exact denoiser is a denoiser: wrap it and pass it."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import check_finite
from .path import GaussianPath
from .solver import Solver, Step, ddim


def trajectory(
    denoise: Denoise,
    path: GaussianPath,
    x: Float[Tensor, " b *d"],
    ts: Float[Tensor, " n"],
    solver: Solver | None = None,
) -> Iterator[Tensor]:
    """Yield the sample after each step from ts[0] to ts[-1]; `x` itself is not yielded.

    Args:
        denoise: (x_t, t) -> E[x0 | x_t]; t is a scalar float64 tensor.
        path: the path along which `denoise` was made.
        x: the start, distributed as x_t at ts[0]; for noise, ``path.sigma(ts[0]) * randn``.
        ts: two or more times, strictly falling (sampling) or strictly rising (inversion).
        solver: (levels) -> steps; DDIM when left out.

    Raises:
        ValueError: a start that is not finite, a grid that is not strictly monotone or leaves the
            path, or a denoiser whose output is unlike its input.
    """
    check_finite("x", x)
    check_finite("ts", ts)
    steps = ts.diff()
    if len(ts) < 2 or not ((steps < 0).all() or (steps > 0).all()):
        raise ValueError(f"ts must be 2 or more strictly monotone times, got {ts.tolist()}")
    solver = ddim() if solver is None else solver
    return _steps(_checked(denoise), x, solver(path.levels(ts)))


def _steps(denoise: Denoise, x: Tensor, steps: Sequence[Step]) -> Iterator[Tensor]:
    memory = None
    for step in steps:
        x, memory = step(denoise, x, memory)
        yield x


def _checked(denoise: Denoise) -> Denoise:
    def checked(x: Tensor, t: Tensor) -> Tensor:
        x0_hat = denoise(x, t)
        if x0_hat.shape != x.shape:
            raise ValueError(
                f"denoise must return the shape of x, {tuple(x.shape)}, got {tuple(x0_hat.shape)}"
            )
        return x0_hat

    return checked


@torch.no_grad()
def sample(
    denoise: Denoise,
    path: GaussianPath,
    x: Float[Tensor, " b *d"],
    ts: Float[Tensor, " n"],
    solver: Solver | None = None,
) -> Float[Tensor, " b *d"]:
    """The last sample of :func:`trajectory`, with gradients off.

    With DDIM on a rising grid it is the inversion :eq:`eq-ddim-inversion`, from data to noise. Such
    a grid starts above the noiseless level, where the noise is undefined: give the data ts[0] > 0.

    Raises:
        ValueError: what :func:`trajectory` raises, or a result that is not finite because the
            denoiser returned NaN or infinity on the way.
    """
    *_, x = trajectory(denoise, path, x, ts, solver)
    check_finite("the sample (the denoiser's output)", x)
    return x


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """A denoiser whose x0_hat stays in the range of the data: DDPM's sampler with clipping.

    Ho et al. (2020) publish their samples with it; it is not part of algorithm 2.
    """
    if not low < high:
        raise ValueError(f"need low < high, got {low} and {high}")
    return lambda x, t: denoise(x, t).clamp(low, high)
