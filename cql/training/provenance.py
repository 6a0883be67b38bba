"""What a run's numbers depend on besides its config: versions, the commit, the device and the data."""

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cql import config, data
from cql.config import TrainConfig


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    packages = ("cql", "torch", "numpy", "gymnasium", "mujoco")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def provenance(train_config: TrainConfig, transitions: data.Transitions, device: torch.device) -> dict[str, Any]:
    """What a run's numbers depend on besides its config, and what it learned from."""
    dataset = train_config.dataset
    return {
        "versions": versions(),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "dataset": {
            "name": config.dataset_label(dataset),
            "fingerprint": transitions.fingerprint,
            "transitions": len(transitions),
            **({"mixture": dataset.mixture} if isinstance(dataset, config.MixtureDataset) else {}),
        },
    }


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that holds this package, with ``-dirty`` if it was changed; None without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
