"""Where the lines of a run also go: TensorBoard, Weights & Biases and MLflow, through Fabric's logger interface."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning_fabric.loggers.logger import Logger

from prunus.tables import RecipeError, unknown

PROJECT = "prunus"


@dataclass(frozen=True)
class Log:
    """The lines of a run, sent to ``loggers``; with none of them nothing happens.

    >>> log = Log([])
    >>> log({"step": 100, "loss": 0.3, "sparsity": 0.5}, step=100)
    """

    loggers: Sequence[Logger]

    def __call__(self, line: Mapping[str, float], step: int) -> None:
        """Send the numbers of a line."""
        for logger in self.loggers:
            logger.log_metrics({name: value for name, value in line.items() if name != "step"}, step)

    def hyperparameters(self, recipe: Mapping[str, Any]) -> None:
        """Send the recipe, nested as it is."""
        for logger in self.loggers:
            logger.log_hyperparams(dict(recipe))

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish("success" if kind is None else "failed")

    def finish(self, status: str = "success") -> None:
        """Close the run everywhere, so that another of the same process gets its own."""
        for logger in self.loggers:
            logger.finalize(status)
            finish = getattr(getattr(logger, "experiment", None), "finish", None)
            if finish is not None:  # W&B's run, which would take the lines of the next one too
                finish()


def loggers(names: Sequence[str], home: Path, run_name: str) -> list[Logger]:
    """The loggers of these names for the run ``run_name`` in the directory ``home``.

    Made again for the same run they continue it. Raises RecipeError for an unknown name and for a package that is not
    installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        needed, _ = LOGGERS[name]
        if missing := [package for package in needed if find_spec(package) is None]:
            raise RecipeError(f"logger {name!r} needs {' and '.join(missing)}; run: pip install 'prunus[{name}]'")
    return [LOGGERS[name][1](home, run_name) for name in names]


def _tensorboard(home: Path, run_name: str) -> Logger:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(home, name="tensorboard", version="")


def _wandb(home: Path, run_name: str) -> Logger:
    from pytorch_lightning.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    logger: Logger = WandbLogger(name=run_name, save_dir=home, id=run_name, project=project)
    return logger


def _mlflow(home: Path, run_name: str) -> Logger:
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    if chosen is not None:
        return _mlflow_at(chosen, run_name)
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = _mlflow_at((home / "mlruns").absolute().as_uri(), run_name)
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow sets it, and the next run has a place of its own
    return logger


def _mlflow_at(uri: str, run_name: str) -> Logger:
    from mlflow.tracking import MlflowClient
    from pytorch_lightning.loggers import MLFlowLogger

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(PROJECT)
    query = f"attributes.run_name = '{run_name}'"
    found = client.search_runs([experiment.experiment_id], query, max_results=1) if experiment else []
    run_id = found[0].info.run_id if found else None
    logger = MLFlowLogger(experiment_name=PROJECT, run_name=run_name, tracking_uri=uri, run_id=run_id)
    _ = logger.experiment  # made now, and an unreachable server is known before training
    made: Logger = logger
    return made


LOGGERS: dict[str, tuple[tuple[str, ...], Callable[[Path, str], Logger]]] = {
    "tensorboard": (("tensorboard",), _tensorboard),
    "wandb": (("pytorch_lightning", "wandb"), _wandb),
    "mlflow": (("pytorch_lightning", "mlflow"), _mlflow),
}
