"""The reference attention against PyTorch's, and its conventions one by one."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from notes_lib.attention import attention_weights, scores, softmax_attention, visible


def qkv(n=7, m=11, heads=4, groups=4, d=5, e=3):
    return torch.randn(2, heads, n, d), torch.randn(2, groups, m, d), torch.randn(2, groups, m, e)


def test_it_equals_pytorch():
    q, k, v = qkv(e=5)
    torch.testing.assert_close(softmax_attention(q, k, v), scaled_dot_product_attention(q, k, v))
    q, k, v = qkv(n=11, e=5)
    torch.testing.assert_close(
        softmax_attention(q, k, v, causal=True, scale=0.3),
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_heads_equal_pytorch(groups):
    q, k, v = qkv(groups=groups)
    peer = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(softmax_attention(q, k, v), peer)


def test_masks_are_aligned_bottom_right():
    seen = visible(torch.arange(2), torch.arange(4), 2, causal=True)
    assert seen.tolist() == [[True, True, True, False], [True, True, True, True]]
    near = visible(torch.arange(2), torch.arange(4), 2, causal=True, window=1)
    assert near.tolist() == [[False, True, True, False], [False, False, True, True]]
    both = visible(torch.arange(3), torch.arange(3), 0, window=1)
    assert both.tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_a_mask_hides_keys_and_a_row_that_sees_none_is_zero():
    q, k, v = qkv()
    mask = torch.rand(2, 1, 7, 11) > 0.5
    mask[0, 0, 2] = False
    out = softmax_attention(q, k, v, mask=mask)
    torch.testing.assert_close(out[1], scaled_dot_product_attention(q, k, v, attn_mask=mask)[1])
    assert (out[0, :, 2] == 0).all() and out.isfinite().all()
    assert (softmax_attention(*qkv(n=11, m=4), causal=True)[:, :, :7] == 0).all()


def test_a_softcap_bounds_the_scores_and_vanishes_when_large():
    q, k, _ = qkv()
    assert scores(100 * q, k, softcap=2.0).abs().max() <= 2
    torch.testing.assert_close(scores(q, k, softcap=1e5), scores(q, k), atol=1e-8, rtol=1e-8)


def test_weights_sum_to_one_and_no_query_moves_another():
    q, k, v = qkv()
    torch.testing.assert_close(attention_weights(q, k).sum(-1), torch.ones(2, 4, 7))
    other = q.clone()
    other[:, :, 3] += 1
    same = softmax_attention(q, k, v) == softmax_attention(other, k, v)
    assert same[:, :, [0, 1, 2, 4, 5, 6]].all() and not same[:, :, 3].any()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda q, k, v: (q[:, :3], k[:, :2], v[:, :2]), "multiple"),
        (lambda q, k, v: (q[..., :4], k, v), "width"),
        (lambda q, k, v: (q, k, v[:, :, 1:]), "length"),
        (lambda q, k, v: (q.float(), k, v), "dtype"),
    ],
)
def test_tensors_that_do_not_match_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        softmax_attention.__wrapped__(*change(*qkv()))
