"""The commands of a steps-to-result study. Each imports what it needs when it runs, so that help comes at once."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from prunus.options import Plugins, Positive, Seconds

Share = Annotated[float, Parameter(validator=Number(gt=0, lt=1))]
Protocol = Literal["race", "paper"]

scaling_app = App(
    name="scaling", help="How far data parallelism carries: steps to a result over batch size and sparsity."
)


@scaling_app.command
def run(
    recipe: Path,
    *overrides: str,
    out: Path | None = None,
    protocol: Protocol = "race",
    workers: Positive | None = None,
    checkpoint_every: Seconds = 60.0,
    storage: str | None = None,
    plugin: Plugins = (),
) -> int:
    """Measure every cell of a study, fit and report; or go on where it was killed.

    Parameters
    ----------
    recipe
        A recipe file with the key ``scaling``.
    overrides
        Changes such as ``scaling.goal=0.1`` or ``scaling.batch_sizes=[16,64,256]``.
    out
        The study's directory; ``runs/`` and the recipe's name by default. Cells that are done are not measured again.
    protocol
        ``race`` ends a cell where its first trial arrives; ``paper`` is the published protocol, as slow as it is.
    workers
        Processes that measure at once, sharing the cores. By default one a core on a CPU (at most 8), one on a GPU.
    checkpoint_every
        Seconds between the checkpoints of a cell.
    storage
        The address of a PostgreSQL database: the same command on several machines, with the same directory on a disk
        that all of them see, then works on one study.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from rich.console import Console

    from prunus.check import describe, rehearse
    from prunus.compare import default_workers
    from prunus.recipes import read
    from prunus.report import print_table, write_report
    from prunus.scaling_study import as_published, run_study

    chosen = read(recipe, overrides, plugin)
    chosen = as_published(chosen) if protocol == "paper" else chosen
    describe(chosen)
    directory, console = out or Path("runs") / recipe.stem, Console()
    with console.status("Checking every method"):
        rehearse(chosen)
    jobs = workers or default_workers(chosen)
    run_study(chosen, directory, console, jobs, checkpoint_every=checkpoint_every, storage=storage)
    print_table(directory, console)
    console.print(f"\nReport: {write_report(directory)}", soft_wrap=True)
    return 0


@scaling_app.command
def fit(directory: Path) -> int:
    """Fit the curves of a study, also while it goes on, and print them with their intervals.

    Parameters
    ----------
    directory
        The study's directory.
    """
    from rich.console import Console

    from prunus.report import print_table

    print_table(directory, Console())
    return 0


@scaling_app.command
def report(directory: Path, out: Path | None = None) -> int:
    """Write the report on a study again.

    Parameters
    ----------
    directory
        The study's directory.
    out
        Where the report is written; by default the study's directory.
    """
    from prunus.report import write_report

    print(f"Report: {write_report(directory, out=out)}")
    return 0


@scaling_app.command
def plan(
    source: Path,
    *overrides: str,
    worker_batch: Positive,
    optimizer: str | None = None,
    sparsity: float | None = None,
    threshold: Share = 0.5,
    plugin: Plugins = (),
) -> int:
    """Say how many workers are worth it: what each doubling saves in steps, and costs in examples.

    Parameters
    ----------
    source
        The directory of a study; or the recipe of one run, of which the gradient noise scale is measured instead.
    overrides
        Changes to that recipe.
    worker_batch
        The batch that one worker takes.
    optimizer
        One of the study's, if it has several.
    sparsity
        One of the study's; all by default.
    threshold
        The efficiency below which more workers no longer pay.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from rich.console import Console

    from prunus.scaling_plan import print_plan_of_noise, print_plan_of_study

    console = Console()
    if source.is_dir() and (overrides or plugin):
        raise ValueError("overrides and --plugin are for a recipe; of a study's directory leave them out")
    if not source.is_dir() and (optimizer or sparsity is not None):
        raise ValueError("--optimizer and --sparsity choose among a study's curves; of a recipe leave them out")
    if source.is_dir():
        print_plan_of_study(source, worker_batch, console, optimizer=optimizer, sparsity=sparsity, threshold=threshold)
    else:
        print_plan_of_noise(source, overrides, plugin, worker_batch, console, threshold=threshold)
    return 0


@scaling_app.command
def lipschitz(directory: Path, *, batch_size: Positive | None = None, points: Positive = 20) -> int:
    """Measure the local Lipschitz constant of the gradient along one training for each optimizer and sparsity.

    Parameters
    ----------
    directory
        The directory of a study, whose best settings train.
    batch_size
        One of the study's; the middle one by default.
    points
        How many times it is measured; each takes ten gradients of all training images.
    """
    from rich.console import Console

    from prunus.report import write_report
    from prunus.scaling_plan import measure_lipschitz

    measure_lipschitz(directory, Console(), batch_size=batch_size, points=points)
    print(f"Report: {write_report(directory)}")
    return 0
