"""Small launches of the rungs that are named, to be run under compute-sanitizer.

    compute-sanitizer --tool racecheck python3 tests/gpu/small.py flash_forward flash_backward

They are compared with PyTorch on the CPU, where the sanitizer does not look.
"""

import sys
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.rungs import (
    BACKWARD,
    RUNGS,
    assert_as_good_as_pytorch,
    attention_and_gradients,
    gradients,
    inputs,
)

SHAPES = [(1, 2, 1, 200, 333), (2, 2, 2, 130, 70)]


def main() -> None:
    torch.manual_seed(0)
    for name, d, causal, shape in product(sys.argv[1:], (64, 128), (False, True), SHAPES):
        options = dict(causal=causal, scale=0.125)
        q, k, v = inputs(*shape, d=d, dtype=torch.float32 if name == "naive" else torch.bfloat16)
        if name in BACKWARD:
            ours = gradients(name, q, k, v, q, **options)  # q, for want of another gradient
        else:
            ours = RUNGS[name].attend(q, k, v, **options)[:1]
        given = [x.cpu() for x in (q, k, v, q)]
        half = attention_and_gradients(*given, **options)
        exact = attention_and_gradients(*(x.double() for x in given), **options)
        assert_as_good_as_pytorch([x.cpu() for x in ours], half, exact)
        print(f"{name}, width {d}, {'causal' if causal else 'all keys'}, {shape}", flush=True)


if __name__ == "__main__":
    main()
