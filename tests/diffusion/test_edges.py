"""The public edge under any input: kept shapes and dtypes, or an error that names the argument."""

from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.core import GaussianMixture
from notes_lib.diffusion import (
    Denoiser,
    VPLinear,
    ddim,
    eps_target,
    heun,
    sample,
    trajectory,
    uniform,
    vlb_terms,
)

PATH = VPLinear()
SHAPES = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
FULL = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
FLOATS = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
NOT_FLOATS = st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.bool])
BAD = st.sampled_from([float("nan"), float("inf"), float("-inf")])


def spoilt(shape, place, value):
    x = torch.zeros(shape)
    x.view(-1)[place % x.numel()] = value
    return x


@given(SHAPES, FLOATS)
def test_perturb_keeps_shape_and_dtype(shape, dtype):
    x0, eps = torch.ones(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
    t = torch.full(shape[:1], 0.5, dtype=dtype)
    x_t = PATH.perturb(x0, eps, t)
    assert x_t.shape == shape and x_t.dtype == dtype and x_t.isfinite().all()


@settings(max_examples=25)
@given(SHAPES, FLOATS, st.sampled_from([ddim(), ddim(1.0), heun]))
def test_sample_keeps_shape_and_dtype(shape, dtype, step):
    x = torch.ones(shape, dtype=dtype)
    out = sample(lambda x, t: 0.5 * x, PATH, x, torch.tensor([0.9, 0.5, 0.1]), step)
    assert out.shape == shape and out.dtype == dtype


@settings(max_examples=25)
@given(FULL, st.integers(0, 80), BAD)
def test_values_that_are_not_finite_are_named(shape, place, value):
    x = spoilt(shape, place, value)
    with pytest.raises(ValueError, match="x must be finite, got 1 of"):
        trajectory(lambda x, t: x, PATH, x, uniform(PATH, 3))
    with pytest.raises(ValueError, match="x0 must be finite, got 1 of"):
        Denoiser(lambda x, t: x, PATH, eps_target).loss(x, torch.full(shape[:1], 0.5))
    with pytest.raises(ValueError, match="x0 must be finite, got 1 of"):
        vlb_terms(lambda x, t: x, PATH, x, uniform(PATH, 3))


@given(FULL, NOT_FLOATS)
def test_data_that_are_not_real_are_named(shape, dtype):
    with pytest.raises(ValueError, match=f"x must be a floating tensor, got {dtype}"):
        unwrap(trajectory)(lambda x, t: x, PATH, torch.zeros(shape, dtype=dtype), torch.ones(2))


@given(st.integers(0, 3), st.integers(1, 3), FLOATS.filter(lambda d: d.itemsize >= 4))
def test_the_oracle_keeps_shape_and_dtype(rows, width, dtype):
    means = torch.zeros(2, width, dtype=dtype)
    mixture = GaussianMixture(means, torch.ones(2, width, dtype=dtype))
    x = torch.ones(rows, width, dtype=dtype)
    out = mixture.posterior_mean(x, 0.8, 0.6)
    assert out.shape == x.shape and out.dtype == dtype
