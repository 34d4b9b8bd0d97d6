"""The state of an online softmax: how it grows, merges, and what it is at its edges."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.attention import (
    SoftmaxState,
    absorb,
    empty_state,
    merge,
    one_pass,
    online_attention,
    online_normaliser,
    safe_softmax,
    softmax_attention,
    softmax_state,
)  # fmt: skip

from .cases import problem

HIDDEN = st.floats(0, 1)


def row(n=37, spread=5.0, hidden=0.0, rows=3, seed=0):
    """Scores "rows n", some of them -inf, and values "n 4"."""
    generator = torch.Generator().manual_seed(seed)
    s = spread * torch.randn(rows, n, generator=generator)
    hide = torch.rand(rows, n, generator=generator) < hidden
    return s.masked_fill(hide, -torch.inf), torch.randn(n, 4, generator=generator)


def same(a: SoftmaxState, b: SoftmaxState):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-12)


@pytest.mark.equation("eq-flash-attention-safe")
def test_safe_softmax_survives_scores_that_overflow():
    x = 40 * row()[0][0] * 10
    assert x.exp().isinf().any()
    torch.testing.assert_close(safe_softmax(x), x.softmax(0))
    assert (safe_softmax(torch.full((3,), -torch.inf)) == 0).all()


@pytest.mark.equation("eq-flash-attention-online", "eq-flash-attention-lse")
@settings(deadline=None)
@given(seed=st.integers(0, 999), spread=st.floats(0, 400), hidden=HIDDEN)
def test_one_pass_finds_the_normaliser(seed, spread, hidden):
    (x,), _ = row(spread=spread, hidden=hidden, rows=1, seed=seed)
    m, ell = online_normaliser(x)
    assert m == x.amax()
    torch.testing.assert_close(m + ell.log(), x.logsumexp(0))


@pytest.mark.equation("eq-flash-attention-one-pass")
@settings(deadline=None)
@given(seed=st.integers(0, 999), spread=st.floats(0, 400), hidden=st.floats(0, 0.9))
def test_one_pass_is_attention(seed, spread, hidden):
    (x,), v = row(spread=spread, hidden=hidden, rows=1, seed=seed)
    expected = x.softmax(0) @ v if x.isfinite().any() else torch.zeros(4)
    torch.testing.assert_close(one_pass(x, v), expected)


@pytest.mark.equation("eq-flash-attention-merge")
@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=st.integers(0, 999), hidden=HIDDEN, spread=st.floats(0, 400))
def test_any_split_in_any_order_and_any_tree_gives_the_softmax(data, seed, hidden, spread):
    s, v = row(spread=spread, hidden=hidden, seed=seed)
    keys = data.draw(st.permutations(range(s.shape[1])))
    cuts = sorted(data.draw(st.sets(st.integers(1, s.shape[1] - 1), max_size=6)))
    parts = torch.tensor(keys).tensor_split(cuts)
    states = [softmax_state(s[:, part], v[part]) for part in parts]
    while len(states) > 1:  # merge a random neighbouring pair: a random tree
        i = data.draw(st.integers(0, len(states) - 2))
        states[i : i + 2] = [merge(states[i], states[i + 1])]
    (state,) = states
    blind = s.isinf().all(-1)
    torch.testing.assert_close(state.lse, s.logsumexp(-1))
    expected = s.softmax(-1).masked_fill(blind[:, None], 0.0) @ v
    torch.testing.assert_close(state.out, expected)


@pytest.mark.equation("eq-flash-attention-merge")
@settings(deadline=None)
@given(seed=st.integers(0, 999), hidden=HIDDEN)
def test_the_laws_of_a_commutative_monoid(seed, hidden):
    a, b, c = (softmax_state(*row(hidden=hidden, seed=seed + i)) for i in range(3))
    empty = empty_state(a.m, 4)
    same(merge(merge(a, b), c), merge(a, merge(b, c)))
    same(merge(a, b), merge(b, a))
    same(merge(a, empty), a)
    same(merge(empty, a), a)
    same(merge(empty, empty), empty)


@pytest.mark.equation("eq-flash-attention-fa2")
@settings(deadline=None)
@given(seed=st.integers(0, 999), hidden=HIDDEN)
def test_to_absorb_a_block_is_to_merge_its_state(seed, hidden):
    s, v = row(hidden=hidden, seed=seed)
    state = softmax_state(*row(hidden=hidden, seed=seed + 1))
    same(absorb(state, s, v), merge(state, softmax_state(s, v)))
    same(absorb(empty_state(state.m, 4), s, v), softmax_state(s, v))


def test_an_empty_state_has_no_output_and_no_nan():
    state = empty_state(torch.zeros(2), 3)
    assert (state.out == 0).all() and (state.lse == -torch.inf).all()
    hidden = torch.full((2, 5), -torch.inf)
    same(absorb(state, hidden, torch.randn(5, 3)), state)


@pytest.mark.equation("eq-flash-attention-merge")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 16, 100])
def test_blocks_of_keys_merged_are_attention(shape, causal, block):
    q, k, v = problem(shape)
    ours = online_attention(q, k, v, causal=causal, block=block)
    torch.testing.assert_close(ours, softmax_attention(q, k, v, causal=causal))


def test_the_state_is_a_fold_of_its_blocks():
    s, v = row(n=40)
    blocks = zip(s.split(7, -1), v.split(7), strict=True)
    state = functools.reduce(lambda state, block: absorb(state, *block), blocks,
                             empty_state(s[:, 0], 4))  # fmt: skip
    same(state, softmax_state(s, v))
