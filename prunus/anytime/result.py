"""What came of a run over a stream: that of any run, of all stages together, and what streams are judged by."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from prunus.anytime.course import COMBINE, Course
from prunus.anytime.measures import cumulative_errors, forgetting
from prunus.anytime.state import Record
from prunus.data import Labelled, evaluation_batches
from prunus.evaluation import evaluate
from prunus.outcome import outcome
from prunus.prepare import EVALUATION_BATCH, Prepared

SUMS = ("training_macs", "training_macs_dense", "steps", "epochs")
OF_EACH_NETWORK = ("parameters", "macs", "bytes_dense")


def result_of(course: Course, prepared: Prepared) -> dict[str, Any]:
    """The result of a finished course, whose latest network is in ``prepared``."""
    records = course.state.records
    parts = [part for record in records for part in record["trained"]]
    found = outcome(course.recipe, prepared, sum(part["seconds"] for part in parts))
    found |= {name: sum(part[name] for part in parts) for name in SUMS}
    found["extra_forward_backward"] = sum(part["looks"] for part in parts)
    found["training_bytes"] = _most(part["training_bytes"] for part in parts)
    if course.stream.learner in COMBINE:
        found |= _kept_together(course, found)
        found |= {name: found[name] * len(course.state.lefts) for name in OF_EACH_NETWORK}
        found |= {"test": _together(course, prepared.test), "validation": _together(course, prepared.validation)}
    return found | {"stream": _stream(course, records)}


def _stream(course: Course, records: list[Record]) -> dict[str, Any]:
    errors = cumulative_errors(record["errors"] for record in records)
    accuracies = [
        [right / seen if seen else 0.0 for right, seen in zip(*_by_class(record), strict=True)] for record in records
    ]
    return {
        "settings": course.stream.model_dump(mode="json"),
        "cumulative_errors": errors,
        "mean_error": errors / sum(record["tested"] for record in records),
        "gap": records[-1]["trained"][-1]["gap"],
        "forgetting": forgetting(accuracies),
        "megabatches": records,
    }


def _by_class(record: Record) -> tuple[list[int], list[int]]:
    return record["right_by_class"], record["tested_by_class"]


def _kept_together(course: Course, last: dict[str, Any]) -> dict[str, float]:
    """Parameters and multiply-accumulates that all networks together keep; ``last`` is the result of the last alone."""
    costs = {layer["name"]: layer["macs"] for layer in last["layers"]}
    parameters = macs = 0.0
    for left in course.state.lefts:
        masks = left.masks or {}
        parameters += last["parameters"] - sum(int((~mask).sum()) for mask in masks.values())
        macs += last["macs"] - sum(costs[name] * (1.0 - float(mask.float().mean())) for name, mask in masks.items())
    return {"parameters_kept": round(parameters), "macs_kept": macs}


def _together(course: Course, images: Labelled) -> dict[str, Any]:
    return asdict(evaluate(course.learner(), evaluation_batches(images, EVALUATION_BATCH, course.data)))


def _most(held: Iterable[dict[str, int]]) -> dict[str, int]:
    """The stage that held the most bytes."""
    return max(held, key=lambda one: sum(one.values()))
