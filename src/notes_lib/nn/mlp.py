"""Residual MLPs that know the time: the smallest networks that do small images well."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from .embed import ClassEmbedding, SinusoidalEmbedding
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


class ResidualTrunk(nn.Module):
    """What the networks below share: (x_t, t) -> features, every block told the time.

    Args:
        dim: entries of one sample, whatever its shape.
        hidden: width.
        blocks: number of residual blocks.
        condition: width of the time embedding.
    """

    def __init__(self, dim: int, hidden: int = 256, blocks: int = 3, condition: int = 64) -> None:
        super().__init__()
        self.time = nn.Sequential(
            SinusoidalEmbedding(condition), nn.Linear(condition, condition), nn.SiLU()
        )
        self.first = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, condition) for _ in range(blocks))
        self.norm = AdaLayerNorm(hidden, condition)

    def features(self, x_t: Tensor, c: Tensor) -> Tensor:
        x = self.first(x_t.flatten(1))
        for block in self.blocks:
            x = block(x, c)
        return self.norm(x, c)


class ResidualMLP(ResidualTrunk):
    r"""A map of flattened samples, conditioned on time: (x_t, t) -> y, shaped like x_t.

    The output is :math:`f(x_t, t) + g(t)\,x_t` with one number g a time: at the noisy end the noise
    is nearly x_t itself, and a gain passes it on better than a bottleneck. It starts at exactly
    zero. One time of shape (1,) serves all rows. A further `condition` (b, condition) is added to
    the embedded time: :class:`Labelled`.
    """

    def __init__(self, dim: int, hidden: int = 256, blocks: int = 3, condition: int = 64) -> None:
        super().__init__(dim, hidden, blocks, condition)
        self.last = nn.Linear(hidden, dim)
        self.gain = nn.Linear(condition, 1)
        for linear in (self.last, self.gain):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x_t: Float[Tensor, " b *d"],
        t: Float[Tensor, " #b"],
        condition: Float[Tensor, "b c"] | None = None,
    ) -> Tensor:
        c = self.time(t) if condition is None else self.time(t) + condition
        y = self.last(self.features(x_t, c)) + self.gain(c) * x_t.flatten(1)
        return y.reshape(x_t.shape)


class Labelled(nn.Module):
    """A network told the class too: (x_t, t, label) -> net(x_t, t, embedded label).

    The embedding's null row makes it the unconditional network as well.
    """

    def __init__(self, net: nn.Module, embedding: ClassEmbedding) -> None:
        super().__init__()
        self.net, self.embedding = net, embedding

    def forward(self, x_t: Tensor, t: Tensor, label: Int[Tensor, " b"]) -> Tensor:
        return self.net(x_t, t, self.embedding(label))


class ResidualClassifier(ResidualTrunk):
    """Class logits of noised samples: (x_t, t) -> (b, classes), zero at the start.

    One time of shape (1,) serves all rows.
    """

    def __init__(
        self, dim: int, classes: int, hidden: int = 256, blocks: int = 2, condition: int = 64
    ) -> None:
        super().__init__(dim, hidden, blocks, condition)
        self.last = nn.Linear(hidden, classes)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, x_t: Float[Tensor, " b *d"], t: Float[Tensor, " #b"]
    ) -> Float[Tensor, "b classes"]:
        return self.last(self.features(x_t, self.time(t)))
