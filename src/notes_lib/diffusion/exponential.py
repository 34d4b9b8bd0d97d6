r"""Adams methods whose integrals are exact: the arithmetic behind every multistep solver.

In a suitable variable :math:`w = m x` the probability-flow ODE has no linear part left,

.. math:: dw = g\,(\hat x_0 + r x)\, d\varphi ,

with numbers m, g, r of the level and a clock phi that is a function of the noise-to-signal ratio
:math:`\kappa = \sigma/\alpha` (:class:`Form`). A multistep method puts a polynomial in some
coordinate :math:`u(\kappa)` (:class:`Coordinate`) through the slopes it has, and integrates it:

.. math:: w_s = w_t + \sum_j W_j\, g_j S_j, \qquad
    W_j = \int_t^s \ell_j(u)\, d\varphi, \qquad S = \hat x_0 + r x

with the Lagrange polynomials :math:`\ell_j` of the nodes. Which m, which u and how many nodes is
all that tells DPM-Solver++, DEIS, UniPC and the solvers of :mod:`.bashforth` apart.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .path import GaussianPath, Level

Function = Callable[[Tensor], Tensor]


class Form(NamedTuple):
    r"""A variable in which the ODE has no linear part: :math:`dw = g(\hat x_0 + r x)\,d\varphi`.

    `scale`, `gain` and `blend` are the m, g and r of a level, as functions of (alpha, sigma);
    `density` is :math:`d\varphi/d\kappa` as a function of the ratio.
    """

    scale: Callable[[Tensor, Tensor], Tensor]
    gain: Callable[[Tensor, Tensor], Tensor]
    blend: Callable[[Tensor, Tensor], Tensor]
    density: Function


class Coordinate(NamedTuple):
    r"""What slopes are polynomials of: u of the ratio, the ratio of u, and :math:`d\kappa/du`."""

    of_ratio: Function
    ratio: Function
    rate: Function


def data_form(eta: float = 0.0) -> Form:
    r"""DPM-Solver++'s: :math:`w = x/(\alpha\kappa^{1+\eta})`, whose slope is x0_hat alone.

    .. math:: dw = -(1 + \eta)\,\kappa^{-2-\eta}\,\hat x_0\, d\kappa

    Lu et al. (2022); a positive eta belongs to the SDE that adds noise as it removes it.
    """
    return Form(
        scale=lambda alpha, sigma: (alpha / sigma) ** (1 + eta) / alpha,
        gain=lambda alpha, sigma: torch.ones_like(sigma),
        blend=lambda alpha, sigma: torch.zeros_like(sigma),
        density=lambda ratio: -(1 + eta) * ratio ** (-2 - eta),
    )


def noise_form() -> Form:
    r"""DEIS's: :math:`d(x/\alpha) = \hat\varepsilon\, d\kappa`. Zhang & Chen (2022).

    The noise is written with x0_hat: :math:`\hat\varepsilon = -(\hat x_0 - x/\alpha)/\kappa`.
    """
    return Form(
        scale=lambda alpha, sigma: 1 / alpha,
        gain=lambda alpha, sigma: -alpha / sigma,
        blend=lambda alpha, sigma: -1 / alpha,
        density=torch.ones_like,
    )


def angle_form(data_std: float = 1.0) -> Form:
    r"""TrigFlow's: :math:`w = x/c` with :math:`c^2 = \alpha^2 d^2 + \sigma^2`, where d is data_std.

    .. math:: dw = F\,d\theta, \qquad \tan\theta = \frac{\kappa}{d}, \qquad
        F = -\frac{c}{d\sigma}\Bigl(\hat x_0 - \frac{\alpha d^2}{c^2}x\Bigr)

    Lu & Song (2024): with data of that standard deviation w and F have variance one at every level,
    and :math:`\hat x_0 - \alpha d^2 x/c^2` is what the data are beyond a Gaussian of variance d^2.
    """

    def size(alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.hypot(alpha * data_std, sigma)

    return Form(
        scale=lambda alpha, sigma: 1 / size(alpha, sigma),
        gain=lambda alpha, sigma: -size(alpha, sigma) / (data_std * sigma),
        blend=lambda alpha, sigma: -alpha * (data_std / size(alpha, sigma)) ** 2,
        density=lambda ratio: data_std / (data_std**2 + ratio**2),
    )


log_ratio = Coordinate(torch.log, torch.exp, torch.exp)  # minus half the log-SNR
plain_ratio = Coordinate(lambda ratio: ratio, lambda u: u, torch.ones_like)


def asinh_ratio(scale: float) -> Coordinate:
    r""":math:`u = \operatorname{asinh}(\kappa/\mathrm{scale})`: a logarithm that stays finite at 0.

    Above `scale` it is log kappa up to a constant; below, it is linear, so that the last step, to
    the noiseless level, is a step like any other.
    """
    return Coordinate(
        lambda ratio: torch.asinh(ratio / scale),
        lambda u: scale * torch.sinh(u),
        lambda u: scale * torch.cosh(u),
    )


def path_time(path: GaussianPath) -> Coordinate:
    """The path's own time, in which tAB-DEIS interpolates. Zhang & Chen (2022)."""

    def rate(t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t), path.sigma(t)
        return (path.sigma_dot(t) - sigma * path.alpha_dot(t) / alpha) / alpha

    return Coordinate(
        lambda ratio: path.time_of_log_snr(-2 * ratio.log()),
        lambda t: path.sigma(t) / path.alpha(t),
        rate,
    )


class Table(NamedTuple):
    """A form and a coordinate on one grid: n levels, those that can be a node marked `usable`."""

    scale: Float[Tensor, " n"]
    gain: Float[Tensor, " n"]
    blend: Float[Tensor, " n"]
    u: Float[Tensor, " n"]
    usable: Tensor


def tabulate(form: Form, coordinate: Coordinate, levels: Sequence[Level]) -> Table:
    """What the solvers need of the levels. A level is usable where its u and scale are finite."""
    alpha, sigma = torch.tensor([(a, s) for _, a, s, *_ in levels], dtype=torch.float64).unbind(1)
    scale, u = form.scale(alpha, sigma), coordinate.of_ratio(sigma / alpha)
    usable = scale.isfinite() & u.isfinite()
    return Table(scale, form.gain(alpha, sigma), form.blend(alpha, sigma), u, usable)


def adams_weights(
    form: Form,
    coordinate: Coordinate,
    nodes: Float[Tensor, "n k"],
    present: Tensor,
    t: Float[Tensor, " n"],
    s: Float[Tensor, " n"],
) -> Float[Tensor, "n k"]:
    r"""The integrals :math:`W_j = \int_t^s \ell_j(u)\,d\varphi` of n steps, exact to rounding.

    .. math:: \ell_j(u) = \prod_{m \ne j} \frac{u - u_m}{u_j - u_m}

    Gauss-Legendre quadrature in u with 16 points. A node that is not `present` in a step, as in
    the first steps of a run, has weight 0. `t` and `s` are the ends of the steps, in u.
    """
    points, mass = _gauss_legendre(16)
    u = t[:, None] + (s - t)[:, None] * points  # (n q)
    measure = mass * form.density(coordinate.ratio(u)) * coordinate.rate(u) * (s - t)[:, None]
    pairs = present[:, :, None] & present[:, None] & ~torch.eye(nodes.shape[1]).bool()  # (n j m)
    gaps = torch.where(pairs, nodes[:, :, None] - nodes[:, None], 1.0)
    away = u[:, :, None, None] - nodes[:, None, None]  # (n q 1 m)
    basis = torch.where(pairs[:, None], away / gaps[:, None], 1.0).prod(-1)  # (n q j)
    return torch.einsum("nq, nqj -> nj", measure, basis) * present


@cache
def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Points and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return torch.tensor(0.5 * (points + 1)), torch.tensor(0.5 * weights)
