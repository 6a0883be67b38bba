"""What a run's numbers depend on besides its config: versions, the commit, the device and the data."""

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cql import config, data
from cql.config import TrainConfig
from cql.rollout.envs import EnvInfo
from cql.training.local_logger import YARDSTICKS
from cql.training.policy import Spaces


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    packages = ("cql", "torch", "numpy", "gymnasium", "mujoco")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def spaces(info: EnvInfo | Spaces) -> dict[str, Any]:
    """What a checkpoint says of the environment, so that its policy acts in the environment's units without it."""
    return {
        "action_low": torch.tensor(info.action_low),
        "action_high": torch.tensor(info.action_high),
        "observation_keys": list(info.observation_keys),
    }


def provenance(
    train_config: TrainConfig, transitions: data.Transitions, device: torch.device, yardsticks: Mapping[str, float]
) -> dict[str, Any]:
    """What a run's numbers depend on besides its config, what it learned from, and what its numbers are held against.

    Args:
        train_config: of the run.
        transitions: that it learns from.
        device: that it trains on.
        yardsticks: of :func:`cql.data.yardsticks.yardsticks`.
    """
    dataset = train_config.dataset
    return {
        "versions": versions(),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "dataset": {
            "name": config.dataset_label(dataset),
            "fingerprint": transitions.fingerprint,
            "transitions": len(transitions),
            **({"mixture": dataset.mixture} if isinstance(dataset, config.MixtureDataset) else {}),
        },
        YARDSTICKS: dict(yardsticks),
    }


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that holds this package, with ``-dirty`` if it was changed; None without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
