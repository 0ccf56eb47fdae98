"""What a recipe would do, and what recipes can name, without training to the end."""

import inspect
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus import ranks
from prunus.allocation import ALLOCATIONS, CollapseWarning, PerLayer
from prunus.anytime.arrivals import Megabatch, arrivals
from prunus.anytime.rates import rate_at
from prunus.anytime.stages import adapted, stage_recipe
from prunus.criteria import CRITERIA
from prunus.data import DATA, Data
from prunus.masks import Masks, prunable
from prunus.materials import build_model, load_data, split_of, steps_of
from prunus.methods import METHODS
from prunus.models import EXTERNAL, MODELS
from prunus.plugins import modules
from prunus.prepare import EVIDENCE_BATCH, Prepared, Stage, prepare, rates_before, takes
from prunus.racing.cells import cells_of, first_setting
from prunus.racing.trial_recipe import trial_recipe
from prunus.recipes import Recipe, single
from prunus.runs import DIVERGED
from prunus.search import lanes
from prunus.start import Left
from prunus.tables import OPTIMIZERS, TABLES, Builder, RecipeError

CATALOGUE: dict[str, Mapping[str, Any]] = {
    "methods": {"dense": "No sparsity: the baseline."} | METHODS,
    "models": MODELS | {f"{package}/NAME": make for package, make in EXTERNAL.items()},
    "data": DATA
    | {
        "FILE.npz": "Your own: train_images, train_labels, test_images, test_labels.",
        "FOLDER/": "Your own, in files: train/CLASS/*.jpg and val/CLASS/*.jpg; FOLDER/@64 reads them as 64 x 64.",
    },
    "schedules": TABLES["schedule"],
    "criteria": CRITERIA,
    "allocations": ALLOCATIONS
    | {
        "erk": "Erdős-Rényi-Kernel (Evci et al. 2020): density in proportion to sum(shape) / prod(shape).",
        "er": "Erdős-Rényi (Mocanu et al. 2018): the same over the channels alone.",
        "N:M": "A pattern such as 2:4.",
        "{GLOB: S}": "Sparsities by layer; the others share the rest.",
    },
    "optimizers": OPTIMIZERS,
}

STEPS = 2  # of a rehearsal


def catalogue(kind: str | None) -> str:
    """Names and first docstring lines of one table, or of all."""
    return "\n\n".join(f"{title}\n{_lines(CATALOGUE[title])}" for title in ([kind] if kind else CATALOGUE))


def describe(recipe: Recipe) -> str:
    """The runs of a recipe, its weights and its length. Builds everything but trains nothing."""
    data = load_data(recipe)
    runs = list(recipe.runs())
    builder = Builder(plugins=modules(recipe.plugins))
    rate = builder.build("schedule", recipe.learning_rate, "learning_rate")
    given = {"batches": (), "loss": nn.CrossEntropyLoss(), "input_shape": data.input_shape, "peak": rate(0.0)}
    given |= {"pretraining": rates_before(runs[0], data, builder), "watch": None}
    searched = [run for lane in (lanes(recipe, recipe.search) if recipe.search else []) for run in lane.recipes()]
    for run in (*runs, *searched):
        chosen = single(run)
        if chosen.method == "dense" and chosen.own:
            raise RecipeError(f"method.dense takes no arguments, got {', '.join(chosen.own)}; drop them")
        if chosen.method != "dense":
            filled = replace(builder, given=given | {"sparsity": chosen.sparsity})
            filled.build("method", {chosen.method: chosen.own})
    with torch.device("meta"):
        model = build_model(recipe, data, builder)
    for one in (recipe, *searched):
        rate = builder.build("schedule", one.learning_rate, "learning_rate")
        Builder({"params": model.parameters(), "lr": rate(0.0)}).build("optimizer", one.optimizer)
    weights = prunable(model, recipe.include, recipe.exclude)
    steps = sorted({steps_of(run, data) for run in runs})
    total = sum(weight.numel() for weight in weights.values())
    searching = ""
    if recipe.search:
        trainings = recipe.search.trainings
        searching = f"first a search on validation images, {trainings} trainings for each method and sparsity\n"
    length = f"{', '.join(map(str, steps))} steps"
    if recipe.anytime is not None:
        parts = {len(one) for one in _megabatches(runs[0], data)}
        sizes = " or ".join(map(str, sorted(parts, reverse=True)))
        length = f"{len(_megabatches(runs[0], data))} megabatches of {sizes} images"
    if recipe.scaling is not None:
        cells = len(cells_of(recipe))
        searching = (
            f"{cells} cells of {recipe.scaling.trials} trials to a validation error of {recipe.scaling.goal:g}\n"
        )
    return searching + "\n".join(
        [
            f"{len(runs)} runs of {length} on {data.name}: {len(recipe.method)} methods, "
            f"sparsity {', '.join(map(str, recipe.sparsity))}, seeds {', '.join(map(str, recipe.seed))}",
            f"{total} prunable weights of {sum(p.numel() for p in model.parameters())} parameters:",
            *(f"  {name}  {'x'.join(map(str, weight.shape))}" for name, weight in weights.items()),
        ]
    )


def rehearse(recipe: Recipe, done: Path | None = None) -> None:
    """Two steps of every method at every sparsity and length, so that what a run would refuse is refused at once.

    Runs with a result under ``done`` are left out. Nothing is written.
    """
    for run in recipe.runs() if recipe.scaling is None else _trials(recipe):
        if run.seed == recipe.seed[:1] and not (done and (done / run.name() / "result.json").is_file()):
            ranks.together(partial(_rehearse_one, run))


def _rehearse_one(run: Recipe) -> None:
    # cycles and decisions need their whole length; what others do late, they do in a short training too
    whole = takes(run, "cycles") or takes(run, "schedule")
    short = run.model_copy(update={"compile": False} | ({} if whole else {"steps": STEPS, "epochs": None}))
    unsaid = warnings.catch_warnings(action="ignore", category=CollapseWarning)  # the result will name collapsed layers
    with unsaid, suppress(*DIVERGED):  # which end one run, not a study
        if run.anytime is None:
            _step(prepare(short))
        else:
            _rehearse_stream(short)


def _rehearse_stream(run: Recipe) -> None:
    """The first megabatch and the last, which goes on from what the first has left."""
    data, chosen = load_data(run), single(run)
    assert chosen.anytime is not None
    planned = chosen.anytime.horizon or len(_megabatches(run, data))
    train, validation = split_of(run, data)
    looked_at = train.select(torch.arange(min(len(train), EVIDENCE_BATCH)))
    left = None
    for number in sorted({0, planned - 1}):
        rate = partial(rate_at, chosen.anytime, number=number, planned=planned)
        stage = Stage(data, train, validation, looked_at, left, rate)
        recipe = stage_recipe(run, number, 0, planned)
        prepared = prepare(recipe, stage=stage, adapt=partial(adapted, stream=chosen.anytime, seed=chosen.seed))
        masks = _step(prepared)
        left = Left.of(prepared.model, masks, None) if chosen.anytime.warm else None


def _step(prepared: Prepared) -> Masks | None:
    """Train for `STEPS`, and finish; the masks."""
    for step in prepared.training:
        if step.number == STEPS:
            break
    return None if prepared.sparsifier is None else prepared.sparsifier.finalize()


def _trials(recipe: Recipe) -> list[Recipe]:
    """A trial of each method, sparsity and optimizer, at the smallest batch size."""
    cells = cells_of(recipe)
    smallest = [cell for cell in cells if cell.batch_size == cells[0].batch_size and cell.seed == recipe.seed[:1]]
    return [trial_recipe(cell, first_setting(cell), single(cell).seed) for cell in smallest]


def _megabatches(run: Recipe, data: Data) -> list[Megabatch]:
    chosen = single(run)
    assert chosen.anytime is not None
    return arrivals(chosen.anytime, data.train.labels, run.validation, chosen.seed)


def _lines(table: Mapping[str, Any]) -> str:
    wide = max(len(name) for name in table)
    return "\n".join(f"  {name:<{wide}}  {_first_line(entry)}" for name, entry in table.items())


def _first_line(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    described = entry.budget if isinstance(entry, PerLayer) else entry
    text = inspect.getdoc(described) or ""
    return text.split("\n")[0] or repr(entry)
