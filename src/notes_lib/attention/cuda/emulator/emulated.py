"""A kernel as a function on the CPU: g++ compiles it with the models of its instructions."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..kernel import KERNELS, Kernel

HEADERS = Path(__file__).parent
OPTIONS = "-std=c++17 -O1 -fPIC -fvisibility=hidden -U_FORTIFY_SOURCE -w".split()

Edit = tuple[str, str, str]  # file of kernels/, text that occurs in it once, text in its place


class EmulationError(Exception):
    """The kernel did what a kernel must not: the message says what, and which thread."""


@dataclass(frozen=True)
class Emulated:
    """A kernel that runs on the CPU. Call it with the arguments of its launch."""

    kernel: Kernel
    library: ctypes.CDLL

    def __call__(
        self, grid: tuple[int, int, int], *arguments: ctypes.Structure, late: bool = False
    ) -> dict[str, int]:
        """Run every block of the grid; return what was counted.

        Args:
            late: do what is asynchronous only when the program waits for it, and change the order
                of the warps: see ``block.h``.

        Raises:
            EmulationError: a deadlock, an access out of bounds, or an instruction misused.
        """
        names = self.library.counter_names().decode().split()
        counts = (ctypes.c_ulonglong * len(names))()
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        launch = (ctypes.c_uint * 3)(*grid), self.kernel.threads, self.kernel.shared, int(late)
        error = self.library.emulate(pointers, *launch, counts)
        if error:
            raise EmulationError(error.decode())
        return dict(zip(names, counts, strict=True))


def build(kernel: Kernel, edits: Sequence[Edit] = ()) -> Emulated:
    """Compile a kernel for the CPU, once a process and kernel.

    Args:
        edits: changes to make to the source first, to see whether a mistake is noticed.

    Raises:
        FileNotFoundError: there is no g++.
        RuntimeError: g++ refused the source.
        ValueError: the text that an edit replaces is not there once.
    """
    return built(kernel, tuple(edits))


@functools.cache
def built(kernel: Kernel, edits: tuple[Edit, ...]) -> Emulated:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in edited(edits).items():
            Path(folder, name).write_text(text)
        library = Path(folder, "kernel.so")
        macros = [f"-D{name}={value}" for name, value in (("EMULATE", 1), *kernel.macros)]
        paths = [f"-I{path}" for path in (folder, core().name, HEADERS)]
        main = f'#include "{kernel.file}"\n#define ENTRY {kernel.entry}\n#include "launch.h"\n'
        inputs = ["-include", "block.h", "-xc++", "-", "-xnone", f"{core().name}/block.o"]
        compile_cpp(*macros, *paths, *inputs, "-shared", "-o", str(library), text=main)
        return Emulated(kernel, load(library))


@functools.cache
def core() -> tempfile.TemporaryDirectory:
    """A folder, there as long as the process, with what all kernels share, compiled.

    Its block.h.gch is what g++ takes for block.h: half of the time of a small kernel.
    """
    folder = tempfile.TemporaryDirectory()
    compile_cpp("-c", str(HEADERS / "block.cpp"), "-o", f"{folder.name}/block.o")
    compile_cpp("-xc++-header", str(HEADERS / "block.h"), "-o", f"{folder.name}/block.h.gch")
    return folder


def compile_cpp(*arguments: str, text: str = "") -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("the emulator compiles kernels with g++, which is not on the PATH")
    command = [compiler, *OPTIONS, *arguments]
    run = subprocess.run(command, input=text, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"g++ refuses:\n{text}\n{run.stderr}")


def edited(edits: Sequence[Edit]) -> dict[str, str]:
    """The kernels' files by name, with the edits made."""
    files = {path.name: path.read_text() for path in KERNELS.iterdir() if path.is_file()}
    for file, old, new in edits:
        if files[file].count(old) != 1:
            raise ValueError(f"{file} has {files[file].count(old)} places, not one, with: {old}")
        files[file] = files[file].replace(old, new)
    return files


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.counter_names.restype = library.emulate.restype = ctypes.c_char_p
    library.emulate.argtypes = [
        ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_uint), ctypes.c_int,
        ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(ctypes.c_ulonglong),
    ]  # fmt: skip
    return library
