"""Allocations: ``(scores, sparsity) -> masks``; how much of the sparsity each layer bears.

Two kinds: rankings compare the scores of all layers (`global_`, `lamp`); budgets fix each layer's count first and rank
inside it (`uniform`, `uniform_plus`, `erk`, `er`, `PerLayer`), or inside each group (`Pattern`).
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor

from prunus.budgets import Budget, ErdosRenyi, LayerTable, fitted, uniform_counts, uniform_plus_counts
from prunus.candidates import Candidates
from prunus.masks import Masks, Tensors, keep_count
from prunus.ranking import Contest, find_cut, refuse_nan

Allocation = Callable[[Tensors, float], Masks]
BlockwiseAllocation = Callable[[Contest, float], Masks]
Marked = TypeVar("Marked", bound=Callable[..., object])


def blockwise(allocation: Marked) -> Marked:
    """Mark an allocation, as a decorator: it takes scores yet to be computed (`Candidates`) in place of tensors."""
    allocation.blockwise = True  # type: ignore[attr-defined]
    return allocation


def is_blockwise(allocation: Allocation) -> TypeGuard[BlockwiseAllocation]:
    """Whether an allocation, or its class, was marked `blockwise`."""
    return getattr(allocation, "blockwise", False)


class CollapseWarning(UserWarning):
    """A layer has lost all its weights but the one that its floor keeps."""


@blockwise
def global_(scores: Contest, sparsity: float) -> Masks:
    """All weights ranked together; exact over the network.

    A layer that would lose everything keeps its best weight in place of the worst one elsewhere, and a CollapseWarning
    says so. Raises ValueError when fewer weights would stay than there are layers.
    """
    k = keep_count(sum(score.numel() for score in scores.values()), sparsity)
    if k < len(scores):
        raise ValueError(f"sparsity {sparsity} keeps {k} weights for {len(scores)} layers; at least one each must stay")
    cut, floor = find_cut(scores, k), dict[str, int]()
    while empty := cut.empty():
        floor |= {name: cut.best_place(name) for name in empty}
        cut = find_cut(scores, k, floor)
    if floor:
        warnings.warn(collapse_message(floor, sparsity), CollapseWarning, stacklevel=2)
    return cut.masks()


def unfloored(scores: Contest, sparsity: float) -> Masks:
    """All weights ranked together, as published codes do it: exact, and a layer may lose everything."""
    return find_cut(scores, keep_count(sum(score.numel() for score in scores.values()), sparsity)).masks()


def lamp(scores: Tensors, sparsity: float) -> Masks:
    """Lee et al. 2021, Eq. 4: a squared score over the sum of all squares in its layer at least as large; then global.

    The best weight of every layer scores 1, so no layer collapses. Dropped weights (score -inf) stay below all others.
    """
    return global_({name: _lamp_scores(score) for name, score in scores.items()}, sparsity)


@blockwise
@dataclass(frozen=True)
class PerLayer:
    """Each layer's count from a budget, then the best scores inside each layer."""

    budget: Budget

    def __call__(self, scores: Contest, sparsity: float) -> Masks:
        counts = self.budget({name: tuple(score.shape) for name, score in scores.items()}, sparsity)
        counts = fitted(counts, {name: _room(score) for name, score in scores.items()})
        cuts = [find_cut({name: score}, counts[name]) for name, score in scores.items()]  # all before any is written
        return {name: mask for cut in cuts for name, mask in cut.masks().items()}


uniform = PerLayer(uniform_counts)
uniform_plus = PerLayer(uniform_plus_counts)
erk = PerLayer(ErdosRenyi())
er = PerLayer(ErdosRenyi(kernel=False))


def per_layer(table: Mapping[str, float]) -> PerLayer:
    """Sparsities by glob on the parameter's name, the first match counts; other layers share the rest uniformly."""
    return PerLayer(LayerTable(tuple(table.items())))


@dataclass(frozen=True)
class Pattern:
    """N:M sparsity: of every ``m`` consecutive weights along the input dimension the best ``n`` stay, such as 2:4.

    Under way to it (a schedule below 1 - n/m) more stay in each group. Raises ValueError for a sparsity above 1 - n/m
    and for a layer whose input dimension is no multiple of ``m``.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m:
            raise ValueError(f"a pattern N:M needs 0 < N <= M, got {self.n}:{self.m}")

    def __call__(self, scores: Tensors, sparsity: float) -> Masks:
        if sparsity > 1 - self.n / self.m + 1e-9:
            most = 1 - self.n / self.m
            raise ValueError(f"pattern {self.n}:{self.m} has sparsity {most:g}, asked was {sparsity}; pass {most:g}")
        refuse_nan(scores)
        kept = max(self.n, keep_count(self.m, sparsity))
        return {name: self._mask(name, score, kept) for name, score in scores.items()}

    def _mask(self, name: str, score: Tensor, kept: int) -> Tensor:
        if score.dim() < 2 or score.shape[1] % self.m:
            raise ValueError(
                f"pattern {self.n}:{self.m} needs an input dimension divisible by {self.m}; {name!r} has shape "
                f"{tuple(score.shape)}, exclude it"
            )
        groups = torch.unflatten(score.movedim(1, -1), -1, (-1, self.m))  # (out, …, in / m, m)
        order = groups.argsort(dim=-1, descending=True, stable=True)
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :kept], True)
        return mask.flatten(-2).movedim(-1, 1)


def pattern(text: str) -> Pattern:
    """The pattern that a string such as "2:4" names."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found:
        raise ValueError(f'a pattern is written N:M, such as "2:4", got {text!r}')
    return Pattern(int(found[1]), int(found[2]))


ALLOCATIONS: dict[str, Allocation] = {
    "global": global_,
    "unfloored": unfloored,
    "uniform": uniform,
    "uniform+": uniform_plus,
    "erk": erk,
    "er": er,
    "lamp": lamp,
}


def _room(scores: Tensor | Candidates) -> int:
    among = scores.among if isinstance(scores, Candidates) else None
    return scores.numel() if among is None else int(among.count_nonzero())


def collapse_message(names: Iterable[str], sparsity: float) -> str:
    """What is said of layers that keep one weight."""
    layers = ", ".join(names)
    return f"at sparsity {sparsity:g} only the floor of one weight is left in {layers}; a budget such as erk spreads it"


def _lamp_scores(score: Tensor) -> Tensor:
    alive = score != -inf  # NaN is alive, so that the ranking refuses it
    squares, order = torch.where(alive, score, 0.0).reshape(-1).double().square().sort(stable=True, descending=True)
    ranked = torch.where(squares == 0, 0.0, squares / squares.cumsum(0))  # over the sum of all ranked as high
    scattered = torch.empty_like(ranked).scatter_(0, order, ranked).view(score.shape)
    return torch.where(alive, scattered, -inf)
