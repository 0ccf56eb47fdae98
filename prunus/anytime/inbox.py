"""A folder into which other processes put megabatches: each file is taken once, or set aside with a reason."""

import hashlib
import io
import json
import time
from dataclasses import dataclass, field
from errno import EXDEV
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from prunus.data import Data, Images
from prunus.storage import write_atomically
from prunus.streams import hold_out

SUFFIXES = (".npz", ".safetensors")
SETTLED = 1.0  # seconds without a change, after which a file counts as written
INPUTS, TARGETS = "inputs", "targets"


@dataclass
class Inbox:
    """The files that arrive in ``folder``, taken in the order of their names, whole.

    A file is first moved to ``home / "arriving"``, where nobody else writes. What is taken lies in ``home / "taken"``
    by its number, and ``home / "ledger.json"`` has the name and the digest of all, so that a file is taken once even
    where this process is killed in between. What is no megabatch of ``data``, or leaves nothing to train on when the
    share ``held_out`` validates, goes to ``home / "set-aside"``, a reason beside it.
    """

    folder: Path
    home: Path
    data: Data
    held_out: float = 0.1
    _seen: dict[str, tuple[tuple[int, int], float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for folder in (self.arrived, self.taken, self.aside):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.home / "ledger.json"
        self.ledger: list[list[str]] = json.loads(path.read_text()) if path.is_file() else []

    @property
    def arrived(self) -> Path:
        """Where files lie while they are looked at."""
        return self.home / "arriving"

    @property
    def taken(self) -> Path:
        """Where what was taken lies."""
        return self.home / "taken"

    @property
    def aside(self) -> Path:
        """Where what cannot be trained on lies."""
        return self.home / "set-aside"

    def file(self, number: int) -> Path:
        """The file of a megabatch that was taken."""
        return self.taken / f"{number:06}.safetensors"

    def take(self) -> list[str]:
        """Take or set aside what has arrived; what was said of the latter. `ledger` has grown by what was taken."""
        said = [self._look_at(path) for path in sorted(self.arrived.iterdir())]  # left by a process that was killed
        for path in self._settled():
            _move(path, self.arrived / path.name)
            if (self.arrived / path.name).is_file():
                said.append(self._look_at(self.arrived / path.name))
        return [line for line in said if line]

    def arriving(self) -> bool:
        """Whether there is a file that may still be written to."""
        return any((self.folder / name).exists() for name in self._seen)

    def _settled(self) -> list[Path]:
        """The files that nobody has written to for a while, by name."""
        now, found = time.monotonic(), {}
        for path in sorted(self.folder.iterdir()):
            if path.suffix not in SUFFIXES or path.name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:  # taken back
                continue
            state = (stat.st_size, stat.st_mtime_ns)
            before, since = self._seen.get(path.name, (None, now))
            found[path.name] = (state, since if state == before else now)
        self._seen = found
        return [self.folder / name for name, (_, since) in found.items() if now - since >= SETTLED]

    def _look_at(self, path: Path) -> str:
        """Take or set aside one file; what was said of it."""
        try:
            content, said = path.read_bytes(), ""
        except PermissionError as error:
            name = f"unread-{len(list(self.aside.iterdir()))}-{path.name}"
            path.replace(self.aside / name)
            write_atomically(self.aside / f"{name}.reason.txt", f"{error}\n")
            return f"{path.name}: {error}"
        entry = [path.name, hashlib.sha256(content).hexdigest()]
        if entry not in self.ledger:
            try:
                images = read_megabatch(content, path.suffix, self.data)
                hold_out(torch.arange(len(images)), self.held_out)
            except ValueError as error:
                said = f"{path.name}: {error}"
                self._set_aside(f"{entry[1][:8]}-{path.name}", content, str(error))
            else:
                self._enter(entry, images)
        path.unlink()
        return said

    def _enter(self, entry: list[str], images: Images) -> None:
        tensors = {INPUTS: images.images, TARGETS: images.labels}
        write_atomically(self.file(len(self.ledger)), safetensors.torch.save(tensors))
        self.ledger.append(entry)
        write_atomically(self.home / "ledger.json", json.dumps(self.ledger))

    def _set_aside(self, name: str, content: bytes, reason: str) -> None:
        write_atomically(self.aside / name, content)
        write_atomically(self.aside / f"{name}.reason.txt", f"{reason}\n")


def _move(path: Path, target: Path) -> None:
    """Move a file; to another disk by copying it first."""
    try:
        path.replace(target)
    except FileNotFoundError:  # taken back
        return
    except OSError as error:
        if error.errno != EXDEV:
            raise
        write_atomically(target, path.read_bytes())
        path.unlink()


def read_megabatch(content: bytes, suffix: str, data: Data) -> Images:
    """The images in a file: ``inputs`` uint8 (n, c, h, w) of the shape of ``data``, ``targets`` integers (n,).

    Raises ValueError, in one line, for a file that is cut off or holds something else.
    """
    tensors = _npz(content) if suffix == ".npz" else _safetensors(content)
    if missing := [name for name in (INPUTS, TARGETS) if name not in tensors]:
        raise ValueError(f"a megabatch must hold {INPUTS} and {TARGETS}, {' and '.join(missing)} missing")
    images, labels = tensors[INPUTS], tensors[TARGETS]
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != data.input_shape:
        shape = ", ".join(map(str, ("n", *data.input_shape)))
        raise ValueError(f"{INPUTS} must be uint8 ({shape}), got {images.dtype} {tuple(images.shape)}")
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != images.shape[:1] or not whole or len(labels) < 2:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"{TARGETS} must be one integer an image, of two at least, got {found}")
    labels = labels.long()  # first, for unsigned ones have no minimum
    if not 0 <= int(labels.min()) <= int(labels.max()) < data.classes:
        raise ValueError(f"{TARGETS} must be in [0, {data.classes}), got {int(labels.min())} to {int(labels.max())}")
    return Images(images.contiguous(), labels)


def _npz(content: bytes) -> dict[str, Tensor]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in (INPUTS, TARGETS) if name in arrays}
    except Exception as error:  # of zip, of what unpacks it, of NumPy or of PyTorch: all mean that it is spoilt
        raise ValueError(f"must be a whole .npz file of plain arrays, got {len(content)} bytes ({error})") from None


def _safetensors(content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # of the library, or of a type that PyTorch lacks
        raise ValueError(f"must be a whole safetensors file, got {len(content)} bytes ({error})") from None
