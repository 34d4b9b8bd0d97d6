"""Classic algorithms, one file a note, importing nothing from the rest of the library.

Glossary of :mod:`~notes_lib.algorithms.maximum_gap`: n the number of values, low = min,
span = R = max - min, k(x) the bucket of x.
"""

from .maximum_gap import (
    bucket_ends,
    bucket_index,
    integer_bucket,
    maximum_gap,
    real_bucket,
    walk_buckets,
)

__all__ = [
    "bucket_ends", "bucket_index", "integer_bucket", "maximum_gap", "real_bucket", "walk_buckets",
]  # fmt: skip
