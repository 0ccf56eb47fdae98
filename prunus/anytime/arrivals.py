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
    """The ids of new images, a part to train on and one to validate on, and how many had arrived before."""

    train: Tensor
    validation: Tensor
    before: int


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
        divided = [hold_out(part, held_out, seed=drawn, number=number) for number, part in enumerate(parts)]
    except ValueError as error:
        raise RecipeError(f"anytime: {error}") from error
    before = 0
    found = []
    for train, validation in divided:
        found.append(Megabatch(train, validation, before))
        before += len(train) + len(validation)
    return found


def waited(megabatches: Sequence[Megabatch], number: int, wait: int, *, last: bool) -> list[Megabatch]:
    """What is trained on at megabatch ``number``: the latest ``wait``, fewer at the ``last``, nothing in between."""
    done = number + 1
    return list(megabatches[number - (number % wait) : done]) if last or done % wait == 0 else []


def gather(stream: Anytime, new: Sequence[Megabatch], held: Memories, seed: int) -> tuple[Tensor, Tensor, Memories]:
    """The ids to train on and to validate on when ``new`` has arrived, and what is kept of them for later."""
    rule, before = replay(stream.replay), new[0].before

    def again(memory: Memory, ids: Tensor, part: str) -> tuple[Tensor, Memory]:
        return rule(memory, ids, before, seeded(seed, "replay", part, before))

    train, kept = again(held.train, torch.cat([one.train for one in new]), "train")
    validation, kept_out = again(held.validation, torch.cat([one.validation for one in new]), "validation")
    return train, validation, Memories(kept, kept_out)


def latest(stream: Anytime, megabatches: Sequence[Megabatch], seed: int) -> tuple[list[Megabatch], Memories]:
    """What the last training of a whole stream took as new, and what was kept of all before."""
    new: list[Megabatch] = []
    held = kept = Memories()
    for number in range(len(megabatches)):
        if found := waited(megabatches, number, stream.wait, last=number + 1 == len(megabatches)):
            new, held = found, kept
            *_, kept = gather(stream, new, held, seed)
    return new, held


def to_look_at(stream: Anytime, train: Tensor, new: int, seed: int) -> Tensor:
    """The ids that methods look at before training: a random share of ``train``, or the head of it.

    The head is as the released code takes it: as many as that share of the ``new`` images.
    """
    if stream.evidence_from == "head":
        return train[: max(1, int(stream.evidence * new))]
    count = max(1, round(stream.evidence * len(train)))
    return train[torch.randperm(len(train), generator=seeded(seed, "evidence"))[:count]]
