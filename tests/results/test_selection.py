"""Choosing a run without an environment: correlations, regrets and words by hand-made cases."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run

from cql.results import selection
from cql.results.groups import read_results
from cql.results.selection import by_chance, by_episodes, by_halving, over_runs, rank_correlation, regret_at

ALPHAS = (0.5, 1.0, 2.0, 5.0, 10.0)
RETURNS = (100.0, 200.0, 500.0, 400.0, 300.0)
# By value 2 is the best run, as by return; by TD error, of which less is better, the worst is.
FQE = (1.0, 2.0, 5.0, 4.0, 3.0)
TD_ERROR = (0.1, 0.2, 0.9, 0.8, 0.4)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Five runs that were evaluated and judged."""
    return make_sweep(tmp_path / "sweep")


def make_sweep(folder: Path, *, n_episodes: int = 4, spread: float = 10.0, scored: bool = False) -> Path:
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    for alpha, value, fqe, td_error in zip(ALPHAS, RETURNS, FQE, TD_ERROR, strict=True):
        run = make_run(
            folder / f"alpha_cql-{alpha:g}__seed-0",
            [value - 50.0, value],
            changes={"algorithm.alpha_cql.value": alpha, "env.reference": None},
            scored=scored,
            spread=spread,
            n_episodes=n_episodes,
        )
        judgement = {
            "key": "k", "checkpoint": "step_0004000.pt", "step": 4000, "scored_on": "held-out episodes",
            "fqe": fqe, "fqe_low": fqe - 0.5, "fqe_high": fqe + 0.5, "td_error": td_error,
        }  # fmt: skip
        (run / "judgement.json").write_text(json.dumps(judgement))
    return folder


def test_rank_correlation() -> None:
    scores, returns = np.array([[1.0, 2.0, 3.0, 4.0]] * 3), np.array([[1, 4, 9, 16.0], [4, 3, 2, 1.0], [1, 3, 2, 4.0]])
    assert rank_correlation(scores, returns).tolist() == pytest.approx([1.0, -1.0, 0.8])
    assert math.isnan(rank_correlation(np.ones(4), returns[0]))
    # Equal values share a rank.
    assert rank_correlation(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(math.sqrt(0.75))


def test_regret() -> None:
    scores, returns = np.array([5.0, 4.0, 3.0, 2.0]), np.array([1.0, 7.0, 3.0, 10.0])
    assert [float(regret_at(scores, returns, k)) for k in (1, 2, 3, 4, 9)] == [9.0, 3.0, 3.0, 0.0, 0.0]


def test_intervals_over_runs() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(40)
    found = over_runs(rank_correlation, x, x + 0.5 * random.standard_normal(40))
    assert 0.3 < found.low < found.value < found.high < 1.0
    noise = over_runs(rank_correlation, x, random.standard_normal(40))
    assert noise.low < 0.0 < noise.high
    assert math.isnan(over_runs(rank_correlation, np.ones(5), np.arange(5.0)).value)


def test_orders_that_agree_by_chance() -> None:
    # Of the 120 orders of five, one is the right one; of the 6 of three likewise.
    assert by_chance(np.arange(5.0), np.arange(5.0)) == pytest.approx(1 / 120, abs=0.003)
    assert by_chance(np.arange(3.0), np.arange(3.0)) == pytest.approx(1 / 6, abs=0.02)
    assert by_chance(np.ones(5), np.arange(5.0)) == 1.0
    random = np.random.default_rng(0)
    false = [by_chance(random.standard_normal(6), random.standard_normal(6)) < 0.05 for _ in range(60)]
    assert np.mean(false) <= 0.12


def test_few_runs_have_no_interval() -> None:
    few = over_runs(rank_correlation, np.arange(5.0), np.arange(5.0))
    assert few.value == 1.0
    assert not few.has_interval
    assert over_runs(rank_correlation, np.arange(6.0), np.arange(6.0)).has_interval


def test_by_halving() -> None:
    # Four runs: two rounds of at least one episode, which k = 1 does not pay for.
    constant = np.repeat(np.arange(4.0)[:, None], 12, 1)
    found = by_halving(constant)
    assert found[1:4] == pytest.approx([3.0] * 3)
    random = np.random.default_rng(0)
    noisy = random.standard_normal((8, 40)) + 0.5 * np.arange(8)[:, None]
    halved, even = by_halving(noisy), by_episodes(noisy)
    assert np.isnan(halved[0])
    # As many episodes in all tell more where few runs are left to share them.
    assert np.nanmean(halved[2:8]) > np.mean(even[2:8])
    assert by_halving(np.empty((3, 0))).tolist() == []


def test_judgements_of_different_settings_are_not_compared_in_silence(sweep: Path) -> None:
    (found,) = selection.selections(read_results([sweep]))
    assert "different settings" not in " ".join(found.sentences)
    path = sweep / "alpha_cql-1__seed-0" / "judgement.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fqe_key": "k other"}))
    (found,) = selection.selections(read_results([sweep]))
    assert "judged with different settings" in " ".join(found.sentences)


def test_by_episodes() -> None:
    # Of two runs that are always 1 and 2, one episode finds the better.
    assert by_episodes(np.array([[1.0] * 4, [2.0] * 4])).tolist() == [2.0, 2.0, 2.0]
    assert by_episodes(np.array([[1.0], [2.0]])).tolist() == []
    # Equal runs with noise: whoever is chosen is worth the mean. Valued by the episodes that chose, it would be more.
    random = np.random.default_rng(1)
    found = np.mean([by_episodes(random.standard_normal((5, 8))) for _ in range(60)], 0)
    assert found == pytest.approx(np.zeros(7), abs=0.15)
    # The more episodes, the better is the choice.
    better = np.mean([by_episodes(random.standard_normal((5, 16)) + np.arange(5)[:, None]) for _ in range(20)], 0)
    assert better[0] < better[3] < better[-1] <= 4.2


def test_selection_of_a_sweep(sweep: Path) -> None:
    (found,) = selection.selections(read_results([sweep]))
    assert found.scorers == ("fqe", "td_error")
    assert found.is_known
    assert found.correlation("fqe").value == 1.0
    assert found.correlation("td_error").value == pytest.approx(-1.0)
    assert [each.run.judgement["fqe"] for each in found.order("fqe")] == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert found.order("td_error")[0].run.judgement["fqe"] == 1.0
    assert [found.regret("td_error", k).value for k in (1, 3, 5)] == [400.0, 200.0, 0.0]
    assert found.online.tolist() == pytest.approx([500.0] * 3, abs=5.0)
    text = " ".join(found.sentences)
    assert "Of 5 runs, fqe chooses alpha_cql=2, seed 0: 5 (95 % interval 4.5 to 5.5)." in text
    assert "its return is 500.0, place 1 of 5; the best run has 500.0, the mean of all is 300.0" in text
    # One of 120 orders is right, and there are two scorers.
    assert "The order of fqe agrees significantly with that of the returns (permutation test" in text
    first = selection.rows(found)[0]
    assert (first["arm"], first["fqe"], first["return"], first["td_error_place"]) == ("alpha_cql=2", 5.0, 500.0, 5)


def test_scorers_that_not_all_runs_have_are_left_out(sweep: Path) -> None:
    path = sweep / "alpha_cql-1__seed-0" / "judgement.json"
    own = json.loads(path.read_text())
    path.write_text(json.dumps({**own, "fqe": None}))
    (found,) = selection.selections(read_results([sweep]))
    assert found.scorers == ("td_error",)
    text = " ".join(found.sentences)
    assert "td_error chooses alpha_cql=0.5" in text
    assert "To choose as well by evaluation takes 1 episode of each run" in text
    assert "No scorer's order agrees" in text


def test_without_evaluations_nothing_is_said_about_trust(sweep: Path) -> None:
    for path in sweep.glob("*/episodes.csv"):
        path.write_text("step,episode,seed,return,length,score\n")
    for path in sweep.glob("*/metrics.jsonl"):
        path.write_text('{"step": 4000, "q_data": 1.0}\n')
    (found,) = selection.selections(read_results([sweep]))
    assert not found.is_known
    assert found.sentences[-1] == (
        "How far that can be trusted is not known here: no run was evaluated in an environment."
    )
    assert selection.trust(found) == []
    assert "fqe chooses alpha_cql=2" in selection.text(found)


def test_two_runs_are_too_few_to_compare_orders(sweep: Path) -> None:
    two = [sweep / "alpha_cql-1__seed-0", sweep / "alpha_cql-2__seed-0"]
    (found,) = selection.selections(read_results(two))
    assert not found.is_known
    assert "it takes 3 runs" in found.sentences[-1]
    assert selection.selections(read_results(two[:1])) == []


def test_returns_are_those_of_the_judged_step(sweep: Path) -> None:
    path = sweep / "alpha_cql-2__seed-0" / "judgement.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "step": 2000}))
    (found,) = selection.selections(read_results([sweep]))
    assert found.returns.max() == 450.0


def test_the_report_shows_the_choice(tmp_path: Path) -> None:
    from cql.results.report import write_report

    folder = make_sweep(tmp_path / "sweep", n_episodes=6)
    written = write_report(read_results([folder]), tmp_path / "report", title="Choice", command="test")
    page = written.page.read_text()
    for said in (
        "Choosing a run without an environment",
        "fqe chooses alpha_cql=2, seed 0",
        "<td>1.00</td>",
        "alpha_cql=0.5, seed 0: 100.0, place 5",
    ):
        assert said in page
    assert {"scorers_halfcheetah_medium.png", "episodes_halfcheetah_medium.png"} <= {p.name for p in written.figures}
    assert (tmp_path / "report" / "judgements.csv").read_text().count("\n") == 6
    assert {row["fqe_mean"] for row in written.rows} == set(FQE)


def test_fitted_q_evaluation_does_not_choose_what_acts_far_from_the_data(sweep: Path) -> None:
    for index, path in enumerate(sorted(sweep.glob("*/judgement.json"))):
        own = json.loads(path.read_text())
        is_first = path.parent.name == "alpha_cql-0.5__seed-0"
        own |= {"action_distance": 0.8 if is_first else 0.5 + 0.01 * index}
        path.write_text(json.dumps(own | ({"fqe": 99.0, "fqe_data_max": 4.0} if is_first else {"fqe_data_max": 4.0})))
    (found,) = selection.selections(read_results([sweep]))
    order = [each.run.judgement["fqe"] for each in found.order("fqe")]
    assert order == [5.0, 4.0, 3.0, 2.0, 99.0]
    assert found.correlation("fqe").value == 1.0
    text = " ".join(found.sentences)
    assert "fqe chooses alpha_cql=2, seed 0" in text
    assert "1 run came last whatever the estimate, with an action_distance above 1.5 times the median" in text
    assert "Its fqe, 5, is above the largest discounted return of any recorded episode, 4:" in text
    assert "1 other run is not distinguishable from it" in text  # 3.5 to 4.5 touches 4.5 to 5.5


def test_values_of_critics_that_differ_in_alpha_cql_are_not_recommended(sweep: Path) -> None:
    for path in sweep.glob("*/judgement.json"):
        own = json.loads(path.read_text())
        path.write_text(json.dumps({"step": own["step"], "initial_value": own["fqe"]}))
    (found,) = selection.selections(read_results([sweep]))
    assert "Do not choose by them." in " ".join(found.sentences)
