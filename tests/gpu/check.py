"""Everything that only a GPU can tell, in one command of at most nine minutes: `make gpu-check`.

    python3 tests/gpu/check.py --seconds 540 --rungs naive,flash_forward --without sanitizer

Rungs come in the order of their risk. Each is tested in a process of its own with a time limit,
for a wrong barrier waits for ever. What fails does not stop what follows, but is not timed.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TESTS = {
    "naive": ["test_forward.py", "-k", "naive"],
    "tensor_cores": ["test_forward.py", "-k", "tensor_cores"],
    "flash_forward": ["test_forward.py", "-k", "flash_forward"],
    "flash_backward": ["test_backward.py", "-k", "flash_backward"],
    "triton": ["test_triton.py"],
    "hopper_forward": ["test_forward.py", "-k", "hopper_forward"],
    "hopper_backward": ["test_backward.py", "-k", "hopper_backward"],
    "streams": ["test_streams.py"],
}
RUNGS = [name for name in TESTS if name != "streams"]
TOOLS = {  # of compute-sanitizer, with their options
    "memcheck": ["--report-api-errors", "no"],  # PyTorch asks for functions that may be missing
    "racecheck": [],
    "synccheck": [],
}
NEEDED = {
    "pytest": "pytest", "einops": "einops", "jaxtyping": "jaxtyping", "psutil": "psutil",
    "cpuinfo": "py-cpuinfo", "tabulate": "tabulate",
    "cuda.bindings": "cuda-bindings nvidia-cuda-nvrtc",
}  # fmt: skip
BENCHMARK_SECONDS = 200  # that the steps before it must leave
PATHS = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
ENVIRONMENT = {"PYTHONPATH": PATHS, "PYTHONUNBUFFERED": "1"}
SANITIZER = ENVIRONMENT | {
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",  # a tensor then has bounds of its own
    "NOTES_LIB_NVRTC": "--generate-line-info",  # and a mistake a line of the source
}


class Step(NamedTuple):
    name: str
    command: list[str]
    seconds: float
    environment: dict[str, str]


def test_step(name: str) -> Step:
    file, *selection = TESTS[name]
    options = "-o addopts= -p no:cacheprovider -m gpu -q -rs --tb=short --maxfail=4".split()
    command = [sys.executable, "-m", "pytest", *options, f"tests/gpu/{file}", *selection]
    seconds = 150 if name == "triton" else 80  # it compiles anew for each kind of length
    return Step(name, command, seconds, ENVIRONMENT)


def sanitizer_steps(rungs: list[str]) -> Iterator[Step]:
    """The rungs for every GPU together; those for Hopper, which could hang, apart."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    hopper = [name for name in rungs if name.startswith("hopper")]
    others = [name for name in rungs if name not in (*hopper, "triton")]
    for check in TOOLS:
        for group in filter(None, (others, hopper)):
            run = [sys.executable, "tests/gpu/small.py", *group]
            command = [tool, "--tool", check, *TOOLS[check], "--error-exitcode", "1", *run]
            yield Step(f"{check} {' '.join(group)}", command, 90, SANITIZER)


def benchmark_step(unsound: list[str], seconds: float) -> Step:
    options = ["--seconds", f"{seconds - 45:.0f}", "--without", ",".join(unsound)]
    command = [sys.executable, "benchmarks/attention.py", *options]
    return Step("benchmark", command, seconds, ENVIRONMENT)


def run(step: Step, left: float) -> str:
    """The outcome of a step, in a word; its output goes where ours goes."""
    print(f"\n===== {step.name}: {' '.join(step.command)}", flush=True)
    seconds = min(step.seconds, left)
    if seconds < 5:
        return "no time left"
    environment = os.environ | step.environment
    try:
        process = subprocess.Popen(step.command, cwd=ROOT, env=environment, start_new_session=True)
    except FileNotFoundError:
        return f"{step.command[0]} is not installed"
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"hangs, or takes more than {seconds:.0f} s"
    return "passed" if code == 0 else f"failed ({code})"


def installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def check_machine() -> tuple[int, int]:
    """The GPU's compute capability; or leave with the name of what is missing."""
    if importlib.util.find_spec("torch") is None:
        sys.exit("gpu-check needs a CUDA build of PyTorch, and this Python has no torch.")
    missing = [install for name, install in NEEDED.items() if not installed(name)]
    if missing:
        sys.exit(f"gpu-check needs more packages: pip install {' '.join(missing)}")
    import torch

    if not torch.cuda.is_available():
        sys.exit(f"gpu-check needs an NVIDIA GPU, and torch {torch.__version__} sees none.")
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    print(f"{name}, sm_{capability[0]}{capability[1]}, torch {torch.__version__}", flush=True)
    if capability < (8, 0):
        sys.exit(f"gpu-check needs a GPU of compute capability 8.0 or later, not {name}.")
    return capability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=540, help="for everything together")
    parser.add_argument("--rungs", default=",".join(RUNGS), help="which, with commas")
    parser.add_argument("--without", default="", help="sanitizer, benchmark, streams")
    chosen = parser.parse_args()
    rungs, without = chosen.rungs.split(","), chosen.without.split(",")
    if unknown := set(rungs) - set(RUNGS):
        parser.error(f"no such rungs: {', '.join(unknown)}; there are {', '.join(RUNGS)}")
    if check_machine() != (9, 0) and (left_out := [r for r in rungs if r.startswith("hopper")]):
        print(f"Not a Hopper GPU, so without {', '.join(left_out)}.")
        rungs = [name for name in rungs if name not in left_out]

    end, outcomes = time.monotonic() + chosen.seconds, {}
    reserve = 0 if "benchmark" in without else BENCHMARK_SECONDS
    steps = [Step("compile", [sys.executable, "tests/gpu/compile_all.py"], 90, ENVIRONMENT)]
    steps += [test_step(name) for name in rungs]
    steps += [] if "streams" in without else [test_step("streams")]
    steps += [] if "sanitizer" in without else sanitizer_steps(rungs)
    for step in steps:
        outcomes[step.name] = run(step, end - time.monotonic() - reserve)
    if "benchmark" not in without:
        unsound = [name for name in RUNGS if outcomes.get(name) != "passed"]
        left = end - time.monotonic()
        outcomes["benchmark"] = run(benchmark_step(unsound, left), left)

    print("\n===== summary")
    for name, outcome in outcomes.items():
        print(f"{name:60} {outcome}")
    sys.exit(any(outcome != "passed" for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
