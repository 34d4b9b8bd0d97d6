"""Elements moved by each schedule: counted, exact, and with the right answer at the end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.attention import Tiles, softmax_attention
from notes_lib.attention.traffic import (
    SlowMemory,
    fa1,
    fa1_blocks,
    fa1_traffic,
    fa2,
    fa2_blocks,
    fa2_traffic,
    standard,
    standard_traffic,
)  # fmt: skip

from .cases import log_sum_exp


def head(n, d, m=None, e=None):
    m, e = m or n, e or d
    return torch.randn(n, d), torch.randn(m, d), torch.randn(m, e)


def run(schedule, q, k, v, *args):
    memory = SlowMemory(q=q, k=k, v=v)
    schedule(memory, *args)
    return memory


def attention(q, k, v, **options):
    return softmax_attention(*(x[None, None] for x in (q, k, v)), **options)[0, 0]


@pytest.mark.equation("eq-flash-attention-traffic", "eq-flash-attention-fa1")
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 50), d=st.integers(1, 9), rows=st.integers(1, 20), cols=st.integers(1, 20))
def test_the_counters_equal_the_formulas_and_the_results_the_reference(n, d, rows, cols):
    q, k, v = head(n, d)
    tiles = Tiles(n, n, shape=(rows, cols))
    runs = {
        standard_traffic(n, d): run(standard, q, k, v),
        fa1_traffic(n, d, cols): run(fa1, q, k, v, tiles),
        fa2_traffic(n, d, rows): run(fa2, q, k, v, tiles),
    }
    for formula, memory in runs.items():
        assert memory.moved == formula
        torch.testing.assert_close(memory.tensors["o"], attention(q, k, v))


def test_formulas_that_coincide_do_not_hide_a_run():
    assert len({standard_traffic(9, 4), fa1_traffic(9, 4, 3), fa2_traffic(9, 4, 3)}) == 3


@pytest.mark.equation("eq-flash-attention-fa1", "eq-flash-attention-lse")
@pytest.mark.parametrize("options", [{}, dict(causal=True), dict(causal=True, window=6)])
def test_masks_ragged_sizes_and_what_is_saved(options):
    q, k, v = head(23, 5, m=31, e=7)
    tiles = Tiles(23, 31, **options, shape=(4, 6))
    first, second = run(fa1, q, k, v, tiles), run(fa2, q, k, v, tiles)
    lse = log_sum_exp(q[None, None], k[None, None], **options)[0, 0]
    for memory in (first, second):
        torch.testing.assert_close(memory.tensors["o"], attention(q, k, v, **options))
    torch.testing.assert_close(first.tensors["m"] + first.tensors["ell"].log(), lse)
    torch.testing.assert_close(second.tensors["lse"], lse)
    if options:
        everything = run(fa2, q, k, v, Tiles(23, 31, shape=(4, 6)))
        assert second.moved < everything.moved


def test_what_is_loaded_is_a_copy():
    memory = run(standard, *head(3, 2))
    memory.load("o").zero_()
    assert (memory.tensors["o"] != 0).all()


@pytest.mark.equation("eq-flash-attention-blocks")
def test_traffic_falls_like_one_over_fast_memory():
    """n = 4096, d = 64: the slope of log traffic in log M, between d^2 and n d, is -1."""
    n, d = 4096, 64
    sizes = torch.tensor([2.0, 4.0, 8.0, 16.0]) * d * d
    for traffic in (
        [fa1_traffic(n, d, fa1_blocks(int(M), d)[1]) for M in sizes],
        [fa2_traffic(n, d, fa2_blocks(int(M), d)[0]) for M in sizes],
    ):
        moved = torch.tensor(traffic, dtype=torch.float64)
        slopes = moved.log().diff() / sizes.log().diff()
        assert ((slopes + 1).abs() < 0.05).all()


@pytest.mark.equation("eq-flash-attention-traffic")
def test_gains_at_the_sizes_of_a_gpu():
    """With M = d^2 FA1 moves three times as much as standard attention, on an A100 four less."""
    n, d = 4096, 64
    dense = standard_traffic(n, d)
    gains = [dense / fa1_traffic(n, d, fa1_blocks(M, d)[1]) for M in (4096, 16384, 49152)]
    assert gains == pytest.approx([0.33, 1.31, 3.75], abs=0.005)
    rows, _ = fa1_blocks(49152, d)
    assert dense / fa2_traffic(n, d, rows) == pytest.approx(2.0, abs=0.01)


@pytest.mark.equation("eq-flash-attention-blocks")
def test_blocks_by_hand_and_fast_memory_that_is_too_small():
    assert fa1_blocks(16384, 64) == (64, 64) and fa1_blocks(49152, 64) == (64, 192)
    assert fa1_blocks(1000, 64) == (4, 4) and fa2_blocks(49152, 64) == (192, 64)
    with pytest.raises(ValueError, match="got 63"):
        fa1_blocks(63, 64)
