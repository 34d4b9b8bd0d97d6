r"""Flow matching: what its loss cannot fall below, how its trajectories bend, which pairs it sees.

The rest of it has its place elsewhere. The conditional field of a Gaussian path is
:meth:`.GaussianPath.velocity`; the marginal field is the same with :math:`\mathbb E[x_0\mid x_t]`
for x0, :func:`.flow_velocity`; the loss is :meth:`.Denoiser.loss` with :func:`.velocity_target`.
"""

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..core.ode import VectorField
from ..core.tensor import check_finite, check_same, expand_to
from .path import GaussianPath
from .prediction import Target, error_ratio


def loss_floor(
    target: Target, path: GaussianPath, x0_variance: Float[Tensor, " b *d"], t: Tensor
) -> Float[Tensor, " b"]:
    r"""The part of each sample's loss that no network can remove, :eq:`eq-flow-matching-gap`.

    .. math::
        \frac1d \sum_{i=1}^d \operatorname{Var}(y_i \mid x_t)
        = \Bigl(\frac{\alpha b - \sigma a}{\sigma}\Bigr)^2\,
        \frac1d \sum_{i=1}^d \operatorname{Var}(x_{0,i} \mid x_t)

    for the target :math:`y = a x_0 + b\varepsilon`: given x_t, the one unknown is x0. Its mean over
    x_t is the least value of :meth:`.Denoiser.errors`.

    Args:
        target: what the network regresses.
        path: the Gaussian path of the data.
        x0_variance: the posterior variance of every entry of x0, as
            :meth:`.GaussianMixture.posterior_variance` gives it.
        t: one time for all rows or one a row; sigma must be positive there.

    Raises:
        ValueError: a negative variance, or one that is not finite.
    """
    check_finite("x0_variance", x0_variance)
    if (x0_variance < 0).any():
        raise ValueError(f"a variance must not be negative, got {x0_variance.min().item()}")
    mean = x0_variance.flatten(1).mean(1)
    return expand_to(error_ratio(target, path, t), mean) ** 2 * mean


def acceleration(
    f: VectorField, t: Float[Tensor, ""], x: Float[Tensor, " b *d"]
) -> Float[Tensor, " b *d"]:
    r"""The acceleration of points carried by a field, :eq:`eq-flow-matching-acceleration`.

    .. math:: \ddot x = \partial_t f(t, x) + \frac{\partial f}{\partial x}(t, x)\,f(t, x)

    Zero along straight lines run at constant speed, and only there. Exact, by one forward-mode
    derivative in the direction (1, f); each row of f must depend on its own row of x alone.
    """
    _, rate = torch.func.jvp(f, (t, x), (torch.ones_like(t), f(t, x)))
    return rate


def path_length(xs: Float[Tensor, " n b *d"]) -> Float[Tensor, " b"]:
    """Length of each polygon with the corners `xs`, the points of a trajectory in their order.

    Raises:
        ValueError: fewer than two points, or points that are not finite.
    """
    check_finite("xs", xs)
    if len(xs) < 2:
        raise ValueError(f"a path needs 2 points or more, got {len(xs)}")
    return xs.diff(dim=0).flatten(2).norm(dim=2).sum(0)


def pair_noise(x0: Float[Tensor, " b *d"], eps: Float[Tensor, " b *d"]) -> Float[Tensor, " b *d"]:
    r"""The rows of `eps`, reordered to lie close to those of `x0`: :eq:`eq-flow-matching-coupling`.

    .. math:: \min_\pi \sum_{i=1}^b \lVert x_0^{(i)} - \varepsilon^{(\pi(i))}\rVert^2

    over all permutations: the optimal transport between the two batches. Tong et al. (2023);
    Pooladian et al. (2023). ``scipy.optimize.linear_sum_assignment``, at most
    cubic in b.

    Raises:
        ValueError: `eps` unlike `x0`, or values that are not finite.
    """
    check_same("eps", eps, "x0", x0)
    check_finite("x0", x0)
    check_finite("eps", eps)
    gain = x0.flatten(1) @ eps.flatten(1).T  # the squares do not depend on the permutation
    _, order = linear_sum_assignment(gain.detach().cpu().double().numpy(), maximize=True)
    return eps[torch.as_tensor(order, device=eps.device)]
