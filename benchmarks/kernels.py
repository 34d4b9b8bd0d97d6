"""What the compiler makes of the attention kernels: registers, spills, shared memory, instructions.

Needs no GPU, only NVRTC: the numbers are those of its report and of the PTX.
"""

from itertools import product

from _record import record

from notes_lib.attention.cuda.compile import checked, compile_kernel, nvrtc
from notes_lib.attention.cuda.hopper import hopper_backward, hopper_forward
from notes_lib.attention.cuda.kernel import Kernel
from notes_lib.attention.cuda.variants import flash_backward, flash_forward, naive, tensor_cores

REGISTERS, SHARED, THREADS = 65536, 227 << 10, 2048  # of one multiprocessor of sm_90
ARCH = "sm_90a"


def ladder(d: int, causal: bool) -> list[Kernel]:
    rungs = [naive(d, causal)]
    rungs += [rung(d, causal, False) for rung in (tensor_cores, flash_forward, hopper_forward)]
    backwards = (flash_backward, hopper_backward)
    return [*rungs, *(kernel for pair in backwards for kernel in pair(d, causal, False))]


def resident(kernel: Kernel, registers: int) -> int:
    """Blocks that fit on a multiprocessor at once."""
    by_registers = REGISTERS // (registers * kernel.threads)
    return min(by_registers, SHARED // (kernel.shared + 1024), THREADS // kernel.threads)


def row(kernel: Kernel) -> dict:
    cubin = compile_kernel(kernel, ARCH)
    macros = dict(kernel.macros)
    return {
        "kernel": kernel.entry,
        "d": macros["D"],
        "causal": bool(macros["CAUSAL"]),
        "lines": len(kernel.source().splitlines()),
        "rows of a block": kernel.rows,
        "threads": kernel.threads,
        "registers": cubin.registers,
        "spilled bytes": cubin.spills,
        "shared, KB": kernel.shared / 1024,
        "blocks a multiprocessor": resident(kernel, cubin.registers),
        "mma": cubin.count("mma"),
        "wgmma": cubin.count("wgmma.mma_async"),
        "ldmatrix": cubin.count("ldmatrix"),
    }


def main() -> None:
    kernels = [k for d, causal in product((64, 128), (False, True)) for k in ladder(d, causal)]
    major, minor = checked(nvrtc().nvrtcVersion())
    record(
        "kernels",
        compiler=[{"nvrtc": f"{major}.{minor}", "arch": ARCH}],
        kernels=[row(kernel) for kernel in kernels],
    )


if __name__ == "__main__":
    main()
