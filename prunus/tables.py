"""The tables of names that recipes use, and how a name and its arguments become an object.

A recipe is a constructor call: ``{gmp: {update_every: 50}}`` is ``gmp(update_every=50)``, a bare name is a call without
arguments. Functions and classes of plug-in modules come first, so anyone's criterion or method works by its name.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import ModuleType
from typing import Any, get_args

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from prunus.allocation import ALLOCATIONS, Allocation, pattern, per_layer
from prunus.criteria import CRITERIA, Criterion
from prunus.learned_schedule import LearnedSchedule
from prunus.methods import METHODS
from prunus.models import factory
from prunus.retraining import Restart
from prunus.schedules import SCHEDULES, Schedule
from prunus.signals import Gradient, HessianGradient, LossGradient, Signal, SynapticFlow

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "nadam": torch.optim.NAdam,
}

SIGNALS: dict[str, Callable[..., Signal]] = {
    "gradient": Gradient,
    "loss-gradient": LossGradient,
    "hessian-gradient": HessianGradient,
    "synaptic-flow": SynapticFlow,
}

TABLES: dict[str, Mapping[str, Any]] = {
    "method": METHODS,
    "schedule": {**SCHEDULES, "restart": Restart},
    "criterion": CRITERIA,
    "allocation": ALLOCATIONS,
    "signal": SIGNALS,
    "optimizer": OPTIMIZERS,
}

_PARTS = {Schedule: "schedule", Criterion: "criterion", Allocation: "allocation", Signal: "signal"}
_VALUES = ("criterion", "allocation")  # functions in these tables are the part itself, not its maker
_CALLS = ("method", "model", "optimizer")  # always made by a call, with arguments that the run gives

Spec = str | float | Mapping[str, Any]


class RecipeError(ValueError):
    """Something in a recipe is not as expected; one line with the place, the expectation, the value and the remedy."""


def unknown(what: str, name: object, known: Mapping[str, Any] | list[str]) -> RecipeError:
    """The error for a name that is not known, with the nearest ones."""
    near = get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    near.sort(key=lambda other: sorted(other) != sorted(str(name)))  # two letters exchanged: gpm is gmp, not gsm
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return RecipeError(f"no {what} is called {name!r}; {hint}")


def only(spec: Spec, where: str) -> tuple[str, Mapping[str, Any]]:
    """Name and arguments of a spec: a bare name, or a mapping of one name to its arguments."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise RecipeError(f"{where} must be a name, or one name with its arguments, got {spec!r}")
    ((name, arguments),) = spec.items()
    if not isinstance(arguments or {}, Mapping):
        raise RecipeError(f"{where}.{name} must hold arguments by name, got {arguments!r}")
    return str(name), arguments or {}


def canonical(name: str) -> str:
    """A name as tables spell it: ``mp_rr`` and ``MP-RR`` are ``mp-rr``."""
    return name.lower().replace("_", "-")


@dataclass(frozen=True)
class Builder:
    """Builds parts from specs. ``given`` holds the arguments that a run fills in by name where a recipe does not."""

    given: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[ModuleType, ...] = ()

    def build(self, kind: str, spec: Spec, where: str = "") -> Any:
        """The part of ``kind`` that ``spec`` names. Raises RecipeError with the place in the recipe."""
        where = where or kind
        if (special := self._special(kind, spec)) is not None:
            return special
        name, arguments = only(spec, where)
        if kind in _CALLS and (taken := arguments.keys() & self.given.keys()):
            raise RecipeError(f"{where}.{name}: {min(taken)} comes from a key of the recipe or its data; set it there")
        entry = self.entry(kind, name)
        if not arguments and _is_part(kind, entry):
            return entry
        return self.call(entry, arguments, f"{where}.{name}")

    def entry(self, kind: str, name: str) -> Any:
        """What stands under ``name``: in a plug-in module, else in the table of its kind."""
        if (own := self._own(name)) is not None:
            return own
        if kind == "model":
            try:
                return factory(name if "/" in name else canonical(name))
            except ValueError:
                from prunus.models import MODELS

                raise unknown(kind, name, MODELS) from None
        if canonical(name) not in TABLES[kind]:
            raise unknown(kind, name, TABLES[kind])
        return TABLES[kind][canonical(name)]

    def call(self, make: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
        """``make(**arguments)``, with types checked by its signature, parts built, and what the run gives filled in."""
        parameters = inspect.signature(make, eval_str=True).parameters
        for key in arguments:
            if key not in parameters:
                raise RecipeError(f"{where}: {unknown('argument', key, _settable(parameters, self.given))}")
        filled = {key: value for key, value in self.given.items() if key in parameters and key not in arguments}
        built = {
            key: self._value(parameters[key].annotation, value, f"{where}.{key}") for key, value in arguments.items()
        }
        missing = [n for n, p in parameters.items() if p.default is p.empty and n not in filled | built]
        if missing:
            raise RecipeError(f"{where} needs {', '.join(missing)}")
        try:
            return make(**filled, **built)
        except RecipeError:
            raise
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from error

    def _own(self, name: str) -> Any:
        for plugin in self.plugins:
            found = getattr(plugin, name.replace("-", "_"), None)
            # what a plug-in imports from here is not its own: its `magnitude` is a criterion, and a method's name
            if callable(found) and not _ours(found):
                return found
        return None

    def _planned(self, spec: Any, where: str) -> Any:
        """What ``by-layer`` and ``learned`` stand for where a plan is wanted; None for anything else."""
        name, arguments = only(spec, where) if isinstance(spec, Mapping) else ("", {})
        if canonical(name) == "by-layer":
            return {
                str(glob): self._value(str | Schedule, one, f"{where}.{name}.{glob}") for glob, one in arguments.items()
            }
        return self.call(LearnedSchedule.read, arguments, f"{where}.{name}") if name == "learned" else None

    def _value(self, annotation: Any, value: Any, where: str) -> Any:
        if isinstance(value, str) and str in get_args(annotation) and self._own(value) is None:
            return value  # a name that the part itself understands
        if LearnedSchedule in get_args(annotation) and (plan := self._planned(value, where)) is not None:
            return plan
        for part, kind in _PARTS.items():
            if value is not None and (
                annotation == part or part in get_args(annotation) or _is_signal(annotation, kind)
            ):
                return self.build(kind, value, where)
        if annotation is inspect.Parameter.empty:
            return value
        try:
            adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
            return adapter.validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"{where}: {_plain(error)}, got {value!r}") from None

    def _special(self, kind: str, spec: Spec) -> Any:
        if kind == "schedule" and isinstance(spec, int | float):
            return SCHEDULES["constant"](float(spec))
        if kind != "allocation":
            return None
        if isinstance(spec, str) and ":" in spec:
            return pattern(spec)
        if isinstance(spec, Mapping) and all(isinstance(value, int | float) for value in spec.values()):
            return per_layer({str(glob): float(value) for glob, value in spec.items()})
        return None


def _is_part(kind: str, entry: Any) -> bool:
    """Whether ``entry`` itself is the part, as a user's function of progress is a schedule, and not what makes it."""
    if inspect.isclass(entry) or kind in _CALLS:
        return False
    required = any(p.default is p.empty for p in inspect.signature(entry).parameters.values())
    return kind in _VALUES or (required and not _ours(entry))


def _ours(entry: Any) -> bool:
    return (inspect.isfunction(entry) or inspect.isclass(entry)) and entry.__module__.startswith("prunus.")


def _is_signal(annotation: Any, kind: str) -> bool:
    return kind == "signal" and Gradient in get_args(annotation)  # a union inside a union is flattened


def _settable(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> list[str]:
    return [name for name in parameters if name not in given]


def _plain(error: ValidationError) -> str:
    message = error.errors()[0]["msg"]
    return message[0].lower() + message[1:]
