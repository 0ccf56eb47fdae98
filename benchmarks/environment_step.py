"""What a decision of the environment costs beside the same training steps and the same measurement alone.

    python benchmarks/environment_step.py [--blocks 30] [--steps 50] [--threads 1] [--clock cpu]

A convolutional network on synthetic images of 32x32; a block is one decision. Pairs of blocks in one process, each
first every second time; prints the median of their ratios with its quartiles. Both train with masks; the environment's
change at every decision, the others stay. The clock "cpu" counts the time of this process alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from peers import header
from torch import nn

from prunus import prunable, sparsify
from prunus.carriers import Masked
from prunus.evaluation import evaluate
from prunus.learned.environment import SparsityEnv
from prunus.learned.episode import Episode, Measured, counter, decided
from prunus.methods import mp_rr
from prunus.models import MODELS
from prunus.training import Training

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BATCH, HELD_OUT, MANY = 64, 1000, 100_000


def built(seed: int, method: Masked, every: int) -> Episode:
    """A network of three convolutions and two linear layers, in a training too long to end."""
    torch.manual_seed(seed)
    model = MODELS["conv-net"]((3, 32, 32), 10, widths=(16, 32, 32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = sparsify(model, optimizer, method, MANY * every)
    batches = [(torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,)))]
    held_out = [(torch.randn(HELD_OUT, 3, 32, 32), torch.randint(10, (HELD_OUT,)))]
    training = Training(model, optimizer, batches, nn.functional.cross_entropy, MANY * every)

    def measure() -> Measured:
        quality = evaluate(model, held_out)
        return Measured(quality.nll, quality.accuracy)

    operations = counter(model, prunable(model), torch.zeros(1, 3, 32, 32))
    return Episode(training, sparsifier, measure, operations, every, BATCH)


def alone(every: int) -> Iterator[None]:
    """The steps of a decision and the measurement after them, again and again."""
    episode = built(0, mp_rr(0.5), every)
    for step in episode.training:
        if step.number % every == 0:
            episode.measure()
            yield


def decisions(every: int) -> Iterator[None]:
    """Decisions of the environment, each with other densities."""
    environment = SparsityEnv(lambda seed: built(seed, decided(mp_rr(0.5)), every))
    environment.reset(options={"network": 0})
    draws = np.random.default_rng(0)
    while True:
        environment.step(draws.uniform(-0.2, 0.2, environment.action_space.shape or ()).astype(np.float32))
        yield


def seconds(blocks: Iterator[None], clock: Callable[[], float]) -> float:
    """The time of a block."""
    began = clock()
    next(blocks)
    return clock() - began


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(blocks=options.blocks, steps=options.steps, clock=options.clock))
    plain, ours, clock = alone(options.steps), decisions(options.steps), CLOCKS[options.clock]
    seconds(plain, clock), seconds(ours, clock)
    found, times = [], []
    for number in range(options.blocks):
        order = (plain, ours) if number % 2 else (ours, plain)
        pair = {id(blocks): seconds(blocks, clock) for blocks in order}
        found.append(pair[id(ours)] / pair[id(plain)])
        times.append(pair[id(plain)])
    low, middle, high = statistics.quantiles(found, n=4)
    print(f"steps and measurement alone {statistics.median(times):.3f} s; an environment's decision, as a ratio to it:")
    print(f"{middle:.3f}  {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
