"""How many runs fit into a stack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from cql.rollout.envs import env_info
from cql.training import build, device


def test_the_default_size_is_what_fits(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_free_memory", lambda: 2**30)
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
