"""Real data that ship inside packages, and toys: nothing is downloaded at run time.

Every loader returns tensors and says in its docstring where the data come from and under which
licence. Toys are drawn from a generator.
"""

from .digits import digits, stratified_split
from .points import Airports, airports
from .toy import checkerboard, moons, ring, ring_centres

__all__ = [
    "Airports", "airports", "checkerboard", "digits", "moons", "ring", "ring_centres",
    "stratified_split",
]  # fmt: skip
