"""The equation ledger: which code implements each numbered equation and what checks it.

Three places name an equation by its label:

* a page, ``$$ ... $$ (eq-<slug>-<name>)``;
* the docstring of the function, method or class that implements it, with Sphinx' own role,
  ``:eq:`eq-<slug>-<name>```;
* what checks it: a test, ``@pytest.mark.equation("eq-<slug>-<name>", ...)``, or a code cell of a
  page whose metadata has ``checks: [eq-<slug>-<name>]``.

Pages are read by Sphinx, docstrings and tests through ``ast``. Every build compares the three,
warns about each hole (an equation without code or check, a label nobody defines), puts links under
the equations' numbers and fills the page that holds the ``equation-ledger`` directive.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.environment.collectors import EnvironmentCollector
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
EQ_ROLE = re.compile(r":eq:`([^`]+)`")


@dataclass(frozen=True)
class Equation:
    label: str
    docname: str
    anchor: str
    latex: str
    line: int | None

    @property
    def location(self) -> tuple[str, int | None]:
        return self.docname, self.line


@dataclass(frozen=True)
class Cell:
    """A check cell of a page."""

    labels: tuple[str, ...]
    docname: str
    anchor: str
    line: int | None

    @property
    def location(self) -> tuple[str, int | None]:
        return self.docname, self.line


@dataclass(frozen=True)
class Mark:
    """A docstring or a test that names an equation."""

    label: str
    name: str
    path: str
    line: int

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def location(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Link:
    """To an anchor of a page, or out of the site when ``docname`` is None."""

    text: str
    docname: str | None
    target: str


@dataclass(frozen=True)
class Row:
    equation: Equation
    number: str
    code: tuple[Link, ...]
    checks: tuple[Link, ...]


# -- docstrings and tests --------------------------------------------------------------------


def docstring_marks(source: Path) -> Iterator[Mark]:
    """Every equation named in a docstring below the folder of a package's sources."""
    for path in sorted(source.rglob("*.py")):
        module = path.relative_to(source).with_suffix("").parts
        module = module[:-1] if module[-1] == "__init__" else module
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, definition in _definitions(tree, module):
            for label in EQ_ROLE.findall(ast.get_docstring(definition) or ""):
                yield Mark(label, name, path.as_posix(), definition.lineno)


def _definitions(tree: ast.AST, parents: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield ".".join((*parents, node.name)), node
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node, (*parents, node.name))


def test_marks(tests: Path) -> Iterator[Mark]:
    """Every equation named by ``pytest.mark.equation`` below a folder of tests."""
    for path in sorted(tests.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                continue
            for call in (c for d in node.decorator_list for c in ast.walk(d)):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("mark.equation"):
                    for argument in call.args:
                        label = ast.literal_eval(argument)
                        yield Mark(label, node.name, path.as_posix(), node.lineno)


# -- pages -----------------------------------------------------------------------------------


class CheckCells(SphinxTransform):
    """Give each check cell an anchor and a line that links to what it checks."""

    default_priority = 500

    def apply(self):
        cells = self.document.findall(nodes.container)
        checks = [c for c in cells if c.get("cell_metadata", {}).get("checks")]
        for index, cell in enumerate(checks, start=1):
            cell["ids"].append(f"check-{index}")
            line = nodes.paragraph(classes=["cell-checks"])
            line += nodes.Text("checks ")
            for label in cell["cell_metadata"]["checks"]:
                reference = addnodes.pending_xref(
                    "", refdomain="math", reftype="eq", reftarget=label, refwarn=True
                )
                reference += nodes.literal(text=label)
                reference.source, reference.line = cell.source, cell.line
                line += reference
                line += nodes.Text(", ")
            del line[-1]
            # after the source: myst-nb looks for source and output at the two ends
            cell.insert(1, line)


class PageCollector(EnvironmentCollector):
    """Keep the equations and check cells of each page in ``env.ledger_pages``."""

    def clear_doc(self, app, env, docname):
        _pages(env).pop(docname, None)
        _ledger_docs(env).discard(docname)

    def merge_other(self, app, env, docnames, other):
        _pages(env).update({d: p for d, p in _pages(other).items() if d in docnames})
        _ledger_docs(env).update(_ledger_docs(other))

    def process_doc(self, app, doctree):
        docname = app.env.docname
        equations = [
            Equation(
                node["label"],
                docname,
                nodes.make_id("equation-" + node["label"]),
                node.astext(),
                node.line,
            )
            for node in doctree.findall(nodes.math_block)
            if node.get("number")
        ]
        cells = [
            Cell(tuple(cell["cell_metadata"]["checks"]), docname, cell["ids"][-1], cell.line)
            for cell in doctree.findall(nodes.container)
            if cell.get("cell_metadata", {}).get("checks")
        ]
        _pages(app.env)[docname] = (equations, cells)


def _pages(env) -> dict[str, tuple[list[Equation], list[Cell]]]:
    if not hasattr(env, "ledger_pages"):
        env.ledger_pages = {}
    return env.ledger_pages


# -- the ledger ------------------------------------------------------------------------------


def update(app, env) -> set[str]:
    """Rebuild the rows, report the holes, and name the pages that must be written again."""
    root = Path(app.srcdir)
    docstrings = [m for s in app.config.ledger_sources for m in docstring_marks(root / s)]
    tests = [m for t in app.config.ledger_tests for m in test_marks(root / t)]
    pages = _pages(env)
    order = [docname for docname in env.collect_relations() if docname in pages]
    cells = [cell for docname in order for cell in pages[docname][1]]

    code = _code_links(env, docstrings)
    checks = _check_links(root, app.config.ledger_blob_url, tests, cells)
    rows = {}
    for equation in (e for docname in order for e in pages[docname][0]):
        label = equation.label
        prefix = f"eq-{equation.docname.rpartition('/')[2]}-"
        if not label.startswith(prefix):
            _warn(equation, f"the label {label} of a numbered equation must start with {prefix}")
        if label not in code:
            _warn(equation, f"no docstring of the library names {label}")
        if label not in checks:
            _warn(equation, f"no test and no check cell names {label}")
        rows[label] = Row(
            equation, _number(env, equation), tuple(code[label]), tuple(checks[label])
        )
    for place in (*docstrings, *tests, *cells):
        for label in place.labels:
            if label not in rows:
                _warn(place, f"no page defines the equation {label}")

    old = getattr(env, "ledger_rows", {})
    env.ledger_rows = rows
    stale = [old.get(k) or rows[k] for k in old | rows if old.get(k) != rows.get(k)]
    if not stale:
        return set()
    return ({row.equation.docname for row in stale} & set(pages)) | _ledger_docs(env)


def _code_links(env, docstrings: list[Mark]) -> dict[str, list[Link]]:
    links = defaultdict(list)
    objects = env.domains["py"].objects
    for mark in docstrings:
        if mark.name not in objects:
            _warn(mark, f"{mark.name} names {mark.label} but is not in the library's reference")
            continue
        entry = objects[mark.name]
        depth = 1 if entry.objtype in ("function", "class") else 2
        text = ".".join(mark.name.split(".")[-depth:])
        links[mark.label].append(Link(text, entry.docname, entry.node_id))
    return links


def _check_links(root: Path, blob_url: str, tests: list[Mark], cells: list[Cell]):
    links = defaultdict(list)
    for mark in tests:
        url = f"{blob_url}/{Path(mark.path).relative_to(root).as_posix()}#L{mark.line}"
        links[mark.label].append(Link(_sentence(mark.name), None, url))
    for cell in cells:
        for label in cell.labels:
            name = f"page {cell.anchor.replace('-', ' ')}"
            links[label].append(Link(name, cell.docname, cell.anchor))
    return links


def _sentence(test: str) -> str:
    """What a test says in its name: test_noise_grows is "noise grows"."""
    return test.removeprefix("test_").replace("_", " ")


def _ledger_docs(env) -> set[str]:
    if not hasattr(env, "ledger_docs"):
        env.ledger_docs = set()
    return env.ledger_docs


def _number(env, equation: Equation) -> str:
    numbers = env.toc_fignumbers.get(equation.docname, {}).get("displaymath", {})
    return ".".join(map(str, numbers.get(equation.anchor, ())))


def _warn(place: Equation | Cell | Mark, message: str) -> None:
    logger.warning(message, location=place.location, type="ledger")


# -- what the reader sees --------------------------------------------------------------------


class NumberLinks(SphinxPostTransform):
    """Link each equation's number to its row, and put its code and checks under the number."""

    default_priority = 210
    formats = ("html",)

    def run(self, **kwargs):
        if self.app.builder.name != "html" or not _ledger_docs(self.env):
            return
        [ledger] = _ledger_docs(self.env)
        for node in self.document.findall(nodes.math_block):
            row = self.env.ledger_rows.get(node.get("label"))
            if row is None:
                continue
            home = Link("", ledger, f"ledger-{row.equation.label}")
            node["number_uri"] = _uri(self, home)
            node["number_title"] = "This equation in the ledger: its code and its checks"
            node["links"] = [
                (word, _uri(self, links[0] if len(links) == 1 else home), title)
                for word, title, links in (
                    ("code", "Where the library implements it: ", row.code),
                    ("check", "What checks it: ", row.checks),
                )
                if links
                for title in [title + ", ".join(link.text for link in links)]
            ]


class LedgerPlaceholder(nodes.General, nodes.Element):
    """Where the ledger goes once every page has been read."""


class LedgerDirective(SphinxDirective):
    def run(self):
        _ledger_docs(self.env).add(self.env.docname)
        return [LedgerPlaceholder()]


class LedgerTables(SphinxPostTransform):
    """One table a chapter: number and equation, code, checks."""

    default_priority = 9  # before references are resolved

    def run(self, **kwargs):
        for placeholder in list(self.document.findall(LedgerPlaceholder)):
            placeholder.replace_self(list(self.tables()))

    def tables(self) -> Iterator[nodes.Node]:
        chapters = defaultdict(list)
        for row in self.env.ledger_rows.values():
            chapters[row.equation.docname].append(row)
        code = {link for row in self.env.ledger_rows.values() for link in row.code}
        checks = {link for row in self.env.ledger_rows.values() for link in row.checks}
        yield nodes.paragraph(
            "",
            f"{len(self.env.ledger_rows)} equations in {len(chapters)} chapters, "
            f"{len(code)} functions, methods and classes, {len(checks)} tests and page checks.",
            classes=["ledger-count"],
        )
        for docname, rows in chapters.items():
            section = nodes.section(ids=[f"ledger-{docname.rpartition('/')[2]}"])
            link = addnodes.pending_xref(
                "",
                nodes.inline(),
                refdoc=self.env.docname,
                refdomain="std",
                reftype="doc",
                reftarget=f"/{docname}",
                refexplicit=False,
                refwarn=True,
            )
            section += nodes.title("", "", link)
            section += _table(
                ["No.", "Equation", "Code", "Checks"], [self.row(row) for row in rows]
            )
            yield section

    def row(self, row: Row) -> nodes.row:
        equation = Link(f"({row.number})", row.equation.docname, row.equation.anchor)
        # an unnumbered copy: the original keeps the number and the label
        formula = nodes.math("", row.equation.latex, display=True)
        cells = [[self.link(equation)], [formula]]
        cells += [[self.link(link) for link in links] for links in (row.code, row.checks)]
        entries = [nodes.entry("", nodes.paragraph("", "", *_separated(cell))) for cell in cells]
        return nodes.row("", *entries, ids=[f"ledger-{row.equation.label}"])

    def link(self, link: Link) -> nodes.reference:
        name = nodes.literal if link.text.replace(".", "").isidentifier() else nodes.inline
        return nodes.reference(
            "", "", name(text=link.text), refuri=_uri(self, link), internal=bool(link.docname)
        )


def _separated(cell: list[nodes.Node]) -> list[nodes.Node]:
    return [n for node in cell for n in (node, nodes.Text(" "))][:-1]


def _table(head: list[str], rows: list[nodes.row]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec() for _ in head), cols=len(head))
    titles = [nodes.entry("", nodes.paragraph(text=text)) for text in head]
    group += [nodes.thead("", nodes.row("", *titles)), nodes.tbody("", *rows)]
    return nodes.table("", group, classes=["ledger", "colwidths-auto"])


def _uri(transform: SphinxPostTransform, link: Link) -> str:
    if link.docname is None:
        return link.target
    builder, here = transform.app.builder, transform.env.docname
    if link.docname == here:
        return f"#{link.target}"
    return f"{builder.get_relative_uri(here, link.docname)}#{link.target}"


def setup(app):
    app.add_config_value("ledger_sources", ["src"], "env")
    app.add_config_value("ledger_tests", ["tests"], "env")
    app.add_config_value("ledger_blob_url", "", "env")
    app.add_node(LedgerPlaceholder)
    app.add_directive("equation-ledger", LedgerDirective)
    app.add_transform(CheckCells)
    app.add_post_transform(LedgerTables)
    app.add_post_transform(NumberLinks)
    app.add_env_collector(PageCollector)
    # after Sphinx has numbered the equations, and in every build: a hole never goes quiet
    app.connect("env-get-updated", update, priority=900)
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
