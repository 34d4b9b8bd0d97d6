"""Conditioning by attention: how a network reads a sequence of tokens."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class CrossAttention(nn.Module):
    r"""Every position of x asks, every token of the context answers.

    .. math:: W_o\,\mathrm{softmax}\Bigl(\frac{(W_q x)(W_k y)^\top}{\sqrt{d}}\Bigr)\, W_v y + b

    in `heads` heads of width d = dim / heads. Vaswani et al. (2017), section 3.2; as a way to
    condition a diffusion model, Rombach et al. (2022), section 3.3. With one token the softmax is
    1, and the output the same for all positions.

    Raises:
        ValueError: a `dim` that `heads` does not divide.
    """

    def __init__(self, dim: int, context: int, heads: int = 4) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {heads}")
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context, dim, bias=False)
        self.to_v = nn.Linear(context, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b n dim"], y: Float[Tensor, "b m context"]
    ) -> Float[Tensor, "b n dim"]:
        q, k, v = (
            rearrange(z, "b n (h d) -> b h n d", h=self.heads)
            for z in (self.to_q(x), self.to_k(y), self.to_v(y))
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))
