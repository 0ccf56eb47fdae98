"""A study by two jobs of SLURM, one of which is killed, warned or requeued: its cells are those of one process."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import postgresql
import pytest
import slurm
from slurm import said, until
from test_scaling_killed import CELLS, RECIPE, measured, started
from tiny import written

from prunus.cluster import submit

AT_WORK = """
    SELECT value_json FROM trials JOIN trial_user_attributes USING (trial_id)
    WHERE state = 'RUNNING' AND key = 'worker' ORDER BY datetime_start DESC
"""
STATES = "SELECT state, count(*) FROM trials GROUP BY state"


@dataclass(frozen=True)
class Cluster:
    """A SLURM cluster by its configuration, and the address of a database that its jobs reach."""

    configuration: Path
    storage: str

    def ask(self, query: str) -> list[Any]:
        """The rows that answer a query to the database."""
        return postgresql.ask(self.storage, query)

    def slurm(self, *command: str) -> str:
        """What a command of SLURM prints."""
        return said(*command, configuration=self.configuration)


@pytest.fixture(scope="module")
def programs() -> Path:
    """Those of PostgreSQL, where SLURM's are there as well."""
    programs = postgresql.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: initdb is neither on the PATH nor in /usr/lib/postgresql")
    if missing := slurm.missing():
        pytest.skip(f"no SLURM: {', '.join(missing)} not found; Debian has slurmctld, slurmd, slurm-client and munge")
    return programs


@pytest.fixture
def cluster(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with postgresql.server(programs) as address, slurm.cluster() as configuration:
        monkeypatch.setenv("SLURM_CONF", str(configuration))
        yield Cluster(configuration, address.format("postgres"))


@pytest.fixture(scope="module")
def undisturbed(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cells as one process measures them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert started(written(folder, **RECIPE), folder).wait(timeout=300) == 0, (folder / "said.txt").read_text()
    return measured(folder)


def kill(cluster: Cluster, process: int, job: str) -> None:
    """The out-of-memory killer, or a person."""
    os.kill(process, signal.SIGKILL)


def warn(cluster: Cluster, process: int, job: str) -> None:
    """SLURM, a moment before the job's time is over; submitit then queues the job again."""
    cluster.slurm("scancel", "--signal=USR2", job)


def requeue(cluster: Cluster, process: int, job: str) -> None:
    """SLURM, where it wants the node for another job."""
    cluster.slurm("scontrol", "requeue", job)


def in_a_cell(cluster: Cluster) -> tuple[int, str]:
    """A process in the middle of a cell, and the job that it belongs to."""
    until(partial(cluster.ask, AT_WORK), 60)
    process = int(cluster.ask(AT_WORK)[0][0].strip('"').split(":")[1])
    words = dict(line.split("=", 1) for line in Path(f"/proc/{process}/environ").read_text().split("\0") if line)
    return process, f"{words['SLURM_ARRAY_JOB_ID']}_{words['SLURM_ARRAY_TASK_ID']}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disturb", "ended", "restarts"),
    [(kill, ["COMPLETED", "FAILED"], 0), (warn, ["COMPLETED"] * 2, 1), (requeue, ["COMPLETED"] * 2, 1)],
    ids=["killed", "warned", "requeued"],
)
def test_of_two_jobs_one_is_disturbed_and_no_cell_is_lost_or_counted_twice(
    disturb: Callable[[Cluster, int, str], None],
    ended: list[str],
    restarts: int,
    cluster: Cluster,
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    options = ["--out", tmp_path / "study", "--workers", 1, "--checkpoint-every", 0, "--storage", cluster.storage]
    command = [sys.executable, "-m", "prunus", "scaling", "run", written(tmp_path, **RECIPE), *options]
    # in the last ten minutes of a job submitit takes a warning for the end of its time
    jobs = submit(list(map(str, command)), 2, tmp_path / "jobs", resources={"timeout_min": 10, "cpus_per_task": 1})
    until(lambda: len(measured(tmp_path)) >= 3, 240)
    process, job = in_a_cell(cluster)
    assert job in jobs
    disturb(cluster, process, job)
    until(lambda: not cluster.slurm("squeue", "-h"), 500)

    told = cluster.slurm("scontrol", "show", "job", "--oneliner", jobs[0].split("_")[0])
    assert sorted(re.findall(r"JobState=(\w+)", told)) == ended
    assert sum(map(int, re.findall(r"Restarts=(\d+)", told))) == restarts
    assert {str(state): int(count) for state, count in cluster.ask(STATES)} == {"COMPLETE": CELLS, "FAIL": 1}
    assert measured(tmp_path) == undisturbed
