"""The scorers of :mod:`cql.algorithm.scorers` for the runs of a stack, on held-out or other recorded episodes.

Axes: R runs, M transitions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cql.algorithm import scorers
from cql.algorithm.agent import Agent
from cql.algorithm.networks import Mlp, Networks, Parameters
from cql.data import Transitions

Act = Callable[[Tensor], Tensor]
Value = Callable[[Tensor, Tensor], Tensor]

MOST_TRANSITIONS = 20_000
"""Of the episodes that are scored: more would only cost time."""
_MOST_STARTS = 10_000  # initial states
_ROWS = 4096  # valued at a time


class Scoring:
    """Scores runs on the same episodes each time.

    Args:
        transitions: recorded data; up to :data:`MOST_TRANSITIONS` of them are used, in whole episodes that are chosen
            at random by a fixed seed.
    """

    def __init__(self, transitions: Transitions) -> None:
        lengths, first = transitions.episode_lengths, transitions.starts
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(lengths))
        n_chosen = max(1, int((np.cumsum(lengths[order]) <= MOST_TRANSITIONS).sum()))
        chosen = np.sort(order[:n_chosen])
        self._lengths = lengths[chosen]
        device = transitions.rewards.device
        index = np.concatenate([np.arange(first[each], first[each] + lengths[each]) for each in chosen])
        self._index = torch.from_numpy(index).to(device)
        self._starts = torch.from_numpy(first[np.sort(order[:_MOST_STARTS])]).to(device)
        self._data = transitions

    def of_agent(self, agent: Agent, run: int, discount: float) -> dict[str, float]:
        """The scores of one run of a stack as it is now, by the names of :data:`cql.scorer_names.DIRECTIONS`."""
        return self.scores(*functions_of(agent, run), discount)

    @torch.no_grad()
    def scores(self, act: Act, value: Value, discount: float) -> dict[str, float]:
        """The scores of any policy with critics.

        Args:
            act: the deterministic policy, from states (M, S) as the data have them to actions (M, A) in [-1, 1].
            value: of states and actions, (M,).
            discount: per step.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in ("policy_actions", "q_data", "q_policy", "q_next")}
        data = self._data
        for index in torch.split(self._index, _ROWS):
            states, following = data.rows[data.row[index]], data.rows[data.row[index] + 1]
            own = act(states)
            parts["policy_actions"].append(own)
            parts["q_data"].append(value(states, data.actions[index]))
            parts["q_policy"].append(value(states, own))
            parts["q_next"].append(value(following, act(following)))
        starts = [data.rows[data.row[index]] for index in torch.split(self._starts, _ROWS)]
        scored = scorers.Scored(
            rewards=_numpy(data.rewards[self._index]),
            terminated=_numpy(data.terminated[self._index]),
            actions=_numpy(data.actions[self._index]),
            **{name: _numpy(torch.cat(tensors)) for name, tensors in parts.items()},
            lengths=self._lengths,
            initial_values=_numpy(torch.cat([value(states, act(states)) for states in starts])),
        )
        return scorers.scores(scored, discount)


def functions_of(agent: Agent, run: int) -> tuple[Act, Value]:
    """The deterministic policy and the critics' lowest value of one run of a stack as it is now."""
    config, bounds = agent.config, (agent.config.log_std_min, agent.config.log_std_max)
    actor, critics = ({k: x[run : run + 1].detach() for k, x in part.items()} for part in (agent.actor, agent.critics))
    return act_of(config.actor, actor, bounds, agent.networks), value_of(config.critic, critics, agent.networks)


def act_of(mlp: Mlp, actor: Parameters, log_std: tuple[float, float], networks: Networks) -> Act:
    """The deterministic policy of one run, from states (M, S) as its networks see them to (M, A) in [-1, 1]."""

    def act(states: Tensor) -> Tensor:
        return networks.actor(mlp, actor, states[None], *log_std)[0][0].tanh()

    return act


def value_of(mlp: Mlp, critics: Parameters, networks: Networks) -> Value:
    """The lowest value of one run's critics, from states (M, S) and actions (M, A) to (M,)."""

    def value(states: Tensor, actions: Tensor) -> Tensor:
        return networks.critics(mlp, critics, states[None], actions[None, None])[0, :, 0].amin(0)

    return value


def _numpy(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(tensor.double().cpu().numpy(), np.float64)
