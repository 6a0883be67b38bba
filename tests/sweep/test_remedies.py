"""What a message advises works: each test reads the remedy from the message, follows it, and is through."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
import warnings
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from children import Ended, entry_point, fork, signal_before, start, train, wait
from four import GRID, POINTS, copy, status, sweep_of
from minari.data_collector import EpisodeBuffer
from tiny import OVERRIDES

from cql.training.checkpoint import load, save
from cql.training.local_logger import read_metrics

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

SHORT = ["n_steps=10"]
# A command line that is refused, where its message has the remedy, and the command line of the remedy.
REMEDIES: dict[str, tuple[list[str], str, list[str]]] = {
    "a key of another kind, added": (
        ["algorithm.alpha_cql.tau_cql=1"], r"; add (\S+) or drop it", ["algorithm.alpha_cql.tau_cql=1", "{}"],
    ),
    "a key of another kind, dropped": (["dataset.id=a/b-v0"], r"or (drop it)", []),
    "a misspelt key": (["algorithm.discont=0.9"], r"did you mean (\S+)\?", ["{}=0.9"]),
    "another program's key": (["cql_n_actions=3"], r"did you mean (\S+)\?", ["{}=3"]),
    "a misspelt option": (["algorithm/penalty=cql_r"], r"did you mean (\S+)\?", ["{}"]),
    "an experiment without a plus": (["experiment=smoke"], r"(\+experiment=smoke)", ["{}", "dataset=d4rl"]),
    "a group by a dot": (["algorithm.alpha_cql=learned"], r"choose its option with a slash, (\S+)", ["{}"]),
    "a value of an enum": (["eval_worker=of"], r"did you mean (\S+)\?", ["eval_worker={}"]),
    "a number that is whole": (["batch_size=16.0"], r"; write (batch_size=16)$", ["{}"]),
    "several values": (["seed=0,1"], r"add (-m) to run", ["{}", "seed=0,1"]),
    "a name without a sweep": (["sweep_name=a"], r"add (-m) for a sweep", ["{}", "seed=0", "sweep_name=a"]),
    "no GPU": (["device=cuda"], r"use (device=cpu)", ["{}"]),
    "reference scores": (["env.reference=1"], r"e\.g\. (env\.reference=\S+)$", ["{}"]),
    "no time": (["env.max_episode_steps=0"], r"must be at least (\d+)", ["env.max_episode_steps={}"]),
    "rewards beyond float32": (["dataset.reward_scale=1e39"], r"choose a smaller (\S+)", ["{}=2"]),
    "workers in one process": (["-m", "seed=0,1", "hydra.launcher.workers=2"], r"or (drop it)", ["-m", "seed=0,1"]),
    "the working directory": (["-m", "seed=0,1", "hydra.job.chdir=true"], r": (drop it)", ["-m", "seed=0,1"]),
    "two names of a sweep": (["-m", "sweep_name=a,b"], r"(sweep_name) is one for", ["-m", "seed=0,1", "{}=a"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REMEDIES)
def test_the_command_that_a_message_advises_runs(case: str, dataset: Path, tmp_path: Path) -> None:
    given, pattern, remedy = REMEDIES[case]
    ended = train(dataset, tmp_path, *SHORT, *given, lean=True)
    assert ended.code not in (0, -9), ended.text
    found = re.search(pattern, ended.text, re.MULTILINE)
    assert found is not None, ended.text
    ended = train(dataset, tmp_path, *SHORT, *(text.replace("{}", found[1]) for text in remedy), lean=True)
    assert ended.code == 0, ended.text


def called(cwd: Path, words: list[str]) -> Ended:
    """`scripts/train.py` with these words and no others."""

    def task() -> None:
        os.chdir(cwd)
        sys.argv = ["train.py", *words]
        entry_point().main()

    return wait(fork(task, cwd / "output.txt"), cwd)


def test_data_of_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with arguments and a limit: each message names what to set, until it trains."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = gymnasium.make("InvertedPendulum-v5", max_episode_steps=40, reset_noise_scale=0.02)
    buffers = []
    for seed in range(4):
        states, actions = [env.reset(seed=seed)[0]], []
        ended = False
        while not ended:
            actions.append(np.zeros(1, np.float32))
            state, _, terminated, truncated, _ = env.step(actions[-1])
            states.append(state)
            ended = terminated or truncated
        n = len(actions)
        flags = np.arange(n) == n - 1
        steps = {"observations": np.array(states), "actions": np.array(actions), "rewards": np.ones(n)}
        buffers.append(EpisodeBuffer(**steps, terminations=flags & terminated, truncations=flags & truncated, infos={}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that nobody needs here
        minari.create_dataset_from_buffers("me/pole-v0", buffers, env=env, data_format="hdf5")
    env.close()
    others = [text for text in OVERRIDES if not text.startswith("env=")]
    given = ["dataset=minari", "dataset.id=me/pole-v0", "env=Hopper-v5", *others, *SHORT]
    followed = []
    for _ in range(4):
        ended = called(tmp_path, given)
        if ended.code == 0:
            break
        assert "Traceback" not in ended.text
        found = re.search(r": set (.+) or choose another dataset", ended.text)
        assert found is not None, ended.text
        given = [*given, *shlex.split(found[1])]
        followed.append(found[1])
    assert ended.code == 0, ended.text
    assert followed[0] == "env=InvertedPendulum-v5"
    assert "env.max_episode_steps=40" in followed[1]
    assert "reset_noise_scale:0.02" in followed[1]


def test_a_stopped_run_is_resumed_by_the_command_that_it_prints(dataset: Path, tmp_path: Path) -> None:
    place = tmp_path / "my runs, é=1"
    stop = signal_before(signal.SIGTERM, "replace", "checkpoints/step_0000030.pt")
    child = start(dataset, tmp_path, f"hydra.run.dir='{place}'", before=stop, lean=True)
    ended = wait(child, tmp_path)
    assert ended.code == 128 + signal.SIGTERM, ended.text
    found = re.search(r"; resume it with: (.+)$", ended.text, re.MULTILINE)
    assert found is not None, ended.text
    python, script, *words = shlex.split(found[1])
    assert (python, script) == ("python", "scripts/train.py")

    refused = called(tmp_path, [*words, "seed=3"])
    assert refused.code == 2, refused.text
    assert "keeps the run's own config; leave out seed=3" in refused.text
    ended = called(tmp_path, words)
    assert ended.code == 0, ended.text
    assert "resuming from step 30" in ended.text
    assert status(place)["status"] == "finished"

    refused = called(tmp_path, [*words, "n_steps=70"])
    assert refused.code == 2, refused.text
    found = re.search(r"train longer in a new run that begins with this one: (.+)$", refused.text, re.MULTILINE)
    assert found is not None, refused.text
    longer = tmp_path / "longer"
    ended = called(tmp_path, [*shlex.split(found[1])[2:], f"hydra.run.dir={longer}"])
    assert ended.code == 0, ended.text
    assert (status(longer)["status"], status(longer)["step"]) == ("finished", 70)
    assert read_metrics(longer)[0]["step"] == 70


def of_other_shapes(path: Path) -> None:
    contents = load(path)
    contents["agent"]["parameters"]["actor"]["0.bias"] = contents["agent"]["parameters"]["actor"]["0.bias"][:1]
    save(path, contents)


def test_a_checkpoint_that_does_not_fit_is_removed_and_an_earlier_one_resumed(
    dataset: Path, swept: Path, tmp_path: Path
) -> None:
    folder = copy(swept, tmp_path)
    run = sweep_of(folder) / POINTS[1]
    (run / "summary.json").write_text('{"status": "running", "step": 60}')
    path = run / "checkpoints" / "step_0000060.pt"
    of_other_shapes(path)
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID, lean=True)
    assert ended.code == 1, ended.text
    assert "the checkpoint of step 60 does not fit the run" in ended.text
    assert "Remove it, to resume from an earlier one" in ended.text
    path.unlink()
    ended = train(dataset, folder, "-m", "sweep_name=four", "retry_failed=true", *GRID, lean=True)
    assert ended.code == 0, ended.text
    assert "resuming from step 50" in (run / "train.log").read_text()


def test_a_damaged_config_moves_away_with_its_folder(dataset: Path, swept: Path, tmp_path: Path) -> None:
    folder = copy(swept, tmp_path)
    run = sweep_of(folder) / POINTS[1]
    (run / ".hydra" / "config.yaml").write_text("a: [")
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID, lean=True)
    assert ended.code == 1, ended.text
    assert (
        "config.yaml is damaged: put back the file, or move the run's folder away and start the run anew" in ended.text
    )
    shutil.move(run, tmp_path / "away")
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID, lean=True)
    assert ended.code == 0, ended.text
    assert status(run)["status"] == "finished"
