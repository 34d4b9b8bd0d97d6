"""Churn: more noise up, the same law down."""

from inspect import unwrap

import pytest
import torch

from notes_lib.core import GaussianMixture, seeded_noise, variance
from notes_lib.diffusion import EDM, Linear, VPCosine, churned, ddim, euler, heun, karras, sample

from .paths import name

PATHS = [EDM(t_max=10.0), VPCosine(), Linear()]


def gaussian(var=0.25):
    return GaussianMixture(torch.tensor([[0.0]]), torch.tensor([[var]]))


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_no_churn_is_heun(path):
    ts, x = karras(path, 8, 0.02, 8.0), torch.randn(5, 1)
    denoise = gaussian().denoiser(path)
    for solver in (heun, euler):
        plain = sample(denoise, path, x, ts, solver)
        assert torch.equal(sample(denoise, path, x, ts, churned(path, 0.0, solver=solver)), plain)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_churn_keeps_the_law(path):
    """Exact denoiser of N(0, 0.25): the variance of the samples, within 4 standard errors."""
    noise = seeded_noise(torch.Generator().manual_seed(1))
    ts = karras(path, 40, 0.005, 8.0)
    start = path.levels(ts)[0]
    x = (start.alpha**2 * 0.25 + start.sigma**2) ** 0.5 * torch.randn(10_000, 1)
    out = sample(gaussian().denoiser(path), path, x, ts, churned(path, 30.0, noise))
    estimate = variance(out[:, 0])
    assert abs(estimate.value - 0.25) < 4 * estimate.se
    assert not torch.allclose(out, sample(gaussian().denoiser(path), path, x, ts, heun))


def test_one_step_is_algorithm_2():
    """Lines 4 to 8 of the paper, written out on its own path."""
    path, denoise = EDM(), gaussian().denoiser(EDM())
    x, z, t, s, inflate = torch.randn(4, 1), torch.randn(4, 1), 2.0, 1.0, 1.007
    gamma = min(0.5 / 1, 2**0.5 - 1)
    t_hat = t + gamma * t
    x_hat = x + (t_hat**2 - t**2) ** 0.5 * inflate * z
    d = (x_hat - denoise(x_hat, torch.tensor(t_hat))) / t_hat
    x_next = x_hat + (s - t_hat) * d
    d_next = (x_next - denoise(x_next, torch.tensor(s))) / s
    expected = x_hat + (s - t_hat) * 0.5 * (d + d_next)
    solver = churned(path, 0.5, lambda _: z, inflate=inflate)
    got = sample(denoise, path, x, torch.tensor([t, s]), solver)
    torch.testing.assert_close(got, expected)


def test_churn_stays_between_low_and_high():
    path, ts, x = EDM(t_max=10.0), torch.tensor([8.0, 4.0, 2.0, 1.0]), torch.randn(5, 1)
    denoise = gaussian().denoiser(path)
    outside = churned(path, 3.0, low=20.0, high=30.0)
    assert torch.equal(sample(denoise, path, x, ts, outside), sample(denoise, path, x, ts, heun))


@pytest.mark.parametrize("bad", [{"churn": -1.0}, {"churn": 1.0, "low": 2.0, "high": 1.0}])
def test_bad_input(bad):
    with pytest.raises(ValueError, match="churn"):
        unwrap(churned)(EDM(), **bad)


def test_any_one_step_solver_goes_down():
    path, ts = Linear(), torch.tensor([0.9, 0.6, 0.3])
    x = torch.randn(5, 1)
    out = sample(gaussian().denoiser(path), path, x, ts, churned(path, 1.0, solver=ddim()))
    assert out.isfinite().all()
