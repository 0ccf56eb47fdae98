"""Recipes: what they hold, how overrides change them, the runs they stand for, and the names of those."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import TINY, tiny, written
from torch.nn.functional import cross_entropy

from prunus.plugins import modules
from prunus.recipes import Recipe, RecipeError, parse, read, single
from prunus.schedules import Cosine
from prunus.tables import Builder

ROOT = Path(__file__).parents[1]

# Another value for every field of a recipe.
CHANGES: dict[str, Any] = {
    "data": "mnist",
    "model": {"mlp": {"widths": [17]}},
    "method": {"gmp": {"update_every": 3}},
    "sparsity": 0.91,
    "seed": 1,
    "epochs": {"epochs": 2.5, "steps": None},
    "steps": 7,
    "batch_size": 33,
    "optimizer": {"sgd": {"momentum": 0.8}},
    "learning_rate": {"cosine": {"initial": 0.1}},
    "label_smoothing": 0.1,
    "accumulate": 2,
    "gradients": "packed",
    "clip": 1.0,
    "precision": "bf16-mixed",
    "compile": True,
    "channels_last": True,
    "device": "auto",
    "include": "*.weight",
    "exclude": "linear2*",
    "images": 500,
    "validation": 0.2,
    "split_seed": 1,
    "augmentation": "crop-flip",
    "evaluations": 4,
    "signal_batches": 3,
    "recalibrate": 3,
    "start": __file__,
    "plugins": "json",
    "search": {"trainings": 4},
    "learn": {"learn": {"trainings": 6}, "seed": 2000},
    "anytime": {"megabatches": 4},
    "scaling": {"goal": 0.1, "batch_sizes": [8], "optimizers": ["sgd"]},
}


def changed(field: str) -> Recipe:
    change = CHANGES[field]
    return tiny(**(change if field in ("epochs", "learn") else {field: change}))


def test_defaults_are_the_documented_ones() -> None:
    recipe = parse({"data": "digits", "model": "mlp", "method": "rigl", "epochs": 2})
    assert recipe.method == {"rigl": {}}
    assert (recipe.sparsity, recipe.seed, recipe.batch_size, recipe.optimizer) == ((0.9,), (0,), 128, "sgd")
    assert (recipe.learning_rate, recipe.precision, recipe.validation, recipe.accumulate) == (0.1, "32-true", 0.1, 1)
    assert recipe.resolved()["label_smoothing"] == 0.0


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gmp", {"gmp": {}}),
        (["dense", "gmp"], {"dense": {}, "gmp": {}}),
        ({"dense": None, "Mp_Rr": {"update_every": 3}}, {"dense": {}, "mp-rr": {"update_every": 3}}),
        (["dense", {"rigl": {"until": 0.5}}], {"dense": {}, "rigl": {"until": 0.5}}),
    ],
    ids=str,
)
def test_methods_are_written_as_a_name_a_list_or_calls(method: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    assert tiny(method=method).method == expected
    assert read(written(tmp_path, method=method)).method == expected


@pytest.mark.parametrize("method", [["gmp", {"gmp": {"until": 0.5}}], {"mp-rr": {}, "mp_rr": {}}], ids=str)
def test_a_method_named_twice_is_not_dropped_in_silence(method: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="method must hold each name once"):
        tiny(method=method)
    with pytest.raises(RecipeError, match="method must hold each name once"):
        read(written(tmp_path, method=method))


@pytest.mark.parametrize(
    ("override", "field", "expected"),
    [
        ("sparsity=0.95", "sparsity", (0.95,)),
        ("sparsity=[0.5,0.75]", "sparsity", (0.5, 0.75)),
        ("seed=[0, 1, 2]", "seed", (0, 1, 2)),
        ("method.gmp.update_every=50", "method", {"gmp": {"update_every": 50}}),
        ("method.gmp.allocation=2:4", "method", {"gmp": {"update_every": 2, "allocation": "2:4"}}),
        ("method=rigl", "method", {"rigl": {}}),
        ("method=[rigl, set]", "method", {"rigl": {}, "set": {}}),
        ("method={rigl: {until: 0.5}}", "method", {"rigl": {"until": 0.5}}),
        ("model=lenet-300-100", "model", "lenet-300-100"),
        ("model.mlp.widths=[3, 4]", "model", {"mlp": {"widths": [3, 4]}}),
        ("optimizer.sgd.weight_decay=5e-4", "optimizer", {"sgd": {"momentum": 0.9, "weight_decay": 0.0005}}),
        ("learning_rate=1e-3", "learning_rate", 0.001),
        ("learning_rate=2E-3", "learning_rate", 0.002),
        ("learning_rate={cosine: {initial: .5e-1}}", "learning_rate", {"cosine": {"initial": 0.05}}),
        ("exclude=linear2*", "exclude", ("linear2*",)),
        ("exclude=*2.weight", "exclude", ("*2.weight",)),
        ("include=[linear1.weight, linear2.weight]", "include", ("linear1.weight", "linear2.weight")),
        ("clip=1", "clip", 1.0),
        ("compile=true", "compile", True),
        ("augmentation=none", "augmentation", "none"),
    ],
)
def test_an_override_changes_its_field_alone(override: str, field: str, expected: Any, tmp_path: Path) -> None:
    before, after = read(written(tmp_path)), read(written(tmp_path), [override])
    assert getattr(after, field) == expected
    assert after == before.model_copy(update={field: expected})


def test_overrides_reach_into_bare_names_and_into_what_the_file_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("data: digits\nmodel: mlp\nmethod: [dense, mp-rr]\nepochs: 1\n")
    overrides = ["method.mp_rr.update_every=3", "model.mlp.widths=[5]", "optimizer.sgd.momentum=0.5", "steps=4"]
    recipe = read(path, [*overrides, "epochs="])
    assert recipe.method == {"dense": {}, "mp-rr": {"update_every": 3}}
    assert (recipe.model, recipe.optimizer) == ({"mlp": {"widths": [5]}}, {"sgd": {"momentum": 0.5}})
    assert (recipe.steps, recipe.epochs) == (4, None)


def test_numbers_in_a_file_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text(
        "data: digits\nmodel: mlp\nmethod: {rigl: {allocation: 2:4}}\nsteps: 4\nlearning_rate: 1e-3\n"
        "optimizer: {adamw: {weight_decay: 5e-4, eps: 1e-8}}\n"
    )
    recipe = read(path)
    assert recipe.learning_rate == 0.001
    assert recipe.optimizer == {"adamw": {"weight_decay": 0.0005, "eps": 1e-08}}
    assert recipe.method == {"rigl": {"allocation": "2:4"}}


def test_a_study_is_every_method_at_every_sparsity_with_every_seed_and_dense_once_a_seed() -> None:
    study = tiny(method=["dense", "gmp", "rigl"], sparsity=[0.5, 0.9], seed=[0, 1, 2])
    runs = [single(run) for run in study.runs()]
    expected = [("dense", 0.0, seed) for seed in range(3)]
    expected += [(method, s, seed) for method in ("gmp", "rigl") for seed in range(3) for s in (0.5, 0.9)]
    assert [(run.method, run.sparsity, run.seed) for run in runs] == expected
    assert len({run.name() for run in study.runs()}) == 15
    with pytest.raises(RecipeError, match="train runs one method, sparsity, seed and length, the recipe stands for 15"):
        single(study)


def test_a_run_changes_nothing_else() -> None:
    study = tiny(method=["dense", "gmp"], sparsity=[0.5, 0.9], seed=[0, 1])
    for run in study.runs():
        rest = set(Recipe.model_fields) - {"method", "sparsity", "seed"}
        assert all(getattr(run, field) == getattr(study, field) for field in rest)


def test_by_sparsity_chooses_one_argument_for_each() -> None:
    initial = {"by_sparsity": {0.5: -2.2, 0.9: -1.8}}
    study = tiny(method={"str": {"initial": initial, "decay": 0.1}, "gmp": {}}, sparsity=[0.9, 0.5])
    assert [run.method for run in study.runs()] == [
        {"str": {"initial": -1.8, "decay": 0.1}},
        {"str": {"initial": -2.2, "decay": 0.1}},
        {"gmp": {}},
        {"gmp": {}},
    ]
    alone = tiny(method={"str": {"initial": -1.8, "decay": 0.1}})
    assert next(study.runs()).name() == alone.name()  # the hash is that of the value, not of the choice


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({0.5: 1.0}, r"initial\.by_sparsity holds 0\.5, sparsity is 0\.9"),
        (3, r"initial\.by_sparsity must map sparsities to values, got 3"),
    ],
    ids=str,
)
def test_by_sparsity_needs_the_sparsity(choice: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        list(tiny(method={"str": {"initial": {"by_sparsity": choice}}}).runs())


def test_every_field_has_another_value_here() -> None:
    assert set(CHANGES) == set(Recipe.model_fields)


def test_the_name_differs_for_every_field() -> None:
    names = [tiny().name(), *(changed(field).name() for field in CHANGES)]
    assert len(set(names)) == len(names)
    assert all(len(name) == 12 for name in names)


def shuffled(value: Any, order: random.Random) -> Any:
    """The same mapping with its keys in another order, at every depth."""
    if not isinstance(value, dict):
        return value
    keys = order.sample(list(value), len(value))
    return {key: shuffled(value[key], order) for key in keys}


FULL = TINY | {
    "method": {"mp-rr": {"update_every": 3, "schedule": {"linear": {"final": 0.9, "initial": 0.5}}}},
    "optimizer": {"adamw": {"betas": [0.5, 0.6], "weight_decay": 0.1}},
    "clip": 1.0,
    "exclude": "linear2*",
}


def test_the_name_does_not_depend_on_the_order_of_keys() -> None:
    order = random.Random(0)
    assert {parse(shuffled(FULL, order)).name() for _ in range(20)} == {parse(FULL).name()}


def test_the_name_does_not_depend_on_spelling() -> None:
    name = parse(FULL).name()
    for spelling in ("mp_rr", "MP-RR", "Mp_rr"):
        assert parse(FULL | {"method": {spelling: FULL["method"]["mp-rr"]}}).name() == name
    assert tiny(sparsity=[0.9], seed=[0], exclude=[]).name() == tiny(sparsity=0.9, seed=0).name() == tiny().name()
    assert tiny(method="gmp").name() == tiny(method=["gmp"]).name() == tiny(method={"gmp": None}).name()
    assert tiny(learning_rate=1).name() == tiny(learning_rate=1.0).name()


@pytest.mark.parametrize("field", CHANGES)
def test_a_recipe_written_out_is_read_as_the_same_run(field: str, tmp_path: Path) -> None:
    recipe = changed(field)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.resolved()))
    assert read(path) == recipe
    assert read(path).name() == recipe.name()
    assert parse(recipe.model_dump(mode="json")).name() == recipe.name()  # what a worker process is sent


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_along_hold_runs_that_build(path: Path) -> None:
    recipe = read(path)
    runs = list(recipe.runs())
    assert len({run.name() for run in runs}) == len(runs)
    for run in runs:
        chosen = single(run)
        given = {"sparsity": chosen.sparsity, "batches": (), "loss": cross_entropy, "input_shape": (1, 8, 8)}
        if chosen.method != "dense":
            Builder(given).build("method", {chosen.method: chosen.own})


PLUGIN = '''
from __future__ import annotations
from dataclasses import dataclass


@dataclass(frozen=True)
class Half:
    """Half of it."""

    value: float = 1.0

    def __call__(self, progress: float) -> float:
        return self.value / 2
'''


def test_a_plugin_is_a_path_or_a_module_of_this_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halves_of_mine.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path not in ("", str(tmp_path))])
    for name in ("halves_of_mine", "halves_of_mine.py", str(tmp_path / "halves_of_mine.py")):
        (module,) = modules([name])
        half = Builder(plugins=(module,)).build("schedule", {"Half": {"value": 3}})
        assert half(0.5) == 1.5
    assert Builder(plugins=modules(["halves_of_mine"])).build("schedule", {"cosine": {"initial": 1}}) == Cosine(1.0)


@pytest.mark.parametrize("name", ["no_such_module_here", "no_such_file_here.py"])
def test_a_plugin_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(RecipeError, match=f"plugin '{name}' cannot be imported .*give a module or the path of a .py"):
        modules([name])
