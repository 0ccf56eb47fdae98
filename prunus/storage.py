"""Files that a crash cannot spoil."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` so that a reader, or a crash, sees all of it or nothing."""
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial_path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial_path.replace(path)
