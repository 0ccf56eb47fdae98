"""``prunus retrain``: a run of imp that begins from a trained network, chosen by a search where that is asked for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from prunus.advice import Advice, advise
from prunus.carriers.retrained import Cycle
from prunus.check import describe
from prunus.display import Display, label
from prunus.prepare import has_cycles
from prunus.recipes import Recipe, read, single, start_file
from prunus.recovery import table
from prunus.runs import DIVERGED, train
from prunus.start import trained_by
from prunus.storage import write_atomically
from prunus.tables import RecipeError

OF_TRAINING = ("epochs", "steps", "learning_rate", "batch_size", "accumulate")


@dataclass(frozen=True)
class Network:
    """A trained network: the directory of its run, or the file of its weights, and what is known of its training.

    ``recipe`` is a file that says data, model and training where no run does; ``peak`` the highest rate of training
    where that is not the recipe's.
    """

    path: Path
    recipe: Path | None = None
    peak: float | None = None

    def retraining(self, changes: Mapping[str, Any], overrides: Sequence[str], plugins: Sequence[str]) -> Recipe:
        """The recipe of its retraining: ``changes`` to that of its training, then the overrides.

        Raises RecipeError where data and model, or the rates of training, are not known.
        """
        file = start_file(str(self.path))
        trained, epochs = trained_by(file)
        known = self.recipe or (file.with_name("recipe.yaml") if trained else None)
        if known is None:
            raise RecipeError(f"{self.path} holds weights alone, which say no data and no model; give --recipe FILE")
        if self.peak is None and self.recipe is None and trained is not None and has_cycles(trained):
            raise RecipeError(
                f"{self.path} was retrained itself, by rates that the method set, so that its history is not known; "
                "give --peak, the highest rate of its training"
            )
        length = _length(trained, file, epochs)
        beginning = {"start": self._start(plugins, length), "search": None, "learn": None, "steps": None}
        chosen = read(known, overrides, plugins, changes=beginning | dict(changes))
        single(chosen)
        (chosen,) = chosen.runs()
        if "imp" not in chosen.method:
            raise RecipeError(f"retrain prunes by imp, got method {next(iter(chosen.method))}; train that with train")
        return chosen

    def _start(self, plugins: Sequence[str], length: Mapping[str, float]) -> str | dict[str, Any]:
        if self.recipe is None and self.peak is None:
            return str(self.path)
        if self.recipe is None:
            return {"weights": str(self.path), "peak": self.peak, **length}
        told = read(self.recipe, plugins=plugins)
        if told.epochs and len(told.epochs) > 1:
            raise RecipeError(f"{self.recipe} must say how long the network was trained, got epochs {told.epochs}")
        start = {key: value for key, value in told.resolved().items() if key in OF_TRAINING and value is not None}
        if self.peak is not None:
            start["peak"] = self.peak
        return start | {"weights": str(self.path)}


def _length(trained: Recipe | None, file: Path, epochs: float) -> dict[str, float]:
    """The epochs of the dense training that the network comes from, where they are known."""
    if trained is None:
        return {}
    if not has_cycles(trained):
        return {"epochs": epochs}
    before = json.loads(file.with_name("result.json").read_text())["pretraining"]
    return {"epochs": before["epochs"]} if before else {}


@dataclass(frozen=True)
class Trainer:
    """Trains recipes under a directory, with bars on a console."""

    out: Path
    console: Console
    checkpoint_every: float

    def __call__(self, recipe: Recipe) -> dict[str, Any]:
        name = recipe.name()
        with Display(self.console, {name: label(recipe)}) as display:
            return train(recipe, self.out, partial(display.tell, name), checkpoint_every=self.checkpoint_every)

    def unless_diverged(self, recipe: Recipe) -> dict[str, Any] | None:
        """The result, None where the loss diverged; a line says which, and shows validation images alone."""
        try:
            result = self(recipe)
        except DIVERGED as error:
            self._say(recipe, str(error))
            return None
        self._say(recipe, f"validation accuracy {100 * result['validation']['accuracy']:.2f} %")
        return result

    def _say(self, recipe: Recipe, text: str) -> None:
        arguments = recipe.method["imp"]
        told = ", ".join(f"{key} {arguments[key]}" for key in ("schedule", "cycles", "factor") if key in arguments)
        self.console.print(f"{told}: {text}", markup=False, soft_wrap=True)


def retrain_run(recipe: Recipe, trainer: Trainer) -> None:
    """Train the run of ``recipe`` and say what was lost, what came back, and where the network lies."""
    describe(recipe)
    _conclude(recipe, trainer(recipe), trainer)


def retrain_advised(recipe: Recipe, trainer: Trainer, *, trainings: int, epochs: float | None = None) -> None:
    """Search on validation images, say which was chosen and why, and end as `retrain_run` with the chosen network.

    ``epochs`` shortens the retrainings of the search; the chosen one is then done again at full length.
    """
    describe(recipe)
    short = recipe if epochs is None else recipe.model_copy(update={"epochs": (epochs,)})
    advice = advise(short, trainer.unless_diverged, trainings=trainings, final=recipe)
    chosen = advice.best.choice.of(recipe)
    trainer.console.print(f"\n{advice.table()}\n{advice.why()}\n", markup=False, highlight=False, soft_wrap=True)
    result = trainer(chosen)
    _write(advice, trainer.out / chosen.name() / "advice.json")
    _conclude(chosen, result, trainer)


def _write(advice: Advice, path: Path) -> None:
    write_atomically(path, json.dumps(advice.plain(), indent=1))


def _conclude(recipe: Recipe, result: Mapping[str, Any], trainer: Trainer) -> None:
    test, home = result["test"], trainer.out / recipe.name()
    lines = [
        f"sparsity {result['realised_sparsity']:.4f}, asked {result['sparsity']:g}",
        f"accuracy on {result['validation']['n']} validation images, by cycle:",
        table([Cycle(**cycle) for cycle in result["cycles"]]),
        f"test accuracy {100 * test['accuracy']:.2f} %, nll {test['nll']:.4f} on {test['n']} images",
        f"in {home}",
    ]
    trainer.console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
