"""Evaluation beside training leaves what evaluation in between does, byte for byte, whatever becomes of the worker."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from children import fork
from nested import assert_same
from processes import is_running, said, wait_until
from test_resume import assert_same_run, exit_code
from test_trainer import FakeRecorder, at_update, folders_in, keep_up_to, stack, summary, train
from tiny import tiny_config

from cql.algorithm.agent import Agent
from cql.config.schema import TrainConfig
from cql.rollout.envs import EnvError
from cql.rollout.evaluation import Recorder, Rollouts, rolling_out
from cql.rollout.rendering import choose_backend
from cql.rollout.worker import Worker
from cql.training import experiment, run_folder
from cql.training.checkpoint import load
from cql.training.local_logger import read_metrics
from cql.training.trainer import Trainer

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kills forked processes"),
    pytest.mark.usefixtures("no_figures"),
]

ENV, SEEDS = "InvertedPendulum-v5", [[1000, 1001]] * 3
FILM: dict[str, Any] = {"size": 32, "seconds": 0.2}


@pytest.fixture(scope="module")
def configs(dataset: Path) -> list[TrainConfig]:
    shared = ("algorithm/alpha_cql=learned", "n_kept_checkpoints=20", "n_epochs_per_checkpoint=2")
    return [tiny_config(dataset, *shared, f"seed={seed}") for seed in range(3)]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One for all tests that leave it alive: it takes seconds to start."""
    made = Worker(functools.partial(rolling_out, ENV, SEEDS, **FILM), name="evaluation worker")
    yield made
    made.close()


@pytest.fixture(scope="module")
def late_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jobs.GatedWorker]:
    """One whose answers always have to be waited for."""
    made = jobs.GatedWorker(tmp_path_factory.mktemp("gate") / "open", ENV, SEEDS, **FILM)
    yield made
    made.close()


@pytest.fixture(scope="module")
def in_between(configs: list[TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("in_between")
    assert train(filming(stack(configs, place))) == ["finished"] * 3
    return place


def filming(trainer: Trainer) -> Trainer:
    """With films, where something can draw here."""
    if choose_backend() is not None:
        trainer.recorder = Recorder(ENV, width=FILM["size"], height=FILM["size"], seconds=FILM["seconds"])
    return trainer


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run but checkpoints and those that tell of the clock; the folder's own name is left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(bytes(folder), b"")
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("timing.jsonl", "train.log", ".lock") and path.suffix != ".pt"
    }


def checkpoints(folder: Path) -> dict[str, Any]:
    return {path.name: load(path) for path in (folder / "checkpoints").iterdir()}


def assert_same_folders(place: Path, other: Path) -> None:
    for folder, reference in zip(folders_in(place), folders_in(other), strict=True):
        assert contents(folder) == contents(reference)
        assert_same(checkpoints(folder), checkpoints(reference))


def after_update(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something right after one of the updates."""
    update, seen = Agent.update, []

    def watched(self: Agent, *args: Any) -> torch.Tensor:
        values = update(self, *args)
        seen.append(None)
        if len(seen) == number:
            act()
        return values

    monkeypatch.setattr(Agent, "update", watched)


def of_the_trainer(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "cql.training.trainer" and record.levelno >= logging.WARNING
    ]


# The same bytes -------------------------------------------------------------------------------------------------------


def test_a_stack_leaves_the_same_files(
    configs: list[TrainConfig], worker: Worker, in_between: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = filming(stack(configs, tmp_path, worker=worker))
    trainer.evaluator.evaluate = None  # nothing is evaluated in this process
    assert train(trainer) == ["finished"] * 3
    assert_same_folders(tmp_path, in_between)
    if choose_backend() is not None:
        films = {path.name for path in folders_in(tmp_path)[0].glob("videos/*.gif")}
        assert films == {f"step_{step:07d}.gif" for step in range(10, 61, 10)}
    assert said(caplog) == []


def test_the_answer_is_written_in_the_middle_of_the_next_epoch(
    configs: list[TrainConfig],
    late_worker: jobs.GatedWorker,
    in_between: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = stack(configs, tmp_path, worker=late_worker)
    written = []

    def look() -> None:
        written.append([(folder / "metrics.jsonl").exists() for folder in folders_in(tmp_path)])

    at_update(monkeypatch, 13, lambda: (look(), late_worker.open()))
    after_update(monkeypatch, 14, look)
    assert train(trainer) == ["finished"] * 3
    assert written == [[False] * 3, [True] * 3]
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        assert_same_run(folder, reference)


def test_training_goes_on_meanwhile_and_waits_at_the_end_of_the_next_epoch(
    configs: list[TrainConfig],
    late_worker: jobs.GatedWorker,
    in_between: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = stack(configs, tmp_path, worker=late_worker)
    seen: list[tuple[int, int]] = []
    epochs: list[int] = []
    for name in ("_log", "_checkpoint"):
        original = getattr(trainer, name)

        def noted(*args: Any, name: str = name, original: Any = original) -> None:
            if name == "_log":
                epochs.append(args[0])
                seen.append((args[0], trainer._step_done))
            original(*args)

        monkeypatch.setattr(trainer, name, noted)
    assert train(trainer) == ["finished"] * 3
    assert epochs == [step for step in range(10, 61, 10) for _ in range(3)]  # in order
    assert seen == [(step, min(step + 10, 60)) for step in range(10, 61, 10) for _ in range(3)]
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        assert_same_run(folder, reference)


@pytest.mark.parametrize("steps", [(20, 40, 60), (60, 40, 40)], ids=str)
def test_a_stack_resumes_from_the_newest_step_that_all_have(
    steps: tuple[int, ...], configs: list[TrainConfig], worker: Worker, in_between: Path, tmp_path: Path
) -> None:
    place = tmp_path / "stack"
    shutil.copytree(in_between, place)
    for folder, step in zip(folders_in(place), steps, strict=True):
        keep_up_to(folder, step)
    assert train(filming(stack(configs, place, worker=worker))) == ["finished"] * 3
    assert_same_folders(place, in_between)


def test_a_run_that_fails_in_training(
    configs: list[TrainConfig], worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, chosen in (("off", None), ("on", worker)):
        trainer = filming(stack(configs, tmp_path / name, worker=chosen))

        def poison(agent: Agent = trainer.agent) -> None:
            with torch.no_grad():
                agent.critics["0.weight"][1] = float("nan")

        with monkeypatch.context() as patched:
            at_update(patched, 25, poison)
            assert train(trainer) == ["finished", "failed", "finished"]
    assert_same_folders(tmp_path / "on", tmp_path / "off")
    assert summary(folders_in(tmp_path / "on")[1])["step"] == 30


def test_a_run_whose_evaluation_fails_stands_where_it_was_evaluated(
    configs: list[TrainConfig], late_worker: jobs.GatedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, chosen in (("off", None), ("on", late_worker)):
        trainer = stack(configs, tmp_path / name, worker=chosen)

        def break_the_actor(agent: Agent = trainer.agent) -> None:
            with torch.no_grad():  # finite, but its sums are not
                agent.actor["0.weight"][1] = 3e38
                agent.actor["1.weight"][1] = 3e38
                agent.actor["1.weight"][1, ::2] = -3e38

        with monkeypatch.context() as patched:
            after_update(patched, 20, break_the_actor)
            if chosen is not None:  # it has taken further steps by then
                at_update(patched, 24, late_worker.open)
            assert train(trainer) == ["finished", "failed", "finished"]
        assert "not finite in the evaluation at step 20" in (trainer.runs[1].failure or "")
    assert_same_folders(tmp_path / "on", tmp_path / "off")
    assert summary(folders_in(tmp_path / "on")[1])["step"] == 20


def test_what_an_evaluation_raises_ends_training_as_it_would_have(
    configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(jobs.broken_rollouts, name="evaluation worker")
    for name, chosen in (("off", None), ("on", worker)):
        trainer = stack(configs, tmp_path / name, worker=chosen)
        monkeypatch.setattr(trainer.evaluator, "evaluate", lambda *_: jobs.broken_rollouts()(None))
        with pytest.raises(EnvError, match="the environment broke") as caught:
            trainer.train()
        trainer.abort(f"EnvError: {caught.value}")
        assert [run.status for run in trainer.runs] == ["failed"] * 3
    worker.close()
    assert_same_folders(tmp_path / "on", tmp_path / "off")
    assert summary(folders_in(tmp_path / "on")[0])["step"] == 10


def test_an_error_from_outside_finds_the_epoch_before_it_complete(
    configs: list[TrainConfig], late_worker: jobs.GatedWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory() -> None:
        raise RuntimeError("out of memory")

    for name, chosen in (("off", None), ("on", late_worker)):
        trainer = stack(configs, tmp_path / name, worker=chosen)
        with monkeypatch.context() as patched:
            at_update(patched, 24, out_of_memory)
            with pytest.raises(RuntimeError, match="out of memory"):
                trainer.train()
        trainer.abort("RuntimeError: out of memory")
    assert_same_folders(tmp_path / "on", tmp_path / "off")
    assert summary(folders_in(tmp_path / "on")[0])["step"] == 23
    assert [row["step"] for row in read_metrics(folders_in(tmp_path / "on")[0])] == [10, 20]


# Films ----------------------------------------------------------------------------------------------------------------


def test_where_the_worker_cannot_draw_there_are_no_more_videos(
    configs: list[TrainConfig],
    in_between: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker(functools.partial(rolling_out, ENV, SEEDS, **FILM), name="evaluation worker")
    monkeypatch.setenv("MUJOCO_GL", "disable")
    worker.start()
    trainer = stack(configs, tmp_path, worker=worker)
    trainer.recorder = FakeRecorder()  # type: ignore[assignment]
    assert train(trainer) == ["finished"] * 3
    worker.close()
    assert of_the_trainer(caplog) == ["no more videos: nothing can draw here; the log says why and what to install"]
    assert "No videos: MUJOCO_GL=disable switches rendering off." in [r.getMessage() for r in caplog.records]
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        assert_same_run(folder, reference)
        assert list(folder.glob("videos/*")) == []


def test_without_a_screen_a_whole_run_goes_on(dataset: Path, tmp_path: Path) -> None:
    train_config = tiny_config(dataset, "eval_worker=on", "video.enabled=true", "n_steps=20")

    def task() -> None:
        os.environ["MUJOCO_GL"] = "disable"
        choose_backend.cache_clear()
        experiment.run(train_config, tmp_path)

    assert exit_code(fork(task)) == 0
    assert not (tmp_path / "videos").exists()
    assert run_folder.read_summary(tmp_path)["status"] == "finished"


# Deaths ---------------------------------------------------------------------------------------------------------------


def test_killed_while_it_evaluates(
    configs: list[TrainConfig],
    late_worker: jobs.GatedWorker,
    in_between: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = stack(configs, tmp_path, worker=late_worker)

    def kill() -> None:
        assert trainer._pending is not None
        assert late_worker.process_id is not None
        os.kill(late_worker.process_id, signal.SIGKILL)

    at_update(monkeypatch, 13, kill)
    assert train(trainer) == ["finished"] * 3
    (warning,) = said(caplog)
    assert "was killed by SIGKILL while it worked" in warning
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        assert_same_run(folder, reference)
        assert summary(folder) == summary(reference)


def test_one_that_dies_at_every_evaluation_is_given_up(
    configs: list[TrainConfig], in_between: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(jobs.failing, name="evaluation worker")
    assert train(stack(configs, tmp_path, worker=worker)) == ["finished"] * 3
    assert len(said(caplog)) == 3
    assert "this process does its jobs" in said(caplog)[-1]
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        assert_same_run(folder, reference)


# Signals and kills of the training process ----------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_waits_for_what_is_pending(
    sent: signal.Signals,
    configs: list[TrainConfig],
    late_worker: jobs.GatedWorker,
    in_between: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = stack(configs, tmp_path, worker=late_worker)

    def stop() -> None:
        assert trainer._pending is not None
        signal.raise_signal(sent)

    with monkeypatch.context() as patched:
        at_update(patched, 23, stop)
        assert train(trainer) == ["interrupted"] * 3
    for folder in folders_in(tmp_path):
        assert [row["step"] for row in read_metrics(folder)] == [10, 20]
        assert summary(folder)["step"] == 23
        newest = load(folder / "checkpoints" / "step_0000023.pt")
        assert newest["epoch"]["count"] == 3
        assert newest["last_metrics"]["step"] == 20
    assert train(stack(configs, tmp_path)) == ["finished"] * 3
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        (folder / "checkpoints" / "step_0000023.pt").unlink()
        assert_same_run(folder, reference)


def test_a_handler_of_others_finds_what_was_pending_complete(
    configs: list[TrainConfig], in_between: Path, tmp_path: Path
) -> None:
    def look(number: int, frame: object) -> None:
        found = [[row["step"] for row in read_metrics(folder)] for folder in folders_in(tmp_path)]
        (tmp_path / "found.json").write_text(json.dumps(found))

    def task() -> None:
        signal.signal(signal.SIGUSR2, look)
        worker = jobs.GatedWorker(tmp_path / "open", ENV, SEEDS, **FILM)
        at_update(pytest.MonkeyPatch(), 23, lambda: os.kill(os.getpid(), signal.SIGUSR2))
        statuses = train(stack(configs, tmp_path, worker=worker))
        worker.close()
        sys.exit(0 if statuses == ["finished"] * 3 else 99)

    assert exit_code(fork(task)) == 0
    assert json.loads((tmp_path / "found.json").read_text()) == [[10, 20]] * 3
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        (folder / "checkpoints" / "step_0000023.pt").unlink()
        assert_same_run(folder, reference)


def test_killed_while_an_epoch_is_pending_and_taken_up_again(
    configs: list[TrainConfig], worker: Worker, in_between: Path, tmp_path: Path
) -> None:
    note = tmp_path / "worker"

    def task() -> None:
        own = jobs.GatedWorker(tmp_path / "open", ENV, SEEDS, **FILM)
        trainer = stack(configs, tmp_path, worker=own)

        def die() -> None:
            assert trainer._pending is not None
            note.write_text(str(own.process_id))
            os.kill(os.getpid(), signal.SIGKILL)

        at_update(pytest.MonkeyPatch(), 23, die)
        train(trainer)

    assert exit_code(fork(task)) == -signal.SIGKILL
    wait_until(lambda: not is_running(int(note.read_text())))
    for folder in folders_in(tmp_path):
        assert [row["step"] for row in read_metrics(folder)] == [10]
        assert not (folder / "checkpoints" / "step_0000020.pt").exists()
    assert train(stack(configs, tmp_path, worker=worker)) == ["finished"] * 3
    for folder, reference in zip(folders_in(tmp_path), folders_in(in_between), strict=True):
        assert_same_run(folder, reference)


# Whole runs -----------------------------------------------------------------------------------------------------------


def test_a_whole_run_may_have_one_and_be_taken_up_without(dataset: Path, tmp_path: Path) -> None:
    off, on = tiny_config(dataset), tiny_config(dataset, "eval_worker=on")
    experiment.run(off, tmp_path / "off")
    experiment.run(on, tmp_path / "on")
    assert_same_run_but_its_config(tmp_path / "on", tmp_path / "off")
    for path in (tmp_path / "on" / "checkpoints").glob("step_*.pt"):
        if path.name > "step_0000040.pt":
            path.unlink()
    (tmp_path / "on" / "summary.json").unlink()
    experiment.run(off, tmp_path / "on")
    assert_same_run_but_its_config(tmp_path / "on", tmp_path / "off")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_run_on_the_gpu_is_evaluated_on_the_processor_either_way(dataset: Path, tmp_path: Path) -> None:
    for choice in ("off", "on", "auto"):
        experiment.run(tiny_config(dataset, "device=cuda", f"eval_worker={choice}"), tmp_path / choice)
        assert_same_run_but_its_config(tmp_path / choice, tmp_path / "off")


def assert_same_run_but_its_config(folder: Path, other: Path) -> None:
    for name in ("metrics.jsonl", "episodes.csv", "summary.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("best.pt", "step_0000060.pt"):
        found, expected = load(folder / "checkpoints" / name), load(other / "checkpoints" / name)
        for key in ("agent", "scores", "last_metrics"):
            assert_same(found[key], expected[key])


def test_a_worker_imports_no_more_than_it_needs(configs: list[TrainConfig], tmp_path: Path) -> None:
    worker = Worker(functools.partial(jobs.imported_for_rollouts, ENV, SEEDS), name="worker")
    trainer = stack(configs, tmp_path)
    worker.submit(trainer._rollouts([True] * 3, recorded=False))
    modules = worker.result(lambda _: pytest.fail("it died"))
    worker.close()
    assert "cql.rollout.evaluation" in modules
    for name in (
        "hydra",
        "omegaconf",
        "wandb",
        "minari",
        "matplotlib",
        "h5py",
        "cql.training.experiment",
        "cql.training.trainer",
    ):
        assert name not in modules


def test_a_snapshot_does_not_follow_training(configs: list[TrainConfig], tmp_path: Path) -> None:
    trainer = stack(configs, tmp_path)
    trainer.recorder = FakeRecorder()  # type: ignore[assignment]
    rollouts = trainer._rollouts([True, False, True], recorded=True)
    assert isinstance(rollouts, Rollouts)
    assert list(rollouts.videos) == [0, 2]
    before = trainer._roll_out(rollouts).results.returns.copy()
    threads = torch.get_num_threads()
    with torch.no_grad():
        for tensor in trainer.agent.actor.values():
            tensor.zero_()
    after = trainer._roll_out(rollouts).results.returns
    trainer.evaluator.close()
    assert (before[[0, 2]] == after[[0, 2]]).all()
    assert torch.get_num_threads() == threads
