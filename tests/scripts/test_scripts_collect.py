"""`scripts/collect.py` as a user runs it: what it takes for a policy, what it says, what is left when it is killed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import minari
import numpy as np
import pytest
import torch
from entry_points import load_script
from tiny import tiny_config

from cql import config
from cql.algorithm.agent import Agent
from cql.data import WORK_FOLDER, load_minari, specs
from cql.rollout.envs import EnvSpec, env_info, to_env_actions
from cql.rollout.reference_scores import reference_scores
from cql.training import build, run_folder
from cql.training.checkpoint import CheckpointFolder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "collect.py"
PENDULUM = "InvertedPendulum-v5"  # S = 4, A = 1, actions in [-3, 3]
SECONDS = 120.0
"""The longest that anything here may take where other work has the cores."""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("collect")


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the script in this process: exit code, stdout, stderr."""

    def run(dataset_id: str, *arguments: str, env: str = PENDULUM) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["collect.py", dataset_id, "--env", env, *arguments])
        try:
            code = script.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run


def write_policy(path: Path, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    sizes = {"hidden_0": (5, 4), "hidden_1": (5, 5), "mean": (1, 5), "log_std": (1, 5)}
    arrays = {f"{layer}.weight": generator.standard_normal(size).astype(np.float32) for layer, size in sizes.items()}
    arrays |= {f"{layer}.bias": np.zeros(size[0], np.float32) for layer, size in sizes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def write_run(directory: Path, steps: tuple[int, ...], best: int) -> None:
    """The folder of a run whose agents differ from step to step."""
    train_config = tiny_config(Path("nowhere.hdf5"))
    info = env_info(PENDULUM)
    run_folder.claim_folder(train_config, directory)
    folder = CheckpointFolder(directory / "checkpoints", n_kept=9)
    for step in steps:
        numbers = [build.hyper_params(train_config, info)]
        agent = Agent(build.agent_config(train_config, info), numbers, [step], torch.device("cpu"))
        contents = {
            "config": config.to_dict(train_config),
            "agent": agent.state(0),
            "normaliser": {"mean": torch.full((4,), 0.5), "std": torch.full((4,), 2.0)},
            "step": step,
        }
        folder.write(step, contents)
        if step == best:
            folder.write_best(contents)


def recorded(dataset_id: str) -> list[tuple[str, int, float]]:
    metadata = minari.load_dataset(dataset_id).storage.metadata
    return [(each["policy"], each["n_episodes"], each["noise"]) for each in json.loads(metadata["behaviours"])]


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.joinpath(WORK_FOLDER).glob("*") if path.is_dir()]


# --------------------------------------------------------------------------------------------------------- what acts


def test_a_mixture_of_all_kinds_of_policies(call: Call, tmp_path: Path) -> None:
    write_policy(tmp_path / "one.npz")
    for step in (500, 1500, 10_000):
        write_policy(tmp_path / "training" / f"sac_{step}.npz", seed=step)
    write_run(tmp_path / "runs" / "seed=3", steps=(10, 20, 30), best=20)
    policies = (
        "random=2",
        "one.npz",
        "training=4",
        "runs/seed=3",
        "runs/seed=3=1",
        "runs/seed=3@best",
        "runs/seed=3@10=2",
    )
    policies += ("runs/seed=3/checkpoints=3", "runs/seed=3/checkpoints/best.pt=1")
    arguments = [text for policy in policies for text in ("--policy", policy)]
    code, out, err = call("me/mixed-v0", *arguments, "--episodes", "20")
    assert code == 0, err
    # 13 have a policy of their own; 7 are shared by three.
    assert recorded("me/mixed-v0") == [
        ("random", 2, 1.0),
        ("one.npz", 3, 1.0),
        ("training/sac_500.npz", 2, 1.0),
        ("training/sac_1500.npz", 1, 1.0),
        ("training/sac_10000.npz", 1, 1.0),
        ("runs/seed=3 (step 30)", 2, 1.0),
        ("runs/seed=3 (step 30)", 1, 1.0),
        ("runs/seed=3@best (step 20)", 2, 1.0),
        ("runs/seed=3@10 (step 10)", 2, 1.0),
        ("runs/seed=3/checkpoints/step_0000010.pt (step 10)", 1, 1.0),
        ("runs/seed=3/checkpoints/step_0000020.pt (step 20)", 1, 1.0),
        ("runs/seed=3/checkpoints/step_0000030.pt (step 30)", 1, 1.0),
        ("runs/seed=3/checkpoints/best.pt (step 20)", 1, 1.0),
    ]
    assert len(out.splitlines()) == 15  # one for each, one for all, and the command


def test_a_run_acts_with_its_own_weights_and_normalisation(call: Call, tmp_path: Path) -> None:
    write_run(tmp_path / "run", steps=(10, 20), best=10)
    assert call("me/run-v0", "--policy", "run@best", "--episodes", "3", "--noise", "0")[0] == 0
    assert recorded("me/run-v0") == [("run@best (step 10)", 3, 0.0)]
    raw, info = load_minari("me/run-v0", download=False), env_info(PENDULUM)
    policy, _, step = build.load_policy(tmp_path / "run" / "checkpoints" / "best.pt")
    assert step == 10
    actions = policy(raw.observations[None])[0]
    expected = to_env_actions(actions, info.action_low, info.action_high)
    np.testing.assert_allclose(raw.actions, expected, atol=1e-5)
    assert np.abs(raw.actions).max() > 0.01


def test_names_of_the_package() -> None:
    info = env_info("Hopper-v5")
    assert [each.name for each in specs.behaviours("hopper/sac_125k", info, lambda _: None)] == ["hopper/sac_125k"]
    names = [each.name for each in specs.behaviours("hopper", info, lambda _: None)]
    assert names == [f"hopper/sac_{thousand:03}k" for thousand in (25, 50, 75, 100, 125, 150, 175)]


def test_a_file_called_random_is_not_taken_for_the_policy(call: Call, tmp_path: Path) -> None:
    (tmp_path / "random").touch()
    assert call("me/none-v0", "--policy", "random=1")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--policy", "nobody", "--episodes", "3"], ["--policy nobody", "no such file", "hopper/sac_125k"]),
        (["--policy", "nobody.npz=3"], ["'nobody.npz' does not exist"]),
        (["--policy", "nobody.pt=3"], ["nobody.pt: there is no such checkpoint"]),
        (["--policy", "random"], ["--episodes N is needed, or random=N"]),
        (["--policy", "random=2", "--policy", "two", "--episodes", "2"], ["--episodes 2", "too few for two"]),
        (["--policy", "random=2", "--episodes", "3"], ["--episodes 3:", "add up to 2", "leave --episodes out"]),
        (["--policy", "random", "--episodes", "0"], ["argument --episodes: 0 is out of range: at least 1"]),
        (["--policy", "text.md=1"], ["--policy text.md is not a policy's file", ".npz"]),
        (["--policy", "sweep=1"], ["--policy sweep: a sweep has many policies", "such as sweep/a"]),
        (["--policy", "two=1"], ["--policy two: 1 episodes for its 2 policies"]),
        (["--policy", "random=0"], ["--policy random: 0 episodes"]),
        (["--policy", "empty=1"], ["folder 'empty' holds no .npz"]),
        (["--policy", "empty@best=1"], ["no checkpoint 'best'; there are: none"]),
        (["--policy", "random=2", "--noise", "0"], ["--noise: random"]),
        (["--policy", "two=2", "--noise", "-1"], ["argument --noise: -1 is out of range: at least 0"]),
        (["--policy", "random=2", "--workers", "0"], ["argument --workers: 0 is out of range: at least 1"]),
        (["--policy", "random=2", "--seed", "-1"], ["argument --seed: -1 is out of range: at least 0"]),
        (["--policy", "random=2", "--reference", "3", "3"], ["--reference 3 3: MAX must be greater"]),
        (["--policy", "hopper/sac_125k=2"], ["maps 11 features to 3 actions", "InvertedPendulum-v5 has 4 and 1"]),
    ],
)
def test_what_makes_no_sense_is_refused(
    call: Call, root: Path, tmp_path: Path, arguments: list[str], messages: list[str]
) -> None:
    for number in (1, 2):
        write_policy(tmp_path / "two" / f"{number}.npz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.md").touch()
    (tmp_path / "sweep" / "a" / ".hydra").mkdir(parents=True)
    (tmp_path / "sweep" / "a" / ".hydra" / "config.yaml").touch()
    (tmp_path / "sweep" / "sweep.json").touch()
    code, out, err = call("me/none-v0", *arguments)
    assert (code, out) == (2, "")
    assert all(message in err for message in messages), err
    assert not minari.list_local_datasets()
    assert not leftovers(root)


@pytest.mark.parametrize(
    ("dataset_id", "env", "message"),
    [
        ("me/none-v0", "Nothing-v0", "cannot make 'Nothing-v0'"),
        ("me/none-v0", "CartPole-v1", "the action space of 'CartPole-v1'"),
        ("../up-v0", PENDULUM, "'../up-v0' is not the id"),
    ],
)
def test_an_unfit_environment_or_id_is_refused(call: Call, dataset_id: str, env: str, message: str) -> None:
    code, _, err = call(dataset_id, "--policy", "random=2", env=env)
    assert code == 2
    assert message in err


# ------------------------------------------------------------------------------------------------------ what it says


def test_the_last_lines_say_what_was_made_and_how_to_train_on_it(call: Call, root: Path) -> None:
    code, out, err = call("me/hops-v0", "--policy", "random=6", "--description", "Small.", env="Hopper-v5")
    assert (code, err) == (0, "")
    raw = load_minari("me/hops-v0", download=False)
    returns = raw.episode_returns
    scores = 100 * (returns + 20.272305) / (3234.3 + 20.272305)  # D4RL's constants
    assert out.splitlines() == [
        f"me/hops-v0: 6 episodes, {len(raw)} transitions, return {returns.mean():.1f} +- {returns.std():.1f}, "
        f"D4RL score {scores.mean():.1f} +- {scores.std():.1f}, in {root / 'me' / 'hops-v0'}",
        "train on it: python scripts/train.py dataset=minari dataset.id=me/hops-v0 env.id=Hopper-v5",
    ]
    metadata = minari.load_dataset("me/hops-v0").storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-20.272305, 3234.3)
    assert metadata["description"].startswith("Small. Behaviour: random (6 episodes)")
    assert "author" not in metadata


@pytest.mark.parametrize(
    ("env", "given", "expected"),
    [
        ("Hopper-v5", None, (-20.272305, 3234.3)),
        ("Hopper-v5", (1.5, 10.0), (1.5, 10.0)),
        (PENDULUM, None, None),
        (PENDULUM, (0.0, 1000.0), (0.0, 1000.0)),
        ("Pusher-v5", None, None),
        ("Pusher-v5", (-200.0, -20.0), (-200.0, -20.0)),
        ("my_package:Point-v0", None, None),
    ],
)
def test_the_command_to_train_is_one_that_works(
    script: ModuleType, env: str, given: tuple[float, float] | None, expected: tuple[float, float] | None
) -> None:
    command = shlex.split(script.train_command("me/some-v0", EnvSpec.of(env), reference_scores(env, given or "auto")))
    assert command[:2] == ["python", "scripts/train.py"]
    train_config = config.checked(config.compose(command[2:]))
    assert train_config.env.id == env
    assert train_config.dataset.id == "me/some-v0"  # type: ignore[attr-defined]
    assert reference_scores(env, train_config.env.reference) == expected


def test_without_reference_returns_there_is_no_score(call: Call) -> None:
    code, out, err = call("me/some-v0", "--policy", "random=2")
    assert code == 0
    assert "score" not in out
    assert f"{PENDULUM} has no reference returns" in err
    code, out, err = call(
        "me/some-v0", "--policy", "random=2", "--reference", "0", "100", "--overwrite", "--author", "Ada"
    )
    assert (code, err) == (0, "")
    mean = load_minari("me/some-v0", download=False).episode_returns.mean()
    assert f"own score {mean:.1f} +-" in out
    assert minari.load_dataset("me/some-v0").storage.metadata["author"] == {"Ada"}


def test_an_existing_dataset_is_refused(call: Call) -> None:
    assert call("me/some-v0", "--policy", "random=2")[0] == 0
    code, _, err = call("me/some-v0", "--policy", "random=3")
    assert code == 2
    assert "'me/some-v0' exists already" in err
    assert "--overwrite" in err
    assert load_minari("me/some-v0", download=False).n_episodes == 2
    assert call("me/some-v0", "--policy", "random=3", "--overwrite")[0] == 0
    assert load_minari("me/some-v0", download=False).n_episodes == 3


def test_an_interrupt_says_what_is_kept(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from cql.data import collect

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def interrupted(where: object, name: str, *arguments: str) -> str:
        with monkeypatch.context() as patched:
            patched.setattr(where, name, interrupt)
            code, _, err = call("me/some-v0", "--policy", "random=3", *arguments)
        assert code == 130
        return err.splitlines()[-1]

    assert interrupted(collect, "roll_out") == "interrupted: nothing of me/some-v0 is kept"
    assert call("me/some-v0", "--policy", "random=2")[0] == 0
    as_it_was = "interrupted: nothing of the new me/some-v0 is kept; one that was there is as it was"
    assert interrupted(collect, "roll_out", "--overwrite") == as_it_was
    assert load_minari("me/some-v0", download=False).n_episodes == 2
    # Once it is in its place.
    assert interrupted(collect.log, "info", "--overwrite").startswith("interrupted: me/some-v0 is whole, in ")
    assert load_minari("me/some-v0", download=False).n_episodes == 3


def test_the_same_command_gives_the_same_bytes(call: Call, root: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", steps=(10, 20), best=10)
    write_policy(tmp_path / "one.npz")
    files = []
    for options in ([], ["--n-envs", "2"]):
        policies = ["--policy", "run/checkpoints", "--policy", "one.npz"]
        assert call("me/same-v0", *policies, "--episodes", "9", "--noise", "0.7", "--overwrite", *options)[0] == 0
        files.append([path.read_bytes() for path in sorted((root / "me" / "same-v0").rglob("*.*"))])
    assert len(files[0]) == 2
    assert files[0] == files[1]
    assert call("me/same-v0", *policies, "--episodes", "9", "--noise", "0.7", "--overwrite", "--seed", "1")[0] == 0
    assert (root / "me/same-v0/data/main_data.hdf5").read_bytes() != files[0][0]


# ------------------------------------------------------------------------------------------------- when it is killed


def children_of(process_id: int) -> set[int]:
    """The processes that one has started."""
    found = Path(f"/proc/{process_id}/task").glob("*/children")
    return {int(child) for path in found for child in path.read_text().split()}


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_it_leaves_no_dataset_and_no_process(call: Call, root: Path, sent: signal.Signals) -> None:
    arguments = ["me/cut-v0", "--env", "Hopper-v5", "--policy", "random", "--episodes", "100000", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )

    def is_collecting(child: int) -> bool:
        """Whether it has loaded what an environment needs."""
        return is_running(child) and "mujoco" in Path(f"/proc/{child}/maps").read_text()

    def both_collect() -> bool:
        assert process.poll() is None
        return sum(map(is_collecting, children_of(process.pid))) == 2  # one more keeps count of what they share

    wait_until(both_collect)
    children = children_of(process.pid)
    assert leftovers(root) == ["me--cut-v0"]
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal sends it
    else:
        process.send_signal(sent)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert "Traceback" not in err
    wait_until(lambda: not any(map(is_running, children)))
    assert not minari.list_local_datasets()
    if sent == signal.SIGINT:
        assert err == "interrupted: nothing of me/cut-v0 is kept\n"
        assert not leftovers(root)
    assert call("me/cut-v0", "--policy", "random=2")[0] == 0
    assert list(minari.list_local_datasets()) == ["me/cut-v0"]
    assert not leftovers(root)
