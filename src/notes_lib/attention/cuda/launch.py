"""From machine code to a launch: the driver, called through ctypes.

The arguments of a kernel are the very structures that the emulator takes. The driver is called
without cuda-python, whose version 13.0 keeps a tensor map wherever Python puts an object, while the
driver wants it at a multiple of 64 bytes (NVIDIA/cuda-python, pull request 1692).
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_void_p
from functools import cache, lru_cache

import torch
from torch import Tensor

from .compile import compile_kernel
from .kernel import Kernel

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
SIGNATURES = {
    "cuInit": [c_uint],
    "cuGetErrorString": [c_int, c_void_p],
    "cuDeviceGet": [c_void_p, c_int],
    "cuDevicePrimaryCtxRetain": [c_void_p, c_int],
    "cuCtxPushCurrent_v2": [c_void_p],
    "cuCtxPopCurrent_v2": [c_void_p],
    "cuModuleLoadData": [c_void_p, c_char_p],
    "cuModuleGetFunction": [c_void_p, c_void_p, c_char_p],
    "cuFuncSetAttribute": [c_void_p, c_int, c_int],
    "cuLaunchKernel": [c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p],
    "cuTensorMapEncodeTiled": [c_void_p, c_int, c_uint, *[c_void_p] * 5, *[c_int] * 4],
}
# Numbers of cuda.h, by their names there.
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
TENSOR_MAP_DATA_TYPE = {torch.float16: 6, torch.bfloat16: 9}
INTERLEAVE_NONE, SWIZZLE_128B, L2_PROMOTION_256B, OOB_FILL_ZEROS = 0, 3, 3, 0

Grid = tuple[int, int, int]


def launch(kernel: Kernel, like: Tensor, grid: Grid, *arguments: ctypes.Structure) -> None:
    """Run a kernel on the device of `like`, in its current stream; does not wait for it.

    The first launch of a kernel compiles and loads it, which a CUDA graph must not capture.

    Raises:
        ImportError: there is no compiler.
        RuntimeError: it refuses the kernel; no driver, or it refuses the launch.
    """
    function = loaded(kernel, like.device.index)
    stream = torch.cuda.current_stream(like.device).cuda_stream
    pointers = (c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
    shape = *grid, kernel.threads, 1, 1, kernel.shared
    with current_context(like.device.index):
        call("cuLaunchKernel", function, *shape, stream, pointers, None)


@cache
def loaded(kernel: Kernel, device: int) -> int:
    """Handle of the compiled kernel on a device, with the shared memory that it wants."""
    cubin = compile_kernel(kernel, arch(kernel, torch.cuda.get_device_capability(device)))
    with current_context(device):
        module = result("cuModuleLoadData", cubin.code)
        function = result("cuModuleGetFunction", module, kernel.entry.encode())
        call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.shared)
    return function


def arch(kernel: Kernel, capability: tuple[int, int]) -> str:
    """Compute capability as the compiler wants it, "sm_90a" on Hopper for all that it has.

    Raises:
        RuntimeError: a GPU of this capability cannot run the kernel.
    """
    name = "sm_{}{}".format(*capability) + "a" * (capability == (9, 0))
    if kernel.arch == 90 and capability != (9, 0):
        raise RuntimeError(f"{kernel.entry} needs sm_90a, a Hopper GPU; this one is {name}")
    if capability < (8, 0):
        raise RuntimeError(f"the kernels need sm_80 or later; this GPU is {name}")
    return name


# ------------------------------------------------------------------------------------- tensor maps


class TensorMap(ctypes.Structure):
    """What the TMA knows of a tensor: the driver writes it, the kernel gets it by value."""

    _fields_ = [("opaque", ctypes.c_uint64 * 16)]


def tensor_map(x: Tensor, rows: int) -> TensorMap:
    """Map of "b h n d" for boxes of `rows` x 64 elements, swizzled in lines of 128 bytes.

    What a box has beyond the last row is filled with zeros. Strides but the last, and the address,
    must be multiples of 16 bytes.
    """
    return encoded(x.data_ptr(), x.dtype, x.shape, x.stride(), rows, x.get_device())


@lru_cache(maxsize=256)
def encoded(
    address: int,
    dtype: torch.dtype,
    shape: torch.Size,
    strides: tuple[int, ...],
    rows: int,
    device: int,
) -> TensorMap:
    """Remembered, since a program attends to the same memory again and again."""
    sizes, box, ones = shape[::-1], (64, rows, 1, 1), (1, 1, 1, 1)
    memory = ctypes.create_string_buffer(ctypes.sizeof(TensorMap) + 128)
    made = TensorMap.from_buffer(memory, -ctypes.addressof(memory) % 128)
    steps = [stride * dtype.itemsize for stride in strides[-2::-1]]
    with current_context(device):
        call(
            "cuTensorMapEncodeTiled",
            ctypes.addressof(made), TENSOR_MAP_DATA_TYPE[dtype], len(sizes), address,
            numbers(ctypes.c_uint64, sizes), numbers(ctypes.c_uint64, steps),
            numbers(c_uint, box), numbers(c_uint, ones),
            INTERLEAVE_NONE, SWIZZLE_128B, L2_PROMOTION_256B, OOB_FILL_ZEROS,
        )  # fmt: skip
    return made


def numbers(kind: type, values: Sequence[int]) -> ctypes.Array:
    return (kind * len(values))(*values)


# ------------------------------------------------------------------------------------------ driver


@cache
def driver() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise RuntimeError(f"no NVIDIA driver: {LIBRARY} was not found") from error
    for name, types in SIGNATURES.items():
        getattr(library, name).argtypes = types
    library.cuInit(0)
    return library


def call(name: str, *arguments) -> None:
    """Call the driver; its answer must be success."""
    status = getattr(driver(), name)(*arguments)
    if status:
        text = c_char_p()
        driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")


def result(name: str, *arguments) -> int:
    """The handle or number that the driver writes to the address it is given first."""
    written = c_size_t()
    call(name, ctypes.byref(written), *arguments)
    return written.value


@cache
def primary_context(device: int) -> int:
    """The context in which PyTorch works, too."""
    return result("cuDevicePrimaryCtxRetain", result("cuDeviceGet", device))


@contextmanager
def current_context(device: int) -> Iterator[None]:
    """A thread that has not used the device yet, as autograd's may, has no context of its own."""
    call("cuCtxPushCurrent_v2", primary_context(device))
    try:
        yield
    finally:
        result("cuCtxPopCurrent_v2")
