"""The jobs of a multirun, composed and checked before the first of them starts."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from cql import config
from cql.config import ConfigError, TrainConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One point of the grid.

    Attributes:
        num: Hydra's number of the job.
        overrides: The job's own overrides.
        directory: The run's folder.
        key: `stack_key` of the run's config. Runs with equal keys may share a stack.
    """

    num: int
    overrides: list[str]
    directory: Path
    key: str


@dataclass(frozen=True)
class Multirun:
    """All jobs of a multirun.

    Attributes:
        jobs: One per point, in Hydra's order. Points with the same config share a folder.
        composed: The whole config of each job, Hydra's part included, by the job's number.
        checked: The config of each run, by its folder.
    """

    jobs: list[Job]
    composed: dict[int, DictConfig]
    checked: dict[Path, TrainConfig]

    @property
    def runs(self) -> dict[str, Job]:
        """The first job of each run, by the name of the run's folder."""
        first: dict[str, Job] = {}
        for job in self.jobs:
            first.setdefault(job.directory.name, job)
        return first


def compose(context: HydraContext, base: DictConfig, overrides: Sequence[str], num: int, job_id: str) -> DictConfig:
    """Compose the whole config of one job as Hydra's own launchers do."""
    composed = context.config_loader.load_sweep_config(base, list(overrides))
    with read_write(composed.hydra.job), open_dict(composed.hydra.job):
        composed.hydra.job.id, composed.hydra.job.num = job_id, num
    return composed


def pin_folder(composed: DictConfig, directory: Path) -> None:
    """Fix the name of a job's folder; otherwise it would be looked up again among the folders of a later moment."""
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.sweep.subdir = directory.name


def compose_all(
    context: HydraContext, base: DictConfig, job_overrides: Sequence[Sequence[str]], first: int
) -> Multirun:
    """Compose and check all jobs of a multirun.

    Args:
        context: Hydra's.
        base: The config of the multirun.
        job_overrides: The overrides of each job.
        first: The number of the first job.

    Raises:
        ConfigError: A config is wrong, or the folder of a run holds another config.
    """
    if not job_overrides:
        raise ConfigError("the sweep has no runs: one of its keys has no value, e.g. a glob() that matches no option")
    jobs: list[Job] = []
    composed: dict[int, DictConfig] = {}
    checked: dict[Path, TrainConfig] = {}
    by_config: dict[str, Path] = {}
    problems: list[str] = []
    for num, overrides in enumerate(job_overrides, start=first):
        composed[num] = compose(context, base, overrides, num, str(num))
        directory = Path(str(composed[num].hydra.sweep.dir), str(composed[num].hydra.sweep.subdir))
        train_config = config.checked(composed[num])
        if train_config.resume is not None:
            raise ConfigError(f"resume={train_config.resume} resumes a single run: drop -m")
        # Several points of the grid may have the same config: they are one run.
        twin = by_config.setdefault(config.run_key(train_config), directory)
        if twin != directory:
            log.info("%s is the same run as %s", directory.name, twin.name)
            directory = twin
        pin_folder(composed[num], directory)
        path, plain = directory / config.RUN_CONFIG_FILE, config.to_dict(train_config)
        # Two points may also have the same name and different configs.
        others = [config.to_dict(checked[directory])] if directory in checked else []
        if path.exists() and config.has_begun(directory):
            with contextlib.suppress(ConfigError, OSError):  # a damaged one is the trouble of its own run
                others.append(config.saved_config(path))
        for other in others:
            problems += [f"{directory.name}: {line}" for line in config.differences(other, plain)]
        checked.setdefault(directory, train_config)
        jobs.append(Job(num, list(overrides), directory, config.stack_key(train_config)))
    if problems:
        raise ConfigError(
            f"{base.hydra.sweep.dir} holds runs with another config and is left as it is; give another sweep_name, "
            "or undo these changes:\n  " + "\n  ".join(problems)
        )
    return Multirun(jobs, composed, checked)


def remove_if_empty(sweep: Path) -> None:
    """Remove the folder of a sweep that was refused before its first run, so that its name stays free."""
    before_runs = {config.SWEEP_FILE, config.SWEEP_LOCK_FILE, config.SWEEP_IN_USE_FILE, "multirun.yaml", "sweep.log"}
    with contextlib.suppress(OSError):  # the refusal itself is what the user has to read
        there = list(sweep.iterdir())
        if {path.name for path in there} <= before_runs:
            for path in there:
                path.unlink()
            sweep.rmdir()
