"""Loggers: what a run says arrives in each service, and the same run made again goes on where it was."""

import re
from pathlib import Path

import pytest
from tiny import prunus, read_lines, tiny, written

from prunus.loggers import Log, loggers
from prunus.runs import train
from prunus.tables import RecipeError

RECIPE = {"data": "digits", "method": {"gmp": {"update_every": 5}}}
LINES = [{"step": step, "loss": 1.0 / step, "sparsity": 0.1 * step} for step in (1, 2, 3)]


def run_and_resume(name: str, home: Path) -> None:
    """Two lines, then the last one after a restart; another run of the same process has one line."""
    for run_name, lines in (("first", LINES[:2]), ("first", LINES[2:]), ("second", LINES[:1])):
        log = Log(loggers([name], home / run_name, run_name))
        log.hyperparameters(RECIPE)
        for line in lines:
            log(line, step=line["step"])
        log.finish()


def test_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run_and_resume("tensorboard", tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "first" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
    assert "step" not in events.Tags()["scalars"]
    second = accumulator.EventAccumulator(str(tmp_path / "second" / "tensorboard")).Reload()
    assert [event.step for event in second.Scalars("sparsity")] == [1]


@pytest.mark.slow
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run_and_resume("mlflow", tmp_path)
    for name, steps in (("first", [1, 2, 3]), ("second", [1])):
        client = tracking.MlflowClient((tmp_path / name / "mlruns").as_uri())
        (run,) = client.search_runs([client.get_experiment_by_name("prunus").experiment_id])
        assert (run.info.run_name, run.info.status) == (name, "FINISHED")
        assert run.data.params == {"data": "digits", "method/gmp/update_every": "5"}
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in steps]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the package itself
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_and_resume("wandb", tmp_path)
    assert wandb.run is None, "closed"
    written = sorted(path.name for path in tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
    assert written == ["run-first.wandb", "run-first.wandb", "run-second.wandb"], "two parts of one run, and another"


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no logger is called 'tensorbord'; did you mean 'tensorboard'"):
        loggers(["tensorbord"], tmp_path, "run")


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("tensorboard", {"tensorboard"}, "'tensorboard' needs tensorboard; run: pip install 'prunus[tensorboard]'"),
        (
            "wandb",
            {"pytorch_lightning", "wandb"},
            "'wandb' needs pytorch_lightning and wandb; run: pip install 'prunus[wandb]'",
        ),
        ("mlflow", {"mlflow"}, "'mlflow' needs mlflow; run: pip install 'prunus[mlflow]'"),
    ],
)
def test_missing_package_is_named_with_its_extra(
    name: str, missing: set[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunus.loggers.find_spec", lambda package: None if package in missing else True)
    with pytest.raises(RecipeError, match=re.escape(message)):
        loggers([name], tmp_path, "run")


def test_without_loggers_nothing_happens(tmp_path: Path) -> None:
    log = Log(loggers([], tmp_path, "run"))
    log.hyperparameters(RECIPE)
    log(LINES[0], step=1)
    log.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_run_logs_every_line_of_its_metrics(tmp_path: Path) -> None:
    (run,) = tiny().runs()
    train(run, tmp_path, lambda progress: None, log=["tensorboard"])
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / run.name() / "tensorboard")).Reload()
    logged = [(event.step, pytest.approx(event.value)) for event in events.Scalars("accuracy")]
    lines = read_lines(tmp_path / run.name() / "metrics.jsonl")
    assert logged == [(line["step"], line["accuracy"]) for line in lines]


def test_an_unknown_logger_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prunus("train", written(tmp_path), "--out", tmp_path, "--log", "wnadb") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no logger is called 'wnadb'; did you mean 'wandb'?" in line
