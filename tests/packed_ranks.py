"""What several ranks find when gradients travel packed: each finding is a function, its result comes back as JSON."""

import copy
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import CASES, STEPS, Bench, Case, batch, final, plain
from sharded_ranks import FINDINGS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prunus.distributed import assert_ranks_agree, pack_gradients_
from prunus.masks import masks_hash
from prunus.methods import gmp, magnitude_pruning, rigl
from prunus.sparsifier import Sparsifier, sparsify

Found = dict[str, Any]


def shard(tensor: Tensor) -> Tensor:
    """This rank's rows."""
    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def by_case(case: Case, steps: int) -> Found:
    """A case trained on shards with packed gradients, beside the whole in this process alone."""
    alone, shared = Bench(case, steps=steps), Bench(case, steps=steps)
    shared.forward = DistributedDataParallel(shared.model)
    packing = pack_gradients_(shared.forward, shared.sparsifier)
    for number in range(steps):
        alone.step(number)
        inputs, targets = map(shard, batch(number))
        shared.optimizer.zero_grad()
        nn.functional.mse_loss(shared.forward(inputs), targets).backward()
        shared.optimizer.step()
        assert_ranks_agree(shared.sparsifier.masks)
    whole, parts = (final(bench.sparsifier, bench.model) for bench in (alone, shared))
    return {
        "difference": max(float((whole[name] - parts[name]).abs().max()) for name in whole),
        "same_masks": masks_hash(alone.sparsifier.masks) == masks_hash(shared.sparsifier.masks),
        "hash": masks_hash(shared.sparsifier.masks),
        "sent": packing.sent,
        "dense": packing.dense,
        "kept": sum(int(mask.sum()) for mask in shared.sparsifier.masks.values()),
    }


class Convolutions(nn.Module):
    """Two convolutions, the first with an odd one in channels-last strides, and a linear layer."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6 * 16, 5)
        self.to(memory_format=torch.channels_last if last else torch.contiguous_format)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs).relu()).relu().flatten(1))


def gradients(
    model: nn.Module,
    *,
    inputs: Callable[[], Tensor],
    passes: int = 3,
    synchronised: bool = True,
    compress: Any = None,
    sparsity: float = 0.8,
    share: Callable[[], float] | None = None,
    **ddp: Any,
) -> Found:
    """How far packed gradients are from masked sums of the ranks' own, over several backward passes, and the bytes."""
    sparsifier = pruned(model, sparsity)
    twin = copy.deepcopy(model)
    parallel = DistributedDataParallel(model, **ddp)
    packing = pack_gradients_(parallel, sparsifier, compress=compress)
    packing.share = share() if share else None
    part = packing.share or 1 / dist.get_world_size()
    worst = 0.0
    for _ in range(passes):
        for one in (parallel, twin):
            one.zero_grad(set_to_none=False)
            batches = [inputs() for _ in range(1 if synchronised else 3)]
            torch.manual_seed(dist.get_rank())
            for number, images in enumerate(batches):
                quiet = one is parallel and number < len(batches) - 1
                with parallel.no_sync() if quiet else nullcontext():
                    one(images).square().mean().backward()
        for (name, found), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert found.grad is not None
            assert expected.grad is not None
            summed = expected.grad * part
            dist.all_reduce(summed)
            summed *= sparsifier.masks.get(name, 1)
            worst = max(worst, float((found.grad - summed).abs().max() / summed.abs().max()))
    return {"worst": worst, "sent": packing.sent, "dense": packing.dense, "buckets": len(packing._indices)}


def pruned(model: nn.Module, sparsity: float) -> Sparsifier:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return sparsify(model, optimizer, magnitude_pruning(sparsity), steps=10)


def images(size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(dist.get_rank() + 1)
    return torch.randn(size, 3, 8, 8, generator=generator)


def _summed(tensor: Tensor) -> Tensor:
    """The sum over the ranks, whose gradient is the sum of the ranks' gradients."""
    return _Sum.apply(tensor)  # type: ignore[no-any-return,no-untyped-call]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


class OverRanks(nn.BatchNorm1d):
    """BatchNorm by the statistics of all ranks' examples; torch's SyncBatchNorm does the same, on a GPU alone."""

    def forward(self, inputs: Tensor) -> Tensor:
        size = len(inputs) * dist.get_world_size()
        mean = _summed(inputs.sum(0)) / size
        variance = _summed((inputs - mean).square().sum(0)) / size
        return (inputs - mean) / (variance + self.eps).sqrt() * self.weight + self.bias


def batch_norm() -> Found:
    """Fifty steps with BatchNorm over all ranks, gradients packed, beside one process: the largest difference."""
    ends = []
    for shared in (True, False):
        torch.manual_seed(0)
        norm = OverRanks(16) if shared else nn.BatchNorm1d(16)
        model = nn.Sequential(
            nn.Linear(6, 16), norm, nn.Tanh(), nn.Linear(16, 3)
        ).double()  # smooth where a neuron is dead
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = sparsify(model, optimizer, rigl(0.8, update_every=4), steps=50)
        forward = DistributedDataParallel(model) if shared else model
        if shared:
            pack_gradients_(forward, sparsifier)
        for number in range(50):
            inputs, targets = (shard(tensor) if shared else tensor for tensor in batch(number))
            optimizer.zero_grad()
            nn.functional.mse_loss(forward(inputs), targets).backward()
            optimizer.step()
        ends.append(plain(model))
    return {"difference": max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0])}


def vector() -> Found:
    """The golden shards of 3 and 2 examples, weighed by their size and not."""
    golden = json.loads((Path(__file__).parent / "golden" / "shard_equivalence.json").read_text())
    rows = golden["shards"][dist.get_rank()]
    inputs, targets = torch.tensor(golden["X"]).double()[rows], torch.tensor(golden["Y"])[rows]
    found: Found = {}
    for name, share in (("weighted", len(rows) / len(golden["Y"])), ("mean", None)):
        model = nn.Linear(2, 2, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(torch.tensor(golden["W"]))
        parallel = DistributedDataParallel(model)
        pack_gradients_(parallel, pruned(model, 0.0)).share = share
        nn.functional.cross_entropy(parallel(inputs), targets).backward()
        assert model.weight.grad is not None
        found[name] = model.weight.grad.tolist()
    return found


def loaded_masks() -> Found:
    """Masks that a loaded state changes are noticed; a gradient where the state keeps weights arrives."""
    model = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, optimizer, gmp(0.5, update_every=100), steps=1000)
    parallel = DistributedDataParallel(model)
    pack_gradients_(parallel, sparsifier)
    inputs = torch.ones(2, 6)
    parallel(inputs).sum().backward()
    state = sparsifier.state_dict()
    before = int(model.weight.grad.count_nonzero())  # type: ignore[union-attr]
    for mask in state["method"]["masks"].values():
        mask.zero_()
    sparsifier.load_state_dict(state)
    model.zero_grad()
    parallel(inputs).sum().backward()
    return {"before": before, "after": int(model.weight.grad.count_nonzero())}  # type: ignore[union-attr]


def differing_masks() -> Found:
    """What is said when rank 1 has other masks."""
    model = nn.Linear(6, 4)
    sparsifier = pruned(model, 0.5)
    sparsifier.masks["weight"].fill_(False).view(-1)[dist.get_rank()] = True
    parallel = DistributedDataParallel(model)
    pack_gradients_(parallel, sparsifier)
    try:
        parallel(torch.ones(2, 6)).sum().backward()
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": "nothing"}


def measured() -> Found:
    """Trials by which packing is chosen or not: one choice on all ranks, and masks as with gradients sent whole."""
    masks = []
    for measure in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = sparsify(model, optimizer, rigl(0.8, update_every=4), steps=40)
        parallel = DistributedDataParallel(model)
        packing = pack_gradients_(parallel, sparsifier, measure=measure)
        for number in range(40):
            inputs, targets = (shard(tensor).float() for tensor in batch(number))
            optimizer.zero_grad()
            nn.functional.mse_loss(parallel(inputs), targets).backward()
            optimizer.step()
        masks.append(assert_ranks_agree(sparsifier.finalize()))
        if measure:
            state = packing.state_dict()
            packing.load_state_dict(json.loads(json.dumps(state)))
            assert packing.state_dict() == state
    assert state["choice"] is not None
    return {"trials": state["choice"]["trials"], "sent": state["sent"], "dense": state["dense"], "masks": masks}


def traps() -> dict[str, Callable[[], Found]]:
    wide = lambda: nn.Sequential(nn.Linear(192, 1500), nn.ReLU(), nn.Linear(1500, 200), nn.ReLU(), nn.Linear(200, 5))  # noqa: E731
    flat: Callable[[], Tensor] = lambda: images().flatten(1)  # noqa: E731
    conv: dict[str, Any] = {"inputs": images}
    return {
        "rebuilt": lambda: gradients(wide(), inputs=flat, bucket_cap_mb=0.5),
        "channels last": lambda: gradients(Convolutions(last=True), **conv),
        "channels last in views": lambda: gradients(Convolutions(last=True), gradient_as_bucket_view=True, **conv),
        "views": lambda: gradients(Convolutions(last=False), gradient_as_bucket_view=True, **conv),
        "static graph": lambda: gradients(Convolutions(last=False), static_graph=True, **conv),
        "no sync": lambda: gradients(Convolutions(last=False), synchronised=False, **conv),
        "unequal": lambda: gradients(Convolutions(last=False), share=lambda: (0.6, 0.4)[dist.get_rank()], **conv),
        "fp16": lambda: gradients(Convolutions(last=True), compress="fp16", **conv),
        "bf16": lambda: gradients(Convolutions(last=True), compress="bf16", **conv),
        "nothing dropped": lambda: gradients(Convolutions(last=True), sparsity=0.0, **conv),
        "batch norm": batch_norm,
        "vector": vector,
        "loaded": loaded_masks,
        "measured": measured,
        "differing": differing_masks,
    }


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    steps = int(os.environ.get("STEPS", STEPS))
    findings: dict[str, Callable[[], Found]] = {str(case): partial(by_case, case, steps) for case in CASES}
    findings |= traps() | FINDINGS
    found = {}
    for name in names or findings:
        torch.manual_seed(0)
        found[name] = findings[name]()
    of_all: list[dict[str, Found]] = [{}] * dist.get_world_size()
    dist.all_gather_object(of_all, found)
    if dist.get_rank() == 0:
        print(json.dumps(of_all))
    dist.destroy_process_group()


def fork(size: int, names: list[str]) -> None:
    """Ranks without torchrun, which share this process's imports."""
    import_module("torch._dynamo")  # DDP loads it, seconds in each rank
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(size), "RANK": "0"}
    for rank in range(1, size):
        if os.fork() == 0:
            os.environ["RANK"] = str(rank)
            main(names)
            os._exit(0)
    main(names)
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(1, size)]
    sys.exit(max(codes))


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    fork(int(sys.argv[1]), sys.argv[2:])
