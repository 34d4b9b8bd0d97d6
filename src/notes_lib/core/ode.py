r"""Explicit Runge-Kutta integration of dx/dt = f(t, x); a method is its tableau.

:func:`odeint` takes the steps it is told to take, :func:`adaptive` chooses them by a tolerance.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from .tensor import check_finite

VectorField = Callable[[Tensor, Tensor], Tensor]  # (t, x) -> dx/dt


@dataclass(frozen=True)
class Tableau:
    r"""Butcher tableau of an explicit method.

    .. math:: k_i = f(t + c_i h,\; x + h \sum_{j<i} a_{ij} k_j), \qquad x' = x + h \sum_i b_i k_i

    Raises:
        ValueError: rows of the wrong length, or an inconsistent method (weights that do not sum
            to one, nodes that are not their row's sum).
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.a) == len(self.b) == len(self.c):
            raise ValueError(f"one row a stage, got {len(self.a)}, {len(self.b)}, {len(self.c)}")
        if [len(row) for row in self.a] != list(range(len(self.a))):
            raise ValueError(f"row i of a needs i entries, got {[len(row) for row in self.a]}")
        if abs(sum(self.b) - 1) > 1e-12:
            raise ValueError(f"the weights b must sum to 1, got {sum(self.b)}")
        if any(abs(sum(row) - c) > 1e-12 for row, c in zip(self.a, self.c, strict=True)):
            raise ValueError("every node c must be the sum of its row of a")


@dataclass(frozen=True)
class Embedded(Tableau):
    r"""A tableau with second weights, whose disagreement with the first estimates the error.

    .. math:: e = h \sum_i (b_i - \hat b_i)\,k_i = O(h^{q+1})

    with q = `order` the lower of the two orders.

    Raises:
        ValueError: as :class:`Tableau`, or second weights that do not fit the first.
    """

    b_hat: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.b_hat) != len(self.b) or abs(sum(self.b_hat) - 1) > 1e-12:
            raise ValueError(f"b_hat needs {len(self.b)} weights of sum 1, got {self.b_hat}")
        if self.order < 1:
            raise ValueError(f"order must be at least 1, got {self.order}")


EULER = Tableau(a=((),), b=(1.0,), c=(0.0,))
HEUN = Tableau(a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0))
RK4 = Tableau(
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 0.5, 0.5, 1.0),
)
_B5 = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
DOPRI5 = Embedded(  # Dormand & Prince (1980), table 2: RK5(4)7M
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _B5,
    ),
    b=(*_B5, 0.0),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    b_hat=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
    order=4,
)


def rk_step(f: VectorField, x: Tensor, t: Tensor, s: Tensor, tableau: Tableau) -> Tensor:
    """One step of `tableau` from time `t` to time `s`."""
    h = s - t
    return x + h * _combine(tableau.b, _stages(f, x, t, h, tableau))


def _stages(f, x, t, h, tableau: Tableau, first: Tensor | None = None) -> list[Tensor]:
    """The slopes k_i; `first` is the first of them, where it is known."""
    ks = [] if first is None else [first]
    for row, c in list(zip(tableau.a, tableau.c, strict=True))[len(ks) :]:
        ks.append(f(t + c * h, x + h * _combine(row, ks)))
    return ks


def _combine(weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor | float:
    return sum((weight * k for weight, k in zip(weights, ks, strict=True) if weight), 0.0)


def odeint(
    f: VectorField,
    x: Float[Tensor, " b *d"],
    ts: Float[Tensor, " n"],
    tableau: Tableau = RK4,
) -> Float[Tensor, " b *d"]:
    """Solve dx/dt = f(t, x) from ts[0] to ts[-1], one step of `tableau` an interval.

    Times may fall as well as rise. Hairer, Norsett & Wanner (1993), section II.1.
    """
    for t, s in pairwise(ts):
        x = rk_step(f, x, t, s, tableau)
    return x


def adaptive(
    f: VectorField,
    x: Float[Tensor, " b *d"],
    t: float,
    s: float,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    tableau: Embedded = DOPRI5,
) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Solve dx/dt = f(t, x) from t to s with steps chosen by their error; yield (time, x).

    A step is accepted if every row's error, in units of the tolerance, is at most 1:

    .. math::
        \begin{aligned}
        E &= \max_{\mathrm{rows}} \sqrt{\frac1d \sum_i \Bigl(\frac{e_i}
        {\mathrm{atol} + \mathrm{rtol}\,\max(|x_i|, |x_i'|)}\Bigr)^2}, \\
        h &\leftarrow 0.9\,h\,E^{-0.7/(q+1)}\,E_{\mathrm{last}}^{0.4/(q+1)}
        \end{aligned}

    (a PI controller; factors are kept in [0.2, 5], and a rejected step is not followed by growth).
    Hairer, Norsett & Wanner (1993), section II.4, and Hairer & Wanner (1996), section IV.2. The
    whole batch shares one step size. Times are float64 scalars. The tolerance bounds the error of
    a step, not of the end; the pair ``*_, (s, x) = adaptive(...)`` is the end.

    Raises:
        ValueError: a start that is not finite, t equal to s, or tolerances that are not positive.
        FloatingPointError: the step size has shrunk to nothing: the field is not finite there, or
            asks for more than the precision holds.
    """
    check_finite("x", x)
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol and atol must be positive, got {rtol} and {atol}")
    time, end = (torch.tensor(a, dtype=torch.float64) for a in (t, s))
    if not (time.isfinite() and end.isfinite() and t != s):
        raise ValueError(f"t and s must be finite and differ, got {t} and {s}")
    return _adaptive(f, x, time, end, rtol, atol, tableau)


def _adaptive(f, x, t, end, rtol, atol, tableau) -> Iterator[tuple[Tensor, Tensor]]:
    h, last, first = 0.01 * (end - t), 1.0, None
    gaps = [b - b_hat for b, b_hat in zip(tableau.b, tableau.b_hat, strict=True)]
    ends_on_slope = tableau.a[-1] == tableau.b[:-1]  # the last slope is the next step's first
    while t != end:
        if abs(h) < 16 * torch.finfo(t.dtype).eps * max(abs(t), abs(end)):
            raise FloatingPointError(f"step size underflow at t = {t.item()}, towards {end.item()}")
        s = end if abs(h) >= abs(end - t) else t + h
        ks = _stages(f, x, t, s - t, tableau, first)
        x_new, e = (x + (s - t) * _combine(tableau.b, ks)), (s - t) * _combine(gaps, ks)
        error = _size(e / (atol + rtol * torch.maximum(x.abs(), x_new.abs())))
        h = (s - t) * _factor(error, last, tableau.order + 1)
        if error <= 1:
            first = ks[-1] if ends_on_slope else None
            t, x, last = s, x_new, max(error, 1e-4)
            yield t, x
        else:
            first = ks[0]


def _size(e: Tensor) -> float:
    """The largest root mean square of a row; NaN if any entry is."""
    return e.reshape(len(e), -1).square().mean(1).sqrt().max().item() if e.numel() else 0.0


def _factor(error: float, last: float, order: int) -> float:
    """By how much the next step is longer."""
    if not math.isfinite(error):
        return 0.2
    wish = 0.9 * max(error, 1e-10) ** (-0.7 / order) * last ** (0.4 / order)
    return min(max(wish, 0.2), 5.0 if error <= 1 else 0.9)
