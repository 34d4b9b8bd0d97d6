"""What ties the chapters together: one claim of two chapters, or more, a test."""

import math
from itertools import product

import pytest
import torch

from notes_lib.core import GaussianMixture, exact_divergence, odeint
from notes_lib.diffusion import (
    EDM,
    Denoiser,
    Linear,
    VPCosine,
    VPLinear,
    VPTabulated,
    ancestral,
    ddim,
    ddim_row,
    encode,
    eps_target,
    euler,
    linear_betas,
    reverse_sde_row,
    sample,
    velocity_target,
)

from .paths import PATHS, TARGETS, interior, name

MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
MIXTURE = GaussianMixture(MEANS, torch.tensor(0.3, dtype=torch.float64))
RATIOS = torch.tensor([8.0, 3.0, 1.0, 0.4, 0.1], dtype=torch.float64)


def test_ancestral_is_ddim_is_the_reverse_sde():
    """DDPM's step is DDIM's at eta 1, exactly; the reverse SDE's up to O(beta) at every stride 1.

    Ten times the steps, ten times smaller beta: the gap of the rows shrinks a hundredfold.
    """
    gaps = []
    for steps in (1000, 10_000):
        path = VPTabulated(linear_betas(steps, 0.1 / steps, 20 / steps))
        t, s = path.at(steps // 2, steps // 2 - 1)
        ddpm, sde = ddim_row(t, s, 1.0), reverse_sde_row(t, s, 1.0)
        x, z = torch.randn(3, 2), torch.randn(3, 2)
        one, two = (
            solver([t, s])[0](MIXTURE.denoiser(path), x, None)[0]
            for solver in (ancestral(noise=lambda _, z=z: z), ddim(1.0, lambda _, z=z: z))
        )
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0)
        gaps.append(max(abs(a - b) for a, b in zip(ddpm[:2], sde[:2], strict=True)))
    assert math.log10(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.1)


def test_four_names_of_one_step():
    """DDIM = Euler in sigma/alpha = Euler on the linear path = a rotation on the circle."""
    noise, ends = torch.randn(16, 2), []
    for path, solver in ((EDM(), euler), (Linear(), euler), (VPCosine(), ddim())):
        ts = path.time_of_log_snr(-2 * RATIOS.log())
        start, end = path.levels(ts[[0, -1]])
        x = sample(MIXTURE.denoiser(path), path, start.alpha * RATIOS[0] * noise, ts, solver)
        ends.append(x / end.alpha)
    path = VPCosine()
    phi = torch.atan(RATIOS)
    x = torch.cos(phi[0]) * RATIOS[0] * noise
    for a, b in zip(phi[:-1], phi[1:], strict=True):
        x0_hat = MIXTURE.denoiser(path)(x, a * 2 / math.pi)
        v = (torch.cos(a) * x - x0_hat) / torch.sin(a)
        x = torch.cos(a - b) * x - torch.sin(a - b) * v
    ends.append(x / torch.cos(phi[-1]))
    for other in ends[1:]:
        torch.testing.assert_close(other, ends[0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_every_conversion_commutes(path):
    """Read one target out of another through x0: the answer is the target itself."""
    t = interior(path)
    x0, eps = torch.randn(2, len(t), 3)
    x_t = path.perturb(x0, eps, t)
    for given, wanted in product(TARGETS, TARGETS):
        first, second = (encode(target, path, x0, eps, t) for target in (given, wanted))
        x0_hat = Denoiser(lambda x, t, said=first: said, path, given)(x_t, t)
        again = encode(wanted, path, x0_hat, path.eps_from_x0(x_t, x0_hat, t), t)
        torch.testing.assert_close(again, second, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("path", [VPLinear(), Linear()], ids=name)
def test_flow_matching_loss_is_the_noise_loss_reweighted(path):
    """At one time the two losses of one denoiser differ by a number, whatever the denoiser."""
    t = torch.full((50,), 0.4)
    x0, eps = torch.randn(2, 50, 2)
    ratios = []
    for shift in (0.1, 1.0):
        x_t = path.perturb(x0, eps, t)
        x0_hat = MIXTURE.denoiser(path)(x_t, t) + shift
        eps_hat = path.eps_from_x0(x_t, x0_hat, t)
        losses = [
            (encode(target, path, x0_hat, eps_hat, t) - encode(target, path, x0, eps, t))
            .square()
            .mean()
            for target in (velocity_target, eps_target)
        ]
        ratios.append(losses[0] / losses[1])
    torch.testing.assert_close(ratios[0], ratios[1])


@pytest.mark.parametrize("path", [VPLinear(), VPCosine(), Linear()], ids=name)
def test_log_likelihood_along_the_flow_is_that_of_the_mixture(path):
    """A continuous flow and the probability-flow ODE are one thing, and it knows log p."""

    def field(t, state):
        x = state[:, :2]
        v = lambda x: path.velocity(x, MIXTURE.denoiser(path)(x, t), t)
        return torch.cat([v(x), exact_divergence(v, x)[:, None]], 1)

    first, last = torch.tensor(0.1), torch.tensor(0.9)
    x, _ = MIXTURE.sample(20)
    state = torch.cat([x, torch.zeros(20, 1)], 1)
    end = odeint(field, state, torch.linspace(0.1, 0.9, 61))
    ends = MIXTURE.log_prob(end[:, :2], path.alpha(last), path.sigma(last))
    start = MIXTURE.log_prob(x, path.alpha(first), path.sigma(first))
    torch.testing.assert_close(ends + end[:, 2], start, atol=1e-6, rtol=1e-6)
