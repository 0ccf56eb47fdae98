"""What arrives when: the megabatches of a data set, and what of them a stage trains and validates on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.randomness import seeded
from prunus.settings import Anytime
from prunus.streams import ORDERS, cut, few_shot, hold_out, replay
from prunus.streams.replay import Memory
from prunus.tables import RecipeError

MEGABATCHES = 10


@dataclass(frozen=True)
class Megabatch:
    """The ids of new images, a part to train on and one to validate on."""

    train: Tensor
    validation: Tensor

    def __len__(self) -> int:
        return len(self.train) + len(self.validation)


@dataclass(frozen=True)
class Memories:
    """What is kept of earlier megabatches, to train on and to validate on again."""

    train: Memory = ()
    validation: Memory = ()


def arrivals(stream: Anytime, labels: Tensor, held_out: float, seed: int) -> list[Megabatch]:
    """The megabatches of images with these ``labels``; ``held_out`` is the share of each that validates.

    Raises RecipeError where a megabatch would be too small.
    """
    drawn = seed if stream.order_seed is None else stream.order_seed
    count = None if stream.size else stream.megabatches or MEGABATCHES
    try:
        chosen = torch.arange(len(labels)) if stream.per_class is None else few_shot(labels, stream.per_class, drawn)
        order = torch.arange(len(chosen)) if count == 1 else ORDERS[stream.order](labels[chosen], drawn)
        parts = cut(chosen[order], count, stream.size)
        return [Megabatch(*hold_out(part, held_out, seed=drawn, number=number)) for number, part in enumerate(parts)]
    except ValueError as error:
        raise RecipeError(f"anytime: {error}") from error


def waited(number: int, wait: int, *, last: bool) -> range:
    """The megabatches trained on at number ``number``: the latest ``wait``, fewer at the ``last``, none in between."""
    done = number + 1
    return range(number - (number % wait), done) if last or done % wait == 0 else range(0)


def gather(
    stream: Anytime, megabatches: Sequence[Megabatch], new: range, held: Memories, seed: int
) -> tuple[Tensor, Tensor, Memories]:
    """The ids to train on and to validate on when the ``new`` ones have arrived, and what is kept of them for later."""
    rule, before = replay(stream.replay), megabatches[: new.start]

    def again(part: str, memory: Memory) -> tuple[Tensor, Memory]:
        ids = [getattr(megabatches[number], part) for number in new]
        seen = sum(len(getattr(one, part)) for one in before)
        return rule(memory, torch.cat(ids), seen, seeded(seed, "replay", part, new.start))

    train, kept = again("train", held.train)
    validation, kept_out = again("validation", held.validation)
    return train, validation, Memories(kept, kept_out)


def to_look_at(stream: Anytime, train: Tensor, new: int, seed: int) -> Tensor:
    """The ids that methods look at before training: a random share of ``train``, or the head of it.

    The head is as the released code takes it: as many as that share of the ``new`` images.
    """
    if stream.evidence_from == "head":
        return train[: max(1, int(stream.evidence * new))]
    count = max(1, round(stream.evidence * len(train)))
    return train[torch.randperm(len(train), generator=seeded(seed, "evidence"))[:count]]
