"""What a stage of a stream trains: the recipe of one megabatch, and the method as the stream wants it."""

from prunus.anytime.released import released
from prunus.anytime.state import stage_seed
from prunus.carriers import Carrier, Retrained
from prunus.recipes import Recipe, Single, single
from prunus.settings import Anytime
from prunus.streams import sparsity_at
from prunus.tables import RecipeError


def planned_sparsity(run: Single, number: int, planned: int) -> float:
    """What the plan over ``planned`` megabatches asks for after megabatch ``number``; 0 for a dense network."""
    assert run.anytime is not None
    first = min(run.anytime.first, run.sparsity)
    return sparsity_at(number, run.sparsity, horizon=planned, first=first, kind=run.anytime.plan)


def stage_recipe(recipe: Recipe, number: int, member: int, planned: int) -> Recipe:
    """The recipe by which network ``member`` trains on megabatch ``number`` of ``planned``."""
    run = single(recipe)
    sparsity, seed = planned_sparsity(run, number, planned), stage_seed(run.seed, number, member)
    own = {"method": {run.method: run.own}, "sparsity": (sparsity,), "seed": (seed,)}
    return recipe.model_copy(update={**own, "anytime": None})


def adapted(method: Carrier, stream: Anytime, seed: int) -> Carrier:
    """The method with the masks and scores of the stream. Raises RecipeError for what does not fit together."""
    if isinstance(method, Retrained) and stream.rates != "cyclic":
        raise RecipeError(
            f"anytime.rates={stream.rates} is for methods that leave learning rates to the recipe; this one restarts "
            "them at each pruning, so take cyclic"
        )
    return released(method, stream, seed)
