"""Lessons: what an agent may try at what cost, what it leaves, and the study that its schedules join."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_compare import leave_reports_out, measured  # noqa: F401  # a fixture
from tiny import prunus, tiny, written

from prunus.learn import with_schedules
from prunus.learned_schedule import LearnedSchedule
from prunus.lessons import Lesson, lessons, search
from prunus.points import Range
from prunus.proposals import Point, Told, evenly
from prunus.recipes import Recipe, single
from prunus.settings import SELECTION, Learn
from prunus.tables import RecipeError

SHAPES = {"linear1.weight": (16, 64), "linear2.weight": (10, 16)}
CELL: dict[str, Any] = {"method": {"mp-rr": {"update_every": 2}}, "sparsity": 0.5, "seed": [2000, 2001]}


def recipe(**learn: Any) -> Recipe:
    return tiny(**CELL | {"learn": {"agents": ["random"], "trainings": 6, "finalists": 2} | learn})


def lesson(folder: Path, **learn: Any) -> Lesson:
    chosen = recipe(**learn)
    assert chosen.learn is not None
    (one,) = lessons(chosen, chosen.learn, folder)
    return one


class Trainings:
    """Stands for trainings: the accuracy of a schedule is the density of its last layer, less noise by the seed."""

    def __init__(self, diverging: Sequence[int] = ()) -> None:
        self.runs: list[Recipe] = []
        self.diverging = diverging

    def __call__(self, runs: Sequence[Recipe]) -> list[dict[str, Any] | None]:
        self.runs += runs
        return [self.result(run) for run in runs]

    def result(self, run: Recipe) -> dict[str, Any] | None:
        chosen = single(run)
        if chosen.seed in self.diverging:
            return None
        schedule = LearnedSchedule.read(chosen.arguments["schedule"])
        accuracy = schedule.density["linear2"][0] - 0.001 * chosen.seed * (chosen.seed < SELECTION)
        costs = {"training_macs": 10, "training_macs_dense": 40, "train_seconds": 0.5}
        return {"validation": {"accuracy": accuracy}, "realised_sparsity": 0.75} | costs


def test_a_search_spends_its_trainings_and_leaves_the_best_schedule(tmp_path: Path) -> None:
    one, trainings = lesson(tmp_path), Trainings()
    record = search(one, SHAPES, 2, evenly, trainings)
    assert [single(run).seed for run in trainings.runs] == [0, 1, 2, 3, SELECTION, SELECTION]
    tried = [LearnedSchedule.read(single(run).arguments["schedule"]).density["linear2"][0] for run in trainings.runs]
    left = LearnedSchedule.read(one.schedule)
    assert left.density["linear2"][0] == max(tried)
    assert sorted(tried[4:]) == sorted(tried[:4])[-2:]
    assert record["densities"] == [[left.density["linear1"][0], left.density["linear2"][0]]]
    assert (record["training_macs"], record["training_macs_dense"], record["seconds"]) == (60, 240, 3.0)
    assert [one["seed"] for one in record["episodes"]] == [0, 1, 2, 3]
    assert (left.method, left.delta_t, one.densities) == ("mp-rr", 2, (0.01, 0.5))
    assert LearnedSchedule.read(one.schedule.with_suffix(".csv")).density == left.density


def test_a_search_sees_what_came_of_its_trainings_and_none_of_what_diverged(tmp_path: Path) -> None:
    seen: list[list[float | None]] = []

    def propose(space: dict[str, Range], told: Told, count: int, seed: int) -> list[Point]:
        seen.append([value for _, value in told])
        return evenly(space, told, count, seed)

    record = search(lesson(tmp_path, trainings=8), SHAPES, 2, propose, Trainings(diverging=[1]))  # type: ignore[arg-type]
    assert [len(values) for values in seen] == [0, 4]
    assert [value is None for value in seen[1]] == [False, True, False, False]
    assert [one["accuracy"] is None for one in record["episodes"]] == [False, True, False, False, False, False]


def test_a_lesson_is_known_as_long_as_nothing_that_it_follows_from_has_changed(tmp_path: Path) -> None:
    one = lesson(tmp_path)
    assert one.known() is None
    record = search(one, SHAPES, 2, evenly, Trainings())
    assert lesson(tmp_path).known() == record
    assert lesson(tmp_path, trainings=7).known() is None
    (other,) = lessons(tiny(**CELL | {"batch_size": 16}), one.learn, tmp_path)
    assert other.known() is None


def test_agents_and_replays_that_a_recipe_gains_leave_what_was_learned(tmp_path: Path) -> None:
    kept = lesson(tmp_path)
    more = recipe(agents=["random", "optuna"], whole=True)
    assert more.learn is not None
    assert next(lessons(more, more.learn, tmp_path)).key() == kept.key()


def test_a_file_says_where_its_schedule_comes_from_and_what_it_cost(tmp_path: Path) -> None:
    chosen = recipe().model_copy(update={"method": {"mp-rr": {"update_every": 2, "mask_init": "random"}}})
    assert chosen.learn is not None
    (one,) = lessons(chosen, chosen.learn, tmp_path)
    search(one, SHAPES, 2, evenly, Trainings())
    left = LearnedSchedule.read(one.schedule)
    assert left.mask_init == "random"
    assert (left.provenance["agent"], left.provenance["search_cost"], left.provenance["training_macs"]) == (
        ("random", 6, 60)
    )
    assert isinstance(left.provenance["recipe"], dict)
    assert left.provenance["recipe"]["method"] == {"mp-rr": {"update_every": 2, "mask_init": "random"}}


def test_a_search_whose_last_trainings_all_diverge_leaves_no_schedule(tmp_path: Path) -> None:
    one = lesson(tmp_path)
    with pytest.raises(RecipeError, match=r"mp-rr at 0\.5, random: the loss of every final training was no longer"):
        search(one, SHAPES, 2, evenly, Trainings(diverging=[SELECTION]))
    assert not one.schedule.exists()


@pytest.mark.parametrize(("trainings", "environments"), [(16, 2), (17, 1)])
def test_no_training_is_learned_from_that_is_not_counted(trainings: int, environments: int) -> None:
    from prunus.learned.curricula import curriculum

    asked = {"decisions": 5, "trainings": trainings, "layers": 2, "reward": "delta"}
    assert curriculum("ppo", **asked).environments == environments  # type: ignore[arg-type]
    assert curriculum("ppo-paper", **asked).environments == 1  # type: ignore[arg-type]


def test_a_lesson_is_made_for_each_method_sparsity_and_agent(tmp_path: Path) -> None:
    methods = {"dense": {}, "rp-rr": {"schedule": {"each": ["linear", "cubic"]}}, "mp-rr": {}}
    chosen = recipe().model_copy(update={"method": methods, "sparsity": (0.5, 0.9)})
    planned = list(lessons(chosen, Learn(agents=("ppo", "random")), tmp_path))
    assert [(one.method, one.sparsity, one.agent) for one in planned] == [
        (method, sparsity, agent)
        for method in ("rp-rr", "mp-rr")
        for sparsity in (0.5, 0.9)
        for agent in ("ppo", "random")
    ]
    assert all("schedule" not in single(one.cell).arguments for one in planned)
    assert len({one.schedule for one in planned}) == 8


@pytest.mark.parametrize(
    ("changes", "learn", "message"),
    [
        ({"method": {"gmp": {}}}, {}, r"needs a method that follows schedules, rp-rr or mp-rr, got \['gmp'\]"),
        ({}, {"sparsest": 0.5}, "learn.sparsest must be above the recipe's sparsity 0.5"),
        ({"recalibrate": 2}, {}, "learn needs recalibrate=0"),
        ({"method": {"mp-rr": {"turnover": 0.3}}}, {"agents": ["random", "ppo"]}, "mp-rr needs turnover=0"),
        ({"steps": None, "epochs": [1, 2]}, {}, "needs one length and one value of each argument of mp-rr"),
    ],
)
def test_what_cannot_be_learned_is_said(changes: dict[str, Any], learn: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        list(lessons(tiny(**CELL | changes), Learn(**learn), Path("learning")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 3}, "agents see networks of seed 3, which is one of the recipe's"),
        ({"seed": SELECTION}, f"agents see networks of seed {SELECTION}"),
        ({"learn": {"trainings": 5, "finalists": 3}}, "finalists take 3 trainings of 5, and as many"),
        ({"learn": {"trainings": 1001}}, "trainings must be at most 1000, got 1001"),
        ({"learn": {"agents": ["sarsa"]}}, "'ppo', 'ppo-paper', 'ppo-shared', 'random' or 'optuna', got 'sarsa'"),
    ],
)
def test_a_recipe_says_what_it_lets_agents_learn(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(**CELL | {"learn": {"trainings": 6}} | changes)


def test_learned_schedules_run_beside_the_recipe_s_own(tmp_path: Path) -> None:
    own = {"dense": {}, "mp-rr": {"schedule": {"each": ["linear", "constant"]}}, "rp-rr": {}}
    chosen = recipe(agents=["random", "optuna"]).model_copy(update={"method": own, "sparsity": (0.5, 0.9)})
    assert chosen.learn is not None
    planned = [one for one in lessons(chosen, chosen.learn, tmp_path) if one.method == "mp-rr"]
    study = with_schedules(chosen, planned)
    assert study.learn is None
    found = [(single(run).method, single(run).sparsity, single(run).arguments.get("schedule")) for run in study.runs()]
    files = {(one.sparsity, str(one.schedule)) for one in planned}
    at = {sparsity: sorted(file for level, file in files if level == sparsity) for sparsity in (0.5, 0.9)}
    assert len(found) == len(set(found)) * 2  # two seeds
    assert {one for one in found if one[0] == "mp-rr"} == {
        ("mp-rr", sparsity, schedule) for sparsity in (0.5, 0.9) for schedule in ("linear", "constant", *at[sparsity])
    }
    assert {one for one in found if one[0] == "rp-rr"} == {("rp-rr", level, "constant") for level in (0.5, 0.9)}


@pytest.mark.usefixtures("measured")
def test_the_command_learns_once_and_replays_what_was_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_reports_out(monkeypatch)
    learn = {"agents": ["ppo", "random"], "trainings": 3, "finalists": 1, "whole": True}
    path = written(tmp_path, **CELL | {"learn": learn})
    arguments = ("learn", path, "--out", tmp_path / "study", "--workers", 1)
    assert prunus(*arguments) == 0
    told = capsys.readouterr().out
    assert told.count("best so far") == 6
    learned = json.loads((tmp_path / "study" / "learn.json").read_text())
    assert [one["agent"] for one in learned["lessons"]] == ["ppo", "random"]
    assert [len(one["closed_loop"]) for one in learned["lessons"]] == [2, 0]
    assert {(one["schedule"], one["seed"]) for one in learned["whole"]} == {
        (schedule, seed) for schedule in ("constant", "ppo", "random") for seed in (2000, 2001)
    }
    runs = json.loads((tmp_path / "study" / "study.json").read_text())["runs"]
    assert len(runs) == 6  # constant and two learned schedules, on two networks
    before = (tmp_path / "study" / "learning" / "mp-rr" / "0.5" / "ppo.json").read_bytes()
    assert prunus(*arguments) == 0
    assert "ppo: learned before" in capsys.readouterr().out
    assert (tmp_path / "study" / "learning" / "mp-rr" / "0.5" / "ppo.json").read_bytes() == before


def test_what_a_closed_loop_decides_is_what_its_schedule_replays(tmp_path: Path) -> None:
    from prunus.pupils import practise
    from prunus.runs import train

    one = lesson(tmp_path, agents=["ppo"], trainings=3, finalists=1)
    record = practise(one, SHAPES, 2, [2000], 1, lambda number, accuracy: None)
    assert [episode["seed"] for episode in record["episodes"]] == [0, 1]
    assert len(record["densities"]) == 3
    replay = train(one.run(one.schedule, SELECTION), tmp_path, lambda progress: None)
    assert replay["validation"]["accuracy"] == record["chosen"][0]["accuracy"]
    assert 0 < record["training_macs"] < record["training_macs_dense"]


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("learn", {"method": "gmp"}, "learn needs the key learn in the recipe"),
        ("compare", {"learn": {"trainings": 6}}, "a recipe with the key learn is for prunus learn"),
        ("learn", {"learn": {"trainings": 6}, "method": {"mp-rr": {"update_every": 7}}}, "at most the 6 steps"),
    ],
)
def test_commands_say_what_they_are_for(
    command: str, changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, **CELL | changes)
    assert prunus(command, path, "--out", tmp_path / "study", "--workers", 1) == 2
    assert message in capsys.readouterr().err
