"""Explicit Runge-Kutta integration of dx/dt = f(t, x) on a given grid; a method is its tableau."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

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


EULER = Tableau(a=((),), b=(1.0,), c=(0.0,))
HEUN = Tableau(a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0))
RK4 = Tableau(
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 0.5, 0.5, 1.0),
)


def rk_step(f: VectorField, x: Tensor, t: Tensor, s: Tensor, tableau: Tableau) -> Tensor:
    """One step of `tableau` from time `t` to time `s`."""
    h, ks = s - t, []
    for row, c in zip(tableau.a, tableau.c, strict=True):
        ks.append(f(t + c * h, x + h * sum(a * k for a, k in zip(row, ks, strict=True))))
    return x + h * sum(b * k for b, k in zip(tableau.b, ks, strict=True))


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
