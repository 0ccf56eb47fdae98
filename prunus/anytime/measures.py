"""What a stream is judged by: errors after each megabatch, all together, and what was forgotten."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def right_by_class(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> tuple[Tensor, Tensor]:
    """How many examples of each class ``model`` in eval mode gets right, and how many there are; int64 (classes,)."""
    training = model.training
    model.eval()
    right, seen = torch.zeros(2, classes, dtype=torch.int64)
    for inputs, labels in batches:
        hits = model(inputs).argmax(1) == labels
        right += torch.bincount(labels[hits], minlength=classes).cpu()
        seen += torch.bincount(labels, minlength=classes).cpu()
    model.train(training)
    return right, seen


def cumulative_errors(errors: Iterable[int]) -> int:
    """CER: the errors on the same test set after all megabatches, a count (Misra et al. 2022, Sec. 3).

    >>> cumulative_errors([2, 1, 0])
    3
    """
    return sum(errors)


def forgetting(accuracies: Sequence[Sequence[float]]) -> float:
    """How far the accuracy of a class falls at the end below its best before, a mean over classes, in [-1, 1].

    ``accuracies`` holds one row a megabatch and one column a class (Chaudhry et al. 2018, Sec. 3); 0 for a single row.

    >>> forgetting([[0.9, 0.0], [0.5, 0.8], [0.4, 0.9]])
    0.2
    """
    *earlier, last = accuracies
    if not earlier:
        return 0.0
    falls = [max(row[name] for row in earlier) - last[name] for name in range(len(last))]
    return round(sum(falls) / len(falls), 12)
