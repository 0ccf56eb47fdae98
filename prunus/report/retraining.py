"""Retraining: what each schedule reached with each budget, as numbers, as a table and in words."""

from collections.abc import Mapping
from functools import lru_cache

import pandas as pd

from prunus.report import wording
from prunus.report.blocks import Block, Items, Table, Text
from prunus.report.cells import Row
from prunus.report.drawing import Plot
from prunus.report.results import Results
from prunus.report.statements import judged, overlap, overlapping, ranking
from prunus.report.tables import CELL, records

LEAD = (
    "Test accuracy in %, mean ± sd over seeds, of networks that were trained dense, pruned and retrained, a column per "
    "length of retraining in % of the dense training (and in epochs). Bold: in each column the highest mean at a "
    "sparsity, and those whose mean ± sd overlaps it."
)
ORDER = "The order of the means, with ≈ between neighbours whose mean ± sd overlaps and > between others:"
COLUMNS = [*CELL, "variant", "budget", "n", "accuracy", "accuracy_sd", "realised_sparsity", "missed"]


def retraining_blocks(results: Results, plot: Plot, keys: Mapping[str, str]) -> list[Block]:
    """The table of methods by budgets, their order in words, and the plot where there are several budgets."""
    table = retrained(results)
    if table.empty:
        return []
    cells = Table(retraining_cells(results), "retraining", table, keys)
    blocks: list[Block] = [Text(LEAD), cells, Text(ORDER), Items(orders(results))]
    return [*blocks, plot] if table["steps"].nunique() > 1 else blocks


@lru_cache(maxsize=8)
def retrained(results: Results) -> pd.DataFrame:
    """The main table's rows of methods that began from dense training, with the length of their retraining.

    ``share`` is its steps over those of the dense training. No rows where there is nothing to compare: neither several
    methods nor several lengths.
    """
    runs = results.runs[results.runs["pretraining"].notna()]
    cells = runs.assign(share=runs["steps"] / runs["pretraining_steps"]).groupby(CELL, dropna=False)
    table = judged(results)[COLUMNS].merge(cells[["steps", "epochs", "share"]].first().reset_index(), on=CELL)
    several = table["variant"].nunique() > 1 or table["steps"].nunique() > 1
    return table if several else table.iloc[:0]


def lengths(results: Results) -> pd.DataFrame:
    """The lengths of retraining, the shortest first: ``steps``, ``epochs`` and ``share``."""
    return retrained(results)[["steps", "epochs", "share"]].drop_duplicates("steps").sort_values("steps")


def retraining_cells(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and method, a column per length of retraining; the leaders of each in bold."""
    table = retrained(results).sort_values(["requested_sparsity", "variant", "steps"])
    leading = {place for cells in standings(results) for place in leaders(cells)}
    titles = {row["steps"]: length(row["share"], row["epochs"]) for row in records(lengths(results))}
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in records(table):
        start = {"requested": wording.sparsity(row["requested_sparsity"]), "method": row["variant"]}
        cells = rows.setdefault((start["requested"], start["method"]), start)
        cells[titles[row["steps"]]] = reached(row, (row["requested_sparsity"], row["method"]) in leading)
    return pd.DataFrame(list(rows.values()), columns=["requested", "method", *titles.values()]).fillna("")


def reached(row: Row, leads: bool) -> str:
    """'**69.56 ± 0.07** (n=3)'."""
    mark = "**" if leads else ""
    return f"{mark}{wording.spread(100 * row['accuracy'], 100 * row['accuracy_sd'], row['n'])}{mark} (n={row['n']})"


def length(share: float, epochs: float) -> str:
    """'2.22 % (2 epochs)'."""
    return f"{100 * share:.3g} % ({wording.epochs(epochs)})"


def standings(results: Results) -> list[pd.DataFrame]:
    """Per requested sparsity and length the methods that met the sparsity, the highest mean accuracy first."""
    found = [ranking(cells) for _, cells in retrained(results).groupby(["requested_sparsity", "steps"], dropna=False)]
    return [cells for cells in found if len(cells)]


def leaders(ranked: pd.DataFrame) -> list[tuple[float, str]]:
    """Requested sparsity and method of the highest mean, and of those whose mean ± sd overlaps it."""
    chosen = ranked[ranked["variant"].isin([ranked.iloc[0]["variant"], *overlapping(ranked)])]
    return list(zip(chosen["requested_sparsity"], chosen["method"], strict=True))


def orders(results: Results) -> list[str]:
    """A sentence per requested sparsity and length: the highest mean, what overlaps it, and the order of the others."""
    return [order(ranked) for ranked in standings(results)]


def order(ranked: pd.DataFrame) -> str:
    """'at 90 % sparsity, 2.2 % (2 epochs): `a` has the highest mean, 69.56 ± 0.07 % (n=3); ... `a` 69.56 > `b`'."""
    best = records(ranked)[0]
    at = f"at {wording.sparsity(best['requested_sparsity'])} sparsity, {length(best['share'], best['epochs'])}"
    accuracy = wording.sample(100 * best["accuracy"], 100 * best["accuracy_sd"], best["n"], " %")
    if len(ranked) == 1:
        return f"{at}: `{best['variant']}` is the only one, {accuracy}."
    lead = f"`{best['variant']}` has the highest mean, {accuracy}{overlap(ranked)}"
    return f"{at}: {lead}. {chain(ranked)}."


def chain(ranked: pd.DataFrame) -> str:
    """The means in order: '`a` 69.56 > `b` 68.90 ≈ `c` 68.72', with commas where one seed tells no spread."""
    text = ""
    for place, row in enumerate(records(ranked)):
        pair = ranked.iloc[max(0, place - 1) : place + 1]
        alike = len(overlapping(pair)) > 0
        sign = ", " if pair["accuracy_sd"].isna().any() else " ≈ " if alike else " > "
        text += f"{sign if place else ''}`{row['variant']}` {wording.percent(row['accuracy'])}"
    return text
