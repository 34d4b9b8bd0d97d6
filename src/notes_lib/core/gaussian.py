"""Diagonal Gaussians: the density and the divergence, entry by entry."""

import math

from torch import Tensor


def normal_log_prob(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    r"""Log density of :math:`\mathcal N(\mu, \sigma^2)` at `x`, in nats an entry.

    .. math:: -\tfrac12 \log 2\pi\sigma^2 - \frac{(x - \mu)^2}{2\sigma^2}

    The arguments broadcast; `variance` must be positive.
    """
    return -0.5 * ((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi))


def normal_kl(mean_q: Tensor, variance_q: Tensor, mean_p: Tensor, variance_p: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of two Gaussians, in nats an entry: :eq:`eq-improved-ddpm-kl`.

    .. math::
        D_{KL}(q \,\|\, p) = \tfrac12\Bigl(\frac{\sigma_q^2 + (\mu_q - \mu_p)^2}{\sigma_p^2}
        - 1 - \log\frac{\sigma_q^2}{\sigma_p^2}\Bigr)

    The arguments broadcast; both variances must be positive.
    """
    ratio = variance_q / variance_p
    return 0.5 * (ratio + (mean_q - mean_p) ** 2 / variance_p - 1 - ratio.log())
