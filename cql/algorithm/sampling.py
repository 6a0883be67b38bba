"""Every random number of training.

Each run owns one generator, seeded by its own seed alone: its batches and noise are the same whether it trains alone,
first or last in a stack, and the states of the generators are all that a bit-exact resume needs.
Axes: R runs, N sampled actions, B batch, S state, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

TRAINING_STREAM, INITIALISATION_STREAM = 0, 1


class Batch(NamedTuple):
    """Transitions, drawn with replacement, one minibatch per run.

    Attributes:
        observations: (R, B, S).
        actions: (R, B, A) in [-1, 1].
        rewards: (R, B).
        next_observations: (R, B, S).
        terminated: (R, B), 1.0 if the episode truly ended.
        returns_to_go: (R, B), the discounted sum of rewards that the data had from here on; None if nothing needs it.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    returns_to_go: Tensor | None = None

    def take(self, index: Tensor) -> Batch:
        """Gather transitions: fields without the axis R and with M transitions for B, by their numbers (R, B)."""
        given = {name: field for name, field in self._asdict().items() if field is not None}
        return Batch(**{name: _rows(field, index) for name, field in given.items()})


class Pool(NamedTuple):
    """All transitions, to be drawn from, with each observation in memory once.

    Attributes:
        rows: observations, (N, S).
        row: the row of a transition's observation, (M,) int64; its next observation is the next row.
        actions: (M, A) in [-1, 1].
        rewards: (M,).
        terminated: (M,), 1.0 if the episode truly ended.
        returns_to_go: (D, M), for each of D discounts; None if nothing needs them.
        discount: which of the D discounts each run has, (R, 1) int64; None without returns.
    """

    rows: Tensor
    row: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    returns_to_go: Tensor | None = None
    discount: Tensor | None = None

    def take(self, index: Tensor) -> Batch:
        """Gather the transitions with the numbers ``index``, (R, B)."""
        row, returns = _rows(self.row, index), None
        if self.returns_to_go is not None and self.discount is not None:
            returns = _rows(self.returns_to_go.flatten(), self.discount * len(self.rewards) + index)
        return Batch(
            observations=_rows(self.rows, row),
            actions=_rows(self.actions, index),
            rewards=_rows(self.rewards, index),
            next_observations=_rows(self.rows, row + 1),
            terminated=_rows(self.terminated, index),
            returns_to_go=returns,
        )


def _rows(field: Tensor, index: Tensor) -> Tensor:
    """``field[index]``, (R, B, ...), a few microseconds faster."""
    return field.index_select(0, index.flatten()).view(*index.shape, *field.shape[1:])


class Noise(NamedTuple):
    """The randomness of one update, drawn beforehand.

    Attributes:
        uniform: uniform actions in [-1, 1], (R, N, B, A).
        policy: standard normal, for the actions drawn from pi(.|s), (R, N, B, A).
        next_policy: for those from pi(.|s'), (R, N, B, A); N is 0 if the penalty has no such group.
        target: for the actions of the Bellman target, (R, 1 or N, B, A).
        actor: for the action of the actor's loss, (R, 1, B, A).
        choice: uniform in [0, 1), to draw the actions of a sampled gradient, (R, C, k, B); k is 0 if it is exact.
        subset: uniform in [0, 1), to draw the critics of the Bellman target, (R, C), or (R, 0) if it takes all.
    """

    uniform: Tensor
    policy: Tensor
    next_policy: Tensor
    target: Tensor
    actor: Tensor
    choice: Tensor
    subset: Tensor


class Sampler:
    """Draws minibatches and noise for a stack of runs.

    What :meth:`draw` returns lives in buffers that the next call overwrites.

    Args:
        seeds: one per run.
        batch_size: B.
        action_size: A.
        n_uniform: uniform actions per state.
        n_policy: actions from pi(.|s) per state.
        n_next_policy: actions from pi(.|s') per state, for the penalty.
        n_target: actions from pi(.|s') per state, for the Bellman target.
        n_choices: C and k of :class:`Noise`'s ``choice``.
        n_subset: numbers per run of :class:`Noise`'s ``subset``.
        device: where the data are.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        batch_size: int,
        action_size: int,
        n_uniform: int,
        n_policy: int,
        n_next_policy: int,
        n_target: int,
        n_choices: tuple[int, int],
        n_subset: int,
        device: torch.device,
    ) -> None:
        self.generators = [generator(seed, TRAINING_STREAM, device) for seed in seeds]
        self._sizes = [n_policy, n_next_policy, n_target, 1]
        n_runs = len(seeds)
        self._indices = torch.zeros((n_runs, batch_size), dtype=torch.int64, device=device)
        self._uniform = torch.zeros((n_runs, n_uniform, batch_size, action_size), device=device)
        self._choice = torch.zeros((n_runs, *n_choices, batch_size), device=device)
        self._subset = torch.zeros((n_runs, n_subset), device=device)
        self._normal = torch.zeros((n_runs, sum(self._sizes), batch_size, action_size), device=device)

    def draw(self, data: Pool | Batch) -> tuple[Batch, Noise]:
        """One minibatch per run from the shared data, and the noise of one update.

        Args:
            data: all transitions. A :class:`Batch` of them, without the axis R and with M transitions for B, gives the
                same minibatches from twice the memory for observations.
        """
        n_transitions = len(data.rewards)
        for run, own in enumerate(self.generators):
            torch.randint(n_transitions, self._indices[run].shape, generator=own, out=self._indices[run])
            self._normal[run].normal_(generator=own)
            self._uniform[run].uniform_(-1.0, 1.0, generator=own)
            self._choice[run].uniform_(generator=own)
            self._subset[run].uniform_(generator=own)
        policy, next_policy, target, actor = torch.split(self._normal, self._sizes, dim=1)
        noise = Noise(self._uniform, policy, next_policy, target, actor, self._choice, self._subset)
        return data.take(self._indices), noise

    def state(self, run: int) -> Tensor:
        """The state of a run's generator, as bytes."""
        return self.generators[run].get_state()

    def load_state(self, run: int, state: Tensor) -> None:
        """Continue from a state that :meth:`state` gave."""
        self.generators[run].set_state(state)


def generator(seed: int, stream: int, device: torch.device | str = "cpu") -> Generator:
    """A generator for one purpose of one run; neighbouring seeds and streams are unrelated."""
    entropy = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return Generator(device).manual_seed(int(entropy) >> 1)  # torch takes signed 64-bit seeds
