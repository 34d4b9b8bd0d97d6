"""The cosine schedule and the learnt variance against diffusers."""

import pytest
import torch

from notes_lib.diffusion import TwoHeads, VPTabulated, cosine_betas, eps_target, learned_ancestral

diffusers = pytest.importorskip("diffusers", reason="peer: pip install -r requirements-peers.txt")


@pytest.mark.equation("eq-improved-ddpm-cosine")
@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_cosine_betas(steps):
    from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar

    theirs = betas_for_alpha_bar(steps).double()
    torch.testing.assert_close(torch.tensor(cosine_betas(steps)), theirs, atol=1e-7, rtol=0)


def net(padded, t):
    """Any two functions of x and t; neither is linear."""
    x = padded[:, :3]
    return torch.cat([torch.sin(2 * x) + t[:, None] * x, torch.cos(3 * x) - t[:, None]], 1)


@pytest.mark.equation("eq-improved-ddpm-range", "eq-ddpm-sampler")
@pytest.mark.parametrize("steps", [100, 20])
def test_learned_range(steps, monkeypatch):
    """Every step of a whole and of a strided chain, with the same noise.

    The last step of the strided chain is left out: there diffusers adds noise to the data.
    """
    betas = torch.tensor(cosine_betas(100))
    scheduler = diffusers.DDPMScheduler(
        trained_betas=betas.numpy(),
        variance_type="learned_range",
        clip_sample=False,
        num_train_timesteps=100,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod, scheduler.one = torch.cumprod(1 - betas, 0), torch.tensor(1.0)
    scheduler.set_timesteps(steps)
    chain = VPTabulated(betas.tolist())
    model = TwoHeads(net, chain, eps_target)
    times = torch.cat([(scheduler.timesteps.double() + 1) / 100, torch.zeros(1)])
    z = torch.randn(steps, 4, 3)
    draws = iter(z)
    mine = learned_ancestral(model.v, noise=lambda _: next(draws))(chain.levels(times))
    x = torch.randn(4, 3)
    for index, step, noise in zip(scheduler.timesteps, mine, z, strict=True):
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, n=noise, **__: n
        )
        t = (index + 1) / 100
        output = net(torch.cat([x, 0 * x], 1), t.reshape(1))
        ours, _ = step(model, x, None)
        x = scheduler.step(output, int(index), x).prev_sample
        if int(index) == 100 // steps - 1 > 0:
            break
        torch.testing.assert_close(x, ours, atol=1e-9, rtol=1e-9)
