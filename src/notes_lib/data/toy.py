"""Points in the plane whose shape is known: toys on which a generative model can be judged."""

import math

import torch
from jaxtyping import Float
from sklearn.datasets import make_moons
from torch import Tensor


def ring_centres(modes: int = 8, radius: float = 2.0) -> Float[Tensor, "modes 2"]:
    """`modes` points, evenly spaced on a circle about the origin."""
    angles = 2 * math.pi * torch.arange(modes) / modes
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def ring(
    n: int,
    generator: torch.Generator | None = None,
    *,
    modes: int = 8,
    radius: float = 2.0,
    std: float = 0.15,
) -> Float[Tensor, "n 2"]:
    """n draws from equally likely round Gaussians, centred at :func:`ring_centres`.

    Exactly: ``GaussianMixture(ring_centres(modes, radius), torch.tensor(std**2))``.
    """
    mode = torch.randint(modes, (n,), generator=generator)
    return ring_centres(modes, radius)[mode] + std * torch.randn(n, 2, generator=generator)


def moons(
    n: int, generator: torch.Generator | None = None, *, std: float = 0.05
) -> Float[Tensor, "n 2"]:
    """n draws from two interleaved half circles of radius 1 with Gaussian noise, mixed.

    ``sklearn.datasets.make_moons``, seeded from `generator`.
    """
    seed = torch.randint(2**31, (), generator=generator).item()
    points, _ = make_moons(n, noise=std, random_state=seed)
    return torch.tensor(points, dtype=torch.get_default_dtype())


def checkerboard(n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
    """n draws, uniform on the eight black fields of a 4 x 4 board that fills [-2, 2] x [-2, 2]."""
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    field = torch.stack([column, row], 1)
    return field - 2 + torch.rand(n, 2, generator=generator)
