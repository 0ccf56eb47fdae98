"""What the tables say, in sentences: the answer at the top, and how far to trust it."""

import math
from typing import Any

import pandas as pd

from prunus.report import wording
from prunus.report.cells import sparse_variants
from prunus.report.paired import differences
from prunus.report.results import Results
from prunus.report.tables import CELL, benefits, budgets, misses, records, reference, summarise, told_apart


def question(results: Results) -> str:
    """What the study asked, and what dense training reached."""
    runs = results.runs
    asked = wording.listed([wording.sparsity(value) for value in requested(results)])
    methods = wording.listed([f"`{variant}`" for variant in sparse_variants(results)]) or "no sparse method"
    lengths = wording.listed([budget for budget in budgets(results) if budget])
    after = f" after {lengths}" if lengths else ""
    workload = f"{runs['model'].iloc[0]} on {runs['data'].iloc[0]}"
    return (
        f"Asked: how close {methods} at {asked or 'no'} sparsity{after} come to dense training of {workload}, "
        f"{dense_accuracy(results)}."
    )


def requested(results: Results) -> list[float]:
    """The requested sparsities of the sparse methods, ascending, NaN (left open) last."""
    runs = results.runs
    return list(runs.loc[runs["name"] != "dense", "requested_sparsity"].drop_duplicates())


def dense_accuracy(results: Results) -> str:
    """The accuracy of the dense reference, or that there is none."""
    dense = reference(results.runs)
    if dense is None:
        return "of which this study holds no run: distances to dense are unknown"
    row = next(row for row in records(summarise(results)) if row["method"] == dense)
    reached = wording.sample(100 * row["accuracy"], 100 * row["accuracy_sd"], row["n"], " %")
    return f"which reaches a test accuracy of {reached}"


def answers(results: Results) -> list[str]:
    """A clause per requested sparsity and budget: the highest mean accuracy, what overlaps it, how far from dense."""
    gaps = differences(results).set_index(CELL)
    return [answer(cells, gaps) for cells in rivals(results)]


def judged(results: Results) -> pd.DataFrame:
    """The main table of the sparse methods, and whether a method ``missed`` its sparsity."""
    table = summarise(results)
    table = table[table["name"] != "dense"]
    missed = misses(results).set_index(CELL).index
    table = table.assign(missed=[cell in missed for cell in zip(*(table[key] for key in CELL), strict=True)])
    return told_apart(table, results)


def rivals(results: Results) -> list[pd.DataFrame]:
    """The methods that are held against each other: those of one requested sparsity and one budget."""
    table = judged(results)
    order = {budget: place for place, budget in enumerate(budgets(results))}
    table["place"] = table["budget"].map(order)
    return [cells for _, cells in table.groupby(["requested_sparsity", "place"], dropna=False)]


def contenders(results: Results) -> list[pd.DataFrame]:
    """Per requested sparsity and budget the methods that met the sparsity, the highest mean accuracy first."""
    return [ranking(cells) for cells in rivals(results)]


def leaders(results: Results) -> set[tuple[float, str]]:
    """Requested sparsity and method of each highest mean accuracy, and of those whose mean ± sd overlaps it."""
    return {
        (float(cells.iloc[0]["requested_sparsity"]), method)
        for cells in contenders(results)
        if len(cells)
        for method in cells.loc[cells["variant"].isin([cells.iloc[0]["variant"], *overlapping(cells)]), "method"]
    }


def ranking(cells: pd.DataFrame) -> pd.DataFrame:
    """Those that met the requested sparsity, the highest mean accuracy first."""
    return cells[~cells["missed"]].sort_values(["accuracy", "method"], ascending=[False, True])


def answer(cells: pd.DataFrame, gaps: pd.DataFrame) -> str:
    """The clause for one requested sparsity; methods that missed it are named, not ranked."""
    at = f"at {place(cells.iloc[0])}"
    missed = wording.listed([f"`{variant}`" for variant in cells.loc[cells["missed"], "variant"]])
    aside = f" (not ranked, sparsity missed: {missed})" if missed else ""
    ranked = ranking(cells)
    if ranked.empty:
        return f"{at}, no method met the requested sparsity{aside}"
    best = ranked.iloc[0]
    reached = wording.sample(100 * best["accuracy"], 100 * best["accuracy_sd"], best["n"], " %")
    lead = "is the only one" if len(ranked) == 1 else "has the highest mean"
    cell = (best["requested_sparsity"], best["method"])
    gap = f", {distance(gaps.loc[cell])}" if cell in gaps.index else ""
    return f"{at}, `{best['variant']}` {lead}: {reached}{gap}{overlap(ranked)}{aside}"


def place(row: "pd.Series[Any]") -> str:
    """'90 %', or '90 % after 2.5 epochs' where the study gives several budgets."""
    after = f" after {row['budget']}" if row["budget"] else ""
    return f"{wording.sparsity(row['requested_sparsity'])}{after}"


def distance(gap: "pd.Series[float]") -> str:
    """'0.52 ± 0.21 points below dense (5 common seeds)'."""
    n = int(gap["n"])
    side = "below" if gap["difference"] < 0 else "above" if gap["difference"] > 0 else "from"
    size = wording.spread(100 * abs(gap["difference"]), 100 * gap["difference_sd"], n)
    return f"{size} points {side} dense ({n} common seed{'s' if n > 1 else ''})"


def overlapping(ranked: pd.DataFrame) -> list[str]:
    """The methods (their variants, all being of one budget) whose mean ± sd reaches into that of the first."""
    best, others = ranked.iloc[0], ranked.iloc[1:]
    reach = best["accuracy_sd"] + others["accuracy_sd"].fillna(0.0)
    return list(others.loc[best["accuracy"] - others["accuracy"] <= reach, "variant"])


def overlap(ranked: pd.DataFrame) -> str:
    """Which other methods' mean ± sd reaches into that of the best; with one seed nobody can tell."""
    if len(ranked) == 1:
        return ""
    if math.isnan(ranked.iloc[0]["accuracy_sd"]):
        return "; one seed, so its lead has no known spread"
    names = wording.listed([f"`{method}`" for method in overlapping(ranked)])
    return f"; its mean ± sd overlaps that of {names}" if names else "; no other method's mean ± sd overlaps it"


def resolution(results: Results) -> str:
    """The smallest step that the test accuracy can take."""
    examples = results.runs["test_examples"].iloc[0]
    return f"The test set holds {examples:,} examples: one of them is {100 / examples:.2f} points."


def sameness(results: Results, name: str) -> str:
    """Which methods showed no difference to ``name``, which lie below or above, and which nobody can judge."""
    gaps = differences(results, name)
    if gaps.empty:
        other = "a sparse run" if name == "dense" else "another sparse run of its sparsity and length"
        return f"No seed is common to a {name} and {other}: no paired difference can be given."
    kinds = {
        f"below {name}": gaps["high"] < 0,
        f"above {name}": gaps["low"] > 0,
        "no difference shown": (gaps["low"] <= 0) & (gaps["high"] >= 0),
        "one common seed, so no statement": gaps["margin"].isna(),
    }
    all_one = [kind for kind, chosen in kinds.items() if chosen.all()]
    if all_one and any(budgets(results)):
        return f"{all_one[0].capitalize()}: every method at every sparsity and budget."
    clauses = [f"{kind}: {cells_named(gaps[chosen])}" for kind, chosen in kinds.items() if chosen.any()]
    text = "; ".join(clauses)
    return text[0].upper() + text[1:] + "."


def cells_named(cells: pd.DataFrame) -> str:
    """'`gmp` at 50 % and 90 %, `rigl` at 50 %'."""
    groups = cells.groupby("method", sort=False)["requested_sparsity"]
    return ", ".join(
        f"`{method}` at {wording.listed([wording.sparsity(value) for value in values])}" for method, values in groups
    )


def bfloat16(results: Results) -> str:
    """What dense training gains by number format alone, the bar for every sparse method; or that nobody measured it."""
    rows = benefits(results)
    if (rows.loc[rows["method"] == reference(results.runs), "arithmetic"] == "bf16").any():
        return "Dense and sparse alike train in bf16 here."
    rows = rows[(rows["name"] == "dense") & (rows["arithmetic"] == "bf16") & rows["throughput_ratio"].notna()]
    if rows.empty:
        return "Dense training in bf16, the rival that needs no sparsity, was not measured."
    row = rows.iloc[0]
    measured = wording.throughput(row["throughput_ratio"], row["throughput_low"], row["throughput_high"])
    return f"Dense training in bf16, the rival that needs no sparsity: {measured}."
