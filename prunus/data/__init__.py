"""Data sets, and the batches that training and evaluation draw from them."""

from prunus.data.batches import TrainingStream, evaluation_batches, training_stream
from prunus.data.fetch import Status, check, fetch
from prunus.data.file_stream import FileEvaluation, FileStream
from prunus.data.files import DataError, data_root
from prunus.data.folder import sized
from prunus.data.from_dataset import DatasetStream
from prunus.data.images import Data, Files, Images, Labelled
from prunus.data.order import Order
from prunus.data.sources import DATA, data_path, known, load
from prunus.data.split import split
from prunus.data.stream import Stream
from prunus.data.transforms import crop_flip, crop_flip_draws, normalise

__all__ = [
    "DATA",
    "Data",
    "DataError",
    "DatasetStream",
    "FileEvaluation",
    "FileStream",
    "Files",
    "Images",
    "Labelled",
    "Order",
    "Status",
    "Stream",
    "TrainingStream",
    "check",
    "crop_flip",
    "crop_flip_draws",
    "data_path",
    "data_root",
    "evaluation_batches",
    "fetch",
    "known",
    "load",
    "normalise",
    "sized",
    "split",
    "training_stream",
]
