"""A run's place in Weights & Biases: its project, name, group and tags."""

import contextlib
import dataclasses
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cql import config, lock, points
from cql.config import TrainConfig
from cql.rollout.envs import EnvInfo
from cql.training.build import env_of, hyper_params
from cql.training.curves import KEY_CURVES_FILE
from cql.training.provenance import versions
from cql.training.run_folder import read_summary, sweep_name
from cql.training.wandb_logger import SHORT_TIMEOUT, WandbLogger, finish_all, is_complete, open_wandb
from cql.training.wandb_mode import SERVER, choose_mode, is_disabled

log = logging.getLogger(__name__)


def open_wandb_run(train_config: TrainConfig, info: EnvInfo, directory: Path, *, disabled: bool) -> WandbLogger:
    """Open a run's W&B run, or a logger that does nothing if W&B is off or ``disabled`` is set."""
    plain = {
        **config.to_dict(train_config),
        "coefficients": dataclasses.asdict(hyper_params(train_config, info)),  # with the derived ones filled in
        "versions": versions(),
        "run_dir": str(directory),
    }
    match train_config.logger:
        case config.WandbLoggerConfig() as chosen if not disabled:
            group, name = config.task_label(train_config), human_name(train_config)
            _say_ignored_variables(tuple(_ignored_variables(chosen, os.environ)))
            tags, sweep = list(chosen.tags), sweep_name(directory)
            if sweep is not None:
                # W&B averages over the runs of a group: the point without its seed.
                group = "/".join(filter(None, [sweep, points.human_point(points.without_seed(directory.name))]))
                name, tags = points.human_point(directory.name), [*tags, sweep]
            return open_wandb(
                directory,
                config=plain,
                project=chosen.project,
                entity=chosen.entity,
                group=chosen.group or group,
                job_type=chosen.job_type,
                tags=tags,
                name=chosen.name or name,
                mode=chosen.mode,
                finish_timeout=chosen.finish_timeout,
            )
        case _:
            return open_wandb(directory, config=plain, project="", mode="disabled")


# Of W&B's variables, those that a key of the logger wins over, and those that a run's folder decides.
_KEYS = {"PROJECT": "project", "ENTITY": "entity", "RUN_GROUP": "group", "JOB_TYPE": "job_type", "NAME": "name"}
_OF_THE_FOLDER = ("WANDB_DIR", "WANDB_RESUME", "WANDB_TAGS", "WANDB_RUN_ID")


def _ignored_variables(logger: config.WandbLoggerConfig, environment: Mapping[str, str]) -> list[str]:
    """W&B's variables that are set here and have no effect, each with what decides instead."""
    if "WANDB_SWEEP_ID" in environment:  # an agent sets them, and its id counts
        return []
    found = [
        f"WANDB_{variable} (logger.{key}={getattr(logger, key)} is given)"
        for variable, key in _KEYS.items()
        if environment.get(f"WANDB_{variable}") not in (None, "", getattr(logger, key))
    ]
    return found + [
        f"{name} (the run's folder decides)" if name != "WANDB_TAGS" else f"{name} (logger.tags decides)"
        for name in _OF_THE_FOLDER
        if environment.get(name)
    ]


@functools.cache
def _say_ignored_variables(found: tuple[str, ...]) -> None:
    if found:
        log.warning("without effect: %s", ", ".join(found))


@contextlib.contextmanager
def finished_together(mirrors: Sequence[WandbLogger], train_config: TrainConfig) -> Iterator[None]:
    """Finish W&B runs when the block ends, all of them under one deadline.

    Args:
        mirrors: those opened in the block; a run whose end is not noted by then has failed if the block raises.
        train_config: of one of the runs.
    """
    logger = train_config.logger
    seconds = logger.finish_timeout if isinstance(logger, config.WandbLoggerConfig) else 0.0
    try:
        yield
    except BaseException as error:
        for mirror in mirrors:
            mirror.end(1)
        finish_all(mirrors, seconds if isinstance(error, Exception) else min(seconds, SHORT_TIMEOUT))
        raise
    finish_all(mirrors, seconds)


_OUTCOMES = ("status", "best_step", "regret", "objective")  # besides evaluations and scorers


def complete_wandb_run(train_config: TrainConfig, directory: Path) -> None:
    """Send what W&B lacks of a run that has finished, if a server is there. What goes wrong is a warning."""
    logger = train_config.logger
    if not isinstance(logger, config.WandbLoggerConfig) or is_disabled(logger.mode):
        return
    try:
        if is_complete(directory) or choose_mode(logger.mode)[0] != "online" or SERVER.problem() is not None:
            return
    except (OSError, ValueError) as error:
        log.warning("W&B: %s", error, extra={"run_dir": directory})
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock.hold(directory))
        except (lock.FolderInUseError, OSError):  # another start of the same command sends them
            return
        if is_complete(directory):
            return
        mirror = held.enter_context(open_wandb_run(train_config, env_of(train_config), directory, disabled=False))
        if (figure := directory / KEY_CURVES_FILE).exists():
            mirror.log_figure(figure)
        summary = read_summary(directory)
        own = {name: value for name, value in summary.items() if name in _OUTCOMES or re.search("eval_|offline_", name)}
        mirror.summary({name: value for name, value in own.items() if value is not None})


def add_to_summary(train_config: TrainConfig, directory: Path, values: Mapping[str, object]) -> str | None:
    """Set values of the summary of a run in W&B, which has ended.

    Returns:
        Why it could not be done; None if it was.

    Raises:
        FolderInUseError: the run trains at this moment.
    """
    if not isinstance(train_config.logger, config.WandbLoggerConfig):
        return "it was trained with logger=local, so it is not in W&B"
    with (
        lock.hold(directory),
        open_wandb_run(train_config, env_of(train_config), directory, disabled=False) as mirror,
    ):
        if mirror.active:
            mirror.summary(values)
        return None if mirror.active and not mirror.missed else mirror.place


def human_name(train_config: TrainConfig) -> str:
    """A run's name for people: its dataset, the kind of CQL, and the seed."""
    algorithm = train_config.algorithm
    match algorithm.alpha_cql:
        case config.LearnedAlphaCql(tau_cql=tau_cql):
            multiplier = "alpha_cql learned" if tau_cql is None else f"tau_cql={tau_cql:g}"
        case config.FixedAlphaCql(value=value):
            multiplier = f"alpha_cql={value:g}"
        case other:
            raise TypeError(f"algorithm.alpha_cql: {type(other).__name__} is not a known kind")
    label = config.dataset_label(train_config.dataset)
    return f"{label} {algorithm.penalty.kind} {multiplier} seed={train_config.seed}"
