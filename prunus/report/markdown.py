"""Rendering to Markdown: report.md with its figures as SVG and their data as CSV beside it."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from prunus.report import statements
from prunus.report.cells import benefit_cells, difference_cells, layer_cells, main_cells
from prunus.report.figures import FIGURES, svg
from prunus.report.results import Results, read
from prunus.report.tables import records, reference, summarise


def write_report(directory: Path) -> Path:
    """Writes the report of the study in ``directory`` there and returns the path of its Markdown.

    Beside ``report.md``: ``table.csv`` with the main table, and per figure an SVG and a CSV with what it shows. The
    same results give the same bytes. A ValueError where the directory holds no finished run.
    """
    results = read(directory)
    save(directory / "table.csv", csv(summarise(results)))
    for name, (draw, data) in FIGURES.items():
        save(directory / f"{name}.svg", svg(draw, results))
        save(directory / f"{name}.csv", csv(data(results)))
    return save(directory / "report.md", markdown(results))


def save(path: Path, text: str) -> Path:
    """Writes ``text`` as UTF-8 with the same line ends on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def csv(table: pd.DataFrame) -> str:
    """A table as CSV."""
    return table.to_csv(index=False, lineterminator="\n")


def markdown(results: Results) -> str:
    """The whole report as Markdown text."""
    # a report is text, not a web page: escaping would turn ' and > into entities
    environment = Environment(
        loader=PackageLoader("prunus.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["table"] = pipe_table
    return environment.get_template("report.md.j2").render(
        results=results,
        statements=statements,
        reference=reference(results.runs),
        main=main_cells(results),
        differences=difference_cells(results),
        benefits=benefit_cells(results),
        layers=layer_cells(results),
        versions=versions(results),
    )


def pipe_table(table: pd.DataFrame) -> str:
    """A data frame of text as a Markdown table; a sparsity is named once, on the first row of its group."""
    if "requested" in table:
        first = table["requested"] != table["requested"].shift()
        table = table.assign(requested=("**" + table["requested"] + "**").where(first, ""))
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def versions(results: Results) -> list[str]:
    """What the runs were made with, a line per distinct combination of versions, device and precision."""
    made: list[Mapping[str, str]] = [
        {**row["versions"], "device": row["device"], "precision": row["precision"]} for row in records(results.runs)
    ]
    return sorted({", ".join(f"{name} {value}" for name, value in row.items()) for row in made})
