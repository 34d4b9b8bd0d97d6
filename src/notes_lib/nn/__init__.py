"""Network blocks without an opinion on the generative model.

Glossary: b batch, dim entries of a sample, hidden width, c the condition (an embedded time).
"""

from .embed import SinusoidalEmbedding
from .mlp import ResidualBlock, ResidualMLP
from .modulation import AdaLayerNorm

__all__ = ["AdaLayerNorm", "ResidualBlock", "ResidualMLP", "SinusoidalEmbedding"]
