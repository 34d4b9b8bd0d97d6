"""Models that give one element after another its odds: their loss, and the loop that samples them.

Glossary: b batch, n tokens, vocab number of different tokens; logits are "b n vocab" and stand at
the token after which they foretell.
"""

from .decode import Filter, Read, generate, rereading, temperature, top_k, top_p
from .likelihood import next_token_loss, next_token_nats

__all__ = [
    "Filter", "Read", "generate", "next_token_loss", "next_token_nats", "rereading", "temperature",
    "top_k", "top_p",
]  # fmt: skip
