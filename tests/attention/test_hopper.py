"""The Hopper rung on the emulator, against float64; the order of its machine code; its mutants."""

import ctypes
import re
import shutil
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.attention.cuda.emulator import EmulationError, build, edited
from notes_lib.attention.cuda.emulator.attention import rows_of
from notes_lib.attention.cuda.emulator.hopper import (
    LONG,
    MUTANTS,
    SHORT,
    backward,
    forward,
    symptom,
)
from notes_lib.attention.cuda.emulator.problems import Problem, expected, layout_of
from notes_lib.attention.cuda.hopper import (
    Described,
    HopperBackwardParams,
    HopperParams,
    heads_together,
    hopper_backward,
    hopper_forward,
    walkable,
)
from notes_lib.attention.cuda.launch import TensorMap

emulator = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None,
    reason="the emulator wants Linux and g++",
)

# Few of the variants, for each costs three seconds of g++; every macro takes every value somewhere.
RUNGS = {
    "v3, d 64, half": (hopper_forward(64, causal=False, half=True),),
    "v3, d 64, causal": (hopper_forward(64, causal=True, half=False),),
    "v3, d 128": (hopper_forward(128, causal=False, half=False),),
    "v3, d 128, causal, half": (hopper_forward(128, causal=True, half=True),),
    "backward, d 64, causal, half": hopper_backward(64, causal=True, half=True),
    "backward, d 128": hopper_backward(128, causal=False, half=False),
}


@st.composite
def problems(draw, kernels):
    """Problems of at most four heads in all."""
    batch, groups, share = draw(st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 1, 4)]))
    return Problem(
        n=draw(st.integers(1, 300)),
        m=draw(st.integers(1, 300)),
        batch=batch,
        groups=groups,
        share=share,
        causal=bool(dict(kernels[0].macros)["CAUSAL"]),
        window=draw(st.none() | st.integers(0, 200)),
        magnitude=draw(st.sampled_from([1.0, 30.0])),
        axes=draw(st.sampled_from(["bhn", "bnh", "nbh"])),
    )


@emulator
@pytest.mark.parametrize("rung", RUNGS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_kernel_equals_float64(rung, data):
    problem = data.draw(problems(RUNGS[rung]))
    blocks = data.draw(st.none() | st.integers(1, 3)) if len(RUNGS[rung]) == 1 else None
    for late in (False, True):
        assert symptom(problem, RUNGS[rung], late=late, blocks=blocks) is None


@emulator
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("n, m", [(1, 1), (200, 70), (129, 300)])
def test_edges(rung, n, m):
    """One number; queries that see no key, where the mask is causal; tails of every kind."""
    problem = Problem(n=n, m=m, causal=bool(dict(RUNGS[rung][0].macros)["CAUSAL"]))
    assert symptom(problem, RUNGS[rung], late=True) is None


@emulator
def test_what_is_not_a_number_stays_so():
    (kernel,) = RUNGS["v3, d 64, causal"]
    q, k, v, _ = Problem(n=90, m=90, share=1, causal=True).tensors(*layout_of(kernel))
    q[:, :, 70] = torch.nan
    wrong = torch.arange(90) == 70
    for x in forward(build(kernel), q, k, v)[:2]:
        assert x[:, :, wrong].isnan().all() and x[:, :, ~wrong].isfinite().all()


@emulator
def test_the_order_of_the_tiles_changes_no_bit():
    problem = Problem(n=400, m=300, batch=2, groups=2, share=2, causal=True)
    kernel = build(*RUNGS["v3, d 64, causal"])
    q, k, v, _ = problem.tensors(64, torch.bfloat16)
    out, lse, _ = forward(kernel, q, k, v)
    for blocks, together in ((None, 1), (None, 3), (1, 8), (5, 3)):
        options = dict(blocks=blocks, together=together)
        again, its_lse, _ = forward(kernel, q, k, v, late=True, **options)
        assert torch.equal(out, again) and torch.equal(lse, its_lse)


@emulator
def test_the_order_of_events_changes_no_bit_of_the_gradients():
    problem = Problem(n=200, m=150, causal=True, window=30)
    pair = tuple(map(build, RUNGS["backward, d 64, causal, half"]))
    q, k, v, d_out = problem.tensors(64, torch.float16)
    exact = expected(problem, [q, k, v, d_out])
    lse, delta = rows_of(q).copy_(exact.lse), rows_of(q).copy_((exact.out * d_out).sum(-1))
    first, last = (
        backward(pair, d_out, delta, (q, k, v), lse, window=30, late=late)[0]
        for late in (False, True)
    )
    assert all(map(torch.equal, first, last))


@emulator
def test_tiles_that_would_lie_at_odd_addresses_stop_the_kernel():
    edit = (
        "hopper_forward.cu",
        "aligned(shared_address(memory))",
        "aligned(shared_address(memory + 128))",
    )
    q, k, v, _ = LONG.tensors(*layout_of(SHORT[0]))
    with pytest.raises(EmulationError, match="stops itself"):
        forward(build(*SHORT, edits=(edit,)), q, k, v)


@emulator
@pytest.mark.parametrize("causal, blocks", [(False, 4 * [5]), (True, [2, 3, 4, 5])])
def test_blocks_that_no_query_sees_are_skipped(causal, blocks):
    """Of 4 tiles of 128 queries and 5 blocks of 128 keys."""
    d, keys = 64, 128
    kernel = hopper_forward(d, causal, half=False, keys=keys)
    q, k, v, _ = Problem(n=512, m=640, share=1, causal=causal).tensors(*layout_of(kernel))
    _, _, counts = forward(build(kernel), q, k, v)
    assert counts["wgmma"] == 2 * sum(blocks) * (d // 16 + keys // 16)  # two consumers
    assert counts["tma_bytes"] == (512 + sum(blocks) * 2 * keys) * d * 2
    assert counts["bank_conflicts"] == counts["shared_loads"] == counts["cp_async"] == 0


@emulator
def test_the_backward_pass_makes_seven_products():
    d, n, m = 128, 256, 384
    pair = tuple(map(build, RUNGS["backward, d 128"]))
    *inputs, d_out = Problem(n=n, m=m, share=1).tensors(d, torch.bfloat16)
    rows = rows_of(d_out).zero_()
    dkdv, dq = backward(pair, d_out, rows, tuple(inputs), rows)[1]
    queries, keys = (dict(one.kernel.macros)["WALKED"] for one in pair)
    assert dkdv["wgmma"] == (m // 64) * (n // queries) * 2 * (d // 16 + queries // 16)
    assert dq["wgmma"] == (n // 64) * (m // keys) * (2 * (d // 16) + keys // 16)
    assert dkdv["bank_conflicts"] == dq["bank_conflicts"] == dq["shared_loads"] == 0


# ---------------------------------------------------------------------------------- what is told


def test_tensors_that_the_tma_cannot_walk_are_refused():
    x = torch.zeros(1, 2, 3, 72, dtype=torch.bfloat16)
    assert walkable(x[..., :64]).shape == (1, 2, 3, 64)
    assert walkable(x[:, :1, :1, :64]).stride() == (64, 64, 64, 1)
    for bad in (
        x[..., 1:65],  # address
        torch.zeros(1, 2, 3, 68, dtype=torch.bfloat16)[..., :64],
        x[:, :1, :, :64].expand(1, 2, 3, 64),
        x.mT,
    ):
        with pytest.raises(ValueError, match="the TMA walks"):
            walkable(bad)


@pytest.mark.parametrize("n, groups, together", [(4096, 16, 16), (4096, 4, 64), (1 << 20, 16, 1)])
def test_heads_share_the_cache_as_far_as_it_goes(n, groups, together):
    q = torch.empty(4, 16, n, 128, dtype=torch.bfloat16, device="meta")
    k = torch.empty(4, groups, n, 128, dtype=torch.bfloat16, device="meta")
    assert heads_together(q, k) == together


def test_structures_have_the_alignment_of_tensor_maps():
    assert ctypes.sizeof(TensorMap) == 128 >= ctypes.sizeof(Described)
    for params in (HopperParams, HopperBackwardParams):
        assert ctypes.sizeof(params) % 128 == 0
        assert all(getattr(params, name).offset % 128 == 0 for name in "qkv")


# -------------------------------------------------------------------------------- machine code

WARPGROUP, HGMMA, MUFU = 0x1C5, 0x1F0, 0x108  # the low 9 bits of an instruction of sm_90


def instructions(cubin, kernel):
    """Instructions of a kernel, as pairs of 64-bit words: its section of the ELF file."""

    def number(offset, size):
        return int.from_bytes(cubin[offset : offset + size], "little")

    table, width, count, names = number(0x28, 8), *(number(at, 2) for at in (0x3A, 0x3C, 0x3E))
    headers = [table + i * width for i in range(count)]
    strings = number(headers[names] + 0x18, 8)
    for header in headers:
        name = cubin[strings + number(header, 4) :].split(b"\0", 1)[0]
        if name == f".text.{kernel}".encode():
            start, size = number(header + 0x18, 8), number(header + 0x20, 8)
            return [(number(at, 8), number(at + 8, 8)) for at in range(start, start + size, 16)]


def trace(kernel):
    """Products, waits by the groups they leave, and exponentials, in the order of the code.

    The kernel must fit its registers, and ptxas have nothing to say.
    """
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed; macOS has none")
    from notes_lib.attention.cuda.compile import compile_kernel

    found, cubin = [], compile_kernel(kernel, "sm_90a")
    assert (cubin.spills, cubin.stack, cubin.advisories) == (0, 0, ())
    for low, high in instructions(cubin.code, kernel.entry):
        if low & 0x1FF == HGMMA:
            found.append("product")
        elif low & 0x1FF == WARPGROUP and low >> 47 & 1:
            found.append(f"wait {high >> 8 & 0xFF}")
        elif low & 0x1FF == MUFU and high >> 8 & 0xFF == 0x08:
            found.append("exp2")
    return found


@pytest.mark.parametrize("d, causal", [(64, False), (64, True), (128, False), (128, True)])
def test_the_exponentials_stand_between_the_waits(d, causal):
    """Nothing in PTX forbids ptxas to move the second wait up, and then nothing overlaps."""
    kernel = hopper_forward(d, causal, half=False)
    keys = dict(kernel.macros)["KEYS"]
    s_and_pv = (d // 16 + keys // 16) * ["product"]
    found = trace(kernel)
    assert found.count("product") == 2 * len(s_and_pv)
    loop = found.index("wait 1")
    assert found[loop - len(s_and_pv) : loop] == s_and_pv
    exponentials = found[loop + 1 :].index("wait 0")
    assert found[loop + 1 :].count("exp2") == exponentials == keys // 2 + 2  # and two of alpha


@pytest.mark.parametrize("d, causal", [(64, False), (64, True), (128, False), (128, True)])
def test_the_products_of_the_backward_pass_are_awaited_one_by_one(d, causal):
    dkdv, dq = hopper_backward(d, causal, half=causal)
    s_and_dp = 2 * (d // 16) * ["product"]

    def of(kernel):
        walked = dict(kernel.macros)["WALKED"]
        return walked // 2 * ["exp2"], walked // 16 * ["product"]

    exponentials, one = of(dkdv)
    step = [*s_and_dp, "wait 1", *exponentials, *one, "wait 1", *one, "wait 0"]  # dV, dK
    assert trace(dkdv)[: len(step)] == step
    exponentials, one = of(dq)
    step = [*s_and_dp, "wait 1", *exponentials, "wait 0", *one, "wait 0"]
    assert trace(dq)[: len(step)] == step


# ------------------------------------------------------------------------------------- mutants


@emulator
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: re.sub(r"\W+", "-", mutant.what))
def test_a_mistake_is_noticed(mutant):
    found = mutant.symptom(late=True)
    assert found is not None and mutant.found in found
    assert (mutant.symptom(late=False) is None) == mutant.only_late


@emulator
def test_the_same_problems_show_nothing_without_a_mistake():
    for problem, kernels in dict.fromkeys((mutant.problem, mutant.kernels) for mutant in MUTANTS):
        assert symptom(problem, kernels) is symptom(problem, kernels, late=True) is None


def test_no_two_mistakes_are_the_same():
    assert len({mutant.edits for mutant in MUTANTS}) == len({m.what for m in MUTANTS})
    assert all(edited(mutant.edits) != edited(()) for mutant in MUTANTS)
