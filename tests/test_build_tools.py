"""The promises of `make book`, kept on a book of two small pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fingerprint
import pages
import psutil
import pytest
from jupyter_cache.base import CacheBundleIn

TOOLS = Path(__file__).resolve().parents[1] / "book" / "_tools"
CONFIG = """
title: Toy
author: Nobody
only_build_toc_files: true
execute: {execute_notebooks: cache, timeout: 60, raise_on_error: false, stderr_output: error}
sphinx:
  config:
    extensions: [myst_nb, jupyter_book, sphinx_external_toc, sphinx_comments, sphinx_book_theme]
"""
TOC = """
format: jb-book
root: book/index
chapters:
  - file: book/one
  - file: book/two
"""
PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst, format_version: 0.13}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# Page NAME

```{code-cell} ipython3
:tags: [nbval-check-output]

import toy
with open("../runs.txt", "a") as log:
    print("NAME", file=log)
print("NAME sees", toy.VALUE)
```
"""
FAILING = """
```{code-cell} ipython3
missing = 1 / 0
```
"""


class Book:
    """A book of two pages that note each of their runs."""

    def __init__(self, root: Path):
        self.root = root
        self.runs = root / "runs.txt"

    def write_all(self) -> None:
        self.write("_config.yml", CONFIG)
        self.write("_toc.yml", TOC)
        self.write("requirements.txt", "")
        self.write("book/index.md", "# Toy\n")
        for name in ("one", "two"):
            self.write(f"book/{name}.md", PAGE.replace("NAME", name))
        self.write("src/toy/__init__.py", "VALUE = 'first'\n")
        # Unused here, and 1.5 s at every start: the grammar by which jsonschema would check IRIs.
        self.write("src/rfc3987_syntax.py", "raise ImportError\n")
        tools = self.root / "book/_tools"
        shutil.copytree(TOOLS, tools, ignore=shutil.ignore_patterns("__pyc*"))
        shutil.copy(TOOLS.parent / "conftest.py", tools.parent)
        self.write("pyproject.toml", '[tool.pytest.ini_options]\npythonpath = ["book/_tools"]\n')

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        self.write(name, (self.root / name).read_text(encoding="utf-8").replace(old, new))

    def html(self, name: str) -> str:
        return (self.root / "_build/html/book" / f"{name}.html").read_text(encoding="utf-8")

    def executed(self) -> list[str]:
        """The pages that ran since the last question."""
        log = self.runs.read_text(encoding="utf-8").split() if self.runs.exists() else []
        self.runs.unlink(missing_ok=True)
        return sorted(log)

    def start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        process = self.start(*command)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def build(self) -> tuple[int, str]:
        return self.run("book/_tools/build.py")

    def kill_when(self, pattern: str, delay: float = 0.0) -> None:
        """Start a build and kill it (SIGKILL) as soon as a file appears, or a while later."""
        process = self.start("book/_tools/build.py")
        while process.poll() is None and not any(self.root.glob(pattern)):
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.communicate()


@pytest.fixture
def book(tmp_path):
    book = Book(tmp_path / "book")
    book.write_all()
    return book


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A book, built once: the tests work on copies."""
    book = Book(tmp_path_factory.mktemp("model") / "book")
    book.write_all()
    status, output = book.build()
    assert status == 0, output
    assert book.executed() == ["one", "two"]
    return book


@pytest.fixture
def built(model, tmp_path):
    return Book(shutil.copytree(model.root, tmp_path / "book"))


def test_second_build_does_nothing(built):
    start = time.perf_counter()
    status, output = built.build()
    assert status == 0 and "Nothing has changed" in output
    assert str(built.root / "_build/html/index.html") in output
    assert time.perf_counter() - start < 5
    assert built.executed() == []


def test_only_changed_cells_run_again(built):
    built.edit("book/one.md", "# Page one", "# Page one, with another title")
    built.edit("book/two.md", "sees", "still sees")
    assert built.build()[0] == 0
    assert built.executed() == ["two"]
    assert "another title" in built.html("one") and "two still sees first" in built.html("two")


def test_change_of_the_library_runs_every_page(built):
    built.edit("src/toy/__init__.py", "first", "second")
    assert built.build()[0] == 0
    assert built.executed() == ["one", "two"]
    assert "sees second" in built.html("one") and "sees second" in built.html("two")


def test_failing_cell_is_located_and_tried_again(built):
    text = (built.root / "book/two.md").read_text(encoding="utf-8")
    line = text.count("\n") + 3
    built.write("book/two.md", text + FAILING)
    for _ in range(2):
        status, output = built.build()
        assert status == 1
        assert f"book/two.md:{line}" in output and "ZeroDivisionError" in output
        assert "missing = 1 / 0" in output
    assert built.executed() == ["two", "two"]


def test_warning_fails_every_build(built):
    built.write("book/index.md", "# Toy\n\n{ref}`nowhere`\n")
    for _ in range(2):
        status, output = built.build()
        assert status == 1 and "undefined label: 'nowhere'" in output


def test_pages_and_notebooks_pass_nbval(built):
    nbval = ("-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax")
    status, output = built.run(*nbval, "book")
    assert status == 0 and "2 passed" in output
    status, output = built.run("book/_tools/notebooks.py")
    assert status == 0, output
    status, output = built.run(*nbval, "_build/notebooks")
    assert status == 0 and "2 passed" in output


def test_result_that_changes_between_runs_is_found(built):
    built.edit("src/toy/__init__.py", "'first'", "__import__('time').time_ns()")
    assert built.run("book/_tools/notebooks.py")[0] == 0
    status, output = built.run("-m", "pytest", "--nbval-lax", "-v", "book")
    assert status == 1 and re.search(r"book/one.md::line 8 FAILED", output)


MOMENTS = [
    "_build/.jupyter_cache/global.db",
    "_build/.jupyter_cache/executed/*",
    "_build/.jupyter_cache/executed/*/base.ipynb",
    "_build/.doctrees/book",
    "_build/.doctrees/environment.pickle",
    "_build/html/book/one.html",
]


def test_killed_builds_are_completed(book):
    for moment in MOMENTS:
        book.kill_when(moment)
        assert not (book.root / "_build/site.fingerprint").exists()
    status, output = book.build()
    assert status == 0, output
    for name in ("one", "two"):
        assert f"{name} sees first" in book.html(name)
    assert book.build()[1].startswith("Nothing has changed")


def test_finished_pages_survive_a_kill(book):
    wait = "import os, time, toy\ntime.sleep(30 * os.path.exists('../hold'))"
    book.edit("book/two.md", "import toy", wait)
    book.write("hold", "")
    book.kill_when("_build/.jupyter_cache/executed/*/base.ipynb", delay=0.5)
    assert book.executed() == ["one"]
    (book.root / "hold").unlink()
    status, output = book.build()
    assert status == 0, output
    assert book.executed() == ["two"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda cache: None, 2),
        (lambda cache: truncate(next(cache.glob("executed/*/base.ipynb"))), 1),
        (lambda cache: next(cache.glob("executed/*/base.ipynb")).unlink(), 1),
        (lambda cache: shutil.rmtree(cache / "executed"), 0),
        (lambda cache: (cache / "global.db").write_bytes(b""), 0),
        (lambda cache: (cache / "global.db").unlink(), 0),
        (lambda cache: (cache / "fingerprint").unlink(), 0),
        (lambda cache: (cache / "fingerprint").write_text("of another library"), 0),
    ],
)
def test_damaged_cache_is_mended(built, monkeypatch, damage, kept):
    monkeypatch.setattr(fingerprint, "ROOT", built.root)
    monkeypatch.setattr(pages, "CACHE", built.root / "_build/.jupyter_cache")
    monkeypatch.setattr(pages, "STAMP", pages.CACHE / "fingerprint")
    damage(pages.CACHE)
    cache = pages.open_cache()
    assert len(cache.list_cache_records()) == kept
    for name in ("one", "two"):
        notebook, _ = pages.read(built.root / f"book/{name}.md")
        bundle = CacheBundleIn(notebook, name)
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    assert len(cache.list_cache_records()) == 2


@pytest.mark.skipif(os.name == "nt", reason="the parent's end is noticed in another way")
def test_no_kernel_outlives_a_killed_build(book):
    cell = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\n"
    book.edit("book/one.md", "import toy", cell + "time.sleep(60)")
    book.kill_when("book/pid")
    time.sleep(0.1)
    pid = int((book.root / "book/pid").read_text(encoding="utf-8"))
    for _ in range(100):
        if not psutil.pid_exists(pid):
            return
        time.sleep(0.1)
    pytest.fail("the kernel is still there")
