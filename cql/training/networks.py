"""The networks of a checkpoint, by its plain config: no Hydra, so that a policy is loaded in no time.

Axes: N actions, B batch, S state, A action.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cql.algorithm import networks
from cql.algorithm.agent import Policy
from cql.algorithm.networks import Mlp, Parameters
from cql.training.checkpoint import CheckpointError, load

Values = Callable[[Tensor, Tensor], Tensor]
"""From observations (B, S) in the environment's units and actions (N, B, A) in [-1, 1] to (N, B)."""


def mlp_of(network: Mapping[str, Any], part: Mapping[str, Any] | None) -> Mlp:
    """The shape of a network.

    Args:
        network: that section of a plain config, of any version: a key that it lacks has its default.
        part: what the policy's network or the critics' have otherwise, if anything.
    """
    known = {**network, **{name: value for name, value in (part or {}).items() if value is not None}}
    return Mlp(**{each.name: known[each.name] for each in fields(Mlp) if each.name in known})


def actor_of(contents: Mapping[str, Any], path: Path) -> tuple[Mlp, Parameters, tuple[float, float]]:
    """Shape and parameters of a checkpoint's actor, a stack of one, and the bounds of its log standard deviation.

    Raises:
        CheckpointError: they are not in it.
    """
    with fitting(path, "actor"):
        algorithm = contents["config"]["algorithm"]
        return *_network(contents, "actor"), (float(algorithm["log_std_min"]), float(algorithm["log_std_max"]))


def critics_of(contents: Mapping[str, Any], path: Path) -> tuple[Mlp, Parameters]:
    """Shape and parameters of a checkpoint's critics, a stack of one.

    Raises:
        CheckpointError: they are not in it.
    """
    with fitting(path, "critics"):
        return _network(contents, "critics")


def policy_of(contents: Mapping[str, Any], path: Path) -> Policy:
    """The policy of a checkpoint.

    Raises:
        CheckpointError: its actor does not fit its config.
    """
    mlp, parameters, log_std = actor_of(contents, path)
    with fitting(path, "actor"):
        policy = Policy(mlp, parameters, contents["normaliser"]["mean"], contents["normaliser"]["std"], log_std)
        policy(np.zeros((1, 1, len(contents["normaliser"]["mean"])), np.float32))
        return policy


def values_of(contents: Mapping[str, Any], path: Path) -> Values:
    """The lowest value of a checkpoint's critics, in the units of the rewards that they learned from.

    Raises:
        CheckpointError: it holds no critics, or they do not fit its config.
    """
    (mlp, parameters), normaliser = critics_of(contents, path), contents["normaliser"]

    @torch.no_grad()
    def values(observations: Tensor, actions: Tensor) -> Tensor:
        with fitting(path, "critics"):
            states = ((observations - normaliser["mean"]) / normaliser["std"]).unsqueeze(0)
            return networks.critics(mlp, parameters, states, actions.unsqueeze(0))[0].amin(0)

    return values


def load_values(path: Path) -> Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.float32]]:
    """:func:`values_of` a file, from observations (B, S) and actions (N, A), the same for all, to (B, N).

    Raises:
        CheckpointError: the file is absent, damaged or of another format.
    """
    of_critics = values_of(load(path), path)

    def values(observations: NDArray[np.floating], actions: NDArray[np.floating]) -> NDArray[np.float32]:
        own = torch.tensor(actions, dtype=torch.float32)[:, None].expand(-1, len(observations), -1)
        found: NDArray[np.float32] = of_critics(torch.tensor(observations, dtype=torch.float32), own).T.numpy()
        return found

    return values


def _network(contents: Mapping[str, Any], part: str) -> tuple[Mlp, Parameters]:
    network = contents["config"]["network"]
    parameters = {name: each.unsqueeze(0) for name, each in contents["agent"]["parameters"][part].items()}
    return mlp_of(network, network.get(part.removesuffix("s"))), parameters


@contextmanager
def fitting(path: Path, part: str) -> Iterator[None]:
    """What contents that are not as they should be raise becomes an error that names the file."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path}: its {part} does not fit its config ({type(error).__name__}: {error})"
        ) from error
