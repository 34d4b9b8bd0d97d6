"""Score matching by quadrature: constants that are constant, gradients that are equal."""

import math
from inspect import unwrap

import pytest
import torch

from notes_lib.core import Empirical, GaussianMixture, normal_log_prob
from notes_lib.diffusion import (
    EDM,
    VE,
    Denoiser,
    dsm,
    eps_target,
    fisher,
    ism,
    score_model,
    score_of,
    score_target,
    ssm,
)

from .paths import PATHS, interior, name


def mixture(d):
    generator = torch.Generator().manual_seed(d)
    means = torch.randn(3, d, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, torch.full((3, d), 0.4, dtype=torch.float64))


def grid(d, n, width=7.0):
    """Nodes (n^d, d) and equal weights: on smooth densities that decay, exact to rounding."""
    line = torch.linspace(-width, width, n)
    nodes = torch.cartesian_prod(*[line] * d).reshape(-1, d)
    return nodes, (line[1] - line[0]) ** d


@pytest.mark.equation("eq-score-matching-score")
def test_score_forgets_the_constant_and_is_the_gradient():
    x, precision = torch.randn(5, 3), torch.tensor([0.5, 1.0, 3.0])
    score = score_of(lambda x: -0.5 * (precision * x**2).sum(1) + 17.3)
    torch.testing.assert_close(score(x), -precision * x)


@pytest.mark.equation("eq-score-matching-score")
def test_an_energy_can_be_trained_through_its_score():
    """The score -a x of the energy a x^2/2: its derivatives in a and x, and none if nobody asks."""
    a, x = torch.tensor(0.7, requires_grad=True), torch.randn(4, 1, requires_grad=True)
    by_a, by_x = torch.autograd.grad(score_of(lambda x: -0.5 * a * x[:, 0] ** 2)(x).sum(), (a, x))
    torch.testing.assert_close(by_a, -x.sum())
    torch.testing.assert_close(by_x, -a * torch.ones_like(x))
    assert not score_of(mixture(1).log_prob)(torch.randn(4, 1)).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(score_of(lambda x: -0.5 * x[:, 0] ** 2)(x), -x)


@pytest.mark.equation("eq-score-matching-ism", "eq-score-matching-fisher")
@pytest.mark.parametrize(("d", "n"), [(1, 401), (2, 141)])
def test_ism_is_half_the_fisher_divergence_up_to_a_constant(d, n):
    p = mixture(d)
    x, cell = grid(d, n)
    weight, true_score, gaps = p.log_prob(x).exp() * cell, score_of(p.log_prob), []
    for _ in range(20):
        matrix, shift = torch.randn(d, d), torch.randn(d)

        def score(x, matrix=matrix, shift=shift):
            return -(x - shift) @ matrix

        gaps.append(weight @ (ism(score, x) - 0.5 * fisher(score, true_score, x)))
    constant = -0.5 * weight @ fisher(true_score, torch.zeros_like, x)
    torch.testing.assert_close(torch.stack(gaps), constant.expand(20), atol=1e-10, rtol=0)


@pytest.mark.equation("eq-score-matching-sliced", "eq-score-matching-ism")
def test_ssm_has_the_mean_of_ism_under_the_law_of_signs():
    p, signs = mixture(3), torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    x, _ = p.sample(6)
    score = score_of(mixture(3).log_prob)
    mean = torch.stack([ssm(score, x, v.expand_as(x)) for v in signs]).mean(0)
    torch.testing.assert_close(mean, ism(score, x))


@pytest.mark.equation("eq-score-matching-dsm", "eq-score-matching-floor")
def test_dsm_is_the_fisher_divergence_of_noised_data_up_to_its_floor():
    """Loss and gradient, for five random networks, by quadrature over data and noise."""
    p, sigma = mixture(1), 0.5
    x0, eps = torch.cartesian_prod(torch.linspace(-7, 7, 301), torch.linspace(-9, 9, 301)).T[
        ..., None
    ]
    weight = (p.log_prob(x0) + normal_log_prob(eps, 0 * eps, eps.new_tensor(1.0))[:, 0]).softmax(0)
    true_score = score_of(lambda x: p.log_prob(x, 1.0, sigma))
    floor = weight @ dsm(true_score, x0, sigma, eps)
    for _ in range(5):
        net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        loss = weight @ dsm(net, x0, sigma, eps)
        explicit = weight @ fisher(net, true_score, x0 + sigma * eps)
        torch.testing.assert_close(loss - explicit, floor, atol=1e-8, rtol=0)
        by_loss, by_explicit = (
            torch.autograd.grad(value, list(net.parameters())) for value in (loss, explicit)
        )
        torch.testing.assert_close(by_loss, by_explicit, atol=1e-8, rtol=0)


@pytest.mark.equation("eq-score-matching-floor")
def test_the_floor_is_what_the_noised_point_leaves_open():
    """The mean of tr Var(x0|x) / sigma^4, in closed form for N(0, v)."""
    v, sigma, n = 0.7, 0.6, 400_000
    x0, eps = v**0.5 * torch.randn(n, 1), torch.randn(n, 1)
    values = dsm(lambda x: -x / (v + sigma**2), x0, sigma, eps)
    expected = v / (sigma**2 * (v + sigma**2))
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(n)


@pytest.mark.equation("eq-score-matching-tweedie")
@pytest.mark.parametrize("path", PATHS, ids=name)
def test_the_denoiser_gives_the_score(path):
    p, x = mixture(2), torch.randn(6, 2)
    score = score_model(p.denoiser(path), path)
    for t in interior(path, 3):
        exact = score_of(lambda x, t=t: p.log_prob(x, path.alpha(t), path.sigma(t)))
        torch.testing.assert_close(score(x, t), exact(x))


@pytest.mark.equation("eq-score-matching-tweedie")
def test_the_score_of_a_finite_set_is_its_kernel_density_estimate():
    points, x, sigma = torch.randn(7, 3), torch.randn(4, 3), torch.tensor(0.3)
    score = score_model(Empirical(points).denoiser(EDM()), EDM())
    kernels = GaussianMixture(points, torch.zeros(1))
    torch.testing.assert_close(
        score(x, sigma), score_of(lambda x: kernels.log_prob(x, 1.0, 0.3))(x)
    )


@pytest.mark.equation("eq-score-matching-ncsn")
def test_the_ladder_loss_is_the_denoiser_with_the_eps_target():
    """sigma^2 dsm(s) = d errors: with a network for -sigma s, and with the score target."""
    path, d = VE(0.05, 10.0), 6
    net = torch.nn.Linear(d, d)
    x0, eps, t = torch.randn(50, d), torch.randn(50, d), torch.rand(50)
    sigma = path.sigma(t)

    def score(x, t):
        return -net(x) / path.sigma(t)[:, None]

    weighted = sigma**2 * dsm(lambda x: score(x, t), x0, sigma, eps)
    by_eps = Denoiser(lambda x, t: net(x), path, eps_target)
    by_score = Denoiser(score, path, score_target)
    torch.testing.assert_close(weighted, d * by_eps.errors(x0, t, eps))
    torch.testing.assert_close(weighted, d * sigma**2 * by_score.errors(x0, t, eps))
    x = torch.randn(50, d)
    for denoiser in (by_eps, by_score):
        torch.testing.assert_close(score_model(denoiser, path)(x, t), score(x, t))


@pytest.mark.equation("eq-score-matching-ncsn")
def test_no_network_is_below_the_oracle_of_its_training_set():
    """The Empirical floor, by quadrature over the noise in 1-D, for random affine networks."""
    points, nodes = torch.tensor([[-1.0], [0.2], [1.5]]), torch.linspace(-9, 9, 2001)
    weight = (-0.5 * nodes**2).softmax(0).repeat(3) / 3
    x0, eps = points.repeat_interleave(2001, 0), nodes.repeat(3)[:, None]
    kernels = GaussianMixture(points, torch.zeros(1))
    for sigma in (0.1, 0.5, 3.0):
        oracle = score_of(lambda x, sigma=sigma: kernels.log_prob(x, 1.0, sigma))
        floor = weight @ dsm(oracle, x0, sigma, eps)
        for _ in range(10):
            a, b = torch.randn(2)
            assert weight @ dsm(lambda x, a=a, b=b: a * x + b, x0, sigma, eps) > floor


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(sigma=0.0), "sigma must be positive, got 0.0"),
        (dict(x0=torch.full((3, 2), torch.nan, dtype=torch.float64)), "x0 must be finite"),
        (dict(eps=torch.zeros(3, 1)), "one shape"),
    ],
)
def test_bad_input_is_refused(change, word):
    good = dict(x0=torch.zeros(3, 2), sigma=0.5, eps=torch.zeros(3, 2))
    with pytest.raises(ValueError, match=word):
        unwrap(dsm)(torch.neg, **(good | change))
