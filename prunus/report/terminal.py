"""Rendering to the terminal: the main table in three parts, and what needs attention."""

from pathlib import Path

import pandas as pd
from rich.console import Console

from prunus.report import attention
from prunus.report.anytime import COST, anytime_cells
from prunus.report.cells import SIZE, SPEED, main_cells
from prunus.report.results import read
from prunus.report.retraining import retraining_cells
from prunus.report.scaling_results import is_scaling
from prunus.report.scaling_terminal import print_findings
from prunus.report.text_table import rich_table


def print_table(directory: Path, console: Console) -> None:
    """Prints the main table of the study in ``directory``, as scores, size and speed, then others and warnings.

    Of a steps-to-result study its findings, see `print_findings`.
    """
    if is_scaling(directory):
        print_findings(directory, console)
        return
    results = read(directory)
    cells = main_cells(results)
    # in three parts: all columns at once do not fit a terminal
    console.print(rich_table(cells.drop(columns=SIZE + SPEED), results.study))
    console.print(rich_table(cells[["requested", "method", *SIZE]], "Size"))
    console.print(rich_table(cells[["requested", "method", *SPEED]], "Speed"))
    retrained = retraining_cells(results)
    if len(retrained):
        console.print(rich_table(unmarked(retrained), "Retraining, in % of dense training: test accuracy, %"))
    if len(results.streams):
        streamed = anytime_cells(results)
        console.print(rich_table(streamed.drop(columns=COST), "Anytime, over the megabatches of a stream"))
        console.print(rich_table(streamed[["requested", "method", *COST]], "What the stream cost"))
    for warning in attention.warnings(results):
        console.print(warning, style="bold red", markup=False)
    for run in attention.unfinished(results):
        console.print(f"UNFINISHED: {run}", style="bold yellow", markup=False)


def unmarked(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells without the marks of what is bold elsewhere."""
    return cells.replace(r"\*\*", "", regex=True)
