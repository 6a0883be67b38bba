"""Runs judged by recorded data: what is written, when it is done anew, and that it resumes."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from entry_points import load_script
from tiny import tiny_config

from cql import config
from cql.algorithm.fqe import FittedQEvaluation
from cql.config.judge import JudgeConfig, judge_config
from cql.scorer_names import DIRECTIONS
from cql.training import experiment, judge
from cql.training.local_logger import JUDGEMENT_FILE, read_judgement, read_metrics

SMALL = ("n_steps=20", "n_steps_per_epoch=5", "width=16", "batch_size=16", "n_seeds=2", "n_bootstrap=50", "device=cpu")
HELD_OUT = ("dataset.validation_fraction=0.25", "n_steps=20")


@pytest.fixture(scope="module")
def sweep(dataset: Path, no_figures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs on the same data, of which the last prepares it in another way and has another network."""
    folder = tmp_path_factory.mktemp("sweep")
    first = tiny_config(dataset, *HELD_OUT)
    others = "network.width=8", "dataset.normalise_observations=false", "dataset.reward_scale=0.1"
    runs = {"a": first, "b": dataclasses.replace(first, seed=1), "c": tiny_config(dataset, *HELD_OUT, *others)}
    for name, each in runs.items():
        experiment.run(each, folder / name)
    return folder


def settings(*overrides: str) -> JudgeConfig:
    return judge_config([*SMALL, *overrides])


def judged(sweep: Path, folder: Path, *overrides: str, names: Sequence[str] = "abc") -> dict[str, dict]:
    """The judgements of runs that nobody had judged before."""
    for name in names:
        (sweep / name / JUDGEMENT_FILE).unlink(missing_ok=True)
    done, refused = judge.judge([sweep / name for name in names], settings(*overrides), folder)
    assert (done, refused) == ([sweep / name for name in names], [])
    return {name: read_judgement(sweep / name) for name in names}


def test_every_run_has_its_scores_and_its_estimate(sweep: Path, tmp_path: Path) -> None:
    found = judged(sweep, tmp_path)
    for name, own in found.items():
        last = read_metrics(sweep / name)[-1]
        assert own["checkpoint"] == "step_0000020.pt"
        assert own["step"] == 20
        assert own["scored_on"] == "held-out episodes"
        # The scorers of the last evaluation, of the same policy on the same episodes.
        expected = {scorer: last[f"offline_{scorer}"] for scorer in DIRECTIONS}
        assert {scorer: own[scorer] for scorer in DIRECTIONS} == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert own["fqe_low"] <= own["fqe"] <= own["fqe_high"]
        assert own["fqe_cql_low"] <= own["fqe_cql"] <= own["fqe_cql_high"]
        assert own["fqe_cql"] != own["fqe"]
        assert (own["fqe_steps"], own["fqe_seeds"], own["fqe_discount"]) == (20, 2, 0.99)
    assert len({own["fqe"] for own in found.values()}) == 3
    assert list(tmp_path.iterdir()) == []


def test_progress_has_the_time_that_is_left_often_at_the_beginning(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock, step = [100.0], FittedQEvaluation.step
    monkeypatch.setattr(judge.time, "perf_counter", lambda: clock[0])

    def timed(self: FittedQEvaluation) -> None:
        clock[0] += 6.0
        step(self)

    monkeypatch.setattr(FittedQEvaluation, "step", timed)
    judged(sweep, tmp_path, "n_steps_per_epoch=15", names="a")
    lines = [record.getMessage() for record in caplog.records if ": step " in record.getMessage()]
    assert lines == [
        "fqe: step 2/20  12 s so far, about 4 min left on this dataset",
        "fqe: step 4/20  24 s so far, about 4 min left on this dataset",
        "fqe: step 8/20  48 s so far, about 3 min left on this dataset",
        "fqe: step 15/20  2 min so far, about 2 min left on this dataset",
        "fqe: step 20/20  2 min so far, about 2 min left on this dataset",
        "fqe_cql: step 2/20  12 s so far, about 2 min left on this dataset",
        "fqe_cql: step 4/20  24 s so far, about 2 min left on this dataset",
        "fqe_cql: step 8/20  48 s so far, about 72 s left on this dataset",
        "fqe_cql: step 15/20  2 min so far, about 30 s left on this dataset",
        "fqe_cql: step 20/20  2 min so far",
    ]


def test_an_estimate_does_not_depend_on_the_other_runs(sweep: Path, tmp_path: Path) -> None:
    wide = ("width=64", "batch_size=64")  # rounded alike alone and in a stack
    together, alone = judged(sweep, tmp_path, *wide), judged(sweep, tmp_path, *wide, names="c")
    assert alone["c"] == together["c"]


def test_what_is_up_to_date_is_left_alone(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = judged(sweep, tmp_path)
    written = {name: (sweep / name / JUDGEMENT_FILE).stat().st_mtime_ns for name in "abc"}
    directories = [sweep / name for name in "abc"]
    with monkeypatch.context() as patched:
        patched.setattr(FittedQEvaluation, "step", lambda _: pytest.fail("it is done anew"))
        judge.judge(directories, settings("device=auto"), tmp_path)
    assert written == {name: (sweep / name / JUDGEMENT_FILE).stat().st_mtime_ns for name in "abc"}
    # Other settings, or a damaged file, ask for a new one.
    (sweep / "a" / JUDGEMENT_FILE).write_text("{")
    judge.judge(directories, settings(), tmp_path)
    assert read_judgement(sweep / "a") == before["a"]
    judge.judge(directories, settings("discount=0.5"), tmp_path)
    assert read_judgement(sweep / "b")["fqe"] != before["b"]["fqe"]


def test_an_interrupted_evaluation_resumes_exactly(sweep: Path, tmp_path: Path) -> None:
    whole = judged(sweep, tmp_path)
    for name in "abc":
        (sweep / name / JUDGEMENT_FILE).unlink()
    step, taken = FittedQEvaluation.step, []

    def until(n: int) -> None:
        def limited(self: FittedQEvaluation) -> None:
            if len(taken) == n:
                raise KeyboardInterrupt
            taken.append(1)
            step(self)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(FittedQEvaluation, "step", limited)
            judge.judge([sweep / name for name in "abc"], settings(), tmp_path)

    with pytest.raises(KeyboardInterrupt):
        until(32)  # in the second evaluation
    assert sorted(path.name[:4] for path in tmp_path.iterdir()) == ["fqe_", "fqe_"]
    assert not any((sweep / name / JUDGEMENT_FILE).exists() for name in "abc")
    taken.clear()
    until(100)
    assert len(taken) == 10  # from its step 10, the last that was saved
    assert {name: read_judgement(sweep / name) for name in "abc"} == whole
    assert list(tmp_path.iterdir()) == []


def test_scorers_alone_leave_estimates_where_they_are(sweep: Path, tmp_path: Path) -> None:
    before = judged(sweep, tmp_path, names="a")["a"]
    judge.judge([sweep / "a"], settings("fqe=false"), tmp_path)
    assert read_judgement(sweep / "a") == before
    # Where the scorers are out of date, the estimates of the same checkpoint stay too.
    (sweep / "a" / JUDGEMENT_FILE).write_text(json.dumps({**before, "td_error": 0.0}))
    (sweep / "b" / JUDGEMENT_FILE).write_text(json.dumps({**before, "key": "another checkpoint"}))
    judge.judge([sweep / "a", sweep / "b"], settings("fqe=false"), tmp_path)
    assert read_judgement(sweep / "a")["fqe"] == before["fqe"]
    assert "fqe" not in read_judgement(sweep / "b")


def test_the_policy_of_a_step(sweep: Path, tmp_path: Path) -> None:
    own = judged(sweep, tmp_path, "checkpoint=10", "fqe=false", names="a")["a"]
    assert (own["checkpoint"], own["step"]) == ("step_0000010.pt", 10)
    _, refused = judge.judge([sweep / "a"], settings("checkpoint=15", "fqe=false"), tmp_path)
    assert "no checkpoint '15'; there are" in refused[0][1]


def test_without_fitted_q_evaluation(sweep: Path, tmp_path: Path) -> None:
    own = judged(sweep, tmp_path, "fqe=false", names="a")["a"]
    assert not any(name.startswith("fqe") for name in own)
    assert "td_error" in own


def test_runs_that_cannot_be_judged_are_named(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done, refused = judge.judge([tmp_path / "empty", sweep / "a"], settings(), tmp_path)
    assert done == [sweep / "a"]
    assert [path for path, _ in refused] == [tmp_path / "empty"]
    assert "not the folder of a run" in refused[0][1]


def test_a_damaged_checkpoint_costs_its_own_run_alone(sweep: Path, tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(sweep / name, tmp_path / name)) for name in "ab"]
    path = copies[0] / "checkpoints" / "step_0000020.pt"
    path.write_bytes(path.read_bytes()[:-100])
    for each in copies:
        (each / JUDGEMENT_FILE).unlink(missing_ok=True)
    done, refused = judge.judge(copies, settings("fqe=false"), tmp_path)
    assert done == copies[1:]
    assert [directory for directory, _ in refused] == copies[:1]
    assert "damaged" in refused[0][1]


def test_other_data_than_those_of_training_are_told(
    sweep: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(sweep / "a", tmp_path / "a"))
    (copy / JUDGEMENT_FILE).unlink(missing_ok=True)
    config_file = copy / ".hydra" / "config.yaml"
    config_file.write_text(config_file.read_text().replace("n_episodes: null", "n_episodes: 10"))
    assert judge.judge([copy], settings("fqe=false"), tmp_path)[0] == [copy]
    assert "was trained on other data" in caplog.text


def test_policies_act_on_rows_of_another_normalisation(sweep: Path) -> None:
    """Normalised twice and back, a policy sees what its own run normalised."""
    from cql.rollout.envs import env_info
    from cql.training.build import env_spec, load_data

    own = judge._found(sweep / "a", settings())
    policy = judge._Policy(own.checkpoint, torch.device("cpu"))
    info, cpu = env_info(env_spec(own.config)), torch.device("cpu")
    mine = load_data(dataclasses.replace(own.config, dataset=dataclasses.replace(own.config.dataset)), info, cpu)
    same = load_data(judge._same_data(own.config), info, cpu)
    raw = mine.rows * mine.normaliser.std + mine.normaliser.mean
    found = policy.actions_at(same.normaliser.apply(raw), same.normaliser)
    assert torch.allclose(found, policy.act(mine.rows), atol=1e-5)
    assert float(same.rewards.max()) == 1.0


def test_interval() -> None:
    """By hand: seeds that differ make the interval, where episodes are all the same."""
    low, high = judge.interval(np.repeat([[1.0], [2.0], [6.0]], 50, 1), 500)
    assert 1.0 <= low < 3.0 < high <= 6.0
    assert judge.interval(np.ones((2, 5)), 10) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("n_step=5", r"there is no key n_step; did you mean n_steps\? all keys"),
        ("n_steps=0", "n_steps=0 is out of range"),
        ("n_steps=many", "n_steps=many: it must be a whole number"),
        ("checkpoint=first", "checkpoint=first is unknown; there are last, best, and steps"),
        ("discount=1", "discount=1.0 is out of range"),
        ("activation=none", "one of relu, tanh"),
        ("n_steps=[", r"n_steps=\["),
    ],
)
def test_refused_settings(override: str, said: str) -> None:
    with pytest.raises(config.ConfigError, match=said):
        judge_config([override])


def test_settings_read_numbers_as_people_write_them() -> None:
    assert judge_config(["learning_rate=1e-3"]).learning_rate == 0.001
    assert json.loads(json.dumps(judge_config(["n_threads=null"]).n_threads)) is None


def script(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["judge.py", *map(str, arguments)])
    return int(load_script("judge").main())


def test_the_script_prints_the_order(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    assert script(monkeypatch, sweep, *SMALL, "--csv", table) == 0
    said = capsys.readouterr().out
    assert "in the order of fqe_cql:" in said
    assert "rank correlation" in said
    order = sorted("abc", key=lambda name: -read_judgement(sweep / name)["fqe_cql"])
    with table.open() as file:
        assert [Path(row["folder"]).name for row in csv.DictReader(file)] == order
    # A single run is judged, and there is nothing to compare it with.
    assert script(monkeypatch, sweep / "a", *SMALL) == 0
    assert "1 run judged; to compare takes two on the same task" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["n_steps=5"], "give the folder of a sweep or of runs"),
        (["no_such_sweep"], "no_such_sweep"),
        (["{empty}"], "holds no runs"),
        (["{empty}", "n_steps=0"], "n_steps=0 is out of range"),
    ],
)
def test_the_script_refuses(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(monkeypatch, *(text.format(empty=tmp_path) for text in arguments)) == 2
    assert said in capsys.readouterr().err
