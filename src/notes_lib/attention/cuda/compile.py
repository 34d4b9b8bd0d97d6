"""From a Kernel to machine code: NVRTC compiles, ptxas reports, a folder on disk remembers.

None of it needs a GPU, a driver or the CUDA toolkit, for pip installs the compiler. So the tests
hold every kernel to what the compiler says of it, on machines without a GPU.
"""

import os
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from types import ModuleType

from .cache import remembered
from .kernel import KERNELS, Kernel
from .wgmma import HEADER, header

INSTALL = "pip install cuda-bindings nvidia-cuda-nvrtc"


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel for one GPU, and what the compiler said of it.

    Args:
        code: the CUBIN, which the driver loads.
        ptx: the instructions from which ptxas made it.
        registers: of a thread.
        spills: bytes that a thread stores to and loads from memory for want of registers.
        stack: bytes of local memory of a thread: spilled registers, and arrays whose indices the
            compiler does not know.
        shared: bytes of static shared memory of a block.
        advisories: warnings, and what ptxas found worth a number, as (C7514), wgmma serialized.
    """

    code: bytes
    ptx: str
    registers: int
    spills: int
    stack: int
    shared: int
    advisories: tuple[str, ...]

    def count(self, name: str) -> int:
        """Instructions in the PTX that are called `name`, or `name` and more after a full stop."""
        predicate = r"(?:@!?%?\w+\s+)?"
        found = re.findall(rf"^\s*{predicate}{re.escape(name)}(?=[.\s;])", self.ptx, re.M)
        return len(found)


def compile_kernel(kernel: Kernel, arch: str) -> Cubin:
    """Machine code of `kernel` for `arch`, as "sm_80" or "sm_90a": from the cache, or compiled now.

    Raises:
        ImportError: NVRTC is not installed.
        RuntimeError: the source does not compile; the message is the compiler's log.
    """
    version = checked(nvrtc().nvrtcVersion())
    key = repr((version, options(kernel, arch), kernel.source(), headers()))
    name = f"kernels/{kernel.file.removesuffix('.cu')}-{arch}"
    found = remembered(name, key, lambda: run_nvrtc(kernel, arch))
    ptx = found["ptx"].split(f".entry {kernel.entry}(")[1].split(".entry ")[0]
    return Cubin(b64decode(found["code"]), ptx, **ptxas_report(found["log"], kernel.entry))


def options(kernel: Kernel, arch: str) -> list[str]:
    """What NVRTC is told; NOTES_LIB_NVRTC adds to it, as --generate-line-info for a profiler."""
    flags = ["--std=c++17", "--ptxas-options=-v", *os.environ.get("NOTES_LIB_NVRTC", "").split()]
    defines = [f"-D{name}={value}" for name, value in kernel.macros]
    return [f"--gpu-architecture={arch}", *flags, *defines]


def headers() -> dict[str, str]:
    """What a kernel may include, by name. NVRTC is handed these, and reads no file."""
    files = {path.name: path.read_text() for path in sorted(KERNELS.glob("*.cuh"))}
    return files | {HEADER: header()}


def nvrtc() -> ModuleType:
    """The bindings of NVRTC; where they are missing, an ImportError that says what to install."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # loads the compiler, which is a package of its own
    except (ImportError, RuntimeError) as error:
        raise ImportError(f"the kernels are compiled by NVRTC; to install it: {INSTALL}") from error
    return nvrtc


def run_nvrtc(kernel: Kernel, arch: str) -> dict[str, str]:
    """One compilation: machine code in base 64, PTX, and the log."""
    api, given, flags = nvrtc(), headers(), options(kernel, arch)
    named = kernel.source().encode(), kernel.file.encode()
    texts, names = ([word.encode() for word in words] for words in (given.values(), given))
    (program,) = checked(api.nvrtcCreateProgram(*named, len(given), texts, names))
    status, *_ = api.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    log = fetch(program, api.nvrtcGetProgramLogSize, api.nvrtcGetProgramLog).decode().strip("\0 \n")
    if int(status):
        raise RuntimeError(f"{kernel.file} does not compile with {' '.join(flags)}:\n{log}")
    code = fetch(program, api.nvrtcGetCUBINSize, api.nvrtcGetCUBIN)
    ptx = fetch(program, api.nvrtcGetPTXSize, api.nvrtcGetPTX)
    checked(api.nvrtcDestroyProgram(program))
    return {"code": b64encode(code).decode(), "ptx": ptx.decode(), "log": log}


def fetch(program, size, get) -> bytes:
    """A result of NVRTC, which writes into memory of the size it asks for."""
    (length,) = checked(size(program))
    result = bytearray(length)
    checked(get(program, result))
    return bytes(result)


def checked(answer: tuple) -> tuple:
    """What a call answers beside its status, which must be success."""
    status, *values = answer
    if int(status):
        raise RuntimeError(f"NVRTC answers {status.name}")
    return tuple(values)


def ptxas_report(log: str, entry: str) -> dict:
    """Fields of Cubin: what ``ptxas -v`` says of one kernel, and the warnings of the whole log."""
    kernels = dict(re.findall(r"entry function '(\w+)'(.*?)(?=Compiling entry|\Z)", log, re.S))

    def total(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, kernels[entry])))

    return {
        "registers": total(r"Used (\d+) registers"),
        "spills": total(r"(\d+) bytes spill"),
        "stack": total(r"(\d+) bytes stack frame"),
        "shared": total(r"(\d+) bytes smem"),
        "advisories": tuple(re.findall(r".*(?:warning|\(C\d+\)).*", log)),
    }
