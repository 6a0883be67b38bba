"""What a handful of runs allow one to say: averages with intervals, after Agarwal et al. 2021 (arXiv 2108.13264).

Scores of one arm come as one array a task, each with one number a run: ``[(n_1,), ..., (n_M,)]`` for M tasks. Tasks may
have different numbers of runs, and each counts as much as every other. Intervals over runs of one task are Student's;
those over several tasks are percentiles of a stratified bootstrap, which draws runs anew within each task and leaves
the tasks as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

MIN_RUNS = 3
"""Fewer runs get no interval: with two, Student's is 18 times as wide as their distance."""

LEVEL = 0.95
REPETITIONS = 10_000

Scores = Sequence[NDArray[np.float64]]


class Estimate(NamedTuple):
    """A number with its interval, whose bounds are NaN where there are too few runs for one."""

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there were enough runs."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


# One task -------------------------------------------------------------------------------------------------------------


def mean_estimate(values: Sequence[float] | NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """Mean over runs and Student's interval around it.

    Args:
        values: (n,), one a run.
        level: of confidence.

    Returns:
        NaN for no run, and an interval from :data:`MIN_RUNS` runs on.
    """
    x = np.asarray(values, np.float64)
    if not len(x):
        return Estimate(np.nan, np.nan, np.nan)
    mean, half = float(x.mean()), np.nan
    if len(x) >= MIN_RUNS:
        half = float(_student(level, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Estimate(mean, mean - half, mean + half)


def published_estimate(mean: float, spread: float | None, n: int | None, level: float = LEVEL) -> Estimate:
    """A published mean with Student's interval made of its standard deviation over n runs.

    Args:
        mean: as published.
        spread: standard deviation over runs; None where none was published.
        n: runs; None where it is not known.
        level: of confidence.
    """
    if spread is None or n is None or n < MIN_RUNS:
        return Estimate(mean, np.nan, np.nan)
    half = float(_student(level, n - 1) * spread / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half)


def difference_estimate(
    a: Sequence[float] | NDArray[np.float64], b: Sequence[float] | NDArray[np.float64], level: float = LEVEL
) -> Estimate:
    """Mean of `a` minus mean of `b`, with Welch's interval: the runs are not paired, nor their spreads equal.

    Args:
        a: (n,), one a run.
        b: (m,).
        level: of confidence.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (len(x) and len(y)):
        return Estimate(np.nan, np.nan, np.nan)
    difference, half = float(x.mean() - y.mean()), np.nan
    if min(len(x), len(y)) >= MIN_RUNS:
        parts = np.array([x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)])
        if parts.sum() == 0.0:
            half = 0.0
        else:
            freedom = parts.sum() ** 2 / (parts**2 / [len(x) - 1, len(y) - 1]).sum()
            half = float(_student(level, float(freedom)) * np.sqrt(parts.sum()))
    return Estimate(difference, difference - half, difference + half)


def overlap(a: Estimate, b: Estimate) -> bool | None:
    """Whether two intervals have a number in common, None where one of them is none."""
    if not (a.has_interval and b.has_interval):
        return None
    return a.low <= b.high and b.low <= a.high


def _student(level: float, freedom: float) -> float:
    return float(special.stdtrit(freedom, 0.5 + level / 2))


# Several tasks --------------------------------------------------------------------------------------------------------
# Each takes arrays (..., n_m), one a task, and returns (...): the leading axis is the bootstrap's.


def mean(scores: Scores) -> NDArray[np.float64]:
    """Mean over tasks of their means."""
    return np.asarray(np.mean([x.mean(-1) for x in scores], axis=0))


def median(scores: Scores) -> NDArray[np.float64]:
    """Median over tasks of their means."""
    return np.asarray(np.median([x.mean(-1) for x in scores], axis=0))


def iqm(scores: Scores) -> NDArray[np.float64]:
    """Interquartile mean: of all runs of all tasks together, without the lowest and the highest quarter.

    Where tasks have different numbers of runs, each run stands as often as gives every task as many.
    """
    sizes = [x.shape[-1] for x in scores]
    each = math.lcm(*sizes)
    values = np.concatenate(list(scores), axis=-1)
    order = np.argsort(values, axis=-1)
    copies = np.repeat([each // n for n in sizes], sizes)[order]
    upto = np.cumsum(copies, axis=-1)
    n = each * len(sizes)
    cut = int(0.25 * n)
    kept = np.clip(np.minimum(upto, n - cut) - np.maximum(upto - copies, cut), 0, None)
    return np.asarray((kept * np.take_along_axis(values, order, -1)).sum(-1) / (n - 2 * cut))


def optimality_gap(scores: Scores, target: float = 100.0) -> NDArray[np.float64]:
    """How far runs stay below a target on average; what lies above it counts as the target."""
    return np.asarray(np.mean([(target - np.minimum(x, target)).mean(-1) for x in scores], axis=0))


AGGREGATES: dict[str, Callable[[Scores], NDArray[np.float64]]] = {
    "IQM": iqm,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def aggregate_estimate(
    scores: Scores,
    statistic: Callable[[Scores], NDArray[np.float64]],
    *,
    level: float = LEVEL,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> Estimate:
    """A statistic over tasks, with percentiles of its stratified bootstrap.

    Args:
        scores: one array a task.
        statistic: one of :data:`AGGREGATES`.
        level: of confidence.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        No interval where a task has fewer than :data:`MIN_RUNS` runs.

    Raises:
        ValueError: there is no task, or one without runs.
    """
    scores = _checked(scores)
    value = float(statistic(scores))
    if min(len(x) for x in scores) < MIN_RUNS:
        return Estimate(value, np.nan, np.nan)
    low, high = _percentiles(statistic(_redrawn(scores, repetitions, np.random.default_rng(seed))), level)
    return Estimate(value, float(low), float(high))


def aggregate_difference(
    a: Scores,
    b: Scores,
    statistic: Callable[[Scores], NDArray[np.float64]],
    *,
    level: float = LEVEL,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> Estimate:
    """A statistic over tasks of `a` minus that of `b`, with percentiles of the bootstrap that redraws both.

    Two intervals may overlap where that of the difference does not hold zero.

    Args:
        a: one array a task.
        b: likewise, of the same tasks in the same order.
        statistic: one of :data:`AGGREGATES`.
        level: of confidence.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        No interval where a task has fewer than :data:`MIN_RUNS` runs of either.

    Raises:
        ValueError: there is no task, or one without runs, or the two differ in their number of tasks.
    """
    a, b = _paired(a, b)
    value = float(statistic(a) - statistic(b))
    if min(len(x) for x in (*a, *b)) < MIN_RUNS:
        return Estimate(value, np.nan, np.nan)
    random = np.random.default_rng(seed)
    drawn = statistic(_redrawn(a, repetitions, random)) - statistic(_redrawn(b, repetitions, random))
    low, high = _percentiles(drawn, level)
    return Estimate(value, float(low), float(high))


class Profile(NamedTuple):
    """Shares of runs above thresholds, each (T,); the bounds are NaN where there are too few runs for an interval."""

    thresholds: NDArray[np.float64]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def performance_profile(
    scores: Scores,
    thresholds: NDArray[np.float64],
    *,
    level: float = LEVEL,
    repetitions: int = 2_000,
    seed: int = 0,
) -> Profile:
    """The share of runs that score above each threshold, averaged over tasks, with pointwise bootstrap intervals.

    Args:
        scores: one array a task.
        thresholds: (T,).
        level: of confidence.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no task, or one without runs.
    """
    scores = _checked(scores)

    def share(all_scores: Scores) -> NDArray[np.float64]:
        by_task = [np.stack([(x > t).mean(-1) for t in thresholds], axis=-1) for x in all_scores]
        return np.asarray(np.mean(by_task, axis=0))

    nothing = np.full(len(thresholds), np.nan)
    if min(len(x) for x in scores) < MIN_RUNS:
        return Profile(thresholds, share(scores), nothing, nothing)
    low, high = _percentiles(share(_redrawn(scores, repetitions, np.random.default_rng(seed))), level)
    return Profile(thresholds, share(scores), low, high)


def probability_of_improvement(
    a: Scores, b: Scores, *, level: float = LEVEL, repetitions: int = 2_000, seed: int = 0
) -> Estimate:
    """How often a run of `a` beats one of `b` on the same task, averaged over tasks; a tie counts a half.

    It is the Mann-Whitney statistic divided by the number of pairs. It says nothing of by how much.

    Where one side wins every pair, redrawing finds nothing else, and the interval is that of Clopper and Pearson over
    as many pairs as have no run in common: 0.29 to 1 for three runs against three.

    Args:
        a: one array a task.
        b: likewise, of the same tasks in the same order.
        level: of confidence.
        repetitions: of the bootstrap, which redraws both.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no task, or one without runs, or the two differ in their number of tasks.
    """
    a, b = _paired(a, b)

    def chance(x: Scores, y: Scores) -> NDArray[np.float64]:
        by_task = []
        for own, other in zip(x, y, strict=True):
            difference = own[..., :, None] - other[..., None, :]
            by_task.append(((difference > 0.0) + 0.5 * (difference == 0.0)).mean((-2, -1)))
        return np.asarray(np.mean(by_task, axis=0))

    value = float(chance(a, b))
    if min(len(x) for x in (*a, *b)) < MIN_RUNS:
        return Estimate(value, np.nan, np.nan)
    if value in (0.0, 1.0):
        n_pairs = sum(min(len(x), len(y)) for x, y in zip(a, b, strict=True))
        room = 1.0 - (0.5 - 0.5 * level) ** (1.0 / n_pairs)
        return Estimate(value, max(value - room, 0.0), min(value + room, 1.0))
    random = np.random.default_rng(seed)
    low, high = _percentiles(chance(_redrawn(a, repetitions, random), _redrawn(b, repetitions, random)), level)
    return Estimate(value, float(low), float(high))


def _checked(scores: Scores) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(x, np.float64) for x in scores]
    if not arrays or not all(x.ndim == 1 and len(x) for x in arrays):
        raise ValueError(f"scores must hold at least one run for each of at least one task, got {arrays}")
    return arrays


def _paired(a: Scores, b: Scores) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    a, b = _checked(a), _checked(b)
    if len(a) != len(b):
        raise ValueError(f"scores of {len(a)} tasks against scores of {len(b)}: give those of the same tasks")
    return a, b


def _redrawn(scores: Scores, repetitions: int, random: np.random.Generator) -> list[NDArray[np.float64]]:
    """(repetitions, n_m) for each task: its runs, drawn with replacement."""
    return [x[random.integers(len(x), size=(repetitions, len(x)))] for x in scores]


def _percentiles(drawn: NDArray[np.float64], level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds that leave out an equal share of the repetitions, (R, ...), on either side."""
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(drawn, [tail, 100.0 - tail], axis=0)
    return low, high
