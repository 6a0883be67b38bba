"""Actor and critics for a whole stack of runs, as plain batched products.

Parameters are plain dictionaries of tensors. Their first axis is R (runs); those of critics have C as the second. So a
run's network is a slice, and a network without gradient is the same function on detached tensors.
Axes: R runs, C critics, N sampled actions, B batch, S state, A action, H hidden.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

Parameters = dict[str, Tensor]
Activation = Literal["relu", "tanh", "elu", "silu", "gelu"]
Initialisation = Literal["torch", "orthogonal", "xavier"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


@dataclass(frozen=True)
class Mlp:
    """The shape of a network: of the actor, or of all critics.

    Attributes:
        width: units of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: after each hidden layer.
        layer_norm: normalise each hidden layer before its activation.
        initialisation: ``torch`` (uniform in +-1/sqrt(fan-in), weights and biases), ``orthogonal`` (gain sqrt 2 in
            hidden layers, 1 in the last, zero biases) or ``xavier`` (uniform, zero biases).
        last_layer_scale: gain of the last layer, which then has zero biases and weights that are orthogonal, if the
            others are, or else Xavier uniform, as published code has it (with 0.01); None treats it like the others.
    """

    width: int = 256
    depth: int = 2
    activation: Activation = "relu"
    layer_norm: bool = False
    initialisation: Initialisation = "torch"
    last_layer_scale: float | None = None

    def sizes(self, inputs: int, outputs: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer."""
        widths = [inputs, *[self.width] * self.depth, outputs]
        return list(itertools.pairwise(widths))


def actor_parameters(
    mlp: Mlp,
    observation_size: int,
    action_size: int,
    generators: Sequence[Generator],
    log_std: Mapping[str, float] = MappingProxyType({}),
) -> Parameters:
    """Fresh actors, one from each generator: tensors (R, in, out) and (R, out) on the generators' device.

    Args:
        mlp: their shape.
        observation_size: S.
        action_size: A.
        generators: one per run.
        log_std: initial values of the learned numbers ``multiplier`` and ``offset``, see :func:`policy_head`.
    """
    networks = [_initial(mlp, observation_size, 2 * action_size, generator) for generator in generators]
    for network, own in zip(networks, generators, strict=True):
        network |= {f"log_std.{name}": torch.full((1,), value, device=own.device) for name, value in log_std.items()}
    return _stack(networks)


def critic_parameters(
    mlp: Mlp, observation_size: int, action_size: int, n_critics: int, generators: Sequence[Generator]
) -> Parameters:
    """Fresh critics, C from each generator: tensors (R, C, in, out) and (R, C, out)."""
    inputs = observation_size + action_size
    return _stack([_stack([_initial(mlp, inputs, 1, g) for _ in range(n_critics)]) for g in generators])


def actor(
    mlp: Mlp, parameters: Parameters, observations: Tensor, log_std_min: float, log_std_max: float
) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the policy before squashing.

    Args:
        mlp: the shape that the parameters were made with.
        parameters: of R actors.
        observations: (R, B, S).
        log_std_min: lower bound of the log standard deviation.
        log_std_max: its upper bound.

    Returns:
        mean (R, B, A) and log_std (R, B, A).
    """
    return policy_head(_layers(mlp, parameters, observations), parameters, log_std_min, log_std_max)


def policy_head(
    outputs: Tensor, parameters: Parameters, log_std_min: float, log_std_max: float
) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation from an actor's outputs (R, B, 2 A).

    If the actor has them, a learned number multiplies the log standard deviation and one is added to it, before it is
    clamped, as in the code published with CQL and Cal-QL.
    """
    mean, log_std = outputs.chunk(2, dim=-1)
    if "log_std.multiplier" in parameters:
        log_std = log_std * parameters["log_std.multiplier"].unsqueeze(-1)
    if "log_std.offset" in parameters:
        log_std = log_std + parameters["log_std.offset"].unsqueeze(-1)
    return mean, log_std.clamp(log_std_min, log_std_max)


def layer_tensors(parameters: Parameters) -> list[Tensor]:
    """The parameters of the layers, without the numbers of :func:`policy_head`."""
    return [tensor for name, tensor in parameters.items() if not name.startswith("log_std.")]


def critics(mlp: Mlp, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
    """Values of N actions in each state.

    Args:
        mlp: the shape that the parameters were made with.
        parameters: of R x C critics.
        observations: (R, B, S).
        actions: (R, N, B, A) if all critics of a run value the same actions, (R, C, N, B, A) if each has its own.

    Returns:
        (R, C, N, B).
    """
    if actions.dim() == 4:
        actions = actions.unsqueeze(1)
    states = observations[:, None, None].expand(*actions.shape[:-1], -1)
    rows = torch.cat([states, actions], -1).flatten(2, 3)  # (R, 1 or C, N B, S + A)
    values = _layers(mlp, parameters, rows)
    return values.view(*values.shape[:2], *actions.shape[2:4])


ValueLoss = Callable[..., Tensor]
"""A loss of the critics: their values (R, C, N, B), and its other inputs, to (R,).

It is a sum over critics, and for each critic a mean over states of something that depends on the values in that state.
"""


def critic_gradients(
    mlp: Mlp,
    parameters: Parameters,
    observations: Tensor,
    actions: Tensor,
    loss: ValueLoss,
    inputs: Sequence[Tensor | None],
    *,
    critics: Callable[[Mlp, Parameters, Tensor, Tensor], Tensor] = critics,
) -> tuple[Tensor, list[Tensor]]:
    """Values of N actions in each state, and the gradient of a loss of them with respect to the critics' parameters.

    Args:
        mlp: the shape that the parameters were made with.
        parameters: of R x C critics, with ``requires_grad``.
        observations: (R, B, S).
        actions: as for :func:`critics`.
        loss: see :data:`ValueLoss`.
        inputs: what else the loss takes: tensors (R,), (R, B), (R, N, B) or (R, C, N, B), or None.
        critics: computes the values, like :func:`critics`.

    Returns:
        Values (R, C, N, B), and one gradient per parameter, in the order of ``parameters``; all without a graph.
    """
    with torch.enable_grad():
        values = critics(mlp, parameters, observations, actions)
        total = loss(values, *inputs).sum()
    return values.detach(), list(torch.autograd.grad(total, list(parameters.values())))


ActorFunction = Callable[[Mlp, Parameters, Tensor, float, float], tuple[Tensor, Tensor]]


class Networks(NamedTuple):
    """The functions of networks that a training step calls; :data:`PLAIN`, or a faster form of the same functions.

    Attributes:
        actor: like :func:`actor`.
        critics: like :func:`critics`.
        critic_gradients: like :func:`critic_gradients`.
    """

    actor: ActorFunction
    critics: Callable[[Mlp, Parameters, Tensor, Tensor], Tensor]
    critic_gradients: Callable[
        [Mlp, Parameters, Tensor, Tensor, ValueLoss, Sequence[Tensor | None]], tuple[Tensor, list[Tensor]]
    ]


PLAIN = Networks(actor, critics, critic_gradients)


def _layers(mlp: Mlp, parameters: Parameters, hidden: Tensor) -> Tensor:
    """Apply the network: (..., rows, in) to (..., rows, out), leading axes as in the parameters or 1."""
    for layer in range(mlp.depth + 1):
        hidden = hidden @ parameters[f"{layer}.weight"] + parameters[f"{layer}.bias"].unsqueeze(-2)
        if layer < mlp.depth:
            if mlp.layer_norm:
                gain, shift = (parameters[f"{layer}.norm_{kind}"].unsqueeze(-2) for kind in ("gain", "shift"))
                hidden = functional.layer_norm(hidden, hidden.shape[-1:]) * gain + shift
            hidden = ACTIVATIONS[mlp.activation](hidden)
    return hidden


def _initial(mlp: Mlp, inputs: int, outputs: int, generator: Generator) -> Parameters:
    parameters: Parameters = {}
    for layer, (fan_in, fan_out) in enumerate(mlp.sizes(inputs, outputs)):
        last = layer == mlp.depth
        scale = mlp.last_layer_scale if last else None
        kind: Initialisation = "xavier" if scale is not None and mlp.initialisation == "torch" else mlp.initialisation
        gain = scale if scale is not None else math.sqrt(2.0) if kind == "orthogonal" and not last else 1.0
        parameters[f"{layer}.weight"] = _initial_weight(kind, fan_in, fan_out, gain, generator)
        bias = torch.zeros(fan_out, device=generator.device)
        if kind == "torch":
            bias.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
        parameters[f"{layer}.bias"] = bias
        if mlp.layer_norm and not last:
            parameters[f"{layer}.norm_gain"] = torch.ones(fan_out, device=generator.device)
            parameters[f"{layer}.norm_shift"] = torch.zeros(fan_out, device=generator.device)
    return parameters


def _initial_weight(kind: Initialisation, fan_in: int, fan_out: int, gain: float, generator: Generator) -> Tensor:
    weight = torch.empty(fan_in, fan_out, device=generator.device)
    if kind == "orthogonal":
        return torch.nn.init.orthogonal_(weight, gain=gain, generator=generator)
    if kind == "xavier":
        return torch.nn.init.xavier_uniform_(weight, gain=gain, generator=generator)
    return weight.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)


def _stack(members: Sequence[Parameters]) -> Parameters:
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}
