"""Let the singlehtml and epub builders use the html visitors.

sphinx_exercise registers ``singlehtml`` visitors of its own, after which Sphinx no longer falls
back to the html visitors that every other extension registers.
"""


def _inherit(app, config):
    handlers = app.registry.translation_handlers
    for builder in ("singlehtml", "epub"):
        if builder in handlers:
            handlers[builder] = {**handlers.get("html", {}), **handlers[builder]}


def setup(app):
    app.connect("config-inited", _inherit, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
