"""Files that a crash cannot spoil, and directories that two processes cannot write to at once."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from filelock import FileLock, Timeout

PATIENCE = 5.0  # seconds; a worker whose study was killed lives on for a moment


class InUseError(RuntimeError):
    """Another live process works in a directory."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` so that a reader, or a crash, sees all of it or nothing."""
    data = content.encode() if isinstance(content, str) else content
    write_with(path, lambda file: file.write(data))


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill the file at ``path`` under another name, sync it, and give it its own at the end."""
    partial_path = path.with_name(f"{path.name}.{os.getpid()}-{token_hex(4)}.partial")
    try:
        with partial_path.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial_path.replace(path)
    except BaseException:
        partial_path.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` as durable as the contents of its files."""
    if os.name == "nt":
        return  # Windows opens no directories
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process; the lock of a process that died is free. InUseError where one lives."""
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise InUseError(
            f"{directory} must belong to one process at a time, and another is at work in it; wait for it to end, or "
            "choose another directory with --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
