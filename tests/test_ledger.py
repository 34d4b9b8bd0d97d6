"""The equation ledger on a tiny book: one page, one function, one test."""

import re
from io import StringIO
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

ROOT = Path(__file__).parents[1]

CONF = """
extensions = ["myst_nb", "static_math", "ledger"]
html_math_renderer = "static_katex"
nb_execution_mode = "off"
exclude_patterns = ["_build"]
numfig = True
nitpicky = True
myst_enable_extensions = ["dollarmath", "amsmath"]
ledger_blob_url = "https://example.org/blob/main"
"""
INDEX = """
# Tiny book

```{toctree}
:numbered: 1
book/tiny
book/ledger
reference
```
"""
PAGE = """
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Squares

$$
y = x^2
$$ (eq-tiny-square)

An intermediate step has no number: $$ x^2 = x \\cdot x $$

```{code-cell} ipython3
---
tags: [check]
checks: [eq-tiny-square]
---
assert 3**2 == 9
```
"""
LEDGER = """
# Ledger

```{equation-ledger}
```
"""
REFERENCE = """
# Reference

```{eval-rst}
.. py:function:: tiny.core.square(x)
.. py:class:: tiny.core.Shape

   .. py:method:: area()
```
"""
SOURCE = '''
def square(x):
    """The square, :eq:`eq-tiny-square`."""
    return x**2
'''
TESTS = """
import pytest


@pytest.mark.equation("eq-tiny-square")
def test_square_of_two():
    assert 2**2 == 4
"""


class Book:
    """Files of a project, and what building them says."""

    def __init__(self, root: Path):
        self.root = root
        files = {
            "conf.py": CONF, "index.md": INDEX, "book/tiny.md": PAGE, "book/ledger.md": LEDGER,
            "reference.md": REFERENCE, "src/tiny/core.py": SOURCE, "tests/test_core.py": TESTS,
        }  # fmt: skip
        for name, text in files.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip(), encoding="utf-8")

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text
        self.write(name, text.replace(old, new))

    def build(self) -> list[str]:
        """The warnings of a build, with paths relative to the project."""
        warnings, out = StringIO(), self.root / "_build"
        with patch_docutils(str(self.root)), docutils_namespace():
            app = Sphinx(
                self.root, self.root, out / "html", out / "doctrees", "html",
                status=None, warning=warnings,
            )  # fmt: skip
            app.build()
        self.rows = app.env.ledger_rows
        text = re.sub(r"\x1b\[[0-9;]*m", "", warnings.getvalue())
        return text.replace(f"{self.root}/", "").splitlines()

    def html(self, page: str) -> BeautifulSoup:
        path = self.root / "_build" / "html" / f"{page}.html"
        return BeautifulSoup(path.read_text(encoding="utf-8"), "lxml")


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    return Book(tmp_path)


def test_a_complete_book_is_silent_and_linked_all_three_ways(book):
    assert book.build() == []

    row = book.html("book/ledger").find(id="ledger-eq-tiny-square")
    links = {link.get_text(): link["href"] for link in row.find_all("a")}
    assert links == {
        "(1.1)": "tiny.html#equation-eq-tiny-square",
        "square": "../reference.html#tiny.core.square",
        "square of two": "https://example.org/blob/main/tests/test_core.py#L5",
        "page check 1": "tiny.html#check-1",
    }
    assert "y = x^2" in row.find("annotation").get_text()

    page = book.html("book/tiny")
    number = page.select_one("#equation-eq-tiny-square .eqno")
    links = {link.get_text(): link["href"] for link in number.find_all("a")}
    assert links["(1.1)"] == "ledger.html#ledger-eq-tiny-square"
    assert links["code"] == "../reference.html#tiny.core.square"
    assert links["check"] == "ledger.html#ledger-eq-tiny-square"  # two checks: to the row
    stamp = page.select_one("#check-1 .cell-checks")
    assert stamp.get_text() == "checks (1.1)"
    assert stamp.a["href"] == "#equation-eq-tiny-square"


def test_equation_without_code(book):
    book.change("src/tiny/core.py", ":eq:`eq-tiny-square`", "x times x")
    assert book.build() == [
        "book/tiny.md:8: WARNING: no docstring of the library names eq-tiny-square"
    ]


def test_equation_without_check(book):
    book.change("tests/test_core.py", '@pytest.mark.equation("eq-tiny-square")\n', "")
    book.change("book/tiny.md", "checks: [eq-tiny-square]\n", "")
    assert book.build() == [
        "book/tiny.md:8: WARNING: no test and no check cell names eq-tiny-square"
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("src/tiny/core.py", "`.", "`, :eq:`eq-tiny-sqare`.", 1),
        ("tests/test_core.py", '")', '", "eq-tiny-sqare")', 5),
        ("book/tiny.md", "checks: [", "checks: [eq-tiny-sqare, ", 16),
    ],
)
def test_unknown_label(book, name, old, new, line):
    book.change(name, old, new)
    said = [warning for warning in book.build() if "no page defines" in warning]
    assert said == [f"{name}:{line}: WARNING: no page defines the equation eq-tiny-sqare"]


def test_label_of_another_page(book):
    for name in ("book/tiny.md", "src/tiny/core.py", "tests/test_core.py"):
        book.change(name, "eq-tiny-square", "eq-large-square")
    [said] = book.build()
    assert said.endswith(
        "the label eq-large-square of a numbered equation must start with eq-tiny-"
    )


def test_numbered_environment_has_no_label(book):
    """MyST numbers a bare amsmath environment under a random label, which nothing could name."""
    book.change(
        "book/tiny.md", "An intermediate", "\\begin{align}\na &= b\n\\end{align}\n\nAn intermediate"
    )
    assert any("must start with eq-tiny-" in line for line in book.build())


def test_function_outside_the_reference(book):
    book.change("reference.md", "tiny.core.square", "tiny.core.cube")
    assert book.build() == [
        "src/tiny/core.py:1: WARNING: tiny.core.square names eq-tiny-square "
        "but is not in the library's reference",
        "book/tiny.md:8: WARNING: no docstring of the library names eq-tiny-square",
    ]


SHAPE = '''
class Shape:
    def area(self):
        """As :eq:`eq-tiny-square`."""
'''
MARKS = """
import pytest


@pytest.mark.equation("eq-tiny-square")
class TestArea:
    pass


@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.equation("eq-tiny-square"))])
def test_some(x):
    pass
"""


def test_methods_classes_and_parametrized_tests(book):
    book.write("src/tiny/core.py", SHAPE)
    book.write("tests/test_core.py", MARKS)
    assert book.build() == []
    row = book.rows["eq-tiny-square"]
    assert [link.text for link in row.code] == ["Shape.area"]
    assert [link.text for link in row.checks] == ["TestArea", "some", "page check 1"]


def test_a_later_build_sees_a_change_in_the_tests_alone(book):
    assert book.build() == []
    book.change("tests/test_core.py", "test_square_of_two", "test_square_of_three")
    assert book.build() == []
    assert book.html("book/ledger").find("a", string="square of three")


def test_a_later_build_removes_what_went_away(book):
    book.build()
    book.change("book/tiny.md", "checks: [eq-tiny-square]\n", "")
    assert book.build() == []
    assert book.html("book/ledger").find("a", string="page check 1") is None
    check = book.html("book/tiny").select_one(".eqno").find("a", string="check")
    assert check["href"].endswith("tests/test_core.py#L5")


def test_a_hole_is_reported_by_every_build(book):
    book.change("src/tiny/core.py", ":eq:`eq-tiny-square`", "x times x")
    assert book.build() == book.build() != []
