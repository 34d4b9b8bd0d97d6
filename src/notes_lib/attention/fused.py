"""PyTorch's own kernel under this package's signature: the same numbers, sooner."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .softmax import check_heads, visible


def fused_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m e"],
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "b h n e"]:
    """The numbers of :func:`~notes_lib.attention.softmax.softmax_attention`, no scores kept.

    PyTorch aligns its causal mask top-left; here it is bottom-right, as everywhere in this package.

    Raises:
        ValueError: tensors that do not match.
    """
    check_heads(q, k, v)
    n, m = q.shape[2], k.shape[2]
    rows, cols = torch.arange(n, device=q.device), torch.arange(m, device=q.device)
    mask = visible(rows, cols, m - n, causal=True) if causal and 1 < n != m else None
    return scaled_dot_product_attention(
        q, k, v, mask, is_causal=causal and n == m, scale=scale, enable_gqa=True
    )
