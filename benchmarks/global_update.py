"""One global update of the masks at 90 % sparsity: time and extra memory, beside rankings that sort.

    python benchmarks/global_update.py [--millions 11 100] [--repeats 5] [--threads 1]

Prints the median time and its range, and the most memory taken beyond weights and masks, in percent of the weights'
own bytes, and checks that all keep the same number of weights: exactly the tenth.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from allocations import peak_bytes
from peers import SPARSITY, header

from prunus.masks import Masks, Tensors, full_masks, keep_count
from prunus.schedules import Constant
from prunus.updates import Prune, State

LAYERS = 11
Update = Callable[[Tensors, Masks], None]


def prunus(weights: Tensors, masks: Masks) -> None:
    """The update that a method runs, masks written in place."""
    Prune(Constant(SPARSITY))(State(weights, masks, None, 1.0, torch.Generator(), in_place=True))


def topk(weights: Tensors, masks: Masks) -> None:
    """torch.topk over all magnitudes, concatenated."""
    scores = torch.cat([weight.abs().view(-1) for weight in weights.values()])
    kept = scores.topk(keep_count(len(scores), SPARSITY), sorted=False).indices
    _write(torch.zeros(len(scores), dtype=torch.bool).index_fill_(0, kept, True), masks)


def sort(weights: Tensors, masks: Masks) -> None:
    """torch.sort over all magnitudes, concatenated."""
    scores = torch.cat([weight.abs().view(-1) for weight in weights.values()])
    kept = scores.sort(descending=True, stable=True).indices[: keep_count(len(scores), SPARSITY)]
    _write(torch.zeros(len(scores), dtype=torch.bool).index_fill_(0, kept, True), masks)


def measured(update: Update, weights: Tensors, repeats: int) -> str:
    """Time, memory and whether the count is exact."""
    times, total = [], sum(weight.numel() for weight in weights.values())
    masks = full_masks(weights)
    extra = peak_bytes(lambda: update(weights, masks)) / (4 * total)
    for _ in range(repeats):
        for mask in masks.values():
            mask.fill_(True)
        began = time.perf_counter()
        update(weights, masks)
        times.append(time.perf_counter() - began)
    exact = sum(int(mask.sum()) for mask in masks.values()) == keep_count(total, SPARSITY)
    return f"{statistics.median(times):9.3f}  {min(times):.3f} to {max(times):<7.3f} {extra:13.1%}  {exact}"


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=[11, 100])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(repeats=options.repeats, sparsity=SPARSITY))
    for millions in options.millions:
        generator = torch.Generator().manual_seed(0)
        rows = millions * 1_000_000 // LAYERS // 1000
        shapes = [(rows, 1000)] * (LAYERS - 1) + [(millions * 1000 - rows * (LAYERS - 1), 1000)]
        weights = {str(i): torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
        print(f"\n{f'{millions} million weights':<20} {'seconds':>9}  {'range':<16} {'extra memory':>13}  exact")
        for update in (prunus, topk, sort):
            print(f"{update.__name__:<20} {measured(update, weights, options.repeats)}", flush=True)


def _write(flat: torch.Tensor, masks: Masks) -> None:
    parts = flat.split([mask.numel() for mask in masks.values()])
    for mask, part in zip(masks.values(), parts, strict=True):
        mask.copy_(part.view(mask.shape))


if __name__ == "__main__":
    main()
