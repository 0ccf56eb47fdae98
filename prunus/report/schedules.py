"""Schedules of RP-RR and MP-RR: what each reached at each sparsity, and whether what was learned gains anything."""

import math
from functools import lru_cache
from typing import Any

import pandas as pd

from prunus.report import wording
from prunus.report.cells import Row
from prunus.report.results import Results
from prunus.report.statements import cells_named, overlapping
from prunus.report.tables import CELL, margin, mean, records, reference, sd, summarise

METHODS = ("rp-rr", "mp-rr")
CONSTANT = "constant"
HANDMADE = ("linear", "quadratic", "cubic", "cosine", CONSTANT)
POLICIES = ("ppo", "ppo-paper", "ppo-shared")
RIVALS = ("random", "optuna")  # of a policy, at equal cost
ORDER = {name: place for place, name in enumerate((*HANDMADE, "", *POLICIES, *RIVALS, "dense"))}
NO_PAIR = "No learned schedule has a seed in common with `constant`: nobody can say whether it gains anything."
SCORES = ["accuracy", "accuracy_sd", "realised_sparsity", "realised_sparsity_sd"]
KEY = ["requested_sparsity", "name", "schedule"]
GAPS = [*KEY, "method", "against", "difference", "difference_sd", "n", "sparsity", "sparsity_against"]


@lru_cache(maxsize=8)
def scheduled(results: Results) -> pd.DataFrame:
    """The runs of both methods; one without a schedule keeps its first masks, which is ``constant``.

    ``rest`` is the label without its schedule: runs of one ``rest`` differ in nothing else.
    """
    runs = results.runs[results.runs["name"].isin(METHODS)]
    said = zip(runs["method"], runs["schedule"], strict=True)
    rest = [method.replace(f"schedule={schedule or None}", "", 1) for method, schedule in said]
    return runs.assign(rest=rest, schedule=runs["schedule"].where(runs["schedule"] != "", CONSTANT))


@lru_cache(maxsize=8)
def schedule_table(results: Results) -> pd.DataFrame:
    """A row per requested sparsity, method and schedule, and one of dense: n, accuracy and realised sparsity.

    ``row`` is the schedule, with the other settings of the method where the study varies them too. No rows where there
    is nothing to compare: a single schedule at every sparsity, and none learned.
    """
    about = scheduled(results)[[*CELL, "schedule", "learned"]].drop_duplicates(CELL)
    table = summarise(results)[[*CELL, "name", "n", *SCORES]].merge(about, on=CELL)
    several = table.groupby(["requested_sparsity", "name"])["schedule"].nunique().gt(1).any()
    if not several and not table["learned"].any():
        return table.assign(row="").iloc[:0]
    dense = summarise(results)
    dense = dense.loc[dense["method"] == reference(results.runs), [*CELL, "name", "n", *SCORES]]
    table = pd.concat([table, dense.assign(schedule="dense", learned=False)], ignore_index=True)
    varied = table.duplicated(KEY).any()
    table["row"] = [settings(row) if varied else row["schedule"] for row in records(table)]
    table["place"] = table["schedule"].map(ORDER).fillna(ORDER[""])
    return table.sort_values(["requested_sparsity", "place", "row", "name"], ignore_index=True).drop(columns="place")


def settings(row: Row) -> str:
    """What a label says beside the method's name: 'schedule=ppo, update_every=50'."""
    return str(row["method"]).removeprefix(row["name"]).replace("(", "", 1).replace(")", "", 1) or row["schedule"]


def schedule_cells(results: Results) -> pd.DataFrame:
    """A row per requested sparsity and schedule, two columns per method; the leaders of each method in bold."""
    table = schedule_table(results)
    methods = [name for name in METHODS if name in set(table["name"])]
    leading, tags = leaders(table), leaky(results)
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in records(table):
        requested = wording.sparsity(row["requested_sparsity"])
        tagged = (row["requested_sparsity"], row["name"], row["schedule"]) in tags
        cells = rows.setdefault((requested, row["row"]), {"requested": requested, "schedule": row["row"]})
        for name in methods if row["name"] == "dense" else [row["name"]]:
            cells |= method_cells(name, row, (row["requested_sparsity"], row["method"]) in leading, tagged)
    titles = [title for name in methods for title in titled(name)]
    return pd.DataFrame(list(rows.values()), columns=["requested", "schedule", *titles]).fillna("")


def titled(name: str) -> tuple[str, str]:
    """The two columns of a method."""
    return f"{name.upper()}: test accuracy, %", f"{name.upper()}: realised sparsity"


def method_cells(name: str, row: Row, leads: bool, tagged: bool) -> dict[str, str]:
    """What one method reached with one schedule: '**62.54 ± 0.31** (n=5)' and '90.00 %'."""
    mark = "**" if leads else ""
    reached = wording.spread(100 * row["accuracy"], 100 * row["accuracy_sd"], row["n"])
    realised = wording.realised(row["realised_sparsity"], row["realised_sparsity_sd"], row["n"])
    scores = f"{mark}{reached}{mark} (n={row['n']}){' LEAKY' * tagged}", realised
    return dict(zip(titled(name), scores, strict=True))


def leaders(table: pd.DataFrame) -> set[tuple[float, str]]:
    """Requested sparsity and label of each method's highest mean, and of those whose mean ± sd overlaps it."""
    found = set()
    sparse = table[(table["name"] != "dense") & table["accuracy"].notna()].assign(variant=table["method"])
    for _, cells in sparse.groupby(["requested_sparsity", "name"]):
        ranked = cells.sort_values("accuracy", ascending=False, kind="stable")
        best = [ranked["method"].iloc[0], *overlapping(ranked)]
        found |= {(float(cells["requested_sparsity"].iloc[0]), label) for label in best}
    return found


def leaky(results: Results) -> set[tuple[float, str, str]]:
    """Requested sparsity, method and schedule of the lessons whose agent was shown the test set."""
    lessons = results.learned["lessons"]
    return {(lesson["sparsity"], lesson["method"], lesson["agent"]) for lesson in lessons if lesson["leaky"]}


@lru_cache(maxsize=8)
def gaps(results: Results) -> pd.DataFrame:
    """Test accuracy of a schedule less that of another ``against`` it, at the same seed: mean, sd, n, 95 % t-interval.

    Every schedule against ``constant``; a learned policy also against the rivals that had as many trainings. Runs whose
    other settings differ are not paired. ``sparsity`` and ``sparsity_against`` are those realised in the pairs.
    """
    runs = scheduled(results)
    rows: list[list[Any]] = []
    for against in (CONSTANT, *RIVALS):
        chosen = runs["schedule"] != against if against == CONSTANT else runs["schedule"].isin(POLICIES)
        pairs = paired(runs[chosen], runs[runs["schedule"] == against])
        rows += [[*cell, against, *compared(group)] for cell, group in pairs.groupby([*KEY, "method"], sort=False)]
    table = pd.DataFrame(rows, columns=GAPS)
    half = pd.Series([margin(row["difference_sd"], row["n"]) for row in records(table)], dtype=float)
    table = table.assign(low=table["difference"] - half, high=table["difference"] + half)
    table["place"] = table["schedule"].map(ORDER).fillna(ORDER[""])
    order = ["requested_sparsity", "name", "place", "method"]
    return table.sort_values(order, kind="stable", ignore_index=True).drop(columns="place")


def paired(chosen: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The chosen runs with accuracy, ``pair``, and ``pair_sparsity`` of the run that differs in its schedule alone."""
    key = ["requested_sparsity", "name", "rest", "seed"]
    pair = others[[*key, "accuracy", "realised_sparsity"]].drop_duplicates(key)
    return chosen.merge(pair.rename(columns={"accuracy": "pair", "realised_sparsity": "pair_sparsity"}), on=key)


def compared(pairs: pd.DataFrame) -> list[float | int]:
    """The mean difference of the pairs, its sd and n, and the realised sparsities of both sides."""
    gap = pairs["accuracy"] - pairs["pair"]
    return [mean(gap), sd(gap), len(gap), mean(pairs["realised_sparsity"]), mean(pairs["pair_sparsity"])]


def gap_cells(results: Results) -> pd.DataFrame:
    """The table of the paired differences."""
    return pd.DataFrame([gap_row(row) for row in records(gaps(results))])


def gap_row(row: Row) -> dict[str, str]:
    """One schedule against another."""
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "schedule": f"{row['method']}",
        "against": row["against"],
        "difference, points": wording.points(row["difference"], row["difference_sd"], row["n"]),
        "common seeds": str(row["n"]),
        "95 % interval": interval(row),
        "realised": f"{wording.zeros(row['sparsity'])} %",
        "realised by the other": f"{wording.zeros(row['sparsity_against'])} %",
        "reading": reading(row),
    }


def interval(row: Row) -> str:
    """'-0.20 to +0.82', in points; 'unknown' for one pair."""
    return f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}" if row["n"] > 1 else "unknown"


def reading(row: Row) -> str:
    """What an interval of differences shows."""
    if math.isnan(row["low"]):
        return "one seed: cannot say" if row["n"] == 1 else "not finite"
    return "gain shown" if row["low"] > 0 else "loss shown" if row["high"] < 0 else "no gain shown"


def verdicts(results: Results) -> list[str]:
    """A sentence on what learned schedules gain over ``constant``, and one on what policies gain over each rival."""
    table, runs = gaps(results), scheduled(results)
    learned = table[table["method"].isin(runs.loc[runs["learned"], "method"])]
    found = dict(list(learned.groupby("against", sort=False)))
    said = [verdict(against, found[against]) for against in (CONSTANT, *RIVALS) if against in found]
    return said if CONSTANT in found else [NO_PAIR, *said]


def verdict(against: str, cells: pd.DataFrame) -> str:
    """'Learned schedules against `constant`: gain shown for `mp-rr(schedule=ppo)` at 50 %; no gain shown for ...'."""
    readings = pd.Series([reading(row) for row in records(cells)], index=cells.index)
    clauses = [f"{said} for {cells_named(cells[readings == said])}" for said in dict.fromkeys(readings)]
    who = "Learned schedules" if against == CONSTANT else "Policies"
    return f"{who} against `{against}`: {'; '.join(clauses)}."
