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
    # Activations that overwrite must only ever meet products of their own.
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


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_written_out_gradient_is_that_of_the_general_path(depth: int) -> None:
    """Relu critics have a gradient of their own, for speed; values and all gradients are those of autograd."""
    mlp = networks.Mlp(width=8, depth=depth)
    random = torch.Generator().manual_seed(depth)
    parameters = {
        name: tensor.double().requires_grad_()
        for name, tensor in networks.critic_parameters(mlp, 5, 3, 2, [random, random, random]).items()
    }
    observations = torch.randn(3, 7, 5, generator=random, dtype=torch.float64)
    actions = torch.rand(3, 4, 7, 3, generator=random, dtype=torch.float64).requires_grad_()
    flat = {name: tensor.flatten(0, 1) for name, tensor in parameters.items()}
    states = observations[:, None].expand(-1, 4, -1, -1)
    rows = torch.cat([states, actions], -1).flatten(1, 2).repeat_interleave(2, 0)
    general = networks._layer_by_layer(mlp, flat, rows).view(3, 2, 4, 7)
    fast = networks.critics(mlp, parameters, observations, actions)
    torch.testing.assert_close(fast, general, rtol=1e-12, atol=1e-12)
    weights = torch.randn(fast.shape, generator=random, dtype=torch.float64)
    inputs = [actions, *parameters.values()]
    expected = torch.autograd.grad((general * weights).sum(), inputs)
    for got, wanted in zip(torch.autograd.grad((fast * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    # With frozen parameters, as in the actor's loss, the actions still get theirs.
    frozen = {name: tensor.detach() for name, tensor in parameters.items()}
    (of_actions,) = torch.autograd.grad((networks.critics(mlp, frozen, observations, actions) * weights).sum(), actions)
    torch.testing.assert_close(of_actions, expected[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("own_actions", [False, True])
@pytest.mark.parametrize("n_actions", [1, 9])
def test_many_rows_in_float32_are_those_of_the_general_path(n_actions: int, own_actions: bool, monkeypatch) -> None:
    """Many rows go through a fused product, in parts where no gradient is kept; few do not. 9 x 300 is many."""
    mlp, batch = networks.Mlp(width=32, depth=2), 300
    cached(monkeypatch, 600, mlp.width)
    random = torch.Generator().manual_seed(0)
    parameters = {
        name: tensor.requires_grad_() for name, tensor in networks.critic_parameters(mlp, 5, 3, 2, [random] * 3).items()
    }
    observations = torch.randn(3, batch, 5, generator=random)
    shape = (3, 2, n_actions, batch, 3) if own_actions else (3, n_actions, batch, 3)
    actions = torch.rand(shape, generator=random).requires_grad_()
    by_critic = actions if own_actions else actions.unsqueeze(1).expand(-1, 2, -1, -1, -1)
    rows = torch.cat([observations[:, None, None].expand(*by_critic.shape[:-1], -1), by_critic], -1).flatten(2, 3)
    flat = {name: tensor.flatten(0, 1) for name, tensor in parameters.items()}
    general = networks._layer_by_layer(mlp, flat, rows.flatten(0, 1)).view(3, 2, n_actions, batch)
    fast = networks.critics(mlp, parameters, observations, actions)
    with torch.no_grad():
        alone = networks.critics(mlp, parameters, observations, actions)
    torch.testing.assert_close(fast, general, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone, general, rtol=1e-5, atol=1e-6)
    weights = torch.randn(fast.shape, generator=random)
    inputs = [actions, *parameters.values()]
    expected = torch.autograd.grad((general * weights).sum(), inputs)
    for got, wanted in zip(torch.autograd.grad((fast * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def loss_of_values(weights, n_states):
    """A loss that is no sum over a state's values, as a log-sum-exp is none; and its gradient in a part of them."""

    def loss(values, own_weights=weights):
        return (own_weights * values.logsumexp(2, keepdim=True) * values).sum() / n_states

    def of_values(values, part):
        leaf = values.detach().requires_grad_()
        with torch.enable_grad():
            own = loss(leaf, weights[part.runs, part.critics, :, part.states])
        return torch.autograd.grad(own, leaf)[0]

    return loss, of_values


def cached(monkeypatch, n_rows, width):
    """Cut minibatches into parts of so many rows."""
    monkeypatch.setattr(networks, "_CACHED_NUMBERS", n_rows * width)


@pytest.mark.parametrize("own_actions", [False, True])
@pytest.mark.parametrize(
    "mlp",
    [*(Mlp(width=32, depth=depth) for depth in (1, 2, 3)), Mlp(width=32, activation="tanh"), Mlp(layer_norm=True)],
    ids=str,
)
@pytest.mark.parametrize(("n_actions", "batch"), [(9, 300), (2, 5)])
def test_critic_gradients_are_those_of_autograd(mlp, n_actions, batch, own_actions, monkeypatch) -> None:
    cached(monkeypatch, 600, mlp.width)  # 2,700 rows are five parts
    own = torch.Generator().manual_seed(mlp.depth)
    parameters = {
        name: tensor.requires_grad_() for name, tensor in networks.critic_parameters(mlp, 5, 3, 2, [own] * 3).items()
    }
    observations = torch.randn(3, batch, 5, generator=own)
    shape = (3, 2, n_actions, batch, 3) if own_actions else (3, n_actions, batch, 3)
    actions = torch.rand(shape, generator=own)
    loss, of_values = loss_of_values(torch.randn(3, 2, n_actions, batch, generator=own), batch)
    in_float64 = {name: tensor.detach().double().requires_grad_() for name, tensor in parameters.items()}
    wanted = networks.critics(mlp, in_float64, observations.double(), actions.double())
    expected = torch.autograd.grad(loss(wanted), list(in_float64.values()))
    values, gradients = networks.critic_gradients(mlp, parameters, observations, actions, of_values)
    assert not any(tensor.requires_grad for tensor in (values, *gradients))
    torch.testing.assert_close(values.double(), wanted, rtol=1e-4, atol=1e-5)
    for got, exact, parameter in zip(gradients, expected, parameters.values(), strict=True):
        assert got.shape == parameter.shape
        torch.testing.assert_close(got.double(), exact, rtol=1e-3, atol=1e-5)


def test_critic_gradients_do_not_depend_on_threads_or_on_who_else_is_there(monkeypatch) -> None:
    mlp = Mlp(width=32)
    cached(monkeypatch, 600, mlp.width)
    own = torch.Generator().manual_seed(0)
    parameters = networks.critic_parameters(mlp, 5, 3, 2, [own] * 3)
    observations, actions = torch.randn(3, 300, 5, generator=own), torch.rand(3, 9, 300, 3, generator=own)
    weights = torch.randn(3, 2, 9, 300, generator=own)
    n_threads = torch.get_num_threads()

    def found(runs, threads):
        _, of_values = loss_of_values(weights[runs], 300)
        members = {name: tensor[runs] for name, tensor in parameters.items()}
        torch.set_num_threads(threads)
        try:
            values, gradients = networks.critic_gradients(mlp, members, observations[runs], actions[runs], of_values)
            with torch.no_grad():
                alone = networks.critics(mlp, members, observations[runs], actions[runs])
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(n_threads)
        return [values, alone, *gradients]

    expected = found(slice(0, 3), 1)
    for threads in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(found(slice(0, 3), threads), expected, strict=True))
    assert all(torch.equal(a, b[1:2]) for a, b in zip(found(slice(1, 2), 2), expected, strict=True))


def test_a_parameter_that_is_no_number_shows_in_the_outputs_of_few_rows() -> None:
    mlp = networks.Mlp(width=8, depth=2)
    for name in ("0.weight", "1.bias", "2.bias"):
        parameters = networks.actor_parameters(mlp, S, A, generators())
        parameters[name].fill_(math.nan)
        assert networks.actor(mlp, parameters, random(R, B, S).float(), -20.0, 2.0)[0].isnan().all()
