"""What runs have come to, read from their folders alone: no torch, no network, no config types.

A **group** is the runs whose configs differ in the seed alone. It belongs to a **task** (environment and dataset) and
to an **arm** (all else in the config), so that arms can be compared on the same tasks.

Folders may be read while their runs train.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from cql.config.points import SEED, order, parse_point
from cql.sweep.status import Status, read_sweep, status
from cql.training.loggers import (
    EPISODES_FILE,
    METRICS_FILE,
    N_LAST_EVALUATIONS,
    PROVENANCE_FILE,
    SUMMARY_FILE,
    EpisodeRow,
    read_episodes,
    read_metrics,
)

CONFIG_FILE = Path(".hydra") / "config.yaml"

Statistic = Literal["last", "best", "last five"]
STATISTICS: tuple[Statistic, ...] = ("last", "best", "last five")
"""Of a run's evaluations: the last one; the best one, which was chosen by what it is judged by and is therefore too
good; the mean of the last five."""

# Keys, or groups of them, that do not make another run, and those that say what it is filmed by.
_NOT_COMPARED = (
    "resume", "sweep_name", "retry_failed", "n_threads", "cuda_graph", "eval_worker", "logger", "device", "tf32",
    "video", "n_evals_per_video", "n_epochs_per_checkpoint", "n_kept_checkpoints", "dataset.download",
)  # fmt: skip
# What makes a task of a config; how its data are prepared is the arm's.
_OF_TASK = (
    "env", "dataset.kind", "dataset.name", "dataset.id", "dataset.path", "dataset.n_episodes", "dataset.fraction",
    "dataset.subset_seed",
)  # fmt: skip
NOT_BEGUN = "has not begun"
"""Why a run is not read that its sweep plans and that has no folder yet."""

_LONGEST_LABEL = 90  # of an arm by its settings
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
        status: see :mod:`cql.sweep.status`.
        step: gradient steps done.
        failure: what went wrong, where it failed.
        evaluations: mean return of each evaluation.
        scores: the same normalised, empty where the environment has no reference.
        n_episodes: rows of ``episodes.csv``; without any the evaluations are the means in ``metrics.jsonl``.
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
    n_episodes: int
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
        return _point(self.directory)

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
        runs: those that can be read; none where a table's cell has not begun.
        n_unread: how many more there are to be, which have not begun or cannot be read.
    """

    task: str
    arm: str
    runs: tuple[Run, ...]
    n_unread: int = 0

    @property
    def n_planned(self) -> int:
        """How many runs there are to be, as far as the folders tell."""
        return len(self.runs) + self.n_unread

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
        repeated: runs that have the config and the seed of another one, which has come as far or further and was taken.
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
        return not self.unscored_tasks and any(len(run.evaluations.values) for run in self.runs)

    @cached_property
    def unscored_tasks(self) -> tuple[str, ...]:
        """The tasks of which a run was evaluated without normalised scores."""
        without = {
            group.task
            for group in self.groups
            for run in group.runs
            if len(run.scores.values) < len(run.evaluations.values)
        }
        return tuple(task for task in self.tasks if task in without)

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
                ended = run.status in ("finished", "failed")
                why = f"its {CONFIG_FILE} is missing" if ended else f"was stopped before its {CONFIG_FILE} was written"
                unread.append((directory, why))
    # Of sweeps that are read whole; somebody who names some runs of one asks for no others.
    whole = {folder.resolve() for folder in folders}
    for sweep in sorted({run.sweep for run in runs if run.sweep is not None}):
        if whole.isdisjoint((sweep.resolve(), *sweep.resolve().parents)):
            continue
        known = {path.name for path in found if path.parent == sweep.resolve()}
        unread += [(sweep / run.name, NOT_BEGUN) for run in read_sweep(sweep) if run.name not in known]
    if not runs:
        path, reason = unread[0]
        raise ResultsError(f"none of the {len(unread)} runs can be read yet; {path}: {reason}")
    by_name = all({"task", "arm"} <= set(run.point) for run in runs)
    runs, repeated = _without_repetitions(runs, by_name=by_name)
    return _grouped(folders, runs, tuple(unread), repeated, by_name=by_name)


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
    if found == "finished":
        _check_whole(directory, metrics, episodes)
    else:  # an evaluation may be half-written
        evaluations, scores = _without_torn(evaluations, episodes), _without_torn(scores, episodes)
    return Run(
        directory=directory,
        sweep=directory.parent if (directory.parent / "sweep.json").exists() else None,
        config=config,
        status=found,
        step=max(steps),
        failure=str(summary.get("failure") or "the summary does not say why") if found == "failed" else None,
        evaluations=evaluations,
        scores=scores,
        n_episodes=len(episodes),
        metrics=metrics,
        provenance=_json(directory / PROVENANCE_FILE),
    )


def _check_whole(directory: Path, metrics: Sequence[Mapping[str, float]], episodes: Sequence[EpisodeRow]) -> None:
    """Refuse a finished run whose two files of evaluations do not agree: one has lost some of it.

    Raises:
        ResultsError: which step has other episodes than it should.
    """
    n_episodes = Counter(row.step for row in episodes)
    evaluated = {int(row["step"]) for row in metrics if "eval_return_mean" in row}
    most = max(n_episodes.values(), default=0)
    short = sorted(step for step, n in n_episodes.items() if n < most)
    apart = sorted(evaluated.symmetric_difference(n_episodes)) if evaluated and episodes else []
    if short:
        said = f"its evaluation at step {short[0]} has {n_episodes[short[0]]} episodes, others {most}"
        raise ResultsError(f"{directory / EPISODES_FILE} is damaged: {said}")
    if apart:
        lacks = METRICS_FILE if apart[0] in n_episodes else EPISODES_FILE
        raise ResultsError(f"{directory / lacks} is damaged: it lacks the evaluation at step {apart[0]}")


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


def _without_torn(curve: Curve, episodes: Sequence[EpisodeRow]) -> Curve:
    """Without a last evaluation of fewer episodes than the one before it."""
    n_episodes = list(Counter(row.step for row in episodes).values())  # in the order of the file
    return curve if n_episodes[-1:] >= n_episodes[-2:-1] else Curve(curve.steps[:-1], curve.values[:-1])


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


def is_compared(key: str) -> bool:
    """Whether runs that differ in a config key, which is dotted, are other runs."""
    return key not in _NOT_COMPARED and key.partition(".")[0] not in _NOT_COMPARED


def first_choice(run: Run) -> Any:
    """Sorting key of runs of which one is enough: finished, then the one that has come furthest, then the newest."""
    written = max((path.stat().st_mtime for path in run.directory.glob("*.json*")), default=0.0)
    return run.status != "finished", -run.step, -written, str(run.directory)


def _without_repetitions(runs: Sequence[Run], *, by_name: bool) -> tuple[list[Run], tuple[Run, ...]]:
    """One run for each config and seed; two arms of a table may be the same on some task, and are two all the same."""
    by_config: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_config.setdefault((_key(_compared(run.config)), str(_names(run.point)) if by_name else ""), []).append(run)
    kept, repeated = [], []
    for same in by_config.values():
        first, *others = sorted(same, key=first_choice)
        kept.append(first)
        repeated += others
    return kept, tuple(repeated)


def _point(directory: Path) -> dict[str, str]:
    return {key: value for key, value in parse_point(directory.name).items() if key != SEED}


def _names(point: Mapping[str, str]) -> tuple[str, str]:
    """Task and arm as a table names them, the arm with what else was varied."""
    others = (f"{key}={value}" for key, value in point.items() if key not in ("task", "arm"))
    return point["task"], " ".join([point["arm"], *others])


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run, in a form in which equal settings are equal."""
    compared = {key: float(value) if _is_number(value) else value for key, value in config.items() if is_compared(key)}
    if isinstance(path := compared.get("dataset.path"), str):
        compared["dataset.path"] = str(Path(path).expanduser().resolve())
    return compared


def _key(plain: Mapping[str, Any]) -> str:
    """The same for equal settings; a key that is null is one that is not there."""
    return json.dumps({key: value for key, value in plain.items() if value is not None}, sort_keys=True, default=str)


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
    folders: tuple[Path, ...],
    runs: Sequence[Run],
    unread: tuple[tuple[Path, str], ...],
    repeated: tuple[Run, ...],
    *,
    by_name: bool,
) -> Results:
    splits = [_split(run.config) for run in runs]
    places = _places_by_name(runs, splits) if by_name else _places_by_config(runs, splits)
    members: dict[tuple[str, str], list[Run]] = {}
    arms: dict[str, dict[str, Any]] = {}
    for run, place, (_, arm) in zip(runs, places, splits, strict=True):
        members.setdefault(place, []).append(run)
        # Of a table's arm what it has on all tasks: a task may have settings of its own.
        before = arms.get(place[1], arm)
        arms[place[1]] = {key: value for key, value in arm.items() if key in before and before[key] == value}
    own, shared = _settings(list(arms.values()))
    settings = dict(zip(arms, own, strict=True))
    n_unread = _unread_places(runs, places, unread, by_name=by_name)
    settings |= {arm: {} for _, arm in n_unread if arm not in settings}
    tasks = sorted({task for task, _ in (*places, *n_unread)})
    arms_in_order = sorted(settings, key=lambda arm: _arm_order(arm, settings[arm]))
    groups = [
        Group(task, arm, tuple(sorted(members.get((task, arm), ()), key=lambda run: run.seed)), n_unread[task, arm])
        for task in tasks
        for arm in arms_in_order
        if (task, arm) in members or (task, arm) in n_unread
    ]
    return Results(
        folders=folders,
        groups=tuple(groups),
        tasks=tuple(tasks),
        arms=tuple(arms_in_order),
        arm_settings={arm: settings[arm] for arm in arms_in_order},
        shared=shared,
        unread=unread,
        repeated=repeated,
    )


_Split = tuple[Mapping[str, Any], Mapping[str, Any]]


def _places_by_config(runs: Sequence[Run], splits: Sequence[_Split]) -> list[tuple[str, str]]:
    """Labels of task and arm for each run."""
    keys = [(_key(task), _key(arm)) for task, arm in splits]
    tasks = {key: task for (key, _), (task, _) in zip(keys, splits, strict=True)}
    arms = {key: arm for (_, key), (_, arm) in zip(keys, splits, strict=True)}
    own, _ = _settings(list(arms.values()))
    points: dict[str, set[str]] = {key: set() for key in arms}
    in_sweeps: dict[str, set[str]] = {key: set() for key in arms}
    for (_, key), run in zip(keys, runs, strict=True):
        point = {name: value for name, value in run.point.items() if name not in _TASK_KEYS}
        said = list(point.values()) if list(point) == ["arm"] else [f"{name}={value}" for name, value in point.items()]
        points[key].add(" ".join(said))
        in_sweeps[key].add(" ".join([run.directory.name if run.sweep is None else run.sweep.name, *said]))
    task_labels, arm_labels = _task_labels(tasks), _arm_labels(dict(zip(arms, own, strict=True)), points, in_sweeps)
    return [(task_labels[task], arm_labels[arm]) for task, arm in keys]


def _places_by_name(runs: Sequence[Run], splits: Sequence[_Split]) -> list[tuple[str, str]]:
    """Labels of task and arm for each run: a table's names, with what differs beside the seed between runs of a name.

    On another task an arm may have other settings; on the same one it is another arm.
    """
    names = [_names(run.point) for run in runs]
    tasks = _told_apart([task for task, _ in names], [task for task, _ in splits], [""] * len(runs))
    return list(zip(tasks, _told_apart([arm for _, arm in names], [arm for _, arm in splits], tasks), strict=True))


def _told_apart(names: Sequence[str], plains: Sequence[Mapping[str, Any]], within: Sequence[str]) -> list[str]:
    """Each name, with the settings in which bearers of the same name within the same place differ."""
    places: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for name, plain, place in zip(names, plains, within, strict=True):
        places.setdefault((name, place), []).append(plain)
    differing: dict[str, set[str]] = {name: set() for name in names}
    for (name, _), several in places.items():
        differing[name].update(_differing(several))
    return [_label(name, plain, sorted(differing[name])) for name, plain in zip(names, plains, strict=True)]


def _unread_places(
    runs: Sequence[Run],
    places: Sequence[tuple[str, str]],
    unread: Iterable[tuple[Path, str]],
    *,
    by_name: bool,
) -> Counter[tuple[str, str]]:
    """How many seeds of which task and arm are still to come, by the names of their folders."""
    by_point: dict[tuple[Path, str], tuple[str, str]] = {}
    seeds: dict[tuple[str, str], set[str]] = {}
    # What the names of tasks and arms have become in each sweep.
    tasks: dict[tuple[Path, str], set[str]] = {}
    arms: dict[tuple[Path, str], set[str]] = {}
    for run, place in zip(runs, places, strict=True):
        sweep = run.directory.parent
        by_point[sweep, _key(run.point)] = place
        seeds.setdefault(place, set()).add(str(run.seed))
        if by_name:
            task, arm = _names(run.point)
            tasks.setdefault((sweep, task), set()).add(place[0])
            arms.setdefault((sweep, arm), set()).add(place[1])
    found: Counter[tuple[str, str]] = Counter()
    for directory, _ in unread:
        point, sweep = _point(directory), directory.parent
        of_run = by_point.get((sweep, _key(point)))
        if of_run is None and by_name and {"task", "arm"} <= set(point):
            task, arm = _names(point)
            of_run = _only(tasks.get((sweep, task)), task), _only(arms.get((sweep, arm)), arm)
        seed = parse_point(directory.name).get(SEED, "0")
        if of_run is not None and seed not in seeds.setdefault(of_run, set()):
            seeds[of_run].add(seed)
            found[of_run] += 1
    return found


def _only(labels: set[str] | None, otherwise: str) -> str:
    return next(iter(labels)) if labels and len(labels) == 1 else otherwise


def _task_labels(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Short names of datasets, with the keys of a part of the data or the environment where the names are the same."""
    short = {key: _dataset_label(task) for key, task in tasks.items()}
    labels = {}
    for key, task in tasks.items():
        same = [tasks[other] for other in tasks if short[other] == short[key]]
        labels[key] = _label(short[key], task, _differing(same))
    return _unique(labels)


def _label(name: str, plain: Mapping[str, Any], keys: Sequence[str]) -> str:
    return " ".join([name, *(f"{_short(key, keys).replace(' ', '_')}={_text(plain.get(key))}" for key in keys)])


def _differing(plains: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which settings differ; a key that is null is one that is not there."""
    keys = sorted({key for plain in plains for key in plain})
    return [key for key in keys if len({_key({"": plain.get(key)}) for plain in plains}) > 1]


def _dataset_label(task: Mapping[str, Any]) -> str:
    named = task.get("dataset.name") or task.get("dataset.id")
    if named is None and task.get("dataset.path"):
        named = Path(str(task["dataset.path"])).stem
    return str(named or task.get("env.id", "task"))


def _settings(arms: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """For each arm the keys in which arms differ, by short labels; and what all have in common."""
    differing = _differing(arms)
    shared = {key: value for key, value in sorted(arms[0].items()) if key not in differing} if arms else {}
    own = [{_short(key, differing): arm[key] for key in differing if key in arm} for arm in arms]
    return own, shared


def _short(key: str, among: Sequence[str]) -> str:
    """``alpha_cql`` for ``algorithm.alpha_cql.value``: as short as it can be and still be told from the others."""

    def shortened(key: str) -> str:
        *parents, leaf = key.split(".")
        said = {"value": "{}", "initial_value": "initial {}", "kind": "{} kind"}.get(leaf, leaf)
        return said.format(parents[-1]) if parents else leaf

    label = shortened(key)
    return label if [shortened(other) for other in among].count(label) <= 1 else re.sub(r"^algorithm\.", "", key)


def _arm_labels(
    settings: Mapping[str, Mapping[str, Any]], points: Mapping[str, set[str]], in_sweeps: Mapping[str, set[str]]
) -> dict[str, str]:
    """The points' own words where they tell the arms apart, else the settings in which they differ.

    Where that would be long, the points' words with the names of their sweeps, or numbers.
    """
    if (texts := _only_words(points)) is not None:
        return texts
    labels = {
        key: " ".join(f"{name.replace(' ', '_')}={_text(value)}" for name, value in own.items()) or "all runs"
        for key, own in settings.items()
    }
    if max(map(len, labels.values())) <= _LONGEST_LABEL:
        return _unique(labels)
    if (texts := _only_words(in_sweeps)) is not None:
        return texts
    return {key: f"arm {index + 1}" for index, key in enumerate(labels)}


def _only_words(found: Mapping[str, set[str]]) -> dict[str, str] | None:
    """What is said of each key, where it is one thing and no other key's."""
    texts = {key: next(iter(words)) for key, words in found.items() if len(words) == 1}
    return texts if len(texts) == len(found) == len(set(texts.values())) and all(texts.values()) else None


def _unique(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels with numbers where some are the same: where 5 and "5" are all that tells them apart."""
    if len(set(labels.values())) == len(labels):
        return dict(labels)
    return {key: f"{label} ({index + 1})" for index, (key, label) in enumerate(labels.items())}


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


def overrides_of(sweep: Path) -> list[str]:
    """What the command that last started a sweep put on top of the configs; nothing where Hydra wrote none down."""
    try:
        return [str(each) for each in _yaml(sweep / "multirun.yaml")["hydra"]["overrides"]["task"]]
    except (ResultsError, KeyError, TypeError):
        return []


def provenance_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What was recorded of how the runs were made: each key with the values that occur."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for key, value in flat(run.provenance).items():
            found.setdefault(key, set()).add(_text(value))
    return {key: sorted(values) for key, values in sorted(found.items())}
