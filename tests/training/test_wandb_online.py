"""W&B's SDK against a server: what is logged arrives, whatever happens to the process, the network or the server."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb_server
import yaml
from tiny import OVERRIDES, tiny_config
from wandb_reader import offline_runs
from wandb_server import KEY, Server, rows

from cql.config import WandbLoggerConfig
from cql.training import experiment, judge, wandb_logger, wandb_mode, wandb_run
from cql.training.local_logger import JUDGEMENT_FILE, LocalLogger, read_metrics, video_path
from cql.training.wandb_logger import WandbLogger, finish_all, open_wandb


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with wandb_server.server(tmp_path / "server") as made:
        yield made


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B as in a new process, with its files in the test's folder and none of the developer's keys and settings."""
    import wandb

    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    monkeypatch.setattr(wandb_mode.SERVER, "_asked", None)
    monkeypatch.setattr(wandb_logger, "_MESSAGES", wandb_logger._Messages())
    yield
    wandb.teardown()


@pytest.fixture
def online(server: Server, at_home: None, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that this process knows a key for."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


def open_run(run_dir: Path, **options: Any) -> WandbLogger:
    return open_wandb(run_dir, **{"config": {"seed": 3}, "project": "p", "name": "seed 3", **options})


def train(run_dir: Path, logger: WandbLogger, steps: range) -> None:
    """Rows as a run leaves them, in its folder and in W&B."""
    local = LocalLogger(run_dir)
    for step in steps:
        local.log_metrics(step, {"critic_td": step / 7})
        local.log_timing(step, {"seconds": step / 10, "steps_per_second": 100.0})
        logger.log(step, {"critic_td": step / 7, "seconds": step / 10, "steps_per_second": 100.0})
        if step % 20 == 0:
            path = video_path(run_dir, step)
            path.parent.mkdir(exist_ok=True)
            write_gif(path)
            logger.log_video(step, path)


def write_gif(path: Path) -> None:
    from PIL import Image

    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 100, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)


def expected(last: int) -> list[tuple[int, float, float]]:
    return [(step, step / 7, step / 10) for step in range(10, last + 1, 10)]


def assert_whole(run: dict[str, Any], last: int) -> None:
    """Every row and every video once, in order, with its values."""
    assert rows(run, "step", "critic_td", "seconds") == expected(last)
    assert [step for step, _ in rows(run, "step", "rollout")] == list(range(20, last + 1, 20))
    assert run["history_oddities"] == run["odd"] == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("cql")
    ]


def test_an_online_run_arrives(online: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_run(tmp_path / "run", group="g", job_type="train", tags=["a"]) as logger:
        assert logger.is_online
        train(tmp_path / "run", logger, range(10, 61, 10))
        logger.summary({"status": "finished"})
    run = online.run()
    assert_whole(run, 60)
    assert (run["name"], run["group"], run["job_type"], run["tags"]) == ("seed 3", "g", "train", ["a"])
    assert (run["id"], run["state"], run["exit_code"]) == (logger.run_id, "finished", 0)
    assert run["summary"]["status"] == "finished"
    assert run["config"]["seed"]["value"] == 3
    assert warnings(caplog) == []


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {tests!r}
from test_wandb_online import open_run, train
run_dir = Path("run")
logger = open_run(run_dir)
train(run_dir, logger, range(10, {last}, 10))
time.sleep({seconds})
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(tmp_path: Path, last: int, seconds: float = 0.0) -> None:
    """A process that logs and dies, without a moment for W&B to send what it was given."""
    tests = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = KILLED.format(tests=tests, last=last, seconds=seconds)
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert result.returncode == -signal.SIGKILL


def test_rows_that_a_kill_kept_from_the_server_are_sent_at_the_resume(online: Server, tmp_path: Path) -> None:
    killed(tmp_path, 61)
    assert len(online.run()["history"]) < 9
    with open_run(tmp_path / "run") as logger:
        train_again = range(70, 101, 10)
        train(tmp_path / "run", logger, train_again)
    assert_whole(online.run(), 100)


def test_offline_then_online_is_whole_and_the_old_folder_is_not_synced_twice(
    online: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with open_run(tmp_path / "run", mode="offline") as logger:
        train(tmp_path / "run", logger, range(10, 61, 10))
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    with open_run(tmp_path / "run") as logger:
        train(tmp_path / "run", logger, range(70, 101, 10))
    assert_whole(online.run(), 100)
    assert any(f"{folder} too: it need not be synced" in record.getMessage() for record in caplog.records)
    wandb_server.sync(folder, environment=online.environment())
    assert_whole(online.run(), 100)


def test_online_then_offline_then_sync_is_whole(online: Server, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as logger:
        train(tmp_path / "run", logger, range(10, 61, 10))
    with open_run(tmp_path / "run", mode="offline") as logger:
        train(tmp_path / "run", logger, range(70, 101, 10))
    assert "wandb sync " in logger.place
    folder = Path(logger.place.partition("wandb sync ")[2])
    wandb_server.sync(folder, environment=online.environment())
    assert_whole(online.run(), 100)


_ONCE_IN_CI = [pytest.mark.slow, pytest.mark.ci]


@pytest.mark.parametrize(
    "mode", ["reject", "hang", *(pytest.param(mode, marks=_ONCE_IN_CI) for mode in ("503", "drop"))]
)
def test_a_server_that_lets_nobody_in_is_asked_once_and_the_runs_are_offline(
    online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    monkeypatch.setattr(wandb_mode, "_SECONDS_TO_ANSWER", 1)
    online.control(mode=mode)
    for name in "ab":
        with open_run(tmp_path / name, name=name) as logger:
            assert not logger.is_online
            train(tmp_path / name, logger, range(10, 61, 10))
    began = time.monotonic()
    with open_run(tmp_path / "c") as logger:
        assert logger.active
    assert time.monotonic() - began < 2.0  # it is not asked for each run
    said = warnings(caplog)
    assert len(said) == 3
    assert all("the run continues offline" in text for text in said)
    online.control(mode="normal")
    for name in "ab":
        (run,) = offline_runs(tmp_path / name)
        assert run.name == name
        assert run.rows("step", "critic_td") == [(step, step / 7) for step in range(10, 61, 10)]
    wandb_server.sync(*(tmp_path / "a" / "wandb").glob("offline-run-*"), environment=online.environment())
    assert_whole(online.run(), 60)


def test_a_run_that_is_refused_alone_is_offline_under_its_name(
    online: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    online.control(mode="reject", only="UpsertBucket")
    with open_run(tmp_path / "run") as logger:
        assert logger.active
        train(tmp_path / "run", logger, range(10, 61, 10))
    (said,) = warnings(caplog)
    assert "the run was not let in" in said
    assert logger.run_id is not None
    (run,) = offline_runs(tmp_path / "run")
    assert (run.id, run.name) == (logger.run_id, "seed 3")
    online.control(mode="normal")
    wandb_server.sync(run.folder, environment=online.environment())
    assert_whole(online.run(), 60)


def test_a_resume_without_network_keeps_the_run(
    online: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_mode, "_SECONDS_TO_ANSWER", 2)
    with open_run(tmp_path / "run") as logger:
        train(tmp_path / "run", logger, range(10, 61, 10))
    online.stop()
    monkeypatch.setattr(wandb_mode.SERVER, "_asked", None)
    with open_run(tmp_path / "run") as again:
        train(tmp_path / "run", again, range(70, 101, 10))
    assert again.run_id == logger.run_id
    online.start()
    monkeypatch.setattr(wandb_mode.SERVER, "_asked", None)
    with open_run(tmp_path / "run"):
        pass
    assert_whole(online.run(), 100)


def test_in_an_outage_all_runs_are_waited_for_together_and_a_later_start_sends_the_rest(
    online: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_logger, "_SECONDS_IN_SILENCE", 0.5)
    loggers = [open_run(tmp_path / name, finish_timeout=4.0) for name in "abc"]
    online.control(mode="drop")
    for logger, name in zip(loggers, "abc", strict=True):
        train(tmp_path / name, logger, range(10, 61, 10))
    began = time.monotonic()
    caplog.set_level(logging.INFO)
    assert not finish_all(loggers, 4.0)
    assert time.monotonic() - began < 8.0  # and not four seconds for each
    said = [record.getMessage() for record in caplog.records]
    assert sum("waiting for W&B, which lacks the end of 3 runs" in text for text in said) == 1
    assert sum("start it again in the same folder" in text for text in said) == 3
    assert not wandb_logger.is_complete(tmp_path / "a")
    online.control(mode="normal")
    with open_run(tmp_path / "a") as logger:
        pass
    assert wandb_logger.is_complete(tmp_path / "a")
    (run,) = [run for run in online.runs() if run["id"] == logger.run_id]
    assert_whole(run, 60)


# Where a run goes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        ("auto", {}, "no key was found"),
        ("auto", {"WANDB_API_KEY": KEY}, "the run continues offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "WANDB_MODE=offline"),
        ("auto", {"WANDB_MODE": "online"}, "the run continues offline"),
        ("auto", {"WANDB_MODE": "disabled"}, None),
        ("online", {"WANDB_MODE": "disabled"}, "the run continues offline"),
        ("offline", {"WANDB_MODE": "online"}, "mode=offline"),
        ("disabled", {"WANDB_MODE": "online"}, None),
    ],
)
def test_modes_where_no_server_is(
    at_home: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    environment: dict[str, str],
    expected: str | None,
) -> None:
    monkeypatch.setattr(wandb_mode, "_SECONDS_TO_ANSWER", 1)
    for name, value in {"WANDB_BASE_URL": Server(tmp_path).address, **environment}.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO, "cql")
    run_dir = tmp_path / "run"
    with open_run(run_dir, mode=mode) as logger:
        assert logger.active == (expected is not None)
        logger.log(1, {"critic_td": 1.0})
    assert [run.name for run in offline_runs(run_dir)] == ["seed 3"] * int(expected is not None)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("cql")]
    assert sum("wandb sync" in text for text in said) == int(expected is not None)
    assert expected is None or any(expected in text for text in said)
    assert not list(tmp_path.glob("wandb"))  # nothing beside the run's folder


def test_a_key_in_netrc_counts(at_home: None, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine example.org login user password secret\n")
    assert wandb_mode.choose_mode("auto")[0] == "offline"
    netrc.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert wandb_mode.choose_mode("auto") == ("online", "a key was found")


def test_unknown_modes_are_refused(at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="mode is 'of'; choose one of auto, online, offline, disabled"):
        open_run(tmp_path / "run", mode="of")
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ValueError, match="WANDB_MODE is 'onlin': choose one of online, offline, disabled"):
        open_run(tmp_path / "run", mode="auto")
    assert not (tmp_path / "run").exists()


def test_training_goes_on_where_wandb_cannot_start_at_all(
    at_home: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run(tmp_path / "run", mode="offline", project="a/b") as logger:  # a name that W&B refuses
        assert not logger.active
        train(tmp_path / "run", logger, range(10, 61, 10))
    (said,) = warnings(caplog)
    assert "W&B did not start" in said


def test_error_reports_are_off_before_wandb_starts(at_home: None, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, wandb\n"
        "setup, found = wandb.setup, []\n"
        "wandb.setup = lambda *a, **k: (found.append(os.environ.get('WANDB_ERROR_REPORTING')), setup(*a, **k))[1]\n"
        "from cql.training.wandb_logger import open_wandb\n"
        "open_wandb(pathlib.Path('run'), config={}, project='p', mode='auto').finish(0)\n"
        "assert set(found) == {'false'}, found\n"
    )
    hidden = ("WANDB_ERROR_REPORTING", "WANDB_SERVICE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize("setting", ["offline", "disabled"])
def test_what_wandb_was_told_for_a_folder_counts(at_home: None, tmp_path: Path, setting: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    subprocess.run([sys.executable, "-m", "wandb", setting], check=True, capture_output=True, env=environment)
    import wandb

    wandb.teardown()
    with open_run(tmp_path / "run") as logger:
        assert logger.active == (setting == "offline")
        assert not logger.is_online


@pytest.mark.parametrize(("mode", "chosen"), [("dryrun", "offline"), ("run", "online"), ("online", "online")])
def test_older_names_of_modes_count(at_home: None, monkeypatch: pytest.MonkeyPatch, mode: str, chosen: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert wandb_mode.choose_mode("auto") == (chosen, f"WANDB_MODE={mode}")


def test_training_on_the_dataset_and_in_the_environment_is_one_run(
    online: Server, dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train_config = tiny_config(
        dataset,
        "algorithm/penalty=cal_ql",
        *("n_steps=20", "online=finetune", "online.n_online_steps=40", "env.reference=[0,50]"),
        *("logger=wandb", "logger.mode=online"),
    )
    experiment.run(train_config, folder)
    run, local = online.run(), read_metrics(folder)
    assert [row["step"] for row in local if "env_steps" not in row] == [10, 20]
    for names in (("step", "floor_share"), ("step", "env_steps", "buffer_size"), ("step", "online_return")):
        assert rows(run, *names) == [tuple(row[name] for name in names) for row in local if names[-1] in row]
    assert len(rows(run, "step", "online_return")) >= 2
    assert run["summary"]["regret"] == json.loads((folder / "summary.json").read_text())["regret"]
    assert (run["state"], run["history_oddities"], run["odd"]) == ("finished", [], [])


def test_a_judgement_joins_the_summary_of_a_run_that_has_ended(online: Server, dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    experiment.run(tiny_config(dataset, "n_steps=20", "logger=wandb", "logger.mode=online"), folder)
    before = online.run()
    (folder / JUDGEMENT_FILE).write_text('{"key": "k", "fqe": 12.5, "scored_on": "all episodes"}')
    assert judge.publish([folder]) == []
    run = online.run()
    assert (run["summary"]["judge_fqe"], run["summary"]["judge_scored_on"]) == (12.5, "all episodes")
    kept = {name: value for name, value in before["summary"].items() if not name.startswith("_")}
    assert kept.items() <= run["summary"].items()
    assert rows(run, "step", "critic_td") == rows(before, "step", "critic_td")
    assert (run["state"], run["history_oddities"], run["odd"]) == ("finished", [], [])
    local = tmp_path / "local"
    experiment.run(tiny_config(dataset, "n_steps=20"), local)
    (local / JUDGEMENT_FILE).write_text('{"fqe": 1.0}')
    assert judge.publish([local]) == [(local, "it was trained with logger=local, so it is not in W&B")]


@pytest.mark.slow
@pytest.mark.ci
def test_an_agent_of_a_sweep_trains_its_runs(server: Server, dataset: Path, tmp_path: Path) -> None:
    """The commands of the sweep's file: `wandb sweep`, then `wandb agent`, which starts our script."""
    root = Path(__file__).resolve().parents[2]
    sweep = yaml.safe_load((root / "scripts" / "wandb_sweep.yaml").read_text())
    sweep["program"] = str(root / "scripts" / "train.py")
    command = [text for text in sweep["command"] if text != "+experiment=quickstart"]
    sweep["command"] = [*command[:3], "dataset=d4rl", f"dataset.path={dataset}", *own_overrides(), *command[3:]]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    plan = [{"algorithm.alpha_cql.value": 1.5, "seed": 0}, {"algorithm.alpha_cql.value": 4.0, "seed": 1}]
    server.control(plan=plan)
    own = {name: str(tmp_path) for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**inherited, **server.environment(), **own, "PATH": path}

    def wandb(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "wandb agent tester/cql/sweep0" in wandb("sweep", "--project", "cql", "sweep.yaml")
    wandb("agent", "tester/cql/sweep0")
    folders = sorted(tmp_path.glob("outputs/*/*/*_seed*"), key=lambda each: each.name.rpartition("seed")[2])
    assert len(folders) == 2
    for run, folder, values in zip(server.runs(), folders, plan, strict=True):
        assert (run["state"], run["exit_code"]) == ("finished", 0)
        assert run["config"]["algorithm"]["value"]["alpha_cql"]["value"] == values["algorithm.alpha_cql.value"]
        assert run["config"]["seed"]["value"] == values["seed"]
        local = [(row["step"], row["critic_td"]) for row in read_metrics(folder)]
        assert rows(run, "step", "critic_td") == local
        assert len(local) == 6
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["wandb_id"] == run["id"]
        metric = sweep["metric"]["name"]  # what W&B maximises
        assert run["summary"][metric] == summary[metric]


def own_overrides() -> list[str]:
    return [text for text in OVERRIDES if not text.startswith("logger")]


def test_the_agents_id_is_the_runs(at_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as agent:
        agent.setenv("WANDB_SWEEP_ID", "swp12345")
        agent.setenv("WANDB_RUN_ID", "agentrun1")
        with open_run(tmp_path / "run", mode="offline") as logger:
            train(tmp_path / "run", logger, range(10, 31, 10))
        assert logger.run_id == "agentrun1"
    with open_run(tmp_path / "run", mode="offline") as again:  # by hand
        assert again.run_id == "agentrun1"
    assert [run.id for run in offline_runs(tmp_path / "run")] == ["agentrun1"] * 2


def test_long_texts_are_cut_and_stay_different(at_home: None, tmp_path: Path) -> None:
    long = "x" * 200
    texts = {"name": long, "group": long, "job_type": long, "tags": [long, long + "y", "short"]}
    with open_run(tmp_path / "run", mode="offline", **texts) as logger:
        assert logger.active
    (run,) = offline_runs(tmp_path / "run")
    assert (len(run.name), len(run.group), len(run.job_type)) == (128, 128, 64)
    assert [len(tag) for tag in run.tags] == [64, 64, 5]
    assert len(set(run.tags)) == 3


@pytest.mark.slow  # W&B's SDK asks every fifteen seconds
@pytest.mark.ci
def test_a_run_that_is_stopped_on_its_page_is_told(online: Server, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as logger:
        assert not logger.is_stop_requested
        online.control(stopped=[str(logger.run_id)])
        end = time.monotonic() + 60.0
        for step in range(10, 10_000, 10):
            if logger.is_stop_requested:
                break
            logger.log(step, {"critic_td": 1.0})
            time.sleep(0.2)
            assert time.monotonic() < end


def test_variables_without_effect_are_said_once(
    at_home: None, dataset: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb_run._say_ignored_variables.cache_clear()
    for name, value in {
        "WANDB_PROJECT": "theirs", "WANDB_NAME": "theirs", "WANDB_ENTITY": "us", "WANDB_DIR": "x", "WANDB_TAGS": "a",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    chosen = tiny_config(dataset, "logger=wandb", "logger.mode=offline", "logger.project=mine").logger
    assert isinstance(chosen, WandbLoggerConfig)
    assert (chosen.project, chosen.name, chosen.entity) == ("mine", "theirs", "us")
    for _ in range(3):
        wandb_run._say_ignored_variables(tuple(wandb_run._ignored_variables(chosen, os.environ)))
    (line,) = [record.getMessage() for record in caplog.records if "without effect" in record.getMessage()]
    assert line == (
        "without effect: WANDB_PROJECT (logger.project=mine is given), WANDB_DIR (the run's folder decides), "
        "WANDB_TAGS (logger.tags decides)"
    )
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert wandb_run._ignored_variables(chosen, os.environ) == []
