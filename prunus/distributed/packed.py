"""Gradients that travel between ranks without what the masks drop: values alone, because every rank knows the masks."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from prunus.distributed.agree import assert_ranks_agree
from prunus.distributed.choice import Choice
from prunus.masks import Masks
from prunus.sparsifier import Sparsifier

Compress = Literal["fp16", "bf16"]
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def pack_gradients_(
    model: nn.Module, sparsifier: Sparsifier, *, compress: Compress | None = None, measure: bool = False
) -> "Packing":
    """Let the DDP module in ``model`` send only the gradients that the masks of ``sparsifier`` keep.

    What is dropped is filled with zeros, parameters without a mask travel whole. A step that needs the gradients of
    dropped weights (`Sparsifier.reads_dropped`) sends them all, and so does every step after ``finalize``. ``compress``
    sends 16 bits a value; the sum is then in 16 bits too. With ``measure`` packing is used where it proves faster:
    see `Choice`. Gradients of dropped weights may then be there until the optimizer steps, as without packing.

    Call it before the first backward. Raises ValueError for a model without DDP. When the masks have changed, all
    ranks prove to have the same before anything is packed: RuntimeError where they have not.
    """
    wrapped = next((module for module in model.modules() if isinstance(module, DistributedDataParallel)), None)
    if wrapped is None:
        raise ValueError("gradients travel packed in DistributedDataParallel, found none; wrap the model first")
    packing = Packing(sparsifier, wrapped.process_group, TYPES.get(compress or ""), Choice() if measure else None)
    wrapped.register_comm_hook(packing, _reduce)
    sparsifier.site.optimizer.register_step_pre_hook(packing._step_)
    return packing


def _reduce(state: "Packing", bucket: GradBucket) -> Future[Tensor]:
    return state.reduce_(bucket)


@dataclass(eq=False)
class Packing:
    """How the gradients of a model travel, and how many bytes a rank has sent: ``sent``, of ``dense`` without packing.

    ``share`` is this rank's part of the batch, B_r / B, where ranks have shares of different size: set it before
    backward. By default all count the same. ``choice`` decides whether packing is used; None for always.
    """

    sparsifier: Sparsifier
    group: dist.ProcessGroup
    dtype: torch.dtype | None = None
    choice: Choice | None = None
    share: float | None = None
    sent: int = 0
    dense: int = 0
    _masks: Masks = field(default_factory=dict)
    _versions: list[int] = field(default_factory=list)
    _indices: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict)
    _kept: float = 1.0
    _packs: bool = True
    _began: float | None = None
    _within: bool = False  # a step, of which a gradient has been sent

    def reduce_(self, bucket: GradBucket) -> Future[Tensor]:
        """The sum over ranks of a bucket's gradients, each weighed by its rank's share."""
        buffer = bucket.buffer()
        if not self._within:
            self._begin_(buffer.device)
        index = self._index(bucket) if self._packs else None
        share = 1 / self.group.size() if self.share is None else self.share
        values = (buffer if index is None else buffer.index_select(0, index)).mul_(share)
        wire = values if self.dtype is None else values.to(self.dtype)
        self.dense += buffer.nbytes
        self.sent += wire.nbytes

        def unpacked(done: Future[list[Tensor]]) -> Tensor:
            summed: Tensor = done.value()[0]
            if index is None:
                return buffer.copy_(summed)
            return buffer.zero_().scatter_(0, index, summed.to(buffer.dtype))

        work = dist.all_reduce(wire, group=self.group, async_op=True)
        summed_up: Future[Tensor] = work.get_future().then(unpacked)
        return summed_up

    def state_dict(self) -> dict[str, Any]:
        """The counts and what was chosen."""
        return {"sent": self.sent, "dense": self.dense, "choice": self.choice.state_dict() if self.choice else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.sent, self.dense, self._within = state["sent"], state["dense"], False
        if self.choice is not None and state["choice"] is not None:
            self.choice.load_state_dict(state["choice"])

    def _begin_(self, device: torch.device) -> None:
        """Decide how the gradients of this step travel."""
        self._within, self._began = True, None
        self._packs = not self.sparsifier.reads_dropped()
        if not self._packs:
            return
        self._notice_masks_()
        if self.choice is not None:
            self._packs = self.choice.packs(self._kept)
            if self.choice.trying:
                self._began = _now(device)

    def _step_(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """The optimizer steps: the gradients of this step have all arrived."""
        self._within = False
        if self.choice is None or self._began is None:
            return
        device = next(iter(self._masks.values())).device
        self.choice.add_(self._packs, _now(device) - self._began)
        if medians := self.choice.medians():
            seconds = torch.tensor(medians, device=device)
            dist.all_reduce(seconds, group=self.group)
            dense, packed = (seconds / self.group.size()).tolist()
            self.choice.decide_(self.sparsifier.clock, dense, packed)

    def _notice_masks_(self) -> None:
        """Where masks have changed since the last time, forget what was made of them."""
        masks = self.sparsifier.masks
        versions = [mask._version for mask in masks.values()]  # counts every change in place, a loaded state too
        same = len(masks) == len(self._masks) and all(masks[name] is mask for name, mask in self._masks.items())
        if same and versions == self._versions:
            return
        assert_ranks_agree(masks, self.group)  # ranks that differ would send unlike numbers of values
        self._masks, self._versions = dict(masks), versions
        self._kept = 1.0 - self.sparsifier.sparsity()
        self._indices.clear()

    def _index(self, bucket: GradBucket) -> Tensor | None:
        """Where in the bucket the kept entries are; None for everywhere."""
        parameters = bucket.parameters()
        key = tuple(map(id, parameters))  # not the bucket's number: DDP makes other buckets after the first backward
        if key not in self._indices:
            of_parameter = {id(self.sparsifier.site.weights[name]): mask for name, mask in self._masks.items()}
            self._indices[key] = _kept_places(bucket, [of_parameter.get(id(one)) for one in parameters])
        return self._indices[key]


def _kept_places(bucket: GradBucket, masks: list[Tensor | None]) -> Tensor | None:
    buffer = bucket.buffer()
    kept = torch.ones(buffer.numel(), dtype=torch.bool, device=buffer.device)
    for parameter, gradient, mask in zip(bucket.parameters(), bucket.gradients(), masks, strict=True):
        if mask is not None:
            start = gradient.storage_offset() - buffer.storage_offset()
            kept.as_strided(parameter.shape, _strides(parameter), start).copy_(mask)
    return None if bool(kept.all()) else kept.nonzero().squeeze(1)


def _strides(parameter: Tensor) -> tuple[int, ...]:
    """Those of a parameter's gradient in its bucket: the parameter's own, if its entries lie without gaps.

    The views that the bucket gives out are contiguous in any case, and scrambled for a channels-last weight.
    """
    span = 1 + sum((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    return parameter.stride() if span == parameter.numel() else torch.empty(parameter.shape, device="meta").stride()


def _now(device: torch.device) -> float:
    """The time when the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
