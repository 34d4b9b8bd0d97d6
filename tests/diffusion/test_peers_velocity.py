"""Zero terminal SNR, v prediction and the SNR shift, against the schedulers of diffusers."""

from itertools import pairwise

import pytest
import torch

from notes_lib.diffusion import (
    Linear,
    SNRShift,
    VPTabulated,
    ZeroTerminalSNR,
    ddim,
    decode,
    encode,
    linear_betas,
    v_target,
)

diffusers = pytest.importorskip("diffusers", reason="peer: pip install -r requirements-peers.txt")
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr  # noqa: E402

SCALED = [root**2 for root in linear_betas(1000, 0.00085**0.5, 0.012**0.5)]  # Stable Diffusion's
SPACINGS = pytest.mark.parametrize("spacing", ["trailing", "linspace"])


def scheduler(betas, spacing, **options):
    """DDIMScheduler with v prediction, zero terminal SNR and float64 tables."""
    made = diffusers.DDIMScheduler(
        trained_betas=betas,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing=spacing,
        **options,
    )
    made.betas = rescale_zero_terminal_snr(torch.tensor(betas, dtype=torch.float64))
    made.alphas_cumprod = torch.cumprod(1 - made.betas, 0)
    made.final_alpha_cumprod = torch.tensor(1.0)
    return made


@pytest.mark.equation("eq-velocity-prediction-rescale")
@pytest.mark.parametrize("betas", [linear_betas(1000), SCALED], ids=["linear", "scaled"])
def test_rescaled_table(betas):
    theirs = rescale_zero_terminal_snr(torch.tensor(betas, dtype=torch.float64))
    ours = ZeroTerminalSNR(VPTabulated(betas), keep=1 / 1000)
    alpha_bar = ours.alpha(torch.arange(1001) / 1000) ** 2
    torch.testing.assert_close(torch.cumprod(1 - theirs, 0), alpha_bar[1:], rtol=0, atol=1e-13)
    torch.testing.assert_close(theirs, 1 - alpha_bar[1:] / alpha_bar[:-1], rtol=0, atol=1e-11)


def test_the_default_keeps_the_data_and_differs_from_theirs_by_little():
    """r = 0 in the place of r = 1/T moves no alpha of Stable Diffusion's chain by 1e-4."""
    path, t = VPTabulated(SCALED), torch.arange(1, 1001) / 1000
    gap = ZeroTerminalSNR(path).alpha(t) - ZeroTerminalSNR(path, keep=1 / 1000).alpha(t)
    assert 1e-6 < gap.abs().max() < 1e-4


@pytest.mark.equation("eq-velocity-prediction-rotation", "eq-velocity-prediction-inverse")
@SPACINGS
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_scheduler_with_v_prediction(spacing, eta):
    path = ZeroTerminalSNR(VPTabulated(SCALED), keep=1 / 1000)
    theirs = scheduler(SCALED, spacing)
    theirs.set_timesteps(20 if spacing == "trailing" else 1000)
    steps = theirs.timesteps.tolist()
    levels = path.levels(torch.tensor([*(k + 1 for k in steps), 0]) / 1000)
    assert levels[0].alpha == 0
    x = torch.randn(4, 3)
    for i, (k, (t, s)) in enumerate(zip(steps, pairwise(levels), strict=True)):
        if i % (len(steps) // 20) and k:
            continue  # every step would be the same claim: 20 of them and the last
        v_hat, z = torch.sin(2 * x) + t.time * x, torch.randn_like(x)

        def denoise(x, time, v_hat=v_hat):
            return decode(v_target, path, x, v_hat, time)

        mine, _ = ddim(eta, noise=lambda _, z=z: z)([t, s])[0](denoise, x, None)
        x = theirs.step(v_hat, k, x, eta=eta, variance_noise=z).prev_sample
        torch.testing.assert_close(x, mine, atol=1e-10, rtol=1e-10)


def test_leading_timesteps_never_visit_the_end():
    """The spacing that diffusers takes by default starts with signal left, rescaled or not."""
    theirs = scheduler(SCALED, "leading", steps_offset=1)
    theirs.set_timesteps(50)
    assert theirs.timesteps[0] == 981
    assert theirs.alphas_cumprod[theirs.timesteps[0]] > 1e-6 > theirs.alphas_cumprod[-1]


@pytest.mark.equation("eq-velocity-prediction-v")
def test_get_velocity():
    theirs = scheduler(SCALED, "trailing")
    path = ZeroTerminalSNR(VPTabulated(SCALED), keep=1 / 1000)
    k, x0, eps = torch.tensor([0, 10, 500, 999]), torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    ours = encode(v_target, path, x0, eps, (k + 1) / 1000)
    torch.testing.assert_close(theirs.get_velocity(x0, eps, k), ours, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("m", [1.0, 3.0])
def test_shift_of_flow_matching(m):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=m)
    ours = SNRShift(Linear(), 1 / m**2).sigma(torch.arange(1000, 0, -1) / 1000)
    torch.testing.assert_close(theirs.sigmas[:1000].double(), ours, atol=1e-6, rtol=1e-6)
