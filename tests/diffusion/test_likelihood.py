"""Log-likelihoods against densities that are known."""

import math

import pytest
import torch

from notes_lib.core import (
    HEUN,
    GaussianMixture,
    adaptive,
    hutchinson_divergence,
    normal_kl,
    normal_log_prob,
    odeint,
)
from notes_lib.diffusion import (
    VE,
    Linear,
    SubVP,
    VPCosine,
    VPLinear,
    exact_flow,
    flow_log_prob,
    flow_velocity,
    karras,
    kl_rate,
    score_model,
)

from .paths import name

PATHS = [VPLinear(), SubVP(), VPCosine(), VE(0.05, 10.0), Linear()]
MIXTURE = GaussianMixture(
    torch.tensor([[-1.0, 0.5], [1.2, 0.8], [0.3, -1.0]], dtype=torch.float64),
    torch.tensor([[0.05, 0.1], [0.1, 0.05], [0.08, 0.08]], dtype=torch.float64),
    torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
)
GAUSSIAN = GaussianMixture(
    torch.tensor([[0.7, -0.2]], dtype=torch.float64),
    torch.tensor([[0.25, 0.09]], dtype=torch.float64),
)


def solve(t, s, tol=1e-8):
    def end(f, y):
        *_, (_, y) = adaptive(f, y, t, s, rtol=tol, atol=tol)
        return y

    return end


def at(law, path, t):
    """The log density of the noised law at time t."""
    t = torch.tensor(t)
    return lambda x: law.log_prob(x, path.alpha(t), path.sigma(t))


@pytest.mark.equation("eq-score-sde-log-prob", "eq-score-sde-flow")
@pytest.mark.parametrize(
    ("path", "law", "tol"),
    [*((path, MIXTURE, 1e-7) for path in PATHS), *((p, GAUSSIAN, 1e-10) for p in PATHS[::4])],
    ids=name,
)
def test_the_flow_reproduces_the_density(path, law, tol):
    """Adaptive steps, exact score, exact terminal law: every digit that was asked for.

    The mixture bends the flow of every path; two paths show that more digits can be had.
    """
    first, last = 0.05, 0.9
    t = torch.tensor(first)
    x = path.alpha(t) * law.sample(20)[0] + path.sigma(t) * torch.randn(20, 2)
    found = flow_log_prob(
        flow_velocity(law.denoiser(path), path), x, at(law, path, last), solve(first, last, tol)
    )
    assert (found - at(law, path, first)(x)).abs().max() < 10 * tol


@pytest.mark.equation("eq-score-sde-log-prob")
def test_heun_is_of_second_order_in_the_log_density():
    path, errors = VPLinear(), []
    x = MIXTURE.sample(20)[0]
    for n in (64, 128):
        ts = karras(path, n, low=0.01, high=100.0)[:-1].flip(0)
        first, last = ts[0].item(), ts[-1].item()
        found = flow_log_prob(
            flow_velocity(MIXTURE.denoiser(path), path), x, at(MIXTURE, path, last),
            lambda f, y, ts=ts: odeint(f, y, ts, HEUN),
        )  # fmt: skip
        errors.append((found - at(MIXTURE, path, first)(x)).abs().mean())
    assert abs(torch.log2(errors[0] / errors[1]) - 2) < 0.35


@pytest.mark.equation("eq-score-sde-log-prob")
def test_the_terminal_law_is_the_callers():
    """With the prior in place of p_T the answer moves by log pi - log p_T at the end, exactly."""
    path, law = VPLinear(0.1, 4.0), GaussianMixture(torch.zeros(1, 2), torch.tensor(0.25))
    x = torch.randn(20, 2)
    velocity, end = flow_velocity(law.denoiser(path), path), solve(0.1, 1.0)
    prior = lambda z: normal_log_prob(z, torch.tensor(0.0), torch.tensor(1.0)).sum(1)
    ours = flow_log_prob(velocity, x, prior, end) - flow_log_prob(
        velocity, x, at(law, path, 1.0), end
    )
    z = exact_flow(x, path, 0.1, 1.0, 0.0, 0.25)
    torch.testing.assert_close(ours, prior(z) - at(law, path, 1.0)(z), atol=1e-8, rtol=0)
    assert ours.abs().mean() > 0.05, "the two laws must differ for this to mean anything"


@pytest.mark.equation("eq-score-sde-log-prob")
def test_random_probes_are_unbiased():
    path, law = VPLinear(), MIXTURE
    x = law.sample(1)[0].expand(2000, 2) + 0.1
    v = torch.randn_like(x)
    found = flow_log_prob(
        flow_velocity(law.denoiser(path), path), x, at(law, path, 0.9), solve(0.05, 0.9, 1e-5),
        lambda f, z: hutchinson_divergence(f, z, v),
    )  # fmt: skip
    exact = at(law, path, 0.05)(x[:1])
    assert (found.mean() - exact).abs() < 4 * found.std() / len(found) ** 0.5
    assert found.std() > 1e-3


def test_images_keep_their_shape():
    path = VPLinear()
    law = GaussianMixture(torch.zeros(1, 6), torch.tensor(0.25))
    flat = law.denoiser(path)

    def denoise(x, t):
        return flat(x.flatten(1), t).reshape(x.shape)

    x = torch.randn(3, 1, 2, 3)
    found = flow_log_prob(
        flow_velocity(denoise, path),
        x,
        lambda z: at(law, path, 0.9)(z.flatten(1)),
        solve(0.05, 0.9, 1e-9),
    )
    torch.testing.assert_close(found, at(law, path, 0.05)(x.flatten(1)), atol=1e-8, rtol=0)


def test_bad_arguments_are_refused():
    path = VPLinear()
    velocity = flow_velocity(MIXTURE.denoiser(path), path)
    with pytest.raises(ValueError, match="x must be finite"):
        flow_log_prob(velocity, torch.full((1, 2), torch.nan), lambda z: z[:, 0], solve(0.1, 1))
    with pytest.raises(ValueError, match="terminal must return"):
        flow_log_prob(velocity, torch.zeros(3, 2), lambda z: z, solve(0.1, 0.9, 1e-3))
    with pytest.raises(ValueError, match="t must lie in"):
        kl_rate(lambda x, t: x, lambda x, t: x, path, torch.zeros(1, 2), torch.tensor(2.0))


def both_sides(path, law, denoise, prior_variance):
    """KL of the data from the SDE's samples, and its bound, for one-dimensional Gaussians.

    The reverse SDE with a linear score stays Gaussian, so its mean and variance obey an ODE; the
    mean of the quadratic `kl_rate` is exact on three Gauss-Hermite nodes.
    """
    score, other = score_model(law.denoiser(path), path), score_model(denoise, path)
    first, last, v = 1e-2, 1.0, law.variances.item()
    nodes = torch.tensor([[-(3**0.5)], [0.0], [3**0.5]])
    weights = torch.tensor([1 / 6, 2 / 3, 1 / 6])

    def moments(t):
        return path.alpha(t) * law.means, (path.alpha(t) ** 2 * v + path.sigma(t) ** 2)

    def rate(t, y):
        mean, var = y[:, :1], y[:, 1:2]
        zero = other(torch.zeros(1, 1), t)
        slope = other(torch.ones(1, 1), t) - zero
        f, g_sq = path.drift(t), path.diffusion_sq(t)
        m, s = moments(t)
        cost = weights @ kl_rate(score, other, path, m + s.sqrt() * nodes, t)
        return torch.cat([
            f * mean - g_sq * (slope * mean + zero),
            2 * (f - g_sq * slope) * var - g_sq,
            -cost.reshape(1, 1),
        ], 1)  # fmt: skip

    t_first, t_last = torch.tensor(first), torch.tensor(last)
    start = torch.tensor([[0.0, prior_variance, 0.0]])
    mean, var, cost = solve(last, first, 1e-6)(rate, start)[0]
    m, s = moments(t_first)
    kl = normal_kl(m, s, mean, var).item()
    m, s = moments(t_last)
    return kl, cost.item() + normal_kl(m, s, *start[0, :2]).item()


@pytest.mark.equation("eq-score-sde-bound", "eq-score-sde-reverse")
@pytest.mark.parametrize(
    ("path", "scale"),
    [(path, scale) for path in (VPLinear(), SubVP(), VPLinear(0.1, 3.0)) for scale in (0.7, 1.3)]
    + [(VPLinear(0.1, 3.0), 1.0)],  # the others forget the data: nothing is left at 1
    ids=name,
)
def test_the_bound_with_both_sides_exact(path, scale):
    """A score made wrong by a factor, and the prior N(0, 1)."""
    law = GaussianMixture(torch.tensor([[0.6]]), torch.tensor(0.25))
    exact = law.denoiser(path)

    def wrong(x, t):
        alpha = path.alpha(t)
        return (scale * (alpha * exact(x, t) - x) + x) / alpha

    kl, bound = both_sides(path, law, wrong, 1.0)
    assert -1e-12 < kl <= bound + 1e-6
    if scale != 1:
        assert bound > 0.01


@pytest.mark.equation("eq-score-sde-bound")
def test_the_bound_reads_nought_equals_nought():
    """Exact score and exact terminal law (a zero-mean law, whose p_T is N(0, var))."""
    path, law = VPLinear(), GaussianMixture(torch.zeros(1, 1), torch.tensor(0.25))
    t = torch.tensor(1.0)
    terminal = (path.alpha(t) ** 2 * 0.25 + path.sigma(t) ** 2).item()
    kl, bound = both_sides(path, law, law.denoiser(path), terminal)
    assert abs(kl) < 1e-6 and abs(bound) < 1e-12


@pytest.mark.equation("eq-score-sde-bound")
def test_without_its_terminal_term_it_is_no_bound():
    """An exact score and a wrong start: the integral is 0, the divergence is not."""
    path = VPLinear(0.1, 1.0)
    law = GaussianMixture(torch.tensor([[0.6]]), torch.tensor(0.25))
    kl, bound = both_sides(path, law, law.denoiser(path), 1.0)
    t = torch.tensor(1.0)
    m, s = path.alpha(t) * law.means, path.alpha(t) ** 2 * 0.25 + path.sigma(t) ** 2
    terminal = normal_kl(m, s, torch.tensor(0.0), torch.tensor(1.0)).item()
    assert math.isclose(bound, terminal, rel_tol=1e-9) and 0.001 < kl < terminal
