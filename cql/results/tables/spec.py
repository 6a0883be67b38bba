"""What a table's file says: tasks, arms, seeds and published numbers.

A table is one file of ``configs/table/``. The dataclasses here are its schema: OmegaConf checks its keys and their
types, and :func:`load_table` checks what types cannot say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from cql.results.runs import STATISTICS, Statistic
from cql.results.statistics import Estimate, published_estimate
from cql.sweep.status import counted

MARKS = {
    "V": "read in the named file or log",
    "T": "stated by one person in a named thread",
    "2nd": "a second-hand copy of a paper's number",
    "INF": "arithmetic on published numbers",
    "NV": "not verified",
    "own": "measured with this package",
}
"""How sure a published number is."""

NOT_SAID, OF_DATASET = "not said", "dataset"
PUBLISHED_STATISTICS = (*STATISTICS, NOT_SAID, OF_DATASET)
"""The evaluations that a published number summarises; ``dataset`` describes the data themselves, without training."""

SPREADS = ("sample", "population", "not said", "episodes", "none")
"""What a published number's ± is: a standard deviation over seeds with n - 1 or n in the denominator, one of unknown
kind (read as the first), one over episodes, or nothing."""

EVERY_ARM = "*"
UNITS = ("score", "return")

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9.-]|_(?!_))*")


Reference = Sequence[float]
"""The returns that score 0 and 100."""


class TableError(ValueError):
    """A table's file does not exist or is not valid."""


class Value(NamedTuple):
    """A published number.

    Attributes:
        mean: The number.
        spread: The number behind its ±; None if none was published.
        note: A remark on this number alone.
        mark: How sure this number is; None if its column's mark holds.
    """

    mean: float
    spread: float | None = None
    note: str = ""
    mark: str | None = None

    def on(self, reference: Reference | None) -> Value:
        """The value of a return as one of a score; without a reference, the value as it is."""
        if reference is None:
            return self
        spread = None if self.spread is None else 100.0 * self.spread / (reference[1] - reference[0])
        return self._replace(mean=rescaled(self.mean, reference), spread=spread)

    @property
    def remark(self) -> str:
        """Text of its footnote; empty if it needs none."""
        return " ".join(filter(None, [self.note, f"[{self.mark}]" if self.mark else ""]))


@dataclass
class Published:
    """A column of published numbers.

    Attributes:
        label: Its heading.
        statistic: The evaluations that it summarises, one of :data:`PUBLISHED_STATISTICS`.
        source: Where it was published.
        mark: How sure it is, one of :data:`MARKS`.
        data: Version of the datasets.
        spread: What its spread is, one of :data:`SPREADS`.
        arm: The arm of ours that it is compared with; ``*`` for every arm, None for none.
        seeds: Number of seeds; None if it was not published.
        protocol: How it was evaluated.
    """

    label: str = MISSING
    statistic: str = MISSING
    source: str = MISSING
    mark: str = MISSING
    data: str = MISSING
    spread: str = MISSING
    arm: str | None = None
    seeds: int | None = None
    protocol: str = ""

    @property
    def is_of_data(self) -> bool:
        """Whether it describes the data themselves, which have no seeds and no interval over seeds."""
        return self.statistic == OF_DATASET

    def ours(self, chosen: Statistic) -> Statistic:
        """Statistic of our runs that it is compared with: its own, or the chosen one if it names none of ours."""
        return self.statistic if self.statistic in STATISTICS else chosen

    def estimate(self, value: Value) -> Estimate:
        """A value with Student's interval, if its spread is one over a known number of seeds."""
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
        return "seeds not published" if self.seeds is None else f"theirs: {counted(self.seeds, 'seed')}"


@dataclass
class Task:
    """A row.

    Attributes:
        choose: Options of config groups, such as ``{"env": "Hopper-v5"}``.
        set: Values of config keys, nested.
        file: File of D4RL; None if the dataset needs none.
        url: Where that file is published.
        note: What a reader must know about it.
        references: By name, the returns that score 0 and 100.
        published: By column, as the file has it; :meth:`values` reads it.
    """

    choose: dict[str, str] = field(default_factory=dict)
    set: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    url: str | None = None
    note: str = ""
    references: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)

    def values(self, column: str, scale: str | None = None) -> tuple[Value, ...]:
        """Read the published values in a column; several if sources contradict each other.

        Args:
            column: Name of the column.
            scale: Name of a reference, for returns as scores. A task without this reference has no values.

        Raises:
            ValueError: The cell has none of the forms of a value.
        """
        if column not in self.published or not self.has(scale):
            return ()
        return tuple(value.on(self.references.get(scale or "")) for value in _values(self.published[column]))

    def has(self, scale: str | None) -> bool:
        """Whether there are numbers on a scale; None is the table's own unit."""
        return scale is None or scale in self.references


@dataclass
class _File:
    """The keys of a file, without what :class:`Published` and :class:`Task` describe."""

    title: str = MISSING
    experiment: str = MISSING
    seeds: list[int] = MISSING
    arms: dict[str, str] = MISSING
    tasks: dict[str, Any] = MISSING
    published: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    unit: str = UNITS[0]
    url: str | None = None


@dataclass
class Table(_File):
    """One table.

    Attributes:
        name: Its file's name without the ending.
        title: For people.
        experiment: The preset of ``configs/experiment/`` that it is based on.
        seeds: Seeds of every cell.
        arms: Files of ``configs/arm/``, with their labels.
        tasks: Rows by name.
        published: Columns by name.
        note: What a reader must know before comparing.
        set: Values of config keys on top of the preset, nested.
        unit: Unit of the published numbers and of the comparison, one of :data:`UNITS`.
        url: Folder where the tasks' files are published.
    """

    name: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)

    @property
    def sweep_name(self) -> str:
        """Name of the sweep that trains it."""
        return f"table_{self.name}"

    @property
    def scales(self) -> list[str]:
        """Names of the normalisations for which a task has references."""
        return list(dict.fromkeys(name for task in self.tasks.values() for name in task.references))


def rescaled(value: float, reference: Reference | None) -> float:
    """A return as a score: 0 for the lower reference, 100 for the upper; without a reference, the value as it is."""
    if reference is None:
        return value
    low, high = reference
    return 100.0 * (value - low) / (high - low)


def known_tables(folder: Path) -> list[str]:
    """Names of the tables in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_table(name: str, folder: Path) -> Table:
    """Read a table's file.

    Args:
        name: Name of a known table, or the path of a file.
        folder: Folder of the known tables.

    Raises:
        TableError: There is no such table, or a key or value in it is not valid.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else folder / f"{name}.yaml"
    if not path.is_file():
        if is_path:
            raise TableError(f"{name}: file not found")
        raise TableError(
            f"there is no table '{name}'; there are {', '.join(known_tables(folder))}, or give a .yaml file"
        )
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise TableError(f"{path} is not valid YAML: {error}") from error
    try:
        return _table(path.stem, plain)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error


def _table(name: str, plain: Any) -> Table:
    _check_name("the table's file", name)
    keys = _checked(_File, plain, "the table")
    published = {
        key: Published(**_checked(Published, each, f"published.{key}")) for key, each in keys["published"].items()
    }
    tasks = {key: Task(**_checked(Task, each, f"tasks.{key}")) for key, each in keys["tasks"].items()}
    table = Table(**{**keys, "name": name, "published": published, "tasks": tasks})
    table.note = table.note.strip()
    _check_choice("unit", table.unit, UNITS)
    if min(table.seeds, default=-1) < 0 or len(set(table.seeds)) < len(table.seeds):
        raise TableError(f"seeds must be a list of different integers from 0 on, got {table.seeds}")
    if not (table.arms and table.tasks):
        raise TableError("a table needs at least one arm and one task")
    for arm in table.arms:
        _check_name("arms", arm)
    for key, column in table.published.items():
        _check_column(f"published.{key}", column, table.arms)
    for key, task in table.tasks.items():
        _check_name("tasks", key)
        _check_task(f"tasks.{key}", task, table.published)
        task.note = task.note.strip()
        task.url = task.url or (f"{table.url}/{task.file}" if table.url and task.file else None)
    return table


def _checked(schema: type, plain: Any, where: str) -> dict[str, Any]:
    """Check keys and types against a schema; a key that is null is absent."""
    if not isinstance(plain, dict):
        raise TableError(f"{where} must be a mapping, got {plain!r}")
    node = OmegaConf.structured(schema)
    for key, value in plain.items():
        try:
            node.merge_with({} if value is None else {key: value})
        except ConfigKeyError as error:
            raise TableError(f"{where} has no key '{key}'; there are {', '.join(map(str, node))}") from error
        except OmegaConfBaseException as error:
            place = key if where == "the table" else f"{where}.{key}"
            raise TableError(f"{place} must be {schema.__annotations__[key]}, got {value!r}") from error
    for key in OmegaConf.missing_keys(node):
        raise TableError(f"{where} lacks the key '{key}'")
    return cast("dict[str, Any]", OmegaConf.to_container(node))


def _check_name(where: str, text: str) -> None:
    """Check that a name is safe in folders, and in the lists that Hydra is given."""
    if not _NAME.fullmatch(text):
        raise TableError(
            f"{where}: {text!r} is not a valid name; use letters, digits, dots, dashes and single underscores, and "
            "start with a letter"
        )


def _check_choice(where: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise TableError(f"{where} is {value!r}; choose one of {', '.join(known)}")


def _check_column(where: str, column: Published, arms: dict[str, str]) -> None:
    _check_choice(f"{where}.mark", column.mark, tuple(MARKS))
    _check_choice(f"{where}.statistic", column.statistic, PUBLISHED_STATISTICS)
    _check_choice(f"{where}.spread", column.spread, SPREADS)
    if column.seeds is not None and column.seeds < 1:
        raise TableError(f"{where}.seeds is {column.seeds}; give the number of seeds, or leave the key out")
    if column.arm not in (None, EVERY_ARM, *arms):
        raise TableError(
            f"{where}.arm is {column.arm!r}; the table's arms are {', '.join(arms)}, or '{EVERY_ARM}' for all of them"
        )


def _check_task(where: str, task: Task, columns: dict[str, Published]) -> None:
    for name, reference in task.references.items():
        match reference:
            case [int() | float() as low, int() | float() as high] if low < high:
                continue
        raise TableError(
            f"{where}.references.{name} is {reference!r}; give the returns that score 0 and 100, as [low, high]"
        )
    for key, cell in task.published.items():
        place = f"{where}.published.{key}"
        if key not in columns:
            raise TableError(f"{where}.published has no column '{key}'; there are {', '.join(columns)}")
        try:
            values = task.values(key)
        except ValueError as error:
            raise TableError(f"{place} is {cell!r}; {error}") from error
        if columns[key].spread == "none" and any(value.spread is not None for value in values):
            raise TableError(f"{place} has a spread, but its column has 'spread: none'")
        for value in values:
            if value.mark is not None:
                _check_choice(f"{place}.mark", value.mark, tuple(MARKS))


def _values(cell: Any) -> tuple[Value, ...]:
    """Read ``47.0``, ``[47.0, 0.2]``, ``{mean: 79.2, note: later}``, or a list of such mappings."""
    match cell:
        case bool():
            pass
        case int() | float():
            return (Value(float(cell)),)
        case [int() | float() as mean, int() | float() as spread]:
            return (Value(float(mean), float(spread)),)
        case {"mean": int() | float() as mean, **others} if set(others) <= {"spread", "note", "mark"}:
            spread, note = cell.get("spread"), str(cell.get("note", ""))
            return (Value(float(mean), None if spread is None else float(spread), note, cell.get("mark")),)
        case [dict(), *_]:
            return tuple(value for each in cell for value in _values(each))
    raise ValueError("it must be a number, [mean, spread], or {mean: ..., spread: ..., note: ..., mark: ...}")
