"""The Triton version on hardware, or on the CPU where Triton is installed:

TRITON_INTERPRET=1 pytest -o addopts= tests/gpu/test_triton.py
"""

import pytest
import torch

from notes_lib.attention import softmax_attention

from .rungs import DEVICE, HALVES, SHAPES, assert_as_good_as_pytorch, inputs, log_sum_exp, poisoned

TILES = [(128, 64, 8, 3), (64, 32, 4, 2), (128, 128, 8, 2)]


@pytest.fixture
def module():
    reason = "Triton is not installed: it comes with PyTorch for CUDA"
    pytest.importorskip("triton.language", reason=reason)
    from notes_lib.attention.cuda import triton_flash

    return triton_flash


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("d", [64, 128])
def test_attention_is_as_exact_as_pytorchs(module, d, dtype, causal):
    for i, shape in enumerate(SHAPES if DEVICE == "cuda" else SHAPES[:4]):
        q, k, v = inputs(*shape, d=d, dtype=dtype)
        options = dict(causal=causal, scale=d**-0.5)
        with poisoned():
            tile = module.Tile(*TILES[i % len(TILES)])
            out, lse = module.triton_attention(q, k, v, **options, tile=tile)
        exact = softmax_attention(*(x.double() for x in (q, k, v)), **options)
        assert out.isfinite().all() and out.stride() == q.stride()
        assert_as_good_as_pytorch([out], [softmax_attention(q, k, v, **options)], [exact])
        sums = log_sum_exp(q.double(), k.double(), **options)
        torch.testing.assert_close(lse.double(), sums, atol=1e-4, rtol=1e-5)
