"""What a single run says at its end: its evaluations, the files to open first, and the commands that come next."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from cql import commands, files
from cql.config import TrainConfig
from cql.scorer_names import DIRECTIONS, PREFIX
from cql.training.local_logger import PROVENANCE_FILE, VIDEO_FOLDER, YARDSTICKS, read_metrics
from cql.training.progress import evaluation, rounded
from cql.training.run_folder import shown_results


def conclusion(train_config: TrainConfig, directory: Path) -> list[str]:
    """The texts to log of a finished run, in their order.

    What a damaged file would say is left out.

    Args:
        train_config: of the run.
        directory: its folder.
    """
    said = _evaluations(train_config, directory)
    recorded = _recorded_return(directory)
    if train_config.env.has_simulator and recorded is not None:
        said.append(f"recorded episodes: mean return {rounded(recorded)}")
    said.append(results_of(directory))
    following = [commands.script("doctor", directory)]
    if train_config.env.has_simulator:
        video = ["--gif", "best.gif"] if any((directory / VIDEO_FOLDER).glob("*.gif")) else []
        following.append(commands.script("evaluate", directory, "--checkpoint", "best", *video))
    return [*said, "\n  ".join(["next:", *following])]


def results_of(directory: Path) -> str:
    """A run's folder, and what a person opens first in it."""
    return "\n  ".join([f"results: {directory}", *map(str, shown_results(directory))])


def _evaluations(train_config: TrainConfig, directory: Path) -> list[str]:
    """The last evaluation and the best, by the return, or without a simulator by the scorer that is named."""
    env = train_config.env
    scorer = None if env.has_simulator else env.best_by
    key = "eval_return_mean" if env.has_simulator else f"{PREFIX}{scorer}"
    sign = 1.0 if scorer is None else DIRECTIONS[scorer]
    rows: list[dict[str, float]] = []
    with suppress(OSError, ValueError):
        rows = [row for row in read_metrics(directory) if key in row]
    if not rows:
        return []

    def shown(row: dict[str, float]) -> str:
        if scorer is not None:
            return f"step {row['step']}, {scorer} {row[key]:.4g}"
        text = f"step {row['step']}, {evaluation(row)}"
        return text + (f", success {row['eval_success']:.2f}" if "eval_success" in row else "")

    last, best = rows[-1], max(rows, key=lambda row: sign * row[key])
    if best is last:
        return [f"last evaluation, also the best: {shown(last)}"]
    return [f"last evaluation: {shown(last)}", f"best evaluation: {shown(best)}"]


def _recorded_return(directory: Path) -> float | None:
    """The mean return of the recorded episodes; None if the run's provenance does not have it."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        found: Any = json.loads(files.contents(directory / PROVENANCE_FILE))[YARDSTICKS]["episode_return"]
        return float(found)
    return None
