"""Are two samples from one law? Four answers, each with its standard error.

Written with torch alone: every one needs no more than pairwise distances or a sort, and the law of
its error is then known, which a trained classifier's is not.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .metrics import Estimate, mean
from .tensor import check_finite


class PrecisionRecall(NamedTuple):
    """How real the samples are, and how much of the real they reach."""

    precision: Estimate
    recall: Estimate


def precision_recall(
    x: Float[Tensor, " n *d"], reference: Float[Tensor, " m *d"], k: int = 3
) -> PrecisionRecall:
    r"""Share of x inside the manifold of `reference` (precision), and the reverse (recall).

    .. math:: z \in M(A) \iff \exists\, a \in A:\; \lVert z - a\rVert \le
        \lVert a - \mathrm{NN}_k(a)\rVert

    Kynkaanniemi et al. (2019), eq. 1 and 2. :math:`\mathrm{NN}_k(a)` is the k-th nearest other
    point of A. Both depend on n and m: print the value for held-out data beside them. Samples far
    from each other have large balls: recall means little where precision is near 0. The standard
    errors are binomial, for fresh queries against these two manifolds.

    Raises:
        ValueError: non-finite values, rows of different sizes, or fewer than k + 1 rows.
    """
    x, reference = _rows(x, reference, k + 1)
    return PrecisionRecall(_covered(x, reference, k), _covered(reference, x, k))


def _covered(query: Tensor, points: Tensor, k: int) -> Estimate:
    nearest = torch.cdist(points, points).topk(k + 1, largest=False).values  # the first is itself
    return mean((torch.cdist(query, points) <= nearest[:, -1]).any(1).double())


def c2st(x: Float[Tensor, " n *d"], y: Float[Tensor, " m *d"]) -> Estimate:
    r"""Classifier two-sample test: held-out accuracy of k nearest neighbours at telling x from y.

    Even rows are the classifier's memory, odd rows the questions; :math:`k \approx \sqrt{n}` of
    the memory, and odd. 1/2 means indistinguishable, if n = m; 1 means disjoint. Lopez-Paz & Oquab
    (2017), section 3. The rows of a sample must be independent, in any order.

    Raises:
        ValueError: non-finite values, rows of different sizes, samples that differ in length (the
            accuracy of guessing would not be 1/2), or fewer than 4 rows.
    """
    x, y = _rows(x, y, 4)
    _check_length(x, y)
    memory = torch.cat([x[::2], y[::2]])
    is_x = torch.arange(len(memory)) < len(x[::2])
    k = int(len(memory) ** 0.5) // 2 * 2 + 1

    def share_of_x(query: Tensor) -> Tensor:
        near = torch.cdist(query, memory).topk(k, largest=False).indices
        return is_x[near].double().mean(1)

    right = torch.cat([share_of_x(x[1::2]) > 0.5, share_of_x(y[1::2]) < 0.5])
    return mean(right.double())


def mmd_rbf(
    x: Float[Tensor, " n *d"], y: Float[Tensor, " n *d"], bandwidth: float | None = None
) -> Estimate:
    r"""Squared maximum mean discrepancy with :math:`k(a, b) = e^{-\lVert a - b\rVert^2/2h^2}`.

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j}
        \bigl(k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)\bigr)

    Gretton et al. (2012), eq. 4: unbiased, hence sometimes negative. h is the median distance
    between x and y when left out. The standard error is that of a U-statistic, also when the laws
    agree.

    Raises:
        ValueError: non-finite values, rows of different sizes, samples that differ in length, fewer
            than 4 rows, or a bandwidth that is not positive.
    """
    x, y = _rows(x, y, 4)
    _check_length(x, y)
    h = torch.cdist(x, y).median().item() if bandwidth is None else bandwidth
    if not h > 0:
        raise ValueError(f"bandwidth must be positive, got {h}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.cdist(a, b) / h) ** 2)

    cross = kernel(x, y)
    pairs = kernel(x, x) + kernel(y, y) - cross - cross.T
    off_diagonal = ~torch.eye(len(x), dtype=torch.bool)
    rows, n = (pairs * off_diagonal).sum(1) / (len(x) - 1), len(x)
    of_pairs = pairs[off_diagonal].var() / (n - 1)  # all there is where the laws agree
    of_rows = (rows.var() - of_pairs).clamp(min=0)
    return Estimate(rows.mean().item(), ((4 * of_rows + 2 * of_pairs) / n).sqrt().item())


def sliced_wasserstein(
    x: Float[Tensor, " n *d"],
    y: Float[Tensor, " n *d"],
    generator: torch.Generator | None = None,
    projections: int = 128,
) -> Estimate:
    r"""Squared sliced 2-Wasserstein distance of two samples of one length.

    .. math:: \mathbb E_\theta\, \frac1n \sum_i \bigl(\theta^\top x_{(i)} -
        \theta^\top y_{(i)}\bigr)^2, \qquad \lVert\theta\rVert = 1

    with both projections sorted. Bonneel et al. (2015), section 4. The standard error is that of
    the random directions; the samples are taken as given, and bias the value upwards at finite n.

    Raises:
        ValueError: non-finite values, rows of different sizes, or samples that differ in length.
    """
    x, y = _rows(x, y, 1)
    _check_length(x, y)
    theta = torch.randn(x.shape[1], projections, generator=generator, dtype=x.dtype)
    theta = theta / theta.norm(dim=0)
    return mean(((x @ theta).sort(0).values - (y @ theta).sort(0).values).square().mean(0))


def _rows(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    for sample in (x, y):
        check_finite("a sample", sample)
        if len(sample) < least:
            raise ValueError(f"a sample needs {least} rows or more, got {len(sample)}")
    x, y = x.flatten(1).double(), y.flatten(1).double()
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both samples need rows of one size, got {x.shape[1]} and {y.shape[1]}")
    return x, y


def _check_length(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise ValueError(f"both samples need one length, got {len(x)} and {len(y)}")
