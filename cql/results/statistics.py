"""Averages over few runs, with intervals, after Agarwal et al. 2021 (arXiv 2108.13264).

Scores of one arm are one array per task with one number per run: ``[(n_1,), ..., (n_M,)]`` for M tasks. Tasks may have
different numbers of runs, and each counts the same. Intervals over the runs of one task are Student's. Intervals over
several tasks are percentiles of a stratified bootstrap: it redraws the runs within each task and keeps the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MIN_RUNS = 3
"""Fewer runs get no interval: with two, Student's is 18 times as wide as their distance."""

LEVEL = 0.95
"""Confidence level of every interval."""

REPETITIONS = 10_000
"""Of the bootstrap of an aggregate."""
FEW_REPETITIONS = 2_000
"""Of the bootstrap of a profile or a probability."""

Scores = Sequence[NDArray[np.float64]]


class Estimate(NamedTuple):
    """A number with its interval. The bounds are NaN if there are too few runs for one."""

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        """Whether there were enough runs."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


# One task -------------------------------------------------------------------------------------------------------------


def mean_estimate(values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Mean over runs with Student's interval.

    Args:
        values: (n,), one per run.

    Returns:
        NaN without runs; an interval from :data:`MIN_RUNS` runs on.
    """
    x = np.asarray(values, np.float64)
    if not len(x):
        return Estimate(np.nan, np.nan, np.nan)
    return published_estimate(float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else None, len(x))


def published_estimate(mean: float, spread: float | None, n: int | None) -> Estimate:
    """A mean with Student's interval, from its standard deviation over n runs.

    Args:
        mean: as published.
        spread: standard deviation over runs (n - 1 in the denominator); None if it is not known.
        n: runs; None if it is not known.
    """
    half = np.nan
    if spread is not None and n is not None and n >= MIN_RUNS:
        half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * spread / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half)


def difference_estimate(a: Sequence[float] | NDArray[np.float64], b: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Mean of ``a`` minus mean of ``b`` with Welch's interval: runs are not paired, and their spreads may differ.

    Args:
        a: (n,), one per run.
        b: (m,), likewise.

    Returns:
        NaN if either has no run; an interval from :data:`MIN_RUNS` runs of both on.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (len(x) and len(y)):
        return Estimate(np.nan, np.nan, np.nan)
    difference = float(x.mean() - y.mean())
    if min(len(x), len(y)) < MIN_RUNS:
        return Estimate(difference, np.nan, np.nan)
    if np.ptp(x) == np.ptp(y) == 0.0:  # for which Welch's degrees of freedom are 0 / 0
        return Estimate(difference, difference, difference)
    interval = stats.ttest_ind(x, y, equal_var=False).confidence_interval(LEVEL)
    return Estimate(difference, float(interval.low), float(interval.high))


def overlap(a: Estimate, b: Estimate) -> bool | None:
    """Whether two intervals share a number; None if one of the estimates has no interval."""
    if not (a.has_interval and b.has_interval):
        return None
    return a.low <= b.high and b.low <= a.high


# Several tasks --------------------------------------------------------------------------------------------------------
# Each takes arrays (..., n_m), one per task, and returns (...): the leading axis is the bootstrap's.


def mean(scores: Scores) -> NDArray[np.float64]:
    """Mean over tasks of their means."""
    return np.asarray(np.mean([x.mean(-1) for x in scores], axis=0))


def median(scores: Scores) -> NDArray[np.float64]:
    """Median over tasks of their means."""
    return np.asarray(np.median([x.mean(-1) for x in scores], axis=0))


def iqm(scores: Scores) -> NDArray[np.float64]:
    """Interquartile mean: of all runs of all tasks together, without the lowest and the highest quarter.

    If tasks have different numbers of runs, each run is repeated so that every task has equally many.
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
    """How far runs stay below a target on average; a score above the target counts as the target."""
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
    minus: Scores = (),
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> Estimate:
    """A statistic over tasks, or a difference of two, with percentiles of its stratified bootstrap.

    The bootstrap of a difference redraws both. Two intervals may overlap although that of the difference does not
    include zero.

    Args:
        scores: one array per task.
        statistic: one of :data:`AGGREGATES`.
        minus: scores of another arm on the same tasks, whose statistic is subtracted.
        repetitions: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        No interval if a task has fewer than :data:`MIN_RUNS` runs.

    Raises:
        ValueError: there is no task, or one without runs, or ``minus`` has another number of tasks.
    """
    scores, minus = _paired(scores, minus) if len(minus) else (_checked(scores), [])

    def value(drawn: Scores) -> NDArray[np.float64]:
        own, other = drawn[: len(scores)], drawn[len(scores) :]
        return np.asarray(statistic(own) - statistic(other)) if other else statistic(own)

    low, high = _bootstrap(value, [*scores, *minus], repetitions, seed)
    return Estimate(float(value([*scores, *minus])), float(low), float(high))


class Profile(NamedTuple):
    """Shares of runs above thresholds, each (T,). The bounds are NaN if there are too few runs for an interval."""

    thresholds: NDArray[np.float64]
    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def performance_profile(scores: Scores, thresholds: NDArray[np.float64]) -> Profile:
    """The share of runs that score above each threshold, averaged over tasks, with pointwise bootstrap intervals.

    Args:
        scores: one array per task.
        thresholds: (T,).

    Raises:
        ValueError: there is no task, or one without runs.
    """
    scores = _checked(scores)

    def share(drawn: Scores) -> NDArray[np.float64]:  # (T, ...)
        return np.asarray(np.mean([[(x > t).mean(-1) for t in thresholds] for x in drawn], axis=0))

    return Profile(thresholds, share(scores), *_bootstrap(share, scores, FEW_REPETITIONS))


def probability_of_improvement(a: Scores, b: Scores) -> Estimate:
    """How often a run of ``a`` beats one of ``b`` on the same task, averaged over tasks; a tie counts a half.

    It is the Mann-Whitney statistic divided by the number of pairs, and does not say by how much a run is better.

    If one side wins every pair, every bootstrap sample does too. The interval is then that of Clopper and Pearson over
    as many pairs as share no run: 0.29 to 1 for three runs against three.

    Args:
        a: one array per task.
        b: likewise, of the same tasks in the same order.

    Raises:
        ValueError: there is no task, or one without runs, or ``a`` and ``b`` have different numbers of tasks.
    """
    a, b = _paired(a, b)

    def chance(scores: Scores) -> NDArray[np.float64]:
        by_task = []
        for own, other in zip(scores[: len(a)], scores[len(a) :], strict=True):
            difference = own[..., :, None] - other[..., None, :]
            by_task.append(((difference > 0.0) + 0.5 * (difference == 0.0)).mean((-2, -1)))
        return np.asarray(np.mean(by_task, axis=0))

    value = float(chance([*a, *b]))
    if value in (0.0, 1.0) and min(len(x) for x in (*a, *b)) >= MIN_RUNS:
        n_pairs = sum(min(len(x), len(y)) for x, y in zip(a, b, strict=True))
        exact = stats.binomtest(round(value * n_pairs), n_pairs).proportion_ci(LEVEL, method="exact")
        return Estimate(value, float(exact.low), float(exact.high))
    low, high = _bootstrap(chance, [*a, *b], FEW_REPETITIONS)
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


def _bootstrap(
    statistic: Callable[[Scores], NDArray[np.float64]],
    scores: Sequence[NDArray[np.float64]],
    repetitions: int,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentiles of a statistic whose runs are redrawn within each task; NaN with too few runs for an interval."""
    if min(map(len, scores)) < MIN_RUNS:
        nothing = np.full(np.shape(statistic(scores)), np.nan)
        return nothing, nothing
    found = stats.bootstrap(
        scores,
        lambda *drawn, axis: statistic(drawn),  # noqa: ARG005  the runs are the last axis
        n_resamples=repetitions,
        vectorized=True,
        method="percentile",
        confidence_level=LEVEL,
        rng=np.random.default_rng(seed),
    )
    return found.confidence_interval.low, found.confidence_interval.high
