"""A residual MLP that knows the time: the smallest network that denoises small images well."""

from jaxtyping import Float
from torch import Tensor, nn

from .embed import SinusoidalEmbedding
from .modulation import AdaLayerNorm


class ResidualBlock(nn.Module):
    """x + W silu(AdaLayerNorm(x, c)); W is zero at the start, and the block the identity."""

    def __init__(self, hidden: int, condition: int) -> None:
        super().__init__()
        self.norm = AdaLayerNorm(hidden, condition)
        self.linear = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x + self.linear(nn.functional.silu(self.norm(x, c)))


class ResidualMLP(nn.Module):
    r"""A map of flattened samples, conditioned on time: (x_t, t) -> y, shaped like x_t.

    Args:
        dim: entries of one sample, whatever its shape.
        hidden: width.
        blocks: number of residual blocks.
        condition: width of the time embedding.

    The output is :math:`f(x_t, t) + g(t)\,x_t` with one number g a time: at the noisy end the noise
    is nearly x_t itself, and a gain passes it on better than a bottleneck. It starts at exactly
    zero. One time of shape (1,) serves all rows.
    """

    def __init__(self, dim: int, hidden: int = 256, blocks: int = 3, condition: int = 64) -> None:
        super().__init__()
        self.time = nn.Sequential(
            SinusoidalEmbedding(condition), nn.Linear(condition, condition), nn.SiLU()
        )
        self.first = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, condition) for _ in range(blocks))
        self.norm = AdaLayerNorm(hidden, condition)
        self.last = nn.Linear(hidden, dim)
        self.gain = nn.Linear(condition, 1)
        for linear in (self.last, self.gain):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x_t: Float[Tensor, " b *d"], t: Float[Tensor, " #b"]) -> Tensor:
        c, flat = self.time(t), x_t.flatten(1)
        x = self.first(flat)
        for block in self.blocks:
            x = block(x, c)
        return (self.last(self.norm(x, c)) + self.gain(c) * flat).reshape(x_t.shape)
