"""What the compiler says of every kernel: to hear it, no GPU is needed."""

import ctypes
import math
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import product
from pathlib import Path
from zipfile import ZipFile

import pytest

from notes_lib.attention.cuda import compile as module
from notes_lib.attention.cuda.compile import Cubin, compile_kernel
from notes_lib.attention.cuda.hopper import (
    HopperBackwardParams,
    HopperParams,
    hopper_backward,
    hopper_forward,
)
from notes_lib.attention.cuda.kernel import KERNELS, Kernel
from notes_lib.attention.cuda.params import BackwardParams, DeltaParams, ForwardParams
from notes_lib.attention.cuda.variants import VARIANTS

ROOT = Path(__file__).parents[2]
HEADS = tuple(product((64, 128), (False, True)))
REGISTERS = 65536  # of a multiprocessor
SHARED = {"sm_80": 163 << 10, "sm_90a": 227 << 10}  # bytes, that a block may have
PRODUCTS = {  # in a step: A B^T of two tiles, and P B of registers and a tile
    "tensor_cores": (1, 1),
    "flash_forward": (1, 1),
    "flash_backward_dkdv": (2, 2),
    "flash_backward_dq": (2, 1),
    "hopper_forward": (2, 2),  # those with the first and the last tile stand outside the loop
    "hopper_backward_dkdv": (2, 2),
    "hopper_backward_dq": (2, 1),
}


PARAMS = {  # those of the others are ForwardParams
    "row_delta": DeltaParams,
    "flash_backward_dkdv": BackwardParams,
    "flash_backward_dq": BackwardParams,
    "hopper_forward": HopperParams,
    "hopper_backward_dkdv": HopperBackwardParams,
    "hopper_backward_dq": HopperBackwardParams,
}


def chosen(kernel: Kernel, arch: str) -> bool:
    """Every size, mask and softcap on both GPUs, in bfloat16 on one and float16 on the other: all
    together would take twice as long. The first rungs also share out the masks."""
    macros, newer = dict(kernel.macros), arch == "sm_90a"
    teaches = kernel.entry in ("naive", "tensor_cores")
    return macros.get("HALF", newer) == newer and not (teaches and macros["CAUSAL"] != newer)


CASES = [
    *((kernel, arch) for arch in SHARED for kernel in VARIANTS if chosen(kernel, arch)),
    *((hopper_forward(d, causal, causal), "sm_90a") for d, causal in HEADS),
    *((k, "sm_90a") for d, causal in HEADS for k in hopper_backward(d, causal, not causal)),
]


def name(value):
    if isinstance(value, Kernel):
        return "-".join([value.entry, *(f"{key}{number}" for key, number in value.macros)])


@pytest.fixture(scope="module", autouse=True)
def _compiler(tmp_path_factory):
    """With a cache of its own, so that it is the compiler that speaks."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed; macOS has none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTES_LIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def expected(kernel: Kernel) -> dict[str, int]:
    """How many tensor-core instructions and matrix loads a step of the main loop unrolls to."""
    macros = dict(kernel.macros)
    d = macros["D"] // 16
    if kernel.entry == "naive":
        return {"mma.sync": 0, "ldmatrix": 0}
    if kernel.entry == "row_delta":
        return {"ld.global.v4": 2, "shfl.sync": int(math.log2(macros["D"] // 8))}
    abt, pb = PRODUCTS[kernel.entry]
    if kernel.arch == 90:
        walked = macros.get("KEYS") or macros["WALKED"]
        return {"wgmma.mma_async": abt * d + pb * walked // 16, "mma.sync": 0}
    rows, columns = kernel.rows // (16 * kernel.threads // 32), macros["BN"] // 8
    loads = abt * d * (rows + columns // 2) + pb * d * (columns // 2)
    return {
        "mma.sync": (abt + pb) * rows * columns * d,
        "ldmatrix": 0 if kernel.entry == "tensor_cores" else loads,
        "wgmma.mma_async": 0,
    }


def check_arguments(kernel: Kernel, cubin: Cubin) -> None:
    """The structure of a launch is as large as the kernel reads, and tensor maps are aligned."""
    align, size = map(
        int, re.search(r"\.param \.align (\d+) \.b8 \w+\[(\d+)\]", cubin.ptx).groups()
    )
    assert size == ctypes.sizeof(PARAMS.get(kernel.entry, ForwardParams))
    assert align == (128 if kernel.arch == 90 else 8)


def check_counts(kernel: Kernel, cubin: Cubin) -> None:
    wanted = expected(kernel)
    assert {instruction: cubin.count(instruction) for instruction in wanted} == wanted


@pytest.mark.parametrize("kernel, arch", CASES, ids=name)
def test_a_kernel_fits_and_has_all_its_instructions_and_no_advice(kernel, arch):
    cubin = compile_kernel(kernel, arch)
    assert cubin.code.startswith(b"\x7fELF")
    assert (cubin.spills, cubin.stack, cubin.advisories) == (0, 0, ())
    assert cubin.registers * kernel.threads <= REGISTERS
    assert cubin.shared + kernel.shared <= SHARED[arch]
    check_counts(kernel, cubin)
    check_arguments(kernel, cubin)
    other = "bf16.bf16" if dict(kernel.macros).get("HALF") else "f16.f16"
    assert f".f32.{other}" not in cubin.ptx


# ----------------------------------------------------------------------------- can the gates fail?


SOURCES = {}  # by file


class Text(Kernel):
    """A kernel that no file holds."""

    def source(self):
        return SOURCES[self.file]


def text(source, entry, **macros):
    file = f"text{len(SOURCES)}.cu"
    SOURCES[file] = source
    return Text(file, entry, tuple(macros.items()), 128, 0, 1)


def test_registers_that_do_not_suffice_are_reported():
    source = """
    extern "C" __global__ void __launch_bounds__(1024) spills(float* x) {
      float many[128];
    #pragma unroll
      for (int i = 0; i < 128; ++i) many[i] = x[7 * i + threadIdx.x];
      __syncthreads();
    #pragma unroll
      for (int i = 0; i < 128; ++i) x[5 * i + threadIdx.x] = many[127 - i];
    }
    extern "C" __global__ void fits(float* x) { x[threadIdx.x] = 0; }
    """
    spills, fits = (compile_kernel(text(source, entry), "sm_80") for entry in ("spills", "fits"))
    assert spills.spills > 0 and spills.stack > 0 and spills.registers == 64
    assert fits.spills == fits.stack == 0 and fits.code == spills.code
    assert (spills.count("bar.sync"), fits.count("bar.sync")) == (1, 0)


def test_advice_of_the_assembler_and_warnings_are_reported():
    source = """
    #include "hopper.cuh"
    extern "C" __global__ void __launch_bounds__(128) hasty(float* out, u64 a, u64 b) {
      float d[32] = {};
      int unused;
      wgmma_fence();
      Wgmma<64>::ss(d, a, b, 0);
      wgmma_commit();
    #pragma unroll
      for (int i = 0; i < 32; ++i) d[i] *= 2;  // while the product is still being made
      wgmma_wait<0>(d);
    #pragma unroll
      for (int i = 0; i < 32; ++i) out[128 * i + threadIdx.x] = d[i];
    }
    """
    cubin = compile_kernel(text(source, "hasty", D=64, CAUSAL=0, HALF=0, KEYS=64), "sm_90a")
    advice = "\n".join(cubin.advisories)
    assert "(C7517)" in advice and '"unused" was declared but never referenced' in advice


def test_a_generator_that_writes_no_wgmma_is_noticed(monkeypatch):
    """It compiles, without a spill and without a word."""
    empty = re.sub(r"asm volatile\(.*?\);", "", module.header(), flags=re.S)
    monkeypatch.setattr(module, "header", lambda: empty)
    kernel = hopper_forward(64, True, False)
    with pytest.raises(AssertionError, match="wgmma"):
        check_counts(kernel, compile_kernel(kernel, "sm_90a"))


# -------------------------------------------------------------------------------- the way there


def test_a_mistake_is_told_with_the_compilers_log():
    with pytest.raises(
        RuntimeError, match=r"(?s)sm_80.*-DD=64.*identifier \"mistake\" is undefined"
    ):
        compile_kernel(text('extern "C" __global__ void f() { mistake = D; }', "f", D=64), "sm_80")


@pytest.mark.parametrize("missing", ["cuda.bindings", "cuda.bindings.nvrtc"])
def test_without_the_compiler_the_error_says_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delattr("cuda.bindings.nvrtc", raising=False)
    with pytest.raises(ImportError, match="pip install cuda-bindings nvidia-cuda-nvrtc"):
        compile_kernel(VARIANTS[0], "sm_80")


def test_the_modules_are_imported_without_any_package_for_gpus():
    script = """
    import sys
    sys.modules.update({"cuda": None, "triton": None})
    import notes_lib.attention.cuda.device
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def test_without_the_compilers_library_too(monkeypatch):
    def refuse():
        raise RuntimeError("libnvrtc.so.13 was not found")

    monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcVersion", refuse)
    with pytest.raises(ImportError, match="pip install"):
        compile_kernel(VARIANTS[0], "sm_80")


def test_whatever_changes_the_code_compiles_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTES_LIB_CACHE", str(tmp_path))
    compiled = []
    nvrtc = module.run_nvrtc
    monkeypatch.setattr(module, "run_nvrtc", lambda *a: compiled.append(a) or nvrtc(*a))
    source = 'extern "C" __global__ void f(int* x) { *x = D; }'
    first = text(source, "f", D=1)
    assert compile_kernel(first, "sm_80") == compile_kernel(first, "sm_80")
    assert len(compiled) == 1
    compile_kernel(first, "sm_90a")
    compile_kernel(replace(first, macros=(("D", 2),)), "sm_80")
    monkeypatch.setitem(SOURCES, first.file, source.replace("D;", "-D;"))
    compile_kernel(first, "sm_80")
    header = module.header()
    monkeypatch.setattr(module, "header", lambda: header + "// another")
    compile_kernel(first, "sm_80")
    monkeypatch.setenv("NOTES_LIB_NVRTC", "--generate-line-info")
    compile_kernel(first, "sm_80")
    assert len(compiled) == 6


def test_the_package_ships_its_kernels(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    sources = [path for path in KERNELS.parent.rglob("*") if path.suffix in (".cu", ".cuh", ".h")]
    assert len(sources) > 5
    assert {path.relative_to(ROOT / "src").as_posix() for path in sources} <= set(
        ZipFile(wheel).namelist()
    )


def test_a_machine_with_a_gpu_gets_the_compiler_that_is_tested():
    pins = {}
    for kind in ("gpu", "peers"):
        lines = (ROOT / f"requirements-{kind}.txt").read_text().splitlines()
        pins[kind] = {line.split(" ;")[0] for line in lines if line[0] != "#"}
    assert pins["gpu"] and pins["gpu"] <= pins["peers"]
