"""Averages and intervals: against numbers worked out by hand, scipy, and rliable where it is installed."""

import numpy as np
import pytest
from scipy import stats

from cql.results import statistics
from cql.results.statistics import (
    Estimate,
    aggregate_estimate,
    difference_estimate,
    iqm,
    mean_estimate,
    optimality_gap,
    overlap,
    performance_profile,
    probability_of_improvement,
    published_estimate,
)


def arrays(*rows):
    return [np.array(row, float) for row in rows]


# One task -------------------------------------------------------------------------------------------------------------


def test_the_mean_has_students_interval():
    # Mean 4, standard deviation 2 over n = 4, quantile of t with 3 degrees of freedom 3.182: half is 3.182.
    x = [2.0, 3.0, 5.0, 6.0]
    found = mean_estimate(x)
    half = 3.182446 * np.std(x, ddof=1) / 2
    assert found.value == 4.0
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half), rel=1e-6)
    low, high = stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_few_runs_get_no_interval():
    two, none = mean_estimate([1.0, 3.0]), mean_estimate([])
    assert two.value == 2.0
    assert not two.has_interval
    assert np.isnan(none.value)
    assert mean_estimate([1.0, 1.0, 1.0]) == Estimate(1.0, 1.0, 1.0)


def test_a_published_mean_is_treated_like_ours():
    x = [1.0, 2.0, 4.0, 7.0]
    ours = mean_estimate(x)
    theirs = published_estimate(float(np.mean(x)), float(np.std(x, ddof=1)), 4)
    assert theirs == pytest.approx(ours)
    assert not published_estimate(3.0, None, 4).has_interval
    assert not published_estimate(3.0, 1.0, None).has_interval
    assert not published_estimate(3.0, 1.0, 2).has_interval


def test_a_difference_has_welchs_interval():
    a, b = [5.0, 7.0, 9.0, 4.0], [1.0, 2.0, 1.5]
    found = difference_estimate(a, b)
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx((np.mean(a) - 1.5, low, high))
    assert difference_estimate([2.0] * 3, [1.0] * 3) == Estimate(1.0, 1.0, 1.0)
    assert not difference_estimate([1.0, 2.0], [1.0, 2.0, 3.0]).has_interval
    assert np.isnan(difference_estimate([], [1.0]).value)


def test_intervals_overlap_or_not_or_are_missing():
    assert overlap(Estimate(1, 0, 2), Estimate(3, 2, 4)) is True
    assert overlap(Estimate(1, 0, 2), Estimate(3, 2.1, 4)) is False
    assert overlap(Estimate(3, 2.1, 4), Estimate(1, 0, 2)) is False
    assert overlap(Estimate(1, 0, 2), Estimate(3, np.nan, np.nan)) is None


# Several tasks --------------------------------------------------------------------------------------------------------


def test_aggregates_are_those_worked_out_by_hand():
    scores = arrays([0, 10, 20, 30], [40, 50, 60, 170])
    assert iqm(scores) == pytest.approx((20 + 30 + 40 + 50) / 4)  # eight runs: without the two lowest and highest
    assert statistics.mean(scores) == pytest.approx((15 + 80) / 2)
    assert statistics.median(scores) == pytest.approx((15 + 80) / 2)
    assert optimality_gap(scores) == pytest.approx(((100 + 90 + 80 + 70) / 4 + (60 + 50 + 40 + 0) / 4) / 2)
    # A task counts once, however many runs it has.
    uneven = arrays([0, 0, 0, 0], [90, 110])
    assert statistics.mean(uneven) == 50.0
    assert iqm(uneven) == pytest.approx((0 + 0 + 90 + 90) / 4)  # as if it were 0 0 0 0 90 90 110 110


def test_an_arm_that_is_better_on_every_task_is_not_second_for_its_seeds():
    easy, hard = 90.0, 10.0
    better, worse = arrays([easy + 5] * 3, [hard + 5] * 9), arrays([easy] * 9, [hard] * 3)
    assert iqm(better) == pytest.approx(iqm(worse) + 5.0)


@pytest.mark.parametrize(("n_tasks", "n_runs"), [(1, 3), (2, 5), (8, 3), (3, 10)])
def test_the_interquartile_mean_of_equal_seeds_is_scipys_trimmed_one(n_tasks, n_runs):
    from scipy import stats

    scores = [np.random.default_rng(task).normal(size=(4, n_runs)) for task in range(n_tasks)]
    assert iqm(scores) == pytest.approx(stats.trim_mean(np.concatenate(scores, -1), 0.25, axis=-1), rel=1e-12)


def test_the_bootstrap_draws_within_tasks():
    # Without spread within tasks nothing varies, however far apart the tasks are.
    scores = arrays([10, 10, 10], [90, 90, 90])
    for name, statistic in statistics.AGGREGATES.items():
        found = aggregate_estimate(scores, statistic, repetitions=200)
        assert found.low == found.value == found.high, name


def test_the_bootstrap_of_one_task_finds_the_exact_distribution():
    # Of three runs 0, 0, 3 a resample's mean is 0, 1, 2, 3 with probability 8, 12, 6, 1 of 27.
    drawn = []

    def kept(scores):
        drawn.append(statistics.mean(scores))
        return drawn[-1]

    aggregate_estimate(arrays([0, 0, 3]), kept, repetitions=200_000)
    (means,) = [each for each in drawn if each.size > 1]
    shares = np.bincount(means.round().astype(int)) / 200_000
    assert shares == pytest.approx(np.array([8, 12, 6, 1]) / 27, abs=0.005)
    found = aggregate_estimate(arrays([0, 0, 3]), statistics.mean)
    assert (found.value, found.low, found.high) == (1.0, 0.0, 3.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    n_hits, n = 0, 200
    for _ in range(n):
        scores = [random.normal(mean, 10.0, size=20) for mean in (20.0, 60.0)]
        found = aggregate_estimate(scores, statistics.mean, repetitions=400)
        n_hits += found.low <= 40.0 <= found.high
    assert 0.88 <= n_hits / n <= 0.99


def test_few_runs_get_no_bootstrap_either():
    scores = arrays([1, 2, 3], [4, 5])
    assert not aggregate_estimate(scores, iqm).has_interval
    assert np.isnan(performance_profile(scores, np.array([2.0])).low).all()
    assert not probability_of_improvement(scores, scores).has_interval
    with pytest.raises(ValueError, match="at least one run for each of at least one task"):
        aggregate_estimate([], iqm)
    with pytest.raises(ValueError, match="at least one run"):
        aggregate_estimate(arrays([1, 2, 3], []), iqm)


def test_a_profile_counts_what_lies_above():
    found = performance_profile(arrays([0, 50, 100], [50, 50, 50]), np.array([-1.0, 49.0, 50.0, 100.0]))
    assert found.share == pytest.approx([1.0, (2 / 3 + 1) / 2, (1 / 3 + 0) / 2, 0.0])
    assert (found.low <= found.share).all()
    assert (found.share <= found.high).all()


def test_the_probability_of_improvement_counts_pairs():
    # Of nine pairs on the first task 5 are won and 1 is a tie; all nine on the second are lost.
    a, b = arrays([1, 3, 5], [0, 0, 0]), arrays([0, 3, 4], [1, 1, 1])
    first = sum(x > y for x in (1, 3, 5) for y in (0, 3, 4)) + 0.5
    assert first == 5.5
    found = probability_of_improvement(a, b)
    assert found.value == pytest.approx((5.5 / 9 + 0) / 2)
    assert probability_of_improvement(b, a).value == pytest.approx(1 - found.value)
    assert found.low <= found.value <= found.high
    with pytest.raises(ValueError, match="2 tasks against scores of 1:"):
        probability_of_improvement(a, b[:1])


def test_who_wins_every_pair_has_an_interval_all_the_same():
    """Of Clopper and Pearson: three wins of three leave a chance of 0.025 to a probability of 0.2924."""
    won = statistics.probability_of_improvement(arrays([5, 6, 7]), arrays([1, 2, 3]))
    assert won == pytest.approx((1.0, 0.025 ** (1 / 3), 1.0))
    lost = statistics.probability_of_improvement(arrays([1, 2, 3], [1, 2, 3]), arrays([5, 6, 7, 8], [5, 6, 7]))
    assert lost == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 6)))


def test_a_difference_may_be_significant_although_two_intervals_touch():
    a, b = ([shift + np.linspace(-20.0, 20.0, 10)] * 4 for shift in (58.0, 50.0))
    both = [statistics.aggregate_estimate(scores, iqm) for scores in (a, b)]
    gap = aggregate_estimate(a, iqm, minus=b)
    assert statistics.overlap(*both)
    assert gap.low > 0.0
    assert gap.value == pytest.approx(both[0].value - both[1].value)
    assert not aggregate_estimate(a, iqm, minus=[x[:2] for x in b]).has_interval
    with pytest.raises(ValueError, match="scores of 4 tasks against scores of 3"):
        aggregate_estimate(a, iqm, minus=b[:3])


def test_the_same_scores_give_the_same_interval():
    scores = [np.random.default_rng(5).normal(50, 20, size=4) for _ in range(3)]
    assert aggregate_estimate(scores, iqm) == aggregate_estimate(scores, iqm)
    assert aggregate_estimate(scores, iqm) != aggregate_estimate(scores, iqm, seed=1)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_rliable_agrees():
    library = pytest.importorskip("rliable.library", reason="needs the peers extra")
    metrics = pytest.importorskip("rliable.metrics", reason="needs the peers extra")
    random = np.random.default_rng(3)
    a, b = random.normal(60, 25, size=(2, 5, 6))  # runs x tasks
    ours_a, ours_b = list(a.T), list(b.T)
    theirs = {
        "IQM": metrics.aggregate_iqm, "median": metrics.aggregate_median, "mean": metrics.aggregate_mean,
        "optimality gap": lambda x: 100.0 * metrics.aggregate_optimality_gap(x / 100.0),
    }  # fmt: skip
    values, intervals = library.get_interval_estimates(
        {"a": a}, lambda x: np.array([function(x) for function in theirs.values()]), reps=5000
    )
    for index, name in enumerate(theirs):
        found = aggregate_estimate(ours_a, statistics.AGGREGATES[name])
        assert found.value == pytest.approx(values["a"][index], rel=1e-9), name
        assert (found.low, found.high) == pytest.approx(intervals["a"][:, index], abs=1.5), name
    thresholds = np.linspace(0, 120, 13)
    profile, _ = library.create_performance_profile({"a": a}, thresholds, reps=10)
    assert performance_profile(ours_a, thresholds).share == pytest.approx(profile["a"])
    assert probability_of_improvement(ours_a, ours_b).value == pytest.approx(metrics.probability_of_improvement(a, b))
