"""The learnt reverse variance against the exact posterior of a mixture of Gaussians."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from notes_lib.core import GaussianMixture, mean, normal_kl, normal_log_prob, variance
from notes_lib.diffusion import (
    TwoHeads,
    VPTabulated,
    between,
    bin_log_prob,
    bound_terms,
    cosine_betas,
    eps_target,
    fixed_variance,
    forward_variance,
    hybrid_loss,
    hybrid_terms,
    learned_ancestral,
    learned_variance,
    linear_betas,
    optimal_variance,
    output_variance,
    posterior,
    posterior_variance,
    sample,
    subsequence,
    uniform,
    v_target,
    variance_range,
    vlb_terms,
)
from notes_lib.nn import ResidualMLP
from notes_lib.train import fit

PATH = VPTabulated(linear_betas(50, 2e-3, 0.4))
BUMPS = GaussianMixture(
    torch.tensor([[-1.2], [0.8]], dtype=torch.float64), torch.tensor(0.04, dtype=torch.float64)
)


def mean_spread(t):
    """E Var(x0 | x_t) of the bumps, by quadrature over x_t."""
    x_t = torch.linspace(-5, 5, 801)[:, None]
    weight = BUMPS.log_prob(x_t, t.alpha, t.sigma).softmax(0)
    spread = BUMPS.posterior_variance(x_t, t.alpha, t.sigma)[:, 0]
    return (weight * spread).sum().item()


def shaken(net):
    """Random parameters: no head, no gate is zero."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def two_heads(dim=3, target=eps_target):
    return TwoHeads(shaken(ResidualMLP(2 * dim, hidden=16, blocks=1, condition=8)), PATH, target)


@pytest.mark.equation("eq-improved-ddpm-range")
def test_the_ends_of_the_range_and_its_middle():
    v = torch.tensor([0.0, 1.0, 0.5, 2.0, -1.0])
    expected = torch.tensor([0.01, 0.04, 0.02, 0.16, 0.0025])
    torch.testing.assert_close(between(v, 0.01, 0.04), expected)


@pytest.mark.equation("eq-improved-ddpm-range")
def test_the_range_of_a_chain():
    levels = PATH.at(*range(50, -1, -1))
    pairs = list(zip(pairwise(levels), variance_range(levels), strict=True))
    for ((t, s), (low, high)), beta in zip(pairs, reversed(PATH.betas), strict=True):
        assert abs(high / beta - 1) < 1e-9
        assert s.sigma == 0 or low == posterior_variance(t, s)
    assert pairs[-1][1][0] == pairs[-2][1][0] > 0


@pytest.mark.equation("eq-improved-ddpm-optimal")
def test_the_optimal_variance_is_the_variance_of_the_reverse_step():
    """beta_tilde + c^2 E Var(x0 | x_t) against a quadrature of E Var(x_s | x_t) on a grid."""
    (s, t), grid = PATH.at(19, 20), torch.linspace(-6, 6, 4001)
    x_t = torch.linspace(-5, 5, 801)
    weight = BUMPS.log_prob(x_t[:, None], t.alpha, t.sigma).softmax(0)
    formula = optimal_variance(t, s, mean_spread(t))
    scale = t.alpha / s.alpha
    beta = torch.tensor(forward_variance(t, s))
    log_q = BUMPS.log_prob(grid[:, None], s.alpha, s.sigma)
    q = (log_q + normal_log_prob(x_t[:, None], scale * grid, beta)).softmax(1)
    centre = (q * grid).sum(1)
    by_grid = (weight * (q * (grid - centre[:, None]) ** 2).sum(1)).sum()
    assert abs(formula / by_grid - 1) < 1e-6


@pytest.mark.equation("eq-improved-ddpm-optimal")
def test_the_optimal_variance_minimises_the_kl():
    (s, t), x0 = PATH.at(9, 10), BUMPS.sample(50_000)[0]
    x_t = PATH.perturb(x0, torch.randn_like(x0), t.time)
    error = (BUMPS.denoiser(PATH)(x_t, t.time) - x0).square().mean()
    best = optimal_variance(t, s, error)
    row = posterior(s, t)
    gap = row.x0 * (x0 - BUMPS.denoiser(PATH)(x_t, t.time))

    def kl(size):
        return normal_kl(gap, torch.tensor(row.std**2), 0 * gap, size).mean()

    assert all(kl(best) < kl(factor * best) for factor in (0.9, 0.98, 1.02, 1.1))


def test_a_gaussian_with_variance_one_wants_beta_and_a_point_wants_beta_tilde():
    """Ho et al. (2020), section 3.2: the two ends are optimal at every step."""
    for t, s in pairwise(PATH.at(*range(50, 0, -1))):
        unit = optimal_variance(t, s, t.sigma**2)  # Var(x0 | x_t) = sigma^2 on a VP path
        assert abs(unit / forward_variance(t, s) - 1) < 1e-9
        assert optimal_variance(t, s, 0.0) == posterior_variance(t, s)


@pytest.mark.equation("eq-improved-ddpm-optimal")
def test_the_bound_is_tightest_with_the_optimal_variance():
    x0, _ = BUMPS.sample(4000)

    def best(t, s):
        return optimal_variance(t, s, mean_spread(t))

    oracle, ts, eps = BUMPS.denoiser(PATH), uniform(PATH, 50), torch.randn_like(x0)
    gaps = {
        rule: mean(vlb_terms(oracle, PATH, x0, ts, rule, lambda _: eps).sum(0) + BUMPS.log_prob(x0))
        for rule in (best, forward_variance, posterior_variance)
    }
    assert gaps[best].value > -3 * gaps[best].se
    assert gaps[best].value < gaps[forward_variance].value
    assert gaps[best].value < gaps[posterior_variance].value


SHORT = VPTabulated(linear_betas(12, 2e-2, 0.6))


class PerStep(nn.Module):
    """The exact eps of the bumps, and one free number o for each step: a network of T weights."""

    def __init__(self):
        super().__init__()
        self.o = nn.Parameter(torch.zeros(12))

    def forward(self, padded, t):
        x_t = padded[:, :1]
        x0 = BUMPS.posterior_mean(x_t, SHORT.alpha(t), SHORT.sigma(t))
        index = (12 * t).round().long() - 1
        return torch.cat([SHORT.eps_from_x0(x_t, x0, t), self.o[index, None]], 1)


@pytest.mark.equation("eq-improved-ddpm-hybrid", "eq-improved-ddpm-optimal")
def test_a_learnt_variance_finds_the_optimum():
    """One number a step, trained by the bound alone, ends within 5% of the exact optimum."""
    net, steps = PerStep(), 60
    model = TwoHeads(net, SHORT, eps_target)
    optimizer = torch.optim.Adam(net.parameters(), 0.4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    k = torch.arange(2, 13).repeat(200)
    losses = (hybrid_terms(model, BUMPS.sample(len(k))[0], k)[1].mean() for _ in range(steps))
    assert len(list(fit(losses, optimizer, schedule))) == steps
    for t, s in pairwise(SHORT.at(*range(12, 0, -1))):
        exact = optimal_variance(t, s, mean_spread(t))
        v = 0.5 * (1 + net.o[round(12 * t.time.item()) - 1].detach())
        learnt = between(v, posterior_variance(t, s), forward_variance(t, s))
        assert abs(learnt / exact - 1) < 0.05


@pytest.mark.equation("eq-improved-ddpm-hybrid")
@pytest.mark.parametrize("target", [eps_target, v_target])
def test_the_bound_does_not_pull_at_the_mean(target):
    """The gradient on the first head is exactly zero, on the second it is not."""
    model = two_heads(target=target)
    x0, k = torch.randn(64, 3).clamp(-0.9, 0.9), torch.randint(1, 51, (64,))
    k[0] = 1  # the likelihood term too
    for log_likelihood in (normal_log_prob, partial(bin_log_prob, half_width=1.0)):
        model.zero_grad()
        hybrid_terms(model, x0, k, log_likelihood)[1].sum().backward()
        head = model.net.last.weight.grad
        assert (head[:3] == 0).all() and (head[3:].abs().sum(1) > 0).all()


@pytest.mark.equation("eq-improved-ddpm-hybrid")
def test_the_loss_is_the_simple_one_plus_the_whole_bound():
    """Over all steps of one x0 and one eps, T times the mean of the terms is the bound."""
    model, x0, eps = two_heads(), torch.randn(1, 3).clamp(-0.9, 0.9), torch.randn(1, 3)
    k = torch.arange(1, 51)
    simple, bound = hybrid_terms(model, x0.expand(50, 3), k, eps=eps.expand(50, 3))
    x_t = PATH.perturb(x0.expand(50, 3), eps.expand(50, 3), k / 50)
    expected = (eps - model.heads(x_t, k / 50)[0]).square().mean(1)
    torch.testing.assert_close(simple, expected)
    reverse = learned_variance(model, model.v)
    terms = bound_terms(reverse, PATH, x0, uniform(PATH, 50), noise=lambda _: eps)[:, 0]
    torch.testing.assert_close(3 * bound, terms[1:].flip(0))
    torch.manual_seed(7)
    loss = hybrid_loss(model, x0.expand(50, 3), k, weight=0.2)
    torch.manual_seed(7)
    simple, bound = hybrid_terms(model, x0.expand(50, 3), k)
    torch.testing.assert_close(loss, simple.mean() + 0.2 * bound.sum())


@pytest.mark.equation("eq-improved-ddpm-kl")
def test_the_kl_of_two_gaussians_by_monte_carlo():
    q, p = (torch.tensor(0.3), torch.tensor(0.2)), (torch.tensor(-0.1), torch.tensor(0.5))
    x = q[0] + q[1].sqrt() * torch.randn(200_000)
    drawn = mean(normal_log_prob(x, *q) - normal_log_prob(x, *p))
    exact = normal_kl(*q, *p)
    assert drawn.se < 0.005 and abs(drawn.value - exact) < 3 * drawn.se
    assert normal_kl(*q, *q) == 0


def test_the_bound_of_fixed_variances_is_a_special_case():
    x0, eps, oracle = BUMPS.sample(100)[0], torch.randn(100, 1), BUMPS.denoiser(PATH)
    ts = uniform(PATH, 50)
    for v, rule in ((0.0, posterior_variance), (1.0, forward_variance)):
        reverse = learned_variance(oracle, lambda x, t, v=v: torch.full_like(x, v))
        learnt = bound_terms(reverse, PATH, x0, ts, noise=lambda _: eps)
        fixed = vlb_terms(oracle, PATH, x0, ts, rule, noise=lambda _: eps)
        torch.testing.assert_close(learnt[:-1], fixed[:-1])
        assert (v == 1) == torch.allclose(learnt[-1], fixed[-1])


@pytest.mark.equation("eq-improved-ddpm-bits")
def test_the_discrete_bound_is_a_bound():
    """Points on a grid, exact denoiser: no model codes them in fewer nats than their entropy."""
    greys = GaussianMixture(torch.tensor([[-1.0], [-0.25], [0.5]]), torch.zeros(1))
    x0, _ = greys.sample(2000)
    bins = partial(bin_log_prob, half_width=1 / 16)
    chain = VPTabulated(cosine_betas(200))
    reverse = fixed_variance(greys.denoiser(chain), posterior_variance)
    nats = mean(bound_terms(reverse, chain, x0, uniform(chain, 200), bins).sum(0))
    assert math.log(3) < nats.value + 3 * nats.se
    assert nats.value < math.log(3) + 0.1


@pytest.mark.parametrize("steps", [50, 10])
def test_sampling_at_the_ends_of_the_range_has_the_variance_of_the_recursion(steps):
    gaussian = GaussianMixture(torch.zeros(1, 1), torch.tensor(0.25)).denoiser(PATH)
    ts, x = subsequence(50, steps), torch.randn(20_000, 1)
    for v, rule in ((0.0, posterior_variance), (1.0, forward_variance)):

        def row(t, s, rule=rule):
            return posterior(s, t)._replace(std=rule(t, s) ** 0.5 if s.sigma else 0.0)

        exact = output_variance(row, PATH, ts, 0.25)
        solver = learned_ancestral(lambda x, t, v=v: torch.full_like(x, v))
        drawn = variance(sample(gaussian, PATH, x, ts, solver)[:, 0])
        assert abs(drawn.value - exact) < 3 * drawn.se


@pytest.mark.equation("eq-improved-ddpm-cosine")
def test_the_cosine_schedule():
    """The products telescope to f(t)/f(0) up to the clipped end."""
    betas = torch.tensor(cosine_betas(1000))
    t = torch.arange(1, 1001) / 1000
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    products = torch.cumprod(1 - betas, 0)
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(products[:-1], f[:-1] / start, rtol=1e-9, atol=0)
    assert (betas == 0.999).sum() == 1 and betas[-1] == 0.999
    assert abs(products[499] - 0.4938435904) < 1e-10  # f(1/2) / f(0) with a pocket calculator
    assert (betas.diff() >= 0).all()


def test_two_heads_start_halfway_and_keep_shapes():
    model = TwoHeads(ResidualMLP(2 * 64, hidden=8, blocks=1), PATH, eps_target)
    x_t, t = torch.randn(5, 1, 8, 8), torch.rand(5)
    y, v = model.heads(x_t, t)
    assert y.shape == v.shape == model(x_t, t).shape == x_t.shape
    assert (y == 0).all() and (v == 0.5).all()


def test_bad_input():
    for bad in (dict(steps=0), dict(steps=3, s=-1.0), dict(steps=3, max_beta=1.0)):
        with pytest.raises(ValueError, match="got"):
            cosine_betas(**bad)
    with pytest.raises(ValueError, match="low and high must be positive, got 0 and 1"):
        between(torch.zeros(2), 0.0, 1.0)
    model = two_heads()
    for k in (0, 51):
        with pytest.raises(ValueError, match="k must lie in 1..50"):
            hybrid_loss(model, torch.zeros(1, 3), torch.tensor([k]))
    with pytest.raises(ValueError, match="x0 must be finite"):
        hybrid_loss(model, torch.full((1, 3), torch.nan), torch.tensor([1]))
