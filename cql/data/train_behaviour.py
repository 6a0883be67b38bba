"""Training of a behaviour policy with stable-baselines3, with saves and measurements on the way."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql import files
from cql.data.collect import Part, roll_out, versions
from cql.data.policies import NpzPolicy
from cql.rollout.envs import env_info, make_env

RETURNS_FILE = "returns.csv"
TRAINING_FILE = "training.json"


def train(
    env_id: str,
    folder: Path,
    *,
    steps: int,
    save_every: int,
    overwrite: bool = False,
    seed: int = 0,
    episodes: int = 5,
    algorithm: str = "SAC",
    settings: Mapping[str, Any] | None = None,
    width: int = 256,
    device: str = "cpu",
    threads: int = 1,
) -> None:
    """Train a policy; save it every `save_every` steps and at the end, and measure each save.

    Saving and measuring leave the training as it is: the last save is what `SAC(...).learn(steps)` gives.

    Args:
        env_id: the environment; its actions must be a bounded box.
        folder: for the weights, `returns.csv` and `training.json`.
        steps: environment steps in all.
        save_every: steps between saves.
        overwrite: remove an earlier training from the folder.
        seed: of the training.
        episodes: that measure a save, once with sampled and once with mean actions.
        algorithm: name of a class of stable-baselines3.
        settings: keyword arguments of that class.
        width: of both hidden layers.
        device: torch's.
        threads: of torch.

    Raises:
        EnvError: the environment cannot be used.
        FileExistsError: the folder is taken.
        ModuleNotFoundError: stable-baselines3 is not installed.
        PolicyError: a weight is NaN or infinite.
    """
    import stable_baselines3
    import torch
    from tqdm import tqdm

    env_info(env_id)  # refuses an environment that cannot be collected from
    clear_folder(folder, overwrite=overwrite)
    torch.set_num_threads(threads)
    settings = dict(settings or {})
    env = make_env(env_id)
    model = getattr(stable_baselines3, algorithm)(
        "MlpPolicy", env, seed=seed, device=device, policy_kwargs={"net_arch": [width, width]}, **settings
    )
    training = {
        **{"algorithm": algorithm, "env": env_id, "seed": seed, "steps": steps, "save_every": save_every},
        "settings": {**settings, "width": width, "device": device, "threads": threads},
        "versions": versions("stable-baselines3", "gymnasium", "mujoco", "numpy", "torch"),
    }
    files.write_text(folder / TRAINING_FILE, json.dumps(training, indent=1) + "\n")
    rows: list[dict[str, Any]] = []
    with tqdm(total=steps, desc=f"{algorithm} {env_id}", unit="step", disable=None) as bar:
        while model.num_timesteps < steps:
            to_go = min(save_every - model.num_timesteps % save_every, steps - model.num_timesteps)
            model.learn(to_go, callback=lambda *_: bar.update() or True, reset_num_timesteps=False)
            path = folder / f"{algorithm.lower()}_{model.num_timesteps:07d}.npz"
            contents, weights = io.BytesIO(), actor_weights(model)
            policy = NpzPolicy(weights, str(path))  # refuses weights that are not finite
            np.savez(contents, **weights)  # type: ignore[arg-type]
            files.write_bytes(path, contents.getvalue())
            row = {"step": model.num_timesteps, "file": path.name, "episodes": episodes}
            row |= measure(policy, env_id, episodes, seed)
            rows.append(row)
            files.write_text(folder / RETURNS_FILE, _csv_text(rows))
            bar.write(
                f"{path}: return {row['sampled_mean']:.1f} +- {row['sampled_std']:.1f} sampled, "
                f"{row['deterministic_mean']:.1f} +- {row['deterministic_std']:.1f} deterministic"
            )
    env.close()


def _csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def clear_folder(folder: Path, *, overwrite: bool) -> None:
    """Create a folder, or take one that is empty or, with `overwrite`, holds a training, which is removed.

    Raises:
        FileExistsError: the folder holds other files, or a training that is not to be overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = list(folder.iterdir())
    ours = [
        path
        for path in there
        if path.name in (RETURNS_FILE, TRAINING_FILE) or path.suffix == ".npz" or path.name.startswith(".partial-")
    ]
    if len(ours) < len(there):
        other = next(path for path in there if path not in ours)
        raise FileExistsError(f"--out {folder}: holds {other.name}, which is not a behaviour's; choose another folder")
    if ours and not overwrite:
        raise FileExistsError(f"--out {folder}: holds a training already; choose another folder, or --overwrite it")
    for path in ours:
        path.unlink()


def actor_weights(model: Any) -> dict[str, NDArray[np.float32]]:
    """The arrays of a `cql.data.policies.NpzPolicy`, from stable-baselines3's SAC with two hidden relu layers."""
    actor = model.actor
    layers = {
        "hidden_0": actor.latent_pi[0],
        "hidden_1": actor.latent_pi[2],
        "mean": actor.mu,
        "log_std": actor.log_std,
    }
    return {
        f"{name}.{part}": getattr(layer, part).detach().cpu().numpy().copy()
        for name, layer in layers.items()
        for part in ("weight", "bias")
    }


def measure(policy: NpzPolicy, env_id: str, n_episodes: int, seed: int) -> dict[str, float]:
    """Mean and standard deviation of the return, with sampled and with mean actions."""
    measured: dict[str, float] = {}
    for kind, noise in (("sampled", 1.0), ("deterministic", 0.0)):
        episodes = roll_out(env_id, [Part(policy, n_episodes, noise)], seed=seed)
        returns = np.array([episode.rewards.sum() for episode in episodes])
        measured |= {f"{kind}_mean": float(returns.mean()), f"{kind}_std": float(returns.std())}
    return measured
