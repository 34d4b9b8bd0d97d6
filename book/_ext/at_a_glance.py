"""The card under a chapter's title, and the table of all runs on the status page.

``{at-a-glance}`` takes everything from the page's front matter (``glance``, ``date``, ``category``,
``tags``) and from the record of the page's own execution.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import yaml
from ablog.blog import slugify
from docutils import nodes
from docutils.statemachine import StringList
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
PAGE_FIELDS = {"glance", "date", "category", "tags"}
CARD_FIELDS = {"mirrors", "papers", "before", "modules"}


class glance(nodes.Admonition, nodes.Element):
    """The card."""


class run_time(nodes.General, nodes.Inline, nodes.TextElement):
    """Replaced by the time this page took to run."""


class filed_under(nodes.General, nodes.Inline, nodes.TextElement):
    """Replaced by the page's date, category and tags, linked to the notes index."""


class run_table(nodes.General, nodes.Element):
    """Replaced by one row per executed page."""


class AtAGlance(SphinxDirective):
    def run(self):
        meta = _front_matter(self.state.document)
        self.env.note_dependency(self.config.chapters_file)
        given = json.loads(meta.get("glance", "{}"))
        if missing := (PAGE_FIELDS - meta.keys()) | (CARD_FIELDS - given.keys()):
            raise self.error(f"the page's front matter lacks {', '.join(sorted(missing))}")
        rows = [
            ("Mirrors", nodes.Text("; ".join(given["mirrors"]))),
            ("Papers", self.parse("; ".join(f"{{cite:t}}`{key}`" for key in given["papers"]))),
            ("Read before", self.parse(", ".join(map(self.page, given["before"])))),
            ("Library", self.parse(", ".join(f"{{py:mod}}`{m}`" for m in given["modules"]))),
            ("Run time", run_time()),
            ("Note of", filed_under(meta=meta)),
        ]
        items = [
            nodes.definition_list_item(
                "",
                nodes.term(text=head),
                nodes.definition("", nodes.paragraph("", "", *_list(body))),
            )
            for head, body in rows
            if not isinstance(body, list) or body
        ]
        return [glance("", nodes.definition_list("", *items))]

    def parse(self, markdown: str) -> list[nodes.Node]:
        holder = nodes.Element()
        self.state.nested_parse(StringList([markdown], self.env.docname), 0, holder)
        return holder[0].children if holder.children else []

    def page(self, slug: str) -> str:
        """A link to a finished page, or the name of a planned one."""
        for docname in sorted(self.env.found_docs):
            if docname.rpartition("/")[2] == slug:
                return f"{{doc}}`/{docname}`"
        planned = {c["slug"]: c["title"] for p in plan(self.env)["parts"] for c in p["chapters"]}
        if slug not in planned:
            logger.warning("no page or chapter is called %s", slug, location=self.get_location())
        return f"{planned.get(slug, slug)} (planned)"


def plan(env) -> dict:
    """The parts of the book with their chapters, finished and planned, and the reading paths."""
    path = Path(env.srcdir, env.config.chapters_file)
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _list(body):
    return body if isinstance(body, list) else [body]


def _front_matter(document: nodes.document) -> dict[str, str]:
    fields = next(document.findall(nodes.field_list))
    return {field[0].astext(): field[1].astext() for field in fields}


class RunTable(SphinxDirective):
    def run(self):
        NbMetadataCollector.set_doc_data(self.env, self.env.docname, "has_exec_table", True)
        return [run_table()]


class Resolve(SphinxPostTransform):
    """Fill in what is known only after every page has run."""

    default_priority = 8  # before references are resolved

    def run(self, **kwargs):
        for node in list(self.document.findall(run_time)):
            record = NbMetadataCollector.get_exec_data(self.env, self.env.docname)
            node.replace_self(nodes.Text(seconds(record) if record else "not executed"))
        for node in list(self.document.findall(filed_under)):
            node.replace_self(self.filed(node["meta"]))
        for node in list(self.document.findall(run_table)):
            node.replace_self(self.table())

    def filed(self, meta: dict[str, str]) -> list[nodes.Node]:
        date = datetime.fromisoformat(meta["date"])
        out = [
            nodes.Text(f"{date.day} {date:%B %Y}, in "),
            self.index("category", meta["category"]),
        ]
        for word in meta["tags"].split(","):
            out += [nodes.Text(", "), self.index("tag", word.strip())]
        return out

    def index(self, kind: str, name: str) -> nodes.Node:
        if self.app.builder.name != "html":
            return nodes.Text(name)
        target = f"{self.config.blog_path}/{kind}/{slugify(name)}"
        uri = self.app.builder.get_relative_uri(self.env.docname, target)
        return nodes.reference("", name, refuri=uri, internal=True, classes=[f"filed-{kind}"])

    def table(self) -> nodes.table:
        data = NbMetadataCollector.get_doc_data(self.env)
        runs = {
            d: data[d]["exec_data"] for d in self.env.collect_relations() if "exec_data" in data[d]
        }
        body = [self.row(docname, run) for docname, run in runs.items()]
        total = sum(run["runtime"] for run in runs.values() if run["runtime"])
        body.append(
            _row(nodes.strong(text="All pages"), nodes.strong(text=f"{total:.0f} s"), None, None)
        )
        head = _row(*(nodes.Text(t) for t in ("Page", "Run time", "Executed", "Result")))
        group = nodes.tgroup("", *(nodes.colspec() for _ in range(4)), cols=4)
        group += [nodes.thead("", head), nodes.tbody("", *body)]
        return nodes.table("", group, classes=["runs", "colwidths-auto"])

    def row(self, docname: str, run: dict) -> nodes.row:
        page = addnodes.pending_xref(
            "",
            nodes.inline(),
            refdoc=self.env.docname,
            refdomain="std",
            reftype="doc",
            reftarget=f"/{docname}",
            refexplicit=False,
            refwarn=True,
        )
        when = datetime.fromtimestamp(run["mtime"])
        result = "every cell ran" if run["succeeded"] else run["error"]
        cells = (seconds(run), f"{when.day} {when:%B %Y, %H:%M}", result)
        return _row(page, *map(nodes.Text, cells))


def _row(*cells: nodes.Node | None) -> nodes.row:
    paragraphs = [nodes.paragraph("", "", *([cell] if cell else [])) for cell in cells]
    return nodes.row("", *(nodes.entry("", paragraph) for paragraph in paragraphs))


def seconds(record: dict) -> str:
    """The time a page took: 12 s."""
    if record["runtime"] is None:
        return "failed"
    return f"{max(record['runtime'], 1):.0f} s"


def _visit(self, node):
    self.body.append('<aside class="glance" aria-label="At a glance">\n')


def _depart(self, node):
    self.body.append("</aside>\n")


def setup(app):
    app.add_config_value("chapters_file", "book/_data/chapters.yml", "env")
    app.add_node(glance, html=(_visit, _depart))
    app.add_node(run_time)
    app.add_node(filed_under)
    app.add_node(run_table)
    app.add_directive("at-a-glance", AtAGlance)
    app.add_directive("run-table", RunTable)
    app.add_post_transform(Resolve)
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
