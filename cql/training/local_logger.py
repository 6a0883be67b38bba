"""The files of a run's folder: metrics, episodes, timing, summary and provenance.

These files are the record of a run. They hold plain numbers. The contents of ``metrics.jsonl`` and ``episodes.csv``
depend on the training alone, never on the clock: a run that was killed and resumed leaves the same bytes as one that
was not.

``metrics.jsonl``  one JSON object per line: ``{"step": 1000, "critic_td": 0.25, ...}``
``timing.jsonl``   the same form for what the clock says: ``{"step": 1000, "seconds": 9.5, "steps_per_second": 105.0}``
``episodes.csv``   one line per evaluation episode: ``step,episode,seed,return,length,score``
``summary.json``   the outcome of the run
``provenance.json``  versions, commit, device and data that it was made with
``judgement.json``  how scripts/judge.py judged the policy of a checkpoint

Floats are written with ``repr``, which reads back to the same number.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cql import files

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"
EPISODES_FILE = "episodes.csv"
SUMMARY_FILE = "summary.json"
PROVENANCE_FILE = "provenance.json"
JUDGEMENT_FILE = "judgement.json"
YARDSTICKS = "yardsticks"
"""In the provenance: what the data say of values and actions, by the names of :mod:`cql.data.yardsticks`."""
VIDEO_FOLDER = "videos"

N_LAST_EVALUATIONS = 5
"""The last evaluations of a run that are averaged: a single one is noisy, and the best was chosen by its noise."""

EPISODES_HEADER = "step,episode,seed,return,length,score\n"


class EpisodeRow(NamedTuple):
    """One line of ``episodes.csv``.

    Attributes:
        step: Gradient steps taken before the evaluation.
        episode: Index of the episode within its evaluation.
        seed: Seed the environment was reset with.
        return_: Undiscounted return.
        length: Environment steps.
        score: Normalised score, or None if the environment has no reference scores.
    """

    step: int
    episode: int
    seed: int
    return_: float
    length: int
    score: float | None


class DamagedFileError(ValueError):
    """A file of a run cannot be read, has a damaged line, or has lost some; the message names the file."""


class LocalLogger:
    """Writes the files of one run's folder.

    Each call leaves its rows on the disk before it returns: a checkpoint written afterwards never counts on a row that
    a crash could lose.

    Args:
        run_dir: The run's folder; made if it is not there.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def _n_rows(self) -> dict[str, int]:
        return self._counted()

    @property
    def n_rows(self) -> dict[str, int]:
        """How many rows the files of metrics and episodes must hold; part of every checkpoint."""
        return dict(self._n_rows)

    def check_rows(self, n_rows: Mapping[str, int] | None = None) -> None:
        """Check that no rows have been lost from the files since they were written.

        Args:
            n_rows: :attr:`n_rows` of the checkpoint that the run resumes from; None compares with the present one.

        Raises:
            DamagedFileError: a file holds another number of rows; the message names it.
        """
        found, expected = self._counted(), self._n_rows if n_rows is None else n_rows
        for name, count in found.items():
            if count != expected.get(name, count):
                raise DamagedFileError(
                    f"{self.run_dir / name} has {count} of the {expected[name]} rows that were written to it: put back "
                    "the file, or start a new run"
                )

    def _counted(self) -> dict[str, int]:
        headers = {METRICS_FILE: 0, EPISODES_FILE: 1}
        return {
            name: max(sum(1 for _ in _whole_lines(self.run_dir / name)) - n_headers, 0)
            for name, n_headers in headers.items()
        }

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row to ``metrics.jsonl``.

        Raises:
            ValueError: A metric is NaN or infinite, or is called "step".
        """
        n_rows = self._n_rows  # before this one
        _append(self.run_dir / METRICS_FILE, _json_row(step, metrics))
        n_rows[METRICS_FILE] += 1

    def log_timing(self, step: int, timing: Mapping[str, float]) -> None:
        """Append one row to ``timing.jsonl``, where everything that depends on the clock belongs.

        Raises:
            ValueError: A value is NaN or infinite, or is called "step".
        """
        _append(self.run_dir / TIMING_FILE, _json_row(step, timing))

    def log_episodes(
        self,
        step: int,
        seeds: Sequence[int],
        returns: Sequence[float],
        lengths: Sequence[int],
        scores: Sequence[float] | None,
    ) -> None:
        """Append the E episodes of one evaluation to ``episodes.csv``.

        Args:
            step: Gradient steps taken before the evaluation.
            seeds: Seed of each episode, E of them.
            returns: Undiscounted return of each episode.
            lengths: Environment steps of each episode.
            scores: Normalised score of each episode; None leaves the column empty.

        Raises:
            ValueError: The lists differ in length, or a return or score is NaN or infinite.
        """
        columns = {"seeds": seeds, "returns": returns, "lengths": lengths}
        if scores is not None:
            columns["scores"] = scores
        if len({len(column) for column in columns.values()}) != 1:
            sizes = ", ".join(f"{len(column)} {name}" for name, column in columns.items())
            raise ValueError(
                f"{EPISODES_FILE} at step {step}: one value per episode is needed in each list, got {sizes}"
            )
        lines = []
        for episode, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
            return_ = _finite("return", step, returns[episode])
            score = "" if scores is None else repr(_finite("score", step, scores[episode]))
            lines.append(f"{int(step)},{episode},{int(seed)},{return_!r},{int(length)},{score}\n")
        path, n_rows = self.run_dir / EPISODES_FILE, self._n_rows
        is_new = not path.exists() or path.stat().st_size == 0
        _append(path, (EPISODES_HEADER if is_new else "") + "".join(lines))
        n_rows[EPISODES_FILE] += len(lines)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write ``summary.json``, replacing the one before it at once.

        Raises:
            ValueError: A value is NaN or infinite.
        """
        for name, value in summary.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{SUMMARY_FILE}: {name} is {value}; write None for a missing number")
        files.write_bytes(self.run_dir / SUMMARY_FILE, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())

    def write_provenance(self, provenance: Mapping[str, object]) -> None:
        """Write ``provenance.json``; if a run resumes with another, the previous one is kept under ``earlier``.

        Raises:
            DamagedFileError: the file that is there cannot be read.
        """
        path = self.run_dir / PROVENANCE_FILE
        earlier: list[object] = []
        if path.exists():
            try:
                before = dict(json.loads(files.contents(path)))
                earlier = list(before.pop("earlier", []))
            except (OSError, ValueError, TypeError, RecursionError) as error:
                raise DamagedFileError(f"{path} is damaged: remove it, to start a new one") from error
            if before != provenance:
                earlier = [*earlier, before]
        contents = {**provenance, **({"earlier": earlier} if earlier else {})}
        files.write_bytes(path, (json.dumps(contents, indent=2, allow_nan=False) + "\n").encode())

    def rewind(self, step: int) -> None:
        """Cut the files back to the rows with a step of at most ``step``, as a checkpoint of that step left them.

        A last line without its end, as a kill leaves it, goes too. Each file is replaced whole, or left untouched if
        nothing is to be cut. Logging the same rows again gives the same bytes as if nothing had happened.

        Raises:
            ValueError: A line other than the last is damaged.
        """
        for name in (METRICS_FILE, TIMING_FILE):
            _cut(self.run_dir / name, step, _json_step, header_lines=0)
        _cut(self.run_dir / EPISODES_FILE, step, _csv_step, header_lines=1)
        self._n_rows = self._counted()


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.jsonl`` in the order they were written, without a half-written last one.

    Raises:
        ValueError: A line other than the last is damaged.
    """
    return _read_rows(Path(run_dir) / METRICS_FILE)


def read_timing(run_dir: Path) -> list[dict[str, float]]:
    """The rows of ``timing.jsonl``, as :func:`read_metrics` reads the other file."""
    return _read_rows(Path(run_dir) / TIMING_FILE)


def video_path(run_dir: Path, step: int) -> Path:
    """Where a run keeps the video of an evaluation."""
    return Path(run_dir) / VIDEO_FOLDER / f"step_{step:07d}.gif"


def read_judgement(run_dir: Path) -> dict[str, Any]:
    """What ``judgement.json`` holds: a flat mapping; empty if there is none, or it is damaged."""
    try:
        found = json.loads(files.contents(run_dir / JUDGEMENT_FILE))
    except (OSError, ValueError, RecursionError, files.UnreadableError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_rows(path: Path) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for number, line in _whole_lines(path):
        _parsed_step(path, number, line, _json_step)
        row = json.loads(line)
        if not all(type(value) in (int, float) and math.isfinite(value) for value in row.values()):
            raise _damaged(path, number, line)
        rows.append(row)
    return rows


def evaluations(run_dir: Path) -> list[tuple[int, float]]:
    """The step and the mean return of each of a run's evaluations, in their order.

    Raises:
        ValueError: A line of ``metrics.jsonl`` is damaged.
    """
    rows = [row for row in read_metrics(run_dir) if "eval_return_mean" in row]
    return [(int(row["step"]), row["eval_return_mean"]) for row in rows]


def read_episodes(run_dir: Path) -> list[EpisodeRow]:
    """The rows of ``episodes.csv`` in the order they were written, without a half-written last one.

    Raises:
        ValueError: A line other than the last is damaged.
    """
    path = Path(run_dir) / EPISODES_FILE
    rows = []
    for number, line in _whole_lines(path):
        if number == 1:
            continue
        try:
            step, episode, seed, return_, length, score = line.decode().strip().split(",")
            row = EpisodeRow(
                int(step), int(episode), int(seed), float(return_), int(length), float(score) if score else None
            )
            if not (math.isfinite(row.return_) and math.isfinite(row.score or 0.0)):
                raise ValueError("only finite numbers are logged")
        except ValueError as error:
            raise _damaged(path, number, line) from error
        rows.append(row)
    return rows


def _finite(name: str, step: int, value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number} at step {step}; only finite numbers are logged")
    return number


def _json_row(step: int, values: Mapping[str, float]) -> str:
    if "step" in values:
        raise ValueError(f'a metric is called "step" (at step {step}); that name is taken by the row itself')
    row = {"step": int(step), **{name: _finite(name, step, value) for name, value in values.items()}}
    return json.dumps(row, allow_nan=False) + "\n"


def _json_step(line: bytes) -> int:
    return int(json.loads(line)["step"])


def _csv_step(line: bytes) -> int:
    return int(line.split(b",", 1)[0])


def _append(path: Path, text: str) -> None:
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of a file that end as they should; nothing if there is no such file."""
    try:
        written = files.contents(path)
    except FileNotFoundError:
        return
    except files.UnreadableError as error:
        raise DamagedFileError(str(error)) from error
    for number, line in enumerate(written.split(b"\n")[:-1], start=1):
        yield number, line + b"\n"


def _damaged(path: Path, number: int, line: bytes) -> DamagedFileError:
    return DamagedFileError(f"{path}: line {number} is damaged: {line[:80]!r}; mend or delete that line")


def _parsed_step(path: Path, number: int, line: bytes, step_of: Callable[[bytes], int]) -> int:
    try:
        return step_of(line)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(path, number, line) from error


def _cut(path: Path, step: int, step_of: Callable[[bytes], int], header_lines: int) -> None:
    if not path.exists():
        return
    kept = b"".join(
        line
        for number, line in _whole_lines(path)
        if number <= header_lines or _parsed_step(path, number, line, step_of) <= step
    )
    if len(kept) != path.stat().st_size:
        files.write_bytes(path, kept)
