"""The PyTorch twin of the kernels beside PyTorch's own attention, on a CPU.

Each measurement has a process of its own, so that its peak of memory is its own: what the process
held at most during the call, above what it held before. Linux tells; elsewhere the column is empty.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

LENGTHS = [1024, 2048, 4096, 8192, 16384]
BATCH, HEADS, WIDTH = 1, 4, 64
SECONDS = 3.0  # of repetitions after the first; the median of at most five


def twin(q, k, v):
    from notes_lib.attention import flash_attention

    return flash_attention(q, k, v, causal=True)


def sdpa(q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def inputs(length: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(BATCH, HEADS, length, WIDTH) for _ in range(3)]


def forward(attend: Callable, length: int) -> Callable[[], None]:
    qkv = inputs(length)

    def run():
        with torch.no_grad():
            attend(*qkv)

    return run


def forward_and_backward(attend: Callable, length: int) -> Callable[[], None]:
    qkv = [x.requires_grad_() for x in inputs(length)]
    return lambda: torch.autograd.grad(attend(*qkv).sum(), qkv) and None


def megabytes(field: str) -> float | None:
    """VmRSS, what the process holds now, or VmHWM, the most that it held."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return int(re.search(rf"{field}:\s+(\d+) kB", status.read_text()).group(1)) / 1e3


def measure(prepare: Callable, attend: Callable, length: int) -> tuple[float, float | None]:
    """Milliseconds (median), and megabytes at the peak."""
    prepare(attend, 128)()  # threads, libraries
    run = prepare(attend, length)
    before = megabytes("VmRSS")
    if before is not None:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    run()
    peak = None if before is None else megabytes("VmHWM") - before
    times, start = [], time.perf_counter()
    while not times or len(times) < 5 and time.perf_counter() - start < SECONDS:
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times), peak


def apart(*arguments) -> tuple[float, float | None]:
    """`measure` in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def rows(prepare: Callable) -> list[dict]:
    found = []
    for length in LENGTHS:
        (ours, our_peak), (theirs, their_peak) = (
            apart(prepare, attend, length) for attend in (twin, sdpa)
        )
        found.append(
            {
                "length": length,
                "twin, ms": ours,
                "SDPA, ms": theirs,
                "twin / SDPA": ours / theirs,
                "twin, peak MB": our_peak,
                "SDPA, peak MB": their_peak,
                "all scores, MB": BATCH * HEADS * length**2 * 4 / 1e6,
            }
        )
    return found
