"""The state of a sweep's runs, read from the sweep's folder alone, while they train and afterwards.

``sweep.json``   what the runs have in common
``stacks.json``  the runs that train together, those that have not started included; the stacking launcher writes it
``KEY-VALUE__.../``  a run's folder, named by its point

Other processes may be writing these files. Logs are appended to, so their last line may be incomplete. All other files
are replaced atomically, so an incomplete one is damaged.
"""

import functools
import heapq
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cql.files import UnreadableError, contents
from cql.lock import LOCK_FILE, held
from cql.points import SEED, order, parse_point
from cql.scorer_names import PREFIX
from cql.training.local_logger import (
    EPISODES_FILE,
    METRICS_FILE,
    SUMMARY_FILE,
    TIMING_FILE,
    EpisodeRow,
    read_episodes,
    read_metrics,
)

SWEEP_FILE = "sweep.json"  # as in cql.config, which imports Hydra; the table of a sweep needs none
STACKS_FILE = "stacks.json"
SWEEPS = Path("outputs") / "sweeps"

Status = Literal["finished", "running", "stopped", "failed", "damaged", "waiting"]
STATUSES: tuple[Status, ...] = ("finished", "running", "stopped", "failed", "damaged", "waiting")

# Any of them makes a folder that of a run; the first is there as soon as Hydra has started the run's job.
_MARKS = (".hydra", LOCK_FILE, SUMMARY_FILE, METRICS_FILE)
_BEST = f"best_{PREFIX}"  # before the name of the scorer that a run without a simulator is judged by
_TAIL = 8192  # bytes, a hundred rows of timing.jsonl


class NoSweepError(ValueError):
    """A folder is not that of a sweep."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: The name of its folder.
        point: Values by their keys, as text; empty if the name does not have the form of a point.
        status: ``waiting`` has not started. ``stopped`` resumes from its last checkpoint when the sweep's command is
            given again, or when its stack's turn comes. ``damaged`` has a file that cannot be read.
        step: Gradient steps done.
        n_steps: Gradient steps in all, None if not known yet.
        last_return: Mean return of the last evaluation, None before the first.
        last_score: The same as normalised score, None if the environment has no reference scores.
        last_success: Share of its episodes that had a success, None if none was reported.
        best_return: Mean return of the best evaluation.
        best_score: The same as normalised score.
        scorer: Without a simulator: the scorer that runs are judged by; None if none is named.
        last_scorer: Its value at the last evaluation.
        steps_per_second: Of the last epoch. In a stack each run has this rate.
        seconds_left: Of training; None if the run is not running or its rate is not known yet.
        failure: What went wrong, if ``status`` is ``failed`` or ``damaged``.
        stack: Its index in ``stacks.json``, None if it is in no stack.
    """

    name: str
    point: Mapping[str, str]
    status: Status
    step: int = 0
    n_steps: int | None = None
    last_return: float | None = None
    last_score: float | None = None
    last_success: float | None = None
    best_return: float | None = None
    best_score: float | None = None
    scorer: str | None = None
    last_scorer: float | None = None
    steps_per_second: float | None = None
    seconds_left: float | None = None
    failure: str | None = None
    stack: int | None = None


# Reading --------------------------------------------------------------------------------------------------------------


def find_sweep(folder: str | Path) -> Path:
    """Find the folder of a sweep.

    Args:
        folder: The folder, or the sweep's name.

    Raises:
        NoSweepError: There is no such folder, or it is not that of a sweep.
    """
    named = SWEEPS / folder
    for path in (Path(folder), named):
        if _is_sweep(path):
            return path
    if any((Path(folder) / mark).exists() for mark in _MARKS):
        raise NoSweepError(f"{folder} is the folder of one run: give that of its sweep, {Path(folder).parent}")
    known = sorted(path.name for path in SWEEPS.iterdir() if _is_sweep(path)) if SWEEPS.is_dir() else []
    hint = f"the sweeps in {SWEEPS} are {', '.join(known)}" if known else f"{SWEEPS} holds no sweeps"
    exists = Path(folder).is_dir() or named.is_dir()
    problem = "holds no runs" if exists else "is neither a folder nor the name of a sweep"
    raise NoSweepError(f"{folder} {problem}; give the folder or the name of a sweep: {hint}")


def read_sweep(folder: Path) -> list[SweepRun]:
    """Read the runs of a sweep, sorted by their points: numbers by size, the seed last.

    Args:
        folder: The folder of the sweep.
    """
    stack_of = {name: index for index, stack in enumerate(_stacks(folder)) for name in stack}
    base = _object(folder / SWEEP_FILE).get("base")
    n_steps = planned_steps(base.get("n_steps"), base.get("online")) if isinstance(base, dict) else None
    runs = [
        _read_run(folder / name, n_steps, stack_of.get(name)) for name in {*stack_of, *(p.name for p in _runs(folder))}
    ]
    keys = point_keys(runs)
    return sorted(runs, key=lambda run: ([order(run.point.get(key, "")) for key in keys], run.name))


def point_keys(runs: Sequence[SweepRun]) -> list[str]:
    """The keys that occur in the runs' points, sorted, the seed last."""
    return sorted({key for run in runs for key in run.point}, key=lambda key: (key == SEED, key))


def _is_sweep(folder: Path) -> bool:
    marks = (SWEEP_FILE, STACKS_FILE, "multirun.yaml")  # Hydra writes the last one
    return any((folder / mark).exists() for mark in marks) or next(_runs(folder), None) is not None


def _runs(folder: Path) -> Iterator[Path]:
    """The folders of runs that have started."""
    if folder.is_dir():
        for path in folder.iterdir():
            if not path.name.startswith(".") and any((path / mark).exists() for mark in _MARKS):
                yield path


def _stacks(folder: Path) -> list[list[str]]:
    stacks = _json(folder / STACKS_FILE)
    if not isinstance(stacks, list):
        return []
    return [[name for name in stack if isinstance(name, str)] for stack in stacks if isinstance(stack, list)]


def _read_run(directory: Path, n_steps: int | None, stack: int | None) -> SweepRun:
    summary, timing = _object(directory / SUMMARY_FILE), _last_row(directory / TIMING_FILE)
    point, (found, failure) = parse_point(directory.name), read_status(directory)
    if "n_steps" in point and point["n_steps"].isdigit():
        n_steps = int(point["n_steps"])
    n_steps = _count(summary.get("n_steps")) or n_steps
    step = _count(summary.get("step")) or 0
    if found == "running":
        # The summary is as old as the last checkpoint; a stopped run resumes from there.
        step = max(step, _count(timing.get("step")) or 0)
    scorer = next((name.removeprefix(_BEST) for name in summary if name.startswith(_BEST)), None)
    rate = _number(timing.get("steps_per_second"))
    left = max(n_steps - step, 0) / rate if found == "running" and n_steps is not None and rate else None
    return SweepRun(
        name=directory.name,
        point=point,
        status=found,
        step=step,
        n_steps=n_steps,
        last_return=_number(summary.get("eval_return_mean")),
        last_score=_number(summary.get("eval_score")),
        last_success=_number(summary.get("eval_success")),
        best_return=_number(summary.get("best_eval_return_mean")),
        best_score=_number(summary.get("best_eval_score")),
        scorer=scorer,
        last_scorer=_number(summary.get(f"{PREFIX}{scorer}")),
        steps_per_second=rate,
        seconds_left=left,
        failure=failure,
        stack=stack,
    )


def status(directory: Path, summary: Mapping[str, Any]) -> Status:
    """The status of a run by its summary and its lock; its other files are not read."""
    said = summary.get("status")
    if said == "finished":
        return "finished"
    if said == "failed":
        return "failed"
    # A process that prepares its training holds the lock before there is a summary.
    if held(directory):
        return "running"
    return "stopped" if said in ("running", "interrupted") else "waiting"


def read_status(directory: Path) -> tuple[Status, str | None]:
    """The status of a run by all of its files, and what went wrong if it failed or is damaged."""
    path = directory / SUMMARY_FILE
    summary = _object(path)
    found = status(directory, summary)
    if found == "failed":
        return found, str(summary.get("failure") or "the summary does not say why")
    if found == "waiting" and "status" not in summary and path.exists():
        return "damaged", f"{SUMMARY_FILE} cannot be read; restore it, or move the folder {directory} away"
    if found == "finished":
        damage = _damage(directory, _version(directory / METRICS_FILE), _version(directory / EPISODES_FILE))
        return ("damaged", damage) if damage else (found, None)
    return found, None


def _version(path: Path) -> tuple[int, int]:
    """Time and size, which change with the contents of a file; zeros if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


@functools.cache
def _damage(directory: Path, *_versions: tuple[int, int]) -> str | None:
    """What is wrong with the metrics or the episodes of a finished run; cached, since its files no longer change."""
    for name in (METRICS_FILE, EPISODES_FILE):
        try:
            is_cut = not contents(directory / name).endswith(b"\n")
        except FileNotFoundError:
            continue
        except UnreadableError as error:
            return str(error)
        if is_cut:
            return f"{name} is cut: its last line is incomplete"
    try:
        gap = evaluation_gap(read_metrics(directory), read_episodes(directory))
    except ValueError as error:
        return str(error)
    return None if gap is None else f"{gap[0]} is damaged: {gap[1]}"


def evaluation_gap(metrics: Sequence[Mapping[str, float]], episodes: Sequence[EpisodeRow]) -> tuple[str, str] | None:
    """Compare the two files of a finished run's evaluations.

    Args:
        metrics: The rows of ``metrics.jsonl``.
        episodes: The rows of ``episodes.csv``.

    Returns:
        The name of the file that has lost rows, and which they are; None if the files agree.
    """
    n_episodes = Counter(row.step for row in episodes)
    evaluated = {int(row["step"]) for row in metrics if "eval_return_mean" in row}
    most = max(n_episodes.values(), default=0)
    for step, n in sorted(n_episodes.items()):
        if n < most:
            return EPISODES_FILE, f"its evaluation at step {step} has {n} episodes, others {most}"
    if evaluated and episodes:
        for step in sorted(evaluated.symmetric_difference(n_episodes)):
            return METRICS_FILE if step in n_episodes else EPISODES_FILE, f"it lacks the evaluation at step {step}"
    return None


def _json(path: Path) -> Any:
    """What a JSON file holds, None if it is absent, unreadable or damaged."""
    try:
        return json.loads(contents(path))
    except (OSError, ValueError, RecursionError):
        return None


def _object(path: Path) -> dict[str, Any]:
    found = _json(path)
    return found if isinstance(found, dict) else {}


def _last_row(path: Path) -> dict[str, Any]:
    """The last complete row of a file of JSON lines, empty if there is none."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return row
    return {}


def _number(value: object) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return None  # what JSON does not know included
    return float(value)


def planned_steps(n_steps: object, online: object) -> int | None:
    """Gradient steps in all, from these two keys of a config, which a file holds; None if they are not known."""
    on_data = _count(n_steps)
    if on_data is None or not isinstance(online, Mapping):
        return on_data
    keys = "update_to_data", "n_online_steps", "n_start_steps"
    per_step, n_env_steps, n_start_steps = (_count(online.get(key)) or 0 for key in keys)
    return on_data + per_step * (n_env_steps - n_start_steps)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# Counts and times -----------------------------------------------------------------------------------------------------


def counts(statuses: Iterable[Status]) -> dict[Status, int]:
    """The number of runs of each status that occurs."""
    found = Counter(statuses)
    return {status: found[status] for status in STATUSES if found[status]}


def ended(runs: Sequence[SweepRun]) -> bool:
    """Whether there are runs and none of them will train any more."""
    return bool(runs) and all(run.status in ("finished", "failed", "damaged") for run in runs)


def seconds_left(runs: Sequence[SweepRun]) -> float | None:
    """Estimate the time until the last run ends, at the present rates and without the time of evaluations.

    Stacks that wait or were stopped start when others end: as many train at once as do now.

    Returns:
        Seconds; None if nothing is running or no rate is known yet.
    """
    rates = [run.steps_per_second for run in runs if run.steps_per_second]
    if not rates:
        return None
    usual = statistics.median(rates)
    jobs: dict[int | str, list[SweepRun]] = {}
    for run in runs:
        if run.status in ("running", "stopped", "waiting"):
            jobs.setdefault(run.name if run.stack is None else run.stack, []).append(run)

    def seconds(job: list[SweepRun]) -> float:
        own = [run.steps_per_second for run in job if run.steps_per_second]
        rate = min(own) if own else usual
        return max(max((run.n_steps or 0) - run.step, 0) / rate for run in job)

    busy: list[float] = []
    queue: list[float] = []
    for job in jobs.values():
        (busy if any(run.status == "running" for run in job) else queue).append(seconds(job))
    if not busy:
        return None
    heapq.heapify(busy)
    for duration in queue:
        heapq.heapreplace(busy, busy[0] + duration)
    return max(busy)


def shown_seconds(seconds: float) -> str:
    """A length of time for people: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 5 h``."""
    minutes = round(seconds / 60)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def counted(count: int, noun: str) -> str:
    """A count with its noun: ``1 run``, ``3 runs``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
