"""What the emulator counts of every forward kernel, and which planted mistakes it notices.

Needs g++ and no GPU. One head of 256 queries, 256 keys, width 64, in bfloat16 (the first kernel in
float), without a mask. Conflicts are the turns that shared memory takes beyond one an access.
"""

import torch
from _record import record

from notes_lib.attention.cuda.emulator import attention, build, hopper
from notes_lib.attention.cuda.emulator.mutants import MUTANTS
from notes_lib.attention.cuda.hopper import hopper_forward
from notes_lib.attention.cuda.variants import flash_forward, naive, tensor_cores

LENGTH, WIDTH = 256, 64


def counts() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, LENGTH, WIDTH, generator=generator)
    rounded = [x.bfloat16() for x in (q, k, v)]
    choice = WIDTH, False, False
    runs = {
        "naive": attention.forward(build(naive(WIDTH, False)), q, k, v),
        "tensor_cores": attention.forward(build(tensor_cores(*choice)), *rounded),
        "flash_forward": attention.forward(build(flash_forward(*choice)), *rounded),
        "hopper_forward": hopper.forward(build(hopper_forward(*choice)), *rounded),
    }
    return [{"kernel": name} | found for name, (_, _, found) in runs.items()]


def study() -> list[dict]:
    """A mistake a row, with its symptom in each mode; None where it goes unnoticed."""
    return [
        {
            "mistake": mutant.what,
            "eager": mutant.symptom(late=False),
            "late": mutant.symptom(late=True),
            "why": mutant.why,
        }
        for mutant in (*MUTANTS, *hopper.MUTANTS)
    ]


if __name__ == "__main__":
    record("emulator", counts=counts(), mutants=study())
