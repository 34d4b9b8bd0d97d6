"""Real data that ship inside packages: nothing is downloaded at run time.

Every loader returns tensors and says in its docstring where the data come from and under which
licence.
"""

from .digits import digits, stratified_split
from .points import Airports, airports

__all__ = ["Airports", "airports", "digits", "stratified_split"]
