"""Each loss against the slow reference, in float64, values and gradients; and the facts behind the formulas."""

from __future__ import annotations

import math

import pytest
import reference
import torch
from torch.autograd import gradcheck
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from cql.algorithm import losses

R, C, N, B, A = 3, 2, 4, 5, 2


@pytest.fixture
def draw():
    """Random leaves in float64."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape, scale=1.0):
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return leaf


def gradients(output, inputs):
    """Of a fixed random combination of the outputs, zero where nothing flows."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad((output * weights).sum(), inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def assert_same(ours, theirs, *inputs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for own, their in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(own, their, rtol=1e-10, atol=1e-12)


def stack(rows):
    """Nested lists of scalars to a tensor that keeps the graph."""
    return torch.stack([stack(row) if isinstance(row, list) else row for row in rows])


# The squashed Gaussian ------------------------------------------------------------------------------------------------


def test_samples_and_their_log_likelihood(draw):
    mu, log_std, noise = draw(R, B, A), draw(R, B, A, scale=0.5), draw(R, N, B, A)
    actions, log_prob = losses.squashed_gaussian(mu, log_std, noise)
    theirs = [
        [[reference.sample(mu[r, b], log_std[r, b], noise[r, n, b]) for b in range(B)] for n in range(N)]
        for r in range(R)
    ]
    assert_same(actions, stack([[[a for a, _ in row] for row in run] for run in theirs]), mu, log_std, noise)
    assert_same(log_prob, stack([[[p for _, p in row] for row in run] for run in theirs]), mu, log_std, noise)


def test_log_likelihood_of_given_actions(draw):
    mu, log_std, actions = draw(R, B, A), draw(R, B, A, scale=0.5), draw(R, B, A).tanh().detach()
    ours = losses.squashed_gaussian_log_prob(mu, log_std, actions)
    theirs = [
        [reference.log_prob_of_action(mu[r, b], log_std[r, b], actions[r, b]) for b in range(B)] for r in range(R)
    ]
    assert_same(ours, stack(theirs), mu, log_std)


def test_log_likelihood_is_that_of_torch_distributions(draw):
    mu, log_std, noise = draw(R, B, A), draw(R, B, A, scale=0.5), draw(R, 1, B, A)
    actions, log_prob = losses.squashed_gaussian(mu, log_std, noise)
    policy = Independent(TransformedDistribution(Normal(mu, log_std.exp()), TanhTransform()), 1)
    torch.testing.assert_close(log_prob[:, 0], policy.log_prob(actions[:, 0]), rtol=1e-9, atol=1e-9)
    ours = losses.squashed_gaussian_log_prob(mu, log_std, actions[:, 0].detach())
    torch.testing.assert_close(ours, policy.log_prob(actions[:, 0].detach()), rtol=1e-9, atol=1e-9)


def test_density_integrates_to_one():
    grid = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    for mu, log_std in ((0.0, 0.0), (0.7, -1.0), (-1.5, -0.5)):
        columns = (torch.full_like(grid, value)[None, :, None] for value in (mu, log_std))
        density = losses.squashed_gaussian_log_prob(*columns, grid[None, :, None]).exp()
        assert float(torch.trapezoid(density[0], grid)) == pytest.approx(1.0, abs=2e-4)


def test_log_likelihood_is_exact_where_the_slope_of_tanh_underflows():
    mu = torch.tensor([[[-60.0, 15.0, 60.0]]])  # tanh is +-1 in float32 for all three, and 1 - a^2 is 0
    actions, log_prob = losses.squashed_gaussian(mu, torch.zeros_like(mu), torch.zeros(1, 1, 1, 3))
    assert actions.abs().eq(1.0).all()
    # log(1 - tanh(u)^2) -> 2 (log 2 - |u|)
    expected = sum(-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - u) for u in (60.0, 15.0, 60.0))
    assert float(log_prob) == pytest.approx(expected, rel=1e-6)


def test_data_actions_on_the_bound_have_a_finite_likelihood():
    mu = torch.zeros(1, 1, 2)
    for dtype in (torch.float32, torch.float64):
        actions = torch.tensor([[[-1.0, 1.0]]], dtype=dtype)
        assert losses.squashed_gaussian_log_prob(mu.to(dtype), mu.to(dtype), actions).isfinite().all()


# The critics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backup", "n_target"), [("soft", 1), ("hard", 1), ("max", N)])
def test_bellman_target(draw, backup, n_target):
    rewards, next_q, next_log_prob = draw(R, B), draw(R, C, n_target, B), draw(R, n_target, B)
    terminated = (torch.arange(R * B).view(R, B) % 3 == 0).double()
    discount, alpha_temp = (torch.tensor(x, dtype=torch.float64) for x in ([0.9, 0.99, 0.5], [0.2, 1.0, 3.0]))
    ours = losses.bellman_target(
        rewards, terminated, next_q, next_log_prob, discount=discount, alpha_temp=alpha_temp, backup=backup
    )
    theirs = [
        [
            reference.bellman_target(
                rewards[r, b],
                terminated[r, b],
                [list(next_q[r, i, :, b]) for i in range(C)],
                list(next_log_prob[r, :, b]),
                discount[r],
                alpha_temp[r],
                backup,
            )
            for b in range(B)
        ]
        for r in range(R)
    ]
    assert_same(ours, stack(theirs), rewards, next_q, next_log_prob)


@pytest.mark.parametrize("backup", ["soft", "hard", "max"])
def test_only_termination_cuts_the_return(draw, backup):
    rewards, next_q, next_log_prob = draw(1, 2).detach(), draw(1, C, 1, 2).detach(), draw(1, 1, 2).detach()
    one = torch.ones(1, dtype=torch.float64)
    y = losses.bellman_target(
        rewards,
        torch.tensor([[1.0, 0.0]], dtype=torch.float64),
        next_q,
        next_log_prob,
        discount=0.9 * one,
        alpha_temp=0.5 * one,
        backup=backup,
    )
    assert y[0, 0] == rewards[0, 0]
    entropy_term = 0.5 * next_log_prob[0, 0, 1] if backup == "soft" else 0.0
    assert float(y[0, 1]) == pytest.approx(float(rewards[0, 1] + 0.9 * (next_q[0, :, 0, 1].min() - entropy_term)))


def test_temporal_difference(draw):
    q, y = draw(R, C, B), draw(R, B)
    theirs = [[reference.temporal_difference(list(q[r, i]), list(y[r])) for i in range(C)] for r in range(R)]
    assert_same(losses.temporal_difference(q, y), stack(theirs), q, y)


def gap_by_loops(q_sampled, q_data, log_proposal, temperature):
    def by_row(tensor):  # (N, B) to [b][n]
        return [list(tensor[:, b]) for b in range(B)]

    return stack(
        [
            [
                reference.conservative_gap(
                    by_row(q_sampled[r, i]),
                    list(q_data[r, i]),
                    None if log_proposal is None else by_row(log_proposal[r]),
                    temperature,
                )
                for i in range(C)
            ]
            for r in range(R)
        ]
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("importance_weighted", [True, False])
def test_conservative_gap(draw, importance_weighted, temperature):
    q_sampled, q_data = draw(R, C, N, B), draw(R, C, B)
    log_proposal = draw(R, N, B) if importance_weighted else None
    ours = losses.conservative_gap(q_sampled, q_data, log_proposal, temperature=temperature)
    inputs = [q_sampled, q_data] + ([] if log_proposal is None else [log_proposal])
    assert_same(ours, gap_by_loops(q_sampled, q_data, log_proposal, temperature), *inputs)


def test_conservative_gap_by_finite_differences(draw):
    def gap(*inputs):
        return losses.conservative_gap(*inputs, temperature=0.7)

    assert gradcheck(gap, (draw(1, C, 3, 2), draw(1, C, 2), draw(1, 3, 2)))


def test_conservative_gap_survives_values_whose_exponentials_overflow():
    q_sampled = torch.full((1, 1, 2, 1), 5000.0)
    gap = losses.conservative_gap(q_sampled, torch.zeros(1, 1, 1), None)
    assert float(gap) == pytest.approx(5000 + math.log(2))


def test_importance_weights_estimate_the_integral_over_actions():
    # With them, the log-mean-exp over uniform actions estimates log of the integral of exp Q over [-1, 1]^A; here
    # exp Q = exp(a_1 + a_2) and the integral is (2 sinh 1)^2.
    n = 200_000
    actions = torch.rand(1, n, 1, A, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    log_uniform = torch.full((1, n, 1), -A * math.log(2.0), dtype=torch.float64)
    q = actions.sum(-1).unsqueeze(1)
    gap = losses.conservative_gap(q, torch.zeros(1, 1, 1, dtype=torch.float64), log_uniform)
    assert float(gap) - math.log(n) == pytest.approx(2 * math.log(2 * math.sinh(1)), abs=0.01)


W_CQL, TAU_CQL = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 0.0, 2.5], [5.0, 0.0, -1.0]))


def test_critic_loss(draw):
    td, gap, alpha_cql = draw(R, C), draw(R, C), draw(R)
    theirs = [reference.critic_loss(list(td[r]), list(gap[r]), alpha_cql[r], W_CQL[r], TAU_CQL[r]) for r in range(R)]
    assert_same(losses.critic_loss(td, gap, W_CQL, alpha_cql, TAU_CQL), stack(theirs), td, gap, alpha_cql)


def test_critic_loss_by_hand():
    # (4 + 3 * 2 * (7 - 5)) + (1 + 3 * 2 * (4 - 5)) = 16 - 5; and without a multiplier the two errors alone.
    td, gap = torch.tensor([[4.0, 1.0], [4.0, 1.0]]), torch.tensor([[7.0, 4.0], [7.0, 4.0]])
    w_cql, alpha_cql, tau_cql = torch.tensor([3.0, 3.0]), torch.tensor([2.0, 0.0]), torch.tensor([5.0, 5.0])
    assert losses.critic_loss(td, gap, w_cql, alpha_cql, tau_cql).tolist() == [11.0, 5.0]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("importance_weighted", [True, False])
def test_the_gradient_of_the_critic_loss_in_the_values_by_hand(draw, importance_weighted, temperature):
    # At the data's action ( 2 (Q - y) - w_cql alpha_cql ) / B, at the sampled ones w_cql alpha_cql softmax_j / B.
    q_sampled, q_data, target, alpha_cql = draw(R, C, N, B), draw(R, C, B), draw(R, B), draw(R)
    log_proposal = draw(R, N, B) if importance_weighted else None
    td = losses.temporal_difference(q_data, target)
    gap = losses.conservative_gap(q_sampled, q_data, log_proposal, temperature=temperature)
    loss = losses.critic_loss(td, gap, W_CQL, alpha_cql, TAU_CQL)
    of_data, of_sampled = torch.autograd.grad(loss.sum(), [q_data, q_sampled])
    weight = (W_CQL * alpha_cql)[:, None, None]
    expected = (2 * (q_data - target.unsqueeze(1)) - weight) / B
    torch.testing.assert_close(of_data, expected, rtol=1e-12, atol=1e-14)
    shares = losses.softmax_weights(q_sampled, log_proposal, temperature=temperature)
    torch.testing.assert_close(of_sampled, weight.unsqueeze(3) * shares / B, rtol=1e-12, atol=1e-14)


# Actor and coefficients -----------------------------------------------------------------------------------------------


def test_actor_loss(draw):
    log_prob, q, alpha_temp = draw(R, 1, B), draw(R, C, 1, B), draw(R)
    theirs = [
        reference.actor_loss(list(log_prob[r, 0]), [list(q[r, :, 0, b]) for b in range(B)], alpha_temp[r])
        for r in range(R)
    ]
    assert_same(losses.actor_loss(log_prob, q, alpha_temp), stack(theirs), log_prob, q, alpha_temp)


def test_bc_loss(draw):
    log_prob, log_prob_data, alpha_temp = draw(R, 1, B), draw(R, B), draw(R)
    theirs = [reference.bc_loss(list(log_prob[r, 0]), list(log_prob_data[r]), alpha_temp[r]) for r in range(R)]
    assert_same(losses.bc_loss(log_prob, log_prob_data, alpha_temp), stack(theirs), log_prob, log_prob_data, alpha_temp)


def test_temperature_loss(draw):
    alpha_temp, log_prob = draw(R), draw(R, 1, B)
    target_entropy = torch.tensor([-2.0, -6.0, 1.0], dtype=torch.float64)
    theirs = [reference.temperature_loss(alpha_temp[r], list(log_prob[r, 0]), target_entropy[r]) for r in range(R)]
    assert_same(losses.temperature_loss(alpha_temp, log_prob, target_entropy), stack(theirs), alpha_temp, log_prob)


def test_multiplier_loss(draw):
    alpha_cql, gap = draw(R), draw(R, C)
    tau_cql = torch.tensor([5.0, 0.0, -1.0], dtype=torch.float64)
    theirs = [reference.multiplier_loss(alpha_cql[r], list(gap[r]), tau_cql[r]) for r in range(R)]
    assert_same(losses.multiplier_loss(alpha_cql, gap, tau_cql), stack(theirs), alpha_cql, gap)


def test_multiplier_rises_above_its_threshold_and_falls_below():
    alpha_cql = torch.ones(2, requires_grad=True)
    losses.multiplier_loss(alpha_cql, torch.tensor([[6.0, 8.0], [1.0, 3.0]]), torch.tensor([5.0, 5.0])).sum().backward()
    torch.testing.assert_close(alpha_cql.grad, torch.tensor([-2.0, 3.0]))  # descent on it: up, down


def test_temperature_rises_below_its_target_entropy_and_falls_above():
    alpha_temp = torch.ones(2, requires_grad=True)
    log_prob = torch.tensor([[[3.0]], [[-3.0]]])  # entropies -3 and 3
    losses.temperature_loss(alpha_temp, log_prob, torch.tensor([-1.0, -1.0])).sum().backward()
    torch.testing.assert_close(alpha_temp.grad, torch.tensor([-2.0, 4.0]))


# The sampled gradient of the gap --------------------------------------------------------------------------------------


K_AND_TEMPERATURE = [(1, 1.0), (1, 0.5), (4, 1.0), (4, 3.0)]
N_MANY, B_FEW = 30, 6


def gap_inputs(seed, spread=2.0):
    """Of one run: (1, C, N, B), (1, C, B) and (1, N, B)."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(1, *shape, generator=random, dtype=torch.float64)

    return spread * normal(C, N_MANY, B_FEW), normal(C, B_FEW), normal(N_MANY, B_FEW)


def sampled_gradients(inputs, k, temperature, n_draws):
    """Of the gap with respect to the values of all sampled actions, (n_draws, C, N, B): draws take the runs' place."""
    q_sampled, q_data, log_proposal = (None if x is None else x.expand(n_draws, *x.shape[1:]).clone() for x in inputs)
    uniform = torch.rand(n_draws, C, k, B_FEW, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    chosen = losses.softmax_choices(q_sampled, log_proposal, uniform, temperature=temperature)
    leaf = q_sampled.requires_grad_()
    gap = losses.sampled_gap(leaf.gather(2, chosen), q_data)
    return torch.autograd.grad(gap.sum(), leaf)[0]


def test_sampled_gap_by_hand():
    # Two states, k = 2: means 2 and 5 of the chosen actions, less the data's 1 and 3.
    q_chosen = torch.tensor([[[[1.0, 4.0], [3.0, 6.0]]]], requires_grad=True)
    gap = losses.sampled_gap(q_chosen, torch.tensor([[[1.0, 3.0]]]))
    assert gap.tolist() == [[1.5]]
    gap.sum().backward()
    assert q_chosen.grad.eq(0.25).all()  # 1 / (k B)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("k", "temperature"), K_AND_TEMPERATURE)
def test_the_sampled_gradient_is_the_exact_one_on_average(k, temperature, weighted):
    """20,000 draws: each of the 360 components is within five standard errors, and five choices, of its expectation."""
    q_sampled, q_data, log_proposal = gap_inputs(0)
    inputs, n_draws = (q_sampled, q_data, log_proposal if weighted else None), 20_000
    leaf = q_sampled.clone().requires_grad_()
    exact = losses.conservative_gap(leaf, q_data, inputs[2], temperature=temperature)
    (expected,) = torch.autograd.grad(exact.sum(), leaf)
    mean = sampled_gradients(inputs, k, temperature, n_draws).mean(0, keepdim=True)
    # A component is the weight of its action over B. The number of times that it was chosen is binomial for k = 1 and
    # varies less for k > 1; a few choices more or less are nothing where hardly any are expected.
    weights = expected * B_FEW
    interval = (5 * (weights * (1 - weights) / (n_draws * k)).sqrt() + 5 / (n_draws * k)) / B_FEW
    assert ((mean - expected).abs() <= interval).all()
    assert interval.max() < 0.1 * expected.max()  # it is a narrow one,
    heaviest = torch.zeros_like(expected).scatter_(2, expected.argmax(2, keepdim=True), 1 / B_FEW)
    assert not ((heaviest - expected).abs() <= interval).all()  # which a biased gradient misses


def test_more_gradient_actions_have_less_variance():
    inputs = gap_inputs(2)
    variances = {k: float(sampled_gradients(inputs, k, 1.0, 4000).var(0).sum()) for k in (1, 2, 4, 8)}
    # Independent draws would have a k-th of the first; stratified ones have less, which 0.95 tells from chance.
    assert all(variances[k] < 0.95 * variances[1] / k for k in (2, 4, 8)), variances


def test_a_gap_at_its_bound_still_has_a_gradient():
    """In the exact and the sampled form alike."""
    q_sampled = torch.tensor([[[[-2.5, -2.0, 1.0, 4.0, 4.5]]]], requires_grad=True)
    q_data, low, high = torch.zeros(1, 1, 5), torch.tensor([-2.0]), torch.tensor([4.0])
    losses.conservative_gap(q_sampled, q_data, None, None, low, high).sum().backward()
    assert (q_sampled.grad * 5).flatten().tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    within = losses.unclipped(q_sampled, q_data, None, None, low, high)
    assert within.flatten().tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_choices_follow_the_thresholds():
    weights = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    q = weights.log().view(1, 1, 3, 1)

    def chosen(*uniform):
        return losses.softmax_choices(q, None, torch.tensor(uniform, dtype=torch.float64).view(1, 1, -1, 1)).flatten()

    assert [chosen(u).item() for u in (0.0, 0.099, 0.101, 0.699, 0.701, 1 - 1e-16)] == [0, 0, 1, 1, 2, 2]
    assert chosen(0.1, 0.1).tolist() == [0, 1]  # thresholds 0.05 and 0.55
    assert chosen(0.9, 0.9).tolist() == [1, 2]
    # In float32 the weights need not add up to one: the largest threshold still falls on an action.
    many = torch.randn(1, 1, 1000, 50, generator=torch.Generator().manual_seed(0))
    last = losses.softmax_choices(many, None, torch.full((1, 1, 1, 50), 1 - 2**-24))
    assert last.max() <= 999
