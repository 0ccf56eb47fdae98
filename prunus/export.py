"""Trained networks as files for others, and back: dense-keyed or packed safetensors, and ONNX."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from prunus.masks import Tensors, sparsity_of
from prunus.packing import save_dense, save_packed
from prunus.provenance import Provenance, from_metadata
from prunus.start import WEIGHTS
from prunus.state_file import read_state
from prunus.storage import write_atomically

Format = Literal["safetensors", "packed", "onnx"]


@dataclass(frozen=True)
class Saved:
    """What a file holds: the state dict, and where it comes from if the file says so."""

    path: Path
    state: Tensors
    provenance: Provenance | None

    def model(self) -> nn.Module | None:
        """The built-in model that the file names, in eval mode with its weights; None where it names none."""
        model = self.provenance.model() if self.provenance else None
        if model is None:
            return None
        model.load_state_dict(self.state)
        return model.eval()

    def sparsity(self) -> float:
        """The realized sparsity of the run; else the fraction of zeros in the tensors of two or more dimensions."""
        if self.provenance:
            return self.provenance.realised_sparsity
        return sparsity_of(tensor for tensor in self.state.values() if tensor.dim() > 1)

    def dense_bytes(self) -> int:
        """The bytes of the tensors themselves, shared ones once."""
        return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in self.state.values()}.values())


@dataclass(frozen=True)
class Exported:
    """A file that was written: its size beside that of the dense tensors, and the sparsity of the network."""

    path: Path
    bytes: int
    dense_bytes: int
    sparsity: float

    def __str__(self) -> str:
        gain = "" if self.bytes < self.dense_bytes else ", no gain"
        ratio = self.bytes / self.dense_bytes
        return f"{self.path}: {self.bytes:,} bytes, {ratio:.3f} of dense{gain}, sparsity {self.sparsity:.4f}"


def load(path: str | Path) -> nn.Module | Tensors:
    """The network in ``path``: the model, in eval mode, where the file says which built-in one, else the state dict.

    ``path`` is the directory of a finished run, a safetensors file (packed, dense or in zstd), or a ``.pt`` or ``.pth``
    file with a state dict, also as ``torch.nn.utils.prune`` or ``torch.ao.pruning`` leave it, whose masks are then
    applied. Everything is on the CPU, and no code in the file runs. Raises ValueError for anything else.

    >>> model = prunus.load("runs/3f2a9c81d07e")
    """
    saved = read(Path(path))
    model = saved.model()
    return saved.state if model is None else model


def read(path: Path) -> Saved:
    """What the run directory or file at ``path`` holds, as `load` reads it."""
    if path.is_dir() and not (path / WEIGHTS).is_file():
        raise ValueError(f"{path} must be the directory of a finished run, but holds no {WEIGHTS}; train it to its end")
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"expected the directory of a finished run, or a file of weights, found none at {path}")
    state, metadata = read_state(file)
    return Saved(file, state, from_metadata(metadata))


def export(
    source: Path, format: Format = "safetensors", *, bf16: bool = False, zstd: bool = False, out: Path | None = None
) -> Exported:
    """Write the network of a run, or of a file that `load` reads, for others; what was written.

    ``safetensors`` has the plain names and shapes and loads anywhere, ``packed`` is the smallest, ``onnx`` runs in
    onnxruntime with any batch size. ``bf16`` rounds weights, ``zstd`` compresses the file; ONNX takes neither. ``out``
    is in the run's directory, or beside the file, by default.
    """
    saved = read(source)
    path = out or _default(source, format, bf16, zstd)
    if path.exists() and path.samefile(saved.path):
        raise ValueError(f"{path} is the file to export, and stays; choose another with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = saved.provenance.metadata() if saved.provenance else {"format": "pt"}
    if format == "onnx":
        if bf16 or zstd:
            raise ValueError("onnx holds plain float32 weights; drop --bf16 and --zstd, or choose --format packed")
        write_atomically(path, _onnx(saved, metadata))
    else:
        save = save_packed if format == "packed" else save_dense
        save(path, saved.state, bf16=bf16, compress=zstd, metadata=metadata)
    return Exported(path, path.stat().st_size, saved.dense_bytes(), saved.sparsity())


def _default(source: Path, format: Format, bf16: bool, zstd: bool) -> Path:
    name = {"safetensors": "dense", "packed": "packed", "onnx": "model"}[format] + ("-bf16" if bf16 else "")
    suffix = ".onnx" if format == "onnx" else ".safetensors.zst" if zstd else ".safetensors"
    if source.is_dir():
        return source / f"{name}{suffix}"
    return source.with_name(f"{source.name.split('.')[0]}-{name}{suffix}")


def _onnx(saved: Saved, metadata: Mapping[str, str]) -> bytes:
    model = saved.model()
    if model is None or saved.provenance is None:
        raise ValueError(
            f"{saved.path} does not name a built-in model, which ONNX needs; load it into your own model and use "
            "torch.onnx.export"
        )
    if find_spec("onnxscript") is None:
        raise ModuleNotFoundError("ONNX needs the package onnxscript; install it with: pip install 'prunus[onnx]'")
    example = torch.zeros(2, *saved.provenance.input_shape, dtype=next(model.parameters()).dtype)
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["input"],
            output_names=["logits"],
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself: what torch deprecates, and packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
