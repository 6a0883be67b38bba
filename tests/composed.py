"""Configs for tests. Hydra composes each choice of options once in a process; values of keys are set on a copy."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cql import config
from cql.config.schema import TrainConfig


def load(*overrides: str) -> TrainConfig:
    """The checked config of valid overrides, as ``config.checked(config.compose(overrides))`` gives it."""
    return copy.deepcopy(_loaded(overrides))


def compose(overrides: Sequence[str]) -> DictConfig:
    """What :func:`cql.config.compose` gives for overrides that are choices of options and ``KEY=VALUE``.

    A key is set after the composition, as the command line's is, so runs that differ in their keys share one.
    """
    keys = [text for text in overrides if _sets_a_key(text)]
    cfg = copy.deepcopy(_composed(tuple(text for text in overrides if text not in keys)))
    for override in OverridesParser.create().parse_overrides(keys):
        OmegaConf.update(cfg, override.key_or_group, override.value())
    return cfg


@functools.cache
def hydra_part(*overrides: str) -> DictConfig:
    """Hydra's own part of the config: mode, sweeper, launcher.

    Raises:
        HydraException: The overrides cannot be composed.
    """
    config.register()
    with hydra.initialize_config_dir(str(config.CONFIG_DIR), **config.VERSION_BASE):
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=True).hydra


def held_by(experiment: str) -> list[str]:
    """The grid that a ready-made sweep holds, as overrides; empty for another experiment."""
    params = hydra_part(f"+experiment={experiment}").sweeper.params or {}
    return [f"{key}={values}" for key, values in params.items()]


def _sets_a_key(override: str) -> bool:
    key = override.partition("=")[0]
    return key not in config.GROUPS and not key.startswith(("+", "~", "hydra"))


@functools.cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    return config.compose(choices)


@functools.cache
def _loaded(overrides: tuple[str, ...]) -> TrainConfig:
    return config.checked(compose(overrides))
