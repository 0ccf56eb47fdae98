"""What the gradients of one training tell: how they change along the way, and how noisy they are."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from prunus.data import evaluation_batches
from prunus.loop import Progress, Tell
from prunus.masks import unwrap
from prunus.materials import load_data, split_of
from prunus.prepare import Prepared, Stage, prepare
from prunus.racing.examination import BATCH
from prunus.racing.trial_recipe import trial_recipe
from prunus.recipes import Recipe, changed, single
from prunus.scaling.lipschitz import FullGradient, all_parameters, local_lipschitz
from prunus.scaling.noise import NoiseMeter
from prunus.scaling.uncertainty import Estimate
from prunus.tables import RecipeError

READINGS = 20


def lipschitz_course(
    cell: Recipe, metaparameters: Mapping[str, float], steps: int, every: int, tell: Tell
) -> list[tuple[int, float]]:
    """(step, local Lipschitz constant) every so many ``steps`` of a cell's training with one setting.

    Each takes the gradient of all training images ten times (Lee et al. 2021).
    """
    data = load_data(cell)
    train, validation = split_of(cell, data)
    recipe = trial_recipe(cell, metaparameters, single(cell).seed)
    prepared = prepare(recipe, stage=Stage(data, train, validation, train))
    batches = evaluation_batches(train.to(prepared.device), BATCH, data)
    masks = prepared.sparsifier.masks if prepared.sparsifier else {}
    gradient = FullGradient(prepared.model, batches, prepared.training.loss, masks)
    found, start = list[tuple[int, float]](), all_parameters(prepared.model)
    for step in prepared.training:
        if step.number % every == 0:
            value = local_lipschitz(gradient, start, all_parameters(prepared.model)).value
            found.append((step.number, value))
            tell(Progress(step.number, steps, float("nan")))
        if step.number >= steps:
            break
        if (step.number + 1) % every == 0:
            start = all_parameters(prepared.model)
    return found


def noise_course(recipe: Recipe, tell: Tell) -> list[dict[str, float]]:
    """The gradient noise scale along one training, of masked gradients, as `NoiseMeter` averages it.

    Each batch is taken in two halves, whose mean is the gradient that the training steps by. Raises RecipeError for a
    recipe whose batches cannot be halved.
    """
    parts = max(2, recipe.accumulate)
    examples = recipe.batch_size * recipe.accumulate
    if examples % parts:
        raise RecipeError(f"the noise scale compares a batch with half of it; batch_size must be even, got {examples}")
    prepared = prepare(changed(recipe, {"batch_size": examples // parts, "accumulate": parts}))
    meter = _meter(prepared, examples // parts, examples, parts)
    prepared.training.optimizer.register_step_pre_hook(lambda *_: meter.step())
    stride, found = max(1, prepared.training.steps // READINGS), list[dict[str, float]]()
    for step in prepared.training:
        meter.masks = prepared.sparsifier.masks if prepared.sparsifier else {}
        if step.number % stride == 0:
            read = meter.read()
            told = {"signal": read.signal, "noise": read.noise, "critical_batch": read.critical_batch}
            found.append({"step": step.number, **told})
            tell(Progress(step.number, prepared.training.steps, float("nan")))
    return found


def critical_batch(course: list[dict[str, Any]]) -> Estimate:
    """What a course predicts: its noise over its signal in the second half of training, and the range there."""
    late = course[len(course) // 2 :]
    values = [one["critical_batch"] for one in late]
    signal, noise = (sum(one[name] for one in late) for name in ("signal", "noise"))
    return Estimate(noise / signal if signal > 0 else float("inf"), min(values), max(values))


def _meter(prepared: Prepared, small: int, large: int, parts: int) -> NoiseMeter:
    weights = dict(unwrap(prepared.model).named_parameters())
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
    make = partial(NoiseMeter, trained, small=small, large=large, scale=float(parts))
    return make(prepared.sparsifier.masks if prepared.sparsifier else None)
