"""The backward rungs on hardware: exact, the same at every call, in the layout of the inputs."""

import pytest
import torch

from notes_lib.attention import row_delta
from notes_lib.attention.cuda import device

from .rungs import (
    BACKWARD,
    HALVES,
    SHAPES,
    assert_as_good_as_pytorch,
    attention_and_gradients,
    gradients,
    inputs,
    poisoned,
)

BOTH = [False, True]


def compare(name, q, k, v, d_out, **options):
    with poisoned():
        ours = gradients(name, q, k, v, d_out, **options)
    half = attention_and_gradients(q, k, v, d_out, **options)
    exact = attention_and_gradients(*(x.double() for x in (q, k, v, d_out)), **options)
    assert all(x.isfinite().all() for x in ours)
    assert_as_good_as_pytorch(ours, half, exact)
    assert [x.stride() for x in ours[1:]] == [x.stride() for x in (q, k, v)]


@pytest.mark.parametrize("causal", BOTH)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", BACKWARD)
def test_gradients_are_as_exact_as_pytorchs(name, d, dtype, causal):
    for shape in SHAPES:
        q, k, v = inputs(*shape, d=d, dtype=dtype)
        compare(name, q, k, v, torch.randn_like(q), causal=causal, scale=d**-0.5)


@pytest.mark.parametrize("causal", BOTH)
@pytest.mark.parametrize("window", [1, 70, 1000])
@pytest.mark.parametrize("name", BACKWARD)
def test_windows(name, window, causal):
    q, k, v = inputs(2, 4, 2, 300, 413, d=128)
    compare(name, q, k, v, torch.randn_like(q), causal=causal, scale=0.3, window=window)


@pytest.mark.parametrize("causal", BOTH)
@pytest.mark.parametrize("window, softcap", [(None, 20.0), (70, 2.0)])
def test_softcaps_flash_backward(window, softcap, causal):
    q, k, v = inputs(2, 4, 2, 300, 413, d=128)
    options = dict(causal=causal, scale=0.3, window=window, softcap=softcap)
    compare("flash_backward", q, k, v, torch.randn_like(q), **options)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("d", [64, 128])
def test_delta_of_any_strides_flash_backward(d, dtype):
    for batch, heads, _, n, _ in SHAPES:
        out, _, _ = inputs(batch, heads, 1, n, 1, d=d, dtype=dtype)
        d_lse = torch.randn_like(out[..., 0], dtype=torch.float32).mT.contiguous().mT
        for d_out in (
            torch.randn_like(out),
            torch.randn_like(out).contiguous(),
            out[..., :1].expand_as(out),
        ):
            with poisoned():
                sums = device.run_delta(d_out, out, None), device.run_delta(d_out, out, d_lse)
            exact = row_delta(d_out.double(), out.double())
            bound = 1e-6 * (d_out.double() * out.double()).abs().sum(-1) + 1e-6
            for ours, right in zip(sums, (exact, exact - d_lse), strict=True):
                assert ((ours - right).abs() <= bound).all()


@pytest.mark.parametrize("causal", BOTH)
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", BACKWARD)
def test_the_same_bits_every_time(name, d, causal):
    q, k, v = inputs(2, 8, 2, 1000, 1100, d=d)
    d_out = torch.randn_like(q)
    first, *others = (gradients(name, q, k, v, d_out, causal, scale=0.1) for _ in range(5))
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(first, other, strict=True))
