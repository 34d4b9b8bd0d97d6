r"""Drawing the time of a training example where the loss is large: :math:`p_t \propto
\sqrt{\mathbb E L_t^2}`."""

from collections import deque

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LossHistory:
    r"""The last losses of every step of a chain, and the steps that they say to draw next.

    .. math::
        p_k = \frac{\sqrt{\mathbb E L_k^2}}{\sum_j \sqrt{\mathbb E L_j^2}}, \qquad
        \frac1T\sum_k L_k = \mathbb E_{k\sim p}\Bigl[\frac{L_k}{T p_k}\Bigr]

    This is :eq:`eq-improved-ddpm-importance`: of all :math:`p` the one whose weighted losses vary
    least. The second moments come from the last `depth` losses of each step; until every step has
    so many, steps are drawn evenly. Nichol & Dhariwal (2021), eq. 18.

    Args:
        steps: T, the length of the chain.
        depth: losses kept a step.

    Raises:
        ValueError: fewer than one step, or a depth below 1.
    """

    def __init__(self, steps: int, depth: int = 10) -> None:
        if steps < 1 or depth < 1:
            raise ValueError(f"steps and depth must be at least 1, got {steps} and {depth}")
        self.losses = [deque([], depth) for _ in range(steps)]

    def record(self, k: Int[Tensor, " b"], losses: Float[Tensor, " b"]) -> None:
        """Remember the losses, not weighted, of examples at the steps k, from 1 to T.

        Raises:
            ValueError: a step outside the chain, or a loss that is not finite.
        """
        if not ((k >= 1) & (k <= len(self.losses))).all() or not losses.isfinite().all():
            raise ValueError(f"k must lie in 1..{len(self.losses)} and losses be finite, got {k}")
        for step, loss in zip(k.tolist(), losses.tolist(), strict=True):
            self.losses[step - 1].append(loss)

    @property
    def probabilities(self) -> Float[Tensor, " T"]:
        """p, in float64."""
        if any(len(kept) < kept.maxlen for kept in self.losses):
            return torch.full((len(self.losses),), 1 / len(self.losses), dtype=torch.float64)
        moments = torch.tensor(self.losses, dtype=torch.float64).square().mean(1).sqrt()
        return moments / moments.sum()

    def draw(
        self, size: int, generator: torch.Generator | None = None
    ) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
        """Steps k, and the weights 1/(T p_k) that make the mean of their losses unbiased."""
        p = self.probabilities
        index = torch.multinomial(p, size, replacement=True, generator=generator)
        return index + 1, (1 / (len(p) * p[index])).to(torch.get_default_dtype())
