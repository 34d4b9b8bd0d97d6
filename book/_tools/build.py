"""Build the book: execute what is out of date, render the site, say where it is.

A finished site carries a stamp, the hash of everything it was made from. With the same hash there
is nothing to do; without it everything is rendered afresh from the stored outputs, so that neither
a killed run nor a warning of an earlier one can leave a trace.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from fingerprint import BUILD, ROOT, SITE, fingerprint, read_stamp, write_stamp

INDEX = BUILD / "html" / "index.html"
STAMP = BUILD / "site.fingerprint"
PREVIEW = BUILD / "preview"
MEGABYTES = 500


@contextmanager
def alone() -> Iterator[None]:
    """Keep two builds from writing into one folder; a killed one holds nothing back."""
    BUILD.mkdir(exist_ok=True)
    try:
        with FileLock(BUILD / ".lock", timeout=0):
            yield
    except Timeout:
        sys.exit("Another build of this book is running here. Wait for it, then run again.")


def check_disk() -> None:
    free = shutil.disk_usage(ROOT).free / 1e6
    if free < MEGABYTES:
        sys.exit(f"The site needs {MEGABYTES} MB of free disk and {ROOT} has {free:.0f} MB left.")


def execute_all() -> int:
    """Execute the pages that need it; print each failing cell and return how many there are."""
    from execute import execute

    failures = execute()
    for failure in failures:
        print(failure, file=sys.stderr)
    return len(failures)


def render(folder: Path, builder: str = "html", *, strict: bool = True) -> bool:
    """Run Jupyter Book as `jupyter-book build . -W --keep-going -n` does, with a folder chosen."""
    from jupyter_book.sphinx import build_sphinx
    from sphinx.util.console import nocolor

    if not sys.stdout.isatty():
        nocolor()
    result = build_sphinx(
        ROOT,
        folder / builder,
        noconfig=True,
        path_config=ROOT / "_config.yml",
        confoverrides={
            "external_toc_path": "_toc.yml",
            "latex_individualpages": False,
            "nb_execution_cache_path": str(BUILD / ".jupyter_cache"),
            "nitpicky": strict,
        },
        doctreedir=folder / ".doctrees",
        builder=builder,
        warningiserror=strict,
        keep_going=True,
    )
    return result == 0


def remove(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def build() -> None:
    """Make `_build/html` what the sources say, or stop with the reasons."""
    start = time.perf_counter()
    state = fingerprint(SITE)
    if INDEX.exists() and read_stamp(STAMP) == state:
        print("Nothing has changed since the last build.")
    else:
        check_disk()
        STAMP.unlink(missing_ok=True)
        if failed := execute_all():
            sys.exit(
                f"\nPages that failed (above): {failed}. The others are kept for the next run."
            )
        remove(BUILD / "html", BUILD / ".doctrees", BUILD / "jupyter_execute")
        if not render(BUILD):
            sys.exit("\nThe site has errors or warnings (above): each one fails the build.")
        write_stamp(STAMP, state)
        print(f"\nBuilt in {time.perf_counter() - start:.0f} s.")
    print(f"Open {INDEX}")


def preview() -> None:
    """Render what changed into `_build/preview`, warnings and all: what `make serve` shows."""
    execute_all()
    render(PREVIEW, strict=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preview", action="store_true", help="only what changed, leniently")
    arguments = parser.parse_args()
    with alone():
        preview() if arguments.preview else build()
