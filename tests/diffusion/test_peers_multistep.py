"""Multistep solvers, step by step against the schedulers of diffusers 0.42 on one schedule.

Each runs by itself from the same start with the same denoiser; every sample is compared. Two
schedulers cast the sample to float32 in every step (`CAST`); there agreement ends at 1e-5.
"""

import math

import pytest
import torch

from notes_lib.core import GaussianMixture
from notes_lib.diffusion import (
    bh1,
    bh2,
    deis,
    dpmpp_2m,
    dpmpp_3m,
    dpmpp_sde,
    eased,
    euler,
    exact_flow,
    heun,
    log_ratio,
    trajectory,
    unipc,
)

diffusers = pytest.importorskip("diffusers", reason="peer: pip install -r requirements-peers.txt")
peers = pytest.importorskip("_peers")

EXACT, CAST = 1e-9, 1e-5
ABOVE = torch.logspace(1.5, -1.5, 20, dtype=torch.float64)
TO_ZERO = torch.cat([ABOVE, torch.zeros(1, dtype=torch.float64)])
SAMPLE = {"prediction_type": "sample", "lower_order_final": False}


def vp(name, **config):
    return peers.Peer(lambda: getattr(diffusers, name)(**SAMPLE | config), peers.VP)


def edm_solver(**config):
    options = {"lower_order_final": False} | config
    make = lambda: diffusers.EDMDPMSolverMultistepScheduler(**options)
    return peers.Peer(make, peers.VE, peers.edm_output)


EULER = peers.Peer(diffusers.EulerDiscreteScheduler, peers.VE, peers.eps)
HEUN = peers.Peer(diffusers.HeunDiscreteScheduler, peers.VE, peers.eps, peers.both_ends, calls=2)
FLOW = peers.Peer(
    diffusers.FlowMatchEulerDiscreteScheduler, peers.FLOW, peers.flow_velocity, peers.linear_time
)
CASES = {
    "DPM-Solver++ 2M": (vp("DPMSolverMultistepScheduler"), dpmpp_2m, TO_ZERO, CAST),
    "DPM-Solver++ 2M, EDM": (edm_solver(), dpmpp_2m, TO_ZERO, EXACT),
    "UniPC 1": (vp("UniPCMultistepScheduler", solver_order=1), unipc(1, bh2), ABOVE, EXACT),
    "UniPC 2": (
        vp("UniPCMultistepScheduler", lower_order_final=True), unipc(2, bh2), TO_ZERO, EXACT
    ),
    "UniPC 2, bh1": (
        vp("UniPCMultistepScheduler", solver_type="bh1"), unipc(2, bh1), ABOVE, EXACT
    ),
    "UniPC 3": (vp("UniPCMultistepScheduler", solver_order=3), unipc(3, bh2), ABOVE, EXACT),
    "DEIS 2": (vp("DEISMultistepScheduler"), deis(2, log_ratio), ABOVE, EXACT),
    "DEIS 3": (vp("DEISMultistepScheduler", solver_order=3), deis(3, log_ratio), ABOVE, EXACT),
    "Euler": (EULER, euler, TO_ZERO, CAST),
    "Heun": (HEUN, heun, TO_ZERO, EXACT),
    "flow-match Euler": (FLOW, euler, TO_ZERO, CAST),
}  # fmt: skip


def denoise(path):
    """Any function of the ratio and x/alpha will do; this one is not linear."""

    def x0_hat(x, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        return torch.tanh(2 * x / torch.hypot(alpha, sigma)) * alpha / torch.hypot(alpha, sigma)

    return x0_hat


def both(peer, solver, ratios):
    times = peer.path.time_of_log_snr(-2 * ratios.log())
    x = peer.path.sigma(times[0]) * torch.randn(4, 3)
    theirs = list(peer.run(denoise(peer.path), x, ratios))
    if peer.calls == 2:  # a sample is new after the second call, and the last step has one
        theirs = theirs[1::2] + theirs[-1:]
    return theirs, list(trajectory(denoise(peer.path), peer.path, x, times, solver))


@pytest.mark.parametrize("name", CASES)
def test_step_by_step(name):
    peer, solver, ratios, tolerance = CASES[name]
    for theirs, ours in zip(*both(peer, solver, ratios), strict=True):
        torch.testing.assert_close(theirs, ours, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("solver_type", ["heun", "midpoint"])
def test_the_sde_solver_with_the_same_noise(solver_type, monkeypatch):
    """Their "heun" integrates exactly, as we do; their default "midpoint" halves, and differs."""
    config = {"algorithm_type": "sde-dpmsolver++", "solver_type": solver_type}
    peer = vp("DPMSolverMultistepScheduler", **config)
    z = torch.randn(len(TO_ZERO), 4, 3)
    module = "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor"
    draws, again = iter(z), iter(z)
    monkeypatch.setattr(module, lambda *_, **__: next(draws))
    theirs, ours = both(peer, dpmpp_sde(noise=lambda x: next(again)), TO_ZERO)
    gap = max((a - b).abs().max() for a, b in zip(theirs, ours, strict=True))
    assert gap < CAST if solver_type == "heun" else gap > 1e-3


def test_their_final_steps_are_of_lower_order():
    """UniPC-3 steps down, 3 2 1, before the noiseless level; ours only cannot use that level."""
    peer = vp("UniPCMultistepScheduler", solver_order=3, lower_order_final=True)
    theirs, ours = both(peer, unipc(3, bh2), TO_ZERO)
    gaps = [(a - b).abs().max().item() for a, b in zip(theirs, ours, strict=True)]
    assert max(gaps[:-2]) < EXACT and gaps[-2] > 1e-6


def test_their_unipc_bh1_breaks_on_the_noiseless_level():
    """B(h) = h is infinite there: NaN with the scheduler's own settings. Ours takes DDIM's step."""
    peer = vp("UniPCMultistepScheduler", solver_type="bh1", lower_order_final=True)
    theirs, ours = both(peer, unipc(2, bh1), TO_ZERO)
    assert theirs[-1].isnan().all() and ours[-1].isfinite().all()


def test_their_deis_repeats_the_last_sigma_of_a_karras_grid():
    scheduler = diffusers.DEISMultistepScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(10)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2] > 0


@pytest.mark.parametrize(("whose", "order"), [("theirs", 2), ("ours", 3)])
def test_their_third_order_is_second(whose, order):
    """Slopes on a Gaussian, whose ODE is known: the published 3M term loses an order."""
    peer = edm_solver(solver_order=3, final_sigmas_type="sigma_min")
    denoise = GaussianMixture(torch.tensor([[0.7]]), torch.tensor([[0.25]])).denoiser(peer.path)
    x, errors = torch.linspace(-2, 2, 9)[:, None], []
    for n in (64, 128):
        ts = eased(torch.logspace(0.5, -0.9, n + 1), 2 * int(math.log2(n)))  # sigma is time
        run = peer.run(denoise, x, ts) if whose == "theirs" else None
        *_, end = run or trajectory(denoise, peer.path, x, ts, dpmpp_3m)
        exact = exact_flow(x, peer.path, ts[0].item(), ts[-1].item(), 0.7, 0.25)
        errors.append((end - exact).abs().max().item())
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.15, errors
