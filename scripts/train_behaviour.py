"""Train a behaviour policy: ``python scripts/train_behaviour.py --env ENV --steps N --save-every K --out FOLDER``."""

import argparse
import sys
from pathlib import Path

from cql.commands import exit_code, real, whole

SAC_SETTINGS = ("learning_starts", "learning_rate", "batch_size", "buffer_size", "gamma", "gradient_steps")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train a policy for scripts/collect.py, and save its weights during training.",
        epilog="Needs stable-baselines3: pip install -e '.[behaviour]'. Its defaults apply to all other settings.",
    )
    parser.add_argument("--env", required=True, metavar="ENV", help="Gymnasium's id; actions must be a bounded Box")
    parser.add_argument("--steps", type=whole(1), required=True, metavar="N", help="environment steps in all")
    save_help = "save the weights every K steps and at the end"
    parser.add_argument("--save-every", type=whole(1), required=True, metavar="K", help=save_help)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder for the weights")
    parser.add_argument("--overwrite", action="store_true", help="remove what an earlier training left in the folder")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the training (default 0)")
    episodes_help = "episodes that measure each save, once with sampled and once with mean actions (default 5)"
    parser.add_argument("--episodes", type=whole(1), default=5, metavar="N", help=episodes_help)
    algorithm_help = "algorithm of stable-baselines3 (default SAC)"
    parser.add_argument("--algorithm", choices=("SAC",), default="SAC", help=algorithm_help)
    starts_help = "steps with random actions first (default 10000, at most a tenth of all)"
    parser.add_argument("--learning-starts", type=whole(0), metavar="N", help=starts_help)
    rate_help = "learning rate of all optimisers"
    parser.add_argument("--learning-rate", type=real(0, above=True), metavar="RATE", help=rate_help)
    parser.add_argument("--batch-size", type=whole(1), metavar="N", help="transitions per update")
    parser.add_argument("--buffer-size", type=whole(1), metavar="N", help="transitions in the replay buffer")
    parser.add_argument("--gamma", type=real(0, 1), metavar="GAMMA", help="discount")
    parser.add_argument("--gradient-steps", type=whole(1), metavar="N", help="updates per environment step")
    width_help = "units of both hidden layers (default 256)"
    parser.add_argument("--width", type=whole(1), default=256, metavar="N", help=width_help)
    parser.add_argument("--device", default="cpu", help="device of torch (default cpu)")
    parser.add_argument("--threads", type=whole(1), default=1, metavar="N", help="threads of torch (default 1)")
    chosen = parser.parse_args()
    if chosen.learning_starts is None:
        chosen.learning_starts = min(10_000, chosen.steps // 10)
    return chosen


def train_and_save(chosen: argparse.Namespace) -> int:
    """Train; the exit code."""
    from cql.data.train_behaviour import train

    given = vars(chosen)
    settings = {name: value for name in SAC_SETTINGS if (value := given.pop(name)) is not None}
    env_id, folder = given.pop("env"), given.pop("out")
    try:
        train(env_id, folder, settings=settings, **given)
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":
            raise
        print("stable-baselines3 is not installed: pip install -e '.[behaviour]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {folder} keeps {len(list(folder.glob('*.npz')))} saved policies", file=sys.stderr)
        return 130
    print(f"to collect from all policies: python scripts/collect.py ID --env {env_id} --policy {folder} --episodes N")
    return 0


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: train_and_save(chosen))


if __name__ == "__main__":
    sys.exit(main())
