"""What a solver step costs beside the network: ours, diffusers' schedulers, a bare fused update.

The denoiser returns a constant, so that only the step is timed: one thread, float32, CPU time of
the thread (not of the clock, which other programs share), the median of 25 runs of 50 steps. `step`
leaves out what is done once a grid, which `grid` gives, a step's share of it. Peers are timed with
`set_timesteps` left out too. `lerp` is one torch.lerp, the least any step can do, in the same run.
Heun makes two calls a step.
"""

import statistics
import time
from collections.abc import Callable

import diffusers
import torch
from _record import record

from notes_lib.diffusion import (
    EDM,
    VPTabulated,
    adams,
    adams_moulton,
    ancestral,
    angle_form,
    asinh_ratio,
    bh2,
    ddim,
    deis,
    dpmpp_2m,
    dpmpp_3m,
    euler,
    graded,
    heun,
    linear_betas,
    log_ratio,
    spread,
    unipc,
)

SHAPES = [(1, 4, 64, 64), (16, 3, 32, 32)]
STEPS, REPEATS = 50, 25
DDPM, KARRAS = VPTabulated(linear_betas(1000)), EDM()
ANGLE, ASINH = angle_form(), asinh_ratio(0.25)
CASES = {
    "ancestral": (ancestral(), DDPM, diffusers.DDPMScheduler(clip_sample=False)),
    "ddim": (ddim(), DDPM, diffusers.DDIMScheduler(clip_sample=False)),
    "euler on EDM": (euler, KARRAS, diffusers.EulerDiscreteScheduler()),
    "heun": (heun, DDPM, diffusers.HeunDiscreteScheduler()),
    "dpmpp_2m": (dpmpp_2m, DDPM, diffusers.DPMSolverMultistepScheduler()),
    "dpmpp_3m": (dpmpp_3m, DDPM, diffusers.DPMSolverMultistepScheduler(solver_order=3)),
    "deis(3)": (deis(3, log_ratio), DDPM, diffusers.DEISMultistepScheduler(solver_order=3)),
    "unipc(2)": (unipc(2, bh2), DDPM, diffusers.UniPCMultistepScheduler()),
    "closed form, 4 slopes": (adams(ANGLE, ASINH, 4), KARRAS, diffusers.IPNDMScheduler()),
    "closed form, corrected": (
        adams_moulton(ANGLE, ASINH, 4), KARRAS, diffusers.UniPCMultistepScheduler(solver_order=3)
    ),
}  # fmt: skip


def microseconds(run: Callable[[], None], calls: int) -> float:
    """Median CPU time of this thread for one of the `calls` steps that `run` makes."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.thread_time()
        run()
        times.append((time.thread_time() - start) / calls * 1e6)
    return statistics.median(times)


def levels_of(path):
    return path.levels(spread(1000, STEPS) if path is DDPM else graded(path, STEPS))


def our_run(steps, x):
    output = torch.zeros_like(x)

    def run():
        sample, memory = x, None
        for step in steps:
            sample, memory = step(lambda x, t: output, sample, memory)

    return run


def peer_run(scheduler, x):
    output = torch.zeros_like(x)

    def run():
        scheduler.set_timesteps(STEPS)
        start, sample = time.thread_time(), x
        for t in scheduler.timesteps:
            scheduler.scale_model_input(sample, t)
            sample = scheduler.step(output, t, sample).prev_sample
        return (time.thread_time() - start) / STEPS * 1e6

    return statistics.median([run() for _ in range(REPEATS)][1:])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for shape in SHAPES:
        x = torch.randn(shape)
        for name, (solver, path, peer) in CASES.items():
            levels = levels_of(path)
            ours = microseconds(our_run(solver(levels), x), STEPS)
            lerp = microseconds(lambda x=x: [torch.lerp(x, x, 0.3) for _ in range(STEPS)], STEPS)
            grid = microseconds(lambda s=solver, p=path: s(levels_of(p)), STEPS)
            theirs = peer_run(peer, x)
            rows.append(
                {
                    "shape": "x".join(map(str, shape)),
                    "step": name,
                    "peer": type(peer).__name__,
                    "ours, us": ours,
                    "grid, us": grid,
                    "diffusers, us": theirs,
                    "lerp, us": lerp,
                    "ours / diffusers": ours / theirs,
                    "ours / lerp": ours / lerp,
                }
            )
    record("samplers", steps=rows)


if __name__ == "__main__":
    main()
