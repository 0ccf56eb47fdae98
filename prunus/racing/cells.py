"""The cells of a study: one method, sparsity, seed, optimizer and batch size each."""

from prunus.recipes import Recipe, single
from prunus.scaling.metaparameters import setting
from prunus.scaling.trials import REPEATS
from prunus.tables import RecipeError


def cells_of(recipe: Recipe) -> list[Recipe]:
    """A recipe for each cell: one method, sparsity, seed, optimizer and batch size."""
    scaling = recipe.scaling
    if scaling is None:
        raise RecipeError("scaling needs the key scaling in the recipe, such as scaling.goal=0.02")
    _check(recipe)
    found = []
    for run in recipe.runs():
        for name, tuned in scaling.optimizers.items():
            for size in scaling.batch_sizes:
                own = scaling.model_copy(update={"optimizers": {name: tuned}, "batch_sizes": (size,)})
                changes = {"optimizer": tuned.optimizer, "batch_size": size, "scaling": own}
                found.append(run.model_copy(update=changes))
    return found


def signal_name(cell: Recipe, seed: int) -> str:
    """A name for what is measured on the weights that ``seed`` draws, whatever trains them afterwards."""
    others = {"method": {"dense": {}}, "sparsity": (0.0,), "optimizer": "sgd", "learning_rate": 0.1, "batch_size": 1}
    return cell.model_copy(update=others | {"steps": 1, "scaling": None, "seed": (seed,)}).name()


def _check(recipe: Recipe) -> None:
    """Raises RecipeError where two cells would be told apart by nothing that a study looks at."""
    sparse = [run for run in recipe.runs() if single(run).method != "dense" and run.sparsity == recipe.sparsity[:1]]
    if (several := len([run for run in sparse if run.seed == recipe.seed[:1]])) > 1:
        raise RecipeError(f"scaling: a study has one sparse method beside dense, got {several}; make a study of each")
    if sparse and 0.0 in recipe.sparsity:
        raise RecipeError("scaling: sparsity 0 is that of dense, a method by itself; leave it out of sparsity")
    if (largest := max(recipe.seed)) >= REPEATS:
        raise RecipeError(f"scaling: seeds must be below {REPEATS}, from where those of repeats begin, got {largest}")


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
