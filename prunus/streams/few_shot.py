"""Few-shot streams: a few examples of each class."""

import torch
from torch import Tensor

from prunus.randomness import seeded


def few_shot(labels: Tensor, per_class: int, seed: int = 0, groups: Tensor | None = None) -> Tensor:
    """The ids of ``per_class`` examples of each class, drawn with ``seed``, in the order of the data set.

    ``labels`` are int64 (n,) on the CPU, and so are ``groups``: the numbers of sub-classes, such as the synsets of a
    superclass, of which equally many are drawn, within one. An order of the few is ``ids[order(labels[ids], seed)]``.
    Raises ValueError where there are too few.

    >>> few_shot(torch.tensor([0, 0, 0, 1, 1, 1]), per_class=2)
    tensor([1, 2, 4, 5])
    """
    if per_class < 1:
        raise ValueError(f"few-shot needs at least 1 example of a class, got {per_class}")
    sub_classes = torch.zeros_like(labels) if groups is None else groups
    drawn = [_of_class(name, labels, per_class, seed, sub_classes) for name in torch.unique(labels).tolist()]
    return torch.cat(drawn).sort().values


def _of_class(name: int, labels: Tensor, per_class: int, seed: int, groups: Tensor) -> Tensor:
    members = (labels == name).nonzero().flatten()
    if len(members) < per_class:
        raise ValueError(f"few-shot needs {per_class} examples of each class, class {name} has {len(members)}")
    generator = seeded(seed, "few-shot", name)
    members = members[torch.randperm(len(members), generator=generator)]
    present = torch.unique(groups[members])
    present = present[torch.randperm(len(present), generator=generator)]
    return _evenly(name, [members[groups[members] == group] for group in present], per_class)


def _evenly(name: int, piles: list[Tensor], per_class: int) -> Tensor:
    """The same number from the top of each pile, within one."""
    share, extra = divmod(per_class, len(piles))
    piles = sorted(piles, key=lambda pile: len(pile) <= share)  # stable; one more only from those that have it
    wanted = [share + (number < extra) for number in range(len(piles))]
    for pile, count in zip(piles, wanted, strict=True):
        if len(pile) < count:
            raise ValueError(
                f"few-shot draws {per_class} examples of class {name} evenly over {len(piles)} groups, {count} from "
                f"one that has {len(pile)}; ask for fewer or do without groups"
            )
    return torch.cat([pile[:count] for pile, count in zip(piles, wanted, strict=True)])
