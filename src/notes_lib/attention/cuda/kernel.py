"""What a kernel is before it is compiled: its file, its macros, and the launch it needs."""

from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).with_name("kernels")


@dataclass(frozen=True)
class Kernel:
    """One compiled form of one file of ``kernels/``.

    Compiled by NVRTC for a GPU or by a C++ compiler for the emulator, launched from the same
    numbers by both.

    Args:
        file: its name in ``kernels/``.
        entry: name of its ``extern "C"`` function.
        macros: pairs of a name and an integer, defined before the file is read.
        threads: of a block.
        shared: bytes of dynamic shared memory of a block.
        rows: rows, of queries or of keys, that a block owns: its grid is (ceil(length / rows),
            heads, batch).
        arch: the least compute capability, 80 or 90; 90 means sm_90a.
    """

    file: str
    entry: str
    macros: tuple[tuple[str, int], ...]
    threads: int
    shared: int
    rows: int
    arch: int = 80

    def source(self) -> str:
        return (KERNELS / self.file).read_text()
