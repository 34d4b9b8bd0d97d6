"""Problems whose denoiser is known exactly, all of variance one, and a way to make it imperfect.

Everything lives on the path x = x0 + sigma eps in float64; the truth is the end of the
probability-flow ODE from sigma = 80 to 0, solved finely.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from notes_lib.core import GaussianMixture
from notes_lib.diffusion import EDM, adams_moulton, angle_form, asinh_ratio, sample

START = 80.0
PATH = EDM(t_max=START)
Denoise = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """Starts at sigma = 80, and where the exact flow of this denoiser takes them."""

    name: str
    denoise: Denoise
    start: Tensor
    end: Tensor


def standardised(means: Tensor, stds: Tensor, weights: Tensor | None = None) -> GaussianMixture:
    """The mixture, moved and scaled to mean zero and variance one on average over the axes."""
    mixture = GaussianMixture(means, stds**2, weights)
    w = mixture.weights[:, None]
    mean = (w * means).sum(0)
    scale = (w * (mixture.variances + (means - mean) ** 2)).sum(0).mean().sqrt()
    return GaussianMixture((means - mean) / scale, mixture.variances / scale**2, weights)


def quick_denoiser(mixture: GaussianMixture) -> Denoise:
    """The mixture's exact denoiser at alpha = 1 as three matrix products: cheap in 256-D."""
    means, variances, log_weights = mixture.means, mixture.variances, mixture.weights.log()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        total = variances + sigma**2
        far = (x**2) @ (1 / total).T - 2 * x @ (means / total).T + (means**2 / total).sum(1)
        share = torch.softmax(log_weights - 0.5 * (far + total.log().sum(1)), -1)
        gain = variances / total
        return share @ (means * (1 - gain)) + x * (share @ gain)

    return denoise


def perturbed(denoise: Denoise, dim: int, size: float, generator: torch.Generator) -> Denoise:
    """The denoiser plus a smooth error, as a network has: `size` at high noise, size * sigma below.

    The error is a fixed random network of (x / sqrt(1 + sigma^2), log sigma), of unit variance.
    """
    width = 64
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    into, out = draw(dim, width) / math.sqrt(dim), draw(width, dim) / math.sqrt(width / 2)
    clock, shift = draw(width) / 2, draw(width) * 2

    def imperfect(x: Tensor, sigma: Tensor) -> Tensor:
        root = torch.sqrt(1 + sigma**2)
        phase = 1.5 * (x / root) @ into + clock * torch.log(sigma + 1e-3) + shift
        return denoise(x, sigma) + size * sigma / root * torch.sin(phase) @ out

    return imperfect


def solved(name: str, denoise: Denoise, dim: int, count: int, generator: torch.Generator):
    start = START * torch.randn(count, dim, generator=generator)
    fine = asinh_grid(1200)
    end = sample(denoise, PATH, start, fine, adams_moulton(angle_form(), asinh_ratio(0.03), 4))
    return Problem(name, denoise, start, end)


def asinh_grid(steps: int, scale: float = 0.02) -> Tensor:
    u = torch.linspace(math.asinh(START / scale), 0, steps + 1, dtype=torch.float64)
    return (scale * torch.sinh(u)).clamp(max=START)


def mixtures(generator: torch.Generator) -> dict[str, GaussianMixture]:
    """The six problems that are reported; no parameter was fitted on them."""
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    angles = torch.arange(8) * (math.pi / 4)
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    low_rank = 0.05 + draw(10, 64).abs() * (torch.rand(10, 64, generator=generator) < 0.125)
    power = torch.arange(1, 257) ** -0.6
    return {
        "1-D, 3 peaks": standardised(
            torch.tensor([[-1.4], [0.1], [1.3]]),
            torch.tensor([[0.3], [0.12], [0.4]]),
            torch.tensor([0.4, 0.25, 0.35]),
        ),
        "1-D, 6 peaks": standardised(2 * draw(6, 1), 0.1 + 0.3 * draw(6, 1).abs()),
        "2-D, ring of 8": standardised(ring, torch.tensor([[0.1, 0.1]]).expand(8, 2)),
        "2-D, 5 ellipses": standardised(1.5 * draw(5, 2), 0.05 + 0.5 * draw(5, 2).abs()),
        "64-D, low rank": standardised(0.5 * draw(10, 64), low_rank),
        "256-D, Gaussian": standardised(torch.zeros(1, 256), power[None]),
    }


def problems(count: int = 256, seed: int = 7, error: float = 0.0) -> list[Problem]:
    """The reported problems, exact or, for a positive `error`, with imperfect denoisers."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for name, mixture in mixtures(generator).items():
        denoise, dim = quick_denoiser(mixture), mixture.means.shape[1]
        if error:
            denoise = perturbed(denoise, dim, error, generator)
        made.append(solved(name, denoise, dim, count, generator))
    return made


def error_of(problem: Problem, end: Tensor) -> float:
    """Mean over samples of the distance to the exact end, a coordinate."""
    return ((end - problem.end).norm(dim=1) / math.sqrt(end.shape[1])).mean().item()
