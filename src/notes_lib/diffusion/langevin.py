r"""Langevin dynamics: draws from p by walking along its score, with noise.

Each function is one loop that yields; burn-in, thinning and averages belong to the caller. The step
is :math:`\epsilon` in :math:`x + \epsilon s + \sqrt{2\epsilon} z`. Papers on sampling often write
:math:`\tfrac\alpha2 s + \sqrt\alpha z` for the same: their :math:`\alpha` is :math:`2\epsilon`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.tensor import Noise, check_finite, expand_to
from .path import Level
from .score import NoisyScore, Score, score_of


def langevin(
    score: Score,
    x: Float[Tensor, " b *d"],
    step: float,
    steps: int,
    noise: Noise = torch.randn_like,
) -> Iterator[Tensor]:
    r"""Unadjusted Langevin: yield x after each of so many steps :eq:`eq-score-matching-langevin`.

    .. math:: x \leftarrow x + \epsilon\,s(x) + \sqrt{2\epsilon}\,z, \qquad z \sim \mathcal N(0, I)

    Roberts & Tweedie (1996), section 1.4. Its stationary law is p up to a bias of order
    :math:`\epsilon`, see :func:`stationary_variance`. Gradients are off.

    Args:
        score: x -> grad log p(x).
        x: the start, one chain a row; not yielded.
        step: epsilon, positive.
        steps: how many.
        noise: x -> standard normal noise shaped like x.

    Raises:
        ValueError: a start that is not finite, a step that is not positive, or steps below 1.
    """
    check_finite("x", x)
    _check_steps(step, steps)
    return _langevin(score, x, step, steps, noise)


def _langevin(score, x, step, steps, noise) -> Iterator[Tensor]:
    for _ in range(steps):
        with torch.no_grad():  # not around the yield, where the caller is at work
            x = x + step * score(x) + (2 * step) ** 0.5 * noise(x)
        yield x


def annealed_langevin(
    score: NoisyScore,
    x: Float[Tensor, " b *d"],
    ladder: Sequence[Level],
    step: float,
    steps: int,
    noise: Noise = torch.randn_like,
) -> Iterator[Tensor]:
    r"""Langevin at each noise level in turn, from the noisiest down: yield every step.

    At rung i of L the step is :eq:`eq-score-matching-annealed`,

    .. math:: \epsilon_i = \epsilon\,\sigma_i^2/\sigma_L^2 ,

    so that drift and noise keep their ratio. Song & Ermon (2019), algorithm 1, whose
    :math:`\alpha_i` is :math:`2\epsilon_i`.

    Args:
        score: (x, t) -> the score at time t, as :func:`.score_model` makes it.
        x: the start, about as wide as the noisiest level.
        ladder: ``path.levels(ts)``, sigma strictly falling and positive.
        step: epsilon, the step at the last rung.
        steps: how many steps a rung.
        noise: x -> standard normal noise shaped like x.

    Raises:
        ValueError: as :func:`langevin`, or a ladder that does not fall or ends without noise.
    """
    check_finite("x", x)
    _check_steps(step, steps)
    sigmas = [level.sigma for level in ladder]
    if not sigmas or sigmas[-1] <= 0 or any(a <= b for a, b in pairwise(sigmas)):
        raise ValueError(f"sigma must fall strictly and stay positive, got {sigmas}")
    return _annealed(score, x, ladder, step, steps, noise)


def _annealed(score, x, ladder, step, steps, noise) -> Iterator[Tensor]:
    for level in ladder:
        size = step * (level.sigma / ladder[-1].sigma) ** 2
        for y in _langevin(lambda x, t=level.time: score(x, t), x, size, steps, noise):
            yield y
        x = y


def mala(
    log_density: Callable[[Tensor], Tensor],
    x: Float[Tensor, " b *d"],
    step: float,
    steps: int,
    noise: Noise = torch.randn_like,
) -> Iterator[Tensor]:
    r"""Langevin with the Metropolis-Hastings correction: each step is accepted with probability
    :math:`\min(1, e^a)`, or the chain stays where it is.

    .. math::
        a = \log\frac{p(y)\,q(x\mid y)}{p(x)\,q(y\mid x)}, \qquad
        q(y\mid x) = \mathcal N(y;\ x + \epsilon\,s(x),\ 2\epsilon I)

    Roberts & Tweedie (1996), section 1.4.2. p is stationary at every step size; what a large step
    costs is acceptance. Needs the log density up to a constant, not only its gradient. The coin of
    the acceptance is made of `noise` as well, through the normal distribution function.

    Raises:
        ValueError: as :func:`langevin`.
    """
    check_finite("x", x)
    _check_steps(step, steps)
    return _mala(log_density, x, step, steps, noise)


def _mala(log_density, x, step, steps, noise) -> Iterator[Tensor]:
    score = score_of(log_density)

    def log_q(y: Tensor, x: Tensor) -> Tensor:
        return -(y - x - step * score(x)).square().flatten(1).sum(1) / (4 * step)

    for _ in range(steps):
        with torch.no_grad():
            y = x + step * score(x) + (2 * step) ** 0.5 * noise(x)
            a = log_density(y) - log_density(x) + log_q(x, y) - log_q(y, x)
            x = torch.where(expand_to(torch.special.log_ndtr(noise(a)) < a, x), y, x)
        yield x


def stationary_variance(variance: float, step: float) -> float:
    r"""Where the variance of :func:`langevin` settles for N(0, v): :eq:`eq-score-matching-bias`.

    .. math:: \frac{v}{1 - \epsilon/(2v)}

    Raises:
        ValueError: unless :math:`0 < \epsilon < 2v`; beyond, the chain runs away.
    """
    if not 0 < step < 2 * variance:
        raise ValueError(f"step must lie in (0, {2 * variance}), got {step}")
    return variance / (1 - step / (2 * variance))


def _check_steps(step: float, steps: int) -> None:
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
