"""Damaged and hostile checkpoints: each is used, or refused by name; none ends in an error of another kind."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config

import cql
from cql.config import ConfigError
from cql.rollout.envs import EnvError, env_info
from cql.training import build, checkpoint, experiment
from cql.training.checkpoint import CheckpointError
from cql.training.policy import PolicyError

ODD: list[Any] = [None, True, -1, 0, 2**80, 0.5, float("nan"), "", "x" * 1000, [], {}, [1], {"a": 1}]


@pytest.fixture(scope="module")
def written(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a run, and what it holds."""
    folder = tmp_path_factory.mktemp("run")
    train_config = tiny_config(dataset, "algorithm/alpha_cql=learned", "n_steps=10", "n_steps_per_epoch=10")
    experiment.run(train_config, folder)
    path = folder / "checkpoints" / "step_0000010.pt"
    return path, checkpoint.read(path)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys that lead to every member of nested dictionaries and lists."""
    members: list[tuple[Any, Any]] = []
    if isinstance(node, dict):
        members = list(node.items())
    elif isinstance(node, list):
        members = list(enumerate(node))
    return [found for key, value in members for found in ((*path, key), *places(value, (*path, key)))]


def odd_tensor(tensor: torch.Tensor, chance: random.Random) -> torch.Tensor:
    match chance.randrange(5):
        case 0:
            return tensor.flatten()[:1].clone()
        case 1:
            return tensor.unsqueeze(0).clone()
        case 2:
            return tensor.to(torch.complex64) if tensor.is_floating_point() else tensor.float()
        case 3:
            return torch.zeros(0)
        case _:
            return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else torch.zeros_like(tensor)


def mutated(contents: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A copy with one member taken out, replaced by an odd value, or given another shape or type."""
    found = copy.deepcopy(contents)
    *parents, last = chance.choice(places(found))
    node = found
    for key in parents:
        node = node[key]
    match chance.randrange(3):
        case 0:
            del node[last]
        case 1:
            node[last] = copy.deepcopy(chance.choice(ODD))
        case _:
            old = node[last]
            node[last] = odd_tensor(old, chance) if isinstance(old, torch.Tensor) else chance.choice(ODD)
    return found


def used(path: Path, contents: dict[str, Any]) -> str:
    """What becomes of a checkpoint that is evaluated, used from Python and resumed from."""
    try:
        with contextlib.suppress(PolicyError, EnvError):  # its bounds are none, or cannot be read
            policy = cql.load(path)
            policy.q(np.zeros(4), policy.act(np.zeros(4), sample=True))
        build.load_policy(path)
        loaded = checkpoint.load(path)
        info = env_info(contents["config"]["env"]["id"])
        agent = build_agent(contents["config"], info)
        agent.load_states([loaded["agent"]])
    except (CheckpointError, ConfigError):
        return "refused by name"
    except ValueError as error:
        if re.search("expected|holds|has no optimiser", str(error)):
            return "refused by name"  # by load_states; training makes a CheckpointError of it
        raise
    return "used"


def build_agent(config: dict[str, Any], info: Any) -> Any:
    from cql.algorithm.agent import Agent
    from cql.config import from_dict

    train_config = from_dict(config)
    numbers = [build.hyper_params(train_config, info)]
    return Agent(build.agent_config(train_config, info), numbers, [0], torch.device("cpu"))


@pytest.mark.parametrize(
    ("seed", "n"), [(0, 40), pytest.param(1, 2000, marks=[pytest.mark.slow])], ids=["short", "2000"]
)
def test_other_contents(written: tuple[Path, dict[str, Any]], tmp_path: Path, seed: int, n: int) -> None:
    chance, path = random.Random(seed), tmp_path / "step_0000010.pt"
    outcomes: Counter[str] = Counter()
    for _ in range(n):
        contents = mutated(written[1], chance)
        checkpoint.save(path, {key: value for key, value in contents.items() if key != "format_version"})
        outcomes[used(path, written[1])] += 1
    print(dict(outcomes))  # noqa: T201  shown with -rP
    assert sum(outcomes.values()) == n
    assert outcomes["refused by name"] > n / 4


@pytest.mark.parametrize(
    ("seed", "n"), [(0, 40), pytest.param(1, 2000, marks=[pytest.mark.slow])], ids=["short", "2000"]
)
def test_other_bytes(written: tuple[Path, dict[str, Any]], tmp_path: Path, seed: int, n: int) -> None:
    """Bytes that were altered by somebody who knows of the checksum, or by a disk, which does not."""
    import hashlib

    chance, path = random.Random(seed), tmp_path / "step_0000010.pt"
    whole = written[0].read_bytes()
    size = len(checkpoint._TRAILER) + 64
    outcomes: Counter[str] = Counter()
    for _ in range(n):
        body = bytearray(whole[:-size])
        match chance.randrange(3):
            case 0:
                body = body[: chance.randrange(len(body))]
            case 1:
                for _ in range(chance.randrange(1, 40)):
                    body[chance.randrange(len(body))] = chance.randrange(256)
            case _:
                begin = chance.randrange(len(body))
                body[begin : begin + chance.randrange(200)] = chance.randbytes(chance.randrange(200))
        if chance.random() < 0.8:
            path.write_bytes(bytes(body) + checkpoint._TRAILER + hashlib.sha256(body).hexdigest().encode())
        else:
            path.write_bytes(bytes(body) + whole[-size:])
        outcomes[used(path, written[1])] += 1
    print(dict(outcomes))  # noqa: T201
    assert outcomes["refused by name"] > n / 4


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "step_0000010.pt")
    with pytest.raises(CheckpointError, match="not a file"):
        checkpoint.load(tmp_path / "step_0000010.pt")


def test_what_may_not_be_read_is_not_called_damaged(
    written: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step_0000010.pt"
    path.write_bytes(written[0].read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def refuse(self: Path) -> bytes:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

        monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        checkpoint.load(path)
