"""The values of a checkpoint's critics."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cql import config
from cql.algorithm import networks
from cql.training.build import mlp
from cql.training.checkpoint import CheckpointError, load

Values = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.float32]]
"""From observations (B, S) in the environment's units and actions (N, A) in [-1, 1], the same for all, to (B, N)."""


def load_values(path: Path) -> Values:
    """The lowest value of a checkpoint's critics, in the units of the rewards that they learned from.

    Raises:
        CheckpointError: the file is absent, damaged or of another format.
    """
    checkpoint = load(path)
    network = config.from_dict(checkpoint["config"]).network
    shape = mlp(network, network.critic)
    mean, std = (checkpoint["normaliser"][key] for key in ("mean", "std"))
    try:
        parameters = {name: each.unsqueeze(0) for name, each in checkpoint["agent"]["parameters"]["critics"].items()}
    except (KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} holds no critics") from error

    @torch.no_grad()
    def values(observations: NDArray[np.floating], actions: NDArray[np.floating]) -> NDArray[np.float32]:
        states = ((torch.tensor(observations, dtype=torch.float32) - mean) / std).unsqueeze(0)
        own = torch.tensor(actions, dtype=torch.float32)[None, :, None].expand(1, len(actions), len(observations), -1)
        found: NDArray[np.float32] = networks.critics(shape, parameters, states, own)[0].amin(0).T.numpy()
        return found

    return values
