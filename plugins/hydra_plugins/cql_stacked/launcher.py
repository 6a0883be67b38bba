"""The stacking launcher: runs of a multirun that may share a stack train together.

It composes all jobs, groups those with equal ``stack_key``, and trains each group as a stack: here, in one process per
GPU, or as one job of another launcher. The work is done by ``cql.sweep``; what only Hydra knows is here.

Hydra imports this module at every start, so heavy modules are imported inside functions. There is no ``from __future__
import annotations``: Hydra 1.3 executes the module before it is in ``sys.modules``, and a dataclass then fails.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger(__name__)


@dataclass
class StackedConf:
    """Config of the launcher.

    Attributes:
        stack_size: The most runs per stack; null for what fits into memory.
        workers: Stacks that train at the same time on one machine and share its memory.
        inner: Config of another launcher, one job of which trains one stack; null trains them in this process.
    """

    _target_: str = "hydra_plugins.cql_stacked.launcher.StackedLauncher"
    _recursive_: bool = False  # `inner` has a _target_ of its own, which must not be built here
    stack_size: int | None = None
    workers: int = 1
    inner: Any = None


ConfigStore.instance().store(group="hydra/launcher", name="stacked", node=StackedConf, provider="cql")


class StackedLauncher(Launcher):
    """Trains the jobs of a multirun in stacks; the arguments are those of :class:`StackedConf`."""

    def __init__(self, stack_size: int | None = None, workers: int = 1, inner: DictConfig | None = None) -> None:
        self.stack_size, self.workers, self.inner = stack_size, workers, inner

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over, and have it compose the jobs quickly from now on."""
        from cql.sweep.composition import SweepLoader

        if not isinstance(hydra_context.config_loader, SweepLoader):
            hydra_context.config_loader = SweepLoader(hydra_context.config_loader)  # type: ignore[assignment]
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train all jobs.

        Returns:
            One return per job, in their order: the score, or the failure of that run alone.

        Raises:
            ConfigError: A run's folder holds another config, or an option does not fit stacks; nothing was started.
            SystemExit: A signal ended the runs, each with a checkpoint.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        from cql.config import sweep_started
        from cql.sweep import jobs, stacks
        from cql.sweep.status import counted, counts, read_status
        from cql.training import device

        sweep = Path(str(self.config.hydra.sweep.dir))
        sweep.mkdir(parents=True, exist_ok=True)
        try:
            self._check()
            multirun = jobs.compose_all(self.hydra_context, self.config, job_overrides, initial_job_idx)
            runs = multirun.runs
            examples = {job.key: multirun.checked[job.directory] for job in runs.values()}
            n_devices = 1 if self.inner is not None else device.n_devices(next(iter(examples.values())))
            keys = {name: job.key for name, job in runs.items()}
            sizes = stacks.largest_sizes(
                examples, list(keys.values()), stack_size=self.stack_size, workers=self.workers, n_devices=n_devices
            )
            plan = stacks.plan(sweep, keys, sizes)
        except Exception:
            jobs.remove_if_empty(sweep)
            raise
        finally:
            sweep_started()
        states = counts(read_status(job.directory)[0] for job in runs.values())
        log.info(
            "sweep %s: %s (%s) in %s; to resume it, add sweep_name=%s to the same command",
            sweep, counted(len(runs), "run"),
            ", ".join(f"{count} {'new' if state == 'waiting' else state}" for state, count in states.items()),
            counted(len(plan), "stack"), sweep.name,
        )  # fmt: skip
        done = self._train(multirun, [[runs[name] for name in names] for names in plan], n_devices, initial_job_idx)
        _conclude(sweep, done)
        return [done[job.directory] for job in multirun.jobs]

    def _check(self) -> None:
        """Check that the options fit each other.

        Raises:
            ConfigError: They do not.
        """
        from cql.config import ConfigError

        if not getattr(self.task_function, "is_stackable", False):
            raise ConfigError(
                f"hydra/launcher=stacked trains the runs of scripts/train.py in stacks, and would not call your "
                f"{getattr(self.task_function, '__name__', 'task function')}: choose hydra/launcher=basic, or mark a "
                "function that does no more than scripts/train.py with cql.config.stackable"
            )
        for name, value in (("stack_size", self.stack_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ConfigError(f"hydra.launcher.{name}={value} is out of range: it must be at least 1")
        if self.workers > 1 and self.inner is None:
            raise ConfigError(
                f"hydra.launcher.workers={self.workers} has no effect in one process: choose "
                "hydra/launcher=stacked_joblib, or drop it"
            )
        if self.config.hydra.job.chdir:
            raise ConfigError("hydra.job.chdir=true is impossible with stacks, whose runs share a process: drop it")

    def _train(self, multirun: Any, plan: list[list[Any]], n_devices: int, first: int) -> dict[Path, JobReturn]:
        """Train the stacks of a plan; the return of each run, by its folder."""
        from cql.sweep import nested_jobs, workers

        if self.inner is not None:
            return workers.train_by_launcher(self.hydra_context, self.config, plan, first)
        if n_devices > 1 and len(plan) > 1:
            return workers.train_on_devices(self.hydra_context, self.config, plan, n_devices)
        done: dict[Path, JobReturn] = {}
        for number, stack in enumerate(plan, start=1):
            composed = [multirun.composed[job.num] for job in stack]
            returns = nested_jobs.train_stack(self.hydra_context, composed, f"stack {number}/{len(plan)}")
            done |= dict(zip((job.directory for job in stack), returns, strict=True))
        return done


def _conclude(sweep: Path, done: Mapping[Path, JobReturn]) -> None:
    """Log how the sweep went, tell each failure their number (the exit code), and draw the figure."""
    from cql.commands import command, script
    from cql.lock import FolderInUseError
    from cql.results import sweep_figure
    from cql.sweep.status import SWEEPS, counted

    failures = [result for result in done.values() if result.status is not JobStatus.COMPLETED]
    for result in failures:
        result._return_value.n_failed = len(failures)
    in_use = sum(isinstance(result._return_value.__cause__, FolderInUseError) for result in failures)
    log.info(
        "sweep %s: %d of %s finished, %d failed%s", sweep, len(done) - len(failures), counted(len(done), "run"),
        len(failures) - in_use, f", {in_use} being trained by another process" if in_use else "",
    )  # fmt: skip
    if any(sweep.glob("*/wandb/offline-run-*")):
        log.info("to upload the offline W&B runs: %s/*/wandb/offline-run-*", command("wandb", "sync", sweep))
    try:
        log.info("figure: %s", sweep_figure.sweep_curves(sweep))
    except FileNotFoundError as error:
        log.info("no figure of the sweep: %s", error)
    except Exception as error:  # noqa: BLE001  the figure can be drawn again, the runs cannot
        log.warning("no figure of the sweep: %s: %s", type(error).__name__, error)
    if len(failures) < len(done):
        log.info("next: %s", script("report", sweep.name if sweep == SWEEPS / sweep.name else sweep))
