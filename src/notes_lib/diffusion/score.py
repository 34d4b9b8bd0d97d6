r"""Score matching: how to learn :math:`s(x) = \nabla\log p(x)` from draws of p alone.

Every loss gives one number a sample; its mean over draws of p is the loss, its weighted mean over
a grid is the loss by quadrature. The sums run over all entries of a sample, as in the papers
(:meth:`.Denoiser.errors` takes the mean over entries instead).

With one network for many noise levels and the weight :math:`\lambda = \sigma^2`, denoising score
matching :eq:`eq-score-matching-ncsn` is the loss of a :class:`.Denoiser` with the eps target, and
needs no code of its own: the network's output is :math:`-\sigma s`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.divergence import exact_divergence, hutchinson_divergence
from ..core.oracle import Denoise
from ..core.tensor import check_finite, check_same, expand_to
from .path import GaussianPath

Score = Callable[[Tensor], Tensor]  # x -> grad log p(x)
NoisyScore = Callable[[Tensor, Tensor], Tensor]  # (x, t) -> grad log p_t(x)


def score_of(log_density: Callable[[Tensor], Tensor]) -> Score:
    r"""The score of a log density (b, ...) -> (b,), by autograd: :eq:`eq-score-matching-score`.

    .. math:: s(x) = \nabla_x \log p(x) = -\nabla_x f(x), \qquad p(x) = e^{-f(x)}/Z

    A constant in the log density does not matter: minus an energy f will do. Hyvarinen (2005),
    eq. 2. Gradients flow through the score to x and to the parameters of the density.
    """
    return torch.func.grad(lambda x: log_density(x).sum())


def score_model(denoise: Denoise, path: GaussianPath) -> NoisyScore:
    r"""The score of the noised data, read out of a denoiser: :eq:`eq-score-matching-tweedie`.

    .. math:: \nabla\log p_t(x) = \frac{\alpha_t\,\mathbb E[x_0\mid x_t = x] - x}{\sigma_t^2}

    Robbins (1956), Vincent (2011). Needs :math:`\sigma_t > 0`.
    """
    return lambda x, t: path.score(x, denoise(x, t), t)


def fisher(score: Score, true_score: Score, x: Float[Tensor, " b *d"]) -> Float[Tensor, " b"]:
    r"""The integrand of the Fisher divergence, :eq:`eq-score-matching-fisher`.

    .. math:: \lVert s(x) - \nabla\log p(x)\rVert^2

    For checks: it needs the true score. Hyvarinen (2005), eq. 3, has half of it.
    """
    return (score(x) - true_score(x)).square().flatten(1).sum(1)


def ism(score: Score, x: Float[Tensor, " b *d"]) -> Float[Tensor, " b"]:
    r"""Implicit score matching, :eq:`eq-score-matching-ism`.

    .. math:: \nabla\cdot s(x) + \tfrac12\lVert s(x)\rVert^2

    Hyvarinen (2005), theorem 1. Half the Fisher divergence up to a constant, if p is smooth and
    :math:`p\,s` vanishes at the edge of its support. Costs d backward passes.

    Raises:
        ValueError: what :func:`.exact_divergence` raises.
    """
    return exact_divergence(score, x) + 0.5 * score(x).square().flatten(1).sum(1)


def ssm(score: Score, x: Float[Tensor, " b *d"], v: Float[Tensor, " b *d"]) -> Float[Tensor, " b"]:
    r"""Sliced score matching, :eq:`eq-score-matching-sliced`.

    .. math:: v^\top\,\partial s(x)\,v + \tfrac12 (v^\top s(x))^2, \qquad \mathbb E\,vv^\top = I

    Song et al. (2019), eq. 8 with one probe a sample. Unbiased for :func:`ism`.

    Raises:
        ValueError: what :func:`.hutchinson_divergence` raises.
    """
    slope = hutchinson_divergence(score, x, v)
    return slope + 0.5 * (v * score(x)).flatten(1).sum(1).square()


def dsm(
    score: Score,
    x0: Float[Tensor, " b *d"],
    sigma: float | Float[Tensor, " b"],
    eps: Float[Tensor, " b *d"],
) -> Float[Tensor, " b"]:
    r"""Denoising score matching at the noise level sigma, :eq:`eq-score-matching-dsm`.

    .. math::
        \Bigl\lVert s(\tilde x) + \frac{\varepsilon}{\sigma}\Bigr\rVert^2, \qquad
        \tilde x = x_0 + \sigma\varepsilon

    Vincent (2011), eq. 11 and 12 (half of it). The Fisher divergence of the noised data, plus the
    constant of :eq:`eq-score-matching-floor`.

    Raises:
        ValueError: data that are not finite, `eps` unlike `x0`, or a sigma that is not positive.
    """
    check_finite("x0", x0)
    check_same("eps", eps, "x0", x0)
    sigma = expand_to(torch.as_tensor(sigma, dtype=x0.dtype, device=x0.device), x0)
    if not (sigma > 0).all():
        raise ValueError(f"sigma must be positive, got {sigma.min().item()}")
    return (score(x0 + sigma * eps) + eps / sigma).square().flatten(1).sum(1)
