"""Compile every variant for this machine's GPU, on all cores; the tests find them in the cache.

Its compiler may be another than the one that `tests/attention/test_compile.py` has heard.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import torch

from notes_lib.attention.cuda.compile import compile_kernel
from notes_lib.attention.cuda.hopper import hopper_backward, hopper_forward
from notes_lib.attention.cuda.kernel import Kernel
from notes_lib.attention.cuda.launch import arch
from notes_lib.attention.cuda.variants import VARIANTS


def complaint(kernel: Kernel, name: str) -> str | None:
    """What is wrong with a variant, if anything."""
    cubin = compile_kernel(kernel, name)
    if cubin.spills or cubin.stack or cubin.advisories:
        said = f"{cubin.spills} bytes spilled, {cubin.stack} of stack, {cubin.advisories}"
        return f"{kernel.entry} {dict(kernel.macros)}: {said}"
    return None


def main() -> None:
    capability, kernels = torch.cuda.get_device_capability(), list(VARIANTS)
    if capability == (9, 0):
        for choice in product((64, 128), (False, True), (False, True)):
            kernels += [hopper_forward(*choice), *hopper_backward(*choice)]
    names = [arch(kernel, capability) for kernel in kernels]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        complaints = list(filter(None, pool.map(complaint, kernels, names)))
    print(f"{len(kernels)} variants compiled for {names[0]}", *complaints, sep="\n")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
