"""Stacks in worker processes: one process per GPU, or the jobs of another launcher (joblib, submitit, Ray)."""

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cql import config
from cql.lock import held
from cql.sweep.jobs import Job, compose, pin_folder
from cql.sweep.nested_jobs import failed_return, train_stack
from cql.training import run_folder
from cql.training.experiment import RunFailed

log = logging.getLogger(__name__)

_GRACE = 30.0  # seconds without a sign of life, longer than a worker takes to start


class StackTask:
    """Trains the stacks of a sweep, one per call. It can be pickled, so other launchers can run it as their job.

    Args:
        context: Hydra's.
        config: The config of the multirun.
        stacks: All stacks of the sweep.
        first: The number of the first job.
    """

    def __init__(self, context: HydraContext, config: DictConfig, stacks: Sequence[Sequence[Job]], first: int) -> None:
        self._context, self._config, self._stacks, self._first = context, config, stacks, first

    def __call__(self, _: DictConfig) -> list[JobReturn]:
        """Train the stack with the number of the surrounding job."""
        job = HydraConfig.get().job
        return self.train(job.num - self._first, str(job.id))

    def train(self, index: int, job_id: str) -> list[JobReturn]:
        """Train one stack.

        Args:
            index: The number of the stack, from 0 on.
            job_id: What Hydra knows the job by.
        """
        config.register()  # in a new process, Hydra does not know our launcher yet
        stack = self._stacks[index]
        composed = [compose(self._context, self._config, job.overrides, job.num, job_id) for job in stack]
        for job, cfg in zip(stack, composed, strict=True):
            pin_folder(cfg, job.directory)
        return train_stack(self._context, composed, f"stack {index + 1}/{len(self._stacks)}")


def train_by_launcher(
    context: HydraContext, base: DictConfig, stacks: Sequence[Sequence[Job]], first: int
) -> dict[Path, JobReturn]:
    """Train each stack as one job of the inner launcher.

    Args:
        context: Hydra's.
        base: The config of the multirun; ``hydra.launcher.inner`` is the config of the inner launcher.
        stacks: All stacks of the sweep.
        first: The number of the first job.

    Returns:
        The return of each run, by its folder.
    """
    edited = base.copy()
    with read_write(edited.hydra), open_dict(edited.hydra):
        # Resolved first: its interpolations are relative to its place in the config.
        edited.hydra.launcher = OmegaConf.to_container(base.hydra.launcher.inner, resolve=True)
    task = StackTask(context, base, stacks, first)
    inner = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=edited)
    # Set up again with the unedited config: Hydra 1.4 composes no jobs from one whose launcher was changed.
    inner.setup(hydra_context=context, task_function=task, config=base)
    overrides = [
        [*stack[0].overrides, f"hydra.sweep.subdir=.stacks/{first + index}"] for index, stack in enumerate(stacks)
    ]
    results: Sequence[Any]
    try:
        # Not `return_value`, which raises if a job failed.
        results = [result._return_value for result in inner.launch(overrides, first)]
    except Exception as error:  # noqa: BLE001  joblib, submitit and Ray each have their own for a worker that died
        log.error("%s lost a worker: %s: %s", type(inner).__name__, type(error).__name__, error)
        _wait_for_others(stacks)
        results = [error] * len(stacks)
    return _by_folder(stacks, results)


def train_on_devices(
    context: HydraContext, base: DictConfig, stacks: Sequence[Sequence[Job]], n_devices: int
) -> dict[Path, JobReturn]:
    """Train the stacks in one process per GPU.

    Args:
        context: Hydra's.
        base: The config of the multirun.
        stacks: All stacks of the sweep.
        n_devices: The number of GPUs.

    Returns:
        The return of each run, by its folder.
    """
    spawn = multiprocessing.get_context("spawn")
    devices = spawn.Queue()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for device in visible.split(",") if visible else map(str, range(n_devices)):
        devices.put(device)
    task = StackTask(context, base, stacks, 0)
    results: list[Any] = []
    with ProcessPoolExecutor(n_devices, mp_context=spawn, initializer=_start_worker, initargs=(devices,)) as pool:
        futures = [pool.submit(task.train, index, str(index)) for index in range(len(stacks))]
        for future in futures:
            try:
                results.append(future.result())
            except Exception as error:  # noqa: BLE001  the other stacks have results
                log.error("a worker ended: %s: %s", type(error).__name__, error)
                results.append(error)
    return _by_folder(stacks, results)


def _start_worker(devices: Any) -> None:
    """Take a GPU, the only one that this process sees, and set up Hydra and logging."""
    device = os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    config.register()
    setup_globals()
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s (on GPU {device}) %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
        force=True,
    )


def _by_folder(stacks: Sequence[Sequence[Job]], results: Sequence[Any]) -> dict[Path, JobReturn]:
    """The returns by folder; for a stack whose worker died, what the folders of its runs say.

    Args:
        stacks: All stacks of the sweep.
        results: For each stack a list of returns, or the error that ended its worker.
    """
    done: dict[Path, JobReturn] = {}
    for stack, result in zip(stacks, results, strict=True):
        if isinstance(result, list):
            done |= dict(zip((job.directory for job in stack), result, strict=True))
            continue
        for job in stack:
            summary = _summary(job.directory)
            if summary.get("status") == "finished":
                score = run_folder.score(summary)
                done[job.directory] = JobReturn(job.overrides, status=JobStatus.COMPLETED, _return_value=score)
            else:
                progress = f"stopped at step {summary['step']}" if "step" in summary else "did not start"
                error = RunFailed(f"{job.directory} {progress}: its worker died ({type(result).__name__}: {result})")
                done[job.directory] = failed_return(error, job.overrides)
    return done


def _summary(directory: Path) -> dict[str, Any]:
    try:
        return run_folder.read_summary(directory)
    except run_folder.FolderError:  # said when the run is started again
        return {}


def _wait_for_others(stacks: Sequence[Sequence[Job]]) -> None:
    """Wait for the stacks that still train: launchers give up at the first lost job, but the other workers continue."""
    directories = [job.directory for stack in stacks for job in stack]
    if not any(directory.exists() for directory in directories):
        return  # no job has started: the launcher itself failed
    last_seen, said = time.monotonic(), False
    while time.monotonic() - last_seen < _GRACE:
        if all(_summary(directory).get("status") in ("finished", "failed") for directory in directories):
            return
        if any(held(directory) for directory in directories):
            last_seen = time.monotonic()
            if not said:
                log.info("waiting for the stacks that still train; Ctrl-C ends the waiting, not the training")
            said = True
        time.sleep(0.5)
