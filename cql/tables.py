"""A paper's table: what is trained for it, what was published, and how the two are set side by side.

A table is one file of ``configs/table/``. :func:`hydra_options` makes of it what Hydra needs to run its grid; the rest
reads run folders alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

D4RL_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
"""Where D4RL publishes its files, by `d4rl/infos.py`; one folder a version of the gym tasks."""

MARKS = {
    "V": "read in the named file or log",
    "T": "one person's word in a named thread",
    "2nd": "a second-hand copy of a paper's number",
    "INF": "arithmetic on published numbers",
    "NV": "not verified",
    "own": "measured with this package",
}
"""How sure a published number is."""

STATISTICS = ("last", "best", "last five", "not said")


class TableError(ValueError):
    """A table's file is not as it should be, or there is none of that name."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A published number.

    Attributes:
        mean: the number.
        spread: beside it, None where none was published.
        note: what is said of this one, e.g. which version of a paper it stands in.
    """

    mean: float
    spread: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Published:
    """A column of published numbers.

    Attributes:
        label: its heading.
        arm: ours that it is to be compared with, None for none.
        statistic: of the evaluations: one of :data:`STATISTICS`.
        source: where it was published.
        mark: how sure it is: one of :data:`MARKS`.
        data: version of the datasets.
        seeds: how many, None where it is not said.
        protocol: how it was evaluated, and what the spread is.
    """

    label: str
    arm: str | None
    statistic: str
    source: str
    mark: str
    data: str
    seeds: int | None
    protocol: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A row.

    Attributes:
        name: of the task, in folders and tables.
        choose: options of config groups, such as ``{"env": "Hopper-v5"}``.
        set: values of config keys, nested.
        file: of D4RL, None where the dataset needs none.
        url: where that file is published.
        published: by column; some cells have several values that contradict each other.
    """

    name: str
    choose: Mapping[str, str]
    set: Mapping[str, Any]
    file: str | None
    url: str | None
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
    published: Mapping[str, Published]
    tasks: tuple[Task, ...]

    @property
    def sweep_name(self) -> str:
        """Name of the sweep that trains it."""
        return f"table_{self.name}"


# Reading --------------------------------------------------------------------------------------------------------------


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
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        raise TableError(f"there is no table '{name}'; there are {', '.join(known_tables(folder))}, or give a .yaml file")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise TableError(f"{path} is no YAML: {error}") from error
    read = _Reader(path)
    keys = ("title", "note", "experiment", "set", "seeds", "arms", "published", "tasks")
    read.keys("the table", plain, keys, needed=("title", "experiment", "seeds", "arms", "tasks"))
    published = {
        key: read.column(f"published.{key}", value) for key, value in read.mapping("published", plain).items()
    }
    arms = {str(key): str(value) for key, value in read.mapping("arms", plain).items()}
    for key, column in published.items():
        if column.arm is not None and column.arm not in arms:
            raise TableError(f"{path}: published.{key}.arm is {column.arm!r}; the table's arms are {', '.join(arms)}")
    seeds = plain["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise TableError(f"{path}: seeds must be a list of integers from 0 on, got {seeds!r}")
    tasks = [read.task(key, value, published) for key, value in read.mapping("tasks", plain).items()]
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

    def mapping(self, key: str, plain: Mapping[str, Any]) -> dict[str, Any]:
        value = plain.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise TableError(f"{self.path}: {key} must be a mapping, got {value!r}")
        return value

    def column(self, where: str, plain: Any) -> Published:
        known = [field.name for field in dataclasses.fields(Published)]
        self.keys(where, plain, known, needed=("label", "statistic", "source", "mark", "data"))
        if plain["mark"] not in MARKS:
            raise TableError(f"{self.path}: {where}.mark is {plain['mark']!r}; choose one of {', '.join(MARKS)}")
        if plain["statistic"] not in STATISTICS:
            raise TableError(
                f"{self.path}: {where}.statistic is {plain['statistic']!r}; choose one of {', '.join(STATISTICS)}"
            )
        return Published(**{"arm": None, "seeds": None, "protocol": "", **plain})

    def task(self, name: str, plain: Any, published: Mapping[str, Published]) -> Task:
        where = f"tasks.{name}"
        self.keys(where, plain, ("choose", "set", "file", "url", "published"))
        cells = {}
        for key, value in self.mapping("published", plain).items():
            if key not in published:
                raise TableError(f"{self.path}: {where}.published has no column '{key}'; there are {', '.join(published)}")
            cells[key] = self.values(f"{where}.published.{key}", value)
        return Task(
            name=name,
            choose={str(key): str(value) for key, value in self.mapping("choose", plain).items()},
            set=self.mapping("set", plain),
            file=plain.get("file"),
            url=plain.get("url"),
            published=cells,
        )

    def values(self, where: str, plain: Any) -> tuple[Value, ...]:
        """``47.0``, ``[47.0, 0.2]``, ``{mean: 79.2, note: later}``, or a list of such mappings."""
        match plain:
            case int() | float():
                return (Value(float(plain)),)
            case [int() | float() as mean, int() | float() as spread]:
                return (Value(float(mean), float(spread)),)
            case {"mean": int() | float() as mean, **others} if set(others) <= {"spread", "note"}:
                spread = others.get("spread")
                return (Value(float(mean), None if spread is None else float(spread), str(others.get("note", ""))),)
            case [dict(), *_]:
                return tuple(value for each in plain for value in self.values(where, each))
        raise TableError(f"{self.path}: {where} is {plain!r}; it must be a number, [mean, spread] or {{mean: ...}}")


# Running --------------------------------------------------------------------------------------------------------------


def missing_files(table: Table, data: Path) -> list[tuple[Task, Path]]:
    """The tasks whose D4RL file is not in a folder, with the path that was looked at."""
    return [(task, data / task.file) for task in table.tasks if task.file and not (data / task.file).is_file()]


def hydra_options(table: Table, tasks: Sequence[Task], data: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What Hydra has to be told of a table, by group and name: its tasks, and the experiment that sweeps over them.

    Args:
        table: the table.
        tasks: those of its rows that are to be trained.
        data: the folder with D4RL's files.

    Returns:
        Contents of config files, all of the package ``_global_``.
    """
    options: dict[tuple[str, str], dict[str, Any]] = {}
    for task in tasks:
        own: dict[str, Any] = {"defaults": [{f"override /{group}": name} for group, name in task.choose.items()]}
        own["defaults"].append("_self_")
        own |= {key: dict(value) if isinstance(value, Mapping) else value for key, value in task.set.items()}
        if task.file:
            own["dataset"] = {**own.get("dataset", {}), "path": str((data / task.file).resolve())}
        options["task", task.name] = own
    options["experiment", table.sweep_name] = {
        # The task before the arm, which has the final word.
        "defaults": [table.experiment, "_self_", {"/task": tasks[0].name}, {"/arm": next(iter(table.arms))}],
        **table.set,
        "sweep_name": table.sweep_name,
        "hydra": {
            "mode": "MULTIRUN",
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
