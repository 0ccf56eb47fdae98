"""What lies in the data folder, and bringing there what does not."""

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from prunus.data.files import Archive, DataError, File, Published, data_root
from prunus.data.manifest import PUBLISHED


@dataclass(frozen=True)
class Status:
    """Whether the published set ``name`` is ``whole``, where it lies, and, when it is not, what to do about it."""

    name: str
    whole: bool
    folder: Path
    remedy: str = ""


def check(root: Path | None = None) -> list[Status]:
    """The state of every published set under ``root``; reads whatever is there to its last byte."""
    return [_status(published, data_root(root)) for published in PUBLISHED.values()]


def _status(published: Published, root: Path) -> Status:
    try:
        layout = published.find(root)
        for file in layout.files:
            published.read(root / layout.folder, file)
    except DataError as error:
        return Status(published.name, whole=False, folder=root / published.layouts[0].folder, remedy=str(error))
    return Status(published.name, whole=True, folder=root / layout.folder)


def fetch(name: str, root: Path | None = None) -> Path:
    """Download what is missing or broken of the set ``name`` and return its folder.

    Every byte is checked by md5 before a file appears, at once and whole, under its name. Raises ``DataError``, with
    what to place where, when no address answers with what was published.
    """
    if name not in PUBLISHED:
        raise ValueError(f"data to fetch must be one of {sorted(PUBLISHED)}, got {name!r}")
    published, root = PUBLISHED[name], data_root(root)
    layout = published.layouts[0]
    folder = root / layout.folder
    wanted = [file for file in layout.files if not _whole(published, folder, file)]
    folder.mkdir(parents=True, exist_ok=True)
    for archive in published.archives:
        if files := [file for file in wanted if file.name in archive.files]:
            _fetch_archive(published, archive, folder, files)
    return folder


def _whole(published: Published, folder: Path, file: File) -> bool:
    try:
        return bool(published.read(folder, file))
    except (DataError, FileNotFoundError):
        return False


def _fetch_archive(published: Published, archive: Archive, folder: Path, files: list[File]) -> None:
    # beside its destination, so that a file moves there in one step and nothing of a broken download stays behind
    with TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        path = _download(archive, Path(temporary), published.remedy(folder, files))
        _unpack(path)
        for file in files:
            unpacked = next(path.parent.rglob(file.name))
            file.check(unpacked.read_bytes())
            unpacked.replace(folder / file.name)


def _download(archive: Archive, folder: Path, remedy: str) -> Path:
    """The archive in ``folder``, from the first address that serves what was published."""
    import pooch

    faults = []
    for url in archive.urls:
        try:
            return Path(pooch.retrieve(url, f"md5:{archive.md5}", fname=url.rpartition("/")[2], path=folder))
        except (OSError, ValueError) as error:  # no network, not found; a wrong checksum
            faults.append(f"{url} ({type(error).__name__})")
    raise DataError(f"no whole download from {' or '.join(faults)}: {remedy}")


def _unpack(path: Path) -> None:
    """Write what is in a tar archive or gzipped file beside it."""
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            archive.extractall(path.parent, filter="data")
    else:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
