"""The two versions of the CIFAR files: binary records, and Python's pickles read without executing anything."""

import io
import pickle
from typing import Any

import numpy as np
import torch

from prunus.data.files import DataError
from prunus.data.images import Images

_PIXELS = 3 * 32 * 32


def read_binary(content: bytes, label_bytes: int) -> Images:
    """Records of ``label_bytes`` label bytes, of which the last is the class, then the red, green and blue planes."""
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, label_bytes + _PIXELS)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return Images(images, records[:, label_bytes - 1].long())


def read_pickle(content: bytes) -> Images:
    """A pickled dictionary of ``data`` (n, 3072) uint8 and ``labels`` or ``fine_labels``, a list of n integers.

    Raises ``DataError`` for a pickle that names anything but a numpy array.
    """
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    labels = batch[b"fine_labels"] if b"fine_labels" in batch else batch[b"labels"]
    return Images(torch.tensor(batch[b"data"]).view(-1, 3, 32, 32), torch.tensor(labels))


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers and numpy arrays, and refuses every other name, so that nothing in the file can run."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        # taken from an array, not imported: the function's module differs between versions of numpy
        reconstruct = np.empty(0).__reduce__()[0]
        allowed = {
            "numpy.core.multiarray._reconstruct": reconstruct,
            "numpy._core.multiarray._reconstruct": reconstruct,
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": _encode_latin1,
        }
        name = f"{module_name}.{global_name}"
        if name not in allowed:
            raise DataError(f"expected a pickle of numpy arrays, found one that calls {name}; it was not executed")
        return allowed[name]


def _encode_latin1(text: str, _encoding: str) -> bytes:
    """How Python 3 writes bytes into an old pickle; ``codecs.encode`` itself would import the codec that it is told."""
    return text.encode("latin1")
