"""Stacked networks are the plain networks, run by run and critic by critic."""

from __future__ import annotations

import math

import pytest
import reference
import torch

from cql.algorithm import networks
from cql.algorithm.networks import Mlp
from cql.algorithm.sampling import generator

R, C, N, B, S, A = 3, 2, 4, 5, 3, 2
SHAPES = [
    Mlp(width=7, depth=1),
    Mlp(width=7, depth=2),
    Mlp(width=7, depth=3, layer_norm=True),
    *(Mlp(width=7, activation=name) for name in ("tanh", "elu", "silu", "gelu")),
    *(Mlp(width=7, activation=name, layer_norm=True) for name in ("tanh", "gelu")),
]


def generators(seeds=range(R)):
    return [generator(seed, 1) for seed in seeds]


def leaves(parameters):
    """In float64, and with norms' gains and shifts that are not all the same."""
    own = torch.Generator().manual_seed(5)
    return {
        name: (tensor.double() + 0.1 * torch.randn(tensor.shape, generator=own, dtype=torch.float64)).requires_grad_()
        for name, tensor in parameters.items()
    }


def member(parameters, *index):
    return {name: tensor.detach()[index] for name, tensor in parameters.items()}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("mlp", SHAPES, ids=str)
def test_critics_and_their_gradients(mlp):
    parameters = leaves(networks.critic_parameters(mlp, S, A, C, generators()))
    observations, actions = random(R, B, S).requires_grad_(), random(R, N, B, A).requires_grad_()
    weights = random(R, C, N, B)
    values = networks.critics(mlp, parameters, observations, actions)
    assert values.shape == (R, C, N, B)
    (values * weights).sum().backward()

    action_gradients = torch.zeros_like(actions)
    for r in range(R):
        for c in range(C):
            net = reference.network(member(parameters, r, c), mlp.activation)
            own_actions = actions.detach()[r].requires_grad_()
            theirs = torch.stack(
                [
                    torch.stack([net(torch.cat([observations.detach()[r, b], own_actions[n, b]]))[0] for b in range(B)])
                    for n in range(N)
                ]
            )
            assert_close(values[r, c], theirs)
            (theirs * weights[r, c]).sum().backward()
            action_gradients[r] += own_actions.grad
            gradients = reference.parameters_of(net, gradients=True)
            assert gradients.keys() == parameters.keys()
            for name, gradient in gradients.items():
                assert_close(parameters[name].grad[r, c], gradient)
    assert_close(actions.grad, action_gradients)


@pytest.mark.parametrize("mlp", SHAPES, ids=str)
def test_actors_and_their_gradients(mlp):
    parameters = leaves(networks.actor_parameters(mlp, S, A, generators()))
    observations, weights = random(R, B, S), random(R, B, 2 * A)
    mean, log_std = networks.actor(mlp, parameters, observations, -20.0, 2.0)
    assert mean.shape == log_std.shape == (R, B, A)
    (torch.cat([mean, log_std], -1) * weights).sum().backward()
    for r in range(R):
        net = reference.network(member(parameters, r), mlp.activation)
        theirs = torch.stack([net(observations[r, b]) for b in range(B)])
        assert_close(mean[r], theirs[:, :A])
        assert_close(log_std[r], theirs[:, A:])
        (theirs * weights[r]).sum().backward()
        for name, gradient in reference.parameters_of(net, gradients=True).items():
            assert_close(parameters[name].grad[r], gradient)


def test_log_std_is_clamped_and_takes_no_gradient_beyond_the_clamp():
    mlp = Mlp(width=4, depth=1)
    parameters = {name: t.requires_grad_() for name, t in networks.actor_parameters(mlp, S, 3, generators([0])).items()}
    with torch.no_grad():
        parameters["1.weight"].zero_()
        parameters["1.bias"].copy_(torch.tensor([[50.0, -50.0, 0.5, -9.0, 7.0, 0.5]]))
    mean, log_std = networks.actor(mlp, parameters, torch.zeros(1, 1, S), -5.0, 2.0)
    assert mean.flatten().tolist() == [50.0, -50.0, 0.5]  # the mean is not clamped
    assert log_std.flatten().tolist() == [-5.0, 2.0, 0.5]
    log_std.sum().backward()
    assert parameters["1.bias"].grad.flatten().tolist() == [0, 0, 0, 0, 0, 1]


def test_the_inputs_are_left_as_they_are():
    for mlp in SHAPES:
        parameters = networks.critic_parameters(mlp, S, A, C, generators())
        observations, actions = random(R, B, S).float(), random(R, N, B, A).float()
        before = [t.clone() for t in (observations, actions, *parameters.values())]
        networks.critics(mlp, parameters, observations, actions)
        for old, new in zip(before, (observations, actions, *parameters.values()), strict=True):
            assert torch.equal(old, new)


@pytest.mark.parametrize("initialisation", ["torch", "orthogonal", "xavier"])
def test_a_run_starts_from_the_same_parameters_alone_and_in_a_stack(initialisation):
    mlp = Mlp(width=6, initialisation=initialisation)
    stacked = networks.critic_parameters(mlp, S, A, C, generators([4, 5, 6]))
    alone = networks.critic_parameters(mlp, S, A, C, generators([5]))
    for name, tensor in stacked.items():
        assert torch.equal(tensor[1], alone[name][0])
    weights = stacked["0.weight"].flatten(0, 1)  # of 3 runs and 2 critics: all different
    assert all(not torch.equal(weights[i], weights[j]) for i in range(R * C) for j in range(i))


def test_torch_initialisation_is_that_of_nn_linear():
    mlp = Mlp(width=64, depth=2)
    parameters = networks.actor_parameters(mlp, 16, A, generators(range(20)))
    for index, fan_in in enumerate((16, 64, 64)):
        bound = 1 / math.sqrt(fan_in)
        for kind in ("weight", "bias"):
            tensor = parameters[f"{index}.{kind}"]
            linear = getattr(torch.nn.Linear(fan_in, tensor.shape[-1]), kind)
            assert float(linear.detach().abs().max()) <= bound
            assert 0.9 * bound < float(tensor.abs().max()) <= bound
            assert float(tensor.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
            assert abs(float(tensor.mean())) < 0.1 * bound


def test_orthogonal_and_xavier_initialisation():
    layers = [(16, 8, math.sqrt(2)), (8, 8, math.sqrt(2)), (8, 2 * A, 1.0)]
    orthogonal = networks.actor_parameters(Mlp(width=8, initialisation="orthogonal"), 16, A, generators([0]))
    xavier = networks.actor_parameters(Mlp(width=8, initialisation="xavier"), 16, A, generators([0]))
    for index, (fan_in, fan_out, gain) in enumerate(layers):
        weight = orthogonal[f"{index}.weight"][0]
        assert weight.shape == (fan_in, fan_out)
        torch.testing.assert_close(weight.T @ weight, gain**2 * torch.eye(fan_out), rtol=0, atol=1e-5)
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.8 * bound < float(xavier[f"{index}.weight"].abs().max()) <= bound
        for parameters in (orthogonal, xavier):
            assert not parameters[f"{index}.bias"].any()


def test_layer_norm_starts_as_plain_normalisation():
    parameters = networks.actor_parameters(Mlp(width=8, depth=2, layer_norm=True), S, A, generators())
    norms = {name: tensor for name, tensor in parameters.items() if "norm" in name}
    assert sorted(norms) == ["0.norm_gain", "0.norm_shift", "1.norm_gain", "1.norm_shift"]  # none after the last
    assert all(tensor.eq(1.0 if name.endswith("gain") else 0.0).all() for name, tensor in norms.items())


@pytest.mark.parametrize("kind", ["torch", "orthogonal", "xavier"])
def test_a_scaled_last_layer_is_small_without_biases(kind):
    scaled, plain = (
        networks.critic_parameters(
            Mlp(width=64, initialisation=kind, last_layer_scale=scale), 5, 3, 2, [torch.Generator().manual_seed(0)]
        )
        for scale in (0.01, None)
    )
    for name in ("0.weight", "0.bias", "1.weight"):
        assert torch.equal(scaled[name][0, 0], plain[name][0, 0])  # the hidden layers are as they were
    assert not scaled["2.bias"].any()
    last = scaled["2.weight"][0]  # of C critics, (64, 1)
    if kind == "orthogonal":
        torch.testing.assert_close(last.norm(dim=1), torch.full((2, 1), 0.01))
    else:
        bound = 0.01 * math.sqrt(6 / (64 + 1))
        assert 0.8 * bound < float(last.abs().max()) <= bound


def test_an_actor_with_learned_numbers_of_its_log_std():
    mlp, observations = Mlp(width=8), torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    plain = networks.actor_parameters(mlp, 5, 3, generators)
    numbers = {"log_std.multiplier": torch.tensor([[0.5], [2.0]]), "log_std.offset": torch.tensor([[-1.0], [0.25]])}
    mean, log_std = networks.actor(mlp, plain, observations, -9.0, 9.0)
    found = networks.actor(mlp, plain | numbers, observations, -9.0, 9.0)
    assert torch.equal(found[0], mean)
    torch.testing.assert_close(found[1], torch.stack([0.5 * log_std[0] - 1.0, 2.0 * log_std[1] + 0.25]))
