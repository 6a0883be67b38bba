"""The fast forms compute what the plain ones do: layers, and whole updates of every variant."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from test_agent import (
    CONFIG,
    CPU,
    DIFFERENT,
    FIXED_RUN,
    LEARNED_RUN,
    SEEDS,
    FloatSampler,
    in_float64,
    make,
    of_shape,
    parameters,
    train,
    transitions,
)

from cql.algorithm import fast, networks
from cql.algorithm.adam import plain_update
from cql.algorithm.agent import Agent, Policy
from cql.algorithm.fast import layers, state_groups
from cql.algorithm.fast.fused_adam import fused_update
from cql.algorithm.networks import Mlp

R, C, S, A = 3, 2, 5, 3
DTYPES = {torch.float64: {"rtol": 1e-11, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


@pytest.fixture
def small_parts(monkeypatch):
    """Cut small minibatches into several parts, and have oneDNN compute their products."""
    monkeypatch.setattr(layers, "_FUSED_ROWS", 8)
    monkeypatch.setattr(layers, "_CACHED_NUMBERS", 1)
    monkeypatch.setattr(layers, "_GRADIENT_NUMBERS", 1)


def made(mlp, dtype=torch.float64, batch=7, n_actions=4, own_actions=False):
    """Critics with observations and actions for them."""
    own = torch.Generator().manual_seed(mlp.depth)
    found = networks.critic_parameters(mlp, S, A, C, [own] * R)
    critics = {name: tensor.to(dtype).requires_grad_() for name, tensor in found.items()}
    observations = torch.randn(R, batch, S, generator=own).to(dtype)
    shape = (R, C, n_actions, batch, A) if own_actions else (R, n_actions, batch, A)
    return critics, observations, torch.rand(shape, generator=own).to(dtype), own


# Layers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own_actions", [False, True])
@pytest.mark.parametrize(("depth", "batch", "n_actions"), [(1, 7, 4), (2, 7, 4), (3, 7, 4), (2, 300, 9)])
def test_critics_and_their_gradients(depth, batch, n_actions, own_actions, dtype):
    mlp = Mlp(width=8, depth=depth)
    critics, observations, actions, own = made(mlp, dtype, batch, n_actions, own_actions)
    actions.requires_grad_()
    plain = networks.critics(mlp, critics, observations, actions)
    quick = layers.critics(mlp, critics, observations, actions)
    with torch.no_grad():
        without_graph = layers.critics(mlp, critics, observations, actions)
    for values in (quick, without_graph):
        torch.testing.assert_close(values, plain, **DTYPES[dtype])
    weights = torch.randn(plain.shape, generator=own).to(dtype)
    inputs = [actions, *critics.values()]
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    for got, wanted in zip(torch.autograd.grad((quick * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted, **DTYPES[dtype])
    # With frozen parameters, as in the actor's loss, the actions still get theirs.
    frozen = {name: tensor.detach() for name, tensor in critics.items()}
    (got,) = torch.autograd.grad((layers.critics(mlp, frozen, observations, actions) * weights).sum(), actions)
    torch.testing.assert_close(got, expected[0], **DTYPES[dtype])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_actors_and_their_gradients(depth):
    mlp, own = Mlp(width=8, depth=depth), torch.Generator().manual_seed(depth)
    found = networks.actor_parameters(mlp, S, A, [own] * R)
    actors = {name: tensor.double().requires_grad_() for name, tensor in found.items()}
    observations = torch.randn(R, 7, S, generator=own, dtype=torch.float64)
    weights = torch.randn(R, 7, 2 * A, generator=own, dtype=torch.float64)

    def outputs(form):
        values = torch.cat(form(mlp, actors, observations, -0.3, 0.3), -1)
        return values, *torch.autograd.grad((values * weights).sum(), list(actors.values()))

    for got, wanted in zip(outputs(layers.actor), outputs(networks.actor), strict=True):
        torch.testing.assert_close(got, wanted, **DTYPES[torch.float64])


def a_loss(q, weights, of_run, nothing):
    """Of one state's values together, as a log-sum-exp is; with an input per run and one that is absent."""
    assert nothing is None
    return (weights[:, None] * q.logsumexp(2, keepdim=True) * q).sum(2).mean(-1).sum(1) * of_run


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own_actions", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("n_actions", "batch"), [(9, 60), (2, 5), (3, 1)])
@pytest.mark.usefixtures("small_parts")
def test_critic_gradients_in_pieces(n_actions, batch, depth, own_actions, dtype):
    mlp = Mlp(width=32, depth=depth)
    critics, observations, actions, own = made(mlp, dtype, batch, n_actions, own_actions)
    assert (batch, len(layers._parts(batch, n_actions, mlp.width))) in {(60, 60), (5, 1), (1, 1)}
    inputs = [torch.randn(R, n_actions, batch, generator=own).to(dtype), torch.tensor([1.0, 2.0, -3.0]).to(dtype), None]
    given = mlp, critics, observations, actions, a_loss, inputs
    expected_values, expected = networks.critic_gradients(*given)
    with torch.no_grad():
        values, gradients = layers.critic_gradients(*given)
    torch.testing.assert_close(values, expected_values, **DTYPES[dtype])
    for got, wanted, parameter in zip(gradients, expected, critics.values(), strict=True):
        assert got.shape == parameter.shape
        assert not got.requires_grad
        torch.testing.assert_close(got, wanted, **DTYPES[dtype])


@pytest.mark.parametrize("mlp", [Mlp(width=8), Mlp(width=8, activation="tanh", layer_norm=True)], ids=str)
@pytest.mark.parametrize("own_actions", [False, True])
@pytest.mark.parametrize(("batch", "n_groups"), [(32, 8), (12, 4), (7, 1)])
def test_critic_gradients_in_groups_of_states(batch, n_groups, own_actions, mlp, monkeypatch):
    critics, observations, actions, own = made(mlp, torch.float64, batch, 5, own_actions)
    weights = torch.randn(R, 5, batch, generator=own).double()
    given = mlp, critics, observations, actions, a_loss, [weights, torch.tensor([1.0, 2.0, -3.0]).double(), None]
    expected_values, expected = networks.critic_gradients(*given)
    valued, plain = [], networks.critics
    monkeypatch.setattr(networks, "critics", lambda *each: valued.append(each) or plain(*each))
    with torch.no_grad():
        values, gradients = state_groups.GROUPED.critic_gradients(*given)
    assert [len(each[2]) for each in valued] == [R * n_groups]
    torch.testing.assert_close(values, expected_values, **DTYPES[torch.float64])
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted, **DTYPES[torch.float64])


@pytest.mark.usefixtures("small_parts")
def test_critic_gradients_depend_neither_on_threads_nor_on_the_stack():
    mlp = Mlp(width=32)
    critics, observations, actions, own = made(mlp, torch.float32, 100, 9)
    weights, n_threads = torch.randn(R, 9, 100, generator=own), torch.get_num_threads()

    def found(runs, threads):
        members = {name: tensor[runs].detach().requires_grad_() for name, tensor in critics.items()}
        given = mlp, members, observations[runs], actions[runs]
        torch.set_num_threads(threads)
        try:
            values, gradients = layers.critic_gradients(*given, a_loss, [weights[runs], torch.ones(R)[runs], None])
            with torch.no_grad():
                alone = layers.critics(*given)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(n_threads)
        return [values, alone, *gradients]

    expected = found(slice(0, 3), 1)
    for threads in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(found(slice(0, 3), threads), expected, strict=True))
    assert all(torch.equal(a, b[1:2]) for a, b in zip(found(slice(1, 2), 2), expected, strict=True))


def test_the_inputs_are_left_as_they_are():
    mlp = Mlp(width=8)
    critics, observations, actions, _ = made(mlp, torch.float32)
    before = [tensor.detach().clone() for tensor in (observations, actions, *critics.values())]
    layers.critics(mlp, critics, observations, actions)
    layers.critic_gradients(mlp, critics, observations, actions, lambda q: q.mean((1, 2, 3)), [])
    for old, new in zip(before, (observations, actions, *critics.values()), strict=True):
        assert torch.equal(old, new)


def test_a_parameter_that_is_nan_shows_in_the_outputs_of_few_rows():
    mlp = Mlp(width=8, depth=2)
    for name in ("0.weight", "1.bias", "2.bias"):
        actors = networks.actor_parameters(mlp, S, A, [torch.Generator()])
        actors[name].fill_(math.nan)
        assert layers.actor(mlp, actors, torch.randn(1, 5, S), -20.0, 2.0)[0].isnan().all()


# Whole updates --------------------------------------------------------------------------------------------------------

PENALTIES = {
    "cql_h": {"importance_weighted": True, "next_actions": True},
    "cql_rho": {"importance_weighted": False, "next_actions": True},
    "blueprint": {"importance_weighted": False, "next_actions": False},
    "weighted without next": {"importance_weighted": True, "next_actions": False},
}
GRADIENTS = {
    "exact": {"gradient": "exact", "num_gradient_actions": None},
    "sampled of 1": {"gradient": "sampled", "num_gradient_actions": 1},
    "sampled of 3": {"gradient": "sampled", "num_gradient_actions": 3},
}
SHAPES = [Mlp(width=6), Mlp(width=9, depth=1), Mlp(width=7, depth=3)]
STACKS = [
    [LEARNED_RUN],
    [FIXED_RUN],
    DIFFERENT,  # with different coefficients, learning rates and bc_steps
    [replace(FIXED_RUN, bc_steps=3), replace(FIXED_RUN, w_cql=0.0), replace(FIXED_RUN, alpha_cql=20.0, discount=0.5)],
    [replace(LEARNED_RUN, alpha_learning_rate=None, bc_steps=2)],
]
VARIANTS = list(itertools.product(PENALTIES, GRADIENTS, ("soft", "hard", "max"), (1.0, 0.5)))


def differences(config, runs, n_steps, precise):
    """Largest differences in metrics and parameters after some updates of a fast and a plain agent."""
    results = []
    for is_fast in (True, False):
        agent, sampler = make(config, runs, SEEDS[: len(runs)], batch_size=8, fast=is_fast)
        if precise:
            agent, sampler = in_float64(agent), FloatSampler(sampler)
        assert (agent.networks == layers.FAST) == (is_fast and fast.suits(config.critic, CPU))
        results.append((train(agent, sampler, n_steps), parameters(agent)))
    (metrics, ours), (expected, theirs) = results
    assert metrics.isfinite().all()
    largest = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    return float(((metrics - expected) / (1.0 + expected.abs())).abs().max()), largest


@pytest.mark.parametrize(("index", "variant"), list(enumerate(VARIANTS)), ids=[" ".join(map(str, v)) for v in VARIANTS])
@pytest.mark.usefixtures("small_parts")
def test_fast_updates_are_the_plain_ones(index, variant):
    penalty, gradient, backup, temperature = variant
    config = replace(
        CONFIG,
        **PENALTIES[penalty],
        **GRADIENTS[gradient],
        backup=backup,
        gap_temperature=temperature,
        num_sampled_actions=3,
        target_update_period=1 + index % 2,
        **of_shape(SHAPES[index % len(SHAPES)]),
    )
    runs = STACKS[index % len(STACKS)]
    metrics, tensors = differences(config, runs, 6, precise=True)
    assert metrics < 1e-6  # kept in float32
    assert tensors < 1e-9
    metrics, tensors = differences(config, runs, 3, precise=False)
    assert metrics < 1e-4
    assert tensors < 1e-4  # a thirtieth of a step of the critics


K_OF_2 = {"gradient": "sampled", "num_gradient_actions": 2, "num_sampled_actions": 3}
CLIPPED = [replace(LEARNED_RUN, gap_clip_min=1.0), replace(LEARNED_RUN, gap_clip_max=2.5), LEARNED_RUN]
OPTIONS = {
    "cal_ql": ({"calibrated": True}, DIFFERENT),
    "cal_ql, sampled": ({"calibrated": True, **K_OF_2}, DIFFERENT),
    "clipped gap": ({}, CLIPPED),
    "clipped gap, sampled": ({"calibrated": True, **K_OF_2}, CLIPPED),
    "the data's action": ({"importance_weighted": False, "include_data_action": True}, DIFFERENT),
    "the data's action, sampled": ({"importance_weighted": False, "include_data_action": True, **K_OF_2}, CLIPPED),
    "5 critics, target of 2": ({"n_critics": 5, "n_target_critics": 2}, DIFFERENT),
    "critics of another shape": ({"critic": Mlp(width=9, depth=3)}, DIFFERENT),
    "layer norm in the critics only": ({"critic": Mlp(width=9, layer_norm=True)}, DIFFERENT),
    "log_std": ({"log_std_multiplier": 0.5, "log_std_offset": -1.0}, DIFFERENT),
    "schedules": ({"critic_schedule": "cosine", "actor_schedule": "linear", "n_schedule_steps": 5}, DIFFERENT),
    "norms and decays": (
        {"critic_schedule": "linear", "n_schedule_steps": 9},
        [
            replace(LEARNED_RUN, critic_max_grad_norm=0.5, actor_weight_decay=0.1),
            replace(LEARNED_RUN, actor_max_grad_norm=2.0**-7, critic_weight_decay=0.02),
            LEARNED_RUN,
        ],
    ),
}


@pytest.mark.parametrize(("options", "runs"), OPTIONS.values(), ids=OPTIONS)
@pytest.mark.usefixtures("small_parts")
def test_fast_updates_with_each_option(options, runs):
    metrics, tensors = differences(replace(CONFIG, **options), runs, 6, precise=True)
    assert metrics < 1e-6
    assert tensors < 1e-9


@pytest.mark.parametrize("options", [options for options, _ in OPTIONS.values()], ids=OPTIONS)
def test_a_run_with_an_option_is_the_same_alone(options):
    runs = OPTIONS["norms and decays"][1]
    config, data = replace(CONFIG, **options), transitions()
    together, sampler = make(config, runs, SEEDS)
    metrics = train(in_float64(together), FloatSampler(sampler), 4, data)
    for run, own in enumerate(runs):
        alone, sampler = make(config, [own], SEEDS[run : run + 1])
        own_metrics = train(in_float64(alone), FloatSampler(sampler), 4, data)
        torch.testing.assert_close(metrics[..., run], own_metrics[..., 0], rtol=1e-6, atol=1e-6)  # kept in float32
        for name, tensor in parameters(alone, 0).items():
            torch.testing.assert_close(parameters(together, run)[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mlp", [Mlp(width=6, activation="tanh"), Mlp(width=6, layer_norm=True)], ids=str)
def test_other_layers_are_plain(mlp):
    assert not fast.suits(mlp, CPU)
    metrics, tensors = differences(replace(CONFIG, **of_shape(mlp)), DIFFERENT, 6, precise=True)
    assert metrics < 1e-6
    assert tensors < 1e-9


def test_what_is_chosen():
    relu, gpu = Mlp(), torch.device("cuda")
    assert fast.choose(relu, relu, CPU, True) == (layers.FAST, fused_update)
    assert fast.choose(relu, relu, CPU, False) == (networks.PLAIN, plain_update)
    assert fast.choose(relu, relu, gpu, True) == (state_groups.GROUPED, fused_update)
    assert fast.choose(relu, relu, gpu, False) == (networks.PLAIN, plain_update)
    elu, mixed = replace(relu, activation="elu"), layers.FAST._replace(actor=networks.actor)
    assert fast.choose(elu, elu, CPU, True) == (networks.PLAIN, fused_update)
    assert fast.choose(elu, relu, CPU, True) == (mixed, fused_update)
    assert fast.choose(relu, elu, CPU, True) == (networks.PLAIN._replace(actor=layers.actor), fused_update)
    assert Agent(CONFIG, [LEARNED_RUN], [0], CPU).networks == layers.FAST


def test_a_policy_acts_the_same_alone_and_in_a_stack():
    agent, sampler = make(CONFIG, DIFFERENT, SEEDS)
    agent.update(*sampler.draw(transitions()))
    raw = torch.randn(3, 40, 3, generator=torch.Generator().manual_seed(0)).numpy()
    mean, std = torch.zeros(3), torch.ones(3)
    together = Policy(CONFIG.actor, agent.actor, mean, std)(raw)
    for run in range(3):
        alone = Policy(CONFIG.actor, {name: tensor[run : run + 1] for name, tensor in agent.actor.items()}, mean, std)
        assert (alone(raw[run : run + 1])[0] == together[run]).all()
