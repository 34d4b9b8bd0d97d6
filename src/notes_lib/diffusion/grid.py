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
    r"""Times whose ratios :math:`\sigma/\alpha` follow :eq:`eq-edm-grid`, then t_min.

    Karras et al. (2022), eq. 5.

    .. math:: \Bigl(\mathrm{high}^{1/\rho} + \tfrac{i}{n-1}
        (\mathrm{low}^{1/\rho} - \mathrm{high}^{1/\rho})\Bigr)^\rho, \qquad i = 0, \dots, n - 1
    """
    _check_steps(steps)
    _check_ends(low, high)
    ramp = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64)
    times = path.time_of_log_snr(-2 * rho * ramp.log())
    return torch.cat([times, times.new_tensor([path.t_min])])


def exponential(path: GaussianPath, steps: int, low: float = 0.01, high: float = 80.0) -> Grid:
    r"""Ratios :math:`\sigma/\alpha` that fall from `high` to `low` by one factor, then t_min.

    Equal steps of log-SNR, and a last one to the data. `low` is the strongest choice of a short
    grid: 0.03 to 0.1 below ten steps, 0.01 and less from thirty.
    """
    _check_steps(steps)
    _check_ends(low, high)
    ratios = torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64)
    return torch.cat([path.time_of_log_snr(-2 * ratios), ratios.new_tensor([path.t_min])])


def graded(
    path: GaussianPath, steps: int, scale: float = 0.3, high: float = 80.0, bend: float = 0.8
) -> Grid:
    r"""Ratios :math:`\sigma/\alpha = \mathrm{scale}\cdot\sinh u` from `high` down to t_min.

    .. math:: u_i = u_0\,(1 - s)(1 - \mathrm{bend}\cdot s), \qquad s = i/\mathrm{steps}

    Steps of the logarithm above `scale`, equal steps of the ratio below, so that the step to the
    noiseless level is no longer than the others. A positive `bend` makes the first steps, where
    the flow is nearly straight, longer than the last. A path that does not reach `high`, or does
    not go down to 0, starts or ends at its own.
    """
    _check_steps(steps)
    _check_ends(scale, high)
    if not 0 <= bend < 1:
        raise ValueError(f"bend must lie in [0, 1), got {bend}")
    first, last = end_ratios(path)
    top, end = math.asinh(min(high, first) / scale), math.asinh(last / scale)
    s = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    u = end + (top - end) * (1 - s) * (1 - bend * s)
    times = path.time_of_log_snr(-2 * torch.log(scale * torch.sinh(u)))
    times[-1] = path.t_min
    return times


def end_ratios(path: GaussianPath) -> list[float]:
    """The largest and the least noise-to-signal ratio of the path."""
    ends = torch.tensor([path.t_max, path.t_min], dtype=torch.float64)
    return (path.sigma(ends) / path.alpha(ends)).tolist()


def trailing(total: int, steps: int) -> Grid:
    """`steps` of the times k/T of a discrete chain, down from k = T by T/steps, then 0.

    What diffusers calls "trailing" spacing; indices are rounded to the nearest integer.

    Raises:
        ValueError: unless 1 <= steps <= total.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"need 1 <= steps <= total = {total}, got {steps}")
    k = torch.arange(steps, -1, -1, dtype=torch.float64) * (total / steps)
    return k.round() / total


def eased(ts: Grid, halvings: int) -> Float[Tensor, " m"]:
    """The grid with its first step cut in two so many times, the smaller part first.

    A multistep solver starts with one slope. Its first step is of first order, and leaves an error
    of the second that would hide a higher order. Cut short, it leaves nothing to see.
    """
    parts = 2.0 ** -torch.arange(halvings, 0, -1, dtype=torch.float64)
    return torch.cat([ts[:1], ts[0] + (ts[1] - ts[0]) * parts, ts[1:]])


def _check_ends(low: float, high: float) -> None:
    if not 0 < low < high:
        raise ValueError(f"need 0 < low < high, got {low} and {high}")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
