"""The Transformer's blocks, and the language model made of them."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..attention import Attend, softmax_attention
from .attention import KVCache, MultiHeadAttention, glorot
from .embed import PositionalEncoding, TokenEmbedding

Sublayer = Callable[[Tensor], Tensor]
Residual = Callable[[Tensor, nn.Module, Sublayer], Tensor]


def post_norm(x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
    r""":math:`\mathrm{LN}(x + f(x))`, as Vaswani et al. (2017): :eq:`eq-transformer-post-norm`."""
    return norm(x + sublayer(x))


def pre_norm(x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
    r""":math:`x + f(\mathrm{LN}(x))`, Xiong et al. (2020): :eq:`eq-transformer-pre-norm`."""
    return x + sublayer(norm(x))


class TransformerBlock(nn.Module):
    r"""Self-attention, then the same two-layer network at every place, each with its residual.

    .. math:: f(x) = W_2 \max(0, W_1 x + b_1) + b_2

    :eq:`eq-transformer-feed-forward`, Vaswani et al. (2017), eq. (2).

    Args:
        residual: where the LayerNorm goes, :func:`pre_norm` or :func:`post_norm`.
        attend, kv_heads: see :class:`~notes_lib.nn.attention.MultiHeadAttention`.
        expand: width of the hidden layer, in units of `dim`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        residual: Residual = pre_norm,
        attend: Attend = softmax_attention,
        kv_heads: int | None = None,
        expand: int = 4,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention = MultiHeadAttention(dim, heads, attend, kv_heads=kv_heads)
        self.feed_forward = nn.Sequential(
            glorot(dim, expand * dim), nn.ReLU(), glorot(expand * dim, dim)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "b n dim"], cache: KVCache | None = None, **options
    ) -> Float[Tensor, "b n dim"]:
        """`options` (causal, mask ...) go to `attend`."""
        first, last = self.norms
        x = self.residual(x, first, partial(self.attention, cache=cache, **options))
        return self.residual(x, last, self.feed_forward)


class CrossBlock(TransformerBlock):
    """A block that reads a `memory` too, between its self-attention and its feed-forward network.

    The arguments are those of :class:`TransformerBlock`.
    """

    def __init__(self, dim: int, heads: int, **options) -> None:
        super().__init__(dim, heads, **options)
        given = {name: options[name] for name in ("attend", "kv_heads") if name in options}
        self.cross = MultiHeadAttention(dim, heads, **given)
        self.norms.append(nn.LayerNorm(dim))

    def forward(
        self,
        x: Float[Tensor, "b n dim"],
        memory: Float[Tensor, "b m dim"],
        cache: KVCache | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        **options,
    ) -> Float[Tensor, "b n dim"]:
        """`memory_mask` is True where x may read the memory; `options` go to the self-attention."""
        first, middle, last = self.norms
        over = {} if memory_mask is None else {"mask": memory_mask}
        x = self.residual(x, first, partial(self.attention, cache=cache, **options))
        x = self.residual(x, middle, partial(self.cross, memory=memory, **over))
        return self.residual(x, last, self.feed_forward)


class Decoder(nn.Module):
    r"""A language model: tokens in, for every place the logits of the next token out.

    Tied embeddings, positions, causal blocks, a last LayerNorm.

    Args:
        block: makes a block of a given width, ``partial(TransformerBlock, heads=4)`` for example.
        positions: numbers of places to vectors;
            :class:`~notes_lib.nn.embed.PositionalEncoding` when None.

    Raises:
        ValueError: no layer.
    """

    def __init__(
        self,
        vocab: int,
        dim: int,
        layers: int,
        block: Callable[[int], nn.Module],
        positions: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        self.embed = TokenEmbedding(vocab, dim)
        self.positions = PositionalEncoding(dim) if positions is None else positions
        self.blocks = nn.ModuleList(block(dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, tokens: Int[Tensor, "b n"], caches: list[KVCache] | None = None
    ) -> Float[Tensor, "b n vocab"]:
        """Logits after each of the `tokens`, which follow those that the `caches` remember."""
        start = 0 if caches is None else len(caches[0])
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x = self.embed(tokens) + self.positions(places)
        for i, block in enumerate(self.blocks):
            x = block(x, cache=None if caches is None else caches[i], causal=True)
        return self.embed.logits(self.norm(x))

    def reader(self) -> Callable[[Tensor], Tensor]:
        """This model as a function that remembers: call it with the next tokens only."""
        return partial(self, caches=[KVCache() for _ in self.blocks])
