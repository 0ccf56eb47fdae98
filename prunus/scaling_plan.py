"""What a study, or one run, says about the machines that are worth it."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.box import HORIZONTALS
from rich.console import Console
from rich.status import Status
from rich.table import Table

from prunus.loop import Progress
from prunus.racing.cell import Race
from prunus.racing.cells import cells_of, label
from prunus.racing.gradients import critical_batch, lipschitz_course, noise_course
from prunus.recipes import Recipe, parse, read, single
from prunus.scaling.findings import Finding, findings
from prunus.scaling.records import CELLS, RECORD, SIGNALS, cells_with_repeats, read_cells
from prunus.scaling.trials import Trial, of_plain, steps_to_result
from prunus.scaling.worth import Row, Worth, worth, worth_of_noise
from prunus.storage import write_atomically
from prunus.yaml_text import parsed

LIPSCHITZ = "lipschitz.json"
COLUMNS = ("workers", "batch", "steps", "examples", "times faster", "efficiency", "cost")


def print_plan_of_study(
    directory: Path,
    worker_batch: int,
    console: Console,
    *,
    optimizer: str | None = None,
    sparsity: float | None = None,
    threshold: float = 0.5,
) -> None:
    """Print for each curve of the study, or the one asked for, how many workers are worth it.

    Raises ValueError where the study has no such curve.
    """
    for finding in _asked(findings(cells_with_repeats(read_cells(directory))), optimizer, sparsity):
        _print(worth(finding.estimate, worker_batch, threshold=threshold), _title(finding), console)


def print_plan_of_noise(
    recipe: Path,
    overrides: Sequence[str],
    plugins: Sequence[str],
    worker_batch: int,
    console: Console,
    *,
    threshold: float,
) -> None:
    """Train the one run of a recipe, and print what its gradient noise predicts."""
    chosen = read(recipe, overrides, plugins)
    single(chosen)
    (chosen,) = chosen.runs()
    with console.status("Gradient noise scale") as status:
        course = noise_course(chosen, partial(_show, status=status, what="Gradient noise scale"))
    predicted = critical_batch(course)
    console.print(
        f"noise scale {predicted.value:.4g} examples in the second half of training, between {predicted.low:.4g} and "
        f"{predicted.high:.4g} there; a prediction from one run, not a measurement of steps",
        soft_wrap=True,
    )
    _print(worth_of_noise(predicted, worker_batch, threshold=threshold), "By the noise scale", console)


def measure_lipschitz(directory: Path, console: Console, *, batch_size: int | None = None, points: int = 20) -> None:
    """Write ``lipschitz.json`` into the directory of a study: the course of each optimizer and sparsity.

    Each is trained with the best setting of its cell at ``batch_size``, for the steps that this one took.
    """
    read_cells(directory)  # says it where there are none
    recipe = parse(parsed((directory / "recipe.yaml").read_text(), str(directory / "recipe.yaml")))
    winners = _winners(directory)
    found = []
    for chosen in _at_size(cells_of(recipe), batch_size):
        if (winner := winners.get(chosen.name())) is None:
            console.print(f"{label(chosen)}: the goal was not met there, so nothing is measured", soft_wrap=True)
            continue
        with console.status(label(chosen)) as status:
            tell = partial(_show, status=status, what=label(chosen))
            race = Race(chosen, directory / CELLS / chosen.name(), directory / SIGNALS, tell, math.inf)
            course = lipschitz_course(race, winner, points)
        (optimizer,) = chosen.scaling.optimizers if chosen.scaling else ("",)
        of = {"optimizer": optimizer, "sparsity": single(chosen).sparsity, "batch_size": chosen.batch_size}
        found.append({**of, "points": course})
    write_atomically(directory / LIPSCHITZ, json.dumps(found))


def _winners(directory: Path) -> dict[str, Trial | None]:
    """The best trial of each cell, by the cell's name."""
    paths = (directory / CELLS).glob(f"*/{RECORD}")
    return {path.parent.name: steps_to_result(of_plain(json.loads(path.read_text())["cell"])) for path in paths}


def _show(progress: Progress, status: Status, what: str) -> None:
    status.update(f"{what}: step {progress.step} of {progress.steps}")


def _at_size(cells: Sequence[Recipe], batch_size: int | None) -> list[Recipe]:
    """The cells of the first seed at one batch size, the middle one by default."""
    sizes = sorted({cell.batch_size for cell in cells})
    size = sizes[len(sizes) // 2] if batch_size is None else batch_size
    if size not in sizes:
        raise ValueError(f"batch_size must be one of the study's, {', '.join(map(str, sizes))}, got {size}")
    first = single(cells[0]).seed
    return [cell for cell in cells if cell.batch_size == size and single(cell).seed == first]


def _asked(found: Sequence[Finding], optimizer: str | None, sparsity: float | None) -> list[Finding]:
    asked = [
        finding
        for finding in found
        if optimizer in (None, finding.optimizer)
        and (sparsity is None or math.isclose(sparsity, finding.sparsity, abs_tol=1e-9))
    ]
    if not asked:
        known = ", ".join(_title(finding) for finding in found) or "none"
        raise ValueError(
            f"the study must have met its goal at two batch sizes for what is asked; it has the curves: {known}"
        )
    return asked


def _title(finding: Finding) -> str:
    return f"{finding.optimizer} at sparsity {finding.sparsity:g}"


def _print(answer: Worth, title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left", box=HORIZONTALS)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in answer.rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(answer.sentence, soft_wrap=True)


def _cells(row: Row) -> list[str]:
    totals = ["–" if one is None else f"{one.value:.3g}" for one in (row.steps, row.examples)]
    shares = [f"{one.value:.3g} ({one.low:.3g}–{one.high:.3g})" for one in (row.speedup, row.efficiency)]
    return [str(row.workers), str(row.batch_size), *totals, *shares, f"{row.cost.value:.3g}"]
