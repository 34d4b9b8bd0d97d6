"""The environment: what a machine must have, and what is done to .venv when."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple

import install
import pytest


def test_wrong_python_is_named(monkeypatch):
    monkeypatch.setattr(install.shutil, "which", lambda name: name == "python3.12")
    with pytest.raises(
        SystemExit, match=r"(?s)3\.11, 3\.12 or\s3\.13.*make book PYTHON=python3\.12"
    ):
        install.check_python((3, 9))
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"this is 3\.14"):
        install.check_python((3, 14))


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_right_python_passes(version):
    install.check_python(version)


def test_missing_tools_and_full_disk_are_named(monkeypatch):
    install.check_machine()
    with monkeypatch.context() as patch:
        patch.setattr(install.shutil, "which", lambda name: None)
        with pytest.raises(SystemExit, match="needs git"):
            install.check_machine()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ensurepip", None)
        with pytest.raises(SystemExit, match="cannot make virtual environments"):
            install.check_machine()
    with monkeypatch.context() as patch:
        usage = namedtuple("usage", "free")(1e9)
        patch.setattr(install.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(SystemExit, match="1.0 GB left"):
            install.check_machine()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A project whose environment is only pretended; what was done to it is noted in a list."""
    done = []
    venv = tmp_path / ".venv"
    for name in ("requirements.txt", "peers.txt", "pyproject.toml"):
        (tmp_path / name).write_text(name)

    def make(command, **_):
        assert command[1:] == ["-m", "venv", "--clear", str(venv)]
        shutil.rmtree(venv, ignore_errors=True)
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python").touch()
        done.append("make")

    monkeypatch.setattr(install, "ROOT", str(tmp_path))
    monkeypatch.setattr(install, "VENV", str(venv))
    monkeypatch.setattr(install, "PYTHON", str(venv / "bin/python"))
    monkeypatch.setattr(install, "NOTE", str(venv / "installed.json"))
    monkeypatch.setattr(install, "check_machine", lambda: None)
    monkeypatch.setattr(install.subprocess, "run", make)
    monkeypatch.setattr(install, "pip", lambda *arguments: done.append(arguments))
    return done, tmp_path, monkeypatch


PACKAGE = ("--quiet", "--no-build-isolation", "--no-deps", "--editable", ".")
BASE = ("-r", "requirements.txt")


def test_environment_is_made_once(machine):
    done, root, _ = machine
    install.install([])
    install.install([])
    assert done == ["make", BASE, PACKAGE]
    (root / "requirements.txt").write_text("another version")
    install.install([])
    assert done[3:] == [BASE, PACKAGE]
    shutil.rmtree(root / ".venv")
    install.install([])
    assert done[5:] == ["make", BASE, PACKAGE]


def test_environment_left_half_made_is_made_anew(machine):
    done, _, patch = machine
    install.install([])
    with patch.context() as killed:
        killed.setattr(install, "pip", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            install.install(["peers.txt"])
    install.install([])
    assert done == ["make", BASE, PACKAGE] * 2


def test_failure_of_pip_keeps_what_was_there(machine):
    """Without a network the test tools cannot be installed, and the book can still be built."""

    def refuse(*_):
        raise subprocess.CalledProcessError(1, "pip")

    done, _, patch = machine
    install.install([])
    with patch.context() as offline:
        offline.setattr(install, "pip", refuse)
        with pytest.raises(SystemExit, match="needs the\\snetwork"):
            install.install(["peers.txt"])
    install.install([])
    assert done == ["make", BASE, PACKAGE]
    install.install(["peers.txt"])
    assert done[3:] == [(*BASE, "-r", "peers.txt"), PACKAGE]
