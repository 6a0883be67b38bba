"""The runs of a table, put into its cells by task, arm and seed."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.points import SEED, human_point, parse_point
from cql.results.groups import Group
from cql.results.runs import Run, Statistic, first_choice, is_compared, shown_value
from cql.results.tables.spec import EVERY_ARM, Published, Table, rescaled
from cql.sweep.status import counted

_OTHER_DATA = {"minari": ("Minari's", "D4RL"), "d4rl": ("D4RL's", "Minari")}
"""By the kind of a dataset: whose it is, and how the data begin of which it is another version."""


class Arm(NamedTuple):
    """A column of ours: a file of ``configs/arm/``, and what else was varied with it, as text."""

    name: str
    varied: str = ""


@dataclass(frozen=True)
class Comparison:
    """A table with its runs.

    Attributes:
        table: The table.
        statistic: The evaluations of our runs that count, unless a published column decides.
        arms: Columns of ours: those of the table, and others that were found.
        cells: The runs of every task of the table and every arm.
        n_steps: Gradient steps of a run that has not begun; None if not known.
        departures: Config keys in which runs differ from the table's config, one line each.
        failures: Runs that failed, one line each.
        unfinished: Number of runs by state, of those that neither finished nor failed.
        strangers: Folders that belong to no cell, one line each.
        refused: Runs on another version of the data than a published column's, one line per dataset.
    """

    table: Table
    statistic: Statistic
    arms: tuple[Arm, ...]
    cells: Mapping[tuple[str, Arm], Group]
    n_steps: int | None
    departures: tuple[str, ...]
    failures: tuple[str, ...]
    unfinished: Mapping[str, int]
    strangers: tuple[str, ...]
    refused: tuple[str, ...] = ()

    def label(self, arm: Arm) -> str:
        """Heading of a column of ours."""
        label = self.table.arms.get(arm.name, arm.name)
        return f"{label} ({arm.varied})" if arm.varied else label

    def outcomes(self, task: str, arm: Arm, statistic: Statistic, scale: str | None = None) -> NDArray[np.float64]:
        """(n,): one number per finished run of a cell; empty if its task has no such scale."""
        row = self.table.tasks[task]
        if not row.has(scale):
            return np.array([])
        scored = scale is None and self.table.unit == "score"
        values = self.cells[task, arm].outcomes(statistic, scored=scored)
        return np.array([rescaled(value, row.references.get(scale or "")) for value in values])

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

    A run on a Minari dataset is in no table with columns of D4RL's data, nor the other way round.

    Args:
        table: The table.
        runs: Runs of its sweep, or of several sweeps. Of two for one place, the one with more steps is taken.
        statistic: The evaluations of our runs that count, unless a published column decides.
        planned: Config keys, dotted, that the table plans, by task and arm, as far as they are known.
        unread: Folders without a readable run, with the reason; one that does not exist yet is a run that waits.
    """
    planned = planned or {}
    places: dict[tuple[str, Arm, int], list[Run]] = {}
    seeds: dict[Arm, set[int]] = {}
    strangers, refused, n_waiting = [], dict[str, list[str]](), 0
    for path, why in unread:
        point = parse_point(path.name)
        if point.get("task") in table.tasks and "arm" in point and not path.exists():
            n_waiting += 1
            if (seed := point.pop(SEED, "")).isdigit():
                seeds.setdefault(_arm(point), set()).add(int(seed))
        else:
            strangers.append(f"{path.name}: {why}")
    for run in runs:
        task = run.point.get("task")
        if task not in table.tasks or "arm" not in run.point:
            strangers.append(f"{run.name}: its name does not give a task of this table and an arm")
        elif other := _other_data(table, run):
            refused.setdefault(other, []).append(run.name)
        else:
            places.setdefault((task, arm := _arm(run.point), run.seed), []).append(run)
            seeds.setdefault(arm, set()).add(run.seed)
    found: dict[tuple[str, Arm], list[Run]] = {}
    for (task, arm, _), several in sorted(places.items()):
        first, *others = sorted(several, key=first_choice)
        found.setdefault((task, arm), []).append(first)
        strangers += [f"{run.name}: {first.name} was taken instead" for run in others]
    seen = sorted({arm for _, arm in found})
    named = [Arm(name) for name in table.arms if Arm(name) in seen or all(arm.name != name for arm in seen)]
    arms = (*named, *(arm for arm in seen if arm not in named))
    # An arm that was trained on none of the table's seeds has its own seeds instead of the table's.
    n_planned = {}
    for arm in arms:
        own = seeds.get(arm, set())
        n_planned[arm] = len(own if own and own.isdisjoint(table.seeds) else own.union(table.seeds))
    # A run that has not begun will have as many steps as the others have, or as the table plans.
    all_runs = [run for several in found.values() for run in several]
    lengths = [run.n_steps for run in all_runs] or [int(each.get("n_steps", 0)) for each in planned.values()]
    cells = {}
    for task, arm in itertools.product(table.tasks, arms):
        own_runs = tuple(found.get((task, arm), ()))
        cells[task, arm] = Group(task, arm.name, own_runs, n_unread=n_planned[arm] - len(own_runs))
    return Comparison(
        table=table,
        statistic=statistic,
        arms=arms,
        cells=cells,
        n_steps=max(lengths, default=None),
        departures=tuple(_departures(found, planned)),
        failures=tuple(
            f"{human_point(run.directory.name)} failed at step {run.step:,}: {_first_line(str(run.failure))}"
            for run in all_runs
            if run.status == "failed"
        ),
        unfinished=Counter(run.status for run in all_runs if run.status not in ("finished", "failed"))
        + Counter(waiting=n_waiting),
        strangers=tuple(strangers),
        refused=tuple(
            f"{counted(len(names), 'run')} on {other}: {', '.join(names)}" for other, names in refused.items()
        ),
    )


def _other_data(table: Table, run: Run) -> str:
    """The dataset of a run, and the published column whose data it is another version of; empty if there is none."""
    for key, kind in run.config.items():
        prefix = key.removesuffix("kind")
        if not (key.startswith("dataset.") and prefix.endswith(".") and str(kind) in _OTHER_DATA):
            continue  # the datasets of a mixture have kinds too
        whose, others = _OTHER_DATA[str(kind)]
        column = next((each for each in table.published.values() if re.match(rf"{others}(?!/)", each.data)), None)
        if column is not None:
            dataset = run.config.get(f"{prefix}id") or Path(str(run.config.get(f"{prefix}path"))).name
            return f'{whose} {dataset}, where "{column.label}" is on {column.data}'
    return ""


def _arm(point: Mapping[str, str]) -> Arm:
    """Column of a run's point without its seed."""
    return Arm(point["arm"], " ".join(f"{key}={value}" for key, value in point.items() if key not in ("task", "arm")))


def _departures(
    found: Mapping[tuple[str, Arm], Sequence[Run]], planned: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    """Config keys in which the runs differ from the table, one line per change with the number of its runs."""
    lines: Counter[str] = Counter()
    n_compared = 0
    for (task, arm), runs in found.items():
        wanted = planned.get((task, arm.name))
        if not wanted:
            continue
        n_compared += len(runs)
        for config, key in ((run.config, key) for run in runs for key in sorted({*wanted, *run.config})):
            old, new = change = _change(key, wanted, config)
            # An arm that clones for as long as it trains: that it clones for longer follows from n_steps.
            follows = key == "algorithm.bc_steps" and change == _change("n_steps", wanted, config)
            if old != new and key != SEED and is_compared(key) and not follows:
                lines[f"{key}: {old} -> {new}"] += 1
    return [f"{line} ({_of_all(count, n_compared)})" for line, count in lines.items()]


def _change(key: str, wanted: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, str]:
    return _shown(key, wanted), _shown(key, own)


def _shown(key: str, config: Mapping[str, Any]) -> str:
    if key not in config:
        return "(absent)"
    return Path(str(config[key])).name if key == "dataset.path" else shown_value(config[key])


def _of_all(count: int, n: int) -> str:
    return "the one run" if n == 1 else f"all {n} runs" if count == n else f"{count} of {n} runs"


def _first_line(failure: str) -> str:
    return failure.partition("; last metrics: ")[0].strip().partition("\n")[0]
