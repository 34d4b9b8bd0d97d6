"""The library's reference pages: links for the types of other packages, no noise.

`book/_data/external.yml` lists the names that occur in signatures with the page that documents
them. So the build needs no network, and a name that is not listed is a warning.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from docutils import nodes


def load(app):
    path = Path(app.srcdir, app.config.external_names_file)
    packages = yaml.safe_load(path.read_text(encoding="utf-8"))
    app.external_names = {
        name: package["url"] + page
        for package in packages
        for name, page in package["names"].items()
    }


def resolve(app, env, node, contnode):
    if node.get("refdomain") == "py":
        url = app.external_names.get(node["reftarget"])
        if url:
            return nodes.reference("", "", contnode, refuri=url, internal=False)
    return None


def skip_bare_fields(app, what, name, member, skip, options):
    """Leave out the fields of a named tuple: its docstring and its signature have them."""
    if (getattr(member, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    return None


def drop_boilerplate(app, what, name, obj, options, lines):
    """A module's forward without a docstring of its own inherits PyTorch's advice."""
    if lines and lines[0].startswith("Define the computation performed at every call"):
        lines.clear()


def setup(app):
    app.add_config_value("external_names_file", "book/_data/external.yml", "env")
    app.connect("builder-inited", load)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip_bare_fields)
    app.connect("autodoc-process-docstring", drop_boilerplate)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
