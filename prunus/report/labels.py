"""Labels: what a reader sees a method called."""

from collections.abc import Mapping, Sequence
from typing import Any


def labels(results: Sequence[dict[str, Any]]) -> list[str]:
    """Each run's method; in brackets the settings by which runs of one method differ at one sparsity.

    Two variants of a method are two methods to a reader: averaging over them would hide what the study varied.
    """
    settings = [
        {**content["arguments"], **{key: content[key] for key in ("steps", "batch_size", "precision")}}
        for content in results
    ]
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for content, setting in zip(results, settings, strict=True):
        groups.setdefault((content["method"], content["sparsity"]), []).append(setting)
    varied: dict[str, set[str]] = {}
    for (name, _), group in groups.items():
        varied.setdefault(name, set()).update(differing(group) - {"sparsity", "seed"})
    return [
        label(content["method"], {key: setting.get(key) for key in sorted(varied[content["method"]])})
        for content, setting in zip(results, settings, strict=True)
    ]


def differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys whose values are not the same in all ``settings``."""
    keys = {key for setting in settings for key in setting}
    return {key for key in keys if len({repr(setting.get(key)) for setting in settings}) > 1}


def label(name: str, settings: Mapping[str, Any]) -> str:
    """The method's name as a call of these settings: ``gmp(every=50)``."""
    inside = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}({inside})" if inside else name
