"""What a solver step costs beside the network: ours, diffusers' schedulers, a bare fused update.

The denoiser returns a constant, so that only the step is timed; one thread, float32, the median of
15 runs of 50 steps, the grid's set-up included. Each solver is a row with its peer in the same run;
`lerp` is one torch.lerp, the least any step can do. Heun makes two calls a step.
"""

import statistics
import time
from collections.abc import Callable

import diffusers
import torch
from _record import record

from notes_lib.diffusion import (
    VPTabulated,
    ancestral,
    ddim,
    dpmpp_2m,
    euler,
    heun,
    linear_betas,
    spread,
    trajectory,
)

SHAPES = [(1, 4, 64, 64), (16, 3, 32, 32)]
STEPS, REPEATS = 50, 15
PATH = VPTabulated(linear_betas(1000))
PEERS = {
    "ancestral": diffusers.DDPMScheduler(clip_sample=False),
    "ddim": diffusers.DDIMScheduler(clip_sample=False),
    "euler": diffusers.EulerDiscreteScheduler(),
    "heun": diffusers.HeunDiscreteScheduler(),
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler(),
}
OURS = {"ancestral": ancestral(), "ddim": ddim(), "euler": euler, "heun": heun}
OURS["dpmpp_2m"] = dpmpp_2m


def microseconds(run: Callable[[], None], calls: int) -> float:
    """Median time of one of the `calls` steps that `run` makes."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(times)


def our_run(step, x):
    ts, output = spread(1000, STEPS), torch.zeros_like(x)
    return lambda: [None for _ in trajectory(lambda x, t: output, PATH, x, ts, step)]


def peer_run(scheduler, x):
    output = torch.zeros_like(x)

    def run():
        scheduler.set_timesteps(STEPS)
        sample = x
        for t in scheduler.timesteps:
            scheduler.scale_model_input(sample, t)
            sample = scheduler.step(output, t, sample).prev_sample

    return run


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for shape in SHAPES:
        x = torch.randn(shape)
        lerp = microseconds(lambda x=x: [torch.lerp(x, x, 0.3) for _ in range(STEPS)], STEPS)
        for name, peer in PEERS.items():
            peer.set_timesteps(STEPS)
            ours = microseconds(our_run(OURS[name], x), STEPS)
            theirs = microseconds(peer_run(peer, x), STEPS)
            rows.append(
                {
                    "shape": "x".join(map(str, shape)),
                    "step": name,
                    "ours, us": ours,
                    "diffusers, us": theirs,
                    "lerp, us": lerp,
                    "ours / diffusers": ours / theirs,
                    "ours / lerp": ours / lerp,
                }
            )
    record("samplers", steps=rows)


if __name__ == "__main__":
    main()
