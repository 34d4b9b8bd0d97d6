"""The oracle is held against quadrature, against autograd and against its own limits."""

import pytest
import torch

from notes_lib.core import Empirical, GaussianMixture, normal_log_prob

MIXTURE = dict(
    means=torch.tensor([[-1.0], [0.5]], dtype=torch.float64),
    variances=torch.tensor([[0.1], [0.3]], dtype=torch.float64),
)


def test_log_prob_integrates_to_one():
    mixture = GaussianMixture(**MIXTURE, weights=torch.tensor([1.0, 3.0]))
    x = torch.linspace(-12, 12, 20_001)
    for alpha, sigma in [(1.0, 0.0), (0.6, 0.8)]:
        density = mixture.log_prob(x[:, None], alpha, sigma).exp()
        assert abs(torch.trapezoid(density, x) - 1) < 1e-10


def test_posterior_mean_is_the_quadrature():
    mixture = GaussianMixture(**MIXTURE, weights=torch.tensor([1.0, 3.0]))
    grid, alpha, sigma = torch.linspace(-8, 8, 8001), 0.7, 0.5
    for x in (-1.3, 0.0, 2.0):
        x = torch.tensor(x)
        weight = mixture.log_prob(grid[:, None]) + normal_log_prob(
            x, alpha * grid, torch.tensor(sigma**2)
        )
        weight = weight.softmax(0)
        expected = (weight * grid).sum()
        got = mixture.posterior_mean(x[None, None], alpha, sigma)[0, 0]
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_posterior_variance_is_the_quadrature():
    mixture = GaussianMixture(**MIXTURE, weights=torch.tensor([1.0, 3.0]))
    grid, alpha, sigma = torch.linspace(-8, 8, 8001), 0.7, 0.5
    for x in (-1.3, -0.1, 2.0):
        x = torch.tensor(x)
        weight = mixture.log_prob(grid[:, None]) + normal_log_prob(
            x, alpha * grid, torch.tensor(sigma**2)
        )
        weight = weight.softmax(0)
        expected = (weight * (grid - (weight * grid).sum()) ** 2).sum()
        got = mixture.posterior_variance(x[None, None], alpha, sigma)[0, 0]
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_posterior_variance_is_the_slope_of_the_posterior_mean():
    """Var(x0 | x) = sigma^2 / alpha dE[x0 | x]/dx, entry by entry, one time a sample."""
    mixture = GaussianMixture(torch.randn(4, 3), torch.rand(4, 3), 0.1 + torch.rand(4))
    x, alpha, sigma = torch.randn(5, 3), 0.1 + torch.rand(5), 0.1 + torch.rand(5)
    for i in range(5):
        mean = lambda z, i=i: mixture.posterior_mean(z[None], alpha[i], sigma[i])[0]
        slope = torch.autograd.functional.jacobian(mean, x[i]).diagonal()
        got = mixture.posterior_variance(x, alpha, sigma)[i]
        torch.testing.assert_close(got, sigma[i] ** 2 / alpha[i] * slope)


def test_tweedie():
    """alpha E[x0|x] = x + sigma^2 grad log p(x), with autograd for the gradient."""
    mixture = GaussianMixture(torch.randn(4, 3), 0.05 + torch.rand(4, 3), 0.1 + torch.rand(4))
    x, alpha, sigma = torch.randn(6, 3, requires_grad=True), 0.8, 0.6
    (score,) = torch.autograd.grad(mixture.log_prob(x, alpha, sigma).sum(), x)
    torch.testing.assert_close(
        alpha * mixture.posterior_mean(x, alpha, sigma), x + sigma**2 * score
    )


def test_one_time_a_sample():
    mixture = GaussianMixture(torch.randn(4, 3), 0.05 + torch.rand(4, 3))
    x, alpha, sigma = torch.randn(5, 3), torch.rand(5), 0.1 + torch.rand(5)
    rows = [mixture.posterior_mean(x[i : i + 1], alpha[i], sigma[i]) for i in range(5)]
    torch.testing.assert_close(mixture.posterior_mean(x, alpha, sigma), torch.cat(rows))


def test_empirical_is_a_mixture_of_point_masses():
    points = torch.randn(7, 3)
    mixture = GaussianMixture(points, torch.zeros(1))
    x, alpha, sigma = torch.randn(5, 3), 0.3 + torch.rand(5), 0.1 + torch.rand(5)
    torch.testing.assert_close(
        Empirical(points).posterior_mean(x, alpha, sigma), mixture.posterior_mean(x, alpha, sigma)
    )


def test_empirical_keeps_the_shape_of_images():
    images = torch.randn(6, 1, 4, 4)
    x = 0.9 * images[:2]
    near = Empirical(images).posterior_mean(x, 0.9, 0.01)
    torch.testing.assert_close(near, images[:2])


def test_samples_have_the_mixture_moments():
    mixture = GaussianMixture(**MIXTURE, weights=torch.tensor([1.0, 3.0]))
    n = 200_000
    x, k = mixture.sample(n, torch.Generator().manual_seed(0))
    assert abs((k == 1).double().mean() - 0.75) < 4 * (0.75 * 0.25 / n) ** 0.5
    assert abs(x.mean() - 0.125) < 4 * x.std() / n**0.5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(variances=torch.tensor([[-1.0]])), "negative"),
        (dict(means=torch.tensor([[torch.nan], [0.0]])), "finite"),
        (dict(weights=torch.tensor([0.0, 1.0])), "positive"),
    ],
)
def test_bad_mixtures_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        GaussianMixture(**(MIXTURE | change))
