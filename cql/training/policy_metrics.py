"""Metrics of a run's policy and critics at recorded states, reported at each evaluation.

Axes: R runs, M states, A action.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from cql.algorithm import scorers
from cql.algorithm.agent import Agent
from cql.data import Transitions
from cql.training.scoring import functions_of

_N_STATES = 2_000


def policy_metrics(agent: Agent, transitions: Transitions) -> Callable[[int], dict[str, float]]:
    """What reports a run of the agent as it is now, at the same recorded states each time.

    ``action_distance`` is the mean distance of the deterministic policy's action from the recorded one,
    ``at_bounds`` the share of its components that are at a bound, ``initial_value`` the mean of the critics' lowest
    value of its actions in states that begin an episode.
    """
    random, starts = np.random.Generator(np.random.PCG64(0)), transitions.starts
    begins = random.choice(starts, size=min(_N_STATES, len(starts)), replace=False)
    chosen, first = (
        torch.from_numpy(index).to(transitions.rewards.device)
        for index in (random.integers(len(transitions), size=_N_STATES), begins)
    )
    states, initial = transitions.rows[transitions.row[chosen]], transitions.rows[transitions.row[first]]
    recorded = transitions.actions[chosen].cpu().numpy()

    @torch.no_grad()
    def metrics(run: int) -> dict[str, float]:
        act, value = functions_of(agent, run)
        actions = act(torch.cat([states, initial]))
        own = actions[:_N_STATES].cpu().numpy()
        values = value(initial, actions[_N_STATES:])
        found = {
            "action_distance": scorers.action_distance(own, recorded),
            "at_bounds": scorers.at_bounds(own),
            "initial_value": float(values.mean()),
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}

    return metrics
