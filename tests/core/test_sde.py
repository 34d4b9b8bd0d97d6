"""Euler-Maruyama against equations whose law, or whose every path, is known."""

import pytest
import torch

from notes_lib.core import EULER, euler_maruyama, odeint, seeded_noise, variance


def last(steps):
    *_, x = steps
    return x


@pytest.mark.equation("eq-score-sde-step")
def test_without_diffusion_it_is_eulers_method():
    ts, x = torch.linspace(0, 1, 11), torch.randn(5, 2)

    def drift(t, x):
        return torch.sin(x) + t

    end = last(euler_maruyama(drift, lambda t, x: 0 * t, x, ts))
    torch.testing.assert_close(end, odeint(drift, x, ts, EULER))


@pytest.mark.equation("eq-score-sde-step")
@pytest.mark.parametrize("steps", [1, 4, 64])
def test_a_wiener_process_has_the_variance_of_its_time(steps):
    """Why the square root: the variance does not depend on how often we step."""
    x = torch.zeros(200_000, 1)
    ts = torch.linspace(0, 0.7, steps + 1)
    end = last(euler_maruyama(lambda t, x: 0 * x, lambda t, x: torch.ones_like(t), x, ts))
    value, se = variance(end[:, 0])
    assert abs(value - 0.7) < 4 * se


@pytest.mark.equation("eq-score-sde-step")
def test_the_law_of_ornstein_uhlenbeck_is_wrong_by_order_h():
    """dx = -x dt + dw from 1: the mean and variance of the scheme by recursion, and by draws."""
    errors = []
    for n in (20, 40, 80):
        h, ts = 2 / n, torch.linspace(0, 2, n + 1)
        mean, var = 1.0, 0.0
        for _ in range(n):
            mean, var = (1 - h) * mean, (1 - h) ** 2 * var + h
        x = torch.ones(100_000, 1)
        end = last(euler_maruyama(lambda t, x: -x, lambda t, x: torch.ones_like(t), x, ts))[:, 0]
        assert abs(end.mean() - mean) < 4 * (var / len(x)) ** 0.5
        assert abs(end.var() - var) < 4 * var * (2 / len(x)) ** 0.5
        errors.append(var - 0.5 * (1 - torch.exp(torch.tensor(-4.0))))
    orders = [torch.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(order - 1) < 0.1 for order in orders)


@pytest.mark.parametrize(("multiplicative", "order"), [(True, 0.5), (False, 1.0)])
def test_strong_order(multiplicative, order):
    """One Wiener path, three grids: dx = g dw with g = x (Black-Scholes), or g = cos t."""
    n, paths = 1024, 4000
    dw = torch.randn(n, paths, 1) / n**0.5

    def coarse(m):
        steps = iter(dw.reshape(m, n // m, paths, 1).sum(1) * m**0.5)
        g = (lambda t, x: x) if multiplicative else (lambda t, x: torch.cos(t))
        x, ts = torch.ones(paths, 1), torch.linspace(0, 1, m + 1)
        return last(euler_maruyama(lambda t, x: 0 * x, g, x, ts, lambda x: next(steps)))

    exact = torch.exp(dw.sum(0) - 0.5) if multiplicative else coarse(n)
    errors = torch.stack([(coarse(m) - exact).abs().mean() for m in (16, 32, 64)])
    assert ((errors[:-1] / errors[1:]).log2().mean() - order).abs() < 0.1


def test_a_falling_grid_runs_backwards():
    """dx = dt + dw from t = 1 to 0: the drift has changed sign, the noise has not."""
    x, ts = torch.zeros(100_000, 1), torch.linspace(1, 0, 9)
    noise = seeded_noise(torch.Generator().manual_seed(0))
    ones = lambda t, x: torch.ones_like(x)
    end = last(euler_maruyama(ones, ones, x, ts, noise))[:, 0]
    assert abs(end.mean() + 1) < 4 / len(x) ** 0.5
    assert abs(end.var() - 1) < 4 * (2 / len(x)) ** 0.5


def test_every_state_is_yielded_and_gradients_flow():
    x = torch.ones(2, 1, requires_grad=True)
    states = list(euler_maruyama(lambda t, x: -x, lambda t, x: 0 * t, x, torch.linspace(0, 1, 5)))
    assert len(states) == 4
    (slope,) = torch.autograd.grad(states[-1].sum(), x)
    torch.testing.assert_close(slope, torch.full((2, 1), 0.75**4))


@pytest.mark.parametrize(
    ("x", "ts", "word"),
    [
        (torch.tensor([[float("nan")]]), [0.0, 1.0], "x must be finite"),
        (torch.zeros(1, 1), [0.0], "monotone"),
        (torch.zeros(1, 1), [0.0, 1.0, 0.5], "monotone"),
        (torch.zeros(1, 1), [0.0, float("nan")], "monotone"),
    ],
)
def test_bad_starts_and_grids_are_refused(x, ts, word):
    with pytest.raises(ValueError, match=word):
        euler_maruyama(lambda t, x: x, lambda t, x: x, x, torch.tensor(ts))
