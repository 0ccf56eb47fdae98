"""The one table of methods: a line here, and a method inherits every test of the matrix."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunus.carriers import Carrier
from prunus.methods import METHODS
from prunus.randomness import seeded
from prunus.retraining import Pretraining
from prunus.schedules import Table
from prunus.sparsifier import Sparsifier, sparsify

STEPS, SPARSITY, SEED = 16, 0.75, 3

# How many weights stay in the end, from shapes and sparsity.
Count = Callable[[dict[str, tuple[int, ...]], float], int]
GLOBAL: Count = lambda shapes, sparsity: reference.kept(sum(torch.Size(s).numel() for s in shapes.values()), sparsity)  # noqa: E731
UNIFORM: Count = lambda shapes, sparsity: sum(reference.uniform_counts(shapes, sparsity).values())  # noqa: E731
ERK: Count = lambda shapes, sparsity: sum(reference.erk_counts(shapes, sparsity).values())  # noqa: E731
OUTCOME = None  # sparsity follows from the method's own parameters

# What is zero off the mask after every step.
STATE = "the weight, its gradient and its optimizer state"
USED = "the weight that the forward sees"
LATER = "nothing before the end"


@dataclass(frozen=True)
class Case:
    """A method of `METHODS` with arguments, its naive twin, its final count and what it keeps zero on the way."""

    name: str
    twin: Callable[..., None]
    count: Count | None
    zero: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def method(self, sparsity: float = SPARSITY) -> Carrier:
        return METHODS[self.name](sparsity, **self.arguments)

    def __str__(self) -> str:
        telling = ("recover", "batches", "decay", "grow", "turnover", "mask_init", "rescale", "drop_schedule")
        telling += ("schedule", "over") if self.name == "imp" else ()
        return "-".join([self.name, *(key for key in self.arguments if key in telling)])


def network() -> nn.Sequential:
    """Three linear layers with ReLU, float64, always the same."""
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    generator = seeded(SEED, "network")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    return model


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Inputs (16, 6) and targets (16, 3) of a step."""
    generator = seeded(SEED, "batch", number)
    return torch.randn(16, 6, generator=generator).double(), torch.randn(16, 3, generator=generator).double()


PROBE: dict[str, Any] = {"batches": [batch(-1), batch(-2)], "loss": nn.functional.mse_loss}
EVERY: dict[str, Any] = {"update_every": 5}
HISTORY = Pretraining(tuple(0.1 * (1 - step / 40) for step in range(40)))
UP_AND_DOWN: dict[str, Any] = {"schedule": Table((0.5, 0.9, 0.8, SPARSITY)), "update_every": 5}

CASES = [
    Case("random", reference.random, ERK, STATE),
    Case("magnitude", reference.magnitude, GLOBAL, STATE),
    Case("snip", reference.snip, GLOBAL, STATE),
    Case("snip", reference.snip, GLOBAL, STATE, PROBE),
    Case("grasp", reference.grasp, GLOBAL, STATE, PROBE),
    Case("synflow", reference.synflow, GLOBAL, STATE, {"input_shape": (6,), "rounds": 20}),
    Case("one-shot", reference.one_shot, GLOBAL, STATE),
    Case("imp", reference.imp, GLOBAL, STATE, {"cycles": 2, "pretraining": HISTORY}),
    Case("imp", reference.imp, GLOBAL, STATE, {"cycles": 3, "pretraining": HISTORY, "schedule": "llr"}),
    Case("imp", reference.imp, GLOBAL, STATE, {"cycles": 1, "pretraining": HISTORY, "over": "masked"}),
    Case("bimp", reference.bimp, GLOBAL, STATE),
    Case("gmp", reference.gmp, GLOBAL, STATE, EVERY),
    Case("gmp", reference.gmp, GLOBAL, USED, {"update_every": 5, "recover": True}),
    Case("set", reference.set_, ERK, STATE, EVERY),
    Case("rigl", reference.rigl, ERK, STATE, EVERY),
    Case("set", reference.set_, ERK, STATE, EVERY | {"drop_schedule": "linear", "rescale": True}),
    Case("itop", reference.itop, ERK, STATE, EVERY),
    Case("itop", reference.itop, ERK, STATE, EVERY | {"grow": "gradient"}),
    Case("snfs", reference.snfs, UNIFORM, STATE, EVERY),
    Case("rp-rr", reference.rp_rr, UNIFORM, STATE, UP_AND_DOWN),
    Case("mp-rr", reference.mp_rr, UNIFORM, STATE, UP_AND_DOWN),
    Case("rp-rr", reference.rp_rr, UNIFORM, STATE, UP_AND_DOWN | {"mask_init": "magnitude", "rescale": True}),
    Case("mp-rr", reference.mp_rr, UNIFORM, STATE, UP_AND_DOWN | {"turnover": 0.3, "mask_init": "random"}),
    Case("granet", reference.granet, GLOBAL, STATE, EVERY),
    Case("dpf", reference.dpf, GLOBAL, USED, {"update_every": 4}),
    Case("dnw", reference.dnw, GLOBAL, USED),
    Case("str", reference.str_, OUTCOME, USED, {"initial": -2.0}),
    Case("str", reference.str_, OUTCOME, USED, {"initial": -4.0, "decay": 0.02}),
    Case("dst", reference.dst, OUTCOME, USED, {"penalty": 5e-2}),
    Case("cs", reference.cs, OUTCOME, LATER, {"penalty": 1e-3, "initial": 0.05}),
    Case("gsm", reference.gsm, GLOBAL, LATER),
    Case("lc", reference.lc, GLOBAL, LATER),
]

CASE = {str(case): case for case in CASES}
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.01),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.9, centered=True, weight_decay=0.01),
    "nadam": partial(torch.optim.NAdam, lr=0.01, weight_decay=0.01),
}


@dataclass
class Bench:
    """Model, optimizer and sparsifier of a case, trained one numbered batch a step."""

    case: Case
    optimizer_name: str = "sgd"
    steps: int = STEPS
    model: nn.Module = field(default_factory=network)
    method: Carrier | None = None
    seed: int = SEED
    optimizer: Optimizer = field(init=False)
    sparsifier: Sparsifier = field(init=False)
    forward: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.forward = self.model
        self.optimizer = OPTIMIZERS[self.optimizer_name](self.model.parameters())
        method = self.method or self.case.method()
        self.sparsifier = sparsify(self.model, self.optimizer, method, self.steps, seed=self.seed)

    def train(self, first: int = 0, last: int | None = None) -> "Bench":
        for number in range(first, self.steps if last is None else last):
            self.step(number)
        return self

    def step(self, number: int) -> None:
        inputs, targets = batch(number)
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.forward(inputs), targets).backward()
        self.optimizer.step()


def plain(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@cache
def raw(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Final masks and parameters of a case in a plain loop."""
    bench = Bench(CASE[name]).train()
    return bench.sparsifier.finalize(), plain(bench.model)


def equal(one: Any, other: Any) -> bool:
    """Bit for bit, through nested dictionaries and lists."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


all_cases = pytest.mark.parametrize("case", CASES, ids=str)


SIX = ("gmp", "set", "rigl", "dpf", "str", "gsm")  # every carrier, with and without draws and gradients
six_methods = pytest.mark.parametrize("case", [CASE[name] for name in SIX], ids=str)


def sgd(model: nn.Module) -> Optimizer:
    return OPTIMIZERS["sgd"](model.parameters())


def attach(case: Case, model: nn.Module, optimizer: Optimizer, *, hooks: bool = True) -> Sparsifier:
    return sparsify(model, optimizer, case.method(), STEPS, seed=SEED, hooks=hooks)


def error(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(output, target)


def final(sparsifier: Sparsifier, model: nn.Module) -> dict[str, Tensor]:
    sparsifier.finalize()
    return plain(model)


def expected(case: Case) -> dict[str, Tensor]:
    """The parameters in the end of a plain loop."""
    return raw(str(case))[1]
