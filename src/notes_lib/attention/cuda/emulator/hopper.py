"""The Hopper kernels on the emulator, and mistakes planted in them (see mutants.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ..hopper import (
    HopperBackwardParams,
    HopperParams,
    described,
    hopper_backward,
    hopper_forward,
)
from ..kernel import Kernel
from .attention import grid, refuse_strays, rows_of, surrounded
from .emulated import Edit, Emulated, EmulationError, build
from .mutants import Mutant
from .problems import Problem, differ, expected, layout_of


def forward(
    emulated: Emulated,
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m d"],
    *,
    late: bool = False,
    window: int | None = None,
    blocks: int | None = None,
    together: int | None = None,
) -> tuple[Float[Tensor, "b h n d"], Float32[Tensor, "b h n"], dict[str, int]]:
    """(out, lse, counts), with the scale 1 / sqrt(d).

    Args:
        late: see :class:`~notes_lib.attention.cuda.emulator.emulated.Emulated`.
        blocks: of the grid; None for one a tile.
        together: heads whose tiles are mixed; None for as many as the L2 cache holds.

    Raises:
        EmulationError: also where the kernel writes outside of its outputs.
    """
    out, lse = surrounded(torch.full_like(q, math.nan)), rows_of(q)
    given = dict(kernel=emulated.kernel, scale=q.shape[-1] ** -0.5, encode=described)
    params = HopperParams.of(q, k, v, out, lse, window=window, **given)
    params.together = params.together if together is None else together
    counts = emulated(grid(emulated, q) if blocks is None else (blocks, 1, 1), params, late=late)
    refuse_strays(out, lse)
    return out, lse, counts


def backward(
    emulated: tuple[Emulated, Emulated],
    d_out: Float[Tensor, "b h n d"],
    delta: Float32[Tensor, "b h n"],
    inputs: tuple[Tensor, Tensor, Tensor],
    lse: Float32[Tensor, "b h n"],
    *,
    late: bool = False,
    window: int | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[dict[str, int], dict[str, int]]]:
    """((dq, dk, dv), counts of each kernel) of the pair that `hopper_backward` names.

    Arguments and errors: see :func:`forward`, and that of attention.py.
    """
    q, k, _ = inputs
    grads = tuple(surrounded(torch.full_like(x, math.nan)) for x in inputs)
    given = dict(scale=q.shape[-1] ** -0.5, window=window, encode=described)

    def run(one: Emulated, owned: Tensor) -> dict[str, int]:
        tensors = inputs, d_out, grads, lse, delta
        params = HopperBackwardParams.of(*tensors, kernel=one.kernel, **given)
        return one(grid(one, owned), params, late=late)

    counts = run(emulated[0], k), run(emulated[1], q)
    refuse_strays(*grads)
    return grads, counts


def symptom(
    problem: Problem,
    kernels: tuple[Kernel, ...],
    *,
    edits: tuple[Edit, ...] = (),
    within: str = "",
    late: bool = False,
    blocks: int | None = None,
) -> str | None:
    """What is wrong with the forward kernel, or with the two backward ones; None if nothing is.

    Arguments: see :func:`forward`, and `symptom` of problems.py.
    """
    d, dtype = layout_of(kernels[0])
    *inputs, d_out = problem.tensors(d, dtype)
    exact = expected(problem, [*inputs, d_out])
    built = tuple(build(kernel, edits if within in kernel.entry else ()) for kernel in kernels)
    names, wanted = ("out", "lse"), (exact.out, exact.lse)
    try:
        if len(built) == 1:
            found = forward(*built, *inputs, late=late, window=problem.window, blocks=blocks)[:2]
        else:
            names, wanted = ("dq", "dk", "dv"), exact.grads
            lse = rows_of(d_out).copy_(exact.lse)
            delta = rows_of(d_out).copy_((exact.out * d_out.double()).sum(-1))
            options = dict(late=late, window=problem.window)
            found, _ = backward(built, d_out, delta, tuple(inputs), lse, **options)
    except EmulationError as error:
        return str(error)
    return next(filter(None, map(differ, names, found, wanted)), None)


# ---------------------------------------------------------------------------------------- mutants


@dataclass(frozen=True)
class HopperMutant(Mutant):
    """One mistake; its change may need several edits to leave the rest consistent.

    Args:
        blocks: see :func:`forward`.
    """

    blocks: int | None = None

    def symptom(self, *, late: bool) -> str | None:
        mistake = dict(edits=self.edits, within=self.within, blocks=self.blocks)
        return symptom(self.problem, self.kernels, **mistake, late=late)


FORWARD, TILES, BACKWARD = "hopper_forward.cu", "hopper_tiles.cuh", "hopper_backward.cu"
SHORT = (hopper_forward(64, causal=False, half=False, keys=64),)  # many blocks of few keys
SHORT_CAUSAL = (hopper_forward(64, causal=True, half=False, keys=64),)
WIDE = (hopper_forward(128, causal=False, half=False, keys=64),)
BACK = hopper_backward(64, causal=False, half=False)
BACK_CAUSAL = hopper_backward(64, causal=True, half=False)

LONG = Problem(n=128, m=700, share=1)
MANY = Problem(n=500, m=300)
AHEAD = Problem(n=200, m=150, causal=True)  # the first 50 queries see no key

WAIT_S = "        wgmma_wait<1>(s);  // S is there, P V still on the tensor cores\n"
WAIT_O = "        wgmma_wait<0>(o, weights);\n"
RELEASE_K, RELEASE_V = "        ring_k.release();\n", "        ring_v.release();\n"
RESCALE = "        scale_rows(o, state.alpha);\n"
RELEASE_Q, LOOP = "      ring_q.release();\n", "      for (int j = tile.end - 2;"
WAIT_DK = "    wgmma_wait<0>(dk, dv, p_operand, ds_operand);\n"
RELEASE = "    ring.release();\n"
SYNC = "    __syncwarp();  // one lane frees the stage, and all have read lse and delta of it\n"


def mutant(what, file, old, new, found, why, kernels=SHORT, problem=LONG, **options):
    edits = ((file, old, new),) if isinstance(old, str) else (*old,)
    return HopperMutant(what, kernels, edits, found, why, problem=problem, **options)


MUTANTS = (
    mutant(
        "v3: S read before it is there",
        FORWARD,
        WAIT_S,
        "",
        "is",
        "the registers still hold the P of the last block",
        only_late=True,
    ),
    mutant(
        "v3: K freed before S is there",
        FORWARD,
        WAIT_S + RELEASE_K,
        RELEASE_K + WAIT_S,
        "is",
        "the next keys arrive under the product",
        only_late=True,
    ),
    mutant(
        "v3: V freed before P V is there",
        FORWARD,
        WAIT_O + RELEASE_V,
        RELEASE_V + WAIT_O,
        "is",
        "the next values arrive under the product",
        only_late=True,
    ),
    mutant(
        "v3: O scaled while P V is added to it",
        FORWARD,
        WAIT_O + RELEASE_V + RESCALE,
        RESCALE + WAIT_O + RELEASE_V,
        "out is wrong",
        "the last P V is scaled by what it was computed for already",
        only_late=True,
    ),
    mutant(
        "v3: P V without waiting for V",
        FORWARD,
        "    ring_v.await_full();\n",
        "",
        "more arrivals",
        "a stage is freed before it is filled",
        only_late=True,
    ),
    mutant(
        "v3: Q freed before its last product",
        FORWARD,
        ((FORWARD, RELEASE_Q, ""), (FORWARD, LOOP, RELEASE_Q + LOOP)),
        "",
        "is",
        "a block that takes several tiles gets the next queries too early",
        problem=MANY,
        blocks=1,
    ),
    mutant(
        "v3: one warp frees a stage for four",
        FORWARD,
        (
            (TILES, "if (threadIdx.x % 32 == 0) barrier", "if (threadIdx.x % 128 == 0) barrier"),
            (FORWARD, "ring_q(c).initialise(1, 4)", "ring_q(c).initialise(1, 1)"),
            (FORWARD, "ring_k().initialise(1, 4 *", "ring_k().initialise(1,"),
            (FORWARD, "ring_v().initialise(1, 4 *", "ring_v().initialise(1,"),
        ),
        "",
        "is",
        "it has waited for its own rows of the product, not for those of the others",
        only_late=True,
    ),
    mutant(
        "v3: one consumer frees a stage for both",
        FORWARD,
        "ring_k().initialise(1, 4 * CONSUMERS)",
        "ring_k().initialise(1, 4)",
        "is",
        "the other may not have read it",
    ),
    mutant(
        "v3: the producer waits for the wrong phase",
        TILES,
        "barrier_wait(free(), parity ^ 1)",
        "barrier_wait(free(), parity)",
        "deadlock",
        "nobody frees a stage that was never filled",
    ),
    mutant(
        "v3: half of the bytes expected",
        TILES,
        "tile_bytes(LINES));",
        "tile_bytes(LINES) / 2);",
        "deadlock",
        "more bytes come than the phase may end with",
    ),
    mutant(
        "v3: nobody has the first turn",
        FORWARD,
        "if (consumer == CONSUMERS - 1) pass_turn();",
        "",
        "threads wait at named barrier",
        "each consumer waits for the other",
    ),
    mutant(
        "v3: more registers dealt out than there are",
        TILES,
        "registers_give<24>",
        "registers_give<40>",
        "registers_take",
        "the second consumer waits for registers that nobody gives",
    ),
    mutant(
        "v3: no wgmma_fence before S",
        TILES,
        "u32 a, u32 b) {\n  wgmma_fence();",
        "u32 a, u32 b) {",
        "no wgmma_fence",
        "the product may overtake the last writes to its registers",
    ),
    mutant(
        "v3: barriers that the TMA may not see",
        FORWARD,
        "    barrier_init_fence();\n",
        "",
        "no barrier_init_fence",
        "it looks at memory by another way than the threads",
    ),
    mutant(
        "v3: the two distances of V exchanged",
        TILES,
        "K * LINE, 8 * LINE), 1",
        "8 * LINE, K * LINE), 1",
        "is",
        "columns 64 to 127 are looked for eight keys further on",
        kernels=WIDE,
    ),
    mutant(
        "v3: a key past the end seen",
        TILES,
        "holds(column + column_of(i))",
        "holds(column + column_of(i) - 1)",
        "is wrong",
        "its score is 0, and not -inf",
    ),
    mutant(
        "v3: no mask on the diagonal",
        FORWARD,
        "keys_seen_by(first_row, p.shape).last}",
        "keys_seen_by(first_row + 63, p.shape).last}",
        "out is wrong",
        "a block counts as seen whole when the last query sees it whole",
        kernels=SHORT_CAUSAL,
        problem=Problem(n=200, m=300, causal=True),
    ),
    mutant(
        "v3 backward: P computed before S is there",
        BACKWARD,
        "    wgmma_wait<1>(s);\n    if (edge) mask(s, first",
        "    if (edge) mask(s, first",
        "is",
        "the registers still hold the P of the last step",
        kernels=BACK,
        within="dkdv",
        problem=MANY,
        only_late=True,
    ),
    mutant(
        "v3 backward: Q and dO freed before dK is there",
        BACKWARD,
        WAIT_DK + SYNC + RELEASE,
        RELEASE + WAIT_DK,
        "is",
        "the next queries arrive under the product",
        kernels=BACK,
        within="dkdv",
        problem=Problem(n=700, m=128, share=1),
        only_late=True,
    ),
    mutant(
        "v3 backward: lse and delta not waited for",
        BACKWARD,
        "#define FILLERS 33",
        "#define FILLERS 1",
        "more arrivals",
        "the barrier counts the TMA only, and the lanes of the producer come on top",
        kernels=BACK,
        within="dkdv",
        only_late=True,
    ),
    mutant(
        "v3 backward: no guard for queries that see no key",
        BACKWARD,
        "lse == -INF ? INF : lse * LOG2E);",
        "lse * LOG2E);",
        "is not a number",
        "exp(s + inf) is infinite, and 0 times infinity not a number",
        kernels=BACK_CAUSAL,
        within="dkdv",
        problem=AHEAD,
    ),
    mutant(
        "v3 backward: no mask on the diagonal",
        BACKWARD,
        "(j + 1) * WALKED > whole.last;",
        "false;",
        "dq is wrong",
        "keys behind the query are summed over",
        kernels=BACK_CAUSAL,
        within="dq",
        problem=Problem(n=200, m=300, causal=True),
    ),
    mutant(
        "v3 backward: the next K and V not waited for",
        BACKWARD,
        "    if (j + 1 < walk.end) next.await_full();",
        "",
        "more arrivals",
        "a stage is freed before it is filled",
        kernels=BACK,
        within="dq",
        problem=LONG,
        only_late=True,
    ),
)
