"""What the attention kernels do, counted on the emulator, and which mistakes it notices.

Needs Linux and g++, no GPU. Counts are exact and the same on every machine: they say how often a
kernel does something, not how long it takes. `shared_cycles` and `bank_conflicts` are those of
loads, stores, ldmatrix and cp.async; what TMA and wgmma move is not among them.
"""

import shutil
import subprocess
from itertools import product

import torch
from _record import record

from notes_lib.attention.cuda.emulator import attention, build, hopper
from notes_lib.attention.cuda.emulator.attention import rows_of
from notes_lib.attention.cuda.emulator.mutants import MUTANTS, Mutant
from notes_lib.attention.cuda.emulator.problems import Problem, expected, layout_of
from notes_lib.attention.cuda.hopper import hopper_backward, hopper_forward
from notes_lib.attention.cuda.variants import flash_backward, flash_forward, naive, tensor_cores

PROBLEMS = {d: Problem(n=256, m=256, share=1) for d in (64, 128)}
FORWARD = {
    "v1": (lambda d: naive(d, False), attention),
    "v1b": (lambda d: tensor_cores(d, False, False), attention),
    "v2": (lambda d: flash_forward(d, False, False), attention),
    "v3": (lambda d: hopper_forward(d, False, False), hopper),
}
BACKWARD = {
    "v2": (lambda d: flash_backward(d, False, False), attention),
    "v3": (lambda d: hopper_backward(d, False, False), hopper),
}


def row(rung: str, kernel, d: int, counts: dict[str, int]) -> dict:
    problem = PROBLEMS[d]
    sizes = {"d": d, "queries": problem.n, "keys": problem.m}
    return {"rung": rung, "kernel": kernel.entry} | sizes | counts


def forward_row(rung: str, d: int) -> dict:
    variant, module = FORWARD[rung]
    kernel = variant(d)
    q, k, v, _ = PROBLEMS[d].tensors(*layout_of(kernel))
    return row(rung, kernel, d, module.forward(build(kernel), q, k, v)[2])


def backward_rows(rung: str, d: int) -> list[dict]:
    variant, module = BACKWARD[rung]
    kernels = variant(d)
    *inputs, d_out = tensors = PROBLEMS[d].tensors(*layout_of(kernels[0]))
    exact = expected(PROBLEMS[d], tensors)
    lse = rows_of(d_out).copy_(exact.lse)
    delta = rows_of(d_out).copy_((exact.out * d_out.double()).sum(-1))
    built = tuple(map(build, kernels))
    counts = module.backward(built, d_out, delta, tuple(inputs), lse)[1]
    return [row(rung, kernel, d, c) for kernel, c in zip(kernels, counts, strict=True)]


def mutant_row(mutant: Mutant) -> dict:
    rung, what = mutant.what.split(": ", 1)
    return {
        "of": rung,
        "mistake": what,
        "files": sorted({file for file, _, _ in mutant.edits}),
        "eager": mutant.symptom(late=False),
        "late": mutant.symptom(late=True),
        "why": mutant.why,
    }


def summary(rows: list[dict]) -> dict:
    return {"mistakes": len(rows)} | {
        f"noticed, {mode}": sum(row[mode] is not None for row in rows) for mode in ("eager", "late")
    }


def compiler() -> str:
    run = subprocess.run([shutil.which("g++"), "--version"], capture_output=True, text=True)
    return run.stdout.splitlines()[0]


def main() -> None:
    torch.set_num_threads(1)
    mutants = [mutant_row(mutant) for mutant in (*MUTANTS, *hopper.MUTANTS)]
    record(
        "emulator",
        compiler=[{"g++": compiler()}],
        forward=[forward_row(*choice) for choice in product(FORWARD, PROBLEMS)],
        backward=[r for choice in product(BACKWARD, PROBLEMS) for r in backward_rows(*choice)],
        mutants=mutants,
        study=[summary(mutants)],
    )


if __name__ == "__main__":
    main()
