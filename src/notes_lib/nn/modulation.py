"""Conditioning by scale and shift."""

from torch import Tensor, nn


class AdaLayerNorm(nn.Module):
    r"""LayerNorm whose gain and bias are read from a condition c.

    .. math:: \mathrm{LN}(x)\,(1 + \gamma(c)) + \beta(c)

    The linear map of c starts at zero, hence the module starts as a plain LayerNorm. Peebles & Xie
    (2023), section 3.2.
    """

    def __init__(self, dim: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.map = nn.Linear(condition, 2 * dim)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gain, bias = self.map(c).chunk(2, -1)
        return self.norm(x) * (1 + gain) + bias
