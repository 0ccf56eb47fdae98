"""How large a sparse network is on disk, and how long saving and loading take, on random weights pruned by magnitude.

    python benchmarks/file_size.py [--threads 1] [--repeats 5]

Prints the table of docs/export.md: bytes over those of the dense tensors, and median seconds. Sizes are the same on
every machine, seconds are not.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.masks import prunable
from prunus.models import MODELS
from prunus.packing import load_packed, save_dense, save_packed

NETWORKS = {
    "ResNet-20": lambda: MODELS["resnet20"]((3, 32, 32), 10),
    "MLP, 11 M weights": lambda: MODELS["mlp"]((1, 32, 32), 10, widths=(2048, 2048, 2048)),
    "MLP, 100 M weights": lambda: MODELS["mlp"]((1, 32, 32), 10, widths=(7680, 6144, 6144, 1600)),
}
KINDS = {
    "dense": (save_dense, {}),
    "packed": (save_packed, {}),
    "packed, zstd": (save_packed, {"compress": True}),
    "packed, bf16": (save_packed, {"bf16": True}),
    "packed, bf16, zstd": (save_packed, {"bf16": True, "compress": True}),
}


@torch.no_grad()
def prune_(model: nn.Module, sparsity: float) -> None:
    """Zero the smallest weights of each layer."""
    for weight in prunable(model).values():
        weight.masked_fill_(weight.abs() <= weight.abs().flatten().kthvalue(round(sparsity * weight.numel())).values, 0)


def seconds(call: object, *arguments: object, repeats: int, **options: object) -> float:
    """The median time of a call."""
    return statistics.median(times(call, arguments, options, repeats))


def times(call: object, arguments: tuple[object, ...], options: dict[str, object], repeats: int) -> Iterator[float]:
    for _ in range(repeats):
        began = time.perf_counter()
        call(*arguments, **options)
        yield time.perf_counter() - began


def rows(network: str, state: dict[str, Tensor], sparsity: float, repeats: int) -> Iterator[str]:
    dense = sum(tensor.nbytes for tensor in state.values())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        for kind, (save, options) in KINDS.items():
            saving = seconds(save, path, state, repeats=repeats, **options)
            loading = seconds(load_packed, path, repeats=repeats)
            ratio = path.stat().st_size / dense
            yield f"| {network} | {100 * sparsity:g} % | {kind} | {ratio:.4f} | {saving:.3f} | {loading:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"torch {torch.__version__}, threads {chosen.threads}, median of {chosen.repeats}\n")
    print("| network | sparsity | file | of dense | saved in s | loaded in s |\n|---|---|---|---|---|---|")
    for network, make in NETWORKS.items():
        torch.manual_seed(0)
        model = make()
        for sparsity in (0.8, 0.9, 0.98):
            prune_(model, sparsity)
            for row in rows(network, model.state_dict(), sparsity, chosen.repeats):
                print(row, flush=True)


if __name__ == "__main__":
    main()
