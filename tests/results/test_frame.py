"""Runs as a table for pandas."""

from __future__ import annotations

import json
import sys

import pytest
from made_runs import make_run

import cql
from cql.commands import MissingPackageError
from cql.results.runs import ResultsError


def test_a_run_is_a_row_with_what_tells_it_apart(tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "sweep.json").write_text("{}")
    for alpha in (1.0, 5.0):
        directory = sweep / f"alpha_cql-{alpha:g}__seed-3"
        changes = {"seed": 3, "algorithm.alpha_cql.value": alpha, "logger.kind": f"{alpha}"}
        make_run(directory, [10.0, 40.0, 20.0, alpha], changes=changes)
    judgement = {"fqe": 7.5, "step": 1000, "key": "text"}
    (directory / "judgement.json").write_text(json.dumps(judgement))
    make_run(tmp_path / "unscored", [], changes={"env.reference": None}, status=None)
    frame = cql.read_runs(tmp_path)
    assert frame["folder"].tolist() == [str(path) for path in (*sorted(sweep.glob("alpha*")), tmp_path / "unscored")]
    assert frame["sweep"].tolist()[:2] == ["sweep", "sweep"]
    assert frame["sweep"].isna().tolist() == [False, False, True]
    assert frame["status"].tolist() == ["finished", "finished", "waiting"]
    assert frame["step"].tolist() == [4000, 4000, 0]
    assert frame["seed"].tolist() == [3, 3, 0]
    assert frame["algorithm.alpha_cql.value"].tolist() == [1.0, 5.0, 5.0]
    assert frame["eval_return_mean"].tolist()[:2] == [1.0, 5.0]
    assert frame["best_eval_return_mean"].tolist()[:2] == [40.0, 40.0]
    assert frame["last5_eval_return_mean"].tolist()[:2] == [17.75, 18.75]
    assert frame["eval_score"][1] == pytest.approx(100 * 285 / 12415)
    assert frame["fqe"].tolist()[1] == 7.5
    assert not {"logger.kind", "key", "n_steps"} & set(frame.columns)
    assert len(cql.read_runs(str(directory))) == 1
    assert "algorithm.alpha_cql.value" not in cql.read_runs(directory).columns


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    make_run(tmp_path / "good", [1.0])
    make_run(tmp_path / "bad", [1.0])
    (tmp_path / "bad" / "metrics.jsonl").write_text("{\n{\n")
    assert cql.read_runs(tmp_path)["status"].tolist() == ["damaged", "finished"]


def test_without_runs_or_pandas_it_says_so(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ResultsError, match=f"{folder.name} holds no runs: give"):
            cql.read_runs(folder)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"pandas is not installed: pip install 'cql\[frame\]'"):
        cql.read_runs(tmp_path)
