"""What sparse training costs: throughput against dense, in alternating blocks of one process."""

import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from prunus import ranks
from prunus.allocation import CollapseWarning
from prunus.prepare import has_cycles, prepare
from prunus.recipes import Recipe, single
from prunus.runs import DIVERGED
from prunus.storage import write_atomically
from prunus.training import Step

BLOCKS = 10  # pairs of dense and sparse blocks
BLOCK_SECONDS = 0.15  # of dense training in a block, unless the training is shorter


def time_runs(runs: Sequence[Recipe], path: Path, say: Callable[[str], None]) -> None:
    """Measure the ``runs`` of a study against dense, into the file at ``path``; what is measured there is kept.

    One of each kind: seeds, lengths and the learning rates of cycles leave the speed of a step as it is. Dense is
    measured under bf16 too.
    """
    known = {entry["run"]: entry for entry in json.loads(path.read_text())} if path.is_file() else {}
    first = {_kind(run): run for run in reversed(runs)}
    baseline = dense_twin(runs[0])
    chosen = [run for run in reversed(first.values()) if single(run).method != "dense"]
    if baseline.precision == "32-true":
        chosen.insert(0, baseline.model_copy(update={"precision": "bf16-mixed"}))
    for number, run in enumerate(chosen, 1):
        say(f"Timing training against dense, {number} of {len(chosen)}: {single(run).method}")
        if run.name() not in known:
            with suppress(*DIVERGED):  # it trained to the end here and not there; the report has no figure for it
                known[run.name()] = ranks.together(partial(throughput, run, baseline))
                write_atomically(path, json.dumps(list(known.values()), indent=1))
    timed = [known[run.name()] for run in chosen if run.name() in known]
    alike = [(run, first[_kind(run)].name()) for run in runs if run.seed == runs[0].seed]
    timed += [known[name] | {"run": run.name()} for run, name in alike if name in known and run.name() != name]
    write_atomically(path, json.dumps(timed, indent=1))


def _kind(run: Recipe) -> str:
    chosen = single(run)
    arguments = {name: value for name, value in chosen.arguments.items() if name != "schedule" or not has_cycles(run)}
    return json.dumps([chosen.method, chosen.sparsity, arguments], sort_keys=True)


def dense_twin(recipe: Recipe) -> Recipe:
    """The same run without sparsity."""
    return recipe.model_copy(update={"method": {"dense": {}}, "sparsity": (0.0,)})


def throughput(recipe: Recipe, baseline: Recipe) -> dict[str, Any]:
    """Steps per second of ``recipe`` and of ``baseline``, and the median and quartiles of their paired ratios.

    Blocks of equal numbers of steps alternate, and so does which comes first, so that what else the machine does falls
    on both. The whole of a short training is run, updates of the masks included; of a long one the beginning, and
    of a method with cycles what follows its last pruning. Above 1 the recipe is faster.
    """
    with warnings.catch_warnings(action="ignore", category=CollapseWarning):  # the result names collapsed layers
        ours, theirs = _Blocks(recipe), _Blocks(baseline)
        size = _block_size(theirs)
        ours.seconds(1)
        pairs = [_pair(theirs, ours, size, dense_first=number % 2 == 0) for number in range(BLOCKS)]
    ratios = [dense / sparse for dense, sparse in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    run = single(recipe)
    return {
        "run": recipe.name(),
        "method": run.method,
        "sparsity": run.sparsity,
        "precision": recipe.precision,
        "dense_steps_per_second": BLOCKS * size / sum(dense for dense, _ in pairs),
        "steps_per_second": BLOCKS * size / sum(sparse for _, sparse in pairs),
        "ratio": middle,
        "low": low,
        "high": high,
        "blocks": BLOCKS,
    }


class _Blocks:
    """A training that is run a few steps at a time, and anew when it ends."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.steps = self._fresh()

    def seconds(self, count: int) -> float:
        """The time of the next ``count`` steps; building a training anew is not counted."""
        spent = 0.0
        while count > 0:
            began = time.perf_counter()
            taken = 0
            last: Step | None = None
            while taken < count and (step := next(self.steps, None)) is not None:
                taken, last = taken + 1, step
            if last is not None:
                last.loss.item()  # the device has finished
            spent += time.perf_counter() - began
            count -= taken
            if count > 0:
                self.steps = self._fresh()
        return spent

    def _fresh(self) -> Iterator[Step]:
        self.prepared = prepared = prepare(self.recipe)
        if prepared.sparsifier is not None and has_cycles(self.recipe):
            prepared.sparsifier.method.finalize()  # prunes now: a dense phase has the speed of dense
        self.length = prepared.training.steps
        return iter(prepared.training)


def _pair(dense: _Blocks, sparse: _Blocks, size: int, *, dense_first: bool) -> tuple[float, float]:
    """The seconds of a block of each."""
    if dense_first:
        return dense.seconds(size), sparse.seconds(size)
    second = sparse.seconds(size)
    return dense.seconds(size), second


def _block_size(blocks: _Blocks) -> int:
    blocks.seconds(2)  # warm up: allocations, the first choice of kernels
    step = blocks.seconds(3) / 3
    return ranks.broadcast(max(1, min(round(BLOCK_SECONDS / step), blocks.length // BLOCKS)))
