"""Masses of bins: they sum to one, agree with quadrature and survive the far tails."""

import math

import pytest
import torch

from notes_lib.core import normal_log_prob
from notes_lib.diffusion import bin_log_prob

GREYS = torch.arange(17, dtype=torch.float64) / 8 - 1  # 17 levels in [-1, 1]
MEANS = torch.tensor([-1.7, -1.0, -0.03, 0.4, 1.0, 2.0], dtype=torch.float64)[:, None]


@pytest.mark.equation("eq-improved-ddpm-bins")
@pytest.mark.parametrize("variance", [1e-4, 1e-2, 1.0, 25.0])
def test_the_masses_of_one_pixel_sum_to_one(variance):
    total = bin_log_prob(GREYS, MEANS, torch.tensor(variance), 1 / 16).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(6), atol=1e-12, rtol=0)


@pytest.mark.equation("eq-improved-ddpm-bins")
def test_a_mass_is_the_integral_of_the_density():
    x, mean, variance = torch.tensor(0.25), torch.tensor(0.4), torch.tensor(0.03)
    y = torch.linspace(0.25 - 1 / 16, 0.25 + 1 / 16, 20_001)
    integral = torch.trapezoid(normal_log_prob(y, mean, variance).exp(), y)
    torch.testing.assert_close(
        bin_log_prob(x, mean, variance, 1 / 16).exp(), integral, atol=1e-9, rtol=0
    )


def test_the_end_bins_are_open():
    mean, variance = torch.tensor(0.2), torch.tensor(0.5)
    normal = torch.distributions.Normal(mean, variance.sqrt())
    lowest = bin_log_prob(torch.tensor(-1.0), mean, variance, 1 / 16)
    highest = bin_log_prob(torch.tensor(1.0), mean, variance, 1 / 16)
    torch.testing.assert_close(lowest.exp(), normal.cdf(torch.tensor(-1 + 1 / 16)))
    torch.testing.assert_close(highest.exp(), 1 - normal.cdf(torch.tensor(1 - 1 / 16)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_mean_values_and_gradients_stay_finite_and_right(dtype):
    """In the tail a mass is nearly the density's integral from the nearer edge: exponent exact."""
    x = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=dtype)
    mean = torch.tensor([1.0, 0.9, -0.9, -1.0], dtype=dtype, requires_grad=True)
    variance = torch.full((4,), 1e-4, dtype=dtype, requires_grad=True)
    nats = bin_log_prob(x, mean, variance, 1 / 16)
    nats.sum().backward()
    edge = ((x - mean).abs() - 1 / 16) / 0.01
    leading = -0.5 * edge**2 - torch.log(edge * math.sqrt(2 * math.pi))
    torch.testing.assert_close(nats, leading, atol=1e-3, rtol=1e-5)
    expected = torch.sign(x - mean) * edge / 0.01  # d/dmean of the exponent
    torch.testing.assert_close(mean.grad, expected.detach(), rtol=2e-3, atol=0)
    assert variance.grad.isfinite().all()


def test_mirrored_data_have_mirrored_masses_and_gradients():
    mean = 0.3 * torch.randn(17)
    variance = 0.01 + torch.rand(17)
    torch.testing.assert_close(
        bin_log_prob(GREYS, mean, variance, 1 / 16), bin_log_prob(-GREYS, -mean, variance, 1 / 16)
    )
    inputs = (mean.requires_grad_(), variance.requires_grad_())
    assert torch.autograd.gradcheck(lambda m, v: bin_log_prob(GREYS, m, v, 1 / 16), inputs)


@pytest.mark.equation("eq-improved-ddpm-bins")
def test_the_loss_is_never_negative_and_falls_towards_the_data():
    """What fails if the log-probability itself is returned for the loss."""
    x = torch.tensor(0.25)
    means = torch.linspace(-1, 0.25, 60)
    nll = -bin_log_prob(x, means, torch.tensor(0.01), 1 / 16)
    assert (nll >= 0).all() and (nll.diff() < 0).all()


def test_bad_input():
    zero, one = torch.zeros(2), torch.ones(2)
    with pytest.raises(ValueError, match="half_width"):
        bin_log_prob(zero, zero, one, 0.0)
    with pytest.raises(ValueError, match="low < high"):
        bin_log_prob(zero, zero, one, 0.1, low=1.0, high=1.0)
    with pytest.raises(ValueError, match="x must lie in"):
        bin_log_prob(2 * one, zero, one, 1 / 16)
