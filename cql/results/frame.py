"""The runs in a folder as a table for pandas: :func:`cql.read_runs`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cql.commands import required
from cql.points import SEED
from cql.results.runs import ResultsError, Run, Statistic, is_compared, read_run, run_directories

if TYPE_CHECKING:
    import pandas

# As in a run's summary.json.
_STATISTICS: dict[Statistic, str] = {"last": "", "best": "best_", "last five": "last5_"}


def read_runs(folder: str | Path) -> pandas.DataFrame:
    """Read runs, also while they train.

    Args:
        folder: of a run or of a sweep, or one with such folders in it, up to four levels deep.

    Returns:
        One row for each run: ``folder``, ``sweep`` (its name, None for a single run), ``status``, ``step``, ``seed``;
        the config keys in which the runs differ; ``eval_return_mean``, ``best_eval_return_mean`` and
        ``last5_eval_return_mean`` (of the last and the best evaluation, and the mean of the last five); ``eval_score``
        and so on, if the environment has reference scores; without a simulator, the scorer that runs are judged by
        instead, as ``offline_initial_value``; and what ``judgement.json`` says of the run, if it is there.
        A run whose files are damaged has the status ``damaged`` and no more.

    Raises:
        ResultsError: the folder holds no runs.
        MissingPackageError: pandas is not installed.
    """
    frames = required("pandas", "frame")
    directories = run_directories(Path(folder)) if Path(folder).is_dir() else []
    if not directories:
        raise ResultsError(f"{folder} holds no runs: give the folder of a run, of a sweep, or one with these in it")
    runs = {directory: _read(directory) for directory in directories}
    keys = _differing([run.config for run in runs.values() if run is not None])
    return frames.DataFrame([_row(directory, run, keys) for directory, run in runs.items()])


def _read(directory: Path) -> Run | None:
    with suppress(ResultsError):
        return read_run(directory)
    return None


def _row(directory: Path, run: Run | None, keys: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"folder": str(directory), "sweep": None, "status": "damaged"}
    if run is None:
        return row
    row |= {"sweep": run.sweep and run.sweep.name, "status": run.status, "step": run.step, "seed": run.seed}
    row |= {key: run.config.get(key) for key in keys}
    for name, scored in (("eval_return_mean" if run.has_simulator else run.unit, False), ("eval_score", True)):
        outcomes = {f"{prefix}{name}": run.outcome(each, scored=scored) for each, prefix in _STATISTICS.items()}
        row |= {key: value for key, value in outcomes.items() if value is not None or not scored}
    judgement = {key: value for key, value in run.judgement.items() if isinstance(value, (int, float))}
    return row | {key: value for key, value in judgement.items() if key not in row}  # it has a step too


def _differing(configs: list[Mapping[str, Any]]) -> list[str]:
    """The dotted keys that make the runs different ones, but for the seed, in the order of the configs."""
    keys = dict.fromkeys(key for config in configs for key in config if key != SEED and is_compared(key))
    return [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]
