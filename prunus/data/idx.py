"""IDX, the format of MNIST: two zeros, a type, the number of dimensions, big-endian sizes, then the values."""

import torch
from torch import Tensor


def read_idx(content: bytes) -> Tensor:
    """The uint8 tensor in the bytes of an IDX file, in the shape that its header states."""
    header = 4 + 4 * content[3]
    shape = [int.from_bytes(content[start : start + 4]) for start in range(4, header, 4)]
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).view(shape)
