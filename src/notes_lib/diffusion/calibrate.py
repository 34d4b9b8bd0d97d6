r"""A grid and weights fitted to one's own model, from a few hundred of its own trajectories.

A one-call multistep solver in few steps is a short list of numbers: where it looks, and how it adds
up what it saw. :func:`~.plan.closed_form` fills them in by theory, for every smooth slope at once.
Here they are moved, from there, to where the solver ends closest to the model's own fine solution.
Wang et al. (2025), arXiv 2505.21114, also search for a grid and weights by gradient descent.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.oracle import Denoise
from .exponential import adams_weights, angle_form, asinh_ratio, path_time
from .path import GaussianPath
from .plan import Plan, closed_form, tuned
from .sample import sample


class Flow(NamedTuple):
    """A denoiser on its path, starts at a grid's first level, and where the exact flow ends."""

    denoise: Denoise
    path: GaussianPath
    start: Float[Tensor, " b *d"]
    end: Float[Tensor, " b *d"]


def calibrate(
    denoise: Denoise,
    path: GaussianPath,
    nfe: int,
    x: Float[Tensor, " b *d"],
    data_std: float = 1.0,
    iterations: int = 100,
) -> Plan:
    """The grid and the solver of `nfe` calls that are best on this model's own trajectories.

    The reference is the same model in 300 corrected steps. The fit differentiates through the
    sampler, so `denoise` must be differentiable in x and t; its parameters are not changed.

    Args:
        denoise: (x_t, t) -> E[x0 | x_t].
        path: the path of `denoise`.
        nfe: calls of the denoiser, one a step.
        x: a few hundred starts, ``path.sigma(t) * randn`` at ``t = closed_form(path, nfe)[0][0]``.
        data_std: standard deviation of the data, over all coordinates.
        iterations: of L-BFGS.

    Raises:
        ValueError: fewer than two calls, or a result that is not finite.
    """
    fine, solver = closed_form(path, 300, data_std)
    flow = Flow(denoise, path, x, sample(denoise, path, x, fine, solver))
    ratios, weights = fit([flow], nfe, data_std, iterations)
    return tuned(path, ratios, weights, data_std)


class Parameters(NamedTuple):
    """What is fitted, zero for the closed form: a change of the steps and of the weights."""

    steps: Float[Tensor, " n"]
    weights: Float[Tensor, "n k"]


def fit(
    flows: Sequence[Flow],
    nfe: int,
    data_std: float = 1.0,
    iterations: int = 100,
    ridge: float = 0.0,
    slopes: int = 4,
) -> tuple[list[float], list[list[float]]]:
    r"""Ratios and weights that minimise the mean over the flows of the log of their error.

    .. math:: \log\,\mathbb E\,\lVert x - x_{\mathrm{exact}}\rVert/\sqrt d
        + \mathrm{ridge}\,\lVert W - W_{\mathrm{closed\ form}}\rVert^2

    All flows start at the same ratio. The steps are exponentials that sum to the whole, so that
    the grid falls whatever the parameters.
    """
    if nfe < 2:
        raise ValueError(f"nfe must be at least 2, got {nfe}")
    model = _Model(flows[0].path, nfe, data_std, slopes)
    parameters = Parameters(torch.zeros(nfe).double(), torch.zeros(nfe, slopes + 1).double())
    best = (math.inf, parameters)
    for p in parameters:
        p.requires_grad_()
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=iterations, history_size=30, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        nonlocal best
        errors = torch.stack([model.error(parameters, flow) for flow in flows])
        loss = errors.log().mean() + ridge * (parameters.weights**2).sum()
        if loss < best[0]:
            best = (loss.item(), Parameters(*(p.detach().clone() for p in parameters)))
        gradients = torch.autograd.grad(loss, parameters)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        return loss

    optimizer.step(closure)
    ratios, weights = model.table(best[1])
    return ratios.tolist(), weights.tolist()


class _Model:
    """The sampler as a differentiable function of its parameters, in the angle form's variables."""

    def __init__(self, path: GaussianPath, nfe: int, data_std: float, slopes: int) -> None:
        self.form, self.coordinate = angle_form(data_std), asinh_ratio(0.25 * data_std)
        ts, _ = closed_form(path, nfe, data_std)
        self.u = self.coordinate.of_ratio(path.sigma(ts) / path.alpha(ts))
        self.nfe, self.slopes = nfe, slopes

    def table(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Ratios (n + 1) and weights (n, 1 + slopes) of w and the slopes g S."""
        steps = -self.u.diff() * parameters.steps.exp()
        steps = steps * ((self.u[0] - self.u[-1]) / steps.sum())
        u = torch.cat([self.u[:1], self.u[0] - steps.cumsum(0)])
        u = torch.cat([u[:-1], self.u[-1:]])
        index = torch.arange(self.nfe)[:, None] - torch.arange(self.slopes)
        present = index >= 0
        index = index.clamp(min=0)
        exact = adams_weights(self.form, self.coordinate, u[index], present, u[:-1], u[1:])
        weights = torch.cat([torch.ones_like(exact[:, :1]), exact], 1)
        kept = torch.cat([present[:, :1], present], 1)
        return self.coordinate.ratio(u), weights + parameters.weights * kept

    def error(self, parameters: Parameters, flow: Flow) -> Tensor:
        """Mean distance to the exact end, a coordinate."""
        ratios, weights = self.table(parameters)
        times = self._times(flow.path, ratios)
        alpha, sigma = flow.path.alpha(times), flow.path.sigma(times)
        scale, gain, blend = (f(alpha, sigma).to(flow.start) for f in self.form[:3])
        w, slopes = flow.start * scale[0], []
        for i, row in enumerate(weights.to(flow.start)):
            x = w / scale[i]
            slope = gain[i] * (flow.denoise(x, times[i]) + blend[i] * x)
            slopes = [slope, *slopes[: self.slopes - 1]]
            w = row[0] * w + sum(c * s for c, s in zip(row[1:], slopes, strict=False))
        gap = (w / scale[-1] - flow.end).flatten(1)
        return (gap.norm(dim=1) / gap.shape[1] ** 0.5).mean().double()

    def _times(self, path: GaussianPath, ratios: Tensor) -> Tensor:
        """The path's times at these ratios, with their derivative."""
        times = path.time_of_log_snr(-2 * ratios.detach().log())
        inner = times[1:-1]
        moved = inner + (ratios[1:-1] - ratios[1:-1].detach()) / path_time(path).rate(inner)
        return torch.cat([times[:1], moved, times[-1:]])
