"""The tensors that training reads.

Axes: M transitions, N rows of observations, S state features, A action features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cql.data.checks import place
from cql.data.raw import DatasetError, RawData, fingerprint, slices
from cql.rollout.envs import from_env_actions

if TYPE_CHECKING:
    import torch

# Added to every standard deviation, as CORL and TD3+BC do, so that a constant feature does not divide by zero.
STD_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Normaliser:
    """Shift and scale of observations; zeros and ones leave them as they are.

    Attributes:
        mean: (S,) float32.
        std: (S,) float32, its floor included.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def apply(self, observations: torch.Tensor) -> torch.Tensor:
        """Return `(observations - mean) / std`; (..., S) to (..., S)."""
        return (observations - self.mean) / self.std

    def cpu(self) -> Normaliser:
        """The same on the CPU."""
        return Normaliser(self.mean.cpu(), self.std.cpu())


@dataclasses.dataclass(frozen=True, eq=False)
class Transitions:
    """What training reads: contiguous float32 tensors on one device, gathered by index.

    Attributes:
        rows: (N, S), the observations, normalised.
        row: (M,) int64, the row of a transition's observation; its next observation is the row after that.
        actions: (M, A), scaled to [-1, 1].
        rewards: (M,), scaled and shifted.
        terminated: (M,), 1 if the return stops here, else 0.
        normaliser: what was applied to the observations, for use on those of the environment.
        fingerprint: 16 hexadecimal digits that identify the raw data, whatever was made of them.
        episode_lengths: (E,) int64, the transitions of each episode, in their order.
        reward_scale: rewards are those of the environment times this, plus `reward_bias`.
        reward_bias: see `reward_scale`. Both are NaN where datasets that were joined have their own.
        shares: for each dataset that was joined its number of transitions, and its ratio in a minibatch; None if all
            transitions are drawn alike.
        held_out: the episodes that training does not see, prepared in the same way; None if there are none.
    """

    rows: torch.Tensor
    row: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    terminated: torch.Tensor
    normaliser: Normaliser
    fingerprint: str
    episode_lengths: NDArray[np.int64]
    reward_scale: float = 1.0
    reward_bias: float = 0.0
    shares: tuple[tuple[int, float], ...] | None = None
    held_out: Transitions | None = None

    def __len__(self) -> int:
        return self.rewards.shape[0]

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first transition of each episode, (E,)."""
        return np.cumsum(self.episode_lengths) - self.episode_lengths

    @property
    def observations(self) -> torch.Tensor:
        """(M, S), gathered anew at each call."""
        return self.rows[self.row]

    @property
    def next_observations(self) -> torch.Tensor:
        """(M, S), gathered anew at each call."""
        return self.rows[self.row + 1]


def prepare(
    raw: RawData,
    *,
    action_low: NDArray[np.float32],
    action_high: NDArray[np.float32],
    normalise_observations: bool = False,
    reward_scale: float = 1.0,
    reward_bias: float = 0.0,
    timeouts_as_terminals: bool = False,
    normalised_length: int | None = None,
    action_clip: float | None = None,
    device: str | torch.device = "cpu",
    in_place: bool = False,
    normaliser: Normaliser | None = None,
) -> Transitions:
    """Turn a checked dataset into the tensors training reads.

    Args:
        raw: the dataset. With `in_place` it is used up.
        action_low: (A,) lower bounds of the environment's actions, which become -1.
        action_high: (A,) upper bounds, which become 1.
        normalise_observations: subtract the mean and divide by the standard deviation + 1e-3, as CORL does; both are
            those of `observations` (not of `next_observations`).
        reward_scale: rewards become `reward * reward_scale + reward_bias`.
        reward_bias: see `reward_scale`.
        timeouts_as_terminals: let a truncated episode end the return too. This teaches the critic an end that does
            not exist; it is there to compare with programs that do so.
        normalised_length: the environment's time limit, to first divide the rewards by the range of the episodes'
            returns and multiply them by this, as CORL does; None leaves them.
        action_clip: largest magnitude of the scaled actions; None leaves them.
        device: of the tensors.
        in_place: let the tensors take over the memory of `raw` and change it; without it they get their own.
        normaliser: what to normalise observations with; None for the mean and the deviation of these.
    """
    import torch

    identity = fingerprint(raw)
    if not normalise_observations:
        size = raw.rows.shape[1]
        normaliser = Normaliser(_tensor(np.zeros(size), device), _tensor(np.ones(size), device))
    elif normaliser is None:
        normaliser = normaliser_of([raw], device)
    if normalised_length is not None:
        reward_scale *= normalised_length / _range_of_returns(raw)
    rows, row, actions, bound = raw.rows, raw.row, raw.actions, 1.0 if action_clip is None else action_clip
    if not in_place:
        rows, row, actions = rows.copy(), row.copy(), actions.copy()
    for part in slices(len(actions)):
        actions[part] = from_env_actions(actions[part], action_low, action_high).clip(-bound, bound)
    observations = torch.from_numpy(rows).to(device)
    if normalise_observations:
        for part in slices(len(rows)):
            observations[part] = normaliser.apply(observations[part])
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is told below
        rewards = _tensor(raw.rewards * reward_scale + reward_bias, device)
    _check_finite(raw, observations, rewards)
    return Transitions(
        rows=observations,
        row=torch.from_numpy(row).to(device),
        actions=torch.from_numpy(actions).to(device),
        rewards=rewards,
        terminated=_tensor(raw.terminated | raw.truncated if timeouts_as_terminals else raw.terminated, device),
        normaliser=normaliser,
        fingerprint=identity,
        episode_lengths=raw.episode_lengths,
        reward_scale=reward_scale,
        reward_bias=reward_bias,
    )


def normaliser_of(raws: Sequence[RawData], device: str | torch.device = "cpu") -> Normaliser:
    """What normalises the observations of several datasets by the mean and the deviation of them all."""
    mean, std = _moments(raws)
    return Normaliser(_tensor(mean, device), _tensor(std + STD_FLOOR, device))


def join(parts: Sequence[Transitions], ratios: Sequence[float] | None = None) -> Transitions:
    """Several datasets as one, one after the other; they are in memory twice until this returns.

    Args:
        parts: with the same sizes, the same normaliser and on the same device.
        ratios: the shares of the datasets in a minibatch, up to a common factor; None draws all transitions alike.
    """
    import torch

    def joined(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    first_rows = np.cumsum([0, *(len(part.rows) for part in parts)])
    scales = {(part.reward_scale, part.reward_bias) for part in parts}
    scale, bias = scales.pop() if len(scales) == 1 else (np.nan, np.nan)
    held_out = [part.held_out for part in parts if part.held_out is not None]
    return Transitions(
        rows=joined("rows"),
        row=torch.cat([part.row + int(first) for part, first in zip(parts, first_rows[:-1], strict=True)]),
        actions=joined("actions"),
        rewards=joined("rewards"),
        terminated=joined("terminated"),
        normaliser=parts[0].normaliser,
        fingerprint=hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()[:16],
        episode_lengths=np.concatenate([part.episode_lengths for part in parts]),
        reward_scale=scale,
        reward_bias=bias,
        shares=None if ratios is None else tuple(zip(map(len, parts), ratios, strict=True)),
        held_out=join(held_out) if held_out else None,
    )


def _range_of_returns(raw: RawData) -> float:
    """The largest less the smallest undiscounted return of an episode."""
    found = float(np.ptp(raw.episode_returns))
    if not found > 0.0:
        raise DatasetError(
            f"dataset '{raw.name}': all episodes have the return {raw.episode_returns[0]:g}, so rewards cannot be "
            "divided by the range of returns: set dataset.normalise_rewards=false"
        )
    return found


def _check_finite(raw: RawData, observations: torch.Tensor, rewards: torch.Tensor) -> None:
    """Refuse numbers that were finite in the file and are not once they are normalised or scaled."""
    for part in slices(len(observations)):
        wrong = ~observations[part].isfinite()
        if wrong.any():
            index, column = (int(each) for each in wrong.nonzero()[0])
            row = max(int(np.searchsorted(raw.row, part.start + index, side="right")) - 1, 0)
            raise DatasetError(
                f"dataset '{raw.name}': column {column} of the observations is not finite in float32 once it is "
                f"normalised, first in {place(raw, row)}: repair it, or set dataset.normalise_observations=false"
            )
    wrong = ~rewards.isfinite()
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DatasetError(
            f"dataset '{raw.name}': the reward of {place(raw, row)}, {raw.rewards[row]:g}, is not finite in float32 "
            "once it is scaled: choose a smaller dataset.reward_scale and dataset.reward_bias"
        )


def _moments(raws: Sequence[RawData]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of all observations, (S,) each, as NumPy's own but without arrays of their size.

    Row is added to row in float64, as NumPy does it, so the sums are the same to the last bit.
    """

    def total(deviations_from: NDArray[np.float64] | None) -> NDArray[np.float64]:
        so_far = np.empty((0, raws[0].rows.shape[1]))
        for raw, part in ((each, part) for each in raws for part in slices(len(each))):
            values = raw.rows[raw.row[part]].astype(np.float64)
            if deviations_from is not None:
                values -= deviations_from
                values *= values
            so_far = np.add.reduce(np.concatenate([so_far, values]), axis=0, keepdims=True)
        return np.asarray(so_far[0])

    m = sum(map(len, raws))
    mean = total(None) / m
    return mean, np.sqrt(total(mean) / m)


def _tensor(array: NDArray[Any], device: str | torch.device) -> torch.Tensor:
    """Copy an array into a contiguous float32 tensor of its own."""
    import torch

    return torch.tensor(array, dtype=torch.float32, device=device).contiguous()
