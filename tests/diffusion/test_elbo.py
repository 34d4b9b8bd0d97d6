import math
from itertools import pairwise

import pytest
import torch

from notes_lib.core import GaussianMixture, mean
from notes_lib.diffusion import (
    Denoiser,
    VPLinear,
    VPTabulated,
    bits_per_dim,
    eps_target,
    forward_variance,
    kl_weight,
    posterior_variance,
    uniform,
    vlb_terms,
)


def path_of(steps):
    """The VP SDE with beta from 0.1 to 20, cut into a chain of so many steps."""
    integral = VPLinear().beta_integral(torch.arange(steps + 1) / steps)
    return VPTabulated((-torch.expm1(-integral.diff())).tolist())


@pytest.mark.equation("eq-ddpm-kl-weight")
def test_a_term_is_the_weighted_error_of_the_noise():
    path, noise = path_of(50), torch.randn(6, 2)
    mixture = GaussianMixture(torch.randn(3, 2), torch.tensor(0.1))
    x0 = mixture.sample(6)[0]
    terms = vlb_terms(mixture.denoiser(path), path, x0, uniform(path, 50), noise=lambda x: noise)
    levels = path.levels(uniform(path, 50))
    for i in (0, 20, 48):
        t, s = levels[i], levels[i + 1]
        x_t = t.alpha * x0 + t.sigma * noise
        eps_hat = path.eps_from_x0(x_t, mixture.denoiser(path)(x_t, t.time), t.time)
        shrink = s.sigma**2 / t.sigma**2
        posterior_variance = shrink * (t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2)
        weight = kl_weight(t, s, posterior_variance)
        expected = weight * (noise - eps_hat).square().sum(1)
        torch.testing.assert_close(terms[i + 1], expected)


@pytest.mark.equation("eq-ddpm-kl-weight")
def test_the_weight_of_the_paper():
    path = path_of(50)
    levels = path.levels(uniform(path, 50))
    t, s = levels[30], levels[31]
    beta = path.betas[19]  # the step from k = 19 to k = 20
    expected = beta**2 / (2 * 0.3 * (1 - beta) * t.sigma**2)
    assert abs(kl_weight(t, s, 0.3) - expected) < 1e-12


@pytest.mark.equation("eq-ddpm-vlb")
def test_the_bound_holds_and_tightens():
    """With the exact denoiser the gap to -log p is positive and shrinks with T.

    It goes to 0 with the forward variance, which is right for a density; the posterior's variance,
    right for point masses, leaves a gap.
    """
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.8]]), torch.tensor([[0.05], [0.1]]))
    x0 = mixture.sample(10_000)[0]
    gaps = []
    for steps in (10, 40, 160):
        path = path_of(steps)
        ts = uniform(path, steps)
        bounds = (
            vlb_terms(mixture.denoiser(path), path, x0, ts, variance).sum(0)
            for variance in (forward_variance, posterior_variance)
        )
        gaps.append([mean(bound + mixture.log_prob(x0)) for bound in bounds])
    for forward, posterior in gaps:
        assert posterior.value > forward.value > -3 * forward.se
    for coarse, fine in pairwise(gaps):
        assert coarse[0].value > 2 * fine[0].value
    assert gaps[-1][0].value < 0.1 < 0.2887 < gaps[-1][1].value


@pytest.mark.equation("eq-ddpm-vlb")
def test_the_posterior_variance_costs_half_of_eulers_constant():
    """At constant beta the gap for a density tends to gamma / 2 nats a dimension.

    Near the data the SNR ratio of neighbours is (k + 1) / k, and each term is too large by
    (1/k - log(1 + 1/k)) / 2, whatever T is.
    """
    steps, x0 = 500, torch.randn(4000, 1)
    path = VPTabulated([10.0 / steps] * steps)
    ts = uniform(path, steps)
    oracle = GaussianMixture(torch.zeros(1, 1), torch.ones(1))
    bound = vlb_terms(oracle.denoiser(path), path, x0, ts).sum(0)
    gap = mean(bound + oracle.log_prob(x0))
    assert abs(gap.value - 0.5772156649 / 2) < 4 * gap.se + 2e-3


def test_the_bound_refuses_a_grid_that_stops_short():
    path = path_of(10)
    for ts in (uniform(path, 10)[:-1], uniform(path, 10).flip(0), uniform(path, 1)):
        with pytest.raises(ValueError, match="noiseless"):
            vlb_terms(lambda x, t: x, path, torch.zeros(2, 1), ts)


def test_bits_per_dim():
    assert bits_per_dim(torch.tensor(3 * math.log(2.0)), 3) == 1
    with pytest.raises(ValueError, match="dimensions"):
        bits_per_dim(torch.tensor(1.0), 0)


@pytest.mark.equation("eq-ddpm-simple")
def test_the_simple_loss_of_a_network_that_says_zero():
    """net = 0 has loss mean(eps^2); net = eps has loss 0."""
    path, x0, eps = path_of(50), torch.randn(5, 2), torch.randn(5, 2)
    t = torch.arange(1, 6) / 50
    zero = Denoiser(lambda x, t: torch.zeros_like(x), path, eps_target)
    torch.testing.assert_close(zero.loss(x0, t, eps), eps.square().mean())
    torch.testing.assert_close(zero.errors(x0, t, eps), eps.square().mean(1))
    perfect = Denoiser(lambda x, t: eps, path, eps_target)
    assert perfect.loss(x0, t, eps) == 0
    x_t = path.perturb(x0, eps, t)
    torch.testing.assert_close(perfect(x_t, t), x0)


def test_the_loss_refuses_bad_data_and_times():
    path = path_of(10)
    model = Denoiser(lambda x, t: x, path, eps_target)
    with pytest.raises(ValueError, match="x0 must be finite"):
        model.loss(torch.full((2, 1), torch.nan), torch.ones(2))
    with pytest.raises(ValueError, match="t must lie in"):
        model.loss(torch.zeros(2, 1), torch.tensor([0.5, 1.5]))
