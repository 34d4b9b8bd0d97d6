"""The tiled attention and its gradients against the reference: every option, shape, precision."""

import subprocess
import sys
from dataclasses import replace
from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from notes_lib.attention import (
    flash_attention,
    flash_backward,
    flash_forward,
    flash_with_lse,
    row_delta,
    softmax_attention,
)  # fmt: skip
from notes_lib.attention.flash import _backward, _forward
from notes_lib.core import PeakBytes

from .cases import SHAPES, Answer, Shape, answer, log_sum_exp, problem

TILES = (16, 24)  # smaller than the problems, and not a divisor of them


def gradients(q, k, v, expected: Answer, **options):
    """dq, dk, dv of the twin, from its own forward pass."""
    out, lse = flash_forward(q, k, v, **options)
    d_out, d_lse = expected.d_out.to(q.dtype), expected.d_lse.to(lse.dtype)
    return flash_backward(d_out, row_delta(d_out, out, d_lse), q, k, v, lse, **options)


@pytest.mark.equation("eq-flash-attention-fa2", "eq-flash-attention-lse")
def test_forward_equals_the_reference(shape, options):
    q, k, v = problem(shape)
    expected = answer(q, k, v, **options)
    out, lse = flash_forward(q, k, v, **options, blocks=TILES)
    torch.testing.assert_close(out, expected.out, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(lse, expected.lse, atol=1e-13, rtol=1e-13)


@pytest.mark.equation("eq-flash-attention-backward", "eq-flash-attention-delta")
def test_backward_equals_autograd_through_the_reference(shape, options):
    q, k, v = problem(shape)
    expected = answer(q, k, v, **options)
    for ours, right in zip(
        gradients(q, k, v, expected, **options, blocks=TILES), expected.grads, strict=True
    ):
        torch.testing.assert_close(ours, right, atol=1e-12, rtol=1e-12)


@pytest.mark.equation("eq-flash-attention-fa2", "eq-flash-attention-backward")
@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    causal=st.booleans(),
    window=st.none() | st.integers(0, 40),
    softcap=st.none() | st.floats(0.5, 50),
    blocks=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    spread=st.sampled_from([0.0, 1.0, 300.0]),
    seed=st.integers(0, 999),
)
def test_any_shape_any_tile(n, m, heads, causal, window, softcap, blocks, spread, seed):
    shape = Shape(n=n, m=m, heads=heads[0], groups=heads[1], d=4, e=3, batch=1)
    q, k, v = problem(shape, spread, seed)
    options = dict(causal=causal, window=window, softcap=softcap)
    expected = answer(q, k, v, **options)
    out, lse = flash_forward(q, k, v, **options, blocks=blocks)
    torch.testing.assert_close(out, expected.out, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(lse, expected.lse, atol=1e-11, rtol=1e-11)
    grads = gradients(q, k, v, expected, **options, blocks=blocks)
    size = max(1.0, spread)  # of the gradient of k
    for ours, right in zip(grads, expected.grads, strict=True):
        torch.testing.assert_close(ours, right, atol=1e-10 * size, rtol=1e-9)


@pytest.mark.equation("eq-flash-attention-fa2", "eq-flash-attention-lse")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype, options):
    q, k, v = (x.to(dtype) for x in problem(SHAPES["ragged"]))
    expected = answer(q, k, v, **options)
    out, lse = flash_forward(q, k, v, **options, blocks=TILES)
    assert out.dtype == dtype and lse.dtype == torch.float32
    rounding = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(out.double(), expected.out, atol=1e-5, rtol=rounding)
    torch.testing.assert_close(lse.double(), expected.lse, atol=1e-5, rtol=1e-5)
    for ours, right in zip(
        gradients(q, k, v, expected, **options, blocks=TILES), expected.grads, strict=True
    ):  # out and d_out were rounded, so D is off by a rounding of their size
        assert ours.dtype == dtype
        assert (ours.double() - right).abs().max() < 8 * rounding * right.abs().max()


def test_queries_that_see_nothing_are_zero_and_their_lse_minus_infinity():
    shape = SHAPES["more queries than keys"]
    q, k, v = problem(shape)
    out, lse = flash_forward(q, k, v, causal=True, blocks=TILES)
    blind = shape.n - shape.m
    assert (out[:, :, :blind] == 0).all() and (lse[:, :, :blind] == -torch.inf).all()
    assert lse[:, :, blind:].isfinite().all()
    nothing = flash_forward(q, k[:, :, :0], v[:, :, :0])
    assert (nothing[0] == 0).all() and (nothing[1] == -torch.inf).all()


@pytest.mark.parametrize("causal", [False, True])
def test_pytorch_agrees_values_and_gradients(causal):
    inputs = [x.requires_grad_() for x in problem(Shape(n=70, m=70))]
    ours = flash_attention(*inputs, causal=causal)
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            peer = scaled_dot_product_attention(*inputs, is_causal=causal)
        torch.testing.assert_close(ours, peer, atol=1e-13, rtol=1e-13)
        for a, b in zip(
            torch.autograd.grad(ours.square().sum(), inputs, retain_graph=True),
            torch.autograd.grad(peer.square().sum(), inputs),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.equation("eq-flash-attention-backward", "eq-flash-attention-delta")
def test_gradcheck(options):
    shape = Shape(n=5, m=7, heads=2, groups=1, d=3, e=2, batch=1)
    inputs = tuple(x.requires_grad_() for x in problem(shape))
    assert torch.autograd.gradcheck(lambda *x: flash_attention(*x, **options), inputs)
    shape = replace(shape, n=7)  # and no blind rows, whose lse is not differentiable
    inputs = tuple(x.requires_grad_() for x in problem(shape))
    assert torch.autograd.gradcheck(lambda *x: flash_with_lse(*x, **options), inputs)


def test_gradients_of_gradients_are_refused():
    q, k, v = (x.requires_grad_() for x in problem(Shape(n=3, m=3)))
    (dq,) = torch.autograd.grad(flash_attention(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(dq.sum(), q)


class Backward(TorchDispatchMode):
    """Notes the gradients from above that the operator is given."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.notes_lib.flash_backward.default:
            self.d_out, self.d_lse = args[:2]
        return operator(*args, **(kwargs or {}))


def test_either_output_may_be_used_alone():
    inputs = [x.requires_grad_() for x in problem(SHAPES["grouped"])]
    exact = [x.detach().requires_grad_() for x in inputs]
    out, lse = flash_with_lse(*inputs)
    with Backward() as seen:
        torch.autograd.grad(out.sum(), inputs, retain_graph=True)
        assert (seen.d_out == 1).all() and seen.d_lse is None
        grads = torch.autograd.grad(lse.sum(), inputs)
        assert (seen.d_out == 0).all() and (seen.d_lse == 1).all()
    *of_scores, of_values = grads
    right = torch.autograd.grad(log_sum_exp(*exact[:2]).sum(), exact[:2])
    torch.testing.assert_close(of_scores, list(right), atol=1e-12, rtol=1e-12)
    assert (of_values == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype, options):
    options = dict(causal=False, scale=0.3, window=None, softcap=None) | options
    q, k, v = (x.to(dtype).requires_grad_() for x in problem(SHAPES["one group, ragged"]))
    torch.library.opcheck(_forward, (q, k, v, *options.values()))
    out, lse = _forward(q, k, v, *options.values())
    given = [x.detach() for x in (q, k, v, out, lse)]
    for d_lse in (lse.detach(), None):
        torch.library.opcheck(
            _backward,
            (out.detach(), d_lse, *given, *options.values()),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_the_layouts_of_the_inputs_are_kept():
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in problem(Shape()))
    options = (False, 8**-0.5, None, None)
    out, lse = _forward(q, k, v, *options)
    assert out.stride() == q.stride()
    torch.testing.assert_close(out, softmax_attention(q, k, v))
    torch.library.opcheck(_forward, (q, k, v, *options), test_utils="test_faketensor")
    backward = (out, None, q, k, v, out, lse, *options)
    torch.library.opcheck(_backward, backward, test_utils="test_faketensor")


COMPILED = """
import torch
from notes_lib.attention import flash_attention, softmax_attention

def loss(attend, q, k, v):
    return (attend(2 * q, k, v, causal=True, window=9) + 1).square().mean()

def run(attend, length):
    shapes = ((2, 4, length, 8), (2, 2, 20, 8), (2, 2, 20, 8))
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(s, generator=generator).double().requires_grad_() for s in shapes]
    value = loss(attend, *inputs)
    return value, *torch.autograd.grad(value, inputs)

for dynamic in (False, True):
    torch._dynamo.reset()
    attend = torch.compile(flash_attention, fullgraph=True, dynamic=dynamic, backend="BACKEND")
    for length in (13, 17):
        for a, b in zip(run(attend, length), run(softmax_attention, length), strict=True):
            torch.testing.assert_close(a, b)
"""


def test_compile_in_one_graph():
    """In a process of its own: the shape checker that runs under pytest is not traceable."""
    code = COMPILED.replace("BACKEND", "aot_eager")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_the_gpu_packages_a_cuda_tensor_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "notes_lib.attention.cuda", None)
    from notes_lib.attention.flash import _kernels

    with pytest.raises(ImportError, match="requirements-gpu.txt"):
        _kernels()


@pytest.mark.parametrize(
    "change, options, said",
    [
        (lambda q, k, v: (q[:, :3], k[:, :2], v[:, :2]), {}, "multiple"),
        (lambda q, k, v: (q, k, v[:, :, 1:]), {}, "length"),
        (lambda q, k, v: (q.long(), k.long(), v.long()), {}, "floating"),
        (lambda q, k, v: (q, k, v), dict(window=-1), "window"),
        (lambda q, k, v: (q, k, v), dict(softcap=0.0), "softcap"),
    ],
)
def test_what_makes_no_sense_is_refused(change, options, said, monkeypatch):
    monkeypatch.setattr("notes_lib.attention.flash.flash_with_lse", unwrap(flash_with_lse))
    with pytest.raises(ValueError, match=said):
        unwrap(flash_attention)(*change(*problem(Shape(heads=4, groups=4))), **options)


def count(flops: FlopCounterMode, run) -> int:
    with flops:
        run()
    return flops.get_total_flops()


def test_five_products_for_two_and_half_the_tiles_when_causal():
    """4 n^2 d forward and 10 n^2 d backward; causal runs the tiles on and below the diagonal."""
    shape = Shape(n=128, m=128, heads=1, groups=1, d=16, e=16, batch=1)
    q, k, v = problem(shape)
    out, lse = flash_forward(q, k, v)

    def flops(run, **options):
        return count(FlopCounterMode(display=False), lambda: run(**options, blocks=(16, 16)))

    def forward(**options):
        flash_forward(q, k, v, **options)

    def backward(**options):
        flash_backward(out, lse, q, k, v, lse, **options)

    assert flops(forward) == 4 * 128**2 * 16 and flops(backward) == 10 * 128**2 * 16
    assert flops(forward, causal=True) / flops(forward) == (8 * 9 / 2) / 8**2
    assert flops(backward, causal=True) / flops(backward) == (8 * 9 / 2) / 8**2


def test_memory_is_linear_in_the_length():
    """To the byte: a step of twice the length takes what its longer tensors take, and no more."""

    def peak(n):
        shape = Shape(n=n, m=n, heads=1, groups=1, d=64, e=64, batch=1)
        q, k, v = (x.float() for x in problem(shape))
        with PeakBytes() as memory:
            out, lse = flash_forward(q, k, v, blocks=(64, 64))
            delta = row_delta(q, out, torch.zeros_like(lse))
            flash_backward(q, delta, q, k, v, lse, blocks=(64, 64))
        return memory.peak

    sizes = [peak(n) for n in (256, 512, 1024)]
    assert sizes[1] - sizes[0] == 256 * 4 * (4 * 64 + 2)  # out, dq, dk, dv; lse, delta
    assert sizes[2] - sizes[1] == 2 * (sizes[1] - sizes[0])
