"""The main job: all runs, finished ones kept, failed ones named, the same bits however many processes train."""

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny import prunus, read_lines, tiny, written

from prunus import compare as compare_module
from prunus import storage, timing
from prunus import study as study_module
from prunus.check import rehearse
from prunus.compare import default_workers
from prunus.loop import Progress
from prunus.recipes import Recipe, read
from prunus.runs import train
from prunus.storage import InUseError, alone
from prunus.study import Study

STUDY: dict[str, Any] = {"method": ["dense", {"gmp": {"update_every": 2}}, "set"], "sparsity": [0.5, 0.9]}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was timed; the measurement itself is left out."""
    names: list[str] = []

    def throughput(recipe: Recipe, baseline: Recipe) -> dict[str, Any]:
        names.append(recipe.name())
        numbers = {"dense_steps_per_second": 1.0, "steps_per_second": 2.0, "ratio": 2.0, "low": 1.9, "high": 2.1}
        (method,) = recipe.method
        about = {"run": recipe.name(), "method": method, "sparsity": recipe.sparsity[0], "precision": recipe.precision}
        return about | numbers | {"blocks": 10}

    monkeypatch.setattr(timing, "throughput", throughput)
    return names


def test_a_rehearsal_of_decisions_takes_the_whole_length() -> None:
    rehearse(tiny(method={"mp-rr": {"schedule": "linear", "update_every": 6}}))
    with pytest.raises(ValueError, match="update_every must be at most the 6 steps of the training, got 7"):
        rehearse(tiny(method={"mp-rr": {"schedule": "linear", "update_every": 7}}))


def leave_reports_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the figures takes longer than these trainings."""
    monkeypatch.setattr(compare_module, "write_report", lambda directory: directory / "report.md")
    monkeypatch.setattr(compare_module, "print_table", lambda directory, console: None)


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_reports_out(monkeypatch)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the runs that were asked for, in order."""
    names: list[str] = []

    def recorded(recipe: Recipe, directory: Path, tell: Callable[[Progress], None], **options: Any) -> dict[str, Any]:
        names.extend(recipe.method)
        return train(recipe, directory, tell, **options)

    monkeypatch.setattr(study_module, "train", recorded)
    return names


def results(study: Path) -> dict[str, dict[str, Any]]:
    """By run: the result without its time, and the metrics."""
    homes = [path.parent for path in sorted(study.glob("runs/*/result.json"))]
    found: dict[str, dict[str, Any]] = {}
    for home in homes:
        found[home.name] = json.loads((home / "result.json").read_text()) | {"train_seconds": 0}
        found[home.name]["metrics"] = read_lines(home / "metrics.jsonl")
    return found


def test_a_study_runs_everything_times_each_method_reports_and_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, **STUDY, seed=[0, 1])
    study = tmp_path / "study"
    assert prunus("compare", path, "--out", study, "--workers", 1) == 0
    runs = list(read(path).runs())
    names = [run.name() for run in runs]
    assert len(names) == 2 * (1 + 2 + 2)
    assert set(results(study)) == set(names)
    assert json.loads((study / "study.json").read_text()) == {"runs": names}
    assert read(study / "recipe.yaml") == read(path)
    bf16 = timing.dense_twin(runs[0]).model_copy(update={"precision": "bf16-mixed"})
    assert measured == [bf16.name(), *(run.name() for run in runs if run.seed == (0,) and "dense" not in run.method)]
    assert [entry["run"] for entry in json.loads((study / "timing.json").read_text())] == measured
    output = capsys.readouterr().out
    assert "10 runs on digits" in output
    assert "[ 1/10] dense      sparsity 0     seed 0, 6 steps  accuracy" in output
    assert "[10/10] set        sparsity 0.9   seed 1, 6 steps  accuracy" in output
    assert "FAILED" not in output
    assert (study / "report.md").is_file()
    assert f"Report: {study / 'report.html'}\n" in output
    assert (study / "table.csv").read_text().count("\n") == 1 + 5

    before, timed = results(study), list(measured)
    leave_reports_out(monkeypatch)
    monkeypatch.setattr("prunus.runs.prepare", lambda recipe: pytest.fail("trained again"))
    assert prunus("compare", path, "--out", study, "--workers", 1) == 0
    assert results(study) == before
    assert measured == timed


@pytest.mark.usefixtures("unreported")
def test_a_study_that_grows_runs_what_is_new(tmp_path: Path, measured: list[str]) -> None:
    path, study = written(tmp_path, method=["dense", "set"]), tmp_path / "study"
    assert prunus("compare", path, "--out", study, "--workers", 1) == 0
    before = results(study)
    (study / "search.json").write_text("[]")  # of a recipe with a search
    assert prunus("compare", path, "seed=[0, 1]", "--out", study, "--workers", 1) == 0
    after = results(study)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    assert len(measured) == 2  # dense in bf16, and set; not anew for a new seed
    assert not (study / "search.json").exists()


@pytest.mark.usefixtures("unreported")
def test_an_interrupted_study_keeps_finished_runs_and_goes_on_from_them(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    measured: list[str],
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, study = written(tmp_path, **STUDY), tmp_path / "study"
    recorded = study_module.train

    def interrupted(
        recipe: Recipe, directory: Path, tell: Callable[[Progress], None], **options: Any
    ) -> dict[str, Any]:
        if len(started) == 2:
            raise KeyboardInterrupt
        return recorded(recipe, directory, tell, **options)

    monkeypatch.setattr(study_module, "train", interrupted)
    assert prunus("compare", path, "--out", study, "--workers", 1) == 130
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line == "prunus: interrupted; the same command goes on from the last checkpoint of each run"
    finished = results(study)
    assert len(finished) == 2
    assert measured == []

    monkeypatch.setattr(study_module, "train", recorded)
    assert prunus("compare", path, "--out", study, "--workers", 1) == 0
    together = results(study)
    assert len(together) == 5
    assert {name: together[name] for name in finished} == finished
    assert prunus("compare", path, "--out", tmp_path / "uninterrupted", "--workers", 1) == 0
    assert results(tmp_path / "uninterrupted") == together


EXPLODING = """
from prunus.carriers.projection import gradients
from prunus.methods import magnitude_pruning


def exploding(sparsity: float):
    method = magnitude_pruning(sparsity)
    found = lambda: gradients(method._evolution.site.weights).values()
    method.edit_gradients = lambda: [gradient.fill_(float("inf")) for gradient in found()]
    return method
"""


@pytest.fixture
def exploding(tmp_path: Path) -> str:
    """A plug-in with a method that makes the loss NaN."""
    path = tmp_path / "own.py"
    path.write_text(EXPLODING)
    return str(path)


def test_a_run_that_diverges_is_named_and_the_others_finish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: list[str], exploding: str
) -> None:
    path, study = written(tmp_path, method=["dense", "exploding", "set"], plugins=exploding), tmp_path / "study"
    assert prunus("compare", path, "--out", study, "--workers", 1) == 1
    output = " ".join(capsys.readouterr().out.split())
    dense, diverged, set_ = (run.name() for run in read(path).runs())
    assert set(results(study)) == {dense, set_}
    assert "[2/3] exploding sparsity 0.9 seed 0, 6 steps FAILED: the loss became" in output
    assert "lower the learning rate" in output
    assert "[3/3] set sparsity 0.9 seed 0, 6 steps accuracy" in output
    assert "UNFINISHED: " in output
    assert f"runs/{diverged}" in output
    assert diverged in (study / "report.md").read_text()


@pytest.mark.usefixtures("unreported")
def test_a_method_that_diverges_does_not_stop_the_timing_of_the_others(tmp_path: Path, exploding: str) -> None:
    path, study = written(tmp_path, method=["dense", "exploding", "set"], plugins=exploding), tmp_path / "study"
    assert prunus("compare", path, "--out", study, "--workers", 1) == 1
    assert [entry["method"] for entry in json.loads((study / "timing.json").read_text())] == ["dense", "set"]


@pytest.mark.parametrize("method", ["magnitude", "gmp", "set", "gsm"])
@pytest.mark.usefixtures("measured", "unreported")
def test_a_run_has_failed_whether_the_loss_or_the_ranking_of_weights_meets_the_nan_first(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"update_every": 2} if method in ("gmp", "set") else None
    path = written(tmp_path, method={method: call, "dense": None}, learning_rate=1e30)
    prunus("compare", path, "--out", tmp_path / "study", "--workers", 1)
    assert capsys.readouterr().out.count("FAILED: ") == 2


@pytest.mark.usefixtures("measured")
def test_a_study_in_which_every_run_has_failed_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, method=["dense", "magnitude"], learning_rate=1e30)
    assert prunus("compare", path, "--out", tmp_path / "study", "--workers", 1) == 1
    captured = capsys.readouterr()
    assert captured.out.count("FAILED: the loss became") == 2
    assert "Traceback" not in captured.err


def test_one_run_that_diverges_ends_train_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, method="magnitude", learning_rate=1e30)
    assert prunus("train", path, "--out", tmp_path / "runs") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prunus: the loss became ")
    assert "lower the learning rate" in line
    assert not list(tmp_path.glob("runs/*/result.json"))


@pytest.mark.slow  # two processes import torch anew
@pytest.mark.usefixtures("unreported")
def test_two_processes_give_the_bits_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: list[str], exploding: str
) -> None:
    with Path(exploding).open("a") as plugin:
        plugin.write("\n\ndef upside_down(weight, signal, generator):\n    return -weight.abs()\n")
    own = {"one-shot": {"criterion": "upside_down", "allocation": {"linear1*": 0.95}}}
    initial = {"by_sparsity": {0.9: -3.0}}
    path = written(
        tmp_path, method=["dense", own, "rigl", {"str": {"initial": initial}}, "exploding"], plugins=exploding
    )
    for workers in (1, 2):
        assert prunus("compare", path, "--out", tmp_path / str(workers), "--workers", workers) == 1
    alone, together = results(tmp_path / "1"), results(tmp_path / "2")
    assert len(alone) == 4
    assert together == alone
    assert capsys.readouterr().out.count("FAILED: the loss became") == 2


def test_bad_input_that_only_a_run_meets_ends_as_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: list[str]
) -> None:
    path = written(tmp_path, method=["dense", {"gmp": {"allocation": "2:4"}}])
    assert prunus("compare", path, "--out", tmp_path / "study", "--workers", 1) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prunus: pattern 2:4 has sparsity 0.5, asked was ")


@pytest.mark.usefixtures("measured", "unreported")
def test_a_study_is_named_after_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prunus("compare", written(tmp_path, method=["dense", "set"]), "--workers", 1) == 0
    assert len(results(tmp_path / "runs" / "tiny")) == 2


def test_workers_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (4, 4), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert default_workers(tiny(device="cpu")) == expected
    assert default_workers(tiny(device="cuda")) == 1


def study_in(directory: Path, shared: str | None = None) -> Study:
    directory.mkdir(exist_ok=True)
    return Study(directory, 1, 60.0, (), shared)


def test_a_directory_has_one_identity_and_another_one_another(tmp_path: Path) -> None:
    one, other = study_in(tmp_path / "one"), study_in(tmp_path / "other")
    assert one.identity() == study_in(tmp_path / "one").identity() != other.identity()
    assert [path.name for path in one.directory.iterdir()] == [".identity"]


def test_two_that_name_a_directory_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, first = os.link, list[str]()

    def overtaken(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        first.append(study_in(tmp_path).identity())
        link(source, target)

    monkeypatch.setattr(os, "link", overtaken)
    assert [study_in(tmp_path).identity()] == first
    assert [path.name for path in tmp_path.iterdir()] == [".identity"]


@pytest.mark.parametrize("shared", ["tasks.journal", None])
def test_a_run_that_another_machine_holds_is_waited_for(
    shared: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = tiny().runs()
    home = tmp_path / "runs" / run.name()
    home.mkdir(parents=True)
    monkeypatch.setattr(storage, "PATIENCE", 0.02)
    refusals: list[InUseError] = []

    with ExitStack() as other:

        def patient(*arguments: Any, **options: Any) -> dict[str, Any]:
            try:
                return train(*arguments, **options)
            except InUseError as error:
                refusals.append(error)
                if len(refusals) == 2:  # the other ends its run
                    (home / "result.json").write_text(json.dumps({"by": "another"}))
                    other.close()
                raise

        monkeypatch.setattr(study_module, "train", patient)
        other.enter_context(alone(home))
        if shared is None:
            with pytest.raises(InUseError, match="must belong to one process at a time"):
                study_in(tmp_path).train(run, "runs", lambda progress: None)
        else:
            assert study_in(tmp_path, shared).train(run, "runs", lambda progress: None) == {"by": "another"}
    assert len(refusals) == (1 if shared is None else 2)


@pytest.mark.usefixtures("measured", "unreported")
def test_what_was_deleted_from_a_shared_directory_is_trained_again_but_not_what_diverged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exploding: str, started: list[str]
) -> None:
    path, study = written(tmp_path, method=["dense", "exploding", "set"], plugins=exploding), tmp_path / "study"
    command = ("compare", path, "--out", study, "--workers", 1, "--storage", tmp_path / "shared.journal")
    assert prunus(*command) == 1
    whole = results(study)
    (lost,) = (name for name, result in whole.items() if result["method"] == "set")
    (study / "runs" / lost / "result.json").unlink()
    started.clear()
    assert prunus(*command) == 1
    assert results(study) == whole
    assert started == ["set"]
    assert "FAILED: it diverged before or on another machine" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("measured", "unreported")
def test_a_search_that_was_deleted_from_a_shared_directory_is_done_again(tmp_path: Path, started: list[str]) -> None:
    search = {"trainings": 2, "space": {"learning_rate": {"low": 0.2, "high": 0.3}}}
    path, study = written(tmp_path, method=["magnitude"], search=search), tmp_path / "study"
    command = ("compare", path, "--out", study, "--workers", 1, "--storage", tmp_path / "shared.journal")
    assert prunus(*command) == 0
    chosen = (study / "search.json").read_text()
    next(study.glob("search/points/*.json")).unlink()
    started.clear()
    assert prunus(*command) == 0
    assert started == ["magnitude"]  # whose result is there already
    assert (study / "search.json").read_text() == chosen
