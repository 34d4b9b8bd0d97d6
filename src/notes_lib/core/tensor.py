"""Small tensor helpers shared by every package, and the checks of the public edge."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Noise = Callable[[Tensor], Tensor]  # x -> standard normal noise shaped like x


def expand_to(a: Tensor, x: Tensor) -> Tensor:
    """Append axes to `a`, of shape () or (b,), so that it broadcasts against `x` (b, ...)."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def seeded_noise(generator: torch.Generator) -> Noise:
    """Standard normal noise drawn from `generator`: what to pass where a solver takes `noise`."""
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def slerp(
    x: Float[Tensor, " b *d"], y: Float[Tensor, " b *d"], weight: float | Float[Tensor, " b"]
) -> Float[Tensor, " b *d"]:
    r"""Spherical interpolation of each row of x with the same row of y: :eq:`eq-ddim-slerp`.

    .. math::
        \frac{\sin((1 - w)\theta)}{\sin\theta}\,x + \frac{\sin(w\theta)}{\sin\theta}\,y, \qquad
        \cos\theta = \frac{\langle x, y\rangle}{\lVert x\rVert\,\lVert y\rVert}

    Shoemake (1985). Every row has its own angle; where x and y are parallel this is their linear
    interpolation. `weight` is 0 at x and 1 at y, one for all rows or one a row.

    Raises:
        ValueError: x unlike y in shape or device, a row of zeros, or rows that point in opposite
            directions, between which no shortest arc exists.
    """
    check_same("x", x, "y", y)
    u, v = (z.flatten(1) / z.flatten(1).norm(dim=1, keepdim=True) for z in (x, y))
    far = (u + v).norm(dim=1)
    if not (far > torch.finfo(x.dtype).eps ** 0.5).all():
        raise ValueError("x and y must not hold rows of zeros, nor rows in opposite directions")
    theta = 2 * torch.atan2((u - v).norm(dim=1), far)
    w = torch.as_tensor(weight, dtype=x.dtype, device=x.device)
    full = torch.sinc(theta / math.pi)  # sin(theta) / theta, 1 where the rows are parallel
    near_x, near_y = (a * torch.sinc(a * theta / math.pi) / full for a in (1 - w, w))
    return expand_to(near_x, x) * x + expand_to(near_y, y) * y


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError unless `x` is a floating tensor without NaN and infinity."""
    if not x.is_floating_point():
        raise ValueError(f"{name} must be a floating tensor, got {x.dtype}")
    if bad := (~x.isfinite()).sum().item():
        raise ValueError(f"{name} must be finite, got {bad} of {x.numel()} entries NaN or infinite")


def check_same(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both tensors have one shape and one device."""
    if x.shape != other.shape:
        raise ValueError(
            f"{name} and {other_name} need one shape, got {tuple(x.shape)} and {tuple(other.shape)}"
        )
    if x.device != other.device:
        raise ValueError(
            f"{name} and {other_name} need one device, got {x.device} and {other.device}"
        )
