"""Recipes: what to train, on what, how, as one mapping. ``prunus train`` runs one, ``prunus compare`` its product."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunus.data import data_path, sized
from prunus.methods import METHODS
from prunus.named_plans import FILES as SCHEDULE_FILES
from prunus.settings import Anytime, Learn, Scaling, Search
from prunus.tables import RecipeError, canonical, only, unknown
from prunus.variants import variants
from prunus.yaml_text import parsed

Precision = Literal["32-true", "64-true", "bf16-mixed", "16-mixed"]

# What may be otherwise in the dense run that others begin from; the data, the model and the seed are theirs.
NESTED = ("search", "learn", "anytime", "scaling")  # keys that hold keys
OF_WEIGHTS = ("weights", "peak")  # of a network that is there: its file, and its highest rate if no more is known
OF_START = ("epochs", "steps", "optimizer", "learning_rate", "batch_size", "accumulate", "clip", "label_smoothing")


class Recipe(BaseModel):
    """A study: every method at every sparsity with every seed, all else equal. A run is one of each.

    Lengths: ``epochs`` of the training images (after validation is set aside) or ``steps`` of the optimizer; of several
    ``epochs`` each is a run. Parts are names or constructor calls; ``learning_rate`` is a number or a schedule of
    absolute rates over progress. ``start`` is the directory of a finished run, or a file of weights, that training
    begins from; or what differs from this recipe in a dense run that is made first, or, with ``weights``, that made
    these weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    model: str | dict[str, dict[str, Any] | None]
    method: dict[str, dict[str, Any]] = Field(min_length=1)
    sparsity: tuple[float, ...] = Field(default=(0.9,), min_length=1)
    seed: tuple[int, ...] = Field(default=(0,), min_length=1)
    epochs: tuple[float, ...] | None = Field(default=None, min_length=1)
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
    images: int | None = Field(default=None, ge=2)
    validation: float = Field(default=0.1, gt=0.0, lt=1.0)
    split_seed: int = 0
    augmentation: Literal["none", "crop-flip", "resized-crop"] | None = None
    evaluations: int = Field(default=20, ge=1)
    signal_batches: int = Field(default=10, ge=1)
    gradients: Literal["packed", "dense"] | None = None
    recalibrate: int = Field(default=0, ge=0)
    start: str | dict[str, Any] | None = None
    plugins: tuple[str, ...] = ()
    search: Search | None = None
    learn: Learn | None = None
    anytime: Anytime | None = None
    scaling: Scaling | None = None

    @field_validator("method", mode="before")
    @classmethod
    def _methods_by_name(cls, value: object) -> object:
        return _methods(value)

    @field_validator("sparsity", "seed", "epochs", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return value if isinstance(value, list | tuple) or value is None else (value,)

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

    @field_validator("epochs")
    @classmethod
    def _lengths(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        for epochs in value or ():
            if not 0.0 < epochs < float("inf"):
                raise ValueError(f"must be greater than 0, got {epochs}")
        return value

    @field_validator("start")
    @classmethod
    def _dense_start(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(value, dict):
            known = [*OF_START, *OF_WEIGHTS] if "weights" in value else list(OF_START)
            for key in value:
                if key not in known:
                    raise RecipeError(f"start: {unknown('key', key, known)}")
            if not isinstance(peak := value.get("peak", 1.0), int | float):
                raise RecipeError(f"start.peak must be a number, got {peak!r}")
            if not value.keys() & {"epochs", "steps", "peak"}:
                raise RecipeError("start needs the length of the dense run, epochs or steps; such as start.epochs=10")
        return value

    @model_validator(mode="after")
    def _search_fits(self) -> "Recipe":
        if self.search is None:
            return self
        if self.search.seed in self.seed:
            raise ValueError(
                f"search: seed {self.search.seed} is one of the recipe's; a search needs a seed of its own"
            )
        for name in sorted(self.search.methods()):
            # a recipe narrowed to fewer methods keeps its search; a name that no table knows is a slip
            if name not in self.method and name not in METHODS:
                raise RecipeError(f"search: {unknown('method', name, [*self.method, *METHODS])}")
        return self

    @model_validator(mode="after")
    def _unseen(self) -> "Recipe":
        if self.learn is not None and (seen := self.learn.seeds() & set(self.seed)):
            raise ValueError(
                f"learn: agents see networks of seed {min(seen)}, which is one of the recipe's; its seeds are for "
                "networks that no agent has seen, such as seed: [2000, 2001, 2002]"
            )
        return self

    @model_validator(mode="after")
    def _stream_alone(self) -> "Recipe":
        others = {"start": self.start, "learn": self.learn, "recalibrate": self.recalibrate}
        if self.anytime is not None and (found := [key for key, value in others.items() if value]):
            raise ValueError(f"anytime begins from fresh weights and does not go with {found[0]}; leave that out")
        if self.anytime is not None and self.anytime.model is not None:
            raise ValueError("anytime.model is for one method, such as dense: {model: ...}; all have the key model")
        return self

    @model_validator(mode="after")
    def _cells_alone(self) -> "Recipe":
        others = {"start": self.start, "learn": self.learn, "anytime": self.anytime, "search": self.search}
        if self.scaling is not None and (found := [key for key, value in others.items() if value]):
            raise ValueError(f"scaling trains from fresh weights to a goal and does not go with {found[0]}; drop that")
        if self.scaling is not None and self.steps is None:
            raise ValueError("scaling needs steps, the budget of each trial, such as steps: 40000")
        if self.scaling is not None and self.accumulate > 1:
            raise ValueError(f"scaling measures whole batches; leave accumulate at 1, got {self.accumulate}")
        return self

    @field_validator("sparsity", "seed", "epochs")
    @classmethod
    def _each_once(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"must hold each value once, got {', '.join(map(str, value))}; drop the second")
        return value

    def runs(self) -> Iterator["Recipe"]:
        """One recipe for each method, its arguments, sparsity, length and seed; ``dense`` at sparsity 0 alone."""
        lengths = [(epochs,) for epochs in self.epochs] if self.epochs else [None]
        for (name, arguments), seed, length in product(self.method.items(), self.seed, lengths):
            for sparsity in (0.0,) if name == "dense" else self.sparsity:
                for chosen in variants(arguments, sparsity):
                    one = {
                        "model": chosen.get("model", self.model) if self.anytime else self.model,
                        "method": {name: chosen},
                        "sparsity": (sparsity,),
                        "seed": (seed,),
                        "epochs": length,
                        "search": None,
                        "learn": None,
                        "scaling": None,
                    }
                    yield self.model_copy(update=one)

    def before(self) -> "Recipe | None":
        """The dense run that is to be made first, where ``start`` says what it differs in and has no weights."""
        return None if self.origin() else self.history()

    def origin(self) -> str | None:
        """The directory of a finished run, or the file of weights, that training begins from."""
        found = self.start.get("weights") if isinstance(self.start, dict) else self.start
        return None if found is None else str(found)

    def history(self) -> "Recipe | None":
        """The training before, where ``start`` says what it differs in. Raises RecipeError where it has no length."""
        if not isinstance(self.start, dict):
            return None
        dense = {
            "method": "dense",
            "sparsity": 0.0,
            "epochs": None,
            "steps": None,
            "recalibrate": 0,
            "start": None,
            "search": None,
            "learn": None,
        }
        told = {key: value for key, value in self.start.items() if key in OF_START}
        return parse(self.resolved() | dense | told)

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain values, defaults included."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def name(self) -> str:
        """The hash of the resolved recipe, and of the files that it names: the directory of its run."""
        named = {key: value for key, value in self.resolved().items() if value is not None}  # a new key renames nothing
        named["method"] = _by_content(named["method"])
        if origin := self.origin():
            content = _content(start_file(origin))
            named["start"] = self.start | {"weights": content} if isinstance(self.start, dict) else content
        files = [Path(name) for name in self.plugins if name.endswith(".py")]
        if (source := sized(self.data)[0]).endswith(".npz"):
            files.append(data_path(source))
        if isinstance(self.model, str) and self.model.endswith(".json"):
            files.append(Path(self.model.partition("/")[2]))
        text = json.dumps([named, *(_content(path) for path in files)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _by_content(value: Any) -> Any:
    """The same nest of mappings and lists, the names of schedule files in it replaced by what they hold."""
    if isinstance(value, Mapping):
        return {key: _by_content(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(one) for one in value]
    return _content(Path(value)) if isinstance(value, str) and value.endswith(SCHEDULE_FILES) else value


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
    """The one method, sparsity and seed of a run's recipe.

    ``arguments`` are all that the recipe gives the method, ``own`` those that are not for the stream.
    """

    method: str
    arguments: Mapping[str, Any]
    sparsity: float
    seed: int
    anytime: Anytime | None = None

    @property
    def own(self) -> dict[str, Any]:
        """The arguments of the method itself."""
        foreign = () if self.anytime is None else Anytime.model_fields
        return {name: value for name, value in self.arguments.items() if name not in foreign}


def single(recipe: Recipe) -> Single:
    """What the recipe of one run holds. Raises RecipeError for a study of several runs."""
    if (runs := len(list(recipe.runs()))) != 1:
        raise RecipeError(
            f"train runs one method, sparsity, seed and length, the recipe stands for {runs} runs; use compare, or "
            "choose, such as method=gmp sparsity=0.9 seed=0"
        )
    ((name, arguments),) = recipe.method.items()
    sparsity = 0.0 if name == "dense" else recipe.sparsity[0]
    return Single(name, arguments, sparsity, recipe.seed[0], _stream_of(recipe, name))


def _stream_of(recipe: Recipe, method: str) -> Anytime | None:
    """The recipe's stream with what a method's arguments change of it."""
    if recipe.anytime is None:
        return None
    changes = {key: value for key, value in recipe.method[method].items() if key in Anytime.model_fields}
    try:
        return Anytime(**recipe.anytime.model_dump() | changes)
    except ValidationError as error:
        raise RecipeError(f"method.{method}.{_first(error)}") from None


def read(
    path: Path,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    *,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """The recipe in a YAML file, with ``changes`` of whole keys and then overrides: ``method.gmp.update_every=50``.

    Raises RecipeError with the place, the expectation, the value and the remedy.
    """
    if not path.is_file():
        raise RecipeError(f"expected a recipe file, found none at {path}")
    values = parsed(path.read_text(), str(path))
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of recipe keys, got {type(values).__name__}")
    values |= changes
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


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """``recipe`` with other values at some paths, such as ``optimizer.sgd.weight_decay``."""
    values = recipe.resolved()
    for path, value in changes.items():
        _set(values, path, value, f"search: {path}")
    return parse(values)


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
    # a glob may begin with *, which in YAML is an alias: of nothing, in a single value
    read = value if value.startswith("*") else parsed(value, f"override {text!r}")
    _set(values, path, _methods(read) if path == "method" else read, f"override {text!r}")


def _set(values: dict[str, Any], path: str, value: Any, where: str) -> None:
    *above, last = path.split(".")
    at = values
    for key in above:
        if isinstance(at.get(key), str):
            at[key] = {at[key]: {}}
        if key not in at and canonical(key) not in at:
            raise RecipeError(f"{where}: {unknown('key', key, list(at))}")
        key = key if key in at else canonical(key)
        at[key] = at[key] if at[key] is not None else {}
        if not isinstance(at[key], dict):
            raise RecipeError(f"{where}: {key} is {at[key]!r}, not a call with arguments; set it whole")
        at = at[key]
    at[last] = value


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    # what follows the key, and names in a nested one, names alternatives of the type
    nested = [str(part) for part in found["loc"][1:2] if found["loc"][0] in NESTED and isinstance(part, str)]
    where = f"{'.'.join([str(found['loc'][0]), *nested])}: " if found["loc"] else ""
    message = found["msg"].removeprefix("Value error, ")
    value = "" if "got " in message or not where else f", got {found['input']!r}"
    return f"{where}{message[0].lower() + message[1:]}{value}"
