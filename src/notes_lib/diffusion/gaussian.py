r"""What a path and a solver do to Gaussian data, exactly: the ruler every sampler is held against.

For data :math:`\mathcal N(0, v)` the exact denoiser is linear in x, so a one-call solver multiplies
x by a number and adds noise. Its output variance follows by recursion, without a single sample.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import Noise
from .path import GaussianPath
from .solver import Rule, Solver


def output_variance(
    rule: Rule,
    path: GaussianPath,
    ts: Float[Tensor, " n"],
    data_variance: float,
    start_variance: float = 1.0,
) -> float:
    r"""Variance of what a one-call solver makes of noise, with the exact denoiser of N(0, v).

    .. math::
        V_s = \Bigl(c_x + c_{x_0}\frac{\alpha_t v}{\alpha_t^2 v + \sigma_t^2}\Bigr)^2 V_t
        + \mathrm{std}^2, \qquad V_{t_0} = \mathrm{start}

    This is :eq:`eq-ddpm-variance`. A sampler without error would return v. It would also have to
    start from the variance :math:`\alpha^2 v + \sigma^2` of the data at ``ts[0]``; samplers start
    from pure noise, 1 on a VP path.
    """
    levels = path.levels(ts)
    variance = start_variance
    for t, s in pairwise(levels):
        row = rule(t, s)
        gain = t.alpha * data_variance / (t.alpha**2 * data_variance + t.sigma**2)
        variance = (row.x + row.x0 * gain) ** 2 * variance + row.std**2
    return variance


def affine_moments(
    denoise: Denoise,
    path: GaussianPath,
    ts: Float[Tensor, " n"],
    solver: Callable[[Noise], Solver],
    start_variance: float = 1.0,
) -> list[tuple[float, float]]:
    r"""Exact mean and variance after each step of a sampler whose steps are affine in x and noise.

    .. math:: x_s = a x_t + b z + c \quad\Rightarrow\quad m_s = a m_t + c, \; V_s = a^2 V_t + b^2

    One-dimensional Gaussian data have an affine denoiser, guided or not. The numbers a, b, c are
    read off each step with x and z set to 0 or 1, so any solver without memory will do: `solver`
    makes it from the noise it is to use. The start has mean 0.
    """
    x, z = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)[..., None]
    moments, mean, variance = [], 0.0, start_variance
    for step in solver(lambda _: z)(path.levels(ts)):
        offset, end, noisy = step(denoise, x, None)[0][:, 0].tolist()
        slope = end - offset
        mean, variance = slope * mean + offset, slope**2 * variance + (noisy - offset) ** 2
        moments.append((mean, variance))
    return moments


def exact_flow(
    x: Float[Tensor, " b *d"],
    path: GaussianPath,
    t: float,
    s: float,
    mean: float,
    data_variance: float,
) -> Float[Tensor, " b *d"]:
    r"""The probability-flow ODE from t to s for data N(mean, v), solved in closed form.

    .. math::
        x_s = \alpha_s\mu + (x_t - \alpha_t\mu)
        \sqrt{\frac{\alpha_s^2 v + \sigma_s^2}{\alpha_t^2 v + \sigma_t^2}}

    At x = 0, the mean of the starts of a sampler, it is :eq:`eq-velocity-prediction-bias`.
    """
    start, end = path.levels(torch.tensor([t, s], dtype=torch.float64))
    std_t = (start.alpha**2 * data_variance + start.sigma**2) ** 0.5
    std_s = (end.alpha**2 * data_variance + end.sigma**2) ** 0.5
    return end.alpha * mean + (x - start.alpha * mean) * (std_s / std_t)
