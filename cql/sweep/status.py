"""How the runs of a sweep fare, read from the sweep's folder alone, while they train and afterwards.

``sweep.json``   what the runs have in common
``stacks.json``  the runs that train together, also those that have not begun; the stacking launchers write it
``KEY-VALUE__.../``  a run's folder, named by its point

Whatever is read may be written at the same moment, or have been left half-written by a kill: that is no error here.
"""

import heapq
import json
import os
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cql.points import SEED, human_point, order, parse_point
from cql.training.lock import LOCK_FILE, held
from cql.training.loggers import METRICS_FILE, SUMMARY_FILE, TIMING_FILE

SWEEP_FILE = "sweep.json"
STACKS_FILE = "stacks.json"
SWEEPS = Path("outputs") / "sweeps"

Status = Literal["finished", "running", "stopped", "failed", "waiting"]
STATUSES: tuple[Status, ...] = ("finished", "running", "stopped", "failed", "waiting")

# Any of them makes a folder that of a run; the first is there as soon as Hydra has begun the run's job.
_MARKS = (".hydra", LOCK_FILE, SUMMARY_FILE, METRICS_FILE)
_TAIL = 8192  # bytes, a hundred rows of timing.jsonl


class NoSweepError(ValueError):
    """A folder is not that of a sweep."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, as far as it has come.

    Attributes:
        name: of its folder.
        point: values by their keys, as texts; empty where the name has not the form of a point.
        status: ``waiting`` has not begun; ``stopped`` goes on from its last checkpoint when the sweep's command is
            given again, or when its stack's turn comes.
        step: gradient steps done.
        n_steps: gradient steps in all, None where nothing says so yet.
        last_return: mean return of the last evaluation, None before the first.
        last_score: the same as normalised score, None where the environment has no reference.
        best_return: mean return of the best evaluation.
        best_score: the same as normalised score.
        steps_per_second: of the last epoch; in a stack that of each run of it, and what the stack makes is as many
            times more.
        seconds_left: of training, None where the run is not running or its rate is not known yet.
        failure: what went wrong, where ``status`` is ``failed``.
        stack: its place in ``stacks.json``, None where it is in no stack.
    """

    name: str
    point: Mapping[str, str]
    status: Status
    step: int = 0
    n_steps: int | None = None
    last_return: float | None = None
    last_score: float | None = None
    best_return: float | None = None
    best_score: float | None = None
    steps_per_second: float | None = None
    seconds_left: float | None = None
    failure: str | None = None
    stack: int | None = None


# Reading --------------------------------------------------------------------------------------------------------------


def find_sweep(folder: str | Path) -> Path:
    """The folder of a sweep, given as it is or by the sweep's name.

    Raises:
        NoSweepError: there is no such folder, or it is not a sweep's.
    """
    named = SWEEPS / folder
    for path in (Path(folder), named):
        if _is_sweep(path):
            return path
    if any((Path(folder) / mark).exists() for mark in _MARKS):
        raise NoSweepError(f"{folder} is the folder of one run: give that of its sweep, {Path(folder).parent}")
    known = sorted(path.name for path in SWEEPS.iterdir() if _is_sweep(path)) if SWEEPS.is_dir() else []
    there = f"known are {', '.join(known)}" if known else f"there are none in {SWEEPS}"
    exists = Path(folder).is_dir() or named.is_dir()
    problem = "holds no runs" if exists else "is neither a folder nor the name of a sweep"
    raise NoSweepError(f"{folder} {problem}; give a folder of {SWEEPS} or its name: {there}")


def read_sweep(folder: Path) -> list[SweepRun]:
    """The runs of a sweep, sorted by their points: numbers by size, the seed last.

    Args:
        folder: of the sweep.
    """
    stack_of = {name: index for index, stack in enumerate(_stacks(folder)) for name in stack}
    base = _object(folder / SWEEP_FILE).get("base")
    n_steps = _count(base.get("n_steps")) if isinstance(base, dict) else None
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
    """The folders of runs that have begun."""
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
    point, found = parse_point(directory.name), status(directory, summary)
    if "n_steps" in point and point["n_steps"].isdigit():
        n_steps = int(point["n_steps"])
    n_steps = _count(summary.get("n_steps")) or n_steps
    step = _count(summary.get("step")) or 0
    if found == "running":
        # The summary is as old as the last checkpoint; a run that has stopped goes on from there.
        step = max(step, _count(timing.get("step")) or 0)
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
        best_return=_number(summary.get("best_eval_return_mean")),
        best_score=_number(summary.get("best_eval_score")),
        steps_per_second=rate,
        seconds_left=left,
        failure=str(summary.get("failure") or "the summary does not say why") if found == "failed" else None,
        stack=stack,
    )


def status(directory: Path, summary: Mapping[str, Any]) -> Status:
    """How a run fares, by the summary in its folder and by who trains there."""
    said = summary.get("status")
    if said == "finished":
        return "finished"
    if said == "failed":
        return "failed"
    # A process that is still getting ready holds the lock before there is a summary.
    if held(directory):
        return "running"
    return "stopped" if said in ("running", "interrupted") else "waiting"


def _json(path: Path) -> Any:
    """The contents of a file, None where it is not there or not whole."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _object(path: Path) -> dict[str, Any]:
    contents = _json(path)
    return contents if isinstance(contents, dict) else {}


def _last_row(path: Path) -> dict[str, Any]:
    """The last row of a file of JSON lines that is whole, empty where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            lines = file.read().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# How long it will take ------------------------------------------------------------------------------------------------


def seconds_left(runs: Sequence[SweepRun]) -> float | None:
    """Time until the last run ends that is known of, were nothing done but training at the present rates.

    Stacks that have not begun, and what was stopped in a sweep that goes on, follow when others make room: as many
    train at once as do now.

    Returns:
        Seconds; None where nothing is running, or no rate is known yet.
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


# For people -----------------------------------------------------------------------------------------------------------


def counts(runs: Sequence[SweepRun]) -> dict[Status, int]:
    """How many runs there are of each status that occurs."""
    found: dict[Status, int] = {status: sum(run.status == status for run in runs) for status in STATUSES}
    return {status: count for status, count in found.items() if count}


def ended(runs: Sequence[SweepRun]) -> bool:
    """Whether there are runs, and all of them have finished or failed."""
    return bool(runs) and all(run.status in ("finished", "failed") for run in runs)


def table(runs: Sequence[SweepRun], width: int | None = None) -> str:
    """The runs as aligned text, with the reasons of failures and a line of counts under it.

    Args:
        runs: of :func:`read_sweep`.
        width: characters in a line: the rows are cut to it, and the reasons of failures broken.
    """
    if not runs:
        return "no runs yet"
    keys = point_keys(runs)
    named = [_Column("run", ["" if run.point else run.name for run in runs], is_text=True)]
    points = [_Column(key, [run.point.get(key, "") for run in runs]) for key in keys]
    values = [column for column in _value_columns(runs) if any(column.cells)]
    lines = _lines([column for column in named if any(column.cells)] + points + values)
    if width is not None and len(lines[0]) > width:
        # Points that share few keys are narrower as one column.
        together = _lines([_Column("point", [human_point(run.name) for run in runs], is_text=True), *values])
        lines = min(lines, together, key=lambda each: len(each[0]))
    lines = [line.rstrip() if width is None else _clipped(line.rstrip(), width) for line in lines]
    failed = [run for run in runs if run.failure is not None]
    # Without the last metrics and the checkpoint, which would fill the screen and are in the folder.
    below = [f"{human_point(run.name)} failed: {_first_line(str(run.failure))}" for run in failed]
    for text in [*(["", *below] if below else []), "", _last_line(runs)]:
        lines += [text] if width is None or not text else textwrap.wrap(text, width, subsequent_indent="  ")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Column:
    title: str
    cells: list[str]
    is_text: bool = False

    def lines(self) -> list[str]:
        """Title and cells, all of the same width: texts begin, numbers end below each other."""
        texts = self.is_text or any(order(cell)[0] for cell in self.cells if cell)
        width = max(len(text) for text in (self.title, *self.cells))
        return [text.ljust(width) if texts else text.rjust(width) for text in (self.title, *self.cells)]


def _lines(columns: Sequence[_Column]) -> list[str]:
    return ["  ".join(cells) for cells in zip(*(column.lines() for column in columns), strict=True)]


def _value_columns(runs: Sequence[SweepRun]) -> list[_Column]:
    begun = [run.status != "waiting" for run in runs]
    steps = [str(run.step) if is_begun else "" for run, is_begun in zip(runs, begun, strict=True)]
    of = [str(run.n_steps) if is_begun and run.n_steps else "" for run, is_begun in zip(runs, begun, strict=True)]
    size = max(map(len, of))
    steps = [f"{step}/{n:>{size}}" if n else step and f"{step} {'':{size}}" for step, n in zip(steps, of, strict=True)]
    width = max(map(len, steps))
    left = ["" if run.seconds_left is None else shown_seconds(run.seconds_left) for run in runs]
    return [
        _Column("status", [run.status for run in runs], is_text=True),
        _Column("step".rjust(width), [step.rjust(width) if step else "" for step in steps], is_text=True),
        _numbers("return", [run.last_return for run in runs]),
        _numbers("score", [run.last_score for run in runs], n_decimals=1),
        _numbers("steps/s", [run.steps_per_second for run in runs]),
        _Column("left", left, is_text=True),
    ]


def _numbers(title: str, values: Sequence[float | None], n_decimals: int | None = None) -> _Column:
    """Numbers with the same count of decimals, of which large ones need none."""
    if n_decimals is None:
        n_decimals = 0 if max((abs(value) for value in values if value is not None), default=0.0) >= 1000.0 else 1
    return _Column(title, ["" if value is None else f"{value:.{n_decimals}f}" for value in values])


def _last_line(runs: Sequence[SweepRun]) -> str:
    found = counts(runs)
    line = f"{len(runs)} run{'' if len(runs) == 1 else 's'}: "
    line += ", ".join(f"{count} {status}" for status, count in found.items())
    left = seconds_left(runs)
    if left is not None:
        line += f"; about {shown_seconds(left)} left"
    elif "stopped" in found and "running" not in found:
        line += "; nothing is training: the sweep's own command takes it up where it stopped"
    return line


def _first_line(failure: str) -> str:
    return failure.partition("; last metrics: ")[0].strip().partition("\n")[0]


def _clipped(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"
