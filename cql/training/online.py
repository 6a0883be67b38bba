"""Training that continues in the environment: when runs collect, what they have, and the files that hold it.

After the steps on the dataset, a run collects whole episodes whenever its training has caught up with them: before
training step u of this part (counted from 0), if it has no more than ``n_start_steps + u / update_to_data``
environment steps. So all runs of a stack stay at the same training step, while their episodes have lengths of their
own, and what a run collects does not depend on its neighbours.

Each episode is a file ``online/episode_0000000.npz`` of the run's folder, whole or absent. A checkpoint counts them. A
resumed run reads those that its checkpoint knows of and collects the others again, the same bit for bit.
"""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cql import files
from cql.algorithm.sampling import Batch, Mixture
from cql.data import Normaliser
from cql.data.returns import returns_to_go
from cql.rollout.collection import Collector, Episode, SampledPolicy
from cql.training.local_logger import DamagedFileError

FOLDER = "online"
_ARRAYS = "observations", "actions", "rewards"


class Collected(NamedTuple):
    """What is remembered of an episode.

    Attributes:
        step: training steps that were taken before it was collected.
        length: environment steps.
        return_: undiscounted.
        success: None if the environment reports none.
    """

    step: int
    length: int
    return_: float
    success: bool | None


@dataclass(frozen=True)
class Preparation:
    """How an episode becomes what the critics see, as the dataset did.

    Attributes:
        normaliser: of the observations, on the CPU.
        reward_scale: of the rewards.
        reward_bias: is added to the scaled rewards.
        action_clip: largest magnitude of the actions.
        timeouts_as_terminals: whether a time limit ends the return.
        failure: of :func:`cql.data.returns.returns_to_go`.
        by_last: of the same.
    """

    normaliser: Normaliser
    reward_scale: float
    reward_bias: float
    action_clip: float | None
    timeouts_as_terminals: bool
    failure: float | None
    by_last: bool

    def transitions(self, episode: Episode, discount: float) -> Batch:
        """An episode's transitions, with the axis of their number first; returns to go included."""
        observations = self.normaliser.apply(torch.from_numpy(episode.observations))
        actions = torch.from_numpy(episode.actions)
        if self.action_clip is not None:
            actions = actions.clamp(-self.action_clip, self.action_clip)
        rewards = (episode.rewards.astype(np.float32) * self.reward_scale + self.reward_bias).astype(np.float32)
        terminated = torch.zeros(len(episode))
        terminated[-1] = float(episode.terminated or self.timeouts_as_terminals)
        lengths = np.array([len(episode)], np.int64)
        returns = returns_to_go(rewards, lengths, discount, failure=self.failure, by_last=self.by_last)
        return Batch(
            observations[:-1],
            actions,
            torch.from_numpy(rewards),
            observations[1:],
            terminated,
            torch.from_numpy(returns.astype(np.float32)),
        )


@dataclass
class Online:
    """A stack's part in the environment.

    Attributes:
        collector: of all R runs.
        mixture: the dataset and the runs' own transitions, from which they learn.
        preparation: how episodes become transitions.
        directories: the runs' folders.
        discounts: of the runs.
        n_start_steps: environment steps before the first training step.
        update_to_data: training steps per environment step.
        overrides: constants of the losses that may change, by their names: one value per run, None to keep it.
        calibrated: whether the gap's floor is still used.
    """

    collector: Collector
    mixture: Mixture
    preparation: Preparation
    directories: Sequence[Path]
    discounts: Sequence[float]
    n_start_steps: int
    update_to_data: int
    overrides: Mapping[str, Sequence[float | None]]
    calibrated: bool
    _episodes: list[list[Collected]] = field(init=False)

    def __post_init__(self) -> None:
        self.buffer = self.mixture.online
        self._episodes = [[] for _ in self.directories]

    def collect(
        self, policy_of: Callable[[Sequence[int]], SampledPolicy], step: int, n_done: int, alive: Sequence[int]
    ) -> dict[int, str]:
        """Have the runs collect that are due, until none is.

        Args:
            policy_of: gives the policy of some runs, in their order.
            step: training steps that were taken in all.
            n_done: those of them in this part.
            alive: the runs that train.

        Returns:
            Why a run could not collect, for those that could not.
        """
        problems: dict[int, str] = {}
        while due := [run for run in alive if run not in problems and self._is_due(run, n_done)]:
            found = self.collector.collect(policy_of(due), {run: len(self._episodes[run]) for run in due})
            for run, episodes in found.items():
                if isinstance(episodes, str):
                    problems[run] = episodes
                    continue
                try:
                    for episode in episodes:
                        write(self.directories[run], episode, step)
                        self._add(run, episode, step)
                except (OSError, ValueError) as error:
                    problems[run] = f"{type(error).__name__}: {error}"
        return problems

    def is_due(self, n_done: int, alive: Sequence[int]) -> bool:
        """Whether a run has to collect before the next training step. Asked at every step: it has to cost nothing."""
        return any(self._is_due(run, n_done) for run in alive)

    def _is_due(self, run: int, n_done: int) -> bool:
        return (self.buffer.n_added[run] - self.n_start_steps) * self.update_to_data <= n_done

    def _add(self, run: int, episode: Episode, step: int) -> None:
        self.buffer.add(run, self.preparation.transitions(episode, self.discounts[run]))
        return_ = float(episode.rewards.sum())
        self._episodes[run].append(Collected(step, len(episode), return_, episode.success))

    def metrics(self, run: int, since: int) -> dict[str, float]:
        """What a row of metrics tells of a run's episodes: of all, and of those since a training step."""
        new = [each for each in self._episodes[run] if each.step >= since]
        found = {
            "env_steps": float(self.buffer.n_added[run]),
            "buffer_size": float(min(self.buffer.n_added[run], self.buffer.capacity)),
        }
        if new:
            found["online_return"] = float(np.mean([each.return_ for each in new]))
            successes = [each.success for each in new if each.success is not None]
            if successes:
                found["online_success"] = float(np.mean(successes))
        return found

    def state(self, run: int) -> dict[str, int]:
        """What a checkpoint needs, the episodes' files apart."""
        return {"n_episodes": len(self._episodes[run]), "n_env_steps": self.buffer.n_added[run]}

    def load(self, run: int, state: Mapping[str, int]) -> None:
        """Read the episodes that a checkpoint knows of, and remove those that were collected after it.

        Raises:
            DamagedFileError: a file is absent or damaged; the message names it.
        """
        remove_later(self.directories[run], state["n_episodes"])
        info = self.collector.info
        for number in range(state["n_episodes"]):
            episode, step = read(self.directories[run], number, info.observation_size, info.action_size)
            self._add(run, episode, step)
        found = self.buffer.n_added[run]
        if found != state["n_env_steps"]:
            raise DamagedFileError(
                f"{self.directories[run] / FOLDER}: its episodes have {found} steps, but the checkpoint knows of "
                f"{state['n_env_steps']}: put back the files, or start a new run"
            )

    def close(self) -> None:
        """Close the environments."""
        self.collector.close()


def path_of(directory: Path, number: int) -> Path:
    """The file of an episode in a run's folder."""
    return directory / FOLDER / f"episode_{number:07d}.npz"


def write(directory: Path, episode: Episode, step: int) -> None:
    """Write the file of an episode that was collected after so many training steps."""
    path = path_of(directory, episode.number)
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, NDArray[np.generic]] = {
        "observations": episode.observations,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminated": np.array(episode.terminated),
        "success": np.array(-1 if episode.success is None else int(episode.success), np.int8),
        "seed": np.array(episode.seed, np.int64),
        "step": np.array(step, np.int64),
    }
    contents = io.BytesIO()
    np.savez(contents, **arrays)  # type: ignore[arg-type]
    files.write_bytes(path, contents.getvalue())


def read(directory: Path, number: int, observation_size: int, action_size: int) -> tuple[Episode, int]:
    """The episode of a file, and how many training steps were taken before it was collected.

    Raises:
        DamagedFileError: it is absent, damaged, or not of these sizes.
    """
    path = path_of(directory, number)
    try:
        contents = files.contents(path)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is gone: put it back, or start a new run") from error
    except files.UnreadableError as error:
        raise DamagedFileError(str(error)) from error
    try:
        with np.load(io.BytesIO(contents), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        length, success = len(arrays["rewards"]), int(arrays["success"])
        own = (length + 1, observation_size), (length, action_size), (length,)
        for name, shape, dtype in zip(_ARRAYS, own, (np.float32, np.float32, np.float64), strict=True):
            if (arrays[name].shape, arrays[name].dtype) != (shape, dtype) or not length:
                raise ValueError(f"{name}: {arrays[name].dtype} {arrays[name].shape}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name}: not finite")
        observations, actions, rewards = (arrays[name] for name in _ARRAYS)
        ended, reported = bool(arrays["terminated"]), None if success < 0 else bool(success)
        episode = Episode(number, int(arrays["seed"]), observations, actions, rewards, ended, reported)
        return episode, int(arrays["step"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise DamagedFileError(f"{path} is damaged ({error}): put back the file, or start a new run") from error


def remove_later(directory: Path, n_episodes: int) -> None:
    """Remove the files of all episodes but the first ones; the last goes first."""
    for path in sorted((directory / FOLDER).glob("episode_*.npz"), reverse=True):
        if path.name >= path_of(directory, n_episodes).name:
            path.unlink()
