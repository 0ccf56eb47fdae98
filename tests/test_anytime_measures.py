"""What a stream is judged by: cumulative errors, gap, forgetting; and networks that answer together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import golden
from megabatches import stream, trained
from tiny import read_lines
from torch import Tensor, nn

from prunus.anytime.arrivals import Memories, gather, waited
from prunus.anytime.course import Course
from prunus.anytime.ensemble import Ensemble
from prunus.anytime.measures import cumulative_errors, forgetting, right_by_class
from prunus.anytime.state import State, stage_seed
from prunus.data import Stream, evaluation_batches, load
from prunus.evaluation import evaluate
from prunus.loggers import Log
from prunus.loop import Progress
from prunus.materials import build_model
from prunus.recipes import Recipe
from prunus.runs import train
from prunus.tables import Builder

pytestmark = pytest.mark.usefixtures("unsynced")

DIGITS = load("digits")
STILL = {"learning_rate": 1e-30, "steps": 2, "evaluations": 1}  # nothing is learned


def silent(progress: Progress) -> None:
    """Nobody listens."""


def gone(run: Recipe, home: Path) -> Course:
    """A course at its end."""
    home.mkdir(exist_ok=True)
    with (home / "metrics.jsonl").open("a") as metrics:
        course = Course(run, home, metrics, Log([]), silent, 3600.0)
        course.run_()
    return course


class Answers(nn.Module):
    """Answers as if it had seen the predictions."""

    def __init__(self, predictions: list[int], classes: int) -> None:
        super().__init__()
        self.outputs = nn.functional.one_hot(torch.tensor(predictions), classes).float()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.outputs


def test_golden_cumulative_errors() -> None:
    vector = golden("anytime")["cer"]
    labels, errors = torch.tensor(vector["labels"]), []
    for predictions in vector["predictions_per_megabatch"]:
        right, seen = right_by_class(Answers(predictions, 3), [(torch.zeros(5), labels)], 3)
        assert seen.tolist() == [1, 2, 2]
        errors.append(int((seen - right).sum()))
    assert errors == vector["misclassified_per_megabatch"]
    assert cumulative_errors(errors) == vector["CER"]


def test_a_result_counts_errors_of_all_megabatches(tmp_path: Path) -> None:
    found = trained(tmp_path)["stream"]
    errors = [record["errors"] for record in found["megabatches"]]
    assert found["cumulative_errors"] == sum(errors)
    assert found["mean_error"] == sum(errors) / (3 * len(DIGITS.test))
    for record in found["megabatches"]:
        assert record["tested_by_class"] == torch.bincount(DIGITS.test.labels, minlength=10).tolist()
        assert record["errors"] == len(DIGITS.test) - sum(record["right_by_class"])


def test_counting_leaves_the_mode_of_a_network() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 10))
    batches = evaluation_batches(DIGITS.test, 100, DIGITS)
    counts = [right_by_class(model, batches, 10)[0].tolist() for _ in range(2)]
    assert counts[0] == counts[1]
    assert model.training


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.5, 0.5]], 0.0),
        ([[1.0, 0.0], [0.0, 1.0]], (1.0 - 1.0) / 2),
        ([[0.9, 0.0], [0.6, 0.8], [0.5, 0.6]], (0.4 + 0.2) / 2),
        ([[0.2, 0.2], [0.4, 0.6]], -(0.2 + 0.4) / 2),
    ],
)
def test_forgetting_is_the_fall_from_the_best_before(rows: list[list[float]], expected: float) -> None:
    assert forgetting(rows) == pytest.approx(expected)


@pytest.mark.slow
def test_classes_that_come_one_after_another_are_forgotten_without_replay(tmp_path: Path) -> None:
    settings = {"order": "by-class", "replay": "none", "megabatches": 5}
    found = {
        replay: trained(tmp_path, settings | {"replay": replay}, method="dense", steps=30)["stream"]
        for replay in ("none", "full")
    }
    accuracies = [
        [right / seen for right, seen in zip(record["right_by_class"], record["tested_by_class"], strict=True)]
        for record in found["none"]["megabatches"]
    ]
    assert found["none"]["forgetting"] == forgetting(accuracies)
    assert found["none"]["forgetting"] > 0.3 > found["full"]["forgetting"]


def networks() -> list[nn.Module]:
    """Three perceptrons."""
    torch.manual_seed(0)
    return [nn.Linear(5, 4) for _ in range(3)]


def test_an_ensemble_answers_by_the_mean_of_logits_or_of_probabilities() -> None:
    inputs, members = torch.randn(7, 5), networks()
    outputs = [member(inputs) for member in members]
    logits, probabilities = Ensemble(members, "logits")(inputs), Ensemble(members, "probabilities")(inputs)
    assert torch.allclose(logits, sum(outputs) / 3, atol=1e-6)
    assert torch.allclose(probabilities.exp(), sum(output.softmax(1) for output in outputs) / 3, atol=1e-6)
    assert not torch.allclose(logits.softmax(1), probabilities.exp(), atol=1e-3)


@pytest.mark.parametrize(("learner", "count"), [("growing", 3), ("ensemble", 2)])
def test_several_networks_answer_together(learner: str, count: int, tmp_path: Path) -> None:
    run = stream({"learner": learner, "members": 2})
    course = gone(run, tmp_path)
    models = []
    for left in course.state.lefts:
        models.append(build_model(run, DIGITS, Builder()))
        models[-1].load_state_dict(left.weights)
    assert len(models) == count
    inputs = evaluation_batches(DIGITS.test, 1000, DIGITS)
    right = 0
    with torch.no_grad():
        for images, labels in inputs:
            outputs = torch.stack([model(images) for model in models])
            together = outputs.mean(0) if learner == "growing" else outputs.softmax(2).mean(0)
            right += int((together.argmax(1) == labels).sum())
    assert course.state.records[-1]["errors"] == len(DIGITS.test) - right
    result = train(run, tmp_path / "run", silent)
    assert result["test"]["accuracy"] == pytest.approx(right / len(DIGITS.test))
    assert result["parameters"] == count * (64 * 16 + 16 + 16 * 10 + 10)
    kept = sum(int(mask.sum()) for left in course.state.lefts for mask in (left.masks or {}).values())
    assert sum(layer["kept"] for layer in result["layers"]) == kept
    assert result["realised_sparsity"] == pytest.approx(1 - kept / (count * (64 * 16 + 16 * 10)))
    assert result["parameters_kept"] == kept + count * (16 + 10)
    assert result["macs_kept"] == kept
    assert sum(one for one, _ in course.state.records[-1]["layers"].values()) == kept
    assert sum(bool(left.moments) for left in course.state.lefts) == (1 if learner == "growing" else 2)
    networks = [record["networks"] for record in result["stream"]["megabatches"]]
    assert networks == ([1, 2, 3] if learner == "growing" else [2, 2, 2])
    assert len({tuple(left.weights["linear1.weight"].flatten().tolist()) for left in course.state.lefts}) == count


def test_members_of_an_ensemble_begin_and_train_differently() -> None:
    seeds = [stage_seed(7, number, member) for number in range(4) for member in range(3)]
    assert seeds[0] == 7
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("wait", "taken"), [(1, [1, 1, 1, 1, 1]), (2, [0, 2, 0, 2, 1]), (4, [0, 0, 0, 4, 1]), (9, [0, 0, 0, 0, 5])]
)
def test_megabatches_are_waited_for(wait: int, taken: list[int]) -> None:
    found = [waited(number, wait, last=number == 4) for number in range(5)]
    assert [len(new) for new in found] == taken
    assert [number for new in found for number in new] == [0, 1, 2, 3, 4]


def test_while_it_waits_the_network_trained_last_errs(tmp_path: Path) -> None:
    result = trained(tmp_path, {"wait": 2, "megabatches": 5})
    records = result["stream"]["megabatches"]
    assert [len(record["trained"]) for record in records] == [0, 1, 0, 1, 1]
    assert [record["networks"] for record in records] == [1] * 5
    torch.manual_seed(0)
    untrained = build_model(stream(), DIGITS, Builder())
    accuracy = evaluate(untrained, evaluation_batches(DIGITS.test, 1000, DIGITS)).accuracy
    assert records[0]["errors"] == round((1 - accuracy) * len(DIGITS.test))
    assert records[2]["errors"] == records[1]["errors"]
    assert records[2]["layers"] == records[1]["layers"]
    sizes = [
        record["trained"][0]["train"] + record["trained"][0]["validation"] for record in records if record["trained"]
    ]
    arrived = [record["examples"] for record in records]
    assert sizes == [sum(arrived[:2]), sum(arrived[:4]), sum(arrived)]
    assert result["stream"]["cumulative_errors"] == sum(record["errors"] for record in records)


@pytest.mark.parametrize("replay", ["none", "full", {"last": 2}, {"fraction": 0.5}, {"reservoir": 100}], ids=str)
def test_the_gap_is_between_accuracies_without_training_mode(replay: Any, tmp_path: Path) -> None:
    run = stream({"replay": replay, "wait": 2}, steps=4)
    course = gone(run, tmp_path)
    held = Memories()
    for number in range(3):
        new = waited(number, 2, last=number == 2)
        if new:
            train_ids, validation_ids, held = gather(course.stream, course.megabatches, new, held, 0)
    model = build_model(run, DIGITS, Builder())
    model.load_state_dict(course.state.lefts[-1].weights)
    train, validation = (
        evaluate(model, evaluation_batches(DIGITS.train.select(ids), 1000, DIGITS)).accuracy
        for ids in (train_ids, validation_ids)
    )
    (one,) = course.state.records[-1]["trained"]
    assert (one["train"], one["validation"]) == (len(train_ids), len(validation_ids))
    assert one["gap"] == pytest.approx(train - validation)
    final = course.final()
    assert len(final.validation) == len(validation_ids)  # and none of them twice
    assert final.quality(final.validation).accuracy == one["validation_accuracy"]


def test_the_released_gap_is_of_the_running_accuracy_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[Tensor, Tensor]] = []
    drawing = Stream.__next__
    monkeypatch.setattr(Stream, "__next__", lambda self: batches.append(drawing(self)) or batches[-1])
    run = stream({"megabatches": 1}, method="dense", **STILL | {"evaluations": 2, "steps": 6})
    result = train(run, tmp_path, silent)
    torch.manual_seed(0)
    model = build_model(run, DIGITS, Builder())
    right = [int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in batches]
    lines = read_lines(tmp_path / run.name() / "metrics.jsonl")
    assert [line["running_accuracy"] for line in lines] == [sum(right[:3]) / 96, sum(right[3:]) / 96]
    (one,) = result["stream"]["megabatches"][0]["trained"]
    assert one["released_gap"] == lines[-1]["running_accuracy"] - lines[-1]["accuracy"]
    assert one["gap"] == one["train_accuracy"] - one["validation_accuracy"]


@pytest.mark.slow
def test_a_state_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    course = gone(stream(), tmp_path)
    path = tmp_path / "state.pt"
    torch.save(course.state.plain(), path)
    again = State.of(torch.load(path, weights_only=True))
    assert str(again.plain()) == str(course.state.plain())
