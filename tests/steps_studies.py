"""Steps-to-result studies written from exact curves, for tests of their report."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prunus.scaling.curve import Curve
from prunus.scaling.metaparameters import SGD, WITH_MOMENTUM, Space, setting
from prunus.scaling.trials import Cell, Trial

BATCHES = (4, 16, 64, 256, 1024, 4096)
GOAL = 20  # validation images wrong, of 1000
SPACES: Mapping[str, Space] = {"sgd": SGD, "momentum": WITH_MOMENTUM}
# B_crit: momentum bears more, and at 90 % a little more than dense
CURVES = {
    ("sgd", 0.0): Curve(100.0, 64.0),
    ("sgd", 0.9): Curve(250.0, 70.0),
    ("momentum", 0.0): Curve(100.0, 256.0),
    ("momentum", 0.9): Curve(250.0, 360.0),
}
Steps = Callable[[Curve, int, int], float]


def exact(curve: Curve, batch: int, number: int) -> float:
    """The steps on the curve; of repeats a little more or fewer at all batch sizes alike."""
    return curve(batch) * (1.0, 1.04, 0.97)[number]


@dataclass(frozen=True)
class Made:
    """A study of these curves. ``without`` are cells that are not done, ``unmet`` those that met no goal.

    ``number`` of a cell is 0 for its search, whose seed is 0, and from 1 on for its repeats.
    """

    curves: Mapping[tuple[str, float], Curve] = field(default_factory=lambda: CURVES)
    batches: tuple[int, ...] = BATCHES
    steps: Steps = exact
    repeats: int = 2
    trials: int = 4
    without: tuple[tuple[str, float, int], ...] = ()
    unmet: tuple[tuple[str, float, int], ...] = ()
    raced: bool = False

    def __call__(self, directory: Path) -> Path:
        """The directory, with the study in it."""
        directory.mkdir(parents=True)
        (directory / "recipe.yaml").write_text(yaml.safe_dump(self.recipe(), sort_keys=False))
        for at in ((*key, batch) for key in self.curves for batch in self.batches):
            if at not in self.without:
                home = directory / "cells" / "-".join(map(str, at))
                home.mkdir(parents=True)
                (home / "cell.json").write_text(json.dumps(self.record(*at)))
        return directory

    def recipe(self) -> dict[str, Any]:
        """What a resolved recipe has of it."""
        optimizers = {
            "sgd": {"optimizer": "sgd", "space": {"learning_rate": None}},
            "momentum": {"optimizer": {"sgd": {"momentum": 0.9}}, "space": {"learning_rate": None, "momentum": None}},
        }
        names = dict.fromkeys(name for name, _ in self.curves)
        sparse = sorted({sparsity for _, sparsity in self.curves} - {0.0})
        return {
            "data": "digits",
            "model": {"mlp": {"widths": [64]}},
            "method": {"dense": {}} | ({"snip": {}} if sparse else {}),
            "sparsity": sparse or [0.9],
            "seed": [0],
            "scaling": {
                "goal": 0.02,
                "batch_sizes": list(self.batches),
                "optimizers": {name: optimizers[name] for name in names},
            },
        }

    def record(self, optimizer: str, sparsity: float, batch: int) -> dict[str, Any]:
        """What a cell that is done leaves."""
        at = (optimizer, sparsity, batch)
        cells = [self.cell(*at, number) for number in range(1 if at in self.unmet else 1 + self.repeats)]
        plain = [cell.to_plain() for cell in cells]
        cost = {"trained": 1000 * batch, "evaluated": 500, "seconds": 2.0}
        return {"format": "prunus-cell/1", "cell": plain[0], "widened": [], "repeats": plain[1:], **cost}

    def cell(self, optimizer: str, sparsity: float, batch: int, number: int) -> Cell:
        """Trial 1 is the best, 2 takes twice as long, 3 diverges, the others do not arrive."""
        best = math.ceil(self.steps(self.curves[optimizer, sparsity], batch, number))
        met = (optimizer, sparsity, batch) not in self.unmet
        trials = tuple(self.trial(optimizer, place, best, met) for place in range(self.trials))
        return Cell(optimizer, sparsity, batch, 1000 * number, GOAL, trials, self.raced)

    def trial(self, optimizer: str, number: int, best: int, met: bool) -> Trial:
        """One trial, whose errors fall from twice the goal in its last evaluations."""
        values = setting(SPACES[optimizer], number)
        steps = {1: best, 2: best if self.raced else 2 * best}.get(number, best if self.raced else 100_000)
        if number == 3:
            return Trial(number, values, "infeasible", 1, 0, ())
        arrives = met and (number == 1 or (number == 2 and not self.raced))
        curve = ((steps - 2, 2 * GOAL), (steps - 1, GOAL + 2), (steps, GOAL if arrives else GOAL + 1))
        return Trial(number, values, "complete" if arrives else "incomplete", steps, steps - 1, curve)
