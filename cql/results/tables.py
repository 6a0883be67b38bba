"""A paper's table: what is trained for it, what was published, and how the two are set side by side.

A table is one file of ``configs/table/``. :func:`hydra_options` makes of it what Hydra needs to run its grid;
:func:`compare` sets the runs of that grid, read from their folders alone, beside the published numbers, and the rest
writes it down as text, Markdown, LaTeX and CSV.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from cql.config.points import SEED, human_point, parse_point
from cql.results.runs import STATISTICS, Run, Statistic, first_choice, is_compared
from cql.results.statistics import MIN_RUNS, Estimate, mean_estimate, overlap, published_estimate

MARKS = {
    "V": "read in the named file or log",
    "T": "one person's word in a named thread",
    "2nd": "a second-hand copy of a paper's number",
    "INF": "arithmetic on published numbers",
    "NV": "not verified",
    "own": "measured with this package",
}
"""How sure a published number is."""

NOT_SAID, OF_DATASET = "not said", "dataset"
PUBLISHED_STATISTICS = (*STATISTICS, NOT_SAID, OF_DATASET)
"""Which evaluations a published number is made of; ``dataset`` is of the data themselves, without training."""

SPREADS = ("sample", "population", "not said", "episodes", "none")
"""What stands behind a published number's +-: a standard deviation over seeds with n - 1 or with n under it, one whose
kind is not told (read as the first), one over episodes, or nothing."""

EVERY_ARM = "*"
UNITS = ("score", "return")


class TableError(ValueError):
    """A table's file is not as it should be, or there is none of that name."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A published number.

    Attributes:
        mean: the number.
        spread: beside it, None where none was published.
        note: what is said of this one, e.g. which version of a paper it stands in.
        mark: how sure this one is, None where that is its column's.
    """

    mean: float
    spread: float | None = None
    note: str = ""
    mark: str | None = None


@dataclasses.dataclass(frozen=True)
class Published:
    """A column of published numbers.

    Attributes:
        label: its heading.
        statistic: of the evaluations: one of :data:`PUBLISHED_STATISTICS`.
        source: where it was published.
        mark: how sure it is: one of :data:`MARKS`.
        data: version of the datasets.
        spread: what its spread is: one of :data:`SPREADS`.
        arm: ours that it is compared with, ``*`` for every one, None for none.
        seeds: how many, None where it is not said.
        protocol: how it was evaluated.
    """

    label: str
    statistic: str
    source: str
    mark: str
    data: str
    spread: str
    arm: str | None = None
    seeds: int | None = None
    protocol: str = ""

    @property
    def is_of_data(self) -> bool:
        """Whether it tells of the data themselves: they have no seeds, and no interval over them."""
        return self.statistic == OF_DATASET

    def ours(self, chosen: Statistic) -> Statistic:
        """The statistic of our runs that it is compared with: its own, or the chosen one where it has none."""
        return self.statistic if self.statistic in STATISTICS else chosen

    def estimate(self, value: Value) -> Estimate:
        """A value with Student's interval, where its spread is one over a known number of seeds."""
        spread = None if self.spread in ("none", "episodes") else value.spread
        if spread is not None and self.spread == "population" and self.seeds is not None and self.seeds > 1:
            spread *= math.sqrt(self.seeds / (self.seeds - 1))
        return published_estimate(value.mean, spread, self.seeds)

    def why_no_interval(self, value: Value) -> str:
        """Why :meth:`estimate` has no interval."""
        if self.spread == "episodes":
            return "spread over episodes"
        if self.spread == "none" or value.spread is None:
            return "no spread published"
        return "seeds not published" if self.seeds is None else f"theirs: {_count(self.seeds, 'seed')}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A row.

    Attributes:
        name: of the task, in folders and tables.
        choose: options of config groups, such as ``{"env": "Hopper-v5"}``.
        set: values of config keys, nested.
        file: of D4RL, None where the dataset needs none.
        url: where that file is published.
        note: what a reader must know of it.
        references: by name, the returns that score 0 and 100.
        published: by column; some cells have several values that contradict each other.
    """

    name: str
    choose: Mapping[str, str]
    set: Mapping[str, Any]
    file: str | None
    url: str | None
    note: str
    references: Mapping[str, tuple[float, float]]
    published: Mapping[str, tuple[Value, ...]]


@dataclasses.dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its file.
        title: for people.
        note: what a reader must know before comparing.
        experiment: the preset of ``configs/experiment/`` that it is based on.
        set: values of config keys on top of it, nested.
        seeds: of every cell.
        arms: files of ``configs/arm/``, with their labels.
        unit: of the published numbers and the comparison, ``score`` or ``return``.
        published: columns by their names.
        tasks: rows, in the table's order.
    """

    name: str
    title: str
    note: str
    experiment: str
    set: Mapping[str, Any]
    seeds: tuple[int, ...]
    arms: Mapping[str, str]
    unit: str
    published: Mapping[str, Published]
    tasks: tuple[Task, ...]

    @property
    def sweep_name(self) -> str:
        """Name of the sweep that trains it."""
        return f"table_{self.name}"

    @property
    def scales(self) -> list[str]:
        """Names of the normalisations that its tasks have references for."""
        return list(dict.fromkeys(name for task in self.tasks for name in task.references))


# Reading --------------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9.-]|_(?!_))*")


def known_tables(folder: Path) -> list[str]:
    """Names of the tables in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_table(name: str, folder: Path) -> Table:
    """Read a table's file.

    Args:
        name: of the table, or the path of a file.
        folder: with the known tables.

    Raises:
        TableError: there is none of that name, or a key or a value in it is not understood.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else folder / f"{name}.yaml"
    if not path.is_file():
        if is_path:
            raise TableError(f"{name}: there is no such file")
        raise TableError(
            f"there is no table '{name}'; there are {', '.join(known_tables(folder))}, or give a .yaml file"
        )
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TableError(f"{path} is no YAML: {error}") from error
    read = _Reader(path)
    keys = ("title", "note", "experiment", "set", "seeds", "arms", "unit", "url", "published", "tasks")
    read.keys("the table", plain, keys, needed=("title", "experiment", "seeds", "arms", "tasks"))
    read.name("the table's file", path.stem)
    arms = {read.name("arms", key): str(value) for key, value in read.mapping("arms", plain).items()}
    published = {key: read.column(f"published.{key}", each) for key, each in read.mapping("published", plain).items()}
    for key, column in published.items():
        if column.arm not in (None, EVERY_ARM, *arms):
            raise TableError(
                f"{path}: published.{key}.arm is {column.arm!r}; the table's arms are {', '.join(arms)}, or "
                f"'{EVERY_ARM}' for every one"
            )
    seeds = plain["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise TableError(f"{path}: seeds must be a list of integers from 0 on, got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise TableError(f"{path}: seeds names one seed twice: {seeds!r}")
    url = plain.get("url")
    tasks = [read.task(key, value, published, url) for key, value in read.mapping("tasks", plain).items()]
    if not (arms and tasks):
        raise TableError(f"{path}: a table needs at least one of arms and of tasks")
    return Table(
        name=path.stem,
        title=str(plain["title"]),
        note=str(plain.get("note", "")).strip(),
        experiment=str(plain["experiment"]),
        set=read.mapping("set", plain),
        seeds=tuple(seeds),
        arms=arms,
        unit=read.choice("unit", plain.get("unit", UNITS[0]), UNITS),
        published=published,
        tasks=tuple(tasks),
    )


class _Reader:
    """Checks the parts of a table's file, and names the file in what it has to say."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keys(self, where: str, plain: Any, known: Sequence[str], needed: Sequence[str] = ()) -> None:
        if not isinstance(plain, dict):
            raise TableError(f"{self.path}: {where} must be a mapping, got {plain!r}")
        for key in plain:
            if key not in known:
                raise TableError(f"{self.path}: {where} has no key '{key}'; there are {', '.join(known)}")
        for key in needed:
            if plain.get(key) is None:
                raise TableError(f"{self.path}: {where} lacks the key '{key}'")

    def mapping(self, key: str, plain: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        value = plain.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise TableError(f"{self.path}: {where}{key} must be a mapping, got {value!r}")
        return value

    def name(self, where: str, text: Any) -> str:
        """A name that is safe in folders, and in the lists that Hydra is given."""
        if not isinstance(text, str) or not _NAME.fullmatch(text):
            raise TableError(
                f"{self.path}: {where}: {text!r} cannot be a name; take letters, digits, dots, dashes and single "
                "underscores, a letter first"
            )
        return text

    def choice(self, where: str, value: Any, known: Sequence[str]) -> str:
        if value not in known:
            raise TableError(f"{self.path}: {where} is {value!r}; choose one of {', '.join(known)}")
        return str(value)

    def column(self, where: str, plain: Any) -> Published:
        known = [field.name for field in dataclasses.fields(Published)]
        needed = [field.name for field in dataclasses.fields(Published) if field.default is dataclasses.MISSING]
        self.keys(where, plain, known, needed=needed)
        for key, choices in (("mark", tuple(MARKS)), ("statistic", PUBLISHED_STATISTICS), ("spread", SPREADS)):
            self.choice(f"{where}.{key}", plain[key], choices)
        seeds = plain.get("seeds")
        if seeds is not None and (type(seeds) is not int or seeds < 1):
            raise TableError(f"{self.path}: {where}.seeds is {seeds!r}; it must be a number of seeds, or left out")
        return Published(**plain)

    def task(self, name: Any, plain: Any, published: Mapping[str, Published], url: str | None) -> Task:
        where = f"tasks.{self.name('tasks', name)}"
        self.keys(where, plain, ("choose", "set", "file", "url", "note", "references", "published"))
        cells = {}
        for key, value in self.mapping("published", plain, f"{where}.").items():
            if key not in published:
                raise TableError(
                    f"{self.path}: {where}.published has no column '{key}'; there are {', '.join(published)}"
                )
            cells[key] = self.values(f"{where}.published.{key}", value)
            if published[key].spread == "none" and any(each.spread is not None for each in cells[key]):
                raise TableError(
                    f"{self.path}: {where}.published.{key} has a spread, but its column has 'spread: none'"
                )
        references = {}
        for key, value in self.mapping("references", plain, f"{where}.").items():
            match value:
                case [int() | float() as low, int() | float() as high] if high > low:
                    references[str(key)] = (float(low), float(high))
                case _:
                    raise TableError(
                        f"{self.path}: {where}.references.{key} is {value!r}; give the returns that score 0 and 100, "
                        "as [low, high]"
                    )
        file = plain.get("file")
        return Task(
            name=name,
            choose={str(key): str(value) for key, value in self.mapping("choose", plain, f"{where}.").items()},
            set=self.mapping("set", plain, f"{where}."),
            file=file,
            url=plain.get("url") or (f"{url}/{file}" if url and file else None),
            note=str(plain.get("note", "")).strip(),
            references=references,
            published=cells,
        )

    def values(self, where: str, plain: Any) -> tuple[Value, ...]:
        """``47.0``, ``[47.0, 0.2]``, ``{mean: 79.2, note: later}``, or a list of such mappings."""
        match plain:
            case bool():
                pass
            case int() | float():
                return (Value(float(plain)),)
            case [int() | float() as mean, int() | float() as spread]:
                return (Value(float(mean), float(spread)),)
            case {"mean": int() | float() as mean, **others} if set(others) <= {"spread", "note", "mark"}:
                spread, mark = plain.get("spread"), plain.get("mark")
                if mark is not None:
                    self.choice(f"{where}.mark", mark, tuple(MARKS))
                return (
                    Value(float(mean), None if spread is None else float(spread), str(plain.get("note", "")), mark),
                )
            case [dict(), *_]:
                return tuple(value for each in plain for value in self.values(where, each))
        raise TableError(
            f"{self.path}: {where} is {plain!r}; it must be a number, [mean, spread], or {{mean: ..., spread: ..., "
            "note: ..., mark: ...}"
        )


# Running --------------------------------------------------------------------------------------------------------------


def missing_files(tasks: Iterable[Task], data: Path) -> list[tuple[Task, Path]]:
    """The tasks whose D4RL file is not in a folder, with the path that was looked at."""
    return [(task, data / task.file) for task in tasks if task.file and not (data / task.file).is_file()]


def hydra_options(table: Table, tasks: Sequence[Task], data: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What Hydra has to be told of a table, by group and name: its tasks, and the experiment that sweeps over them.

    The experiment's own config, without its sweep, has the table's first task, whichever are trained: it is what a
    sweep that is taken up is compared with.

    Args:
        table: the table.
        tasks: those of its rows that are to be trained.
        data: the folder with D4RL's files.

    Returns:
        Contents of config files, all of the package ``_global_``.
    """
    options: dict[tuple[str, str], dict[str, Any]] = {}
    for task in table.tasks:
        own: dict[str, Any] = {"defaults": [{f"override /{group}": name} for group, name in task.choose.items()]}
        own["defaults"].append("_self_")
        own |= {key: dict(value) if isinstance(value, Mapping) else value for key, value in task.set.items()}
        if task.file:
            own["dataset"] = {**own.get("dataset", {}), "path": str((data / task.file).resolve())}
        options["task", task.name] = own
    options["experiment", table.sweep_name] = {
        # The task before the arm, which has the final word.
        "defaults": [table.experiment, "_self_", {"/task": table.tasks[0].name}, {"/arm": next(iter(table.arms))}],
        **table.set,
        "sweep_name": table.sweep_name,
        "hydra": {
            "sweeper": {
                "params": {
                    "task": ",".join(task.name for task in tasks),
                    "arm": ",".join(table.arms),
                    "seed": ",".join(map(str, table.seeds)),
                }
            },
        },
    }
    return options


# Comparing ------------------------------------------------------------------------------------------------------------


class Arm(NamedTuple):
    """A column of ours: a file of ``configs/arm/``, and what else was varied with it, as text."""

    name: str
    varied: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs of an arm on a task, one a seed.

    Attributes:
        runs: those that have begun, sorted by their seeds.
        n_planned: seeds in all.
        n_steps: gradient steps of a run that has not begun, None where nothing tells.
    """

    runs: tuple[Run, ...]
    n_planned: int
    n_steps: int | None

    @property
    def finished(self) -> tuple[Run, ...]:
        """Those that finished: the only ones that enter a mean."""
        return tuple(run for run in self.runs if run.status == "finished")

    @property
    def is_complete(self) -> bool:
        """Whether every seed has finished."""
        return len(self.finished) == self.n_planned

    @property
    def n_failed(self) -> int:
        """How many failed."""
        return sum(run.status == "failed" for run in self.runs)

    @property
    def seeds(self) -> str:
        """For people, done of planned: ``2 of 4``."""
        return f"{len(self.finished)} of {self.n_planned}"

    @property
    def steps(self) -> str:
        """For people: gradient steps of all seeds together, done of planned."""
        done = sum(run.step for run in self.runs)
        if self.n_steps is None:
            return f"{done:,}"
        planned = sum(run.n_steps for run in self.runs) + self.n_steps * (self.n_planned - len(self.runs))
        return f"{done:,} of {planned:,}"

    def outcomes(self, statistic: Statistic, unit: str, reference: tuple[float, float] | None) -> NDArray[np.float64]:
        """(n,): one number for each run that finished, on a scale of its own where there is a reference."""
        found = [run.outcome(statistic, scored=reference is None and unit == "score") for run in self.finished]
        values = np.array([value for value in found if value is not None], np.float64)
        return values if reference is None else np.asarray(_rescaled(values, reference))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table with the runs that there are for it.

    Attributes:
        table: the table.
        statistic: of our runs, where nothing else decides.
        arms: columns of ours: those of the table, and others that were found.
        cells: for every task of the table and every arm.
        departures: config keys in which runs differ from the table's own config, each as a line.
        failures: runs that failed, each as a line.
        unfinished: how many runs are in which other state, empty for none.
        strangers: folders that belong to no cell, each as a line.
    """

    table: Table
    statistic: Statistic
    arms: tuple[Arm, ...]
    cells: Mapping[tuple[str, Arm], Cell]
    departures: tuple[str, ...]
    failures: tuple[str, ...]
    unfinished: Mapping[str, int]
    strangers: tuple[str, ...]

    def label(self, arm: Arm) -> str:
        """Heading of a column of ours."""
        label = self.table.arms.get(arm.name, arm.name)
        return f"{label} ({arm.varied})" if arm.varied else label

    def compared(self, arm: Arm) -> list[tuple[str, Published]]:
        """The published columns that an arm is compared with."""
        return [(key, each) for key, each in self.table.published.items() if each.arm in (EVERY_ARM, arm.name)]


def compare(
    table: Table,
    runs: Iterable[Run],
    *,
    statistic: Statistic = "last",
    planned: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
    unread: Iterable[tuple[Path, str]] = (),
) -> Comparison:
    """Put runs into the cells of a table, by the task, the arm and the seed in the names of their folders.

    Args:
        table: the table.
        runs: of its sweep, or of several; of two for one place the one that has come furthest is taken.
        statistic: of our runs, where the published column does not decide.
        planned: config keys, dotted, that the table means a run to have, by task and arm, as far as they are known.
        unread: folders without a readable run, with the reason; one that does not exist yet is a run that waits.
    """
    planned = {} if planned is None else planned
    tasks = {task.name for task in table.tasks}
    places: dict[tuple[str, Arm, int], list[Run]] = {}
    strangers, n_waiting = [], 0
    seeds: dict[Arm, set[int]] = {}
    for path, why in unread:
        point = parse_point(path.name)
        if point.get("task") in tasks and "arm" in point and not path.exists():
            n_waiting += 1
            seed = point.pop(SEED, "")
            if seed.isdigit():
                seeds.setdefault(_arm(point), set()).add(int(seed))
        else:
            strangers.append(f"{path.name}: {why}")
    for run in runs:
        task = run.point.get("task")
        if task not in tasks or "arm" not in run.point:
            strangers.append(f"{run.name}: its name has no task and arm of this table")
        else:
            places.setdefault((task, arm := _arm(run.point), run.seed), []).append(run)
            seeds.setdefault(arm, set()).add(run.seed)
    found: dict[tuple[str, Arm], list[Run]] = {}
    for (task, arm, _), several in sorted(places.items()):
        first, *others = sorted(several, key=first_choice)
        found.setdefault((task, arm), []).append(first)
        strangers += [f"{run.name}: {first.name} stands in its place" for run in others]
    seen = sorted({arm for _, arm in found})
    named = [Arm(name) for name in table.arms if Arm(name) in seen or all(arm.name != name for arm in seen)]
    arms = (*named, *(arm for arm in seen if arm not in named))
    # An arm that was given other seeds altogether has those instead of the table's.
    n_planned = {}
    for arm in arms:
        own = seeds.get(arm, set())
        n_planned[arm] = len(own if own and own.isdisjoint(table.seeds) else own.union(table.seeds))
    # Of runs that have not begun: as many steps as the others have, or as the table means them to have.
    lengths = [run.n_steps for own in found.values() for run in own]
    n_steps = max(lengths or [int(config.get("n_steps", 0)) for config in planned.values()], default=None)
    cells = {
        (row.name, arm): Cell(tuple(found.get((row.name, arm), ())), n_planned[arm], n_steps)
        for row, arm in itertools.product(table.tasks, arms)
    }
    all_runs = [run for own in found.values() for run in own]
    return Comparison(
        table=table,
        statistic=statistic,
        arms=tuple(arms),
        cells=cells,
        departures=tuple(_departures(found, planned)),
        failures=tuple(
            f"{human_point(run.directory.name)} failed at step {run.step:,}: {_first_line(str(run.failure))}"
            for run in all_runs
            if run.status == "failed"
        ),
        unfinished=Counter(run.status for run in all_runs if run.status not in ("finished", "failed"))
        + Counter(waiting=n_waiting),
        strangers=tuple(strangers),
    )


def _arm(point: Mapping[str, str]) -> Arm:
    """A column of ours, of a run's point without its seed."""
    return Arm(point["arm"], " ".join(f"{key}={value}" for key, value in point.items() if key not in ("task", "arm")))


def _departures(
    found: Mapping[tuple[str, Arm], Sequence[Run]], planned: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    """What the runs have otherwise than the table means them to, one line a change with how many runs have it."""
    lines: Counter[str] = Counter()
    n_compared = 0
    for (task, arm), runs in found.items():
        wanted = planned.get((task, arm.name))
        for run in runs if wanted is not None else ():
            n_compared += 1
            for key in sorted({*wanted, *run.config} if wanted else ()):
                if key == SEED or not is_compared(key):
                    continue
                old, new = change = _change(key, wanted or {}, run.config)
                # An arm that clones for as long as it trains: that it does so for longer follows.
                follows = key == "algorithm.bc_steps" and change == _change("n_steps", wanted or {}, run.config)
                if old != new and not follows:
                    lines[f"{key}: {old} -> {new}"] += 1
    return [f"{line} ({_of_all(count, n_compared)})" for line, count in lines.items()]


_ABSENT = object()


def _change(key: str, wanted: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, str]:
    return _shown(key, wanted.get(key, _ABSENT)), _shown(key, own.get(key, _ABSENT))


def _shown(key: str, value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    if key == "dataset.path":
        return Path(str(value)).name
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _of_all(count: int, n: int) -> str:
    return "the one run" if n == 1 else f"all {n} runs" if count == n else f"{count} of {n} runs"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _first_line(failure: str) -> str:
    return failure.partition("; last metrics: ")[0].strip().partition("\n")[0]


def _rescaled(value: Any, reference: tuple[float, float]) -> Any:
    """Returns as scores: 0 for the lower reference, 100 for the upper."""
    low, high = reference
    return 100.0 * (value - low) / (high - low)


# As a document --------------------------------------------------------------------------------------------------------
# Cells are plain texts; a "±" is written as each format has it, and lower-case letters in brackets behind a value point
# to a note.

NOTHING = "-"


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the document with one table.

    Attributes:
        title: for people.
        header: heading of each column.
        rows: texts, one a column.
        averages: rows below a line.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    averages: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Document:
    """What is written of a comparison, whatever the format.

    Attributes:
        name: of the table.
        title: for people.
        warnings: what a reader must see first.
        sections: tables.
        notes: below them.
    """

    name: str
    title: str
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


def document(comparison: Comparison) -> Document:
    """Everything that is known of a comparison: scores, each arm's runs, each comparison, notes."""
    table, footnotes = comparison.table, _Footnotes(comparison.table)
    sections = [_scores(comparison, None, footnotes)]
    sections += [_scores(comparison, scale, footnotes) for scale in table.scales]
    for arm in comparison.arms:
        if not any(comparison.cells[task.name, arm].runs for task in table.tasks):
            continue
        sections.append(_runs(comparison, arm))
        sections += [_against(comparison, arm, key, column, footnotes) for key, column in comparison.compared(arm)]
    warnings = []
    if comparison.departures:
        warnings.append("Ours are not the table's settings: " + "; ".join(comparison.departures))
    if not any(cell.runs for cell in comparison.cells.values()):
        warnings.append("No run has begun yet.")
    if comparison.failures:
        warnings += list(comparison.failures)
    if comparison.unfinished:
        states = ", ".join(f"{count} {status}" for status, count in sorted(comparison.unfinished.items()))
        warnings.append(f"Not finished, and in no mean: {states}.")
    of_score = table.unit == "score"
    silent = [
        row
        for (row, _), cell in comparison.cells.items()
        if cell.finished and not len(cell.outcomes("last", table.unit, None))
    ]
    if silent:
        why = "their environments have no reference; 'unit: return' shows returns" if of_score else "no evaluation"
        warnings.append(f"Runs that finished without a {table.unit} ({why}): {', '.join(dict.fromkeys(silent))}.")
    unscored = {str(run.config.get("dataset.id", "")) for cell in comparison.cells.values() for run in cell.runs}
    if of_score and any(name.startswith("mujoco/") for name in unscored):
        warnings.append(
            "Minari's mujoco datasets have no reference scores: what is called a score of theirs here is normalised by "
            "the constants of the run's environment; see the table minari_v0 for returns and two named normalisations."
        )
    if comparison.strangers:
        more = len(comparison.strangers) - 3
        also = f"; and {more} more" if more > 0 else ""
        warnings.append("Left aside: " + "; ".join(comparison.strangers[:3]) + also)
    return Document(
        table.name,
        table.title,
        tuple(warnings),
        tuple(sections),
        tuple(note.replace("+-", "±") for note in _notes(comparison, footnotes)),
    )


class _Footnotes:
    """Letters for what is said of single values and tasks, in the order of the table."""

    def __init__(self, table: Table) -> None:
        texts = [self.text(value) for task in table.tasks for values in task.published.values() for value in values]
        texts += [task.note for task in table.tasks]
        self.letters = {text: _letter(index) for index, text in enumerate(dict.fromkeys(filter(None, texts)))}

    @staticmethod
    def text(value: Value) -> str:
        return " ".join(filter(None, [value.note, f"[{value.mark}]" if value.mark else ""]))

    def mark(self, text: str) -> str:
        return f"[{self.letters[text]}]" if text else ""


def _letter(index: int) -> str:
    return (chr(ord("a") + index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def _number(value: float, n_decimals: int = 1) -> str:
    return NOTHING if math.isnan(value) else f"{value:.{n_decimals}f}"


def _with_spread(mean: float, spread: float | None, n_decimals: int = 1) -> str:
    return _number(mean, n_decimals) + ("" if spread is None else f" ± {spread:.{n_decimals}f}")


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.1f} to {estimate.high:.1f}" if estimate.has_interval else NOTHING


def _decimals(table: Table, key: str) -> int:
    """As many as the longest number of a published column has."""
    numbers = [x for task in table.tasks for value in task.published.get(key, ()) for x in (value.mean, value.spread)]
    return max((len(f"{x!r}".partition(".")[2].rstrip("0")) for x in numbers if x is not None), default=1) or 1


def _theirs(table: Table, key: str, value: Value, reference: tuple[float, float] | None, footnotes: _Footnotes) -> str:
    mean, spread, n_decimals = value.mean, value.spread, _decimals(table, key)
    if reference is not None:
        mean, n_decimals = _rescaled(mean, reference), 1
        spread = None if spread is None else 100.0 * spread / (reference[1] - reference[0])
    return _with_spread(mean, spread, n_decimals) + footnotes.mark(footnotes.text(value))


def _average(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None and not math.isnan(value)]
    return _number(float(np.mean(there))) if there and len(there) == len(values) else NOTHING


def _scores(comparison: Comparison, scale: str | None, footnotes: _Footnotes) -> Section:
    """Tasks by columns: ours, then all that was published, as far as a task has it on this scale."""
    table, statistic = comparison.table, comparison.statistic
    rows, means = [], {}
    for task in table.tasks:
        reference = None if scale is None else task.references.get(scale)
        row, numbers = [task.name + footnotes.mark(task.note)], []
        for arm in comparison.arms:
            cell = comparison.cells[task.name, arm]
            values = cell.outcomes(statistic, table.unit, reference)
            missing = scale is not None and reference is None
            text = NOTHING if missing or not len(values) else _with_spread(values.mean(), _deviation(values))
            row.append(text if cell.is_complete or not cell.runs else f"{text} ({cell.seeds})")
            numbers.append(float(values.mean()) if len(values) and cell.is_complete and not missing else None)
        for key in table.published:
            published = () if scale is not None and reference is None else task.published.get(key, ())
            row.append(" / ".join(_theirs(table, key, each, reference, footnotes) for each in published) or NOTHING)
            first = None if not published else published[0].mean
            numbers.append(first if first is None or reference is None else _rescaled(first, reference))
        rows.append(tuple(row))
        means[task.name] = numbers
    complete = [
        task.name
        for task in table.tasks
        if all(comparison.cells[task.name, arm].is_complete for arm in comparison.arms)
    ]
    averages = []
    if 0 < len(complete) < len(table.tasks):
        columns = zip(*(means[name] for name in complete), strict=True)
        label = f"average of the {_count(len(complete), 'complete task')}"
        averages.append((label, *(_average(column) for column in columns)))
    label = f"average of all {len(table.tasks)}"
    averages.append((label, *(_average(column) for column in zip(*means.values(), strict=True))))
    if scale is None and not _can_average(table):
        averages = []
    ours = [f"{comparison.label(arm)}, {statistic} (ours)" for arm in comparison.arms]
    theirs = [f"{column.label} [{column.mark}]" for column in table.published.values()]
    unit = {"score": "Scores", "return": "Returns"}[table.unit] if scale is None else f"Scores, normalised by {scale}"
    return Section(unit, ("task", *ours, *theirs), tuple(rows), tuple(averages))


def _can_average(table: Table) -> bool:
    """Returns of different environments have no common unit."""
    return table.unit == "score"


def _deviation(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _runs(comparison: Comparison, arm: Arm) -> Section:
    """What an arm has come to on every task, and how far it is."""
    table = comparison.table
    rows: list[tuple[str, ...]] = []
    whole: list[float] = []
    for task in table.tasks:
        cell = comparison.cells[task.name, arm]
        if not cell.runs:  # its hole stands in the first table
            continue
        values = cell.outcomes(comparison.statistic, table.unit, None)
        text = _with_spread(values.mean(), _deviation(values)) if len(values) else NOTHING
        seeds = f"{cell.seeds} seeds" + (f", {cell.n_failed} failed" if cell.n_failed else "")
        rows.append((task.name, text, _interval(mean_estimate(values)), seeds, cell.steps))
        if cell.is_complete and len(values):
            whole.append(float(values.mean()))
    title = f"Ours: {comparison.label(arm)}, {comparison.statistic}"
    header = ("task", f"mean ± std, {table.unit}", "95 % interval", "seeds done", "steps done")
    average = (_average_label(len(whole), len(table.tasks)), _average(whole), *[NOTHING] * 3)
    return Section(title, header, tuple(rows), (average,) if whole and _can_average(table) else ())


def _average_label(n_complete: int, n_tasks: int) -> str:
    return f"average of all {n_tasks}" if n_complete == n_tasks else f"average of {n_complete} complete of {n_tasks}"


def _against(comparison: Comparison, arm: Arm, key: str, column: Published, footnotes: _Footnotes) -> Section:
    """An arm beside a published column, under that column's own statistic."""
    table, statistic = comparison.table, column.ours(comparison.statistic)
    rows: list[tuple[str, ...]] = []
    complete: list[tuple[float, float]] = []
    for task in table.tasks:
        cell = comparison.cells[task.name, arm]
        if not cell.runs:
            continue
        values = cell.outcomes(statistic, table.unit, None)
        ours = mean_estimate(values)
        text = _with_spread(values.mean(), _deviation(values)) if len(values) else NOTHING
        published = task.published.get(key, ())
        for index, value in enumerate(published):
            theirs = column.estimate(value)
            difference = ours.value - theirs.value
            rows.append(
                (
                    task.name if index == 0 else "",
                    text if index == 0 else "",
                    _interval(ours) if index == 0 else "",
                    _theirs(table, key, value, None, footnotes),
                    _interval(theirs),
                    NOTHING if math.isnan(difference) else f"{difference:+.1f}",
                    _overlap_text(ours, len(values), theirs, column.why_no_interval(value)),
                    cell.seeds if index == 0 else "",
                )
            )
        if not published:
            rows.append((task.name, text, _interval(ours), *[NOTHING] * 4, cell.seeds))
        elif cell.is_complete and len(values):
            complete.append((ours.value, published[0].mean))
    if column.is_of_data:
        how = f"ours: {statistic}; {column.label}: the data themselves"
    elif column.statistic in STATISTICS:
        how = f"{statistic} against {column.statistic}"
    else:
        how = f"ours: {statistic}; theirs: {NOT_SAID}"
    title = f"{comparison.label(arm)} (ours) beside {column.label} [{column.mark}] ({how})"
    theirs_head = column.label if column.is_of_data else "theirs"
    header = (
        "task", "ours", "95 % interval", theirs_head, "95 % interval", "difference", "intervals overlap", "seeds done",
    )  # fmt: skip
    averages: list[tuple[str, ...]] = []
    if complete and _can_average(table):
        mine, others = (float(np.mean(column)) for column in zip(*complete, strict=True))
        label, dash = _average_label(len(complete), len(table.tasks)), NOTHING
        averages.append((label, _number(mine), dash, _number(others), dash, f"{mine - others:+.1f}", dash, dash))
    # Data have no interval over seeds, and nothing that could overlap.
    shown = [index for index in range(len(header)) if not (column.is_of_data and index in (4, 6))]
    head, *body = (tuple(row[index] for index in shown) for row in (header, *rows, *averages))
    return Section(title, head, tuple(body[: len(rows)]), tuple(body[len(rows) :]))


def _overlap_text(ours: Estimate, n: int, theirs: Estimate, why: str) -> str:
    """Whether they do, or why that cannot be said."""
    if not n:
        return NOTHING
    shared = overlap(ours, theirs)
    if shared is None:
        return why if not theirs.has_interval else f"ours: {_count(n, 'seed')}"
    return "yes" if shared else "no"


def _notes(comparison: Comparison, footnotes: _Footnotes) -> Iterable[str]:
    table = comparison.table
    yield from filter(None, [table.note])
    yield (
        "Ours: mean ± standard deviation (n - 1) over the seeds that finished, with how many of how many where some "
        f"have not; intervals are Student's, of 95 %, from {MIN_RUNS} seeds on. Of each run "
        f"{_WHAT[comparison.statistic]}, where the published "
        "column does not ask for another. Averages are over complete tasks only, those in which every seed finished, "
        "and of both sides over the same ones; of several values in a cell they take the first."
    )
    if not all(column.is_of_data for column in table.published.values()):
        yield (
            "Theirs: mean ± what was published; intervals are Student's, of the spread over the square root of the "
            "seeds, where both are known and the spread is one over seeds. Whether intervals overlap is no test: where "
            "they do not, a difference is likely; where they do, nothing is said."
        )
    used = {column.mark for column in table.published.values()}
    for column in table.published.values():
        seeds = "seeds not said" if column.seeds is None else _count(column.seeds, "seed")
        seeds = "" if column.is_of_data else seeds
        parts = [column.data, _SAID[column.statistic], seeds, _OF_SPREAD[column.spread], column.protocol, column.source]
        yield f"{column.label} [{column.mark}]: {'; '.join(filter(None, parts))}."
    for text, letter in footnotes.letters.items():
        yield f"[{letter}] {text}"
    text = " ".join([table.note, *(column.protocol for column in table.published.values()), *footnotes.letters])
    used |= {mark for mark in MARKS if f"[{mark}]" in text}
    if used:
        yield "Marks: " + "; ".join(f"[{mark}] {meaning}" for mark, meaning in MARKS.items() if mark in used) + "."


_WHAT: Mapping[str, str] = {
    "last": "the last evaluation counts",
    "best": "the best evaluation counts, chosen by what it is judged by and therefore too good",
    "last five": "the mean of the last five evaluations counts, or of all where there are fewer",
}
_SAID: Mapping[str, str] = {
    "last": "last evaluation",
    "best": "best evaluation",
    "last five": "mean of the last five evaluations",
    NOT_SAID: "which evaluation is not said",
    OF_DATASET: "no training",
}
_OF_SPREAD: Mapping[str, str] = {
    "sample": "± standard deviation (n - 1) over seeds",
    "population": "± standard deviation (n) over seeds, widened by the square root of n/(n - 1) for its interval",
    "not said": "± of a kind that is not said, read as a standard deviation (n - 1) over seeds",
    "episodes": "± standard deviation over episodes",
    "none": "",
}


# Written down ---------------------------------------------------------------------------------------------------------


def as_text(document: Document, width: int = 120) -> str:
    """For a terminal: aligned columns; notes and warnings are broken to the width, rows are not."""
    parts = [document.title, "=" * len(document.title)]
    parts += [_wrapped(f"! {text}", width) for text in document.warnings]
    for section in document.sections:
        rows = [section.header, *section.rows, *section.averages]
        widths = [max(len(row[index]) for row in rows) for index in range(len(section.header))]
        lines = [
            "  ".join(
                text.ljust(width) if index == 0 else text.rjust(width) for index, (text, width) in enumerate(each)
            )
            for each in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        rule = "-" * sum(widths, 2 * (len(widths) - 1))
        cut = len(section.rows) + 1
        body = [lines[0], rule, *lines[1:cut], *([rule, *lines[cut:]] if section.averages else [])]
        parts += ["", section.title, *(line.rstrip() for line in body)]
    parts += ["", *(_wrapped(f"- {note}", width) for note in document.notes)]
    return "\n".join(parts).replace("±", "+-") + "\n"


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def as_markdown(document: Document) -> str:
    """For a page of Markdown."""
    parts = [f"# {document.title}", "", *(f"> **{_escaped_markdown(text)}**\n" for text in document.warnings)]
    for section in document.sections:
        parts += [f"## {section.title}", ""]
        parts.append("| " + " | ".join(map(_escaped_markdown, section.header)) + " |")
        parts.append("|---" + "|---:" * (len(section.header) - 1) + "|")
        for row in section.rows:
            parts.append("| " + " | ".join(map(_markdown_cell, row)) + " |")
        for row in section.averages:
            parts.append("| " + " | ".join(f"**{_markdown_cell(text)}**" for text in row) + " |")
        parts.append("")
    parts += ["## Notes", "", *(f"- {_escaped_markdown(note)}" for note in document.notes)]
    return "\n".join(parts) + "\n"


_LETTERS = re.compile(r"\[([a-z]{1,2})\]")


def _escaped_markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`])", r"\\\1", text)


def _markdown_cell(text: str) -> str:
    return _LETTERS.sub(r"<sup>\1</sup>", _escaped_markdown(text))


def as_latex(document: Document) -> str:
    r"""For a document that has ``\usepackage{booktabs}``; ``\input`` it anywhere in its body."""
    parts = [r"% Needs \usepackage{booktabs} in the preamble. Put it in by \input{table.tex}."]
    parts += [f"% {line}" for text in document.warnings for line in _wrapped(text, 110).splitlines()]
    for index, section in enumerate(document.sections):
        parts += [
            "",
            r"\begin{table}[htbp]",
            r"  \centering",
            rf"  \caption{{{latex(document.title)}. {latex(section.title)}.}}",
            rf"  \label{{tab:{document.name}-{index + 1}}}",
            r"  \scriptsize" if len(section.header) > _NARROW else r"  \footnotesize",
            rf"  \setlength{{\tabcolsep}}{{{2 if len(section.header) > _NARROW else 4}pt}}",
            rf"  \begin{{tabular}}{{@{{}}l{'r' * (len(section.header) - 1)}@{{}}}}",
            r"    \toprule",
            f"    {' & '.join(map(_latex_heading, section.header))} \\\\",
            r"    \midrule",
            *(f"    {_latex_row(row)}" for row in section.rows),
            *([r"    \midrule"] if section.averages else []),
            *(f"    {_latex_row(row)}" for row in section.averages),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    parts += ["", r"\begin{footnotesize}", r"\begin{itemize}"]
    parts += [rf"  \item {latex(text)}" for text in (*document.warnings, *document.notes)]
    parts += [r"\end{itemize}", r"\end{footnotesize}"]
    return "\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    '"': "''",
}  # fmt: skip


def latex(text: str) -> str:
    """A text that LaTeX prints as it is."""
    # A bracket behind \\ or \item would be read as its argument.
    text = "".join(_LATEX.get(letter, letter) for letter in text)
    return f"{{}}{text}" if text.startswith("[") else text


def _latex_heading(text: str) -> str:
    r"""A heading in as many lines as it needs, by LaTeX's own ``\shortstack``."""
    lines = textwrap.wrap(text, _HEADING, break_long_words=False, break_on_hyphens=False)
    if len(lines) == 1:
        return latex(text)
    stacked = r" \\ ".join(map(latex, lines))
    return rf"\shortstack[r]{{{stacked}}}"


_NARROW, _HEADING = 6, 11  # columns of a table in larger letters, and letters in a line of a heading


def _latex_row(row: Sequence[str]) -> str:
    return " & ".join(map(_latex_cell, row)) + r" \\"


def _latex_cell(text: str) -> str:
    found = _LETTERS.sub(r"\\textsuperscript{\1}", latex(text))
    # A minus, not a hyphen.
    return re.sub(r"(?<![\w}.])-(?=\d)", "$-$", found)


CSV_HEADER = (
    "task", "arm", "varied", "statistic", "scale", "mean", "std", "low", "high", "seeds_done", "seeds_planned",
    "seeds_failed", "steps_done", "published", "published_statistic", "published_mark", "published_mean",
    "published_spread", "published_low", "published_high", "difference", "overlap", "note",
)  # fmt: skip


def as_csv(comparison: Comparison) -> str:
    """One line for each task, arm and published value, on every scale; empty where there is nothing.

    Lines without an arm are published values that nothing of ours is compared with; lines without a published column
    are ours alone, under the chosen statistic.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    table = comparison.table
    for task in table.tasks:
        for scale in (None, *table.scales):
            reference = None if scale is None else task.references.get(scale)
            if scale is not None and reference is None:
                continue
            shown = table.unit if scale is None else scale
            for arm in comparison.arms:
                cell = comparison.cells[task.name, arm]
                ours = _csv_ours(cell, arm, comparison.statistic, table.unit, reference, shown)
                writer.writerow([task.name, *ours, *[""] * 10])
                for key, column in comparison.compared(arm):
                    statistic = column.ours(comparison.statistic)
                    ours = _csv_ours(cell, arm, statistic, table.unit, reference, shown)
                    for value in task.published.get(key, ()):
                        estimate = _rescaled_estimate(column.estimate(value), reference)
                        own = mean_estimate(cell.outcomes(statistic, table.unit, reference))
                        writer.writerow(
                            [task.name, *ours, *_csv_theirs(key, column, value, estimate, reference),
                             _plain(own.value - estimate.value), _plain(overlap(own, estimate)), _Footnotes.text(value)]
                        )  # fmt: skip
            for key, column in table.published.items():
                if column.arm is None:
                    for value in task.published.get(key, ()):
                        estimate = _rescaled_estimate(column.estimate(value), reference)
                        theirs = _csv_theirs(key, column, value, estimate, reference)
                        writer.writerow(
                            [task.name, *[""] * 3, shown, *[""] * 8, *theirs, "", "", _Footnotes.text(value)]
                        )
    return out.getvalue()


def _csv_ours(
    cell: Cell, arm: Arm, statistic: Statistic, unit: str, reference: tuple[float, float] | None, scale: str
) -> list[str]:
    values = cell.outcomes(statistic, unit, reference)
    estimate = mean_estimate(values)
    return [
        arm.name, arm.varied, statistic, scale, _plain(estimate.value), _plain(_deviation(values)),
        _plain(estimate.low), _plain(estimate.high), str(len(cell.finished)), str(cell.n_planned), str(cell.n_failed),
        str(sum(run.step for run in cell.runs)),
    ]  # fmt: skip


def _csv_theirs(
    key: str, column: Published, value: Value, estimate: Estimate, reference: tuple[float, float] | None
) -> list[str]:
    spread = value.spread
    if spread is not None and reference is not None:
        spread *= 100.0 / (reference[1] - reference[0])
    return [
        key, column.statistic, value.mark or column.mark, _plain(estimate.value), _plain(spread), _plain(estimate.low),
        _plain(estimate.high),
    ]  # fmt: skip


def _rescaled_estimate(estimate: Estimate, reference: tuple[float, float] | None) -> Estimate:
    return estimate if reference is None else Estimate(*(_rescaled(number, reference) for number in estimate))


def _plain(value: float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if math.isnan(value) else f"{value:.10g}"
