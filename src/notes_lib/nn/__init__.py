"""Network blocks without an opinion on the generative model.

Glossary: b batch, dim entries of a sample, hidden width, c the condition (an embedded time).
"""

from .embed import ClassEmbedding, SinusoidalEmbedding
from .inject import CrossAttention
from .mlp import Labelled, ResidualBlock, ResidualClassifier, ResidualMLP
from .modulation import AdaLayerNorm

__all__ = [
    "AdaLayerNorm", "ClassEmbedding", "CrossAttention", "Labelled", "ResidualBlock",
    "ResidualClassifier", "ResidualMLP", "SinusoidalEmbedding",
]  # fmt: skip
