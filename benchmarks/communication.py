"""Bytes and time that the gradients of two ranks take, sent whole and packed: on loopback and over links of given rate.

    python benchmarks/communication.py [--links loopback 1gbit 100mbit] [--networks resnet18 mlp]
        [--sparsities 0 0.9 0.95 0.98] [--rounds 5] [--whole-steps]

Two processes over gloo, a thread each. A shaped link joins two network namespaces by a pair of virtual interfaces that
tc holds to the rate in both directions; it needs root and iproute2 and is skipped, with the reason, where there are
none. Columns: bytes of gradients that a rank hands over in a step, whole and packed, and packed beside whole; bytes on
the wire of a shaped link, everything counted, likewise; what communication adds to a backward pass that nothing hides
it behind (of a sum over all parameters), packing and unpacking included. ``--whole-steps`` times true
steps too: packed beside plain DDP, and with the choice by measurement, as runs of several ranks make it. Ways take
turns; times are medians on rank 0, ratios medians of paired ratios with quartiles.
"""

import argparse
import copy
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from peers import header
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prunus import sparsify
from prunus.distributed import Packing, pack_gradients_
from prunus.methods import magnitude_pruning
from prunus.models import MODELS

ADDRESSES = ("10.77.0.1", "10.77.0.2")
SHAPES = {"resnet18": (2, 3, 32, 32), "mlp": (16, 1, 32, 32)}
WIDTHS = {"widths": (2100, 2100, 2100)}
WARM = 3  # steps before any is timed: DDP makes its buckets anew after the first
WAYS = ("whole", "packed", "chosen")


class Sum(nn.Module):
    """Nothing but parameters to send: the sum of all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self.network.parameters()]).sum()


class Way:
    """A network under DDP whose gradients travel whole, packed, or as measured."""

    def __init__(self, network: nn.Module, inputs: Tensor, sparsity: float, name: str) -> None:
        self.inputs, self.packing = inputs, None
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
        self.optimizer = optimizer
        sparsifier = sparsify(network, optimizer, magnitude_pruning(sparsity), steps=1_000_000)
        self.model = DistributedDataParallel(network)
        if name != "whole":
            self.packing: Packing | None = pack_gradients_(self.model, sparsifier, measure=name == "chosen")

    def backward(self) -> None:
        self.model(self.inputs).mean().backward()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def seconds(call: Callable[[], None]) -> float:
    """From a moment that both ranks have reached."""
    dist.barrier()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def communication(way: Way) -> float:
    """The seconds that a backward pass takes longer than one that sends nothing; the step is not timed."""
    with way.model.no_sync():
        alone = seconds(way.backward)
    way.optimizer.zero_grad(set_to_none=False)
    found = seconds(way.backward)
    way.optimizer.step()
    way.optimizer.zero_grad(set_to_none=False)
    return found - alone


def in_turns(ways: dict[str, Way], rounds: int, measure: Callable[[Way], float]) -> dict[str, list[float]]:
    """What each way takes, again and again; each is first every so often."""
    for way in ways.values():
        for _ in range(WARM if way.packing is None or way.packing.choice is None else WARM + 10):
            way.step()
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(measure(ways[name]))
    return found


def row(network: str, sparsity: float, rounds: int, whole_steps: bool) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    options = WIDTHS if network == "mlp" else {}
    plain = MODELS[network](SHAPES[network][1:], 10, **options)
    inputs = torch.randn(SHAPES[network])
    ways = {name: Way(Sum(copy.deepcopy(plain)), inputs, sparsity, name) for name in WAYS[:2]}
    whole, packed = (sum_of_sizes(way) for way in ways.values())
    times = in_turns(ways, rounds, communication)
    wire = {name: on_the_wire(way) for name, way in ways.items()}
    cells = [f"{network:<9}{sparsity:5.2f} {whole:>11,} {packed:>11,} {packed / whole:6.4f}"]
    cells.append(f"{wire['whole']:>11,} {wire['packed']:>11,}" if wire["whole"] else f"{'':>23}")
    medians = [1000 * statistics.median(times[name]) for name in ways]
    cells.append(f"{medians[0]:8.1f} {medians[1]:8.1f} {ratio(times['whole'], times['packed'])}")
    if whole_steps:
        ways = {name: Way(copy.deepcopy(plain), inputs, sparsity, name) for name in WAYS}
        times = in_turns(ways, rounds, lambda way: seconds(way.step))
        cells.append(f"{1000 * statistics.median(times['whole']):8.1f} {ratio(times['whole'], times['packed'])}")
        packing = ways["chosen"].packing
        assert packing is not None
        assert packing.choice is not None
        chosen = "packed" if packing.choice.packs(1 - sparsity) else "whole"
        cells.append(f"{chosen:>6} {ratio(times['whole'], times['chosen'])}")
    return " ".join(cells)


def sum_of_sizes(way: Way) -> int:
    """The bytes of gradients of one step."""
    way.step()
    if way.packing is None:
        return sum(parameter.nbytes for parameter in way.model.parameters())
    before = way.packing.sent
    way.step()
    return way.packing.sent - before


def on_the_wire(way: Way) -> int:
    """All bytes that this rank's interface sends in a step; 0 on loopback, which others use too."""
    name = os.environ["GLOO_SOCKET_IFNAME"]
    if name == "lo":
        return 0
    counter = Path("/sys/class/net") / name / "statistics" / "tx_bytes"
    before = int(counter.read_text())
    way.step()
    dist.barrier()
    return int(counter.read_text()) - before


def ratio(whole: list[float], other: list[float]) -> str:
    """The median of the paired ratios and its quartiles."""
    low, middle, high = statistics.quantiles([b / a for a, b in zip(whole, other, strict=True)], n=4)
    return f"{middle:6.3f} ({low:.2f} to {high:.2f})"


def work(options: argparse.Namespace) -> None:
    """One of the two ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for network in options.networks:
        for sparsity in options.sparsities:
            line = row(network, sparsity, options.rounds, options.whole_steps)
            if dist.get_rank() == 0:
                print(line, flush=True)
    dist.destroy_process_group()


@contextmanager
def link(name: str) -> Iterator[list[tuple[list[str], str]]]:
    """What starts a command on either side of a link, and the interface there. Raises OSError where none can be."""
    if name == "loopback":
        yield 2 * [([], "lo")]
        return
    spaces = [f"prunus{os.getpid()}{side}" for side in "ab"]
    if shutil.which("ip") is None or shutil.which("tc") is None:
        raise OSError("needs ip and tc of iproute2")
    try:
        for space in spaces:
            shell("ip", "netns", "add", space)
        shell("ip", "link", "add", "left", "netns", spaces[0], "type", "veth", "peer", "right", "netns", spaces[1])
        for space, device, address in zip(spaces, ("left", "right"), ADDRESSES, strict=True):
            shell("ip", "-n", space, "addr", "add", f"{address}/24", "dev", device)
            shell("ip", "-n", space, "link", "set", device, "up")
            shell("ip", "-n", space, "link", "set", "lo", "up")
            shaped = ("rate", name, "burst", "256kb", "latency", "50ms")
            shell("tc", "-n", space, "qdisc", "add", "dev", device, "root", "tbf", *shaped)
        sides = zip(spaces, ("left", "right"), strict=True)
        yield [(["ip", "netns", "exec", space], device) for space, device in sides]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def shell(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def measure(name: str, port: int) -> None:
    """Both ranks over one link."""
    with link(name) as sides:
        ranks = []
        for rank, (start, device) in enumerate(sides):
            address = "127.0.0.1" if name == "loopback" else ADDRESSES[0]
            group = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
            environment = os.environ | group | {"GLOO_SOCKET_IFNAME": device, "OMP_NUM_THREADS": "1"}
            ranks.append(subprocess.Popen([*start, sys.executable, *sys.argv], env=environment))
        for process in ranks:
            process.wait()


def main() -> None:
    """Print a table for each link."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", nargs="+", default=["loopback", "1gbit", "100mbit"])
    parser.add_argument("--networks", nargs="+", default=list(SHAPES))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.0, 0.9, 0.95, 0.98])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--whole-steps", action="store_true")
    options = parser.parse_args()
    if "RANK" in os.environ:
        work(options)
        return
    print(header(rounds=options.rounds))
    for number, name in enumerate(options.links):
        print(f"\n{name}")
        print(
            "network  sparsity bytes whole      packed  ratio  wire whole      packed   ms whole   packed  ratio",
            end="",
        )
        print("    step ms   packed              chosen" if options.whole_steps else "", flush=True)
        try:
            measure(name, 29600 + number)
        except OSError as error:
            print(f"skipped: {error}")


if __name__ == "__main__":
    main()
