"""The budget of training: epochs and operations, those of the dense training before it included."""

from collections.abc import Mapping

import pandas as pd

from prunus.report import wording
from prunus.report.blocks import Block, Table, Text
from prunus.report.cells import Row
from prunus.report.results import Results
from prunus.report.tables import CELL, mean, records, sd

SPENT = [
    *("epochs", "pretraining_epochs", "all_epochs", "all_steps", "training_macs", "training_macs_dense", "all_macs"),
    *("all_macs_dense", "all_seconds"),
]


LEAD = (
    "The budget: steps and epochs in all include the dense training that a run began from. The multiply-accumulates "
    "(MACs) of training are counted in theory, forward and backward, by the sparsity on the way, and set beside those "
    "of a dense training of the same steps."
)


def budget_blocks(results: Results, keys: Mapping[str, str]) -> list[Block]:
    """The table of budgets; nothing where no result counts them."""
    table = spent(results)
    return [Text(LEAD), Table(budget_cells(results), "budget", table, keys)] if len(table) else []


def spent(results: Results) -> pd.DataFrame:
    """A row per sparsity and method: what training took, means over seeds; no rows where no result counts it.

    ``all_`` includes the dense training that a run began from. ``training_macs`` are multiply-accumulates by the
    sparsity that the network had on the way, ``_dense`` those of a dense training of the same steps.
    """
    runs = results.runs
    if runs["pretraining"].isna().all() and runs["training_macs"].isna().all():
        return pd.DataFrame(columns=[*CELL, "n", *SPENT])
    macs = runs.set_index("run")["training_macs"]
    before = runs["pretraining"].map(macs).where(runs["pretraining"].notna(), 0.0)
    rows = runs.assign(
        all_epochs=runs["epochs"] + runs["pretraining_epochs"],
        all_steps=runs["steps"] + runs["pretraining_steps"],
        all_macs=runs["training_macs"] + before,
        all_macs_dense=runs["training_macs_dense"] + before,
        all_seconds=runs["train_seconds"] + runs["pretraining_seconds"],
    )
    cells = rows.groupby(CELL, sort=False, dropna=False)
    seconds = cells["all_seconds"].agg(sd).rename("all_seconds_sd")
    return pd.concat([cells.size().rename("n"), cells[SPENT].agg(mean), seconds], axis=1).reset_index()


def budget_cells(results: Results) -> pd.DataFrame:
    """The table of budgets."""
    return pd.DataFrame([budget_row(row) for row in records(spent(results))])


def budget_row(row: Row) -> dict[str, str]:
    """One method at one sparsity."""
    begun = row["pretraining_epochs"] > 0
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "method": row["method"],
        "epochs": wording.count(row["epochs"]),
        "dense epochs before": wording.count(row["pretraining_epochs"]) if begun else "",
        "epochs in all": wording.count(row["all_epochs"]),
        "steps in all": f"{row['all_steps']:,.0f}",
        "MACs of training": relative(row["training_macs"], row["training_macs_dense"]),
        "MACs in all": relative(row["all_macs"], row["all_macs_dense"]),
        "training in all, s": wording.sample(row["all_seconds"], row["all_seconds_sd"], row["n"]),
    }


def relative(macs: float, dense: float) -> str:
    """'1.23 G (45.0 % of dense)'."""
    return "not counted" if pd.isna(macs) else f"{wording.count(macs)} ({wording.percent(macs / dense, 1)} % of dense)"
