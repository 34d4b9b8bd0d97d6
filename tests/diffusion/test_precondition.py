"""EDM's scalings: unit variance in and out, and their optimality, on every path."""

import math
from inspect import unwrap

import pytest
import torch
from torch import nn

from notes_lib.core import Empirical, GaussianMixture
from notes_lib.diffusion import (
    EDM,
    Denoiser,
    InputScaling,
    Linear,
    VPCosine,
    karras_target,
    log_normal_times,
)

from .paths import PATHS, interior, name

every_path = pytest.mark.parametrize("path", PATHS, ids=name)
SD = 0.5


@every_path
def test_inputs_and_targets_have_unit_variance(path):
    """Var(c_in x_t) = 1 and Var(a x0 + b eps) = 1 for data of variance sd^2: exact, by moments."""
    t = interior(path)
    seen = InputScaling(lambda x, c: x, path, SD)(torch.ones(len(t), 1), t)[:, 0]
    variance = path.alpha(t) ** 2 * SD**2 + path.sigma(t) ** 2
    torch.testing.assert_close(seen**2 * variance, torch.ones_like(t))
    a, b = karras_target(SD)(path, t)
    torch.testing.assert_close(a**2 * SD**2 + b**2, torch.ones_like(t))


def test_the_scalings_are_table_1_of_the_paper():
    """On the EDM path: D = c_skip x + c_out F with Karras' c_skip, c_out, c_in and c_noise."""
    sigma, x, f = torch.tensor([0.02, 0.7, 30.0]), torch.randn(3, 2), torch.randn(3, 2)
    calls = []
    net = InputScaling(lambda *call: calls.append(call) or f, EDM(), SD)
    got = Denoiser(net, EDM(), karras_target(SD))(x, sigma)
    total = (sigma**2 + SD**2)[:, None]
    skip, out = SD**2 / total, sigma[:, None] * SD / total.sqrt()
    torch.testing.assert_close(got, skip * x + out * f)
    torch.testing.assert_close(calls[0][0], x / total.sqrt())
    torch.testing.assert_close(calls[0][1], sigma.log() / 4)


def test_c_skip_minimises_c_out():
    """c_out^2 = (1 - c_skip)^2 sd^2 + c_skip^2 sigma^2 has slope 0 at EDM's c_skip."""
    sigma = torch.tensor([0.02, 0.7, 30.0])
    skip = (SD**2 / (sigma**2 + SD**2)).requires_grad_()
    out_sq = (1 - skip) ** 2 * SD**2 + skip**2 * sigma**2
    (slope,) = torch.autograd.grad(out_sq.sum(), skip)
    torch.testing.assert_close(slope, torch.zeros(3), atol=1e-12, rtol=0)
    torch.testing.assert_close(out_sq.detach(), sigma**2 * SD**2 / (sigma**2 + SD**2))


@every_path
def test_gaussian_data_need_no_network(path):
    """For N(0, sd^2) the exact D is c_skip x, so F = 0 is optimal; its loss is the variance, 1."""
    data = GaussianMixture(torch.zeros(1, 2), torch.tensor(SD**2))
    t, x = interior(path), torch.randn(7, 2)
    model = Denoiser(lambda x, t: torch.zeros_like(x), path, karras_target(SD))
    torch.testing.assert_close(model(x, t), data.denoiser(path)(x, t))
    n = 20_000
    x0 = SD * torch.randn(n, 2)
    errors = model.errors(x0, t[3].expand(n))
    assert abs(errors.mean() - 1) < 4 * errors.std() / n**0.5


@pytest.mark.parametrize("path", [VPCosine(), Linear()], ids=name)
def test_a_net_sees_the_same_on_every_path(path):
    """At one log-SNR the scaled input and c_noise agree with the EDM path's."""
    sigma = torch.tensor([0.1, 1.0, 5.0])
    t = path.time_of_log_snr(-2 * sigma.log())
    seen = []
    for way, times in ((EDM(), sigma), (path, t)):
        x = way.perturb(torch.full((3, 1), 0.3), torch.full((3, 1), -1.1), times)
        InputScaling(lambda *call: seen.append(call) or call[0], way, SD)(x, times)
    for mine, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_log_normal_times():
    draws = log_normal_times(EDM(), 20_000, -1.2, 1.2, torch.Generator().manual_seed(0)).log()
    assert abs(draws.mean() + 1.2) < 4 * 1.2 / math.sqrt(20_000)
    assert abs(draws.std() - 1.2) < 4 * 1.2 / math.sqrt(40_000)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_bad_input(bad):
    with pytest.raises(ValueError, match="sigma_data"):
        InputScaling(nn.Identity(), EDM(), bad)
    with pytest.raises(ValueError, match="std"):
        unwrap(log_normal_times)(EDM(), 3, std=bad)


def test_the_empirical_floor_is_below_the_gaussian_baseline():
    """F = 0 has loss about 1 on scaled data; the best network on a finite set has less."""
    points = SD * torch.randn(50, 2)
    times = torch.full((4000,), 0.3)
    x0 = points[torch.randint(50, (4000,))]
    eps = torch.randn_like(x0)
    x_t = EDM().perturb(x0, eps, times)
    best = Empirical(points).denoiser(EDM())(x_t, times)
    weight = (0.3**2 + SD**2) / (0.3 * SD) ** 2  # EDM's lambda
    zero = Denoiser(lambda x, t: 0 * x, EDM(), karras_target(SD)).errors(x0, times, eps).mean()
    assert weight * (best - x0).square().mean() < zero
