r"""What a path and a solver do to Gaussian data, exactly: the ruler every sampler is held against.

For data :math:`\mathcal N(0, v)` the exact denoiser is linear in x, so a one-call solver multiplies
x by a number and adds noise. Its output variance follows by recursion, without a single sample.
"""

import math
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


def guided_flow(
    uncond: tuple[float, float],
    cond: tuple[float, float],
    scale: float,
    ratio: float = math.inf,
) -> tuple[float, float]:
    r"""Mean and variance of what classifier-free guidance samples from two Gaussians.

    .. math::
        m_u + (m_c - m_u)\,\gamma
        \int_0^1 \Bigl(z^2 + (1 - z^2)\frac{v_c}{v_u}\Bigr)^{(\gamma - 1)/2} dz,
        \qquad v_u^{1 - \gamma}\, v_c^{\gamma}

    Exact for the probability flow on any path, from pure noise to data:
    :eq:`eq-classifier-free-guidance-centre`, :eq:`eq-classifier-free-guidance-variance`. With a
    finite `ratio`, exact for a start from :math:`\mathcal N(0, \sigma^2)` at that
    :math:`\sigma/\alpha`.

    Args:
        uncond: mean and variance of all data.
        cond: mean and variance of the class.
        scale: :math:`\gamma`; 0 gives `uncond`, 1 gives `cond`.
        ratio: :math:`\sigma/\alpha` where the sampler starts.

    Raises:
        ValueError: a variance or a ratio that is not positive.
    """
    (m_u, v_u), (m_c, v_c) = uncond, cond
    _check_positive(v_u, v_c, ratio)
    a, b = v_u / ratio**2, v_c / ratio**2  # 0 for pure noise
    variance = v_u ** (1 - scale) * v_c**scale * (1 + a) ** (scale - 1) * (1 + b) ** -scale
    z = torch.linspace((b / (1 + b)) ** 0.5, 1, 20_001, dtype=torch.float64)
    integral = torch.trapezoid((z**2 + (1 - z**2) * v_c / v_u) ** (0.5 * (scale - 1)), z).item()
    start = 1 - variance**0.5 / ratio
    return m_u * start + (m_c - m_u) * scale * integral, variance


def tilted_gaussian(
    uncond: tuple[float, float], cond: tuple[float, float], scale: float
) -> tuple[float, float]:
    r"""Mean and variance of :math:`p_u^{1-\gamma} p_c^{\gamma}`, normalised, for two Gaussians.

    .. math::
        v = \Bigl(\frac{1 - \gamma}{v_u} + \frac{\gamma}{v_c}\Bigr)^{-1}, \qquad
        m = v\,\Bigl(\frac{(1 - \gamma)\,m_u}{v_u} + \frac{\gamma\,m_c}{v_c}\Bigr)

    The law :eq:`eq-classifier-free-guidance-tilted` that guidance is often said to sample.

    Raises:
        ValueError: a variance that is not positive, or a scale at which there is no such law.
    """
    (m_u, v_u), (m_c, v_c) = uncond, cond
    _check_positive(v_u, v_c)
    precision = (1 - scale) / v_u + scale / v_c
    if not precision > 0:
        raise ValueError(f"the tilted density cannot be normalised: its precision is {precision}")
    return ((1 - scale) * m_u / v_u + scale * m_c / v_c) / precision, 1 / precision


def _check_positive(*values: float) -> None:
    if not all(value > 0 for value in values):
        raise ValueError(f"variances and ratios must be positive, got {values}")
