"""Adams-Bashforth and Adams-Moulton on the probability-flow ODE, as tables of weights.

One call a step. The predictor extrapolates the slopes of the last steps (Bashforth); the corrector
goes over the step again once the slope at its end is known (Moulton). That slope is the one call
the next step makes anyway, so correcting costs additions only: predict, evaluate, correct.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.oracle import Denoise
from .bridge import Row
from .exponential import Coordinate, Form, Table, adams_weights, tabulate
from .path import Level
from .solver import Solver, Step, ddim_row, linear, remembered, weighted_sum

Weights = Callable[..., Float[Tensor, "n k"]]  # as adams_weights
Sum = tuple[float, ...]  # weights of (x_t, the newest slope, older slopes)


def adams(
    form: Form, coordinate: Coordinate, order: int, weights: Weights = adams_weights
) -> Solver:
    """The exponential Adams-Bashforth method of this order: the polynomial through `order` slopes.

    The first steps have fewer slopes and a lower order. A step from or to a level where the
    coordinate or the form is infinite (no noise, or no signal) is DDIM's.

    Args:
        form: the variable that is stepped.
        coordinate: what the slopes are polynomials of.
        order: the number of slopes.
        weights: how a polynomial is integrated; exactly when left out.

    Raises:
        ValueError: an order below 1.
    """
    check_order(order)

    def rows(levels: Sequence[Level]) -> list[Row]:
        table = tabulate(form, coordinate, levels)
        return rows_of(table, predictor(table, partial(weights, form, coordinate), levels, order))

    return linear(rows)


def adams_moulton(
    form: Form, coordinate: Coordinate, order: int, weights: Weights = adams_weights
) -> Solver:
    """:func:`adams`, and a corrector of one slope more, at the end of the step: order + 1.

    Predict, evaluate, correct: the call at the end of a step is the next step's, so a step still
    costs one, and the last step stays as it was predicted. The denoiser is not called again at the
    corrected sample: its x0_hat stays, and the slope is made anew from it. Arguments as for
    :func:`adams`.
    """
    check_order(order)

    def solver(levels: Sequence[Level]) -> list[Step]:
        table, bound = tabulate(form, coordinate, levels), partial(weights, form, coordinate)
        ahead = rows_of(table, predictor(table, bound, levels, order))
        again = [None, *corrector(table, bound, order + 1)]
        steps = zip(levels[:-1], again, ahead, strict=True)
        return [partial(_correct_predict, t.time, *rows, order) for t, *rows in steps]

    return solver


def _correct_predict(
    time: Tensor, again: Sum | None, ahead: Row, keep: int, denoise: Denoise, x: Tensor, memory: Any
) -> tuple[Tensor, Any]:
    x0_hat, (x_last, older) = denoise(x, time), memory or (None, ())
    if again:
        slopes = (remembered(x0_hat, x, ahead.blend), *older)
        x = weighted_sum(again, (x_last, *slopes[: len(again) - 1]))
    x_s = weighted_sum((ahead.x, ahead.x0, *ahead.older), (x, x0_hat, *older[: len(ahead.older)]))
    return x_s, (x, (remembered(x0_hat, x, ahead.blend), *older)[:keep])


def rows_of(table: Table, sums: Sequence[Sum]) -> list[Row]:
    """The sums over slopes as rows, where the newest slope is made of x0_hat and x."""
    return [
        Row(x + x0 * blend, x0, 0.0, tuple(older), blend)
        for (x, x0, *older), blend in zip(sums, _blends(table), strict=True)
    ]


def predictor(table: Table, weights: Weights, levels: Sequence[Level], order: int) -> list[Sum]:
    """Of each step: the weights of x_t, of the slope at t, and of older ones, newest first."""
    start = torch.arange(len(table.u) - 1)
    sums = _sums(table, weights, start, start, order)
    for i in (~(table.usable[:-1] & table.usable[1:])).nonzero()[:, 0].tolist():
        row, blend = ddim_row(levels[i], levels[i + 1], 0.0), _blends(table)[i]
        sums[i] = (row.x - row.x0 * blend, row.x0)
    return sums


def corrector(table: Table, weights: Weights, slopes: int) -> list[Sum | None]:
    """The same for a step whose end has been evaluated: the newest slope is the one at its end.

    One entry for each step but the last; None where an end of the step cannot be a node.
    """
    start = torch.arange(len(table.u) - 2)
    sums = _sums(table, weights, start, start + 1, slopes)
    usable = (table.usable[start] & table.usable[start + 1]).tolist()
    return [row if ok else None for row, ok in zip(sums, usable, strict=True)]


def _sums(table: Table, weights: Weights, start: Tensor, newest: Tensor, count: int) -> list[Sum]:
    """Steps from level `start` to the next, through `count` slopes, the first at `newest`."""
    index = newest[:, None] - torch.arange(count)
    present = (index >= 0) & table.usable[index.clamp(min=0)]
    index = index.clamp(min=0)
    integrals = weights(table.u[index], present, table.u[start], table.u[start + 1])
    scale = table.scale[start + 1, None]
    slopes = torch.where(present, integrals * table.gain[index] / scale, 0.0)
    sums = torch.cat([table.scale[start, None] / scale, slopes], 1).tolist()
    lengths = (1 + present.sum(1)).tolist()
    return [tuple(row[:length]) for row, length in zip(sums, lengths, strict=True)]


def _blends(table: Table) -> list[float]:
    return torch.where(table.usable, table.blend, 0.0)[:-1].tolist()


def check_order(order: int) -> None:
    """Raise ValueError unless a method has at least one slope."""
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
