"""Sparse tensors on disk: a safetensors file that holds a mask or gaps, and the non-zero values.

A tensor ``w`` is stored in the smallest of three layouts:

* ``dense``: as it is, under its own name.
* ``mask``: ``w:mask``, one bit an entry (uint8, the lowest bit first, entries in row-major order), and ``w:values``,
  the non-zero entries in the same order.
* ``gaps``: ``w:gaps``, one byte an entry that is kept: how many zeros lie before it since the one kept last. A byte of
  255 stands for 255 zeros and no entry, so a longer gap takes several bytes. And ``w:values`` as above.

The file's metadata hold, beside what the caller gave, the key ``prunus.packing``: JSON with ``version`` (1),
``tensors`` (by name: ``layout``, ``dtype``, ``shape``; a tensor that is not listed is as it is) and ``aliases`` (a name
and the name of the tensor it shares). Where the stored dtype is not ``dtype``, values were rounded to bfloat16.

Loading gives tensors that are ``torch.equal`` to those saved, of the same dtype and shape, contiguous. NaN and
infinities survive; a negative zero counts as zero and comes back positive where its tensor was packed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunus.masks import Tensors
from prunus.tensor_file import DTYPES, code, read_tensors, write_tensors

KEY = "prunus.packing"
VERSION = 1
PACKABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HEADER = 200  # bytes that one more packed tensor costs in the header, about
ESCAPE = 255

Layout = Literal["dense", "mask", "gaps"]
Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]
Entry = dict[str, Any]  # of the JSON: layout, dtype, shape


def save_packed(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    bf16: bool = False,
    compress: bool = False,
    metadata: Mapping[str, str] = {},
) -> None:
    """Write ``state`` to ``path`` at once or not at all, each tensor in its smallest layout.

    ``bf16`` rounds float32 tensors of two or more dimensions to bfloat16; biases and statistics stay exact.
    ``compress`` puts the whole file into one zstd frame, by custom named ``.safetensors.zst``. Raises ValueError for a
    tensor whose name is taken by a part of another one.

    >>> save_packed(Path("model.safetensors"), model.state_dict(), metadata={"note": "90 % sparse"})
    """
    aliases = _aliases(state)
    stored: Tensors = {}
    entries: dict[str, Entry] = {}
    for name, tensor in state.items():
        if name in aliases:
            continue
        entry, parts = _pack(name, tensor, bf16)
        if clash := stored.keys() & parts.keys():
            raise ValueError(f"tensor names must not end like parts of a packed one, got {min(clash)!r}; rename it")
        stored |= parts
        if entry is not None:
            entries[name] = entry
    write_tensors(path, stored, _described(metadata, entries, aliases), compress)


def save_dense(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    bf16: bool = False,
    compress: bool = False,
    metadata: Mapping[str, str] = {},
) -> None:
    """Write ``state`` to ``path`` under its own names and shapes, as every reader of safetensors expects.

    Tensors that share memory are written one by one. Arguments as for `save_packed`.
    """
    stored = {name: _stored(tensor, bf16) for name, tensor in state.items()}
    rounded = {name: _entry("dense", state[name]) for name in stored if stored[name].dtype != state[name].dtype}
    write_tensors(path, stored, _described(metadata, rounded, {}), compress)


def load_packed(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors, on the CPU, and the caller's metadata of a file in any layout, or of any safetensors file.

    Names that shared one tensor share one again. Raises ValueError for a file that is cut off or of another kind.
    """
    tensors, metadata = read_tensors(path)
    if KEY not in metadata:
        return tensors, metadata
    described = json.loads(metadata.pop(KEY))
    if described["version"] != VERSION:
        raise ValueError(f"{path} has layout version {described['version']}, expected {VERSION}; update prunus")
    state = {name: _unpack(name, entry, tensors) for name, entry in described["tensors"].items()}
    state |= tensors  # what is left after unpacking is as it was
    return state | {name: state[of] for name, of in described["aliases"].items()}, metadata


def encode_gaps(positions: Positions) -> Bytes:
    """The gap list of ascending ``positions``.

    >>> encode_gaps(np.array([0, 3, 300])).tolist()
    [0, 2, 255, 41]
    """
    escapes, rest = np.divmod(np.diff(positions, prepend=-1) - 1, ESCAPE)
    gaps = np.full(len(positions) + int(escapes.sum()), ESCAPE, np.uint8)
    gaps[np.cumsum(escapes + 1) - 1] = rest
    return gaps


def decode_gaps(gaps: Bytes) -> Positions:
    """The positions whose gap list is ``gaps``."""
    kept = gaps != ESCAPE
    positions: Positions = np.cumsum(gaps.astype(np.int64) + kept)[kept] - 1
    return positions


def _pack(name: str, tensor: Tensor, bf16: bool) -> tuple[Entry | None, Tensors]:
    """What the metadata say of one tensor, None where it is as it is, and what the file holds of it."""
    values = _stored(tensor, bf16)
    entry = _entry("dense", tensor) if values.dtype != tensor.dtype else None
    if tensor.dtype not in PACKABLE:
        return entry, {name: values}
    values = values.flatten()
    kept = (values != 0).numpy()
    count = int(np.count_nonzero(kept))
    least = min(math.ceil(len(kept) / 8), count) + count * values.element_size() + HEADER
    if least >= values.nbytes:
        return entry, {name: values.view(tensor.shape)}
    positions: Positions = np.flatnonzero(kept)
    layout, places = _places(kept, positions)
    parts = {f"{name}:{layout}": torch.from_numpy(places), f"{name}:values": values[torch.from_numpy(positions)]}
    return _entry(layout, tensor), parts


def _places(kept: NDArray[np.bool_], positions: Positions) -> tuple[Layout, Bytes]:
    """The smaller of bit mask and gap list: below one entry in eight the gaps, as long as few are long."""
    mask = np.packbits(kept, bitorder="little")
    if len(positions) < len(mask) and len(gaps := encode_gaps(positions)) < len(mask):
        return "gaps", gaps
    return "mask", mask


def _unpack(name: str, entry: Entry, tensors: Tensors) -> Tensor:
    """One tensor from its parts, which are taken out of ``tensors``."""
    layout, dtype, shape = entry["layout"], DTYPES[entry["dtype"]], entry["shape"]
    if layout == "dense":
        return tensors.pop(name).to(dtype)
    size = math.prod(shape)
    values = tensors.pop(f"{name}:values").to(dtype)
    positions = torch.from_numpy(_positions(layout, tensors.pop(f"{name}:{layout}").numpy(), size))
    return torch.zeros(size, dtype=dtype).scatter_(0, positions, values).view(shape)


def _positions(layout: Layout, places: Bytes, size: int) -> Positions:
    if layout == "gaps":
        return decode_gaps(places)
    positions: Positions = np.flatnonzero(np.unpackbits(places, count=size, bitorder="little").view(np.bool_))
    return positions


def _entry(layout: Layout, tensor: Tensor) -> Entry:
    return {"layout": layout, "dtype": code(tensor.dtype), "shape": list(tensor.shape)}


def _described(metadata: Mapping[str, str], entries: dict[str, Entry], aliases: dict[str, str]) -> dict[str, str]:
    layout = {"version": VERSION, "tensors": entries, "aliases": aliases}
    return {**metadata, KEY: json.dumps(layout, separators=(",", ":"))}


def _stored(tensor: Tensor, bf16: bool) -> Tensor:
    """The tensor as the file holds its values."""
    rounded = bf16 and tensor.dtype == torch.float32 and tensor.dim() > 1
    return tensor.detach().cpu().to(torch.bfloat16 if rounded else tensor.dtype).contiguous()


def _aliases(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The names whose tensor stands under an earlier name already, and that name."""
    first: dict[object, str] = {}
    found = {}
    for name, tensor in state.items():
        same = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device)
        if first.setdefault(same, name) != name:
            found[name] = first[same]
    return found
