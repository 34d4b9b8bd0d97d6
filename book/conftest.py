"""Let nbval run the book's MyST pages as they stand.

Each page is read by the reader that renders it, so the tests and the site see the same cells and
a failure names the page and the line. The stored outputs of the site are the reference for cells
tagged ``nbval-check-output``; where the site is not built, or is out of date, those cells are
only run.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import nbval.plugin
import pages
from jupyter_cache import get_cache

collect_ignore_glob = ["*.py", "_build"]
pages.set_environment()


def pytest_collect_file(file_path: Path, parent):
    option = parent.config.option
    if (option.nbval or option.nbval_lax) and pages.is_notebook(file_path):
        return Page.from_parent(parent, path=file_path)
    return None


class Page(nbval.plugin.IPyNbFile):
    """One page of the book."""

    def collect(self):
        notebook, lines = pages.read(self.path)
        starts = [
            line
            for line, cell in zip(lines, notebook.cells, strict=True)
            if cell.cell_type == "code"
        ]
        has_reference = False
        if pages.is_fresh():
            with suppress(KeyError):  # a page outside the book, or never built
                notebook = pages.executed(self.path, get_cache(pages.CACHE))
                has_reference = True
        with patch.object(nbval.plugin.nbformat, "read", return_value=notebook):
            cells = list(super().collect())
        for cell, line in zip(cells, starts, strict=True):
            cell.options["check"] &= has_reference
            yield Cell.from_parent(
                self,
                name=f"line {line}",
                line=line,
                cell_num=cell.cell_num,
                cell=cell.cell,
                options=cell.options,
            )


class Cell(nbval.plugin.IPyNbCell):
    """A cell that goes by its line in the page."""

    def __init__(self, line, **kwargs):
        super().__init__(**kwargs)
        self.line = line

    def reportinfo(self):
        name = self.path.relative_to(pages.ROOT).as_posix()
        return self.path, self.line - 1, f"{name}:{self.line}"
