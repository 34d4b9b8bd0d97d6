"""Step by step against the schedulers of diffusers, on the same tables and the same noise.

diffusers keeps its tables in float32, where agreement ends at about 1e-5; given float64 tables it
agrees to 1e-10.
"""

from itertools import pairwise

import pytest
import torch

from notes_lib.diffusion import (
    VPTabulated,
    ancestral,
    ddim,
    linear_betas,
    posterior_variance,
    transition,
    uniform,
)

diffusers = pytest.importorskip("diffusers", reason="peer: pip install -r requirements-peers.txt")

BETAS = torch.tensor(linear_betas(1000), dtype=torch.float64)
DDPM = VPTabulated(BETAS.tolist())


def in_float64(scheduler):
    scheduler.alphas = 1 - BETAS
    scheduler.betas, scheduler.alphas_cumprod = BETAS, torch.cumprod(1 - BETAS, 0)
    scheduler.final_alpha_cumprod = scheduler.one = torch.tensor(1.0)
    return scheduler


def eps_net(x, t):
    """Any function of x and t will do for a parity test; this one is not linear."""
    return torch.sin(2 * x) + t * x


def denoise(x, t):
    alpha, sigma = DDPM.alpha(t), DDPM.sigma(t)
    return (x - sigma * eps_net(x, t)) / alpha


@pytest.mark.equation("eq-ddpm-sampler", "eq-ddpm-posterior")
def test_ddpm_scheduler(monkeypatch):
    scheduler = in_float64(diffusers.DDPMScheduler(trained_betas=BETAS.numpy(), clip_sample=False))
    levels = DDPM.levels(uniform(DDPM, 1000))
    steps = list(zip(range(1000, 0, -1), pairwise(levels), strict=True))
    for k, (t, s) in steps[::20] + steps[-2:]:
        x, z = torch.randn(2, 4, 3)
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, z=z, **__: z
        )
        mine, _ = ancestral(noise=lambda _, z=z: z)([t, s])[0](denoise, x, None)
        theirs = scheduler.step(eps_net(x, t.time), k - 1, x).prev_sample
        torch.testing.assert_close(theirs, mine, atol=1e-10, rtol=1e-10)


@pytest.mark.equation("eq-ddpm-posterior")
def test_ddpm_variance():
    scheduler = in_float64(diffusers.DDPMScheduler(trained_betas=BETAS.numpy()))
    levels = DDPM.levels(uniform(DDPM, 1000).flip(0))
    for k in (2, 500, 1000):
        theirs = scheduler._get_variance(k - 1).item()
        assert abs(theirs / posterior_variance(levels[k], levels[k - 1]) - 1) < 1e-9
        assert abs(transition(levels[k - 1], levels[k])[1] / BETAS[k - 1] - 1) < 1e-9


@pytest.mark.equation("eq-ddim-step", "eq-ddim-sigma")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_scheduler(eta):
    scheduler = in_float64(
        diffusers.DDIMScheduler(
            trained_betas=BETAS.numpy(),
            clip_sample=False,
            set_alpha_to_one=True,
            timestep_spacing="trailing",
        )
    )
    scheduler.set_timesteps(20)
    times = torch.cat([(scheduler.timesteps.double() + 1) / 1000, torch.zeros(1)])
    x = torch.randn(4, 3)
    for index, (t, s) in zip(scheduler.timesteps, pairwise(DDPM.levels(times)), strict=True):
        z = torch.randn_like(x)
        mine, _ = ddim(eta, noise=lambda _, z=z: z)([t, s])[0](denoise, x, None)
        eps_hat = eps_net(x, t.time)
        x = scheduler.step(eps_hat, int(index), x, eta=eta, variance_noise=z).prev_sample
        torch.testing.assert_close(x, mine, atol=1e-10, rtol=1e-10)
