"""The recipe of a trial: that of its cell with one setting of the metaparameters."""

from collections.abc import Mapping
from typing import Any

from prunus.recipes import Recipe, changed
from prunus.tables import RecipeError, only

OWN = ("learning_rate", "momentum", "decay_steps", "end_factor")  # by name; all others are paths in a recipe


def trial_recipe(cell: Recipe, metaparameters: Mapping[str, float], seed: int) -> Recipe:
    """The recipe of one training for all the cell's steps, from the weights that ``seed`` draws."""
    changes: dict[str, Any] = {name: value for name, value in metaparameters.items() if name not in OWN}
    if "learning_rate" in metaparameters:
        changes["learning_rate"] = _rate(cell, metaparameters)
    if "momentum" in metaparameters:
        name, _ = only(cell.optimizer, "optimizer")
        changes[f"optimizer.{name}.momentum"] = metaparameters["momentum"]
    plain = cell.model_copy(update={"scaling": None, "seed": (seed,)})
    return changed(plain, changes)


def _rate(cell: Recipe, metaparameters: Mapping[str, float]) -> float | dict[str, Any]:
    """The rate that stays, or the line of the linear decay: down to ``end_factor`` of it in ``decay_steps`` steps."""
    rate = metaparameters["learning_rate"]
    if "decay_steps" not in metaparameters:
        return rate
    if cell.steps is None:
        raise RecipeError("scaling: a linear decay is laid over steps; give the budget as steps, not as epochs")
    line = {"linear": {"initial": rate, "final": rate * metaparameters["end_factor"]}}
    return {"within": {"schedule": line, "until": metaparameters["decay_steps"] / cell.steps}}
