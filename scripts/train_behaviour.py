"""Train a behaviour policy: ``python scripts/train_behaviour.py --env ENV --steps N --save-every K --out FOLDER``."""

import argparse
import sys
from pathlib import Path

SAC_SETTINGS = ("learning_starts", "learning_rate", "batch_size", "buffer_size", "gamma", "gradient_steps")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train a policy for scripts/collect.py, and save its weights during training.",
        epilog="Needs stable-baselines3: pip install -e '.[behaviour]'. Its defaults apply to all other settings.",
    )
    parser.add_argument("--env", required=True, metavar="ENV", help="Gymnasium's id; actions must be a bounded Box")
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="environment steps in all")
    save_help = "save the weights every K steps and at the end"
    parser.add_argument("--save-every", type=int, required=True, metavar="K", help=save_help)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder for the weights")
    parser.add_argument("--overwrite", action="store_true", help="remove what an earlier training left in the folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default 0)")
    episodes_help = "episodes that measure each save, once with sampled and once with mean actions (default 5)"
    parser.add_argument("--episodes", type=int, default=5, metavar="N", help=episodes_help)
    parser.add_argument("--algorithm", choices=("SAC",), default="SAC", help="of stable-baselines3 (default SAC)")
    starts_help = "steps with random actions first (default 10000, at most a tenth of all)"
    parser.add_argument("--learning-starts", type=int, metavar="N", help=starts_help)
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="learning rate of all optimisers")
    parser.add_argument("--batch-size", type=int, metavar="N", help="transitions per update")
    parser.add_argument("--buffer-size", type=int, metavar="N", help="transitions in the replay buffer")
    parser.add_argument("--gamma", type=float, metavar="GAMMA", help="discount")
    parser.add_argument("--gradient-steps", type=int, metavar="N", help="updates per environment step")
    parser.add_argument("--width", type=int, default=256, metavar="N", help="units of both hidden layers (default 256)")
    parser.add_argument("--device", default="cpu", help="device of torch (default cpu)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (default 1)")
    chosen = parser.parse_args()
    for name in ("steps", "save_every", "episodes", "batch_size", "buffer_size", "gradient_steps", "width", "threads"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(chosen, name)}: must be at least 1")
    for name in ("seed", "learning_starts"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(chosen, name)}: must be at least 0")
    if chosen.learning_rate is not None and not chosen.learning_rate > 0.0:
        parser.error(f"--learning-rate {chosen.learning_rate:g}: must be greater than 0")
    if chosen.gamma is not None and not 0.0 <= chosen.gamma <= 1.0:
        parser.error(f"--gamma {chosen.gamma:g}: must be between 0 and 1")
    if chosen.learning_starts is None:
        chosen.learning_starts = min(10_000, chosen.steps // 10)
    return chosen


def main() -> int:
    """Train; user errors are printed to stderr, with exit code 2."""
    chosen = arguments()
    from cql.data.policies import PolicyError
    from cql.data.train_behaviour import train
    from cql.rollout.envs import EnvError

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
    except (EnvError, FileExistsError, PolicyError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {folder} keeps {len(list(folder.glob('*.npz')))} saved policies", file=sys.stderr)
        return 130
    print(f"to collect from all policies: python scripts/collect.py ID --env {env_id} --policy {folder} --episodes N")
    return 0


if __name__ == "__main__":
    sys.exit(main())
