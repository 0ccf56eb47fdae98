"""Published files: where they lie, whether they are whole, and what to do when they are not."""

import gzip
import os
import zlib
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path


class DataError(ValueError):
    """Data that are missing or not what was expected; the message says what to place where."""


@dataclass(frozen=True)
class File:
    """One published file: its name, and the size in bytes and md5 of its *uncompressed* content."""

    name: str
    size: int
    md5: str

    def locate(self, folder: Path) -> Path | None:
        """Where it lies in ``folder``, raw before gzipped; ``None`` when it does not."""
        paths = (folder / self.name, folder / f"{self.name}.gz")
        return next((path for path in paths if path.is_file()), None)

    def check(self, content: bytes) -> None:
        """Raise ``DataError`` unless ``content`` is what was published."""
        found = md5(content, usedforsecurity=False).hexdigest()
        if found != self.md5:
            raise DataError(
                f"expected {self.size:,} bytes with md5 {self.md5}, found {len(content):,} bytes with md5 {found}"
            )


@dataclass(frozen=True)
class Layout:
    """A folder, relative to the root, and the files in it: training files first, the test files last."""

    folder: str
    files: tuple[File, ...]

    def missing(self, root: Path) -> list[File]:
        """The files that are there neither raw nor gzipped."""
        return [file for file in self.files if not file.locate(root / self.folder)]


@dataclass(frozen=True)
class Archive:
    """A download: addresses to try in turn, the md5 of what they serve, and the names of the files inside."""

    urls: tuple[str, ...]
    md5: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it: the layouts that are read (the first is the one written) and downloads."""

    name: str
    layouts: tuple[Layout, ...]
    archives: tuple[Archive, ...]

    def find(self, root: Path) -> Layout:
        """The layout that lies under ``root``; ``DataError`` with the missing files of the nearest when none does."""
        layout = min(self.layouts, key=lambda layout: len(layout.missing(root)))
        if missing := layout.missing(root):
            raise DataError(f"{self.name} is not in {root}: {self.remedy(root / layout.folder, missing)}")
        return layout

    def read(self, folder: Path, file: File) -> bytes:
        """The uncompressed content of ``file`` in ``folder``; ``DataError`` unless it is whole."""
        path = file.locate(folder) or folder / file.name
        try:
            content = path.read_bytes() if path.name == file.name else gzip.decompress(path.read_bytes())
            file.check(content)
        except (DataError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is not whole ({error}): delete it and {self.remedy(folder, [file])}") from error
        return content

    def remedy(self, folder: Path, files: list[File]) -> str:
        """What brings ``files`` into ``folder``, by network or by hand, a line each."""
        lines = [f"\n  {folder / file.name}  {file.size:,} bytes  md5 {file.md5}" for file in files]
        return (
            f"run `prunus data fetch {self.name}` where there is a network, or place these files "
            f"(raw, or gzipped with .gz added to the name; sizes and md5 are of the raw ones):{''.join(lines)}"
        )


def data_root(root: Path | None = None) -> Path:
    """The folder that holds the data: ``root``, else ``$PRUNUS_DATA``, else ``~/.cache/prunus``."""
    return Path(root or os.environ.get("PRUNUS_DATA") or Path.home() / ".cache" / "prunus")
