"""Attention, from the softmax down to the kernel. One signature, ``attend(q, k, v, *, causal)``.

Glossary: b batch, h heads of the queries, g heads of keys and values (h is a multiple of g: query
head i reads head i // (h / g)), n queries, m keys, d width of queries and keys, e width of values.
Query i stands beside key i + m - n: causal masks and windows are aligned bottom-right.
Of a row: m its largest score, ell (the papers' l) its sum of exponentials, o the weighted sum of
values, lse the log-sum-exp, delta what its backward pass subtracts.
"""

from .flash import flash_attention, flash_with_lse
from .fused import fused_attention
from .online import (
    SoftmaxState,
    absorb,
    empty_state,
    merge,
    one_pass,
    online_attention,
    online_normaliser,
    safe_softmax,
    softmax_state,
)  # fmt: skip
from .softmax import Attend, attention_weights, scores, softmax_attention, visible
from .tiles import Tiles
from .twin import flash_backward, flash_forward, row_delta

__all__ = [
    "Attend", "SoftmaxState", "Tiles", "absorb", "attention_weights", "empty_state",
    "flash_attention", "flash_backward", "flash_forward", "flash_with_lse", "fused_attention",
    "merge", "one_pass", "online_attention", "online_normaliser", "row_delta", "safe_softmax",
    "scores", "softmax_attention", "softmax_state", "visible",
]  # fmt: skip
