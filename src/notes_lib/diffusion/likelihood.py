r"""Log-likelihoods of a diffusion model, in nats: exact along its ODE, bounded along its SDE.

The two are different models. With the exact score and the exact terminal law both are the data's
own density; with a trained network they part, and a number should say which it is.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.divergence import Field, exact_divergence
from ..core.ode import VectorField
from ..core.oracle import Denoise
from ..core.tensor import check_finite, expand_to
from .path import GaussianPath
from .score import NoisyScore

Solve = Callable[[VectorField, Tensor], Tensor]  # (field, state at the data) -> state at the noise
Divergence = Callable[[Field, Tensor], Tensor]


def flow_velocity(denoise: Denoise, path: GaussianPath) -> VectorField:
    r"""(t, x) -> dx/dt of the probability-flow ODE :eq:`eq-score-sde-flow`; needs sigma > 0.

    It is the marginal field :eq:`eq-flow-matching-field`: the conditional field is linear in x0.
    """
    return lambda t, x: path.velocity(x, denoise(x, t), t)


@torch.no_grad()
def flow_log_prob(
    velocity: VectorField,
    x: Float[Tensor, " b *d"],
    terminal: Callable[[Tensor], Tensor],
    solve: Solve,
    divergence: Divergence = exact_divergence,
) -> Float[Tensor, " b"]:
    r"""Log density at `x` of what an ODE makes of its terminal law, :eq:`eq-score-sde-log-prob`.

    .. math::
        \log p_0(x_0) = \log p_T(x_T) + \int_0^T \nabla\cdot v(x_t, t)\,dt, \qquad \dot x = v(x, t)

    Chen et al. (2018), theorem 1; Song et al. (2021), appendix D.2. Gradients are off.

    Args:
        velocity: (t, x) -> dx/dt, as :func:`flow_velocity` makes it.
        x: points at the data's end of the ODE. A path without noise at t = 0 has no velocity there:
            take points noised to a first level, and the result is the log density of these.
        terminal: x_T -> log density, shape (b,), of the law the *generator* starts from. With
            :math:`\mathcal N(0, \sigma_T^2 I)` the result is the model's own density; that of the
            data needs the true :math:`p_T`. There is no default, because the two differ.
        solve: how to integrate, e.g. ``lambda f, y: odeint(f, y, ts, HEUN)`` with rising `ts`, or
            the last state of :func:`~notes_lib.core.ode.adaptive`.
        divergence: of (x -> v, x); for large d,
            :func:`~notes_lib.core.divergence.hutchinson_divergence` with probes that stay the same
            along the way.

    Raises:
        ValueError: points that are not finite or have no second axis, or a terminal density that is
            not one number a row.
    """
    check_finite("x", x)

    def rate(t: Tensor, y: Tensor) -> Tensor:
        z = y[:, 1:].reshape(x.shape)
        column = divergence(lambda z: velocity(t, z), z)
        return torch.cat([column[:, None], velocity(t, z).flatten(1)], 1)

    y = solve(rate, torch.cat([x.new_zeros(len(x), 1), x.flatten(1)], 1))
    log_terminal = terminal(y[:, 1:].reshape(x.shape))
    if log_terminal.shape != y[:, 0].shape:
        raise ValueError(f"terminal must return ({len(x)},), got {tuple(log_terminal.shape)}")
    return log_terminal + y[:, 0]


def kl_rate(
    score: NoisyScore,
    other: NoisyScore,
    path: GaussianPath,
    x: Float[Tensor, " b *d"],
    t: Float[Tensor, ""],
) -> Float[Tensor, " b"]:
    r"""How fast the laws of two reverse SDEs part, in nats per time: :eq:`eq-score-sde-bound`.

    .. math:: \tfrac12 g_t^2\,\lVert s(x, t) - s'(x, t)\rVert^2

    By Girsanov's theorem the KL divergence of the two processes is its integral over t and over the
    law of the first, plus that of their starts; the KL of what they end on is never more. Song,
    Durkan et al. (2021), theorem 1. It is the loss of score matching with weight :math:`g^2`.

    Raises:
        ValueError: a time outside the path.
    """
    path.check_time(t)
    gap = (score(x, t) - other(x, t)).square().flatten(1).sum(1)
    return 0.5 * expand_to(path.diffusion_sq(t), gap) * gap
