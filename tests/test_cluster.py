"""Jobs by submitit, on this machine: its local executor takes them as SLURM would."""

import sys
import time
from pathlib import Path

import pytest

from prunus.cluster import Command, submit


# submitit lets go of its local jobs without a wait
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_command_is_run_by_each_job(tmp_path: Path) -> None:
    code = "import os, pathlib; pathlib.Path(os.environ['SUBMITIT_LOCAL_JOB_ID']).touch()"
    done = tmp_path / "done"
    done.mkdir()
    command = [sys.executable, "-c", f"import os; os.chdir({str(done)!r}); {code}"]
    jobs = submit(command, 2, tmp_path / "jobs", resources={"timeout_min": 1}, cluster="local")
    deadline = time.monotonic() + 60
    while {path.name for path in done.iterdir()} != set(jobs):
        assert time.monotonic() < deadline, list((tmp_path / "jobs").iterdir())
        time.sleep(0.05)
    assert len(jobs) == 2


def test_a_command_that_is_stopped_is_queued_again_as_it_was() -> None:
    again = Command(("prunus", "compare")).checkpoint()
    assert again.function == Command(("prunus", "compare"))


@pytest.mark.parametrize(
    ("resources", "message"), [({"minutes": 1}, "Parameter 'minutes'"), ({"slurm_queue": "x"}, "Unknown argument")]
)
def test_resources_that_submitit_does_not_know(tmp_path: Path, resources: dict[str, int], message: str) -> None:
    with pytest.raises(NameError, match=message):
        submit(["true"], 1, tmp_path, resources=resources, cluster="local")


def test_a_machine_without_slurm_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="srun"):
        submit(["true"], 1, tmp_path, resources={})
