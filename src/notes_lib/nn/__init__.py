"""Network blocks without an opinion on the generative model.

Glossary: b batch, dim entries of a sample, hidden width, c the condition (an embedded time).
"""

from .attention import KVCache, MultiHeadAttention, recorded_qkv, with_attend
from .embed import ClassEmbedding, PositionalEncoding, SinusoidalEmbedding, TokenEmbedding
from .inject import CrossAttention
from .mlp import Labelled, ResidualBlock, ResidualClassifier, ResidualMLP
from .modulation import AdaLayerNorm
from .recurrent import RecurrentDecoder, gru_step, lstm_step, rnn_jacobian, rnn_step
from .transformer import CrossBlock, Decoder, TransformerBlock, post_norm, pre_norm

__all__ = [
    "AdaLayerNorm", "ClassEmbedding", "CrossAttention", "CrossBlock", "Decoder", "KVCache",
    "Labelled", "MultiHeadAttention", "PositionalEncoding", "RecurrentDecoder", "ResidualBlock",
    "ResidualClassifier", "ResidualMLP", "SinusoidalEmbedding", "TokenEmbedding",
    "TransformerBlock", "gru_step", "lstm_step", "post_norm", "pre_norm", "recorded_qkv",
    "rnn_jacobian", "rnn_step", "with_attend",
]  # fmt: skip
