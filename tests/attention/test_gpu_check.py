"""`make gpu-check` goes on when a step fails or hangs, and tells how each went."""

import json
import sys
import time

import _record
import pytest
import torch
import torch._dynamo.exc
import torch._inductor.exc

import attention as benchmark
from tests.gpu import check
from tests.gpu.check import Step, run


def step(code, seconds=60.0):
    return Step("name", [sys.executable, "-c", code], seconds, {"ADDED": "yes"})


@pytest.mark.skipif(sys.platform == "win32", reason="it kills process groups")
def test_every_way_to_end_has_a_word():
    assert run(step("import os; assert os.environ['ADDED'] == 'yes'"), 60) == "passed"
    assert run(step("raise SystemExit(3)"), 60) == "failed (3)"
    assert run(step(""), left=4) == "no time left"
    assert run(Step("name", ["/nowhere"], 60, {}), 60) == "/nowhere is not installed"
    start = time.monotonic()
    hanging = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    assert run(step(hanging, seconds=5), 60) == "hangs, or takes more than 5 s"
    assert time.monotonic() - start < 30


@pytest.fixture
def outcomes(monkeypatch, capsys):
    """Of a whole check, whose steps end as they are told to."""

    def checked(*options, capability=(9, 0), **ends):
        seen = []

        def end(step, left):
            seen.append(step)
            return ends.get(step.name, "passed")

        monkeypatch.setattr(check, "run", end)
        monkeypatch.setattr(check, "check_machine", lambda: capability)
        monkeypatch.setattr(sys, "argv", ["check.py", *options])
        with pytest.raises(SystemExit) as stop:
            check.main()
        return seen, stop.value.code, capsys.readouterr().out

    return checked


def test_what_fails_stops_nothing_and_is_not_timed(outcomes):
    seen, code, said = outcomes(tensor_cores="failed (1)")
    names = [step.name for step in seen]
    assert names[:9] == ["compile", *check.RUNGS, "streams"] and names[-1] == "benchmark"
    assert len(names) == 9 + 6 + 1
    assert seen[-1].command[-2:] == ["--without", "tensor_cores"]
    assert code and "failed (1)" in said


def test_nothing_failed_is_success(outcomes):
    seen, code, _ = outcomes("--rungs", "naive", "--without", "sanitizer,benchmark,streams")
    assert [step.name for step in seen] == ["compile", "naive"] and not code


def test_a_gpu_that_is_no_hopper_is_not_asked_for_what_it_cannot(outcomes):
    seen, code, said = outcomes(capability=(8, 0))
    names = [step.name for step in seen]
    assert not any("hopper" in name for name in names) and len(names) == 1 + 5 + 1 + 3 + 1
    assert seen[-1].command[-2:] == ["--without", "hopper_forward,hopper_backward"]
    assert not code and "without hopper_forward, hopper_backward" in said


@pytest.mark.parametrize(
    "name, there", [("json", True), ("json.decoder", True), ("json.no", False), ("no.no", False)]
)
def test_a_package_within_a_package_may_be_missing(name, there):
    assert check.installed(name) == there


def refusing(error):
    def make(problem):
        raise error

    return make


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("too large"),
        RuntimeError("No available kernel"),
        NotImplementedError("no such size"),
        ValueError("no such shape"),
        torch._dynamo.exc.Unsupported("not traceable"),
        torch._inductor.exc.InductorError(KeyError("layout"), None),
    ],
)
def test_a_peer_may_refuse_a_problem(error):
    found = benchmark.measure(refusing(error), None, [], 1.0)
    assert found["refused"].startswith(type(error).__name__) and found["TFLOP/s"] is None


@pytest.mark.parametrize("error", [TypeError, AttributeError, AssertionError, KeyError])
def test_a_mistake_in_a_program_is_no_refusal(error):
    with pytest.raises(error):
        benchmark.measure(refusing(error("of ours")), None, [], 1.0)


def test_what_was_measured_before_a_hang_is_kept(monkeypatch, tmp_path):
    class Killed(BaseException):
        """As a process is that hangs: nothing more is done."""

    def rows(names, end):
        yield {"name": "naive", "TFLOP/s": 1.0}
        raise Killed

    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "gpu", dict)
    monkeypatch.setattr(benchmark, "ceilings", lambda: [])
    monkeypatch.setattr(benchmark, "rows", rows)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    with pytest.raises(Killed):
        benchmark.on_gpu(set(), 1.0)
    written = json.loads((tmp_path / "attention.json").read_text())
    assert written["measurements"] == [{"name": "naive", "TFLOP/s": 1.0}]


def test_a_rung_that_there_is_not_is_refused(outcomes):
    seen, code, _ = outcomes("--rungs", "naive,flash")
    assert (seen, code) == ([], 2)
