r"""The divergence of a vector field, :math:`\nabla\cdot f = \mathrm{tr}\,\partial f/\partial x`.

A field maps (b, ...) to (b, ...), each row by itself, as networks do in evaluation; a row is
flattened to d entries. Both functions call the field once, and gradients flow through them to the
parameters of the field unless autograd is off.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from .tensor import Noise, check_finite, check_same

Field = Callable[[Tensor], Tensor]  # x -> a vector at x, shaped like x


def exact_divergence(f: Field, x: Float[Tensor, " b *d"]) -> Float[Tensor, " b"]:
    r"""Trace of the Jacobian of each row, exactly.

    .. math:: \sum_{i=1}^d \frac{\partial f_i}{\partial x_i}(x)

    Costs d backward passes; see :func:`hutchinson_divergence` for large d.

    Raises:
        ValueError: x without a second axis or not finite, or a field whose output is unlike x.
    """
    basis = torch.eye(x[:1].numel(), dtype=x.dtype, device=x.device)
    return _quadratic_forms(f, x, (e.reshape(1, *x.shape[1:]).expand_as(x) for e in basis))


def hutchinson_divergence(
    f: Field, x: Float[Tensor, " b *d"], v: Float[Tensor, " b *d"]
) -> Float[Tensor, " b"]:
    r"""An unbiased estimate of the trace of each row's Jacobian A, :eq:`eq-score-matching-probe`.

    .. math:: v^\top A\,v, \qquad \mathbb E\,v v^\top = I

    Hutchinson (1990). One backward pass, whatever d. With standard normal probes v the variance is
    :math:`2\lVert S\rVert_F^2`, S the symmetric part of A; with signs (:func:`rademacher`) it is
    :math:`2\sum_{i\ne j} S_{ij}^2`, never more.

    Raises:
        ValueError: as :func:`exact_divergence`, or probes unlike x.
    """
    check_same("v", v, "x", x)
    return _quadratic_forms(f, x, [v])


def rademacher(generator: torch.Generator) -> Noise:
    """Random signs, +1 or -1 with equal odds: the probes of least variance among independent ones.

    Pass ``rademacher(generator)(x)`` to :func:`hutchinson_divergence`.
    """
    return lambda x: 2 * torch.randint(2, x.shape, generator=generator).to(x) - 1


def _quadratic_forms(f: Field, x: Tensor, probes: Iterable[Tensor]) -> Tensor:
    """The sum over probes v of v^T A v, A the Jacobian of each row."""
    check_finite("x", x)
    if x.ndim < 2:
        raise ValueError(f"x needs rows of one axis or more, got shape {tuple(x.shape)}")
    keep, total = torch.is_grad_enabled(), x.new_zeros(len(x))
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        y = f(x)
        check_same("the field", y, "x", x)
        y = y + 0 * x  # a constant field is in the graph too
    for v in probes:
        (row,) = torch.autograd.grad(y, x, v, create_graph=keep, retain_graph=True)
        total = total + (row * v).flatten(1).sum(1)
    return total
