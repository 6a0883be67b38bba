from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb_reader import offline_runs

from cql.training.local_logger import EpisodeRow, LocalLogger, evaluations, read_episodes, read_metrics
from cql.training.wandb_logger import WandbLogger, open_wandb

CONFIG = {
    "seed": 3,
    "resume": None,
    "algorithm": {"w_cql": 1.0, "alpha_cql": {"kind": "learned", "tau_cql": 5.0}},
    "network": {"sizes": [256, 256]},
}
FILES = ("metrics.jsonl", "timing.jsonl", "episodes.csv")


def log_steps(logger: LocalLogger, steps: range) -> None:
    """Rows as a run would log them; their numbers depend on the step alone."""
    for step in steps:
        numbers = random.Random(step)
        logger.log_metrics(step, {"critic_td": numbers.random(), "cql_gap": -numbers.expovariate(1e-30)})
        logger.log_timing(step, {"seconds": numbers.random(), "steps_per_second": 100.0})
        if step % 20 == 0:
            returns = [numbers.gauss(4000, 100) for _ in range(3)]
            logger.log_episodes(step, [1000, 1001, 1002], returns, [1000, 1000, 7], [r / 120 for r in returns])


def contents(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in FILES}


# The local files ------------------------------------------------------------------------------------------------------


def test_floats_read_back_exactly(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": -1e-310, "c": 1.7976931348623157e308, "d": math.pi, "e": 2.0**53}
    logger = LocalLogger(tmp_path)
    logger.log_metrics(10, values)
    assert read_metrics(tmp_path) == [{"step": 10, **values}]

    logger.log_episodes(10, [5, 6], [1 / 3, -2.5], [1000, 12], None)
    logger.log_episodes(20, [5], [math.e], [1000], [101 / 7])
    assert read_episodes(tmp_path) == [
        EpisodeRow(10, 0, 5, 1 / 3, 1000, None),
        EpisodeRow(10, 1, 6, -2.5, 12, None),
        EpisodeRow(20, 0, 5, math.e, 1000, 101 / 7),
    ]
    lines = (tmp_path / "episodes.csv").read_text().splitlines()
    assert lines[:3] == [
        "step,episode,seed,return,length,score",
        "10,0,5,0.3333333333333333,1000,",
        "10,1,6,-2.5,12,",
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    logger = LocalLogger(tmp_path)
    with pytest.raises(ValueError, match=r"critic_td is -?(nan|inf) at step 70"):
        logger.log_metrics(70, {"cql_gap": 1.0, "critic_td": value})
    with pytest.raises(ValueError, match="seconds"):
        logger.log_timing(70, {"seconds": value})
    with pytest.raises(ValueError, match="return is"):
        logger.log_episodes(70, [0], [value], [1], None)
    with pytest.raises(ValueError, match="best_score"):
        logger.write_summary({"best_score": value})
    assert list(tmp_path.iterdir()) == []


def test_rows_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    logger = LocalLogger(tmp_path)
    with pytest.raises(ValueError, match='"step"'):
        logger.log_metrics(1, {"step": 1.0})
    with pytest.raises(ValueError, match="2 seeds, 1 returns, 2 lengths"):
        logger.log_episodes(1, [0, 1], [1.0], [1, 1], None)


def test_summary_is_replaced_whole(tmp_path: Path) -> None:
    logger = LocalLogger(tmp_path)
    logger.write_summary({"status": "running", "last": {"score": 1.5}})
    logger.write_summary({"status": "finished", "best_step": None})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"status": "finished", "best_step": None}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_provenance_keeps_what_was_before(tmp_path: Path) -> None:
    logger = LocalLogger(tmp_path)
    first, second = {"versions": {"torch": "1"}, "commit": None}, {"versions": {"torch": "2"}, "commit": None}
    for provenance in (first, first, second, second, first):
        logger.write_provenance(provenance)
    assert json.loads((tmp_path / "provenance.json").read_text()) == {**first, "earlier": [first, second]}


@pytest.mark.parametrize("step", [0, 9, 10, 30, 40, 69])
def test_a_rewound_run_ends_with_the_same_bytes(tmp_path: Path, step: int) -> None:
    undisturbed = LocalLogger(tmp_path / "undisturbed")
    log_steps(undisturbed, range(10, 101, 10))
    resumed = LocalLogger(tmp_path / "resumed")
    log_steps(resumed, range(10, 71, 10))

    resumed.rewind(step)

    kept = read_metrics(tmp_path / "resumed")
    assert [row["step"] for row in kept] == list(range(10, step + 1, 10))
    assert all(row.step <= step for row in read_episodes(tmp_path / "resumed"))
    log_steps(resumed, range(step // 10 * 10 + 10, 101, 10))
    assert contents(tmp_path / "resumed") == contents(tmp_path / "undisturbed")


def test_a_half_written_last_line_is_cut(tmp_path: Path) -> None:
    whole = LocalLogger(tmp_path / "whole")
    log_steps(whole, range(10, 41, 10))
    after = contents(tmp_path / "whole")
    whole.rewind(30)
    before = contents(tmp_path / "whole")
    for name in FILES:
        for size in range(len(before[name]), len(after[name]), 3):
            run_dir = tmp_path / f"{name}-{size}"
            torn = LocalLogger(run_dir)
            (run_dir / name).write_bytes(after[name][:size])
            read_metrics(run_dir)
            read_episodes(run_dir)
            torn.rewind(30)
            assert (run_dir / name).read_bytes() == before[name]


def test_a_half_written_header_is_written_again(tmp_path: Path) -> None:
    logger = LocalLogger(tmp_path)
    (tmp_path / "episodes.csv").write_text("step,epi")
    logger.rewind(0)
    logger.log_episodes(10, [1], [2.0], [3], None)
    assert (tmp_path / "episodes.csv").read_text() == "step,episode,seed,return,length,score\n10,0,1,2.0,3,\n"


def test_nothing_to_cut_leaves_the_files_untouched(tmp_path: Path) -> None:
    logger = LocalLogger(tmp_path)
    logger.rewind(100)
    assert list(tmp_path.iterdir()) == []
    log_steps(logger, range(10, 41, 10))
    before = {path.name: path.stat() for path in tmp_path.iterdir()}
    logger.rewind(40)
    assert {path.name: path.stat() for path in tmp_path.iterdir()} == before


def test_a_rewind_that_fails_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = LocalLogger(tmp_path)
    log_steps(logger, range(10, 41, 10))
    before = contents(tmp_path)

    def fail(source: Path, target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        logger.rewind(10)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("name", "line"), [("metrics.jsonl", '{"a": 1}\n'), ("episodes.csv", "x,1\n")])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, name: str, line: str) -> None:
    logger = LocalLogger(tmp_path)
    log_steps(logger, range(10, 41, 10))
    path = tmp_path / name
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = line
    path.write_text("".join(lines))
    with pytest.raises(ValueError, match=rf"{name}: line 2 is damaged"):
        logger.rewind(20)
    with pytest.raises(ValueError, match=rf"{name}: line 2 is damaged"):
        read_metrics(tmp_path) if name == "metrics.jsonl" else read_episodes(tmp_path)


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, cql.training.local_logger, cql.training.wandb_logger, cql.training.curves\n"
        "heavy = {'torch', 'wandb', 'matplotlib', 'gymnasium', 'mujoco', 'minari', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Weights & Biases -----------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps W&B's files in the test's folder, and the developer's own keys and settings out of the test."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home / name.lower()))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_INIT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    return home


def open_offline(run_dir: Path, run_id: str | None = None, **options: Any) -> WandbLogger:
    return open_wandb(run_dir, run_id, **{"config": CONFIG, "project": "cql-tests", "mode": "offline", **options})


def log_both(local: LocalLogger, remote: WandbLogger, steps: range) -> None:
    for step in steps:
        metrics = {"critic_td": step / 7, "alpha_cql": 5.0}
        local.log_metrics(step, metrics)
        remote.log(step, metrics)


def write_gif(path: Path) -> Path:
    from PIL import Image

    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 100, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    return path


@pytest.mark.usefixtures("wandb_home")
def test_an_offline_run_holds_what_the_run_was(tmp_path: Path) -> None:
    from PIL import Image

    gif = write_gif(tmp_path / "step_0000020.gif")
    figure = tmp_path / "key_curves.png"
    Image.new("RGB", (8, 8)).save(figure)
    checkpoint = tmp_path / "step_20.pt"
    checkpoint.write_bytes(b"weights")
    run_dir = tmp_path / "run"
    identity = {"group": "HalfCheetah-v5/medium", "job_type": "train", "tags": ["a", "b"], "name": "seed 3"}
    with open_offline(run_dir, "abc123", **identity) as logger:
        logger.log(10, {"critic_td": 0.25, "cql_gap": -1.5})
        logger.log(20, {"critic_td": 0.125, "cql_gap": -2.5, "eval_return_mean": 4321.5})
        logger.log_video(20, gif)
        logger.log_figure(figure)
        logger.log_artifact({checkpoint.name: checkpoint}, "checkpoint-abc123", "checkpoint")
        logger.summary({"best_eval_return_mean": 4321.5, "status": "finished"})
        assert logger.run_id == "abc123"

    (run,) = offline_runs(run_dir)
    assert (run.id, run.project) == ("abc123", "cql-tests")
    assert {"group": run.group, "job_type": run.job_type, "tags": run.tags, "name": run.name} == identity
    assert {key: value for key, value in run.config.items() if key != "_wandb"} == CONFIG
    assert run.metrics == {"step": "", "*": "step"}
    assert run.rows("step", "critic_td", "cql_gap") == [(10, 0.25, -1.5), (20, 0.125, -2.5)]
    assert run.rows("step", "eval_return_mean") == [(20, 4321.5)]
    assert [row["_step"] for row in run.history] == [44, 84, 85, 86]
    assert run.summary["best_eval_return_mean"] == 4321.5
    assert run.summary["status"] == "finished"
    assert run.summary["critic_td"] == 0.125
    assert run.artifacts == [("checkpoint-abc123", "checkpoint")]
    assert run.exit_code == 0

    ((step, video),) = run.rows("step", "rollout")
    assert (step, video["_type"]) == (20, "video-file")
    assert video["path"] in run.files
    assert (run.folder / "files" / video["path"]).read_bytes() == gif.read_bytes()
    ((step, picture),) = run.rows("step", "key_curves")
    assert (step, picture["_type"]) == (20, "image-file")
    assert picture["path"] in run.files


@pytest.mark.usefixtures("wandb_home")
def test_a_table_and_several_files(tmp_path: Path) -> None:
    import numpy as np

    files = {"report.md": tmp_path / "a.md", "tables/one.csv": tmp_path / "b.csv"}
    for path in files.values():
        path.write_text(path.name)
    with open_offline(tmp_path / "run") as logger:
        rows = [
            {"arm": "cql", "score": np.float64(41.5), "n": np.int64(3)},
            {"arm": Path("bc"), "note": None, "n": True},
        ]
        logger.log_table("results", rows)
        logger.log_artifact(files, "report-grid", "report")
        assert re.fullmatch(
            r"W&B is offline \(mode=offline\); to upload the run when it has ended: wandb sync (\S+)", logger.place
        )
        assert Path(logger.place.rpartition(" ")[2]).resolve() == next(
            (tmp_path / "run" / "wandb").glob("offline-run-*")
        )

    (run,) = offline_runs(tmp_path / "run")
    ((table,),) = run.rows("results")
    stored = json.loads((run.folder / "files" / table["path"]).read_text())
    assert stored["columns"] == ["arm", "score", "n", "note"]
    assert stored["data"] == [["cql", 41.5, 3, None], ["bc", None, True, None]]
    assert ("report-grid", "report") in run.artifacts


def test_evaluations_are_the_rows_that_have_one(tmp_path: Path) -> None:
    logger = LocalLogger(tmp_path)
    assert evaluations(tmp_path) == []
    for step in range(1, 7):
        logger.log_metrics(step, {"critic_td": 0.5, **({"eval_return_mean": step / 3} if step % 2 == 0 else {})})
    assert evaluations(tmp_path) == [(2, 2 / 3), (4, 4 / 3), (6, 6 / 3)]
    logger.rewind(5)
    assert evaluations(tmp_path) == [(2, 2 / 3), (4, 4 / 3)]


@pytest.mark.usefixtures("wandb_home")
@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("boom"), 1), (KeyboardInterrupt(), 1), (SystemExit(2), 1), (SystemExit(0), 0)]
)
def test_the_exit_code_tells_how_the_task_ended(tmp_path: Path, error: BaseException, code: int) -> None:
    def task() -> None:
        with open_offline(tmp_path) as logger:
            logger.log(1, {"critic_td": 1.0})
            raise error

    with pytest.raises(type(error)):
        task()
    assert [run.exit_code for run in offline_runs(tmp_path)] == [code]


@pytest.mark.usefixtures("wandb_home")
def test_finish_counts_once(tmp_path: Path) -> None:
    with open_offline(tmp_path) as logger:
        logger.finish(3)
        assert not logger.active
        logger.log(1, {"critic_td": 1.0})
    (run,) = offline_runs(tmp_path)
    assert (run.exit_code, run.history) == (3, [])


@pytest.mark.usefixtures("wandb_home")
def test_runs_open_at_once_do_not_mix(tmp_path: Path) -> None:
    loggers = [open_offline(tmp_path / str(i), name=f"run {i}", config={"seed": i}) for i in range(2)]
    assert loggers[0].run_id != loggers[1].run_id
    for step in range(1, 6):
        for i, logger in enumerate(loggers):
            logger.log(step, {"critic_td": 100.0 * i + step + 0.5})
    loggers[0].finish()
    loggers[1].log(6, {"critic_td": 106.5})
    loggers[1].finish(1)
    for i, (logger, n_rows) in enumerate(zip(loggers, (5, 6), strict=True)):
        (run,) = offline_runs(tmp_path / str(i))
        assert (run.id, run.name, run.config["seed"], run.exit_code) == (logger.run_id, f"run {i}", i, i)
        assert run.rows("step", "critic_td") == [(s, 100.0 * i + s + 0.5) for s in range(1, n_rows + 1)]


@pytest.mark.usefixtures("wandb_home")
def test_a_resumed_run_goes_on_without_doubled_rows(tmp_path: Path) -> None:
    gif = write_gif(tmp_path / "rollout.gif")
    run_dir = tmp_path / "run"
    local = LocalLogger(run_dir)
    with open_offline(run_dir) as first:
        log_both(local, first, range(10, 51, 10))
        first.log_video(50, gif)
        first.finish(1)

    local.rewind(30)  # the last checkpoint was two rows before the end
    with open_offline(run_dir, config={**CONFIG, "seed": 4}) as second:
        log_both(local, second, range(40, 81, 10))
        for step in (50, 80):
            second.log_video(step, gif)
        second.log_video(80, gif)  # the last step is both an evaluation's and the run's end

    assert second.run_id == first.run_id
    runs = offline_runs(run_dir)
    assert [run.id for run in runs] == [first.run_id] * 2
    assert [run.exit_code for run in runs] == [1, 0]
    assert [run.rows("step") for run in runs] == [
        [(10,), (20,), (30,), (40,), (50,), (50,)],
        [(60,), (70,), (80,), (80,)],
    ]
    assert [step for run in runs for step, _ in run.rows("step", "rollout")] == [50, 80]
    # W&B's own numbers go on too, so that the two folders do not overwrite each other's rows when they are synced.
    numbers = [row["_step"] for run in runs for row in run.history]
    assert numbers == sorted(set(numbers))


@pytest.mark.usefixtures("wandb_home")
def test_rows_that_wandb_never_got_are_sent_at_the_resume(tmp_path: Path) -> None:
    local = LocalLogger(tmp_path)
    with open_offline(tmp_path, mode="disabled") as logger:
        log_both(local, logger, range(10, 31, 10))
        assert logger.run_id is None
    assert not (tmp_path / "wandb").exists()
    with open_offline(tmp_path) as logger:
        log_both(local, logger, range(40, 51, 10))
    (run,) = offline_runs(tmp_path)
    assert run.rows("step", "critic_td") == [(step, pytest.approx(step / 7)) for step in range(10, 51, 10)]


@pytest.mark.usefixtures("wandb_home")
def test_another_id_is_another_run(tmp_path: Path) -> None:
    local = LocalLogger(tmp_path)
    with open_offline(tmp_path, "first") as logger:
        log_both(local, logger, range(10, 31, 10))
    with open_offline(tmp_path, "second"):
        pass
    runs = offline_runs(tmp_path)
    assert [(run.id, len(run.history)) for run in runs] == [("first", 3), ("second", 3)]


@pytest.mark.usefixtures("wandb_home")
def test_a_kill_loses_at_most_the_last_moment(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from pathlib import Path\n"
        "from cql.training.wandb_logger import open_wandb\n"
        "logger = open_wandb(Path('run'), 'killed', config={}, project='cql-tests', mode='offline')\n"
        "for step in range(1, 6): logger.log(step, {'critic_td': 0.5})\n"
        "time.sleep(1.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # A child that inherits WANDB_SERVICE would write through this process's service, which outlives it.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
    (run,) = offline_runs(tmp_path / "run", killed=1)
    assert run.rows("step") == [(1,), (2,), (3,), (4,), (5,)]
    assert run.exit_code is None
    with open_offline(tmp_path / "run") as logger:
        logger.log(5, {"critic_td": 0.5})
        logger.log(6, {"critic_td": 0.5})
    assert [run.rows("step") for run in offline_runs(tmp_path / "run", killed=1)][1:] == [[(6,)]]


def break_log(logger: WandbLogger, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    import wandb

    calls: list[object] = []

    def fail(self: wandb.Run, *args: object, **options: object) -> None:
        calls.append(args)
        raise OSError("the pipe is broken")

    monkeypatch.setattr(wandb.Run, "log", fail)
    return calls


@pytest.mark.usefixtures("wandb_home")
def test_a_failure_in_mid_run_switches_wandb_off_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gif = write_gif(tmp_path / "rollout.gif")
    with open_offline(tmp_path) as logger:
        logger.log(1, {"critic_td": 1.0})
        with monkeypatch.context() as broken:
            calls = break_log(logger, broken)
            logger.log(2, {"critic_td": 2.0})
            logger.log(3, {"critic_td": 3.0})
            logger.log_video(3, gif)
            logger.summary({"status": "finished"})
        assert len(calls) == 1
        assert not logger.active
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "OSError: the pipe is broken" in warnings[0]
    (run,) = offline_runs(tmp_path)
    assert run.rows("step") == [(1,)]
    assert run.exit_code == 0


@pytest.mark.usefixtures("wandb_home")
def test_a_file_that_is_not_there_is_the_callers_mistake(tmp_path: Path) -> None:
    with open_offline(tmp_path) as logger:
        for log in (
            lambda path: logger.log_video(1, path),
            logger.log_figure,
            lambda path: logger.log_artifact({"name": path}, "name", "checkpoint"),
        ):
            with pytest.raises(FileNotFoundError, match=r"missing\.gif"):
                log(tmp_path / "missing.gif")
        assert logger.active


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "wandb.json").write_text('{"id": ')
    with pytest.raises(ValueError, match=r"wandb\.json is damaged"):
        open_offline(tmp_path)
