"""A run: a directory named by its recipe, its metrics, its result; every field of a recipe reaches the training."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import read_lines, tiny
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

from prunus import prepare as prepare_module
from prunus import runs
from prunus.data import Images, Stream
from prunus.data.stream import EvaluationBatches
from prunus.loop import Progress
from prunus.methods import METHODS
from prunus.prepare import Prepared, prepare
from prunus.recipes import Recipe, read
from prunus.runs import train

RESULT = {
    *("format", "method", "arguments", "sparsity", "seed", "data", "model", "steps", "epochs", "batch_size", "test"),
    *("validation", "realised_sparsity", "layers", "collapsed", "parameters", "parameters_kept", "macs", "macs_kept"),
    *("theoretical_speedup", "bytes_dense", "bytes_packed", "train_seconds", "extra_forward_backward", "versions"),
    *("device", "precision", "threads", "training_bytes", "peak_bytes", "pretraining", "recalibration", "cycles"),
    *("learning_rates", "training_macs", "training_macs_dense", "world_size", "gradients"),
}


def quiet(progress: Progress) -> None:
    pass


def trained(recipe: Recipe, directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result and the metrics of a run."""
    result = train(recipe, directory, quiet)
    return result, read_lines(directory / recipe.name() / "metrics.jsonl")


def test_a_run_leaves_its_recipe_its_metrics_and_its_result(tmp_path: Path) -> None:
    recipe = tiny()
    told: list[Progress] = []
    result = train(recipe, tmp_path, told.append)
    home = tmp_path / recipe.name()
    names = {"recipe.yaml", "metrics.jsonl", "result.json", "model.safetensors", "masks.safetensors", ".lock"}
    assert {path.name for path in home.iterdir()} == names
    assert (home / "result.json").read_text() == json.dumps(result, indent=1)
    assert read(home / "recipe.yaml").name() == recipe.name()
    assert [(progress.step, progress.steps) for progress in told] == [(2, 6), (4, 6), (6, 6)]
    assert [progress.accuracy for progress in told] == [line["accuracy"] for line in read_lines(home / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(6, 3, [2, 4, 6]), (7, 3, [2, 4, 6, 7]), (3, 20, [1, 2, 3]), (5, 1, [5])],
)
def test_metrics_end_at_the_last_step(steps: int, evaluations: int, expected: list[int], tmp_path: Path) -> None:
    result, lines = trained(tiny(steps=steps, evaluations=evaluations), tmp_path)
    assert [line["step"] for line in lines] == expected
    assert [line["epoch"] for line in lines] == pytest.approx([step * 32 / 1293 for step in expected])
    assert all(set(line) == {"step", "epoch", "loss", "learning_rate", "sparsity", "accuracy", "nll"} for line in lines)
    assert lines[-1]["sparsity"] == result["realised_sparsity"]
    assert (lines[-1]["accuracy"], lines[-1]["nll"]) == (result["validation"]["accuracy"], result["validation"]["nll"])


def test_the_result_agrees_with_a_count_by_hand(tmp_path: Path) -> None:
    result, _ = trained(tiny(method="magnitude"), tmp_path)
    assert set(result) == RESULT
    weights, biases = 64 * 16 + 16 * 10, 16 + 10
    kept = weights - math.floor(0.9 * weights + 0.5)
    assert (weights, kept) == (1184, 118)
    assert result["realised_sparsity"] == 1 - kept / weights
    assert (result["parameters"], result["parameters_kept"]) == (weights + biases, kept + biases)
    assert (result["macs"], result["macs_kept"]) == (weights, kept)
    assert result["theoretical_speedup"] == pytest.approx(weights / kept)
    assert result["bytes_dense"] == 4 * (weights + biases)
    assert result["bytes_packed"] == (tmp_path / tiny(method="magnitude").name() / "model.safetensors").stat().st_size
    assert [(layer["name"], layer["shape"]) for layer in result["layers"]] == [
        ("linear1.weight", [16, 64]),
        ("linear2.weight", [10, 16]),
    ]
    for layer in result["layers"]:
        assert layer["weights"] == layer["macs"] == math.prod(layer["shape"])
        assert layer["sparsity"] == 1 - layer["kept"] / layer["weights"]
        assert layer["macs_kept"] == layer["kept"]
    assert sum(layer["kept"] for layer in result["layers"]) == kept
    assert (result["test"]["n"], result["validation"]["n"]) == (360, 144)
    assert (result["method"], result["sparsity"], result["seed"], result["steps"]) == ("magnitude", 0.9, 0, 6)
    assert (result["collapsed"], result["extra_forward_backward"]) == ([], 0)
    assert result["epochs"] == pytest.approx(6 * 32 / (1437 - 144))


def test_dense_costs_what_dense_costs(tmp_path: Path) -> None:
    result, lines = trained(next(tiny(method="dense").runs()), tmp_path)
    assert (result["sparsity"], result["realised_sparsity"], result["theoretical_speedup"]) == (0.0, 0.0, 1.0)
    assert result["parameters"] == result["parameters_kept"] == 1210
    assert result["bytes_dense"] == 4840 < result["bytes_packed"]  # which has a header
    assert {line["sparsity"] for line in lines} == {0.0}


def test_layers_left_out_stay_dense_and_keep_their_operations(tmp_path: Path) -> None:
    result, _ = trained(tiny(method="magnitude", exclude="linear2*"), tmp_path)
    assert [layer["name"] for layer in result["layers"]] == ["linear1.weight"]
    kept = 1024 - math.floor(0.9 * 1024 + 0.5)
    assert result["realised_sparsity"] == 1 - kept / 1024
    assert (result["macs"], result["macs_kept"]) == (1184, kept + 160)
    assert result["parameters_kept"] == 1210 - 1024 + kept


def test_a_layer_with_one_weight_left_is_named(tmp_path: Path) -> None:
    own = {"gmp": {"update_every": 2, "allocation": {"linear2*": 0.999}}}
    result, _ = trained(tiny(method=own), tmp_path)
    assert result["collapsed"] == ["linear2.weight"]


def test_a_finished_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(tiny(), tmp_path, quiet)
    monkeypatch.setattr(runs, "prepare", lambda recipe: pytest.fail("prepared again"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert json.dumps(train(tiny(), tmp_path, quiet)) == json.dumps(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_that_was_interrupted_before_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "a", interrupt)
    home = tmp_path / "a" / tiny().name()
    assert not (home / "result.json").exists()
    assert [line["step"] for line in read_lines(home / "metrics.jsonl")] == [2, 4]
    resumed, lines = trained(tiny(), tmp_path / "a")
    uninterrupted, expected = trained(tiny(), tmp_path / "b")
    assert lines == expected
    assert resumed | {"train_seconds": 0} == uninterrupted | {"train_seconds": 0}


def test_the_same_recipe_gives_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(1)
    _, first = trained(tiny(method="set"), tmp_path / "a")
    torch.manual_seed(2)
    _, second = trained(tiny(method="set"), tmp_path / "b")
    assert first == second
    _, other = trained(tiny(method="set", seed=1), tmp_path / "c")
    assert other != first


# For every field of a recipe another value, and what it must have changed in the prepared run.
Reaches = tuple[Any, Callable[[Prepared], bool]]


def group(prepared: Prepared) -> dict[str, Any]:
    return dict(prepared.training.optimizer.param_groups[0])


def stream(prepared: Prepared) -> Stream:
    assert isinstance(prepared.training.batches, Stream)
    return prepared.training.batches


def masks(prepared: Prepared) -> set[str]:
    assert prepared.sparsifier is not None
    return set(prepared.sparsifier.masks)


CONV_NET = {"conv-net": {"widths": [4, 8], "hidden": 8}}
FIELDS: dict[str, Reaches] = {
    "data": ("own.npz", lambda p: p.data.name == "own" and p.data.input_shape == (1, 4, 4)),
    "model": ({"mlp": {"widths": [5, 7]}}, lambda p: p.model.linear2.weight.shape == (7, 5)),  # type: ignore[union-attr]
    "method": ({"rigl": {"update_every": 3}}, lambda p: p.sparsifier.method.cadence.steps == 3),  # type: ignore[union-attr]
    "sparsity": ({"method": "magnitude", "sparsity": 0.5}, lambda p: p.sparsifier.sparsity() == 0.5),  # type: ignore[union-attr]
    "seed": (7, lambda p: stream(p).seed == 7 and p.sparsifier.site.seed == 7),  # type: ignore[union-attr]
    "epochs": ({"epochs": 0.5, "steps": None}, lambda p: p.training.steps == round(0.5 * 1293 / 32)),
    "steps": (7, lambda p: p.training.steps == 7 and p.sparsifier.site.steps == 7),  # type: ignore[union-attr]
    "batch_size": (33, lambda p: len(next(stream(p))[1]) == 33),
    "optimizer": ({"rmsprop": {"alpha": 0.5}}, lambda p: group(p).get("alpha") == 0.5),
    "learning_rate": ({"cosine": {"initial": 0.3}}, lambda p: p.training.learning_rate(0.5) == 0.15),  # type: ignore[misc]
    "label_smoothing": (0.25, lambda p: p.training.loss.label_smoothing == 0.25),  # type: ignore[attr-defined]
    "accumulate": (3, lambda p: p.training.accumulate == 3 and p.epoch_steps == 1293 / 96),
    "clip": (0.5, lambda p: p.training.clip == 0.5),
    "precision": ("64-true", lambda p: {w.dtype for w in p.model.parameters()} == {torch.float64}),
    "compile": (True, lambda p: any(isinstance(m, OptimizedModule) for m in p.training.model.modules())),
    "channels_last": (
        {"model": CONV_NET, "channels_last": True},
        lambda p: p.model.conv2.weight.is_contiguous(memory_format=torch.channels_last),  # type: ignore[union-attr]
    ),
    "device": ("auto", lambda p: p.device.type == ("cuda" if torch.cuda.is_available() else "cpu")),
    "include": ("linear2.*", lambda p: masks(p) == {"linear2.weight", "linear2.bias"}),
    "exclude": ("linear2.*", lambda p: masks(p) == {"linear1.weight"}),
    "images": (100, lambda p: (len(p.validation), len(stream(p).images)) == (10, 90)),
    "validation": (0.2, lambda p: (len(p.validation), len(stream(p).images)) == (287, 1150)),
    "split_seed": (1, lambda p: not torch.equal(p.validation.images, prepare(tiny()).validation.images)),
    "augmentation": ("crop-flip", lambda p: stream(p).data.augmentation == "crop-flip"),
    "recalibrate": (3, lambda p: p.watch.recalibrate == 3),
    "signal_batches": ({"method": "snip", "signal_batches": 3}, lambda p: p.evidence.passes == 3),
}
ELSEWHERE = {
    "anytime": "tests/test_anytime.py",
    "gradients": "tests/test_ranks.py",
    "evaluations": "test_metrics_end_at_the_last_step",
    "learn": "tests/test_lessons.py",
    "plugins": "tests/test_tables.py",
    "scaling": "tests/test_racing.py",
    "search": "tests/test_search.py",
    "start": "tests/test_start.py",
}


def test_every_field_of_a_recipe_is_in_the_table() -> None:
    assert set(FIELDS) | set(ELSEWHERE) == set(Recipe.model_fields)


def own_images(path: Path, train: int, test: int) -> Path:
    """An .npz file of images of 4 x 4 whose pixels are all the number of the image, from 1, test after training."""
    numbers = np.arange(1, train + test + 1, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None], (train + test, 4, 4))
    labels = np.arange(train + test) % 3
    parts = {"train": slice(train), "test": slice(train, None)}
    arrays = {f"{part}_images": images[rows] for part, rows in parts.items()}
    arrays |= {f"{part}_labels": labels[rows] for part, rows in parts.items()}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_reaches_the_training(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own_images(tmp_path / "own.npz", 30, 10)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    value, reached = FIELDS[field]
    changes = value if isinstance(value, dict) and field in value else {field: value}
    assert reached(prepare(tiny(**changes)))
    if field not in ("data", "model", "device"):
        assert not reached(prepare(tiny(model=changes.get("model", tiny().model))))


EFFECTS: list[dict[str, Any]] = [
    {"label_smoothing": 0.25},
    {"accumulate": 2},
    {"clip": 0.01},
    {"precision": "bf16-mixed"},
    {"precision": "64-true"},
    {"augmentation": "crop-flip"},
    {"validation": 0.2},
    {"split_seed": 1},
    {"optimizer": {"sgd": {"momentum": 0.5}}},
    {"optimizer": {"adamw": {"betas": [0.5, 0.6]}}},
    {"learning_rate": {"linear": {"final": 0, "initial": 0.1}}},
    {"exclude": "linear2*"},
]


@pytest.mark.parametrize("changes", EFFECTS, ids=str)
def test_a_field_changes_what_is_learned_and_the_run_ends_well(changes: dict[str, Any], tmp_path: Path) -> None:
    _, before = trained(tiny(), tmp_path)
    result, after = trained(tiny(**changes), tmp_path)
    assert [line["nll"] for line in after] != [line["nll"] for line in before]
    assert result["precision"] == changes.get("precision", "32-true")
    assert math.isfinite(result["test"]["nll"])


@pytest.mark.parametrize(
    "changes", [{"compile": True}, {"model": CONV_NET, "channels_last": True}, {"model": CONV_NET}], ids=str
)
def test_layout_and_compiler_change_nothing_but_the_order_of_sums(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    result, after = trained(tiny(**changes), tmp_path)
    _, before = trained(tiny(**{key: value for key, value in changes.items() if key == "model"}), tmp_path / "plain")
    assert [line["loss"] for line in after] == pytest.approx([line["loss"] for line in before], rel=1e-4)
    assert {layer["name"].partition(".")[2] for layer in result["layers"]} == {"weight"}  # not of a wrapper


def test_all_methods_start_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, dict[str, Tensor]] = {}

    class AttachedError(Exception):
        pass

    def recorded(model: nn.Module, *arguments: Any, **named: Any) -> Any:
        seen[method] = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        raise AttachedError

    monkeypatch.setattr(prepare_module, "sparsify", recorded)
    for method in METHODS:
        with pytest.raises(AttachedError):
            prepare(tiny(method=method))
    for name, parameter in prepare(tiny(method="dense")).model.named_parameters():
        assert all(torch.equal(weights[name], parameter) for weights in seen.values())
    other = prepare(tiny(method="dense", seed=1)).model
    assert not torch.equal(dict(other.named_parameters())["linear1.weight"], seen["gmp"]["linear1.weight"])


@pytest.mark.parametrize("method", ["dense", "snip", "grasp", "rigl"])
def test_validation_and_test_images_never_train(method: str, tmp_path: Path) -> None:
    path = own_images(tmp_path / "own.npz", train=40, test=20)
    (recipe,) = tiny(data=str(path), method=method, sparsity=0.5, steps=12, batch_size=10, validation=0.25).runs()
    prepared = prepare(recipe)
    mean, std = prepared.data.pixel_statistics()
    seen: dict[bool, set[int]] = {True: set(), False: set()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        numbers = (inputs[0] * std + mean)[:, 0, 0, 0].round().long()
        seen[module.training and torch.is_grad_enabled()].update(numbers.tolist())

    prepared.model.register_forward_pre_hook(record)
    for batch, _ in prepared.evidence if method in ("snip", "grasp") else ():
        seen[True].update((batch * std + mean)[:, 0, 0, 0].round().long().tolist())
    prepared.training.run()
    prepared.quality(prepared.validation)
    validated = set(seen[False])
    prepared.quality(prepared.test)
    assert validated == set(prepared.validation.images[:, 0, 0, 0].tolist())
    assert (len(validated), len(seen[True])) == (10, 30)
    assert seen[True].isdisjoint(validated)
    assert seen[True] | validated == set(range(1, 41))
    assert seen[False] - validated == set(range(41, 61))


def test_the_test_set_is_looked_at_once_after_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[tuple[int, int]] = []
    steps = 0

    def evaluated(model: nn.Module, batches: EvaluationBatches, **options: Any) -> Any:
        looks.append((steps, len(batches.images)))
        return original(model, batches, **options)

    def counted(progress: Progress) -> None:
        nonlocal steps
        steps = progress.step

    original = prepare_module.evaluate
    monkeypatch.setattr(prepare_module, "evaluate", evaluated)
    train(tiny(), tmp_path, counted)
    assert [look for look in looks if look[1] == 360] == [(6, 360)]
    assert {look[1] for look in looks} == {144, 360}


def test_evidence_is_the_first_training_batches_and_is_counted(tmp_path: Path) -> None:
    prepared = prepare(tiny(method="snip", signal_batches=3))
    first = [next(stream(prepared)) for _ in range(3)]
    evidence = list(prepared.evidence)
    assert all(torch.equal(a, b) for pair in zip(first, evidence, strict=True) for a, b in zip(*pair, strict=True))
    result, _ = trained(tiny(method="snip", signal_batches=3), tmp_path)
    assert result["extra_forward_backward"] == 3
    result, _ = trained(tiny(method="grasp", signal_batches=3), tmp_path)
    assert result["extra_forward_backward"] == 6  # two passes


def test_images_are_split_before_anything_else() -> None:
    prepared = prepare(tiny())
    rows = {tuple(image.flatten().tolist()) for image in prepared.validation.images}
    images: Images = stream(prepared).images
    assert (len(images), len(prepared.validation), len(prepared.test)) == (1293, 144, 360)
    assert all(tuple(image.flatten().tolist()) not in rows for image in images.images)
