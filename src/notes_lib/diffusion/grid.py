"""The times a sampler visits: float64 tensors that fall from noise to data."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .path import GaussianPath

Grid = Float[Tensor, " n"]


def uniform(path: GaussianPath, steps: int) -> Grid:
    """`steps` equal steps from t_max to t_min."""
    _check_steps(steps)
    return torch.linspace(path.t_max, path.t_min, steps + 1, dtype=torch.float64)


def subsequence(total: int, steps: int, power: float = 1.0) -> Grid:
    r"""`steps` of the `total` times k/T of a discrete chain, then 0: :eq:`eq-ddim-subsequence`.

    Song et al. (2021), appendix D.2: linear for `power` 1, quadratic for 2. Both ends of the chain
    are kept: the first time is 1, the last step ends at 0, on the data.

    Raises:
        ValueError: unless 1 <= steps <= total, or when two indices coincide.
    """
    _check_steps(steps)
    if steps > total:
        raise ValueError(f"steps must be at most total = {total}, got {steps}")
    i = torch.arange(steps, 0, -1, dtype=torch.float64)
    k = torch.floor(total * (i / steps) ** power + 1e-9)  # a rounding error is not a step
    if len(k.unique()) < steps or k.min() < 1:
        raise ValueError(f"{steps} of {total} steps with power {power} coincide: take fewer steps")
    return torch.cat([k, k.new_zeros(1)]) / total


def spread(total: int, steps: int) -> Grid:
    """`steps` of the times k/T of a discrete chain, evenly from k = T down to k = 1, then 0.

    What diffusers calls "linspace" spacing. Indices are rounded to the nearest integer.

    Raises:
        ValueError: unless 2 <= steps <= total.
    """
    if not 2 <= steps <= total:
        raise ValueError(f"need 2 <= steps <= total = {total}, got {steps}")
    k = torch.linspace(total - 1, 0, steps, dtype=torch.float64).round() + 1
    return torch.cat([k, k.new_zeros(1)]) / total


def log_snr(path: GaussianPath, steps: int, t_first: float, t_last: float) -> Grid:
    """`steps` equal steps of log-SNR from time `t_first` to `t_last`. Lu et al. (2022)."""
    _check_steps(steps)
    first, last = path.log_snr(torch.tensor([t_first, t_last], dtype=torch.float64)).tolist()
    if not math.isfinite(first) or not math.isfinite(last):
        raise ValueError(f"log-SNR must be finite at both ends, got {first} and {last}")
    times = path.time_of_log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64))
    times[0], times[-1] = t_first, t_last
    return times


def karras(
    path: GaussianPath, steps: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0
) -> Grid:
    r"""Times whose ratios :math:`\sigma/\alpha` follow Karras et al. (2022), eq. 5, then t_min.

    .. math:: \Bigl(\mathrm{high}^{1/\rho} + \tfrac{i}{n-1}
        (\mathrm{low}^{1/\rho} - \mathrm{high}^{1/\rho})\Bigr)^\rho, \qquad i = 0, \dots, n - 1
    """
    _check_steps(steps)
    if not 0 < low < high:
        raise ValueError(f"need 0 < low < high, got {low} and {high}")
    ramp = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64)
    times = path.time_of_log_snr(-2 * rho * ramp.log())
    return torch.cat([times, times.new_tensor([path.t_min])])


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
