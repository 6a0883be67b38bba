"""Every random number of training.

Each run owns one generator, seeded by its own seed alone: its batches and noise are the same whether it trains alone,
first or last in a stack, and the states of the generators are all that a bit-exact resume needs.
Axes: R runs, N sampled actions, B batch, S state, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        pieces: of each of K datasets with shares of their own, see :func:`pieces`, (4, K) float64; None draws all
            transitions alike.
    """

    rows: Tensor
    row: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    returns_to_go: Tensor | None = None
    discount: Tensor | None = None
    pieces: Tensor | None = None

    def number_at(self, positions: Tensor) -> Tensor:
        """The transition at each position in [0, M), (R, B) float64, as its number.

        Each dataset has as much of [0, M) as its share, and its transitions divide that evenly. What lies beyond M is
        the last transition's, if there are pieces.
        """
        if self.pieces is None:
            return positions.long()
        source = (positions.unsqueeze(-1) >= self.pieces[0, 1:]).sum(-1)
        begin, density, first, last = self.pieces[:, source]
        return torch.minimum(first + ((positions - begin) * density).floor(), last).long()

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


def pieces(shares: Sequence[tuple[int, float]], device: torch.device | str = "cpu") -> Tensor:
    """Where the pieces of [0, M) are that K datasets have, one after the other.

    Args:
        shares: of each dataset its number of transitions, M together, and its ratio in a minibatch, which may be
            divided by any common factor.
        device: of the tensor.

    Returns:
        For each dataset the begin of its piece, its transitions per unit of it, and the numbers of its first and its
        last transition; (4, K) float64.
    """
    size, ratio = np.array(shares, np.float64).T
    length = ratio / ratio.sum() * size.sum()
    begin, first = (np.cumsum([0.0, *each[:-1]]) for each in (length, size))
    return torch.tensor(np.stack([begin, size / length, first, first + size - 1]), device=device)


class ReplayBuffer:
    """Transitions that runs have collected: a ring for each run, in tensors that stay where they are.

    Args:
        n_runs: R.
        capacity: the newest transitions that each run keeps.
        observation_size: S.
        action_size: A.
        device: of the tensors.
        with_returns: whether batches need returns to go.

    Attributes:
        size: transitions that each run has, (R,) int64, on the device.
        n_added: transitions that each run has ever added.
    """

    def __init__(
        self,
        n_runs: int,
        capacity: int,
        observation_size: int,
        action_size: int,
        device: torch.device,
        *,
        with_returns: bool,
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(n_runs * capacity, *shape, device=device)

        self.capacity, self.n_added = capacity, [0] * n_runs
        self.size = torch.zeros(n_runs, dtype=torch.int64, device=device)
        self._first = torch.arange(n_runs, device=device).unsqueeze(1) * capacity  # of each run, among all rows
        self._rows = Batch(
            zeros(observation_size),
            zeros(action_size),
            zeros(),
            zeros(observation_size),
            zeros(),
            zeros() if with_returns else None,
        )

    def add(self, run: int, transitions: Batch) -> None:
        """Add transitions of a run, without the axis R and with the axis of their number first; the oldest go."""
        length, at = len(transitions.rewards), self.n_added[run] % self.capacity
        kept = slice(max(0, length - self.capacity), length)  # an episode may be longer than the ring
        places = (at + torch.arange(length)[kept]) % self.capacity + run * self.capacity
        for own, added in zip(self._rows, transitions, strict=True):
            if own is not None and added is not None:
                own[places.to(own.device)] = added[kept].to(own.device)
        self.n_added[run] += length
        self.size[run] = min(self.n_added[run], self.capacity)

    def take(self, index: Tensor) -> Batch:
        """Gather the transitions with these numbers, (R, B), each below its run's ``size``."""
        return self._rows.take(self._first + index)


class Mixture(NamedTuple):
    """A dataset and what runs have collected, to be drawn from together.

    Attributes:
        offline: the dataset.
        online: what the runs have collected.
        n_offline: transitions of each minibatch that come from the dataset; None draws from both as from one.
    """

    offline: Pool
    online: ReplayBuffer
    n_offline: int | None

    def take(self, fractions: Tensor) -> Batch:
        """Gather minibatches by numbers in [0, 1), (R, B) float64, whose size says how large M is.

        How many transitions a run has is read on the device, so that a CUDA graph can hold this.
        """
        n_data, n_online = len(self.offline.rewards), self.online.size.unsqueeze(1)
        if self.n_offline is None:
            positions = fractions * (n_data + n_online)
            index = positions.long()
            is_offline = index < n_data
            offline = self.offline.take(self.offline.number_at(positions).clamp(max=n_data - 1))
            online = self.online.take((index - n_data).clamp(min=0))
            return _joined(
                lambda a, b: torch.where(is_offline.view(*is_offline.shape, *[1] * (a.dim() - 2)), a, b),
                offline,
                online,
            )
        of_data, of_online = fractions[:, : self.n_offline], fractions[:, self.n_offline :]
        offline = self.offline.take(self.offline.number_at(of_data * n_data))
        online = self.online.take((of_online * n_online).long())
        return _joined(lambda a, b: torch.cat([a, b], 1), offline, online)


def _joined(join: Callable[[Tensor, Tensor], Tensor], a: Batch, b: Batch) -> Batch:
    """Each field of two batches, joined."""
    pairs = zip(a, b, strict=True)
    return Batch(*(join(x, y) for x, y in pairs if x is not None and y is not None))


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
        self._fractions = torch.zeros((n_runs, batch_size), dtype=torch.float64, device=device)
        self._uniform = torch.zeros((n_runs, n_uniform, batch_size, action_size), device=device)
        self._choice = torch.zeros((n_runs, *n_choices, batch_size), device=device)
        self._subset = torch.zeros((n_runs, n_subset), device=device)
        self._normal = torch.zeros((n_runs, sum(self._sizes), batch_size, action_size), device=device)

    def draw(self, data: Pool | Batch | Mixture) -> tuple[Batch, Noise]:
        """One minibatch per run, and the noise of one update.

        Args:
            data: all transitions. A :class:`Batch` of them, without the axis R and with M transitions for B, gives the
                same minibatches as a :class:`Pool`, from twice the memory for observations.
        """
        in_pieces = isinstance(data, Pool) and data.pieces is not None
        for run, own in enumerate(self.generators):
            if in_pieces or isinstance(data, Mixture):
                self._fractions[run].uniform_(generator=own)
            else:
                torch.randint(len(data.rewards), self._indices[run].shape, generator=own, out=self._indices[run])
            self._normal[run].normal_(generator=own)
            self._uniform[run].uniform_(-1.0, 1.0, generator=own)
            self._choice[run].uniform_(generator=own)
            self._subset[run].uniform_(generator=own)
        policy, next_policy, target, actor = torch.split(self._normal, self._sizes, dim=1)
        noise = Noise(self._uniform, policy, next_policy, target, actor, self._choice, self._subset)
        if isinstance(data, Pool) and in_pieces:
            return data.take(data.number_at(self._fractions * len(data.rewards))), noise
        return data.take(self._fractions if isinstance(data, Mixture) else self._indices), noise

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
