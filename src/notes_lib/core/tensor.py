"""Small tensor helpers shared by every package, and the checks of the public edge."""

from collections.abc import Callable

import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]  # x -> standard normal noise shaped like x


def expand_to(a: Tensor, x: Tensor) -> Tensor:
    """Append axes to `a`, of shape () or (b,), so that it broadcasts against `x` (b, ...)."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def seeded_noise(generator: torch.Generator) -> Noise:
    """Standard normal noise drawn from `generator`: what to pass where a solver takes `noise`."""
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


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
