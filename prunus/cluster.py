"""One command as several jobs of a SLURM cluster, by submitit."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from submitit import AutoExecutor
from submitit.helpers import Checkpointable


@dataclass(frozen=True)
class Command(Checkpointable):
    """A command that submitit queues again when the job's time is over or SLURM wants its node for another."""

    words: tuple[str, ...]

    def __call__(self) -> None:
        """Run it to its end; CalledProcessError where that is not a good one."""
        subprocess.run(self.words, check=True)


def submit(
    command: Sequence[str],
    jobs: int,
    folder: str | Path,
    *,
    resources: Mapping[str, int | float | str],
    cluster: Literal["slurm", "local"] = "slurm",
) -> list[str]:
    """Queue ``command`` ``jobs`` times, as one array, and return the jobs' ids.

    ``folder`` takes scripts and logs and must be seen by all nodes. ``resources`` of one job are in submitit's words:
    ``timeout_min``, ``cpus_per_task``, ``gpus_per_node``, ``mem_gb``, and options of sbatch as ``slurm_partition``.
    ``local`` runs the jobs on this machine, without SLURM.
    """
    executor = AutoExecutor(folder, cluster=cluster)
    executor.update_parameters(name="prunus", **resources)
    with executor.batch():
        submitted = [executor.submit(Command(tuple(command))) for _ in range(jobs)]
    return [str(job.job_id) for job in submitted]
