"""How to get from time t to time s. The loop is in :mod:`.sample`.

A solver is a function of the path's levels on the whole grid that returns one step an interval.
Coefficients are computed there, once and in float64; a step then only calls the denoiser and adds
tensors. Most solvers call the denoiser once a step, and are then a row of three numbers
(:class:`~.bridge.Row`): the next sample is ``row.x * x + row.x0 * x0_hat + row.std * noise``.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import Noise
from .bridge import Row, posterior, transition
from .path import Level

Memory = Any  # None at first; whatever the step before returned
Step = Callable[[Denoise, Tensor, Memory], tuple[Tensor, Memory]]
Solver = Callable[[Sequence[Level]], Sequence[Step]]
Rule = Callable[[Level, Level], Row]  # (t, s) -> row


def linear(
    rows: Callable[[Sequence[Level]], Sequence[Row]], noise: Noise = torch.randn_like
) -> Solver:
    r"""The solver that calls the denoiser once a step and adds up what `rows` says.

    .. math:: x_s = c_x x_t + c_{x_0}\hat x_0 + \sum_j c_j\, S^{(-j)} + \mathrm{std}\cdot z

    where :math:`S^{(-j)} = \hat x_0 + \mathrm{blend}\cdot x` was made j steps ago. Only rows with a
    positive std call `noise`.
    """

    def solver(levels: Sequence[Level]) -> list[Step]:
        table = rows(levels)
        keep = max(len(row.older) for row in table)
        steps = zip(levels[:-1], table, strict=True)
        return [partial(_advance, t.time, row, noise, keep) for t, row in steps]

    return solver


def _advance(
    time: Tensor, row: Row, noise: Noise, keep: int, denoise: Denoise, x: Tensor, memory: Memory
) -> tuple[Tensor, Memory]:
    x0_hat, older = denoise(x, time), memory or ()
    x_s = weighted_sum((row.x, row.x0, *row.older), (x, x0_hat, *older[: len(row.older)]))
    if keep:
        older = (remembered(x0_hat, x, row.blend), *older)[:keep]
    return (x_s.add_(noise(x), alpha=row.std) if row.std else x_s), older


def remembered(x0_hat: Tensor, x: Tensor, blend: float) -> Tensor:
    """The slope a multistep solver keeps, ``x0_hat + blend * x``: x0_hat itself where it can."""
    return torch.add(x0_hat, x, alpha=blend) if blend else x0_hat


def one_call(rule: Rule, noise: Noise = torch.randn_like) -> Solver:
    """The solver whose rows need only the two levels of a step: :eq:`eq-ddim-ansatz`."""
    return linear(lambda levels: [rule(t, s) for t, s in pairwise(levels)], noise)


def stepwise(
    step: Callable[[Denoise, Tensor, Level, Level, Memory], tuple[Tensor, Memory]],
) -> Solver:
    """The solver whose steps are ``step(denoise, x, t, s, memory) -> (x_s, memory)``.

    For rules that are not a row, and need no more of the grid than the levels t and s of a step.
    """

    def bind(t: Level, s: Level) -> Step:
        return lambda denoise, x, memory: step(denoise, x, t, s, memory)

    return lambda levels: [bind(t, s) for t, s in pairwise(levels)]


def weighted_sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    r""":math:`\sum_i w_i x_i` in as few passes over memory as torch has: what a step costs."""
    first, second, *rest = weights
    if not rest and math.isclose(first + second, 1.0, rel_tol=1e-15):
        return torch.lerp(tensors[0], tensors[1], second)
    total = torch.mul(tensors[0], first)
    for weight, tensor in zip((second, *rest), tensors[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total


def posterior_variance(t: Level, s: Level) -> float:
    r""":math:`\tilde\beta`, variance of :math:`q(x_s\mid x_t, x_0)`: optimal for a point mass."""
    return posterior(s, t).std ** 2


def forward_variance(t: Level, s: Level) -> float:
    r""":math:`\beta_{ts}`, variance of the forward step: optimal for :math:`\mathcal N(0, I)`."""
    return transition(s, t)[1]


def ancestral(
    variance: Callable[[Level, Level], float] = posterior_variance,
    noise: Noise = torch.randn_like,
) -> Solver:
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


def ddim(eta: float = 0.0, noise: Noise = torch.randn_like) -> Solver:
    r"""DDIM, :eq:`eq-ddim-step`: eta 0 is deterministic, eta 1 is DDPM's posterior at any stride.

    Song et al. (2021), eq. 12. At eta 0 it is Euler's method for :eq:`eq-ddim-ode` in
    :math:`\sigma/\alpha`, and where :math:`\alpha^2 + \sigma^2 = 1` it is the rotation
    :eq:`eq-velocity-prediction-rotation`.

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


def _duration(t: Level, s: Level) -> float:
    return (s.time - t.time).item()


def euler(levels: Sequence[Level]) -> list[Step]:
    r"""Euler's method on the probability-flow ODE :math:`\dot x = \dot\alpha\hat x_0 +
    \dot\sigma\hat\varepsilon`, in the path's own time. First order. On the EDM path this is
    :eq:`eq-edm-sigma-ode`."""
    return one_call(lambda t, s: _velocity_row(t, _duration(t, s)))(levels)


def heun(levels: Sequence[Level]) -> list[Step]:
    """Heun's method on the same ODE, :eq:`eq-edm-heun`: the mean of both ends' velocities.

    Second order. Two calls a step; a step to a noiseless level, where the velocity is not defined,
    is Euler's. Karras et al. (2022), algorithm 1.
    """
    steps = zip(pairwise(levels), euler(levels), strict=True)
    return [
        partial(_heun, predict, s.time, _velocity_row(s, _duration(t, s))) if s.sigma else predict
        for (t, s), predict in steps
    ]


def _heun(predict: Step, time: Tensor, row: Row, denoise: Denoise, x: Tensor, memory: Memory):
    x_next, _ = predict(denoise, x, memory)
    x_again = weighted_sum((row.x, row.x0), (x_next, denoise(x_next, time)))
    return torch.lerp(x, x_again, 0.5), memory
