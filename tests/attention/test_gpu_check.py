"""`make gpu-check` goes on when a step fails or hangs, and tells how each went."""

import sys
import time

import pytest

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

    def checked(*options, **ends):
        seen = []

        def end(step, left):
            seen.append(step)
            return ends.get(step.name, "passed")

        monkeypatch.setattr(check, "run", end)
        monkeypatch.setattr(check, "check_machine", lambda: None)
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


def test_a_rung_that_there_is_not_is_refused(outcomes):
    seen, code, _ = outcomes("--rungs", "naive,flash")
    assert (seen, code) == ([], 2)
