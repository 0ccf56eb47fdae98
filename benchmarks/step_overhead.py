"""What a sparse training step costs beside a dense one: paired blocks of steps in one process, on synthetic images.

    python benchmarks/step_overhead.py [--blocks 20] [--threads 1] [--networks resnet20 mlp] [--variants "prunus dnw"]
        [--clock cpu]

Prints the median of the paired ratios (1.00 = dense) with its quartiles, for steps without an update of the masks where
a method has such; the same where every step updates them; what follows for updates as often as the method makes them by
itself; and the throughput beside dense that this is. The clock "cpu" counts the time of this process alone, for a
machine that others use too; it says nothing of a GPU or of several threads.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from peers import SPARSITY, Attach, dense, header, mask_buffer, ours, torch_prune, training

from prunus.allocation import CollapseWarning
from prunus.methods import cs, dnw, dpf, dst, gmp, gsm, lc, one_shot, rigl, snip, str_

STEPS_OF_BLOCK = {"resnet20": 2, "mlp": 4}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NEVER = 1_000_000


@dataclass(frozen=True)
class Variant:
    """What is attached for steps that are all alike, or without an update; with one at every step; how often in use."""

    attach: Attach
    updating: Attach | None = None
    every: int = 1


VARIANTS = {
    "dense again": Variant(dense),
    "prunus one-shot": Variant(ours(lambda: one_shot(SPARSITY, at=0.0))),  # and every cycle of iterative pruning
    "prunus gmp": Variant(
        ours(lambda: gmp(SPARSITY, update_every=NEVER)), ours(lambda: gmp(SPARSITY, update_every=1)), every=100
    ),
    "prunus rigl": Variant(
        ours(lambda: rigl(SPARSITY, update_every=NEVER)), ours(lambda: rigl(SPARSITY, update_every=1)), every=100
    ),
    "prunus dpf": Variant(
        ours(lambda: dpf(SPARSITY, update_every=NEVER)), ours(lambda: dpf(SPARSITY, update_every=1)), every=16
    ),
    "prunus snip": Variant(ours(lambda: snip(SPARSITY))),
    "prunus dnw": Variant(ours(lambda: dnw(SPARSITY))),
    "prunus gsm": Variant(ours(lambda: gsm(SPARSITY))),
    "prunus lc": Variant(ours(lambda: lc(SPARSITY))),
    "prunus str": Variant(ours(lambda: str_(SPARSITY))),
    "prunus dst": Variant(ours(lambda: dst(SPARSITY))),
    "prunus cs": Variant(ours(lambda: cs(SPARSITY))),
    "torch.nn.utils.prune": Variant(torch_prune),
    "parametrization, mask buffer": Variant(mask_buffer),
}


def ratios(network: str, blocks: int, clock: Callable[[], float], attach: Attach) -> list[float]:
    """The time of a block of steps beside that of a dense block, again and again; each is first every second time."""
    plain, other = training(network, dense), training(network, attach)
    count = STEPS_OF_BLOCK[network]
    seconds(plain, 2, clock), seconds(other, 2, clock)
    found = []
    for number in range(blocks):
        first, second = (plain, other) if number % 2 else (other, plain)
        times = {id(first): seconds(first, count, clock), id(second): seconds(second, count, clock)}
        found.append(times[id(other)] / times[id(plain)])
    return found


def seconds(steps: Iterator[None], count: int, clock: Callable[[], float]) -> float:
    """The time of ``count`` steps."""
    began = clock()
    for _ in range(count):
        next(steps)
    return clock() - began


def row(name: str, measure: Callable[[Attach], list[float]]) -> str:
    """One line of the table."""
    variant = VARIANTS[name]
    low, middle, high = statistics.quantiles(measure(variant.attach), n=4)
    each = statistics.median(measure(variant.updating)) if variant.updating else None
    whole = middle if each is None else middle + (each - middle) / variant.every
    update = "" if each is None else f"{each:.3f}"
    return f"{name:<30} {middle:7.3f}  {low:.3f} to {high:.3f}  {update:>11} {whole:7.3f} {1 / whole:10.3f}"


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(STEPS_OF_BLOCK))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", CollapseWarning)
    print(header(blocks=options.blocks, clock=options.clock))
    for network in options.networks:
        print(f"\n{network:<30} {'step':>7}  {'quartiles':<14}  {'with update':>11} {'in use':>7} {'throughput':>10}")
        for name in options.variants:
            print(row(name, partial(ratios, network, options.blocks, CLOCKS[options.clock])), flush=True)


if __name__ == "__main__":
    main()
