"""Races to a goal: equal to a naive twin, cheaper than going on, and the same after a kill."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import golden
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiny import prunus, tiny, written
from torch import Tensor

from prunus.allocation import unfloored
from prunus.data import evaluation_batches, load, split, training_stream
from prunus.loop import Progress
from prunus.materials import build_model
from prunus.methods import snip
from prunus.models.simple_cnn import simple_cnn
from prunus.prepare import prepare
from prunus.racing import stacked
from prunus.racing.cell import Race, Searched, _finalists, measure
from prunus.racing.cells import cells_of, signal_name
from prunus.racing.entrant import Apart
from prunus.racing.examination import Examination
from prunus.racing.grid import grid
from prunus.racing.heat import Heat
from prunus.racing.trial_recipe import trial_recipe
from prunus.recipes import Recipe, changed
from prunus.scaling.metaparameters import setting
from prunus.scaling.records import read_cells
from prunus.scaling.trials import Cell, Trial, of_plain, steps_to_result
from prunus.scaling_study import as_published, run_study
from prunus.sparsifier import sparsify
from prunus.tables import Builder, RecipeError
from prunus.tensor_file import read_tensors

pytestmark = pytest.mark.usefixtures("unsynced")

DIGITS = load("digits")
STUDY: dict[str, Any] = {
    "goal": 0.2,
    "batch_sizes": [32],
    "optimizers": ["momentum"],
    "trials": 4,
    "ratio": 1.3,
    "screen": 0,
    "widen": 0,
    "repeats": 0,
}


def study(method: Any = "dense", scaling: dict[str, Any] | None = None, **more: Any) -> Recipe:
    """A study of a perceptron on digits."""
    return tiny(method=method, steps=200, scaling=STUDY | (scaling or {}), **more)


def race(home: Path, recipe: Recipe, tell: Callable[[Progress], None] = lambda progress: None) -> Race:
    """The only cell of a study."""
    (cell,) = cells_of(recipe)
    return Race(cell, home, home / "signals", tell, checkpoint_every=0.0)


def measured(home: Path, recipe: Recipe) -> tuple[Cell, dict[str, Any]]:
    """The cell that was searched, and its whole record."""
    record = measure(race(home, recipe))
    return of_plain(record["cell"]), record


@given(budget=st.integers(1, 5000), ratio=st.floats(1.01, 3.0))
def test_evaluations_grow_by_the_ratio_and_end_at_the_budget(budget: int, ratio: float) -> None:
    steps = list(grid(budget, ratio=ratio))
    assert steps[0] == 1
    assert steps[-1] == budget
    assert all(one < other <= max(one + 1, one * ratio + 0.5) for one, other in pairwise(steps))


def test_published_evaluations_are_every_hundred_steps() -> None:
    assert list(grid(350, every=100)) == [100, 200, 300, 350]


def naive(point: dict[str, float], steps: list[int], goal: int) -> tuple[int, int] | None:
    """The first of ``steps`` at which plain SGD with momentum has at most ``goal`` wrong, and the one before it."""
    train, validation = split(DIGITS.train, 0.1, 0)
    torch.manual_seed(0)
    model = build_model(tiny(), DIGITS, Builder())
    options = {"lr": point["learning_rate"], "momentum": point["momentum"]}
    optimizer = torch.optim.SGD(model.parameters(), **options)  # type: ignore[arg-type]
    stream = training_stream(train, 32, data=DIGITS, seed=0)
    for step in range(1, steps[-1] + 1):
        inputs, labels = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in steps:
            batches = evaluation_batches(validation, 1000, DIGITS)
            with torch.no_grad():
                wrong = sum(int((model(images).argmax(1) != labels).sum()) for images, labels in batches)
            if wrong <= goal:
                return step, max((one for one in steps if one < step), default=0)
    return None


def test_the_winner_is_that_of_a_naive_twin(tmp_path: Path) -> None:
    cell, _ = measured(tmp_path, study())
    steps, space = list(grid(200, ratio=1.3)), next(iter(study().scaling.optimizers.values())).metaparameters()  # type: ignore[union-attr]
    arrived = {number: naive(setting(space, number), steps, cell.goal) for number in range(4)}
    best = min(found[0] for found in arrived.values() if found)
    winner = steps_to_result(cell)
    assert cell.goal == round(0.2 * 144)
    assert winner is not None
    assert (winner.steps, winner.number) == min((found[0], number) for number, found in arrived.items() if found)
    assert (winner.steps, winner.before) == arrived[winner.number]
    assert {trial.number for trial in cell.trials if trial.status == "complete"} == {
        number for number, found in arrived.items() if found and found[0] == best
    }


@pytest.mark.parametrize("screen", [pytest.param(0, marks=pytest.mark.slow), 40])
def test_a_race_finds_the_same_steps_as_the_full_protocol_for_less(screen: int, tmp_path: Path) -> None:
    cell, record = measured(tmp_path / "race", study(scaling={"screen": screen}))
    full, whole = measured(tmp_path / "full", study(scaling={"race": False}))
    winner, other = steps_to_result(cell), steps_to_result(full)
    assert winner is not None
    assert other is not None
    assert (winner.steps, winner.before, winner.number) == (other.steps, other.before, other.number)
    assert record["trained"] == sum(trial.steps for trial in cell.trials) * 32
    assert record["trained"] < whole["trained"]
    assert all(trial.steps == winner.steps for trial in cell.trials if trial.status != "infeasible")
    if screen:
        assert record["evaluated"] < sum(1 for step in grid(200, ratio=1.3) if step <= winner.steps) * 4 * 144


def test_a_budget_of_examples_bounds_large_batches(tmp_path: Path) -> None:
    cell, record = measured(tmp_path, study(scaling={"goal": 0.001, "examples": 640, "trials": 2}))
    assert {trial.steps for trial in cell.trials} == {20}
    assert {trial.status for trial in cell.trials} == {"incomplete"}
    assert record["trained"] == 2 * 640


def test_what_diverges_is_infeasible_and_dropped_at_once(tmp_path: Path) -> None:
    space = {"learning_rate": {"low": 0.1, "high": 1e30}, "momentum": {"low": 0.5, "high": 0.99}}
    own = {"own": {"optimizer": {"sgd": {"momentum": 0.5}}, "space": space}}
    cell, _ = measured(tmp_path, study(scaling={"optimizers": own}))
    lost = [trial for trial in cell.trials if trial.status == "infeasible"]
    assert lost
    assert all(trial.metaparameters["learning_rate"] > 10 for trial in lost)
    assert max(trial.steps for trial in lost) < 30


def test_sparse_trials_score_the_whole_training_set_once(tmp_path: Path) -> None:
    recipe = study({"snip": {"allocation": "unfloored"}}, {"goal": 0.7}, include="*", sparsity=0.9)
    runner = race(tmp_path, recipe)
    found = runner.search(runner.tuned.metaparameters(), 0)
    assert steps_to_result(found.cell) is not None
    (path,) = (tmp_path / "signals").iterdir()
    signals, _ = read_tensors(path)
    torch.manual_seed(0)
    model = build_model(tiny(), DIGITS, Builder())
    train, _ = split(DIGITS.train, 0.1, 0)
    (inputs, labels), *rest = evaluation_batches(train, len(train), DIGITS)
    assert not rest
    F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        # a sum over batches of 100, the last of which counts by its share
        torch.testing.assert_close(signals[name] / 12.93, parameter.grad, rtol=1e-4, atol=1e-6)
    entrant = runner.entrant(0, setting(runner.tuned.metaparameters(), 0), 0)
    masks = entrant.prepared.sparsifier.masks  # type: ignore[union-attr]
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.1 * (64 * 16 + 16 + 160 + 10))


def test_networks_pruned_as_published_lose_all_biases_and_keep_the_published_count() -> None:
    torch.manual_seed(0)
    model = simple_cnn((1, 28, 28), 10)
    batches = [(torch.randn(8, 1, 28, 28), torch.arange(8))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = snip(0.9, batches=batches, loss=F.cross_entropy, allocation=unfloored)
    masks = sparsify(model, optimizer, method, 10, include="*").masks
    assert sum(int(mask.sum()) for mask in masks.values()) == 6235
    assert {name for name, mask in masks.items() if not mask.any()} == {"conv1.bias", "conv2.bias", "fc.bias"}


def test_every_trial_may_draw_its_own_weights(tmp_path: Path) -> None:
    runner = race(tmp_path, study(scaling={"draw": "trial"}))
    point = setting(runner.tuned.metaparameters(), 0)
    one, other = (runner.entrant(number, point, 0).prepared for number in (1, 2))
    assert not torch.equal(one.model.linear1.weight, other.model.linear1.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(next(one.stream)[1], next(other.stream)[1])
    torch.manual_seed(1)
    assert torch.equal(one.model.linear1.weight, build_model(tiny(), DIGITS, Builder()).linear1.weight)  # type: ignore[union-attr, arg-type]


class KilledError(BaseException):
    """The process has died."""


@pytest.mark.parametrize(
    "method", ["dense", *(pytest.param(name, marks=pytest.mark.slow) for name in ("snip", "rigl"))]
)
def test_a_race_killed_at_every_evaluation_ends_the_same(method: str, tmp_path: Path) -> None:
    settings = {"goal": 0.15, "trials": 3, "repeats": 1, "screen": 40}
    whole = measure(race(tmp_path / "whole", study(method, settings, sparsity=0.5)))
    killed = 0

    def dying(progress: Progress) -> None:
        nonlocal killed
        if not progress.note:
            killed += 1
            if killed % 4 == 0:
                raise KilledError

    while True:
        try:
            again = measure(race(tmp_path / "killed", study(method, settings, sparsity=0.5), dying))
            break
        except KilledError:
            continue
    assert killed > 4
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}
    assert not list((tmp_path / "killed").rglob("*.pt"))


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("dense", "sgd"), ("snip", "nesterov-linear")],
)
def test_trials_in_a_stack_are_those_apart(
    method: str, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = study(method, {"goal": 0.15, "optimizers": optimizer, "trials": 5, "screen": 40}, sparsity=0.5)
    apart, _ = measured(tmp_path / "apart", recipe)
    monkeypatch.setattr(stacked, "SMALL", 32)
    together, _ = measured(tmp_path / "together", recipe)
    assert [(one.status, one.steps) for one in together.trials] == [(one.status, one.steps) for one in apart.trials]
    runners = [race(tmp_path / name, recipe) for name in ("apart", "together")]
    fields: list[Any] = []
    for runner, kind in zip(runners, (Apart, stacked.Stacked), strict=True):
        entrants = [runner.entrant(one, setting(runner.tuned.metaparameters(), one), 0) for one in range(5)]
        data, _, validation = runner.images
        fields.append(kind(entrants, Examination(validation, data, 0)))
        for step in (3, 9):
            fields[-1].advance_(step)
    for place, entrant in enumerate(fields[0].entrants):
        for name, weight in entrant.prepared.model.named_parameters():
            torch.testing.assert_close(fields[1].weights[name][place], weight.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [Apart, stacked.Stacked])
def test_networks_go_on_bit_for_bit(kind: Any, tmp_path: Path) -> None:
    runner = race(tmp_path, study("snip", sparsity=0.5))
    data, _, validation = runner.images

    def begun() -> Any:
        entrants = [runner.entrant(one, setting(runner.tuned.metaparameters(), one), 0) for one in range(3)]
        return kind(entrants, Examination(validation, data, 0))

    def weights(field: Any) -> list[Tensor]:
        if kind is Apart:
            return [weight for one in field.entrants for weight in one.prepared.model.state_dict().values()]
        return list(field.weights.values())

    whole, first, second = begun(), begun(), begun()
    for field, steps in ((whole, (3, 9)), (first, (3,))):
        for step in steps:
            field.advance_(step)
    file = io.BytesIO()
    torch.save({"field": first.state_dict(), "trials": [one.state_dict() for one in first.entrants]}, file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    for entrant, own in zip(second.entrants, state["trials"], strict=True):
        entrant.load_state_dict(own)
    second.load_state_dict(state["field"])
    second.advance_(9)
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(second), strict=True))
    assert not torch.equal(weights(whole)[0], weights(first)[0])


def test_a_stack_killed_at_every_evaluation_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "SMALL", 32)
    test_a_race_killed_at_every_evaluation_ends_the_same("snip", tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"sgd": {"momentum": 0.9, "weight_decay": 0.1}}},
        {"optimizer": "adam"},
        {"method": "rigl"},
        {"method": "gmp"},
        {"model": "resnet20", "data": "digits"},
        {"clip": 1.0},
        {"accumulate": 2},
        {"precision": "bf16-mixed"},
    ],
    ids=str,
)
def test_what_a_stack_cannot_train_is_trained_apart(changes: dict[str, Any]) -> None:
    assert stacked.stackable(prepare(tiny(method="dense")))
    assert not stacked.stackable(prepare(tiny(**{"method": "dense"} | changes)))


def test_a_finished_heat_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(race(tmp_path, study()))
    monkeypatch.setattr(Heat, "run_", lambda self: pytest.fail("it runs again"))
    assert measure(race(tmp_path, study())) == first


def test_a_winner_at_the_edge_widens_the_space(tmp_path: Path) -> None:
    narrow = {"optimizer": {"sgd": {"momentum": 0.9}}, "space": {"learning_rate": {"low": 1e-4, "high": 0.01}}}
    settings = {"optimizers": {"narrow": narrow}, "trials": 3, "widen": 2, "goal": 0.6}
    cell, record = measured(tmp_path, study(scaling=settings))
    assert {(one["name"], one["side"]) for one in record["widened"]} == {("learning_rate", "high")}
    assert record["wider"]
    assert record["searched"] == 3 * (1 + len(record["widened"]))
    winner = steps_to_result(cell)
    assert winner is not None
    assert winner.metaparameters["learning_rate"] > 0.01


def test_where_a_wider_space_wins_nothing_the_first_counts_and_the_wider_is_given_up(tmp_path: Path) -> None:
    edge = {"optimizer": {"sgd": {"momentum": 0.9}}, "space": {"learning_rate": {"low": 0.001, "high": 0.2}}}
    settings = {"optimizers": {"edge": edge}, "trials": 3, "widen": 1}
    first, alone = measured(tmp_path / "first", study(scaling=settings | {"widen": 0}))
    cell, record = measured(tmp_path / "wider", study(scaling=settings))
    winner = steps_to_result(cell)
    assert winner is not None
    assert record["widened"]
    if not record["wider"]:
        assert cell == first
    assert record["trained"] <= alone["trained"] + 3 * winner.steps * 32


def test_finalists_are_those_that_came_nearest_even_on_a_sample() -> None:
    trials = [Trial(number, {"learning_rate": 1.0 + number}, "incomplete", 50, 40) for number in range(4)]
    trials[2] = Trial(2, {"learning_rate": 3.0}, "complete", 50, 40, ((50, 3),))
    trials[0] = Trial(0, {"learning_rate": 1.0}, "infeasible", 10, 0)
    found = Searched(Cell("sgd", 0.0, 8, 0, 3, tuple(trials), True), [0.0, 0.5, 0.1, 0.3])
    assert list(_finalists(found, 2)) == [2, 3]


def test_repeats_have_weights_and_an_order_of_their_own(tmp_path: Path) -> None:
    runner = race(tmp_path, study())
    point = setting(runner.tuned.metaparameters(), 0)
    one, other = (runner.entrant(0, point, seed).prepared for seed in (0, 1000))
    assert not torch.equal(one.model.linear1.weight, other.model.linear1.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(next(one.stream)[1], next(other.stream)[1])


def test_near_the_goal_a_sample_does_not_decide() -> None:
    images = DIGITS.train.select(torch.arange(400))
    examination = Examination(images, DIGITS, goal=40, screen=100)
    for share, seen in ((0.15, True), (0.35, False)):  # the goal is 0.1, three deviations of a sample 0.09
        count = lambda batches, share=share: torch.tensor([round(share * sum(len(y) for _, y in batches))])  # noqa: E731
        assert (examination.of_each(count, 1) != [None]) == seen
        assert examination.errors == pytest.approx([share], abs=0.01)


def test_repeats_race_the_best_settings_from_other_seeds(tmp_path: Path) -> None:
    cell, record = measured(tmp_path, study(scaling={"repeats": 2, "finalists": 2}))
    repeats = [of_plain(one) for one in record["repeats"]]
    assert [one.seed for one in repeats] == [1000, 2000]
    winner = steps_to_result(cell)
    assert winner is not None
    assert all(len(one.trials) == 2 and one.trials[0].metaparameters == winner.metaparameters for one in repeats)


def test_golden_rates_of_the_linear_decay() -> None:
    cell = changed(cells_of(study(scaling={"optimizers": ["nesterov-linear"]}))[0], {"steps": 100_000})
    told = golden("scaling")["linear_lr"]
    point = {
        "learning_rate": told["lr0"],
        "momentum": 0.9,
        "decay_steps": told["decay_steps"],
        "end_factor": told["end_factor"],
    }
    prepared = prepare(trial_recipe(cell, point, 0))
    rate = prepared.training.learning_rate
    assert rate is not None
    found = {step: rate(int(step) / 100_000) for step in told["lr_at_global_step"]}
    assert found == pytest.approx(told["lr_at_global_step"], rel=1e-10)
    (group,) = prepared.training.optimizer.param_groups
    assert (group["momentum"], group["nesterov"]) == (0.9, True)


def test_other_names_are_paths_in_the_recipe() -> None:
    own = {"adamw": {"optimizer": "adamw", "space": {"optimizer.adamw.weight_decay": {"low": 1e-4, "high": 1.0}}}}
    (cell,) = cells_of(study(scaling={"optimizers": own}))
    recipe = trial_recipe(cell, {"optimizer.adamw.weight_decay": 0.25}, 3)
    assert prepare(recipe).training.optimizer.param_groups[0]["weight_decay"] == 0.25
    assert recipe.seed == (3,)


def test_the_published_protocol() -> None:
    scaling = as_published(study()).scaling
    assert scaling is not None
    assert (scaling.trials, scaling.race, scaling.every, scaling.screen) == (100, False, 100, 0)
    assert (scaling.draw, scaling.widen, scaling.repeats, scaling.points) == ("trial", 0, 0, "bratley-fox")


def test_a_cell_is_one_of_everything() -> None:
    sizes = {"batch_sizes": [8, 16], "optimizers": ["sgd", "nesterov"]}
    cells = cells_of(study(["dense", "snip"], sizes, sparsity=[0.5, 0.9], seed=[0, 1]))
    assert len(cells) == 3 * 2 * 2 * 2
    assert len({cell.name() for cell in cells}) == len(cells)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"optimizers": ["adagrad"]}, "no optimizer is called 'adagrad'"),
    ({"optimizers": {"own": {"space": {"warmth": None}}}}, "no metaparameter is called 'warmth'"),
    (
        {"optimizers": {"own": {"space": {"learning_rate": {"low": 1.0}}}}},
        "learning_rate must be {low: ..., high: ...}",
    ),
    ({"optimizers": {"own": {"space": {"learning_rate": {"low": 1.0, "high": 0.1}}}}}, "low < high, got 1.0 to 0.1"),
    ({"optimizers": {"own": {"space": {"end_factor": None}}}}, "needs learning_rate, decay_steps and end_factor"),
    ({"goal": 1.5}, "scaling.goal: "),
    ({"batch_sizes": [8, 8]}, "different numbers of examples"),
    ({"batch_sizes": [2000]}, "must not be larger than the 1293 training images, got 2000"),
]


@pytest.mark.parametrize(("settings", "said"), WRONG, ids=lambda value: str(value)[:60])
def test_bad_studies_are_one_clear_error(
    settings: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, method="dense", scaling=STUDY | settings)
    assert prunus("scaling", "run", path, "--out", tmp_path / "out") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": None, "epochs": 1}, "scaling needs steps, the budget of each trial"),
        ({"anytime": {"megabatches": 2}}, "does not go with anytime"),
        ({"start": {"epochs": 1}}, "does not go with start"),
        ({"accumulate": 2}, "leave accumulate at 1, got 2"),
    ],
    ids=str,
)
def test_a_study_stands_alone(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        tiny(**{"scaling": STUDY} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": ["dense", "snip", "magnitude"]}, "one sparse method beside dense, got 2"),
        ({"method": {"gmp": {"update_every": {"each": [2, 4]}}}}, "one sparse method beside dense, got 2"),
        ({"seed": [0, 1000]}, "seeds must be below 1000, .* got 1000"),
        ({"method": ["dense", "snip"], "sparsity": [0.0, 0.5]}, "sparsity 0 is that of dense"),
    ],
    ids=str,
)
def test_cells_that_could_be_taken_for_each_other_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        cells_of(tiny(**{"method": "dense", "scaling": STUDY} | changes))


def test_what_was_measured_on_other_weights_is_not_remembered_for_these() -> None:
    (cell,) = cells_of(study("snip"))
    same = [cells_of(study("snip", {"goal": 0.3}, sparsity=0.5))[0], changed(cell, {"batch_size": 8})]
    others = [changed(cell, {"model": {"mlp": {"widths": [8]}}}), changed(cell, {"split_seed": 1})]
    assert {signal_name(one, 3) for one in (cell, *same)} == {signal_name(cell, 3)}
    assert len({signal_name(cell, 3), signal_name(cell, 4), *(signal_name(one, 3) for one in others)}) == 4


def test_compare_leaves_a_study_to_its_own_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus("compare", written(tmp_path, method="dense", scaling=STUDY), "--out", tmp_path / "out") == 2
    assert "is for prunus scaling run" in capsys.readouterr().err


def test_a_study_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = study(scaling={"batch_sizes": [32, 64], "trials": 2})
    records = run_study(recipe, tmp_path, Console(quiet=True))
    assert [record["cell"]["batch_size"] for record in records] == [32, 64]
    monkeypatch.setattr(Heat, "run_", lambda self: pytest.fail("it runs again"))
    assert run_study(recipe, tmp_path, Console(quiet=True)) == records
    monkeypatch.undo()
    other = run_study(changed(recipe, {"scaling.goal": 0.4}), tmp_path, Console(quiet=True))
    assert len(list((tmp_path / "cells").iterdir())) == 4
    assert {record["cell"]["goal"] for record in read_cells(tmp_path)} == {round(0.4 * 144)}
    assert len(read_cells(tmp_path)) == len(other)
