"""Batches of labelled images, wherever these are: in memory or in files."""

from prunus.data.file_stream import FileEvaluation, FileStream
from prunus.data.images import Data, Images, Labelled
from prunus.data.stream import EvaluationBatches, Stream

TrainingStream = Stream | FileStream


def training_stream(
    images: Labelled, batch_size: int, *, data: Data, seed: int = 0, rank: int = 0, world_size: int = 1
) -> TrainingStream:
    """The endless, resumable stream of (inputs, labels) that suits ``images``: `Stream`, or `FileStream` for files."""
    if isinstance(images, Images):
        return Stream(images, batch_size, data=data, seed=seed, rank=rank, world_size=world_size)
    return FileStream(images, batch_size, data=data, seed=seed, rank=rank, world_size=world_size)


def evaluation_batches(images: Labelled, batch_size: int, data: Data) -> EvaluationBatches | FileEvaluation:
    """The (inputs, labels) of ``images`` on their device, normalised as ``data`` says and not augmented."""
    if isinstance(images, Images):
        return EvaluationBatches(images, batch_size, data)
    return FileEvaluation(images, batch_size, data)
