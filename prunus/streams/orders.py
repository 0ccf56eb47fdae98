"""Orders: ``(labels, seed) -> ids``; in which order the examples of a data set arrive.

Labels are int64 (n,) on the CPU, and so are the ids, the positions in them.
"""

from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np
import torch
from torch import Tensor

from prunus.randomness import seeded

Order = Callable[[Tensor, int], Tensor]


def given(labels: Tensor, seed: int) -> Tensor:
    """The order of the data set itself, whatever the seed: that of APP's released code."""
    return torch.arange(len(labels))


def permuted(labels: Tensor, seed: int) -> Tensor:
    """A permutation by ``RandomState(seed)``: the order of ALMA's released code, whose experiments have seed 432.

    ALMA leaves a stream of a single megabatch as the data set is. An order does not know how it will be cut, so that
    is not done here: whoever wants it chooses `given`.
    """
    return torch.from_numpy(np.random.RandomState(seed).permutation(len(labels)))


def balanced(labels: Tensor, seed: int) -> Tensor:
    """The classes interleaved, shuffled within: the first k examples hold each class within one of its share of k.

    So wherever the stream is cut, a part has the classes in the proportions of the data set; where they are equally
    frequent, any part holds them within one of each other. The deviation below one is Tijdeman's (1980).

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> labels[balanced(labels, seed=0)]
    tensor([0, 0, 1, 0, 0, 1])
    """
    classes = _classes(labels, seed)
    turns = torch.tensor(_turns([len(ids) for ids in classes]), dtype=torch.int64)
    order = torch.empty_like(turns)
    order[turns.argsort(stable=True)] = torch.cat(classes)
    return order


def by_class(labels: Tensor, seed: int) -> Tensor:
    """One class after another, shuffled within: a class-incremental stream; the seed also orders the classes."""
    return torch.cat(_classes(labels, seed))


ORDERS: dict[str, Order] = {"permuted": permuted, "given": given, "balanced": balanced, "by-class": by_class}


def _classes(labels: Tensor, seed: int) -> list[Tensor]:
    """The ids of each class, shuffled, the classes in a seeded order."""
    shuffled = torch.randperm(len(labels), generator=seeded(seed, "arrival"))
    grouped = shuffled[labels[shuffled].argsort(stable=True)]
    classes = torch.split(grouped, torch.unique(labels, return_counts=True)[1].tolist())
    return [classes[k] for k in torch.randperm(len(classes), generator=seeded(seed, "classes")).tolist()]


def _turns(sizes: list[int]) -> list[int]:
    """Whose turn it is at each position: earliest deadline first.

    Number j of a class of n, from 0 on, is due by position ⌈(j + 1) N / n⌉ and not before ⌊j N / n⌋ + 1 of N.
    """
    total = sum(sizes)
    taken = [0] * len(sizes)
    coming = [(1, number) for number in range(len(sizes))]
    due: list[tuple[int, int]] = []
    turns = []
    for position in range(1, total + 1):
        while coming and coming[0][0] <= position:
            number = heappop(coming)[1]
            heappush(due, (-(-(taken[number] + 1) * total // sizes[number]), number))
        turns.append(number := heappop(due)[1])
        taken[number] += 1
        if taken[number] < sizes[number]:
            heappush(coming, (taken[number] * total // sizes[number] + 1, number))
    return turns
