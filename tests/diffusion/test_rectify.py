"""Costs and straightness by closed forms, and the theorems of rectification with the oracle."""

from inspect import unwrap

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from notes_lib.core import GaussianMixture
from notes_lib.data import ring_centres
from notes_lib.diffusion import (
    Denoiser,
    Linear,
    heun,
    straightness,
    trajectory,
    transport_cost,
    uniform,
    velocity_target,
)

PATH = Linear()
RING = GaussianMixture(ring_centres(), torch.tensor(0.15**2))
LOPSIDED = GaussianMixture(
    torch.tensor([[2.0, 0.0], [2.0, 2.0], [-1.0, -1.0]]),
    torch.tensor(0.05),
    torch.tensor([0.2, 0.3, 0.5]),
)


def flow(data, eps, steps=30):
    ts = uniform(PATH, steps)
    return torch.stack([eps, *trajectory(data.denoiser(PATH), PATH, eps, ts, heun)]), ts


@pytest.mark.equation("eq-rectified-flow-cost")
def test_cost_of_a_known_pair():
    x0, eps = torch.zeros(2, 1, 2), torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    for power in (1.0, 2.0, 3.0):
        expected = torch.tensor([5.0**power, 0.0])
        torch.testing.assert_close(transport_cost(x0, eps, power), expected)


@pytest.mark.equation("eq-rectified-flow-straightness")
def test_straightness_of_known_curves():
    """A line is straight in either direction, whatever the grid; t^2 along an axis has S = 1/3."""
    ts = torch.linspace(0, 1, 2001)
    a, b = torch.randn(2, 3)
    line = a + ts[:, None, None] * b
    uneven = (torch.rand(40).sort().values).index_fill(0, torch.tensor([0]), 0.0)
    uneven[-1] = 1.0
    torch.testing.assert_close(straightness(line, ts), torch.zeros(1))
    torch.testing.assert_close(straightness(line.flip(0), ts.flip(0)), torch.zeros(1))
    torch.testing.assert_close(straightness(a + uneven[:, None, None] * b, uneven), torch.zeros(1))
    curve = torch.stack([ts**2, ts, 2 * ts**2], 1)[..., None]
    torch.testing.assert_close(
        straightness(curve, ts), torch.tensor([1 / 3, 0, 4 / 3]), atol=1e-6, rtol=0
    )


@pytest.mark.equation("eq-rectified-flow-balance")
@pytest.mark.parametrize("data", [RING, LOPSIDED])
def test_what_a_rectification_saves(data):
    """Drop of the squared cost = straightness + least loss, both sides measured apart."""
    n, generator = 5000, torch.Generator().manual_seed(1)
    eps, (x0, _) = torch.randn(n, 2, generator=generator), data.sample(n, generator)
    xs, ts = flow(data, eps)
    t = torch.rand(n, generator=generator)
    denoise = data.denoiser(PATH)
    exact = Denoiser(
        lambda x, t: PATH.velocity(x, denoise(x, t), t), PATH, velocity_target
    )  # fmt: skip
    loss = 2 * exact.errors(x0, t, eps)  # summed over the two entries
    gap = transport_cost(x0, eps) - transport_cost(xs[-1], eps) - straightness(xs, ts) - loss
    assert abs(gap.mean()) < 4 * gap.std() / n**0.5
    assert loss.mean() > 0.1


@pytest.mark.equation("eq-rectified-flow-cost")
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_no_convex_cost_rises(power):
    n, generator = 2000, torch.Generator().manual_seed(2)
    eps, (x0, _) = torch.randn(n, 2, generator=generator), RING.sample(n, generator)
    xs, _ = flow(RING, eps)
    saved = transport_cost(x0, eps, power) - transport_cost(xs[-1], eps, power)
    assert saved.mean() > 10 * saved.std() / n**0.5


def test_on_a_line_the_pairs_are_sorted_and_optimal():
    data = GaussianMixture(torch.tensor([[-1.5], [1.0]]), torch.tensor(0.1))
    xs, _ = flow(data, torch.randn(300, 1), steps=100)
    assert torch.equal(xs[-1][:, 0].argsort(), xs[0][:, 0].argsort())


def saved_by_new_pairs(data):
    """The share of the cost that the best pairing of the same 400 points would save."""
    eps = torch.randn(400, 2, generator=torch.Generator().manual_seed(4))
    xs, _ = flow(data, eps, steps=30)
    cost = torch.cdist(xs[-1], eps) ** 2
    rows, columns = linear_sum_assignment(cost.numpy())
    return 1 - (cost[rows, columns].mean() / cost.diagonal().mean()).item()


def test_in_the_plane_the_pairs_need_not_be_optimal():
    """Pairs of an optimal map cannot be improved: on the ring they are, off it they are not."""
    assert abs(saved_by_new_pairs(RING)) < 1e-12
    assert saved_by_new_pairs(LOPSIDED) > 3e-3


@pytest.mark.equation("eq-rectified-flow-velocity", "eq-rectified-flow-loss")
def test_the_mean_velocity_minimises_the_loss():
    """Any other velocity costs its squared distance more: the loss is a projection."""
    n, generator = 20_000, torch.Generator().manual_seed(3)
    eps, (x0, _) = torch.randn(n, 2, generator=generator), RING.sample(n, generator)
    t, denoise = torch.rand(n, generator=generator), RING.denoiser(PATH)

    def best(x, t):
        return PATH.velocity(x, denoise(x, t), t)

    for shift in (lambda x, t: 0.3 * x, lambda x, t: torch.sin(3 * x) * t[:, None]):
        worse = Denoiser(lambda x, t, f=shift: best(x, t) + f(x, t), PATH, velocity_target)
        least = Denoiser(best, PATH, velocity_target)
        extra = shift(PATH.perturb(x0, eps, t), t).square().mean(1)
        gap = worse.errors(x0, t, eps) - least.errors(x0, t, eps) - extra
        assert abs(gap.mean()) < 4 * gap.std() / n**0.5


@pytest.mark.parametrize(
    ("x0", "eps", "power", "word"),
    [
        (torch.zeros(2, 1), torch.zeros(2, 1), 0.5, "power >= 1"),
        (torch.zeros(2, 1), torch.zeros(2, 2), 2.0, "one shape"),
    ],
)
def test_a_cost_that_makes_no_sense_is_refused(x0, eps, power, word):
    with pytest.raises(ValueError, match=word):
        unwrap(transport_cost)(x0, eps, power)


@pytest.mark.parametrize(
    ("xs", "ts", "word"),
    [
        (torch.zeros(3, 1, 1), torch.zeros(2), "one a time"),
        (torch.zeros(1, 1, 1), torch.zeros(1), "2 or more"),
        (torch.full((2, 1, 1), torch.nan), torch.arange(2.0), "finite"),
    ],
)
def test_points_that_are_no_trajectory_are_refused(xs, ts, word):
    with pytest.raises(ValueError, match=word):
        unwrap(straightness)(xs, ts)
