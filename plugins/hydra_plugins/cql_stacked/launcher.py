"""The stacking launcher: runs of a multirun that may be stacked train together, as slices of the same products.

It composes all jobs, groups those with equal ``stack_key``, and gives each group one call of ``experiment.run_stack``,
here or as one job of another launcher (joblib, submitit, Ray). Around that call Hydra's own ``run_job`` is nested once
per run, so that every run is a job like any other: its own HydraConfig, callbacks and ``JobReturn``.

Hydra imports this module at every start: what is heavy is imported where it is used. No ``from __future__ import
annotations`` here: Hydra 1.3 executes the module before it is in ``sys.modules``, and a dataclass then fails.
"""

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

log = logging.getLogger(__name__)


@dataclass
class StackedConf:
    """Config of the launcher.

    Attributes:
        stack_size: Most runs in a stack; null for what fits into memory.
        workers: Stacks that train at the same time on one machine and share its memory.
        inner: Config of another launcher, one job of which trains one stack; null trains them here.
    """

    _target_: str = "hydra_plugins.cql_stacked.launcher.StackedLauncher"
    _recursive_: bool = False  # `inner` has a _target_ of its own, which is not to be built here
    stack_size: int | None = None
    workers: int = 1
    inner: Any = None


ConfigStore.instance().store(group="hydra/launcher", name="stacked", node=StackedConf, provider="cql")


@dataclass(frozen=True)
class Job:
    """One run of the multirun.

    Attributes:
        num: Hydra's number of the job.
        overrides: of the job.
        directory: the run's folder.
        key: of the stacks that it may be part of.
    """

    num: int
    overrides: list[str]
    directory: Path
    key: str


class StackedLauncher(Launcher):
    """Trains the jobs of a multirun in stacks; the arguments are those of :class:`StackedConf`."""

    def __init__(self, stack_size: int | None = None, workers: int = 1, inner: DictConfig | None = None) -> None:
        self.stack_size, self.workers, self.inner = stack_size, workers, inner

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train all jobs.

        Returns:
            One return a job, in their order: the score, or the failure of that run alone.

        Raises:
            ConfigError: a run's folder holds another config, or an option does not fit stacks; nothing was started.
            SystemExit: a signal ended the runs, each with a checkpoint.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        from cql.training import device

        sweep = Path(str(self.config.hydra.sweep.dir))
        sweep.mkdir(parents=True, exist_ok=True)
        try:
            self._check()
            jobs, configs, folders = self._compose(job_overrides, initial_job_idx)
        except Exception:
            _clear_away(sweep)
            raise
        by_name: dict[str, Job] = {}
        for job in jobs:
            by_name.setdefault(job.directory.name, job)
        n_devices = 1 if self.inner is not None else device.n_devices(folders[jobs[0].directory])
        keys = {name: job.key for name, job in by_name.items()}
        examples = {job.key: folders[job.directory] for job in by_name.values()}
        sizes = self._sizes(examples, list(keys.values()), n_devices)
        stacks = [[by_name[name] for name in stack] for stack in _planned(sweep, keys, sizes)]
        states = [_state(job.directory) for job in by_name.values()]
        log.info(
            "sweep %s: %s (%s) in %s; to take it up again, add sweep_name=%s to the same command",
            sweep, _number(len(by_name), "run"),
            ", ".join(f"{states.count(each)} {each}" for each in dict.fromkeys(states)),
            _number(len(stacks), "stack"), sweep.name,
        )  # fmt: skip
        if self.inner is not None:
            done = self._delegate(stacks, initial_job_idx)
        elif n_devices > 1 and len(stacks) > 1:
            done = self._on_devices(stacks, n_devices)
        else:
            done = {}
            for index, stack in enumerate(stacks):
                label = f"stack {index + 1}/{len(stacks)}"
                returns = run_stack(self.hydra_context, [configs[job.num] for job in stack], label)
                done |= dict(zip((job.directory for job in stack), returns, strict=True))
        _conclude(sweep, done)
        return [done[by_name[job.directory.name].directory] for job in jobs]

    def _check(self) -> None:
        """See that the options fit each other.

        Raises:
            ConfigError: they do not.
        """
        from cql.config import ConfigError

        for name, value in (("stack_size", self.stack_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ConfigError(f"hydra.launcher.{name}={value} is out of range: it must be at least 1")
        if self.workers > 1 and self.inner is None:
            raise ConfigError(
                f"hydra.launcher.workers={self.workers} has no effect in one process: choose "
                "hydra/launcher=stacked_joblib, or drop it"
            )
        if self.config.hydra.job.chdir:
            raise ConfigError("hydra.job.chdir=true cannot hold for runs that share a process: leave it out")

    def _compose(
        self, job_overrides: Sequence[Sequence[str]], first: int
    ) -> tuple[list[Job], dict[int, DictConfig], dict[Path, Any]]:
        """The jobs, their whole configs by number, and the checked ones by folder."""
        from cql import config
        from cql.config import ConfigError

        jobs: list[Job] = []
        configs: dict[int, DictConfig] = {}
        checked: dict[Path, Any] = {}
        by_config: dict[str, Path] = {}
        problems: list[str] = []
        for num, overrides in enumerate(job_overrides, start=first):
            configs[num] = compose(self.hydra_context, self.config, list(overrides), num, str(num))
            directory = Path(str(configs[num].hydra.sweep.dir), str(configs[num].hydra.sweep.subdir))
            one = config.checked(configs[num])
            if one.resume is not None:
                raise ConfigError(f"resume={one.resume} goes on with one run: leave out -m")
            # One run, however many points of the grid come to it.
            twin = by_config.setdefault(config.run_key(one), directory)
            if twin != directory:
                log.info("%s is the same run as %s", directory.name, twin.name)
                directory = twin
            _pin(configs[num], directory)
            path, plain = directory / config.RUN_CONFIG_FILE, config.to_dict(one)
            # Two points that a name does not tell apart.
            others = [config.to_dict(checked[directory])] if directory in checked else []
            for other in [*others, *([config.saved_config(path)] if path.exists() else [])]:
                problems += [f"{directory.name}: {line}" for line in config.differences(other, plain)]
            checked.setdefault(directory, one)
            jobs.append(Job(num, list(overrides), directory, config.stack_key(one)))
        if problems:
            raise ConfigError(
                f"{self.config.hydra.sweep.dir} holds runs with another config and is left as it is; give another "
                "sweep_name, or take back:\n  " + "\n  ".join(problems)
            )
        return jobs, configs, checked

    def _sizes(self, configs: Mapping[str, Any], keys: list[str], n_devices: int) -> dict[str, int]:
        """Most runs of a stack, by key.

        Args:
            configs: one with each key.
            keys: of all runs.
            n_devices: stacks that train at the same time, each on a device of its own.
        """
        from cql.training import device

        if self.stack_size is not None:
            return dict.fromkeys(configs, self.stack_size)
        sizes, fitting = {}, []
        for key, train_config in configs.items():
            size, why = device.fitting_stack_size(train_config, self.workers)
            fitting.append((size, why))
            # Not one stack for the first worker and nothing for the others.
            sizes[key] = min(size, -(-keys.count(key) // max(self.workers, n_devices)))
        # The tightest, where there are several.
        log.info("at most %s a stack: %s", _number(min(fitting)[0], "run"), min(fitting)[1])
        return sizes

    def _delegate(self, stacks: list[list[Job]], first: int) -> dict[Path, JobReturn]:
        """Hand each stack to the inner launcher, as one of its jobs."""
        edited = self.config.copy()
        with read_write(edited.hydra), open_dict(edited.hydra):
            # Without its interpolations, which mean the place where it now stands.
            edited.hydra.launcher = OmegaConf.to_container(self.config.hydra.launcher.inner, resolve=True)
        task = StackTask(self.hydra_context, self.config, stacks, first)
        inner = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=task, config=edited
        )
        # Again with the config as it is: Hydra 1.4 composes no jobs for one whose launcher was changed.
        inner.setup(hydra_context=self.hydra_context, task_function=task, config=self.config)
        overrides = [
            [*stack[0].overrides, f"hydra.sweep.subdir=.stacks/{first + index}"] for index, stack in enumerate(stacks)
        ]
        try:
            # Not `return_value`, which raises where a job failed.
            results = [result._return_value for result in inner.launch(overrides, first)]
        except Exception as error:  # noqa: BLE001  joblib, submitit and Ray each have their own for a worker that died
            log.error("%s lost a worker: %s: %s", type(inner).__name__, type(error).__name__, error)
            _wait_for_others(stacks)
            results = [error] * len(stacks)
        return _by_folder(stacks, results)

    def _on_devices(self, stacks: list[list[Job]], n_devices: int) -> dict[Path, JobReturn]:
        """Train the stacks in one process per GPU."""
        context = multiprocessing.get_context("spawn")
        devices = context.Queue()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        for device in visible.split(",") if visible else map(str, range(n_devices)):
            devices.put(device)
        task = StackTask(self.hydra_context, self.config, stacks, 0)
        results: list[Any] = []
        with ProcessPoolExecutor(n_devices, mp_context=context, initializer=_take_device, initargs=(devices,)) as pool:
            futures = [pool.submit(task.train, index, str(index)) for index in range(len(stacks))]
            for future in futures:
                try:
                    results.append(future.result())
                except Exception as error:  # noqa: BLE001  one stack's end may not take the others' results along
                    log.error("a worker ended: %s: %s", type(error).__name__, error)
                    results.append(error)
        return _by_folder(stacks, results)


class StackTask:
    """What a worker of another launcher calls: trains the stack that is its job. Pickles.

    Args:
        context: Hydra's.
        config: of the multirun.
        stacks: all of them.
        first: number of the first job.
    """

    def __init__(self, context: HydraContext, config: DictConfig, stacks: list[list[Job]], first: int) -> None:
        self.context, self.config, self.stacks, self.first = context, config, stacks, first

    def __call__(self, _: DictConfig) -> list[JobReturn]:
        """Train the stack whose number the surrounding job has."""
        job = HydraConfig.get().job
        return self.train(job.num - self.first, str(job.id))

    def train(self, index: int, job_id: str) -> list[JobReturn]:
        """Train one of the stacks."""
        stack = self.stacks[index]
        configs = [compose(self.context, self.config, job.overrides, job.num, job_id) for job in stack]
        for job, config in zip(stack, configs, strict=True):
            _pin(config, job.directory)
        return run_stack(self.context, configs, f"stack {index + 1}/{len(self.stacks)}")


def compose(context: HydraContext, base: DictConfig, overrides: list[str], num: int, job_id: str) -> DictConfig:
    """The whole config of one job, as Hydra's own launchers make it."""
    config = context.config_loader.load_sweep_config(base, overrides)
    with read_write(config.hydra.job), open_dict(config.hydra.job):
        config.hydra.job.id, config.hydra.job.num = job_id, num
    return config


def _pin(config: DictConfig, directory: Path) -> None:
    """Fix a job's folder, which its config would look up anew, among the folders that there are by then."""
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.subdir = directory.name


def run_stack(context: HydraContext, configs: list[DictConfig], label: str) -> list[JobReturn]:
    """Train one stack, each run of it in a job of its own: level i of the nesting is the job of run i.

    Raises:
        SystemExit: a signal ended the runs.
    """
    from cql import config
    from cql.training import experiment, run_folder
    from cql.training.experiment import RunFailed

    returns: dict[int, JobReturn] = {}
    claimed: dict[int, tuple[Any, Path]] = {}
    outcomes: dict[int, float | Exception] = {}

    def level(index: int) -> None:
        if index == len(configs):
            if claimed:
                results = experiment.run_stack(*map(list, zip(*claimed.values(), strict=True)), label=label)
                outcomes.update(zip(claimed, results, strict=True))
            return
        entered = False

        def task(cfg: DictConfig) -> float:
            nonlocal entered
            entered = True
            # Now, not within the call: the innermost job is the one that HydraConfig then tells of.
            directory = Path(HydraConfig.get().runtime.output_dir)
            try:
                train_config = config.checked(cfg)
                run_folder.claim_folder(train_config, directory)
                claimed[index] = (train_config, directory)
            except Exception as error:  # noqa: BLE001  one run's trouble is its own
                log.error("%s: %s", directory, error)
                outcomes[index] = error
            level(index + 1)
            outcome = outcomes[index]
            if isinstance(outcome, RunFailed):
                raise outcome
            if isinstance(outcome, Exception):
                raise RunFailed(f"{directory}: {type(outcome).__name__}: {outcome}") from outcome
            return outcome

        try:
            returns[index] = run_job(
                hydra_context=context,
                task_function=task,
                config=configs[index],
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                configure_logging=False,  # it would close the handlers of the runs around this one
            )
        except OSError as error:
            if entered:
                raise
            # The job's folder could not be made.
            log.error("%s", error)
            returns[index] = _failed(RunFailed(str(error)), configs[index].hydra.overrides.task)
            level(index + 1)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 10 * len(configs))
    try:
        level(0)
    finally:
        sys.setrecursionlimit(limit)
    return [returns[index] for index in range(len(configs))]


def _planned(sweep: Path, keys: Mapping[str, str], sizes: Mapping[str, int]) -> list[list[str]]:
    """Make up the stacks, and write them down.

    Runs that were in one stack before are again, at their places, so that a sweep that was stopped goes on with the
    very products that it would have had. Others form stacks in the order of their names, whatever that of the grid.

    Args:
        sweep: its folder.
        keys: stack key of each run, by its folder's name.
        sizes: most runs of a stack, by key.

    Returns:
        Names of the runs of each stack.
    """
    from cql.sweep.status import STACKS_FILE

    path = sweep / STACKS_FILE
    recorded: list[list[str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def split(names: Iterable[str]) -> list[list[str]]:
        by_key: dict[str, list[str]] = {}
        for name in names:
            by_key.setdefault(keys[name], []).append(name)
        return [chunk for key, together in by_key.items() for chunk in _chunks(together, sizes[key])]

    stacks = [chunk for before in recorded for chunk in split(name for name in before if name in keys)]
    fresh = split(sorted(keys.keys() - {name for before in recorded for name in before}))
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(recorded + fresh, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return stacks + fresh


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _state(directory: Path) -> str:
    """How a run stands before its sweep begins or goes on."""
    from cql.sweep import status as sweeps
    from cql.training import run_folder

    found = sweeps.status(directory, run_folder.read_summary(directory))
    return "new" if found == "waiting" else found


def _chunks(names: list[str], size: int) -> list[list[str]]:
    """As few chunks of at most this size as there can be, of nearly equal lengths."""
    n_chunks = -(-len(names) // size)
    bounds = [round(index * len(names) / n_chunks) for index in range(n_chunks + 1)]
    return [names[start:end] for start, end in itertools.pairwise(bounds)]


def _failed(error: Exception, overrides: Sequence[str]) -> JobReturn:
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=error)


def _by_folder(stacks: list[list[Job]], results: Sequence[Any]) -> dict[Path, JobReturn]:
    """The returns of delegated stacks; of one whose worker died, what its runs' folders say."""
    from cql.training import run_folder
    from cql.training.experiment import RunFailed

    done: dict[Path, JobReturn] = {}
    for stack, result in zip(stacks, results, strict=True):
        if isinstance(result, list):
            done |= dict(zip((job.directory for job in stack), result, strict=True))
            continue
        for job in stack:
            summary = run_folder.read_summary(job.directory)
            if summary.get("status") == "finished":
                score = run_folder.score(summary)
                done[job.directory] = JobReturn(
                    overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=score
                )
            else:
                where = f"stands at step {summary['step']}" if "step" in summary else "has not begun"
                reason = RunFailed(f"{job.directory} {where}; its worker is lost ({type(result).__name__}: {result})")
                done[job.directory] = _failed(reason, job.overrides)
    return done


def _wait_for_others(stacks: list[list[Job]]) -> None:
    """Wait for the stacks that train on: launchers give up at the first job that they lose, their workers do not."""
    from cql.training import run_folder
    from cql.training.lock import held

    directories = [job.directory for stack in stacks for job in stack]
    if not any(directory.exists() for directory in directories):
        return  # not even begun: it was the launcher itself that failed
    last_seen = time.monotonic()
    while time.monotonic() - last_seen < _GRACE:
        if any(held(directory) for directory in directories):
            if time.monotonic() - last_seen > 1:
                log.info("waiting for the stacks that train on; Ctrl-C leaves them to it")
            last_seen = time.monotonic()
        if all(run_folder.read_summary(directory).get("status") in ("finished", "failed") for directory in directories):
            return
        time.sleep(0.5)


_GRACE = 30.0  # seconds without a sign of life, longer than a worker takes to start


def _clear_away(sweep: Path) -> None:
    """Remove what stands in the folder of a sweep before its first run, if there is nothing else."""
    from cql import config

    before_runs = {config.SWEEP_FILE, "multirun.yaml", "sweep.log"}
    with contextlib.suppress(OSError):  # what was refused is said all the same
        there = list(sweep.iterdir())
        if {path.name for path in there} <= before_runs:
            for path in there:
                path.unlink()
            sweep.rmdir()


def _conclude(sweep: Path, done: Mapping[Path, JobReturn]) -> None:
    """Say how the sweep went, tell the failures how many they are, and draw the figure."""
    from cql.results import sweep_figure
    from cql.training.lock import FolderInUseError

    failures = [result for result in done.values() if result.status is not JobStatus.COMPLETED]
    for result in failures:
        result._return_value.n_failed = len(failures)
    in_use = sum(isinstance(result._return_value.__cause__, FolderInUseError) for result in failures)
    log.info(
        "sweep %s: %d of %s finished, %d failed%s", sweep, len(done) - len(failures), _number(len(done), "run"),
        len(failures) - in_use, f", {in_use} being trained by another process" if in_use else "",
    )  # fmt: skip
    if any(sweep.glob("*/wandb/offline-run-*")):
        log.info("to upload what W&B has offline: wandb sync %s/*/wandb/offline-run-*", sweep)
    try:
        log.info("figure: %s", sweep_figure.sweep_curves(sweep))
    except FileNotFoundError as error:
        log.info("no figure of the sweep: %s", error)
    except Exception as error:  # noqa: BLE001  the figure can be drawn again, the night's runs cannot
        log.warning("no figure of the sweep: %s: %s", type(error).__name__, error)


def _take_device(devices: Any) -> None:
    """Begin a worker process: one GPU is all that it sees, and Hydra knows what it knew where the sweep began."""
    device = os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    from cql import config

    config.register()
    setup_globals()
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s (on GPU {device}) %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
    )
