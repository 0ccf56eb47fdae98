"""Studies whose runs begin from dense runs of their own: one a seed, trained first, named and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import prunus, read_lines, tiny, written

from prunus.loop import Progress
from prunus.packing import load_packed
from prunus.recipes import Recipe, RecipeError
from prunus.runs import train

START: dict[str, Any] = {"epochs": 0.5, "learning_rate": {"piecewise": {"boundaries": [0.5], "values": [0.1, 0.01]}}}
STUDY: dict[str, Any] = {
    "start": START,
    "method": {"imp": {"schedule": {"each": ["ft", "lrw", "allr"]}}},
    "sparsity": [0.5, 0.9],
    "steps": None,
    "epochs": [0.1, 0.2],
    "seed": [0, 1],
}
CONV: dict[str, Any] = {"model": "resnet8", "batch_size": 16, "validation": 0.9}


def silent(progress: Progress) -> None:
    """Nobody listens."""


def test_every_run_of_a_seed_begins_from_the_same_dense_run() -> None:
    runs = list(tiny(**STUDY).runs())
    assert len(runs) == 3 * 2 * 2 * 2
    assert len({(run.seed, start.name()) for run in runs if (start := run.before())}) == 2
    first = runs[0].before()
    assert first is not None
    assert (first.method, first.sparsity, first.epochs, first.start) == ({"dense": {}}, (0.0,), (0.5,), None)
    assert first.learning_rate == START["learning_rate"]


@pytest.mark.slow
def test_a_study_trains_them_first_and_counts_what_they_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, **STUDY | {"sparsity": 0.9, "seed": 0})
    assert prunus("compare", path, "--out", tmp_path / "study", "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert "[1/7] dense" in printed
    results = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("study/runs/*/result.json")}
    assert len(results) == 7
    (dense,) = (name for name, result in results.items() if result["method"] == "dense")
    for result in results.values():
        if result["method"] == "imp":
            assert result["pretraining"]["run"] == dense
            assert result["pretraining"]["epochs"] == pytest.approx(results[dense]["epochs"])
            (cycle,) = result["cycles"]
            assert cycle["measured"]["trained"] == results[dense]["validation"]["accuracy"]
            assert cycle["measured"]["retrained"] == result["validation"]["accuracy"]
            assert cycle["sparsity"] == result["realised_sparsity"]
    twins = [r for r in results.values() if r["arguments"].get("schedule") in ("ft", "lrw") and r["steps"] == 4]
    assert len({json.dumps(r["test"]) for r in twins}) == 1  # where pretraining ended at a constant rate
    assert "Retraining" in (tmp_path / "study" / "report.md").read_text()


def test_a_run_alone_trains_its_start_and_ends_the_same_wherever_it_was_killed(tmp_path: Path) -> None:
    (run,) = tiny(**STUDY | {"method": {"imp": {"cycles": 2}}, "sparsity": 0.9, "epochs": 0.4, "seed": 0}).runs()

    class KilledError(Exception):
        pass

    def killing(progress: Progress) -> None:
        if progress.step == 10 and progress.steps == 16:
            raise KilledError

    with pytest.raises(KilledError):
        train(run.model_copy(update={"evaluations": 16}), tmp_path / "killed", killing, checkpoint_every=0.0)
    run = run.model_copy(update={"evaluations": 16})
    one = train(run, tmp_path / "killed", silent)
    other = train(run, tmp_path / "whole", silent)
    weights = [load_packed(tmp_path / which / run.name() / "model.safetensors")[0] for which in ("killed", "whole")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert one["cycles"] == other["cycles"]
    assert one["learning_rates"] == other["learning_rates"]
    assert one["training_macs"] == other["training_macs"]


def rates(directory: Path, run: Recipe) -> list[float]:
    return [line["learning_rate"] for line in read_lines(directory / run.name() / "metrics.jsonl")]


def test_metrics_hold_the_rates_that_the_method_set(tmp_path: Path) -> None:
    changes = {"method": {"imp": {"schedule": "ft"}}, "sparsity": 0.9, "epochs": 0.2, "seed": 0}
    (run,) = tiny(**STUDY | changes).runs()
    result = train(run, tmp_path, silent)
    assert set(rates(tmp_path, run)) == {0.01}
    assert {rate for _, rate in result["learning_rates"]} == {0.01}


def test_recalibration_is_a_step_of_its_own_and_reported(tmp_path: Path) -> None:
    changes = {"method": {"imp": {"schedule": "ft"}}, "sparsity": 0.9, "epochs": 0.2, "seed": 0, "recalibrate": 2}
    (run,) = tiny(**STUDY | CONV | changes).runs()
    result = train(run, tmp_path, silent)
    (cycle,) = result["cycles"]
    assert set(cycle["measured"]) == {"trained", "pruned", "recalibrated", "retrained"}
    assert result["recalibration"]["batches"] == 2
    assert result["recalibration"]["after"] == result["validation"]["accuracy"]
    (plain,) = tiny(**STUDY | CONV | changes | {"recalibrate": 0}).runs()
    unaided = train(plain, tmp_path, silent)
    assert unaided["recalibration"] is None
    assert set(unaided["cycles"][0]["measured"]) == {"trained", "pruned", "retrained"}
    before = run.before(), plain.before()
    assert before[0] is not None
    assert before[1] is not None
    assert before[0].name() == before[1].name()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"epoch": 3}, "start: no key is called 'epoch'; did you mean 'epochs'"),
        ({"learning_rate": 0.1}, "start needs the length of the dense run"),
    ],
)
def test_a_start_that_cannot_be_is_refused(start: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(**STUDY | {"start": start})
