"""Drawing steps by their losses: the mean stays, the variance falls."""

import pytest
import torch

from notes_lib.core import mean
from notes_lib.diffusion import LossHistory

SCALE = (
    torch.arange(1, 51, dtype=torch.float64) ** -1.5
)  # L_k is an exponential of this mean, steep in k


def filled(depth=10):
    history = LossHistory(50, depth)
    for _ in range(depth):
        history.record(torch.arange(1, 51), SCALE * torch.empty(50).exponential_())
    return history


@pytest.mark.equation("eq-improved-ddpm-importance")
def test_the_probabilities_are_the_formula():
    history, losses = LossHistory(3, depth=2), torch.tensor([3.0, 1.0, 2.0])
    for scale in (9.0, 1.0, 2.0):  # the first is forgotten
        history.record(torch.tensor([1, 2, 3]), scale * losses)
    expected = (losses.square() * (1 + 4) / 2).sqrt()
    torch.testing.assert_close(history.probabilities, expected / expected.sum())


def test_steps_are_drawn_evenly_until_every_history_is_full():
    history = LossHistory(4, depth=2)
    history.record(torch.tensor([1, 2, 3, 1, 2, 3, 4]), torch.rand(7))
    torch.testing.assert_close(history.probabilities, torch.full((4,), 0.25))
    k, weights = history.draw(100)
    assert set(k.tolist()) == {1, 2, 3, 4} and (weights == 1).all()
    history.record(torch.tensor([4]), torch.rand(1))
    assert history.probabilities.std() > 0


@pytest.mark.equation("eq-improved-ddpm-importance")
def test_same_mean_smaller_variance():
    n, history = 200_000, filled()
    k, weights = history.draw(n)
    drawn = weights * SCALE[k - 1] * torch.empty(n).exponential_()
    even = SCALE[torch.randint(50, (n,))] * torch.empty(n).exponential_()
    truth = SCALE.mean()
    assert abs(mean(drawn).value - truth) < 3 * mean(drawn).se
    assert abs(mean(even).value - truth) < 3 * mean(even).se
    assert drawn.var() < 0.3 * even.var()


@pytest.mark.equation("eq-improved-ddpm-importance")
def test_no_other_probabilities_do_better():
    """With exact second moments E[L^2]/(T p) summed over k is least at the formula's p."""
    history, second = LossHistory(50, 1), 2 * SCALE**2
    history.record(torch.arange(1, 51), second.sqrt())
    p = history.probabilities
    least = (second / p).sum()
    torch.testing.assert_close(least, second.sqrt().sum() ** 2)
    for _ in range(20):
        other = p * (0.2 * torch.randn(50)).exp()
        assert (second / (other / other.sum())).sum() > least


def test_without_the_weights_the_mean_is_wrong():
    n, history = 200_000, filled()
    k, _ = history.draw(n)
    biased = mean(SCALE[k - 1])
    assert biased.value > SCALE.mean() + 30 * biased.se


def test_bad_input():
    with pytest.raises(ValueError, match="steps and depth"):
        LossHistory(0)
    with pytest.raises(ValueError, match="steps and depth"):
        LossHistory(3, depth=0)
    history = LossHistory(3)
    for k, loss in ((0, 1.0), (4, 1.0), (2, float("nan"))):
        with pytest.raises(ValueError, match="k must lie in 1..3"):
            history.record(torch.tensor([k]), torch.tensor([loss]))
