"""The Hopper rung: which tiles it works on, and what it is told, for a launch and the emulator.

Why these tiles. A block has the 227 KB of shared memory of its multiprocessor to itself; a
consumer's thread has 240 registers. Longer tiles mean fewer barriers, and fewer times that O is
rescaled. So:

- forward, S, P and O in keys / 2 + keys / 4 + d / 2 registers: without a mask 176 keys for d = 128
  (196 registers, 208 KB), 192 for d = 64 (176, 112 KB). With a causal mask 128: a tile at the
  diagonal is computed whole, and half of it thrown away.
- dK and dV, each d / 2 registers, and S, dP, P, dS in 3 / 2 of the queries: 64 and 96 queries.
- dQ, in d / 2 registers, and S, dP, dS in 5 / 4 of the keys: 96 and 128 keys.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import chain, product, starmap

from torch import Tensor

from .kernel import Kernel
from .launch import TensorMap, tensor_map
from .params import Shape, Strided, exponents

CONSUMERS = 2  # warpgroups that compute; one more copies
ROWS = 64  # of one of them
OWNED = CONSUMERS * ROWS  # rows of a block
THREADS = 128 * (CONSUMERS + 1)
STAGES = 2
STAGES_BACKWARD = 3
BARRIERS = 16  # bytes of a stage
L2_BYTES = 32 << 20  # of 50 MB, for keys and values; the rest for what passes through
KEYS = {(128, False): 176, (64, False): 192, (128, True): 128, (64, True): 128}
WALKED = {128: (64, 96), 64: (96, 128)}  # rows of a tile, by d, for dK and dV and for dQ


def hopper_forward(d: int, causal: bool, half: bool, keys: int | None = None) -> Kernel:
    """v3: TMA, wgmma, warps that specialise. For sm_90a; no softcap.

    Args:
        keys: of a block; one of the widths of ``wgmma.py``.
    """
    keys = KEYS[d, causal] if keys is None else keys
    macros = ("D", d), ("CAUSAL", int(causal)), ("HALF", int(half)), ("KEYS", keys)
    tiles = (OWNED + 2 * STAGES * keys) * d * 2
    shared = tiles + (CONSUMERS + 2 * STAGES) * BARRIERS
    return Kernel("hopper_forward.cu", "hopper_forward", macros, THREADS, shared, OWNED, arch=90)


def hopper_backward(d: int, causal: bool, half: bool) -> tuple[Kernel, Kernel]:
    """v3, backward: the kernel of dk and dv, which owns keys, and that of dq, for queries."""

    def kernel(name: str, walked: int, rows: int) -> Kernel:
        macros = ("D", d), ("CAUSAL", int(causal)), ("HALF", int(half))
        macros += ("WALKED", walked), ("DKDV", int(rows > 0))
        stages = STAGES_BACKWARD * (2 * walked * d * 2 + rows * walked * 4 + BARRIERS)
        shared = 2 * OWNED * d * 2 + stages + BARRIERS
        return Kernel("hopper_backward.cu", name, macros, THREADS, shared, OWNED, arch=90)

    queries, keys = WALKED[d]
    dkdv = kernel("hopper_backward_dkdv", queries, rows=2)  # with lse and delta of the queries
    return dkdv, kernel("hopper_backward_dq", keys, rows=0)


CHOICES = tuple(product((64, 128), (False, True), (False, True)))
VARIANTS = *starmap(hopper_forward, CHOICES), *chain(*starmap(hopper_backward, CHOICES))


class HopperParams(ctypes.Structure):
    _fields_ = [
        *((name, TensorMap) for name in ("q", "k", "v")),
        ("out", Strided),
        ("lse", ctypes.c_void_p),
        ("shape", Shape),
        ("batch", ctypes.c_int),
        ("together", ctypes.c_int),
        ("scale_log2", ctypes.c_float),
        ("unused", ctypes.c_char * 56),  # to a multiple of 128, as tensor maps are aligned
    ]

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        kernel: Kernel,
        scale: float,
        window: int | None = None,
        encode: Callable[[Tensor, int], TensorMap] = tensor_map,
    ) -> HopperParams:
        """
        Args:
            kernel: the one to be launched; its tiles are the boxes of the tensor maps.
            encode: makes a map for boxes of so many rows; :func:`described` for the emulator.

        Raises:
            ValueError: strides that the TMA cannot walk.
        """
        macros = dict(kernel.macros)
        maps = encode(walkable(q), ROWS), *(encode(walkable(x), macros["KEYS"]) for x in (k, v))
        together = heads_together(q, k) if macros["CAUSAL"] else 1
        known = Shape.of(q, k, window), q.shape[0], together, exponents(scale, None)[0]
        return cls(*maps, Strided.of(out), lse.data_ptr(), *known)


class HopperBackwardParams(ctypes.Structure):
    _fields_ = [
        *((name, TensorMap) for name in ("q", "k", "v", "d_out")),
        *((name, Strided) for name in ("dq", "dk", "dv")),
        ("lse", ctypes.c_void_p),
        ("delta", ctypes.c_void_p),
        ("shape", Shape),
        ("scale", ctypes.c_float),
        ("scale_log2", ctypes.c_float),
        ("unused", ctypes.c_char * 116),  # to a multiple of 128
    ]

    @classmethod
    def of(
        cls,
        inputs: tuple[Tensor, Tensor, Tensor],
        d_out: Tensor,
        grads: tuple[Tensor, Tensor, Tensor],
        lse: Tensor,
        delta: Tensor,
        *,
        kernel: Kernel,
        scale: float,
        window: int | None = None,
        encode: Callable[[Tensor, int], TensorMap] = tensor_map,
    ) -> HopperBackwardParams:
        """
        Args:
            inputs, grads: q, k, v and what becomes of their gradients.
            kernel, encode: see :meth:`HopperParams.of`; each of the two kernels has its own boxes.

        Raises:
            ValueError: strides that the TMA cannot walk.
        """
        macros = dict(kernel.macros)
        queries, keys = (macros["WALKED"], ROWS)[:: 1 if macros["DKDV"] else -1]
        boxes = zip((*inputs, d_out), (queries, keys, keys, queries), strict=True)
        maps = [encode(walkable(x), rows) for x, rows in boxes]
        addresses = lse.data_ptr(), delta.data_ptr()
        shape = Shape.of(*inputs[:2], window)
        scales = scale, exponents(scale, None)[0]
        return cls(*maps, *map(Strided.of, grads), *addresses, shape, *scales)


def heads_together(q: Tensor, k: Tensor) -> int:
    """How many heads of q, at least one, have keys and values that fit in the L2 cache at once."""
    batch, heads = q.shape[:2]
    values = 2 * k.shape[1] * k.shape[2] * k.shape[3]  # and keys, of all heads
    return max(1, min(batch * heads, L2_BYTES * heads // (values * k.element_size())))


def walkable(x: Tensor) -> Tensor:
    """The same tensor, an axis of one entry with a stride that a tensor map accepts.

    Raises:
        ValueError: an address or stride that is no multiple of 16 bytes, an axis with stride 0.
    """
    step = 16 // x.element_size()
    strides = [s if size > 1 else x.shape[-1] for s, size in zip(x.stride(), x.shape, strict=True)]
    even = all(stride % step == 0 and stride for stride in strides[:-1])
    if x.data_ptr() % 16 or x.stride(-1) != 1 or not even:
        raise ValueError(
            "the TMA walks tensors with a contiguous last axis, all other strides multiples of 16 "
            f"bytes and not 0, and such an address; got strides {tuple(x.stride())} of "
            f"{x.element_size()} bytes at {x.data_ptr():#x}"
        )
    return x.as_strided(x.shape, (*strides[:-1], 1))


class Described(ctypes.Structure):
    """A tensor map that the emulator can read: ``Described`` of ``emulator/hopper.h``."""

    _fields_ = [
        ("base", ctypes.c_void_p),
        ("size", ctypes.c_longlong * 4),
        ("stride", ctypes.c_longlong * 4),
        ("box", ctypes.c_int * 4),
    ]


def described(x: Tensor, rows: int) -> TensorMap:
    """What :func:`notes_lib.attention.cuda.launch.tensor_map` makes, for the emulator."""
    strides = [stride * x.element_size() for stride in x.stride()]
    axes = (ctypes.c_longlong * 4)(*x.shape[::-1]), (ctypes.c_longlong * 4)(*strides[::-1])
    known = Described(x.data_ptr(), *axes, (ctypes.c_int * 4)(64, rows, 1, 1))
    made = TensorMap()
    ctypes.memmove(ctypes.addressof(made), ctypes.addressof(known), ctypes.sizeof(known))
    return made
