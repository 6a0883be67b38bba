"""Which runs resume together, and from which step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from cql.training import experiment, run_folder
from cql.training.checkpoint import CheckpointError, CheckpointFolder
from cql.training.local_logger import read_metrics
from cql.training.resume import grouped_by_step, stacks_to_resume
from cql.training.run_folder import FolderError

A, B, C = Path("a"), Path("b"), Path("c")


@pytest.mark.parametrize(
    ("steps", "groups"),
    [
        ({A: {0}, B: {0}}, [[A, B]]),
        ({A: {10, 20}, B: {10}}, [[A, B]]),
        ({A: {10}, B: {20}}, [[A], [B]]),
        ({A: {10, 20}, B: {20, 30}, C: {30}}, [[A, B], [C]]),
        ({A: {10}, B: {20}, C: {10, 20}}, [[A, C], [B]]),
        ({}, []),
    ],
)
def test_runs_with_a_step_in_common_are_together(steps, groups):
    assert grouped_by_step(steps) == groups


# As little as the checkpoint of a run can hold.
CONTENTS = {
    "config": {},
    "agent": {"n_steps_done": 0, "parameters": {}, "optimisers": {}},
    "sampler": torch.zeros(0),
    "epoch": {"sums": torch.zeros(0), "count": 0},
    "normaliser": {"mean": torch.zeros(0), "std": torch.zeros(0)},
    "scores": dict.fromkeys(("last_return", "last_std", "best_return", "best_step")),
    "last_metrics": {},
    "versions": {},
    "data_fingerprint": "",
}


def with_checkpoints(folder: Path, *steps: int) -> Path:
    checkpoints = CheckpointFolder(folder / "checkpoints")
    for step in steps:
        checkpoints.write(step, {**CONTENTS, "step": step})
    return folder


def test_the_newest_step_that_all_have(tmp_path):
    a = with_checkpoints(tmp_path / "a", 10, 20, 30)
    b = with_checkpoints(tmp_path / "b", 10, 20)
    (stack,), errors = stacks_to_resume([a, b])
    assert errors == {}
    assert stack.step == 20
    assert [stack.checkpoints[each]["step"] for each in (a, b)] == [20, 20]


def test_runs_at_their_beginning_have_no_checkpoint(tmp_path):
    (stack,), errors = stacks_to_resume([tmp_path / "a", tmp_path / "b"])
    assert errors == {}
    assert stack.step == 0
    assert stack.checkpoints == {tmp_path / "a": None, tmp_path / "b": None}


def test_a_damaged_checkpoint_is_named_and_all_go_back_to_the_one_before(tmp_path, caplog):
    a = with_checkpoints(tmp_path / "a", 10, 20)
    b = with_checkpoints(tmp_path / "b", 10, 20)
    path = b / "checkpoints" / "step_0000020.pt"
    path.write_bytes(b"half a fi")
    (stack,), errors = stacks_to_resume([a, b])
    assert errors == {}
    assert stack.step == 10
    assert stack.checkpoints.keys() == {a, b}
    assert "step_0000020.pt: damaged" in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_is_left_out(tmp_path):
    a = with_checkpoints(tmp_path / "a", 10)
    b = with_checkpoints(tmp_path / "b", 10)
    (b / "checkpoints" / "step_0000010.pt").write_bytes(b"")
    (stack,), errors = stacks_to_resume([a, b])
    assert stack.checkpoints.keys() == {a}
    assert list(errors) == [b]
    assert isinstance(errors[b], CheckpointError)
    assert "step_0000010.pt" in str(errors[b])


def test_results_without_a_checkpoint_are_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text("{}\n")
    stacks, errors = stacks_to_resume([tmp_path / "a"])
    assert stacks == []
    assert isinstance(errors[tmp_path / "a"], FolderError)
    assert "holds results but no checkpoint" in str(errors[tmp_path / "a"])


@pytest.mark.usefixtures("no_figures")
def test_runs_without_a_step_in_common_train_in_separate_stacks(dataset, tmp_path, caplog):
    configs = [tiny_config(dataset, f"seed={seed}") for seed in (0, 1)]
    undisturbed, folders = [[tmp_path / place / str(seed) for seed in (0, 1)] for place in ("undisturbed", "resumed")]
    for place in (undisturbed, folders):
        for each, folder in zip(configs, place, strict=True):
            run_folder.claim_folder(each, folder)
        outcomes = experiment.run_stack(configs, place)
    for folder, step in zip(folders, (40, 50), strict=True):
        (folder / "summary.json").unlink()
        for path in (folder / "checkpoints").glob("step_*.pt"):
            if path.name != f"step_{step:07d}.pt":
                path.unlink()
    assert experiment.run_stack(configs, folders) == outcomes
    assert "2 runs have no checkpoint of one step in common; they train in 2 stacks" in caplog.text
    for folder, reference in zip(folders, undisturbed, strict=True):
        for row, expected in zip(read_metrics(folder), read_metrics(reference), strict=True):
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-6)  # rounding depends on the stack
        assert json.loads((folder / "summary.json").read_text())["step"] == 60
