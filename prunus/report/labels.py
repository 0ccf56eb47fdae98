"""Labels: what a reader sees a method called."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from prunus.report import wording

FILES = (".json", ".csv")


class Label(NamedTuple):
    """A method as a reader tells it from others: its variant, and its budget where the study gives several."""

    variant: str
    budget: str = ""

    def __str__(self) -> str:
        """'imp(schedule=allr), 2.5 epochs'."""
        return f"{self.variant}, {self.budget}" if self.budget else self.variant


def labels(results: Sequence[dict[str, Any]], searches: Sequence[Mapping[str, Any]] = ()) -> list[Label]:
    """Each run's method: its variant, and its epochs where some variant of the method was trained for several.

    The length of a training is its budget and no setting of its method: variants stand beside each other at each. What
    ``searches`` chose makes no variant either: it belongs to the method, whatever it is at a sparsity or length.
    """
    named = variants(results, searches)
    lengths: dict[tuple[str, str, float, int | None], set[int]] = {}
    for content, variant in zip(results, named, strict=True):
        # patience ends each seed's training at its own step
        seed = content["seed"] if content.get("stream", {}).get("settings", {}).get("patience") else None
        lengths.setdefault((content["method"], variant, content["sparsity"], seed), set()).add(content["steps"])
    several = {name for (name, *_), steps in lengths.items() if len(steps) > 1}
    return [
        Label(variant, wording.epochs(content["epochs"]) if content["method"] in several else "")
        for content, variant in zip(results, named, strict=True)
    ]


def variants(results: Sequence[dict[str, Any]], searches: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Each run's method; in brackets the settings by which runs of one method differ at one sparsity.

    Two variants of a method are two methods to a reader: averaging over them would hide what the study varied.
    """
    settings = [
        {**arguments, **{key: content[key] for key in ("batch_size", "precision")}}
        for content, arguments in zip(results, legible(results), strict=True)
    ]
    chosen = searched(searches)
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for content, own in zip(results, settings, strict=True):
        groups.setdefault((content["method"], content["sparsity"]), []).append(own)
    varied: dict[str, set[str]] = {}
    for (name, _), group in groups.items():
        varied.setdefault(name, set()).update(differing(group) - {"sparsity", "seed"} - chosen.get(name, set()))
    return [
        label(content["method"], {key: own.get(key) for key in sorted(varied[content["method"]])})
        for content, own in zip(results, settings, strict=True)
    ]


def searched(searches: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """By method, the settings that its searches chose; not those in which the recipe itself has several variants."""
    tried: dict[str, set[str]] = {}
    arguments: dict[tuple[str, float, float | None], list[Mapping[str, Any]]] = {}
    for search in searches:
        names = {setting(path) for point in search["points"] for path in point["values"]}
        tried.setdefault(search["method"], set()).update(names)
        arguments.setdefault((search["method"], search["sparsity"], search["epochs"]), []).append(search["arguments"])
    varied = {(name, key) for (name, *_), group in arguments.items() for key in differing(group)}
    return {name: {key for key in keys if (name, key) not in varied} for name, keys in tried.items()}


def setting(path: str) -> str:
    """What a search's path changes: an argument of the method, or a key of the recipe."""
    parts = path.split(".")
    return parts[2] if parts[0] == "method" else parts[0]


def differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys whose values are not the same in all ``settings``."""
    keys = {key for setting in settings for key in setting}
    return {key for key in keys if len({repr(setting.get(key)) for setting in settings}) > 1}


def label(name: str, settings: Mapping[str, Any]) -> str:
    """The method's name as a call of these settings: ``gmp(every=50)``."""
    inside = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}({inside})" if inside else name


def legible(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each run's arguments, with files called by their stems; by their paths where a stem would stand for several.

    So a schedule that was learned for every sparsity, each in a file of its own, is one variant of its method.
    """
    meant: dict[tuple[str, float, str, str], set[str]] = {}
    for content in results:
        for key, value in content["arguments"].items():
            meant.setdefault((content["method"], content["sparsity"], key, str(stem(value))), set()).add(str(value))
    return [
        {
            key: value if len(meant[content["method"], content["sparsity"], key, str(stem(value))]) > 1 else stem(value)
            for key, value in content["arguments"].items()
        }
        for content in results
    ]


def stem(value: Any) -> Any:
    """A file by its name without directory and ending; any other value as it is."""
    return PurePath(value).stem if is_file(value) else value


def is_file(value: Any) -> bool:
    """Whether an argument is the path of a file that holds a schedule."""
    return isinstance(value, str) and value.endswith(FILES)
