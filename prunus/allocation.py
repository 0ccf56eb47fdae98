"""Allocations: ``(scores, sparsity) -> masks``; how much of the sparsity each layer bears.

Two kinds: rankings compare the scores of all layers (`global_`, `lamp`); budgets fix each layer's count first and rank
inside it (`uniform`, `uniform_plus`, `erk`, `er`, `PerLayer`), or inside each group (`Pattern`).
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from prunus.budgets import Budget, ErdosRenyi, LayerTable, uniform_counts, uniform_plus_counts
from prunus.masks import Masks, Tensors, keep_count
from prunus.ranking import refuse_nan, top_k, top_k_together

Allocation = Callable[[Tensors, float], Masks]


class CollapseWarning(UserWarning):
    """A layer has lost all its weights but the one that its floor keeps."""


def global_(scores: Tensors, sparsity: float) -> Masks:
    """All weights ranked together; exact over the network.

    A layer that would lose everything keeps its best weight in place of the worst one elsewhere, and a CollapseWarning
    says so. Raises ValueError when fewer weights would stay than there are layers.
    """
    k = keep_count(sum(score.numel() for score in scores.values()), sparsity)
    if k < len(scores):
        raise ValueError(f"sparsity {sparsity} keeps {k} weights for {len(scores)} layers; at least one each must stay")
    masks = top_k_together(scores, k)
    floored: list[str] = []
    while empty := _empty(masks):
        floored += empty
        masks = top_k_together(_raise_best(scores, floored), k)
    if floored:
        warnings.warn(_collapse(floored, sparsity), CollapseWarning, stacklevel=2)
    return masks


def lamp(scores: Tensors, sparsity: float) -> Masks:
    """Lee et al. 2021, Eq. 4: a squared score over the sum of all squares in its layer at least as large; then global.

    The best weight of every layer scores 1, so no layer collapses. Dropped weights (score -inf) stay below all others.
    """
    return global_({name: _lamp_scores(score) for name, score in scores.items()}, sparsity)


@dataclass(frozen=True)
class PerLayer:
    """Each layer's count from a budget, then the best scores inside each layer."""

    budget: Budget

    def __call__(self, scores: Tensors, sparsity: float) -> Masks:
        counts = self.budget({name: tuple(score.shape) for name, score in scores.items()}, sparsity)
        return {name: top_k(score, counts[name]) for name, score in scores.items()}


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
    "uniform": uniform,
    "uniform+": uniform_plus,
    "erk": erk,
    "er": er,
    "lamp": lamp,
}


def _empty(masks: Masks) -> list[str]:
    alive = torch.stack([mask.any().cpu() for mask in masks.values()]).tolist()  # one wait for all layers
    return [name for name, any_left in zip(masks, alive, strict=True) if not any_left]


def _raise_best(scores: Tensors, names: list[str]) -> Tensors:
    # an infinite score elsewhere would tie with the raised ones and win by its place
    raised = {name: score.clamp(max=torch.finfo(score.dtype).max) for name, score in scores.items()}
    for name in names:
        raised[name] = raised[name].contiguous()
        raised[name].view(-1)[scores[name].reshape(-1).argmax()] = inf
    return raised


def _collapse(names: list[str], sparsity: float) -> str:
    layers = ", ".join(names)
    return f"at sparsity {sparsity:g} only the floor of one weight is left in {layers}; a budget such as erk spreads it"


def _lamp_scores(score: Tensor) -> Tensor:
    alive = score != -inf  # NaN is alive, so that the ranking refuses it
    squares, order = torch.where(alive, score, 0.0).reshape(-1).double().square().sort(stable=True, descending=True)
    ranked = torch.where(squares == 0, 0.0, squares / squares.cumsum(0))  # over the sum of all ranked as high
    scattered = torch.empty_like(ranked).scatter_(0, order, ranked).view(score.shape)
    return torch.where(alive, scattered, -inf)
