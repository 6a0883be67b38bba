"""Runs without a simulator in reports, tables and figures: they are judged by a scorer, and the page says so."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run

from cql.results import doctor, report
from cql.results.comparison import Comparison
from cql.results.frame import read_runs
from cql.results.groups import read_results
from cql.results.runs import read_run
from cql.results.sweep_figure import sweep_curves
from cql.scorer_names import DIRECTIONS
from cql.sweep import status, table


def logged_run(directory: Path, values: list[float], scorer: str | None, **given: Any) -> Path:
    """A run without a simulator; the scorer (or td_error, if none is named) has these values."""
    changes = {"env.id": "none", "env.reference": None, "env.best_by": scorer, **given.pop("changes", {})}
    shown = {f"offline_{name}": [10.0 * sign + 0.5] * len(values) for name, sign in DIRECTIONS.items()}
    shown |= {f"offline_{scorer or 'td_error'}": values, "q_policy": [1e4] * len(values), "q_data": [1e4] * len(values)}
    make_run(directory, [0.0] * len(values), changes=changes, metrics=shown, **given)
    (directory / "episodes.csv").unlink()
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if not key.startswith("eval_")} for row in rows]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {key: value for key, value in rows[-1].items() if key.startswith("offline_")}
    own |= {"objective": None} if scorer is None else {"objective": 0.0, f"best_offline_{scorer}": max(values)}
    summary = {"status": "finished", "step": 4000, "n_steps": 4000, "best_step": 4000, **own}
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def logged_sweep(folder: Path, scorer: str | None, **given: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    for alpha in (1.0, 5.0):
        for seed in (0, 1, 2):
            changes = {"algorithm.alpha_cql.value": alpha, "seed": seed, **given}
            values = [alpha, 2.0 * alpha + 0.1 * seed]
            logged_run(folder / f"alpha_cql-{alpha:g}__seed-{seed}", values, scorer, changes=changes)
    return folder


def page_of(results: Any, folder: Path) -> tuple[str, list[dict[str, str]]]:
    """The text of a report's page without its figures, and the rows of its table."""
    written = report.write_report(results, folder, title="logs", command="c", videos="none")
    text = re.sub(r"<svg.*?</svg>|<style.*?</style>|<script.*?</script>", "", written.page.read_text(), flags=re.DOTALL)
    plain = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
    return plain, list(csv.DictReader((folder / "table.csv").read_text().splitlines()))


def test_evaluations_are_the_named_scorer_with_its_sign(tmp_path: Path) -> None:
    value = read_run(logged_run(tmp_path / "value", [1.0, 3.0, 2.0], "initial_value"))
    assert (value.unit, value.evaluations.values.tolist()) == ("offline_initial_value", [1, 3, 2])
    error = read_run(logged_run(tmp_path / "error", [1.0, 3.0, 2.0], "td_error"))
    assert (error.unit, error.evaluations.values.tolist()) == ("minus_offline_td_error", [-1, -3, -2])
    assert error.outcome("best", scored=False) == -1.0
    unnamed = read_run(logged_run(tmp_path / "unnamed", [1.0, 3.0, 2.0], None))
    assert (unnamed.unit, len(unnamed.evaluations.values), unnamed.has_simulator) == ("return", 0, False)


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn as for other runs, which takes seconds."""
    monkeypatch.setattr(report, "_drawn", lambda _: {})


@pytest.mark.usefixtures("no_drawing")
def test_the_page_judges_by_the_named_scorer_and_says_that_it_is_no_return(tmp_path: Path) -> None:
    results = read_results([logged_sweep(tmp_path / "s", "initial_value")])
    assert (results.unit, results.scored, len(results.without_simulator)) == ("offline_initial_value", False, 6)
    text, rows = page_of(results, tmp_path / "report")
    assert "alpha_cql=5 has the highest mean offline_initial_value, 10.1 (9.9 to 10.3), before alpha_cql=1" in text
    assert "It is ahead by 8.0, 95 % interval 7.8 to 8.2." in text
    assert "No simulator was used (env=none): policies were scored on recorded data alone" in text
    assert "Runs are judged by offline_initial_value: value of the policy's action in initial states" in text
    assert "Mean offline_initial_value over the finished seeds" in text
    assert "2.1 [1.85, 2.35]" in text  # in the table of scorers
    assert [float(row["offline_initial_value_last_mean"]) for row in rows] == pytest.approx([2.1, 10.1])
    assert [float(row["offline_td_error_mean"]) for row in rows] == [-9.5, -9.5]
    assert not any(key.startswith("return") for key in rows[0])
    assert "offline_initial_value, the last evaluation" in (tmp_path / "report" / "table.md").read_text()
    # No return says that these values are too high.
    assert all(each.name not in ("values", "promise") for run in results.runs for each in doctor.diagnose(run))


def test_of_an_error_the_smaller_one_is_ahead(tmp_path: Path) -> None:
    compared = Comparison.of(read_results([logged_sweep(tmp_path / "s", "td_error")]))
    assert compared.best(compared.results.tasks[0]) == "alpha_cql=1"


def test_without_a_named_scorer_the_page_shows_all_and_judges_by_none(tmp_path: Path) -> None:
    text, rows = page_of(read_results([logged_sweep(tmp_path / "s", None)]), tmp_path / "report")
    assert "No scorer was named to judge them by, as env.best_by=initial_value does." in text
    assert "2.1 [1.85, 2.35]" in text
    assert "highest mean" not in text
    assert "nothing to compare" not in text
    assert "Mean return" not in text
    assert "there are no returns that Q values could be compared with" in text  # beside the diagnostics
    assert [float(row["offline_td_error_mean"]) for row in rows] == pytest.approx([2.1, 10.1])


@pytest.mark.usefixtures("no_drawing")
def test_scorers_are_not_compared_with_returns_nor_with_other_scorers(tmp_path: Path) -> None:
    sweep = logged_sweep(tmp_path / "s", "initial_value", **{"dataset.name": "hopper_medium"})
    run = make_run(tmp_path / "run", [100.0, 300.0])
    mixed = read_results([sweep, run])
    assert (mixed.unit, mixed.scored) == ("score", True)
    assert [len(each.evaluations.values) for each in mixed.without_simulator] == [0] * 6
    text, _ = page_of(mixed, tmp_path / "report")
    assert "6 of 7 runs have no simulator (env=none)" in text
    assert "They are not compared, since outcomes of the runs are of several kinds" in text
    other = logged_sweep(tmp_path / "t", "td_error")
    assert read_results([sweep, other]).unit == "return"
    same_data = read_results([logged_sweep(tmp_path / "u", "initial_value"), other])
    assert len(same_data.tasks) == 1  # which scorer judges makes no other task


def test_the_status_of_a_sweep_shows_the_named_scorer(tmp_path: Path) -> None:
    runs = status.read_sweep(logged_sweep(tmp_path / "s", "initial_value"))
    assert {(run.scorer, run.last_return) for run in runs} == {("initial_value", None)}
    assert [run.last_scorer for run in runs] == pytest.approx([2.0, 2.1, 2.2, 10.0, 10.1, 10.2])
    head, first, *_ = table.text(runs).splitlines()
    assert head.split() == ["alpha_cql", "seed", "status", "step", "initial_value"]
    assert first.split() == ["1", "0", "finished", "4000/4000", "2.000"]
    (unnamed,) = {run.scorer for run in status.read_sweep(logged_sweep(tmp_path / "t", None))}
    assert unnamed is None


def test_a_frame_has_the_scorer_in_place_of_returns(tmp_path: Path) -> None:
    frame = read_runs(logged_sweep(tmp_path / "s", "initial_value"))
    assert frame["offline_initial_value"].tolist() == pytest.approx([2.0, 2.1, 2.2, 10.0, 10.1, 10.2])
    assert "eval_return_mean" not in frame


def test_the_figure_of_a_sweep_is_drawn(tmp_path: Path) -> None:
    assert sweep_curves(logged_sweep(tmp_path / "s", None)).stat().st_size > 20_000
