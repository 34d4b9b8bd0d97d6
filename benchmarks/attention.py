"""Attention: on a GPU every rung beside its peers, on a CPU the PyTorch twin beside PyTorch's own.

With a GPU, bfloat16, 16k tokens of 2048 channels in sequences of 512 to 16k: milliseconds (median,
10th and 90th percentile of up to 30 calls, the L2 cache emptied before each), TFLOP/s by the count
of Dao (2023): 4 b h n n d forward, 2.5 times that backward, half with a causal mask; and the error
against float64. All of it twice, to see its spread, with a large matrix product and a large copy
measured in the same run as ceilings. Into `attention.json`.

Without one, float32 and a causal mask: the time of the twin in times of PyTorch's attention, and
the memory that each needs (`_attention_cpu.py`). Into `attention_cpu.json`.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import chain, product

import _attention_cpu as cpu
import torch
from _attention import BACKWARD, FORWARD, OURS, OURS_BACKWARD, Problem, ceilings, timed
from _record import record, save, show, versions, write
from torch import Tensor

TOKENS, HIDDEN = 16384, 2048
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
COMPILED_LONG = ["flex_attention"]  # so last, and at few lengths
ONLY_AT = {"naive": LENGTHS[:4], "flex_attention": [4096, 16384]}
PACKAGES = ["triton", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13"]


def driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def gpu() -> dict:
    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory, GB": round(found.total_memory / 1e9),
        "driver": driver(),
        "CUDA of torch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        **versions(PACKAGES),
    }


def rows(names: list[str], end: float) -> Iterator[dict]:
    """A measurement each, until the time is up; the longest sequences first."""
    for turn, d, causal, length in product((1, 2), (128, 64), (False, True), reversed(LENGTHS)):
        wanted = [name for name in names if length in ONLY_AT.get(name, LENGTHS)]
        if not wanted:
            continue
        problem = Problem.of(d, length, causal, TOKENS, HIDDEN)
        out, *gradients = problem.exact()
        passes = ("forward", FORWARD, 2, [out]), ("backward", BACKWARD, 5, gradients)
        for direction, contenders, products, exact in passes:
            for name in filter(contenders.__contains__, wanted):
                if time.monotonic() > end:
                    return
                case = dict(turn=turn, d=d, causal=causal, length=length, name=name)
                found = measure(contenders[name], problem, exact, problem.flops(products))
                yield {"pass": direction} | case | found


@cache
def refusals() -> tuple[type[Exception], ...]:
    """What is raised where a problem is refused, and not by a mistake in a program.

    PyTorch and its compiler have RuntimeErrors for it (no memory, no kernel, not implemented) and
    ValueErrors (shapes); Triton has errors of its own, as for too much shared memory.
    """
    try:
        from triton.errors import TritonError
    except ImportError:
        return RuntimeError, ValueError
    return RuntimeError, ValueError, TritonError


def measure(make: Callable, problem: Problem, exact: list[Tensor], flops: float) -> dict:
    """The same keys whether it works or not: a peer may refuse a problem, or need more memory."""
    found = dict.fromkeys(["ms", "p10", "p90", "samples", "TFLOP/s", "error", "refused"])
    try:
        run = make(problem)
        found["error"] = error(run(), exact)
        found |= timed(run)
        found["TFLOP/s"] = flops / found["ms"] / 1e9
    except refusals() as refusal:
        found["refused"] = f"{type(refusal).__name__}: {str(refusal).strip()[:160]}"
    return found


def error(found: Tensor | tuple[Tensor, ...], exact: list[Tensor]) -> float:
    """The worst relative error in the last head of what the call returns."""
    found = found if isinstance(found, tuple) else (found,)
    pairs = zip((x[-1:, -1:].double() for x in found), exact, strict=True)
    return max(((x - y).norm() / y.norm()).item() for x, y in pairs)


def summary(found: list[dict], direction: str) -> list[dict]:
    """TFLOP/s, the mean of both turns, a column for each contender."""
    table = {}
    for row in found:
        if row["pass"] == direction and row["TFLOP/s"]:
            case = row["d"], row["causal"], row["length"]
            table.setdefault(case, {}).setdefault(row["name"], []).append(row["TFLOP/s"])
    return [
        dict(zip(("d", "causal", "length"), case, strict=True))
        | {name: round(statistics.mean(rates)) for name, rates in columns.items()}
        for case, columns in table.items()
    ]


def broken(found: list[dict]) -> list[str]:
    """Ours that refused, or whose error is beyond what rounding to bfloat16 explains."""
    ours = (row for row in found if row["name"] in {*OURS, *OURS_BACKWARD})
    return sorted({row["name"] for row in ours if not (row["error"] or 1) < 1e-2})


def on_gpu(left_out: set[str], seconds: float) -> None:
    torch.manual_seed(0)
    end = time.monotonic() + seconds
    if find_spec("triton") is None:
        left_out = left_out | {"triton"}  # the versions in the file say so
    names = [name for name in FORWARD | BACKWARD if name not in left_out]
    quick, slow = ([n for n in names if (n in COMPILED_LONG) == last] for last in (False, True))
    machine, best, found = [gpu()], list(ceilings()), []
    tables = dict(device=machine, ceilings=best, measurements=found)
    for row in chain(rows(quick, end), rows(slow, end)):
        found.append(row)
        save("attention", **tables)  # now: if the next kernel hangs, this process is killed
        torch.cuda.synchronize()  # raises if this one has broken the device for all that follow
        torch.cuda.empty_cache()
    write("attention", **tables)
    for table in (machine, best, summary(found, "forward"), summary(found, "backward")):
        show(table)
    if broken(found):
        sys.exit(f"Wrong, or refused: {', '.join(broken(found))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=900, help="to measure for, at most")
    parser.add_argument("--without", default="", help="names, with commas, not to measure")
    chosen = parser.parse_args()
    if torch.cuda.is_available():
        on_gpu(set(chosen.without.split(",")), chosen.seconds)
    else:
        tables = {"forward": cpu.forward, "forward and backward": cpu.forward_and_backward}
        record("attention_cpu", **{name: cpu.rows(run) for name, run in tables.items()})


if __name__ == "__main__":
    main()
