"""Replay: what of earlier megabatches is trained on again.

Everything is a function of its arguments: who keeps the memory resumes with the very same examples. Of validation parts
a memory of its own is kept by the same rule, so that nothing ever moves from one side to the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

Memory = tuple[Tensor, ...]


class Replay(Protocol):
    """``(memory, new, seen, generator) -> (now, memory)``: the ids to train on now, and the memory afterwards.

    ``memory`` is empty before the first megabatch, ``new`` the megabatch that has arrived, ``seen`` how many examples
    had arrived before it. In ``now`` the replayed ids come first, the new ones last. An id that the memory no longer
    holds will never be asked for again.
    """

    def __call__(self, memory: Memory, new: Tensor, seen: int, generator: Generator) -> tuple[Tensor, Memory]:
        """The ids to train on now, and the memory afterwards."""
        ...


@dataclass(frozen=True)
class NoReplay:
    """Every megabatch is trained on alone: ALMA's default."""

    def __call__(self, memory: Memory, new: Tensor, seen: int, generator: Generator) -> tuple[Tensor, Memory]:
        return new, ()


@dataclass(frozen=True)
class FullReplay:
    """All that has arrived is trained on: APP's default."""

    def __call__(self, memory: Memory, new: Tensor, seen: int, generator: Generator) -> tuple[Tensor, Memory]:
        return torch.cat([*memory, new]), (*memory, new)


@dataclass(frozen=True)
class LastReplay:
    """The latest ``megabatches`` before the new one are trained on again."""

    megabatches: int = 1

    def __post_init__(self) -> None:
        _check_whole("last", self.megabatches)

    def __call__(self, memory: Memory, new: Tensor, seen: int, generator: Generator) -> tuple[Tensor, Memory]:
        return torch.cat([*memory, new]), (*memory, new)[-self.megabatches :]


@dataclass(frozen=True)
class FractionReplay:
    """Of what was trained on before, itself with replay, int(``fraction`` · size) random examples.

    ALMA's rule, by which old examples fade geometrically: n_t = n + int(fraction · n_{t-1}). 1 is full replay, 0 none.
    """

    fraction: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"the fraction that is replayed must be in [0, 1], got {self.fraction}")

    def __call__(self, memory: Memory, new: Tensor, seen: int, generator: Generator) -> tuple[Tensor, Memory]:
        previous = torch.cat([*memory, new[:0]])
        drawn = torch.randperm(len(previous), generator=generator)[: int(len(previous) * self.fraction)]
        now = torch.cat([previous[drawn.sort().values], new])
        return now, (now,)


@dataclass(frozen=True)
class Reservoir:
    """A buffer of ``size`` examples, drawn uniformly from all that arrived before (Vitter 1985, Algorithm R)."""

    size: int

    def __post_init__(self) -> None:
        _check_whole("reservoir", self.size)

    def __call__(self, memory: Memory, new: Tensor, seen: int, generator: Generator) -> tuple[Tensor, Memory]:
        buffer = torch.cat([*memory, new[:0]])
        return torch.cat([buffer, new]), (self._updated(buffer, new, seen, generator),)

    def _updated(self, buffer: Tensor, new: Tensor, seen: int, generator: Generator) -> Tensor:
        """Each new example, number k of all, takes a random one of k slots, where there is such a slot."""
        counts = torch.arange(seen + 1, seen + 1 + len(new), dtype=torch.float64)
        slots = (torch.rand(len(new), generator=generator, dtype=torch.float64) * counts).long()
        kept = buffer.tolist()
        for example, slot in zip(new.tolist(), slots.tolist(), strict=True):
            if len(kept) < self.size:
                kept.append(example)
            elif slot < self.size:
                kept[slot] = example
        return torch.tensor(kept, dtype=torch.int64)


def replay(setting: str | Mapping[str, float]) -> Replay:
    """The replay of a setting: ``none``, ``full``, ``{last: n}``, ``{fraction: r}`` or ``{reservoir: size}``.

    >>> replay({"last": 2})
    LastReplay(megabatches=2)
    """
    match setting:
        case "none":
            return NoReplay()
        case "full":
            return FullReplay()
        case {"last": int(megabatches), **others} if not others:
            return LastReplay(megabatches)
        case {"fraction": int(fraction) | float(fraction), **others} if not others:
            return FractionReplay(fraction)
        case {"reservoir": int(size), **others} if not others:
            return Reservoir(size)
    raise ValueError(
        "replay must be none, full, {last: 2}, {fraction: 0.5} or {reservoir: 1000}, the first and the last of the "
        f"three numbers whole ones, got {setting!r}"
    )


def _check_whole(name: str, number: int) -> None:
    if number < 1:
        raise ValueError(f"replay of {name} needs a number of at least 1, got {number}; without replay it is none")
