r"""Exact posteriors: the no-training twin of every denoising network.

A network that denoises perfectly returns :math:`\mathbb E[x_0 \mid x_t]` for
:math:`x_t = \alpha x_0 + \sigma\varepsilon`. For a Gaussian mixture, and for a finite set of
points, that expectation has a closed form. A sampler is tried here first: what it gets wrong with
an oracle is the sampler's fault, not the network's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from .tensor import check_finite, expand_to

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> E[x0 | x_t]


@runtime_checkable
class NoisePath(Protocol):
    """Anything with alpha(t) and sigma(t), as :class:`notes_lib.diffusion.path.GaussianPath`."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    r"""The density :math:`p(x_0) = \sum_k w_k\, \mathcal N(x_0; \mu_k, \mathrm{diag}(v_k))`.

    Args:
        means: component means, shape (k, d).
        variances: diagonal variances, shape (k, d) or anything that broadcasts to it; zero is
            allowed, and makes the component a point mass.
        weights: positive, shape (k,); they are normalised. Equal weights when left out.

    Raises:
        ValueError: non-finite values, a negative variance, or a weight that is not positive.
    """

    means: Float[Tensor, "k d"]
    variances: Float[Tensor, "..."]
    weights: Float[Tensor, " k"] | None = None

    def __post_init__(self) -> None:
        weights = torch.ones_like(self.means[:, 0]) if self.weights is None else self.weights
        for name, value in (("means", self.means), ("variances", self.variances)):
            check_finite(name, value)
        if (self.variances < 0).any():
            raise ValueError(f"variances must not be negative, got {self.variances.min().item()}")
        if not (weights > 0).all():
            raise ValueError(f"weights must be positive, got {weights.tolist()}")
        object.__setattr__(self, "variances", self.variances.expand_as(self.means))
        object.__setattr__(self, "weights", weights / weights.sum())

    def log_prob(
        self, x: Float[Tensor, "b d"], alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0
    ) -> Float[Tensor, " b"]:
        r"""Log density of :math:`\alpha x_0 + \sigma\varepsilon` at `x`, in nats.

        The noised mixture is a mixture with means :math:`\alpha\mu_k` and variances
        :math:`\alpha^2 v_k + \sigma^2`. `alpha` and `sigma` have shape () or (b,).
        """
        return self._log_joint(x, alpha, sigma)[0].logsumexp(-1)

    def posterior_mean(
        self, x: Float[Tensor, "b d"], alpha: float | Tensor, sigma: float | Tensor
    ) -> Float[Tensor, "b d"]:
        r"""The exact denoiser.

        .. math::
            \begin{aligned}
            \mathbb E[x_0 \mid x] &= \sum_k r_k \Bigl(\mu_k + \frac{\alpha v_k}
            {\alpha^2 v_k + \sigma^2}(x - \alpha\mu_k)\Bigr), \\
            r_k &\propto w_k\, \mathcal N(x; \alpha\mu_k, \alpha^2 v_k + \sigma^2)
            \end{aligned}
        """
        log_joint, gain, residual = self._log_joint(x, alpha, sigma)
        return einsum(log_joint.softmax(-1), self.means + gain * residual, "b k, b k d -> b d")

    def posterior_variance(
        self, x: Float[Tensor, "b d"], alpha: float | Tensor, sigma: float | Tensor
    ) -> Float[Tensor, "b d"]:
        r"""The exact :math:`\operatorname{Var}(x_0 \mid x)`, entry by entry: within + between.

        .. math::
            \sum_k r_k \Bigl(\frac{v_k\sigma^2}{\alpha^2 v_k + \sigma^2} + m_k^2\Bigr)
            - \Bigl(\sum_k r_k m_k\Bigr)^2

        with :math:`r_k` and the means :math:`m_k` of :meth:`posterior_mean`.
        """
        log_joint, gain, residual = self._log_joint(x, alpha, sigma)
        r, centres = log_joint.softmax(-1), self.means + gain * residual
        spread = (centres - einsum(r, centres, "b k, b k d -> b d")[:, None]) ** 2
        within = self.variances * (1 - gain * _columns(alpha, x))
        return einsum(r, within + spread, "b k, b k d -> b d")

    def log_posterior(
        self, x: Float[Tensor, "b d"], alpha: float | Tensor = 1.0, sigma: float | Tensor = 0.0
    ) -> Float[Tensor, "b k"]:
        r"""The exact classifier of noised data, :eq:`eq-classifier-guidance-oracle`.

        .. math::
            \log p(k\mid x) = \log \frac{w_k\, \mathcal N(x; \alpha\mu_k, \alpha^2 v_k + \sigma^2)}
            {\sum_j w_j\, \mathcal N(x; \alpha\mu_j, \alpha^2 v_j + \sigma^2)}

        in nats. A class of several components has the logsumexp of their columns.
        """
        return self._log_joint(x, alpha, sigma)[0].log_softmax(-1)

    def _log_joint(self, x, alpha, sigma):
        alpha, sigma = (_columns(a, x) for a in (alpha, sigma))  # () or (b 1 1)
        variance = alpha**2 * self.variances + sigma**2  # (b k d)
        residual = x[:, None] - alpha * self.means
        quadratic = residual**2 / variance + torch.log(2 * math.pi * variance)
        gain = alpha * self.variances / variance
        return self.weights.log() - 0.5 * quadratic.sum(-1), gain, residual

    def sample(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n d"], Tensor]:
        """Draw n points and the index of the component of each."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + self.variances[k].sqrt() * noise, k

    def denoiser(self, path: NoisePath) -> Denoise:
        """This mixture's exact denoiser under `path`: the oracle in the network's place."""
        return lambda x, t: self.posterior_mean(x, path.alpha(t), path.sigma(t))


@dataclass(frozen=True, eq=False)
class Empirical:
    r"""The distribution that puts mass 1/n on each of n points: what a training set really is.

    Its denoiser is a softmax over the points,

    .. math::
        \mathbb E[x_0 \mid x] = \sum_i \mathrm{softmax}_i\Bigl(
        -\frac{\lVert x - \alpha x^{(i)}\rVert^2}{2\sigma^2}\Bigr)\, x^{(i)},

    the best that any network can do on this training set, and a perfect memoriser. `sigma` must be
    positive.
    """

    points: Float[Tensor, " n *d"]

    def posterior_mean(
        self, x: Float[Tensor, " b *d"], alpha: float | Tensor, sigma: float | Tensor
    ) -> Float[Tensor, " b *d"]:
        alpha, sigma = (torch.as_tensor(a, dtype=x.dtype) for a in (alpha, sigma))
        scaled = x.flatten(1) / expand_to(alpha, x.flatten(1))
        distance_sq = torch.cdist(scaled, self.points.flatten(1)) ** 2
        weights = torch.softmax(-0.5 * distance_sq * expand_to((alpha / sigma) ** 2, scaled), -1)
        return (weights @ self.points.flatten(1)).reshape(x.shape)

    def denoiser(self, path: NoisePath) -> Denoise:
        """This set's exact denoiser under `path`."""
        return lambda x, t: self.posterior_mean(x, path.alpha(t), path.sigma(t))


def _columns(a: float | Tensor, x: Tensor) -> Tensor:
    return expand_to(torch.as_tensor(a, dtype=x.dtype, device=x.device), x[:, None])
