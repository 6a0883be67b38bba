"""The default threshold of the learned ``alpha_cql``."""

import math


def neutral_threshold(
    *,
    num_sampled_actions: int,
    next_actions: bool,
    importance_weighted: bool,
    action_size: int,
    target_entropy: float | None,
    include_data_action: bool = False,
) -> float:
    """An estimate of the gap of critics that value the policy's actions like the data's: the default ``tau_cql``.

    If the m policy actions of a state are valued like the data's action, and the uniform ones far lower, the
    log-sum-exp exceeds that value by log m. Under importance weights -log pi adds the policy's entropy on average,
    which a learned temperature holds at its target. This is a lower bound: by Jensen's inequality the mean is
    larger, and uniform actions add to it. A threshold far below it can only be met by ever lower values of the policy's
    actions, and the multiplier grows without end.

    Args:
        num_sampled_actions: N, per group of the penalty.
        next_actions: whether the penalty has a group of actions from pi(.|s').
        importance_weighted: whether log mu_j is subtracted in the gap.
        action_size: A.
        target_entropy: of a learned temperature; None if it is fixed, and then -A is used.
        include_data_action: whether the data's action is in the log-sum-exp, whose actions are then counted.
    """
    n_of_policy = (2 if next_actions else 1) * num_sampled_actions
    gap = math.log(n_of_policy)
    if include_data_action:
        gap = math.log((n_of_policy + 1) / (n_of_policy + num_sampled_actions + 1))
    if importance_weighted:
        gap += -float(action_size) if target_entropy is None else target_entropy
    return gap
