r"""A reverse variance that is learnt: between :math:`\tilde\beta` and :math:`\beta`, where the
data say."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.gaussian import normal_kl, normal_log_prob
from ..core.oracle import Denoise
from ..core.tensor import Noise, check_finite, expand_to
from .bridge import posterior
from .elbo import LogLikelihood, Reverse
from .path import Level
from .prediction import Target, decode, encode
from .schedule import VPTabulated
from .solver import Memory, Solver, forward_variance, posterior_variance, stepwise


def between(v: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    r"""The variance :math:`\exp(v\log\beta + (1 - v)\log\tilde\beta)`:
    :eq:`eq-improved-ddpm-range`, geometric interpolation from `low` at v = 0 to `high` at v = 1.

    Nichol & Dhariwal (2021), eq. 15. v may leave [0, 1].

    Raises:
        ValueError: an end that is not positive.
    """
    low, high = (torch.as_tensor(a, dtype=v.dtype, device=v.device) for a in (low, high))
    if not ((low > 0) & (high > 0)).all():
        raise ValueError(f"low and high must be positive, got {low.min():g} and {high.min():g}")
    return torch.exp(torch.lerp(low.log().expand_as(v), high.log().expand_as(v), v))


def variance_range(levels: Sequence[Level]) -> list[tuple[float, float]]:
    r""":math:`(\tilde\beta, \beta)` of every step. In a step to a noiseless level
    :math:`\tilde\beta` is 0 and has no logarithm: that of the step before stands in for it, as in
    Nichol & Dhariwal's code."""
    pairs = [(posterior_variance(t, s), forward_variance(t, s)) for t, s in pairwise(levels)]
    lows = [low for low, _ in pairs]
    return [
        (low or before, high) for (low, high), before in zip(pairs, [0.0, *lows[:-1]], strict=True)
    ]


def optimal_variance(t: Level, s: Level, error: float | Tensor) -> float | Tensor:
    r"""The isotropic reverse variance with the smallest KL: :eq:`eq-improved-ddpm-optimal`.

    .. math::
        \tilde\beta + c_{x_0}^2\, \frac{\mathbb E\lVert x_0 - \hat x_0\rVert^2}d

    `error` is the mean squared error of x0_hat, over the entries or one by one. For the exact
    denoiser that is :math:`\mathbb E \operatorname{tr} \operatorname{Cov}(x_0\mid x_t)/d`, and
    this is theorem 1 of Bao et al. (2022) on DDPM's posterior.
    """
    row = posterior(s, t)
    return row.std**2 + row.x0**2 * error


class TwoHeads(nn.Module):
    r"""A denoiser with a second output: v of :func:`between`, for the reverse variance.

    The network is handed :math:`x_t` and as many zeros along axis 1, and returns a tensor of that
    shape: the prediction of `target`, then the raw second head o, read as
    :math:`v = (1 + o)/2`. A network that starts at zero starts halfway, at v = 1/2.

    Args:
        net: called as ``net(x, t)`` with x of twice the entries of x_t; like it in shape.
        path: the chain, whose steps alone are trained.
        target: what the first half of the output means.
    """

    def __init__(self, net: Callable[..., Tensor], path: VPTabulated, target: Target) -> None:
        super().__init__()
        self.net, self.path, self.target = net, path, target
        levels = path.at(*range(len(path.betas), -1, -1))
        rows = [posterior(s, t)[:2] for t, s in pairwise(levels)]
        table = [(*row, *ends) for row, ends in zip(rows, variance_range(levels), strict=True)]
        self.register_buffer("table", torch.tensor(table[::-1]), persistent=False)  # (T 4)

    def heads(self, x_t: Float[Tensor, "b c *d"], t: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction of the target, and v; both shaped like x_t."""
        padded = torch.cat([x_t, torch.zeros_like(x_t)], 1)
        y, o = self.net(padded, t.to(x_t).reshape(-1)).chunk(2, 1)
        return y, 0.5 * (1 + o)

    def forward(self, x_t: Float[Tensor, "b c *d"], t: Tensor) -> Tensor:
        y, _ = self.heads(x_t, t)
        return decode(self.target, self.path, x_t, y, t.to(x_t).reshape(-1))

    def v(self, x_t: Float[Tensor, "b c *d"], t: Tensor) -> Tensor:
        """The second head alone: what :func:`learned_ancestral` takes."""
        return self.heads(x_t, t)[1]


def hybrid_terms(
    model: TwoHeads,
    x0: Float[Tensor, "b c *d"],
    k: Int[Tensor, " b"],
    log_likelihood: LogLikelihood = normal_log_prob,
    eps: Tensor | None = None,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    r"""What :func:`hybrid_loss` adds up, for each row of x0 at its own step k of the chain.

    Returns:
        The squared error of the first head, and the term :math:`L_{k-1}` of the bound in nats
        with the mean held fixed, so that its gradient reaches the second head alone. Both are
        means over the entries.

    Raises:
        ValueError: data that are not finite, or a step outside 1..T.
    """
    check_finite("x0", x0)
    steps = len(model.path.betas)
    if not ((k >= 1) & (k <= steps)).all():
        raise ValueError(f"k must lie in 1..{steps}, got {k.min()} to {k.max()}")
    eps = torch.randn_like(x0) if eps is None else eps
    t = k.to(x0) / steps
    x_t = model.path.perturb(x0, eps, t)
    y, v = model.heads(x_t, t)
    simple = y - encode(model.target, model.path, x0, eps, t)
    x0_hat = decode(model.target, model.path, x_t, y.detach(), t)
    c_x, c_x0, low, high = (expand_to(a, x0) for a in model.table[k - 1].to(x0).unbind(1))
    mean, variance = c_x * x_t + c_x0 * x0_hat, between(v, low, high)
    kl = normal_kl(c_x * x_t + c_x0 * x0, low, mean, variance)
    nll = -log_likelihood(x0, mean, variance)
    bound = torch.where(expand_to(k == 1, x0), nll, kl)
    return simple.square().flatten(1).mean(1), bound.flatten(1).mean(1)


def hybrid_loss(
    model: TwoHeads,
    x0: Float[Tensor, "b c *d"],
    k: Int[Tensor, " b"],
    log_likelihood: LogLikelihood = normal_log_prob,
    weight: float = 1e-3,
) -> Float[Tensor, ""]:
    r""":math:`L_{\mathrm{simple}} + \lambda L_{\mathrm{vlb}}` with k drawn evenly from 1..T:
    :eq:`eq-improved-ddpm-hybrid`.

    :math:`L_{\mathrm{vlb}}` is the *sum* over the chain, so that the term of one random step
    counts T times. Nichol & Dhariwal (2021), eq. 16.
    """
    simple, bound = hybrid_terms(model, x0, k, log_likelihood)
    return (simple + weight * len(model.path.betas) * bound).mean()


def learned_variance(denoise: Denoise, v: Denoise) -> Reverse:
    r"""The reverse step with variance :func:`between` at v(x_t, t), for :func:`.bound_terms`."""

    def step(t: Level, s: Level, ends: tuple[float, float], x_t: Tensor):
        row = posterior(s, t)
        mean = row.x * x_t + row.x0 * denoise(x_t, t.time)
        return mean, between(v(x_t, t.time), *ends)

    return lambda levels: [
        partial(step, t, s, ends)
        for (t, s), ends in zip(pairwise(levels), variance_range(levels), strict=True)
    ]


def learned_ancestral(v: Denoise, noise: Noise = torch.randn_like) -> Solver:
    r"""DDPM's sampler :eq:`eq-ddpm-sampler` with the variance :eq:`eq-improved-ddpm-range` at
    v(x_t, t), on any grid: over a stride :math:`\beta` and :math:`\tilde\beta` are those of the
    merged step. A step to a noiseless level adds no noise.

    v is asked apart from the denoiser, which may then be guided or clipped.
    """

    def step(denoise: Denoise, x: Tensor, t: Level, s: Level, memory: Memory):
        row = posterior(s, t)
        x_s = row.x * x + row.x0 * denoise(x, t.time)
        if not s.sigma:
            return x_s, memory
        variance = between(v(x, t.time), posterior_variance(t, s), forward_variance(t, s))
        return x_s + variance.sqrt() * noise(x), memory

    return stepwise(step)
