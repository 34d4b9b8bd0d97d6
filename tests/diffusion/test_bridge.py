"""The algebra between two times, against brute force."""

import pytest
import torch

from notes_lib.core import normal_log_prob
from notes_lib.diffusion import (
    VPTabulated,
    ddim_row,
    linear_betas,
    posterior,
    transition,
)

from .paths import PATHS, interior, name

DDPM = VPTabulated(linear_betas(1000))


chain = DDPM.at


@pytest.mark.equation("eq-ddpm-step")
@pytest.mark.parametrize("k", [1, 2, 500, 1000])
def test_one_step_of_the_chain_is_beta(k):
    s, t = chain(k - 1, k)
    scale, variance = transition(s, t)
    beta = DDPM.betas[k - 1]
    assert abs(scale - (1 - beta) ** 0.5) < 1e-12
    assert abs(variance - beta) < 1e-12


@pytest.mark.equation("eq-ddpm-marginal")
def test_iterating_the_step_gives_the_marginal():
    """Mean factor and variance of 1000 steps, against the closed form, to 1e-12."""
    factor, variance = 1.0, 0.0
    for k, beta in enumerate(DDPM.betas, 1):
        factor, variance = factor * (1 - beta) ** 0.5, (1 - beta) * variance + beta
        (level,) = chain(k)
        assert abs(factor - level.alpha) < 1e-12 and abs(variance - level.sigma**2) < 1e-12


@pytest.mark.equation("eq-ddpm-marginal")
def test_noising_step_by_step_has_the_law_of_one_jump():
    n, x = 40_000, torch.full((40_000, 1), 0.7)
    for beta in DDPM.betas[:300]:
        x = (1 - beta) ** 0.5 * x + beta**0.5 * torch.randn_like(x)
    jump = DDPM.perturb(torch.full((n, 1), 0.7), torch.randn(n, 1), torch.tensor(0.3))
    (level,) = chain(300)
    for sample in (x, jump):
        assert abs(sample.mean() - 0.7 * level.alpha) < 4 * level.sigma / n**0.5
        assert abs(sample.var() / level.sigma**2 - 1) < 4 * (2 / n) ** 0.5


@pytest.mark.equation("eq-ddpm-posterior")
@pytest.mark.parametrize("k", [2, 10, 500, 1000])
def test_posterior_against_bayes_on_a_grid(k):
    s, t = chain(k - 1, k)
    x0, x_t = torch.tensor(0.6), torch.tensor(-0.3)
    scale, beta = transition(s, t)
    row = posterior(s, t)
    mean = row.x * x_t + row.x0 * x0
    x = mean + row.std * torch.linspace(-14, 14, 20_001)
    log_joint = normal_log_prob(x_t, scale * x, torch.tensor(beta))
    log_joint = log_joint + normal_log_prob(x, s.alpha * x0, torch.tensor(s.sigma**2))
    weight = log_joint.softmax(0)
    assert abs((weight * x).sum() - mean) < 1e-10
    assert abs((weight * (x - mean) ** 2).sum() - row.std**2) < 1e-10


@pytest.mark.equation("eq-ddpm-posterior")
def test_the_last_step_is_certain():
    row = posterior(*chain(0, 1))
    assert (row.x, row.x0, row.std) == (0.0, 1.0, 0.0)


@pytest.mark.equation("eq-ddpm-mean-eps")
@pytest.mark.parametrize("k", [1, 2, 500, 1000])
def test_both_forms_of_the_posterior_mean(k):
    s, t = chain(k - 1, k)
    row, beta = posterior(s, t), DDPM.betas[k - 1]
    x_t, eps = torch.randn(20), torch.randn(20)
    x0 = (x_t - t.sigma * eps) / t.alpha
    with_eps = (x_t - beta / t.sigma * eps) / (1 - beta) ** 0.5
    torch.testing.assert_close(row.x * x_t + row.x0 * x0, with_eps, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("eq-ddim-marginals", "eq-ddim-match", "eq-ddim-sigma")
@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_marginal_at_any_eta_and_stride(path, eta):
    """k alpha_t + c = alpha_s and k^2 sigma_t^2 + std^2 = sigma_s^2."""
    levels = path.levels(interior(path))
    for s, t in [(levels[0], levels[1]), (levels[1], levels[6])]:
        row = ddim_row(t, s, eta)
        assert abs(row.x * t.alpha + row.x0 - s.alpha) < 1e-12
        assert abs(row.x**2 * t.sigma**2 + row.std**2 - s.sigma**2) < 1e-12


@pytest.mark.equation("eq-ddim-sigma")
@pytest.mark.parametrize(("k_s", "k_t"), [(0, 1), (1, 2), (499, 500), (999, 1000), (480, 500)])
def test_ddim_at_eta_one_is_the_posterior(k_s, k_t):
    s, t = chain(k_s, k_t)
    for ours, exact in zip(ddim_row(t, s, 1.0)[:3], posterior(s, t)[:3], strict=True):
        assert abs(ours - exact) < 1e-12


@pytest.mark.equation("eq-ddim-sigma")
def test_sigma_of_the_source_article_fails_on_strides():
    """The article has the beta of one step where beta_ts belongs: a variance 18 times too small."""
    s, t = chain(480, 500)
    right = ddim_row(t, s, 1.0).std ** 2
    source = (s.sigma / t.sigma) ** 2 * DDPM.betas[499]
    assert 17 < right / source < 19
    s, t = chain(499, 500)
    assert abs(ddim_row(t, s, 1.0).std - s.sigma / t.sigma * DDPM.betas[499] ** 0.5) < 1e-12


def test_too_much_noise_is_refused():
    s, t = chain(480, 500)
    with pytest.raises(ValueError, match="asks for noise"):
        ddim_row(t, s, 100.0)
