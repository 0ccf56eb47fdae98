"""Reading: a study's directory as data frames, one row per run, logged step, layer or timing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from prunus.report import megabatches, rows

# the first has no bins of confidence and no memory, the second no cycles, learning rates and operations of training
FORMATS = ("prunus-result/1", "prunus-result/2", "prunus-result/3")


@dataclass(frozen=True, eq=False)
class Results:
    """What a study's directory holds; equal to itself alone, so that what follows from it is computed once.

    In every frame ``method`` is the label that a reader sees (see ``labels``), in ``runs`` also as its ``variant`` and
    ``budget``, ``name`` the method's own name, and sparsities and accuracies are fractions. ``runs``: a row per
    finished run. ``curves``: a row per logged step, its accuracy and negative log-likelihood on the validation data.
    ``rates``: a row per noted learning rate. ``cycles``: a row per run and cycle of pruning and retraining. ``layers``:
    a row per run and layer. ``bins``: a row per run and bin of confidence on the test data. ``timing``: a row per
    measurement. ``searches``: the search for each method's own settings, as its file has it. ``unfinished``: those
    without a result. ``strays``: runs that lie there but belong to another recipe. ``learned``: how schedules were
    learned: the ``lessons``, one for each agent, method and sparsity, and the replays on the ``whole`` training data.
    ``streams`` and ``megabatches``: a row per run over a stream, and per megabatch of it (see `megabatches`).
    """

    study: str
    recipe: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    rates: pd.DataFrame
    cycles: pd.DataFrame
    layers: pd.DataFrame
    bins: pd.DataFrame
    timing: pd.DataFrame
    searches: list[dict[str, Any]]
    unfinished: pd.DataFrame
    strays: list[str]
    learned: dict[str, list[dict[str, Any]]]
    streams: pd.DataFrame
    megabatches: pd.DataFrame


def read(directory: Path) -> Results:
    """The results under ``directory``; a ValueError where there is nothing to report or runs contradict each other."""
    found = {path.name: path for path in sorted(directory.glob("runs/*/"))}
    names = planned(directory) if (directory / "study.json").exists() else list(found)
    directories = [directory / "runs" / name for name in names]
    finished = [path for path in directories if (path / "result.json").exists()]
    if not finished:
        what = f"{len(directories)} unfinished" if directory.is_dir() else "no such directory"
        raise ValueError(f"a report needs a finished run under {directory}/runs, got {what}; run the study first")
    results = {path.name: result(path / "result.json") for path in finished}
    searches = listed(directory / "search.json")
    runs = rows.run_rows(results, searches)
    lines = {path.name: rows.logged(path / "metrics.jsonl") for path in finished}
    return Results(
        study=directory.resolve().name,
        recipe=(directory / "recipe.yaml").read_text(encoding="utf-8"),
        runs=runs,
        curves=rows.curve_rows(runs, {run: megabatches.in_all(lines[run], results[run]) for run in results}),
        rates=rows.rate_rows(runs, results),
        cycles=rows.cycle_rows(runs, results),
        layers=rows.layer_rows(runs, results),
        bins=rows.bin_rows(runs, results),
        timing=rows.timing_rows(runs, listed(directory / "timing.json")),
        searches=searches,
        unfinished=rows.unfinished_rows([path for path in directories if path not in finished]),
        strays=[name for name in found if name not in names],
        learned=lessons(directory / "learn.json"),
        streams=megabatches.stream_rows(runs, results),
        megabatches=megabatches.megabatch_rows(runs, results),
    )


def listed(path: Path) -> list[dict[str, Any]]:
    """What a file that not every study has lists; nothing where it is not there."""
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return entries


def lessons(path: Path) -> dict[str, list[dict[str, Any]]]:
    """How schedules were learned; nothing where none were."""
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"lessons": [], "whole": []} | found


def planned(directory: Path) -> list[str]:
    """The names of the runs that the study consists of, sorted; some may not have begun."""
    return sorted(json.loads((directory / "study.json").read_text(encoding="utf-8"))["runs"])


def result(path: Path) -> dict[str, Any]:
    """One run's result; a ValueError when another program or version wrote it."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") not in FORMATS:
        raise ValueError(f"{path} must be of format {FORMATS[-1]!r}, got {content.get('format')!r}; run it again")
    return content
