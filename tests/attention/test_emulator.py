"""The kernels for sm_80 on the emulator, against float64; and the emulator itself."""

import ctypes
import shutil
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notes_lib.attention import row_delta as row_sums
from notes_lib.attention.cuda.emulator import EmulationError, build
from notes_lib.attention.cuda.emulator.attention import backward, forward, row_delta, rows_of
from notes_lib.attention.cuda.emulator.problems import Problem, expected, layout_of, symptom
from notes_lib.attention.cuda.kernel import KERNELS, Kernel
from notes_lib.attention.cuda.params import (
    BackwardParams,
    DeltaParams,
    ForwardParams,
    Shape,
    Strided,
)
from notes_lib.attention.cuda.variants import (
    VARIANTS,
    flash_backward,
    flash_forward,
    naive,
    tensor_cores,
)
from notes_lib.attention.cuda.variants import row_delta as delta_kernel

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None,
    reason="the emulator wants Linux and g++",
)

# ---------------------------------------------------------------------------------- the kernels

# Few of the variants, for each costs two seconds of g++; every macro takes every value somewhere.
RUNGS = {
    "v1, d 64": (naive(64, causal=False),),
    "v1, d 128, causal": (naive(128, causal=True),),
    "v1b, d 64": (tensor_cores(64, causal=False, half=False),),
    "v1b, d 128, causal, half": (tensor_cores(128, causal=True, half=True),),
    "v2, d 64": (flash_forward(64, causal=False, half=False),),
    "v2, d 64, causal, half, softcap": (flash_forward(64, causal=True, half=True, softcap=True),),
    "v2, d 128, causal": (flash_forward(128, causal=True, half=False),),
    "backward, d 64, causal": flash_backward(64, causal=True, half=False),
    "backward, d 64, half, softcap": flash_backward(64, causal=False, half=True, softcap=True),
    "backward, d 128, half": flash_backward(128, causal=False, half=True),
}


@st.composite
def problems(draw, kernels):
    """Problems of at most four heads in all, with the masks that the kernel knows."""
    macros = dict(kernels[0].macros)
    batch, groups, share = draw(st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 1, 4)]))
    later = "SOFTCAP" in macros  # v1 and v1b have no windows: they show other things
    longest = 120 if "FLOAT" in macros else 300
    return Problem(
        n=draw(st.integers(1, longest)),
        m=draw(st.integers(1, longest)),
        batch=batch,
        groups=groups,
        share=share,
        causal=bool(macros["CAUSAL"]),
        window=draw(st.none() | st.integers(0, 200)) if later else None,
        softcap=draw(st.sampled_from([0.5, 5.0, 50.0])) if macros.get("SOFTCAP") else None,
        magnitude=draw(st.sampled_from([1.0, 30.0])),
        axes=draw(st.sampled_from(["bhn", "bnh", "nbh"])),
    )


@pytest.mark.parametrize("rung", RUNGS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_kernel_equals_float64(rung, data):
    problem = data.draw(problems(RUNGS[rung]))
    for late in (False, True):
        assert symptom(problem, RUNGS[rung], late=late) is None


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("n, m", [(1, 1), (200, 70), (129, 300)])
def test_edges(rung, n, m):
    """One number; queries that see no key, where the mask is causal; tails of every kind."""
    macros = dict(RUNGS[rung][0].macros)
    softcap = 2.0 if macros.get("SOFTCAP") else None
    problem = Problem(n=n, m=m, causal=bool(macros["CAUSAL"]), softcap=softcap)
    assert symptom(problem, RUNGS[rung], late=True) is None


def test_queries_that_see_no_key_give_zero():
    problem = Problem(n=90, m=40, causal=True)
    for rung in ("v1, d 128, causal", "v1b, d 128, causal, half", "v2, d 128, causal"):
        (kernel,) = RUNGS[rung]
        q, k, v, _ = problem.tensors(*layout_of(kernel))
        out, lse, _ = forward(build(kernel), q, k, v)
        assert (out[:, :, :50] == 0).all() and (lse[:, :, :50] == -torch.inf).all()
        assert (out[:, :, 50:] != 0).all() and lse[:, :, 50:].isfinite().all()


@pytest.mark.parametrize("rung", [name for name in RUNGS if not name.startswith("backward")])
def test_what_is_not_a_number_stays_so(rung):
    """A query of NaN gives NaN, and not the zeros of one that sees no key; the others are fine."""
    (kernel,) = RUNGS[rung]
    causal = bool(dict(kernel.macros)["CAUSAL"])
    softcap = 2.0 if dict(kernel.macros).get("SOFTCAP") else None
    q, k, v, _ = Problem(n=90, m=90, share=1, causal=causal).tensors(*layout_of(kernel))
    q[:, :, 70] = torch.nan
    masks = {} if softcap is None else {"softcap": softcap}
    out, lse, _ = forward(build(kernel), q, k, v, **masks)
    wrong = torch.arange(90) == 70
    assert out[:, :, wrong].isnan().all() and lse[:, :, wrong].isnan().all()
    assert out[:, :, ~wrong].isfinite().all() and lse[:, :, ~wrong].isfinite().all()


def test_a_scale_is_the_callers():
    problem = Problem(n=70, m=80)
    (kernel,) = RUNGS["v2, d 64"]
    q, k, v, _ = problem.tensors(64, torch.bfloat16)
    out, lse, _ = forward(build(kernel), q, k, v, scale=0.25)
    same, its_lse, _ = forward(build(kernel), 2 * q, k, v)
    assert torch.equal(out, same) and torch.equal(lse, its_lse)


@pytest.mark.parametrize("wrong", [dict(scale=0.0), dict(scale=-1.0), dict(scale=1.0, softcap=0.0)])
def test_scores_that_would_be_turned_round_are_refused(wrong):
    x = torch.zeros(1, 1, 1, 64)
    with pytest.raises(ValueError, match="positive scale and softcap"):
        ForwardParams.of(x, x, x, x, x, **wrong)


@pytest.mark.parametrize("d, half", list(product((64, 128), (False, True))))
@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(1, 70),
    sizes=st.sampled_from([(1, 1), (2, 3)]),
    axes=st.sampled_from(["bhn", "bnh", "nbh"]),
    used=st.booleans(),
)
def test_delta_equals_float64(d, half, n, sizes, axes, used):
    batch, heads = sizes
    problem = Problem(n=n, m=1, batch=batch, groups=heads, share=1, axes=axes)
    dtype = torch.float16 if half else torch.bfloat16
    out, *_, d_out = problem.tensors(d, dtype)
    d_out = d_out.contiguous()  # other strides than those of out
    d_lse = rows_of(out).normal_() if used else None
    exact = row_sums(d_out.double(), out.double(), d_lse)
    size = row_sums(d_out.double().abs(), out.double().abs())
    for late in (False, True):
        delta, counts = row_delta(build(delta_kernel(d, half)), d_out, out, d_lse, late=late)
        assert ((delta.double() - exact).abs() <= 1e-6 * size + 1e-6).all()
        assert counts["barriers"] == counts["shared_cycles"] == 0


def test_the_order_of_events_changes_no_bit():
    problem = Problem(n=200, m=150, causal=True, window=30)
    (kernel,) = RUNGS["v2, d 128, causal"]
    q, k, v, d_out = problem.tensors(128, torch.bfloat16)
    first, last = (forward(build(kernel), q, k, v, window=30, late=late) for late in (False, True))
    assert torch.equal(first[0], last[0]) and torch.equal(first[1], last[1])
    assert first[2] == last[2]

    pair = tuple(map(build, RUNGS["backward, d 64, causal"]))
    q, k, v, d_out = problem.tensors(64, torch.bfloat16)
    exact = expected(problem, [q, k, v, d_out])
    lse, delta = rows_of(q).copy_(exact.lse), rows_of(q).copy_((exact.out * d_out).sum(-1))
    runs = [
        backward(pair, d_out, delta, (q, k, v), lse, window=30, late=late)[0]
        for late in (False, True)
    ]
    assert all(map(torch.equal, *runs))


# ------------------------------------------------------------------------------------ what it costs


def counts_of(kernel, *, n=256, m=256, **masks):
    q, k, v, _ = Problem(n=n, m=m, share=1).tensors(*layout_of(kernel))
    return forward(build(kernel), q, k, v, **masks)[2]


def test_v1b_waits_for_banks_and_the_others_do_not():
    """Of v1b's words, rows of K lie 8 to a bank, and those of V 4: 7 and 3 cycles too many."""
    d, n, m = 64, 128, 192
    counts = counts_of(tensor_cores(d, causal=False, half=False), n=n, m=m)
    tiles = (n // 16) * (m // 64)  # of a warp
    of_k, of_v = 2 * (d // 16) * (64 // 8), 4 * (64 // 16) * (d // 8)
    assert counts["shared_loads"] == tiles * (of_k + of_v)
    assert counts["bank_conflicts"] == tiles * (7 * of_k + 3 * of_v)
    assert counts["mma"] == 2 * n * m * d // (16 * 8 * 16)
    for rung in ("v1, d 64", "v1, d 128, causal", "v2, d 64", "v2, d 128, causal"):
        counts = counts_of(*RUNGS[rung])
        assert counts["bank_conflicts"] == 0
        assert counts["shared_loads"] + counts["ldmatrix"] + counts["cp_async"] > 0


def test_v2_reads_a_tile_once_for_32_queries():
    (kernel,) = RUNGS["v2, d 64"]
    counts = counts_of(kernel)
    warps, tiles, d = 256 // 32, 256 // 64, 64
    assert counts["mma"] == 2 * 256 * 256 * d // (16 * 8 * 16)
    q, k, v = 2 * (d // 16), (d // 16) * (64 // 16), (64 // 16) * (d // 16)
    assert counts["ldmatrix"] == warps * tiles * (q + k + v)
    assert counts["cp_async"] == (256 + 2 * 2 * 256) * d * 2 // (16 * 32)  # K and V twice
    assert counts["barriers"] == 2 * (2 * tiles)
    assert counts["shared_cycles"] == 4 * (counts["ldmatrix"] + counts["cp_async"])  # 512 bytes


@pytest.mark.parametrize("window, causal, tiles", [(None, True, 6), (0, False, 4), (64, True, 5)])
def test_tiles_that_nobody_sees_are_skipped(window, causal, tiles):
    """Of 2 x 4 tiles of 128 queries by 64 keys."""
    counts = counts_of(flash_forward(64, causal=causal, half=False), window=window)
    assert counts["mma"] == tiles * 2 * 128 * 64 * 64 // (16 * 8 * 16)


def test_the_backward_pass_makes_seven_products_and_skips_tiles():
    problem = Problem(n=256, m=256, share=1, causal=True)
    *inputs, d_out = problem.tensors(64, torch.bfloat16)
    pair = tuple(map(build, RUNGS["backward, d 64, causal"]))
    rows = rows_of(d_out).zero_()
    dkdv, dq = backward(pair, d_out, rows, tuple(inputs), rows)[1]
    product = 2 * 128 * 32 * 64 // (2 * 16 * 8 * 16)  # of 128 owned rows with 32 others
    assert dkdv["mma"] == (8 + 4) * 4 * product and dq["mma"] == (4 + 8) * 3 * product
    assert dkdv["bank_conflicts"] == dq["bank_conflicts"] == 0


# ------------------------------------------------------------------------------------ the emulator


class Buffers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("input", "output")]


PROGRAM = """
#include "attention.cuh"
struct Buffers { %s *input; float *output; };
extern "C" __global__ void probe(const Buffers p) {
  SHARED(memory);
  const int t = threadIdx.x;
  %s
}
"""


def probe(body, *, input=None, kind="float", threads=32, shared=4096, half=False, late=False):
    """Run the body of a kernel on one block; return its 4096 outputs and the counts."""
    macros = dict(D=64, CAUSAL=0, HALF=int(half))
    kernel = Kernel("naive.cu", "probe", tuple(macros.items()), threads, shared, 1)
    edit = "naive.cu", (KERNELS / "naive.cu").read_text(), PROGRAM % (kind, body)
    output = torch.zeros(4096, dtype=torch.float32)
    input = output if input is None else input
    buffers = Buffers(input.data_ptr(), output.data_ptr())
    counts = build(kernel, (edit,))((1, 1, 1), buffers, late=late)
    return output, SimpleNamespace(**counts)


@pytest.mark.parametrize("half", [False, True])
def test_numbers_are_rounded_as_pytorch_rounds_them(half):
    dtype = torch.float16 if half else torch.bfloat16
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype).float()
    near = torch.tensor([1 + 2**-9, 1 - 2**-9, 1 + 2**-12, 1.0])[:, None]  # also halfway
    x = torch.cat([(every * near).flatten(), torch.randn(1000)]).float()
    body = """for (int i = t; i < %d; i += 32) {
      const u32 both = pack(p.input[i], -p.input[i]);
      p.input[i] = emu::from_element(u16(both)) + 0 * emu::from_element(u16(both >> 16));
    }"""
    copy = x.clone()
    probe(body % len(x), input=copy, half=half)
    rounded = x.to(dtype).float()
    finite = rounded.isfinite()
    assert torch.equal(copy[finite], rounded[finite])
    assert not copy[~finite].isfinite().any()


@pytest.mark.parametrize("transposed", [False, True])
def test_fragments_multiply_as_matrices_do(transposed):
    """A (16 x 16) times B^T, or B, through ldmatrix and mma."""
    body = """
      u16* tile = (u16*)memory;
      for (int i = t; i < 512; i += 32) store_shared(tile + i, p.input[i]);
      __syncthreads();
      u32 a[4], b[4];
      float left[4] = {}, right[4] = {};
      ldmatrix(a, shared_address(tile + t % 16 * 16 + t / 16 * 8));
      """
    body += (
        "ldmatrix_transposed(b, shared_address(tile + 256 + t % 16 * 16 + t / 16 * 8));"
        if transposed
        else "ldmatrix(b, shared_address(tile + 256 + (t % 8 + t / 16 * 8) * 16 + t / 8 % 2 * 8));"
    )
    body += """
      mma(left, a, b[0], b[1]);
      mma(right, a, b[2], b[3]);
      for (int e = 0; e < 4; ++e) {
        const int row = t / 4 + e / 2 * 8, column = t % 4 * 2 + e % 2;
        p.output[row * 16 + column] = left[e];
        p.output[row * 16 + column + 8] = right[e];
      }"""
    a, b = torch.randn(2, 16, 16).to(torch.bfloat16)
    output, counts = probe(body, input=torch.stack([a, b]).contiguous(), kind="u16")
    product = a.double() @ (b if transposed else b.T).double()
    torch.testing.assert_close(output[:256].view(16, 16).double(), product, rtol=1e-5, atol=1e-5)
    assert counts.mma == 2 and counts.ldmatrix == 2


def chosen(case, cases):
    """Body and input of one of several cases, compiled as one kernel to save time."""
    body = " ".join(f"if (p.input[0] == {i}) {{ {code} }}" for i, code in enumerate(cases))
    return dict(body=body, input=torch.full((32,), cases.index(case), dtype=torch.float32))


CYCLES = {  # that one load by 32 threads needs, and those that it takes beyond them
    ("float", "t"): (1, 0),
    ("float", "0 * t"): (1, 0),  # all the same word
    ("float", "2 * t"): (1, 1),
    ("float", "32 * t"): (1, 31),
    ("float", "33 * t"): (1, 0),  # padded rows
    ("u16", "t"): (1, 0),  # two to a word
    ("Words", "t"): (4, 0),  # 16 bytes: 8 threads a cycle
    ("Words", "2 * t"): (4, 4),
}


@pytest.mark.parametrize("kind, place", CYCLES)
def test_bank_conflicts_are_counted(kind, place):
    loads = [f"load_shared(({kind}*)memory + {place});" for kind, place in CYCLES]
    case = chosen(f"load_shared(({kind}*)memory + {place});", loads)
    counts = probe(**case, shared=8192)[1]
    least, conflicts = CYCLES[kind, place]
    assert counts.shared_loads == 1
    assert (counts.shared_cycles, counts.bank_conflicts) == (least + conflicts, conflicts)


FORBIDDEN = {
    "if (t < 40) __syncthreads();": "40 threads wait at __syncthreads, 24 threads have returned",
    "if (t < 63) shuffle_xor(1, 1);": "deadlock: 31 threads wait at shuffle_xor",
    "load_shared((float*)memory + 1024);": "shared memory out of bounds",
    "cp_async<16>(shared_address(memory) + 8, p.input, true);": "not at a multiple of its size",
    "u32 r[4]; ldmatrix(r, shared_address(memory) + 2 * t);": "not at a multiple of 16 bytes",
    "float c[4]; u32 a[4] = {}; if (t % 32) mma(c, a, 0, 0); else shuffle_xor(1, 1);": (
        "is at mma, others are at shuffle_xor"
    ),
}


@pytest.mark.parametrize("code", FORBIDDEN)
def test_what_a_kernel_must_not_do_is_an_exception(code):
    for late in (False, True):
        with pytest.raises(EmulationError, match=rf"^block \(0, 0, 0\).*{FORBIDDEN[code]}"):
            probe(**chosen(code, list(FORBIDDEN)), threads=64, late=late)


def test_shared_memory_holds_nan_and_copies_arrive_when_waited_for():
    body = """
      const float before = load_shared((float*)memory + t);
      cp_async<4>(shared_address((float*)memory + t), p.input + t, t < 30);
      cp_async_commit();
      const float unwaited = load_shared((float*)memory + t);
      cp_async_wait<0>();
      p.output[t] = before;
      p.output[32 + t] = unwaited;
      p.output[64 + t] = load_shared((float*)memory + t);"""
    x = torch.arange(32, dtype=torch.float32)
    filled = torch.where(x < 30, x, 0)
    for late in (False, True):
        before, unwaited, after = probe(body, input=x, late=late)[0][:96].view(3, 32)
        assert before.isnan().all() and torch.equal(after, filled)
        assert unwaited.isnan().all() if late else torch.equal(unwaited, filled)


def test_structures_are_as_large_in_c_as_in_python():
    kinds = dict(Tensor=Strided, Shape=Shape, ForwardParams=ForwardParams)
    kinds |= dict(BackwardParams=BackwardParams, DeltaParams=DeltaParams)
    sizes = ", ".join(f"sizeof({name})" for name in kinds)
    body = f"const float sizes[] = {{{sizes}}}; if (t < {len(kinds)}) p.output[t] = sizes[t];"
    assert probe(body)[0][: len(kinds)].tolist() == list(map(ctypes.sizeof, kinds.values()))


def test_what_cannot_be_built_says_why(monkeypatch):
    (kernel,) = RUNGS["v1, d 64"]
    with pytest.raises(ValueError, match="0 places"):
        build(kernel, (("naive.cu", "no such text", ""),))
    with pytest.raises(RuntimeError, match=r"naive.cu(.|\n)*error"):
        build(kernel, (("naive.cu", "#define SHARE 4", "#define SHARE four"),))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="on the PATH"):
        build(kernel, (("naive.cu", "#define SHARE 4", "#define SHARE 2"),))


def test_every_variant_fits_its_tiles():
    """Copies by whole blocks, fragments of 16 keys, and the shared memory that tiles take."""
    assert len(set(VARIANTS)) == len(VARIANTS) == 4 + 8 + 16 + 4 + 32
    for kernel in VARIANTS:
        macros = dict(kernel.macros)
        assert macros.get("BN", 16) % 16 == 0 and kernel.rows % 16 == 0
        assert kernel.shared <= 99 << 10  # the least of all GPUs since sm_80


@pytest.mark.parametrize("d, causal", list(product((64, 128), (False, True))))
@pytest.mark.parametrize("rung", [flash_forward, tensor_cores])
def test_variants_differ_by_type_alone(rung, d, causal):
    first, other = (dict(rung(d, causal, half).macros) for half in (False, True))
    assert first.pop("HALF") == 0 and other.pop("HALF") == 1 and first == other
