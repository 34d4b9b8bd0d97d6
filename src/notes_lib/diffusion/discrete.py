r"""Likelihoods of data that live on a grid of values: a pixel's grey level is an interval."""

import torch
from jaxtyping import Float
from torch import Tensor


def bin_log_prob(
    x: Float[Tensor, "..."],
    mean: Float[Tensor, "..."],
    variance: Float[Tensor, "..."],
    half_width: float,
    low: float = -1.0,
    high: float = 1.0,
) -> Float[Tensor, "..."]:
    r"""Log mass that :math:`\mathcal N(\mu, \sigma^2)` gives to the bin around `x`:
    :eq:`eq-improved-ddpm-bins`.

    .. math::
        \log\int_{x-h}^{x+h} \mathcal N(y; \mu, \sigma^2)\,dy

    in nats an entry, with the bin of the lowest value open to the left and that of the highest to
    the right, so that the masses of all values sum to 1. Ho et al. (2020), eq. 13. The shapes
    broadcast; values far from the mean keep full relative precision, with finite gradients.

    Args:
        x: data on the grid low, low + 2 half_width, ..., high.
        mean: of the Gaussian.
        variance: of the Gaussian, positive.
        half_width: half the distance of two values: 1/16 for 17 levels in [-1, 1].
        low: the lowest value.
        high: the highest value.

    Raises:
        ValueError: half_width or high - low not positive, or data beyond the end values.
    """
    if not half_width > 0 or not low < high:
        raise ValueError(f"need half_width > 0 and low < high, got {half_width, low, high}")
    if not ((x > low - half_width) & (x < high + half_width)).all():
        raise ValueError(f"x must lie in [{low}, {high}], got {x.min():g} to {x.max():g}")
    std = variance.sqrt()
    below, above = (x - half_width - mean) / std, (x + half_width - mean) / std
    inside = _log_mass(below, above)
    inside = torch.where(x > high - half_width, torch.special.log_ndtr(-below), inside)
    return torch.where(x < low + half_width, torch.special.log_ndtr(above), inside)


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """log(Phi(b) - Phi(a)) for a < b, taken in the left tail, where nothing cancels."""
    flip = a + b > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return log_b + torch.log(-torch.expm1(log_a - log_b))
