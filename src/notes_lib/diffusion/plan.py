"""Sampling in few steps without a choice to make: the number of calls gives a grid and a solver.

A plan is ``(ts, solver)``, in the order :func:`~.sample.sample` takes them::

    ts, solver = closed_form(path, 10)
    x = path.sigma(ts[0]) * torch.randn(64, 2)
    sample(denoise, path, x, ts, solver)
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from . import grid
from .bashforth import adams, adams_moulton, rows_of
from .bridge import Row
from .exponential import angle_form, asinh_ratio, tabulate
from .path import GaussianPath, Level
from .solver import Solver, linear

TABLES = Path(__file__).with_name("sampler_tables.json")

Plan = tuple[Float[Tensor, " n"], Solver]


def closed_form(path: GaussianPath, nfe: int, data_std: float = 1.0) -> Plan:
    r"""Four slopes of the TrigFlow velocity, exact weights, and a corrector from 15 calls on.

    The velocity F of :func:`~.exponential.angle_form` is interpolated in
    :math:`\operatorname{asinh}(4\kappa/d)`, for data of standard deviation d. There the noiseless
    level is a level like any other, so that the last step has the order of the rest: it is where
    DPM-Solver++, UniPC and DEIS fall back to the first. Grid: :func:`~.grid.graded`. Nothing is
    fitted to a problem; the three constants are the same for all.

    Args:
        path: starts where its noise-to-signal ratio is `80 data_std`, or at its end.
        nfe: calls of the denoiser, one a step.
        data_std: standard deviation of the data, over all coordinates.

    Raises:
        ValueError: fewer than one call, or a data_std that is not positive.
    """
    if not data_std > 0:
        raise ValueError(f"data_std must be positive, got {data_std}")
    ts = grid.graded(path, nfe, scale=0.3 * data_std, high=80 * data_std)
    method = adams if nfe < 15 else adams_moulton
    return ts, method(angle_form(data_std), asinh_ratio(0.25 * data_std), 4)


def robust(path: GaussianPath, nfe: int, data_std: float = 1.0) -> Plan:
    r"""A grid and weights of so many calls, fitted once to many flows and kept as constants.

    The numbers are made by ``training/fit_sampler_tables.py`` on Gaussian mixtures in 1 to 96
    dimensions with exact and with imperfect denoisers. They help as far as those resemble the
    data; :func:`closed_form` assumes nothing, :func:`~.calibrate.calibrate` fits your own.

    Args:
        path: holds every noise-to-signal ratio between 80 `data_std` and its least.
        nfe: calls of the denoiser; there are tables for 5, 8, 10, 15 and 20.
        data_std: standard deviation of the data, over all coordinates.

    Raises:
        ValueError: no table for `nfe`, or a path that ends below the ratio 80 `data_std`, or
            above the ratio at which the last step starts.
    """
    tables = json.loads(TABLES.read_text())
    if str(nfe) not in tables:
        raise ValueError(f"nfe must be one of {', '.join(tables)}, got {nfe}")
    table = tables[str(nfe)]
    ratios = [data_std * ratio for ratio in table["ratios"]]
    high, low = grid.end_ratios(path)
    if not (high >= ratios[0] and low < ratios[-2]):
        raise ValueError(
            f"need ratios from {ratios[0]:g} to {ratios[-2]:g}, {path} has {high:g} to {low:g}"
        )
    ts, solver = tuned(path, ratios, table["weights"], data_std)
    ts[-1] = path.t_min
    return ts, solver


def tuned(
    path: GaussianPath,
    ratios: Sequence[float],
    weights: Sequence[Sequence[float]],
    data_std: float = 1.0,
) -> Plan:
    r"""The plan that a fit found: where to look, and how to add up the slopes.

    .. math:: w_{i+1} = W_{i0} w_i + \sum_j W_{i,1+j}\, F_{i-j}

    in the variable w and the velocity F of :func:`~.exponential.angle_form`. The numbers are those
    of :func:`~.calibrate.fit`; on every path that has these ratios they are the same solver.

    Args:
        path: has all the ratios.
        ratios: n + 1 noise-to-signal ratios, falling.
        weights: n rows, of w and of the newest slope, the one before, and so on.
        data_std: of the data for which the fit was made.

    Raises:
        ValueError: not one row of weights a step.
    """
    if len(weights) != len(ratios) - 1:
        raise ValueError(f"need {len(ratios) - 1} rows of weights, got {len(weights)}")
    form, coordinate = angle_form(data_std), asinh_ratio(data_std)

    def rows(levels: Sequence[Level]) -> list[Row]:
        if len(levels) != len(ratios):
            raise ValueError(f"this solver is for {len(ratios)} levels, got {len(levels)}")
        table = tabulate(form, coordinate, levels)
        scale, gain = table.scale.tolist(), table.gain.tolist()
        sums = []
        for i, (w, *slopes) in enumerate(weights):
            kept = [c * gain[i - j] / scale[i + 1] for j, c in enumerate(slopes[: i + 1])]
            sums.append((w * scale[i] / scale[i + 1], *kept))
        return rows_of(table, sums)

    times = path.time_of_log_snr(-2 * torch.tensor(ratios, dtype=torch.float64).log())
    return times, linear(rows)
