r"""EDM's stochastic sampler: noise is added back before each deterministic step."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import Noise
from .path import GaussianPath, Level
from .solver import Memory, Solver, Step, heun


def churned(
    path: GaussianPath,
    churn: float,
    noise: Noise = torch.randn_like,
    *,
    solver: Solver = heun,
    low: float = 0.0,
    high: float = math.inf,
    inflate: float = 1.0,
) -> Solver:
    r"""Step up to :math:`\hat r = (1 + \gamma) r`, :eq:`eq-edm-churn`, then down with `solver`.

    .. math::
        \hat x = \hat\alpha\Bigl(\frac{x}{\alpha} + S_{\mathrm{noise}}\sqrt{\hat r^2 - r^2}\,z
        \Bigr), \qquad r = \sigma/\alpha, \qquad
        \gamma = \min\Bigl(\frac{S_{\mathrm{churn}}}{N}, \sqrt2 - 1\Bigr)

    Karras et al. (2022), algorithm 2, on any path: on theirs, r is sigma. gamma is 0 where r lies
    outside [`low`, `high`] and where the path ends before :math:`\hat r`.

    Args:
        path: the path that will be sampled.
        churn: their S_churn, spread over the N steps of the grid; 0 leaves `solver` as it is.
        noise: x -> standard normal noise shaped like x.
        solver: the deterministic way down; it remembers nothing between steps.
        low: their S_tmin.
        high: their S_tmax.
        inflate: their S_noise, 1 for noise of the right size.

    Raises:
        ValueError: a negative churn, or low above high.
    """
    if not churn >= 0 or not low <= high:
        raise ValueError(f"need churn >= 0 and low <= high, got {churn}, {low} and {high}")

    def steps(levels: Sequence[Level]) -> list[Step]:
        gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1)

        def one(t: Level, s: Level) -> Step:
            ratio = t.sigma / t.alpha
            if not gamma or not low <= ratio <= high:
                return solver([t, s])[0]
            log_snr = torch.tensor([-2 * math.log((1 + gamma) * ratio)], dtype=torch.float64)
            (up,) = path.levels(path.time_of_log_snr(log_snr))
            extra = max((up.sigma / up.alpha) ** 2 - ratio**2, 0.0) ** 0.5
            add = partial(_add, up.alpha / t.alpha, up.alpha * inflate * extra, noise)
            return partial(_up_and_down, add, solver([up, s])[0])

        return [one(t, s) for t, s in pairwise(levels)]

    return steps


def _add(scale: float, std: float, noise: Noise, x: Tensor) -> Tensor:
    return torch.add(scale * x, noise(x), alpha=std)


def _up_and_down(add, down: Step, denoise: Denoise, x: Tensor, memory: Memory):
    return down(denoise, add(x), memory)
