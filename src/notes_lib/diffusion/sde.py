r"""The reverse SDEs of a path, all with the same marginals, and the corrector that goes with them.

Forward, a path is the SDE :math:`dx = f x\,dt + g\,dw`, :eq:`eq-score-sde-kernel`. Backward there
is a family, from the probability-flow ODE (lambda 0) over Anderson's reverse SDE (1) to ever more
noise. The score they need is read out of a denoiser, :math:`(\alpha\hat x_0 - x)/\sigma^2`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import Noise
from .bridge import Row
from .path import Level
from .solver import Memory, Solver, Step, one_call

Correct = Callable[[Denoise, Tensor, Level], Tensor]  # (denoise, x, level) -> x at the same level


def reverse_sde(lam: float = 1.0, noise: Noise = torch.randn_like) -> Solver:
    r"""Euler-Maruyama on the reverse SDE with noise of size lambda, :eq:`eq-score-sde-family`.

    .. math::
        dx = \Bigl[f x - \frac{1 + \lambda^2}2\, g^2\,\nabla\log p_t(x)\Bigr]dt
        + \lambda g\,d\bar w

    Its density obeys :eq:`eq-score-sde-fokker-planck`, whatever lambda is. 0 is
    :func:`~.solver.euler`, the probability-flow ODE; 1 is :eq:`eq-score-sde-reverse`. Song et al.
    (2021), eq. 13 and 6, are these two; Karras et al. (2022), eq. 6, is the family. First order; a
    step must be short against :math:`\sigma^2/g^2`. To first order in the step it is
    :func:`~.solver.ddim` with eta lambda.

    Raises:
        ValueError: a negative lambda.
    """
    if not lam >= 0:
        raise ValueError(f"lam must not be negative, got {lam}")
    return one_call(lambda t, s: reverse_sde_row(t, s, lam), noise)


def reverse_sde_row(t: Level, s: Level, lam: float) -> Row:
    r"""Coefficients of a step of :func:`reverse_sde`, with :math:`h = s - t` below 0.

    .. math::
        c_x = 1 + h f + \frac{h(1 + \lambda^2) g^2}{2\sigma_t^2}, \qquad
        c_{x_0} = -\frac{h(1 + \lambda^2) g^2\alpha_t}{2\sigma_t^2}, \qquad
        \mathrm{std} = \lambda g\sqrt{|h|}

    Raises:
        ValueError: a step towards the noise with lambda above 0.
    """
    h = (s.time - t.time).item()
    if lam and h > 0:
        raise ValueError(f"a step towards the noise must have lam 0, got {lam}")
    f = t.alpha_dot / t.alpha
    g_sq = 2 * t.sigma * (t.sigma_dot - f * t.sigma)
    pull = 0.5 * h * (1 + lam**2) * g_sq / t.sigma**2
    return Row(1 + h * f + pull, -pull * t.alpha, lam * math.sqrt(g_sq * abs(h)))


def langevin_corrector(snr: float = 0.16, noise: Noise = torch.randn_like) -> Correct:
    r"""A step of Langevin dynamics at one noise level, :eq:`eq-score-sde-corrector`.

    .. math::
        x \leftarrow x + \epsilon\,s + \sqrt{2\epsilon}\,z, \qquad
        \epsilon = 2\Bigl(\frac{r\sqrt d}{\overline{\lVert s\rVert}}\Bigr)^2

    with d entries a sample and the norm of the score averaged over the batch: rows are then not
    independent, but a step that depends on its own x would have another stationary law. Song et al.
    (2021), algorithms 4 and 5 and appendix G; their VP variant multiplies the step by one more
    factor :math:`1 - \beta_t`, close to 1. Where it settles: :func:`corrector_variance`.

    Raises:
        ValueError: an snr r that is not positive.
    """
    if not snr > 0:
        raise ValueError(f"snr must be positive, got {snr}")

    def correct(denoise: Denoise, x: Tensor, level: Level) -> Tensor:
        score = (level.alpha * denoise(x, level.time) - x) / level.sigma**2
        rows = score.flatten(1)
        step = 2 * snr**2 * rows.shape[1] / rows.norm(dim=1).mean() ** 2
        return x + step * score + (2 * step).sqrt() * noise(x)

    return correct


def corrector_variance(variance: float, dim: int, snr: float = 0.16) -> float:
    r"""Where :func:`langevin_corrector` settles for N(0, v) in d dimensions.

    .. math::
        v\,(1 + \kappa_d r^2), \qquad \kappa_d = \frac{d}{(\mathbb E\lVert z\rVert)^2}
        = \frac{d}{2}\,\frac{\Gamma(d/2)^2}{\Gamma((d + 1)/2)^2}

    This is :eq:`eq-score-sde-settles`, for a large batch: :eq:`eq-score-matching-bias` with a step
    that follows the score. :math:`\kappa_1 = \pi/2`, and 1 in high dimension.

    Raises:
        ValueError: a dimension below 1.
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    kappa = 0.5 * dim * math.exp(2 * (math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)))
    return variance * (1 + kappa * snr**2)


def stay(levels: Sequence[Level]) -> list[Step]:
    """The predictor that leaves x where it is, without a call.

    ``predictor_corrector(stay, correct, k)`` is annealed Langevin dynamics under the one loop. It
    belongs to paths with alpha = 1, where the next level differs by its noise alone.
    """
    return [lambda denoise, x, memory: (x, memory) for _ in levels[1:]]


def predictor_corrector(predictor: Solver, correct: Correct, corrections: int = 1) -> Solver:
    r"""After each step of `predictor`, so many corrections at the level it has reached.

    Song et al. (2021), algorithm 1. A step then costs that many calls more, but for a step to a
    noiseless level, which is not corrected. Give predictor and corrector noise that is independent,
    by default or from one generator: two generators of one seed would draw the same noise twice.

    Raises:
        ValueError: fewer than one correction.
    """
    if corrections < 1:
        raise ValueError(f"corrections must be at least 1, got {corrections}")

    def solver(levels: Sequence[Level]) -> list[Step]:
        steps = zip(predictor(levels), levels[1:], strict=True)
        return [partial(_corrected, step, correct, corrections, s) for step, s in steps]

    return solver


def _corrected(
    step: Step, correct: Correct, corrections: int, s: Level, denoise: Denoise, x: Tensor, m: Memory
) -> tuple[Tensor, Memory]:
    x, m = step(denoise, x, m)
    for _ in range(corrections if s.sigma else 0):
        x = correct(denoise, x, s)
    return x, m
