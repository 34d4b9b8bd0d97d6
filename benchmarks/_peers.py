"""Drive the schedulers of diffusers 0.42 with one of our denoisers, on a grid of our own.

A scheduler is given its tables in float64, in place of those it would make. What it casts to
float32 inside `step` (DPMSolverMultistep, EulerDiscrete, FlowMatchEuler) it still casts.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import diffusers
import torch
from torch import Tensor

from notes_lib.core.oracle import Denoise
from notes_lib.diffusion import EDM, GaussianPath, Level, Linear, VPCosine

Encode = Callable[[Tensor, Tensor, Level], Tensor]  # (x, x0_hat, level) -> the network's output


class Peer(NamedTuple):
    """A scheduler, the path on which its samples live, and what it takes for a network's output."""

    make: Callable[[], object]
    path: GaussianPath
    encode: Encode = lambda x, x0_hat, level: x0_hat
    install: Callable[[object, Tensor], None] = lambda scheduler, ratios: None
    calls: int = 1  # of the network, a step

    def run(self, denoise: Denoise, x: Tensor, ratios: Tensor) -> Iterator[Tensor]:
        """The sample after every call, from sigma/alpha = ratios[0] to ratios[-1].

        `denoise` and `x` belong to this peer's path.
        """
        scheduler = self.make()
        scheduler.set_timesteps(len(ratios) - 1)
        times = self.path.time_of_log_snr(-2 * ratios.log())
        levels = self.path.levels(times)[:-1]
        if self.calls == 2:  # s0, s1, s1, s2, s2, ...: a step's both ends
            levels = [level for level in levels for _ in range(2)][1:]
        scheduler.sigmas = ratios
        scheduler.timesteps = torch.arange(len(levels), dtype=torch.float64)
        self.install(scheduler, ratios)
        scheduler.set_begin_index(0)
        for time, level in zip(scheduler.timesteps, levels, strict=True):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, time)
            output = self.encode(x, denoise(x, level.time), level)
            x = scheduler.step(output, time, x).prev_sample
            yield x


def flow_velocity(x: Tensor, x0_hat: Tensor, level: Level) -> Tensor:
    return (x - x0_hat) / level.sigma


def eps(x: Tensor, x0_hat: Tensor, level: Level) -> Tensor:
    return (x - level.alpha * x0_hat) / level.sigma


def v(x: Tensor, x0_hat: Tensor, level: Level) -> Tensor:
    return (level.alpha * x - x0_hat) / level.sigma


def edm_output(x: Tensor, x0_hat: Tensor, level: Level, data_std: float = 0.5) -> Tensor:
    """F of D = c_skip x + c_out F."""
    total = data_std**2 + level.sigma**2
    return (x0_hat - data_std**2 / total * x) * total**0.5 / (level.sigma * data_std)


def both_ends(scheduler: object, ratios: Tensor) -> None:
    inner = ratios[1:-1].repeat_interleave(2)
    scheduler.sigmas = torch.cat([ratios[:1], inner, ratios[-1:]])


def linear_time(scheduler: object, ratios: Tensor) -> None:
    scheduler.sigmas = ratios / (1 + ratios)


def circle(scheduler: object, ratios: Tensor) -> None:
    scheduler.betas, scheduler.alphas = ratios / (1 + ratios**2).sqrt(), 1 / (1 + ratios**2).sqrt()


VP, VE, FLOW = VPCosine(), EDM(t_max=1e4), Linear()


def _vp(name: str, **config) -> Peer:
    config = {"prediction_type": "sample", "lower_order_final": False} | config
    return Peer(lambda: getattr(diffusers, name)(**config), VP)


def _edm(**config) -> Peer:
    config = {"lower_order_final": False, "final_sigmas_type": "sigma_min"} | config
    return Peer(lambda: diffusers.EDMDPMSolverMultistepScheduler(**config), VE, edm_output)


UNIPC, DEIS = "UniPCMultistepScheduler", "DEISMultistepScheduler"
COMPETITORS = {
    "DDIM": _edm(solver_order=1),
    "DPM-Solver++ 2M": _edm(),
    "DPM-Solver++ 3M": _edm(solver_order=3),
    "UniPC 2": _vp(UNIPC),
    "UniPC 3": _vp(UNIPC, solver_order=3),
    "UniPC 3, bh1": _vp(UNIPC, solver_order=3, solver_type="bh1"),
    "DEIS 3": _vp(DEIS, solver_order=3),
    "iPNDM": Peer(diffusers.IPNDMScheduler, VP, v, circle),
    "Heun": Peer(diffusers.HeunDiscreteScheduler, VE, eps, both_ends, calls=2),
}


def karras_ratios(count: int, low: float, high: float, rho: float) -> Tensor:
    ramp = torch.linspace(high ** (1 / rho), low ** (1 / rho), count, dtype=torch.float64)
    return ramp**rho


def exponential_ratios(count: int, low: float, high: float) -> Tensor:
    return torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64).exp()


def sample_peer(peer: Peer, denoise: Denoise, x: Tensor, ratios: Tensor) -> Tensor:
    """The peer's sample at sigma 0, from the denoiser and the start on the path x0 + sigma eps.

    Every multistep scheduler takes its last step, to sigma 0, in first order, where it does not
    break (bh1, DEIS): the last sample is then x0_hat at the last positive sigma.
    """

    def here(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = peer.path.alpha(t), peer.path.sigma(t)
        return denoise(x / alpha, sigma / alpha)

    to_zero = torch.cat([ratios, ratios.new_zeros(1)]) if peer.calls == 2 else ratios
    times = peer.path.time_of_log_snr(-2 * ratios[[0, -1]].log())
    *_, end = peer.run(here, x * peer.path.alpha(times[0]), to_zero)
    return end if peer.calls == 2 else here(end, times[1])
