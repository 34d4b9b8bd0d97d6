"""Each rung on hardware, against float64 and against PyTorch in the same 16 bits."""

import pytest
import torch

from notes_lib.attention import softmax_attention
from notes_lib.attention.cuda import device

from .rungs import (
    RUNGS,
    SHAPES,
    assert_as_good_as_pytorch,
    inputs,
    log_sum_exp,
    poisoned,
)

CASES = [
    pytest.param(rung, d, dtype, causal, id=f"{name}-{d}-{dtype}-{'causal' if causal else 'full'}")
    for name, rung in RUNGS.items()
    for d in rung.widths
    for dtype in rung.dtypes
    for causal in (False, True)
]


def compare(attend, q, k, v, causal, scale):
    with poisoned():
        out, lse = attend(q, k, v, causal, scale)
    exact = softmax_attention(*(x.double() for x in (q, k, v)), causal=causal, scale=scale)
    half = softmax_attention(q, k, v, causal=causal, scale=scale)
    assert out.dtype == q.dtype and out.isfinite().all()
    assert_as_good_as_pytorch([out], [half], [exact])
    sums = log_sum_exp(q.double(), k.double(), causal, scale)
    assert lse.dtype == torch.float32
    torch.testing.assert_close(lse.double(), sums, atol=1e-4, rtol=1e-5)
    assert (out[sums == -torch.inf] == 0).all()


@pytest.mark.parametrize("rung, d, dtype, causal", CASES)
def test_attention_is_as_exact_as_pytorch(rung, d, dtype, causal):
    for shape in SHAPES:
        q, k, v = inputs(*shape, d=d, dtype=dtype)
        compare(rung.attend, q, k, v, causal, d**-0.5)


@pytest.mark.parametrize("rung, d, dtype, causal", CASES)
def test_huge_scores_and_other_scales(rung, d, dtype, causal):
    q, k, v = inputs(2, 4, 2, 190, 260, d=d, dtype=dtype)
    compare(rung.attend, 40 * q, k, v, causal, d**-0.5)
    compare(rung.attend, q, k, v, causal, 0.7)


@pytest.mark.parametrize("rung, d, dtype, causal", CASES)
def test_random_shapes(rung, d, dtype, causal):
    draw = torch.Generator().manual_seed(1)
    for _ in range(8):
        batch, group, n, m = (
            torch.randint(low, high, (), generator=draw).item()
            for low, high in ((1, 4), (1, 4), (1, 700), (1, 700))
        )
        q, k, v = inputs(batch, 2 * group, 2, n, m, d=d, dtype=dtype)
        compare(rung.attend, q, k, v, causal, d**-0.5)


@pytest.mark.parametrize("rung, d, dtype, causal", CASES)
def test_the_same_bits_every_time(rung, d, dtype, causal):
    q, k, v = inputs(2, 4, 2, 1000, 1100, d=d, dtype=dtype)
    first, *others = (rung.attend(q, k, v, causal, d**-0.5) for _ in range(5))
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(first, other, strict=True))


@pytest.mark.parametrize("name", [name for name in RUNGS if name != "naive"])
def test_heads_that_lie_more_than_2_31_elements_apart(name):
    far, d = 1 << 31, 64
    memory = torch.zeros(far + 3 * 200 * d, device="cuda", dtype=torch.bfloat16)
    q, k, v = (memory.as_strided((1, 2, 200, d), (0, far, d, 1), i * 200 * d) for i in range(3))
    for x in (q, k, v):
        x.copy_(torch.randn(x.shape))
    compare(RUNGS[name].attend, q, k, v, True, d**-0.5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 70, 1000])
@pytest.mark.parametrize("name", ["flash_forward", "hopper_forward"])
def test_windows(name, window, causal):
    q, k, v = inputs(2, 4, 2, 300, 413, d=128)
    masked(name, q, k, v, causal, scale=0.3, window=window)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window, softcap", [(None, 2.0), (None, 50.0), (70, 2.0)])
def test_softcaps_flash_forward(window, softcap, causal):
    q, k, v = inputs(2, 4, 2, 300, 413, d=128)
    masked("flash_forward", q, k, v, causal, scale=0.3, window=window, softcap=softcap)


def masked(name, q, k, v, causal, **options):
    variant = q.shape[-1], causal, False, *([True] if "softcap" in options else [])
    with poisoned():
        out, _ = device.run_forward(RUNGS[name].kernel(*variant), q, k, v, **options)
    options["causal"] = causal
    exact = softmax_attention(*(x.double() for x in (q, k, v)), **options)
    assert_as_good_as_pytorch([out], [softmax_attention(q, k, v, **options)], [exact])
