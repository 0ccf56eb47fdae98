"""How far a run over a stream is, as its checkpoint has it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from prunus import checkpoints
from prunus.anytime.arrivals import Memories
from prunus.data import Labelled
from prunus.randomness import seeded
from prunus.start import Left

Record = dict[str, Any]


class Store(Protocol):
    """Images by their ids."""

    def select(self, indices: Tensor) -> Labelled:
        """Those at ``indices``, in that order."""
        ...


@dataclass
class State:
    """How far a stream is: megabatches done, networks trained of the present one, and all that later ones need."""

    number: int = 0
    trained: list[Record] = field(default_factory=list)
    lefts: list[Left] = field(default_factory=list)
    memories: Memories = field(default_factory=Memories)
    validated: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # the ids of the latest stage
    records: list[Record] = field(default_factory=list)
    logged: int = 0
    threads: int = field(default_factory=torch.get_num_threads)
    sizes: list[int] = field(default_factory=list)  # of the megabatches of a stream that is followed
    left_out: list[int] = field(default_factory=list)  # of those the ones that nothing can be trained on

    def plain(self) -> dict[str, Any]:
        """For a checkpoint that loads with ``weights_only=True``."""
        lefts = [vars(left) for left in self.lefts]
        return {"format": checkpoints.FORMAT, **vars(self), "lefts": lefts, "memories": vars(self.memories)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "State":
        """Back from `plain`."""
        held = {key: value for key, value in plain.items() if key != "format"}
        lefts, memories = [Left(**left) for left in plain["lefts"]], Memories(**plain["memories"])
        return cls(**held | {"lefts": lefts, "memories": memories})


def stage_seed(seed: int, number: int, member: int) -> int:
    """The seed of a network's training on a megabatch; the run's own for the first network on the first."""
    if number == member == 0:
        return seed
    return seeded(seed, "stage", number, member).initial_seed() % 2**32
