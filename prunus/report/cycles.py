"""Cycles: what each pruning took and each retraining brought back, on validation data."""

import math
from collections.abc import Mapping
from functools import lru_cache

import pandas as pd

from prunus.report import wording
from prunus.report.blocks import Block, Table, Text
from prunus.report.cells import Row
from prunus.report.drawing import Plot
from prunus.report.results import Results
from prunus.report.rows import STAGES
from prunus.report.tables import CELL, mean, records, sd

LOST = ["lost_pruned", "lost_retrained"]
TITLES = {
    "trained": "before pruning, %",
    "pruned": "after pruning, %",
    "recalibrated": "after recalibration, %",
    "retrained": "after retraining, %",
}


LEAD = (
    "Accuracy on validation data, mean ± sd over seeds, before each pruning, right after it, and at the end of the "
    "retraining that follows. The share removed is of the weights that were alive; the relative drop is the "
    "norm of what was removed over that of the whole before."
)
RECALIBRATED = (
    "At the end of training the statistics of BatchNorm were estimated anew on training data; validation accuracy "
    "before and after, mean ± sd over seeds."
)


def cycle_blocks(results: Results, plot: Plot, keys: Mapping[str, str]) -> list[Block]:
    """The table and the plot of cycles, then what recalibration changed at the end; nothing where neither was done."""
    blocks: list[Block] = []
    if len(results.cycles):
        blocks += [Text(LEAD), Table(cycle_cells(results), "cycles", cycle_means(results), keys), plot]
    recalibrated = recalibrations(results)
    if len(recalibrated):
        blocks += [Text(RECALIBRATED), Table(recalibration_cells(results), "recalibration", recalibrated, keys)]
    return blocks


@lru_cache(maxsize=8)
def cycle_means(results: Results) -> pd.DataFrame:
    """A row per sparsity, method and cycle: n, means over seeds, and ``_sd`` beside accuracies, as fractions.

    ``lost_pruned`` and ``lost_retrained`` are the accuracy before the first pruning less that after this one, and less
    that after the retraining that follows it.
    """
    rows = results.cycles
    before = rows["run"].map(rows[rows["cycle"] == 1].set_index("run")["trained"])
    rows = rows.assign(lost_pruned=before - rows["pruned"], lost_retrained=before - rows["retrained"])
    cells = rows.groupby([*CELL, "cycle"], sort=False, dropna=False)
    told = ["realised_sparsity", "fraction", "drop", "peak", "length"]
    means, deviations = cells[[*told, *STAGES, *LOST]].agg(mean), cells[[*STAGES, *LOST]].agg(sd).add_suffix("_sd")
    return pd.concat([cells.size().rename("n"), means, deviations], axis=1).reset_index()


def cycle_cells(results: Results) -> pd.DataFrame:
    """The table of cycles; the column of recalibration only where some network was recalibrated."""
    table = cycle_means(results)
    stages = [stage for stage in STAGES if table[stage].notna().any()]
    return pd.DataFrame([cycle_row(row, stages) for row in records(table)])


def cycle_row(row: Row, stages: list[str]) -> dict[str, str]:
    """One cycle of one method at one sparsity."""
    reached = {TITLES[stage]: wording.spread(100 * row[stage], 100 * row[f"{stage}_sd"], row["n"]) for stage in stages}
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "cycle": f"{row['cycle']}",
        "seeds": f"{row['n']}",
        "sparsity after": f"{wording.zeros(row['realised_sparsity'])} %",
        "share removed": f"{wording.percent(row['fraction'])} %",
        "relative drop": f"{row['drop']:.3f}",
        **{title: "" if text.startswith("nan") else text for title, text in reached.items()},
        "steps of retraining": f"{row['length']:,.0f}",
        "peak rate": "" if math.isnan(row["peak"]) else f"{row['peak']:.3g}",
    }


def recalibrations(results: Results) -> pd.DataFrame:
    """A row per sparsity and method that ended with BatchNorm recalibrated: batches, accuracy before, after, gained."""
    runs = results.runs[results.runs["recalibration_batches"].notna()]
    named = {f"recalibration_{key}": key for key in ("batches", "before", "after")}
    rows = runs[[*CELL, *named]].rename(columns=named)
    rows = rows.assign(gained=rows["after"] - rows["before"])
    cells = rows.groupby(CELL, sort=False, dropna=False)
    measured = ["before", "after", "gained"]
    means, deviations = cells[["batches", *measured]].agg(mean), cells[measured].agg(sd).add_suffix("_sd")
    return pd.concat([cells.size().rename("n"), means, deviations], axis=1).reset_index()


def recalibration_cells(results: Results) -> pd.DataFrame:
    """The table of recalibrations at the end of training."""
    return pd.DataFrame([recalibration_row(row) for row in records(recalibrations(results))])


def recalibration_row(row: Row) -> dict[str, str]:
    """One method at one sparsity."""
    reached = {
        f"{key} recalibration, %": wording.sample(100 * row[key], 100 * row[f"{key}_sd"], row["n"])
        for key in ("before", "after")
    }
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "batches": f"{row['batches']:,.0f}",
        **reached,
        "gained, points": wording.points(row["gained"], row["gained_sd"], row["n"]),
    }
