"""Embeddings of a scalar: how a network is told the time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    r"""Sines and cosines of :math:`s\,t` at geometric frequencies, from 1 down to 1/`max_period`.

    .. math:: \bigl(\cos(s t\,\omega_i), \sin(s t\,\omega_i)\bigr), \qquad
        \omega_i = \mathrm{max\_period}^{-2i/\mathrm{dim}}

    Vaswani et al. (2017), section 3.5. Times here run from 0 to 1, so they are first multiplied by
    `scale`; 1000 gives the step numbers of DDPM.

    Raises:
        ValueError: an odd `dim`.
    """

    def __init__(self, dim: int, scale: float = 1000.0, max_period: float = 10_000.0) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"dim must be even and positive, got {dim}")
        powers = torch.arange(0, dim, 2) / dim
        self.register_buffer("frequencies", scale * torch.exp(-math.log(max_period) * powers))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b dim"]:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], -1)
