"""The maze's experiment: learning beats imitation, as docs/results/maze.md says."""

from __future__ import annotations

import json

import pytest

from cql import config
from cql.training import experiment


@pytest.mark.slow
def test_cql_arrives_and_stays_where_cloning_passes_by(tmp_path, monkeypatch):
    """Two runs of some two minutes on two cores."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    returns = {}
    for arm in ("base", "bc"):
        overrides = ["+experiment=maze", f"+arm={arm}", "seed=3", "logger=local", "video.enabled=false", "device=cpu"]
        experiment.run(config.checked(config.compose(overrides)), tmp_path / arm)
        returns[arm] = json.loads((tmp_path / arm / "summary.json").read_text())["eval_return_mean"]
    assert returns["base"] >= 0.7 * 60.0  # of the planner's
    assert returns["base"] >= 2 * returns["bc"]
