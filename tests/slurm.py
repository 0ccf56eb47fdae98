"""A SLURM cluster of the tests' own: this machine as its only node, with ports and a directory that go when it ends."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Debian's slurmctld, slurmd, slurm-client and munge; daemons are off the PATH of users
PLACES = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
KillWait=2
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing() -> list[str]:
    """The programs that this machine lacks."""
    return [program for program in PROGRAMS if shutil.which(program, path=PLACES) is None]


@contextmanager
def cluster() -> Iterator[Path]:
    """The configuration of a running cluster with two CPUs, for the environment variable SLURM_CONF."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as daemons:
        directory = Path(name)
        directory.chmod(0o755)  # munged wants all users to reach its socket
        configuration = _configure(directory)
        key, munged = directory / "munge.key", directory / "munge.socket"
        paths = [f"--{kind}-file={directory}/munged.{kind}" for kind in ("pid", "log", "seed")]
        daemons.enter_context(_running("munged", "--foreground", f"--key-file={key}", f"--socket={munged}", *paths))
        until(munged.exists, 30)
        daemons.enter_context(_running("slurmctld", "-D", "-f", configuration))
        daemons.enter_context(_running("slurmd", "-D", "-f", configuration))
        until(lambda: said("sinfo", "-h", "-o", "%t", configuration=configuration) == "idle", 60)
        try:
            yield configuration
        finally:
            said("scancel", f"--user={getpass.getuser()}", configuration=configuration)
            until(lambda: not said("squeue", "-h", configuration=configuration), 60)


def said(*command: str, configuration: Path) -> str:
    """What a command of SLURM prints, empty where it fails."""
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def until(reached: Callable[[], object], seconds: float) -> None:
    """Wait for it; AssertionError where it takes longer than so many seconds."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def _configure(directory: Path) -> Path:
    """The path of slurm.conf, written with all that it names."""
    for place in ("state", "spool"):
        (directory / place).mkdir()
    key, configuration = directory / "munge.key", directory / "slurm.conf"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(64))
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    configuration.write_text(CONFIGURATION.format(host=host, user=user, directory=directory, ports=_free_ports()))
    return configuration


def _free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return [first.getsockname()[1], second.getsockname()[1]]


@contextmanager
def _running(program: str, *options: object) -> Iterator[None]:
    """A daemon, kept in the foreground."""
    words = [shutil.which(program, path=PLACES), *map(str, options)]
    daemon = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait()
