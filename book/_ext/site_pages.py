"""What a public site needs beside its pages: descriptions, unique ids, a sitemap, a front door."""

from __future__ import annotations

from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

DOOR = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="0; url={page}">
<link rel="canonical" href="{base}{page}">
</head>
<body><p><a href="{page}">{title}</a></p></body>
</html>
"""


class UniqueIds(SphinxPostTransform):
    """sphinx_exercise and sphinx_proof give one id to many boxes: only the first may keep it."""

    default_priority = 400

    def run(self, **kwargs):
        seen = set()
        for node in self.document.findall(nodes.Element):
            node["ids"] = [name for name in node["ids"] if name not in seen]
            seen.update(node["ids"])


def describe(app, pagename, templatename, context, doctree):
    """Use the sentence a page gives to social networks for search engines too."""
    app.pages_written.add(pagename)
    context.setdefault("pagetitle", context.get("title", ""))
    text = (context.get("meta") or {}).get("og:description")
    if text:
        context["metatags"] += f'\n<meta name="description" content="{escape(text)}" />'


def list_unchanged_pages(app, exception):
    """sphinx_sitemap lists what this build wrote; an incremental build leaves the rest out."""
    if exception is None and app.builder.name == "html":
        for docname in sorted(app.env.found_docs - app.pages_written):
            app.sitemap_links.put((f"{docname}.html", None))


def open_front_door(app, exception):
    """`/` leads to the front page, with a title and a canonical address."""
    if exception is None and app.builder.name == "html":
        page = app.builder.get_target_uri(app.config.root_doc)
        html = DOOR.format(title=app.config.project, page=page, base=app.config.html_baseurl)
        Path(app.outdir, "index.html").write_text(html, encoding="utf-8")


def setup(app):
    app.pages_written = set()
    app.add_post_transform(UniqueIds)
    app.connect("html-page-context", describe, priority=400)
    app.connect("build-finished", list_unchanged_pages, priority=400)
    app.connect("build-finished", open_front_door)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
