"""The reverse SDEs, their corrector, and the forward kernels they undo."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

from notes_lib.core import GaussianMixture, euler_maruyama, seeded_noise, variance
from notes_lib.diffusion import (
    VE,
    Linear,
    SubVP,
    VPCosine,
    VPLinear,
    VPTabulated,
    ZeroTerminalSNR,
    corrector_variance,
    ddim,
    ddim_row,
    dpmpp_2m,
    euler,
    langevin_corrector,
    log_snr,
    output_variance,
    predictor_corrector,
    reverse_sde,
    reverse_sde_row,
    sample,
    stay,
    uniform,
)

from .paths import PATHS, interior, name

SONG = [VE(), VPLinear(), SubVP()]
SMOOTH = [VPLinear(), SubVP(), VPCosine(), VE(0.05, 10.0), Linear()]
EVERY_LAMBDA = pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])


def generator(seed=0):
    return seeded_noise(torch.Generator().manual_seed(seed))


@pytest.mark.equation("eq-score-sde-kernel", "eq-score-sde-families")
@pytest.mark.parametrize("path", SONG, ids=name)
def test_the_forward_sde_has_the_paths_kernel(path):
    """25,000 Euler-Maruyama paths from one point, driven by f and g of the path."""
    n, ts = 25_000, torch.linspace(1e-3, 1, 401)
    x = 1.5 * path.alpha(ts[0]) + path.sigma(ts[0]) * torch.randn(n, 1)
    paths = euler_maruyama(
        lambda t, x: path.drift(t) * x, lambda t, x: path.diffusion_sq(t).sqrt(), x, ts
    )
    for t, x in zip(ts[1:], paths, strict=True):
        if round(400 * t.item()) in (100, 200, 400):
            (spread, se), alpha, sigma = variance(x[:, 0]), path.alpha(t), path.sigma(t)
            bias = 0.01 * sigma**2  # of the scheme, from the recursion in the test below
            assert abs(x.mean() - 1.5 * alpha) < 4 * sigma / n**0.5 + 0.005 * alpha
            assert abs(spread - sigma**2) < 4 * se + bias


@pytest.mark.equation("eq-score-sde-kernel", "eq-score-sde-step")
@pytest.mark.parametrize("path", SONG, ids=name)
def test_the_scheme_tends_to_the_kernel_like_h(path):
    """No samples: mean and variance of Euler-Maruyama by recursion, at t = 1/2."""
    errors = []
    for n in (200, 400, 800):
        ts = torch.linspace(1e-3, 0.501, n + 1)
        mean, var = path.alpha(ts[0]), path.sigma(ts[0]) ** 2
        for t in ts[:-1]:
            scale = 1 + path.drift(t) * 0.5 / n
            mean, var = scale * mean, scale**2 * var + path.diffusion_sq(t) * 0.5 / n
        gap = torch.stack([mean - path.alpha(ts[-1]), var - path.sigma(ts[-1]) ** 2])
        errors.append(gap.abs().max())
    assert abs(torch.log2(errors[0] / errors[1]) - 1) < 0.05
    assert abs(torch.log2(errors[1] / errors[2]) - 1) < 0.05


@pytest.mark.equation("eq-score-sde-kernel")
@pytest.mark.parametrize("path", PATHS, ids=name)
def test_f_and_g_give_the_kernel_back(path):
    """The round trip: integrate f, and g^2 / alpha^2, and find alpha and sigma again."""
    first, last = interior(path)[[0, -1]]
    if isinstance(
        path, (VPTabulated, ZeroTerminalSNR)
    ):  # of a table: inside one step, where the rate has no jumps
        first, last = torch.tensor(0.5), torch.tensor(0.501)

    def integral(of):
        return quad(lambda t: of(torch.tensor(t)).item(), first.item(), last.item(), epsabs=0)[0]

    ratio_sq = lambda t: (path.sigma(t) / path.alpha(t)) ** 2
    growth = math.exp(integral(path.drift))
    noise = integral(lambda t: path.diffusion_sq(t) / path.alpha(t) ** 2)
    assert abs(growth / (path.alpha(last) / path.alpha(first)) - 1) < 1e-9
    assert abs(noise / (ratio_sq(last) - ratio_sq(first)) - 1) < 1e-7


@pytest.mark.equation("eq-score-sde-families")
def test_song_names_his_coefficients():
    t = interior(VPLinear())
    vp, sub, ve = VPLinear(), SubVP(), VE()
    beta, decay = vp.beta(t), torch.exp(-vp.beta_integral(t))
    torch.testing.assert_close(vp.drift(t), -0.5 * beta)
    torch.testing.assert_close(vp.diffusion_sq(t), beta)
    torch.testing.assert_close(sub.drift(t), -0.5 * beta)
    torch.testing.assert_close(sub.diffusion_sq(t), beta * (1 - decay**2))
    torch.testing.assert_close(sub.sigma(t) ** 2, (1 - decay) ** 2)
    assert (sub.sigma(t) <= vp.sigma(t)).all()
    torch.testing.assert_close(ve.drift(t), 0 * t)
    torch.testing.assert_close(ve.diffusion_sq(t), 2 * math.log(5000) * ve.sigma(t) ** 2)


@pytest.mark.equation("eq-score-sde-limit")
def test_the_chain_tends_to_the_vp_sde_like_one_over_its_length():
    vp, errors = VPLinear(), []
    for steps in (250, 500, 1000):
        t = torch.arange(1, steps + 1) / steps
        chain = VPTabulated((vp.beta(t) / steps).tolist())
        errors.append((chain.alpha(t) - vp.alpha(t)).abs().max())
    assert all(abs(torch.log2(a / b) - 1) < 0.05 for a, b in pairwise(errors))


@pytest.mark.equation("eq-score-sde-family", "eq-score-sde-reverse", "eq-score-sde-flow")
@pytest.mark.parametrize("path", SMOOTH, ids=name)
@EVERY_LAMBDA
def test_every_lambda_keeps_the_variance(path, lam):
    """Exactly, by recursion: the error of the variance at the end falls like 1/N."""
    errors = []
    for n in (400, 800):
        ts = log_snr(path, n, 0.9, 0.1)
        first, last = path.levels(ts[[0, -1]])
        made = output_variance(
            lambda t, s: reverse_sde_row(t, s, lam), path, ts, 0.25,
            start_variance=0.25 * first.alpha**2 + first.sigma**2,
        )  # fmt: skip
        errors.append(abs(made - 0.25 * last.alpha**2 - last.sigma**2))
    assert errors[1] < 0.02 and abs(math.log2(errors[0] / errors[1]) - 1) < 0.15


@pytest.mark.equation("eq-score-sde-family")
@pytest.mark.parametrize("lam", [0.5, 2.0])  # either side of 1; 0 is Euler's method, below
def test_every_lambda_keeps_mean_and_covariance_of_a_mixture(lam):
    """8,000 draws of a 2-D mixture whose components lie aslant."""
    path, n = VPLinear(), 8000
    means = torch.tensor([[-1.5, -1.0], [1.0, 0.5], [0.5, 1.5]])
    mixture = GaussianMixture(means, torch.tensor(0.1), torch.tensor([0.2, 0.5, 0.3]))
    noise = generator()
    x = mixture.sample(n)[0] * path.alpha(torch.tensor(1.0)) + noise(torch.empty(n, 2))
    ts = log_snr(path, 250, 1.0, 1e-3)
    out = sample(mixture.denoiser(path), path, x, ts, reverse_sde(lam, noise))
    w = mixture.weights
    mean = w @ means
    covariance = (w[:, None] * (means - mean)).T @ (means - mean) + 0.1 * torch.eye(2)
    se = (covariance.diag() / n).sqrt()
    assert ((out.mean(0) - mean).abs() < 4 * se + 0.01).all()
    assert ((torch.cov(out.T) - covariance).abs() < 0.05).all()
    share = torch.cdist(out, means).argmin(1).bincount() / n
    assert ((share - w).abs() < 4 * (w * (1 - w) / n).sqrt() + 0.005).all()


@pytest.mark.equation("eq-score-sde-fokker-planck")
@pytest.mark.parametrize("path", SMOOTH, ids=name)
@EVERY_LAMBDA
def test_the_density_obeys_every_fokker_planck_equation(path, lam):
    """d log p / dt by autograd in t against the right side with any lambda, read backwards."""
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.8]]), torch.tensor([[0.1], [0.3]]))
    x = torch.linspace(-2, 2, 9)[:, None].requires_grad_()
    for t in interior(path):
        t = t.clone().requires_grad_()
        alpha, sigma = path.alpha(t), path.sigma(t)
        y = alpha.detach() * x
        log_p = mixture.log_prob(y, alpha, sigma)
        (score,) = torch.autograd.grad(log_p.sum(), y, create_graph=True)
        (curve,) = torch.autograd.grad(score.sum(), y, retain_graph=True)
        rate = torch.stack([torch.autograd.grad(value, t, retain_graph=True)[0] for value in log_p])
        f, g_sq = path.drift(t), path.diffusion_sq(t)
        drift = f * y - 0.5 * (1 + lam**2) * g_sq * score
        div_drift = f - 0.5 * (1 + lam**2) * g_sq * curve
        spread = -0.5 * lam**2 * g_sq * (curve + score**2)  # backwards: the sign of noise turns
        expected = -div_drift - drift * score + spread
        torch.testing.assert_close(rate[:, None], expected, atol=1e-8, rtol=1e-8)


@pytest.mark.equation("eq-score-sde-flow")
@pytest.mark.parametrize("path", SMOOTH, ids=name)
def test_lambda_zero_is_eulers_method_on_the_flow(path):
    mixture = GaussianMixture(torch.randn(3, 2), torch.tensor(0.2))
    x, ts = torch.randn(5, 2), torch.linspace(0.9, 0.1, 20)
    ours, theirs = (
        sample(mixture.denoiser(path), path, x, ts, solver) for solver in (reverse_sde(0.0), euler)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.equation("eq-score-sde-family")
@pytest.mark.parametrize("path", SMOOTH, ids=name)
@EVERY_LAMBDA
def test_ddim_is_the_same_family_to_first_order(path, lam):
    """Rows with eta = lambda differ by O(h^2) or less, the noise by O(h^1.5)."""
    gaps = []
    for h in (2e-4, 1e-4):
        t, s = path.levels(torch.tensor([0.6, 0.6 - h]))
        a, b = reverse_sde_row(t, s, lam), ddim_row(t, s, lam)
        gaps.append(torch.tensor([a.x - b.x, a.x0 - b.x0, a.std - b.std]).abs())
    small = gaps[1] < 1e-13
    orders = (gaps[0] / gaps[1]).log2()
    assert (orders > torch.tensor([1.95, 1.95, 1.45]))[~small].all()
    assert gaps[0].max() < 1e-3


@pytest.mark.equation("eq-score-sde-corrector", "eq-score-sde-settles")
@pytest.mark.parametrize("dim", [1, 2, 16])
@pytest.mark.parametrize("snr", [0.16, 0.4])
def test_where_the_corrector_settles(dim, snr):
    """60,000 numbers in chains of `dim`; data N(0, 0.25) at a level of a VP path."""
    path = VPLinear()
    (level,) = path.levels(torch.tensor([0.4]))
    v = 0.25 * level.alpha**2 + level.sigma**2
    oracle = GaussianMixture(torch.zeros(1, dim), torch.tensor(0.25)).denoiser(path)
    correct = langevin_corrector(snr, generator())
    x = math.sqrt(v) * torch.randn(60_000 // dim, dim)
    for _ in range(40 if snr < 0.3 else 15):
        x = correct(oracle, x, level)
    expected = corrector_variance(v, dim, snr)
    assert abs(x.var() / expected - 1) < 4 * (2 / x.numel()) ** 0.5
    assert expected > 1.02 * v, "the test would not see a missing bias"


@pytest.mark.equation("eq-score-sde-settles")
def test_kappa_at_both_ends():
    assert abs(corrector_variance(1.0, 1, 1.0) - 1 - math.pi / 2) < 1e-12
    assert abs(corrector_variance(1.0, 10**6, 1.0) - 2) < 1e-5
    with pytest.raises(ValueError, match="dim"):
        corrector_variance(1.0, 0)


@pytest.mark.equation("eq-score-sde-corrector")
def test_the_step_of_the_corrector():
    """With the noise switched off the move is along the score, 2 r^2 d / |s|^2 of it."""
    path, x = VE(), torch.randn(6, 2, 3)
    (level,) = path.levels(torch.tensor([0.5]))
    correct = langevin_corrector(0.3, noise=torch.zeros_like)
    score = (torch.sin(x) - x) / level.sigma**2
    size = 2 * 0.3**2 * 6 / score.flatten(1).norm(dim=1).mean() ** 2
    torch.testing.assert_close(correct(lambda x, t: torch.sin(x), x, level), x + size * score)
    drawn = langevin_corrector(0.3, noise=torch.ones_like)(lambda x, t: torch.sin(x), x, level)
    torch.testing.assert_close(drawn, x + size * score + (2 * size).sqrt())


@pytest.mark.equation("eq-score-sde-corrector")
def test_the_calls_and_levels_of_a_predictor_corrector():
    """Each correction is made at the level reached; the noiseless level has none."""
    path, times = VPLinear(), []

    def denoise(x, t):
        times.append(t.item())
        return 0.5 * x

    solver = predictor_corrector(ddim(), langevin_corrector(), corrections=2)
    sample(denoise, path, torch.randn(4, 2), torch.tensor([1.0, 0.5, 0.2, 0.0]), solver)
    assert times == [1.0, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2]


def test_memory_of_the_predictor_passes_through():
    path, x = VPCosine(), torch.randn(4, 2)
    mixture = GaussianMixture(torch.randn(3, 2), torch.tensor(0.2)).denoiser(path)
    still = predictor_corrector(dpmpp_2m, lambda denoise, x, level: x)
    ts = torch.linspace(0.9, 0.1, 9)
    ours, theirs = (sample(mixture, path, x, ts, s) for s in (still, dpmpp_2m))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.equation("eq-score-sde-corrector")
def test_annealed_langevin_under_the_one_loop():
    """`stay` as the predictor: the corrector alone must carry the law from level to level."""
    path, n = VE(0.02, 10.0), 5000
    oracle = GaussianMixture(torch.tensor([[1.0, -1.0]]), torch.tensor(0.25)).denoiser(path)
    noise = generator()
    ts = uniform(path, 60)
    x = path.sigma(ts[0]) * noise(torch.empty(n, 2))
    solver = predictor_corrector(stay, langevin_corrector(0.16, noise), corrections=20)
    out = sample(oracle, path, x, ts, solver)
    expected = corrector_variance(0.25 + 0.02**2, 2)
    assert abs(out.var(0).mean() / expected - 1) < 0.03
    assert ((out.mean(0) - torch.tensor([1.0, -1.0])).abs() < 0.03).all()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: reverse_sde(-0.5), "lam must not be negative"),
        (lambda: langevin_corrector(0.0), "snr must be positive"),
        (lambda: predictor_corrector(ddim(), langevin_corrector(), 0), "corrections"),
        (lambda: uniform_backwards(1.0), "towards the noise"),
    ],
)
def test_bad_arguments_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def uniform_backwards(lam):
    ts = torch.tensor([0.2, 0.9])
    return sample(lambda x, t: x, VPLinear(), torch.zeros(2, 1), ts, reverse_sde(lam))
