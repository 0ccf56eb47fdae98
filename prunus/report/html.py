"""Rendering to HTML: one file that needs no other, loads nothing and runs no script."""

import base64
import re
from collections.abc import Iterator, Sequence
from functools import singledispatch

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from prunus.report.blocks import Block, Code, Document, Folded, Items, Table, Text, csv
from prunus.report.drawing import Panel, Plot, named
from prunus.report.palette import ON_DARK

PIXELS = 4 / 3  # in a point


def html(document: Document) -> str:
    """The whole report."""
    environment = Environment(
        loader=PackageLoader("prunus.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"prose": prose, "block": block, "anchor": anchor}
    page = environment.get_template("report.html.j2")
    return page.render(document=document, colours=ON_DARK)


def anchor(title: str, above: str = "") -> str:
    """The name of a section in links."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return f"{above}-{name}" if above else name


def prose(text: str) -> Markup:
    """Text with its `names` as code and **what matters** in bold."""
    coded = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*([^*]*)\*\*", r"<b>\1</b>", coded))


@singledispatch
def block(content: Block) -> Markup:
    """A block as HTML."""
    raise TypeError(f"a block of a report has a rendering to HTML, got {type(content).__name__} without one")


@block.register
def _(content: Text) -> Markup:
    return Markup("<p>{}</p>").format(prose(content.text))


@block.register
def _(content: Items) -> Markup:
    # a warning begins in capitals
    texts = [re.sub(r"^[A-Z ]{4,}(?=[ :])", r"**\g<0>**", item) if content.loud else item for item in content.items]
    items = Markup("\n").join(Markup("<li>{}</li>").format(prose(text)) for text in texts)
    return Markup('<ul class="{}">\n{}\n</ul>').format("loud" if content.loud else "plain", items)


@block.register
def _(content: Code) -> Markup:
    return Markup('<pre class="scroll" tabindex="0"><code>{}</code></pre>').format(content.text)


@block.register
def _(content: Folded) -> Markup:
    return Markup("<details>\n<summary>{}</summary>\n{}\n</details>").format(content.summary, block(content.content))


@block.register
def _(content: Table) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in shown(content.cells))
    bodies = Markup("\n").join(body(rows, content) for rows in groups(content.cells))
    table = Markup('<div class="scroll" tabindex="0"><table>\n<thead><tr>{}</tr></thead>\n{}\n</table></div>')
    link = Markup('<p class="file">{}</p>').format(download(content.name, content.data)) if content.name else ""
    return table.format(head, bodies) + link


def shown(cells: pd.DataFrame) -> list[str]:
    """The columns but the one that groups the rows."""
    return [name for name in cells.columns if name != "requested"]


def groups(cells: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Neighbouring rows of the same requested sparsity."""
    if "requested" not in cells:
        yield cells
        return
    starts = (cells["requested"] != cells["requested"].shift()).cumsum()
    yield from (rows for _, rows in cells.groupby(starts, sort=False))


def body(rows: pd.DataFrame, table: Table) -> Markup:
    """The rows of one requested sparsity, below a line that names it."""
    names = shown(rows)
    lines = [line(values, table) for values in rows[names].astype(str).to_numpy().tolist()]
    if "requested" in rows:
        group = Markup('<tr class="group"><th scope="rowgroup" colspan="{}"><span>{} sparsity</span></th></tr>')
        lines.insert(0, group.format(len(names), rows["requested"].iloc[0]))
    return Markup("<tbody>\n{}\n</tbody>").format(Markup("\n").join(lines))


def line(values: Sequence[str], table: Table) -> Markup:
    """A row: its first cell names it, with its colour in the figures."""
    first, *others = values
    key = swatch(table.keys.get(first, "")) if table.keys else ""
    cells = Markup("").join(Markup("<td>{}</td>").format(cell(value)) for value in others)
    return Markup('<tr><th scope="row">{}{}</th>{}</tr>').format(key, first, cells)


def cell(text: str) -> Markup:
    """A number, and what is said about it in smaller type: '0.99×' and '(0.98 to 1.05), no gain'."""
    number, space, about = text.partition(" (")
    if not space:
        number, space, about = text.partition(", ")
        return Markup("{} <small>{}</small>").format(prose(number), about) if space else prose(text)
    return Markup("{} <small>({}</small>").format(prose(number), about)


@block.register
def _(content: Plot) -> Markup:
    if not content.panels:
        return Markup("<p>{}: nothing to show.</p>").format(content.title)
    panels = Markup("\n").join(framed(part, f"{content.name}-{n}") for n, part in enumerate(content.panels))
    keys = Markup("").join(Markup("<li>{}{}</li>").format(swatch(key), label) for label, key in content.keys.items())
    legend = Markup('<ul class="keys">{}</ul>\n').format(keys) if keys else ""
    caption = Markup("<figcaption><b>{}.</b> {} {}</figcaption>").format(
        content.title, prose(content.caption), download(content.name, content.data)
    )
    figure = Markup('<figure id="figure-{}">\n<div class="panels">\n{}\n</div>\n{}{}\n</figure>')
    return figure.format(anchor(content.name), panels, legend, caption)


def framed(part: Panel, prefix: str) -> Markup:
    """A panel in a frame that scrolls where the page is too narrow for it."""
    width = part.width * PIXELS
    frame = Markup('<div class="panel" style="--width: {:.0f}px"><div>{}</div></div>')
    return frame.format(width, inline(part, prefix))


def inline(part: Panel, prefix: str) -> Markup:
    """A panel's SVG as a part of the page."""
    return themed(named(part, anchor(prefix)))


def swatch(svg: str) -> Markup:
    """The key to a colour."""
    return Markup('<i class="key">{}</i>').format(themed(svg))


def themed(svg: str) -> Markup:
    """An SVG whose colours follow the page's theme."""
    return Markup(re.sub("|".join(ON_DARK), lambda colour: f"var(--{colour[0][1:]})", svg))


def download(name: str, data: pd.DataFrame) -> Markup:
    """A link that holds a table as CSV."""
    content = base64.b64encode(csv(data).encode()).decode()
    link = '<a class="file" download="{0}.csv" href="data:text/csv;charset=utf-8;base64,{1}">{0}.csv</a>'
    return Markup(link).format(name, content)
