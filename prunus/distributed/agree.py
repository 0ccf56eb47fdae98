"""Masks on several ranks: proof that they are the same."""

import torch.distributed as dist

from prunus.masks import Masks, masks_hash


def assert_ranks_agree(masks: Masks, group: dist.ProcessGroup | None = None) -> str:
    """The hash of the masks, which every rank of the process group must have; all ranks call it together.

    Raises RuntimeError, on every rank, naming the ranks that differ from rank 0.

    >>> # in a process group, after training: assert_ranks_agree(sparsifier.masks)
    """
    hashes = [""] * dist.get_world_size(group)
    dist.all_gather_object(hashes, masks_hash(masks), group)
    if differing := [rank for rank, found in enumerate(hashes) if found != hashes[0]]:
        raise RuntimeError(
            f"the masks of rank {', '.join(map(str, differing))} differ from those of rank 0; give every rank the same "
            "initial weights, method and seed, and wrap the model in DDP"
        )
    return hashes[0]
