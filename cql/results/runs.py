"""What a run came to, read from its folder alone: no torch, no network, no config types.

Folders may be read while their runs train.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from cql.commands import printable
from cql.config.identity import NO_OTHER_RUN, ROUNDING, flat
from cql.config.schema import NO_SIMULATOR
from cql.files import UnreadableError, contents
from cql.points import SEED, parse_point
from cql.rollout.reference_scores import with_scores
from cql.scorer_names import DIRECTIONS, PREFIX
from cql.sweep.status import Status, evaluation_gap, planned_steps, status
from cql.training.curves import Curve, by_step, column
from cql.training.local_logger import (
    METRICS_FILE,
    N_LAST_EVALUATIONS,
    PROVENANCE_FILE,
    SUMMARY_FILE,
    VIDEO_FOLDER,
    EpisodeRow,
    read_episodes,
    read_judgement,
    read_metrics,
)

CONFIG_FILE = Path(".hydra") / "config.yaml"

Statistic = Literal["last", "best", "last five"]
STATISTICS: tuple[Statistic, ...] = ("last", "best", "last five")
"""Of a run's evaluations: the last one; the best one, which is selected by the value it reports and so biased upwards;
the mean of the last five."""

_DEEPEST = 200  # levels of a YAML file

# Keys, or groups of them, in which the same run may differ.
_NOT_COMPARED = (*NO_OTHER_RUN, *ROUNDING)


class ResultsError(ValueError):
    """A folder holds no runs, or a file in a run's folder cannot be read."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, up to its present step.

    Attributes:
        directory: its folder.
        sweep: the folder of its sweep, None for a single run.
        config: all keys, dotted: ``{"algorithm.alpha_cql.value": 5.0, ...}``; empty before it is written.
        status: see :mod:`cql.sweep.status`.
        step: gradient steps done.
        failure: the reason, if it failed.
        evaluations: mean return of each evaluation; without a simulator, the scorer that runs are judged by, with the
            sign that makes the larger value the better one. Empty if none is named.
        scores: the same as normalised scores, empty if the environment has no reference.
        n_episodes: rows of ``episodes.csv``; without any, the evaluations are the means in ``metrics.jsonl``.
        metrics: rows of ``metrics.jsonl``.
        provenance: versions, data and commit, if they were recorded.
        judgement: how its policy was judged without an environment, if it was.
    """

    directory: Path
    sweep: Path | None
    config: Mapping[str, Any]
    status: Status
    step: int
    failure: str | None
    evaluations: Curve
    scores: Curve
    n_episodes: int
    metrics: Sequence[Mapping[str, float]]
    provenance: Mapping[str, Any]
    judgement: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of its random numbers."""
        return int(self.config.get(SEED, 0))

    @property
    def has_simulator(self) -> bool:
        """Whether its evaluations are returns."""
        return self.config.get("env.id") != NO_SIMULATOR

    @property
    def unit(self) -> str:
        """What :attr:`evaluations` are: ``return``, or without a simulator such as ``offline_initial_value``."""
        scorer = self.config.get("env.best_by")
        if self.has_simulator or scorer not in DIRECTIONS:
            return "return"
        return f"{'' if DIRECTIONS[scorer] > 0 else 'minus_'}{PREFIX}{scorer}"

    @property
    def n_steps(self) -> int:
        """Gradient steps when it is finished."""
        prefix = "online."
        online = {key.removeprefix(prefix): value for key, value in self.config.items() if key.startswith(prefix)}
        return planned_steps(self.config.get("n_steps"), online) or 0

    @property
    def n_offline_steps(self) -> int | None:
        """The gradient steps on the dataset, if more follow in the environment; else None."""
        return _count(self.config, "n_steps") if self.config.get("online.kind") == "finetune" else None

    def offline(self, *, scored: bool) -> float | None:
        """The evaluation at the end of training on the dataset, None if there is none."""
        curve, end = self.judged(scored), self.n_offline_steps
        if end is None or not (curve.steps <= end).any():
            return None
        return float(curve.values[curve.steps <= end][-1])

    def online_curve(self, scored: bool) -> Curve:
        """The evaluations over environment steps, from the end of training on the dataset on; empty without such."""
        curve, end = self.judged(scored), self.n_offline_steps
        later = curve.steps >= (math.inf if end is None else end)
        steps = (curve.steps[later] - (end or 0)) / max(1, _count(self.config, "online.update_to_data"))
        return Curve(steps, curve.values[later])

    @property
    def regret(self) -> float | None:
        """The mean of 1 - score / 100 over the evaluations in the environment's part, None if there are none."""
        end = self.n_offline_steps
        if end is None or not (self.scores.steps > end).any():
            return None
        return 1.0 - float(np.mean(self.scores.values[self.scores.steps > end])) / 100.0

    @property
    def point(self) -> dict[str, str]:
        """What the sweep varied, from the folder's name, without the seed."""
        return point_of(self.directory)

    @property
    def name(self) -> str:
        """Sweep and folder, for people."""
        name = self.directory.name
        return printable(name if self.sweep is None else f"{self.sweep.name}/{name}")

    def metric(self, name: str) -> Curve:
        """One column of the metrics, in the rows that have it."""
        return column(self.metrics, name)

    def judged(self, scored: bool) -> Curve:
        """The evaluations as scores or as returns."""
        return self.scores if scored else self.evaluations

    def outcome(self, statistic: Statistic, *, scored: bool) -> float | None:
        """The run as one number, None before its first evaluation.

        Args:
            statistic: which of its evaluations.
            scored: as normalised score instead of return.
        """
        values = self.judged(scored).values
        if not len(values):
            return None
        match statistic:
            case "last":
                return float(values[-1])
            case "best":
                return float(values.max())
            case "last five":
                return float(values[-N_LAST_EVALUATIONS:].mean())

    @property
    def success(self) -> float | None:
        """The share of episodes of the last evaluation that had a success, None if none was reported."""
        values = self.metric("eval_success").values
        return float(values[-1]) if len(values) and math.isfinite(values[-1]) else None

    @property
    def video(self) -> Path | None:
        """The last rollout video, a GIF."""
        return max((self.directory / VIDEO_FOLDER).glob("*.gif"), default=None)


def run_directories(folder: Path) -> list[Path]:
    """The folders of runs in a folder: itself, or those up to four levels below it."""
    if any((folder / file).exists() for file in (SUMMARY_FILE, CONFIG_FILE)):
        return [folder]
    found = []
    for level in range(1, 5):
        for path in folder.glob("/".join("*" * level)):
            is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if not is_hidden and any((path / file).exists() for file in (SUMMARY_FILE, CONFIG_FILE, METRICS_FILE)):
                found.append(path)
    return sorted(found)


def read_run(directory: Path) -> Run:
    """Read one run's folder.

    Raises:
        ResultsError: a file in it is damaged; the message names it.
    """
    config = _config(directory / CONFIG_FILE)
    summary = _mapping(directory / SUMMARY_FILE)
    try:
        metrics, episodes = read_metrics(directory), read_episodes(directory)
    except ValueError as error:
        raise ResultsError(str(error)) from error
    evaluations = _by_step([(row.step, row.return_) for row in episodes])
    scores = _by_step([(row.step, row.score) for row in episodes if row.score is not None])
    if not episodes:
        evaluations, scores = column(metrics, "eval_return_mean"), column(metrics, "eval_score")
    scorer = config.get("env.best_by")
    if config.get("env.id") == NO_SIMULATOR and scorer in DIRECTIONS:
        curve = column(metrics, f"{PREFIX}{scorer}")
        evaluations = Curve(curve.steps, DIRECTIONS[scorer] * curve.values)
    found, step = status(directory, summary), summary.get("step") or 0
    if type(step) is not int:
        raise ResultsError(f"{directory / SUMMARY_FILE} is damaged: its step is {step!r}")
    if found == "finished":
        _check_whole(directory, metrics, episodes)
    else:  # an evaluation may be half-written
        evaluations, scores = _without_torn(evaluations, episodes), _without_torn(scores, episodes)
    return Run(
        directory=directory,
        sweep=directory.parent if (directory.parent / "sweep.json").exists() else None,
        config=config,
        status=found,
        step=max([step, *(int(row["step"]) for row in metrics[-1:])]),
        failure=str(summary.get("failure") or "the summary does not say why") if found == "failed" else None,
        evaluations=evaluations,
        scores=scores,
        n_episodes=len(episodes),
        metrics=metrics,
        provenance=_mapping(directory / PROVENANCE_FILE),
        judgement=read_judgement(directory),
    )


def _count(config: Mapping[str, Any], key: str) -> int:
    """A whole number of a flat config, 0 if there is none."""
    value = config.get(key, 0)
    return value if type(value) is int else 0


def _config(path: Path) -> dict[str, Any]:
    """The flat config in a file.

    Raises:
        ResultsError: it is damaged.
    """
    plain = _yaml(path)
    try:
        config = flat(with_scores(plain))
    except ValueError as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    for key in (SEED, "n_steps"):
        if type(config.get(key, 0)) is not int:
            raise ResultsError(f"{path} is damaged: {key} is {config[key]!r}")
    return config


def _check_whole(directory: Path, metrics: Sequence[Mapping[str, float]], episodes: Sequence[EpisodeRow]) -> None:
    """Refuse a finished run whose two files of evaluations do not agree: one of them has lost rows."""
    gap = evaluation_gap(metrics, episodes)
    if gap is not None:
        raise ResultsError(f"{directory / gap[0]} is damaged: {gap[1]}")


def _by_step(rows: Sequence[tuple[int, float]]) -> Curve:
    at = by_step(rows)
    steps = sorted(at)
    return Curve(np.array(steps, np.float64), np.array([np.mean(at[step]) for step in steps], np.float64))


def _without_torn(curve: Curve, episodes: Sequence[EpisodeRow]) -> Curve:
    """Without a last evaluation that has fewer episodes than the one before it."""
    n_episodes = list(Counter(row.step for row in episodes).values())  # in the order of the file
    return curve if n_episodes[-1:] >= n_episodes[-2:-1] else Curve(curve.steps[:-1], curve.values[:-1])


def _yaml(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def parse(text: str) -> Any:
        # libyaml calls itself for each level, and the interpreter dies of a thousand.
        if max(map(_depth, text.splitlines()), default=0) > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} levels deep")
        return yaml.load(text, Loader=loader)

    return _mapping(path, parse)


def _depth(line: str) -> int:
    """At most so many levels of YAML a line opens: spaces before it, dashes and brackets in it."""
    return len(line) - len(line.lstrip()) + line.count("- ") + line.count("[") + line.count("{")


def _mapping(path: Path, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """The mapping that a file holds; empty if there is no file."""
    try:
        found = parse(contents(path).decode())
    except FileNotFoundError:
        return {}
    except UnreadableError as error:
        raise ResultsError(str(error)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    return found if isinstance(found, dict) else {}


def point_of(directory: Path) -> dict[str, str]:
    """What a sweep varied, from the name of a run's folder, without the seed."""
    return {key: value for key, value in parse_point(printable(directory.name)).items() if key != SEED}


def is_compared(key: str) -> bool:
    """Whether runs that differ in a dotted config key are different runs."""
    key = re.sub(r"\[\d+\]", "", key)  # of a dataset in a mixture
    return key not in _NOT_COMPARED and key.partition(".")[0] not in _NOT_COMPARED


def first_choice(run: Run) -> Any:
    """Sorting key of runs of which one is enough: finished first, then the one with most steps, then the newest."""
    written = max((path.lstat().st_mtime for path in run.directory.glob("*.json*")), default=0.0)
    return run.status != "finished", -run.step, -written, str(run.directory)


def mean_success(runs: Iterable[Run]) -> float | None:
    """The mean of the runs' :attr:`Run.success`, None if none has it."""
    found = [run.success for run in runs if run.success is not None]
    return float(np.mean(found)) if found else None


def overrides_of(sweep: Path) -> list[str]:
    """Overrides of the command that last started a sweep; none if Hydra recorded none."""
    try:
        return [str(each) for each in _yaml(sweep / "multirun.yaml")["hydra"]["overrides"]["task"]]
    except (ResultsError, KeyError, TypeError):
        return []


def provenance_of(runs: Iterable[Run]) -> dict[str, list[str]]:
    """What was recorded about how runs were made: each key with the values that occur."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for key, value in flat(run.provenance).items():
            found.setdefault(key, set()).add(shown_value(value))
    return {key: sorted(values) for key, values in sorted(found.items())}


def shown_value(value: Any) -> str:
    """A value of a config, for people."""
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else printable(str(value))
