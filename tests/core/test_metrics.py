from inspect import unwrap

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import stats

from notes_lib.core import (
    bootstrap,
    frechet_distance,
    mean,
    nearest_distance,
    normal_kl,
    normal_log_prob,
    variance,
)


def test_frechet_distance_against_scipy():
    x, y = torch.randn(300, 5), torch.randn(200, 5) @ torch.randn(5, 5) + 0.3
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    cross = scipy.linalg.sqrtm(a @ b).real
    gap = x.numpy().mean(0) - y.numpy().mean(0)
    expected = gap @ gap + np.trace(a + b - 2 * cross)
    assert abs(frechet_distance(x, y) - expected) < 1e-8


def test_frechet_distance_of_one_axis_is_known():
    x = torch.randn(50, 1)
    expected = (0.5 - 0) ** 2 + ((2 - 1) * x.std()) ** 2
    shifted = 2 * (x - x.mean()) + x.mean() + 0.5
    torch.testing.assert_close(torch.tensor(frechet_distance(x, shifted)), expected)
    assert frechet_distance(x, x) < 1e-12


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (torch.randn(1, 3), "2 rows"),
        (torch.tensor([[1.0, torch.inf, 0.0]] * 2), "finite"),
        (torch.randn(4, 2), "one size"),
        (torch.ones(4, 3, dtype=torch.long), "floating"),
    ],
)
def test_frechet_distance_refuses(x, word):
    with pytest.raises(ValueError, match=word):
        unwrap(frechet_distance)(x, torch.randn(5, 3))


def test_standard_errors_hold_in_repeated_experiments():
    draws = torch.distributions.Exponential(1.0).sample((2000, 400))
    for estimator, truth in ((mean, 1.0), (variance, 1.0)):
        z = torch.tensor([(e.value - truth) / e.se for e in map(estimator, draws)])
        assert 0.8 < z.std() < 1.3, estimator


def test_bootstrap_of_the_mean_is_its_standard_error():
    x = torch.randn(400, 1)
    estimate = bootstrap(lambda rows: rows.mean().item(), x, torch.Generator().manual_seed(0), 400)
    assert estimate.value == x.mean()
    assert abs(estimate.se / mean(x[:, 0]).se - 1) < 0.15


def test_mean_needs_two_values():
    with pytest.raises(ValueError, match="2 values"):
        mean(torch.ones(1))


def test_nearest_distance_by_hand():
    reference = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    torch.testing.assert_close(
        nearest_distance(torch.tensor([[0.0, 1.0], [3.0, 3.0]]), reference), torch.ones(2)
    )


def test_normal_log_prob_against_scipy():
    x, mu, var = torch.randn(10), torch.randn(10), 0.1 + torch.rand(10)
    expected = stats.norm.logpdf(x.numpy(), mu.numpy(), var.sqrt().numpy())
    torch.testing.assert_close(normal_log_prob(x, mu, var), torch.tensor(expected))


def test_normal_kl_is_its_integral():
    x = torch.linspace(-15, 15, 200_001)
    q, p = (torch.tensor(0.3), torch.tensor(0.5)), (torch.tensor(-0.2), torch.tensor(1.7))
    log_q, log_p = normal_log_prob(x, *q), normal_log_prob(x, *p)
    integral = torch.trapezoid(log_q.exp() * (log_q - log_p), x)
    torch.testing.assert_close(normal_kl(*q, *p), integral, atol=1e-10, rtol=0)
