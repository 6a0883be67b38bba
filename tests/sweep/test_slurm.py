"""Sweeps through a real SLURM: one run a job, one stack a job, and what becomes of them when jobs are lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
from multirun import SECONDS, Sweep, assert_complete, assert_same_table, kill, last_checkpoint, status, worker

pytestmark = pytest.mark.slurm
pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs pip install -e '.[slurm]'")

# submitit takes its signal for the end of the time limit from ten minutes before that end, and for a preemption
# earlier: with ten minutes in all it always means the end.
JOB = {"partition": slurm.PARTITION, "cpus_per_task": 1, "mem_gb": 1, "timeout_min": 10}
PLAIN = ("hydra/launcher=submitit_slurm", *(f"hydra.launcher.{key}={value}" for key, value in JOB.items()))
STACKS_OF_TWO = (
    "hydra/launcher=stacked_slurm",
    "hydra.launcher.stack_size=2",
    *(f"hydra.launcher.inner.{key}={value}" for key, value in JOB.items()),
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """The variables by which SLURM's programs find it."""
    try:
        with slurm.running() as environment:
            yield environment
    except slurm.SlurmUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def plain(cluster: dict[str, str], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two runs, each of them a job, undisturbed."""
    sweep = Sweep(tmp_path_factory.mktemp("plain"), dataset, alphas=(1, 5), seeds=(0,), environment=cluster)
    assert sweep.run(*PLAIN) == 0, sweep.said()
    return sweep


def job_of(run: Path) -> str:
    """The SLURM job in which a run is being trained, as a task of its array: one task has the whole array's id."""
    entries = Path(f"/proc/{worker(run)}/environ").read_bytes().decode().split("\0")
    variables = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    if "SLURM_ARRAY_JOB_ID" in variables:
        return f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    return variables["SLURM_JOB_ID"]


def end_time_of(run: Path, cluster: dict[str, str]) -> None:
    """Do to a run's job what SLURM does some time before its limit, as submitit has asked it to."""
    subprocess.run(["scancel", "--signal=USR2", job_of(run)], env={**os.environ, **cluster}, check=True)


def n_jobs(sweep: Sweep) -> int:
    return len(list(sweep.folder.glob(".submitit/*/*_submitted.pkl")))


def test_one_run_a_job(plain: Sweep) -> None:
    assert_complete(plain)
    assert n_jobs(plain) == 2


def test_one_stack_a_job(cluster: dict[str, str], dataset: Path, in_one_process: Sweep, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0, 1), environment=cluster)
    assert sweep.run(*STACKS_OF_TWO) == 0, sweep.said()
    assert_complete(sweep)
    assert n_jobs(sweep) == 2
    assert_same_table(sweep, in_one_process)


def test_a_killed_stack_resumes_with_its_sweep(
    cluster: dict[str, str], dataset: Path, in_one_process: Sweep, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0, 1), environment=cluster)
    # submitit's launcher ends at the first job that is lost, and does not wait for those after it.
    kept, lost = sweep.runs[:2], sweep.runs[2:]
    with sweep.started(*STACKS_OF_TWO) as process:
        sweep.disturb({lost[0]: kill}, process)
        assert process.wait(SECONDS) == 2, sweep.said()  # the number of failed runs
    assert worker(lost[0]) == worker(lost[1]) != worker(kept[0])
    assert [status(run) for run in sweep.runs] == ["finished", "finished", "running", "running"], sweep.said()
    before = [last_checkpoint(run).stat().st_mtime_ns for run in kept]
    assert sweep.run(*STACKS_OF_TWO) == 0, sweep.said()
    assert_complete(sweep)
    assert [last_checkpoint(run).stat().st_mtime_ns for run in kept] == before
    assert_same_table(sweep, in_one_process)
    for run in lost:
        assert "resuming from" in (run / "train.log").read_text()


def test_a_stack_whose_time_is_up_is_queued_again_and_resumes(
    cluster: dict[str, str], dataset: Path, in_one_process: Sweep, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0, 1), environment=cluster)
    with sweep.started(*STACKS_OF_TWO) as process:
        sweep.disturb({sweep.runs[0]: lambda run: end_time_of(run, cluster)}, process)
        assert process.wait(SECONDS) == 0, sweep.said()
    assert any("Requeued job" in path.read_text() for path in sweep.folder.glob(".submitit/*/*_log.out")), sweep.said()
    assert n_jobs(sweep) == 2
    assert_complete(sweep)
    assert_same_table(sweep, in_one_process)


def test_a_killed_run_and_one_whose_time_is_up_for_good_resume_with_their_sweep(
    cluster: dict[str, str], dataset: Path, plain: Sweep, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0,), environment=cluster)
    with sweep.started(*PLAIN) as process:
        sweep.disturb({sweep.runs[0]: kill, sweep.runs[1]: lambda run: end_time_of(run, cluster)}, process)
        assert process.wait(SECONDS) != 0, sweep.said()
    assert [status(run) for run in sweep.runs] == ["running", "interrupted"], sweep.said()
    assert sweep.run(*PLAIN) == 0, sweep.said()
    assert_complete(sweep)
    assert_same_table(sweep, plain)
