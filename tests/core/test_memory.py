"""The peak of what tensors hold, on computations whose peak is known."""

import torch

from notes_lib.attention import softmax_attention
from notes_lib.core import PeakBytes


def test_views_inputs_and_results_in_place_cost_nothing():
    x = torch.randn(100)
    with PeakBytes() as memory:
        x.view(10, 10).mT.add_(1)
    assert memory.peak == 0
    with PeakBytes() as memory:
        y = x[:50] + 1
        y.mul_(2)
    assert memory.peak == 50 * 8


def test_what_is_dropped_makes_room():
    with PeakBytes() as memory:
        for _ in range(5):
            torch.zeros(1000)
        a, b = torch.zeros(600), torch.zeros(700)
        del a
        torch.zeros(500)
    assert memory.peak == 1300 * 8 and memory.now == 700 * 8
    del b
    assert memory.now == 0


def test_dense_attention_holds_several_matrices_of_scores():
    q, k, v = torch.randn(3, 1, 1, 256, 8)
    with PeakBytes() as memory:
        softmax_attention(q, k, v)
    matrices = memory.peak / (256**2 * 8)
    assert 3 <= matrices < 3.5  # scores, scores with the mask, weights
