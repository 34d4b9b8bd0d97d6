"""Figures that follow the page between light and dark, and figures a reader can scrub.

The only module of the library that imports matplotlib. A page calls :func:`setup` once; every
figure is then stored as SVG with a dark variant. :class:`Scrub` turns one figure with many frames
into a slider with a play button, without any plotting library in the browser.
"""

import hashlib
import html
import io
import json
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from einops import rearrange
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

INK, SOFT, GRID = "#111213", "#515253", "#d1d2d3"
BLUE, ORANGE, GREEN, PURPLE, OLIVE = "#0b62a8", "#b4450b", "#12705a", "#8a3b8f", "#7a6200"
DARK = {
    INK: "#dcdee3", SOFT: "#a3a9b5", GRID: "#333a45", BLUE: "#6db8f2", ORANGE: "#f2a36d",
    GREEN: "#5fcfae", PURPLE: "#d99ae0", OLIVE: "#d9c25a",
}  # fmt: skip
STYLE = {
    "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, OLIVE]),
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": SOFT,
    "xtick.color": SOFT, "ytick.color": SOFT, "grid.color": GRID,
    "axes.grid": True, "grid.linewidth": 0.7, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
    "legend.frameon": False, "font.size": 10.5, "lines.linewidth": 1.9,
    "figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True,
    "svg.hashsalt": "notes", "svg.fonttype": "path", "image.interpolation": "none",
}  # fmt: skip


def setup() -> None:
    """Set the book's style and, in a notebook, show every figure through :func:`svg`."""
    mpl.rcParams.update(STYLE)
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def svg(fig: Figure) -> str:
    """Return `fig` as SVG text whose ``<style>`` swaps the palette on a dark page."""
    text = _savefig(fig)
    rules = "".join(
        f'[style*="fill: {light}"]{{fill:{dark}!important}}'
        f'[style*="stroke: {light}"]{{stroke:{dark}!important}}'
        for light, dark in DARK.items()
    )
    head, defs, tail = text.partition("<defs>")
    return f"{head}<style>@media (prefers-color-scheme: dark){{{rules}}}</style>{defs}{tail}"


def _savefig(fig: Figure) -> str:
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def montage(images: Tensor, columns: int, pad: int = 1) -> np.ndarray:
    """Tile grey images (n, 1, h, w) in [-1, 1] into one array in [0, 1], row by row.

    Gaps and unfilled tiles are NaN, hence transparent. Values outside [-1, 1] are clipped, as a
    screen would.
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images need shape (n, 1, h, w), got {tuple(images.shape)}")
    tiles = ((images.detach().clamp(-1, 1) + 1) / 2).squeeze(1).double().numpy()
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (pad, 0), (pad, 0)), constant_values=np.nan)
    return rearrange(tiles, "(r c) h w -> (r h) (c w)", c=columns)[pad:, pad:]


def show_images(ax: Axes, images: Tensor, columns: int) -> AxesImage:
    """Draw grey images (n, 1, h, w) in [-1, 1] on bare axes, `columns` to a row."""
    ax.set_axis_off()
    return ax.imshow(montage(images, columns), cmap="gray", vmin=0, vmax=1)


class Scrub:
    """One figure, many frames: a slider and a play button over groups of one inline SVG.

    Args:
        fig: the figure, holding everything that stays and the artists of all frames.
        frames: for each frame the artists seen in it alone.
        labels: the words shown beside the slider, one a frame.
        alt: what a person would see; read out by screen readers.
        poster: the frame shown before anyone touches the slider (and in print).
        period: seconds a frame stays while playing.

    Raises:
        ValueError: no frame, labels that do not match, or a poster that does not exist.
    """

    def __init__(
        self,
        fig: Figure,
        frames: Sequence[Sequence[Artist]],
        labels: Sequence[str],
        alt: str,
        poster: int = 0,
        period: float = 0.2,
    ) -> None:
        if not 0 < len(frames) == len(labels):
            raise ValueError(f"need one label a frame, got {len(frames)} and {len(labels)}")
        if not 0 <= poster < len(frames):
            raise ValueError(f"poster must be in 0..{len(frames) - 1}, got {poster}")
        self.labels, self.alt, self.poster, self.period = list(labels), alt, poster, period
        for i, artists in enumerate(frames):
            for j, artist in enumerate(artists):
                artist.set_gid(f"frame-{i}-{j}")
        self.svg = _inline(_savefig(fig), alt, poster)

    def _repr_html_(self) -> str:
        name = html.escape(self.alt, quote=True)
        labels = html.escape(json.dumps(self.labels), quote=True)
        return (
            f'<div class="scrub" data-labels="{labels}">{self.svg}<div class="scrub-bar">'
            f'<button type="button" aria-label="Play" onclick="{_play(self.period)}">▶</button>'
            f'<input type="range" min="0" max="{len(self.labels) - 1}" value="{self.poster}" '
            f'aria-label="Frame of: {name}" oninput="{_SHOW}">'
            f"<output>{html.escape(self.labels[self.poster])}</output></div></div>"
        )


_SHOW = (
    "const r=this.closest('.scrub'),l=JSON.parse(r.dataset.labels)[this.value];"
    "r.querySelectorAll('.frame').forEach(g=>"
    "g.style.display=g.dataset.frame===this.value?'':'none');"
    "r.querySelector('output').textContent=l;this.setAttribute('aria-valuetext',l)"
)


def _play(period: float) -> str:
    return (
        "const b=this,r=b.closest('.scrub'),s=r.querySelector('input');"
        "const on=!r.timer;b.textContent=on?'❚❚':'▶';b.ariaLabel=on?'Pause':'Play';"
        "clearInterval(r.timer);r.timer=on?setInterval(()=>{"
        "s.value=(+s.value+1)%(+s.max+1);s.oninput()},"
        f"{round(1000 * period)}):0"
    )


def _inline(text: str, alt: str, poster: int) -> str:
    """Make a saved SVG fit to stand inside a page: frames as classes, ids unique or gone."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    prefix = "s" + hashlib.sha256(text.encode()).hexdigest()[:8]
    for node in root.iter():
        name = node.attrib.pop("id", "")
        if name in used:
            node.set("id", f"{prefix}-{name}")
        if frame := re.fullmatch(r"frame-(\d+)-\d+", name):
            node.set("class", "frame")
            node.set("data-frame", frame[1])
            if int(frame[1]) != poster:
                node.set("style", "display:none")
    root.set("role", "img")
    root.set("aria-label", alt)
    for tag in root.findall("{http://www.w3.org/2000/svg}metadata"):
        root.remove(tag)
    body = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", body)
