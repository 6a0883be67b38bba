"""Run folders from before the package was divided into wings evaluate, report and resume as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from entry_points import load_script

OLD_RUNS = Path(__file__).resolve().parents[1] / "data" / "old_runs"

# The last row of `learned`, as the program of that time wrote it when it resumed the run.
RESUMED = {
    "critic_td": 0.5659722596406936,
    "cql_gap": 2.464983081817627,
    "cql_residual": 2.078688716888428,
    "alpha_cql": 5.074893355369568,
    "alpha_temp": 0.9852356046438218,
    "q_data": 0.013598665408790112,
    "q_policy": 0.010912655293941498,
    "q_uniform": 0.013037711568176746,
    "actor_loss": -0.48885253071784973,
    "entropy": 0.6311276748776435,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, in which the scripts run: the paths of the datasets are relative."""
    shutil.copytree(OLD_RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> object:
    """What `scripts/NAME.py ARGUMENTS` returns."""
    monkeypatch.setattr("sys.argv", [f"{name}.py", *arguments])
    return load_script(name).main()


def test_it_evaluates(here, monkeypatch, capsys):
    assert not call(monkeypatch, "evaluate", "fixed", "--episodes", "2")
    said = capsys.readouterr().out
    assert "Hopper-v5" in said
    assert "return 6.1 +- 0.1" in said
    assert "score 0.8 +- 0.0" in said


def test_it_reports(here, monkeypatch, capsys):
    assert not call(monkeypatch, "report", "fixed", "learned", "--out", "report")
    assert "1 of 2 runs finished" in capsys.readouterr().out
    assert "hopper (1 of 1 finished)" in (here / "report" / "index.html").read_text(encoding="utf-8")
    rows = (here / "report" / "episodes.csv").read_text(encoding="utf-8").splitlines()
    assert rows[6] == "hopper,fixed,1,finished,60,0,1000,6.259192146566338,23,0.8152068739049366"
    table = (here / "report" / "table.md").read_text(encoding="utf-8").splitlines()
    assert "| hopper | **6.3** | - |" in table
    assert "| pendulum | - | - [0 of 1] |" in table


def test_it_resumes(here, monkeypatch):
    call(monkeypatch, "train", "resume=learned")
    summary = json.loads((here / "learned" / "summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("finished", 60)
    rows = [json.loads(line) for line in (here / "learned" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60]
    for name, value in RESUMED.items():
        assert rows[-1][name] == pytest.approx(value, rel=2e-3, abs=1e-4), name  # rounding differs between machines
