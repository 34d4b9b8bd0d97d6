"""The two functions of `device` among others: streams, threads, graphs, programs, odd tensors."""

import threading

import pytest
import torch

from notes_lib.attention.cuda import device

from .rungs import error, inputs

OPTIONS = False, 0.125, None, None
FUNCTIONS = ["forward", "backward"]


def run(which, q, k, v):
    out, lse = device.forward(q, k, v, *OPTIONS)
    if which == "forward":
        return out
    return torch.stack(device.backward(out, None, q, k, v, out, lse, *OPTIONS))


@pytest.mark.parametrize("which", FUNCTIONS)
def test_a_launch_waits_for_its_stream_and_for_no_other(which):
    q, k, v = inputs(2, 4, 4, 300, 300)
    expected, late = run(which, q, k, v), torch.full_like(q, torch.nan)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(which, q, k, v)  # so that this stream has its memory
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
        late.copy_(q)
        found = run(which, late, k, v)
        done = stream.record_event()
    again = run(which, q, k, v)
    torch.cuda.default_stream().synchronize()
    assert not done.query(), "the default stream waited for the other"
    stream.synchronize()
    assert torch.equal(found, expected) and torch.equal(again, expected)


@pytest.mark.parametrize("which", FUNCTIONS)
def test_a_thread_of_its_own_may_launch(which):
    q, k, v = inputs(1, 2, 2, 100, 100)
    found = []
    thread = threading.Thread(target=lambda: found.append(run(which, q, k, v)))
    thread.start()
    thread.join()
    assert torch.equal(found[0], run(which, q, k, v))


@pytest.mark.parametrize("which", FUNCTIONS)
def test_a_graph_replays_it_on_new_numbers(which):
    q, k, v = inputs(2, 4, 4, 300, 300)
    run(which, q, k, v)  # compiled and loaded before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(which, q, k, v)
    for x in (q, k, v):
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, run(which, q, k, v))


def test_nothing_to_attend_to():
    q, k, v = inputs(2, 4, 2, 5, 0)
    out, lse = device.forward(q, k, v, *OPTIONS)
    assert (out == 0).all() and (lse == -torch.inf).all()
    assert (device.backward(q, lse, q, k, v, out, lse, *OPTIONS)[0] == 0).all()


def test_keys_may_be_repeated_and_a_gradient_may_have_any_strides():
    q, k, v = inputs(2, 4, 1, 300, 300)
    out, lse = device.forward(q, k, v, *OPTIONS)
    wide = tuple(x.expand(-1, 4, -1, -1) for x in (k, v))
    assert error(device.forward(q, *wide, *OPTIONS)[0], out.double()) < 1e-2

    def gradients(d_out):
        return device.backward(d_out, None, q, k, v, out, lse, *OPTIONS)

    for ours, same in zip(
        gradients(q.new_ones(()).expand(q.shape)), gradients(torch.ones_like(q)), strict=True
    ):
        assert torch.equal(ours, same)


def test_torch_compile_takes_the_operator_whole():
    attention = pytest.importorskip("notes_lib.attention.flash", reason="no flash_attention yet")
    q, k, v = (x.requires_grad_() for x in inputs(2, 4, 2, 300, 300))

    def loss(attend):
        out = attend(2 * q, k, v, causal=True)
        return out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))

    compiled = torch.compile(attention.flash_attention, fullgraph=True)
    for found, expected in zip(loss(compiled), loss(attention.flash_attention), strict=True):
        assert error(found, expected.double()) < 1e-2


def test_memory_does_not_grow_with_the_square_of_the_length():
    q, k, v = inputs(1, 4, 4, 16384, 16384)
    run("backward", q, k, v)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run("backward", q, k, v)
    used = torch.cuda.max_memory_allocated() - before
    assert used < 20 * q.numel() * q.element_size()  # the scores alone would be 256 times
