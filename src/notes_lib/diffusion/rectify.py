r"""Rectification: pairs (x0, eps) made by a flow, what they cost, how straight their paths are.

To rectify a coupling is to train a flow on its pairs (:meth:`.Denoiser.loss` on the path
:class:`.Linear` with :func:`.velocity_target`) and then to simulate it (:func:`.trajectory`): the
ends of the trajectories are the new pairs. Reflow is to do so again.
"""

from jaxtyping import Float
from torch import Tensor

from ..core.tensor import check_finite, check_same, expand_to


def transport_cost(
    x0: Float[Tensor, " b *d"], eps: Float[Tensor, " b *d"], power: float = 2.0
) -> Float[Tensor, " b"]:
    r"""What it costs to move each eps to its x0, :eq:`eq-rectified-flow-cost`.

    .. math:: c(\varepsilon - x_0) = \lVert\varepsilon - x_0\rVert^p

    A rectification makes it no dearer on average, for any convex c, hence `power` >= 1. Liu et al.
    (2022), section 3.

    Raises:
        ValueError: eps unlike x0, or a power below 1.
    """
    check_same("eps", eps, "x0", x0)
    if not power >= 1:
        raise ValueError(f"the cost is convex for power >= 1, got {power}")
    return (eps - x0).flatten(1).norm(dim=1) ** power


def straightness(xs: Float[Tensor, " n b *d"], ts: Float[Tensor, " n"]) -> Float[Tensor, " b"]:
    r"""How far each trajectory is from a straight line run at constant speed.

    .. math:: S = \int_0^1 \lVert (Z_1 - Z_0) - \dot Z_t \rVert^2\,dt

    Its mean is :eq:`eq-rectified-flow-straightness`, and one side of
    :eq:`eq-rectified-flow-balance`. Liu et al. (2022), section 2. Zero if and only if the steps of
    the trajectory are one straight line at one speed. `xs` are its points at the times `ts`, which
    span one unit of time in either direction; between them it is taken for a polygon, so S is a
    little too small at few steps, by an error of second order.

    Raises:
        ValueError: points that are not finite, or not one row of points a time, two or more.
    """
    check_finite("xs", xs)
    if len(xs) != len(ts) or len(ts) < 2:
        raise ValueError(f"need 2 or more points, one a time, got {len(xs)} and {len(ts)} times")
    h = ts.diff().to(xs)
    chord = (xs[-1] - xs[0]) / h.sum()
    bend = (xs.diff(dim=0) / expand_to(h, xs[1:]) - chord).flatten(2).square().sum(2)
    return (h.abs()[:, None] * bend).sum(0)
