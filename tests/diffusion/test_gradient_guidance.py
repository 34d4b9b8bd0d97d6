"""Guidance by gradients, with exact classifiers and exact moments."""

import pytest
import torch

from notes_lib.core import GaussianMixture
from notes_lib.diffusion import (
    EDM,
    VE,
    Linear,
    VPCosine,
    VPLinear,
    VPTabulated,
    affine_moments,
    ancestral,
    ancestral_shifted,
    classifier,
    classifier_loss,
    forward_variance,
    gradient,
    linear_betas,
    output_variance,
    posterior,
    sample,
    shift_score,
    stepwise,
    uniform,
)

from .bumps import class_of, log_prob_of, mixture

PATHS = [VPLinear(), VPCosine(), VE(), EDM(), Linear()]
DDPM = VPTabulated(linear_betas(1000))


@pytest.mark.equation("eq-classifier-guidance-bayes", "eq-classifier-guidance-oracle")
def test_the_gradient_is_the_difference_of_scores():
    """Autograd through the exact classifier against two closed-form scores, to 1e-10."""
    whole, x = mixture(), torch.randn(50, 2)
    for path in PATHS:
        t = torch.tensor(0.4) * path.t_max
        got = gradient(log_prob_of(whole, path))(x, t)
        conditional, marginal = (
            path.score(x, d.denoiser(path)(x, t), t) for d in (class_of(whole), whole)
        )
        torch.testing.assert_close(got, conditional - marginal, atol=1e-10, rtol=1e-10)


@pytest.mark.equation("eq-classifier-guidance-x0", "eq-classifier-guidance-tilt")
@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
def test_the_guided_score_is_that_of_the_tilted_marginal(scale):
    """grad of log p(x_t) + scale log p(y|x_t), by autograd; and eps falls by scale sigma g."""
    whole, x = mixture(), torch.randn(20, 2)
    for path in PATHS:
        log_prob, t = log_prob_of(whole, path), torch.tensor(0.3) * path.t_max

        def log_tilted(x, t, path=path, log_prob=log_prob):
            return whole.log_prob(x, path.alpha(t), path.sigma(t)) + scale * log_prob(x, t)

        plain = whole.denoiser(path)
        x0_hat = classifier(plain, log_prob, path, scale)(x, t)
        torch.testing.assert_close(path.score(x, x0_hat, t), gradient(log_tilted)(x, t))
        eps = path.eps_from_x0(x, plain(x, t), t) - scale * path.sigma(t) * gradient(log_prob)(x, t)
        torch.testing.assert_close(path.eps_from_x0(x, x0_hat, t), eps)


# Prior N(0, 1), likelihood N(1; x0, 1): the posterior is N(1/2, 1/2), p_t(y|x_t) is Gaussian.
PRIOR = GaussianMixture(torch.zeros(1, 1).double(), torch.ones(1).double())


def likelihood_gradient(x, t):
    alpha, sigma = DDPM.alpha(t), DDPM.sigma(t)
    return alpha * (1 - alpha * x) / (1 + sigma**2)


def shifted(variance):
    return lambda noise: ancestral_shifted(likelihood_gradient, 1.0, variance, noise)


def unscaled_after_the_step(noise):
    """What the source article's first listing does: no variance, the gradient added at x_s."""

    def step(denoise, x, t, s, memory):
        row = posterior(s, t)
        x_s = row.x * x + row.x0 * denoise(x, t.time) + row.std * noise(x)
        return x_s + likelihood_gradient(x_s, t.time), memory

    return stepwise(step)


@pytest.mark.equation("eq-classifier-guidance-mean", "eq-classifier-guidance-x0")
def test_gaussian_moments_of_every_form_and_of_the_slip():
    """Known values for 1000 steps, worked out apart; the slip collapses onto y and is told."""
    plain, ts = PRIOR.denoiser(DDPM), uniform(DDPM, 1000)
    guided = shift_score(plain, likelihood_gradient, DDPM)
    known = {
        (guided, lambda noise: ancestral(noise=noise)): (0.5000, 0.4942),
        (plain, shifted(lambda t, s: posterior(s, t).std ** 2)): (0.4953, 0.5002),
        (plain, unscaled_after_the_step): (1.0000, 0.0000),
    }
    for (denoise, solver), expected in known.items():
        got = affine_moments(denoise, DDPM, ts, solver)[-1]
        assert got == pytest.approx(expected, abs=6e-5)
        near = got == pytest.approx((0.5, 0.5), abs=0.01)
        assert near == (solver is not unscaled_after_the_step)


def test_affine_moments_are_the_recursion_of_the_rows():
    ts, data = uniform(DDPM, 50), GaussianMixture(torch.zeros(1, 1), torch.tensor(0.25))
    moments = affine_moments(data.denoiser(DDPM), DDPM, ts, lambda noise: ancestral(noise=noise))
    exact = output_variance(lambda t, s: posterior(s, t), DDPM, ts, 0.25)
    assert len(moments) == 50 and moments[-1] == pytest.approx((0.0, exact), abs=1e-12)


@pytest.mark.equation("eq-classifier-guidance-mean")
def test_both_forms_shift_the_mean_alike():
    """Score form: scale * forward variance * (alpha_s / alpha_t) * g, whatever noise is added."""
    t, s = DDPM.at(500, 480)
    x, z = torch.randn(9, 1), lambda x: torch.zeros_like(x)
    ts, g = torch.stack([t.time, s.time]), likelihood_gradient(x, t.time)
    plain = PRIOR.denoiser(DDPM)
    base = sample(plain, DDPM, x, ts, ancestral(noise=z))
    score_form = sample(
        shift_score(plain, likelihood_gradient, DDPM, 2.0), DDPM, x, ts, ancestral(noise=z)
    )
    shift = 2 * forward_variance(t, s) * g
    torch.testing.assert_close(score_form - base, s.alpha / t.alpha * shift)
    paper = sample(
        plain, DDPM, x, ts, ancestral_shifted(likelihood_gradient, 2.0, forward_variance, z)
    )
    torch.testing.assert_close(paper - base, shift)


@pytest.mark.equation("eq-classifier-guidance-loss")
def test_the_exact_classifier_minimises_the_loss():
    """The loss is the cross-entropy by hand, and its slope along any function of x is 0."""
    whole, path, n = mixture(), VPCosine(), 100_000
    x0, label = whole.sample(n)
    eps, t = torch.randn(n, 2), 0.1 + 0.8 * torch.rand(n)
    slopes = torch.zeros(n, 4, requires_grad=True)

    def logits(x_t, t):
        return whole.log_posterior(x_t, path.alpha(t), path.sigma(t)) + slopes * x_t[:, :1]

    loss = classifier_loss(logits, path, x0, label, t, eps)
    log_p = whole.log_posterior(path.perturb(x0, eps, t), path.alpha(t), path.sigma(t))
    torch.testing.assert_close(loss, -log_p[torch.arange(n), label].mean())
    (per_row,) = torch.autograd.grad(loss, slopes)
    z = n * per_row.mean(0) / (per_row * n).std(0) * n**0.5
    assert z.abs().max() < 4 and (per_row.abs().sum(0) > 0.01).all()


def test_gradients_work_without_grad_and_keep_the_dtype():
    with torch.no_grad():
        x = torch.randn(3, 1, 2, 2, dtype=torch.float32)
        got = gradient(lambda x, t: -0.5 * x.square().flatten(1).sum(1))(x, torch.tensor(0.5))
    torch.testing.assert_close(got, -x)
    path = VPLinear()
    guided = shift_score(lambda x, t: x, lambda x, t: x, path, 2.0)
    assert guided(x, torch.tensor(0.5, dtype=torch.float64)).dtype == torch.float32
    t = torch.tensor([0.2, 0.5, 0.9])
    rows = [guided(x[i : i + 1], t[i]) for i in range(3)]
    torch.testing.assert_close(guided(x, t), torch.cat(rows))


def test_bad_guidance_is_refused():
    x, plain = torch.randn(3, 2), lambda x, t: x
    with pytest.raises(ValueError, match=r"log_prob needs shape \(3,\), got \(3, 4\)"):
        gradient(lambda x, t: torch.ones(3, 4))(x, torch.tensor(0.5))
    with pytest.raises(ValueError, match="alpha > 0"):
        shift_score(plain, plain, Linear())(x, torch.tensor(1.0))
    for build in (
        lambda scale: shift_score(plain, plain, VPLinear(), scale),
        lambda scale: ancestral_shifted(plain, scale),
    ):
        with pytest.raises(ValueError, match="scale must be finite"):
            build(float("nan"))
