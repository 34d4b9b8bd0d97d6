"""Does the emulator notice wrong kernels? Mistakes planted on purpose, and what gives each away.

A mutant is one change to the source, made in memory before it is compiled. Each is of a kind that a
compiler accepts and that people make: a wait forgotten, a barrier dropped, a lane map confused. In
the eager mode a copy arrives at once, so that a forgotten wait is no mistake; in the late mode it
arrives when it is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..kernel import Kernel
from ..variants import flash_backward, flash_forward, row_delta, tensor_cores
from .emulated import Edit
from .problems import Problem, symptom


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        what: the mistake, in a few words.
        edits: the change to the kernels' files.
        found: a part of the symptom in the late mode.
        why: how it comes about.
        within: a part of the names of the kernels that the change concerns, as of a pair's one.
        only_late: nothing is wrong in the eager mode.
    """

    what: str
    kernels: tuple[Kernel, ...]
    edits: tuple[Edit, ...]
    found: str
    why: str
    within: str = ""
    only_late: bool = False
    problem: Problem = Problem(n=150, m=200)

    def symptom(self, *, late: bool) -> str | None:
        mistake = dict(edits=self.edits, within=self.within)
        return symptom(self.problem, self.kernels, **mistake, late=late)


ONE = (tensor_cores(64, causal=False, half=False),)  # v1b
TWO = (flash_forward(64, causal=False, half=False),)  # v2
CAUSAL = (flash_forward(64, causal=True, half=False),)
DELTA = (row_delta(64, half=False),)
BACK = flash_backward(64, causal=False, half=False)
BACK_CAUSAL = flash_backward(64, causal=True, half=False)
CAPPED = flash_backward(64, causal=False, half=False, softcap=True)

AHEAD = Problem(n=200, m=150, causal=True)  # the first 50 queries see no key
BEHIND = Problem(n=150, m=200, causal=True)
LONG = Problem(n=128, m=400)  # several steps a block
NARROW = Problem(n=200, m=200, window=20)


def mutant(what, kernels, file, old, new, found, why, **options) -> Mutant:
    return Mutant(what, kernels, ((file, old, new),), found, why, **options)


MUTANTS = (
    mutant(
        "v1b: tiles overwritten while others read them",
        ONE,
        "tensor_cores.cu",
        "    __syncthreads();  // nobody reads the last tiles any more\n",
        "",
        "out is wrong",
        "the first warp copies the next keys before the last has read these",
        problem=LONG,
    ),
    mutant(
        "v1b: tiles read before they are written",
        ONE,
        "tensor_cores.cu",
        "    __syncthreads();  // both tiles are here\n",
        "",
        "out is not a number",
        "shared memory holds NaN until somebody writes to it",
    ),
    mutant(
        "v1b: two quarters of an operand exchanged",
        ONE,
        "tensor_cores.cu",
        "row + g + i % 2 * 8, column = i / 4 * 16 + i / 2 % 2 * 8 + c",
        "row + g + i / 2 % 2 * 8, column = i / 4 * 16 + i % 2 * 8 + c",
        "out is wrong",
        "queries meet the wrong halves of the keys",
    ),
    mutant(
        "v1b: no mask past the last key",
        ONE,
        "tensor_cores.cu",
        "    mask(s, j, -INF, [&](int r) { return keys_seen_by(row + r, p.shape); });\n",
        "",
        "out is wrong",
        "the zeros that fill the last tile count as keys with score 0",
    ),
    mutant(
        "softmax: the old sum is not scaled down",
        ONE,
        "fragments.cuh",
        "l[i][r] = l[i][r] * alpha + sum",
        "l[i][r] = l[i][r] + sum",
        "out is wrong",
        "l belongs to the old maximum, what is added to the new one",
    ),
    mutant(
        "softmax: O divided by alpha, as Algorithm 1 of FlashAttention-2 prints it",
        ONE,
        "fragments.cuh",
        "          o[i][n][2 * r] *= alpha;\n",
        "          o[i][n][2 * r] /= alpha;\n",
        "out is not a number",
        "alpha is 0 at the first tile",
    ),
    mutant(
        "softmax: no guard for a row without keys so far",
        TWO,
        "fragments.cuh",
        "top == -INF ? 0 : top * scale_log2",
        "top * scale_log2",
        "out is not a number",
        "the maximum is -inf, and so is what is subtracted from it",
        problem=NARROW,
    ),
    mutant(
        "v2: V read without waiting for its copy",
        TWO,
        "flash_forward.cu",
        "    cp_async_wait<1>();  // V_j is here; K_{j+1} may be on its way\n",
        "",
        "out is not a number",
        "the copy has not arrived: its place still holds NaN",
        only_late=True,
    ),
    mutant(
        "v2: K read without waiting for its copy",
        TWO,
        "flash_forward.cu",
        "    cp_async_wait<0>();  // K_j is here,\n",
        "",
        "out is not a number",
        "the copy has not arrived: its place still holds NaN",
        only_late=True,
    ),
    mutant(
        "v2: V and the next K in one group",
        TWO,
        "flash_forward.cu",
        "v, p.v.row, j * BN, p.shape.keys);\n    cp_async_commit();\n",
        "v, p.v.row, j * BN, p.shape.keys);\n",
        "out is not a number",
        "waiting for all groups but one no longer waits for V",
        only_late=True,
    ),
    mutant(
        "v2: no barrier before V is read",
        TWO,
        "flash_forward.cu",
        "may be on its way\n    __syncthreads();\n",
        "may be on its way\n",
        "out is",
        "a warp has waited for its own copies, not for those of the others",
    ),
    mutant(
        "v2: no barrier before V is overwritten",
        TWO,
        "flash_forward.cu",
        "    __syncthreads();     // all of it, and nobody reads V_{j-1} or K_{j-1} any more\n",
        "",
        "is",
        "the next V replaces this one under a slower warp",
        problem=LONG,
    ),
    mutant(
        "v2: the next K copied over this one",
        TWO,
        "flash_forward.cu",
        "tiles_k + (j - begin + 1) % 2",
        "tiles_k + (j - begin) % 2",
        "is",
        "the two stages are one",
        problem=LONG,
    ),
    mutant(
        "v2: no swizzle",
        TWO,
        "tiles.cuh",
        "((c ^ (row % 8)) << 4)",
        "(c << 4)",
        "bank conflicts",
        "the result is right, and ldmatrix reads 8 rows from the same banks one by one",
    ),
    mutant(
        "v2: half a swizzle",
        TWO,
        "tiles.cuh",
        "((c ^ (row % 8)) << 4)",
        "((c ^ (row / 2 % 8)) << 4)",
        "bank conflicts",
        "the result is right, and rows lie in the same banks two by two",
    ),
    mutant(
        "v2: pieces of 8 bytes",
        TWO,
        "tiles.cuh",
        "((c ^ (row % 8)) << 4)",
        "((c ^ (row % 8)) << 3)",
        "not at a multiple",
        "a copy of 16 bytes wants a multiple of 16",
    ),
    mutant(
        "v2: a lane map of ldmatrix confused",
        TWO,
        "tiles.cuh",
        "lane() % 8 + lane() / 16 * 8, lane() / 8 % 2",
        "lane() % 16, lane() / 16",
        "out is wrong",
        "right for a left operand, but the right one wants two of its four matrices exchanged",
    ),
    mutant(
        "v2: V not transposed",
        TWO,
        "tiles.cuh",
        "ldmatrix_transposed(right",
        "ldmatrix(right",
        "out is wrong",
        "keys and columns of V change places within squares of 8",
    ),
    mutant(
        "v2: shared memory one tile too small",
        TWO,
        "flash_forward.cu",
        "tile_v = tiles_k + 2 * TILE_BYTES",
        "tile_v = tiles_k + 3 * TILE_BYTES",
        "out of bounds",
        "V lies behind the end",
    ),
    mutant(
        "v2: rows past the last one copied, too",
        TWO,
        "tiles.cuh",
        "first + row + i < end",
        "true",
        "out is not a number",
        "weights are 0 there, but 0 times what lies behind V is not 0",
    ),
    mutant(
        "v2: a row past the last one stored",
        TWO,
        "fragments.cuh",
        "      if (row < end)\n",
        "      if (row < end + 1)\n",
        "wrote outside",
        "what follows the output is not NaN any more",
    ),
    mutant(
        "v2: the last tile forgotten",
        TWO,
        "flash_forward.cu",
        ".last + BN - 1) / BN",
        ".last) / BN",
        "out is wrong",
        "200 keys are three tiles and a part",
    ),
    mutant(
        "v2: lse to the base 2",
        TWO,
        "fragments.cuh",
        "log2_fast(l)) * LN2",
        "log2_fast(l))",
        "lse is wrong",
        "out is right: only the backward pass would notice",
    ),
    mutant(
        "v2: a query does not see the key beside it",
        CAUSAL,
        "attention.cuh",
        "min(s.keys, beside + (CAUSAL ? 0 : s.window) + 1)",
        "min(s.keys, beside + (CAUSAL ? 0 : s.window))",
        "out is wrong",
        "a span ends before its `last`",
        problem=BEHIND,
    ),
    mutant(
        "v2: causal mask aligned at the top left",
        CAUSAL,
        "attention.cuh",
        "query + s.keys - s.queries",
        "query",
        "out is wrong",
        "equal only for as many queries as keys",
        problem=AHEAD,
    ),
    mutant(
        "v2: no mask on the diagonal",
        CAUSAL,
        "flash_forward.cu",
        "keys_seen_by(row, p.shape).last}",
        "keys_seen_by(row + 16 * M - 1, p.shape).last}",
        "out is wrong",
        "a tile counts as seen whole when the last query of the warp sees it whole",
        problem=BEHIND,
    ),
    mutant(
        "v2: every warp stops at its own last tile",
        CAUSAL,
        "flash_forward.cu",
        "keys_seen_by(last_row, p.shape).last",
        "keys_seen_by(row + 16 * M - 1, p.shape).last",
        "deadlock",
        "the others wait at a barrier that it does not come to",
        problem=Problem(n=256, m=256, causal=True),
    ),
    mutant(
        "v2: divided by the sum of no weights",
        CAUSAL,
        "fragments.cuh",
        "inverse[m][r] = l == 0 ? 0 : 1 / l;",
        "inverse[m][r] = 1 / l;",
        "out is not a number",
        "queries that see no key have l = 0",
        problem=AHEAD,
    ),
    mutant(
        "delta: the last exchange forgotten",
        DELTA,
        "delta.cu",
        "apart = SHARE / 2;",
        "apart = SHARE / 4;",
        "delta is wrong",
        "a row belongs to eight threads, and the first adds up four",
    ),
    mutant(
        "delta: threads without a row leave early",
        DELTA,
        "delta.cu",
        "  Words d_out = {}",
        "  if (!there) return;\n  Words d_out = {}",
        "threads wait at shuffle_xor",
        "a warp has four rows, and an exchange wants all of its threads",
    ),
    mutant(
        "delta: the gradient of lse added",
        DELTA,
        "delta.cu",
        "sum - (p.d_lse",
        "sum + (p.d_lse",
        "delta is wrong",
        "as lse grows, the weights shrink",
    ),
    mutant(
        "v2 backward: no wait for Q and dO",
        BACK,
        "flash_backward.cu",
        "    cp_async_wait<0>();  // this step's tiles are here,\n",
        "",
        "dk is not a number",
        "the copies have not arrived: their places still hold NaN",
        only_late=True,
        within="dkdv",
    ),
    mutant(
        "v2 backward: both stages are one",
        BACK,
        "flash_backward.cu",
        "const u32 stage = t % 2 * TILE_BYTES",
        "const u32 stage = 0",
        "dk is",
        "the next queries arrive where these are read",
        within="dkdv",
    ),
    mutant(
        "v2 backward: the next K and V copied before the barrier",
        BACK,
        "flash_backward.cu",
        "    __syncthreads();\n    if (j + 1 < end) load_step(j + 1);\n",
        "    if (j + 1 < end) load_step(j + 1);\n    __syncthreads();\n",
        "dq is",
        "they replace tiles that slower warps still read",
        within="dq",
    ),
    mutant(
        "v2 backward: delta forgotten",
        BACK,
        "flash_backward.cu",
        "dp = s * (dp - delta)",
        "dp = s * dp",
        "dq is wrong",
        "the softmax's weights are no longer bound to sum to one",
        within="dq",
    ),
    mutant(
        "v2 backward: lse taken to the base 2",
        BACK,
        "flash_backward.cu",
        "p.lse[p.shape.row_of(b, head, query)] * LOG2E",
        "p.lse[p.shape.row_of(b, head, query)]",
        "is wrong",
        "the weights do not sum to one",
        within="dq",
    ),
    mutant(
        "v2 backward: only the first head of a group counted",
        BACK,
        "flash_backward.cu",
        "for (int t = 0; t < heads * steps; ++t)",
        "for (int t = 0; t < steps; ++t)",
        "dk is wrong",
        "the keys of a group are seen by all its heads",
        within="dkdv",
    ),
    mutant(
        "v2 backward: P masked, dS not",
        BACK,
        "flash_backward.cu",
        "      mask(dp, first, 0, seeing);\n",
        "",
        "dk is wrong",
        "dS was made of P as it was before the mask",
        problem=NARROW,
        within="dkdv",
    ),
    mutant(
        "v2 backward: no mask on the diagonal",
        BACK_CAUSAL,
        "flash_backward.cu",
        "|| (j + 1) * BN > whole.last) mask(dp",
        ") mask(dp",
        "dq is wrong",
        "keys behind the query are summed over",
        problem=BEHIND,
        within="dq",
    ),
    mutant(
        "v2 backward: no slope of the softcap",
        CAPPED,
        "flash_backward.cu",
        "(dp - delta) * slope",
        "(dp - delta)",
        "dq is wrong",
        "the derivative of c tanh(s / c) is less than 1",
        problem=Problem(n=150, m=200, softcap=2.0),
        within="dq",
    ),
)  # fmt: skip
