"""The reference: every score in memory, one softmax a row. What all other attention must equal."""

from collections.abc import Callable

import torch
from einops import einsum, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

Attend = Callable[..., Tensor]  # attend(q, k, v, *, causal=False) -> out "b h n e"


def visible(
    rows: Int[Tensor, " n"],
    cols: Int[Tensor, " m"],
    shift: int,
    *,
    causal: bool = False,
    window: int | None = None,
) -> Bool[Tensor, "n m"]:
    """Which keys `cols` the queries `rows` see; query i stands beside key i + `shift`.

    The causal mask of :eq:`eq-transformer-causal`.

    Args:
        shift: number of keys less number of queries, of the whole problem.
        causal: hide the keys behind the query's own place.
        window: hide the keys more than `window` places away, on either side; None hides none.

    Raises:
        ValueError: a negative window.
    """
    if window is not None and window < 0:
        raise ValueError(f"window must be None or at least 0, got {window}")
    back = rows[:, None] + shift - cols
    seen = torch.ones_like(back, dtype=torch.bool)
    if causal:
        seen &= back >= 0
    if window is not None:
        seen &= back.abs() <= window
    return seen


def scores(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "b h n m"]:
    r"""How well each key answers each query, before masks.

    .. math:: s = \tau\, q^\top k, \qquad s \leftarrow c \tanh(s / c)\ \text{ with a softcap } c

    With :math:`\tau = 1/\sqrt d` scores of unrelated vectors have variance 1, whatever the width:
    :eq:`eq-transformer-scale`.

    Args:
        scale: :math:`\tau`, :math:`1/\sqrt d` when None.
        softcap: bound on the magnitude of a score (Gemma 2, 2024); None sets no bound.
    """
    k = repeat(k, "b g m d -> b (g r) m d", r=q.shape[1] // k.shape[1])
    s = einsum(q, k, "b h n d, b h m d -> b h n m") * (
        q.shape[-1] ** -0.5 if scale is None else scale
    )
    return s if softcap is None else softcap * torch.tanh(s / softcap)


def attention_weights(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "b h n m"]:
    """The softmax of the scores over the keys that a query sees; 0 where it sees none.

    Arguments and errors: see :func:`softmax_attention`.
    """
    check_heads(q, k)
    n, m = q.shape[-2], k.shape[-2]
    rows, cols = (torch.arange(length, device=q.device) for length in (n, m))
    seen = visible(rows, cols, m - n, causal=causal, window=window)
    seen = seen if mask is None else seen & mask
    s = scores(q, k, scale, softcap).masked_fill(~seen, -torch.inf)
    return s.softmax(-1).masked_fill(~seen.any(-1, keepdim=True), 0.0)


def softmax_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m e"],
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "b h n e"]:
    r"""Scaled dot-product attention, Vaswani et al. (2017), eq. (1).

    .. math:: \operatorname{softmax}(\tau\, Q K^\top)\, V

    :eq:`eq-transformer-attention`.

    Args:
        causal, window: see :func:`visible`.
        scale, softcap: see :func:`scores`.
        mask: True where a query may see a key; broadcasts against "b h n m".

    Raises:
        ValueError: heads of q not a multiple of those of k and v, or tensors that do not match.
    """
    check_heads(q, k, v)
    options = dict(causal=causal, scale=scale, window=window, softcap=softcap, mask=mask)
    weights = attention_weights(q, k, **options)
    v = repeat(v, "b g m e -> b (g r) m e", r=q.shape[1] // v.shape[1])
    return einsum(weights, v, "b h n m, b h m e -> b h n e")


def check_heads(q: Tensor, k: Tensor, v: Tensor | None = None) -> None:
    """Raise ValueError unless the tensors go together: see the glossary of this package."""
    named = {"q": q, "k": k} | ({} if v is None else {"v": v})
    if any(x.ndim != 4 for x in named.values()):
        raise ValueError(
            f"q, k and v need four axes, batch, heads, length and width, got {shapes(named)}"
        )
    if len({(x.dtype, x.device) for x in named.values()}) > 1:
        found = ", ".join(f"{name} {x.dtype} on {x.device}" for name, x in named.items())
        raise ValueError(f"q, k and v need one dtype and one device, got {found}")
    if v is not None and v.shape[:3] != k.shape[:3]:
        raise ValueError(f"k and v need the same batch, heads and length, got {shapes(named)}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k need the same batch and width, got {shapes(named)}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"heads of q must be a multiple of those of k and v, got {shapes(named)}")


def shapes(named: dict[str, Tensor]) -> str:
    """The names and shapes of tensors, for a message."""
    return ", ".join(f"{name} {tuple(x.shape)}" for name, x in named.items())
