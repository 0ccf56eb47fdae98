"""What several ranks find when scores and weights are spread over them."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from prunus.allocation import CollapseWarning, global_
from prunus.carriers import Masked
from prunus.distributed.sharded import Sharded, whole_masks
from prunus.distributed.threshold import GlobalOverRanks
from prunus.masks import Masks, Tensors, masks_hash
from prunus.methods import gmp, magnitude_pruning, rigl, snip
from prunus.ranking import NotANumberError
from prunus.sparsifier import sparsify

Found = dict[str, Any]
STEPS = 12


def rows(tensor: Tensor) -> Tensor:
    """This rank's rows as `fully_shard` deals them out: some ranks may get none."""
    parts = tensor.chunk(dist.get_world_size())
    return parts[dist.get_rank()] if dist.get_rank() < len(parts) else tensor[:0]


def contests() -> dict[str, Tensors]:
    """Scores by their trouble."""
    draw = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"conv": (9, 4, 3, 3), "wide": (13, 500), "short": (3, 7), "vector": (5,)}

    def plain(kind: torch.dtype = torch.float32) -> Tensors:
        return {name: torch.randn(shape, generator=draw).to(kind) for name, shape in shapes.items()}

    tied = {name: (3 * score).round() / 3 for name, score in plain().items()}
    dead = {name: score.masked_fill(score < 0.5, -torch.inf) for name, score in plain().items()}
    small = plain() | {"short": torch.full((3, 7), -10.0), "vector": torch.full((5,), -10.0)}
    return {
        "plain": plain(),
        "double": plain(torch.float64),
        "bfloat16": plain(torch.bfloat16),
        "mixed": plain() | {"wide": plain(torch.float64)["wide"]},
        "tied": tied,
        "dead": dead,
        "all alike": {name: torch.zeros(shape) for name, shape in shapes.items()},
        "collapsing": small,
        "zeros of both signs": {name: torch.where(score > 0, 0.0, -0.0) for name, score in plain().items()},
    }


def thresholds() -> Found:
    """Whether the masks of shards are the rows of the masks of all scores, and the rounds that one ranking takes."""
    found: Found = {}
    for name, scores in contests().items():
        for sparsity in (0.0, 0.5, 0.9, 0.999):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", CollapseWarning)
                whole = global_(dict(scores), sparsity)
                expected = len(said)
                ours = GlobalOverRanks()({key: rows(score) for key, score in scores.items()}, sparsity)
            same = all(torch.equal(ours[key], rows(whole[key])) for key in scores)
            found[f"{name} {sparsity}"] = same and len(said) == 2 * expected
    return found


def rounds() -> Found:
    """How many sums over the ranks a k-th largest takes."""
    counted = 0

    class Counting(GlobalOverRanks):
        def _total(self, counts: Tensor) -> Tensor:
            nonlocal counted
            counted += 1
            return super()._total(counts)

    Counting().kth_largest(torch.arange(100, dtype=torch.int32), 30)
    return {"rounds": counted}


def refused() -> Found:
    """What is said of scores that are NaN on one rank, of too few weights, and of methods that cannot be sharded."""
    found: Found = {}
    scores = {"a": torch.ones(3, 2), "b": torch.ones(2, 2)}
    if dist.get_rank() == 0:
        scores["b"][0, 0] = torch.nan
    cases: dict[str, Callable[[], object]] = {
        "nan": lambda: GlobalOverRanks()(scores, 0.5),
        "few": lambda: GlobalOverRanks()({name: torch.ones(1) for name in "abcdef"}, 0.99),
        "rule": lambda: trained(Sharded(rigl(0.5)), True),
        "whole": lambda: trained(Sharded(gmp(0.5)), False),
    }
    for name, case in cases.items():
        try:
            case()
        except (NotANumberError, ValueError) as error:
            found[name] = str(error)
    return found


def trained(method: Sharded | Masked, sharded: bool, optimizer_of: Any = torch.optim.SGD) -> tuple[Tensors, Masks]:
    """Final weights and masks, whole, of a network trained on this rank's rows of each batch, or on all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 6), nn.ReLU(), nn.Linear(6, 3))
    if sharded:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    options = {"momentum": 0.9} if optimizer_of is torch.optim.SGD else {}
    optimizer = optimizer_of(model.parameters(), lr=0.05, weight_decay=1e-3, **options)
    sparsifier = sparsify(model, optimizer, method, STEPS)
    share = rows if sharded else (lambda tensor: tensor)
    for number in range(STEPS):
        draw = torch.Generator().manual_seed(number)
        inputs, targets = torch.randn(16, 20, generator=draw), torch.randn(16, 3, generator=draw)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(share(inputs)), share(targets)).backward()
        optimizer.step()
    masks = sparsifier.finalize()
    weights = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.named_parameters()}
    return {name: weight.detach() for name, weight in weights.items()}, whole_masks(sparsifier) if sharded else masks


def fully_sharded(*, every: bool) -> Found:
    """GMP, or every method, under FSDP2 beside one process: masks by hash, the largest difference, zeros."""
    found: Found = {}
    makers: dict[str, Callable[[], Masked]] = {
        "gmp": lambda: gmp(0.8, update_every=3),  # type: ignore[return-value,dict-item]
        "magnitude": lambda: magnitude_pruning(0.9),
        "snip": lambda: snip(0.8),
    }
    warnings.simplefilter("ignore", CollapseWarning)
    for name, make in makers.items():
        for kind in (torch.optim.SGD, torch.optim.Adam):
            if not every and found:
                continue
            ours, masks = trained(Sharded(make()), True, kind)
            alone, expected = trained(make(), False, kind)
            found[f"{name} {kind.__name__}"] = {
                "same": masks_hash(masks) == masks_hash(expected),
                "difference": max(float((ours[key] - alone[key]).abs().max()) for key in alone),
                "off": sum(int(ours[key][~mask].count_nonzero()) for key, mask in masks.items()),
                "kept": sum(int(mask.sum()) for mask in masks.values()),
            }
    return found


FINDINGS: dict[str, Callable[[], Found]] = {
    "thresholds": thresholds,
    "rounds": rounds,
    "refused": refused,
    "fully sharded": partial(fully_sharded, every=False),
    "every method fully sharded": partial(fully_sharded, every=True),
}
