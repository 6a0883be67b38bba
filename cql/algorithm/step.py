"""One training step of CQL for a stack of runs: A critics, B actor, C temperature, D alpha_cql, E targets.

The losses are in :mod:`cql.algorithm.losses`, with their equations and sources. Every random number is an argument.
Axes: R runs, C critics, N sampled actions, B batch, A action. No run's numbers enter another's: all losses are (R,).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cql.algorithm import losses
from cql.algorithm.networks import PLAIN, Networks, Parameters
from cql.algorithm.sampling import Batch, Noise
from cql.algorithm.state import AgentConfig, AgentState

InGap = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""What the gap takes besides values: log mu_j (R, N, B), floors (R, N, B), and the bounds of a state's gap (R,)."""


class Phase(NamedTuple):
    """What the host decides about a step; all else happens on the device.

    Attributes:
        cloning: whether the actor of any run still clones the data, in its first ``bc_steps``.
        update_targets: whether the target critics are due.
        calibrated: whether the values of the policy's actions have a floor in the gap.
    """

    cloning: bool
    update_targets: bool
    calibrated: bool = False


class StepValues(NamedTuple):
    """What a step computed on its way, without gradients. :func:`metrics_of` says what is reported of it."""

    td: Tensor  # (R, C)
    gap: Tensor  # (R, C), of all sampled actions
    tau_cql: Tensor  # (R,)
    alpha_cql: Tensor  # (R,), before the step
    alpha_temp: Tensor  # (R,), before the step
    q_data: Tensor  # (R, C, B)
    q_uniform: Tensor  # (R, C, N, B)
    q_policy: Tensor  # (R, C, N, B)
    q_sampled: Tensor  # (R, C, 2 N or 3 N, B), of all sampled actions
    actor_loss: Tensor  # (R,)
    log_prob: Tensor  # (R, 1, B)
    floor: Tensor | None  # (R, B), of the values of the policy's actions in the gap


METRICS: dict[str, Callable[[StepValues], Tensor]] = {
    "critic_td": lambda step: step.td.mean(1),
    "cql_gap": lambda step: step.gap.mean(1),
    "cql_residual": lambda step: step.gap.mean(1) - step.tau_cql,
    "alpha_cql": lambda step: step.alpha_cql,
    "alpha_temp": lambda step: step.alpha_temp,
    "q_data": lambda step: step.q_data.mean((1, 2)),
    "q_policy": lambda step: step.q_policy.mean((1, 2, 3)),
    "q_uniform": lambda step: step.q_uniform.mean((1, 2, 3)),
    "actor_loss": lambda step: step.actor_loss,
    "entropy": lambda step: -step.log_prob.mean((1, 2)),
}
"""The metrics that every step reports, in their order, each (R,).

A new metric is a new line here; one of another value also needs a field of :class:`StepValues`.
"""


def metrics_of(config: AgentConfig) -> dict[str, Callable[[StepValues], Tensor]]:
    """What steps of a config report: :data:`METRICS`, and ``floor_share`` if the gap is calibrated."""
    return {**METRICS, "floor_share": _floor_share} if config.calibrated else dict(METRICS)


def _floor_share(step: StepValues) -> Tensor:
    """The share of the values of the policy's actions that are below their floor, (R,)."""
    if step.floor is None:
        return torch.zeros_like(step.alpha_temp)
    q_of_policy = step.q_sampled[:, :, step.q_uniform.shape[2] :]
    return (q_of_policy < step.floor[:, None, None]).to(step.td.dtype).mean((1, 2, 3))


# Longer than other functions here: a step is read in one piece.
def training_step(
    config: AgentConfig, agent: AgentState, batch: Batch, noise: Noise, phase: Phase, networks: Networks = PLAIN
) -> StepValues:
    """Train all runs of a stack for one step; ``agent`` changes in place.

    Nothing here depends on the value of a tensor, and none moves to the host, so a CUDA graph can hold the step.

    Args:
        config: what the runs share.
        agent: their parameters and optimisers.
        batch: one minibatch per run.
        noise: of a sampler that draws what ``config`` needs.
        phase: what the host decides.
        networks: how actor and critics are computed.
    """
    constants, exact = agent.constants, config.gradient == "exact"
    value_of = functools.partial(networks.critics, config.critic)
    alpha_temp, alpha_cql = agent.alpha_temp, agent.alpha_cql  # constants in A and B, learned in C and D

    def policy(observations: Tensor) -> tuple[Tensor, Tensor]:
        return networks.actor(config.actor, agent.actor, observations, config.log_std_min, config.log_std_max)

    exact_gap = functools.partial(
        losses.conservative_gap, temperature=config.gap_temperature, include_data_action=config.include_data_action
    )

    def loss_of_values(
        q: Tensor, target: Tensor, w_cql: Tensor, alpha_cql: Tensor, tau_cql: Tensor, *of_gap: Tensor | None
    ) -> Tensor:
        q_data, q_sampled = q[:, :, 0], q[:, :, 1:]  # at the data's action, and at those of the penalty
        td = losses.temporal_difference(q_data, target)
        gap = exact_gap(q_sampled, q_data, *of_gap) if exact else losses.sampled_gap(q_sampled, q_data, *of_gap)
        return losses.critic_loss(td, gap, w_cql, alpha_cql, tau_cql)

    # A. Critics: sum_i [ L_TD,i + w_cql alpha_cql (g_i - tau_cql) ]. All actions are valued at s.
    pi = policy(batch.observations)  # with its graph: B trains the actor through it
    with torch.no_grad():
        next_pi = policy(batch.next_observations)
        next_actions, next_log_prob = losses.squashed_gaussian(*next_pi, noise.target)
        next_q = value_of(_target_critics(config, agent.targets, noise), batch.next_observations, next_actions)
        target = losses.bellman_target(
            batch.rewards, batch.terminated, next_q, next_log_prob, constants.discount, alpha_temp, config.backup
        )
        sampled_actions, log_proposal = _sampled_actions(config, noise, pi, next_pi)
        floor = batch.returns_to_go if phase.calibrated else None
        in_gap = log_proposal, _floors(config, floor), *(agent.gap_clip or (None, None))
        valued_actions, of_gap = torch.cat([batch.actions.unsqueeze(1), sampled_actions], 1), in_gap
        if not exact:
            value_of_all = functools.partial(value_of, agent.critics, batch.observations)
            q_sampled, valued_actions, of_gap = _sampled_gradient(config, noise, valued_actions, value_of_all, in_gap)
    weights = constants.w_cql, alpha_cql.detach(), constants.tau_cql
    q, gradients = networks.critic_gradients(
        config.critic, agent.critics, batch.observations, valued_actions, loss_of_values, [target, *weights, *of_gap]
    )
    agent.optimisers["critics"].step(gradients)
    q_data = q[:, :, 0]
    if exact:
        q_sampled = q[:, :, 1:]
    td, gap = losses.temporal_difference(q_data, target), exact_gap(q_sampled, q_data, *in_gap)

    # B. Actor, against the critics just updated, which take no gradient; in its first bc_steps it clones the data.
    pi_actions, log_prob = losses.squashed_gaussian(*pi, noise.actor)
    frozen_critics = {name: tensor.detach() for name, tensor in agent.critics.items()}
    q_pi = value_of(frozen_critics, batch.observations, pi_actions)
    actor_loss = losses.actor_loss(log_prob, q_pi, alpha_temp)
    if phase.cloning:
        log_prob_data = losses.squashed_gaussian_log_prob(*pi, batch.actions)
        clones = agent.optimisers["actor"].n_steps < constants.bc_steps
        actor_loss = torch.where(clones, losses.bc_loss(log_prob, log_prob_data, alpha_temp), actor_loss)
    _descend(agent, "actor", actor_loss)

    # C. Temperature, if it is learned.
    if "alpha_temp" in agent.log_coefficients:
        _descend(agent, "alpha_temp", losses.temperature_loss(alpha_temp, log_prob, constants.target_entropy))

    # D. alpha_cql, if it is learned. Clamped after the step: a clamp in the loss has no gradient beyond its bound, so
    # that a multiplier which reached the bound would stay there.
    if "alpha_cql" in agent.log_coefficients:
        _descend(agent, "alpha_cql", losses.multiplier_loss(alpha_cql, gap, constants.tau_cql))
        agent.log_coefficients["alpha_cql"]["log_alpha_cql"].detach().clamp_(max=math.log(losses.ALPHA_CQL_MAX))

    # E. Targets: theta_bar <- (1 - tau_target) theta_bar + tau_target theta.
    if phase.update_targets:
        for name, tensor in frozen_critics.items():
            agent.targets[name].lerp_(tensor, constants.tau_target.view(-1, *[1] * (tensor.dim() - 1)))

    n = config.num_sampled_actions
    return StepValues(
        td=td,
        gap=gap,
        tau_cql=constants.tau_cql,
        alpha_cql=alpha_cql.detach(),
        alpha_temp=alpha_temp.detach(),
        q_data=q_data,
        q_uniform=q_sampled[:, :, :n],
        q_policy=q_sampled[:, :, n : 2 * n],
        q_sampled=q_sampled,
        actor_loss=actor_loss.detach(),
        log_prob=log_prob.detach(),
        floor=floor,
    )


def _sampled_actions(
    config: AgentConfig, noise: Noise, pi: tuple[Tensor, Tensor], next_pi: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The penalty's actions (R, N, B, A): uniform ones, of pi(.|s) and of pi(.|s'); and log mu_j (R, N, B), if used."""
    groups = [losses.squashed_gaussian(*pi, noise.policy), losses.squashed_gaussian(*next_pi, noise.next_policy)]
    actions = torch.cat([noise.uniform, *(own for own, _ in groups)], 1)
    if not config.importance_weighted:
        return actions, None
    log_uniform = torch.full_like(noise.uniform[..., 0], -config.action_size * math.log(2.0))
    return actions, torch.cat([log_uniform, *(log_prob for _, log_prob in groups)], 1)


def _target_critics(config: AgentConfig, targets: Parameters, noise: Noise) -> Parameters:
    """The target critics of this step: all of them, or a random subset of each run's."""
    if config.n_target_critics == config.n_critics:
        return targets
    chosen = noise.subset.argsort(1)[:, : config.n_target_critics]
    runs = torch.arange(len(chosen), device=chosen.device).unsqueeze(1)
    return {name: tensor[runs, chosen] for name, tensor in targets.items()}


def _floors(config: AgentConfig, floor: Tensor | None) -> Tensor | None:
    """The floor (R, B) for each of the penalty's actions, (R, N, B): minus infinity for the uniform ones."""
    if floor is None:
        return None
    n, n_of_policy = config.num_sampled_actions, config.num_sampled_actions * (2 if config.next_actions else 1)
    none = torch.full_like(floor, -math.inf).unsqueeze(1)
    return torch.cat([none.expand(-1, n, -1), floor.unsqueeze(1).expand(-1, n_of_policy, -1)], 1)


def _sampled_gradient(
    config: AgentConfig, noise: Noise, actions: Tensor, value_of: Callable[[Tensor], Tensor], in_gap: InGap
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Draw the actions of a sampled gradient.

    Args:
        config: what the runs share.
        noise: of the step.
        actions: the data's and the penalty's, (R, 1 + N, B, A).
        value_of: values (R, C, N, B) of actions (R, N, B, A).
        in_gap: what the exact gap takes besides values.

    Returns:
        The values of the penalty's actions (R, C, N, B); the data's action and k drawn ones for each critic,
        (R, C, 1 + k, B, A); and what the sampled gap takes besides their values.
    """
    log_proposal, floors, clip_min, clip_max = in_gap
    with_data = config.include_data_action
    q_sampled = value_of(actions[:, 1:])
    q_data = value_of(actions[:, :1])[:, :, 0] if with_data or clip_min is not None else None
    candidates = losses.candidate_values(q_sampled, q_data, floors, with_data)
    chosen = losses.softmax_choices(candidates, log_proposal, noise.choice, temperature=config.gap_temperature)
    index = torch.cat([torch.zeros_like(chosen[:, :, :1]), chosen + (0 if with_data else 1)], 2)
    by_critic = actions.unsqueeze(1).expand(-1, index.shape[1], -1, -1, -1)
    own_floors = None if floors is None else floors.unsqueeze(1).expand_as(q_sampled).gather(2, chosen)
    is_unclipped = None
    if q_data is not None and clip_min is not None and clip_max is not None:
        is_unclipped = losses.unclipped(
            q_sampled, q_data, log_proposal, floors, clip_min, clip_max,
            temperature=config.gap_temperature, include_data_action=with_data,
        )  # fmt: skip
    drawn = by_critic.gather(2, index.unsqueeze(-1).expand(*index.shape, actions.shape[-1]))
    return q_sampled, drawn, (own_floors, is_unclipped)


def _descend(agent: AgentState, part: str, loss: Tensor) -> None:
    """A step of Adam on a part's loss (R,). The runs share no parameter, so the sum's gradient is each run's own."""
    optimiser = agent.optimisers[part]
    optimiser.step(torch.autograd.grad(loss.sum(), optimiser.parameters))
