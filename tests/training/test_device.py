"""How many runs fit into a stack."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from cql.rollout.envs import env_info
from cql.training import build, device, limits


def test_the_default_size_is_what_fits(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "free_memory", lambda: 2**30)
    wide = tiny_config(dataset, "network.width=1024", "batch_size=1024")
    size, why = device.fitting_stack_size(wide)
    assert 1 < size < 20
    assert "of the 1024 MiB that are free on cpu" in why
    assert device.fitting_stack_size(wide, workers=2)[0] == size // 2
    assert device.fitting_stack_size(tiny_config(dataset, "network.width=4096"))[0] == 1
    monkeypatch.setattr(device, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**36))  # free and total
    assert "of the 1024 MiB that are free on cuda" in device.fitting_stack_size(wide)[1]


def test_what_a_run_takes(dataset: Path) -> None:
    sized = tiny_config(dataset, "network.width=256", "network.depth=2", "algorithm.num_sampled_actions=10")
    shape = build.agent_config(sized, env_info(sized.env.id))
    assert (shape.observation_size + shape.action_size, shape.next_actions) == (5, True)
    rows = 256 * 31
    numbers = 12 * rows * 5 + 24 * ((5 + 2) * 256 + 256**2)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert device.run_bytes(shape, 256, cpu) == 4 * numbers + 8 * 2**20
    assert device.run_bytes(shape, 256, gpu) == 4 * (numbers + 2 * rows * 2 * 2 * 256) + 8 * 2**20
    assert device.run_bytes(shape, 256, cpu, fast=False) == device.run_bytes(shape, 256, gpu)


def test_open_files_limit_a_stack(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(dataset)
    monkeypatch.setattr(limits, "allow_open_files", lambda: 48)
    size, why = device.fitting_stack_size(config)
    assert size == 8
    assert "ulimit -Hn" in why
    monkeypatch.setattr(limits, "allow_open_files", lambda: 20)
    assert device.fitting_stack_size(config)[0] == 1
    monkeypatch.setattr(limits, "allow_open_files", lambda: resource.RLIM_INFINITY)
    assert "ulimit" not in device.fitting_stack_size(config)[1]


JOB, JOB_V1 = "slurm/job_7/memory", "memory/slurm/job_7/memory"


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/\n", {"memory.max": 1000, "memory.current": 400}, [600]),
        ("0::/\n", {"memory.max": "max", "memory.current": 400}, []),
        # The step of a job of SLURM: the limit is that of the job, two levels above. Cached files do not count.
        (
            "0::/slurm/job_7/step_0/task_0\n",
            {f"{JOB}.max": 1000, f"{JOB}.current": 900, f"{JOB}.stat": "anon 8\ninactive_file 300"},
            [400],
        ),
        # In a container, the name is that of a group outside.
        ("0::/of/the/host\n", {"memory.max": 1000, "memory.current": 400}, [600]),
        (
            "9:cpu,cpuacct:/x\n5:memory:/slurm/job_7\n",
            {f"{JOB_V1}.limit_in_bytes": 1000, f"{JOB_V1}.usage_in_bytes": 100},
            [900],
        ),
        ("", {}, []),
    ],
)
def test_the_limits_of_control_groups_count(
    own: str, files: dict[str, object], free: list[int], tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(own)
    for name, contents in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{contents}\n")
    assert limits._free_in_groups(tmp_path / "groups", tmp_path / "own") == free
    if free:
        assert limits.free_memory(tmp_path / "groups", tmp_path / "own") == min(free)
    assert limits.free_memory(tmp_path / "groups", tmp_path / "absent") > 2**20
