r"""Gaussian probability paths: how a data point turns into noise.

A path is two functions of time, :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon` with
:math:`\varepsilon \sim \mathcal N(0, I)`. Data live at ``t_min``, noise at ``t_max``; the signal to
noise ratio :math:`\alpha_t^2/\sigma_t^2` falls all the way. Everything else that the literature
attaches to a schedule (drift, diffusion, velocity, score) is derived from alpha and sigma once, in
:class:`GaussianPath`. Lipman et al. (2022) and Liu et al. (2022) run time the other way, with data
at t = 1; their t is 1 - t here.

What a path does not fix: the quantity a network regresses (:mod:`.prediction`), the times a sampler
visits (:mod:`.grid`), and the rule that steps between them (:mod:`.solver`).
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.tensor import check_finite, check_same, expand_to


class Level(NamedTuple):
    """A path at one time: what a solver needs of it, as Python floats computed in float64.

    `time` is a scalar float64 tensor, ready for a denoiser; the rest are coefficients.
    """

    time: Tensor
    alpha: float
    sigma: float
    alpha_dot: float
    sigma_dot: float

    @property
    def half_log_snr(self) -> float:
        r""":math:`\lambda = \log(\alpha/\sigma)`; infinite where sigma is 0."""
        return math.log(self.alpha / self.sigma) if self.sigma else math.inf


class GaussianPath(abc.ABC):
    """alpha(t), sigma(t) and their derivatives; every other coefficient follows.

    A time `t` is a scalar or has shape (b,), one time a sample.
    """

    t_min: float = 0.0
    t_max: float = 1.0

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data."""

    @abc.abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""

    @abc.abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """Time derivative of alpha."""

    @abc.abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """Time derivative of sigma."""

    def log_snr(self, t: Tensor) -> Tensor:
        r""":math:`2\log(\alpha/\sigma)`."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def drift(self, t: Tensor) -> Tensor:
        r""":math:`f = \dot\alpha/\alpha` in :math:`dx = f x\,dt + g\,dw`. Song et al. (2021)."""
        return self.alpha_dot(t) / self.alpha(t)

    def diffusion_sq(self, t: Tensor) -> Tensor:
        r""":math:`g^2 = \frac{d\sigma^2}{dt} - 2 f \sigma^2`, the squared diffusion coefficient."""
        return 2 * self.sigma(t) * (self.sigma_dot(t) - self.drift(t) * self.sigma(t))

    def perturb(
        self, x0: Float[Tensor, " b *d"], eps: Float[Tensor, " b *d"], t: Tensor
    ) -> Float[Tensor, " b *d"]:
        r""":math:`x_t = \alpha_t x_0 + \sigma_t\varepsilon`: a draw from the marginal
        :math:`q(x_t \mid x_0)` of :eq:`eq-ddpm-marginal`, in one step from the data.

        Raises:
            ValueError: `eps` unlike `x0` in shape or device, or a time outside the path's range.
        """
        check_same("eps", eps, "x0", x0)
        self.check_time(t)
        return expand_to(self.alpha(t), x0) * x0 + expand_to(self.sigma(t), x0) * eps

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        r""":math:`\varepsilon = (x_t - \alpha_t x_0)/\sigma_t`; needs sigma > 0."""
        return (x_t - expand_to(self.alpha(t), x_t) * x0) / expand_to(self.sigma(t), x_t)

    def score(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        r""":math:`\nabla_{x_t} \log q(x_t \mid x_0) = -\varepsilon/\sigma_t`; with
        :math:`x_0 = \mathbb E[x_0 \mid x_t]`, the score of :math:`q(x_t)`."""
        return -self.eps_from_x0(x_t, x0, t) / expand_to(self.sigma(t), x_t)

    def velocity(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        r""":math:`\dot x = \dot\alpha_t x_0 + \dot\sigma_t\varepsilon`; with
        :math:`x_0 = \mathbb E[x_0 \mid x_t]`, the probability-flow ODE of Song et al. (2021)."""
        eps = self.eps_from_x0(x_t, x0, t)
        return expand_to(self.alpha_dot(t), x_t) * x0 + expand_to(self.sigma_dot(t), x_t) * eps

    def check_time(self, t: Tensor) -> None:
        """Raise ValueError unless every time lies in [t_min, t_max]."""
        if not ((t >= self.t_min) & (t <= self.t_max)).all():
            raise ValueError(
                f"t must lie in [{self.t_min}, {self.t_max}] for {self}, "
                f"got values in [{t.min().item()}, {t.max().item()}]"
            )

    def levels(self, ts: Float[Tensor, " n"]) -> list[Level]:
        """The path at each time of a grid, computed once and in float64."""
        ts = ts.detach().to("cpu", torch.float64)
        self.check_time(ts)
        rows = (self.alpha(ts), self.sigma(ts), self.alpha_dot(ts), self.sigma_dot(ts))
        return [Level(*row) for row in zip(ts, *(r.tolist() for r in rows), strict=True)]

    def time_of_log_snr(self, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The times at which the path has these log-SNRs, by bisection in float64.

        Log-SNRs beyond the path's own give its end times.
        """
        log_snr = log_snr.double()
        low = torch.full_like(log_snr, self.t_min)
        high = torch.full_like(log_snr, self.t_max)
        for _ in range(64):
            middle = 0.5 * (low + high)
            above = self.log_snr(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return 0.5 * (low + high)


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


@dataclass(frozen=True)
class VPLinear(VariancePreserving):
    r"""The VP SDE with :math:`\beta(t)` linear. Song et al. (2021), appendix C.

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

    Nichol & Dhariwal (2021) shift it by s = 0.008 and clip its betas; this is their s = 0.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * self.alpha(t)


class VarianceExploding(GaussianPath):
    r"""Paths with :math:`\alpha = 1`: the data keep their scale and the noise outgrows them."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True)
class VE(VarianceExploding):
    r"""Variance exploding: :math:`\alpha = 1`, sigma geometric. Song et al. (2021), appendix C.

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


@dataclass(frozen=True)
class Linear(GaussianPath):
    r""":math:`\alpha = 1 - t`, :math:`\sigma = t`: rectified flow, conditional optimal transport.

    Liu et al. (2022); Lipman et al. (2022) with :math:`\sigma_{\min} = 0`, both with time reversed.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


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


def _check_ordered(low_name: str, low: float, high_name: str, high: float) -> None:
    if not 0 < low <= high < math.inf:
        raise ValueError(f"need 0 < {low_name} <= {high_name}, got {low} and {high}")
