"""The most memory that tensors take while a network trains, beside dense training; exact bytes, not times.

    python benchmarks/peak_memory.py [--networks mlp resnet20]

Model, gradients, momentum, masks and activations over three steps; the masks are updated in the third.
"""

import argparse
import warnings

import torch
from allocations import peak_bytes
from peers import SPARSITY, Attach, dense, header, mask_buffer, ours, torch_prune, training

from prunus.allocation import CollapseWarning
from prunus.methods import dpf, gmp, rigl, snip

STEPS = 3
VARIANTS: dict[str, Attach] = {
    "dense": dense,
    "prunus gmp": ours(lambda: gmp(SPARSITY, update_every=STEPS)),
    "prunus rigl": ours(lambda: rigl(SPARSITY, update_every=STEPS - 1)),
    "prunus snip": ours(lambda: snip(SPARSITY)),
    "prunus dpf": ours(lambda: dpf(SPARSITY, update_every=STEPS)),
    "torch.nn.utils.prune": torch_prune,
    "parametrization, mask buffer": mask_buffer,
}
WEIGHTS = {"mlp": 10_506_240, "resnet20": 268_336}


def peak(network: str, attach: Attach) -> int:
    """The peak of a training from before the model is made."""

    def run() -> None:
        steps = training(network, attach)
        for _ in range(STEPS):
            next(steps)

    return peak_bytes(run)


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(WEIGHTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", CollapseWarning)
    print(header(steps=STEPS))
    for network in options.networks:
        plain = peak(network, dense)
        print(f"\n{network:<30} {'peak, MB':>9} {'/ dense':>8} {'more, bytes a weight':>21}")
        for name, attach in VARIANTS.items():
            taken = plain if name == "dense" else peak(network, attach)
            more = (taken - plain) / WEIGHTS[network]
            print(f"{name:<30} {taken / 1e6:9.1f} {taken / plain:8.3f} {more:21.2f}", flush=True)


if __name__ == "__main__":
    main()
