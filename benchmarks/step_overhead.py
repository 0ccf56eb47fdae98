"""What a sparse training step costs beside a dense one: paired blocks of steps in one process, on synthetic images.

    python benchmarks/step_overhead.py [--blocks 20] [--threads 1] [--networks resnet20 mlp]

Prints the median of the paired ratios (1.00 = dense) with its quartiles, for steps without an update of the masks; the
same where every step updates them; and what follows for an update every 100 steps.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from peers import SPARSITY, Attach, dense, header, mask_buffer, ours, torch_prune, training

from prunus.allocation import CollapseWarning
from prunus.methods import gmp, rigl, snip

STEPS_OF_BLOCK = {"resnet20": 2, "mlp": 4}
NEVER, UPDATE_EVERY = 1_000_000, 100

# What is attached, without updates and with one at every step; None where nothing is ever updated.
VARIANTS: dict[str, tuple[Attach, Attach | None]] = {
    "dense again": (dense, None),
    "prunus gmp": (ours(lambda: gmp(SPARSITY, update_every=NEVER)), ours(lambda: gmp(SPARSITY, update_every=1))),
    "prunus rigl": (ours(lambda: rigl(SPARSITY, update_every=NEVER)), ours(lambda: rigl(SPARSITY, update_every=1))),
    "prunus snip": (ours(lambda: snip(SPARSITY)), None),
    "torch.nn.utils.prune": (torch_prune, None),
    "parametrization, mask buffer": (mask_buffer, None),
}


def ratios(network: str, blocks: int, attach: Attach) -> list[float]:
    """The time of a block of steps beside that of a dense block, again and again; each is first every second time."""
    plain, other = training(network, dense), training(network, attach)
    count = STEPS_OF_BLOCK[network]
    seconds(plain, 2), seconds(other, 2)
    found = []
    for number in range(blocks):
        first, second = (plain, other) if number % 2 else (other, plain)
        times = {id(first): seconds(first, count), id(second): seconds(second, count)}
        found.append(times[id(other)] / times[id(plain)])
    return found


def seconds(steps: Iterator[None], count: int) -> float:
    """The time of ``count`` steps."""
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    return time.perf_counter() - began


def row(name: str, measure: Callable[[Attach], list[float]]) -> str:
    """One line of the table."""
    attach, updating = VARIANTS[name]
    low, middle, high = statistics.quantiles(measure(attach), n=4)
    line = f"{name:<30} {middle:7.3f}  {low:.3f} to {high:.3f}"
    if updating is None:
        return f"{line}  {'':>11} {middle:10.3f}"
    each = statistics.median(measure(updating))
    return f"{line}  {each:11.3f} {middle + (each - middle) / UPDATE_EVERY:10.3f}"


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(STEPS_OF_BLOCK))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", CollapseWarning)
    print(header(blocks=options.blocks))
    for network in options.networks:
        print(f"\n{network:<30} {'step':>7}  {'quartiles':<14}  {'with update':>11} {'every ' + str(UPDATE_EVERY):>10}")
        for name in options.variants:
            print(row(name, partial(ratios, network, options.blocks)), flush=True)


if __name__ == "__main__":
    main()
