"""The paths of the literature: variance preserving, sub-VP, variance exploding, linear.

Each is alpha(t), sigma(t) and their derivatives in closed form; :class:`.GaussianPath` derives the
rest.
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..core.tensor import check_finite
from .path import GaussianPath, Level


class VariancePreserving(GaussianPath):
    r"""Paths with :math:`\alpha^2 + \sigma^2 = 1`, given by :math:`B(t) = -2\log\alpha_t`.

    .. math:: \alpha = e^{-B/2}, \qquad \sigma = \sqrt{1 - e^{-B}}, \qquad \beta(t) = \dot B(t)

    The forward SDE is :math:`dx = -\tfrac12\beta x\,dt + \sqrt\beta\,dw`.
    """

    @abc.abstractmethod
    def beta_integral(self, t: Tensor) -> Tensor:
        """B(t), rising from 0."""

    @abc.abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Time derivative of B."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.beta_integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.beta_integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * self.beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def diffusion_sq(self, t: Tensor) -> Tensor:
        return self.beta(t)


@dataclass(frozen=True)
class VPLinear(VariancePreserving):
    r"""The VP SDE, :eq:`eq-score-sde-families`, with :math:`\beta(t)` linear: the limit
    :eq:`eq-score-sde-limit` of DDPM's chain. Song et al. (2021), appendix C.

    Raises:
        ValueError: unless 0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_ordered("beta_min", self.beta_min, "beta_max", self.beta_max)

    def beta_integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        return self._time_of_beta_integral(torch.log1p(ratio**2))

    def _time_of_beta_integral(self, total: Tensor) -> Tensor:
        rise = self.beta_max - self.beta_min
        return 2 * total / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * rise * total))


@dataclass(frozen=True)
class SubVP(VPLinear):
    r"""The sub-VP SDE: alpha of :class:`VPLinear`, and its variance squared.

    .. math:: \alpha = e^{-B/2}, \qquad \sigma = 1 - e^{-B}, \qquad g^2 = \beta(t)\,(1 - e^{-2B})

    Song et al. (2021), appendix C; :eq:`eq-score-sde-families`. At every time the noise is at most
    that of the VP path.
    """

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.beta_integral(t))

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.alpha(t) ** 2

    def diffusion_sq(self, t: Tensor) -> Tensor:
        return -self.beta(t) * torch.expm1(-2 * self.beta_integral(t))

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        return self._time_of_beta_integral(2 * torch.asinh(0.5 * ratio))


@dataclass(frozen=True)
class VPTabulated(VariancePreserving):
    r"""The discrete chain of DDPM, made continuous: step k of T is at time k/T.

    The cumulative product of :eq:`eq-ddpm-alpha-bar` is kept at every k/T, and between two
    steps the path runs the VP SDE at constant rate, so that
    :math:`B(k/T) = -\sum_{i\le k}\log(1-\beta_i) = -\log\bar\alpha_k` is interpolated linearly.
    Formulas count k from 1, arrays from 0: ``betas[k - 1]`` belongs to the step from k - 1 to k.

    Args:
        betas: the T variances of the forward steps, each in (0, 1); any sequence of floats.

    Raises:
        ValueError: no beta, or one outside (0, 1).
    """

    betas: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be one or more numbers in (0, 1), got {self}")

    def __repr__(self) -> str:
        ends = f"{self.betas[0]:g} to {self.betas[-1]:g}" if self.betas else ""
        return f"VPTabulated({len(self.betas)} betas, {ends})"

    def at(self, *steps: int) -> list[Level]:
        """The levels of the chain's own steps, 0 (the data) to T."""
        return self.levels(torch.tensor(steps, dtype=torch.float64) / len(self.betas))

    @cached_property
    def _table(self) -> Tensor:
        rates = -torch.log1p(-torch.tensor(self.betas, dtype=torch.float64))
        return torch.cat([rates.new_zeros(1), rates.cumsum(0)])

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Table entries at both ends of the step that holds t, and t's place in it."""
        table = self._table.to(t)
        place = t * len(self.betas)
        k = place.long().clamp(0, len(self.betas) - 1)
        return table[k], table[k + 1], place - k

    def beta_integral(self, t: Tensor) -> Tensor:
        start, end, fraction = self._cell(t)
        return start + (end - start) * fraction

    def beta(self, t: Tensor) -> Tensor:
        start, end, _ = self._cell(t)
        return (end - start) * len(self.betas)


@dataclass(frozen=True)
class VPCosine(GaussianPath):
    r""":math:`\alpha = \cos\frac{\pi t}2`, :math:`\sigma = \sin\frac{\pi t}2`, the unit circle.

    The angle of :eq:`eq-velocity-prediction-circle` is :math:`\phi = \pi t/2`, so that v is
    :math:`\tfrac2\pi` times the velocity. At t = 1 the SNR is exactly 0.

    Nichol & Dhariwal (2021) shift it by s = 0.008 and clip its betas; this is their s = 0.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * (1 - t))  # cos, and exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * self.alpha(t)

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        return torch.atan(ratio) * (2 / math.pi)


class VarianceExploding(GaussianPath):
    r"""Paths with :math:`\alpha = 1`: the data keep their scale and the noise outgrows them."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True)
class VE(VarianceExploding):
    r"""Variance exploding, :eq:`eq-score-sde-families`: :math:`\alpha = 1`, sigma geometric.

    Song et al. (2021), appendix C.

    Raises:
        ValueError: unless 0 < sigma_min <= sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_ordered("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.log(self.sigma_max / self.sigma_min) * self.sigma(t)

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        return torch.log(ratio / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(VarianceExploding):
    r""":math:`\alpha = 1`, :math:`\sigma = t`: time is the noise level. Karras et al. (2022)."""

    t_min: float = 0.0
    t_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max < math.inf:
            raise ValueError(f"need 0 <= t_min < t_max, got {self.t_min} and {self.t_max}")

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio


@dataclass(frozen=True)
class Linear(GaussianPath):
    r""":math:`\alpha = 1 - t`, :math:`\sigma = \sigma_{\min} + (1 - \sigma_{\min})\,t`.

    Rectified flow for sigma_min = 0, Liu et al. (2022); otherwise the conditional optimal transport
    path of Lipman et al. (2022), section 4.1, whose data keep a noise of sigma_min and whose
    conditional field is :eq:`eq-flow-matching-ot`. Both papers run time the other way.

    Raises:
        ValueError: unless 0 <= sigma_min < 1.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise ValueError(f"need 0 <= sigma_min < 1, got {self.sigma_min}")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min + (1 - self.sigma_min) * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.sigma_min)

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        return (ratio - self.sigma_min) / (ratio + 1 - self.sigma_min)


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> list[float]:
    r"""DDPM's variances, evenly spaced from `first` to `last`. Ho et al. (2020), section 4.

    The paper's values belong to 1000 steps. With fewer, scale both ends by 1000/steps so that the
    chain still ends near :math:`\mathcal N(0, I)`.

    Raises:
        ValueError: fewer than one step, or an end outside (0, 1).
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    betas = torch.linspace(first, last, steps, dtype=torch.float64)
    check_finite("betas", betas)
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"first and last must lie in (0, 1), got {first} and {last}")
    return betas.tolist()


def cosine_betas(steps: int, s: float = 0.008, max_beta: float = 0.999) -> list[float]:
    r"""Variances whose product follows a squared cosine, :eq:`eq-improved-ddpm-cosine`.

    .. math::
        \beta_k = \min\Bigl(1 - \frac{f(k/T)}{f((k-1)/T)},\ \beta_{\max}\Bigr), \qquad
        f(t) = \cos^2\Bigl(\frac{t + s}{1 + s}\cdot\frac\pi2\Bigr)

    Nichol & Dhariwal (2021), eq. 17 and the clipping below it.

    Raises:
        ValueError: fewer than one step, a negative s, or a max_beta outside (0, 1).
    """
    if steps < 1 or not s >= 0 or not 0 < max_beta < 1:
        raise ValueError(f"need steps >= 1, s >= 0, 0 < max_beta < 1, got {steps, s, max_beta}")
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + s) / (1 + s) * 0.5 * math.pi).square()
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta).tolist()


def _check_ordered(low_name: str, low: float, high_name: str, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise ValueError(f"need 0 < {low_name} <= {high_name}, got {low} and {high}")
