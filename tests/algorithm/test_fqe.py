"""Fitted Q evaluation against dynamic programming, and its independence of the stack."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from cql.algorithm.fqe import FittedQEvaluation
from cql.algorithm.networks import Mlp
from cql.algorithm.sampling import Pool

N_STATES, DISCOUNT, M = 4, 0.9, 3000
REWARDS = np.array([0.0, -1.0, 0.5, 2.0])
# Actions of three policies in the four states of a ring: an action above 0 leads to the right, else to the left.
POLICIES = np.array([[0.5, 0.5, 0.5, 0.5], [-0.5, -0.5, -0.5, -0.5], [0.8, 0.8, 0.8, -0.8]])


def reward(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    return REWARDS[state] + 0.5 * action


def neighbour(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    return (state + np.where(action > 0, 1, -1)) % N_STATES


def ends(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Going left from the first state ends an episode."""
    return (state == 0) & (action <= 0)


def exact(policy: np.ndarray) -> np.ndarray:
    """The policy's value in each state, by dynamic programming: V = r + discount P V."""
    states = np.arange(N_STATES)
    transition = np.zeros((N_STATES, N_STATES))
    transition[states, neighbour(states, policy)] = ~ends(states, policy)
    return np.linalg.solve(np.eye(N_STATES) - DISCOUNT * transition, reward(states, policy))


def recorded(seed: int = 0) -> tuple[Pool, Tensor]:
    """Transitions from states and actions drawn uniformly, and the policies' actions at all rows."""
    random = np.random.default_rng(seed)
    states, actions = random.integers(0, N_STATES, M), random.uniform(-1.0, 1.0, M)
    at = np.stack([states, neighbour(states, actions)], 1).reshape(-1)  # a row and the next row for each transition
    pool = Pool(
        rows=torch.eye(N_STATES)[at],
        row=torch.arange(0, 2 * M, 2),
        actions=torch.tensor(actions, dtype=torch.float32)[:, None],
        rewards=torch.tensor(reward(states, actions), dtype=torch.float32),
        terminated=torch.tensor(ends(states, actions), dtype=torch.float32),
    )
    return pool, torch.tensor(POLICIES, dtype=torch.float32)[:, at, None]


def evaluation(pool: Pool, actions: Tensor, seeds: tuple[int, ...] = (0, 1), width: int = 64) -> FittedQEvaluation:
    return FittedQEvaluation(
        Mlp(width=width), pool, actions, seeds, batch_size=128, learning_rate=2e-3, discount=DISCOUNT, tau_target=0.05,
        centre=3.0, scale=2.0,
    )  # fmt: skip


def test_values_are_those_of_dynamic_programming() -> None:
    pool, actions = recorded()
    fqe = evaluation(pool, actions, seeds=(0,))
    for _ in range(1000):
        fqe.step()
    at = pool.rows.argmax(1)
    rows = torch.tensor([int((at == state).nonzero()[0]) for state in range(N_STATES)])
    found = fqe.values(rows).double().numpy()
    expected = np.array([exact(policy) for policy in POLICIES])
    assert np.ptp(expected) > 5.0  # policies and states differ by far more than the tolerance
    assert found == pytest.approx(expected[:, None], abs=0.25)


def test_targets_stay_within_what_rewards_allow() -> None:
    pool, actions = recorded()
    fqe = evaluation(pool, actions, seeds=(0,))
    least, most = float(pool.rewards.min()), float(pool.rewards.max())
    assert fqe.bounds == pytest.approx((least / (1.0 - DISCOUNT), most / (1.0 - DISCOUNT)))
    # Where no reward is negative and episodes end, the least is the smallest reward alone.
    positive = pool._replace(rewards=pool.rewards - least + 0.5)
    assert evaluation(positive, actions, seeds=(0,)).bounds == pytest.approx((0.5, (most - least + 0.5) * 10.0))


def test_an_estimate_does_not_depend_on_the_other_policies_or_seeds() -> None:
    pool, actions = recorded()
    together, alone = evaluation(pool, actions), evaluation(pool, actions[1:2], seeds=(1,))
    for _ in range(5):
        together.step()
        alone.step()
    rows = torch.arange(64)
    assert torch.equal(together.values(rows)[1, 1], alone.values(rows)[0, 0])
    assert not torch.equal(together.values(rows)[1, 0], together.values(rows)[1, 1])


def test_target_critics_move_at_their_period_alone() -> None:
    pool, actions = recorded()
    fqe = FittedQEvaluation(
        Mlp(width=16), pool, actions, (0,), batch_size=16, learning_rate=1e-3, discount=DISCOUNT, tau_target=1.0,
        target_update_period=3,
    )  # fmt: skip
    rows = torch.arange(5)
    values = [fqe.values(rows)]
    for _ in range(4):
        fqe.step()
        values.append(fqe.values(rows))
    assert [torch.equal(before, after) for before, after in itertools.pairwise(values)] == [True, True, False, True]
    assert all(torch.equal(fqe.targets[name], values) for name, values in copies(fqe, 3).items())


def copies(fqe: FittedQEvaluation, step: int) -> dict[str, Tensor]:
    """The critics as they were at a step of a fresh evaluation like this one."""
    pool, actions = recorded()
    other = FittedQEvaluation(
        Mlp(width=16), pool, actions, (0,), batch_size=16, learning_rate=1e-3, discount=DISCOUNT, tau_target=1.0,
        target_update_period=3,
    )  # fmt: skip
    for _ in range(step):
        other.step()
    assert fqe.n_steps_done > step
    return {name: tensor.detach() for name, tensor in other.critics.items()}


def test_the_conservative_gap_lowers_policies_that_leave_the_data() -> None:
    pool, _ = recorded()
    recorded_actions = torch.zeros(len(pool.rows), 1)
    recorded_actions[0::2] = pool.actions
    other = recorded_actions + 1.5  # beyond all recorded actions
    actions = torch.stack([recorded_actions, other])

    def values(alpha_cql: float) -> Tensor:
        fqe = FittedQEvaluation(
            Mlp(width=16), pool, actions, (0,), batch_size=64, learning_rate=2e-3, discount=DISCOUNT, tau_target=0.05,
            alpha_cql=alpha_cql,
        )  # fmt: skip
        for _ in range(100):
            fqe.step()
        return fqe.values(pool.row)[:, 0].mean(-1)

    plain, conservative = values(0.0), values(0.5)
    # Where the policy does what was recorded, the gap is zero, and so is its gradient.
    assert conservative[0] == pytest.approx(float(plain[0]), abs=1e-3)
    assert conservative[1] < plain[1] - 0.5


def test_the_loss_is_that_of_the_equation() -> None:
    pool, actions = recorded()
    fqe = evaluation(pool, actions)
    fqe._alpha_cql = 0.5
    q, target = torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]), torch.tensor([[0.0, 4.0]])
    # mean of 1 and 4, and half the mean of 3 and 1
    assert fqe._loss(q, target).tolist() == [2.5 + 0.5 * 2.0]


def test_a_state_of_another_evaluation_is_refused() -> None:
    pool, actions = recorded()
    with pytest.raises(ValueError, match="of other critics or other policies"):
        evaluation(pool, actions, width=16).load_state(evaluation(pool, actions[:1], width=16).state())


def test_resume_is_exact() -> None:
    pool, actions = recorded()
    whole, first, second = (evaluation(pool, actions, width=16) for _ in range(3))
    for step in range(10):
        whole.step()
        if step < 4:
            first.step()
    second.load_state(first.state())
    for _ in range(6):
        second.step()
    assert second.n_steps_done == 10
    assert torch.equal(second.values(torch.arange(9)), whole.values(torch.arange(9)))
