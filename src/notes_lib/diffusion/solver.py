"""How to get from time t to time s. One solver is one step; the loop is in :mod:`.sample`.

A solver sees a denoiser and the path's levels at both ends of the step, nothing else. Most call the
denoiser once, and are then a row of three numbers (:class:`~.bridge.Row`): the next sample is
``row.x * x + row.x0 * x0_hat + row.std * noise``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import Noise
from .bridge import Row, posterior, transition
from .path import Level

Memory = Any  # None at first; whatever a multistep solver returned last
Step = Callable[[Denoise, Tensor, Level, Level, Memory], tuple[Tensor, Memory]]
Rule = Callable[[Level, Level], Row]  # (t, s) -> row


def one_call(rule: Rule, noise: Noise = torch.randn_like) -> Step:
    """The solver that calls the denoiser once and applies the row of `rule`: :eq:`eq-ddim-ansatz`.

    `noise` is called only by rows with a positive std.
    """

    def step(denoise: Denoise, x: Tensor, t: Level, s: Level, memory: Memory):
        row = rule(t, s)
        x_s = torch.add(row.x * x, denoise(x, t.time), alpha=row.x0)
        return (torch.add(x_s, noise(x), alpha=row.std) if row.std else x_s), memory

    return step


def posterior_variance(t: Level, s: Level) -> float:
    r""":math:`\tilde\beta`, variance of :math:`q(x_s\mid x_t, x_0)`: optimal for a point mass."""
    return posterior(s, t).std ** 2


def forward_variance(t: Level, s: Level) -> float:
    r""":math:`\beta_{ts}`, variance of the forward step: optimal for :math:`\mathcal N(0, I)`."""
    return transition(s, t)[1]


def ancestral(
    variance: Callable[[Level, Level], float] = posterior_variance,
    noise: Noise = torch.randn_like,
) -> Step:
    r"""DDPM's sampler, :eq:`eq-ddpm-sampler`: the posterior's mean at x0_hat, plus noise.

    Ho et al. (2020), algorithm 2, which writes the mean with eps_hat as :eq:`eq-ddpm-mean-eps`.
    With :func:`posterior_variance` a step to a noiseless level adds none; with
    :func:`forward_variance` the last step must be made noiseless by the caller, or end above 0.
    """

    def rule(t: Level, s: Level) -> Row:
        return posterior(s, t)._replace(std=math.sqrt(variance(t, s)))

    return one_call(rule, noise)


def ddim_row(t: Level, s: Level, eta: float) -> Row:
    r"""Coefficients of a DDIM step, :eq:`eq-ddim-match` and :eq:`eq-ddim-sigma`: the marginals
    :eq:`eq-ddim-marginals` are kept, whatever eta and the stride.

    .. math::
        \mathrm{std} = \eta\,\frac{\sigma_s}{\sigma_t}\sqrt{\beta_{ts}}, \qquad
        c_x = \frac{\sqrt{\sigma_s^2 - \mathrm{std}^2}}{\sigma_t}, \qquad
        c_{x_0} = \alpha_s - c_x\alpha_t

    Song et al. (2021), eq. 12 and 16, on any path. The level s may also be the noisier one
    (inversion), if eta is 0.

    Raises:
        ValueError: an inversion with noise, or an eta so large that the noise asked for exceeds
            what level s holds.
    """
    if eta and s.half_log_snr < t.half_log_snr:
        raise ValueError(f"a step towards the noise must have eta 0, got {eta}")
    std = eta * posterior(s, t).std if eta else 0.0
    if not std <= s.sigma:
        raise ValueError(f"eta = {eta} asks for noise {std:g} where level s holds {s.sigma:g}")
    scale = math.sqrt(s.sigma**2 - std**2) / t.sigma
    return Row(scale, s.alpha - scale * t.alpha, std)


def ddim(eta: float = 0.0, noise: Noise = torch.randn_like) -> Step:
    r"""DDIM, :eq:`eq-ddim-step`: eta 0 is deterministic, eta 1 is DDPM's posterior at any stride.

    Song et al. (2021), eq. 12. At eta 0 it is Euler's method for :eq:`eq-ddim-ode` in
    :math:`\sigma/\alpha`.

    Raises:
        ValueError: a negative eta.
    """
    if not eta >= 0:
        raise ValueError(f"eta must not be negative, got {eta}")
    return one_call(lambda t, s: ddim_row(t, s, eta), noise)


def _velocity_row(t: Level, h: float) -> Row:
    """x + h (alpha' x0 + sigma' eps), as a row."""
    rate = t.sigma_dot / t.sigma
    return Row(1 + h * rate, h * (t.alpha_dot - rate * t.alpha), 0.0)


def euler(denoise: Denoise, x: Tensor, t: Level, s: Level, memory: Memory):
    r"""Euler's method on the probability-flow ODE :math:`\dot x = \dot\alpha\hat x_0 +
    \dot\sigma\hat\varepsilon`, in the path's own time. First order."""
    return _euler(denoise, x, t, s, memory)


_euler = one_call(lambda t, s: _velocity_row(t, (s.time - t.time).item()))


def heun(denoise: Denoise, x: Tensor, t: Level, s: Level, memory: Memory):
    """Heun's method on the same ODE: the mean of the velocities at both ends. Second order.

    Two calls a step; a step to a noiseless level, where the velocity is not defined, is Euler's.
    Karras et al. (2022), algorithm 1.
    """
    x_next, _ = euler(denoise, x, t, s, memory)
    if s.sigma == 0:
        return x_next, memory
    row = _velocity_row(s, (s.time - t.time).item())
    x_again = row.x * x_next + row.x0 * denoise(x_next, s.time)  # x_next + h v(x_next, s)
    return 0.5 * (x + x_again), memory


def dpmpp_2m(denoise: Denoise, x: Tensor, t: Level, s: Level, memory: Memory):
    r"""DPM-Solver++(2M): one call a step, the last x0_hat remembered. Second order.

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) D, \qquad
        D = \hat x_0 + \frac{h}{2 h_{\mathrm{last}}}(\hat x_0 - \hat x_{0,\mathrm{last}})

    with :math:`h = \lambda_s - \lambda_t`. Lu et al. (2022), algorithm 2. The first step, and
    a step to a noiseless level (h infinite), are first order: they are DDIM's.
    """
    x0_hat = denoise(x, t.time)
    h = s.half_log_snr - t.half_log_snr
    d = x0_hat
    if memory is not None and s.sigma > 0:
        x0_last, h_last = memory
        d = torch.lerp(x0_last, x0_hat, 1 + 0.5 * h / h_last)
    return torch.add(s.sigma / t.sigma * x, d, alpha=-s.alpha * math.expm1(-h)), (x0_hat, h)
