"""Attention, from the softmax down to the kernel. One signature: attend(q, k, v, *, causal).

Glossary: b batch, h heads of the queries, g heads of keys and values (h is a multiple of g: query
head i reads head i // (h / g)), n queries, m keys, d width of queries and keys, e width of values.
Query i stands beside key i + m - n: causal masks and windows are aligned bottom-right.
"""

from .fused import fused_attention
from .softmax import Attend, attention_weights, scores, softmax_attention, visible

__all__ = [
    "Attend", "attention_weights", "fused_attention", "scores", "softmax_attention", "visible",
]  # fmt: skip
