"""One training step: against the slow reference, and the facts that have cost others weeks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import reference
import torch
from nested import assert_same

from cql.algorithm import networks
from cql.algorithm.adam import Adam
from cql.algorithm.agent import METRICS, Agent, AgentConfig, HyperParams, Policy
from cql.algorithm.networks import Mlp
from cql.algorithm.sampling import Batch, Noise

S, A, B = 3, 2, 4
CPU = torch.device("cpu")


def of_shape(mlp):
    """The actor and the critics of one shape."""
    return {"actor": mlp, "critic": mlp}


CONFIG = AgentConfig(
    **of_shape(Mlp(width=6, depth=2)),
    observation_size=S,
    action_size=A,
    backup="soft",
    num_sampled_actions=2,
    importance_weighted=True,
    next_actions=True,
    gap_temperature=1.0,
    gradient="exact",
    num_gradient_actions=None,
    target_update_period=1,
    log_std_min=-20.0,
    log_std_max=2.0,
)
# The same numbers in float32 and in float64.
LEARNED_RUN = HyperParams(
    alpha_cql=1.5,
    tau_cql=2.0,
    w_cql=1.0,
    alpha_temp=0.25,
    target_entropy=-2.0,
    discount=0.875,
    tau_target=0.0625,
    bc_steps=0,
    critic_learning_rate=3e-3,
    actor_learning_rate=1e-3,
    temp_learning_rate=1e-2,
    alpha_learning_rate=1e-2,
)
FIXED_RUN = replace(LEARNED_RUN, tau_cql=None, target_entropy=None, temp_learning_rate=None, alpha_learning_rate=None)


def transitions(n_transitions=40, seed=0):
    own = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=own)

    return Batch(
        observations=normal(n_transitions, S),
        actions=normal(n_transitions, A).tanh(),
        rewards=normal(n_transitions),
        next_observations=normal(n_transitions, S),
        terminated=(torch.arange(n_transitions) % 4 == 0).float(),
        returns_to_go=0.3 * normal(n_transitions),
    )


CONSTANT_ACTIONS = transitions()._replace(actions=torch.tensor([[0.6, -0.3]]).expand(40, A).contiguous())


def make(config, runs, seeds=None, batch_size=B, fast=True):
    seeds = list(range(len(runs))) if seeds is None else seeds
    agent = Agent(config, runs, seeds, CPU, fast=fast)
    return agent, agent.sampler(seeds, batch_size)


def train(agent, sampler, n_steps, data=None):
    """Metrics of each step, (n_steps, len(METRICS), R)."""
    data = transitions() if data is None else data
    metrics = torch.empty(n_steps, len(agent.metrics), agent.n_runs)
    for step in range(n_steps):
        metrics[step] = agent.update(*sampler.draw(data))
    return metrics


def metric(metrics, name):
    return metrics[..., list(METRICS).index(name), :]


def in_float64(agent):
    """The same agent with all its tensors in float64, so that a comparison is not one of rounding."""
    stack = agent.stack
    for parameters in stack.parts().values():
        for tensor in parameters.values():
            tensor.data = tensor.data.double()
    stack.constants = type(stack.constants)(*(tensor.double() for tensor in stack.constants))
    stack._fixed = {name: tensor.double() for name, tensor in stack._fixed.items()}
    if stack.gap_clip is not None:
        stack.gap_clip = tuple(tensor.double() for tensor in stack.gap_clip)
    for part, old in stack.optimisers.items():
        stack.optimisers[part] = Adam(
            stack.parts()[part],
            old.learning_rates,
            old._update,
            max_norms=[] if old._max_norms is None else old._max_norms.tolist(),
            weight_decays=old.weight_decays,
            schedule=(old._schedule, old._n_schedule_steps),
        )
    return agent


def float64(*parts):
    return [type(part)(*(None if tensor is None else tensor.double() for tensor in part)) for part in parts]


class FloatSampler:
    """Draws the same numbers in float64."""

    def __init__(self, sampler):
        self.sampler = sampler

    def draw(self, data):
        return float64(*self.sampler.draw(data))


def of_run(part, run):
    return type(part)(*(None if tensor is None else tensor[run] for tensor in part))


def parameters(agent, run=None):
    found = {
        f"{part}.{name}": tensor.detach().clone()
        for part, tensors in (
            ("actor", agent.actor),
            ("critics", agent.critics),
            ("targets", agent.targets),
            *agent.log_coefficients.items(),
        )
        for name, tensor in tensors.items()
    }
    return found if run is None else {name: tensor[run] for name, tensor in found.items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def critic_gradients(agent):
    return {name: tensor.grad.clone() for name, tensor in agent.critics.items()}


# Against the reference ------------------------------------------------------------------------------------------------

VARIANTS = {
    "cql_h, both learned": (CONFIG, LEARNED_RUN),
    "cql_h, both fixed, hard": (replace(CONFIG, backup="hard"), FIXED_RUN),
    "cql_rho, max, T=2": (replace(CONFIG, backup="max", importance_weighted=False, gap_temperature=2.0), FIXED_RUN),
    "blueprint, T=0.5": (
        replace(CONFIG, importance_weighted=False, next_actions=False, gap_temperature=0.5),
        FIXED_RUN,
    ),
    "cql_h, learned, T=3, max": (replace(CONFIG, backup="max", gap_temperature=3.0), LEARNED_RUN),
    "bc, period, log_std clamp": (
        replace(CONFIG, target_update_period=2, log_std_min=-0.05, log_std_max=0.05),
        replace(LEARNED_RUN, bc_steps=2),
    ),
    "cql_h, sampled gradient, both learned": (
        replace(CONFIG, num_sampled_actions=4, gradient="sampled", num_gradient_actions=1),
        LEARNED_RUN,
    ),
    "blueprint, sampled gradient of 3, T=0.5": (
        replace(
            CONFIG,
            num_sampled_actions=3,
            gradient="sampled",
            num_gradient_actions=3,
            importance_weighted=False,
            next_actions=False,
            gap_temperature=0.5,
        ),
        FIXED_RUN,
    ),
    "layer norm, tanh, 3 deep": (
        replace(CONFIG, **of_shape(Mlp(width=5, depth=3, activation="tanh", layer_norm=True))),
        LEARNED_RUN,
    ),
    "cal_ql, clipped gap, both learned": (
        replace(CONFIG, calibrated=True),
        replace(LEARNED_RUN, gap_clip_min=1.0, gap_clip_max=3.0),
    ),
    "cal_ql, sampled gradient of 2, clipped gap": (
        replace(CONFIG, calibrated=True, num_sampled_actions=4, gradient="sampled", num_gradient_actions=2),
        replace(FIXED_RUN, gap_clip_max=4.0),
    ),
    "cql_rho with the data's action, T=2": (
        replace(CONFIG, importance_weighted=False, include_data_action=True, gap_temperature=2.0),
        LEARNED_RUN,
    ),
    "blueprint with the data's action, sampled gradient of 4": (
        replace(
            CONFIG,
            gradient="sampled",
            num_gradient_actions=4,
            importance_weighted=False,
            next_actions=False,
            include_data_action=True,
        ),
        FIXED_RUN,
    ),
    "5 critics, target of 2, max": (replace(CONFIG, n_critics=5, n_target_critics=2, backup="max"), LEARNED_RUN),
    "1 critic, actor and critic of different shapes": (
        replace(CONFIG, n_critics=1, n_target_critics=1, actor=Mlp(width=4, depth=1), critic=Mlp(width=5, depth=3)),
        FIXED_RUN,
    ),
    "layer norm in critics only": (replace(CONFIG, critic=Mlp(width=6, layer_norm=True)), LEARNED_RUN),
    "log_std multiplier and offset": (
        replace(CONFIG, log_std_multiplier=0.5, log_std_offset=-1.0, log_std_min=-1.2),
        LEARNED_RUN,
    ),
    "largest norms, decay, schedules": (
        replace(CONFIG, critic_schedule="cosine", actor_schedule="linear", n_schedule_steps=3),
        replace(
            LEARNED_RUN,
            critic_max_grad_norm=0.5,
            actor_max_grad_norm=2.0**-7,
            critic_weight_decay=0.1,
            actor_weight_decay=0.02,
        ),
    ),
}


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize(("config", "run"), VARIANTS.values(), ids=VARIANTS)
def test_four_updates_are_those_of_the_reference(config, run, fast):
    other = replace(run, alpha_cql=0.5, w_cql=2.0, alpha_temp=1.25, discount=0.5, tau_target=0.25)
    other = replace(other, bc_steps=1, critic_learning_rate=1e-3, actor_learning_rate=5e-3)
    if run is LEARNED_RUN:
        other = replace(other, temp_learning_rate=2e-3, alpha_learning_rate=5e-2)
    runs = [run, other]
    agent, sampler = make(config, runs, fast=fast)
    in_float64(agent)
    theirs = [reference.Run(agent.state(r)["parameters"], config, own) for r, own in enumerate(runs)]
    for _ in range(4):
        batch, noise = float64(*sampler.draw(transitions()))
        metrics = agent.update(batch, noise)
        for r, their in enumerate(theirs):
            expected = their.update(of_run(batch, r), of_run(noise, r))
            ours = dict(zip(agent.metrics, metrics[:, r].tolist(), strict=True))
            assert ours == pytest.approx(expected, rel=1e-9, abs=1e-11)
            for name, gradient in their.actor_gradients.items():
                torch.testing.assert_close(agent.actor[name].grad[r], gradient, rtol=1e-8, atol=1e-11)
            for c, gradients in enumerate(their.critic_gradients):
                for name, gradient in gradients.items():
                    torch.testing.assert_close(agent.critics[name].grad[r, c], gradient, rtol=1e-8, atol=1e-11)
    for r, their in enumerate(theirs):
        ours = agent.state(r)["parameters"]
        numbers = {f"log_std.{name}": value.detach() for name, value in their.log_std.items()}
        for name, tensor in (reference.parameters_of(their.actor) | numbers).items():
            torch.testing.assert_close(ours["actor"][name], tensor, rtol=0, atol=1e-9)
        for part, nets in (("critics", their.critics), ("targets", their.targets)):
            for c, net in enumerate(nets):
                for name, tensor in reference.parameters_of(net).items():
                    torch.testing.assert_close(ours[part][name][c], tensor, rtol=0, atol=1e-9)


def test_an_update_in_float32_is_that_of_the_reference():
    agent, sampler = make(CONFIG, [LEARNED_RUN], batch_size=8)
    their = reference.Run(agent.state(0)["parameters"], CONFIG, LEARNED_RUN)
    batch, noise = sampler.draw(transitions())
    metrics = agent.update(batch, noise)
    expected = their.update(*(of_run(part, 0) for part in float64(batch, noise)))
    ours = dict(zip(METRICS, metrics[:, 0].tolist(), strict=True))
    assert ours == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for name, gradient in their.actor_gradients.items():
        torch.testing.assert_close(agent.actor[name].grad[0].double(), gradient, rtol=1e-4, atol=1e-6)
    for c in range(2):
        for name, tensor in reference.parameters_of(their.critics[c]).items():
            gradient = their.critic_gradients[c][name]
            torch.testing.assert_close(agent.critics[name].grad[0, c].double(), gradient, rtol=1e-4, atol=1e-6)
            # The first step of Adam is lr * sign(gradient): where the gradient is rounding, so is the sign.
            clear = (gradient.abs() > 1e-4) | (gradient == 0)
            step = (agent.critics[name][0, c].double() - tensor)[clear]
            assert step.abs().max() < 1e-2 * LEARNED_RUN.critic_learning_rate


# Facts ----------------------------------------------------------------------------------------------------------------


def test_next_actions_are_valued_at_s_and_not_at_the_next_state():
    # Critics that ignore the action and differ wildly from state to state: at s, all values in the log-sum-exp are
    # Q(s), and the gap is T log(3 n) whatever s' is. Valued at s', it would hold Q(s') - Q(s).
    config = replace(CONFIG, importance_weighted=False, gap_temperature=2.0)
    agent, sampler = make(config, [FIXED_RUN])
    with torch.no_grad():
        agent.critics["0.weight"][:, :, S:] = 0.0
        agent.critics["0.weight"][:, :, :S] *= 100.0
    gap = metric(train(agent, sampler, 1), "cql_gap")
    assert float(gap) == pytest.approx(2.0 * math.log(3 * config.num_sampled_actions), rel=1e-4)


def test_next_actions_come_from_the_policy_at_the_next_state():
    # The policy at s is N(-3, tiny), at s' N(+3, tiny); the critics are +-10 a_1. Only actions from s' are worth 10.
    config = replace(CONFIG, importance_weighted=False, **of_shape(Mlp(width=4, depth=1)), num_sampled_actions=1)
    agent, sampler = make(config, [FIXED_RUN])
    with torch.no_grad():
        for tensors in (agent.actor, agent.critics):
            for tensor in tensors.values():
                tensor.zero_()
        agent.actor["0.weight"][0, 0, :2] = torch.tensor([1.0, -1.0])  # relu(s_1), relu(-s_1)
        agent.actor["1.weight"][0, :2, 0] = torch.tensor([3.0, -3.0])
        agent.actor["1.bias"][0, A:] = -9.0
        agent.critics["0.weight"][0, :, S, :2] = torch.tensor([1.0, -1.0])
        agent.critics["1.weight"][0, :, :2, 0] = torch.tensor([10.0, -10.0])
    batch, noise = sampler.draw(transitions())
    batch = batch._replace(
        observations=-torch.ones(1, B, S), next_observations=torch.ones(1, B, S), actions=torch.zeros(1, B, A)
    )
    noise = noise._replace(uniform=torch.zeros(1, 1, B, A))
    gap = metric(agent.update(batch, noise), "cql_gap")
    values = torch.tensor([0.0, 10 * math.tanh(-3), 10 * math.tanh(3)])
    assert float(gap) == pytest.approx(float(values.logsumexp(0)), rel=1e-3)


@pytest.mark.parametrize("learned", [False, True])
def test_the_conservative_gradient_grows_in_proportion_to_the_multiplier(learned):
    # Were the multiplier's loss not detached, it would be scaled with (1 - alpha_cql / 2) and turn at 2.
    run = replace(LEARNED_RUN if learned else FIXED_RUN, temp_learning_rate=None)
    without = replace(FIXED_RUN, alpha_cql=0.0)

    def conservative_gradient(alpha_cql):
        found = []
        for each in (replace(run, alpha_cql=alpha_cql, tau_cql=2.0), without):
            agent, sampler = make(CONFIG, [each])
            in_float64(agent)
            agent.update(*float64(*sampler.draw(transitions())))
            found.append(critic_gradients(agent))
        return {name: found[0][name] - found[1][name] for name in found[0]}

    unit = conservative_gradient(1.0)
    assert float(unit["0.weight"].abs().max()) > 0.01
    for alpha_cql in (0.5, 3.0, 50.0):
        for name, gradient in conservative_gradient(alpha_cql).items():
            torch.testing.assert_close(gradient, alpha_cql * unit[name], rtol=1e-6, atol=1e-9)


def test_the_learned_form_and_the_fixed_form_of_one_value_give_the_critics_the_same_gradient():
    found = []
    for run in (LEARNED_RUN, replace(LEARNED_RUN, alpha_learning_rate=None)):
        agent, sampler = make(CONFIG, [replace(run, alpha_cql=1.0)])  # log 1 = 0: the same number in both
        train(agent, sampler, 1)
        found.append(critic_gradients(agent))
    assert_equal(*found)


def test_the_learned_multiplier_moves_towards_its_threshold_from_both_sides_and_weighs_the_loss():
    rates = {"alpha_learning_rate": 0.1, "critic_learning_rate": 0.03}
    runs = [replace(LEARNED_RUN, tau_cql=tau, **rates) for tau in (-50.0, 50.0)]
    agent, sampler = make(CONFIG, runs, seeds=[0, 0])
    metrics = train(agent, sampler, 30, CONSTANT_ACTIONS)
    alpha_cql, gap, residual = (metric(metrics, name) for name in ("alpha_cql", "cql_gap", "cql_residual"))
    assert alpha_cql[0].tolist() == pytest.approx([1.5, 1.5])
    assert (residual[:, 0] > 0).all()
    assert (residual[:, 1] < 0).all()
    torch.testing.assert_close(residual, gap - torch.tensor([-50.0, 50.0]))
    assert (alpha_cql[1:, 0] > alpha_cql[:-1, 0]).all()
    assert (alpha_cql[1:, 1] < alpha_cql[:-1, 1]).all()
    assert alpha_cql[-1, 0] > 10 * alpha_cql[-1, 1]
    # Both runs are the same but for the multiplier: the one whose multiplier rose is the more conservative.
    assert gap[0, 0] == gap[0, 1]
    assert gap[-5:, 0].mean() < gap[-5:, 1].mean() - 0.1


def test_w_cql_weighs_the_conservative_term_too():
    found = []
    for w_cql, alpha_cql in ((3.0, 0.5), (1.0, 1.5)):
        agent, sampler = make(CONFIG, [replace(FIXED_RUN, w_cql=w_cql, alpha_cql=alpha_cql)])
        train(agent, sampler, 1)
        found.append(critic_gradients(agent))
    assert_equal(*found)


@pytest.mark.parametrize("bc_steps", [0, 10])
def test_no_loss_leaves_a_gradient_where_it_does_not_belong(bc_steps):
    agent, sampler = make(CONFIG, [replace(LEARNED_RUN, bc_steps=bc_steps)])
    train(agent, sampler, 1)
    # After one step Adam's first moment is 0.1 times the gradient that it was given.
    for part, tensors in (("critics", agent.critics), ("actor", agent.actor), *agent.log_coefficients.items()):
        for moments, tensor in zip(agent.state(0)["optimisers"][part], tensors.values(), strict=True):
            torch.testing.assert_close(10 * moments["exp_avg"], tensor.grad[0], rtol=1e-5, atol=1e-8)
    for tensor in agent.targets.values():
        assert tensor.grad is None
        assert not tensor.requires_grad


def test_truncated_episodes_bootstrap_and_terminated_ones_do_not():
    # Q = 7 everywhere, rewards 0, discount 0.5: the error is 7^2 at an end and (7 - 3.5)^2 elsewhere.
    agent, _ = make(replace(CONFIG, backup="hard"), [replace(FIXED_RUN, discount=0.5)] * 2)
    with torch.no_grad():
        for tensors in (agent.critics, agent.targets):
            for tensor in tensors.values():
                tensor.zero_()
            tensors["2.bias"].fill_(7.0)
    batch, noise = agent.sampler([0, 0], B).draw(transitions())
    terminated = torch.tensor([[1.0], [0.0]]).expand(2, B)  # a time limit is not an end: terminated is 0 there
    metrics = agent.update(batch._replace(rewards=torch.zeros(2, B), terminated=terminated), noise)
    assert metric(metrics, "critic_td").tolist() == pytest.approx([49.0, 12.25])


def test_targets_follow_with_their_own_rate_every_period():
    runs = [replace(FIXED_RUN, tau_target=rate) for rate in (0.005, 0.5, 1.0)]
    agent, sampler = make(replace(CONFIG, target_update_period=3), runs)
    before = {name: tensor.clone() for name, tensor in agent.targets.items()}
    assert_equal(before, {name: tensor.detach() for name, tensor in agent.critics.items()})
    train(agent, sampler, 2)
    assert_equal(before, agent.targets)
    train(agent, sampler, 1)
    for name, tensor in agent.critics.items():
        for r, run in enumerate(runs):
            expected = (1 - run.tau_target) * before[name][r] + run.tau_target * tensor.detach()[r]
            torch.testing.assert_close(agent.targets[name][r], expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(agent.targets["1.weight"][2], agent.critics["1.weight"][2])


def test_a_multiplier_at_its_largest_value_comes_down_again():
    run = replace(LEARNED_RUN, alpha_cql=9e5, tau_cql=-100.0, alpha_learning_rate=0.5)
    agent, sampler = make(CONFIG, [run])
    train(agent, sampler, 3)
    assert agent.stack.alpha_cql.item() == pytest.approx(1e6, rel=1e-5)
    agent.stack.constants.tau_cql.fill_(1e9)  # the constraint holds from now on
    train(agent, sampler, 20)
    assert agent.stack.alpha_cql.item() < 1e5


def test_the_actor_clones_for_bc_steps_and_then_listens_to_the_critics():
    actors = []
    for alpha_cql in (0.0, 20.0):  # other critics
        agent, sampler = make(CONFIG, [replace(FIXED_RUN, alpha_cql=alpha_cql, bc_steps=3)])
        after = []
        for _ in range(4):
            train(agent, sampler, 1)
            after.append(parameters(agent))
        actors.append(after)
    same = [torch.equal(one["actor.1.weight"], other["actor.1.weight"]) for one, other in zip(*actors, strict=True)]
    assert same == [True, True, True, False]


def test_cloning_learns_the_data():
    data = CONSTANT_ACTIONS
    run = replace(FIXED_RUN, bc_steps=10**6, actor_learning_rate=1e-2)
    agent, sampler = make(CONFIG, [run], batch_size=16)
    train(agent, sampler, 300, data)
    policy = Policy(agent.config.actor, agent.actor, torch.zeros(S), torch.ones(S))
    actions = torch.from_numpy(policy(data.observations.unsqueeze(0).numpy()))
    assert (actions - data.actions).abs().mean() < 0.1


def test_parameters_move_and_metrics_are_finite():
    agent, sampler = make(CONFIG, [LEARNED_RUN] * 2)
    before = parameters(agent)
    metrics = train(agent, sampler, 3)
    assert metrics.shape == (3, len(METRICS), 2)
    assert metrics.isfinite().all()
    assert not metrics.requires_grad
    after = parameters(agent)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert agent.n_steps_done == 3


def test_the_policy_acts_with_the_normaliser_it_carries():
    agent, _ = make(CONFIG, [LEARNED_RUN] * 2)
    mean, std = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([2.0, 0.5, 10.0])
    raw = torch.randn(2, 5, S, generator=torch.Generator().manual_seed(0))
    policy = Policy(CONFIG.actor, agent.actor, mean, std)
    means, _ = networks.actor(CONFIG.actor, agent.actor, (raw - mean) / std, -20.0, 2.0)
    torch.testing.assert_close(torch.from_numpy(policy(raw.numpy())), means.detach().tanh())


# Runs are independent -------------------------------------------------------------------------------------------------

SEEDS = [11, 5, 2]
RUNS = [
    LEARNED_RUN,
    replace(LEARNED_RUN, alpha_cql=5.0, tau_cql=10.0, discount=0.99, tau_target=0.005),
    replace(LEARNED_RUN, alpha_cql=0.2, tau_cql=-1.0, alpha_temp=1.0, target_entropy=-1.0, w_cql=2.0),
]


@pytest.mark.parametrize(
    ("precise", "tolerance"),
    # A product of three matrices at once and of one may add in another order, so the two differ by rounding, which
    # Adam can amplify to its own step length where a gradient is nearly zero. In float64 nothing but a coupling of
    # runs can reach 1e-9 in 20 steps; in float32 the tolerance is a three-hundredth of one step of the critics
    # (measured here: no difference at all in float64, 6e-8 in float32).
    [(True, 1e-9), (False, 1e-5)],
)
def test_a_run_in_a_stack_is_the_run_alone(precise, tolerance):
    def trained(runs, seeds):
        agent, sampler = make(CONFIG, runs, seeds)
        if precise:
            in_float64(agent)
        drawn = [tuple(type(p)(*(t.clone() for t in p)) for p in sampler.draw(transitions())) for _ in range(20)]
        metrics = torch.stack([agent.update(*(float64(*each) if precise else each)) for each in drawn])
        return agent, drawn, metrics

    stacked, stacked_drawn, stacked_metrics = trained(RUNS, SEEDS)
    for r, (run, seed) in enumerate(zip(RUNS, SEEDS, strict=True)):
        alone, alone_drawn, alone_metrics = trained([run], [seed])
        for ours, theirs in zip(stacked_drawn, alone_drawn, strict=True):
            for part in range(2):
                assert all(torch.equal(a[r], b[0]) for a, b in zip(ours[part], theirs[part], strict=True))
        torch.testing.assert_close(stacked_metrics[..., r], alone_metrics[..., 0], rtol=tolerance, atol=10 * tolerance)
        theirs = parameters(alone, 0)
        for name, tensor in parameters(stacked, r).items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=tolerance)


def test_an_infinite_moment_is_named():
    agent, sampler = make(CONFIG, RUNS, SEEDS)
    train(agent, sampler, 1)
    agent.stack.optimisers["critics"].exp_avg_sq[0][2].flatten()[0] = math.inf  # of the first parameter
    assert agent.non_finite(2) == "Adam's exp_avg_sq of critics.0.weight"
    assert agent.non_finite(0) is None is agent.non_finite(1)


@pytest.mark.parametrize("part", ["actor", "critics", "alpha_cql"])
def test_a_broken_run_changes_nothing_in_the_others(part):
    agents = [make(CONFIG, RUNS, SEEDS) for _ in range(2)]
    for agent, sampler in agents:
        train(agent, sampler, 3)
    broken = agents[1][0]
    assert broken.non_finite(1) is None
    tensors = {"actor": broken.actor, "critics": broken.critics, **broken.log_coefficients}[part]
    with torch.no_grad():
        next(iter(tensors.values()))[1] = math.nan
    for agent, sampler in agents:
        train(agent, sampler, 5)
    assert broken.non_finite(1) is not None
    for r in (0, 2):
        assert broken.non_finite(r) is None
        assert_equal(parameters(agents[0][0], r), parameters(broken, r))


# All that may differ between the runs of a stack does.
DIFFERENT = [
    replace(RUNS[0], bc_steps=4, actor_learning_rate=2e-3),
    replace(RUNS[1], bc_steps=0, critic_learning_rate=1e-3, temp_learning_rate=3e-3),
    replace(RUNS[2], bc_steps=7, alpha_learning_rate=5e-2, actor_learning_rate=2e-3),
]


def state_of(agent, sampler, run):
    return {**agent.state(run), "sampler": sampler.state(run).clone()}


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_runs_that_clone_for_different_numbers_of_steps_are_the_runs_alone(fast):
    config = replace(CONFIG, target_update_period=3)
    stacked, sampler = make(config, DIFFERENT, SEEDS, fast=fast)
    metrics = train(in_float64(stacked), FloatSampler(sampler), 10)
    for r, (run, seed) in enumerate(zip(DIFFERENT, SEEDS, strict=True)):
        alone, own_sampler = make(config, [run], [seed], fast=fast)
        own_metrics = train(in_float64(alone), FloatSampler(own_sampler), 10)
        torch.testing.assert_close(metrics[..., r], own_metrics[..., 0], rtol=1e-6, atol=1e-6)  # kept in float32
        theirs = parameters(alone, 0)
        for name, tensor in parameters(stacked, r).items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-9)


def test_each_run_has_its_own_learning_rates():
    rates = ["critic_learning_rate", "actor_learning_rate", "temp_learning_rate", "alpha_learning_rate"]
    runs = [LEARNED_RUN, *(replace(LEARNED_RUN, **{rate: 2 * getattr(LEARNED_RUN, rate)}) for rate in rates)]
    agent, sampler = make(CONFIG, runs, seeds=[3] * 5)
    before = parameters(agent)
    train(agent, sampler, 1)
    parts = {"critics.": 1, "actor.": 2, "alpha_temp.": 3, "alpha_cql.": 4}
    for name, tensor in parameters(agent).items():
        step = (tensor - before[name]).double()
        for part, run in parts.items():
            if name.startswith(part):
                # The first step of Adam is the learning rate times the sign of the gradient. Critics come first, and
                # what they have become changes the actor's gradient, so only the size of a step tells.
                factor = step[run].abs().max() / step[0].abs().max()
                assert float(factor) == pytest.approx(2.0, rel=1e-2), name
                others = [other for other in range(1, 5) if other != run]
                for other in others:
                    assert float(step[other].abs().max() / step[0].abs().max()) == pytest.approx(1.0, rel=1e-2), name


@pytest.mark.parametrize(("name", "rate"), [("alpha_temp", "temp_learning_rate"), ("alpha_cql", "alpha_learning_rate")])
def test_fixed_and_learned_coefficients_do_not_share_a_stack(name, rate):
    with pytest.raises(ValueError, match=rf"{name} is learned in 2 of the 3 runs"):
        make(CONFIG, [LEARNED_RUN, replace(LEARNED_RUN, **{rate: None}), LEARNED_RUN])


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [0, 5])
def test_a_loaded_agent_goes_on_bit_for_bit(n_steps):
    runs = [replace(run, bc_steps=7) for run in RUNS]
    agent, sampler = make(replace(CONFIG, target_update_period=2), runs, SEEDS)
    train(agent, sampler, n_steps)
    states = [agent.state(r) for r in range(3)]
    streams = [sampler.state(r).clone() for r in range(3)]
    other, other_sampler = make(agent.config, runs, [91, 92, 93])
    train(other, other_sampler, 2)  # whatever it was before must not matter
    other.load_states(states)
    for r, stream in enumerate(streams):
        other_sampler.load_state(r, stream)
    assert torch.equal(train(agent, sampler, 5), train(other, other_sampler, 5))
    assert_equal(parameters(agent), parameters(other))
    for r in range(3):
        assert_same(agent.state(r), other.state(r))


def test_a_state_is_a_copy_that_does_not_tell_of_the_stack():
    agent, sampler = make(CONFIG, RUNS, SEEDS)
    train(agent, sampler, 2)
    state, again = agent.state(1), agent.state(1)
    train(agent, sampler, 1)
    assert_same(state, again)
    alone, alone_sampler = make(CONFIG, [RUNS[1]], [SEEDS[1]])
    train(alone, alone_sampler, 2)

    def shapes(found):
        if isinstance(found, dict):
            return {key: shapes(value) for key, value in found.items()}
        return [shapes(value) for value in found] if isinstance(found, list) else getattr(found, "shape", found)

    assert shapes(state) == shapes(alone.state(0))


def test_runs_regroup_into_another_stack():
    agent, sampler = make(CONFIG, RUNS, SEEDS)
    train(agent, sampler, 5)
    states, order = [agent.state(r) for r in range(3)], [2, 0]
    other, other_sampler = make(CONFIG, [RUNS[r] for r in order], [0, 0])
    other.load_states([states[r] for r in order])
    for position, r in enumerate(order):
        assert_same(other.state(position), states[r])
        other_sampler.load_state(position, sampler.state(r))
    ours, theirs = train(agent, sampler, 5), train(other, other_sampler, 5)
    for position, r in enumerate(order):
        torch.testing.assert_close(theirs[..., position], ours[..., r], rtol=1e-3, atol=1e-4)


def test_states_of_different_steps_are_refused_and_change_nothing():
    agent, sampler = make(CONFIG, RUNS[:2])
    start = agent.state(0)
    train(agent, sampler, 2)
    before = [agent.state(run) for run in range(2)]
    with pytest.raises(ValueError, match=r"states of steps 0, 2: all runs of a stack resume at the same step"):
        agent.load_states([start, before[1]])
    assert_same([agent.state(run) for run in range(2)], before)


def test_states_that_do_not_fit_are_refused():
    agent, _ = make(CONFIG, RUNS[:2])
    states = [agent.state(0), agent.state(1)]
    with pytest.raises(ValueError, match="1 states for a stack of 2 runs"):
        agent.load_states(states[:1])
    wider, _ = make(replace(CONFIG, **of_shape(Mlp(width=9))), RUNS[:2])
    with pytest.raises(
        ValueError, match=r"actor.0.weight: \(\(3, 6\), torch.float32\), expected \(\(3, 9\), torch.float32\)"
    ):
        wider.load_states(states)
    fixed, _ = make(CONFIG, [FIXED_RUN] * 2)
    with pytest.raises(ValueError, match="alpha_temp: the state holds"):
        agent.load_states([fixed.state(0), fixed.state(1)])


def test_noise_is_drawn_only_for_what_the_update_uses():
    for config, sizes in (
        (CONFIG, {"uniform": 2, "policy": 2, "next_policy": 2, "target": 1, "actor": 1}),
        (replace(CONFIG, next_actions=False, backup="max"), {"uniform": 2, "next_policy": 0, "target": 2}),
    ):
        _, sampler = make(config, [LEARNED_RUN])
        noise: Noise = sampler.draw(transitions())[1]
        assert sizes.items() <= {name: tensor.shape[1] for name, tensor in noise._asdict().items()}.items()
