"""Rendering to Markdown."""

from functools import singledispatch

import pandas as pd

from prunus.report.blocks import Block, Code, Document, Folded, Items, Section, Table, Text
from prunus.report.drawing import Plot


def markdown(document: Document) -> str:
    """The whole report; plots and numbers are files beside it."""
    top = [f"# Report: {document.title}", document.answer, *map(block, document.blocks)]
    return "\n\n".join([*top, *(text for part in document.sections for text in section(part, 2))]) + "\n"


def section(part: Section, level: int) -> list[str]:
    """A section with those inside it."""
    inside = [text for inner in part.parts for text in section(inner, level + 1)]
    return [f"{'#' * level} {part.title}", *map(block, part.blocks), *inside]


@singledispatch
def block(content: Block) -> str:
    """A block as Markdown."""
    raise TypeError(f"a block of a report has a rendering to Markdown, got {type(content).__name__} without one")


@block.register
def _(content: Text) -> str:
    return content.text


@block.register
def _(content: Items) -> str:
    mark = "**" if content.loud else ""
    return "\n".join(f"- {mark}{item}{mark}" for item in content.items)


@block.register
def _(content: Table) -> str:
    data = f"\n\nAs numbers: [{content.name}.csv]({content.name}.csv)." if content.name else ""
    return pipe_table(content.cells) + data


@block.register
def _(content: Folded) -> str:
    return f"<details>\n<summary>{content.summary}</summary>\n\n{block(content.content)}\n\n</details>"


@block.register
def _(content: Code) -> str:
    return f"```{content.language}\n{content.text}\n```"


@block.register
def _(content: Plot) -> str:
    if not content.panels:
        return f"{content.title}: nothing to show."
    return f"![{content.title}]({content.name}.svg)\n\n{content.caption} ([data]({content.name}.csv))"


def pipe_table(table: pd.DataFrame) -> str:
    """A data frame of text as a Markdown table; a sparsity is named once, on the first row of its group."""
    if "requested" in table:
        first = table["requested"] != table["requested"].shift()
        table = table.assign(requested=("**" + table["requested"] + "**").where(first, ""))
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
