"""Real data that ship inside packages, and toys: nothing is downloaded at run time.

Every loader returns tensors and says in its docstring where the data come from and under which
licence. Toys are drawn from a generator.
"""

from .digits import digits, stratified_split
from .points import Airports, airports
from .text import Alphabet, docs_text, split_text, windows
from .toy import checkerboard, moons, ring, ring_centres

__all__ = [
    "Airports", "Alphabet", "airports", "checkerboard", "digits", "docs_text", "moons", "ring",
    "ring_centres", "split_text", "stratified_split", "windows",
]  # fmt: skip
