"""A trained policy for use elsewhere, in the environment's own units.

Neither Hydra nor an environment is imported: networks and bounds come from the checkpoint. One from before checkpoints
held the bounds of the actions is the exception.
Axes: B batch, S state, A action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cql.rollout import envs
from cql.rollout.observations import at, flat
from cql.training import checkpoint as checkpoints
from cql.training import tensor_file
from cql.training.checkpoint import CheckpointError, CheckpointFolder
from cql.training.networks import Values, fitting, policy_of, values_of

Observation = ArrayLike | Mapping[str, Any]
Bounds = tuple[ArrayLike, ArrayLike]

_FOREIGN = {
    ".onnx": "an ONNX model: run it with onnxruntime.InferenceSession",
    ".ts": "a TorchScript module: load it with torch.jit.load",
}
_KEPT = ("step", "config", "normaliser", "scores", "spaces", "commit")  # besides the networks


class PolicyError(ValueError):
    """An observation, an action or bounds that do not fit a policy; the message names the sizes that do."""


@dataclass(frozen=True, eq=False)
class Spaces:
    """What a policy observes and does.

    Attributes:
        observation_size: S.
        action_low: lower bounds of the actions in the environment's units, float32 (A,).
        action_high: upper bounds, float32 (A,).
        observation_keys: the parts of a Dict observation in their order; empty if observations are vectors.
    """

    observation_size: int
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    observation_keys: tuple[str, ...]


class Policy:
    """A trained policy and its critics, made by :func:`load`.

    Attributes:
        config: all keys of the run, as nested dictionaries of plain values.
        spaces: what it observes and does, a :class:`Spaces`.
        step: training steps done.
    """

    def __init__(self, contents: Mapping[str, Any], path: Path, bounds: Bounds | None = None) -> None:
        self.config: dict[str, Any] = contents["config"]
        self.step: int = contents["step"]
        self._contents, self._path, self._policy = contents, path, policy_of(contents, path)
        size = len(contents["normaliser"]["mean"])
        n_actions = self._policy(np.zeros((1, 1, size), np.float32)).shape[-1]
        self.spaces = _spaces(contents, path, bounds, size, n_actions)

    def act(
        self, observation: Observation, *, sample: bool = False, seed: int | np.random.Generator | None = None
    ) -> NDArray[np.float32]:
        """Act as in an evaluation, bit for bit if torch uses as many threads.

        Args:
            observation: as the environment gives it, (S,), or a batch (B, S). If the run's environment gives a Dict,
                also a mapping of arrays, which have one axis more in a batch.
            sample: draw from the policy instead of taking its mode.
            seed: of the draw: an integer draws the same at each call, a generator continues from call to call, None
                draws at random.

        Returns:
            (A,) or (B, A) in the environment's units, within its bounds.

        Raises:
            PolicyError: the observation has another shape or other keys, or is not finite.
        """
        rows, is_one = self._rows(observation)
        low, high = self.spaces.action_low, self.spaces.action_high
        noise = np.random.default_rng(seed).standard_normal((1, len(rows), len(low)), np.float32) if sample else None
        actions = envs.to_env_actions(self._policy(rows[None], noise)[0], low, high)
        return actions[0] if is_one else actions

    def q(self, observation: Observation, action: ArrayLike) -> float | NDArray[np.float32]:
        """The lowest of the critics' values: the discounted return that they expect.

        It is in the units of the rewards that the critics learned from: ``dataset.reward_scale``, ``reward_bias`` and
        ``normalise_rewards`` of :attr:`config` say which.

        Args:
            observation: as for :meth:`act`.
            action: in the environment's units, (A,) for one observation and (B, A) for a batch; what lies outside the
                bounds is clipped.

        Returns:
            A number, or (B,).

        Raises:
            PolicyError: the observation or the action has another shape, or the observation is not finite.
            CheckpointError: the file holds no critics.
        """
        rows, is_one = self._rows(observation)
        low, high = self.spaces.action_low, self.spaces.action_high
        actions, expected = _numbers(action, "the action"), low.shape if is_one else (len(rows), *low.shape)
        if actions.shape != expected:
            raise PolicyError(f"the action has the shape {actions.shape}; {expected} is needed")
        scaled = torch.from_numpy(envs.from_env_actions(np.atleast_2d(actions), low, high))
        values: NDArray[np.float32] = self._values(torch.from_numpy(rows), scaled[None])[0].numpy()
        return float(values[0]) if is_one else values

    @cached_property
    def _values(self) -> Values:
        return values_of(self._contents, self._path)

    def _rows(self, observation: Observation) -> tuple[NDArray[np.float32], bool]:
        """An observation or a batch as (B, S), and whether it is one observation."""
        size, keys = self.spaces.observation_size, self.spaces.observation_keys
        if isinstance(observation, Mapping):
            try:
                n_axes = min(np.ndim(at(observation, key)) for key in keys) - 1
                observation = flat(observation, keys, max(n_axes, 0))
            except (LookupError, TypeError, ValueError) as error:
                given = ", ".join(map(str, observation))
                needed = f"arrays under {', '.join(keys)}, with the same batch," if keys else "an array"
                raise PolicyError(f"the observation is a mapping of {given}; {needed} is needed ({error})") from error
        rows = _numbers(observation, "the observation")
        if rows.ndim not in (1, 2) or rows.shape[-1] != size or not len(rows):
            raise PolicyError(f"the observation has the shape {rows.shape}; ({size},) or (B, {size}) is needed")
        if not np.isfinite(rows).all():
            raise PolicyError("the observation holds values that are NaN or infinite")
        return np.atleast_2d(rows), rows.ndim == 1


def load(
    path: str | Path,
    checkpoint: str | int | None = None,
    *,
    action_low: ArrayLike | None = None,
    action_high: ArrayLike | None = None,
) -> Policy:
    """Load a trained policy. No code of the file is run.

    Args:
        path: of a run's folder, of a checkpoint, or of a ``.safetensors`` file that ``scripts/export.py`` wrote.
        checkpoint: of a run's folder: ``best``, ``last`` or a step; None is the best one, or the last one where
            nothing says which is the best.
        action_low: lower bounds of the environment's actions, (A,), if the file does not hold them. Checkpoints of
            earlier versions do not; without bounds their environment is made to read them.
        action_high: upper bounds, (A,), given together with ``action_low``.

    Returns:
        The policy with its critics, on the CPU.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it is a file for another program.
        EnvError: the bounds are not in the file, and the environment cannot be made.
        PolicyError: the bounds do not fit the policy.
        MissingPackageError: safetensors is not installed.
    """
    if (action_low is None) != (action_high is None):
        raise PolicyError("action_low and action_high are given together")
    file = find(Path(path), None if checkpoint is None else str(checkpoint))
    return Policy(read(file), file, None if action_low is None or action_high is None else (action_low, action_high))


def find(path: Path, checkpoint: str | None = None) -> Path:
    """The file that :func:`load` reads.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "checkpoints").is_dir():
        folder = CheckpointFolder(path / "checkpoints")
        return folder.find(checkpoint or ("best" if folder.best.exists() else "last"))
    if path.is_dir():
        raise CheckpointError(
            f"{path} holds no checkpoints: give the folder of a run that has some; of a sweep, one of its runs"
        )
    if checkpoint is not None:
        raise CheckpointError(
            f"{path} is not the folder of a run: leave out checkpoint={checkpoint}, or give the folder"
        )
    return path


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint or an exported file, without what only a resumed training needs.

    Raises:
        CheckpointError: it cannot be read, is damaged, or is a file for another program.
    """
    if path.suffix in _FOREIGN:
        raise CheckpointError(f"{path} is {_FOREIGN[path.suffix]}; cql.load reads checkpoints and safetensors files")
    if path.suffix == tensor_file.SUFFIX:
        return tensor_file.read(path)
    contents = checkpoints.load(path, policy_only=True)
    parameters = contents["agent"]["parameters"]
    networks = {part: parameters[part] for part in ("actor", "critics") if part in parameters}
    return {key: contents[key] for key in _KEPT if key in contents} | {"agent": {"parameters": networks}}


def _spaces(contents: Mapping[str, Any], path: Path, bounds: Bounds | None, size: int, n_actions: int) -> Spaces:
    own = contents.get("spaces") or _spaces_of_env(contents["config"], path, is_made=bounds is None)
    given = bounds or (own["action_low"], own["action_high"])
    low, high = (_numbers(each, name) for each, name in zip(given, ("action_low", "action_high"), strict=True))
    if not low.shape == high.shape == (n_actions,) or not (np.isfinite([low, high]).all() and (low < high).all()):
        raise PolicyError(f"{path}: the action bounds are {low} to {high}; {n_actions} finite numbers each are needed")
    return Spaces(size, low, high, tuple(own["observation_keys"] or ()))


def _spaces_of_env(config: Mapping[str, Any], path: Path, *, is_made: bool) -> Mapping[str, Any]:
    """The spaces of a run of an earlier version, which did not write them down; without bounds if it is not made."""
    with fitting(path, "environment"):
        env = config["env"]
        spec = envs.EnvSpec.of(env["id"], *map(env.get, ("kwargs", "max_episode_steps", "observation_keys")))
    if not is_made:
        return {"observation_keys": spec.observation_keys}
    try:
        envs.refuse_foreign_package(spec.id, str(path), None, "read the bounds of the actions of")
        info = envs.env_info(spec)
    except envs.EnvError as error:
        remedy = "cql.load takes bounds as action_low= and action_high=, which this file of an earlier version lacks"
        raise envs.EnvError(f"{error}; {remedy}") from error
    return {"action_low": info.action_low, "action_high": info.action_high, "observation_keys": info.observation_keys}


def _numbers(values: Any, name: str) -> NDArray[np.float32]:
    try:
        return np.asarray(values).astype(np.float32, casting="same_kind")
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(f"{name} is not an array of numbers ({error})") from error
