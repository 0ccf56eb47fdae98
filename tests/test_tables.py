"""A recipe is a constructor call, and what users write is as good as what is built in."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import read_lines, tiny
from torch import Generator, Tensor

from prunus.allocation import Allocation, Pattern, erk, per_layer
from prunus.carriers import Masked
from prunus.criteria import CRITERIA, magnitude
from prunus.masks import Masks, Tensors
from prunus.methods import METHODS, gmp, mp_rr, one_shot, rp_rr, snip
from prunus.plans import ByLayer, Even
from prunus.plugins import modules
from prunus.retraining import Restart
from prunus.runs import train
from prunus.schedules import Constant, Cosine, Piecewise, Schedule, WarmUp, cubic, linear
from prunus.signals import Gradient, LossGradient
from prunus.tables import TABLES, Builder, RecipeError, canonical, only

GIVEN = {"sparsity": 0.9, "batches": (), "loss": torch.nn.functional.cross_entropy, "input_shape": (1, 8, 8)}


def build(kind: str, spec: Any, *plugins: Any, **given: Any) -> Any:
    return Builder(GIVEN | given, plugins).build(kind, spec)


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("schedule", {"cosine": {"initial": 0.1}}, Cosine(0.1)),
        ("schedule", {"linear": {"final": 1, "initial": 0}}, linear(1.0, 0.0)),
        ("schedule", 0.1, Constant(0.1)),
        ("schedule", 2, Constant(2.0)),
        ("schedule", {"warm_up": {"schedule": {"cosine": {"initial": 1}}, "fraction": 0.1}}, WarmUp(Cosine(1.0), 0.1)),
        (
            "schedule",
            {"restart": {"peak": 0.1, "length": 20, "decay": {"cosine": {"initial": 1}}}},
            Restart(0.1, 20, Cosine(1.0)),
        ),
        ("criterion", "magnitude", magnitude),
        ("allocation", "erk", erk),
        ("allocation", "2:4", Pattern(2, 4)),
        ("allocation", {"linear1*": 0.5, "linear2*": 0}, per_layer({"linear1*": 0.5, "linear2*": 0.0})),
        ("signal", {"gradient": {"memory": 0.9}}, Gradient(0.9)),
        ("signal", "loss-gradient", LossGradient((), GIVEN["loss"])),
    ],
)
def test_a_spec_is_a_call(kind: str, spec: Any, expected: object) -> None:
    assert build(kind, spec) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("gmp", gmp(0.9)),
        ({"gmp": None}, gmp(0.9)),
        ({"GMP": {"update_every": 50, "allocation": "erk"}}, gmp(0.9, update_every=50, allocation=erk)),
        ({"mp_rr": {"schedule": {"linear": {"final": 0.9}}}}, mp_rr(0.9, schedule=linear(0.9))),
        ({"mp_rr": {"schedule": "cubic"}}, mp_rr(0.9, schedule=cubic(0.9, 1 - (1 - 0.9) / 2))),
        (
            {"rp-rr": {"schedule": {"by-layer": {"conv*": 0.5, "fc": "linear", "*": {"linear": {"final": 0.8}}}}}},
            rp_rr(0.9, schedule={"conv*": Constant(0.5), "fc": "linear", "*": linear(0.8)}),
        ),
        ({"one-shot": {"at": 0, "criterion": "random"}}, one_shot(0.9, at=0.0, criterion=CRITERIA["random"])),
        ("snip", snip(0.9, batches=(), loss=GIVEN["loss"])),
        ({"snip": {"allocation": "2:4"}}, snip(0.9, batches=(), loss=GIVEN["loss"], allocation=Pattern(2, 4))),
    ],
)
def test_a_method_gets_its_parts_and_what_the_run_gives(spec: Any, expected: Masked) -> None:
    built = build("method", spec)
    assert type(built) is type(expected)
    assert repr(built) == repr(expected)  # methods have a state and compare by identity


def test_a_list_in_a_recipe_is_the_tuple_that_the_signature_asks_for() -> None:
    optimizer = build("optimizer", {"adamw": {"betas": [0.5, 0.6]}}, params=[torch.zeros(1)], lr=0.25)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.25, (0.5, 0.6))
    model = build("model", {"mlp": {"widths": [5]}}, classes=3)
    assert [tuple(p.shape) for p in model.parameters()] == [(5, 64), (5,), (3, 5), (3,)]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_builds_by_its_bare_name(name: str) -> None:
    assert hasattr(build("method", name), "attach")
    assert repr(build("method", name.replace("-", "_").upper())) == repr(build("method", name))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in TABLES.items() for name in table])
def test_names_are_spelt_as_the_table_says_and_documented(kind: str, name: str) -> None:
    assert canonical(name) == name
    assert Builder().entry(kind, name.replace("-", "_")) is TABLES[kind][name]


def test_a_name_or_one_name_with_arguments() -> None:
    assert only("gmp", "method") == ("gmp", {})
    assert only({"gmp": None}, "method") == ("gmp", {})
    for wrong in (3, {}, {"gmp": None, "set": None}, ["gmp"]):
        with pytest.raises(RecipeError, match=r"^method must be a name, or one name with its arguments, got "):
            only(wrong, "method")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("method", "gpm", r"no method is called 'gpm'; did you mean 'gmp'\?"),
        ("method", {"gmp": {"updat": 3}}, r"method\.gmp: no argument is called 'updat'; did you mean 'update_every'\?"),
        ("method", {"gmp": {"until": "late"}}, r"method\.gmp\.until: .* valid number.*, got 'late'"),
        ("method", {"gmp": {"until": 2}}, r"method\.gmp: a window needs 0 <= start <= until <= 1, got 0.0 and 2"),
        ("method", {"gmp": {"sparsity": 0.5}}, r"method\.gmp: sparsity comes from a key of the recipe"),
        ("method", {"mp-rr": {"schedule": {"cosin": {}}}}, r"no schedule is called 'cosin'; did you mean 'cosine'\?"),
        ("method", {"mp-rr": {"schedule": {"cosine": None}}}, r"method\.mp-rr\.schedule\.cosine needs initial"),
        ("method", {"mp-rr": {"schedule": "cosin"}}, r"method\.mp-rr: a handmade .* one of linear, .*, got 'cosin'"),
        (
            "method",
            {"mp-rr": {"mask_init": "none"}},
            r"method\.mp-rr\.mask_init: .*'random' or 'magnitude'.*got 'none'",
        ),
        ("method", {"rigl": {"drop_schedule": "cubic"}}, r"method\.rigl\.drop_schedule: .*'exponential'.*got 'cubic'"),
        (
            "method",
            {"mp-rr": {"schedule": {"by-layer": {"conv*": {"linear": {}}}}}},
            r"method\.mp-rr\.schedule\.by-layer\.conv\*\.linear needs final",
        ),
        ("schedule", {"cosine": {"inital": 1}}, r"schedule\.cosine: .*'inital'; did you mean 'initial'\?"),
        ("optimizer", {"sgd": {"lr": 0.1}}, r"optimizer\.sgd: lr comes from a key of the recipe"),
        ("model", {"mlp": {"classes": 3}}, r"model\.mlp: classes comes from a key of the recipe or its data"),
        ("model", "restnet20", r"no model is called 'restnet20'; did you mean 'resnet20'"),
        ("allocation", "2:x", r"a pattern is written N:M, such as \"2:4\", got '2:x'"),
        ("allocation", "4:2", r"a pattern N:M needs 0 < N <= M, got 4:2"),
    ],
    ids=str,
)
def test_an_error_names_place_and_remedy(kind: str, spec: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(kind, spec, lr=1.0, params=[torch.zeros(1)], classes=10)


PLUGIN = '''
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from prunus.allocation import global_
from prunus.cadence import Once
from prunus.carriers import Masked
from prunus.criteria import magnitude
from prunus.schedules import Constant, Piecewise
from prunus.updates import Prune


def largest_first(weight, signal, generator):
    """The weight with its sign."""
    return weight


@dataclass(frozen=True)
class Power:
    """The absolute weight to a power."""

    power: float = 2.0

    def __call__(self, weight, signal, generator):
        return weight.abs() ** self.power


def half(scores, sparsity):
    """Half of every layer, in order."""
    return {n: (torch.arange(s.numel()) >= s.numel() // 2).view_as(s) for n, s in scores.items()}


@dataclass(frozen=True)
class Fixed:
    """So many in every layer, in order."""

    count: int

    def __call__(self, scores, sparsity):
        return {n: (torch.arange(s.numel()) < self.count).view_as(s) for n, s in scores.items()}


def falling(t):
    """From 0.2 to 0.1."""
    return 0.2 - 0.1 * t


def flat(value=0.2):
    """A maker, not a schedule."""
    return Constant(value)


steps = Piecewise((0.5,), (1.0, 2.0))


@dataclass(frozen=True)
class Steep:
    """From 1/2 to 0, by a power."""

    power: float

    def __call__(self, progress: float) -> float:
        return 0.5 * (1 - progress) ** self.power


def ones(model: nn.Module, weights):
    """A probe."""
    return {name: torch.ones_like(weight) for name, weight in weights.items()}


def mine(sparsity: float, *, at: float = 0.5, allocation=global_):
    """A method."""
    return Masked(Prune(Constant(sparsity), magnitude, allocation), Once(at))
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(PLUGIN)
    return str(path)


def test_parts_of_a_plugin_build_by_name(plugin: str) -> None:
    (own,) = modules([plugin])
    assert build("criterion", "largest-first", own) is own.largest_first
    assert build("criterion", "Power", own) == own.Power()
    assert build("criterion", {"Power": {"power": 3}}, own) == own.Power(3.0)
    assert build("allocation", "half", own) is own.half
    assert build("allocation", {"Fixed": {"count": 4}}, own) == own.Fixed(4)
    assert build("schedule", "falling", own) is own.falling
    assert build("schedule", "flat", own) == Constant(0.2)
    assert build("schedule", {"flat": {"value": 1}}, own) == Constant(1)
    assert build("schedule", "steps", own) is own.steps
    assert build("signal", "ones", own) is own.ones
    assert build("schedule", {"Steep": {"power": 2}}, own) == own.Steep(2.0)
    assert isinstance(build("method", {"mine": {"at": 0.25}}, own), Masked)
    assert build("method", {"mp-rr": {"schedule": "falling"}}, own).update.plan == Even(own.falling)
    assert build("method", {"mp-rr": {"schedule": {"by-layer": {"*": "steps"}}}}, own).update.plan == ByLayer(
        {"*": own.steps}
    )
    with pytest.raises(RecipeError, match=r"Fixed: no argument is called 'cuont'; did you mean 'count'\?"):
        build("allocation", {"Fixed": {"cuont": 4}}, own)


OWN_PARTS = [
    {"one-shot": {"criterion": "largest_first"}},
    {"one-shot": {"criterion": {"Power": {"power": 0.5}}, "at": 0.0}},
    {"one-shot": {"criterion": "saliency", "signal": "ones"}},
    {"gmp": {"update_every": 2, "allocation": "half"}},
    {"gmp": {"update_every": 2, "allocation": {"Fixed": {"count": 4}}}},
    {"mp-rr": {"update_every": 2, "schedule": {"Steep": {"power": 2}}}},
    {"mine": {"at": 0.0}},
]


@pytest.mark.parametrize("method", OWN_PARTS, ids=str)
def test_a_plugin_trains(method: dict[str, Any], plugin: str, tmp_path: Path) -> None:
    result = train(tiny(method=method, plugins=plugin, learning_rate="falling"), tmp_path, lambda progress: None)
    lines = read_lines(next(tmp_path.glob("*/metrics.jsonl")))
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.2 - 0.1 * t / 6 for t in (1, 3, 5)])
    if "half" in str(method):
        assert [layer["sparsity"] for layer in result["layers"]] == [0.5, 0.5]
    elif "Fixed" in str(method):
        assert [layer["kept"] for layer in result["layers"]] == [4, 4]
    elif "Steep" in str(method):
        # three decisions, the last of them at the schedule's end
        assert [line["sparsity"] for line in lines] == pytest.approx([0.5 * (2 / 3) ** 2, 0, 0], abs=1e-3)
    else:
        assert sum(layer["kept"] for layer in result["layers"]) == 118


def test_what_a_plugin_imports_from_here_does_not_hide_names() -> None:
    """`from prunus.criteria import magnitude` in a plug-in must not become the method called magnitude."""
    importing = SimpleNamespace(magnitude=magnitude, random=CRITERIA["random"], torch=torch)
    for name in ("magnitude", "random"):
        assert repr(build("method", name, importing)) == repr(build("method", name))


def test_a_plugin_comes_before_the_table(plugin: str) -> None:
    own = ModuleType("own")
    own.magnitude = lambda weight, signal, generator: weight  # type: ignore[attr-defined]
    assert build("criterion", "magnitude", own) is own.magnitude


def reversed_magnitude(weight: Tensor, signal: Tensor | None, generator: Generator) -> Tensor:
    return -weight.abs()


@dataclass(frozen=True)
class Everything:
    def __call__(self, scores: Tensors, sparsity: float) -> Masks:
        return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}


def test_in_python_own_parts_need_no_table() -> None:
    everything: Allocation = Everything()
    scores = {"a": torch.tensor([1.0, -3.0, 2.0])}
    assert bool(everything(scores, 0.5)["a"].all())
    own: Schedule = Piecewise((0.5,), (1.0, 2.0))
    assert own(0.75) == 2.0
    method = one_shot(0.5, criterion=reversed_magnitude, allocation=everything)
    assert method.update.criterion is reversed_magnitude  # type: ignore[attr-defined]
    assert method.update.allocation == Everything()  # type: ignore[attr-defined]
