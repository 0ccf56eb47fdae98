"""Trials in a stack against trials apart: the time of a step of one trial, in paired blocks of the same process.

    OMP_NUM_THREADS=1 python benchmarks/stacked_trials.py --data fashion-mnist --model simple-cnn --trials 16

Both take the same steps on the same batches. The ratio is that of the medians; below 1 the stack is faster.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from prunus.racing.cell import Race
from prunus.racing.cells import cells_of
from prunus.racing.entrant import Apart
from prunus.racing.examination import Examination
from prunus.racing.stacked import Stacked
from prunus.recipes import parse
from prunus.scaling.metaparameters import setting


def main() -> None:
    """Print a line for each batch size."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", default="digits")
    asked.add_argument("--model", default="mlp")
    asked.add_argument("--trials", type=int, default=16)
    asked.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    asked.add_argument("--steps", type=int, default=20)
    asked.add_argument("--blocks", type=int, default=5)
    told = asked.parse_args()
    print(f"{told.model} on {told.data}, {told.trials} trials, median of {told.blocks} blocks of {told.steps} steps")
    for size in told.batch_sizes:
        apart, stacked = (1000 * one for one in times(told, size))
        each = f"apart {apart:.3f} ms, stacked {stacked:.3f} ms a step and trial"
        print(f"batch {size}: {each}, ratio {stacked / apart:.2f}")


def times(told: argparse.Namespace, size: int) -> tuple[float, float]:
    """Seconds of a step of one trial, apart and in the stack."""
    scaling = {"goal": 0.5, "batch_sizes": size, "optimizers": ["momentum"], "trials": told.trials}
    plain = {"data": told.data, "model": told.model, "method": "dense", "steps": 10**6, "augmentation": "none"}
    (cell,) = cells_of(parse({**plain, "scaling": scaling}))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        race = Race(cell, Path(folder), Path(folder), lambda progress: None, 3600.0)
        data, _, validation = race.images
        fields: list[Apart | Stacked] = []
        for kind in (Apart, Stacked):
            entrants = [race.entrant(one, point(race, one), 0) for one in range(told.trials)]
            fields.append(kind(entrants, Examination(validation, data, 0)))
    for field in fields:
        # the steps alone are timed
        field.examination.of_each = lambda count, networks: [None] * networks  # type: ignore[method-assign]
        found.append([])
    for block in range(told.blocks + 1):  # the first warms up
        for field, seconds in zip(fields, found, strict=True):
            began = time.perf_counter()
            field.advance_((block + 1) * told.steps)
            seconds.append((time.perf_counter() - began) / told.steps / told.trials)
    apart, stacked = (median(seconds[1:]) for seconds in found)
    return apart, stacked


def point(race: Race, number: int) -> dict[str, float]:
    """A setting that trains slowly, so that none diverges."""
    return setting(race.tuned.metaparameters(), number) | {"learning_rate": 1e-4, "momentum": 0.9}


if __name__ == "__main__":
    main()
