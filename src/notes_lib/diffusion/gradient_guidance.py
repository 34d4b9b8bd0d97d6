r"""Guidance by a gradient: a denoiser is steered by any log p(y | x_t) that can be differentiated.

A guided denoiser is a denoiser, ``(x_t, t) -> x0_hat``, and so composes with every path and solver.
The score of x_t is :math:`(\alpha\hat x_0 - x_t)/\sigma^2`; adding g to the score adds
:math:`(\sigma^2/\alpha)\,g` to x0_hat.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.oracle import Denoise
from ..core.tensor import Noise, expand_to
from .bridge import posterior
from .path import GaussianPath, Level
from .solver import Memory, Solver, posterior_variance, stepwise

LogProb = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> log p(y | x_t), one number a row
Gradient = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> grad log p(y | x_t), shaped like x_t


def gradient(log_prob: LogProb) -> Gradient:
    r""":math:`\nabla_{x_t} \log p(y\mid x_t)` by automatic differentiation, also under no_grad.

    Rows must not depend on each other (no batch statistics).

    Raises:
        ValueError: a `log_prob` that does not return one number a row.
    """

    def of(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            values = log_prob(x, t)
            if values.shape != x.shape[:1]:
                raise ValueError(
                    f"log_prob needs shape {tuple(x.shape[:1])}, got {tuple(values.shape)}"
                )
            return torch.autograd.grad(values.sum(), x)[0]

    return of


def shift_score(
    denoise: Denoise, gradient: Gradient, path: GaussianPath, scale: float = 1.0
) -> Denoise:
    r"""Add `scale` times a gradient to the score: :eq:`eq-classifier-guidance-x0`.

    .. math::
        \hat x_0 + \gamma\,\frac{\sigma^2}{\alpha}\,g, \qquad\text{that is}\qquad
        \hat\varepsilon - \gamma\,\sigma\,g

    Dhariwal & Nichol (2021), algorithm 2, on any path.

    Raises:
        ValueError: a scale that is not finite, or a time at which alpha is 0 (pure noise says
            nothing about the data: start the grid below it).
    """
    check_scale(scale)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        alpha = path.alpha(t)
        if not (alpha > 0).all():
            raise ValueError(f"guidance by a gradient needs alpha > 0, got 0 at t = {t.tolist()}")
        factor = (scale * path.sigma(t) ** 2 / alpha).to(x)
        return denoise(x, t) + expand_to(factor, x) * gradient(x, t)

    return guided


def classifier(
    denoise: Denoise, log_prob: LogProb, path: GaussianPath, scale: float = 1.0
) -> Denoise:
    r"""Classifier guidance: the score of :eq:`eq-classifier-guidance-tilt`, by autograd.

    With the exact classifier and scale 1 it is the conditional denoiser, by Bayes' rule:
    :eq:`eq-classifier-guidance-bayes`. The classifier must know noised data:
    :func:`classifier_loss`. Raises what :func:`gradient` and :func:`shift_score` raise.
    """
    return shift_score(denoise, gradient(log_prob), path, scale)


def ancestral_shifted(
    gradient: Gradient,
    scale: float = 1.0,
    variance: Callable[[Level, Level], float] = posterior_variance,
    noise: Noise = torch.randn_like,
) -> Solver:
    r"""DDPM's sampler with the mean moved by the gradient: :eq:`eq-classifier-guidance-mean`.

    .. math:: x_s \sim \mathcal N(\mu + \gamma\,\mathrm{var}\,g(x_t, t),\ \mathrm{var})

    Dhariwal & Nichol (2021), algorithm 1, with the gradient at x_t as in their code. A first-order
    expansion: right for many small steps. The denoiser stays as it is.
    """
    check_scale(scale)

    def step(denoise: Denoise, x: Tensor, t: Level, s: Level, memory: Memory):
        row, var = posterior(s, t), variance(t, s)
        mean = row.x * x + row.x0 * denoise(x, t.time) + scale * var * gradient(x, t.time)
        return (mean + math.sqrt(var) * noise(x) if var else mean), memory

    return stepwise(step)


def classifier_loss(
    logits: Callable[[Tensor, Tensor], Tensor],
    path: GaussianPath,
    x0: Float[Tensor, " b *d"],
    label: Tensor,
    t: Float[Tensor, " b"],
    eps: Float[Tensor, " b *d"] | None = None,
) -> Float[Tensor, ""]:
    r"""Cross-entropy of a classifier on noised data: :eq:`eq-classifier-guidance-loss`.

    .. math:: -\mathbb E \log p_\phi(y\mid \alpha_t x_0 + \sigma_t\varepsilon,\; t)

    Its minimiser is the exact :math:`p_t(y\mid x_t)`. `logits` maps (x_t, t) to (b, classes).
    """
    eps = torch.randn_like(x0) if eps is None else eps
    return torch.nn.functional.cross_entropy(logits(path.perturb(x0, eps, t), t), label)


def check_scale(scale: float) -> None:
    """Raise ValueError unless a guidance scale is finite."""
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
