"""The images of a folder that is followed, as long as somebody needs them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunus.anytime.inbox import INPUTS, TARGETS, Inbox
from prunus.data import Images
from prunus.tensor_file import read_tensors


@dataclass
class Kept:
    """The images of megabatches that were taken, by their number of arrival, as long as their files are there."""

    inbox: Inbox
    begins: list[int] = field(default_factory=lambda: [0])
    _read: dict[int, Images] = field(default_factory=dict)

    def add(self, size: int) -> None:
        """One more megabatch has been taken."""
        self.begins.append(self.begins[-1] + size)

    def megabatch(self, number: int) -> Images:
        """The images of one."""
        if number not in self._read:
            tensors, _ = read_tensors(self.inbox.file(number))
            self._read[number] = Images(tensors[INPUTS], tensors[TARGETS])
        return self._read[number]

    def select(self, indices: Tensor) -> Images:
        """A copy of the images that arrived as numbers ``indices``, in that order."""
        places = self._places(indices)
        used = {place: self.megabatch(place) for place in torch.unique(places).tolist()}
        offsets, total = {}, 0
        for place, images in used.items():
            offsets[place] = total - self.begins[place]
            total += len(images)
        moved = indices + torch.tensor([offsets.get(place, 0) for place in range(len(self.begins) - 1)])[places]
        joined = Images(*(torch.cat([getattr(one, part) for one in used.values()]) for part in ("images", "labels")))
        return joined.select(moved)

    def forget_(self, needed: Tensor, before: int) -> None:
        """Delete the files of megabatches before this number that hold none of the images ``needed``."""
        still = set(torch.unique(self._places(needed)).tolist())
        for number in range(before):
            if number not in still:
                self._read.pop(number, None)
                self.inbox.file(number).unlink(missing_ok=True)

    def _places(self, indices: Tensor) -> Tensor:
        return torch.bucketize(indices, torch.tensor(self.begins[1:]), right=True)
