"""What is kept of a stream: a record of each training, and one of each megabatch."""

from collections.abc import Sequence

from torch import Tensor

from prunus.anytime.stage_loop import StageLoop
from prunus.anytime.state import Record
from prunus.outcome import dense_steps, learning_rates, training_bytes
from prunus.prepare import Stage
from prunus.start import Left

RATES = 200  # points of the curve of learning rates, over all megabatches


def training_record(loop: StageLoop, stage: Stage, preparing: float, planned: int) -> Record:
    """What one network's training on one megabatch of ``planned`` took and reached, its best weights in the model."""
    prepared = loop.prepared
    train, validation = (prepared.quality(part.to(prepared.device)) for part in (stage.train, stage.validation))
    steps, sparsifier = prepared.training.taken, prepared.sparsifier
    dense_gradients = dense_steps(sparsifier, steps)
    looked_at = prepared.evidence.passes * len(stage.evidence) // prepared.evidence.batches
    return {
        "train": len(stage.train),
        "validation": len(stage.validation),
        "steps": steps,
        "epochs": steps / prepared.epoch_steps,
        "best_step": loop.best.step if loop.best else steps,
        "train_accuracy": train.accuracy,
        "validation_accuracy": validation.accuracy,
        "gap": train.accuracy - validation.accuracy,
        "released_gap": loop.released_gap,
        "learning_rates": learning_rates(prepared, max(2, RATES // planned)),
        "training_macs": prepared.operations.training(prepared.examples, dense_gradients, looked_at),
        "training_macs_dense": prepared.operations.dense(prepared.examples),
        "training_bytes": training_bytes(prepared.model, prepared.training.optimizer, sparsifier),
        "looks": prepared.evidence.passes,
        "seconds": loop.seconds,
        "preparing_seconds": preparing,
    }


def megabatch_record(
    examples: int, sparsity: float, right: Tensor, seen: Tensor, lefts: Sequence[Left], trained: Sequence[Record]
) -> Record:
    """What stands after a megabatch: ``right`` of the ``seen`` test images of each class, int64 (classes,).

    ``layers`` has of each masked layer the weights that are kept, and all, of all networks together.
    """
    return {
        "examples": examples,
        "planned_sparsity": sparsity,
        "errors": int((seen - right).sum()),
        "tested": int(seen.sum()),
        "right_by_class": right.tolist(),
        "tested_by_class": seen.tolist(),
        "networks": max(1, len(lefts)),
        "layers": kept_by_layer(lefts),
        "trained": list(trained),
    }


def kept_by_layer(lefts: Sequence[Left]) -> dict[str, tuple[int, int]]:
    """Of each masked layer the weights that are kept, and all, of all networks together."""
    masks = [(name, mask) for left in lefts for name, mask in (left.masks or {}).items()]
    return {
        name: (
            sum(int(mask.count_nonzero()) for other, mask in masks if other == name),
            sum(mask.numel() for other, mask in masks if other == name),
        )
        for name, _ in masks
    }
