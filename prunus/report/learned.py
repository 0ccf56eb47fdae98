"""Learned schedules: what learning cost, what its choice scored on networks that it did not see, and the section."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from prunus.report import wording
from prunus.report.blocks import Block, Items, Table, Text
from prunus.report.cells import Row
from prunus.report.drawing import Plot
from prunus.report.results import Results
from prunus.report.schedules import (
    gap_cells,
    gaps,
    leaky,
    schedule_cells,
    schedule_table,
    scheduled,
    verdicts,
)
from prunus.report.tables import mean, records, sd

LEAD = (
    "Test accuracy, mean ± sd over seeds, with the sparsity that the networks ended with. `linear`, `quadratic`, "
    "`cubic` and `cosine` go from half the requested density up to all of it, `constant` has it throughout, alike in "
    "every layer. Bold: in each column the highest mean at a requested sparsity, and those whose mean ± sd overlaps it."
)
DENSE = "Dense training is the same runs in both columns."
SPARSER = "A learned schedule may be sparser than requested, so read its accuracy beside its realised sparsity."
PAIRS = (
    "Test accuracy less that of another schedule of the same method, sparsity and seed, mean ± sd of the pairs, with a "
    "95 % t-interval of the mean. The intervals are not corrected for their number; with few seeds only large "
    "differences show."
)
COST = (
    "What learning took. Operations are multiply-accumulates of all these trainings, forward and backward, counted "
    "with their sparsity and divided by those of one dense training of the same steps: 50 would be 50 dense trainings."
)
SCORED = (
    "What the chosen schedule scored, mean ± sd in %. Selection: validation accuracy in the last trainings, which a "
    "search chose by and is flattered by, and of which a policy's schedule is the mean. Closed loop: the policy "
    "decides anew as it trains networks of unseen seeds. Replay: the schedule's file on unseen seeds, the runs of "
    "this study. All images: its replay when all training images but ten train. Test accuracy is read once, at the "
    "end. Random search and Optuna choose one density a layer, a policy one a layer at every decision."
)
TITLES = {
    "selection": "selection: validation",
    "closed_validation": "closed loop: validation",
    "closed_test": "closed loop: test",
    "closed_sparsity": "closed loop: sparsity",
    "replay_validation": "replay: validation",
    "replay_test": "replay: test",
    "whole_test": "all images: test",
}
NO_LESSON: Mapping[str, Any] = {"chosen": [], "closed_loop": []}
Key = tuple[float, str, str]  # requested sparsity, method, schedule


def schedule_blocks(results: Results, pictures: Plot, curves: Plot) -> list[Block]:
    """The section: the table, what it shows, then for learned schedules their pictures, their learning and its cost."""
    table = schedule_table(results)
    if table.empty and not results.learned["lessons"]:
        return []
    blocks = compared(results, table)
    if results.learned["lessons"]:
        blocks += [pictures, curves, *cost_blocks(results)]
    if keys(results):
        blocks += [Text(SCORED), Table(score_cells(results), "schedule-scores", scores(results))]
    return blocks


def compared(results: Results, table: pd.DataFrame) -> list[Block]:
    """The table of schedules, and the paired differences below it."""
    if table.empty:
        return []
    learned = bool(table["learned"].any())
    said = [LEAD, *[DENSE] * bool((table["name"] == "dense").any()), *[SPARSER] * learned]
    blocks: list[Block] = [Text(" ".join(said)), Table(schedule_cells(results), "schedules", table)]
    found = gaps(results)
    if len(found):
        blocks += [Text(PAIRS), Table(gap_cells(results), "schedule-differences", found)]
    return [*blocks, *[Items(verdicts(results))] * learned]


def cost_blocks(results: Results) -> list[Block]:
    """What learning took, and whether the agents had as many trainings as each other."""
    lessons = lesson_table(results)
    trainings = sorted(set(lessons["trainings"]))
    equal = f"Each agent had {trainings[0]} trainings at each sparsity and method."
    if len(trainings) > 1:
        equal = f"The agents were NOT of equal cost: they had {trainings[0]} to {trainings[-1]} trainings."
    cells = pd.DataFrame([lesson_row(row) for row in records(lessons)])
    return [Text(f"{COST} {equal}"), Table(cells, "schedule-learning", lessons)]


def lesson_table(results: Results) -> pd.DataFrame:
    """A row per lesson: its trainings, of them finalists and diverged, its cost, and how it learned.

    ``dense_trainings`` are the operations of all its trainings in those of one dense training.
    """
    rows = [
        {
            "requested_sparsity": lesson["sparsity"],
            **{key: lesson[key] for key in ("method", "agent", "schedule", "trainings", "finalists")},
            "diverged": sum(tried["accuracy"] is None for tried in (*lesson["episodes"], *lesson["chosen"])),
            "dense_trainings": lesson["trainings"] * lesson["training_macs"] / lesson["training_macs_dense"],
            **{key: lesson[key] for key in ("seconds", "reward", "leaky")},
        }
        for lesson in results.learned["lessons"]
    ]
    return pd.DataFrame(rows).sort_values("requested_sparsity", kind="stable", ignore_index=True)


def lesson_row(row: Row) -> dict[str, str]:
    """One lesson."""
    return {
        "requested": wording.sparsity(row["requested_sparsity"]),
        "agent": row["agent"] + tag(row["leaky"]),
        "method": row["method"],
        "trainings": f"{row['trainings']} ({row['finalists']} finalists)",
        "diverged": str(row["diverged"]),
        "operations, in dense trainings": f"{row['dense_trainings']:.2f}",
        "seconds": f"{row['seconds']:,.1f}",
        "reward": row["reward"],
    }


def tag(shown: bool) -> str:
    """What stands behind the name of an agent that was shown the test set."""
    return " (LEAKY)" if shown else ""


def keys(results: Results) -> list[Key]:
    """What has scores beside the ordinary runs: the lessons, then the other schedules replayed on all images."""
    learned = results.learned
    lessons = [(lesson["sparsity"], lesson["method"], lesson["agent"]) for lesson in learned["lessons"]]
    replays = [(replay["sparsity"], replay["method"], replay["schedule"]) for replay in learned["whole"]]
    return sorted(dict.fromkeys([*lessons, *replays]), key=lambda key: key[0])


def measured(results: Results, key: Key) -> dict[str, list[float | None]]:
    """The scores of one schedule by what was measured, a value per seed; None where a network diverged."""
    requested, method, schedule = key
    named = {(each["sparsity"], each["method"], each["agent"]): each for each in results.learned["lessons"]}
    lesson, runs = named.get(key, NO_LESSON), scheduled(results)
    runs = runs[(runs["requested_sparsity"] == requested) & (runs["name"] == method) & (runs["schedule"] == schedule)]
    loops = lesson["closed_loop"]
    whole = [each for each in results.learned["whole"] if key == (each["sparsity"], each["method"], each["schedule"])]
    return {
        "selection": [each["accuracy"] for each in lesson["chosen"]],
        **{f"closed_{name}": [each[name] for each in loops] for name in ("validation", "test", "sparsity")},
        "replay_validation": list(runs["validation_accuracy"]),
        "replay_test": list(runs["accuracy"]),
        "whole_test": [each["test"] for each in whole],
    }


def scores(results: Results) -> pd.DataFrame:
    """A row per schedule and measurement: mean, sd and n, as fractions; the mean not finite where a seed diverged."""
    rows = [
        [requested, method, schedule, name, *summary(found)]
        for requested, method, schedule in keys(results)
        for name, found in measured(results, (requested, method, schedule)).items()
        if found
    ]
    return pd.DataFrame(rows, columns=["requested_sparsity", "method", "schedule", "measurement", "mean", "sd", "n"])


def summary(found: Sequence[float | None]) -> tuple[float, float, int]:
    """Mean, sd and n."""
    column = pd.Series([math.nan if score is None else score for score in found])
    return mean(column), sd(column), len(column)


def score_cells(results: Results) -> pd.DataFrame:
    """A row per schedule, a column per measurement that the study has; empty where one has none."""
    table = scores(results)
    tags = leaky(results)
    titles = {name: title for name, title in TITLES.items() if name in set(table["measurement"])}
    rows: dict[Key, dict[str, str]] = {}
    for row in records(table):
        key = (row["requested_sparsity"], row["method"], row["schedule"])
        start = {"requested": wording.sparsity(key[0]), "schedule": key[2] + tag(key in tags), "method": key[1]}
        rows.setdefault(key, start)[titles[row["measurement"]]] = score(row)
    return pd.DataFrame(list(rows.values()), columns=["requested", "schedule", "method", *titles.values()]).fillna("")


def score(row: Row) -> str:
    """'62.54 ± 0.31 (n=5)', or that one of n diverged."""
    if pd.isna(row["mean"]):
        return f"not finite (n={row['n']})"
    return wording.sample(100 * row["mean"], 100 * row["sd"], row["n"])
