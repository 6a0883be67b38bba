"""Scorers by hand-made cases."""

import math

import numpy as np
import pytest

from cql.algorithm.scorers import Scored, action_distance, scores, soft_opc, td_error
from cql.scorer_names import DIRECTIONS

LENGTHS = np.array([2, 1, 2])
REWARDS = np.array([1.0, 2.0, 10.0, 0.0, 1.0])  # returns 3, 10, 1: only 10 is above the median
Q = np.array([1.0, 2.0, 8.0, 3.0, 4.0])


def test_td_error() -> None:
    q, rewards, terminated, q_next = (np.array(x, float) for x in ([1, 5], [1, 2], [0, 1], [4, 100]))
    # 1 - (1 + 0.5 * 4) = -2 and, at the end of an episode, 5 - 2 = 3
    assert td_error(q, rewards, terminated, q_next, 0.5) == (4.0 + 9.0) / 2.0


def test_soft_opc_compares_good_episodes_with_all() -> None:
    assert soft_opc(Q, REWARDS, LENGTHS) == pytest.approx(8.0 - 18.0 / 5.0)


def test_soft_opc_where_no_return_is_above_the_median_takes_the_largest() -> None:
    # Returns 1, 1, 0: the median is 1.
    assert soft_opc(np.array([1.0, 2.0, 6.0]), np.array([1.0, 1.0, 0.0]), np.array([1, 1, 1])) == pytest.approx(-1.5)


def test_soft_opc_of_equal_returns_is_undefined() -> None:
    assert math.isnan(soft_opc(Q[:2], np.ones(2), np.array([1, 1])))


def test_action_distance() -> None:
    policy, data = np.array([[0.0, 0.0], [1.0, -1.0]]), np.array([[0.3, 0.4], [1.0, 0.0]])
    assert action_distance(policy, data) == pytest.approx((0.5 + 1.0) / 2.0)


def test_all_scores() -> None:
    scored = Scored(
        rewards=REWARDS,
        terminated=np.array([0.0, 1.0, 1.0, 0.0, 0.0]),
        actions=np.zeros((5, 1)),
        policy_actions=np.full((5, 1), 0.25),
        q_data=Q,
        q_policy=Q + np.array([1.0, 0.0, 0.0, 0.0, 1.0]),
        q_next=np.full(5, 10.0),
        lengths=LENGTHS,
        initial_values=np.array([1.0, 2.0, 6.0]),
    )
    found = scores(scored, 0.9)
    targets = np.array([1.0 + 9.0, 2.0, 10.0, 9.0, 10.0])
    assert found == pytest.approx(
        {
            "td_error": np.mean((Q - targets) ** 2),
            "q_data": 3.6,
            "q_policy": 4.0,
            "advantage": 0.4,
            "soft_opc": 8.0 - 3.6,
            "action_distance": 0.25,
            "initial_value": 3.0,
        }
    )
    assert list(found) == list(DIRECTIONS)


def test_undefined_scores_are_left_out() -> None:
    one = np.ones(1)
    found = scores(Scored(one, one, one[:, None], one[:, None], one, one, one, np.array([1]), one), 0.9)
    assert set(DIRECTIONS) - set(found) == {"soft_opc"}
