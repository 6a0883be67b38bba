"""A run's place in Weights & Biases: its project, name, group and tags."""

import dataclasses
from pathlib import Path

from cql import config, points
from cql.config import TrainConfig
from cql.rollout.envs import EnvInfo
from cql.training.build import hyper_params
from cql.training.provenance import versions
from cql.training.run_folder import sweep_name
from cql.training.wandb_logger import WandbLogger, open_wandb


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
            group, name = (
                f"{train_config.env.id}/{config.dataset_label(train_config.dataset)}",
                human_name(train_config),
            )
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
            )
        case _:
            return open_wandb(directory, config=plain, project="", mode="disabled")


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
