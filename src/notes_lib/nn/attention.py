"""Attention as a module: projections, heads, and a memory of what was read."""

import copy

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..attention import Attend, softmax_attention


def glorot(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear map that keeps the size of its input, its bias zero: Glorot & Bengio (2010)."""
    layer = nn.Linear(inputs, outputs, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class KVCache:
    """Keys and values of the tokens read so far, "b g m d"; it starts empty."""

    def __init__(self) -> None:
        self.pair: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return 0 if self.pair is None else self.pair[0].shape[2]

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these last."""
        new = (k, v)
        if self.pair is not None:
            new = tuple(torch.cat(both, 2) for both in zip(self.pair, new, strict=True))
        self.pair = new
        return new


class MultiHeadAttention(nn.Module):
    r"""Attention in several subspaces at once, Vaswani et al. (2017), section 3.2.2.

    .. math:: \operatorname{concat}_i(\mathrm{head}_i)\,W^O = \sum_i \mathrm{head}_i\,W^O_i, \quad
        \mathrm{head}_i = \operatorname{attend}(x W^Q_i,\ y W^K_i,\ y W^V_i)

    with y the `memory`, or x itself: :eq:`eq-transformer-heads`.

    Args:
        dim: width of x; a head is dim / heads wide.
        attend: what a head computes, for example
            :func:`~notes_lib.attention.softmax.softmax_attention`.
        kv_heads: heads of keys and values, each read by heads / kv_heads queries (Ainslie et al.,
            2023); as many as `heads` when None.

    Raises:
        ValueError: a width that the heads do not divide, or heads that kv_heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        attend: Attend = softmax_attention,
        *,
        kv_heads: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if min(heads, kv_heads) < 1 or dim % heads or heads % kv_heads:
            raise ValueError(f"kv_heads | heads | dim must hold, got {kv_heads}, {heads}, {dim}")
        self.width, self.attend = dim // heads, attend
        self.q = glorot(dim, dim, bias)
        self.k = glorot(dim, kv_heads * self.width, bias)
        self.v = glorot(dim, kv_heads * self.width, bias)
        self.out = glorot(dim, dim, bias)

    def qkv(self, x: Float[Tensor, "b n dim"], memory: Float[Tensor, "b m dim"]) -> list[Tensor]:
        """Queries of x, keys and values of `memory`, each "b heads length width"."""
        flat = self.q(x), self.k(memory), self.v(memory)
        return [rearrange(y, "b n (h d) -> b h n d", d=self.width) for y in flat]

    def forward(
        self,
        x: Float[Tensor, "b n dim"],
        memory: Float[Tensor, "b m dim"] | None = None,
        cache: KVCache | None = None,
        **options,
    ) -> Float[Tensor, "b n dim"]:
        """What x finds in `memory`, or in the `cache` and itself; `options` go to `attend`."""
        q, k, v = self.qkv(x, x if memory is None else memory)
        if cache is not None:
            k, v = cache.extend(k, v)
        return self.out(rearrange(self.attend(q, k, v, **options), "b h n d -> b n (h d)"))


def with_attend(model: nn.Module, attend: Attend) -> nn.Module:
    """A copy of `model` in which every attention computes `attend`; the weights stay."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.attend = attend
    return model


def recorded_qkv(model: nn.Module, *inputs: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The (q, k, v) of every attention that ``model(*inputs)`` calls, in the order of the calls."""
    calls = []

    def attend(q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
        calls.append((q, k, v))
        return softmax_attention(q, k, v, **options)

    with_attend(model, attend)(*inputs)
    return calls
