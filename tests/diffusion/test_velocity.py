"""Velocity prediction: the circle, the rotation, and what an error of each target costs."""

from itertools import pairwise

import pytest
import torch

from notes_lib.diffusion import (
    Linear,
    VPCosine,
    ZeroTerminalSNR,
    ddim,
    decode,
    encode,
    error_ratio,
    exact_flow,
    v_target,
    velocity_target,
    x0_target,
)

from .paths import PATHS, TARGETS, interior, name

every_path = pytest.mark.parametrize("path", PATHS, ids=name)
CIRCLES = [
    path for path in PATHS
    if torch.allclose(path.alpha(interior(path)) ** 2 + path.sigma(interior(path)) ** 2,
                      torch.ones(7), atol=1e-6)
]  # fmt: skip


@pytest.mark.equation("eq-velocity-prediction-errors")
@every_path
@pytest.mark.parametrize("target", TARGETS, ids=name)
def test_error_ratio_is_the_ratio_of_the_errors(path, target):
    t, x0, eps, wrong = interior(path), *torch.randn(3, 7, 3)
    x_t, y = path.perturb(x0, eps, t), encode(target, path, x0, eps, t)
    missed = x0 - decode(target, path, x_t, y + wrong, t)
    ratio = error_ratio(target, path, t)
    torch.testing.assert_close(wrong.norm(dim=1), ratio * missed.norm(dim=1), rtol=1e-6, atol=0)


def test_error_ratio_of_x0_is_one_to_the_clean_end():
    assert error_ratio(x0_target, VPCosine(), torch.tensor(1e-9)) == 1


@pytest.mark.equation("eq-velocity-prediction-circle", "eq-velocity-prediction-v")
def test_v_is_the_derivative_along_the_circle():
    x0, eps, phi = torch.randn(5), torch.randn(5), torch.tensor(0.7)
    path, quarter = VPCosine(), torch.pi / 2
    z, v = torch.func.jvp(
        lambda phi: path.perturb(x0, eps, phi / quarter), (phi,), (torch.ones(()),)
    )
    torch.testing.assert_close(z, phi.cos() * x0 + phi.sin() * eps)
    torch.testing.assert_close(v, encode(v_target, path, x0, eps, phi / quarter))


@pytest.mark.equation("eq-velocity-prediction-v", "eq-velocity-prediction-inverse")
@pytest.mark.parametrize("path", CIRCLES, ids=name)
def test_velocity_is_v_times_the_angular_speed(path):
    """On every path on the circle: d(x_t)/dt = v d(phi)/dt."""
    t, x0, eps = interior(path), torch.randn(7, 3), torch.randn(7, 3)
    speed = (path.alpha(t) * path.sigma_dot(t) - path.sigma(t) * path.alpha_dot(t))[:, None]
    v, velocity = (encode(y, path, x0, eps, t) for y in (v_target, velocity_target))
    torch.testing.assert_close(velocity, speed * v)
    x_t, alpha, sigma = path.perturb(x0, eps, t), path.alpha(t)[:, None], path.sigma(t)[:, None]
    torch.testing.assert_close(alpha * x_t - sigma * v, x0)
    torch.testing.assert_close(sigma * x_t + alpha * v, eps)


@pytest.mark.equation("eq-velocity-prediction-rotation")
@pytest.mark.parametrize("path", CIRCLES, ids=name)
def test_ddim_is_a_rotation(path):
    levels = path.levels(interior(path).flip(0))
    x, v = torch.randn(2, 4, 3)
    for (t, s), step in zip(pairwise(levels), ddim()(levels), strict=True):
        delta = torch.atan2(torch.tensor(t.sigma), torch.tensor(t.alpha))
        delta = delta - torch.atan2(torch.tensor(s.sigma), torch.tensor(s.alpha))
        mine, _ = step(lambda x, time: decode(v_target, path, x, v, time), x, None)
        torch.testing.assert_close(mine, delta.cos() * x - delta.sin() * v, atol=1e-12, rtol=1e-12)


@pytest.mark.equation("eq-velocity-prediction-linear")
@pytest.mark.parametrize("path", CIRCLES, ids=name)
def test_rectified_flow_sees_a_mix_of_v_and_the_input(path):
    """At equal SNR on both paths: eps - x0 = (sigma - alpha) z + (alpha + sigma) v."""
    t, x0, eps = interior(path), torch.randn(7, 3), torch.randn(7, 3)
    alpha, sigma = path.alpha(t), path.sigma(t)
    u = sigma / (alpha + sigma)  # the time on the linear path
    torch.testing.assert_close(Linear().log_snr(u), path.log_snr(t))
    z, v = path.perturb(x0, eps, t), encode(v_target, path, x0, eps, t)
    rf = encode(velocity_target, Linear(), x0, eps, u)
    torch.testing.assert_close(rf, (sigma - alpha)[:, None] * z + (alpha + sigma)[:, None] * v)
    ratio = error_ratio(velocity_target, Linear(), u) / error_ratio(v_target, path, t)
    torch.testing.assert_close(ratio, alpha + sigma)


@pytest.mark.equation("eq-velocity-prediction-bias")
@pytest.mark.parametrize("path", CIRCLES, ids=name)
@pytest.mark.parametrize("v", [0.04, 1.0])
def test_the_start_from_zero_mean_costs_brightness(path, v):
    """The exact flow of x = 0, the mean of pure noise, ends at this mean instead of at mu."""
    mu, (last,) = 0.9, path.levels(torch.ones(1))
    shift = last.alpha * v**0.5 / (last.alpha**2 * v + last.sigma**2) ** 0.5
    made = exact_flow(torch.zeros(1, 1), path, 1.0, 0.0, mu, v).item()
    assert made == pytest.approx(mu * (1 - shift), abs=1e-12)
    rescaled = exact_flow(torch.zeros(1, 1), ZeroTerminalSNR(path), 1.0, 0.0, mu, v)
    assert rescaled.item() == pytest.approx(mu, abs=1e-15)


def test_decode_names_the_target_and_the_time_that_determine_nothing():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"x0_target must determine .* at t = 0 of VPCosine\(\)"):
        decode(x0_target, VPCosine(), x, x, torch.tensor([0.5, 0.0, 1.0]))
    with pytest.raises(ValueError, match="at t = 1 of"):
        decode(lambda path, t: (0 * t, 0 * t + 1), VPCosine(), x, x, torch.tensor(1.0))
