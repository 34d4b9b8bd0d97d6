"""What a schedule can reach on a machine, from counts: operations, bytes, exponentials, banks."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

BANKS, BANK_BYTES, CHUNK_BYTES = 32, 4, 16


def intensity(n: int, d: int, passes: int = 0, size: int = 2) -> float:
    r"""Operations a byte of one head's attention, forward: :eq:`eq-flash-attention-cuda-intensity`.

    .. math:: I = \frac{4 n^2 d}{s\,(4 n d + p\, n^2)}

    Q, K, V are read and O is written once each; `passes` is how often the matrix of n squared
    scores or weights goes to or comes from memory: 0 for a fused kernel, 4 for the three kernels
    of the textbook (S written, S read, P written, P read).

    Args:
        n: queries, and keys.
        d: width of a head.
        size: bytes of a number, s.

    Raises:
        ValueError: a length, width or size below one, or a negative `passes`.
    """
    if min(n, d, size) < 1 or passes < 0:
        raise ValueError(
            f"n, d and size must be positive and passes at least 0, got {n}, {d}, {size}, {passes}"
        )
    return 4 * n * n * d / (size * (4 * n * d + passes * n * n))


def attainable(intensity: float, peak: float, bandwidth: float) -> float:
    r"""The roofline, :eq:`eq-flash-attention-cuda-roofline`: operations a second at the most.

    .. math:: \min(\mathrm{peak},\; I \cdot \mathrm{bandwidth})

    Williams et al. (2009). `peak` in operations a second, `bandwidth` in bytes a second.

    Raises:
        ValueError: an argument that is not positive.
    """
    if min(intensity, peak, bandwidth) <= 0:
        raise ValueError(
            f"all must be positive, got intensity {intensity}, peak {peak}, bandwidth {bandwidth}"
        )
    return min(peak, intensity * bandwidth)


def exponential_share(d: int, products: float = 4096.0, exponentials: float = 16.0) -> float:
    r"""Time of a score's exponential over that of its two products.

    .. math:: \rho = \frac{1 / r_{\exp}}{4 d / r_{\mathrm{mma}}}

    :eq:`eq-flash-attention-cuda-exponential`. Both rates are a clock and a multiprocessor; the
    defaults are Hopper's, Shah et al. (2024), section 3.1: 989 TFLOP/s of products against 3.9 of
    special functions, on 132 multiprocessors.

    Raises:
        ValueError: a width or a rate that is not positive.
    """
    if min(d, products, exponentials) <= 0:
        raise ValueError(f"all must be positive, got {d}, {products}, {exponentials}")
    return products / (4 * d * exponentials)


def swizzled(row: int | Tensor, chunk: int | Tensor) -> int | Tensor:
    r"""Where 16 bytes of a tile lie in their row: :eq:`eq-flash-attention-cuda-swizzle`.

    .. math:: c \mapsto c \oplus (r \bmod 8)

    A bitwise exclusive or, so that it undoes itself.
    """
    return chunk ^ (row % 8)


def wavefronts(addresses: Sequence[int] | Int[Tensor, " 8"]) -> int:
    """Turns that shared memory takes to hand out eight 16-byte chunks at these byte addresses.

    One turn if they lie in different groups of four banks, eight if all lie in the same: chunks at
    the same address are handed out together. One `ldmatrix` of a matrix of 8 rows is this access.

    Raises:
        ValueError: an address that is not a multiple of 16.
    """
    chunks = torch.as_tensor(addresses)
    if (chunks % CHUNK_BYTES).any():
        raise ValueError(f"addresses must be multiples of 16, got {chunks.tolist()}")
    groups = chunks.unique() // CHUNK_BYTES % (BANKS * BANK_BYTES // CHUNK_BYTES)
    return int(groups.bincount().max())
