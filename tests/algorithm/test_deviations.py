"""Where published implementations do something else: the exact relation of theirs to ours, for docs/deviations.md.

Their formulas are written out here; what runs beside them is ours. The tests that run TorchRL itself need it installed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_agent import CONFIG, FIXED_RUN, B, float64, in_float64, make, transitions

from cql.algorithm import losses, networks

C, N = 2, 4
ALPHA, W_CQL, TAU_CQL = (torch.tensor([value], dtype=torch.float64) for value in (1.7, 5.0, 0.8))


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, *shape, generator=generator, dtype=torch.float64)


def leaf(tensor):
    return tensor.clone().requires_grad_()


def test_the_largest_backup_is_the_largest_of_the_lowest_values():
    # The authors' code and TorchRL take the lowest of the largest values, which is never below.
    next_q = torch.tensor([[[[0.0], [3.0]], [[2.0], [1.0]]]])  # (1, C, N, B): critics (0, 3) and (2, 1)
    zero = torch.zeros(1, 1)
    ours = losses.bellman_target(zero, zero, next_q, torch.zeros(1, 2, 1), torch.ones(1), torch.ones(1), "max")
    assert ours.item() == 1.0
    assert next_q.amax(2).amin(1).item() == 2.0


def test_the_datas_action_costs_the_logarithm_of_the_number_of_values():
    # Published code adds the data's value and subtracts nothing: theirs is ours + T log M, with the same gradient.
    q_sampled, q_data, temperature = leaf(normal(C, N, B)), leaf(normal(C, B, seed=1)), 2.0
    ours = losses.conservative_gap(q_sampled, q_data, None, temperature=temperature, include_data_action=True)
    values = torch.cat([q_data.unsqueeze(2), q_sampled], 2)
    theirs = (temperature * (values / temperature).logsumexp(2) - q_data).mean(-1)
    torch.testing.assert_close(ours + temperature * math.log(N + 1), theirs)
    found = [torch.autograd.grad(each.sum(), (q_sampled, q_data)) for each in (ours, theirs)]
    torch.testing.assert_close(*found)


def test_one_action_of_each_group_is_ours_with_one_sampled_action():
    # TorchRL and Tianshou: the mean over n draws of a log-sum-exp of three values; ours is one of 3 n values.
    by_draw = [(normal(C, 3, B, seed=k), normal(3, B, seed=10 + k)) for k in range(N)]
    q_data = normal(C, B, seed=20)
    theirs = torch.stack([losses.conservative_gap(q, q_data, log_mu) for q, log_mu in by_draw]).mean(0)
    q, log_mu = (torch.cat(each, -2) for each in zip(*by_draw, strict=True))
    stacked = torch.stack([q - log_mu.unsqueeze(1) for q, log_mu in by_draw], 2)  # (1, C, draws, 3, B)
    torch.testing.assert_close(theirs, (stacked.logsumexp(3).mean(2) - q_data).mean(-1))
    ours = losses.conservative_gap(q, q_data, log_mu)
    assert (ours > theirs + math.log(N)).all()  # equal only if the draws are


def test_a_threshold_of_the_weighted_gap_is_w_cql_times_ours():
    # The authors' code and Tianshou compare w_cql g_i with the threshold, we compare g_i.
    td, gap, theirs_tau = normal(C), leaf(normal(C, seed=1)), W_CQL * TAU_CQL
    alpha = leaf(ALPHA)
    ours = losses.critic_loss(td, gap, W_CQL, alpha, TAU_CQL)
    theirs = (td + alpha * (W_CQL * gap - theirs_tau)).sum(1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, gap), torch.autograd.grad(theirs, gap, retain_graph=True))
    # The loss of the multiplier: w_cql times ours, which Adam's step does not depend on.
    theirs_multiplier = 0.5 * (-alpha * (W_CQL * gap - theirs_tau)).sum(1)
    own = losses.multiplier_loss(alpha, gap, TAU_CQL)
    torch.testing.assert_close(theirs_multiplier, W_CQL * own)


def test_the_temperatures_loss_in_its_logarithm_has_the_same_sign():
    log_alpha, log_prob, target = leaf(ALPHA.log()), normal(1, B), torch.tensor([-3.0], dtype=torch.float64)
    (ours,) = torch.autograd.grad(losses.temperature_loss(log_alpha.exp(), log_prob, target), log_alpha)
    (theirs,) = torch.autograd.grad(-(log_alpha * (log_prob.mean((1, 2)) + target)), log_alpha)
    torch.testing.assert_close(ours, ALPHA * theirs)


def test_the_floor_of_cal_ql_comes_before_the_weights():
    # Tianshou takes the larger of the weighted value and the floor.
    q, log_mu, floor = torch.tensor([[[[1.0]]]]), torch.tensor([[[-3.0]]]), torch.tensor([[[2.0]]])
    gap = losses.conservative_gap(q, torch.zeros(1, 1, 1), log_mu, floor)
    assert gap.item() == 5.0  # max(1, 2) + 3
    assert torch.maximum(q - log_mu, floor).item() == 4.0


def test_the_actor_learns_from_the_critics_that_were_just_updated():
    agent, sampler = make(CONFIG, [replace(FIXED_RUN, critic_learning_rate=0.1)])
    in_float64(agent)
    actor, critics = ({name: t.detach().clone() for name, t in own.items()} for own in (agent.actor, agent.critics))
    batch, noise = float64(*sampler.draw(transitions()))
    found = agent.update(batch, noise)[agent.metrics.index("actor_loss")]

    def loss(critics):
        pi = networks.actor(CONFIG.actor, actor, batch.observations, CONFIG.log_std_min, CONFIG.log_std_max)
        actions, log_prob = losses.squashed_gaussian(*pi, noise.actor)
        q = networks.critics(CONFIG.critic, critics, batch.observations, actions)
        return losses.actor_loss(log_prob, q, agent.stack.alpha_temp)

    torch.testing.assert_close(found, loss({name: t.detach() for name, t in agent.critics.items()}))
    assert abs(float(found - loss(critics))) > 0.01


# TorchRL ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def torchrl_loss():
    """Its CQLLoss as a function of where the multiplier begins: losses by name, and the parameters of its critics."""
    pytest.importorskip("torchrl")
    from tensordict import TensorDict
    from torch import nn
    from torchrl.data import Bounded
    from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.modules.distributions import NormalParamExtractor
    from torchrl.modules.tensordict_module.common import SafeModule
    from torchrl.objectives.cql import CQLLoss

    size, n_actions, batch = 4, 3, 8
    torch.manual_seed(0)
    spec = Bounded(-torch.ones(n_actions), torch.ones(n_actions), (n_actions,))
    policy = nn.Sequential(nn.Linear(size, 2 * n_actions), NormalParamExtractor())
    actor = ProbabilisticActor(
        module=SafeModule(policy, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
    )

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(size + n_actions, 1)

        def forward(self, observation, action):
            return self.layer(torch.cat([observation, action], -1))

    critic = ValueOperator(Critic(), in_keys=["observation", "action"])
    flag = torch.zeros(batch, 1, dtype=torch.bool)
    following = {"observation": torch.randn(batch, size), "reward": torch.randn(batch, 1)}
    following |= {"done": flag, "terminated": flag}
    data = TensorDict(
        {"observation": torch.randn(batch, size), "action": spec.rand((batch,)), "next": following}, (batch,)
    )

    def evaluate(alpha_cql):
        torch.manual_seed(1)  # it draws the second critic, and actions
        loss = CQLLoss(actor, critic, with_lagrange=True, lagrange_thresh=5.0, num_random=10)
        with torch.no_grad():
            loss.log_alpha_prime.fill_(math.log(alpha_cql))
        return loss(data.clone()), list(loss.qvalue_network_params.parameters())

    return evaluate


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # of its own dependencies
@pytest.mark.parametrize("alpha_cql", [1.0, 2.0, 4.0])
def test_torchrls_multiplier_weighs_nothing_and_turns_the_penalty_round(torchrl_loss, alpha_cql):
    found, parameters = torchrl_loss(alpha_cql)
    of_penalty = torch.autograd.grad(found["loss_cql"], parameters, retain_graph=True)
    of_multiplier = torch.autograd.grad(found["loss_alpha_prime"], parameters, allow_unused=True)
    assert max(float(each.abs().max()) for each in of_penalty) > 0.01
    for penalty, multiplier in zip(of_penalty, of_multiplier, strict=True):
        own = torch.zeros_like(penalty) if multiplier is None else multiplier
        torch.testing.assert_close(own, -alpha_cql / 2 * penalty, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["loss_cql"], torchrl_loss(10 * alpha_cql)[0]["loss_cql"])


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_torchrls_log_sum_exp_has_one_action_of_each_group(torchrl_loss, monkeypatch):
    shapes, logsumexp = [], torch.logsumexp

    def noted(values, dim, **options):
        shapes.append((*values.shape, dim))
        return logsumexp(values, dim=dim, **options)

    monkeypatch.setattr(torch, "logsumexp", noted)
    torchrl_loss(1.0)
    assert shapes == [(8 * 10, 3, -1)] * 2  # states times actions, groups
