"""Two-sample statistics against closed forms and peers, and their standard errors by repetition."""

import math
from inspect import unwrap

import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier

from notes_lib.core import c2st, mmd_rbf, precision_recall, sliced_wasserstein


def rbf_mmd_of_shifted_gaussians(shift, d, h):
    """Squared MMD of N(0, I) and N(shift, I) with |shift| per axis, by Gaussian integrals."""
    return 2 * (h**2 / (h**2 + 2)) ** (d / 2) * (1 - math.exp(-d * shift**2 / (2 * (h**2 + 2))))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_mmd_is_unbiased_and_its_standard_error_holds(shift):
    exact = rbf_mmd_of_shifted_gaussians(shift, 2, 1.0)
    runs = [mmd_rbf(torch.randn(100, 2), torch.randn(100, 2) + shift, 1.0) for _ in range(200)]
    values, ses = torch.tensor(runs).T
    assert abs(values.mean() - exact) < 4 * values.std() / 200**0.5
    assert 0.8 < ses.square().mean().sqrt() / values.std() < 1.3


def test_mmd_is_the_double_sum_over_sklearns_kernel():
    x, y, h = torch.randn(30, 3), torch.randn(30, 3) + 0.2, 0.7
    k = lambda a, b: torch.tensor(rbf_kernel(a.numpy(), b.numpy(), gamma=0.5 / h**2))
    pairs = k(x, x) + k(y, y) - k(x, y) - k(y, x)
    expected = (pairs.sum() - pairs.trace()) / (30 * 29)
    torch.testing.assert_close(torch.tensor(mmd_rbf(x, y, h).value), expected)


def test_c2st_is_sklearns_accuracy():
    x, y = torch.randn(150, 2), torch.randn(150, 2) + 0.8
    memory, questions = torch.cat([x[::2], y[::2]]), torch.cat([x[1::2], y[1::2]])
    label = torch.arange(150) < 75
    peer = KNeighborsClassifier(13).fit(memory.numpy(), label.numpy())  # sqrt(150) is 12.2
    assert c2st(x, y).value == peer.score(questions.numpy(), label.numpy())


def test_c2st_of_one_law_is_a_half_and_of_two_far_apart_is_one():
    same = c2st(torch.randn(2000, 2), torch.randn(2000, 2))
    assert abs(same.value - 0.5) < 4 * same.se and 0.01 < same.se < 0.012
    assert c2st(torch.randn(100, 2), torch.randn(100, 2) + 50).value == 1.0


def test_c2st_approaches_the_bayes_accuracy():
    """N(0, 1) against N(2, 1): no classifier beats Phi(1)."""
    estimate = c2st(torch.randn(6000, 1), torch.randn(6000, 1) + 2)
    assert abs(estimate.value - torch.special.ndtr(torch.tensor(1.0))) < 4 * estimate.se


def test_precision_recall_by_hand():
    """On a line, k = 1: the reference covers [-1, 2] and [9, 12], the sample [0.3, 0.7]."""
    reference = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    x = torch.tensor([[0.4], [0.5], [0.6]])
    result = precision_recall(x, reference, k=1)
    assert result.precision.value == 1.0 and result.recall.value == 0.0
    swapped = precision_recall(reference, x, k=1)
    assert swapped.precision == result.recall and swapped.recall == result.precision


def test_recall_sees_a_missing_mode_and_precision_an_invented_one():
    mode = torch.randn(300, 2)
    two = torch.cat([mode, torch.randn(300, 2) + 20])
    missing = precision_recall(torch.randn(300, 2), two)
    assert missing.precision.value > 0.95 and abs(missing.recall.value - 0.5) < 0.03
    invented = precision_recall(two, torch.randn(300, 2))
    assert invented.recall.value > 0.95 and abs(invented.precision.value - 0.5) < 0.03


def test_precision_recall_against_prdc():
    prdc = pytest.importorskip("prdc", reason="peer: pip install -r requirements-peers.txt")
    x, reference = torch.randn(120, 3), 1.3 * torch.randn(150, 3)
    peer = prdc.compute_prdc(reference.numpy(), x.numpy(), nearest_k=3)
    ours = precision_recall(x, reference)
    assert (ours.precision.value, ours.recall.value) == (peer["precision"], peer["recall"])


def test_sliced_wasserstein_of_a_shift_is_known():
    """W2^2 along theta is (theta . shift)^2, and its mean |shift|^2 / d."""
    x, shift = torch.randn(50, 3), torch.tensor([1.0, -2.0, 0.5])
    estimate = sliced_wasserstein(x, x + shift, torch.Generator().manual_seed(0), 4000)
    assert abs(estimate.value - shift.square().sum() / 3) < 4 * estimate.se
    assert sliced_wasserstein(x, x[torch.randperm(50)]).value < 1e-25


def test_sliced_wasserstein_on_a_line_is_the_sorted_distance():
    x, y = torch.randn(40, 1), torch.randn(40, 1)
    expected = (x.sort(0).values - y.sort(0).values).square().mean()
    torch.testing.assert_close(torch.tensor(sliced_wasserstein(x, y).value), expected)


def test_sliced_wasserstein_against_pot():
    ot = pytest.importorskip("ot", reason="peer: pip install -r requirements-peers.txt")
    x, y, seeded = torch.randn(60, 4), torch.randn(60, 4) + 0.3, torch.Generator().manual_seed
    theta = torch.randn(4, 32, generator=seeded(0))
    peer = ot.sliced_wasserstein_distance(x, y, projections=theta / theta.norm(dim=0))
    ours = sliced_wasserstein(x, y, seeded(0), 32)
    torch.testing.assert_close(torch.tensor(ours.value), peer**2)


@pytest.mark.parametrize("statistic", [c2st, mmd_rbf, sliced_wasserstein, precision_recall])
def test_bad_samples_are_refused(statistic):
    x = torch.randn(10, 3)
    for y, word in [
        (torch.full((10, 3), torch.nan), "finite"),
        (torch.randn(10, 2), "one size"),
        (torch.ones(10, 3, dtype=torch.long), "floating"),
        (x[:0], "rows or more"),
    ]:
        with pytest.raises(ValueError, match=word):
            unwrap(statistic)(x, y)
    if statistic is not precision_recall:
        with pytest.raises(ValueError, match="one length"):
            unwrap(statistic)(x, torch.randn(9, 3))


def test_a_bandwidth_must_be_positive():
    with pytest.raises(ValueError, match="bandwidth"):
        mmd_rbf(torch.randn(5, 1), torch.randn(5, 1), 0.0)
    with pytest.raises(ValueError, match="bandwidth"):
        mmd_rbf(torch.ones(5, 1), torch.ones(5, 1))
