"""What runs have come to, read from their folders alone: no torch, no network, no config types.

A **group** is the runs whose configs differ in the seed alone. It belongs to a **task** (environment and dataset) and
to an **arm** (all else in the config), so that arms can be compared on the same tasks.

Folders may be read while their runs train.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from cql.loggers import METRICS_FILE, N_LAST_EVALUATIONS, PROVENANCE_FILE, SUMMARY_FILE, read_episodes, read_metrics
from cql.points import SEED, order, parse_point
from cql.sweeps import Status, read_sweep, status

CONFIG_FILE = Path(".hydra") / "config.yaml"

Statistic = Literal["last", "best", "last five"]
STATISTICS: tuple[Statistic, ...] = ("last", "best", "last five")
"""Of a run's evaluations: the last one; the best one, which was chosen by what it is judged by and is therefore too
good; the mean of the last five."""

# Keys that do not make another run, and those that say what it is judged or filmed by.
NOT_COMPARED = (
    "resume", "sweep_name", "retry_failed", "n_threads", "cuda_graph", "eval_worker", "logger", "device", "tf32",
    "video", "n_evals_per_video", "n_epochs_per_checkpoint", "n_kept_checkpoints",
)  # fmt: skip
# What makes a task of a config; how its data are prepared is the arm's.
_OF_TASK = (
    "env", "dataset.kind", "dataset.name", "dataset.id", "dataset.path", "dataset.download", "dataset.n_episodes",
    "dataset.fraction", "dataset.subset_seed",
)  # fmt: skip
_TASK_KEYS = ("task", "dataset", "env", "path", "id")  # of a point


class ResultsError(ValueError):
    """A folder holds no runs, or a file in a run's folder cannot be read."""


class Curve(NamedTuple):
    """One number per gradient step, both (n,)."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, as far as it has come.

    Attributes:
        directory: its folder.
        sweep: the folder of its sweep, None for a run of its own.
        config: every key, dotted: ``{"algorithm.alpha_cql.value": 5.0, ...}``; empty where it has not been written yet.
        status: see :mod:`cql.sweeps`.
        step: gradient steps done.
        failure: what went wrong, where it failed.
        evaluations: mean return of each evaluation.
        scores: the same normalised, empty where the environment has no reference.
        metrics: rows of ``metrics.jsonl``.
        provenance: versions, data and commit, as far as they were recorded.
    """

    directory: Path
    sweep: Path | None
    config: Mapping[str, Any]
    status: Status
    step: int
    failure: str | None
    evaluations: Curve
    scores: Curve
    metrics: Sequence[Mapping[str, float]]
    provenance: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.config.get(SEED, 0))

    @property
    def n_steps(self) -> int:
        """Gradient steps in all."""
        return int(self.config.get("n_steps", 0))

    @property
    def point(self) -> dict[str, str]:
        """What the sweep varied, by the folder's name, without the seed."""
        return {key: value for key, value in parse_point(self.directory.name).items() if key != SEED}

    @property
    def name(self) -> str:
        """For people: sweep and folder."""
        return self.directory.name if self.sweep is None else f"{self.sweep.name}/{self.directory.name}"

    def metric(self, name: str) -> Curve:
        """One column of the metrics, in the rows that have it."""
        return _column(self.metrics, name)

    def judged(self, scored: bool) -> Curve:
        """Scores of the evaluations, or returns."""
        return self.scores if scored else self.evaluations

    def outcome(self, statistic: Statistic, *, scored: bool) -> float | None:
        """The run in one number, None before its first evaluation.

        Args:
            statistic: which of its evaluations.
            scored: as normalised score rather than as return.
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
    def film(self) -> Path | None:
        """The last film, as a GIF."""
        return max((self.directory / "videos").glob("*.gif"), default=None)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone, sorted by it.

    Attributes:
        task: label of environment and dataset.
        arm: label of all else.
        runs: at least one.
    """

    task: str
    arm: str
    runs: tuple[Run, ...]

    @property
    def ended(self) -> tuple[Run, ...]:
        """Those that finished: the only ones that enter an average over outcomes."""
        return tuple(run for run in self.runs if run.status == "finished")

    def outcomes(self, statistic: Statistic, *, scored: bool) -> NDArray[np.float64]:
        """(n,): one number for each run that finished."""
        found = (run.outcome(statistic, scored=scored) for run in self.ended)
        return np.array([value for value in found if value is not None], np.float64)


@dataclasses.dataclass(frozen=True)
class Results:
    """All runs of some folders.

    Attributes:
        folders: those that were read.
        groups: by task and arm, in the order of both.
        tasks: labels.
        arms: labels, sorted by what differs between them.
        arm_settings: for each arm the config keys in which arms differ, by their short labels.
        shared: config keys that all runs have in common.
        unread: runs whose folders have no config yet or could not be read, with the reason.
        repeated: runs that have the config and the seed of another one that has come further, which was taken.
    """

    folders: tuple[Path, ...]
    groups: tuple[Group, ...]
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    arm_settings: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any]
    unread: tuple[tuple[Path, str], ...]
    repeated: tuple[Run, ...]

    @property
    def runs(self) -> list[Run]:
        """Of all groups."""
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def scored(self) -> bool:
        """Whether every run that was evaluated has normalised scores."""
        evaluated = [run for run in self.runs if len(run.evaluations.values)]
        return bool(evaluated) and all(len(run.scores.values) == len(run.evaluations.values) for run in evaluated)

    def group(self, task: str, arm: str) -> Group | None:
        """The runs of an arm on a task, None where there are none."""
        return next((group for group in self.groups if (group.task, group.arm) == (task, arm)), None)

    def numeric_axes(self) -> list[str]:
        """The settings that are numbers in every arm and differ between them, where nothing else differs."""
        keys = sorted({key for settings in self.arm_settings.values() for key in settings})
        texts = [key for key in keys if not all(_is_number(own.get(key)) for own in self.arm_settings.values())]
        return keys if keys and not texts else []


def renamed(results: Results, labels: Mapping[str, str]) -> Results:
    """The same results with other labels for some arms.

    Args:
        results: any.
        labels: new ones by old ones.

    Raises:
        ResultsError: there is no arm of an old label, or two would have the same new one.
    """
    for arm in labels:
        if arm not in results.arms:
            raise ResultsError(f"there is no arm '{arm}' to be renamed; there are {', '.join(results.arms)}")
    new = {arm: labels.get(arm, arm) for arm in results.arms}
    if len(set(new.values())) < len(new):
        raise ResultsError(f"two arms would have the same label: {', '.join(new.values())}")
    return dataclasses.replace(
        results,
        groups=tuple(dataclasses.replace(group, arm=new[group.arm]) for group in results.groups),
        arms=tuple(new.values()),
        arm_settings={new[arm]: own for arm, own in results.arm_settings.items()},
    )


# Reading --------------------------------------------------------------------------------------------------------------


def read_results(folders: Iterable[Path]) -> Results:
    """Read all runs below some folders.

    Args:
        folders: of sweeps, of runs, or of folders with either in them.

    Raises:
        ResultsError: a folder does not exist, or no run is found that can be read.
    """
    folders = tuple(Path(folder) for folder in folders)
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(f"{folder} is not a folder; give folders of sweeps or of runs")
        directories = sorted(_run_directories(folder))
        if not directories:
            raise ResultsError(f"{folder} holds no runs: no folder in it has a {SUMMARY_FILE} or a {CONFIG_FILE}")
        found |= {directory.resolve(): directory for directory in directories}
    runs, unread = [], []
    for directory in found.values():
        try:
            run = read_run(directory)
        except ResultsError as error:
            unread.append((directory, str(error)))
        else:
            if run.config:
                runs.append(run)
            else:
                unread.append((directory, f"was stopped before its {CONFIG_FILE} was written"))
    for sweep in {run.sweep for run in runs if run.sweep is not None}:
        known = {path.name for path in found if path.parent == sweep.resolve()}
        waiting = (run.name for run in read_sweep(sweep) if run.name not in known)
        unread += [(sweep / name, "has not begun") for name in waiting if sweep in folders]
    if not runs:
        path, reason = unread[0]
        raise ResultsError(f"none of the {len(unread)} runs can be read yet; {path}: {reason}")
    runs, repeated = _without_repetitions(runs)
    return _grouped(folders, runs, tuple(unread), repeated)


def _run_directories(folder: Path) -> Iterable[Path]:
    """A folder that is a run's, or those of the runs below it, at most four folders down."""
    if (folder / SUMMARY_FILE).exists() or (folder / CONFIG_FILE).exists():
        yield folder
        return
    for pattern in ("*", "*/*", "*/*/*", "*/*/*/*"):
        for path in folder.glob(pattern):
            if path.is_dir() and not path.name.startswith("."):
                files = (path / SUMMARY_FILE, path / CONFIG_FILE, path / METRICS_FILE)
                if any(file.exists() for file in files):
                    yield path


def read_run(directory: Path) -> Run:
    """Read one run's folder.

    Raises:
        ResultsError: a file in it is damaged; the message names it.
    """
    config = flat(_yaml(directory / CONFIG_FILE))
    summary = _json(directory / SUMMARY_FILE)
    try:
        metrics, episodes = read_metrics(directory), read_episodes(directory)
    except ValueError as error:
        raise ResultsError(str(error)) from error
    evaluations = _by_step([(row.step, row.return_) for row in episodes])
    scores = _by_step([(row.step, row.score) for row in episodes if row.score is not None])
    if not episodes:
        evaluations, scores = _column(metrics, "eval_return_mean"), _column(metrics, "eval_score")
    steps = [int(summary.get("step") or 0), *(int(row["step"]) for row in metrics[-1:])]
    found = status(directory, summary)
    return Run(
        directory=directory,
        sweep=directory.parent if (directory.parent / "sweep.json").exists() else None,
        config=config,
        status=found,
        step=max(steps),
        failure=str(summary.get("failure") or "the summary does not say why") if found == "failed" else None,
        evaluations=evaluations,
        scores=scores,
        metrics=metrics,
        provenance=_json(directory / PROVENANCE_FILE),
    )


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _by_step(rows: Sequence[tuple[int, float]]) -> Curve:
    at: dict[int, list[float]] = {}
    for step, value in rows:
        at.setdefault(step, []).append(value)
    steps = sorted(at)
    return Curve(np.array(steps, np.float64), np.array([np.mean(at[step]) for step in steps], np.float64))


def _column(metrics: Sequence[Mapping[str, float]], name: str) -> Curve:
    rows = np.asarray([(row["step"], row[name]) for row in metrics if name in row], np.float64).reshape(-1, 2)
    return Curve(rows[:, 0], rows[:, 1])


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ResultsError(f"{path} is damaged: {error}") from error
    return found if isinstance(found, dict) else {}


# Grouping -------------------------------------------------------------------------------------------------------------


def _without_repetitions(runs: Sequence[Run]) -> tuple[list[Run], tuple[Run, ...]]:
    """One run for each config and seed: the finished one, or the one that has come furthest."""
    by_config: dict[str, list[Run]] = {}
    for run in runs:
        by_config.setdefault(_key(_compared(run.config)), []).append(run)
    kept, repeated = [], []
    for same in by_config.values():
        first, *others = sorted(same, key=lambda run: (run.status != "finished", -run.step, run.name))
        kept.append(first)
        repeated += others
    return kept, tuple(repeated)


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    compared = {key: value for key, value in config.items() if key.partition(".")[0] not in NOT_COMPARED}
    # 5 and 5.0 are the same setting.
    return {key: float(value) if _is_number(value) else value for key, value in compared.items()}


def _key(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, default=str)


def _split(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config without its seed, as what belongs to the task and what to the arm."""
    task: dict[str, Any] = {}
    arm: dict[str, Any] = {}
    for key, value in _compared(config).items():
        if key == SEED:
            continue
        of_task = key in _OF_TASK or key.partition(".")[0] in _OF_TASK
        (task if of_task else arm)[key] = value
    return task, arm


def _grouped(
    folders: tuple[Path, ...], runs: Sequence[Run], unread: tuple[tuple[Path, str], ...], repeated: tuple[Run, ...]
) -> Results:
    tasks: dict[str, dict[str, Any]] = {}
    arms: dict[str, dict[str, Any]] = {}
    members: dict[tuple[str, str], list[Run]] = {}
    by_name = _are_of_one_table(runs)
    for run in runs:
        task, arm = _split(run.config)
        keys = (run.point["task"], run.point["arm"]) if by_name else (_key(task), _key(arm))
        tasks[keys[0]] = task
        # Of a table's arm what it has on all tasks: a task may have settings of its own.
        before = arms.get(keys[1], arm)
        arms[keys[1]] = {key: value for key, value in arm.items() if before.get(key, _ABSENT) == value}
        members.setdefault(keys, []).append(run)
    task_labels = {key: key for key in tasks} if by_name else _task_labels(tasks)
    settings, shared = _settings(list(arms.values()))
    by_arm = dict(zip(arms, settings, strict=True))
    arm_labels = {key: key for key in arms} if by_name else _arm_labels(by_arm, members)
    arms_in_order = sorted(arms, key=lambda key: _arm_order(arm_labels[key], by_arm[key]))
    tasks_in_order = sorted(tasks, key=lambda key: task_labels[key])
    groups = [
        Group(task_labels[task], arm_labels[arm], tuple(sorted(members[task, arm], key=lambda run: run.seed)))
        for task in tasks_in_order
        for arm in arms_in_order
        if (task, arm) in members
    ]
    return Results(
        folders=folders,
        groups=tuple(groups),
        tasks=tuple(task_labels[key] for key in tasks_in_order),
        arms=tuple(arm_labels[key] for key in arms_in_order),
        arm_settings={arm_labels[key]: by_arm[key] for key in arms_in_order},
        shared=shared,
        unread=unread,
        repeated=repeated,
    )


def _are_of_one_table(runs: Sequence[Run]) -> bool:
    """Whether all runs are of one sweep over tasks and arms, which are then told by their names."""
    return len({run.sweep for run in runs}) == 1 and all({"task", "arm"} == set(run.point) for run in runs)


def _task_labels(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Short names of datasets, with the keys of a part of the data or the environment where the names are the same."""
    short = {key: _dataset_label(task) for key, task in tasks.items()}
    labels = {}
    for key, task in tasks.items():
        same = [other for other in tasks if short[other] == short[key]]
        names = sorted({name for other in same for name in tasks[other]})
        differing = [name for name in names if len({_text(tasks[other].get(name)) for other in same}) > 1]
        labels[key] = " ".join(
            [short[key], *(f"{_short(name, differing)}={_text(task.get(name))}" for name in differing)]
        )
    return labels


def _dataset_label(task: Mapping[str, Any]) -> str:
    named = task.get("dataset.name") or task.get("dataset.id")
    if named is None and task.get("dataset.path"):
        named = Path(str(task["dataset.path"])).stem
    return str(named or task.get("env.id", "task"))


def _settings(arms: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """For each arm the keys in which arms differ, by short labels; and what all have in common."""
    keys = sorted({key for arm in arms for key in arm})
    differing = [key for key in keys if len({_key({"": arm.get(key, _ABSENT)}) for arm in arms}) > 1]
    shared = {key: arms[0][key] for key in keys if key not in differing} if arms else {}
    own = [{_short(key, differing): arm[key] for key in differing if key in arm} for arm in arms]
    return own, shared


_ABSENT = "<absent>"


def _short(key: str, among: Sequence[str]) -> str:
    """``alpha_cql`` for ``algorithm.alpha_cql.value``: as short as it can be and still be told from the others."""

    def shortened(key: str) -> str:
        *parents, leaf = key.split(".")
        said = {"value": "{}", "initial_value": "initial {}", "kind": "{} kind"}.get(leaf, leaf)
        return said.format(parents[-1]) if parents else leaf

    label = shortened(key)
    return label if [shortened(other) for other in among].count(label) <= 1 else re.sub(r"^algorithm\.", "", key)


def _arm_labels(
    settings: Mapping[str, Mapping[str, Any]], members: Mapping[tuple[str, str], Sequence[Run]]
) -> dict[str, str]:
    """The points' own words where they tell the arms apart, else the settings in which they differ."""
    points: dict[str, set[str]] = {key: set() for key in settings}
    for (_, arm), runs in members.items():
        for run in runs:
            own = {key: value for key, value in run.point.items() if key not in _TASK_KEYS}
            points[arm].add(" ".join(own.values() if list(own) == ["arm"] else (f"{k}={v}" for k, v in own.items())))
    texts = {key: next(iter(found)) for key, found in points.items() if len(found) == 1}
    if len(texts) == len(settings) == len(set(texts.values())) and all(texts.values()):
        return texts
    labels = {
        key: " ".join(f"{name.replace(' ', '_')}={_text(value)}" for name, value in own.items()) or "all runs"
        for key, own in settings.items()
    }
    if len(set(labels.values())) < len(labels):  # the absence of a key is all that tells them apart
        return {key: f"{label} ({index + 1})" for index, (key, label) in enumerate(labels.items())}
    return labels


def _arm_order(label: str, settings: Mapping[str, Any]) -> Any:
    numbers = [(key, value) for key, value in sorted(settings.items()) if _is_number(value)]
    only_numbers = len(numbers) == len(settings)
    # What all others are compared with comes first.
    return (
        label != "base",
        [(key, float(value)) for key, value in numbers] if only_numbers else [],
        [order(part) for part in label.split()],
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def provenance_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What was recorded of how the runs were made: each key with the values that occur."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for key, value in flat(run.provenance).items():
            found.setdefault(key, set()).add(_text(value))
    return {key: sorted(values) for key, values in sorted(found.items())}
