"""The largest gap between neighbours of the sorted values, found without sorting.

Symbols: n values, low = min, span = R = max - min. A *bucket rule* says where x falls; it never
decreases as x grows, and its integer part k(x) is the number of the bucket. Rules are plain
arithmetic: they take integers, floats, fractions and tensors alike.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Int, Real
from torch import Tensor

Number = TypeVar("Number")  #: int, float, Fraction or Tensor
Rule = Callable[[Number, Number, Number, int], Number]  #: (x, low, span, n) to the place of x

MAX_REALS = 2**25  #: the most floats that rounding provably cannot confuse


def integer_bucket(x: Number, low: Number, span: Number, n: int) -> Number:
    """floor((x - low) / b) with b = floor(R / n) + 1: one of 0 to n - 1.

    Equation :eq:`eq-maximum-gap-integer`, for integers only. Two of one bucket
    differ by at most b - 1 (:eq:`eq-maximum-gap-inside`), which is less than
    the maximum gap by :eq:`eq-maximum-gap-bound`.
    """
    return (x - low) // (span // n + 1)


def real_bucket(x: Number, low: Number, span: Number, n: int) -> Number:
    """n (x - low) / R, whose integer part is one of 0 to n; needs R > 0.

    Equation :eq:`eq-maximum-gap-real`. Buckets R / n wide, and one for the
    maximum alone. In this order of operations nothing overflows.
    """
    return (x - low) / span * n


def walk_buckets(values: Sequence[Number], rule: Rule) -> Number:
    """Largest step from a full bucket to the next, :eq:`eq-maximum-gap-walk`.

    Never above the maximum gap, and equal to it if `rule` parts two winners;
    0 if n < 2. Time and memory grow with n and with the last bucket's number.
    """
    if len(values) < 2 or min(values) == max(values):
        return 0
    low, span, n = min(values), max(values) - min(values), len(values)
    ends = {}  # bucket -> its smallest and largest value
    for x in values:
        k = int(rule(x, low, span, n))
        left, right = ends.get(k, (x, x))
        ends[k] = min(left, x), max(right, x)
    full = [ends[k] for k in range(max(ends) + 1) if k in ends]
    steps = (after[0] - before[1] for before, after in pairwise(full))
    return max(steps, default=0)


def maximum_gap(x: Real[Tensor, " n"]) -> Real[Tensor, ""]:
    """Largest gap of sorted values, :eq:`eq-maximum-gap-definition`, in O(n).

    The answer of sorting, bit for bit, by :eq:`eq-maximum-gap-walk`. Integers
    give int64, floats keep their type; fewer than two values give 0.

    Raises:
        ValueError: `x` is not of shape (n,), not integer or real, not finite,
            spans more than its type can hold, or has over :data:`MAX_REALS`
            floats.
    """
    x = _checked(x)
    if len(x) < 2 or x.amin() == x.amax():
        return x.new_zeros(())
    left, right = bucket_ends(x, bucket_index(x))
    return (left[1:] - right[:-1]).amax()


def bucket_index(x: Real[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The bucket of each value: :func:`integer_bucket`, or :func:`real_bucket` in float64.

    In float64 rounding joins no winners while :eq:`eq-maximum-gap-rounding` holds.
    """
    x, rule = (x.double(), real_bucket) if x.is_floating_point() else (x, integer_bucket)
    low, high = x.aminmax()
    return rule(x, low, high - low, len(x)).long()


def bucket_ends(
    x: Real[Tensor, " n"], k: Int[Tensor, " n"]
) -> tuple[Real[Tensor, " full"], Real[Tensor, " full"]]:
    """Smallest and largest value of each full bucket, in their order."""
    low, high = x.aminmax()
    count = int(k.max()) + 1
    left = high.repeat(count).scatter_reduce(0, k, x, "amin")
    right = low.repeat(count).scatter_reduce(0, k, x, "amax")
    full = left <= right  # an empty bucket still has left = max, right = min
    return left[full], right[full]


def _checked(x: Tensor) -> Tensor:
    if x.ndim != 1 or x.is_complex() or x.dtype in (torch.bool, torch.uint64):
        raise ValueError(f"need integers or reals of shape (n,), got {x.dtype} {tuple(x.shape)}")
    if x.is_floating_point() and len(x) > MAX_REALS:
        raise ValueError(f"need at most {MAX_REALS} floats, got {len(x)}")
    x = x if x.is_floating_point() else x.long()
    low, high = x.aminmax() if len(x) else x.new_zeros(2)
    if not (high - low).isfinite() or high - low < 0:  # an integer that overflows turns negative
        raise ValueError(f"need finite values whose range fits {x.dtype}, got {low} to {high}")
    return x
