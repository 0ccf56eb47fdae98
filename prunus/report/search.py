"""The search for each method's own settings: what was chosen, out of what, and what all of it scored."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from prunus.report import wording
from prunus.report.blocks import Block, Folded, Table, Text
from prunus.report.results import Results

LEAD = (
    "Each method's own settings were chosen by validation accuracy, with a seed of its own, before the runs. The "
    "accuracy of what was chosen is the best of several and flatters it: judge by the test accuracy of the runs."
)


def search_blocks(results: Results) -> list[Block]:
    """What was chosen, then folded what was tried; nothing where nothing was searched for."""
    searches = results.searches
    if not searches:
        return []
    tried = [Folded(summary(search), Table(tried_cells(search))) for search in searches if search["points"]]
    table = Table(pd.DataFrame([chosen_row(search) for search in searches]), "search", points(searches))
    return [Text(f"{LEAD} {cost(searches)}"), table, *tried]


def cost(searches: list[dict[str, Any]]) -> str:
    """Whether the searches were of equal cost."""
    trainings = sorted({search["trainings"] for search in searches})
    if len(trainings) == 1:
        return f"Each search took {trainings[0]} trainings."
    return f"The searches were not of equal cost: they took {trainings[0]} to {trainings[-1]} trainings."


def summary(search: dict[str, Any]) -> str:
    """What a search was for."""
    return f"{search['method']} at {wording.sparsity(search['sparsity'])}: the {len(search['points'])} points tried"


def chosen_row(search: dict[str, Any]) -> dict[str, str]:
    """What one search chose."""
    return {
        "requested": wording.sparsity(search["sparsity"]),
        "method": search["method"],
        "chosen": settings(search["chosen"]),
        "trainings": str(search["trainings"]),
        "validation accuracy, %": found(search["validation_accuracy"], wording.percent),
        "realised": found(search["realised_sparsity"], lambda value: f"{wording.zeros(value)} %"),
    }


def settings(values: dict[str, Any]) -> str:
    """Settings by their place in a recipe: 'optimizer.sgd.lr=0.1; method.str.decay=0.01'."""
    return "; ".join(f"{path}={value}" for path, value in values.items()) or "nothing to choose"


def tried_cells(search: dict[str, Any]) -> pd.DataFrame:
    """The points of one search, in their order."""
    return pd.DataFrame(
        [
            {
                "settings": settings(point["values"]) + " ← chosen" * (point["values"] == search["chosen"]),
                "validation accuracy, %": found(point["validation_accuracy"], wording.percent),
                "realised": found(point["realised_sparsity"], lambda value: f"{wording.zeros(value)} %"),
                "trainings": str(point["trainings"]),
            }
            for point in search["points"]
        ]
    )


def found(value: float | None, text: Callable[[float], str]) -> str:
    """A score, or that there is none."""
    return "no result" if value is None else text(value)


def points(searches: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per point of every search, a column per setting."""
    rows = [
        {
            "method": search["method"],
            "requested_sparsity": search["sparsity"],
            "chosen": point["values"] == search["chosen"],
            **{key: point[key] for key in ("validation_accuracy", "realised_sparsity", "trainings")},
            **point["values"],
        }
        for search in searches
        for point in search["points"]
    ]
    return pd.DataFrame(rows)
