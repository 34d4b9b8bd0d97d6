import math
from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.diffusion import (
    EDM,
    VE,
    GaussianPath,
    Linear,
    SubVP,
    VPLinear,
    VPTabulated,
    linear_betas,
)

from .paths import PATHS, interior, name

perturb = unwrap(GaussianPath.perturb)  # without the shape check that runs under pytest only
every_path = pytest.mark.parametrize("path", PATHS, ids=name)


@every_path
def test_derivatives_against_forward_mode(path):
    t = interior(path)
    for value, derivative in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        _, tangent = torch.func.jvp(value, (t,), (torch.ones_like(t),))
        torch.testing.assert_close(derivative(t), tangent)


@every_path
def test_log_snr_falls(path):
    assert (path.log_snr(interior(path, 200)).diff() < 0).all()


@every_path
def test_time_of_log_snr_inverts_log_snr(path):
    t = interior(path)
    torch.testing.assert_close(path.time_of_log_snr(path.log_snr(t)), t, atol=1e-10, rtol=1e-10)


@every_path
def test_times_in_closed_form_are_those_of_bisection(path):
    """And beyond the log-SNRs of the path, its ends."""
    ratio = torch.logspace(-2, 2, 9)
    bisected = GaussianPath._time_of_ratio(path, ratio)
    torch.testing.assert_close(path.time_of_log_snr(-2 * ratio.log()), bisected)
    beyond = path.time_of_log_snr(torch.tensor([math.inf, -math.inf]))
    assert beyond.tolist() == pytest.approx([path.t_min, path.t_max], abs=1e-12)


@every_path
def test_drift_and_diffusion_keep_the_marginal(path):
    """d(alpha)/dt = f alpha and d(sigma^2)/dt = 2 f sigma^2 + g^2: the moments of the SDE."""
    t = interior(path)
    f, g_sq = path.drift(t), path.diffusion_sq(t)
    torch.testing.assert_close(path.alpha_dot(t), f * path.alpha(t))
    _, variance_dot = torch.func.jvp(lambda t: path.sigma(t) ** 2, (t,), (torch.ones_like(t),))
    torch.testing.assert_close(variance_dot, 2 * f * path.sigma(t) ** 2 + g_sq)


def test_vp_sde_of_song():
    path = VPLinear(0.1, 20.0)
    t = torch.linspace(0, 1, 9)  # at the data too, where sigma' is infinite
    beta = 0.1 + 19.9 * t
    torch.testing.assert_close(path.drift(t), -beta / 2)
    torch.testing.assert_close(path.diffusion_sq(t), beta)


def test_sub_vp_sde_of_song():
    """g^2 = beta (1 - exp(-2 B)), and less noise than VP at every time."""
    path, vp = SubVP(0.1, 20.0), VPLinear(0.1, 20.0)
    t = torch.linspace(0, 1, 9)
    shrink = 1 - torch.exp(-2 * path.beta_integral(t))
    torch.testing.assert_close(path.diffusion_sq(t), path.beta(t) * shrink)
    assert (path.sigma(t)[1:] < vp.sigma(t)[1:]).all()


def test_conditional_optimal_transport_of_lipman():
    """sigma = 1 - (1 - sigma_min)(1 - t): Lipman's schedule at their time 1 - t."""
    path, t = Linear(0.1), interior(Linear(0.1))
    torch.testing.assert_close(path.sigma(t), 1 - 0.9 * (1 - t))
    with pytest.raises(ValueError, match="sigma_min"):
        Linear(1.0)


def test_ve_sde_of_song():
    path = VE(0.01, 50.0)
    t = interior(path)
    g = 0.01 * 5000.0**t * (2 * torch.log(torch.tensor(5000.0))).sqrt()
    torch.testing.assert_close(path.drift(t), torch.zeros_like(t))
    torch.testing.assert_close(path.diffusion_sq(t), g**2)


@every_path
def test_velocity_and_score_are_one_field(path):
    """v = f x - g^2 score / 2 (Song et al. 2021, eq. 13)."""
    t, x, x0 = interior(path), torch.randn(7, 3), torch.randn(7, 3)
    f, g_sq = path.drift(t)[:, None], path.diffusion_sq(t)[:, None]
    torch.testing.assert_close(path.velocity(x, x0, t), f * x - 0.5 * g_sq * path.score(x, x0, t))


@pytest.mark.equation("eq-ddpm-alpha-bar")
def test_tabulated_path_is_the_cumulative_product_at_both_ends():
    betas = torch.tensor(linear_betas(1000))
    path = VPTabulated(betas.tolist())
    alpha_bar = torch.cumprod(1 - betas, 0)
    k = torch.arange(1, 1001)
    torch.testing.assert_close(path.alpha(k / 1000) ** 2, alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(path.sigma(k / 1000) ** 2, 1 - alpha_bar, rtol=1e-12, atol=1e-15)
    assert path.alpha(torch.tensor(0.0)) == 1 and path.sigma(torch.tensor(0.0)) == 0
    assert abs(path.alpha(torch.tensor(1.0)) - 0.0063528) < 5e-8


def test_tabulated_path_in_float32_hits_its_knots():
    path = VPTabulated(linear_betas(1000))
    t = torch.arange(1, 1001) / 1000
    torch.testing.assert_close(path.alpha(t.float()).double(), path.alpha(t), rtol=3e-6, atol=3e-8)


@every_path
def test_levels_are_the_path(path):
    t = interior(path)
    for level, time in zip(path.levels(t), t, strict=True):
        assert level.alpha == path.alpha(time) and level.sigma == path.sigma(time)
        assert level.alpha_dot == path.alpha_dot(time)
        assert level.sigma_dot == path.sigma_dot(time)
        assert abs(2 * level.half_log_snr - path.log_snr(time)) < 1e-12


@every_path
@settings(max_examples=25)
@given(outside=st.one_of(st.floats(81, 1e9), st.floats(-1e9, -0.01), st.just(float("nan"))))
def test_times_outside_the_path_are_refused(path, outside):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="t must lie in"):
        path.perturb(x, x, torch.tensor([path.t_max, outside]))
    with pytest.raises(ValueError, match="t must lie in"):
        path.levels(torch.tensor([path.t_max, outside]))


def test_perturb_refuses_noise_of_another_shape():
    with pytest.raises(ValueError, match="eps and x0 need one shape"):
        perturb(VPLinear(), torch.zeros(2, 3), torch.zeros(2, 1), torch.tensor(0.5))


def test_perturb_refuses_another_device():
    with pytest.raises(ValueError, match="eps and x0 need one device"):
        perturb(VPLinear(), torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), torch.tensor(0.5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: VPLinear(0.0, 1.0),
        lambda: VPLinear(2.0, 1.0),
        lambda: VE(0.1, float("inf")),
        lambda: EDM(1.0, 1.0),
        lambda: VPTabulated([]),
        lambda: VPTabulated([0.1, 1.0]),
        lambda: VPTabulated([0.1, float("nan")]),
        lambda: linear_betas(0),
        lambda: linear_betas(10, 0.0, 0.1),
        lambda: linear_betas(10, float("nan"), 0.1),
    ],
)
def test_impossible_paths_are_refused(make):
    with pytest.raises(ValueError):
        make()
