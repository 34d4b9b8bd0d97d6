"""The way from tensors to launches, with the emulator in place of the GPU."""

import shutil
import sys
from functools import partial

import pytest
import torch

from notes_lib.attention import softmax_attention
from notes_lib.attention.cuda import device
from notes_lib.attention.cuda.emulator import build
from notes_lib.attention.cuda.hopper import HopperBackwardParams, HopperParams, described

HOPPER, AMPERE = (9, 0), (8, 0)
OPTIONS = dict(causal=False, scale=0.2, window=None, softcap=None)


class OnCPU:
    """Notes what is launched, and lets the emulator run it if it is to run."""

    def __init__(self, monkeypatch):
        self.capability, self.runs, self.launches = AMPERE, True, []
        monkeypatch.setattr(device, "launch", self.launch)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: self.capability)
        for params in (HopperParams, HopperBackwardParams):
            monkeypatch.setattr(params, "of", partial(params.of, encode=described))

    def launch(self, kernel, like, grid, *arguments):
        self.launches.append((kernel.entry, grid))
        if self.runs:
            build(kernel)(grid, *arguments)


@pytest.fixture
def gpu(monkeypatch):
    return OnCPU(monkeypatch)


def inputs(n=70, m=90, heads=4, groups=2, d=64, batch=2):
    sizes = (n, heads), (m, groups), (m, groups)
    drawn = [torch.randn(batch, length, count, d) for length, count in sizes]
    return [x.to(torch.bfloat16).transpose(1, 2) for x in drawn]


def no_rows(q):
    """An lse."""
    return torch.zeros(q.shape[:3], dtype=torch.float32)


def error(x, exact):
    return ((x.double() - exact).norm() / exact.norm()).item()


emulated = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None,
    reason="the emulator wants Linux and g++",
)


@emulated
@pytest.mark.parametrize(
    "capability, options",
    [(AMPERE, {}), (AMPERE, dict(window=20, softcap=3.0)), (HOPPER, dict(window=20))],
)
def test_attention_and_gradients_equal_the_reference(gpu, capability, options):
    gpu.capability = capability
    options = OPTIONS | {"causal": True} | options
    q, k, v = inputs()
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    out_exact = softmax_attention(*exact, **options)
    d_out = torch.randn_like(q)
    grads_exact = torch.autograd.grad(out_exact, exact, d_out.double())

    out, lse = device.forward(q, k, v, **options)
    grads = device.backward(d_out, None, q, k, v, out, lse, **options)
    for ours, reference in zip((out, *grads), (out_exact, *grads_exact), strict=True):
        assert error(ours, reference) < 5e-3
    assert [x.stride() for x in (out, *grads)] == [x.stride() for x in (q, q, k, v)]
    assert lse.dtype == torch.float32 and lse.shape == q.shape[:3]


@pytest.mark.parametrize(
    "capability, options, rung",
    [
        (HOPPER, {}, "hopper"),
        (HOPPER, dict(window=5), "hopper"),
        (HOPPER, dict(softcap=5.0), "flash"),
        (AMPERE, {}, "flash"),
        ((10, 0), {}, "flash"),
    ],
)
def test_the_best_rung_that_can_do_it_is_launched(gpu, capability, options, rung):
    gpu.capability, gpu.runs = capability, False
    q, k, v = inputs()
    device.forward(q, k, v, **OPTIONS | options)
    device.backward(q, None, q, k, v, q, no_rows(q), **OPTIONS | options)
    names = f"{rung}_forward", "row_delta", f"{rung}_backward_dkdv", f"{rung}_backward_dq"
    assert tuple(entry for entry, _ in gpu.launches) == names


def test_keys_that_are_repeated_are_no_matter_for_the_tma(gpu):
    gpu.capability, gpu.runs = HOPPER, False
    q, k, v = inputs(groups=1)
    device.forward(q, *(x.expand(-1, 4, -1, -1) for x in (k, v)), **OPTIONS)
    device.forward(q[:1], k[:1].expand(1, 1, -1, -1), v[:1], **OPTIONS)
    device.backward(q[:, :1].expand_as(q), None, q, k, v, q, no_rows(q), **OPTIONS)
    assert [entry for entry, _ in gpu.launches] == [
        "flash_forward", "hopper_forward", "row_delta", "flash_backward_dkdv", "flash_backward_dq"
    ]  # fmt: skip


def test_a_grid_has_a_block_for_the_rows_it_owns(gpu):
    gpu.runs = False
    q, k, v = inputs(n=129, m=200, heads=6, groups=3, batch=5)
    device.forward(q, k, v, **OPTIONS)
    device.backward(q, None, q, k, v, q, no_rows(q), **OPTIONS)
    assert gpu.launches == [
        ("flash_forward", (2, 6, 5)),
        ("row_delta", (5, 6, 5)),
        ("flash_backward_dkdv", (2, 3, 5)),
        ("flash_backward_dq", (2, 6, 5)),
    ]
    many = torch.zeros(70000, 1, 1, 64, dtype=torch.bfloat16)
    with pytest.raises(
        ValueError, match="at most 65535 heads and as many batches, got 1 and 70000"
    ):
        device.forward(many, many, many, **OPTIONS)


def test_nothing_is_launched_where_there_is_nothing_to_do(gpu):
    gpu.capability = HOPPER
    for n, m in ((0, 5), (5, 0), (0, 0)):
        q, k, v = inputs(n, m)
        out, lse = device.forward(q, k, v, **OPTIONS)
        assert (out == 0).all() and (lse == -torch.inf).all() and out.shape == q.shape
        grads = device.backward(out, lse, q, k, v, out, lse, **OPTIONS)
        assert [x.shape for x in grads] == [x.shape for x in (q, k, v)]
        assert all((x == 0).all() for x in grads)
    assert gpu.launches == []


@emulated
def test_gradients_from_above_may_have_any_strides(gpu):
    q, k, v = inputs()
    out, lse = device.forward(q, k, v, **OPTIONS)

    def gradients(d_out, d_lse):
        return device.backward(d_out, d_lse, q, k, v, out, lse, **OPTIONS)

    one, rows = torch.ones((), dtype=q.dtype), torch.randn_like(lse)
    same = gradients(torch.ones_like(q), rows)
    odd = torch.ones(q.numel() + 1, dtype=q.dtype)[1:].view(q.shape)
    assert odd.is_contiguous() and odd.data_ptr() % 16
    for d_out in (one.expand(q.shape), odd, torch.ones_like(q.mT).mT):
        for d_lse in (rows, rows.mT.contiguous().mT):
            assert all(map(torch.equal, gradients(d_out, d_lse), same))


@emulated
@pytest.mark.parametrize("capability", [AMPERE, HOPPER])
def test_queries_that_see_no_key_have_no_gradient(gpu, capability):
    gpu.capability = capability
    q, k, v = inputs(n=90, m=40, heads=2, groups=1, batch=1)
    options = OPTIONS | {"causal": True}
    out, lse = device.forward(q, k, v, **options)
    d_out, d_lse = torch.randn_like(q), torch.randn_like(lse)
    assert (lse[:, :, :50] == -torch.inf).all()
    dq, dk, dv = device.backward(d_out, d_lse, q, k, v, out, lse, **options)
    assert (dq[:, :, :50] == 0).all() and dq[:, :, 50:].isfinite().all()
    q, d_out, d_lse, out, lse = (x[:, :, 50:] for x in (q, d_out, d_lse, out, lse))
    without = device.backward(d_out, d_lse, q, k, v, out, lse, **options)
    for ours, theirs in zip((dq[:, :, 50:], dk, dv), without, strict=True):
        assert error(ours, theirs.double()) < 3e-3


@emulated
def test_a_gradient_of_lse_is_one_of_the_scores(gpu):
    q, k, v = inputs()
    exact = [x.double().requires_grad_() for x in (q, k)]
    s = 0.2 * exact[0] @ exact[1].repeat_interleave(2, 1).mT
    d_lse = torch.randn(s.shape[:3], dtype=torch.float32)
    wanted = torch.autograd.grad(s.logsumexp(-1), exact, d_lse.double())
    out, lse = device.forward(q, k, v, **OPTIONS)
    dq, dk, dv = device.backward(torch.zeros_like(q), d_lse, q, k, v, out, lse, **OPTIONS)
    assert error(dq, wanted[0]) < 5e-3 and error(dk, wanted[1]) < 5e-3 and (dv == 0).all()


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda q, k, v: (q.float(), k.float(), v.float()),
            "bfloat16 and float16, got torch.float32",
        ),
        (lambda q, k, v: (q[..., :32], k[..., :32], v[..., :32]), "widths 64 and 128"),
        (lambda q, k, v: (q, k, v[..., :32]), r"one for all; got \(64, 32\)"),
        (lambda q, k, v: (q, k.mT.contiguous().mT, v), r"call k.clone\("),
        (lambda q, k, v: (unaligned(q), k, v), r"call q.clone\("),
        (lambda q, k, v: (q, k, v[:, :, 1:]), "length"),
        (lambda q, k, v: (q[:, :3], k, v), "multiple"),
    ],
)
def test_what_the_kernels_cannot_read_is_refused(gpu, change, said):
    for run in (forward, backward):
        with pytest.raises(ValueError, match=said):
            run(*change(*inputs(d=64)))
    assert gpu.launches == []


def unaligned(x):
    return torch.zeros(*x.shape[:3], 65, dtype=x.dtype)[..., :64]


def forward(q, k, v):
    return device.forward.__wrapped__(q, k, v, **OPTIONS)


def backward(q, k, v):
    return device.backward.__wrapped__(q, None, q, k, v, q, no_rows(q), **OPTIONS)


def test_rows_may_lie_anywhere_that_a_copy_may_start(gpu):
    gpu.runs = False
    fused = torch.randn(2, 70, 3, 4, 64).to(torch.bfloat16)
    q, k, v = (fused[:, :, i].transpose(1, 2) for i in range(3))
    device.forward(q, k, v, **OPTIONS)
    odd = torch.empty(0, dtype=torch.bfloat16).set_(
        fused.untyped_storage(), 0, (1, 1, 1, 64), (3, 5, 7, 1)
    )
    device.forward(odd, odd, odd, **OPTIONS)
    assert len(gpu.launches) == 2
