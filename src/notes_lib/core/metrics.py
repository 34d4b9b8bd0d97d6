"""Numbers that compare samples with data, each with its standard error."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .tensor import check_finite


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    se: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.se:.3f}"


def mean(values: Float[Tensor, " n"]) -> Estimate:
    r"""Sample mean with standard error :math:`s/\sqrt n`; n must be at least 2."""
    if len(values) < 2:
        raise ValueError(f"a standard error needs 2 values or more, got {len(values)}")
    return Estimate(values.mean().item(), (values.std() / len(values) ** 0.5).item())


def variance(values: Float[Tensor, " n"]) -> Estimate:
    r"""Sample variance with standard error :math:`\sqrt{(m_4 - s^4)/n}`, for any distribution."""
    centred = values - values.mean()
    second, fourth = centred.square().mean(), centred.pow(4).mean()
    return Estimate(values.var().item(), ((fourth - second**2) / len(values)).sqrt().item())


def bootstrap(
    statistic: Callable[[Tensor], float],
    x: Float[Tensor, " n *d"],
    generator: torch.Generator,
    resamples: int = 20,
) -> Estimate:
    """`statistic` of x, its standard error from resampling the rows (Efron, 1979)."""
    draws = torch.randint(len(x), (resamples, len(x)), generator=generator)
    values = torch.tensor([statistic(x[index]) for index in draws])
    return Estimate(statistic(x), values.std().item())


def frechet_distance(x: Float[Tensor, " n *d"], y: Float[Tensor, " m *d"]) -> float:
    r"""Frechet distance of the Gaussians fitted to two samples.

    .. math::
        \lVert\mu_x - \mu_y\rVert^2 + \mathrm{tr}\bigl(\Sigma_x + \Sigma_y
        - 2(\Sigma_x^{1/2}\Sigma_y\Sigma_x^{1/2})^{1/2}\bigr)

    Dowson & Landau (1982), eq. 4; on network features it is the FID. The estimate is biased
    upwards at finite n, so print the value between two samples of the data beside it.

    Raises:
        ValueError: fewer than two rows, non-finite values, or rows of different sizes.
    """
    for name, sample in (("x", x), ("y", y)):
        check_finite(name, sample)
        if len(sample) < 2:
            raise ValueError(f"{name} needs 2 rows or more, got {len(sample)}")
    x, y = x.flatten(1).double(), y.flatten(1).double()
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y need rows of one size, got {x.shape[1]} and {y.shape[1]}")
    sigma_x, sigma_y = (torch.atleast_2d(torch.cov(z.T)) for z in (x, y))
    values, vectors = torch.linalg.eigh(sigma_x)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ sigma_y @ root).clamp(min=0).sqrt().sum()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    return (gap + sigma_x.trace() + sigma_y.trace() - 2 * cross).item()


def nearest_distance(x: Float[Tensor, " n *d"], reference: Float[Tensor, " m *d"]) -> Tensor:
    """Euclidean distance of each row of x to its nearest row of `reference`, shape (n,).

    A sampler that memorises is nearer to its training set than fresh data are.
    """
    return torch.cdist(x.flatten(1), reference.flatten(1)).min(1).values
