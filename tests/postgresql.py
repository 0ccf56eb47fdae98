"""A PostgreSQL server of the tests' own, on a socket in a directory that goes when it ends."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

# a server refuses to run as root
USER = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
QUICK = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]


def programs() -> Path | None:
    """The directory of initdb and postgres, which Debian keeps off the PATH."""
    places = [os.environ["PATH"], *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
    found = shutil.which("initdb", path=os.pathsep.join(places))
    return Path(found).resolve().parent if found else None


@contextmanager
def server(programs: Path) -> Iterator[str]:
    """The address of a running server, with a place for the database's name."""
    with tempfile.TemporaryDirectory() as name:  # not below pytest's, which only one user may enter
        directory = Path(name)
        if USER:
            shutil.chown(directory, "nobody", "nogroup")
        initdb = [programs / "initdb", "-D", directory / "data", "-U", "prunus", "-A", "trust", "-E", "UTF8"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": directory} | USER
        subprocess.run([*initdb, "--locale=C", "--no-sync"], check=True, **quiet)
        running = subprocess.Popen([programs / "postgres", "-D", directory / "data", "-k", directory, *QUICK], **quiet)
        try:
            while not list(directory.glob(".s.PGSQL.*[0-9]")):
                assert running.poll() is None, "postgres ended"
                time.sleep(0.02)
            yield f"postgresql+psycopg://prunus@/{{}}?host={directory}"
        finally:
            running.send_signal(signal.SIGQUIT)  # at once: nothing in it is needed
            running.wait()


def ask(address: str, query: str) -> list[Any]:
    """The rows that answer a query."""
    # a pool's connections are open until Python collects them, with a warning
    with create_engine(address, poolclass=NullPool).connect() as connection:
        return list(connection.execute(text(query)).all())
