"""The map of the book on the front page: chapters, what each builds on, and reading paths.

``{reading-map}`` draws `book/_data/chapters.yml`. A chapter whose page is in the table of contents
is a link; the others are marked as planned. The layout is computed here, `reading_map.html` draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from at_a_glance import plan
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

WIDTH, GUTTER, PER_ROW = 900, 132, 6
PILL, ROW, BAND = 30, 58, 72
CHARACTER, PADDING, MAX_GAP = 7.0, 24, 64


@dataclass
class Place:
    """A chapter on the map."""

    chapter: dict
    uri: str | None
    x: float = 0
    y: float = 0
    width: float = 0
    paths: list[str] = field(default_factory=list)

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def lay_out(parts: list[list[Place]]) -> tuple[list[float], float]:
    """Set the places, a band of rows for each part; the bands' tops and the height."""
    tops, y = [], 2.0
    for places in parts:
        tops.append(y)
        rows = math.ceil(len(places) / PER_ROW)
        size = math.ceil(len(places) / rows)
        for row in range(rows):
            _set_row(places[row * size : (row + 1) * size], y)
            y += ROW if row < rows - 1 else BAND
    return tops, y - BAND + PILL + 18


def _set_row(places: list[Place], y: float) -> None:
    """Spread a row over the width, centred."""
    for place in places:
        place.width = CHARACTER * len(place.chapter["short"]) + PADDING
    room = WIDTH - GUTTER - sum(place.width for place in places)
    gap = min(MAX_GAP, room / max(len(places) - 1, 1))
    x = GUTTER + (room - gap * (len(places) - 1)) / 2
    for place in places:
        place.x, place.y = x, y
        x += place.width + gap


def edge(source: Place, target: Place) -> str:
    """A curve from below the source to above the target, or under both in the same row."""
    start = f"M{source.middle:.0f} {source.y + PILL:.0f}"
    if source.y == target.y:
        low = source.y + PILL + 15
        end = f"{target.middle:.0f} {target.y + PILL:.0f}"
        return f"{start}C{source.middle:.0f} {low:.0f} {target.middle:.0f} {low:.0f} {end}"
    half = max((target.y - source.y - PILL) / 2, 14)
    return (
        f"{start}C{source.middle:.0f} {source.y + PILL + half:.0f} "
        f"{target.middle:.0f} {target.y - half:.0f} {target.middle:.0f} {target.y:.0f}"
    )


class ReadingMap(SphinxDirective):
    def run(self):
        self.env.note_dependency(self.config.chapters_file)
        self.env.note_dependency(self.config.external_toc_path)
        book = plan(self.env)
        places = {
            chapter["slug"]: Place(chapter, self.uri(part["folder"], chapter["slug"]))
            for part in book["parts"]
            for chapter in part["chapters"]
        }
        for path in book["paths"]:
            path["id"] = path["name"].lower().replace(" ", "-")
            for slug in path["chapters"]:
                places[slug].paths.append(path["id"])
        parts = [[places[c["slug"]] for c in part["chapters"]] for part in book["parts"]]
        tops, height = lay_out(parts)
        edges = [
            (need, slug, edge(places[need], place))
            for slug, place in places.items()
            for need in place.chapter["needs"]
        ]
        html = self.env.app.builder.templates.render(
            "reading_map.html",
            {
                "tops": tops,
                "height": height,
                "width": WIDTH,
                "pill": PILL,
                "edges": edges,
                "places": places,
                "parts": book["parts"],
                "paths": book["paths"],
            },
        )
        return [nodes.raw("", html, format="html")]

    def uri(self, folder: str, slug: str) -> str | None:
        docname = f"book/{folder}/{slug}"
        if docname not in self.env.found_docs:
            return None
        return self.env.app.builder.get_relative_uri(self.env.docname, docname)


def setup(app):
    app.add_directive("reading-map", ReadingMap)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
