"""Make the download, Colab and Binder buttons open what they promise: a notebook that runs.

* The notebook on offer carries its outputs also when the page came from the execution cache, and
  starts with a cell that installs the library where it is missing.
* Colab opens that notebook from the branch that holds the published site.
* Binder opens the page's source, which `.binder` makes JupyterLab show as a notebook.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import nbformat
from jupyter_cache import get_cache

INSTALL = """\
# On a fresh machine (Colab, for example): install the book's library.
import importlib.util

if importlib.util.find_spec("notes_lib") is None:
    %pip install -q git+{url}"""


def relink(app, pagename, templatename, context, doctree):
    source = context.get("ipynb_source")
    for group in context.get("header_buttons", ()) if source else ():
        for button in group.get("buttons", ()):
            if button["text"] == "Colab":
                head, _, _ = button["url"].partition("/blob/")
                button["url"] = f"{head}/blob/{app.config.launch_branch}/_sources/{source}"


def complete_notebooks(app, exception):
    """Merge outputs from the cache: myst-nb leaves them out when it did not run the page itself."""
    if exception is not None or app.builder.name != "html":
        return
    cache = get_cache(
        app.config.nb_execution_cache_path or Path(app.outdir).parent / ".jupyter_cache"
    )
    install = INSTALL.format(url=app.config.html_theme_options["repository_url"])
    for path in sorted(Path(app.outdir, "_sources").rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if any(cell.get("id") == "install" for cell in notebook.cells):
            continue
        with suppress(KeyError):  # a page that failed is not in the cache, and fails the build
            _, notebook = cache.merge_match_into_notebook(notebook)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(install, id="install"))
        notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
        nbformat.write(notebook, path)


def setup(app):
    app.add_config_value("launch_branch", "gh-pages", "html")
    app.connect("html-page-context", relink, priority=502)
    app.connect("build-finished", complete_notebooks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
