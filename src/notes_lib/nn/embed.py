"""Embeddings of a time, a class, a token and a place: how a network is told what it works on."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
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


class PositionalEncoding(SinusoidalEmbedding):
    r"""Where a token stands, as a point on circles that turn at geometric speeds.

    .. math:: PE_{p,2i} = \sin(p\,\omega_i), \quad PE_{p,2i+1} = \cos(p\,\omega_i), \qquad
        \omega_i = 10000^{-2i/\mathrm{dim}}

    :eq:`eq-transformer-positions`, Vaswani et al. (2017), section 3.5.

    Raises:
        ValueError: an odd `dim`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, scale=1.0)

    def forward(self, places: Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        angles = places[:, None] * self.frequencies
        return rearrange([angles.sin(), angles.cos()], "two n i -> n (i two)")

    def shift(self, k: int) -> Float[Tensor, "dim dim"]:
        r"""The matrix of :math:`PE_{p+k} = R_k\,PE_p`, one for all p: :eq:`eq-transformer-shift`.

        It is a rotation, hence :math:`PE_p^\top PE_{p+k}` depends on k only:
        :eq:`eq-transformer-offset`.
        """
        sin, cos = (k * self.frequencies).sin(), (k * self.frequencies).cos()
        turns = rearrange([cos, sin, -sin, cos], "(r c) i -> i r c", r=2)
        return torch.block_diag(*turns)


class TokenEmbedding(nn.Module):
    r"""One matrix E that reads tokens and, transposed, scores the next one (Press & Wolf, 2017).

    .. math:: x = \sqrt{\mathrm{dim}}\,E_{\mathrm{token}}, \qquad \mathrm{logits} = E\,y

    :eq:`eq-transformer-tied`, Vaswani et al. (2017), section 3.4. Rows start with length about 1.
    """

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab, dim) / dim**0.5)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n dim"]:
        return self.table[tokens] * self.table.shape[1] ** 0.5

    def logits(self, y: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n vocab"]:
        return y @ self.table.T


class ClassEmbedding(nn.Module):
    r"""One learnt vector a class, and one more, the last, for "no class": number ``null``.

    :meth:`drop` replaces labels by null, which is how the null row learns: with it, a loss is
    :eq:`eq-classifier-free-guidance-drop`.

    Raises:
        ValueError: no classes; in use, a label outside 0 .. null.
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        self.null = classes
        self.table = nn.Embedding(classes + 1, dim)

    def drop(
        self, label: Int[Tensor, " b"], share: float, generator: torch.Generator | None = None
    ) -> Int[Tensor, " b"]:
        """`label` with each entry replaced by null with probability `share`, in [0, 1]."""
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {share}")
        draws = torch.rand(label.shape, generator=generator, device=label.device)
        return label.masked_fill(draws < share, self.null)

    def forward(self, label: Int[Tensor, " b"]) -> Float[Tensor, "b dim"]:
        if not ((label >= 0) & (label <= self.null)).all():
            raise ValueError(f"labels must lie in 0 .. {self.null}, got {label.tolist()}")
        return self.table(label)
