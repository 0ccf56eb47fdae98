"""Runs over a stream: a row per run, a row per megabatch, and what they logged, counted from the beginning of it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from prunus.report.rows import IDENTITY

Lines = list[dict[str, Any]]
STREAM = ["order", "arrivals", "cumulative_errors", "mean_error", "gap", "released_gap", "forgetting", "networks"]
MEGABATCH = [
    *("megabatch", "images", "planned_sparsity", "realised_sparsity", "trained", "networks", "errors", "tested"),
    *("accuracy", "cumulative_errors", "gap", "released_gap", "steps", "training_macs"),
]


def stream_rows(runs: pd.DataFrame, results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per finished run over a stream: what it is judged by, and what ``arrivals`` its stream has.

    ``forgetting`` is NaN but for streams that are ordered by class.
    """
    rows = [{"run": run, **stream_row(content["stream"])} for run, content in results.items() if "stream" in content]
    table = pd.DataFrame(rows, columns=["run", *STREAM]).astype(dict.fromkeys(STREAM[2:], float))
    return runs[IDENTITY].merge(table, on="run")


def stream_row(stream: Mapping[str, Any]) -> dict[str, Any]:
    """One stream as a whole; the gap as released is that of the network that was trained last."""
    order, megabatches = stream["settings"]["order"], stream["megabatches"]
    trained = [part for record in megabatches for part in record["trained"]]
    return {
        "order": order,
        "arrivals": f"{order}: {', '.join(str(record['examples']) for record in megabatches)}",
        **{key: stream[key] for key in ("cumulative_errors", "mean_error", "gap")},
        "released_gap": trained[-1]["released_gap"],
        "forgetting": stream["forgetting"] if order == "by-class" else math.nan,
        "networks": megabatches[-1]["networks"],
    }


def megabatch_rows(runs: pd.DataFrame, results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row per finished run and megabatch, from 1 on; ``images``, errors, steps and operations add up on the way.

    ``trained`` are the networks trained at it. The gaps are those of the last of them, NaN where training waited; the
    realised sparsity is that of the latest network, NaN before a sparse one was trained.
    """
    rows = [{"run": run, **row} for run, content in results.items() if "stream" in content for row in along(content)]
    table = pd.DataFrame(rows, columns=["run", *MEGABATCH])
    table = table.astype({name: int if name in {"megabatch", "trained"} else float for name in MEGABATCH})
    return runs[IDENTITY].merge(table, on="run")


def along(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The megabatches of one run."""
    images = errors = steps = macs = networks = 0
    for number, record in enumerate(content["stream"]["megabatches"], 1):
        trained = record["trained"]
        images += record["examples"]
        errors += record["errors"]
        steps += sum(part["steps"] for part in trained)
        macs += sum(part["training_macs"] for part in trained)
        networks += len(trained)
        last = trained[-1] if trained else {"gap": math.nan, "released_gap": math.nan}
        yield {
            **{key: record[key] for key in ("planned_sparsity", "errors", "tested", "networks")},
            "megabatch": number,
            "images": images,
            "realised_sparsity": realised(record["layers"]) if networks or content["method"] == "dense" else math.nan,
            "trained": len(trained),
            "accuracy": 1 - record["errors"] / record["tested"],
            "cumulative_errors": errors,
            **{key: last[key] for key in ("gap", "released_gap")},
            "steps": steps,
            "training_macs": macs,
        }


def realised(layers: Mapping[str, tuple[int, int]]) -> float:
    """The fraction of zeros among the weights of all masked layers; 0 where none is masked."""
    kept, weights = (sum(numbers[place] for numbers in layers.values()) for place in (0, 1))
    return 1 - kept / weights if weights else 0.0


def in_all(lines: Lines, content: Mapping[str, Any]) -> Lines:
    """A run's logged lines with steps and epochs counted from the beginning of its stream; of other runs as they are.

    ``place`` counts the lines of a training, ``training`` the networks of a megabatch.
    """
    if "stream" not in content:
        return lines
    begins, passed = begun(content["stream"]["megabatches"]), {"step": 0, "epoch": 0.0}
    counted: Lines = []
    key, place, before = (-1, 0), 0, 0
    for line in lines:
        number, member = key
        if line["megabatch"] != number:
            key, place = (line["megabatch"], 0), 0
        elif line["step"] <= before:
            key, place = (number, member + 1), 0
        before, passed = line["step"], begins[key]
        told = {name: line[name] + passed[name] for name in passed}
        counted.append(line | told | {"megabatch": key[0] + 1, "training": key[1], "place": place})
        place += 1
    return counted


def begun(megabatches: Lines) -> dict[tuple[int, int], dict[str, Any]]:
    """The steps and epochs before each training, by megabatch (from 0 on) and network."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    steps, epochs = 0, 0.0
    for number, record in enumerate(megabatches):
        for member, part in enumerate(record["trained"]):
            found[number, member] = {"step": steps, "epoch": epochs}
            steps, epochs = steps + part["steps"], epochs + part["epochs"]
    return found
