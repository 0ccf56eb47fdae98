"""What the gradients of one training tell: how they change along the way, and how noisy they are."""

from typing import Any

from prunus.data import evaluation_batches
from prunus.loop import Progress, Tell
from prunus.masks import unwrap
from prunus.prepare import Prepared, prepare
from prunus.racing.cell import Race
from prunus.racing.examination import BATCH
from prunus.recipes import Recipe, changed
from prunus.scaling.lipschitz import FullGradient, all_parameters, local_lipschitz
from prunus.scaling.noise import NoiseMeter
from prunus.scaling.trials import Trial
from prunus.scaling.uncertainty import Estimate
from prunus.tables import RecipeError

READINGS = 20


def lipschitz_course(race: Race, winner: Trial, points: int) -> list[tuple[int, float]]:
    """(step, local Lipschitz constant) at about so many ``points`` of the way of a cell's ``winner`` to the goal.

    Each takes the gradient of all training images ten times (Lee et al. 2021).
    """
    prepared = race.entrant(winner.number, winner.metaparameters, race.run.seed).prepared
    data, train, _ = race.images
    steps, every = winner.steps, max(1, winner.steps // points)
    batches = evaluation_batches(train.to(prepared.device), BATCH, data)
    masks = prepared.sparsifier.masks if prepared.sparsifier else {}
    gradient = FullGradient(prepared.model, batches, prepared.training.loss, masks)
    found, start = list[tuple[int, float]](), all_parameters(prepared.model)
    for step in prepared.training:
        if step.number % every == 0:
            value = local_lipschitz(gradient, start, all_parameters(prepared.model)).value
            found.append((step.number, value))
            race.tell(Progress(step.number, steps, float("nan")))
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
    masks = prepared.sparsifier.masks if prepared.sparsifier else None
    return NoiseMeter(trained, masks, small=small, large=large, scale=float(parts))
