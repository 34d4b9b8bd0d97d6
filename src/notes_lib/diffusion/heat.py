r"""From the motion of points to the motion of their density, and the heat equation.

Points that move by :math:`\dot x = f(x, t)` carry their density along. The field
:math:`-D\,\nabla\log p` makes it diffuse: noise without a single random step.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.divergence import Field, exact_divergence
from ..core.ode import VectorField
from ..core.tensor import check_finite
from .score import score_of

LogProb = Callable[[Tensor, Tensor], Tensor]  # (t, x) -> log p_t(x), shape (b,)


def continuity_residual(
    log_prob: LogProb, f: VectorField, x: Float[Tensor, "b d"], t: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    r"""How far the field f is from carrying the density p, in nats per unit of time.

    .. math:: \partial_t \log p_t(x) + f \cdot \nabla\log p_t(x) + \nabla\cdot f

    Zero everywhere if and only if p solves :eq:`eq-rectified-flow-continuity`; the first two terms
    are the rate along a moving point, :eq:`eq-rectified-flow-log-density`. Exact, by autograd.
    Both functions take the times first, as :func:`.odeint`'s fields do; t has one time a row.

    Raises:
        ValueError: what :func:`.exact_divergence` raises.
    """
    with torch.enable_grad():
        y, u = (a.detach().requires_grad_() for a in (x, t))
        rate, score = torch.autograd.grad(log_prob(u, y).sum(), (u, y))
    spread = exact_divergence(lambda x: f(t, x), x.detach())
    return (rate + (f(t, x) * score).sum(1) + spread).detach()


def diffuse(p: Float[Tensor, " n"], spacing: float, sigma: float) -> Float[Tensor, " n"]:
    r"""The solution of the heat equation :eq:`eq-rectified-flow-heat` from p, on a circle.

    .. math:: \hat p_t(\omega) = \hat p_0(\omega)\, e^{-\sigma_t^2\omega^2/2}, \qquad
        \sigma_t^2 = 2\int_0^t D_s\,ds

    This is :eq:`eq-rectified-flow-fourier`. The grid of step `spacing` is taken for one turn of a
    circle; on a line keep p zero within a few sigma of its ends.

    Raises:
        ValueError: p not finite, a spacing that is not positive, or a negative sigma.
    """
    check_finite("p", p)
    if not (spacing > 0 and sigma >= 0):
        raise ValueError(f"need spacing > 0 and sigma >= 0, got {spacing} and {sigma}")
    omega = 2 * math.pi * torch.fft.rfftfreq(len(p), spacing, dtype=p.dtype, device=p.device)
    return torch.fft.irfft(torch.fft.rfft(p) * torch.exp(-0.5 * (sigma * omega) ** 2), len(p))


def heat_velocity(
    log_density: Callable[[Tensor], Tensor], sigma: float, sigma_dot: float = 1.0
) -> Field:
    r"""The field that makes a density diffuse, :eq:`eq-rectified-flow-particles`.

    .. math:: f = -D\,\nabla\log p = -\dot\sigma\,\sigma\,\nabla\log p

    `log_density` is the log of p at noise level sigma, known up to a constant.
    """
    score = score_of(log_density)
    return lambda x: -sigma_dot * sigma * score(x)
