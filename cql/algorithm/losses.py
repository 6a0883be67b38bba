r"""The losses of Conservative Q-Learning.

Pure functions of tensors. The losses are one number per run, (R,), or one per run and critic, (R, C). Nothing here
draws random numbers, trains or knows a network: random numbers and the values of actions are arguments.

Axes, in this order: R runs, C critics, N sampled actions, B batch, A action. Reductions go over C, N and B as the
equation says and never over R: the runs of a stack have independent losses.

Sources:
    - [CQL] Kumar et al., Conservative Q-Learning for Offline Reinforcement Learning, 2020.
    - [SAC] Haarnoja et al., Soft Actor-Critic Algorithms and Applications, 2018.
    - [REDQ] Chen et al., Randomized Ensembled Double Q-Learning, 2021.
    - [Cal-QL] Nakamoto et al., Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning, 2023.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Backup = Literal["soft", "hard", "max"]

ALPHA_CQL_MAX = 1e6
"""Largest value of a learned ``alpha_cql``, as in the code published with [CQL]."""

_LARGEST_DATA_ACTION = 1.0 - 1e-6  # the log-likelihood of an action on the bound itself is infinite


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    r"""Sample the tanh-squashed Gaussian policy, with the log-likelihoods of the samples.

    u = mean + std \* noise, a = tanh(u), and by the change of variables of [SAC, appendix C]
    log pi(a|s) = log N(u; mean, std) - sum_A log(1 - a^2). The last term is written as
    2 (log 2 - u - softplus(-2 u)), which stays exact when 1 - a^2 underflows.

    Args:
        mean: (R, B, A).
        log_std: (R, B, A).
        noise: standard normal, (R, N, B, A).

    Returns:
        Actions (R, N, B, A) in [-1, 1] and their log-likelihoods (R, N, B).
    """
    mean, log_std = mean.unsqueeze(1), log_std.unsqueeze(1)
    pre_tanh = mean + log_std.exp() * noise
    return pre_tanh.tanh(), _log_prob(pre_tanh, log_std, noise)


def squashed_gaussian_log_prob(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Log-likelihood of given actions under the squashed Gaussian policy.

    Args:
        mean: (R, B, A).
        log_std: (R, B, A).
        actions: (R, B, A) in [-1, 1]; clamped to 1 - 1e-6 in magnitude, so that the likelihood is finite.

    Returns:
        (R, B).
    """
    pre_tanh = actions.clamp(-_LARGEST_DATA_ACTION, _LARGEST_DATA_ACTION).atanh()
    return _log_prob(pre_tanh, log_std, (pre_tanh - mean) * (-log_std).exp())


def _log_prob(pre_tanh: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    # The Gaussian's -noise^2 / 2 - log_std - log(2 pi) / 2 less the slope's 2 (log 2 - u - softplus(-2 u)), in an order
    # that touches the large tensors least: (u + softplus(-2 u)) - noise^2 / 4, summed and doubled, is most of it.
    halved = torch.add(pre_tanh + functional.softplus(-2.0 * pre_tanh), noise.square(), alpha=-0.25).sum(-1)
    constant = pre_tanh.shape[-1] * (0.5 * math.log(2.0 * math.pi) + 2.0 * math.log(2.0))
    return 2.0 * halved - (log_std.sum(-1) + constant)


def bellman_target(
    rewards: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    next_log_prob: Tensor,
    discount: Tensor,
    alpha_temp: Tensor,
    backup: Backup,
) -> Tensor:
    """The value that all critics regress to.

    y = r + discount (1 - terminated) V(s'). With a' ~ pi(.|s'), V is

    - ``soft``: min_i Qbar_i(s', a') - alpha_temp log pi(a'|s')  [SAC, eq. 5];
    - ``hard``: min_i Qbar_i(s', a'), as in the code published with [CQL];
    - ``max``: max over the N samples of min_i Qbar_i(s', a'_n)  [CQL, appendix F].

    Args:
        rewards: (R, B).
        terminated: (R, B), 1 if the episode truly ended; a time limit is not an end.
        next_q: target critics at s', (R, C, N, B); N is 1 unless ``backup`` is ``max``. C may be fewer than there are
            critics: a random subset of them [REDQ].
        next_log_prob: (R, N, B).
        discount: (R,).
        alpha_temp: (R,).
        backup: see above.

    Returns:
        (R, B).
    """
    lowest = next_q.amin(1)
    if backup == "soft":
        lowest = lowest - alpha_temp[:, None, None] * next_log_prob
    next_value = lowest.amax(1)
    return rewards + discount[:, None] * (1.0 - terminated) * next_value


def temporal_difference(q_data: Tensor, target: Tensor) -> Tensor:
    """Mean squared temporal-difference error of each critic: mean_B (Q_i(s, a) - y)^2.

    Args:
        q_data: (R, C, B).
        target: (R, B).

    Returns:
        (R, C).
    """
    return (q_data - target.unsqueeze(1)).square().mean(-1)


def conservative_gap(
    q_sampled: Tensor,
    q_data: Tensor,
    log_proposal: Tensor | None,
    floor: Tensor | None = None,
    clip_min: Tensor | None = None,
    clip_max: Tensor | None = None,
    *,
    temperature: float = 1.0,
    include_data_action: bool = False,
) -> Tensor:
    """The penalty: how much higher each critic values sampled actions than the data's [CQL, eq. 4 and appendix F].

    g_i = mean_B [ T logsumexp_j( (Q_i(s, a_j) - log mu_j) / T ) - Q_i(s, a) ].

    All a_j are valued at s, also those drawn from pi(.|s'), as in published code. Valuing them at s' costs tens of
    points on hopper-medium.

    Args:
        q_sampled: (R, C, N, B).
        q_data: (R, C, B).
        log_proposal: log mu_j, the density that a_j was drawn with, (R, N, B): the importance weights of CQL(H).
            None for a plain log-sum-exp.
        floor: of the sampled actions' values, see :func:`calibrated`; None for none.
        clip_min: lower bound of each state's gap, (R,), beyond which no gradient passes; None for no bounds.
        clip_max: upper bound, (R,).
        temperature: T.
        include_data_action: count Q_i(s, a) among the M values of the log-sum-exp, and subtract T log M. Published code
            does so where there are no importance weights.

    Returns:
        (R, C).
    """
    gaps = _state_gaps(q_sampled, q_data, log_proposal, floor, temperature, include_data_action)
    if clip_min is not None and clip_max is not None:
        gaps = gaps.clamp(clip_min[:, None, None], clip_max[:, None, None])
    return gaps.mean(-1)


def calibrated(q_sampled: Tensor, floor: Tensor | None) -> Tensor:
    """max( Q_i(s, a_j), V(s) ): no action of the policy is pushed below the return that the data had from s [Cal-QL].

    No gradient passes where the floor is the larger one.

    Args:
        q_sampled: (R, C, N, B).
        floor: V(s) for actions of the policy, minus infinity for the others: (R, N, B), or (R, C, N, B) if each critic
            has its own actions. None leaves the values as they are.

    Returns:
        (R, C, N, B).
    """
    if floor is None:
        return q_sampled
    return torch.maximum(q_sampled, floor if floor.dim() == 4 else floor.unsqueeze(1))


def candidate_values(
    q_sampled: Tensor, q_data: Tensor | None, floor: Tensor | None, include_data_action: bool
) -> Tensor:
    """The M values in the log-sum-exp of :func:`conservative_gap`, (R, C, M, B), that of the data's action first."""
    values = calibrated(q_sampled, floor)
    return torch.cat([q_data.unsqueeze(2), values], 2) if include_data_action and q_data is not None else values


def _state_gaps(
    q_sampled: Tensor,
    q_data: Tensor,
    log_proposal: Tensor | None,
    floor: Tensor | None,
    temperature: float,
    include_data_action: bool,
) -> Tensor:
    """The gap of each state, (R, C, B)."""
    values = candidate_values(q_sampled, q_data, floor, include_data_action)
    soft_maximum = _scores(values, log_proposal, temperature).logsumexp(2)
    if temperature != 1.0:
        soft_maximum = temperature * soft_maximum
    if include_data_action:
        soft_maximum = soft_maximum - temperature * math.log(values.shape[2])
    return soft_maximum - q_data


def softmax_weights(q_sampled: Tensor, log_proposal: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    """The weights that sampled actions have in the gradient of the gap: softmax_j( (Q_i(s, a_j) - log mu_j) / T ).

    Args:
        q_sampled: (R, C, N, B).
        log_proposal: as in :func:`conservative_gap`.
        temperature: T.

    Returns:
        (R, C, N, B).
    """
    return _scores(q_sampled, log_proposal, temperature).softmax(2)


def _scores(q_sampled: Tensor, log_proposal: Tensor | None, temperature: float) -> Tensor:
    """(Q_i(s, a_j) - log mu_j) / T, (R, C, N, B)."""
    scores = q_sampled if log_proposal is None else q_sampled - log_proposal.unsqueeze(1)
    return scores / temperature if temperature != 1.0 else scores


def softmax_choices(
    q_sampled: Tensor, log_proposal: Tensor | None, random: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Draw k of the N sampled actions of each state, for each critic by their weights in the gradient of its gap.

    The weights are those of :func:`softmax_weights`. One draw comes from each k-th part of the cumulated weights
    (stratified sampling): the expected frequency of an action is its weight, and the variance is below that of
    independent draws.

    Args:
        q_sampled: (R, C, N, B).
        log_proposal: as in :func:`conservative_gap`.
        random: uniform in [0, 1), (R, C, k, B).
        temperature: T.

    Returns:
        Indices below N, (R, C, k, B).
    """
    n, k = q_sampled.shape[2], random.shape[2]
    cumulated = softmax_weights(q_sampled, log_proposal, temperature=temperature).cumsum(2)
    parts = torch.arange(k, device=random.device).view(-1, 1)
    thresholds = (parts + random) / k * cumulated[:, :, -1:]  # the last cumulated weight is 1 but for rounding
    return (cumulated.unsqueeze(3) <= thresholds.unsqueeze(2)).sum(2).clamp(max=n - 1)


def unclipped(
    q_sampled: Tensor,
    q_data: Tensor,
    log_proposal: Tensor | None,
    floor: Tensor | None,
    clip_min: Tensor,
    clip_max: Tensor,
    *,
    temperature: float = 1.0,
    include_data_action: bool = False,
) -> Tensor:
    """1 for states whose gap is within the bounds of :func:`conservative_gap`, else 0: (R, C, 1, B)."""
    gaps = _state_gaps(q_sampled, q_data, log_proposal, floor, temperature, include_data_action)
    within = (gaps >= clip_min[:, None, None]) & (gaps <= clip_max[:, None, None])
    return within.to(gaps.dtype).unsqueeze(2)


def sampled_gap(
    q_chosen: Tensor, q_data: Tensor, floor: Tensor | None = None, is_unclipped: Tensor | None = None
) -> Tensor:
    """The gap through k actions per state that :func:`softmax_choices` drew: mean_B [ mean_k Q_i(s, a_k) - Q_i(s, a) ].

    The gradient of the log-sum-exp is the mean of the critics' gradients over an action drawn by its softmax weights.
    So the expected gradient of this is that of :func:`conservative_gap`; its value is another.

    Args:
        q_chosen: (R, C, k, B).
        q_data: (R, C, B).
        floor: of the chosen actions, (R, C, k, B), see :func:`calibrated`.
        is_unclipped: of :func:`unclipped`; None if there are no bounds.

    Returns:
        (R, C).
    """
    gaps = calibrated(q_chosen, floor).mean(2) - q_data
    if is_unclipped is not None:
        gaps = gaps * is_unclipped.squeeze(2)
    return gaps.mean(-1)


def critic_loss(td: Tensor, gap: Tensor, w_cql: Tensor, alpha_cql: Tensor, tau_cql: Tensor) -> Tensor:
    """sum_i [ L_TD,i + w_cql alpha_cql (g_i - tau_cql) ]  [CQL, eq. 4; with tau_cql, appendix F].

    Args:
        td: L_TD,i, of :func:`temporal_difference`, (R, C).
        gap: g_i, of :func:`conservative_gap` or :func:`sampled_gap`, (R, C).
        w_cql: (R,).
        alpha_cql: (R,); a constant here: a learned multiplier has a loss of its own, :func:`multiplier_loss`.
        tau_cql: (R,); 0 if ``alpha_cql`` is fixed.

    Returns:
        (R,).
    """
    weight = w_cql * alpha_cql.detach()
    return (td + weight[:, None] * (gap - tau_cql[:, None])).sum(1)


def actor_loss(log_prob: Tensor, q: Tensor, alpha_temp: Tensor) -> Tensor:
    """mean_B( alpha_temp log pi(a|s) - min_i Q_i(s, a) ), a ~ pi(.|s), over all critics  [SAC, eq. 7].

    Args:
        log_prob: (R, N, B).
        q: (R, C, N, B), of critics whose parameters take no gradient.
        alpha_temp: (R,).

    Returns:
        (R,).
    """
    return (alpha_temp.detach()[:, None, None] * log_prob - q.amin(1)).mean((1, 2))


def bc_loss(log_prob: Tensor, log_prob_data: Tensor, alpha_temp: Tensor) -> Tensor:
    """mean_B( alpha_temp log pi(a|s) - log pi(a_data|s) ): the behaviour-cloning warm-up of published CQL code.

    Args:
        log_prob: of a sample, (R, N, B).
        log_prob_data: of the data's actions, (R, B).
        alpha_temp: (R,).

    Returns:
        (R,).
    """
    return (alpha_temp.detach()[:, None] * log_prob.mean(1) - log_prob_data).mean(-1)


def temperature_loss(alpha_temp: Tensor, log_prob: Tensor, target_entropy: Tensor) -> Tensor:
    """alpha_temp mean_B( -log pi(a|s) - target_entropy ), with log pi a constant  [SAC, eq. 18].

    Args:
        alpha_temp: (R,), with a gradient.
        log_prob: (R, N, B).
        target_entropy: (R,).

    Returns:
        (R,).
    """
    return alpha_temp * (-log_prob.detach().mean((1, 2)) - target_entropy)


def multiplier_loss(alpha_cql: Tensor, gap: Tensor, tau_cql: Tensor) -> Tensor:
    """-alpha_cql mean_i( g_i - tau_cql ), with the gap a constant: dual ascent on the constraint g <= tau_cql.

    [CQL, appendix F]. The gap is detached here, and the multiplier in :func:`critic_loss`. Without that, the
    conservative gradient changes its size and even its sign with ``alpha_cql``.

    Args:
        alpha_cql: (R,), with a gradient.
        gap: (R, C).
        tau_cql: (R,).

    Returns:
        (R,).
    """
    return -alpha_cql * (gap.detach().mean(1) - tau_cql)
