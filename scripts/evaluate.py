"""Evaluate a trained policy: ``python scripts/evaluate.py RUN_DIR``; see ``--help``."""

import argparse
import sys
from pathlib import Path

from cql.commands import is_own


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Return of a checkpoint's deterministic policy over N episodes, and on request a video of one."
    )
    parser.add_argument("run_dir", type=Path, help="folder of a run")
    parser.add_argument(
        "--checkpoint", default="last", metavar="WHICH", help="last (default), best, or a step such as 15000"
    )
    parser.add_argument("--episodes", type=int, default=10, metavar="N", help="number of episodes (default 10)")
    parser.add_argument("--seed", type=int, help="seed of the first episode (default: that of the run's evaluations)")
    parser.add_argument("--gif", type=Path, metavar="PATH", help="record the beginning of the first episode")
    parser.add_argument("--mp4", type=Path, metavar="PATH", help="the same as MP4")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the video (default 10)")
    parser.add_argument("--env", metavar="PACKAGE:ID", help="the run's environment, if a package of yours registers it")
    chosen = parser.parse_args()
    if chosen.episodes < 1:
        parser.error(f"--episodes {chosen.episodes}: at least 1")
    if chosen.seed is not None and not 0 <= chosen.seed < 2**31:
        parser.error(f"--seed {chosen.seed}: at least 0 and less than 2**31")
    if not 0.0 < chosen.seconds < float("inf"):
        parser.error(f"--seconds {chosen.seconds:g}: greater than 0")
    return chosen


def main() -> int:
    """Load, run and report; user errors are printed to stderr, with exit code 2."""
    chosen = arguments()
    from cql.training.evaluate import evaluate

    try:
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
    except Exception as error:
        if not is_own(error):
            raise
        print(error, file=sys.stderr)
        return 2
    returns, scores = found.returns, found.scores
    line = f"{found.env_id}, {found.checkpoint} (step {found.step}), {len(returns)} episodes: "
    line += (
        f"return {returns.mean():.1f} +- {returns.std():.1f} (lowest {returns.min():.1f}, highest {returns.max():.1f})"
    )
    if scores is not None:
        line += f", {found.scores_name} score {scores.mean():.1f} +- {scores.std():.1f}"
    print(line, *(f"written: {video}" for video in found.videos), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
