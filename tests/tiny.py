"""A dataset and a config so small that a whole run takes about a second."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from composed import load

from cql.config.schema import TrainConfig
from cql.rollout.envs import make_env

OVERRIDES = (
    "env=InvertedPendulum-v5",
    "env.n_eval_episodes=2",
    "dataset.normalise_observations=true",
    "network.width=16",
    "batch_size=16",
    "n_steps=60",
    "n_steps_per_epoch=10",
    "algorithm.num_sampled_actions=2",
    "video.enabled=false",
    "logger=local",
    "device=cpu",
    "n_threads=1",
    "eval_worker=off",
)


def write_dataset(path: Path, n_episodes: int = 20) -> Path:
    """Random play of InvertedPendulum-v5 in the layout of a D4RL file."""
    env = make_env("InvertedPendulum-v5")
    rng = np.random.default_rng(0)
    columns: dict[str, list[object]] = {
        name: [] for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    }
    for episode in range(n_episodes):
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action = rng.uniform(-3.0, 3.0, 1).astype(np.float32)
            following, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            row = (observation, action, reward, following, terminated, truncated and not terminated)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            observation = following
    env.close()
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            dtype = bool if name in ("terminals", "timeouts") else np.float32
            file.create_dataset(name, data=np.asarray(column, dtype=dtype))
    return path


def tiny_config(dataset: Path, *overrides: str) -> TrainConfig:
    """The config of a run on :func:`write_dataset`'s file."""
    return load("dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, *overrides)
