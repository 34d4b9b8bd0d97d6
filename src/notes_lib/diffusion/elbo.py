r"""The variational bound that DDPM trains: :math:`-\log p(x_0) \le L_T + \sum L_{t-1} + L_0`."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.gaussian import normal_kl, normal_log_prob
from ..core.oracle import Denoise
from ..core.tensor import Noise, check_finite
from .bridge import posterior, transition
from .path import GaussianPath, Level
from .solver import forward_variance, posterior_variance

LogLikelihood = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x0, mean, variance) -> nats
Reverse = Callable[[Sequence[Level]], Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]]]
# levels -> for each step x_t -> (mean, variance) of p(x_s | x_t)


def kl_weight(t: Level, s: Level, variance: float) -> float:
    r"""The weight of :math:`\lVert\varepsilon - \hat\varepsilon\rVert^2` in one term of the bound,
    :eq:`eq-ddpm-kl-weight`.

    .. math:: \frac{\beta_{ts}^2}{2\,\mathrm{variance}\;\alpha_{ts}^2\,\sigma_t^2}

    Ho et al. (2020), eq. 12, where :math:`\alpha_t` stands for our :math:`\alpha_{ts}^2`.
    """
    scale, beta = transition(s, t)
    return beta**2 / (2 * variance * scale**2 * t.sigma**2)


def fixed_variance(
    denoise: Denoise, variance: Callable[[Level, Level], float] = posterior_variance
) -> Reverse:
    r"""The reverse step whose variance depends on the two times alone: the posterior's mean at
    x0_hat, and ``variance(t, s)``; a step to a noiseless level has the forward step's variance."""

    def step(t: Level, s: Level, x_t: Tensor) -> tuple[Tensor, Tensor]:
        row = posterior(s, t)
        chosen = variance(t, s) if s.sigma else forward_variance(t, s)
        return row.x * x_t + row.x0 * denoise(x_t, t.time), x_t.new_tensor(chosen)

    return lambda levels: [partial(step, t, s) for t, s in pairwise(levels)]


def bound_terms(
    reverse: Reverse,
    path: GaussianPath,
    x0: Float[Tensor, " b *d"],
    ts: Float[Tensor, " n"],
    log_likelihood: LogLikelihood = normal_log_prob,
    noise: Noise = torch.randn_like,
) -> Float[Tensor, "n b"]:
    r"""One-sample estimates of every term of :eq:`eq-ddpm-vlb`, in nats, for each row of x0.

    Row 0 is :math:`L_T`, the KL from :math:`q(x_T\mid x_0)` to :math:`\mathcal N(0, \sigma_T^2)`;
    then come the :math:`L_{t-1}`, noisiest first; the last row is
    :math:`L_0 = -\log p(x_0\mid x_1)`. Their sum bounds :math:`-\log p(x_0)` from above in
    expectation. Ho et al. (2020), eq. 5.

    Args:
        reverse: levels -> for each step x_t -> (mean, variance) of :math:`p(x_s\mid x_t)`.
        path: the path; its last time must be noiseless.
        x0: data.
        ts: times from the noise to t_min, strictly falling, at least three.
        log_likelihood: (x0, mean, variance) -> log p(x0 | x_1), entry by entry:
            :func:`.normal_log_prob` for densities, :func:`.bin_log_prob` for grey levels.
        noise: x -> standard normal noise shaped like x.

    Raises:
        ValueError: data that are not finite, or a grid that does not fall to a noiseless level.
    """
    check_finite("x0", x0)
    levels = path.levels(ts)
    if len(levels) < 3 or not (ts.diff() < 0).all() or levels[-1].sigma != 0:
        raise ValueError(f"ts must fall to a noiseless level in 2 or more steps, got {ts.tolist()}")
    first = levels[0]
    prior_variance = x0.new_tensor(first.sigma**2)
    terms = [normal_kl(first.alpha * x0, prior_variance, 0 * x0, prior_variance)]
    for (t, s), step in zip(pairwise(levels), reverse(levels), strict=True):
        x_t = t.alpha * x0 + t.sigma * noise(x0)
        mean, variance = step(x_t)
        row = posterior(s, t)
        truth = row.x * x_t + row.x0 * x0, x0.new_tensor(row.std**2)
        kl = normal_kl(*truth, mean, variance) if s.sigma else -log_likelihood(x0, mean, variance)
        terms.append(kl)
    return torch.stack([term.flatten(1).sum(1) for term in terms])


def vlb_terms(
    denoise: Denoise,
    path: GaussianPath,
    x0: Float[Tensor, " b *d"],
    ts: Float[Tensor, " n"],
    variance: Callable[[Level, Level], float] = posterior_variance,
    noise: Noise = torch.randn_like,
) -> Float[Tensor, "n b"]:
    r"""The terms of DDPM's bound :eq:`eq-ddpm-vlb`: :func:`bound_terms` of a density, with
    :func:`fixed_variance`.

    Args:
        denoise: (x_t, t) -> E[x0 | x_t].
        path: the path; its last time must be noiseless.
        x0: data.
        ts: times from the noise to t_min, strictly falling, at least three.
        variance: (t, s) -> the reverse variance, :func:`.posterior_variance` or
            :func:`.forward_variance`.
        noise: x -> standard normal noise shaped like x.

    Raises:
        ValueError: data that are not finite, or a grid that does not fall to a noiseless level.
    """
    return bound_terms(fixed_variance(denoise, variance), path, x0, ts, noise=noise)


def bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    r"""Nats a sample to bits a dimension, :eq:`eq-improved-ddpm-bits`: over :math:`d \log 2`."""
    if dimensions < 1:
        raise ValueError(f"dimensions must be at least 1, got {dimensions}")
    return nats / (dimensions * math.log(2))
