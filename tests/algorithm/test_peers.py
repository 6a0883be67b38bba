"""Our step against d3rlpy's own CQL: the same weights, the same minibatch, the same random numbers.

Where d3rlpy's conventions are others than ours, the exact relation is asserted:

- its `conservative_weight` is our `w_cql`, its `alpha` our `alpha_cql`, its `alpha_threshold` our `tau_cql`; it
  subtracts the threshold under a fixed multiplier too, which shifts the loss by a constant and changes no gradient;
- neither has factors 0.5: the loss is the sum over critics of the mean squared error and the weighted gap;
- `soft_q_backup=False` bootstraps from the policy's mode tanh(mu), our `hard` backup from a sample, as the code does
  that was published with the CQL paper: they are one where the noise of the target is zero;
- it updates a learned multiplier before the critics use it, and a learned temperature before the actor uses it; with us
  both are constants of the whole step;
- the loss of its multiplier is weighted with `w_cql` as well, which Adam forgets.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_agent import CONFIG, CPU, LEARNED_RUN, A, S, of_shape, transitions

from cql.algorithm.agent import Agent
from cql.algorithm.networks import Mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    d3rlpy = pytest.importorskip("d3rlpy")
    from d3rlpy.models.encoders import VectorEncoderFactory
    from d3rlpy.torch_utility import TorchMiniBatch

pytestmark = pytest.mark.peers

B, N, WIDTH, THRESHOLD = 16, 5, 32, 7.0
OURS = replace(CONFIG, **of_shape(Mlp(width=WIDTH, depth=2)), num_sampled_actions=N)
RUN = replace(LEARNED_RUN, w_cql=3.0, tau_cql=THRESHOLD, target_entropy=-float(A))


def with_learned(run, *, temp, alpha):
    """The run with only the asked coefficients learned."""
    return replace(
        run,
        temp_learning_rate=run.temp_learning_rate if temp else None,
        alpha_learning_rate=run.alpha_learning_rate if alpha else None,
    )


def linears(module):
    return [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]


def network_of(module, gradients=False):
    """A d3rlpy network in our layout; its policy's two heads are side by side in ours."""

    def tensors(kind):
        found = [getattr(layer, kind) for layer in linears(module)]
        return [(tensor.grad if gradients else tensor.detach()).clone() for tensor in found]

    weights, biases = [tensor.T for tensor in tensors("weight")], tensors("bias")
    layers = [*zip(weights[:2], biases[:2], strict=True), (torch.cat(weights[2:], 1), torch.cat(biases[2:]))]
    return {f"{i}.{kind}": pair[j] for i, pair in enumerate(layers) for j, kind in enumerate(("weight", "bias"))}


def critics_of(modules, gradients=False):
    members = [network_of(module, gradients) for module in modules]
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def assert_close(ours, theirs, run=0, **tolerances):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name][run], theirs[name], **tolerances)


def theirs_and_ours(config, run):
    """d3rlpy's implementation, and our agent with its weights."""
    their_config = (d3rlpy.algos.CalQLConfig if config.calibrated else d3rlpy.algos.CQLConfig)(
        actor_learning_rate=run.actor_learning_rate,
        critic_learning_rate=run.critic_learning_rate,
        temp_learning_rate=run.temp_learning_rate or 0.0,
        alpha_learning_rate=run.alpha_learning_rate or 0.0,
        actor_encoder_factory=VectorEncoderFactory([WIDTH, WIDTH]),
        critic_encoder_factory=VectorEncoderFactory([WIDTH, WIDTH]),
        gamma=run.discount,
        tau=run.tau_target,
        initial_temperature=run.alpha_temp,
        initial_alpha=run.alpha_cql,
        alpha_threshold=THRESHOLD,
        conservative_weight=run.w_cql,
        n_action_samples=N,
        soft_q_backup=config.backup == "soft",
        max_q_backup=config.backup == "max",
    )
    algo = their_config.create(device="cpu:0")
    algo.create_impl((S,), A)
    modules = algo.impl.modules
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in (modules.policy, *modules.q_funcs, *modules.targ_q_funcs):
            for layer in linears(module):  # targets that are not the critics
                for tensor in (layer.weight, layer.bias):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) / math.sqrt(WIDTH))
    agent = Agent(config, [run], [0], CPU)
    with torch.no_grad():
        for own, their in (
            (agent.actor, network_of(modules.policy)),
            (agent.critics, critics_of(modules.q_funcs)),
            (agent.targets, critics_of(modules.targ_q_funcs)),
        ):
            for name, tensor in own.items():
                tensor[0] = their[name]
    return algo.impl, agent


def play(monkeypatch, noise, backup):
    """Have d3rlpy draw our random numbers, in the order in which it asks; returns what it has not asked for."""
    queue = [noise.policy[0], noise.next_policy[0], noise.actor[0, 0]]
    if backup != "hard":
        queue.insert(0, noise.target[0] if backup == "max" else noise.target[0, 0])

    def rsample(normal, sample_shape=()):
        eps = queue.pop(0)
        assert eps.shape == (*sample_shape, *normal.loc.shape)
        return normal.loc + normal.scale * eps

    def uniform_(tensor, low, high):
        assert (low, high) == (-1.0, 1.0)
        return tensor.copy_(noise.uniform[0].transpose(0, 1).reshape(-1, A))  # (N, B, A) to (B N, A)

    monkeypatch.setattr(torch.distributions.Normal, "rsample", rsample)
    monkeypatch.setattr(torch.Tensor, "uniform_", uniform_)
    return queue


def as_their_batch(batch):
    column = batch.rewards[0].unsqueeze(1)
    return TorchMiniBatch(
        observations=batch.observations[0],
        actions=batch.actions[0],
        rewards=column,
        next_observations=batch.next_observations[0],
        next_actions=batch.actions[0],  # CQL does not read these two
        returns_to_go=batch.returns_to_go[0].unsqueeze(1),
        terminals=batch.terminated[0].unsqueeze(1),
        intervals=torch.ones_like(column),
        device="cpu:0",
    )


def step_both(monkeypatch, config, run):
    """One update by each, with gradients taken where each has them clean."""
    impl, agent = theirs_and_ours(config, run)
    batch, noise = agent.sampler([0], B).draw(transitions())
    if config.backup == "hard":
        noise = noise._replace(target=torch.zeros_like(noise.target))
    metrics = agent.update(batch, noise)[:, 0].double()
    queue = play(monkeypatch, noise, config.backup)
    their_batch = as_their_batch(batch)
    theirs = impl.update_critic(their_batch)
    critic_gradients = critics_of(impl.modules.q_funcs, gradients=True)
    theirs |= impl.update_actor(their_batch)
    actor_gradients = network_of(impl.modules.policy, gradients=True)
    impl.update_critic_target()
    assert not queue
    ours = dict(zip(agent.metrics, metrics.tolist(), strict=True))
    return impl, agent, theirs, ours, critic_gradients, actor_gradients


@pytest.mark.parametrize("calibrated", [False, True], ids=["cql", "cal_ql"])
@pytest.mark.parametrize("alpha_cql", [1.5, 5.0])
@pytest.mark.parametrize("backup", ["soft", "hard", "max"])
def test_one_step_with_fixed_coefficients(monkeypatch, backup, alpha_cql, calibrated):
    config = replace(OURS, backup=backup, calibrated=calibrated)
    run = with_learned(replace(RUN, alpha_cql=alpha_cql, tau_cql=None, target_entropy=None), temp=False, alpha=False)
    impl, agent, theirs, ours, critic_gradients, actor_gradients = step_both(monkeypatch, config, run)

    if calibrated:
        assert 0.1 < ours["floor_share"] < 0.9
    weight = 2 * run.w_cql * alpha_cql  # two critics
    assert theirs["conservative_loss"] == pytest.approx(weight * (ours["cql_gap"] - THRESHOLD), rel=1e-5)
    our_loss = 2 * ours["critic_td"] + weight * ours["cql_gap"]
    assert theirs["critic_loss"] == pytest.approx(our_loss - weight * THRESHOLD, rel=1e-5)
    assert theirs["actor_loss"] == pytest.approx(ours["actor_loss"], rel=1e-5)

    modules = impl.modules
    gradients = {name: tensor.grad for name, tensor in agent.critics.items()}
    assert_close(gradients, critic_gradients, rtol=1e-4, atol=1e-5)
    gradients = {name: tensor.grad for name, tensor in agent.actor.items()}
    assert_close(gradients, actor_gradients, rtol=1e-4, atol=1e-5)
    # Parameters: within a hundredth of a step of Adam.
    assert_close(agent.critics, critics_of(modules.q_funcs), rtol=0, atol=1e-2 * run.critic_learning_rate)
    assert_close(agent.targets, critics_of(modules.targ_q_funcs), rtol=0, atol=1e-2 * run.critic_learning_rate)
    assert_close(agent.actor, network_of(modules.policy), rtol=0, atol=1e-2 * run.actor_learning_rate)


def test_a_learned_multiplier(monkeypatch):
    run = with_learned(RUN, temp=False, alpha=True)
    impl, agent, theirs, ours, _, _ = step_both(monkeypatch, OURS, run)
    log_alpha = next(impl.modules.log_alpha.parameters())
    own = agent.log_coefficients["alpha_cql"]["log_alpha_cql"]
    # The gradient, as Adam has seen it (the critics' loss adds to it afterwards, which nothing reads): theirs has w_cql
    # in it. The step: the same.
    seen = impl.modules.alpha_optim.optim.state[log_alpha]["exp_avg"].item() / 0.1
    assert seen == pytest.approx(RUN.w_cql * own.grad.item(), rel=1e-5)
    assert log_alpha.exp().item() == pytest.approx(agent.stack.alpha_cql.item(), rel=1e-6)
    # The critics: theirs already with the new multiplier, ours with that of the step's beginning.
    assert ours["alpha_cql"] == pytest.approx(RUN.alpha_cql)
    assert theirs["alpha"] == pytest.approx(agent.stack.alpha_cql.item(), rel=1e-6)
    expected = 2 * RUN.w_cql * theirs["alpha"] * ours["cql_residual"]
    assert theirs["conservative_loss"] == pytest.approx(expected, rel=1e-5)
    assert theirs["critic_loss"] == pytest.approx(2 * ours["critic_td"] + expected, rel=1e-5)


def test_a_learned_temperature(monkeypatch):
    run = with_learned(replace(RUN, tau_cql=None), temp=True, alpha=False)
    impl, agent, theirs, ours, _, _ = step_both(monkeypatch, OURS, run)
    log_temp = next(impl.modules.log_temp.parameters())
    own = agent.log_coefficients["alpha_temp"]["log_alpha_temp"]
    assert log_temp.item() == pytest.approx(own.item(), rel=1e-6)
    loss = run.alpha_temp * (ours["entropy"] - run.target_entropy)
    assert theirs["temp_loss"] == pytest.approx(loss, rel=1e-5)
    assert own.grad.item() == pytest.approx(loss, rel=1e-5)  # d exp(x) / dx = exp(x)
    # The actor: theirs already with the new temperature.
    assert ours["alpha_temp"] == pytest.approx(run.alpha_temp)
    difference = (theirs["temp"] - run.alpha_temp) * -ours["entropy"]
    assert theirs["actor_loss"] - ours["actor_loss"] == pytest.approx(difference, abs=1e-5)


def test_fitted_q_evaluation_agrees_with_d3rlpys_within_the_spread(monkeypatch, tmp_path) -> None:
    """The same policy and data, three seeds each; d3rlpy copies its critics to the targets every 100 steps."""
    from d3rlpy.logging import NoopAdapterFactory
    from d3rlpy.ope import FQE, FQEConfig

    from cql.algorithm.fqe import FittedQEvaluation
    from cql.algorithm.sampling import Pool

    monkeypatch.chdir(tmp_path)
    discount, n_episodes, length, n_steps = 0.9, 150, 20, 3000
    random = np.random.default_rng(0)
    states = np.empty((n_episodes, length + 1, 2), np.float32)
    states[:, 0] = random.uniform(1.0, 2.0, (n_episodes, 2))
    actions = random.uniform(-1.0, 1.0, (n_episodes, length, 2)).astype(np.float32)
    for t in range(length):
        noise = 0.05 * random.standard_normal((n_episodes, 2))
        states[:, t + 1] = 0.8 * states[:, t] + 0.4 * actions[:, t] + noise
    rewards = (states[:, :-1].sum(-1) - 0.2 * np.square(actions).sum(-1)).astype(np.float32)
    d3rlpy.seed(0)
    encoder = VectorEncoderFactory([64, 64])
    policy = d3rlpy.algos.SACConfig(actor_encoder_factory=encoder, critic_encoder_factory=encoder).create(
        device="cpu:0"
    )
    ends = np.zeros((n_episodes, length), np.float32)
    ends[:, -1] = 1.0
    flat = [each.reshape(n_episodes * length, -1) for each in (states[:, :-1], actions, rewards)]
    dataset = d3rlpy.dataset.MDPDataset(*flat, np.zeros(n_episodes * length, np.float32), ends.reshape(-1))
    policy.build_with_dataset(dataset)

    theirs = []
    for seed in range(3):
        d3rlpy.seed(seed)
        config = FQEConfig(
            learning_rate=1e-3, batch_size=128, gamma=discount, target_update_interval=100, encoder_factory=encoder
        )
        fqe = FQE(algo=policy, config=config, device="cpu:0")
        fqe.fit(dataset, n_steps=n_steps, n_steps_per_epoch=n_steps, show_progress=False,
                logger_adapter=NoopAdapterFactory())  # fmt: skip
        first = states[:, 0]
        theirs.append(float(fqe.predict_value(first, policy.predict(first)).mean()))

    # d3rlpy leaves the last step of an episode that was cut out: it has no next observation there.
    rows = states[:, :length].reshape(-1, 2)
    row = np.arange(n_episodes * length).reshape(n_episodes, length)[:, :-1]
    kept = [torch.tensor(each[:, :-1].reshape(row.size, -1)) for each in (actions, rewards)]
    pool = Pool(torch.tensor(rows), torch.tensor(row.reshape(-1)), kept[0], kept[1][:, 0], torch.zeros(row.size))
    own_actions = torch.tensor(policy.predict(rows), dtype=torch.float32)[None]
    ours = FittedQEvaluation(
        Mlp(width=64), pool, own_actions, range(3), batch_size=128, learning_rate=1e-3, discount=discount,
        tau_target=1.0, target_update_period=100,
    )  # fmt: skip
    for _ in range(n_steps):
        ours.step()
    found = ours.values(torch.tensor(row[:, 0])).mean(-1)[0].double().numpy()
    spread = math.sqrt(np.var(theirs, ddof=1) + np.var(found, ddof=1))
    assert abs(np.mean(theirs) - found.mean()) < max(3.0 * spread, 0.05)
    assert 5.0 * spread < np.mean(theirs)
