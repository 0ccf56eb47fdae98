"""Rendering a steps-to-result study to the terminal: fits, ratios to dense, what they say, and what needs attention."""

from pathlib import Path

from rich.console import Console

from prunus.report.scaling_attention import unfinished, warnings
from prunus.report.scaling_claims import claim_cells
from prunus.report.scaling_results import read_scaling
from prunus.report.scaling_tables import fit_cells, ratio_cells
from prunus.report.scaling_wording import sentences
from prunus.report.text_table import rich_table


def print_findings(directory: Path, console: Console) -> None:
    """Prints the fits and ratios of the study in ``directory``, a sentence on each, and the paper's findings."""
    results = read_scaling(directory)
    fits, ratios = fit_cells(results), ratio_cells(results)
    if len(fits):
        console.print(
            rich_table(fits.drop(columns=["sharpness p", "spread of log K"]), f"{results.study}: steps to the goal")
        )
    if len(ratios):
        console.print(rich_table(ratios, "Over dense"))
    console.print(rich_table(claim_cells(results), "The findings of Lee et al. 2021"))
    for sentence in sentences(results):
        console.print(sentence, markup=False, highlight=False)
    for warning in [*warnings(results), *(f"UNFINISHED: {cells}" for cells in unfinished(results))]:
        console.print(warning, style="bold yellow", markup=False)
