"""PyTorch's kernel under our signature equals the reference, wherever its masks begin."""

import pytest
import torch

from notes_lib.attention import fused_attention, softmax_attention


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (1, 7), (3, 7), (7, 3)])
@pytest.mark.parametrize("causal", [False, True])
def test_it_equals_the_reference(n, m, groups, causal):
    q, k, v = torch.randn(2, 4, n, 5), torch.randn(2, groups, m, 5), torch.randn(2, groups, m, 3)
    for scale in (None, 0.2):
        options = dict(causal=causal, scale=scale)
        torch.testing.assert_close(
            fused_attention(q, k, v, **options), softmax_attention(q, k, v, **options)
        )


def test_tensors_that_do_not_match_are_refused():
    q, k = torch.randn(1, 4, 3, 5), torch.randn(1, 3, 3, 5)
    with pytest.raises(ValueError, match="multiple"):
        fused_attention(q, k, k)
