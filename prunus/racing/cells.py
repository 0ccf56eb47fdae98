"""The cells of a study: one method, sparsity, seed, optimizer and batch size each."""

from prunus.recipes import Recipe, single
from prunus.scaling.metaparameters import setting
from prunus.tables import RecipeError


def cells_of(recipe: Recipe) -> list[Recipe]:
    """A recipe for each cell: one method, sparsity, seed, optimizer and batch size."""
    scaling = recipe.scaling
    if scaling is None:
        raise RecipeError("scaling needs the key scaling in the recipe, such as scaling.goal=0.02")
    found = []
    for run in recipe.runs():
        for name, tuned in scaling.optimizers.items():
            for size in scaling.batch_sizes:
                own = scaling.model_copy(update={"optimizers": {name: tuned}, "batch_sizes": (size,)})
                changes = {"optimizer": tuned.optimizer, "batch_size": size, "scaling": own}
                found.append(run.model_copy(update=changes))
    return found


def label(cell: Recipe) -> str:
    """A cell in words."""
    run = single(cell)
    assert cell.scaling is not None
    (optimizer,) = cell.scaling.optimizers
    return f"{run.method:<6} sparsity {run.sparsity:<5g} {optimizer} batch {cell.batch_size:<5} seed {run.seed}"


def first_setting(cell: Recipe) -> dict[str, float]:
    """The metaparameters of the cell's first trial, in the middle of its space."""
    assert cell.scaling is not None
    (tuned,) = cell.scaling.optimizers.values()
    return setting(tuned.metaparameters(), 0, cell.scaling.points)
