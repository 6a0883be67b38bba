"""Sweeps through a Ray of this machine: one run a task, one stack a task, and tasks that lose their worker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from multirun import SECONDS, Sweep, assert_complete, assert_same_table, kill, last_checkpoint, status, worker

pytestmark = pytest.mark.ray
pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs pip install -e '.[ray]'")

PLAIN = (
    "hydra/launcher=ray",
    "+hydra.launcher.ray.init.num_cpus=2",
    "+hydra.launcher.ray.init.include_dashboard=false",
)
STACKS_OF_TWO = (
    "hydra/launcher=stacked_ray",
    "hydra.launcher.stack_size=2",
    "+hydra.launcher.inner.ray.init.num_cpus=2",
    "+hydra.launcher.inner.ray.init.include_dashboard=false",
)


@pytest.fixture(scope="module")
def quiet() -> Iterator[dict[str, str]]:
    """Variables with which Ray writes nothing outside a folder of its own, and reports nothing to its makers."""
    # Not in pytest's folder: a socket's path may have a hundred letters only.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def plain(dataset: Path, quiet: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two runs, each of them a task, undisturbed."""
    sweep = Sweep(tmp_path_factory.mktemp("plain"), dataset, alphas=(1, 5), seeds=(0,), environment=quiet)
    assert sweep.run(*PLAIN) == 0, sweep.said()
    return sweep


def test_one_run_a_task(plain: Sweep) -> None:
    assert_complete(plain)


def test_one_stack_a_task(dataset: Path, in_one_process: Sweep, quiet: dict[str, str], tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0, 1), environment=quiet)
    assert sweep.run(*STACKS_OF_TWO) == 0, sweep.said()
    assert_complete(sweep)
    assert_same_table(sweep, in_one_process)


def test_a_killed_stack_resumes_in_the_next_worker(
    dataset: Path, in_one_process: Sweep, quiet: dict[str, str], tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0, 1), environment=quiet)
    lost, kept, killed = sweep.runs[:2], sweep.runs[2:], []
    with sweep.started(*STACKS_OF_TWO) as process:
        sweep.disturb({lost[0]: lambda run: (killed.append(worker(run)), kill(run))}, process)
        assert process.wait(SECONDS) == 0, sweep.said()  # Ray gives a task that lost its worker to another one
    assert worker(lost[0]) == worker(lost[1]) not in (*killed, worker(kept[0]))
    assert_complete(sweep)
    assert_same_table(sweep, in_one_process)


def test_a_killed_stack_resumes_with_its_sweep(
    dataset: Path, in_one_process: Sweep, quiet: dict[str, str], tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0, 1), environment=quiet)
    lost, kept = sweep.runs[2:], sweep.runs[:2]
    with sweep.started(*STACKS_OF_TWO, "+hydra.launcher.inner.ray.remote.max_retries=0") as process:
        sweep.disturb({lost[0]: kill}, process)
        assert process.wait(SECONDS) == 2, sweep.said()  # the number of failed runs
    assert [status(run) for run in sweep.runs] == ["finished", "finished", "running", "running"], sweep.said()
    before = [last_checkpoint(run).stat().st_mtime_ns for run in kept]
    assert sweep.run(*STACKS_OF_TWO) == 0, sweep.said()
    assert_complete(sweep)
    assert [last_checkpoint(run).stat().st_mtime_ns for run in kept] == before
    assert_same_table(sweep, in_one_process)


def test_a_killed_run_resumes_with_its_sweep(
    dataset: Path, plain: Sweep, quiet: dict[str, str], tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, dataset, alphas=(1, 5), seeds=(0,), environment=quiet)
    with sweep.started(*PLAIN, "+hydra.launcher.ray.remote.max_retries=0") as process:
        sweep.disturb({sweep.runs[1]: kill}, process)
        assert process.wait(SECONDS) != 0, sweep.said()
    assert status(sweep.runs[1]) == "running", sweep.said()
    assert sweep.run(*PLAIN) == 0, sweep.said()
    assert_complete(sweep)
    assert_same_table(sweep, plain)
