"""Every solver with the exact oracle in the network's place, before any network."""

import math
from functools import cache

import pytest
import torch

from notes_lib.core import RK4, GaussianMixture, odeint
from notes_lib.diffusion import (
    EDM,
    VE,
    Linear,
    VPCosine,
    VPLinear,
    VPTabulated,
    affine_moments,
    ancestral,
    ddim,
    ddim_row,
    dpmpp_2m,
    euler,
    exact_flow,
    forward_variance,
    heun,
    linear_betas,
    log_snr,
    output_variance,
    posterior,
    sample,
    spread,
    trajectory,
    uniform,
)

from .paths import name

SMOOTH = [VPLinear(), VPCosine(), VE(), Linear()]
ORDERS = [(euler, 1), (ddim(), 1), (heun, 2), (dpmpp_2m, 2)]
DDPM = VPTabulated(linear_betas(1000))


def gaussian(mean=0.7, var=0.25):
    return GaussianMixture(torch.tensor([[mean]]), torch.tensor([[var]]))


@pytest.mark.parametrize("path", SMOOTH, ids=name)
def test_the_exact_flow_is_the_probability_flow(path):
    """The closed form for Gaussian data against RK4 on the path's velocity."""
    denoise, x = gaussian().denoiser(path), torch.linspace(-2, 2, 9)[:, None]
    ts = torch.linspace(0.8, 0.2, 151)
    end = odeint(lambda t, x: path.velocity(x, denoise(x, t), t), x, ts, RK4)
    torch.testing.assert_close(end, exact_flow(x, path, 0.8, 0.2, 0.7, 0.25), atol=1e-8, rtol=0)


@pytest.mark.parametrize("path", SMOOTH, ids=name)
@pytest.mark.parametrize(("step", "order"), ORDERS, ids=["euler", "ddim", "heun", "dpmpp_2m"])
def test_observed_order_on_a_gaussian(path, step, order):
    denoise, x = gaussian().denoiser(path), torch.linspace(-2, 2, 9)[:, None]
    exact = exact_flow(x, path, 0.8, 0.1, 0.7, 0.25)
    errors = []
    for n in (64, 128):
        ts = log_snr(path, n, 0.8, 0.1)
        errors.append((sample(denoise, path, x, ts, step) - exact).abs().max())
    assert abs(torch.log2(errors[0] / errors[1]) - order) < 0.2


@cache
def mixture_flow(path):
    """A denoiser, 32 starts at t = 0.8 and where their flow is at 0.2, to ten digits by RK4."""
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor(0.3))
    denoise, x = mixture.denoiser(path), torch.randn(32, 2)
    fine = torch.linspace(0.8, 0.2, 101)
    return denoise, x, odeint(lambda t, x: path.velocity(x, denoise(x, t), t), x, fine, RK4)


@pytest.mark.parametrize("path", [VPCosine(), Linear()], ids=name)
@pytest.mark.parametrize(("step", "order"), ORDERS, ids=["euler", "ddim", "heun", "dpmpp_2m"])
def test_observed_order_on_a_mixture(path, step, order):
    denoise, x, exact = mixture_flow(path)
    errors = []
    for n in (32, 64):
        ts = log_snr(path, n, 0.8, 0.2)
        errors.append((sample(denoise, path, x, ts, step) - exact).norm(dim=1).mean())
    assert abs(torch.log2(errors[0] / errors[1]) - order) < 0.3


@pytest.mark.equation("eq-ddpm-variance", "eq-ddpm-sampler")
def test_ddpm_variance_is_the_recursion():
    """Data N(0, 0.25), 1000 steps: 0.24612521, and so say the moments of the sampler's own steps.

    They are read off the steps exactly: no number of samples would find 9 digits.
    """
    ts = uniform(DDPM, 1000)
    exact = output_variance(lambda t, s: posterior(s, t), DDPM, ts, 0.25)
    assert abs(exact - 0.24612521) < 5e-9
    *_, moments = affine_moments(
        gaussian(0.0).denoiser(DDPM), DDPM, ts, lambda noise: ancestral(noise=noise)
    )
    assert moments == pytest.approx((0.0, exact), abs=1e-10)


STRIDED = {10: (0.10422, 0.13076), 20: (0.15051, 0.18529), 50: (0.19642, 0.22270),
           100: (0.21898, 0.23605), 250: (0.23602, 0.24430), 1000: (0.24613, 0.24850)}  # fmt: skip


@pytest.mark.equation("eq-ddim-sigma")
@pytest.mark.parametrize("steps", STRIDED)
def test_ddim_variance_is_the_recursion(steps):
    """Known values (eta 1, eta 0) for N(0, 0.25); the source article's sigma gives others."""
    ts = spread(1000, steps)
    for eta, expected in zip((1.0, 0.0), STRIDED[steps], strict=True):
        got = output_variance(lambda t, s, eta=eta: ddim_row(t, s, eta), DDPM, ts, 0.25)
        assert abs(got - expected) < 6e-6


@pytest.mark.equation("eq-ddim-step", "eq-ddim-ansatz")
def test_ddim_step_is_the_formula():
    t, s = DDPM.levels(torch.tensor([0.5, 0.4]))
    x, z = torch.randn(5, 2), torch.randn(5, 2)
    denoise = gaussian().denoiser(DDPM)
    a_t, a_s = t.alpha**2, s.alpha**2  # the paper's alpha
    for eta in (0.0, 0.5, 1.0):
        sigma = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)
        x0_hat = denoise(x[:, :1], t.time)
        eps_hat = (x[:, :1] - math.sqrt(a_t) * x0_hat) / math.sqrt(1 - a_t)
        expected = math.sqrt(a_s) * x0_hat + math.sqrt(1 - a_s - sigma**2) * eps_hat
        (step,) = ddim(eta, noise=lambda x: z[:, :1])([t, s])
        got, _ = step(denoise, x[:, :1], None)
        torch.testing.assert_close(got, expected + sigma * z[:, :1])


@pytest.mark.equation("eq-ddim-ode")
def test_ddim_is_euler_in_sigma_over_alpha():
    """x/alpha moves by eps d(sigma/alpha), on every path, exactly."""
    for path in SMOOTH:
        denoise, ts = gaussian().denoiser(path), torch.linspace(0.9, 0.1, 12)
        z = x = torch.randn(9, 1)
        z = z / path.alpha(ts[0])
        for t, s in zip(ts[:-1], ts[1:], strict=True):
            eps_hat = path.eps_from_x0(path.alpha(t) * z, denoise(path.alpha(t) * z, t), t)
            z = z + eps_hat * (path.sigma(s) / path.alpha(s) - path.sigma(t) / path.alpha(t))
        torch.testing.assert_close(sample(denoise, path, x, ts), path.alpha(ts[-1]) * z)


@pytest.mark.equation("eq-ddim-ode")
@pytest.mark.parametrize("path", [EDM(), Linear()], ids=name)
def test_ddim_is_euler_where_alpha_and_sigma_are_straight(path):
    denoise = gaussian().denoiser(path)
    ts = torch.linspace(0.9 * path.t_max, 0.1 * path.t_max, 11)
    x = torch.randn(9, 1)
    torch.testing.assert_close(
        sample(denoise, path, x, ts, ddim()), sample(denoise, path, x, ts, euler)
    )


@pytest.mark.equation("eq-ddim-ode")
def test_paths_are_one_up_to_a_change_of_variables():
    """DDIM on VP, VE and the straight path at equal noise-to-signal ratios: one image."""
    reference, x1 = VPCosine(), torch.randn(6, 2)
    ts = torch.linspace(0.95, 0.05, 12)
    mixture = GaussianMixture(torch.randn(3, 2), torch.tensor(0.2))
    ends = []
    for path in (VPCosine(), VE(), Linear(), EDM()):
        times = path.time_of_log_snr(reference.log_snr(ts))
        first, *_, last = path.levels(times)
        x = first.alpha * x1
        ends.append(sample(mixture.denoiser(path), path, x, times) / last.alpha)
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], atol=1e-8, rtol=1e-8)


@pytest.mark.equation("eq-ddim-inversion")
def test_inversion_error_falls_like_one_over_steps():
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor(0.2))
    denoise, x, errors = mixture.denoiser(DDPM), mixture.sample(64)[0], []
    for n in (100, 200):
        ts = log_snr(DDPM, n, 1.0, 1e-3)
        noise = sample(denoise, DDPM, x, ts.flip(0))
        errors.append((sample(denoise, DDPM, noise, ts) - x).norm(dim=1).mean())
    assert abs(torch.log2(errors[0] / errors[1]) - 1) < 0.15


def test_inversion_with_noise_is_refused():
    denoise, x = gaussian().denoiser(DDPM), torch.randn(3, 1)
    with pytest.raises(ValueError, match="towards the noise"):
        sample(denoise, DDPM, x, torch.tensor([0.2, 0.9]), ddim(1.0))


def test_both_variances_bracket_the_right_one():
    """Ho et al., section 3.2: too much noise with beta, too little with beta tilde."""
    ts = torch.cat([uniform(DDPM, 1000)[:-1]])
    wide = output_variance(
        lambda t, s: posterior(s, t)._replace(std=forward_variance(t, s) ** 0.5), DDPM, ts, 0.25
    )
    narrow = output_variance(lambda t, s: posterior(s, t), DDPM, ts, 0.25)
    (last,) = DDPM.levels(ts[-1:])
    assert narrow < 0.25 * last.alpha**2 + last.sigma**2 < wide


def test_heun_ends_on_the_data():
    path, x = VPCosine(), torch.randn(4, 1)
    out = sample(gaussian().denoiser(path), path, x, uniform(path, 20), heun)
    assert out.isfinite().all()


@pytest.mark.parametrize("step", [euler, ddim(), ddim(1.0), heun, dpmpp_2m, ancestral()])
def test_dtype_is_kept_and_float32_agrees(step):
    path, x = VPLinear(), torch.randn(64, 1)
    mixture = gaussian()
    ts = torch.linspace(0.9, 0.1, 9)
    torch.manual_seed(1)
    double = sample(mixture.denoiser(path), path, x, ts, step)
    single_oracle = GaussianMixture(mixture.means.float(), mixture.variances.float())
    torch.manual_seed(1)
    single = sample(single_oracle.denoiser(path), path, x.float(), ts, step)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    if step in (euler, heun, dpmpp_2m):
        torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=1e-5)


def test_trajectory_yields_every_step_and_sample_the_last():
    denoise, x, ts = gaussian().denoiser(DDPM), torch.randn(3, 1), uniform(DDPM, 5)
    steps = list(trajectory(denoise, DDPM, x, ts))
    assert len(steps) == 5
    torch.testing.assert_close(steps[-1], sample(denoise, DDPM, x, ts))


@pytest.mark.parametrize(
    ("ts", "word"),
    [
        ([0.5], "monotone"),
        ([0.5, 0.5], "monotone"),
        ([0.9, 0.2, 0.4], "monotone"),
        ([0.9, float("nan")], "finite"),
        ([1.1, 0.2], "t must lie in"),
        ([], "monotone"),
    ],
)
def test_bad_grids_are_refused(ts, word):
    with pytest.raises(ValueError, match=word):
        trajectory(lambda x, t: x, DDPM, torch.zeros(2, 1), torch.tensor(ts))


def test_bad_starts_and_outputs_are_refused():
    ts = uniform(DDPM, 4)
    with pytest.raises(ValueError, match="x must be finite, got 1 of 2"):
        trajectory(lambda x, t: x, DDPM, torch.tensor([[torch.inf], [0.0]]), ts)
    with pytest.raises(ValueError, match="denoise must return the shape of x"):
        sample(lambda x, t: x[:1], DDPM, torch.zeros(2, 1), ts)
    with pytest.raises(ValueError, match="denoiser's output"):
        sample(lambda x, t: x * torch.nan, DDPM, torch.zeros(2, 1), ts)


def test_negative_eta_is_refused():
    with pytest.raises(ValueError, match="eta"):
        ddim(-0.1)
