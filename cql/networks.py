"""Actor and critics for a whole stack of runs: the only place that knows how the axes become matrix products.

Parameters are plain dictionaries of tensors whose first axis is R (runs), and for critics whose second is C, so that a
run's network is a slice, and a network without gradient is the same function on detached tensors.
Axes: R runs, C critics, N sampled actions, B batch, S state, A action, H hidden.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

Parameters = dict[str, Tensor]
Activation = Literal["relu", "tanh", "elu", "silu", "gelu"]
Initialisation = Literal["torch", "orthogonal", "xavier"]

# Those with a trailing underscore overwrite their input, which is always a fresh product here.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "elu": functional.elu,
    "silu": functional.silu,
    "gelu": functional.gelu,
}


@dataclass(frozen=True)
class Mlp:
    """The shape that actor and critics share.

    Attributes:
        width: units of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: after each hidden layer.
        layer_norm: normalise each hidden layer before its activation.
        initialisation: ``torch`` (uniform in +-1/sqrt(fan-in), weights and biases), ``orthogonal`` (gain sqrt 2 in
            hidden layers, 1 in the last, zero biases) or ``xavier`` (uniform, zero biases).
    """

    width: int = 256
    depth: int = 2
    activation: Activation = "relu"
    layer_norm: bool = False
    initialisation: Initialisation = "torch"

    def sizes(self, inputs: int, outputs: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer."""
        widths = [inputs, *[self.width] * self.depth, outputs]
        return list(itertools.pairwise(widths))


def actor_parameters(mlp: Mlp, observation_size: int, action_size: int, generators: Sequence[Generator]) -> Parameters:
    """Fresh actors, one from each generator: tensors (R, in, out) and (R, out) on the generators' device."""
    return _stack([_initial(mlp, observation_size, 2 * action_size, generator) for generator in generators])


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
        log_std_min: the log standard deviation is clamped to at least this
        log_std_max: and at most this.

    Returns:
        mean (R, B, A) and log_std (R, B, A).
    """
    hidden = torch.baddbmm(parameters["0.bias"].unsqueeze(1), observations, parameters["0.weight"])
    mean, log_std = _after_first(mlp, parameters, hidden).chunk(2, dim=-1)
    return mean, log_std.clamp(log_std_min, log_std_max)


def critics(mlp: Mlp, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
    """Values of N actions in each state.

    The first layer is linear in (s, a), so its state part is computed once per state and shared by the N actions.

    Args:
        mlp: the shape that the parameters were made with.
        parameters: of R x C critics.
        observations: (R, B, S).
        actions: (R, N, B, A).

    Returns:
        (R, C, N, B).
    """
    n_runs, n_critics = parameters["0.weight"].shape[:2]
    flat = {name: tensor.flatten(0, 1) for name, tensor in parameters.items()}  # (G, ...) with G = R C
    observations, actions = (x.repeat_interleave(n_critics, dim=0) for x in (observations, actions))
    if mlp.activation == "relu" and not mlp.layer_norm:
        values: Tensor = _ReluCritics.apply(observations, actions, *flat.values())  # type: ignore[no-untyped-call]
    else:
        values = _after_first(mlp, flat, _first_layer(observations, actions, flat["0.weight"], flat["0.bias"]))
    return values.view(n_runs, n_critics, *actions.shape[1:3])


def _first_layer(observations: Tensor, actions: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(G, B, S), (G, N, B, A), (G, S + A, H) and (G, H) to the first layer's sums (G, N, B, H)."""
    state_weight, action_weight = weight.tensor_split([observations.shape[-1]], dim=1)
    state_part = torch.baddbmm(bias.unsqueeze(1), observations, state_weight)
    # One product per action: its result is no view, so that the sum and the activation may overwrite it.
    return torch.matmul(actions, action_weight.unsqueeze(1)).add_(state_part.unsqueeze(1))


class _ReluCritics(torch.autograd.Function):
    """Critics of plain relu layers with the gradient written out, for speed.

    The same products as the general path, which a test compares it with. It keeps only the hidden layers, applies the
    relu's gradient in place, and avoids BLAS for the last layer, whose single column it handles poorly.
    """

    @staticmethod
    def forward(ctx: Any, observations: Tensor, actions: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        hidden = [_first_layer(observations, actions, weights[0], biases[0]).relu_().flatten(1, 2)]
        for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
            hidden.append(torch.baddbmm(bias.unsqueeze(1), hidden[-1], weight).relu_())
        ctx.save_for_backward(observations, actions, *weights, *hidden)
        return torch.baddbmm(biases[-1].unsqueeze(1), weights[-1].mT, hidden[-1].mT)  # (G, 1, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        observations, actions, *kept = ctx.saved_tensors
        weights, hidden = kept[: len(kept) // 2 + 1], kept[len(kept) // 2 + 1 :]
        of_actions, of_parameters = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        gradients: list[Tensor | None] = [None] * (2 * len(weights))
        if of_parameters:
            gradients[-2:] = torch.bmm(grad, hidden[-1]).mT, grad.sum(2)
        below = grad.mT * weights[-1].mT  # gradient of the sums of the layer below, (G, rows, H)
        for layer in range(len(hidden) - 1, 0, -1):
            _relu_backward_(below, hidden[layer])
            if of_parameters:
                gradients[2 * layer : 2 * layer + 2] = torch.bmm(hidden[layer - 1].mT, below), below.sum(1)
            below = torch.bmm(below, weights[layer].mT)
        _relu_backward_(below, hidden[0])
        if of_parameters:
            of_state_part = below.view(*actions.shape[:3], -1).sum(1)
            of_weight = [torch.bmm(observations.mT, of_state_part), torch.bmm(actions.flatten(1, 2).mT, below)]
            gradients[:2] = torch.cat(of_weight, 1), of_state_part.sum(1)
        of_rows = None
        if of_actions:
            of_rows = torch.bmm(below, weights[0][:, observations.shape[-1] :].mT).view_as(actions)
        return None, of_rows, *gradients


def _relu_backward_(grad: Tensor, activated: Tensor) -> None:
    """Zero the gradient, in place, where a relu gave zero."""
    torch.ops.aten.threshold_backward.grad_input(grad, activated, 0.0, grad_input=grad)


def _after_first(mlp: Mlp, parameters: Parameters, hidden: Tensor) -> Tensor:
    """From the first layer's sums (G, ..., H) to the outputs (G, rows, out), with parameters (G, ...)."""
    activation = _ACTIVATIONS[mlp.activation]
    for layer in range(mlp.depth):
        if mlp.layer_norm:
            gain, shift = (_rows(parameters[f"{layer}.norm_{kind}"], hidden) for kind in ("gain", "shift"))
            hidden = torch.addcmul(shift, functional.layer_norm(hidden, hidden.shape[-1:]), gain)
        hidden = activation(hidden).flatten(1, -2)
        bias, weight = parameters[f"{layer + 1}.bias"].unsqueeze(1), parameters[f"{layer + 1}.weight"]
        hidden = torch.baddbmm(bias, hidden, weight)
    return hidden


def _rows(parameter: Tensor, hidden: Tensor) -> Tensor:
    """(G, H) to (G, 1, ..., H), which broadcasts over the rows of ``hidden``."""
    return parameter.view(len(parameter), *[1] * (hidden.dim() - 2), -1)


def _initial(mlp: Mlp, inputs: int, outputs: int, generator: Generator) -> Parameters:
    parameters: Parameters = {}
    for layer, (fan_in, fan_out) in enumerate(mlp.sizes(inputs, outputs)):
        last = layer == mlp.depth
        parameters[f"{layer}.weight"] = _initial_weight(mlp.initialisation, fan_in, fan_out, last, generator)
        bias = torch.zeros(fan_out, device=generator.device)
        if mlp.initialisation == "torch":
            bias.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
        parameters[f"{layer}.bias"] = bias
        if mlp.layer_norm and not last:
            parameters[f"{layer}.norm_gain"] = torch.ones(fan_out, device=generator.device)
            parameters[f"{layer}.norm_shift"] = torch.zeros(fan_out, device=generator.device)
    return parameters


def _initial_weight(kind: Initialisation, fan_in: int, fan_out: int, last: bool, generator: Generator) -> Tensor:
    weight = torch.empty(fan_in, fan_out, device=generator.device)
    if kind == "orthogonal":
        return torch.nn.init.orthogonal_(weight, gain=1.0 if last else math.sqrt(2.0), generator=generator)
    if kind == "xavier":
        return torch.nn.init.xavier_uniform_(weight, generator=generator)
    return weight.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)


def _stack(members: Sequence[Parameters]) -> Parameters:
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}
