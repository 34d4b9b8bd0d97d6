"""Attention on a machine with a large slow memory and a small fast one, every element counted.

One head: `q` "n d", `k` "m d", `v` "m e" lie in slow memory. A schedule computes the attention
from what it loads and leaves it in `memory.tensors["o"]`. `M` is the number of elements that fast
memory holds.
"""

from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from .online import SoftmaxState, absorb, empty_state, merge, softmax_state
from .tiles import Tiles

ALL = slice(None)


class SlowMemory:
    """Named tensors of which a schedule sees only what it loads; `moved` counts the elements.

    Args:
        tensors: what lies there at the start.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors
        self.loaded = self.stored = 0
        self.log: list[tuple[str, slice]] = []

    @property
    def moved(self) -> int:
        """Elements loaded and stored so far."""
        return self.loaded + self.stored

    def allocate(self, name: str, *shape: int, value: float = 0.0) -> None:
        """Make room for a tensor filled with `value`; moves nothing."""
        self.tensors[name] = self.tensors["q"].new_full(shape, value)

    def load(self, name: str, rows: slice = ALL) -> Tensor:
        """Bring rows of a tensor to fast memory."""
        block = self.tensors[name][rows].clone()
        self.loaded += block.numel()
        self.log.append((name, rows))
        return block

    def store(self, name: str, block: Tensor, rows: slice = ALL) -> None:
        """Write rows of a tensor back."""
        self.stored += block.numel()
        self.tensors[name][rows] = block


def standard(memory: SlowMemory) -> None:
    """Scores, softmax and product one after the other, the matrices in slow memory in between.

    Each step loads its operands once, as if fast memory were large enough: generous.
    """
    q, k = memory.load("q"), memory.load("k")
    memory.allocate("s", len(q), len(k))
    memory.store("s", _scores(q, k))
    memory.allocate("p", len(q), len(k))
    memory.store("p", memory.load("s").softmax(-1))
    p, v = memory.load("p"), memory.load("v")
    memory.allocate("o", len(p), v.shape[1])
    memory.store("o", p @ v)


def fa1(memory: SlowMemory, tiles: Tiles) -> None:
    r"""Dao et al. (2022), algorithm 1, :eq:`eq-flash-attention-fa1`: keys outside, queries inside.

    .. math::

       \begin{aligned}
       m_i^{new} &= \max(m_i, \tilde m_{ij}),\quad
       \ell_i^{new} = e^{m_i - m_i^{new}}\ell_i + e^{\tilde m_{ij} - m_i^{new}}\tilde\ell_{ij}, \\
       O_i &\leftarrow \frac{\ell_i\,e^{m_i - m_i^{new}}\,O_i
           + e^{\tilde m_{ij} - m_i^{new}}\tilde P_{ij}V_j}{\ell_i^{new}}
       \end{aligned}

    Keys and values are read once. The states of all rows, with the output normalised, wait in slow
    memory, and `ell` and `m` stay there for the backward pass.
    """
    memory.allocate("o", tiles.n, memory.tensors["v"].shape[1])
    memory.allocate("ell", tiles.n)
    memory.allocate("m", tiles.n, value=-torch.inf)
    for cols in tiles.cols():
        k_j, v_j = memory.load("k", cols), memory.load("v", cols)
        for rows in tiles.seeing(cols):
            q_i, o_i, ell_i, m_i = (memory.load(name, rows) for name in ("q", "o", "ell", "m"))
            s = tiles.hide(_scores(q_i, k_j), rows, cols, -torch.inf)
            past = SoftmaxState(m_i, ell_i, ell_i[:, None] * o_i)
            state = merge(past, softmax_state(s, v_j))
            for name, block in (("o", state.out), ("ell", state.ell), ("m", state.m)):
                memory.store(name, block, rows)


def fa2(memory: SlowMemory, tiles: Tiles) -> None:
    """Dao (2023), algorithm 1, :eq:`eq-flash-attention-fa2`: queries outside, keys inside.

    The state of a block of rows stays in fast memory until it is finished; `o` and `lse` are
    written once.
    """
    memory.allocate("o", tiles.n, memory.tensors["v"].shape[1])
    memory.allocate("lse", tiles.n)
    for rows in tiles.rows():
        q_i = memory.load("q", rows)
        state = empty_state(q_i[:, 0], memory.tensors["v"].shape[1])
        for cols in tiles.seen_by(rows):
            k_j, v_j = memory.load("k", cols), memory.load("v", cols)
            s = tiles.hide(_scores(q_i, k_j), rows, cols, -torch.inf)
            state = absorb(state, s, v_j)
        memory.store("o", state.out, rows)
        memory.store("lse", state.lse, rows)


def _scores(q: Float[Tensor, "n d"], k: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return q @ k.mT * q.shape[-1] ** -0.5


def standard_traffic(n: int, d: int) -> int:
    """4 n d + 4 n^2 elements, :eq:`eq-flash-attention-traffic`, for as many keys as queries."""
    return 4 * n * d + 4 * n**2


def fa1_traffic(n: int, d: int, cols: int) -> int:
    """2 n d + T_c (3 n d + 4 n) elements, T_c blocks of keys, :eq:`eq-flash-attention-traffic`."""
    return 2 * n * d + ceil(n / cols) * (3 * n * d + 4 * n)


def fa2_traffic(n: int, d: int, rows: int) -> int:
    """2 n d + n + 2 T_r n d elements, T_r blocks of rows, :eq:`eq-flash-attention-traffic`."""
    return 2 * n * d + n + 2 * ceil(n / rows) * n * d


def fa1_blocks(M: int, d: int) -> tuple[int, int]:
    r"""Rows and keys of FA1's tiles, Dao et al. (2022), :eq:`eq-flash-attention-blocks`.

    .. math:: B_c = \lceil M / 4d \rceil, \qquad B_r = \min(B_c, d)

    Raises:
        ValueError: fast memory that does not hold a row.
    """
    if M < d:
        raise ValueError(f"fast memory must hold a row of {d} elements, got {M}")
    cols = ceil(M / (4 * d))
    return min(cols, d), cols


def fa2_blocks(M: int, d: int) -> tuple[int, int]:
    """The same tiles turned: FA2 re-reads the keys for every block of rows, so rows are many."""
    rows, cols = fa1_blocks(M, d)
    return cols, rows
