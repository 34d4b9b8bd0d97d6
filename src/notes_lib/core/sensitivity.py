"""How far back the last output of a sequence model can see."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def sensitivity(net: Callable[[Tensor], Tensor], x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    r"""Frobenius norm of the Jacobian of the last output with respect to every input.

    .. math:: \Bigl\lVert \frac{\partial y_n}{\partial x_t} \Bigr\rVert_F, \qquad y = f(x)

    Args:
        net: maps "b n d" to "b n e", each row of the batch on its own.
    """
    x = x.detach().requires_grad_()
    last = net(x)[:, -1].sum(0)
    rows = [torch.autograd.grad(y, x, retain_graph=True)[0] for y in last]
    return torch.stack(rows).square().sum((0, -1)).sqrt()
