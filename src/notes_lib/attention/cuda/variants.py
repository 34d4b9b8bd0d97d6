"""The rungs of the ladder for sm_80 and later: which macros and which launch each kernel needs.

Tiles are as large as the registers allow without spilling any: the tests compile them all.
"""

from itertools import product

from .kernel import Kernel

THREADS = 128  # of a block: four warps


def naive(d: int, causal: bool) -> Kernel:
    """v1: the online softmax, in float and without tensor cores."""
    queries, keys = 32, 16
    macros = dict(D=d, CAUSAL=causal, FLOAT=1, BN=keys)
    return Kernel("naive.cu", "naive", defined(macros), THREADS, 2 * keys * d * 4, queries)


def tensor_cores(d: int, causal: bool, half: bool) -> Kernel:
    """v1b: products on tensor cores; nothing overlaps, and shared memory is read with conflicts."""
    queries, keys = 64, 64
    macros = dict(D=d, CAUSAL=causal, HALF=half, BN=keys)
    shared = 2 * keys * d * 2  # K, V
    return Kernel("tensor_cores.cu", "tensor_cores", defined(macros), THREADS, shared, queries)


def flash_forward(d: int, causal: bool, half: bool, softcap: bool = False) -> Kernel:
    """v2: ldmatrix, swizzled tiles and copies in the background."""
    queries, keys = 128, 32 if d == 128 and softcap else 64
    macros = dict(D=d, CAUSAL=causal, HALF=half, SOFTCAP=softcap, BM=queries, BN=keys)
    shared = (queries + 3 * keys) * d * 2  # Q, two tiles of K, V
    return Kernel("flash_forward.cu", "flash_forward", defined(macros), THREADS, shared, queries)


def row_delta(d: int, half: bool) -> Kernel:
    """Before every backward pass: what its kernels subtract in each row."""
    threads, neighbours = 256, 8  # of a row, what a thread reads at once
    macros = dict(D=d, CAUSAL=False, HALF=half)  # it has no masks
    return Kernel("delta.cu", "row_delta", defined(macros), threads, 0, threads * neighbours // d)


def flash_backward(
    d: int, causal: bool, half: bool, softcap: bool = False
) -> tuple[Kernel, Kernel]:
    """v2, backward: the kernel of dk and dv, which owns keys, and that of dq, which owns rows."""
    macros = dict(D=d, CAUSAL=causal, HALF=half, SOFTCAP=softcap)
    walked = 32  # rows of a tile of the other side, of which there are two stages
    keys, queries = 128 if d == 64 and not softcap else 64, 128
    rows = 2 * 2 * walked * 4  # lse and delta of the queries of a stage

    def kernel(name: str, owned: int, extra: int) -> Kernel:
        sizes = dict(BM=owned, BN=walked, DKDV=name.endswith("dkdv"))
        shared = 2 * (owned + 2 * walked) * d * 2 + extra
        return Kernel("flash_backward.cu", name, defined(macros | sizes), THREADS, shared, owned)

    return kernel("flash_backward_dkdv", keys, rows), kernel("flash_backward_dq", queries, 0)


def defined(macros: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((name, int(value)) for name, value in macros.items())


BOTH = (False, True)
VARIANTS = (
    *(naive(d, causal) for d, causal in product((64, 128), BOTH)),
    *(tensor_cores(*choice) for choice in product((64, 128), BOTH, BOTH)),
    *(flash_forward(*choice) for choice in product((64, 128), BOTH, BOTH, BOTH)),
    *(row_delta(*choice) for choice in product((64, 128), BOTH)),
    *(k for choice in product((64, 128), BOTH, BOTH, BOTH) for k in flash_backward(*choice)),
)
