"""Whole runs: what they leave in their folders, stacked as alone, whole as resumed, and when things go wrong."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nested import assert_same
from tiny import tiny_config, write_dataset

from cql import config, data
from cql.algorithm import networks
from cql.algorithm.agent import METRICS, Agent
from cql.algorithm.fast import layers
from cql.config.schema import TrainConfig
from cql.rollout.envs import EnvError, env_info
from cql.training import build, device, evaluate, experiment, resume, run_folder
from cql.training.checkpoint import CheckpointError, CheckpointFolder, load, save
from cql.training.experiment import RunFailed
from cql.training.local_logger import read_episodes, read_metrics
from cql.training.run import Run
from cql.training.run_folder import FolderError

LEARNED = ("algorithm/alpha_cql=learned", "algorithm/alpha_temp=learned")

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, for tests that only look at it."""
    folder = tmp_path_factory.mktemp("run")
    experiment.run(tiny_config(dataset), folder)
    return folder


def train_stack(configs: list[TrainConfig], folders: list[Path]) -> list[Run]:
    """The runs of one stack, trained in their folders."""
    for each, folder in zip(configs, folders, strict=True):
        run_folder.claim_folder(each, folder)
    (chosen,), errors = resume.stacks_to_resume(folders)
    assert not errors
    runs = experiment.train(dict(zip(folders, configs, strict=True)), chosen)
    ended = [run for run in runs.values() if isinstance(run, Run)]
    assert len(ended) == len(folders)
    return ended


def train_in(folder: Path, train_config: TrainConfig) -> Run:
    (run,) = train_stack([train_config], [folder])
    return run


# What a run leaves behind ---------------------------------------------------------------------------------------------


def test_the_folder_holds_everything_the_run_was(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {
        ".hydra/config.yaml",
        "metrics.jsonl",
        "timing.jsonl",
        "episodes.csv",
        "summary.json",
        "key_curves.png",
        "checkpoints/best.pt",
        "checkpoints/step_0000060.pt",
    } <= names
    assert not any(name.startswith("wandb") for name in names)  # logger=local


def test_the_folder_says_what_the_numbers_depend_on(finished: Path) -> None:
    found = json.loads((finished / "provenance.json").read_text())
    checkpoint = load(CheckpointFolder(finished / "checkpoints").find("last"))
    assert found["versions"] == checkpoint["versions"]
    assert found["dataset"]["fingerprint"] == checkpoint["data_fingerprint"]
    assert found["dataset"]["transitions"] > 0
    assert found["threads"] == 1
    assert set(found) == {"versions", "commit", "device", "threads", "dataset", "yardsticks"}


def test_metrics_have_one_row_an_epoch_and_the_names_of_the_design(finished: Path) -> None:
    rows = read_metrics(finished)
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert set(rows[0]) == {
        "step", "critic_td", "cql_gap", "cql_residual", "alpha_cql", "alpha_temp", "q_data", "q_policy", "q_uniform",
        "actor_loss", "entropy", "action_distance", "at_bounds", "initial_value", "eval_return_mean", "eval_return_std",
    }  # fmt: skip
    episodes = read_episodes(finished)
    assert len(episodes) == 6 * 2
    assert {episode.seed for episode in episodes} == {1000, 1001}
    last = [episode.return_ for episode in episodes if episode.step == 60]
    assert rows[-1]["eval_return_mean"] == pytest.approx(sum(last) / 2)


def test_training_moves_every_parameter(finished: Path, dataset: Path, tmp_path: Path) -> None:
    train_config = tiny_config(dataset, "n_steps=1", "n_steps_per_epoch=1")
    train_in(tmp_path, train_config)
    (zero,) = (load(path)["agent"]["parameters"] for path in (tmp_path / "checkpoints").glob("step_0000000.pt"))
    last = load(finished / "checkpoints" / "step_0000060.pt")["agent"]["parameters"]
    for part, parameters in last.items():
        for name, tensor in parameters.items():
            assert not torch.equal(tensor, zero[part][name]), f"{part}.{name}"


def test_the_checkpoint_is_plain_and_carries_what_a_policy_needs(finished: Path) -> None:
    contents = torch.load(finished / "checkpoints" / "best.pt", weights_only=True)
    assert contents["config"]["env"]["id"] == "InvertedPendulum-v5"
    assert contents["normaliser"]["mean"].shape == (4,)
    assert not torch.equal(contents["normaliser"]["std"], torch.ones(4))
    assert contents["versions"]["torch"] == torch.__version__


def test_the_summary_says_how_it_ended(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    rows = read_metrics(finished)
    assert (summary["status"], summary["step"], summary["n_steps"]) == ("finished", 60, 60)
    assert summary["eval_return_mean"] == rows[-1]["eval_return_mean"]
    assert summary["best_eval_return_mean"] == max(row["eval_return_mean"] for row in rows)
    assert load(finished / "checkpoints" / "best.pt")["step"] == summary["best_step"]


def test_a_reloaded_policy_scores_what_it_scored_in_training(finished: Path) -> None:
    row = read_metrics(finished)[-1]
    found = evaluate.evaluate(finished, which="last", n_episodes=2)
    assert (found.returns.mean(), found.returns.std()) == (row["eval_return_mean"], row["eval_return_std"])
    assert (found.checkpoint, found.step, found.videos) == ("step_0000060.pt", 60, [])


def test_an_episode_does_not_depend_on_the_number_of_others(finished: Path) -> None:
    policy, train_config, _ = build.load_policy(finished / "checkpoints" / "best.pt")
    random = np.random.default_rng(0)
    observations = random.normal(size=(1, 40, 4)).astype(np.float32)
    together = policy(observations)
    assert together.shape == (1, 40, 1)
    for n in (1, 2, 7, 16, 17):
        assert np.array_equal(policy(observations[:, :n]), together[:, :n])
    assert train_config.env.id == "InvertedPendulum-v5"


def test_what_fails_before_there_is_a_run_says_so_in_its_folder(tmp_path: Path) -> None:
    missing = tiny_config(tmp_path / "missing.hdf5")
    with pytest.raises(data.DatasetError, match=r"missing\.hdf5"):
        experiment.run(missing, tmp_path / "run")
    summary = run_folder.read_summary(tmp_path / "run")
    assert summary["status"] == "failed"
    assert "missing.hdf5" in summary["failure"]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    finished: Path, dataset: Path, tmp_path: Path
) -> None:
    train_in(tmp_path / "same", tiny_config(dataset))
    train_in(tmp_path / "other", tiny_config(dataset, "seed=1"))
    assert (tmp_path / "same" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert (tmp_path / "other" / "metrics.jsonl").read_bytes() != (finished / "metrics.jsonl").read_bytes()


def test_a_last_shorter_epoch_is_logged_too(dataset: Path, tmp_path: Path) -> None:
    train_in(tmp_path, tiny_config(dataset, "n_steps=25", "n_epochs_per_eval=2", "n_epochs_per_checkpoint=2"))
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [10, 20, 25]
    assert ["eval_return_mean" in row for row in rows] == [False, True, True]
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step*")) == [
        "step_0000000.pt", "step_0000020.pt", "step_0000025.pt",
    ]  # fmt: skip


def test_a_metric_is_one_line_and_older_checkpoints_resume_with_it(
    finished: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for step in (50, 60):
        (run / "checkpoints" / f"step_{step:07d}.pt").unlink()
    (run / "summary.json").unlink()
    monkeypatch.setitem(METRICS, "q_data_max", lambda step: step.q_data.amax((1, 2)))
    experiment.run(tiny_config(dataset), run)
    rows = read_metrics(run)
    assert [("q_data_max" in row, row["step"]) for row in rows] == [(step > 40, step) for step in range(10, 70, 10)]
    assert all(row["q_data_max"] > row["q_data"] for row in rows[4:])
    before = read_metrics(finished)
    assert [row["critic_td"] for row in rows] == [row["critic_td"] for row in before]


SHORT_ONLINE = {"n_online_steps": 4, "n_start_steps": 0, "update_to_data": 1, "n_steps_per_epoch": 2, "buffer_size": 99}


@pytest.mark.parametrize("name", sorted(path.stem for path in (config.CONFIG_DIR / "experiment").glob("*.yaml")))
def test_every_experiment_trains(name: str, dataset: Path, tmp_path: Path) -> None:
    """A few steps of each, with its own algorithm and networks, on the small dataset."""
    small = ("batch_size=8", "n_steps=4", "n_steps_per_epoch=2", "env.n_eval_episodes=1", "network.width=8")
    on_pendulum = ("dataset=d4rl", f"dataset.path={dataset}", "env=InvertedPendulum-v5", "dataset.n_episodes=null")
    overrides = [f"+experiment={name}", *on_pendulum, *small, "logger=local", "video.enabled=false", "device=cpu"]
    steps = [2, 4]
    if config.compose(overrides).online.kind == "finetune":
        overrides += [f"online.{key}={value}" for key, value in SHORT_ONLINE.items()]
        steps += [6, 8]
    run = train_in(tmp_path, config.checked(config.compose(overrides)))
    assert run.status == "finished"
    assert [row["step"] for row in read_metrics(tmp_path)] == steps


def test_an_update_moves_nothing_to_the_host(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two epochs no step asks a tensor for its value: on a GPU that would wait for the device."""
    update = Agent.update

    def refuse(self: torch.Tensor, *args: Any) -> Any:
        raise AssertionError("a training step read a value from the device")

    def guarded(self: Agent, *args: Any) -> torch.Tensor:
        with monkeypatch.context() as patched:
            for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__"):
                patched.setattr(torch.Tensor, name, refuse)
            return update(self, *args)

    monkeypatch.setattr(Agent, "update", guarded)
    run = train_in(tmp_path, tiny_config(dataset, *LEARNED, "n_steps=10"))
    assert run.status == "finished"


# A stack --------------------------------------------------------------------------------------------------------------


def test_a_stack_of_three_equals_the_same_runs_alone(dataset: Path, tmp_path: Path) -> None:
    points = [(0, 1.0, -1.0), (1, 2.0, 0.0), (2, 5.0, 3.0)]
    configs = [
        tiny_config(
            dataset, *LEARNED, f"seed={seed}", f"algorithm.alpha_cql.initial_value={start}",
            f"algorithm.alpha_cql.tau_cql={tau}",
        )
        for seed, start, tau in points
    ]  # fmt: skip
    stacked = [tmp_path / "stacked" / str(seed) for seed, _, _ in points]
    runs = train_stack(configs, stacked)
    assert [run.status for run in runs] == ["finished"] * 3
    finals = []
    for each, folder in zip(configs, stacked, strict=True):
        alone = tmp_path / "alone" / folder.name
        train_in(alone, each)
        assert sorted(path.name for path in alone.rglob("*")) == sorted(path.name for path in folder.rglob("*"))
        a, b = (load(place / "checkpoints" / "step_0000060.pt") for place in (alone, folder))
        assert torch.equal(a["sampler"], b["sampler"])  # the very same random numbers
        assert a["config"] == b["config"]
        # The products of a stack may be summed in another order; 60 steps of Adam at 3e-4 move a parameter by up to
        # 0.018, and the two agree to a thousandth of that.
        assert_same(a["agent"], b["agent"], rtol=1e-4, atol=2e-5)
        finals.append(b["agent"]["parameters"]["alpha_cql"]["log_alpha_cql"])
    assert len({float(value) for value in finals}) == 3  # they did learn different multipliers


def test_one_run_of_a_stack_fails_alone(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    update = Agent.update

    def poisoned(self: Agent, *args: Any) -> torch.Tensor:
        if self.n_steps_done == 33:
            with torch.no_grad():
                self.critics["0.weight"][1] = float("nan")
        return update(self, *args)

    monkeypatch.setattr(Agent, "update", poisoned)
    configs = [tiny_config(dataset, f"seed={seed}") for seed in range(3)]
    folders = [tmp_path / str(seed) for seed in range(3)]
    runs = train_stack(configs, folders)
    assert [run.status for run in runs] == ["finished", "failed", "finished"]
    summary = json.loads((folders[1] / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "not finite from step 34 on" in summary["failure"]
    assert "step_0000030.pt" in summary["failure"]
    assert load(folders[1] / "checkpoints" / "step_0000030.pt")["step"] == 30
    assert [row["step"] for row in read_metrics(folders[1])] == [10, 20, 30]
    assert [row["step"] for row in read_metrics(folders[2])] == [10, 20, 30, 40, 50, 60]
    assert "failed" in caplog.text


def test_a_failed_run_raises(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="not finite from step"):
        experiment.run(tiny_config(dataset, "dataset.reward_scale=1e38"), tmp_path)


def test_a_run_whose_gradients_adam_cannot_square_fails_instead_of_standing_still(
    dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunFailed, match=r"Adam's exp_avg_sq of critics\.[\w.]+ not finite at step"):
        experiment.run(tiny_config(dataset, "algorithm.w_cql=1e25", "algorithm.alpha_cql.value=1"), tmp_path)


def test_an_error_from_outside_marks_the_run_as_failed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Agent, *args: Any) -> torch.Tensor:
        raise OSError("no space left on device")

    monkeypatch.setattr(Agent, "update", broken)
    with pytest.raises(OSError, match="no space left"):
        experiment.run(tiny_config(dataset), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["failure"].split(";")[0]) == ("failed", "OSError: no space left on device")


# From config to numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("algorithm/penalty=cql_h", "algorithm.num_sampled_actions=10"), math.log(20) - 1),
        (("algorithm/penalty=cql_h", "algorithm.num_sampled_actions=1"), math.log(2) - 1),
        (("algorithm/penalty=cql_h", "algorithm.alpha_temp.target_entropy=-3"), math.log(4) - 3),
        (("algorithm/penalty=cql_h", "algorithm/alpha_temp=fixed"), math.log(4) - 1),
        (("algorithm/penalty=cql_rho",), math.log(4)),
        (("algorithm/penalty=blueprint",), math.log(2)),
        (("algorithm.alpha_cql.tau_cql=-2",), -2.0),
    ],
)
def test_a_threshold_that_is_not_given_is_the_gap_of_neutral_critics(
    overrides: tuple[str, ...], expected: float, dataset: Path
) -> None:
    info = env_info("InvertedPendulum-v5")  # one action, so the target entropy is -1
    known = build.hyper_params(tiny_config(dataset, "algorithm/alpha_cql=learned", *overrides), info)
    assert known.tau_cql == pytest.approx(expected)


def test_a_fixed_multiplier_has_no_threshold(dataset: Path) -> None:
    known = build.hyper_params(tiny_config(dataset, "algorithm.alpha_cql.value=3"), env_info("InvertedPendulum-v5"))
    assert (known.alpha_cql, known.tau_cql) == (3.0, None)


# Folders --------------------------------------------------------------------------------------------------------------


def test_another_config_under_an_old_name_is_refused_with_the_keys(finished: Path, dataset: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(FolderError, match=r"algorithm\.discount: 0\.99 -> 0\.9"):
        experiment.run(tiny_config(dataset, "algorithm.discount=0.9"), finished)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_finished_run_is_left_alone(finished: Path, dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = (finished / "metrics.jsonl").stat().st_mtime_ns
    result = experiment.run(tiny_config(dataset), finished)
    assert result == read_metrics(finished)[-1]["eval_return_mean"]
    assert (finished / "metrics.jsonl").stat().st_mtime_ns == before
    assert "finished already" in caplog.text


def test_results_without_a_checkpoint_are_not_overwritten(dataset: Path, tmp_path: Path) -> None:
    train_config = tiny_config(dataset)
    train_in(tmp_path, train_config)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "summary.json").unlink()
    rows = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(FolderError, match="results but no checkpoint"):
        experiment.run(train_config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows


def test_resuming_what_has_no_checkpoint_is_an_error(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(FolderError, match="not the folder of a run"):
        run_folder.resumed_config(tmp_path)
    run_folder.claim_folder(tiny_config(dataset), tmp_path)
    with pytest.raises(FolderError, match="holds no checkpoint"):
        run_folder.resumed_config(tmp_path)


def test_resuming_with_another_config_is_refused(finished: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"leave out seed=2"):
        run_folder.resumed_config(finished, ["resume=x", "seed=2"])


def test_the_saved_config_reads_back(finished: Path, dataset: Path) -> None:
    assert run_folder.resumed_config(finished) == tiny_config(dataset)


def test_data_that_changed_under_a_run_are_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.hdf5", n_episodes=10)
    train_config = tiny_config(path)
    train_in(tmp_path / "run", train_config)
    (tmp_path / "run" / "summary.json").unlink()
    write_dataset(path, n_episodes=11)
    with pytest.raises(FolderError, match="fingerprint"):
        experiment.run(train_config, tmp_path / "run")


def test_a_missing_checkpoint_names_those_that_exist(finished: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint '55'; there are: best, last, 40, 50, 60"):
        evaluate.evaluate(finished, which="55")


def test_cuda_where_there_is_none_is_a_config_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(config.ConfigError, match="device=cuda"):
        device.choose_device("cuda")


def test_episodes_csv_reads_in_a_spreadsheet(finished: Path) -> None:
    with (finished / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "episode", "seed", "return", "length", "score"]


def test_a_run_without_the_fast_path_has_the_same_numbers_but_for_rounding(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, begin = [], Agent.__init__

    def noted(self: Agent, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        made.append(self.networks)

    monkeypatch.setattr(Agent, "__init__", noted)
    agents = []
    for name in ("true", "false"):
        experiment.run(tiny_config(dataset, f"fast={name}"), tmp_path / name)
        agents.append(load(tmp_path / name / "checkpoints" / "step_0000060.pt")["agent"])
    assert made == [layers.FAST, networks.PLAIN]
    assert_same(agents[0], agents[1], rtol=1e-4, atol=2e-5)


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(dataset: Path, tmp_path: Path) -> None:
    for seed in range(2):
        train_in(tmp_path / str(seed), tiny_config(dataset, f"seed={seed}", "algorithm/alpha_cql=learned"))
    own, foreign = (tmp_path / str(seed) / "checkpoints" / "step_0000060.pt" for seed in range(2))
    own.write_bytes(foreign.read_bytes())
    (tmp_path / "0" / "summary.json").unlink()
    with pytest.raises(FolderError, match=r"is of another run \(seed: 1 -> 0\)"):
        experiment.run(tiny_config(dataset, "seed=0", "algorithm/alpha_cql=learned"), tmp_path / "0")


def test_a_run_may_be_trained_for_longer(dataset: Path, tmp_path: Path) -> None:
    train_in(tmp_path, tiny_config(dataset))
    path = tmp_path / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("n_steps: 60", "n_steps: 80"))
    (tmp_path / "summary.json").unlink()
    experiment.run(tiny_config(dataset, "n_steps=80"), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["step"] == 80


def test_the_package_that_a_checkpoint_names_is_not_imported(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "strangers_package.py").write_text("raise SystemExit('code of a stranger was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "run" / "checkpoints" / "step_0000060.pt"
    contents = load(path)
    contents["config"]["env"]["id"] = "strangers_package:Pendulum-v0"
    save(path, {key: value for key, value in contents.items() if key != "format_version"})
    with pytest.raises(EnvError, match="--env strangers_package:Pendulum-v0"):
        evaluate.evaluate(tmp_path / "run")
    with pytest.raises(SystemExit, match="was run"):
        evaluate.evaluate(tmp_path / "run", env="strangers_package:Pendulum-v0")
