"""A stream as an outer loop: equal to a naive twin, as sparse as planned, without leakage, rates as published."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from megabatches import SPARSITY, stream, trained, weights_of
from tiny import prunus, read_lines, tiny, written
from torch import Tensor, nn

from prunus.anytime.arrivals import arrivals, to_look_at
from prunus.anytime.course import Course
from prunus.anytime.state import Store, stage_seed
from prunus.data import Images, Labelled, Stream, evaluation_batches, load
from prunus.evaluation import evaluate
from prunus.loggers import Log
from prunus.loop import Progress
from prunus.masks import Masks, Tensors, keep_count
from prunus.materials import build_model
from prunus.methods import METHODS
from prunus.prepare import EVIDENCE_BATCH
from prunus.randomness import seeded
from prunus.recipes import Recipe, single
from prunus.runs import train
from prunus.settings import Anytime
from prunus.start import Left
from prunus.streams import sparsities
from prunus.tables import Builder, RecipeError

pytestmark = pytest.mark.usefixtures("unsynced")

DIGITS = load("digits")
ONE_SHOT = ("snip", "magnitude", "random", "grasp", "synflow")
SIZE = 64 * 16 + 16 * 10


def silent(progress: Progress) -> None:
    """Nobody listens."""


def course(run: Recipe, home: Path, after: Callable[[Course], None] = lambda course: None) -> Course:
    """A run over a stream, gone through; ``after`` each megabatch somebody looks."""

    class Watched(Course):
        def _finish_(self, new: Any) -> None:
            super()._finish_(new)
            after(self)

    home.mkdir(parents=True, exist_ok=True)
    with (home / "metrics.jsonl").open("a") as metrics:
        gone = Watched(run, home, metrics, Log([]), silent, 3600.0)
        gone.run_()
    return gone


def lefts(run: Recipe, home: Path) -> list[Left]:
    """What each megabatch has left."""
    found: list[Left] = []
    course(run, home, lambda course: found.append(course.state.lefts[-1]))
    return found


def naive(run: Recipe, score: Callable[[Tensor, Tensor], Tensor] | None) -> Tensors:
    """Anytime progressive pruning with full replay and SGD, of one network: the weights at the end."""
    torch.manual_seed(0)
    model = build_model(run, DIGITS, Builder())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    weights = [model.linear1.weight, model.linear2.weight]
    masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    seen = [torch.zeros(0, dtype=torch.int64)] * 2
    for number, new in enumerate(arrivals(Anytime(megabatches=3), DIGITS.train.labels, run.validation, 0)):
        seed = stage_seed(0, number, 0)
        seen = [torch.cat([before, ids]) for before, ids in zip(seen, (new.train, new.validation), strict=True)]
        train, validation = (DIGITS.train.select(ids) for ids in seen)
        if score is not None:
            density = 0.8 ** torch.linspace(1, 4.5, 3, dtype=torch.float64)[number]
            count = round(float(density) * sum(weight.numel() for weight in weights))
            looked = torch.randperm(len(train), generator=seeded(seed, "evidence"))[: round(0.2 * len(train))]
            gradients = summed(model, weights, train.select(looked))
            scores = [score(w, g).masked_fill(~m, -1.0) for w, g, m in zip(weights, gradients, masks, strict=True)]
            threshold = torch.cat([one.flatten() for one in scores]).topk(count).values[-1]
            masks = [one >= threshold for one in scores]
        forget(weights, masks, optimizer)
        batches, best = Stream(train, 32, data=DIGITS, seed=seed), (-1.0, model.state_dict())
        for step in range(1, 7):
            inputs, labels = next(batches)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            forget(weights, masks, optimizer)
            if step % 3 == 0:
                accuracy = evaluate(model, evaluation_batches(validation, 1000, DIGITS)).accuracy
                if accuracy > best[0]:
                    best = accuracy, {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(best[1])
    return dict(model.state_dict())


def summed(model: nn.Module, weights: list[Tensor], images: Images) -> list[Tensor]:
    """The gradients of the mean losses of batches, each counting by its share of a whole batch, summed."""
    total = [torch.zeros_like(weight) for weight in weights]
    for inputs, labels in evaluation_batches(images, EVIDENCE_BATCH, DIGITS):
        loss = nn.functional.cross_entropy(model(inputs), labels)
        for one, gradient in zip(total, torch.autograd.grad(loss, weights), strict=True):
            one += gradient * len(labels) / min(EVIDENCE_BATCH, len(images))
    return total


def forget(weights: list[Tensor], masks: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Zero weights and momentum off the masks."""
    with torch.no_grad():
        for weight, mask in zip(weights, masks, strict=True):
            weight.mul_(mask)
            if optimizer.state[weight]:
                optimizer.state[weight]["momentum_buffer"].mul_(mask)


@pytest.mark.parametrize(
    ("method", "score"),
    [("snip", lambda w, g: (w * g).abs()), ("magnitude", lambda w, g: w.abs()), ("dense", None)],
    ids=["snip", "magnitude", "dense"],
)
def test_weights_are_those_of_a_naive_twin(method: str, score: Any, tmp_path: Path) -> None:
    run = stream(method=method)
    train(run, tmp_path, silent)
    ours, twin = weights_of(tmp_path / run.name()), naive(run, score)
    assert ours.keys() == twin.keys()
    for name, weight in ours.items():
        assert torch.allclose(weight, twin[name], atol=1e-6), name
        assert torch.equal(weight == 0, twin[name] == 0), name


@pytest.mark.parametrize("method", ONE_SHOT)
def test_one_shot_pruners_are_exactly_as_sparse_as_planned_and_nested(method: str, tmp_path: Path) -> None:
    given = {"rounds": 10} if method == "synflow" else {}
    run = stream({"megabatches": 4}, method={method: given}, steps=2, evaluations=1)
    before: Masks = {}
    for left, sparsity in zip(lefts(run, tmp_path), sparsities(SPARSITY, 4), strict=True):
        assert left.masks is not None
        counts = {name: int(mask.sum()) for name, mask in left.masks.items()}
        if method == "random":  # its budget is Erdős-Rényi, rounded layer by layer
            assert sum(counts.values()) == pytest.approx(keep_count(SIZE, sparsity), abs=len(counts))
        else:
            assert sum(counts.values()) == keep_count(SIZE, sparsity)
        assert all(not left.weights[name][~mask].any() for name, mask in left.masks.items())
        assert all(not (mask & ~before[name]).any() for name, mask in left.masks.items() if before)
        before = dict(left.masks)


FOREIGN: dict[str, dict[str, Any]] = {
    "gmp": {"update_every": 1},
    "rigl": {"update_every": 2},
    "set": {"update_every": 2},
    "imp": {"schedule": "allr", "dense": 0.25, "cycles": 2},
    "dpf": {"update_every": 1},
    "granet": {"update_every": 2, "initial": 0.0},
    "dnw": {},
}


@pytest.mark.parametrize("method", FOREIGN)
def test_any_other_method_is_as_sparse_as_planned_after_every_megabatch(method: str, tmp_path: Path) -> None:
    run = stream(method={method: FOREIGN[method]}, evaluations=6)
    for left, sparsity in zip(lefts(run, tmp_path), sparsities(SPARSITY, 3), strict=True):
        assert left.masks is not None
        kept = sum(int(mask.sum()) for mask in left.masks.values())
        assert kept == pytest.approx(keep_count(SIZE, sparsity), abs=2)  # layers round
        nonzero = sum(int(left.weights[name].count_nonzero()) for name in left.masks)
        assert nonzero <= kept


def test_no_method_takes_an_argument_that_a_stream_would_take_from_it() -> None:
    for name, method in METHODS.items():
        assert not signature(method).parameters.keys() & Anytime.model_fields.keys(), name


def test_planned_once_masks_stay(tmp_path: Path) -> None:
    first, *others = (left.masks for left in lefts(stream(method={"snip": {"plan": "once"}}), tmp_path))
    assert first is not None
    assert sum(int(mask.sum()) for mask in first.values()) == keep_count(SIZE, SPARSITY)
    for masks in others:
        assert masks is not None
        assert all(torch.equal(first[name], mask) for name, mask in masks.items())


def test_a_dense_network_stays_dense(tmp_path: Path) -> None:
    result = trained(tmp_path, method="dense")
    assert result["realised_sparsity"] == 0.0
    assert [record["planned_sparsity"] for record in result["stream"]["megabatches"]] == [0.0] * 3
    assert [record["layers"] for record in result["stream"]["megabatches"]] == [{}] * 3


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The batches that training draws."""
    batches: list[Tensor] = []
    drawing = Stream.__next__

    def watched(self: Stream) -> tuple[Tensor, Tensor]:
        batch = drawing(self)
        batches.append(batch[0])
        return batch

    monkeypatch.setattr(Stream, "__next__", watched)
    return batches


@pytest.mark.slow
def test_every_method_trains_on_the_same_batches(drawn: list[Tensor], tmp_path: Path) -> None:
    seen = []
    for method in ("dense", "random", "rigl", {"snip": {"plan": "once"}}):
        drawn.clear()
        trained(tmp_path, method=method, images=300)
        seen.append(torch.cat(drawn))
    assert len(seen[0]) == 3 * 6 * 32
    assert all(torch.equal(seen[0], one) for one in seen)
    drawn.clear()
    trained(tmp_path, seed=1, images=300)
    assert not torch.equal(seen[0], torch.cat(drawn))


REPLAYS: list[Any] = ["none", "full", {"last": 1}, {"fraction": 0.5}, {"reservoir": 200}]


@dataclass
class Noted:
    """Images that note which of them were asked for."""

    images: Store
    asked: list[set[int]]

    def select(self, indices: Tensor) -> Labelled:
        """Those at ``indices``."""
        self.asked.append(set(indices.tolist()))
        return self.images.select(indices)


@pytest.mark.parametrize("replay", REPLAYS, ids=str)
def test_nothing_validates_that_was_trained_on_or_looked_at(
    replay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[int]] = []
    made = Course.__post_init__

    def noting(self: Course) -> None:
        made(self)
        self.images = Noted(self.images, asked)

    monkeypatch.setattr(Course, "__post_init__", noting)
    course(stream({"replay": replay, "megabatches": 4}, steps=1, evaluations=1), tmp_path)
    assert len(asked) == 4 * 3
    train, validation = set().union(*asked[0::3]), set().union(*asked[1::3])
    assert not train & validation
    assert train | validation == set(range(len(DIGITS.train)))
    assert all(looked <= trained_on for trained_on, looked in zip(asked[0::3], asked[2::3], strict=True))


def test_what_methods_look_at_is_a_random_share_or_the_head() -> None:
    train = torch.arange(1000, 2000)
    drawn = [to_look_at(Anytime(evidence=0.1), train, 500, seed) for seed in (0, 0, 1)]
    assert len(set(drawn[0].tolist())) == 100
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(to_look_at(Anytime(evidence=0.2, evidence_from="head"), train, 500, 0), train[:100])


STEPPED = {"piecewise": {"boundaries": [0.4, 0.8], "values": [0.1, 0.01, 0.001]}}
RATES = {
    "cyclic": 2 * ([0.1] * 20 + [0.01] * 20 + [0.001] * 10),
    "noncyclic": [0.1] * 20 + [0.01] * 20 + [0.001] * 60,
    "whole": [0.1] * 40 + [0.01] * 40 + [0.001] * 20,
}


@pytest.mark.parametrize("rates", RATES)
def test_rates_of_megabatches(rates: str, tmp_path: Path) -> None:
    settings = {"megabatches": 2, "rates": rates}
    run = stream(settings, method="dense", learning_rate=STEPPED, steps=50, evaluations=25, images=64)
    train(run, tmp_path, silent)
    lines = read_lines(tmp_path / run.name() / "metrics.jsonl")
    assert [line["learning_rate"] for line in lines] == RATES[rates][1::2]
    assert [line["megabatch"] for line in lines] == [0] * 25 + [1] * 25


STILL = {"learning_rate": 1e-12, "steps": 20, "evaluations": 20}  # nothing is learned


def test_patience_ends_a_megabatch_early(tmp_path: Path) -> None:
    records = trained(tmp_path, {"patience": 1.5}, **STILL, images=300)["stream"]["megabatches"]
    for (record,) in (record["trained"] for record in records):
        assert record["best_step"] == 1
        assert record["steps"] == min(20, 1 + math.ceil(1.5 * record["train"] / 32))  # the first evaluation is best
        assert record["epochs"] == record["steps"] / (record["train"] / 32)
    assert records[0]["trained"][0]["steps"] < records[1]["trained"][0]["steps"] < 20


@pytest.mark.parametrize("every", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_patience_waits_for_the_planned_sparsity(every: int, tmp_path: Path) -> None:
    longer = STILL | {"steps": 30, "evaluations": 30}
    run = stream({"patience": 1.5}, **longer, method={"gmp": {"update_every": every}}, images=300)
    for left, sparsity in zip(lefts(run, tmp_path), sparsities(SPARSITY, 3), strict=True):
        assert left.masks is not None
        assert sum(int(mask.sum()) for mask in left.masks.values()) == keep_count(SIZE, sparsity)
    assert len(read_lines(tmp_path / "metrics.jsonl")) < 90


@pytest.mark.parametrize(
    ("kept", "method"),
    [("best", {"gmp": {"update_every": 2}}), ("best", {"dpf": {"update_every": 2}}), ("last", "snip")],
)
def test_a_megabatch_leaves_its_best_or_its_last_weights(kept: str, method: Any, tmp_path: Path) -> None:
    run = stream({"weights": kept}, method=method, learning_rate=1.0, steps=12, evaluations=12)
    result = train(run, tmp_path, silent)
    lines = read_lines(tmp_path / run.name() / "metrics.jsonl")
    best = []
    for number, record in enumerate(result["stream"]["megabatches"]):
        of_megabatch = [line for line in lines if line["megabatch"] == number]
        accuracies = [one["accuracy"] for one in of_megabatch if one["sparsity"] == of_megabatch[-1]["sparsity"]]
        (one,) = record["trained"]
        assert one["validation_accuracy"] == (max(accuracies) if kept == "best" else accuracies[-1])
        best.append(one["best_step"])
    assert (min(best) < 12) == (kept == "best")  # so that the two differ
    assert result["validation"]["accuracy"] == one["validation_accuracy"]
    assert result["test"]["accuracy"] == pytest.approx(1 - record["errors"] / record["tested"])


def test_without_warm_every_megabatch_begins_from_fresh_weights(tmp_path: Path) -> None:
    run = stream({"warm": False}, method="dense", learning_rate=1e-30, steps=1, evaluations=1)
    for number, left in enumerate(lefts(run, tmp_path)):
        torch.manual_seed(stage_seed(0, number, 0))
        fresh = build_model(run, DIGITS, Builder()).state_dict()
        assert all(torch.equal(fresh[name], weight) for name, weight in left.weights.items())


@pytest.mark.parametrize("kept", ["keep", "reset"])
def test_the_optimizer_is_kept_or_begins_anew(kept: str, tmp_path: Path) -> None:
    run = stream({"optimizer_state": kept})
    for left in lefts(run, tmp_path):
        assert set(left.moments) == (set(left.weights) if kept == "keep" else set())
        assert left.masks is not None
        for name, mask in left.masks.items() if kept == "keep" else ():
            assert not left.moments[name]["momentum_buffer"][~mask].any()


def test_without_replay_a_stream_of_one_megabatch_is_like_a_plain_run_of_its_images(tmp_path: Path) -> None:
    (record,) = trained(tmp_path, {"megabatches": 1})["stream"]["megabatches"]
    assert record["planned_sparsity"] == SPARSITY  # and not 0.2, as in the released code
    assert record["examples"] == len(DIGITS.train)
    assert record["trained"][0]["train"] == int(0.9 * len(DIGITS.train))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"method": {"snip": {"plan": "twice"}}}, r"method\.snip\.plan: .*'progressive' or 'once', got 'twice'"),
    ({"method": {"snip": {"megabatchs": 3}}}, "megabatchs"),
    ({"method": {"snip": {"wait": 0}}}, r"method\.snip\.wait: .*greater than or equal to 1, got 0"),
    ({"method": {"snip": {"size": 100}}}, r"method\.snip\.give the number of megabatches or their size, one of"),
    ({"method": {"snip": {"replay": "some"}}}, r"method\.snip\.replay: replay must be none, full, .* got 'some'"),
    (
        {"method": {"gmp": {"masks": "intersect-fresh"}}},
        r"anytime\.masks and anytime\.scores are for methods that prune",
    ),
    ({"method": "rigl", "anytime": {"scores": "reinit"}}, r"anytime\.masks and anytime\.scores are for methods that"),
    (
        {"anytime": {"rates": "noncyclic"}, "learning_rate": {"cosine": {"initial": 0.1, "final": 0.0}}},
        r"anytime\.rates=noncyclic keeps the learning rate .* which is 0 here",
    ),
    ({"anytime": {"megabatches": 1437}}, r"anytime: megabatch 0 must have an example to train on .* make megabatches"),
    ({"anytime": {"megabatches": 1438}}, r"anytime: there must be from 1 to 1437 megabatches, .* got 1438"),
    ({"anytime": {"per_class": 500}}, r"anytime: few-shot needs 500 examples of each class, class 0 has"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=lambda value: str(value)[:60])
def test_what_does_not_fit_is_one_clear_error_before_training(changes: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        trained(tmp_path, changes.get("anytime"), **{key: changes[key] for key in changes if key != "anytime"})
    assert "\n" not in str(caught.value)
    assert not [line for path in tmp_path.rglob("metrics.jsonl") for line in read_lines(path)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "str"}, "learns which weights to drop and may bring back what is dropped already"),
        ({"method": "imp", "anytime": {"rates": "noncyclic"}}, "anytime.rates=noncyclic is for methods that leave"),
    ],
    ids=str,
)
def test_what_cannot_go_on_at_the_second_megabatch_is_said_before_the_first(
    changes: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, sparsity=0.5, **{"anytime": {"megabatches": 2}} | changes)
    assert prunus("anytime", path, "--out", tmp_path / "out") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error
    assert not list((tmp_path / "out").rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    "others", [{"start": {"epochs": 1}}, {"start": "runs/x"}, {"learn": {}}, {"recalibrate": 2}], ids=str
)
def test_a_stream_begins_alone(others: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (key,) = others
    path = written(tmp_path, seed=2000, anytime={"megabatches": 2}, **others)
    assert prunus("anytime", path, "--out", tmp_path / "out") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"prunus: anytime begins from fresh weights and does not go with {key}; leave that out"


def test_a_recipe_without_a_stream_is_not_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus("anytime", written(tmp_path), "--out", tmp_path / "out") == 2
    assert "must hold the key anytime, such as anytime.megabatches=8" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_a_study_of_all_methods(tmp_path: Path, undrawn: None) -> None:
    methods = {"dense": {}, "snip": {"plan": {"each": ["once", "progressive"]}}}
    path = written(tmp_path, method=methods, sparsity=0.5, steps=2, anytime={"megabatches": 2})
    assert prunus("anytime", path, "--out", tmp_path / "out", "--workers", 1) == 0
    results = [json.loads(found.read_text()) for found in (tmp_path / "out").rglob("result.json")]
    assert sorted(result["arguments"].get("plan", "dense") for result in results) == ["dense", "once", "progressive"]
    planned = {result["arguments"].get("plan"): result["stream"]["megabatches"][0] for result in results}
    assert planned["once"]["planned_sparsity"] == 0.5
    assert planned["progressive"]["planned_sparsity"] == pytest.approx(0.2)


def test_a_method_may_have_a_network_of_its_own() -> None:
    wide = {"mlp": {"widths": [24]}}
    study = tiny(method={"dense": {"model": {"each": [wide]}}, "snip": {}}, sparsity=0.5, anytime={"megabatches": 3})
    dense, snip = study.runs()
    assert (dense.model, snip.model) == (wide, study.model)
    assert single(dense).own == {}
    assert {run.name() for run in study.runs()} == {run.name() for one in study.runs() for run in one.runs()}
    with pytest.raises(RecipeError, match=r"anytime.model is for one method"):
        tiny(anytime={"model": wide})
