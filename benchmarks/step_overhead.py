"""What a masked training step costs beside a dense one: paired blocks in one process, on synthetic images.

    python benchmarks/step_overhead.py [--blocks 20] [--threads 1]

Prints the median ratio of step times (1.00 = dense) and its quartiles; absolute times are the machine's own.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.utils import prune

from prunus import sparsify
from prunus.methods import dpf, gmp, random_pruning, rigl
from prunus.models import MODELS

STEPS_OF_BLOCK = {"resnet20": 2, "mlp": 4}
Attach = Callable[[nn.Module, torch.optim.Optimizer], object]

METHODS: dict[str, Attach] = {
    "dense again": lambda model, optimizer: None,
    "random, fixed masks": lambda model, optimizer: sparsify(model, optimizer, random_pruning(0.9), 10_000),
    "gmp, update_every=100": lambda model, optimizer: sparsify(model, optimizer, gmp(0.9), 10_000),
    "rigl, update_every=100": lambda model, optimizer: sparsify(model, optimizer, rigl(0.9), 10_000),
    "dpf, update_every=16": lambda model, optimizer: sparsify(model, optimizer, dpf(0.9), 10_000),
    "torch.nn.utils.prune": lambda model, optimizer: torch_prune(model),
}


def torch_prune(model: nn.Module) -> None:
    """PyTorch's own pruning: a float mask multiplied in every forward."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            prune.l1_unstructured(module, "weight", amount=0.9)


def training(network: str, attach: Attach) -> Iterator[None]:
    """Endless steps of SGD with momentum on one synthetic batch of 128."""
    torch.manual_seed(0)
    if network == "resnet20":
        model, shape = MODELS["resnet20"]((3, 32, 32), 10), (3, 32, 32)
    else:
        model, shape = MODELS["mlp"]((1, 32, 32), 10, widths=(2048, 2048, 2048)), (1, 32, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    attached = attach(model, optimizer)
    inputs, labels = torch.randn(128, *shape), torch.randint(10, (128,))
    while True:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        yield
    del attached


def seconds(steps: Iterator[None], count: int) -> float:
    """The time of ``count`` steps."""
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    return time.perf_counter() - began


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.blocks} pairs of blocks")
    for network, count in STEPS_OF_BLOCK.items():
        print(f"\n{network:<28} step time / dense   quartiles")
        for name, attach in METHODS.items():
            dense, ours = training(network, METHODS["dense again"]), training(network, attach)
            seconds(dense, 2), seconds(ours, 2)
            pairs = [(seconds(dense, count), seconds(ours, count)) for _ in range(options.blocks)]
            low, middle, high = statistics.quantiles([sparse / plain for plain, sparse in pairs], n=4)
            print(f"{name:<28} {middle:8.3f}            {low:.3f} to {high:.3f}", flush=True)


if __name__ == "__main__":
    main()
