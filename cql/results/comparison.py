"""Arms compared with each other in numbers: on each task, against a base arm, and over several tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cql.results import statistics
from cql.results.groups import Group, Results
from cql.results.runs import STATISTICS, ResultsError, Statistic, mean_success
from cql.results.selection import MEANINGS, Selection, mean_of, selections
from cql.results.statistics import Estimate, Profile
from cql.scorer_names import DIRECTIONS, PREFIX


@dataclass(frozen=True)
class Comparison:
    """Arms of some results, compared by one statistic of their evaluations.

    Attributes:
        results: of the runs.
        base: the arm that others are compared with.
        statistic: which evaluations make an outcome.
    """

    results: Results
    base: str
    statistic: Statistic = "last"

    @classmethod
    def of(cls, results: Results, statistic: Statistic = "last", base: str | None = None) -> Comparison:
        """Compare the arms of some results.

        Args:
            results: of the runs.
            statistic: which evaluations make an outcome.
            base: None takes the arm ``base`` if there is one, else the first.

        Raises:
            ValueError: there is no arm named ``base``; the message lists the arms.
        """
        if base is None:
            base = "base" if "base" in results.arms else results.arms[0]
        elif base not in results.arms:
            raise ResultsError(f"there is no arm '{base}'; there are {', '.join(results.arms)}")
        return cls(results, base, statistic)

    # One task ---------------------------------------------------------------------------------------------------------

    def outcomes(self, task: str, arm: str) -> NDArray[np.float64]:
        """(n,): one number per finished run of an arm on a task."""
        return self.results.group(task, arm).outcomes(self.statistic, scored=self.results.scored)

    def by_arm(self, task: str) -> dict[str, NDArray[np.float64]]:
        """Outcomes on a task, of the arms that have any."""
        return {arm: values for arm in self.results.arms if len(values := self.outcomes(task, arm))}

    def difference(self, task: str, arm: str) -> Estimate:
        """An arm minus the base arm on a task."""
        return statistics.difference_estimate(self.outcomes(task, arm), self.outcomes(task, self.base))

    @cached_property
    def judged(self) -> list[str]:
        """The tasks on which any arm has an outcome."""
        return [task for task in self.results.tasks if self.by_arm(task)]

    def best(self, task: str) -> str | None:
        """The arm with the highest mean on a task, None if no run finished."""
        means = {arm: float(values.mean()) for arm, values in self.by_arm(task).items()}
        return max(means, key=lambda arm: means[arm], default=None)

    # Several tasks ----------------------------------------------------------------------------------------------------

    @cached_property
    def complete(self) -> tuple[list[str], list[str]]:
        """The tasks and arms that can be averaged: every such arm has a finished run on every such task.

        Arms without a finished run are left out. So is an arm on few tasks, if the others can be compared on twice as
        many without it; the base arm is kept as long as it has a finished run. There is no task if no two arms have
        one in common.
        """
        results = self.results
        done = {arm: {task for task in results.tasks if len(self.outcomes(task, arm))} for arm in results.arms}
        arms = [arm for arm in results.arms if done[arm]]
        if not arms:
            return [], []
        best_arms, best_tasks = arms, set.intersection(*(done[arm] for arm in arms))
        while len(arms) > 2:
            weakest = min((arm for arm in reversed(arms) if arm != self.base), key=lambda arm: len(done[arm]))
            arms = [arm for arm in arms if arm != weakest]
            tasks = set.intersection(*(done[arm] for arm in arms))
            if len(tasks) >= max(2 * len(best_tasks), 1):
                best_arms, best_tasks = arms, tasks
        return [task for task in results.tasks if task in best_tasks], best_arms

    @property
    def tasks(self) -> list[str]:
        """The tasks of :attr:`complete`."""
        return self.complete[0]

    @property
    def arms(self) -> list[str]:
        """The arms of :attr:`complete`."""
        return self.complete[1]

    def scores(self, arm: str) -> list[NDArray[np.float64]]:
        """Outcomes of an arm, one array per task of :attr:`tasks`, as :mod:`cql.results.statistics` takes them."""
        return [self.outcomes(task, arm) for task in self.tasks]

    @property
    def n_seeds(self) -> int:
        """The smallest number of finished seeds of any arm on any of the averaged tasks."""
        return min((len(values) for arm in self.arms for values in self.scores(arm)), default=0)

    @cached_property
    def _can_average(self) -> bool:
        # One task of several does not represent the others.
        return bool(self.tasks) and (len(self.tasks) > 1 or len(self.results.tasks) == 1)

    @cached_property
    def aggregates(self) -> dict[str, dict[str, Estimate]]:
        """By the statistic's name and the arm; empty without scores on several tasks."""
        if not (self._can_average and self.results.scored and len(self.tasks) > 1):
            return {}
        return {
            name: {arm: statistics.aggregate_estimate(self.scores(arm), function) for arm in self.arms}
            for name, function in statistics.AGGREGATES.items()
        }

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """Performance profiles by arm; empty if there are no aggregates."""
        if not self.aggregates:
            return {}
        everything = np.concatenate([values for arm in self.arms for values in self.scores(arm)])
        low, high = float(everything.min()), float(everything.max())
        margin = 0.03 * (high - low or 1.0)
        thresholds = np.linspace(low - margin, high + margin, 101)
        return {arm: statistics.performance_profile(self.scores(arm), thresholds) for arm in self.arms}

    @cached_property
    def improvements(self) -> dict[str, Estimate]:
        """Probability of improvement over the base arm, by arm."""
        if not (self._can_average and self.base in self.arms):
            return {}
        base = self.scores(self.base)
        others = (arm for arm in self.arms if arm != self.base)
        return {arm: statistics.probability_of_improvement(self.scores(arm), base) for arm in others}

    def means(self) -> dict[str, float]:
        """The mean over the averaged tasks by arm; empty if it means nothing."""
        if not self.results.scored or len(self.tasks) < 2:
            return {}
        return {arm: float(statistics.mean(self.scores(arm))) for arm in self.arms}

    # For tables -------------------------------------------------------------------------------------------------------

    @cached_property
    def decimals(self) -> int:
        """Decimals of numbers: one, or as many as show two digits of the largest outcome."""
        outcomes = [group.outcomes("best", scored=self.results.scored) for group in self.results.groups]
        largest = max((float(np.abs(own).max()) for own in outcomes if len(own)), default=1.0)
        return min(1 - math.floor(math.log10(largest)), 8) if 0.0 < largest < 1.0 else 1

    def shown(self, value: float, *others: float, sign: str = "", separator: str = ",") -> tuple[str, ...]:
        """Some numbers as text, with the decimals of the first; those from 1000 on have none."""
        decimals = 0 if abs(value) >= 1000 else self.decimals
        return tuple(
            f"{x:{sign if not index else ''}{separator}.{decimals}f}" for index, x in enumerate((value, *others))
        )

    def rows(self) -> list[dict[str, object]]:
        """One row per group: seeds, steps, and every statistic with its interval, as return and as score."""
        return [self._row(group) for group in self.results.groups]

    def _row(self, group: Group) -> dict[str, object]:
        row: dict[str, object] = {
            "task": group.task,
            "arm": group.arm,
            "planned": group.n_planned,
            "runs": len(group.runs),
            "finished": len(group.ended),
            "failed": group.n_failed,
            "steps": max((run.step for run in group.runs), default=0),
            "n_steps": max((run.n_steps for run in group.runs), default=None),
        }
        for unit in ("return", "score") if self.results.scored else (self.results.unit,):
            for name in STATISTICS:
                values = group.outcomes(name, scored=unit == "score")
                estimate, label = statistics.mean_estimate(values), f"{unit}_{name.replace(' ', '_')}"
                row[f"{label}_mean"] = _or_none(estimate.value)
                row[f"{label}_std"] = float(values.std(ddof=1)) if len(values) > 1 else None
                row[f"{label}_low"], row[f"{label}_high"] = _or_none(estimate.low), _or_none(estimate.high)
        if any(run.success is not None for run in group.runs):
            row["success_last_mean"] = mean_success(group.ended)
        for scorer in MEANINGS:
            if (mean := mean_of(group.runs, scorer)) is not None:
                row[f"{scorer}_mean"] = mean
        for scorer in self.scorers:
            found = self.scorer(group, scorer)
            labels = (f"{PREFIX}{scorer}_{key}" for key in ("mean", "low", "high"))
            row |= {label: _or_none(x) for label, x in zip(labels, found, strict=True)}
        if any(run.n_offline_steps is not None for run in group.runs):
            for what, own in self.online(group).items():
                row[f"{what}_mean"] = float(np.mean(own)) if own else None
                row[f"{what}_std"] = float(np.std(own, ddof=1)) if len(own) > 1 else None
        if group.arm != self.base and self.base in {each.arm for each in self.results.groups_of(group.task)}:
            found = self.difference(group.task, group.arm)
            row |= {f"minus_base_{key}": _or_none(x) for key, x in zip(("mean", "low", "high"), found, strict=True)}
        return row

    @cached_property
    def scorers(self) -> list[str]:
        """The scorers that any run has in its metrics, see :mod:`cql.algorithm.scorers`."""
        known = {name for run in self.results.runs for row in run.metrics for name in row}
        return [name for name in DIRECTIONS if f"{PREFIX}{name}" in known]

    def scorer(self, group: Group, name: str) -> Estimate:
        """A scorer at the last evaluation of a group's finished runs."""
        curves = [run.metric(f"{PREFIX}{name}").values for run in group.ended]
        return statistics.mean_estimate(np.array([values[-1] for values in curves if len(values)]))

    @cached_property
    def selections(self) -> list[Selection]:
        """The choice of a run without an environment, for each task with judged runs."""
        return selections(self.results)

    @cached_property
    def has_online(self) -> bool:
        """Whether any run has finished training that continued in the environment."""
        return any(self.online(group)["final"] for group in self.results.groups)

    def online(self, group: Group) -> dict[str, list[float]]:
        """Of a group's finished runs that continued in the environment: before that, at the end, and the regret."""
        scored, runs = self.results.scored, [run for run in group.ended if run.n_offline_steps is not None]
        found = {
            "offline": [run.offline(scored=scored) for run in runs],
            "final": [run.outcome("last", scored=scored) for run in runs],
            "regret": [run.regret for run in runs],
        }
        return {name: [value for value in values if value is not None] for name, values in found.items()}


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def ranked(values: dict[str, float]) -> list[str]:
    """Arms from the highest value to the lowest."""
    return sorted(values, key=lambda arm: -values[arm])


def tied(values: dict[str, float], arm: str, among: Sequence[str]) -> list[str]:
    """The arms whose value is that of another arm."""
    return [other for other in among if math.isclose(values[other], values[arm], rel_tol=1e-9, abs_tol=1e-12)]
