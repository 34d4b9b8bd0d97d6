"""What the driver is told, by way of a driver that writes it down. No GPU runs anything here."""

import ctypes
import traceback
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from notes_lib.attention.cuda import launch as module
from notes_lib.attention.cuda.kernel import Kernel
from notes_lib.attention.cuda.launch import SIGNATURES, TensorMap, arch, launch, tensor_map

KERNEL = Kernel("file.cu", "entry", (("D", 64),), threads=96, shared=70000, rows=16)
CODE = b"\x7fELF\0code"
CONTEXT, MODULE, FUNCTION, STREAM = (0x7F00_0000_0000 + i for i in range(1, 5))  # need 64 bits


class Driver:
    """Called through ctypes, as the true one is; notes every call in `calls`."""

    def __init__(self):
        self.calls, self.contexts, self.failing = [], [], {}
        for name, types in SIGNATURES.items():
            # A callback gets a string only up to its first zero: better its address.
            types = [ctypes.c_void_p if t is ctypes.c_char_p else t for t in types]
            act = getattr(self, "on_" + name.removesuffix("_v2"), lambda *_: None)
            setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *types)(self.noting(name, act)))

    def noting(self, name, act):
        def called(*arguments):
            self.calls.append((name, arguments))
            try:
                act(*arguments)
            except Exception:  # ctypes would lose it
                traceback.print_exc()
                return 999
            return self.failing.get(name, 0)

        return called

    def names(self):
        return [name for name, _ in self.calls]

    def arguments(self, name):
        (found,) = (arguments for called, arguments in self.calls if called == name)
        return found

    def on_cuGetErrorString(self, status, written):
        ctypes.c_char_p.from_address(written).value = b"it does not please me"

    def on_cuDeviceGet(self, written, ordinal):
        ctypes.c_int.from_address(written).value = 10 + ordinal

    def on_cuDevicePrimaryCtxRetain(self, written, device):
        ctypes.c_void_p.from_address(written).value = CONTEXT + device

    def on_cuCtxPushCurrent(self, context):
        self.contexts.append(context)

    def on_cuCtxPopCurrent(self, written):
        ctypes.c_void_p.from_address(written).value = self.contexts.pop()

    def on_cuModuleLoadData(self, written, image):
        assert self.contexts and ctypes.string_at(image, len(CODE)) == CODE
        ctypes.c_void_p.from_address(written).value = MODULE

    def on_cuModuleGetFunction(self, written, loaded, name):
        assert loaded == MODULE and ctypes.string_at(name) == b"entry"
        ctypes.c_void_p.from_address(written).value = FUNCTION

    def on_cuLaunchKernel(self, *arguments):
        assert self.contexts == [CONTEXT + 11]
        at = (ctypes.c_void_p * 2).from_address(arguments[9])
        self.given = [kind.from_address(address) for kind, address in zip(KINDS, at, strict=True)]
        self.given = [(given.x, given.y) for given in self.given]

    def on_cuTensorMapEncodeTiled(self, written, kind, rank, address, *arrays_and_modes):
        assert written % 128 == 0 and self.contexts
        types = [ctypes.c_uint64] * 2 + [ctypes.c_uint] * 2
        lengths = rank, rank - 1, rank, rank
        self.map = [kind, rank, address]
        for at, number, length in zip(arrays_and_modes, types, lengths, strict=False):
            self.map.append(list((number * length).from_address(at)))
        ctypes.memset(written, 7, 128)


class Large(ctypes.Structure):
    _fields_ = [("x", ctypes.c_longlong), ("y", ctypes.c_float)]


class Small(ctypes.Structure):
    _fields_ = [("x", ctypes.c_short), ("y", ctypes.c_char)]


KINDS = Large, Small


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    compiled = []
    monkeypatch.setattr(module, "driver", lambda: driver)
    monkeypatch.setattr(
        module, "compile_kernel", lambda *a: compiled.append(a) or SimpleNamespace(code=CODE)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM)
    )
    driver.compiled = compiled
    yield driver
    module.loaded.cache_clear()
    module.primary_context.cache_clear()
    module.encoded.cache_clear()


def run(*arguments):
    with FakeTensorMode():
        like = torch.empty(1, device="cuda:1")
    launch(KERNEL, like, (5, 6, 7), *arguments)


def test_a_launch_tells_the_driver_everything_in_its_place(driver):
    run(Large(1 << 40, 0.5), Small(-3, b"z"))
    function, *numbers = driver.arguments("cuLaunchKernel")
    assert function == FUNCTION
    assert numbers[:8] == [5, 6, 7, 96, 1, 1, 70000, STREAM] and numbers[9] is None
    assert driver.given == [(1 << 40, 0.5), (-3, b"z")]
    assert driver.arguments("cuFuncSetAttribute") == (FUNCTION, 8, 70000)
    assert driver.contexts == []


def test_a_kernel_is_compiled_and_loaded_once_for_a_device(driver):
    for _ in range(3):
        run(Large(), Small())
    assert driver.names().count("cuLaunchKernel") == 3
    assert driver.names().count("cuModuleLoadData") == 1
    assert driver.names().count("cuDevicePrimaryCtxRetain") == 1
    assert driver.compiled == [(KERNEL, "sm_90a")]


def test_a_refusal_is_an_error_with_the_drivers_words_and_leaves_no_context(driver):
    driver.failing = {"cuLaunchKernel": 701}
    with pytest.raises(RuntimeError, match=r"cuLaunchKernel: it does not please me \(701\)"):
        run(Large(), Small())
    assert driver.contexts == []


def test_a_machine_without_a_driver_is_told_so(monkeypatch):
    module.driver.cache_clear()
    monkeypatch.setattr(module, "LIBRARY", "libnone.so.1")
    with pytest.raises(RuntimeError, match="no NVIDIA driver: libnone.so.1"):
        module.driver()


def test_a_tensor_map_describes_any_strides(driver):
    x = torch.zeros(3, 50, 4, 64, dtype=torch.bfloat16).transpose(1, 2)[:, 1:]
    made, again = (tensor_map(x, rows=32) for _ in range(2))
    assert made is again and driver.names().count("cuTensorMapEncodeTiled") == 1
    assert driver.contexts == []
    assert isinstance(made, TensorMap) and set(bytes(made)) == {7}
    kind, rank, address, sizes, strides, box, steps = driver.map
    assert (kind, rank, address) == (9, 4, x.data_ptr())
    assert sizes == [64, 50, 3, 3] and strides == [2 * 4 * 64, 2 * 64, 2 * 50 * 4 * 64]
    assert box == [64, 32, 1, 1] and steps == [1] * 4


def test_the_numbers_of_the_header_are_the_bindings_own():
    cuda = pytest.importorskip("cuda.bindings.driver")
    types, swizzles = cuda.CUtensorMapDataType, cuda.CUtensorMapSwizzle
    assert module.TENSOR_MAP_DATA_TYPE == {
        torch.float16: types.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        torch.bfloat16: types.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    }
    assert module.SWIZZLE_128B == swizzles.CU_TENSOR_MAP_SWIZZLE_128B
    promotions, fills = cuda.CUtensorMapL2promotion, cuda.CUtensorMapFloatOOBfill
    assert module.L2_PROMOTION_256B == promotions.CU_TENSOR_MAP_L2_PROMOTION_L2_256B
    assert module.OOB_FILL_ZEROS == fills.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
    none = cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE
    attribute = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert (module.INTERLEAVE_NONE, module.MAX_DYNAMIC_SHARED_SIZE_BYTES) == (none, attribute)


@pytest.mark.parametrize(
    "least, capability, name",
    [(80, (8, 0), "sm_80"), (80, (8, 9), "sm_89"), (80, (9, 0), "sm_90a"), (80, (12, 0), "sm_120"),
     (90, (9, 0), "sm_90a")],
)  # fmt: skip
def test_a_gpu_is_named_as_the_compiler_wants_it(least, capability, name):
    assert arch(Kernel("f.cu", "f", (), 1, 0, 1, least), capability) == name


@pytest.mark.parametrize("least, capability", [(80, (7, 5)), (90, (8, 0)), (90, (10, 0))])
def test_a_gpu_that_cannot_run_a_kernel_is_refused(least, capability):
    with pytest.raises(RuntimeError, match="sm_{}{}$".format(*capability)):
        arch(Kernel("f.cu", "f", (), 1, 0, 1, least), capability)
