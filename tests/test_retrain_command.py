"""``prunus retrain``: runs and files of weights, what is printed, what is refused, and the advice."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli import refused
from tiny import prunus, tiny, written

from prunus.advice import CYCLES, FACTORS, TRAININGS, Advice, Choice, Tried, advise
from prunus.carriers.retrained import Cycle
from prunus.packing import load_packed, save_packed
from prunus.recipes import Recipe
from prunus.recovery import table
from prunus.retraining import discount
from prunus.runs import train

Capture = pytest.CaptureFixture[str]
LINE = {"linear": {"final": 0.0, "initial": 0.1}}


def silent(progress: object) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a dense run of 20 steps."""
    recipe = tiny(method="dense", steps=20, learning_rate=LINE, sparsity=0.0)
    out = tmp_path_factory.mktemp("trained")
    train(recipe, out, silent)
    return out / recipe.name()


def result_in(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_run_is_retrained_as_train_would(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = (trained, "--sparsity", "0.9", "--epochs", "0.2", "--cycles", "2", "--recalibrate", "1")
    assert prunus("retrain", *arguments, "--out", tmp_path) == 0
    output = capsys.readouterr().out
    result = result_in(tmp_path)
    assert re.search(r"^sparsity 0\.9\d*, asked 0\.9$", output, re.MULTILINE)
    assert table([Cycle(**cycle) for cycle in result["cycles"]]) in output
    assert f"test accuracy {100 * result['test']['accuracy']:.2f} %" in output
    assert [cycle["measured"].keys() for cycle in result["cycles"]] == [
        {"trained", "pruned", "recalibrated", "retrained"}
    ] * 2
    recipe = tiny(
        method={"imp": {"schedule": "allr", "cycles": 2}},
        steps=None,
        epochs=0.2,
        learning_rate=LINE,
        recalibrate=1,
        start=str(trained),
    )
    assert f"in {tmp_path / recipe.name()}" in output
    before = (tmp_path / recipe.name() / "result.json").stat().st_mtime_ns
    assert prunus("retrain", *arguments, "--out", tmp_path) == 0
    assert (tmp_path / recipe.name() / "result.json").stat().st_mtime_ns == before


def test_weights_with_a_recipe_are_retrained_as_the_run_that_left_them(trained: Path, tmp_path: Path) -> None:
    state, _ = load_packed(trained / "model.safetensors")
    save_packed(tmp_path / "weights.safetensors", state)
    path = written(tmp_path, method="gmp", steps=20, learning_rate=LINE)
    arguments = ("--sparsity", "0.9", "--epochs", "0.2", "--schedule", "slr")
    weights = tmp_path / "weights.safetensors"
    assert prunus("retrain", trained, *arguments, "--out", tmp_path / "a") == 0
    assert prunus("retrain", weights, *arguments, "--recipe", path, "--out", tmp_path / "b") == 0
    first, second = result_in(tmp_path / "a"), result_in(tmp_path / "b")
    assert first["cycles"] == second["cycles"]
    assert first["learning_rates"] == second["learning_rates"]
    assert first["test"] == second["test"]
    overrides = ("--recipe", path, "learning_rate=0.9", "batch_size=64")  # of the retraining, not of what came before
    assert prunus("retrain", weights, *arguments, *overrides, "--out", tmp_path / "c") == 0
    third = result_in(tmp_path / "c")
    assert third["steps"] < first["steps"]
    assert max(rate for _, rate in third["learning_rates"]) == 0.1


def test_a_run_is_named_by_the_weights_and_by_what_is_said_of_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    start = {"weights": str(path), "steps": 20}
    names = {tiny(start=start).name(), tiny(start=start | {"peak": 0.1}).name(), tiny(start=str(path)).name()}
    assert len(names) == 3
    path.write_bytes(b"another")
    assert tiny(start=start).name() not in names


@pytest.mark.parametrize("with_recipe", [True, False])
def test_of_the_peak_the_length_of_training_is_known(trained: Path, tmp_path: Path, with_recipe: bool) -> None:
    recipe = ("--recipe", written(tmp_path, steps=20)) if with_recipe else ()
    arguments = (trained, "--sparsity", "0.1", "--epochs", "0.25", "--peak", "0.7", *recipe, "--out", tmp_path)
    assert prunus("retrain", *arguments) == 0
    result = result_in(tmp_path)
    budget = result["steps"] / 20
    (cycle,) = result["cycles"]
    assert discount(cycle["drop"], cycle["fraction"], budget=0.0) < budget
    assert cycle["peak"] == pytest.approx(0.7 * budget)


def test_overrides_change_the_recipe_of_training(trained: Path, tmp_path: Path) -> None:
    changes = ("method.imp.allocation=uniform", "seed=3", "evaluations=2")
    assert prunus("retrain", trained, *changes, "--sparsity", "0.8", "--epochs", "0.1", "--out", tmp_path) == 0
    result = result_in(tmp_path)
    assert result["seed"] == 3
    assert [layer["sparsity"] for layer in result["layers"]] == pytest.approx([0.8, 0.8], abs=0.005)


def spoilt(directory: Path, trained: Path) -> Path:
    """Weights with NaN, in a directory of a finished run."""
    home = directory / "spoilt"
    home.mkdir()
    for name in ("recipe.yaml", "result.json"):
        (home / name).write_bytes((trained / name).read_bytes())
    state, _ = load_packed(trained / "model.safetensors")
    state["linear1.weight"][0, 0] = float("nan")
    save_packed(home / "model.safetensors", state)
    return home


def sparse(directory: Path, trained: Path) -> Path:
    recipe = tiny(method="magnitude", sparsity=0.8, steps=20, learning_rate=LINE)
    train(recipe, directory, silent)
    return directory / recipe.name()


def as_it_is(directory: Path, trained: Path) -> Path:
    return trained


BAD = [
    (as_it_is, ["method.imp.cycles=99"], r"a budget of \d steps must hold 99 retrainings .*; train longer, or with f"),
    (as_it_is, ["method.imp.schedule=lrw", "epochs=5"], r"rewinding for 202 steps needs .* of pretraining, got 20; re"),
    (
        as_it_is,
        ["model={mlp: {widths: [8]}}"],
        r"must hold the weights of model \{'mlp': .*, 3 of 4 tensors differ, first linear1\.weight is \(16, 64\) for "
        r"\(8, 64\); give",
    ),
    (sparse, ["sparsity=0.5"], r"has sparsity 0\.7998 and a run from it cannot end at 0\.5: .* ask for at least 0\.79"),
    (spoilt, [], r"must hold finite weights, linear1\.weight has NaN or infinity; take an earlier one"),
    (as_it_is, ["method.imp.factor=0"], r"method\.imp: factor must be positive and finite, got 0"),
]


@pytest.mark.parametrize("command", ["retrain", "train", "compare"])
@pytest.mark.parametrize(("start", "overrides", "words"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_bad_input_is_one_line(
    command: str,
    start: Callable[[Path, Path], Path],
    overrides: list[str],
    words: str,
    trained: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    home = start(tmp_path, trained)
    out = ("--out", tmp_path / "out")
    if command == "retrain":
        refused(capsys, words, "retrain", home, "--sparsity", "0.9", "--epochs", "0.2", *overrides, *out)
    else:
        path = written(tmp_path, method={"imp": {}}, steps=None, epochs=0.2, start=str(home))
        refused(capsys, words, command, path, *overrides, *out)
    assert not list((tmp_path / "out").rglob("result.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], r"start must be the directory of a finished run or a file of weights, found none at nowhere"),
        (["alone.safetensors"], r"alone\.safetensors holds weights alone, .*; give --recipe FILE"),
        (["alone.safetensors", "--recipe", "none.yaml"], r"expected a recipe file, found none at none\.yaml"),
        (["alone.safetensors", "--recipe", "several.yaml"], r"must say how long the network was trained, got epochs"),
        (["alone.safetensors", "--recipe", "tiny.yaml", "--peak", "0"], r"peak rate .* must be positive .*, got 0"),
        (["alone.safetensors", "--recipe", "tiny.yaml", "--peak", "1", "--schedule", "ft"], r"ft looks at the rate of"),
        (["alone.safetensors", "--recipe", "tiny.yaml", "seed=[0, 1]"], r"the recipe stands for 2 runs"),
        (["alone.safetensors", "--recipe", "tiny.yaml", "start.peek=1"], r"start: no key is called 'peek'; .*'peak'"),
        (
            ["alone.safetensors", "--recipe", "tiny.yaml", "start.peak=high"],
            r"start\.peak must be a number, got 'hi",
        ),
        (["alone.safetensors", "--recipe", "tiny.yaml", "--advise", "--cycles", "2"], r"--advise chooses the schedule"),
        (["alone.safetensors", "--recipe", "tiny.yaml", "--schedule", "alr"], r"Invalid value .*--schedule"),
        (["alone.safetensors", "--recipe", "tiny.yaml", "--advise", "--advise-epochs", "0"], r"--advise-epochs.*> 0"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_a_retraining_that_cannot_be(
    arguments: list[str],
    words: str,
    trained: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path)
    (tmp_path / "several.yaml").write_text((tmp_path / "tiny.yaml").read_text() + "epochs: [1, 2]\nsteps:\n")
    state, _ = load_packed(trained / "model.safetensors")
    save_packed(tmp_path / "alone.safetensors", state)
    refused(capsys, words, "retrain", *arguments, "--sparsity", "0.9", "--epochs", "1")


def by_the_command(directory: Path, trained: Path) -> Path:
    assert prunus("retrain", trained, "--sparsity", "0.5", "--epochs", "0.1", "--out", directory) == 0
    return next(directory.glob("*/"))


def by_the_command_twice(directory: Path, trained: Path) -> Path:
    once = by_the_command(directory / "once", trained)
    assert (
        prunus("retrain", once, "--sparsity", "0.6", "--epochs", "0.1", "--peak", "0.1", "--out", directory / "2") == 0
    )
    return next((directory / "2").glob("*/"))


def by_a_recipe(directory: Path, trained: Path) -> Path:
    recipe = tiny(method="imp", sparsity=0.5, learning_rate=LINE, start={"steps": 20})
    train(recipe, directory, silent)
    return directory / recipe.name()


def by_bimp(directory: Path, trained: Path) -> Path:
    recipe = tiny(method="bimp", sparsity=0.5, steps=12)
    train(recipe, directory, silent)
    return directory / recipe.name()


@pytest.mark.parametrize("made", [by_the_command, by_the_command_twice, by_a_recipe, by_bimp], ids=lambda f: f.__name__)
def test_a_network_that_was_retrained_needs_its_peak(
    made: Callable[[Path, Path], Path], trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    home = made(tmp_path / "made", trained)
    capsys.readouterr()
    arguments = (home, "--sparsity", "0.61", "--epochs", "0.3", "--out", tmp_path / "again")
    refused(capsys, r"was retrained itself, .*; give --peak, the highest rate of its training", "retrain", *arguments)
    assert prunus("retrain", *arguments, "--peak", "0.2") == 0
    result = result_in(tmp_path / "again")
    assert result["realised_sparsity"] == pytest.approx(0.61, abs=0.001)
    (cycle,) = result["cycles"]
    budget = result["steps"] / 20 if made is by_a_recipe else 0.0  # which alone says how long the network was trained
    assert cycle["peak"] == pytest.approx(0.2 * discount(cycle["drop"], cycle["fraction"], budget=budget))


class Oracle:
    """Stands for training: says the accuracy of each choice, and remembers what was asked."""

    def __init__(self, accuracies: dict[tuple[str, int, float], float | None], default: float = 0.5) -> None:
        self.accuracies, self.default, self.asked = accuracies, default, list[tuple[str, int, float]]()

    def __call__(self, recipe: Recipe) -> dict[str, Any] | None:
        chosen = recipe.method["imp"]
        key = (chosen["schedule"], chosen["cycles"], chosen.get("factor", 1.0))
        self.asked.append(key)
        accuracy = self.accuracies.get(key, self.default)
        quality = {"accuracy": accuracy, "n": 100}
        # the test images say the contrary, and must not be asked
        test = {"accuracy": 1 - (accuracy or 0), "n": 100}
        return None if accuracy is None else {"validation": quality, "test": test, "cycles": [{"peak": 0.1}]}


def retraining(trained: Path, **changes: Any) -> Recipe:
    return tiny(method={"imp": {}}, start=str(trained), **changes)


ONCE = [(name, 1, 1.0) for name in ("allr", "ft", "lrw", "slr", "clr", "llr")]


def test_advice_tries_schedules_then_cycles_then_peaks_of_the_best(trained: Path) -> None:
    oracle = Oracle({("clr", 1, 1.0): 0.6, ("clr", 3, 1.0): 0.7, ("clr", 3, 0.3): 0.65})
    advice = advise(retraining(trained), oracle, trainings=TRAININGS)
    later = [("clr", cycles, 1.0) for cycles in CYCLES] + [("clr", 3, factor) for factor in FACTORS]
    assert oracle.asked == [*ONCE, *later]
    assert advice.best.choice == Choice("clr", 3)
    assert advice.next_best is not None
    assert advice.next_best.choice == Choice("clr", 3, 0.3)
    assert "chosen: clr, 3 cycles, rates x1; 70.00 % on 100 validation images, 5.00 points (5 images; " in advice.why()


@pytest.mark.parametrize("trainings", [1, 4, 7])
def test_advice_keeps_to_its_budget(trained: Path, trainings: int) -> None:
    oracle = Oracle({})
    advice = advise(retraining(trained), oracle, trainings=trainings)
    assert oracle.asked == [*ONCE, ("allr", 2, 1.0)][:trainings]
    assert advice.best.choice == Choice("allr")  # of equals the first, which is the paper's


def test_advice_leaves_out_what_the_history_rules_out(trained: Path) -> None:
    short, long = retraining(trained), retraining(trained, steps=21)
    for recipe, final in ((long, None), (short, long)):
        oracle = Oracle({})
        advice = advise(recipe, oracle, trainings=TRAININGS, final=final)
        assert {name for name, *_ in oracle.asked} == {"allr", "ft", "slr", "clr", "llr"}
        assert re.search("lrw left out: rewinding for 21 steps needs as many of pretraining, got 20", advice.table())
    peak = retraining(trained).model_copy(update={"start": {"weights": str(trained), "peak": 0.1}})
    assert set(advise(peak, Oracle({}), trainings=TRAININGS).left_out) == {"ft", "lrw", "slr", "clr"}


def test_a_candidate_that_diverges_is_said_and_not_chosen(trained: Path) -> None:
    advice = advise(retraining(trained), Oracle({("allr", 1, 1.0): None}), trainings=2)
    assert advice.best.choice == Choice("ft")
    assert re.search(r"^allr +1 +x1 +diverged$", advice.table(), re.MULTILINE)
    assert advice.why().endswith("nothing to compare it with")
    with pytest.raises(ValueError, match="all 2 diverged; lower the peak"):
        advise(retraining(trained), Oracle({("ft", 1, 1.0): None, ("allr", 1, 1.0): None}), trainings=2)


@pytest.mark.parametrize(("second", "shown"), [(0.5, True), (0.54, True), (0.56, False), (0.6, False)])
def test_a_margin_within_a_standard_error_shows_no_difference(second: float, shown: bool) -> None:
    advice = Advice([Tried(Choice("allr"), "a", 0.6, 100, 0.1), Tried(Choice("llr"), "b", second, 100, 0.1)])
    margin = advice.margin()
    assert margin is not None
    assert margin.standard_error == pytest.approx(0.0495, abs=0.0006)  # sqrt(0.57 * 0.43 / 100)
    assert margin.shown is shown
    assert ("no difference shown" in advice.why()) is not shown


def test_advice_from_the_command_line(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = ("retrain", trained, "--sparsity", "0.9", "--epochs", "0.2", "--advise", "--trainings", "3")
    assert prunus(*arguments, "--out", tmp_path) == 0
    output = capsys.readouterr().out
    (path,) = tmp_path.glob("*/advice.json")
    advice = json.loads(path.read_text())
    assert len(advice["tried"]) == len(list(tmp_path.glob("*/result.json"))) == 3  # the chosen is not done again
    assert path.parent.name == advice["chosen"]["run"]
    best = max(json.loads(p.read_text())["validation"]["accuracy"] for p in tmp_path.glob("*/result.json"))
    assert advice["chosen"]["accuracy"] == best
    assert advice["why"] in output
    assert output.count("test accuracy") == 1
    assert f"in {path.parent}" in output
    assert prunus(*arguments, "--out", tmp_path) == 0
    assert capsys.readouterr().out == output


def test_short_trials_end_in_one_full_retraining(trained: Path, tmp_path: Path) -> None:
    options = ("--sparsity", "0.9", "--epochs", "0.3", "--advise", "--trainings", "2", "--advise-epochs", "0.1")
    assert prunus("retrain", trained, *options, "--out", tmp_path) == 0
    steps = sorted(json.loads(path.read_text())["steps"] for path in tmp_path.glob("*/result.json"))
    assert steps == [4, 4, 12]
    (path,) = tmp_path.glob("*/advice.json")
    assert json.loads((path.parent / "result.json").read_text())["steps"] == 12
