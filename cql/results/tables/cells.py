"""The runs of a table, put into its cells by task, arm and seed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.config.points import SEED, human_point, parse_point
from cql.results.runs import Run, Statistic, first_choice, is_compared
from cql.results.statistics import Estimate
from cql.results.tables.spec import EVERY_ARM, Published, Table

Reference = Sequence[float]
"""The returns that score 0 and 100."""


class Arm(NamedTuple):
    """A column of ours: a file of ``configs/arm/``, and what else was varied with it, as text."""

    name: str
    varied: str = ""


@dataclass(frozen=True)
class Cell:
    """The runs of an arm on a task, one per seed.

    Attributes:
        runs: Those that have begun, sorted by seed.
        n_planned: Number of seeds in all.
        n_steps: Gradient steps of a run that has not begun; None if not known.
    """

    runs: tuple[Run, ...]
    n_planned: int
    n_steps: int | None

    @property
    def finished(self) -> tuple[Run, ...]:
        """Runs that finished. Only they enter a mean."""
        return tuple(run for run in self.runs if run.status == "finished")

    @property
    def is_complete(self) -> bool:
        """Whether every seed has finished."""
        return len(self.finished) == self.n_planned

    @property
    def n_failed(self) -> int:
        """Number of runs that failed."""
        return sum(run.status == "failed" for run in self.runs)

    @property
    def seeds(self) -> str:
        """For people, done of planned: ``2 of 4``."""
        return f"{len(self.finished)} of {self.n_planned}"

    @property
    def steps_done(self) -> int:
        """Gradient steps of all seeds together."""
        return sum(run.step for run in self.runs)

    @property
    def steps(self) -> str:
        """For people: gradient steps of all seeds together, done of planned."""
        if self.n_steps is None:
            return f"{self.steps_done:,}"
        planned = sum(run.n_steps for run in self.runs) + self.n_steps * (self.n_planned - len(self.runs))
        return f"{self.steps_done:,} of {planned:,}"

    def outcomes(self, statistic: Statistic, unit: str, reference: Reference | None = None) -> NDArray[np.float64]:
        """(n,): one number per run that finished; with a reference, its returns as scores by that reference."""
        found = [run.outcome(statistic, scored=reference is None and unit == "score") for run in self.finished]
        return np.array([rescaled(value, reference) for value in found if value is not None], np.float64)


@dataclass(frozen=True)
class Comparison:
    """A table with its runs.

    Attributes:
        table: The table.
        statistic: The evaluations of our runs that count, unless a published column decides.
        arms: Columns of ours: those of the table, and others that were found.
        cells: For every task of the table and every arm.
        departures: Config keys in which runs differ from the table's config, one line each.
        failures: Runs that failed, one line each.
        unfinished: Number of runs by state, of those that neither finished nor failed.
        strangers: Folders that belong to no cell, one line each.
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
        table: The table.
        runs: Runs of its sweep, or of several sweeps. Of two for one place, the one with more steps is taken.
        statistic: The evaluations of our runs that count, unless a published column decides.
        planned: Config keys, dotted, that the table plans, by task and arm, as far as they are known.
        unread: Folders without a readable run, with the reason; one that does not exist yet is a run that waits.
    """
    planned = planned or {}
    places: dict[tuple[str, Arm, int], list[Run]] = {}
    seeds: dict[Arm, set[int]] = {}
    strangers, n_waiting = [], 0
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
    # An arm that was trained on none of the table's seeds has its own seeds instead of the table's.
    n_planned = {}
    for arm in arms:
        own = seeds.get(arm, set())
        n_planned[arm] = len(own if own and own.isdisjoint(table.seeds) else own.union(table.seeds))
    # A run that has not begun will have as many steps as the others have, or as the table plans.
    all_runs = [run for own_runs in found.values() for run in own_runs]
    lengths = [run.n_steps for run in all_runs] or [int(each.get("n_steps", 0)) for each in planned.values()]
    n_steps = max(lengths, default=None)
    return Comparison(
        table=table,
        statistic=statistic,
        arms=arms,
        cells={
            (name, arm): Cell(tuple(found.get((name, arm), ())), n_planned[arm], n_steps)
            for name, arm in itertools.product(table.tasks, arms)
        },
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


def rescaled(value: float, reference: Reference | None) -> float:
    """A return as a score: 0 for the lower reference, 100 for the upper; without a reference, the value as it is."""
    if reference is None:
        return value
    low, high = reference
    return 100.0 * (value - low) / (high - low)


def rescaled_spread(spread: float | None, reference: Reference | None) -> float | None:
    """A standard deviation of returns as one of scores."""
    if spread is None or reference is None:
        return spread
    return 100.0 * spread / (reference[1] - reference[0])


def rescaled_estimate(estimate: Estimate, reference: Reference | None) -> Estimate:
    """An estimate of a return as one of a score."""
    return Estimate(*(rescaled(number, reference) for number in estimate))


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
    value = config[key]
    if key == "dataset.path":
        return Path(str(value)).name
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _of_all(count: int, n: int) -> str:
    return "the one run" if n == 1 else f"all {n} runs" if count == n else f"{count} of {n} runs"


def _first_line(failure: str) -> str:
    return failure.partition("; last metrics: ")[0].strip().partition("\n")[0]
