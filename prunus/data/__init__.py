"""Data sets, and the batches that training and evaluation draw from them."""

from prunus.data.fetch import Status, check, fetch
from prunus.data.files import DataError, data_root
from prunus.data.from_dataset import DatasetStream
from prunus.data.images import Data, Images
from prunus.data.order import Order
from prunus.data.sources import DATA, load, npz_file
from prunus.data.split import split
from prunus.data.stream import Stream, evaluation_batches
from prunus.data.transforms import crop_flip, crop_flip_draws, normalise

__all__ = [
    "DATA",
    "Data",
    "DataError",
    "DatasetStream",
    "Images",
    "Order",
    "Status",
    "Stream",
    "check",
    "crop_flip",
    "crop_flip_draws",
    "data_root",
    "evaluation_batches",
    "fetch",
    "load",
    "normalise",
    "npz_file",
    "split",
]
