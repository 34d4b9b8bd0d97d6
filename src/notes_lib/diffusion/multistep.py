r"""The multistep solvers of the literature: each is a form, a coordinate and an order.

They call the denoiser once a step and remember what it said (:mod:`.bashforth`). With
:math:`\lambda = \log(\alpha/\sigma)`, DPM-Solver++ and UniPC interpolate x0_hat in lambda, DEIS
interpolates eps_hat.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.tensor import Noise
from .bashforth import Weights, adams, adams_moulton, check_order, predictor
from .bridge import Row
from .exponential import (
    Coordinate,
    Form,
    adams_weights,
    data_form,
    log_ratio,
    noise_form,
    plain_ratio,
    tabulate,
)
from .path import Level
from .solver import Solver, Step, linear


def dpmpp_2m(levels: Sequence[Level]) -> list[Step]:
    r"""DPM-Solver++(2M): one call a step, the last x0_hat remembered. Second order.

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) D, \qquad
        D = \hat x_0 + \frac{h}{2 h_{\mathrm{last}}}(\hat x_0 - \hat x_{0,\mathrm{last}})

    with :math:`h = \lambda_s - \lambda_t`. Lu et al. (2022), algorithm 2. The first step, and
    a step to a noiseless level (h infinite), are first order: they are DDIM's.
    """
    return adams(data_form(), log_ratio, 2, halved(bh2))(levels)


def dpmpp_3m(levels: Sequence[Level]) -> list[Step]:
    r"""DPM-Solver++(3M): the parabola through three estimates of x0, integrated exactly.

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t} x_t + \sigma_s \sum_{j=0}^{2} \hat x_0^{(-j)}
        \int_{\lambda_t}^{\lambda_s} e^\lambda \ell_j(\lambda)\, d\lambda

    Third order. The "3M" of diffusers 0.42 and k-diffusion 0.1 has the first divided difference of
    a parabola's slope where Taylor's formula has its second derivative, twice that; it is second
    order.
    """
    return adams(data_form(), log_ratio, 3)(levels)


def dpmpp_sde(order: int = 2, eta: float = 1.0, noise: Noise = torch.randn_like) -> Solver:
    r"""SDE-DPM-Solver++: the multistep solver of the reverse SDE, at eta times its noise.

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t}e^{-\eta h} x_t + (1 + \eta)\,\alpha_s
        \int_{\lambda_t}^{\lambda_s} e^{-(1 + \eta)(\lambda_s - \lambda)}\hat x_0\, d\lambda
        + \sigma_s\sqrt{1 - e^{-2\eta h}}\, z

    Lu et al. (2022); eta 0 is the ODE's solver, eta 1 with one slope is DDPM's
    posterior. `noise` is plain: it is drawn anew for every step.

    Raises:
        ValueError: a negative eta, or an order below 1.
    """
    if not eta >= 0:
        raise ValueError(f"eta must not be negative, got {eta}")
    check_order(order)
    form = data_form(eta)

    def rows(levels: Sequence[Level]) -> list[Row]:
        weights = partial(adams_weights, form, log_ratio)
        sums = predictor(tabulate(form, log_ratio, levels), weights, levels, order)
        return [
            Row(x, x0, _sde_std(t, s, eta), tuple(older))
            for (t, s), (x, x0, *older) in zip(pairwise(levels), sums, strict=True)
        ]

    return linear(rows, noise)


def _sde_std(t: Level, s: Level, eta: float) -> float:
    if not eta or not t.alpha:
        return 0.0
    return s.sigma * math.sqrt(-math.expm1(-2 * eta * (s.half_log_snr - t.half_log_snr)))


def deis(order: int = 3, coordinate: Coordinate = plain_ratio) -> Solver:
    r"""DEIS: Adams-Bashforth on :math:`d(x/\alpha) = \hat\varepsilon\,d\kappa`, kappa sigma/alpha.

    .. math:: x_s = \alpha_s\Bigl(\frac{x_t}{\alpha_t} + \sum_j \hat\varepsilon^{(-j)}
        \int_{\kappa_t}^{\kappa_s} \ell_j\, d\kappa\Bigr)

    Zhang & Chen (2022). With polynomials in kappa itself it is their rhoAB; with
    :func:`~.exponential.path_time` their tAB; diffusers takes the logarithm of kappa. Order 1 is
    DDIM.

    Raises:
        ValueError: an order below 1.
    """
    return adams(noise_form(), coordinate, order)


def unipc(order: int = 2, b: Callable[[Tensor], Tensor] | None = None) -> Solver:
    r"""UniPC-p: the corrected multistep solver on x0_hat in lambda. Zhao et al. (2023).

    Order p + 1 but for the last step, which is predicted only. The paper's function B(h) matters
    only where two slopes meet: with :func:`bh1` or :func:`bh2` their difference weighs one half of
    B(h), with None what the integral gives.

    Raises:
        ValueError: an order below 1.
    """
    return adams_moulton(data_form(), log_ratio, order, adams_weights if b is None else halved(b))


def bh1(h: Tensor) -> Tensor:
    """B(h) = h, with h the step in log-SNR/2."""
    return h


def bh2(h: Tensor) -> Tensor:
    r""":math:`B(h) = 1 - e^{-h}`, the integral of the exponential: DPM-Solver++(2M)'s too."""
    return -torch.expm1(-h)


def halved(b: Callable[[Tensor], Tensor]) -> Weights:
    r"""Weights for data in lambda that take one half of B(h) where two slopes meet.

    .. math:: \int e^{\lambda - \lambda_s}\hat x_0\,d\lambda \approx (1 - e^{-h})\,\hat x_0
        + \frac{B(h)}{2}\,\frac{\hat x_0' - \hat x_0}{r}, \qquad
        r = \frac{\lambda' - \lambda_t}{h}

    The other slope, primed, is older (a predictor) or at the end (a corrector, r = 1). This is the
    integral to first order in h. With more slopes, the exact integral.
    """

    def weights(
        form: Form,
        coordinate: Coordinate,
        nodes: Float[Tensor, "n k"],
        present: Tensor,
        t: Tensor,
        s: Tensor,
    ) -> Float[Tensor, "n k"]:
        exact = adams_weights(form, coordinate, nodes, present, t, s)
        if nodes.shape[1] < 2:
            return exact
        at_t = nodes[:, :2] == t[:, None]
        other = torch.where(at_t[:, 0], nodes[:, 1], nodes[:, 0])
        share = 0.5 * b(t - s) * torch.exp(-s) * (s - t) / (other - t)
        total = torch.exp(-s) - torch.exp(-t)
        pair = torch.where(at_t, (total - share)[:, None], share[:, None])
        two = (present.sum(1) == 2)[:, None]
        return torch.cat([torch.where(two, pair, exact[:, :2]), exact[:, 2:]], 1)

    return weights
