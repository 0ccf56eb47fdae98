"""Arguments that stand for several: ``{each: [...]}`` for one run each, ``{by_sparsity: {...}}`` for one a sparsity."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from prunus.tables import RecipeError


def variants(arguments: Mapping[str, Any], sparsity: float) -> Iterator[dict[str, Any]]:
    """The arguments of every run that ``arguments`` stand for at one sparsity, the last of several varying fastest.

    >>> list(variants({"schedule": {"each": ["ft", "llr"]}, "initial": {"by_sparsity": {0.9: -2.2}}}, 0.9))
    [{'schedule': 'ft', 'initial': -2.2}, {'schedule': 'llr', 'initial': -2.2}]
    >>> list(variants({"schedule": {"by_sparsity": {0.9: {"each": ["linear", "cubic"]}}}}, 0.9))
    [{'schedule': 'linear'}, {'schedule': 'cubic'}]
    """
    choices = [_choices(name, value, sparsity) for name, value in arguments.items()]
    for chosen in product(*choices):
        yield dict(zip(arguments, chosen, strict=True))


def _choices(name: str, value: Any, sparsity: float) -> list[Any]:
    if not isinstance(value, Mapping) or len(value) != 1:
        return [value]
    ((key, held),) = value.items()
    if key == "by_sparsity":
        return _choices(name, _at(name, held, sparsity), sparsity)
    if key != "each":
        return [value]
    if not isinstance(held, list | tuple) or not held:
        raise RecipeError(f"{name}.each must list one value a run, got {held!r}")
    if len({repr(one) for one in held}) < len(held):
        raise RecipeError(f"{name}.each must hold each value once, got {held!r}; drop the second")
    return list(held)


def _at(name: str, held: Any, sparsity: float) -> Any:
    if not isinstance(held, Mapping):
        raise RecipeError(f"{name}.by_sparsity must map sparsities to values, got {held!r}")
    choices = {float(key): choice for key, choice in held.items()}
    if sparsity not in choices:
        raise RecipeError(f"{name}.by_sparsity holds {', '.join(map(str, choices))}, sparsity is {sparsity}")
    return choices[sparsity]
