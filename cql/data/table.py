"""Tables of transitions: CSV and Parquet files with named columns.

A row is a step, and the rows of an episode follow each other in time.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cql.commands import required
from cql.config.messages import did_you_mean
from cql.data.boundary import reading
from cql.data.d4rl import of_columns
from cql.data.raw import DatasetError, DatasetNotFoundError, RawData, empty_error

log = logging.getLogger(__name__)

_CSV = (".csv", ".csv.gz")
SUFFIXES = (*_CSV, ".parquet")
"""How the name of a table ends."""

_NO_FLAG = "is not a flag: use 0 or 1, or false or true"
_MOST_NAMED = 20  # columns in a message


def load_table(
    path: str | Path,
    *,
    observation_columns: Sequence[str],
    action_columns: Sequence[str],
    reward_column: str = "reward",
    terminated_column: str | None = "terminated",
    truncated_column: str | None = None,
    episode_column: str | None = None,
    next_observation_columns: Sequence[str] | None = None,
) -> RawData:
    """Read a table of transitions.

    Columns are given by name, or by a pattern with a star that stands for a whole number: ``obs_*`` are all such
    columns in the order of their numbers, ``obs_2`` before ``obs_10``.

    An episode ends where its id changes; without a column of ids, where ``terminated`` or ``truncated`` is set. An end
    that is not terminated is truncated, and so is the file's. Next observations and the last steps of episodes are as
    in :func:`cql.data.d4rl.load_d4rl`.

    Args:
        path: of the file, whose name ends as :data:`SUFFIXES` say.
        observation_columns: S of them.
        action_columns: A of them.
        reward_column: of the step's reward.
        terminated_column: 1 or true where an episode ended in a terminal state; None if none did.
        truncated_column: 1 or true where the recording of an episode was cut; None if no column says so.
        episode_column: ids of episodes, numbers or texts, each in one block of rows.
        next_observation_columns: S, in the order of the observations; None takes the following row's observation.

    Raises:
        DatasetNotFoundError: no such file.
        DatasetError: it is no table, lacks a column, or a value in it makes no sense; the message says where.
        MissingPackageError: pyarrow is not installed.
    """
    required("pyarrow", "table")
    path = Path(path).expanduser()
    if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
        wrong = "is no table" if path.exists() else "does not exist"
        raise DatasetNotFoundError(f"'{path}' {wrong}: set dataset.path to a file {', '.join(SUFFIXES)}")
    given = {
        "observation_columns": observation_columns,
        "action_columns": action_columns,
        "reward_column": [reward_column],
        "terminated_column": [terminated_column] if terminated_column else [],
        "truncated_column": [truncated_column] if truncated_column else [],
        "episode_column": [episode_column] if episode_column else [],
        "next_observation_columns": next_observation_columns or [],
    }
    with reading(f"'{path}' cannot be read as a table", "write it again, with the names of the columns"):
        table = _Table(path)
        chosen = {key: table.named(names, key) for key, names in given.items()}
        m = table.read([name for names in chosen.values() for name in names])
        if not m:
            raise empty_error(str(path))
        members = {
            key.partition("_column")[0] + "s": table.numbers(names)
            for key, names in chosen.items()
            if names and key.startswith(("observation", "action", "reward", "next"))
        }
        terminated, truncated = (
            table.flags(chosen[key][0]) if chosen[key] else np.zeros(m, bool)
            for key in ("terminated_column", "truncated_column")
        )
        for name in chosen["episode_column"]:
            last = table.last_of_ids(name)
            for key, ends in (("terminated_column", terminated), ("truncated_column", truncated)):
                table.refuse(chosen[key][:1], ends & ~last, f"although the same {name} goes on in the next row")
            truncated = last
    n, n_next = (members.get(key, members["observations"]).shape[1] for key in ("observations", "next_observations"))
    if n != n_next:
        raise DatasetError(f"table '{path}': {n} observation_columns, but {n_next} next_observation_columns")
    _refuse_two_roles(chosen, path)
    used = {name for names in chosen.values() for name in names}
    unused = [name for name in table.names if name not in used]
    raw = of_columns(members, terminated, truncated & ~terminated, str(path))
    cut = f", {m - len(raw):,} last steps of cut episodes left out (no next observation)" if m > len(raw) else ""
    _say(
        f"'{path}': {m:,} rows, {raw.n_episodes:,} episodes{cut}; "
        f"observations {_shown(chosen['observation_columns'])}; actions {_shown(chosen['action_columns'])}"
        + (f"; not used: {_shown(unused)}" if unused else "")
    )
    if not (terminated.any() or truncated.any()):
        log.warning("'%s' says nowhere that an episode ends: all of it is one episode", path)
    return raw


class _Table:
    """A file with named columns, of which some are read.

    Attributes:
        names: of all columns.
    """

    def __init__(self, path: Path) -> None:
        from pyarrow import csv, parquet

        self._path, self._is_csv = path, path.name.lower().endswith(_CSV)
        self.names: list[str] = (csv.open_csv(path).schema if self._is_csv else parquet.read_schema(path)).names

    def named(self, given: Sequence[str], key: str) -> list[str]:
        """The columns of names and patterns, in their order.

        Raises:
            DatasetError: there is none, or one is there twice.
        """
        found = [name for text in given for name in self._matching(text, key)]
        for name in found:
            if found.count(name) > 1 or self.names.count(name) > 1:
                where = f"dataset.{key} names" if found.count(name) > 1 else "the file has"
                raise DatasetError(f"table '{self._path}': {where} column '{name}' twice")
        return found

    def _matching(self, text: str, key: str) -> list[str]:
        if text in self.names:
            return [text]
        is_pattern = "*" in text and key.endswith("columns")
        pattern = re.compile(re.escape(text).replace(r"\*", r"(\d+)", 1))
        numbers = [(int(match[1]), name) for name in self.names if is_pattern and (match := pattern.fullmatch(name))]
        if len(dict(numbers)) < len(numbers):
            same = _shown([name for _, name in numbers])
            raise DatasetError(f"table '{self._path}': some of {same} have the same number in dataset.{key}={text}")
        if not numbers:
            known = dict.fromkeys(re.sub(r"\d+", "*", name) if is_pattern else name for name in self.names)
            raise DatasetError(
                f"table '{self._path}' has no column '{text}' (dataset.{key}{'; the star is a number' * is_pattern}); "
                f"it has {_shown(self.names)}{did_you_mean(difflib.get_close_matches(text, known, n=1))}"
                + ("; columns of CSV are separated by commas" if len(self.names) == 1 and ";" in self.names[0] else "")
            )
        return [name for _, name in sorted(numbers)]

    def read(self, names: Sequence[str]) -> int:
        """Read these columns, and return the number of rows."""
        import pyarrow as pa
        from pyarrow import csv, parquet

        wanted = list(dict.fromkeys(names))
        if not self._is_csv:
            self._read = parquet.ParquetFile(self._path).read(columns=wanted)
            return int(self._read.num_rows)
        options = {"include_columns": wanted, "strings_can_be_null": True}
        try:
            self._read = csv.read_csv(self._path, convert_options=csv.ConvertOptions(**options))
        except pa.ArrowInvalid:  # a value of another type than those in the first megabyte
            options["column_types"] = dict.fromkeys(wanted, pa.string())
            self._read = csv.read_csv(self._path, convert_options=csv.ConvertOptions(**options))
        return int(self._read.num_rows)

    def numbers(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Columns of numbers, (M, n).

        Raises:
            DatasetError: a value is absent, or is no finite number.
        """
        values = np.empty((self._read.num_rows, len(names)), np.float32)
        for index, name in enumerate(names):
            with np.errstate(over="ignore"):
                values[:, index] = self._floats(name, _is_number, "is not a number")
            wrong = ~np.isfinite(values[:, index])
            self.refuse([name], wrong, "is not finite, or too large for 32 bits: leave out such episodes")
        return values

    def flags(self, name: str) -> NDArray[np.bool_]:
        """A column of flags, (M,).

        Raises:
            DatasetError: a value is absent, or is neither 0 nor 1.
        """
        values = self._floats(name, _is_flag, _NO_FLAG)
        self.refuse([name], (values != 0.0) & (values != 1.0), _NO_FLAG)
        return np.asarray(values == 1.0)

    def last_of_ids(self, name: str) -> NDArray[np.bool_]:
        """Which rows are the last of their episode by a column of ids, (M,).

        Raises:
            DatasetError: an id is absent, or comes back after another one.
        """
        import pyarrow as pa

        column = self._complete(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        codes = column.combine_chunks().dictionary_encode().indices.to_numpy()  # numbered by their first rows
        back = np.append(False, codes[1:] < codes[:-1])
        self.refuse([name], back, "comes back after another episode: sort the rows by episode and time")
        return np.append(codes[1:] != codes[:-1], True)

    def _floats(self, name: str, fits: Callable[[Any], bool], otherwise: str) -> NDArray[np.float64]:
        import pyarrow as pa

        column = self._complete(name)
        for kind in (pa.float64(), pa.bool_()):  # CSV may hold "true" as a text
            with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
                values: NDArray[np.float64] = column.cast(kind, safe=False).cast(pa.float64()).to_numpy()
                return values
        self.refuse([name], np.array([not fits(each) for each in column.to_pylist()]), otherwise)
        raise DatasetError(f"table '{self._path}': column '{name}' holds {column.type}, not numbers")

    def _complete(self, name: str) -> Any:
        """A column without absent values."""
        column = self._read.column(name)
        absent = np.asarray(column.is_null().to_numpy())
        self.refuse([name], absent, "(empty or NaN): leave out such episodes")
        return column

    def refuse(self, names: Sequence[str], rows: NDArray[np.bool_], what: str) -> None:
        """Refuse the values of a column in some rows (M,), if there are any, by the name of the first one."""
        if not rows.any():
            return
        row, n = int(rows.argmax()), int(rows.sum())
        value = self._read.column(names[0])[row].as_py()
        place = f"row {row + 1} of the data{f', and {n - 1:,} more' if n > 1 else ''}"
        found = "no value" if value is None else repr(value)
        raise DatasetError(f"table '{self._path}', column '{names[0]}': {found} {what} ({place})")


def _refuse_two_roles(chosen: Mapping[str, Sequence[str]], path: Path) -> None:
    keys: dict[str, str] = {}
    for key, names in chosen.items():
        for name in names:
            if keys.setdefault(name, key) != key:
                raise DatasetError(
                    f"table '{path}': column '{name}' is in dataset.{keys[name]} and in dataset.{key}: name it in one"
                )


@functools.cache  # without a simulator a table is read more than once
def _say(line: str) -> None:
    log.info("%s", line)


def _is_flag(value: Any) -> bool:
    return str(value).lower() in ("0", "1", "0.0", "1.0", "false", "true")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (ValueError, TypeError):
        return False
    return True


def _shown(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_MOST_NAMED])
    return f"{listed} and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else listed or "nothing"
