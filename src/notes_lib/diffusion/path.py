r"""Gaussian probability paths: how a data point turns into noise.

A path is two functions of time, :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon` with
:math:`\varepsilon \sim \mathcal N(0, I)`. Data live at ``t_min``, noise at ``t_max``; the signal to
noise ratio :math:`\alpha_t^2/\sigma_t^2` falls all the way. Everything else that the literature
attaches to a schedule (drift, diffusion, velocity, score) is derived from alpha and sigma once, in
:class:`GaussianPath`. Lipman et al. (2022) and Liu et al. (2022) run time the other way, with data
at t = 1; their t is 1 - t here.

The paths of the literature are in :mod:`.schedule`. What a path does not fix: the quantity a
network regresses (:mod:`.prediction`), the times a sampler visits (:mod:`.grid`), and the rule that
steps between them (:mod:`.solver`).
"""

import abc
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.tensor import check_same, expand_to


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
        r""":math:`\lambda = \log(\alpha/\sigma)`; infinite where sigma or alpha is 0."""
        if not self.alpha:
            return -math.inf
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
        r""":math:`f = \dot\alpha/\alpha` in :math:`dx = f x\,dt + g\,dw`,
        :eq:`eq-score-sde-kernel`."""
        return self.alpha_dot(t) / self.alpha(t)

    def diffusion_sq(self, t: Tensor) -> Tensor:
        r""":math:`g^2 = \frac{d\sigma^2}{dt} - 2 f \sigma^2`, the squared diffusion coefficient;
        in terms of :math:`\sigma/\alpha`, :eq:`eq-edm-sde`."""
        return 2 * self.sigma(t) * (self.sigma_dot(t) - self.drift(t) * self.sigma(t))

    def perturb(
        self, x0: Float[Tensor, " b *d"], eps: Float[Tensor, " b *d"], t: Tensor
    ) -> Float[Tensor, " b *d"]:
        r""":math:`x_t = \alpha_t x_0 + \sigma_t\varepsilon`: a draw from the marginal
        :math:`q(x_t \mid x_0)` of :eq:`eq-ddpm-marginal`, in one step from the data. At fixed noise
        it is the conditional flow :eq:`eq-flow-matching-flow`.

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
        :math:`x_0 = \mathbb E[x_0 \mid x_t]`, the probability-flow ODE of Song et al. (2021), which
        Karras et al. (2022) write as :eq:`eq-edm-ode`.

        As a function of x_t and x0 it is the conditional field :eq:`eq-flow-matching-conditional`.
        Lipman et al. (2022), theorem 3.
        """
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

    def time_of_log_snr(self, log_snr: Float[Tensor, " *n"]) -> Float[Tensor, " *n"]:
        """The times at which the path has these log-SNRs, in float64.

        Log-SNRs beyond the path's own give its end times.
        """
        times = self._time_of_ratio(torch.exp(-0.5 * log_snr.double().clamp(-600, 600)))
        times = torch.where(log_snr == math.inf, self.t_min, times)  # without noise
        return times.clamp(self.t_min, self.t_max)

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        r"""The time at which :math:`\sigma/\alpha` is `ratio`, by bisection; a path that has it in
        closed form says so. A ratio beyond the path's ends may give any time beyond them."""
        low = torch.full_like(ratio, self.t_min)
        high = torch.full_like(ratio, self.t_max)
        for _ in range(64):
            middle = 0.5 * (low + high)
            less = self.sigma(middle) < ratio * self.alpha(middle)
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        inside = torch.where(high == self.t_max, high, 0.5 * (low + high))
        return torch.where(low == self.t_min, low, inside)
