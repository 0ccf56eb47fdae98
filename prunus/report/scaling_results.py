"""Reading: a steps-to-result study's directory, its cells and what was found."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from prunus.scaling.findings import Finding, findings
from prunus.scaling.metaparameters import Space
from prunus.scaling.records import CELLS, Place, place, planned, read_cells, space
from prunus.scaling.trials import Cell, by_curve, of_plain, steps_to_result

LIPSCHITZ = "lipschitz.json"
SAME_PLACE = "cells must differ in optimizer, sparsity, batch size or seed, got two of {}; one method a directory"


@dataclass(frozen=True, eq=False)
class ScalingResults:
    """What a steps-to-result study's directory holds; equal to itself alone, so what follows is computed once.

    ``recipe`` is its resolved recipe, ``text`` that as its file has it. ``records``: those of the cells
    that are done, in the order of the recipe.
    ``strays``: how many others lie there, of another recipe. ``lipschitz``: the local Lipschitz constant over steps, a
    mapping per training; empty where it was not measured.
    """

    study: str
    text: str
    recipe: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    strays: int
    lipschitz: Sequence[Mapping[str, Any]]

    @cached_property
    def searches(self) -> list[Cell]:
        """The cells that were searched, in the order of the recipe."""
        return [of_plain(record["cell"]) for record in self.records]

    @cached_property
    def repeats(self) -> dict[Place, list[Cell]]:
        """The repeats of each searched cell."""
        found = zip(self.searches, self.records, strict=True)
        return {place(cell): [of_plain(one) for one in record["repeats"]] for cell, record in found}

    @cached_property
    def cells(self) -> list[Cell]:
        """The searched cells, each followed by its repeats."""
        return [one for cell in self.searches for one in (cell, *self.repeats[place(cell)])]

    @property
    def unfinished(self) -> list[Place]:
        """The cells of the recipe that are not done."""
        return [each for each in in_order(self.recipe) if each not in self.repeats]

    @cached_property
    def findings(self) -> list[Finding]:
        """The fitted curves, in the order of the recipe; none where no curve met the goal at two batch sizes."""
        found = findings(self.cells)
        return [each for name in self.optimizers for each in found if each.optimizer == name]

    @property
    def optimizers(self) -> list[str]:
        """The optimizers that have cells, in the order of the recipe."""
        return list(dict.fromkeys(cell.optimizer for cell in self.searches))

    @property
    def sparsities(self) -> list[float]:
        """The sparsities that have cells, from dense on."""
        return sorted({cell.sparsity for cell in self.searches})

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes that have cells, ascending."""
        return sorted({cell.batch_size for cell in self.searches})

    @property
    def raced(self) -> bool:
        """Whether trials were stopped when the first of them met the goal."""
        return any(cell.raced for cell in self.searches)

    @cached_property
    def curves(self) -> dict[tuple[str, float], tuple[Cell, ...]]:
        """The cells of each curve with their repeats, by optimizer and sparsity, in the order of the recipe."""
        found = by_curve(self.cells)
        return {key: found[key] for key in dict.fromkeys((cell.optimizer, cell.sparsity) for cell in self.searches)}

    @property
    def workload(self) -> str:
        """'mlp on digits'."""
        return f"{self.model} on {self.recipe['data']}"

    @property
    def model(self) -> str:
        """Its name without its arguments."""
        model = self.recipe["model"]
        return model if isinstance(model, str) else next(iter(model))

    @property
    def goal(self) -> float:
        """The validation error to be met, as a fraction."""
        return float(self.recipe["scaling"]["goal"])

    def finding(self, optimizer: str, sparsity: float) -> Finding | None:
        """The curve of one optimizer and sparsity; None where the goal was met at fewer than two batch sizes."""
        found = [each for each in self.findings if (each.optimizer, each.sparsity) == (optimizer, sparsity)]
        return found[0] if found else None

    def space(self, optimizer: str) -> Space:
        """The ranges that were searched first."""
        return space(self.recipe["scaling"]["optimizers"][optimizer]["space"])


def is_scaling(directory: Path) -> bool:
    """Whether a directory is that of a steps-to-result study: it has cells and no runs."""
    return (directory / CELLS).is_dir() and not (directory / "runs").is_dir()


def read_scaling(directory: Path) -> ScalingResults:
    """The study under ``directory``. A ValueError where no cell is done, or two cells are of the same place."""
    text, lipschitz = (directory / "recipe.yaml").read_text(encoding="utf-8"), directory / LIPSCHITZ
    recipe = yaml.safe_load(text)
    found = [(place(of_plain(record["cell"])), record) for record in read_cells(directory)]
    by_place = dict(found)
    records = [by_place[each] for each in in_order(recipe) if each in by_place]
    if not records:
        raise ValueError(f"{directory} must hold cells of its recipe.yaml, got {len(found)} of another; run it again")
    twice = [each for each, count in Counter(each for each, _ in found).items() if count > 1]
    if twice:
        raise ValueError(SAME_PLACE.format(named(twice[0])))
    return ScalingResults(
        study=directory.resolve().name,
        text=text,
        recipe=recipe,
        records=records,
        strays=len(found) - len(records),
        lipschitz=json.loads(lipschitz.read_text(encoding="utf-8")) if lipschitz.exists() else [],
    )


def in_order(recipe: Mapping[str, Any]) -> list[Place]:
    """The cells of a recipe, by optimizer in its order, sparsity, batch size and seed."""
    order = list(recipe["scaling"]["optimizers"])
    return sorted(planned(recipe), key=lambda each: (order.index(each.optimizer), *each[1:]))


def named(at: Place) -> str:
    """'`sgd` at 90 %, batch 64, seed 0'."""
    return f"`{at.optimizer}` at {100 * at.sparsity:.6g} %, batch {at.batch_size}, seed {at.seed}"


def mean_steps(cells: Sequence[Cell]) -> dict[int, float]:
    """The geometric mean over seeds of the steps to the goal, by batch size; without those that did not meet it."""
    steps: dict[int, list[float]] = {}
    for cell in cells:
        if winner := steps_to_result(cell):
            steps.setdefault(cell.batch_size, []).append(math.log(winner.steps))
    return {batch: math.exp(sum(logs) / len(logs)) for batch, logs in sorted(steps.items())}
