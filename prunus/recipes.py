"""Recipes: what to train, on what, how, as one mapping. ``prunus train`` runs one, ``prunus compare`` its product."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from prunus.data import npz_file
from prunus.tables import RecipeError, canonical, only, unknown

Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed"]


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are Python's: ``1e-3`` is one, and ``2:4`` is text, not 124 to base 60."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            ("tag:yaml.org,2002:str", re.compile(r"\d+:\d+$")),
            ("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")),
            *resolvers,
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Recipe(BaseModel):
    """A study: every method at every sparsity with every seed, all else equal. A run is one of each.

    Lengths: ``epochs`` of the training images (after validation is set aside) or ``steps`` of the optimizer. Parts are
    names or constructor calls; ``learning_rate`` is a number or a schedule of absolute rates over progress. ``start``
    is the directory of a finished run, or a file of weights, that training begins from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    model: str | dict[str, dict[str, Any] | None]
    method: dict[str, dict[str, Any]] = Field(min_length=1)
    sparsity: tuple[float, ...] = Field(default=(0.9,), min_length=1)
    seed: tuple[int, ...] = Field(default=(0,), min_length=1)
    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: str | dict[str, dict[str, Any] | None] = "sgd"
    learning_rate: float | str | dict[str, dict[str, Any] | None] = 0.1
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    accumulate: int = Field(default=1, ge=1)
    clip: float | None = Field(default=None, gt=0)
    precision: Precision = "32-true"
    compile: bool = False
    channels_last: bool = False
    device: str = "auto"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    validation: float = Field(default=0.1, gt=0.0, lt=1.0)
    split_seed: int = 0
    augmentation: Literal["none", "crop-flip"] | None = None
    evaluations: int = Field(default=20, ge=1)
    signal_batches: int = Field(default=10, ge=1)
    start: str | None = None
    plugins: tuple[str, ...] = ()

    @field_validator("method", mode="before")
    @classmethod
    def _methods_by_name(cls, value: object) -> object:
        return _methods(value)

    @field_validator("sparsity", "seed", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("include", "exclude", "plugins", mode="before")
    @classmethod
    def _glob_or_globs(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("sparsity")
    @classmethod
    def _fractions(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for sparsity in value:
            if not 0.0 <= sparsity < 1.0:
                raise ValueError(f"must be in [0, 1), got {sparsity}; to keep a tenth of the weights write 0.9")
        return value

    @field_validator("seed")
    @classmethod
    def _seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for seed in value:
            if not 0 <= seed < 2**32:
                raise ValueError(f"must be in [0, 2**32), got {seed}")
        return value

    @field_validator("sparsity", "seed")
    @classmethod
    def _each_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"must hold each value once, got {', '.join(map(str, value))}; drop the second")
        return value

    def runs(self) -> Iterator["Recipe"]:
        """One recipe for each method, sparsity and seed; ``dense`` once a seed, at sparsity 0."""
        for (name, arguments), seed in product(self.method.items(), self.seed):
            for sparsity in (0.0,) if name == "dense" else self.sparsity:
                chosen = {"method": {name: _at(arguments, sparsity)}, "sparsity": (sparsity,), "seed": (seed,)}
                yield self.model_copy(update=chosen)

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain values, defaults included."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def name(self) -> str:
        """The hash of the resolved recipe, and of the files that it names: the directory of its run."""
        named = self.resolved()
        if self.start:
            named["start"] = _content(start_file(self.start))
        files = [Path(name) for name in self.plugins if name.endswith(".py")]
        if self.data.endswith(".npz"):
            files.append(npz_file(self.data))
        if isinstance(self.model, str) and self.model.endswith(".json"):
            files.append(Path(self.model.partition("/")[2]))
        text = json.dumps([named, *(_content(path) for path in files)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def start_file(start: str) -> Path:
    """The file of weights that a recipe's ``start`` means. Raises RecipeError where there is none."""
    path = Path(start) / "model.safetensors" if Path(start).is_dir() else Path(start)
    if not path.is_file():
        raise RecipeError(f"start must be the directory of a finished run or a file of weights, found none at {path}")
    return path


def _content(path: Path) -> str:
    """The digest of a file, empty where there is none, which whoever reads it will say."""
    return _digest(path, path.stat().st_mtime_ns) if path.is_file() else ""


@cache
def _digest(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Single:
    """The one method, sparsity and seed of a run's recipe."""

    method: str
    arguments: Mapping[str, Any]
    sparsity: float
    seed: int


def single(recipe: Recipe) -> Single:
    """What the recipe of one run holds. Raises RecipeError for a study of several runs."""
    if len(list(recipe.runs())) != 1:
        raise RecipeError(
            f"train runs one method, sparsity and seed, the recipe has {len(recipe.method)} x {len(recipe.sparsity)} x "
            f"{len(recipe.seed)}; use compare, or choose, such as method=gmp sparsity=0.9 seed=0"
        )
    ((name, arguments),) = recipe.method.items()
    return Single(name, arguments, 0.0 if name == "dense" else recipe.sparsity[0], recipe.seed[0])


def read(path: Path, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, changed by overrides such as ``method.gmp.update_every=50``.

    Raises RecipeError with the place, the expectation, the value and the remedy.
    """
    if not path.is_file():
        raise RecipeError(f"expected a recipe file, found none at {path}")
    values = _yaml(path.read_text(), str(path))
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of recipe keys, got {type(values).__name__}")
    values["plugins"] = [*_listed(values.get("plugins")), *plugins]
    if "method" in values:
        values["method"] = _methods(values["method"])
    values.setdefault("optimizer", Recipe.model_fields["optimizer"].default)  # so that optimizer.sgd.momentum=0.9 works
    for override in overrides:
        _override(values, override)
    return parse(values)


def parse(values: Mapping[str, Any]) -> Recipe:
    """The recipe that ``values`` describe."""
    for key in values:
        if key not in Recipe.model_fields:
            raise RecipeError(f"recipe: {unknown('key', key, list(Recipe.model_fields))}")
    try:
        recipe = Recipe(**values)
    except ValidationError as error:
        raise RecipeError(_first(error)) from None
    if (recipe.epochs is None) == (recipe.steps is None):
        raise RecipeError("a recipe needs a length, epochs or steps, and only one; such as epochs: 10")
    return recipe


def modules(names: Sequence[str]) -> tuple[Any, ...]:
    """The plug-in modules by name, or by path where the name ends in .py."""
    return tuple(_module(name) for name in names)


def _module(name: str) -> Any:
    try:
        if not name.endswith(".py"):
            if (here := str(Path.cwd())) not in sys.path:
                sys.path.insert(0, here)  # as `python -m` does; an installed command does not
            return import_module(name)
        from importlib.util import module_from_spec, spec_from_file_location

        spec = spec_from_file_location(f"plugin:{Path(name).stem}", name)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)  # where dataclasses look their module up
        spec.loader.exec_module(module)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise RecipeError(
            f"plugin {name!r} cannot be imported ({error}); give a module or the path of a .py file"
        ) from None
    return module


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [{key: arguments} for key, arguments in value.items()]
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _methods(value: Any) -> dict[str, dict[str, Any]]:
    named = [_named(spec) for spec in _listed(value)]
    if len(methods := dict(named)) < len(named):
        raise RecipeError(f"method must hold each name once, got {', '.join(n for n, _ in named)}; drop the second")
    return methods


def _named(spec: Any) -> tuple[str, dict[str, Any]]:
    name, arguments = only(spec, "method")
    return canonical(name), dict(arguments)


def _override(values: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"an override is written key=value, such as method.gmp.update_every=50, got {text!r}")
    *above, last = path.split(".")
    at = values
    for key in above:
        if isinstance(at.get(key), str):
            at[key] = {at[key]: {}}
        if key not in at and canonical(key) not in at:
            raise RecipeError(f"override {text!r}: {unknown('key', key, list(at))}")
        key = key if key in at else canonical(key)
        at[key] = at[key] if at[key] is not None else {}
        if not isinstance(at[key], dict):
            raise RecipeError(f"override {text!r}: {key} is {at[key]!r}, not a call with arguments; set it whole")
        at = at[key]
    # a glob may begin with *, which in YAML is an alias: of nothing, in a single value
    parsed = value if value.startswith("*") else _yaml(value, f"override {text!r}")
    at[last] = _methods(parsed) if path == "method" else parsed


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def _at(arguments: Mapping[str, Any], sparsity: float) -> dict[str, Any]:
    """The arguments at one sparsity: ``{by_sparsity: {0.9: -2.2, 0.95: -1.8}}`` stands for one value each."""
    chosen = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Mapping) and set(value) == {"by_sparsity"}:
            if not isinstance(value["by_sparsity"], Mapping):
                raise RecipeError(f"{name}.by_sparsity must map sparsities to values, got {value['by_sparsity']!r}")
            choices = {float(key): choice for key, choice in value["by_sparsity"].items()}
            if sparsity not in choices:
                raise RecipeError(f"{name}.by_sparsity holds {', '.join(map(str, choices))}, sparsity is {sparsity}")
            chosen[name] = choices[sparsity]
    return chosen


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = found["loc"][0]  # what follows it names alternatives of the type
    message = found["msg"].removeprefix("Value error, ")
    value = "" if "got " in message else f", got {found['input']!r}"
    return f"{where}: {message[0].lower() + message[1:]}{value}"
