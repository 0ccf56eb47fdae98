"""What came of a run over a stream: that of any run, of all stages together, and what streams are judged by."""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from prunus.anytime.course import COMBINE, Course
from prunus.anytime.measures import cumulative_errors, forgetting
from prunus.anytime.records import kept_by_layer
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
    found["learning_rates"] = _rates(parts)
    found["training_bytes"] = _most(part["training_bytes"] for part in parts)
    if course.stream.learner in COMBINE:
        found |= _kept_together(course, found)
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


def _rates(parts: list[Record]) -> list[tuple[int, float]]:
    """The learning rates of all trainings, one after the other."""
    begins = accumulate((part["steps"] for part in parts), initial=0)
    return [
        (begin + step, rate)
        for begin, part in zip(begins, parts, strict=False)
        for step, rate in part["learning_rates"]
        if step < part["steps"]  # of one that ended early
    ]


def _kept_together(course: Course, last: dict[str, Any]) -> dict[str, Any]:
    """What all networks together keep; ``last`` is the result of the last alone."""
    networks, kept = len(course.state.lefts), kept_by_layer(course.state.lefts)
    layers = [_times(layer, networks, *kept.get(layer["name"], ())) for layer in last["layers"]]
    dropped = sum(layer["weights"] - layer["kept"] for layer in layers)
    macs = last["macs"] * networks
    macs_kept = macs - sum(layer["macs"] - layer["macs_kept"] for layer in layers)
    return {
        "layers": layers,
        "realised_sparsity": dropped / sum(layer["weights"] for layer in layers),
        "parameters_kept": last["parameters"] * networks - dropped,
        "macs_kept": macs_kept,
        "theoretical_speedup": macs / macs_kept if macs_kept else None,
        **{name: last[name] * networks for name in OF_EACH_NETWORK},
    }


def _times(layer: dict[str, Any], networks: int, kept: int = -1, total: int = 0) -> dict[str, Any]:
    """A layer of several networks that keep ``kept`` weights of ``total``; all are kept where no mask is known."""
    kept, total = (kept, total) if total else (layer["weights"] * networks,) * 2
    return layer | {
        "weights": total,
        "kept": kept,
        "sparsity": 1.0 - kept / total,
        "macs": layer["macs"] * networks,
        "macs_kept": layer["macs"] * networks * kept / total,
    }


def _together(course: Course, images: Labelled) -> dict[str, Any]:
    return asdict(evaluate(course.measured(), evaluation_batches(images, EVALUATION_BATCH, course.data)))


def _most(held: Iterable[dict[str, int]]) -> dict[str, int]:
    """The stage that held the most bytes."""
    return max(held, key=lambda one: sum(one.values()))
