"""The keys to a plot's colours, as small SVG elements."""

from collections.abc import Mapping

from prunus.report.palette import Line, Look

WIDTH, HEIGHT = 26.0, 10.0  # in points
# around the middle (13, 5), as matplotlib draws them
MARKERS: Mapping[str, str] = {
    "": "",
    "o": "M10 5a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "s": "M10.3 2.3h5.4v5.4h-5.4z",
    "^": "M13 2L16 8H10z",
    "v": "M13 8L16 2H10z",
    "D": "M13 1.2L16.8 5L13 8.8L9.2 5z",
    "P": "M12 2h2v2h2v2h-2v2h-2v-2h-2v-2h2z",
    "*": "M13 .4L14.2 3.6L17.6 3.7L14.9 5.8L15.8 9L13 7.1L10.2 9L11.1 5.8L8.4 3.7L11.8 3.6z",
    "X": "M11.5 2L13 3.5L14.5 2L16 3.5L14.5 5L16 6.5L14.5 8L13 6.5L11.5 8L10 6.5L11.5 5L10 3.5z",
}
DASHES: Mapping[Line, str] = {"-": "", "--": "5 2", "-.": "6 2 1.4 2", ":": "1.4 2"}


def swatch(look: Look) -> str:
    """A piece of a method's line with its marker."""
    line = f"fill: none; stroke: {look.colour}; stroke-width: 1.4; stroke-dasharray: {DASHES[look.line] or 'none'}"
    mark = f'<path d="{MARKERS[look.marker]}" style="fill: {look.colour}"/>' if look.marker else ""
    return f'<svg viewBox="0 0 26 10"><path d="M1 5H25" style="{line}"/>{mark}</svg>'


def square(colour: str) -> str:
    """A square of one colour."""
    return f'<svg viewBox="0 0 26 10"><path d="M15 0h10v10h-10z" style="fill: {colour}"/></svg>'


def ring(colour: str) -> str:
    """A hollow dot."""
    return f'<svg viewBox="0 0 26 10"><circle cx="20" cy="5" r="3" style="fill: none; stroke: {colour}"/></svg>'


def mark(marker: str, colour: str, *, hollow: bool = False) -> str:
    """A marker alone."""
    style = f"fill: none; stroke: {colour}; stroke-width: 1.1" if hollow else f"fill: {colour}"
    return f'<svg viewBox="0 0 26 10"><path d="{MARKERS[marker]}" style="{style}"/></svg>'
