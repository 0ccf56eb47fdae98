"""What two ranks do in the tests: train on a share of the data each, under DDP, and compare their masks."""

import json
import os
import socket
import sys
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from prunus.carriers import Carrier
from prunus.distributed import assert_ranks_agree
from prunus.methods import dpf, gmp, rigl, set_, snip, str_
from prunus.sparsifier import sparsify

STEPS, SPARSITY = 12, 0.8


def share(number: int) -> tuple[Tensor, Tensor]:
    """This rank's half of a batch."""
    generator = torch.Generator().manual_seed(1000 * number + dist.get_rank())
    return torch.randn(16, 20, generator=generator), torch.randint(5, (16,), generator=generator)


def methods() -> dict[str, Carrier]:
    """A method of every kind; SNIP once on data before training and once by the first gradient."""
    loss = nn.functional.cross_entropy
    return {
        "snip": snip(SPARSITY),
        "snip-batches": snip(SPARSITY, batches=[share(-1), share(-2)], loss=loss),
        "gmp": gmp(SPARSITY, update_every=3),
        "rigl": rigl(SPARSITY, update_every=3),
        "set": set_(SPARSITY, update_every=3),
        "dpf": dpf(SPARSITY, update_every=3),
        "str": str_(SPARSITY, initial=-4.0),
    }


def model_and_optimizer() -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def trained(method: Carrier) -> str:
    """The hash that the masks of all ranks have after training, checked after each step."""
    model, optimizer = model_and_optimizer()
    sparsifier = sparsify(model, optimizer, method, STEPS)
    parallel = DistributedDataParallel(model)
    for number in range(STEPS):
        inputs, targets = share(number)
        optimizer.zero_grad()
        nn.functional.cross_entropy(parallel(inputs), targets).backward()
        optimizer.step()
        agreed = assert_ranks_agree(sparsifier.masks)
    sparsifier.finalize()
    return agreed


def disagreement() -> str:
    """What the check says when rank 1 has another mask."""
    try:
        assert_ranks_agree({"weight": torch.arange(4) > dist.get_rank()})
    except RuntimeError as error:
        return str(error)
    return "nothing"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {name: trained(method) for name, method in methods().items() if name in names}
    of_all: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(of_all, found | {"error": disagreement()})
    if dist.get_rank() == 0:
        print(json.dumps(of_all))
    dist.destroy_process_group()


def fork(names: list[str]) -> None:
    """Two ranks without torchrun, which share this process's imports."""
    import_module("torch._dynamo")  # DDP loads it, seconds in each rank
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": "1"}
    if os.fork():
        os.environ["RANK"] = "0"
        main(names)
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    main(names)


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    (main if "RANK" in os.environ else fork)(sys.argv[1:])
