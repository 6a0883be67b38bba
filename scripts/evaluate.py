"""Evaluate a trained policy: ``python scripts/evaluate.py RUN_DIR``; see ``--help``."""

import argparse
import sys
from pathlib import Path

from cql.commands import exit_code, printable, real, whole


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Evaluate a checkpoint: the return of its deterministic policy over N episodes, and a video of the "
        "first one if asked for."
    )
    parser.add_argument("run_dir", type=Path, help="folder of a run")
    parser.add_argument(
        "--checkpoint", default="last", metavar="WHICH", help="last (default), best, or a step such as 15000"
    )
    parser.add_argument("--episodes", type=whole(1), default=10, metavar="N", help="number of episodes (default 10)")
    seed_help = "seed of the first episode (default: that of the run's evaluations)"
    parser.add_argument("--seed", type=whole(0), help=seed_help)
    parser.add_argument("--gif", type=Path, metavar="PATH", help="record the beginning of the first episode")
    parser.add_argument("--mp4", type=Path, metavar="PATH", help="the same as MP4")
    parser.add_argument("--seconds", type=real(0, above=True), default=10.0, help="length of the video (default 10)")
    env_help = "the run's environment, if a package of yours registers it; if the run had none, one of the same sizes"
    parser.add_argument("--env", metavar="[PACKAGE:]ID", help=env_help)
    return parser.parse_args()


def show(chosen: argparse.Namespace) -> None:
    """Load, run and report."""
    from cql.training.evaluate import evaluate

    found = evaluate(
        chosen.run_dir,
        which=chosen.checkpoint,
        n_episodes=chosen.episodes,
        seed=chosen.seed,
        gif=chosen.gif,
        mp4=chosen.mp4,
        seconds=chosen.seconds,
        env=chosen.env,
    )
    returns, scores = found.returns, found.scores
    line = f"{found.env_id}, {found.checkpoint} (step {found.step}), {len(returns)} episodes: "
    line += (
        f"return {returns.mean():.1f} +- {returns.std():.1f} (lowest {returns.min():.1f}, highest {returns.max():.1f})"
    )
    if scores is not None:
        line += f", {found.scores_name} score {scores.mean():.1f} +- {scores.std():.1f}"
    if found.success is not None:
        line += f", success in {found.success:.0%}"
    print(printable(line), *(f"written: {video}" for video in found.videos), sep="\n")


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: show(chosen))


if __name__ == "__main__":
    sys.exit(main())
