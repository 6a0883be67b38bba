"""The entry points: one process each as a user starts them, and forked ones where only the outcome matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import children
import pytest
import torch
from PIL import Image
from tiny import OVERRIDES
from wandb_reader import offline_runs

from cql.rollout.rendering import choose_backend

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # A test that opened W&B in this process leaves its service in the environment; the child needs one of its own.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={
            **inherited,
            "WANDB_DIR": str(cwd),
            "WANDB_CACHE_DIR": str(cwd),
            "WANDB_DATA_DIR": str(cwd),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def train(dataset: Path, *overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "scripts" / "train.py")
    return call(script, "dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, *overrides, cwd=cwd)


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_its_wandb_record_its_evaluation_its_resume_and_its_videos(dataset: Path, tmp_path: Path) -> None:
    can_draw = choose_backend() is not None
    result = train(
        dataset,
        "logger=wandb",
        "logger.mode=offline",
        "logger.group=tests",
        "logger.tags=[tiny,pendulum]",
        "logger.log_checkpoints=true",
        "video.enabled=true",
        "video.seconds=0.5",
        "video.size=64",
        "n_evals_per_video=3",
        "hydra.run.dir=run",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "run"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert "step 60/60" in (run_dir / "train.log").read_text()
    assert {path.name for path in (run_dir / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}

    (recorded,) = offline_runs(run_dir)
    assert (recorded.exit_code, recorded.group, recorded.job_type) == (0, "tests", "train")
    assert recorded.tags == ["tiny", "pendulum"]
    assert recorded.config["algorithm"]["alpha_cql"] == {"kind": "fixed", "value": 5.0}
    assert recorded.config["dataset"]["path"] == str(dataset)
    assert recorded.rows("step", "cql_gap") == [(row["step"], row["cql_gap"]) for row in rows]
    assert recorded.summary["status"] == "finished"
    assert recorded.summary["eval_return_mean"] == rows[-1]["eval_return_mean"]
    assert {type_ for _, type_ in recorded.artifacts} >= {"checkpoint"}

    with Image.open(run_dir / "key_curves.png") as figure:
        assert figure.width > 1000

    video = ["--gif", "again.gif"] if can_draw else []
    evaluated = call(str(ROOT / "scripts" / "evaluate.py"), str(run_dir), "--episodes", "2", *video, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"return {rows[-1]['eval_return_mean']:.1f} +- {rows[-1]['eval_return_std']:.1f}" in evaluated.stdout

    # Without its summary the run has not ended as far as anyone can tell: only the ending is done again.
    before = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "summary.json").unlink()
    (run_dir / "key_curves.png").unlink()
    resumed = call(str(ROOT / "scripts" / "train.py"), "resume=run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    assert (run_dir / "key_curves.png").exists()
    first, second = offline_runs(run_dir)
    assert first.id == second.id
    assert second.rows("step", "cql_gap") == []
    assert not (tmp_path / "outputs").exists()

    if not can_draw:
        pytest.skip("no backend can render here; all but the videos was tested")
    for step in (30, 60):
        with Image.open(run_dir / "videos" / f"step_{step:07d}.gif") as picture:
            assert picture.size == (64, 64)
            assert picture.n_frames > 1
    assert (run_dir / "videos" / "step_0000060.mp4").stat().st_size > 0
    assert [Path(name).suffix for name in recorded.files].count(".gif") == 2
    assert (tmp_path / "again.gif").exists()


WRONG = {
    "algorithm.alpha_cql.tau_cql=5": "algorithm/alpha_cql=learned",
    "algorithm.discuont=0.9": "algorithm.discount",
    "algorithm.critic_learning_rate=-1e-3": "algorithm.critic_learning_rate",
    "n_steps=ten": "n_steps",
    "n_steps=5": "n_steps_per_epoch",
}
# `scripts/train.py` once for each of the overrides, in forked processes of an interpreter that has never seen torch.
WITH_EACH = """
import json, os, runpy, sys
script, *overrides = sys.argv[1:]
import hydra
assert "torch" not in sys.modules
for number, override in enumerate(overrides):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"stderr-{number}", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = [script, "+experiment=smoke", override]
        runpy.run_path(script, run_name="__main__")
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Exit code and standard error of each wrong override, and the files that appeared in the working directory."""
    stub, cwd = tmp_path_factory.mktemp("stub"), tmp_path_factory.mktemp("wrong")
    (stub / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    result = call("-c", WITH_EACH, str(ROOT / "scripts" / "train.py"), *WRONG, cwd=cwd, PYTHONPATH=str(stub))
    assert result.returncode == 0, result.stderr
    codes = [int(line) for line in result.stdout.split()]
    outcomes = {}
    for number, (override, code) in enumerate(zip(WRONG, codes, strict=True)):
        path = cwd / f"stderr-{number}"
        outcomes[override] = code, path.read_text()
        path.unlink()
    return outcomes, [path.name for path in cwd.iterdir()]


@pytest.mark.parametrize(("override", "message"), WRONG.items())
def test_a_wrong_config_dies_by_name_before_torch_is_imported(
    override: str, message: str, wrong: tuple[dict[str, tuple[int, str]], list[str]]
) -> None:
    outcomes, left = wrong
    code, stderr = outcomes[override]
    assert code == 2, stderr
    assert message in stderr
    assert "Traceback" not in stderr
    assert left == []


@pytest.mark.parametrize("enabled", [True, False])
def test_what_can_draw_is_found_out_while_torch_is_imported(enabled: bool, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import sys\n"
        "rendering = sys.modules.get('cql.rollout.rendering')\n"
        "children = [] if rendering is None else list(rendering._begun.values())\n"
        "for child in children: child.kill(); child.communicate()\n"
        "raise SystemExit(f'{len(children)} begun')\n"
    )
    overrides = ["+experiment=smoke", f"video.enabled={str(enabled).lower()}"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = call(str(ROOT / "scripts" / "train.py"), *overrides, cwd=tmp_path, PYTHONPATH=path, MUJOCO_GL="egl")
    assert f"{int(enabled)} begun" in result.stderr


def test_an_unusable_dataset_is_a_message(dataset: Path, tmp_path: Path) -> None:
    result = children.train(dataset, tmp_path, "env=Hopper-v5", "hydra.run.dir=run")
    assert result.code == 1
    assert "DatasetError" in result.text
    assert "Hopper-v5" in result.text
    assert "Traceback" not in result.text


@pytest.mark.slow
@pytest.mark.ci
def test_a_multirun_gives_each_run_its_folder_and_torch_reads_its_checkpoints(dataset: Path, tmp_path: Path) -> None:
    result = train(
        dataset, "seed=0,1", "n_steps=10", "logger=wandb", "logger.mode=offline", "hydra.sweep.dir=sweep", "-m",
        cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    folders = sorted(path.parent for path in (tmp_path / "sweep").glob("*/summary.json"))
    assert len(folders) == 2
    recorded = [offline_runs(folder) for folder in folders]
    assert [len(runs) for runs in recorded] == [1, 1]
    assert len({runs[0].id for runs in recorded}) == 2
    assert [runs[0].config["seed"] for runs in recorded] == [0, 1]
    assert all(runs[0].exit_code == 0 for runs in recorded)
    for folder in folders:
        contents = torch.load(folder / "checkpoints" / "step_0000010.pt", weights_only=True)
        assert contents["step"] == 10


def test_a_run_that_fails_says_so_in_its_folder_and_in_wandb(dataset: Path, tmp_path: Path) -> None:
    result = train(
        dataset, "dataset.reward_scale=1e38", "logger=wandb", "logger.mode=offline", "hydra.run.dir=run", cwd=tmp_path
    )
    assert result.returncode == 1
    assert "RunFailed" in result.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    (recorded,) = offline_runs(tmp_path / "run")
    assert recorded.exit_code == 1
    assert recorded.summary["status"] == "failed"


def test_evaluating_what_is_not_a_run_is_a_message(tmp_path: Path) -> None:
    result = call(str(ROOT / "scripts" / "evaluate.py"), str(tmp_path / "nowhere"), cwd=tmp_path)
    assert result.returncode == 2
    assert "is not the folder of a run" in result.stderr
    assert "Traceback" not in result.stderr
