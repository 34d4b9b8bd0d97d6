"""Render every formula to HTML and MathML while the book is built.

A page then needs KaTeX's style sheet and fonts but no script, and bad TeX is a warning with
its file and line. KaTeX runs in QuickJS, so no Node is needed.
"""

from __future__ import annotations

import json
import re
from functools import cache
from html import escape
from pathlib import Path

import quickjs
from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)
KATEX = Path(__file__).parent / "katex" / "katex.min.js"
OPENING = re.compile(r"(.*?)([(\[“‘]*)\Z", re.DOTALL)
CLOSING = re.compile(r"([,.;:!?)\]’”]*)(.*)", re.DOTALL)
OPTIONS = {"throwOnError": True, "trust": True, "strict": "ignore"}


@cache
def _engine() -> quickjs.Context:
    context = quickjs.Context()
    context.eval("var document, module, exports, define; var window = this;")
    context.eval(KATEX.read_text(encoding="utf-8"))
    return context


@cache
def render(latex: str, display: bool) -> str:
    """HTML and MathML of a formula. Raises ``quickjs.JSException`` on bad TeX."""
    options = OPTIONS | {"displayMode": display}
    # JSON.stringify: QuickJS cannot hand over the concatenated string itself.
    call = f"JSON.stringify(katex.renderToString({json.dumps(latex)}, {json.dumps(options)}))"
    return json.loads(_engine().eval(call))


def _html(node: nodes.Element, display: bool) -> str:
    latex = node.astext()
    try:
        return render(latex, display)
    except quickjs.JSException as error:
        logger.warning("KaTeX: %s", str(error).splitlines()[0], location=node, type="katex")
        return f"<code>{escape(latex)}</code>"


class KeepPunctuation(SphinxPostTransform):
    """Put a formula and the punctuation that touches it where no line break can part them."""

    default_priority = 500
    formats = ("html",)

    def run(self, **kwargs):
        for formula in list(self.document.findall(nodes.math)):
            parent, at = formula.parent, formula.parent.index(formula)
            before, after = "", ""
            if at and isinstance(parent[at - 1], nodes.Text):
                text, before = OPENING.match(parent[at - 1]).groups()
                parent[at - 1] = nodes.Text(text)
            if at + 1 < len(parent) and isinstance(parent[at + 1], nodes.Text):
                after, text = CLOSING.match(parent[at + 1]).groups()
                parent[at + 1] = nodes.Text(text)
            if before or after:
                word = nodes.inline("", before, formula, nodes.Text(after), classes=["math-word"])
                parent[at] = word


def visit_inline(self, node):
    self.body.append(f'<span class="math">{_html(node, node.get("display", False))}</span>')
    raise nodes.SkipNode


def visit_block(self, node):
    """A formula, its number, and under the number the links other extensions put on the node."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(f'<div class="formula">{_html(node, True)}</div>')
    if node["number"]:
        number = f"({get_node_equation_number(self, node)})"
        if "number_uri" in node:
            title = escape(node["number_title"])
            number = f'<a href="{escape(node["number_uri"])}" title="{title}">{number}</a>'
        self.body.append(f'<span class="eqno"><span class="number">{number}')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
        for text, uri, title in node.get("links", ()):
            self.body.append(f'<a class="eqlink" href="{escape(uri)}" title="{escape(title)}">')
            self.body.append(f"{escape(text)}</a>")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("static_katex", (visit_inline, None), (visit_block, None))
    app.add_post_transform(KeepPunctuation)
    app.add_css_file("katex/katex.min.css")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
