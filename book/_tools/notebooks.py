"""Write the executed notebook of every page into `_build/notebooks`, for Jupyter or for nbval."""

from __future__ import annotations

import sys

import nbformat
import pages
from build import alone, remove
from execute import execute
from fingerprint import BUILD, ROOT

FOLDER = BUILD / "notebooks"


def write_all() -> None:
    remove(FOLDER)
    cache = pages.open_cache()
    for page in pages.notebooks():
        target = FOLDER / page.relative_to(ROOT / "book").with_suffix(".ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(pages.executed(page, cache), target)
    print(f"Wrote {FOLDER}")


if __name__ == "__main__":
    with alone():
        if failures := execute():
            sys.exit("\n".join(map(str, failures)))
        write_all()
