"""Every finished chapter keeps the house's form: what CONTRIBUTING.md promises a reader."""

import re
import statistics
from pathlib import Path

import pytest
from myst_nb.core.read import read_myst_markdown_notebook

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = sorted(
    path for path in BOOK.glob("*/*.md") if "```{at-a-glance}" in path.read_text(encoding="utf-8")
    and not path.parent.name.startswith("_")
)  # fmt: skip
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path):
    text = path.read_text(encoding="utf-8")
    cells = read_myst_markdown_notebook(text, path=path).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def test_there_are_chapters():
    assert CHAPTERS


@every_chapter
def test_cells_are_short(path):
    """Median at most 12 lines, none over 30, none wider than a page shows."""
    sources = [cell.source.splitlines() for cell in code_cells(path)]
    assert statistics.median(map(len, sources)) <= 12
    assert max(map(len, sources)) <= 30
    assert [line for source in sources for line in source if len(line) > 78] == []


@every_chapter
def test_figures_have_words(path):
    """A caption, a name and alt text in every figure cell; alt text in every glued widget."""
    for cell in code_cells(path):
        if "mystnb" in cell.metadata:
            figure, image = cell.metadata.mystnb["figure"], cell.metadata.mystnb["image"]
            assert figure["name"].startswith(f"fig-{path.stem}-")
            assert len(figure["caption"]) > 40 and len(image["alt"]) > 40
    glued = re.findall(r"```\{glue:figure\} \S+\n(.*?)```", path.read_text("utf-8"), re.S)
    assert all(f":name: fig-{path.stem}-" in body and len(body) > 80 for body in glued)


@every_chapter
def test_exercises_have_executed_solutions(path):
    text = path.read_text(encoding="utf-8")
    exercises = re.findall(r"```\{exercise\}.*?:label: (\S+)", text, re.S)
    solutions = re.findall(r"```\{solution-start\} (\S+)(.*?)\{solution-end\}", text, re.S)
    assert 2 <= len(exercises) <= 4
    assert exercises == [label for label, _ in solutions]
    assert all("```{code-cell}" in body for _, body in solutions)


@every_chapter
def test_checks_name_equations(path):
    """A check cell asserts something, and the page has some that name their equation."""
    checks = [cell for cell in code_cells(path) if "check" in cell.metadata.get("tags", [])]
    assert checks and any(cell.metadata.get("checks") for cell in checks)
    assert all("assert" in cell.source for cell in checks)
    named = [cell for cell in code_cells(path) if cell.metadata.get("checks")]
    assert all("check" in cell.metadata.get("tags", []) for cell in named)


@every_chapter
def test_ends_with_summary_next_and_references(path):
    text = path.read_text(encoding="utf-8")
    places = [text.index(part) for part in ("## Summary", "**Where next.**", "## References")]
    assert places == sorted(places) and "```{footbibliography}" in text[places[-1] :]
    bullets = re.findall(r"^- ", text[places[0] : places[1]], re.M)
    assert len(bullets) == 5
