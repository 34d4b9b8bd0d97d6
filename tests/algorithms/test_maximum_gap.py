"""Maximum gap: every implementation against sorting, on all small arrays and on hostile floats."""

import itertools
import math
from fractions import Fraction
from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.algorithms import integer_bucket, maximum_gap, real_bucket, walk_buckets
from notes_lib.algorithms.maximum_gap import MAX_REALS, bucket_ends, bucket_index
from notes_lib.data.points import airports

SMALL = [x for length in range(6) for x in itertools.product(range(7), repeat=length)]
SORTED = [x for x in SMALL if list(x) == sorted(x)]
INTEGERS = st.lists(st.integers(-(2**61), 2**61), max_size=40)
FLOATS = st.lists(st.floats(-1e300, 1e300), max_size=40)


def by_sorting(values):
    x = sorted(values)
    return max((b - a for a, b in itertools.pairwise(x)), default=0)


def test_there_are_19608_small_arrays():
    assert len(SMALL) == 19_608 and len(SORTED) == 792


@pytest.mark.equation("eq-maximum-gap-walk", "eq-maximum-gap-integer", "eq-maximum-gap-real")
@pytest.mark.parametrize("rule", [integer_bucket, real_bucket])
def test_walking_equals_sorting_on_every_small_array(rule):
    assert [walk_buckets(x, rule) for x in SMALL] == [by_sorting(x) for x in SMALL]


@pytest.mark.equation("eq-maximum-gap-definition")
def test_tensors_equal_sorting_on_small_arrays():
    """All of up to 4 numbers in every order, all of 5 in one: the buckets ask for no order."""
    arrays = [x for x in SMALL if len(x) < 5] + [x[::2] + x[1::2] for x in SORTED if len(x) == 5]
    answers = [maximum_gap(torch.tensor(x, dtype=torch.int64)).item() for x in arrays]
    assert answers == [by_sorting(x) for x in arrays]


@pytest.mark.equation("eq-maximum-gap-definition")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float64])
def test_tensors_of_every_type_equal_sorting(dtype):
    answers = [maximum_gap(torch.tensor(x[::-1], dtype=dtype)).item() for x in SORTED]
    assert answers == [by_sorting(x) for x in SORTED]


def test_5000_random_arrays_of_integers():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-50, 50, size=rng.integers(0, 12)).tolist() for _ in range(5000)]
    for rule in (integer_bucket, real_bucket):
        assert [walk_buckets(x, rule) for x in arrays] == [by_sorting(x) for x in arrays]


@settings(deadline=None)
@given(INTEGERS)
def test_any_integers(values):
    expected = by_sorting(values)
    assert walk_buckets(values, integer_bucket) == expected
    assert maximum_gap(torch.tensor(values, dtype=torch.int64)) == expected


@settings(deadline=None)
@given(FLOATS)
def test_any_floats_bit_for_bit(values):
    expected = by_sorting(values)
    assert walk_buckets(values, real_bucket) == expected
    assert maximum_gap(torch.tensor(values, dtype=torch.float64)) == expected


@settings(deadline=None)
@given(st.lists(st.fractions(), max_size=20))
def test_any_fractions(values):
    assert walk_buckets(values, real_bucket) == by_sorting(values)


@settings(deadline=None)
@given(FLOATS.filter(bool), st.randoms())
def test_order_and_repetition_do_not_matter(values, random):
    shuffled = random.sample(values * 2, 2 * len(values))
    one, two = (torch.tensor(v, dtype=torch.float64) for v in (values, shuffled))
    assert maximum_gap(one) == maximum_gap(two)


@settings(deadline=None)
@given(INTEGERS.filter(bool), st.integers(-(2**60), 2**60))
def test_shift_and_reflection_leave_integers_alone(values, shift):
    x = torch.tensor(values, dtype=torch.int64)
    assert maximum_gap(x) == maximum_gap(x + shift) == maximum_gap(-x)


@pytest.mark.equation("eq-maximum-gap-bound", "eq-maximum-gap-inside")
def test_gap_above_the_mean_above_the_inside():
    for x in (x for x in SORTED if len(x) > 1 and min(x) < max(x)):
        n, span = len(x), max(x) - min(x)
        gap = walk_buckets(x, integer_bucket)
        left, right = bucket_ends(torch.tensor(x), bucket_index(torch.tensor(x)))
        assert gap >= math.ceil(span / (n - 1))
        assert (right - left).max() <= span // n < Fraction(span, n - 1) <= gap


@pytest.mark.equation("eq-maximum-gap-real")
@settings(deadline=None)
@given(FLOATS)
def test_real_buckets_run_from_0_to_n_in_order(values):
    x = torch.tensor(sorted(values), dtype=torch.float64)
    if len(x) > 1 and x[0] < x[-1]:
        k = bucket_index(x)
        assert k[0] == 0 and k[-1] == len(x)
        assert (k.diff() >= 0).all()


@pytest.mark.equation("eq-maximum-gap-rounding")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_joins_no_winners_on_nearly_even_values(dtype):
    """The hard case: all gaps are equal up to rounding, and the gap exceeds the mean by 1 / n."""
    for n in (2, 3, 10, 57, 58, 59, 1000, 4096):
        for low, high in ((0.0, 1.0), (-3.7, 11.3), (1e4, 2e4)):
            x = torch.linspace(low, high, n, dtype=torch.float64).to(dtype)
            assert maximum_gap(x[torch.randperm(n)]) == x.diff().amax()


def test_more_values_than_their_type_can_count():
    x = torch.linspace(0, 1, 70_000).half()
    assert maximum_gap(x) == x.diff().amax()


@pytest.mark.equation("eq-maximum-gap-rounding")
def test_limit_meets_the_condition():
    assert MAX_REALS * (MAX_REALS - 1) <= 2**50 < 2 * MAX_REALS * (2 * MAX_REALS - 1)


def test_real_longitudes_equal_numpy_exactly():
    x = airports().longitude
    for y in (x, x.float(), x.flip(0)):
        assert maximum_gap(y).item() == np.diff(np.sort(y.numpy())).max()


def test_gradient_points_at_the_winners():
    x = torch.tensor([1.0, 4.0, 2.0, 8.0], requires_grad=True)
    maximum_gap(x).backward()
    assert x.grad.tolist() == [0, -1, 0, 1]


def test_integer_rule_fails_on_reals():
    assert walk_buckets([0.1, 0.5, 0.9], integer_bucket) == 0
    assert walk_buckets([0.1, 0.5, 0.9], real_bucket) == 0.4


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_fewer_than_two_values_give_zero(n, dtype):
    assert maximum_gap(torch.ones(n, dtype=dtype)) == 0
    assert walk_buckets([7] * n, integer_bucket) == 0


def test_types():
    small = torch.tensor([-128, 127], dtype=torch.int8)
    assert maximum_gap(small) == 255 and maximum_gap(small).dtype == torch.int64
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert maximum_gap(torch.tensor([1, 2, 4], dtype=dtype)).dtype == dtype


def test_extreme_values():
    tiny = torch.tensor([0, 5e-324, 1.5e-323], dtype=torch.float64)
    assert maximum_gap(tiny) == 1e-323
    assert maximum_gap(torch.tensor([0, 2**63 - 1])) == 2**63 - 1
    assert maximum_gap(torch.tensor([-8e307, 8e307], dtype=torch.float64)) == 1.6e308


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(1, 2), r"shape \(n,\), got torch.float32 \(1, 2\)"),
        (torch.ones(3, dtype=torch.bool), "got torch.bool"),
        (torch.ones(3, dtype=torch.complex64), "got torch.complex64"),
        (torch.ones(3, dtype=torch.uint64), "got torch.uint64"),
        (torch.tensor([0.0, math.nan]), "need finite values .* got nan to nan"),
        (torch.tensor([0.0, math.inf]), "need finite values .* got 0.0 to inf"),
        (torch.tensor([math.inf]), "need finite values"),
        (torch.tensor([-3e38, 3e38]), "range fits torch.float32"),
        (torch.tensor([-(2**63), 2**63 - 1]), "range fits torch.int64, got -9223372036854775808"),
        (torch.zeros(1).expand(MAX_REALS + 1), f"at most {MAX_REALS} floats, got {MAX_REALS + 1}"),
    ],
)
def test_what_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        unwrap(maximum_gap)(x)  # past jaxtyping, which is checked in tests only
