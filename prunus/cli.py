"""The command line. Each command imports what it needs when it runs, so that help comes at once."""

import os
import sys
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from prunus import __version__
from prunus.options import Plugins, Positive, Seconds
from prunus.scaling_cli import scaling_app
from prunus.storage import InUseError

app = App(
    name="prunus",
    help="Train sparse neural networks, and compare ways to.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
data_app = App(name="data", help="The data sets: what is here, fetch, check.")
app.command(data_app)
app.command(scaling_app)

Logs = Annotated[tuple[str, ...], Parameter(negative=())]
Kind = Literal["methods", "models", "data", "schedules", "criteria", "allocations", "optimizers"]
Restart = Literal["ft", "lrw", "slr", "clr", "llr", "allr"]
ExportFormat = Literal["safetensors", "packed", "onnx"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0, 1 for a failed run, 2 for bad input, 130 when interrupted."""
    try:
        return _as_rank(arguments) if "TORCHELASTIC_RUN_ID" in os.environ else _command(arguments)
    except KeyboardInterrupt:
        print("prunus: interrupted; the same command goes on from the last checkpoint of each run", file=sys.stderr)
        return 130
    except (CycloptsError, ValueError, InUseError, ModuleNotFoundError, OSError) as error:
        print(f"prunus: {_line(error)}", file=sys.stderr)
        return 2


def _command(arguments: Sequence[str] | None) -> int:
    return int(app(arguments, exit_on_error=False, print_error=False, result_action="return_value") or 0)


def _as_rank(arguments: Sequence[str] | None) -> int:
    """Under torchrun: the command on rank 0, and on the others their part of what it trains."""
    from prunus import ranks
    from prunus.runs import DIVERGED

    ranks.start_()
    if ranks.leads():
        try:
            code = _command(arguments)
            ranks.end_()
        except RuntimeError as error:
            if not ranks.lost(error):
                raise
            raise ValueError("another rank has failed, and its own line says why") from error
        return code
    ranks.follow(DIVERGED)
    return 0


@app.command
def train(
    recipe: Path,
    *overrides: str,
    out: Path = Path("runs"),
    checkpoint_every: Seconds = 60.0,
    log: Logs = (),
    plugin: Plugins = (),
) -> int:
    """Train one run, or go on with it where it was killed.

    Parameters
    ----------
    recipe
        A recipe file with one method, sparsity and seed, or overrides that choose them.
    overrides
        Changes such as ``method.gmp.update_every=50`` or ``sparsity=0.95``.
    out
        The directory that holds the run's own, named by the hash of its recipe.
    checkpoint_every
        Seconds between checkpoints, of which the newest two are kept; 0 writes one after every step.
    log
        A logger that gets the metrics too: tensorboard, wandb or mlflow. May be repeated.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from rich.console import Console

    from prunus.check import describe
    from prunus.display import Display, label
    from prunus.recipes import read, single
    from prunus.runs import DIVERGED
    from prunus.runs import train as train_run

    chosen = read(recipe, overrides, plugin)
    single(chosen)
    (chosen,) = chosen.runs()
    describe(chosen)
    console = Console()
    with Display(console, {chosen.name(): label(chosen)}) as display:
        try:
            result = train_run(
                chosen,
                out,
                lambda progress: display.tell(chosen.name(), progress),
                checkpoint_every=checkpoint_every,
                log=log,
            )
        except DIVERGED as error:
            print(f"prunus: {error}", file=sys.stderr)
            return 1
        display.finished(chosen.name(), result, "")
    test = result["test"]
    console.print(f"sparsity {result['realised_sparsity']:.4f}, asked {result['sparsity']:g}", markup=False)
    console.print(f"test accuracy {100 * test['accuracy']:.2f} %, nll {test['nll']:.4f} on {test['n']} images")
    console.print(f"in {out / chosen.name()}", soft_wrap=True)
    return 0


@app.command
def retrain(
    network: Path,
    *overrides: str,
    sparsity: float,
    epochs: float,
    cycles: Positive | None = None,
    schedule: Restart | None = None,
    recalibrate: int = 0,
    recipe: Path | None = None,
    peak: float | None = None,
    advise: Annotated[bool, Parameter(negative=())] = False,
    trainings: Positive = 10,
    advise_epochs: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    out: Path = Path("runs"),
    checkpoint_every: Seconds = 60.0,
    plugin: Plugins = (),
) -> int:
    """Prune a network that is trained already, retrain it, and say what was lost and what came back.

    Parameters
    ----------
    network
        The directory of a finished run, or a file of weights, for which a recipe is needed too.
    overrides
        Changes to the recipe of its training, such as ``batch_size=256`` or ``method.imp.allocation=erk``.
    sparsity
        The final sparsity.
    epochs
        The length of the retraining, over all cycles.
    cycles
        How many times to prune and retrain; 1 by default.
    schedule
        How the rates follow from those of training; allr by default.
    recalibrate
        Training batches from which BatchNorm's statistics are taken anew after each pruning and at the end.
    recipe
        A recipe file that says data and model of a file of weights, and the length and the rates of its training.
    peak
        The highest rate of its training, where that is not the recipe's, and only that is known.
    advise
        Choose schedule, cycles and peak rate by a search on the validation images, and say why.
    trainings
        How many retrainings the search may take.
    advise_epochs
        The length of those retrainings; that of ``epochs`` by default, and then the chosen one is not done again.
    out
        The directory that holds the run's own, named by the hash of its recipe.
    checkpoint_every
        Seconds between checkpoints, of which the newest two are kept; 0 writes one after every step.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from rich.console import Console

    from prunus.retrain_command import Network, Trainer, retrain_advised, retrain_run
    from prunus.runs import DIVERGED

    if advise and (cycles or schedule):
        raise ValueError("--advise chooses the schedule and the cycles itself; leave --schedule and --cycles out")
    method = {"imp": {"schedule": schedule or "allr", "cycles": cycles or 1}}
    changes = {"method": method, "sparsity": sparsity, "epochs": epochs, "recalibrate": recalibrate}
    chosen = Network(network, recipe, peak).retraining(changes, overrides, plugin)
    trainer = Trainer(out, Console(), checkpoint_every)
    try:
        if advise:
            retrain_advised(chosen, trainer, trainings=trainings, epochs=advise_epochs)
        else:
            retrain_run(chosen, trainer)
    except DIVERGED as error:
        print(f"prunus: {error}", file=sys.stderr)
        return 1
    return 0


@app.command
def compare(
    recipe: Path,
    *overrides: str,
    out: Path | None = None,
    workers: Positive | None = None,
    checkpoint_every: Seconds = 60.0,
    log: Logs = (),
    storage: str | None = None,
    plugin: Plugins = (),
) -> int:
    """Train every method at every sparsity with every seed, and report; or go on where it was killed.

    Parameters
    ----------
    recipe
        A recipe file that lists methods, sparsities and seeds.
    overrides
        Changes such as ``method.gmp.update_every=50`` or ``seed=[0,1,2,3,4]``.
    out
        The study's directory; ``runs/`` and the recipe's name by default. Finished runs in it are not run again.
    workers
        Processes that train at once, sharing the cores. By default one a core on a CPU (at most 8), one on a GPU.
    checkpoint_every
        Seconds between the checkpoints of a run, of which the newest two are kept; 0 writes one after every step.
    log
        A logger that gets the metrics too: tensorboard, wandb or mlflow. May be repeated.
    storage
        The address of a PostgreSQL database, such as postgresql+psycopg://user@host/db: the same command on several
        machines, with the same directory on a disk that all of them see, then works on one study.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from rich.console import Console

    from prunus.check import describe, rehearse
    from prunus.compare import compare as compare_methods
    from prunus.compare import default_workers
    from prunus.recipes import read

    chosen = read(recipe, overrides, plugin)
    describe(chosen)
    directory = out or Path("runs") / recipe.stem
    console = Console()
    with console.status("Checking every method"):  # what the last would refuse is refused before the first has trained
        rehearse(chosen, done=directory / "runs")
    report, failed = compare_methods(
        chosen,
        directory,
        console,
        workers or default_workers(chosen),
        checkpoint_every=checkpoint_every,
        log=log,
        storage=storage,
    )
    console.print(f"\nReport: {report}" if report else "\nNo report: every run failed", soft_wrap=True)
    return 1 if failed else 0


@app.command
def learn(
    recipe: Path,
    *overrides: str,
    out: Path | None = None,
    workers: Positive | None = None,
    checkpoint_every: Seconds = 60.0,
    log: Logs = (),
    plugin: Plugins = (),
) -> int:
    """Let agents learn schedules of sparsity, then compare them with handmade ones, and report; or go on with it.

    Parameters
    ----------
    recipe
        A recipe file with rp-rr or mp-rr among its methods and the key ``learn``.
    overrides
        Changes such as ``learn.trainings=20`` or ``learn.agents=[ppo,random]``.
    out
        The study's directory; ``runs/`` and the recipe's name by default. What was learned there is not learned again.
    workers
        Processes that train at once, sharing the cores. By default one a core on a CPU (at most 8), one on a GPU.
    checkpoint_every
        Seconds between the checkpoints of a run, of which the newest two are kept; 0 writes one after every step.
    log
        A logger that gets the metrics too: tensorboard, wandb or mlflow. May be repeated.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from rich.console import Console

    from prunus.check import describe
    from prunus.compare import default_workers
    from prunus.learn import learn as learn_schedules
    from prunus.recipes import read

    chosen = read(recipe, overrides, plugin)
    describe(chosen)
    console = Console()
    report, failed = learn_schedules(
        chosen,
        out or Path("runs") / recipe.stem,
        console,
        workers or default_workers(chosen),
        checkpoint_every=checkpoint_every,
        log=log,
    )
    console.print(f"\nReport: {report}" if report else "\nNo report: every run failed", soft_wrap=True)
    return 1 if failed else 0


@app.command
def anytime(
    recipe: Path,
    *overrides: str,
    out: Path | None = None,
    follow: Path | None = None,
    megabatches: Positive | None = None,
    idle: Seconds | None = None,
    workers: Positive | None = None,
    checkpoint_every: Seconds = 60.0,
    log: Logs = (),
    plugin: Plugins = (),
) -> int:
    """Train while the data arrive, megabatch after megabatch, and report; or go on where it was killed.

    Parameters
    ----------
    recipe
        A recipe file with the key ``anytime``.
    overrides
        Changes such as ``anytime.megabatches=10`` or ``method.snip.plan=once``.
    out
        The study's directory; ``runs/`` and the recipe's name by default.
    follow
        A folder into which others put megabatches, .npz or .safetensors with ``inputs`` and ``targets``: one network
        trains on them as they come, and ``current.safetensors`` in the directory is always the latest.
    megabatches
        Following ends after so many; by default it never does.
    idle
        Following ends after so many seconds without a megabatch.
    workers
        Processes that train at once, sharing the cores. By default one a core on a CPU (at most 8), one on a GPU.
    checkpoint_every
        Seconds between the checkpoints of a run, of which the newest two are kept; 0 writes one after every step.
    log
        A logger that gets the metrics too: tensorboard, wandb or mlflow. May be repeated.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from prunus.recipes import read

    chosen = read(recipe, overrides, plugin)
    if chosen.anytime is None:
        raise ValueError(f"{recipe} must hold the key anytime, such as anytime.megabatches=8")
    if follow is None and (megabatches or idle is not None):
        raise ValueError("--megabatches and --idle are for --follow; a stream of the recipe has anytime.megabatches")
    if follow is not None and (log or workers):
        raise ValueError("--log and --workers are for the stream of a recipe; with --follow leave them out")
    if follow is None:
        return compare(
            recipe, *overrides, out=out, workers=workers, checkpoint_every=checkpoint_every, log=log, plugin=plugin
        )
    from rich.console import Console

    from prunus.anytime.follow import Until
    from prunus.anytime.follow import follow as follow_folder
    from prunus.check import describe, rehearse
    from prunus.runs import DIVERGED

    until = Until(megabatches, idle)
    home = out or Path("runs") / recipe.stem
    describe(chosen)
    rehearse(chosen)
    try:
        follow_folder(chosen, follow, home, Console(), until=until, checkpoint_every=checkpoint_every)
    except DIVERGED as error:
        print(f"prunus: {error}", file=sys.stderr)
        return 1
    return 0


@app.command
def report(directory: Path, *others: Path, out: Path | None = None) -> int:
    """Write the report on a study again and print its table, or set several studies side by side in one report.

    Parameters
    ----------
    directory
        The directory of a study, as ``compare`` made it.
    others
        More of them.
    out
        Where the report is written; by default the study's directory, and ``report`` for several studies.
    """
    from rich.console import Console

    from prunus.report import print_table, write_report

    console = Console()
    written = write_report(directory, *others, out=out)
    for study in (directory, *others):
        print_table(study, console)
    console.print(f"\nReport: {written}", soft_wrap=True)
    return 0


@app.command
def export(
    run: Path,
    *,
    format: ExportFormat = "safetensors",
    bf16: Annotated[bool, Parameter(negative=())] = False,
    zstd: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
) -> int:
    """Write a trained network as a file for others.

    Parameters
    ----------
    run
        The directory of a finished run, or a file of weights.
    format
        ``safetensors`` has plain names and shapes and loads anywhere; ``packed`` keeps no zeros; ``onnx`` is a graph.
    bf16
        Round the weights to bfloat16; biases and statistics stay as they are.
    zstd
        Compress the whole file, by custom named .safetensors.zst.
    out
        The file to write; in the run's directory by default.
    """
    from prunus.export import export as export_network

    print(export_network(run, format, bf16=bf16, zstd=zstd, out=out))
    return 0


@app.command
def check(recipe: Path, *overrides: str, plugin: Plugins = ()) -> int:
    """Say what a recipe would run, and take two steps of each kind of run, keeping nothing.

    Parameters
    ----------
    recipe
        A recipe file.
    overrides
        Changes as for ``train`` and ``compare``.
    plugin
        A module, or the path of a .py file, whose functions and classes the recipe may name. May be repeated.
    """
    from prunus.check import describe, rehearse
    from prunus.recipes import read

    chosen = read(recipe, overrides, plugin)
    description = describe(chosen)
    rehearse(chosen)
    print(description)
    return 0


@app.command(name="list")
def list_(kind: Kind | None = None) -> int:
    """List what recipes can name, each with its first line of documentation.

    Parameters
    ----------
    kind
        What to list; everything by default.
    """
    from prunus.check import catalogue

    print(catalogue(kind))
    return 0


@data_app.default
def data_here(root: Path | None = None) -> int:
    """What is here: each data set, where it was looked for, and whether its files are whole.

    Parameters
    ----------
    root
        The data directory; ``$PRUNUS_DATA``, else ``~/.cache/prunus`` by default.
    """
    from prunus.data import check as check_data

    for status in check_data(root):
        print(f"{status.name}: {f'whole, in {status.folder}' if status.whole else status.remedy}")
    return 0


@data_app.command
def fetch(name: str, root: Path | None = None) -> int:
    """Download a data set, with checksums.

    Parameters
    ----------
    name
        The data set.
    root
        The data directory; ``$PRUNUS_DATA``, else ``~/.cache/prunus`` by default.
    """
    from prunus.data import data_root
    from prunus.data import fetch as fetch_data

    print(fetch_data(name, data_root(root)))
    return 0


@data_app.command(name="check")
def check_data(name: str, root: Path | None = None) -> int:
    """Read a data set and say what it holds; a missing, truncated or wrong file is named.

    Parameters
    ----------
    name
        The data set, or the path of an .npz file or of a folder of images.
    root
        The data directory; ``$PRUNUS_DATA``, else ``~/.cache/prunus`` by default.
    """
    from prunus.data import load

    found = load(name, root)
    shape = " x ".join(map(str, found.input_shape))
    print(f"{found.name}: {len(found.train)} + {len(found.test)} images, {shape}, {found.classes} classes")
    return 0


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return (
            f"the disk is full ({error.filename or 'while writing'}); free some space and give the same command again: "
            "what was written is kept, and each run goes on from its last checkpoint"
        )
    if isinstance(error, NotADirectoryError | FileExistsError):
        return f"{error.filename} must be a directory, and is a file or lies below one; choose another with --out"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
