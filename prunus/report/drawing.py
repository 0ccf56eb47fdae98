"""Drawing: a plot is a few small panels as SVG, so that a page can set them side by side or below each other."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple
from xml.sax.saxutils import escape

import pandas as pd
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunus.report import swatches
from prunus.report.palette import INK, STYLE

HOVER = "hover:"  # an artist whose gid begins so shows the rest of it under the mouse
STROKES = 'style="stroke-linejoin: round; stroke-linecap: butt"'
PAGE = 1080.0  # the width in points at which panels of a file begin a new row


class Space(NamedTuple):
    """The inches around axes that their labels need."""

    left: float = 0.42
    bottom: float = 0.42
    right: float = 0.1
    top: float = 0.26


@dataclass(frozen=True)
class Panel:
    """What ``draw`` puts on axes in a figure of this size in inches; drawn when its SVG is asked for.

    The ``space`` is given, because to let matplotlib find it takes longer than all else.
    """

    inches: tuple[float, float]
    draw: Callable[[Axes], None]
    space: Space = field(default_factory=Space)

    @property
    def width(self) -> float:
        """In points."""
        return 72 * self.inches[0]

    @property
    def height(self) -> float:
        """In points."""
        return 72 * self.inches[1]

    @cached_property
    def svg(self) -> str:
        """An SVG element without width and height.

        The same bytes for the same drawing, whatever the user's matplotlib settings and the date.
        """
        text = io.StringIO()
        with rc_context():
            rcdefaults()
            rcParams.update(STYLE)
            figure = Figure(figsize=self.inches)
            self.draw(figure.add_axes(self._place()))
            figure.savefig(text, format="svg", metadata={"Date": None})
        return tidy(text.getvalue())

    def _place(self) -> tuple[float, float, float, float]:
        width, height = self.inches
        left, bottom, right, top = self.space
        return left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height


@dataclass(frozen=True)
class Plot:
    """Panels, the keys to their colours (label to SVG), what they show in words and as numbers.

    ``name`` is that of its files.
    """

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    panels: Sequence[Panel]
    keys: Mapping[str, str] = field(default_factory=dict)


def tidy(svg: str) -> str:
    """The element alone: no prologue, no metadata, hundredths of a point, hover texts as titles."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # its style sheet would hold for the whole page
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf"<svg \1 {STROKES}>", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), svg)
    svg = re.sub(rf'<g id="{HOVER}([^"]*)">', r"<g><title>\1</title>", svg)
    # of the names that matplotlib gives, only those of shapes used elsewhere are needed
    return re.sub(r' id="[\w.]*_\d+"', "", svg).strip()


def named(panel: Panel, prefix: str) -> str:
    """The panel's SVG with its ids under ``prefix``: many panels share a page."""
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", panel.svg)
    return svg.replace("xlink:href", "href")


def composed(plot: Plot) -> str:
    """The plot as an SVG file of its own: its panels in rows on white, their keys below."""
    places, top, width = flow([(part.width, part.height) for part in plot.panels], PAGE, 8.0)
    placed = [
        placed_at(*place, named(part, f"p{number}"), part.width, part.height)
        for number, (place, part) in enumerate(zip(places, plot.panels, strict=True))
    ]
    width = max(width, 360.0)
    lengths = [(swatches.WIDTH + 14 + 5.6 * len(label), 16.0) for label in plot.keys]
    places, height, _ = flow(lengths, width, top + 4)
    for (left, y), (label, key) in zip(places, plot.keys.items(), strict=True):
        placed += [placed_at(left, y + 8 - swatches.HEIGHT / 2, key, swatches.WIDTH, swatches.HEIGHT)]
        placed += [words(left + swatches.WIDTH + 4, y + 11, label)]
    height += 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}pt"'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([f'{head} height="{height:g}pt">', ground, *placed, "</svg>\n"])


def flow(
    sizes: Sequence[tuple[float, float]], most: float, top: float
) -> tuple[list[tuple[float, float]], float, float]:
    """Places (left, top) of boxes in rows at most so wide, from ``top`` down; where they end, and the width used."""
    places: list[tuple[float, float]] = []
    left = used = high = 0.0
    for width, height in sizes:
        if left and left + width > most:
            left, top, high = 0.0, top + high, 0.0
        places.append((left + 8, top))
        left, high = left + width, max(high, height)
        used = max(used, left)
    return places, top + high, used + 16


def placed_at(left: float, top: float, svg: str, width: float, height: float) -> str:
    """An SVG element at a place of another."""
    return svg.replace("<svg ", f'<svg x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" ', 1)


def words(left: float, top: float, text: str) -> str:
    """A line of text in an SVG."""
    return f'<text x="{left:g}" y="{top:g}" style="font: 9px sans-serif; fill: {INK}">{escape(text)}</text>'
