"""Sweeps that are started again: finished, widened, killed, interrupted, trained elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from children import signal_before, wait
from four import (
    GRID,
    POINTS,
    assert_same_but_for_rounding,
    assert_same_run,
    copy,
    last_agent,
    newest_steps,
    runs_of,
    start,
    status,
    sweep_of,
    train,
)
from nested import assert_same

from cql.lock import hold
from cql.training.local_logger import read_metrics

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def test_what_is_finished_is_counted_and_left_alone(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    before = {path: path.read_bytes() for path in sweep_of(folder).glob("*__*/*") if path.is_file()}
    ended = train(dataset, folder, "-m", "seed=1,0", "algorithm.alpha_cql.value=5,1", "sweep_name=four", lean=False)
    assert ended.code == 0, ended.text
    assert "4 finished" in ended.text
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert changed == []
    assert (sweep_of(folder) / "sweep_curves.png").read_bytes().startswith(b"\x89PNG")
    assert runs_of(sweep_of(folder)) == POINTS


def test_a_widened_grid_adds_points_and_finds_the_old_ones_under_their_names(
    dataset: Path, swept: Path, tmp_path: Path
) -> None:
    folder = copy(swept, tmp_path)
    sweep = sweep_of(folder)
    untouched = {point: (sweep / point / "metrics.jsonl").stat().st_mtime_ns for point in POINTS}
    ended = train(
        dataset,
        folder,
        "-m",
        "sweep_name=four",
        "algorithm.alpha_cql.value=1,5.0,10",
        "seed=0,1",
        "algorithm.w_cql=1,2",
    )
    assert ended.code == 0, ended.text
    assert "12 runs (4 finished, 8 new)" in ended.text
    assert len(runs_of(sweep)) == 12
    assert {point: (sweep / point / "metrics.jsonl").stat().st_mtime_ns for point in POINTS} == untouched
    assert "alpha_cql-10__w_cql-2__seed-1" in runs_of(sweep)
    # Its runs were in a stack before; the new ones are in one of their own.
    first, second = json.loads((sweep / "stacks.json").read_text())
    assert first == POINTS
    assert len(second) == 8


def test_the_jobs_of_an_array_share_a_sweep_with_a_seed_each(dataset: Path, tmp_path: Path) -> None:
    for seed in (7, 8, 7):
        ended = train(dataset, tmp_path, "-m", "sweep_name=four", f"seed={seed}", "n_steps=10")
        assert ended.code == 0, ended.text
    assert runs_of(sweep_of(tmp_path)) == ["seed-7", "seed-8"]
    assert json.loads((sweep_of(tmp_path) / "sweep.json").read_text())["swept"] == ["seed"]


@pytest.mark.parametrize("grid", [GRID, ("algorithm.alpha_cql.value=7", "seed=8,9")])
def test_another_config_under_an_old_name_is_refused(
    dataset: Path, swept: Path, tmp_path: Path, grid: tuple[str, ...]
) -> None:
    folder = copy(swept, tmp_path)
    before = {path: path.read_bytes() for path in sweep_of(folder).rglob("*") if path.is_file()}
    ended = train(dataset, folder, "-m", "sweep_name=four", "algorithm.discount=0.9", *grid)
    assert ended.code == 2
    assert "algorithm.discount: 0.99 -> 0.9" in ended.text
    assert "sweep_name" in ended.text
    assert "Traceback" not in ended.text
    after = {path: path.read_bytes() for path in sweep_of(folder).rglob("*") if path.is_file()}
    assert after == before


def test_a_run_with_another_config_in_its_folder_is_refused(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    path = sweep_of(folder) / POINTS[1] / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("discount: 0.99", "discount: 0.9"))
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 2
    assert f"{POINTS[1]}: algorithm.discount: 0.9 -> 0.99" in ended.text
    assert "Traceback" not in ended.text


def test_runs_resume_from_a_step_that_all_have_and_else_in_stacks_of_their_own(
    dataset: Path, swept: Path, tmp_path: Path
) -> None:
    folder = copy(swept, tmp_path)
    sweep = sweep_of(folder)
    for point, n_lost in zip(POINTS[:3], (1, 2, 3), strict=True):
        checkpoints = sorted((sweep / point / "checkpoints").glob("step_*.pt"))
        for path in checkpoints[-n_lost:]:
            path.unlink()
        (sweep / point / "summary.json").write_text(
            json.dumps({**status(sweep / point), "status": "running", "step": 60 - 10 * n_lost})
        )
    shutil.rmtree(sweep / POINTS[2] / "checkpoints")
    for name in ("metrics.jsonl", "episodes.csv", "timing.jsonl", "summary.json"):
        (sweep / POINTS[2] / name).unlink()
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 0, ended.text
    assert "4 of 4 runs finished" in ended.text
    assert "3 runs have no checkpoint of one step in common; they train in 2 stacks" in ended.text
    assert all("resuming from step 40" in (sweep / point / "train.log").read_text() for point in POINTS[:2])
    assert "resuming" not in (sweep / POINTS[2] / "train.log").read_text()
    # The finished fourth is not trained again, so the others were in smaller stacks: equal but for rounding.
    for point in POINTS:
        assert_same_but_for_rounding(sweep / point, sweep_of(swept) / point)
        assert [row["step"] for row in read_metrics(sweep / point)] == [10, 20, 30, 40, 50, 60]


def test_killed_at_any_point_and_resumed_a_sweep_ends_bit_for_bit_as_the_undisturbed_one(
    dataset: Path, swept: Path, tmp_path: Path
) -> None:
    first, second, last = POINTS[0], POINTS[1], POINTS[-1]
    overrides = ("-m", "sweep_name=four", *GRID)
    # One sweep is killed again and again, each time further on; the call is one that is not made.
    for call, path, nth, steps in (
        ("replace", "stacks.json", 1, (-1, -1, -1, -1)),
        ("replace", f"{second}/.hydra/config.yaml", 1, (-1, -1, -1, -1)),
        ("replace", f"{second}/checkpoints/step_0000000.pt", 1, (0, -1, -1, -1)),
        ("fsync", f"{second}/metrics.jsonl", 1, (0, 0, 0, 0)),
        ("replace", f"{second}/checkpoints/step_0000010.pt", 1, (10, 0, 0, 0)),
        ("fsync", f"{last}/episodes.csv", 1, (0, 0, 0, 0)),
        ("replace", f"{first}/checkpoints/best.pt", 1, (0, 0, 0, 0)),
        ("replace", f"{last}/checkpoints/step_0000040.pt", 1, (40, 40, 40, 30)),
        ("replace", f"{second}/summary.json", 2, (40, 40, 30, 30)),
        ("replace", f"{second}/key_curves.png", 1, (60, 60, 60, 60)),
    ):
        child = start(dataset, tmp_path, *overrides, before=signal_before(signal.SIGKILL, call, path, nth))
        ended = wait(child, tmp_path)
        assert ended.code == -signal.SIGKILL, (call, path, ended.text)
        assert newest_steps(tmp_path) == steps, (call, path, ended.text)
    ended = train(dataset, tmp_path, *overrides)
    assert ended.code == 0, ended.text
    for point in POINTS:
        assert_same_run(sweep_of(tmp_path) / point, sweep_of(swept) / point)


@pytest.mark.parametrize("n_ahead", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_killed_in_the_middle_of_a_stacks_checkpoints_a_sweep_ends_as_the_undisturbed_one(
    dataset: Path, swept: Path, tmp_path: Path, n_ahead: int
) -> None:
    overrides = ("-m", "sweep_name=four", *GRID)
    kill = signal_before(signal.SIGKILL, "replace", f"{POINTS[n_ahead]}/checkpoints/step_0000050.pt")
    assert wait(start(dataset, tmp_path, *overrides, before=kill), tmp_path).code == -signal.SIGKILL
    assert newest_steps(tmp_path) == (50,) * n_ahead + (40,) * (4 - n_ahead)
    ended = train(dataset, tmp_path, *overrides)
    assert ended.code == 0, ended.text
    for point in POINTS:
        # From the step that all had: no run is ahead of the others, and all are in one stack.
        assert "resuming from step 40" in (sweep_of(tmp_path) / point / "train.log").read_text()
        assert_same_run(sweep_of(tmp_path) / point, sweep_of(swept) / point)


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_a_sweep_ends_bit_for_bit_as_the_undisturbed_one(
    dataset: Path, tmp_path: Path
) -> None:
    n_kills = 10
    moments = random.Random(seed := random.SystemRandom().randrange(2**32))
    overrides = ("-m", "sweep_name=four", *GRID, "n_steps=600")
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    assert train(dataset, undisturbed, *overrides).code == 0
    run = sweep_of(undisturbed) / POINTS[0]
    rows = (run / "timing.jsonl").read_text().splitlines()
    training = sum(json.loads(row)["seconds"] for row in rows) * 2  # evaluations take about as long
    n_killed, stood_at = 0, set()
    while n_killed < n_kills:
        child = start(dataset, folder, *overrides)
        before = newest_steps(folder)
        # A third of them anywhere from the start on, the others while it trains.
        began = time.monotonic()
        while n_killed % 3 and newest_steps(folder) == before and time.monotonic() - began < 30:
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.4) * training if n_killed % 3 else moments.uniform(0.0, 2.0))
        os.kill(child, signal.SIGKILL)
        ended = wait(child, folder)
        n_killed += ended.code == -signal.SIGKILL
        stood_at.add(newest_steps(folder))
        if newest_steps(folder) == (600,) * 4 or n_killed == n_kills:
            # To the end; the next kills have a new sweep.
            ended = train(dataset, folder, *overrides)
            assert ended.code == 0, f"seed {seed}: {ended.text}"
            for point in POINTS:
                assert_same_run(sweep_of(folder) / point, sweep_of(undisturbed) / point)
            folder = tmp_path / f"killed_{n_killed}"
    assert len(stood_at) > n_kills // 3, f"seed {seed}: {stood_at}"


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_every_run_and_the_sweep_resumes(
    dataset: Path, swept: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    overrides = ("-m", "sweep_name=four", *GRID)
    stop = signal_before(sent, "fsync", f"{POINTS[-1]}/metrics.jsonl", 2)
    ended = wait(start(dataset, tmp_path, *overrides, before=stop), tmp_path)
    sweep = sweep_of(tmp_path)
    assert ended.code == 128 + sent, ended.text
    assert "sweep_name=four" in ended.text
    states = [status(sweep / point) for point in POINTS]
    assert [state["status"] for state in states] == ["interrupted"] * 4
    (step,) = {state["step"] for state in states}
    assert 20 <= int(str(step)) < 60
    ended = train(dataset, tmp_path, *overrides)
    assert ended.code == 0, ended.text
    assert "4 stopped" in ended.text
    for point in POINTS:
        assert "resuming" in (sweep / point / "train.log").read_text()
        assert [row["step"] for row in read_metrics(sweep / point)] == [10, 20, 30, 40, 50, 60]
        assert_same(last_agent(sweep / point), last_agent(sweep_of(swept) / point))


def test_what_is_trained_elsewhere_is_said_and_left_alone(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    run = sweep_of(folder) / POINTS[0]
    shutil.rmtree(sweep_of(folder) / POINTS[1])
    (run / "summary.json").write_text(json.dumps({**status(run), "status": "running"}))
    before = (run / "metrics.jsonl").read_bytes()
    with hold(run):
        ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 1, ended.text
    assert "3 of 4 runs finished, 0 failed, 1 being trained by another process" in ended.text
    assert f"process {os.getpid()} on" in ended.text
    assert (run / "metrics.jsonl").read_bytes() == before


def test_the_basic_launcher_resumes_the_same_sweep(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    shutil.rmtree(sweep_of(folder) / POINTS[3])
    ended = train(dataset, folder, "-m", "sweep_name=four", "hydra/launcher=basic", *GRID)
    assert ended.code == 0, ended.text
    assert ended.text.count("finished already") == 3
    assert status(sweep_of(folder) / POINTS[3])["status"] == "finished"
    assert "step 60/60" in (sweep_of(folder) / POINTS[3] / "train.log").read_text()
