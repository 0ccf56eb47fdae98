"""The ranks that torchrun starts, which train one run together: rank 0 leads, the others do what it says.

Everywhere else there is one rank, and everything here leaves things as they are.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
GRACE = 10.0  # seconds


def start_() -> None:
    """Join the other ranks; where torchrun started one process alone there is nothing to join."""
    if os.environ["WORLD_SIZE"] == "1":
        return
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available() and local < torch.cuda.device_count()
    if on_gpu:
        torch.cuda.set_device(local)
    store, own, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    store = dist.PrefixStore(_attempt(), store)  # type: ignore[attr-defined]
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=own, world_size=size)


def _attempt() -> str:
    """Which start of the ranks this is; one name for all where agents of several machines count for themselves.

    torchrun keeps one store over its restarts (torch 2.13), in which gloo would find the addresses of the dead.
    """
    alone = os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"


def end_() -> None:
    """Let the other ranks go; rank 0 calls it where none of them is in the middle of something."""
    broadcast(None)


def lost(error: RuntimeError) -> bool:
    """Whether the error is that another rank can no longer be heard."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def world_size() -> int:
    """How many ranks there are; 1 where none were joined."""
    started = dist.is_available() and dist.is_torchelastic_launched() and dist.is_initialized()
    return dist.get_world_size() if started else 1


def per_node() -> int:
    """How many of them torchrun started on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if world_size() > 1 else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def leads() -> bool:
    """Whether this is rank 0, which alone reads, writes and speaks."""
    return rank() == 0


def together(call: Callable[[], T], here: Callable[[], T] | None = None) -> T:
    """The result of ``call``, which travels to the other ranks and is made by all; rank 0, which says so, makes it.

    ``here`` takes its place on rank 0: the same with what cannot travel.
    """
    broadcast(call)
    return (here or call)()


def follow(known: tuple[type[Exception], ...]) -> None:
    """Make the calls that rank 0 makes `together` with the others, until it lets them go.

    An error among ``known`` is one that a call ends with on all ranks at once: rank 0 says it, and what it does next is
    done next.
    """
    try:
        while call := _told():
            with suppress(*known):
                call()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # rank 0 has heard it too and says so
    except Exception:
        time.sleep(GRACE)  # mostly rank 0 has met it too and says it, and torchrun ends this process meanwhile
        raise


def _told() -> Callable[[], object] | None:
    call: Callable[[], object] | None = None
    return broadcast(call)


def broadcast(value: T) -> T:
    """The ``value`` of rank 0, whatever the others pass."""
    if world_size() == 1:
        return value
    carried = [value]
    dist.broadcast_object_list(carried)
    return carried[0]


def total(tensor: Tensor) -> Tensor:
    """The sum over the ranks."""
    if world_size() == 1:
        return tensor
    summed = tensor.clone()
    dist.all_reduce(summed)
    return summed


def mean(tensor: Tensor) -> Tensor:
    """The mean over the ranks."""
    return tensor if world_size() == 1 else total(tensor) / world_size()


def keep_buffers_(model: nn.Module) -> None:
    """Let the model inside DDP go forward without waiting for buffers; `share_buffers_` before it is evaluated."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            module.broadcast_buffers = False  # shares of images may need different numbers of batches


def share_buffers_(model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, such as the running statistics of its share of the batches."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
