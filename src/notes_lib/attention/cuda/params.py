"""What a kernel is told: the C structs of ``kernels/attention.cuh``, for launch and emulator."""

from __future__ import annotations

import ctypes
import math

from torch import Tensor

NO_WINDOW = 1 << 30  # farther than any key, and far enough from the greatest int to add a place


class Strided(ctypes.Structure):
    """A tensor "b h n d": its first element, and strides in elements."""

    _fields_ = [("data", ctypes.c_void_p)] + [
        (axis, ctypes.c_longlong) for axis in ("batch", "head", "row")
    ]

    @classmethod
    def of(cls, x: Tensor) -> Strided:
        return cls(x.data_ptr(), *x.stride()[:3])


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("heads", "groups", "queries", "keys", "window")]

    @classmethod
    def of(cls, q: Tensor, k: Tensor, window: int | None) -> Shape:
        window = NO_WINDOW if window is None else min(window, NO_WINDOW)
        return cls(q.shape[1], k.shape[1], q.shape[2], k.shape[2], window)


def exponents(scale: float, softcap: float | None) -> tuple[float, float]:
    """(scale_log2, inner): the exponential of a score is exp2(scale_log2 s).

    Here s is the product of q and k or, with a softcap c, tanh(inner q k), inner = scale / c.

    Raises:
        ValueError: either is not positive. The kernels take the greatest s for the greatest score.
    """
    if scale <= 0 or (softcap is not None and softcap <= 0):
        raise ValueError(f"the kernels want a positive scale and softcap, got {scale}, {softcap}")
    if softcap is None:
        return scale * math.log2(math.e), 0.0
    return softcap * math.log2(math.e), scale / softcap


class ForwardParams(ctypes.Structure):
    _fields_ = (
        [(name, Strided) for name in ("q", "k", "v", "out")]
        + [("lse", ctypes.c_void_p), ("shape", Shape)]
        + [(name, ctypes.c_float) for name in ("scale_log2", "inner")]
    )

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> ForwardParams:
        tensors = [Strided.of(x) for x in (q, k, v, out)]
        shape = Shape.of(q, k, window)
        return cls(*tensors, lse.data_ptr(), shape, *exponents(scale, softcap))


class DeltaParams(ctypes.Structure):
    _fields_ = (
        [(name, Strided) for name in ("d_out", "out")]
        + [(name, ctypes.c_void_p) for name in ("d_lse", "delta")]
        + [("queries", ctypes.c_int)]
    )

    @classmethod
    def of(cls, d_out: Tensor, out: Tensor, d_lse: Tensor | None, delta: Tensor) -> DeltaParams:
        rows = None if d_lse is None else d_lse.data_ptr(), delta.data_ptr()
        return cls(Strided.of(d_out), Strided.of(out), *rows, out.shape[2])


class BackwardParams(ctypes.Structure):
    _fields_ = (
        [(name, Strided) for name in ("q", "k", "v", "d_out", "dq", "dk", "dv")]
        + [("lse", ctypes.c_void_p), ("delta", ctypes.c_void_p), ("shape", Shape)]
        + [(name, ctypes.c_float) for name in ("scale", "scale_log2", "inner")]
    )

    @classmethod
    def of(
        cls,
        inputs: tuple[Tensor, Tensor, Tensor],
        d_out: Tensor,
        grads: tuple[Tensor, Tensor, Tensor],
        lse: Tensor,
        delta: Tensor,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> BackwardParams:
        tensors = [Strided.of(x) for x in (*inputs, d_out, *grads)]
        shape = Shape.of(*inputs[:2], window)
        rows = lse.data_ptr(), delta.data_ptr()
        return cls(*tensors, *rows, shape, scale, *exponents(scale, softcap))
