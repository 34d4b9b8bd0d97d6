r"""Paths made from paths: the same times, another signal-to-noise ratio.

A transform holds a :class:`.GaussianPath` and is one, so it goes wherever a path goes, and
transforms stack: ``ZeroTerminalSNR(SNRShift(path, 0.25))``. A transform does not ask which path it
holds, only which curve the point :math:`(\alpha_t, \sigma_t)` runs on. A path off every curve that
the transform can keep is refused.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .path import GaussianPath


@dataclass(frozen=True)
class Transformed(GaussianPath):
    """A path that holds a path, and runs over the same times."""

    path: GaussianPath

    @property
    def t_min(self) -> float:
        return self.path.t_min

    @property
    def t_max(self) -> float:
        return self.path.t_max


@dataclass(frozen=True)
class ZeroTerminalSNR(Transformed):
    r"""A variance-preserving path, rescaled so that at t_max no signal is left.

    .. math::
        \alpha'_t = \alpha_r\,\frac{\alpha_t - \alpha_T}{\alpha_r - \alpha_T}, \qquad
        \sigma'_t = \sqrt{1 - \alpha_t'^2} \qquad (t > r), \qquad
        \alpha'_t = \alpha_t \qquad (t \le r)

    This is :eq:`eq-velocity-prediction-rescale`: algorithm 1 of Lin et al. (2023) in continuous
    time. The paper keeps alpha at the first step of a chain of T, which is r = `keep` = 1/T; the
    default r = 0 has no corner there. At t_max eps and the score say nothing of x0: use v or x0.

    Raises:
        ValueError: a path without :math:`\alpha^2 + \sigma^2 = 1`, a `keep` outside
            [t_min, t_max), or an alpha that does not fall from there to t_max.
    """

    keep: float = 0.0

    def __post_init__(self) -> None:
        if not _on_curve(self.path, 2):
            raise ValueError(f"need a path with alpha^2 + sigma^2 = 1, got {self.path}")
        if not self.t_min <= self.keep < self.t_max:
            raise ValueError(f"keep must lie in [{self.t_min}, {self.t_max}), got {self.keep}")
        kept, last = self._ends(torch.zeros((), dtype=torch.float64)).tolist()
        if not kept > last:
            raise ValueError(f"alpha must fall from keep to t_max, got {kept} and {last}")

    def alpha(self, t: Tensor) -> Tensor:
        alpha, (kept, last) = self.path.alpha(t), self._ends(t)
        rescaled = kept * (alpha - last) / (kept - last)
        rescaled = torch.where(t < self.t_max, rescaled, torch.zeros_like(rescaled))
        return torch.where(t > self.keep, rescaled, alpha)

    def sigma(self, t: Tensor) -> Tensor:
        alpha, sigma, (kept, last) = self.path.alpha(t), self.path.sigma(t), self._ends(t)
        lost = sigma**2 / (1 + alpha)  # 1 - alpha, without cancellation where little is lost
        lost = (kept * lost - last * (1 - kept)) / (kept - last)  # 1 - alpha'
        return torch.where(t > self.keep, torch.sqrt(lost * (2 - lost)), sigma)

    def alpha_dot(self, t: Tensor) -> Tensor:
        rate, (kept, last) = self.path.alpha_dot(t), self._ends(t)
        return torch.where(t > self.keep, kept / (kept - last) * rate, rate)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def _ends(self, t: Tensor) -> Tensor:
        """alpha of the path held, at `keep` and at t_max, in the precision of t."""
        return self.path.alpha(t.new_tensor([self.keep, self.t_max]))


@dataclass(frozen=True)
class SNRShift(Transformed):
    r"""A path whose signal-to-noise ratio is multiplied by `factor` at every time.

    With :math:`k = \sqrt{\mathrm{factor}}`,

    .. math::
        \alpha'_t = \frac{k\,\alpha_t}{N_t}, \qquad \sigma'_t = \frac{\sigma_t}{N_t}, \qquad
        N_t = \bigl(1 + (k^p - 1)\,\alpha_t^p\bigr)^{1/p}

    which keeps the curve of the path: :math:`\alpha^2 + \sigma^2 = 1` (p = 2),
    :math:`\alpha + \sigma = 1` (p = 1), or :math:`\alpha = 1` (any p).

    For images of side d, Hoogeboom et al. (2023) shift a schedule made for side d' by
    :math:`(d'/d)^2`. On the linear path a factor :math:`1/m^2` is the time
    :math:`mt/(1 + (m - 1)t)` of Esser et al. (2024), eq. 23.

    Raises:
        ValueError: a factor that is not positive and finite, or a path on none of the curves.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor must be positive and finite, got {self.factor}")
        if not (_on_curve(self.path, 1) or _on_curve(self.path, 2) or _on_curve(self.path, 0)):
            raise ValueError(
                "need a path with alpha^2 + sigma^2 = 1, alpha + sigma = 1 or alpha = 1, "
                f"got {self.path}"
            )

    @cached_property
    def _power(self) -> int:
        return 2 if _on_curve(self.path, 2) else 1

    def _norm(self, t: Tensor) -> Tensor:
        p = self._power
        return (1 + (self.factor ** (p / 2) - 1) * self.path.alpha(t) ** p) ** (1 / p)

    def alpha(self, t: Tensor) -> Tensor:
        return self.factor**0.5 * self.path.alpha(t) / self._norm(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.path.sigma(t) / self._norm(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self.factor**0.5 * self.path.alpha_dot(t) / self._norm(t) ** (self._power + 1)

    def sigma_dot(self, t: Tensor) -> Tensor:
        p = self._power
        return self.factor ** (p / 2) * self.path.sigma_dot(t) / self._norm(t) ** (p + 1)

    def _time_of_ratio(self, ratio: Tensor) -> Tensor:
        return self.path._time_of_ratio(self.factor**0.5 * ratio)


def _on_curve(path: GaussianPath, power: int) -> bool:
    r"""Whether :math:`\alpha^p + \sigma^p = 1` all the way; for power 0, whether alpha is 1."""
    t = torch.linspace(path.t_min, path.t_max, 33, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    norm = alpha**power + sigma**power if power else alpha
    return bool(((norm - 1).abs() < 1e-12).all())
