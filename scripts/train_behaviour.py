"""Train a behaviour policy: ``python scripts/train_behaviour.py --env ENV --steps N --save-every K --out FOLDER``."""

import argparse
import csv
import importlib.metadata
import io
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cql.data.policies import NpzPolicy

RETURNS_FILE = "returns.csv"
TRAINING_FILE = "training.json"
SAC_SETTINGS = ("learning_starts", "learning_rate", "batch_size", "buffer_size", "gamma", "gradient_steps")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train a policy to collect data with (scripts/collect.py), and keep its weights along the way.",
        epilog="Needs stable-baselines3: pip install -e '.[behaviour]'. Its defaults hold for what is not given.",
    )
    parser.add_argument("--env", required=True, metavar="ENV", help="Gymnasium's id; actions must be a bounded Box")
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="environment steps in all")
    save_help = "keep the weights every so many steps, and at the end"
    parser.add_argument("--save-every", type=int, required=True, metavar="K", help=save_help)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder for the weights")
    parser.add_argument("--overwrite", action="store_true", help="remove what an earlier training left in the folder")
    parser.add_argument("--seed", type=int, default=0, help="of the training (default 0)")
    episodes_help = "episodes that measure each save, once with sampled and once with mean actions (default 5)"
    parser.add_argument("--episodes", type=int, default=5, metavar="N", help=episodes_help)
    parser.add_argument("--algorithm", choices=("SAC",), default="SAC", help="stable-baselines3's (default SAC)")
    starts_help = "steps with random actions first (default 10000, but at most a tenth of all)"
    parser.add_argument("--learning-starts", type=int, metavar="N", help=starts_help)
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="of all optimisers")
    parser.add_argument("--batch-size", type=int, metavar="N", help="transitions per update")
    parser.add_argument("--buffer-size", type=int, metavar="N", help="transitions in the replay buffer")
    parser.add_argument("--gamma", type=float, metavar="GAMMA", help="discount")
    parser.add_argument("--gradient-steps", type=int, metavar="N", help="updates per environment step")
    parser.add_argument("--width", type=int, default=256, metavar="N", help="of both hidden layers (default 256)")
    parser.add_argument("--device", default="cpu", help="torch's (default cpu)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default 1)")
    chosen = parser.parse_args()
    for name in ("steps", "save_every", "episodes", "batch_size", "buffer_size", "gradient_steps", "width", "threads"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(chosen, name)}: at least 1")
    for name in ("seed", "learning_starts"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(chosen, name)}: at least 0")
    if chosen.learning_rate is not None and not chosen.learning_rate > 0.0:
        parser.error(f"--learning-rate {chosen.learning_rate:g}: more than 0")
    if chosen.gamma is not None and not 0.0 <= chosen.gamma <= 1.0:
        parser.error(f"--gamma {chosen.gamma:g}: from 0 to 1")
    if chosen.learning_starts is None:
        chosen.learning_starts = min(10_000, chosen.steps // 10)
    return chosen


def claim_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder, or take an empty one; what an earlier training left in it goes where that was asked for.

    Raises:
        FileExistsError: it holds something else, or what was not to be overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = list(folder.iterdir())
    names = {path: path.name.removesuffix(".partial") for path in there}
    ours = [path for path in there if names[path] in (RETURNS_FILE, TRAINING_FILE) or names[path].endswith(".npz")]
    if len(ours) < len(there):
        other = next(path for path in there if path not in ours)
        raise FileExistsError(f"--out {folder}: holds {other.name}, which is no behaviour's; choose another folder")
    if ours and not overwrite:
        raise FileExistsError(f"--out {folder}: holds a training already; choose another folder, or --overwrite it")
    for path in ours:
        path.unlink()


def actor_weights(model: Any) -> dict[str, Any]:
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


def write_whole(path: Path, contents: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def measure(policy: "NpzPolicy", env_id: str, n_episodes: int, seed: int) -> dict[str, float]:
    """Mean and standard deviation of the return, with sampled and with mean actions."""
    import numpy as np

    from cql.data.collect import Part, roll_out

    measured: dict[str, float] = {}
    for kind, noise in (("sampled", 1.0), ("deterministic", 0.0)):
        episodes = roll_out(env_id, [Part(policy, n_episodes, noise)], seed=seed)
        returns = np.array([episode.rewards.sum() for episode in episodes])
        measured |= {f"{kind}_mean": float(returns.mean()), f"{kind}_std": float(returns.std())}
    return measured


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under their names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def train(chosen: argparse.Namespace) -> None:
    """Train, and save and measure on the way.

    Raises:
        EnvError: the environment cannot be used.
        FileExistsError: the folder is taken.
    """
    import numpy as np
    import stable_baselines3
    import torch
    from tqdm import tqdm

    from cql.data.policies import NpzPolicy
    from cql.rollout.envs import env_info, make_env

    env_info(chosen.env)  # refuses what nobody could act in afterwards
    claim_folder(chosen.out, overwrite=chosen.overwrite)
    torch.set_num_threads(chosen.threads)
    settings = {name: getattr(chosen, name) for name in SAC_SETTINGS if getattr(chosen, name) is not None}
    env = make_env(chosen.env)
    model = getattr(stable_baselines3, chosen.algorithm)(
        "MlpPolicy",
        env,
        seed=chosen.seed,
        device=chosen.device,
        policy_kwargs={"net_arch": [chosen.width, chosen.width]},
        **settings,
    )
    packages = ("stable-baselines3", "gymnasium", "mujoco", "numpy", "torch")
    training = {
        "algorithm": chosen.algorithm,
        "env": chosen.env,
        "seed": chosen.seed,
        "steps": chosen.steps,
        "save_every": chosen.save_every,
        "settings": {**settings, "width": chosen.width, "device": chosen.device, "threads": chosen.threads},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }
    write_whole(chosen.out / TRAINING_FILE, json.dumps(training, indent=1).encode() + b"\n")
    rows: list[dict[str, Any]] = []
    with tqdm(total=chosen.steps, desc=f"{chosen.algorithm} {chosen.env}", unit="step", disable=None) as bar:

        def advance(*_: Any) -> bool:
            bar.update()
            return True

        while model.num_timesteps < chosen.steps:
            to_go = min(chosen.save_every - model.num_timesteps % chosen.save_every, chosen.steps - model.num_timesteps)
            model.learn(to_go, callback=advance, reset_num_timesteps=False)
            step = model.num_timesteps
            path = chosen.out / f"{chosen.algorithm.lower()}_{step:07d}.npz"
            contents, weights = io.BytesIO(), actor_weights(model)
            policy = NpzPolicy(weights, str(path))  # refuses what has become no number
            np.savez(contents, **weights)
            write_whole(path, contents.getvalue())
            rows.append({"step": step, "file": path.name, "episodes": chosen.episodes})
            rows[-1] |= measure(policy, chosen.env, chosen.episodes, chosen.seed)
            write_whole(chosen.out / RETURNS_FILE, csv_text(rows).encode())
            bar.write(
                f"{path}: return {rows[-1]['sampled_mean']:.1f} +- {rows[-1]['sampled_std']:.1f} sampled, "
                f"{rows[-1]['deterministic_mean']:.1f} +- {rows[-1]['deterministic_std']:.1f} deterministic"
            )
    env.close()
    print(f"collect from all of it: python scripts/collect.py ID --env {chosen.env} --policy {chosen.out} --episodes N")


def main() -> int:
    """Train; errors of the user's go to stderr with exit code 2."""
    chosen = arguments()
    from cql.data.policies import PolicyError
    from cql.rollout.envs import EnvError

    try:
        train(chosen)
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        print("stable-baselines3 is not installed: pip install -e '.[behaviour]'", file=sys.stderr)
        return 2
    except (EnvError, FileExistsError, PolicyError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        n_saved = len(list(chosen.out.glob("*.npz")))
        print(f"interrupted: {chosen.out} keeps {n_saved} saved policies", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
