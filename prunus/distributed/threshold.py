"""Exactly the k highest of scores that are spread over ranks, found by counting, none of them sent."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import torch
import torch.distributed as dist
from torch import Tensor

from prunus.allocation import CollapseWarning, blockwise, collapse_message
from prunus.candidates import Candidates, blocks, key
from prunus.masks import Masks, keep_count
from prunus.ranking import Contest, NotANumberError, common_type

Keys = Mapping[str, Tensor]  # of this rank's scores, flat, as integers in the order of the scores


@blockwise
@dataclass(frozen=True)
class GlobalOverRanks:
    """The allocation `global_` where each rank holds consecutive rows of every tensor, in the order of the ranks.

    The masks are the rows of those that one process makes of all scores, bit for bit, ties and layers that would
    collapse included. All ranks call it together. Takes 4 bytes a score (8 in float64) while it ranks.
    """

    group: dist.ProcessGroup | None = None

    def __call__(self, scores: Contest, sparsity: float) -> Masks:
        contest = {name: Candidates(one) if isinstance(one, Tensor) else one for name, one in scores.items()}
        k = keep_count(int(self._total(_device_count(contest))), sparsity)
        if k < len(contest):
            raise ValueError(
                f"sparsity {sparsity} keeps {k} weights for {len(contest)} layers; at least one each must stay"
            )
        kind = common_type(contest)
        keys = {name: torch.cat(list(one.keys(kind))) for name, one in contest.items()}
        self._refuse_nan(keys, kind)
        threshold, ties = self._cut(keys, k)
        pinned: list[str] = []
        while empty := self._empty(keys, threshold, ties):
            self._pin_(keys, empty, key(inf, kind) + 1)
            pinned += empty
            threshold, ties = self._cut(keys, k)
        if pinned:
            warnings.warn(collapse_message(pinned, sparsity), CollapseWarning, stacklevel=2)
        return {name: _mask(one, keys[name], threshold, ties[name]) for name, one in contest.items()}

    def kth_largest(self, keys: Tensor, k: int) -> int:
        """The k-th largest integer of all ranks, by bisection: a count a round, as many rounds as it has bits."""
        low, high, beyond = torch.iinfo(keys.dtype).min, torch.iinfo(keys.dtype).max, 0
        while low < high:
            middle = (low + high + 1) // 2
            upper = keys >= middle
            count = beyond + int(self._total(upper.sum()))  # waits for the ranks
            if count >= k:
                low, keys = middle, keys[upper]
            else:
                high, beyond, keys = middle - 1, count, keys[~upper]
        return low

    def _cut(self, keys: Keys, k: int) -> tuple[int, dict[str, int]]:
        """The threshold, and how many of its scores equal to it each tensor keeps on this rank."""
        threshold = self.kth_largest(torch.cat(list(keys.values())), k)
        above = self._total(torch.stack([(one > threshold).sum() for one in keys.values()])).sum()
        equal = self._by_rank(torch.stack([(one == threshold).sum() for one in keys.values()]))
        before = equal.t().flatten().cumsum(0).view(equal.t().shape).t() - equal  # in the order of tensor, then rank
        room = k - int(above)
        ours = (room - before).clamp(min=0).minimum(equal)[dist.get_rank(self.group)]
        return threshold, dict(zip(keys, ours.tolist(), strict=True))

    def _empty(self, keys: Keys, threshold: int, ties: Mapping[str, int]) -> list[str]:
        """The tensors of which no rank keeps anything."""
        kept = self._total(torch.stack([(one > threshold).sum() + ties[name] for name, one in keys.items()]))
        return [name for name, count in zip(keys, kept.tolist(), strict=True) if not count]

    def _pin_(self, keys: Keys, names: list[str], pin: int) -> None:
        """Let the best score of each of these tensors, the first among equals, count as higher than every other."""
        for name in names:
            ours = keys[name]
            lowest = torch.iinfo(ours.dtype).min
            best = self._by_rank(ours.max() if ours.numel() else ours.new_full((), lowest))
            if int(best.argmax()) == dist.get_rank(self.group):
                ours[int(ours.argmax())] = pin

    def _refuse_nan(self, keys: Keys, kind: torch.dtype) -> None:
        outside = [((one > key(inf, kind)) | (one < key(-inf, kind))).sum() for one in keys.values()]
        for name, count in zip(keys, self._total(torch.stack(outside)).tolist(), strict=True):
            if count:
                raise NotANumberError(f"scores of {name!r} hold NaN, which has no rank; look for a diverged loss")

    def _total(self, counts: Tensor) -> Tensor:
        """The sum over the ranks."""
        dist.all_reduce(counts, group=self.group)
        return counts

    def _by_rank(self, ours: Tensor) -> Tensor:
        """What each rank passes, as rows."""
        rows = [torch.empty_like(ours) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(rows, ours.contiguous(), group=self.group)
        return torch.stack(rows)


def _device_count(contest: Mapping[str, Candidates]) -> Tensor:
    device = next(iter(contest.values())).weight.device
    return torch.tensor(sum(one.numel() for one in contest.values()), device=device)


def _mask(candidates: Candidates, keys: Tensor, threshold: int, ties: int) -> Tensor:
    equal = (keys == threshold).nonzero().squeeze(1)
    chosen = (keys > threshold).index_fill_(0, equal[:ties], 1)
    return candidates.write(iter(torch.split(chosen, [block.numel() for block in blocks(candidates.weight)])))
