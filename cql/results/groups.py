"""Runs in groups that can be compared: tasks, arms and seeds.

A **group** is the runs whose configs differ in the seed alone. It belongs to a **task** (environment and dataset) and
to an **arm** (the rest of the config), so that arms can be compared on the same tasks.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.commands import printable
from cql.config.names import mixture_label, path_safe
from cql.points import SEED, order, parse_point
from cql.results.runs import (
    CONFIG_FILE,
    ResultsError,
    Run,
    Statistic,
    first_choice,
    is_compared,
    point_of,
    read_run,
    run_directories,
    shown_value,
)
from cql.sweep.status import read_sweep
from cql.training.local_logger import SUMMARY_FILE

NOT_BEGUN = "has not begun"
"""Why a run is not read that its sweep plans and that has no folder yet."""

# The keys of a config that make its task. How the data are prepared belongs to the arm.
_OF_TASK = (
    "env", "dataset.kind", "dataset.name", "dataset.id", "dataset.path", "dataset.n_episodes", "dataset.fraction",
    "dataset.subset_seed",
)  # fmt: skip
_TASK_WORDS = ("task", "dataset", "env", "path", "id")  # keys of a point that name its task
_LONGEST_LABEL = 90  # of an arm by its settings

Place = tuple[str, str]
"""Labels of a task and an arm."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone, sorted by it.

    Attributes:
        task: label of environment and dataset.
        arm: label of the rest of the config.
        runs: those that can be read; none if no run of a table's cell has begun.
        n_unread: planned runs that have not begun or cannot be read.
    """

    task: str
    arm: str
    runs: tuple[Run, ...]
    n_unread: int = 0

    @property
    def n_planned(self) -> int:
        """Number of runs that are planned, as far as the folders tell."""
        return len(self.runs) + self.n_unread

    @property
    def ended(self) -> tuple[Run, ...]:
        """The finished runs: only these enter an average of outcomes."""
        return tuple(run for run in self.runs if run.status == "finished")

    @property
    def is_complete(self) -> bool:
        """Whether every planned run has finished."""
        return len(self.ended) == self.n_planned

    @property
    def n_failed(self) -> int:
        """Number of failed runs."""
        return sum(run.status == "failed" for run in self.runs)

    def outcomes(self, statistic: Statistic, *, scored: bool) -> NDArray[np.float64]:
        """(n,): one number per finished run."""
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
        arm_settings: per arm the config keys in which arms differ, by their short labels.
        shared: config keys that all runs have in common.
        unread: folders of runs that have no config yet or could not be read, with the reason.
        repeated: runs with the config and the seed of another one, which is as far or further and was taken.
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
        return self.runs_of()

    def runs_of(self, *, task: str | None = None, arm: str | None = None) -> list[Run]:
        """The runs of a task, of an arm, or of both."""
        return [run for g in self.groups if task in (None, g.task) and arm in (None, g.arm) for run in g.runs]

    def groups_of(self, task: str) -> list[Group]:
        """The groups of a task, in the order of the arms."""
        return [group for group in self.groups if group.task == task]

    def group(self, task: str, arm: str) -> Group:
        """The runs of an arm on a task; an empty group if there are none."""
        return self._by_place.get((task, arm), Group(task, arm, ()))

    @cached_property
    def _by_place(self) -> dict[Place, Group]:
        return {(group.task, group.arm): group for group in self.groups}

    @cached_property
    def scored(self) -> bool:
        """Whether every evaluated run has normalised scores."""
        return not self.unscored_tasks and any(len(run.evaluations.values) for run in self.runs)

    @cached_property
    def unit(self) -> str:
        """What outcomes are: ``score``, ``return``, or a scorer if no run has a simulator."""
        units = {run.unit for run in self.runs if len(run.evaluations.values)}
        return "score" if self.scored else next(iter(units), "return")

    @cached_property
    def without_simulator(self) -> list[Run]:
        """The runs that were scored on recorded data alone."""
        return [run for run in self.runs if not run.has_simulator]

    @cached_property
    def unscored_tasks(self) -> tuple[str, ...]:
        """The tasks with a run that was evaluated without normalised scores."""
        without = {g.task for g in self.groups for r in g.runs if len(r.scores.values) < len(r.evaluations.values)}
        return tuple(task for task in self.tasks if task in without)

    def numeric_axes(self) -> list[str]:
        """The settings that differ between arms, if all of them are numbers in every arm; else none."""
        keys = sorted({key for settings in self.arm_settings.values() for key in settings})
        numbers = all(_is_number(own.get(key)) for own in self.arm_settings.values() for key in keys)
        return keys if numbers else []


def renamed(results: Results, labels: Mapping[str, str]) -> Results:
    """The same results with other labels for some arms.

    Args:
        results: any.
        labels: new labels by old ones.

    Raises:
        ResultsError: there is no arm of an old label, or two arms would get the same label.
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
    """Read all runs in some folders, and group them.

    Args:
        folders: of sweeps, of runs, or with either of these in them.

    Raises:
        ResultsError: a folder does not exist, or no run is found that can be read.
    """
    folders = tuple(Path(folder) for folder in folders)
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(f"{folder} is not a folder; give folders of sweeps or of runs")
        directories = run_directories(folder)
        if not directories:
            raise ResultsError(f"{folder} holds no runs: no folder in it has a {SUMMARY_FILE} or a {CONFIG_FILE}")
        found |= {directory.resolve(): directory for directory in directories}
    runs: list[Run] = []
    unread: list[tuple[Path, str]] = []
    for directory in found.values():
        try:
            run = read_run(directory)
        except ResultsError as error:
            unread.append((directory, str(error)))
            continue
        if run.config:
            runs.append(run)
        elif run.status in ("finished", "failed"):
            unread.append((directory, f"its {CONFIG_FILE} is missing"))
        else:
            unread.append((directory, f"was stopped before its {CONFIG_FILE} was written"))
    # Planned runs belong to sweeps that are read whole, not to those of which single runs are named.
    whole = {folder.resolve() for folder in folders}
    for sweep in sorted({run.sweep for run in runs if run.sweep is not None}):
        if not whole.isdisjoint((sweep.resolve(), *sweep.resolve().parents)):
            known = {path.name for path in found if path.parent == sweep.resolve()}
            unread += [(sweep / run.name, NOT_BEGUN) for run in read_sweep(sweep) if run.name not in known]
    if not runs:
        path, reason = unread[0]
        raise ResultsError(f"none of the {len(unread)} runs can be read yet; {path}: {reason}")
    if len({run.unit for run in runs if len(run.evaluations.values)}) > 1:  # only returns are comparable with returns
        runs = [run if run.has_simulator else dataclasses.replace(run, evaluations=run.scores) for run in runs]
    by_name = all({"task", "arm"} <= set(run.point) for run in runs)
    runs, repeated = _without_repetitions(runs, by_name)
    return _grouped(folders, runs, unread, repeated, by_name)


def _without_repetitions(runs: Sequence[Run], by_name: bool) -> tuple[list[Run], list[Run]]:
    """One run for each config and seed, and the others. Two arms of a table may coincide on a task and stay two."""
    by_config: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_config.setdefault((_key(_compared(run.config)), str(_names(run.point)) if by_name else ""), []).append(run)
    ordered = [sorted(same, key=first_choice) for same in by_config.values()]
    return [first for first, *_ in ordered], [run for _, *others in ordered for run in others]


def _grouped(
    folders: tuple[Path, ...],
    runs: Sequence[Run],
    unread: Sequence[tuple[Path, str]],
    repeated: Sequence[Run],
    by_name: bool,
) -> Results:
    splits = [_split(run.config) for run in runs]
    places = _places_by_name(runs, splits) if by_name else _places_by_config(runs, splits)
    members: dict[Place, list[Run]] = {}
    arms: dict[str, dict[str, Any]] = {}
    for run, place, (_, arm) in zip(runs, places, splits, strict=True):
        members.setdefault(place, []).append(run)
        # A table's task may have settings of its own: an arm's are those that it has on all tasks.
        before = arms.get(place[1], arm)
        arms[place[1]] = {key: value for key, value in arm.items() if key in before and before[key] == value}
    differing = _differing(list(arms.values()))
    settings = {label: _shortened(own, differing) for label, own in arms.items()}
    n_unread = _unread_places(runs, places, unread, by_name)
    settings |= {arm: {} for _, arm in n_unread if arm not in settings}
    tasks = sorted({task for task, _ in (*places, *n_unread)})
    ordered = {arm: settings[arm] for arm in sorted(settings, key=lambda arm: _arm_order(arm, settings[arm]))}
    groups = [
        Group(task, arm, tuple(sorted(members.get((task, arm), ()), key=lambda run: run.seed)), n_unread[task, arm])
        for task in tasks
        for arm in ordered
        if (task, arm) in members or (task, arm) in n_unread
    ]
    return Results(
        folders=folders,
        groups=tuple(groups),
        tasks=tuple(tasks),
        arms=tuple(ordered),
        arm_settings=ordered,
        shared={key: value for key, value in sorted(next(iter(arms.values())).items()) if key not in differing},
        unread=tuple(unread),
        repeated=tuple(repeated),
    )


def _unread_places(
    runs: Sequence[Run], places: Sequence[Place], unread: Iterable[tuple[Path, str]], by_name: bool
) -> Counter[Place]:
    """How many seeds of which task and arm are still to come, from the names of their folders."""
    by_point: dict[tuple[Path, str], Place] = {}
    seeds: dict[Place, set[str]] = {}
    # The labels that a table's names of tasks (0) and arms (1) have in each sweep.
    labels: dict[tuple[Path, int, str], set[str]] = {}
    for run, place in zip(runs, places, strict=True):
        sweep = run.directory.parent
        by_point[sweep, _key(run.point)] = place
        seeds.setdefault(place, set()).add(str(run.seed))
        for index, name in enumerate(_names(run.point) if by_name else ()):
            labels.setdefault((sweep, index, name), set()).add(place[index])
    found: Counter[Place] = Counter()
    for directory, _ in unread:
        point, sweep = point_of(directory), directory.parent
        of_run = by_point.get((sweep, _key(point)))
        if of_run is None and by_name and {"task", "arm"} <= set(point):
            names = _names(point)
            known = [labels.get((sweep, index, name), set()) for index, name in enumerate(names)]
            task, arm = (min(own) if len(own) == 1 else name for own, name in zip(known, names, strict=True))
            of_run = task, arm
        seed = parse_point(directory.name).get(SEED, "0")
        if of_run is not None and seed not in seeds.setdefault(of_run, set()):
            seeds[of_run].add(seed)
            found[of_run] += 1
    return found


# Comparing configs ----------------------------------------------------------------------------------------------------


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a run, in a form in which equal settings are equal."""
    compared = {key: float(value) if _is_number(value) else value for key, value in config.items() if is_compared(key)}
    for key, value in compared.items():
        if _of_dataset(key) == "dataset.path" and isinstance(value, str):
            compared[key] = str(Path(value).expanduser().resolve())
    return compared


def _of_dataset(key: str) -> str:
    """The key that a key of a dataset in a mixture is for one alone."""
    return re.sub(r"^dataset\.mixture\[\d+\]", "dataset", key)


def _key(plain: Mapping[str, Any]) -> str:
    """The same text for equal settings. A key that is null equals an absent one."""
    return json.dumps({key: value for key, value in plain.items() if value is not None}, sort_keys=True, default=str)


_Split = tuple[dict[str, Any], dict[str, Any]]


def _split(config: Mapping[str, Any]) -> _Split:
    """A config without its seed, divided into the task's settings and the arm's."""
    task: dict[str, Any] = {}
    arm: dict[str, Any] = {}
    for key, value in _compared(config).items():
        is_task = _of_dataset(key) in _OF_TASK or key.partition(".")[0] in _OF_TASK
        if key != SEED:
            (task if is_task and key != "env.best_by" else arm)[key] = value
    return task, arm


def _differing(plains: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which settings differ."""
    keys = sorted({key for plain in plains for key in plain})
    return [key for key in keys if len({_key({"": plain.get(key)}) for plain in plains}) > 1]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Labels ---------------------------------------------------------------------------------------------------------------


def _places_by_config(runs: Sequence[Run], splits: Sequence[_Split]) -> list[Place]:
    """Labels of task and arm for each run."""
    tasks = {_key(task): task for task, _ in splits}
    arms = {_key(arm): arm for _, arm in splits}
    points: dict[str, set[str]] = {key: set() for key in arms}
    in_sweeps: dict[str, set[str]] = {key: set() for key in arms}
    for run, (_, arm) in zip(runs, splits, strict=True):
        point = {name: value for name, value in run.point.items() if name not in _TASK_WORDS}
        said = list(point.values()) if list(point) == ["arm"] else [f"{name}={value}" for name, value in point.items()]
        points[_key(arm)].add(" ".join(said))
        in_sweeps[_key(arm)].add(" ".join([run.directory.name if run.sweep is None else run.sweep.name, *said]))
    names = _distinguished([_dataset_name(task) for task in tasks.values()], list(tasks.values()), [""] * len(tasks))
    task_labels = _unique(dict(zip(tasks, names, strict=True)))
    arm_labels = _arm_labels(arms, points, in_sweeps)
    return [(task_labels[_key(task)], arm_labels[_key(arm)]) for task, arm in splits]


def _places_by_name(runs: Sequence[Run], splits: Sequence[_Split]) -> list[Place]:
    """Labels of task and arm for each run: a table's names, with the settings that differ between runs of one name.

    On another task an arm may have other settings. On the same one they make another arm.
    """
    names = [_names(run.point) for run in runs]
    tasks = _distinguished([task for task, _ in names], [task for task, _ in splits], [""] * len(runs))
    return list(zip(tasks, _distinguished([arm for _, arm in names], [arm for _, arm in splits], tasks), strict=True))


def _names(point: Mapping[str, str]) -> Place:
    """Task and arm by a table's names; what else was varied belongs to the arm."""
    others = (f"{key}={value}" for key, value in point.items() if key not in ("task", "arm"))
    return point["task"], " ".join([point["arm"], *others])


def _distinguished(names: Sequence[str], plains: Sequence[Mapping[str, Any]], within: Sequence[str]) -> list[str]:
    """Each name, with the settings that differ between its bearers in the same place."""
    places: dict[Place, list[Mapping[str, Any]]] = {}
    for name, plain, place in zip(names, plains, within, strict=True):
        places.setdefault((name, place), []).append(plain)
    differing: dict[str, set[str]] = {name: set() for name in names}
    for (name, _), several in places.items():
        differing[name].update(_differing(several))
    return [_label(name, plain, sorted(differing[name])) for name, plain in zip(names, plains, strict=True)]


def _dataset_name(task: Mapping[str, Any]) -> str:
    names = [
        Path(str(value)).stem.removesuffix(".csv") if key.endswith("path") else str(value)
        for key, value in task.items()
        if value and _of_dataset(key) in ("dataset.name", "dataset.id", "dataset.path")
    ]
    if not names:
        return str(task.get("env.id", "task"))
    return mixture_label([path_safe(name) for name in names]) if task["dataset.kind"] == "mixture" else names[0]


def _arm_labels(
    arms: Mapping[str, Mapping[str, Any]], points: Mapping[str, set[str]], in_sweeps: Mapping[str, set[str]]
) -> dict[str, str]:
    """The words of the points if these distinguish the arms, else the settings in which they differ.

    If the settings are long: the words of the points with the names of their sweeps, or numbers.
    """
    if (texts := _only_words(points)) is not None:
        return texts
    differing = _differing(list(arms.values()))
    labels = {key: _settings(_shortened(own, differing)) or "all runs" for key, own in arms.items()}
    if max(map(len, labels.values())) <= _LONGEST_LABEL:
        return _unique(labels)
    if (texts := _only_words(in_sweeps)) is not None:
        return texts
    return {key: f"arm {index + 1}" for index, key in enumerate(labels)}


def _only_words(found: Mapping[str, set[str]]) -> dict[str, str] | None:
    """The words of each key, if each has exactly one that no other key has."""
    texts = {key: next(iter(words)) for key, words in found.items() if len(words) == 1}
    return texts if len(texts) == len(found) == len(set(texts.values())) and all(texts.values()) else None


def _label(name: str, plain: Mapping[str, Any], keys: Sequence[str]) -> str:
    return " ".join([name, *([_settings({_short(key, keys): plain.get(key) for key in keys})] if keys else [])])


def _settings(named: Mapping[str, Any]) -> str:
    return " ".join(f"{name.replace(' ', '_')}={shown_value(value)}" for name, value in named.items())


def _shortened(plain: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {_short(key, keys): plain[key] for key in keys if key in plain}


def _short(key: str, among: Sequence[str]) -> str:
    """``alpha_cql`` for ``algorithm.alpha_cql.value``: as short as the other keys allow."""

    def shortest(key: str) -> str:
        *parents, leaf = key.split(".")
        parent = parents[-1] if parents else ""
        said = {"value": parent, "initial_value": f"initial {parent}", "kind": f"{parent} kind"}
        return printable(said.get(leaf, leaf) if parents else leaf)

    label = shortest(key)
    return label if [shortest(other) for other in among].count(label) <= 1 else re.sub(r"^algorithm\.", "", key)


def _unique(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels with numbers if some are the same, as those of 5 and "5" are."""
    if len(set(labels.values())) == len(labels):
        return dict(labels)
    return {key: f"{label} ({index + 1})" for index, (key, label) in enumerate(labels.items())}


def _arm_order(label: str, settings: Mapping[str, Any]) -> Any:
    """Sorting key of arms: ``base``, which others are compared with, then by numbers, then by name."""
    numbers = [(key, float(value)) for key, value in sorted(settings.items()) if _is_number(value)]
    return label != "base", numbers if len(numbers) == len(settings) else [], [order(part) for part in label.split()]
