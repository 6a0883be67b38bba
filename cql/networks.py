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
    mean, log_std = _forward(mlp, parameters, observations).chunk(2, dim=-1)
    return mean, log_std.clamp(log_std_min, log_std_max)


def critics(mlp: Mlp, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
    """Values of N actions in each state.

    Args:
        mlp: the shape that the parameters were made with.
        parameters: of R x C critics.
        observations: (R, B, S).
        actions: (R, N, B, A), valued by all critics of a run, or (R, C, N, B, A), each critic's own.

    Returns:
        (R, C, N, B).
    """
    n_runs, n_critics = parameters["0.weight"].shape[:2]
    if actions.dim() == 4:
        actions = actions.unsqueeze(1)
    states = observations[:, None, None].expand(*actions.shape[:-1], -1)
    # A view where the critics share their actions: the C copies of an input are one piece of memory.
    rows = torch.cat([states, actions], -1).flatten(2, 3).expand(-1, n_critics, -1, -1)
    flat = {name: tensor.flatten(0, 1) for name, tensor in parameters.items()}  # (G, ...) with G = R C
    return _forward(mlp, flat, rows).view(n_runs, n_critics, *actions.shape[2:4])


def _forward(mlp: Mlp, parameters: Parameters, inputs: Tensor) -> Tensor:
    """(..., rows, in) to (G, rows, out), with parameters (G, ...); the leading axes of the inputs multiply to G."""
    if mlp.activation != "relu" or mlp.layer_norm:
        return _layer_by_layer(mlp, parameters, inputs.flatten(0, -3))
    if torch.is_grad_enabled():
        outputs: Tensor = _ReluMlp.apply(inputs, *parameters.values())  # type: ignore[no-untyped-call]
        return outputs
    members = _members(inputs, *parameters.values())
    return _joined([_outputs_alone(rows, own[::2], own[1::2]) for rows, *own in members])


def _layer_by_layer(mlp: Mlp, parameters: Parameters, hidden: Tensor) -> Tensor:
    """The plain form, for every activation and with layer normalisation: (G, rows, in) to (G, rows, out)."""
    activation = _ACTIVATIONS[mlp.activation]
    for layer in range(mlp.depth + 1):
        hidden = torch.baddbmm(parameters[f"{layer}.bias"].unsqueeze(1), hidden, parameters[f"{layer}.weight"])
        if layer == mlp.depth:
            break
        if mlp.layer_norm:
            gain, shift = (parameters[f"{layer}.norm_{kind}"].unsqueeze(1) for kind in ("gain", "shift"))
            hidden = torch.addcmul(shift, functional.layer_norm(hidden, hidden.shape[-1:]), gain)
        hidden = activation(hidden)
    return hidden


# Plain relu layers, fast ----------------------------------------------------------------------------------------------

# oneDNN's x @ weight.T + bias with the activation applied while the results are in registers: where it was measured a
# fifth faster than the BLAS's product alone. PyTorch's compiler calls it too, but it has no public name; without it, or
# with another type of numbers, all networks go through one batched product.
_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
_fused_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _HAS_ONEDNN else None

_FUSED_ROWS = 512  # below, the BLAS is as fast
_CACHED_ROWS = 1024  # of 256 numbers are a megabyte: a layer's output is still in a core's cache when the next reads it


def _members(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors (..., rows, in) and (G, ...) into what one product takes at a time.

    On a processor that is each network by itself, without the axis G: its layers stay in the cache, and its rounding
    does not depend on who else is in the stack. Elsewhere it is all of them in one batched product.
    """
    first, *others = tensors
    alone = _fused_linear is not None and first.device.type == "cpu" and first.dtype == torch.float32
    if not alone:
        return [(first.flatten(0, -3), *others)]
    leading = first.shape[:-2]
    inputs = [first[index] for index in itertools.product(*map(range, leading))]
    return list(zip(inputs, *(tensor.unbind() for tensor in others), strict=True))


def _joined(outputs: list[Tensor]) -> Tensor:
    """What the members gave, as one tensor with the axis G."""
    return outputs[0] if outputs[0].dim() == 3 else torch.stack(outputs)


def _hidden_layer(rows: Tensor, transposed: Tensor, bias: Tensor) -> Tensor:
    """A member's relu(rows @ transposed.T + bias): (rows, in) and (out, in), or the same with the axis G.

    oneDNN's relu makes zero of NaN, where torch's keeps it. The passes with few rows, which are the policy's, its
    evaluation's, the target's and that of the actor's loss, are torch's, so a parameter that is no longer a number
    shows in the metrics of its step.
    """
    if _is_fused(rows):
        activated: Tensor = _fused_linear(rows, transposed, bias, "relu", [], "")
        return activated
    return _affine(rows, transposed.mT, bias).relu_()


def _transposed(weight: Tensor, rows: Tensor) -> Tensor:
    """As :func:`_hidden_layer` wants it for these rows: in memory so for oneDNN, a view elsewhere."""
    return weight.mT.contiguous() if _is_fused(rows) else weight.mT


def _is_fused(rows: Tensor) -> bool:
    """Whether a hidden layer of these rows goes through oneDNN."""
    return rows.dim() == 2 and len(rows) >= _FUSED_ROWS


def _affine(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A member's rows @ weight + bias by the BLAS; also the last layer, whose few columns oneDNN handles poorly."""
    return torch.addmm(bias, rows, weight) if rows.dim() == 2 else torch.baddbmm(bias.unsqueeze(1), rows, weight)


def _outputs_alone(rows: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """A member's outputs, with nothing kept for a gradient."""
    outputs, transposed = [], [_transposed(weight, rows) for weight in weights[:-1]]
    for hidden in torch.split(rows, _CACHED_ROWS) if rows.dim() == 2 else (rows,):
        for weight, bias in zip(transposed, biases[:-1], strict=True):
            hidden = _hidden_layer(hidden, weight, bias)
        outputs.append(_affine(hidden, weights[-1], biases[-1]))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


class _ReluMlp(torch.autograd.Function):
    """Plain relu layers with the gradient written out, for speed.

    Inputs (..., rows, in), then weight (G, in, out) and bias (G, out) of each layer; the result is (G, rows, out). It
    is compared with :func:`_layer_by_layer` by a test. It keeps the hidden layers and nothing else, and the gradient
    overwrites them, so it can be asked for once only.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *parameters: Tensor) -> Tensor:
        outputs, kept = [], []
        for rows, *own in _members(inputs, *parameters):
            hidden = [rows]
            for weight, bias in zip(own[:-2:2], own[1:-2:2], strict=True):
                hidden.append(_hidden_layer(hidden[-1], _transposed(weight, rows), bias))
            outputs.append(_affine(hidden[-1], *own[-2:]))
            kept += hidden[1:]
        ctx.save_for_backward(inputs, *parameters, *kept)
        ctx.n_parameters = len(parameters)
        return _joined(outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *saved = ctx.saved_tensors
        parameters, kept = saved[: ctx.n_parameters], saved[ctx.n_parameters :]
        of_inputs, of_parameters = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        n_hidden = len(parameters) // 2 - 1
        members = _members(inputs, *parameters)
        grads = grad.unbind() if members[0][0].dim() == 2 else [grad]
        found: list[list[Tensor]] = []
        for position, ((rows, *own), of_outputs) in enumerate(zip(members, grads, strict=True)):
            hidden = [rows, *kept[position * n_hidden : (position + 1) * n_hidden]]
            found.append(_member_gradients(hidden, own[::2], of_outputs, of_inputs, of_parameters))
        joined = [_joined(list(each)) for each in zip(*found, strict=True)]
        of_rows = joined.pop().view(inputs.shape) if of_inputs else None
        return of_rows, *(joined if of_parameters else [None] * len(parameters))


def _member_gradients(
    hidden: list[Tensor], weights: Sequence[Tensor], grad: Tensor, of_inputs: bool, of_parameters: bool
) -> list[Tensor]:
    """Gradients of one member: of weight and bias of each layer, then of its inputs, as far as they are asked for.

    Args:
        hidden: the inputs and what the relus gave, (rows, width) each; the last is overwritten.
        weights: of each layer.
        grad: of the outputs, (rows, out).
        of_inputs: whether the gradient of the inputs is needed.
        of_parameters: whether those of the parameters are.
    """
    found: list[Tensor] = []
    if of_parameters:
        found = [(grad.mT @ hidden[-1]).mT, grad.sum(-2)]
    scale = None
    if grad.shape[-1] == 1:
        # The gradient of the layer below is the outer product of this column with the last weights. Only its column
        # passes through the relu here; the weights, one factor a column, wait for the smaller tensors further down.
        below, scale = grad.expand_as(hidden[-1]), weights[-1].mT
        target = hidden[-1]
    else:
        below = target = grad @ weights[-1].mT
    below = _through_relu(below, hidden[-1], into=target)
    for layer in range(len(weights) - 2, -1, -1):
        if of_parameters:
            of_weight, of_bias = hidden[layer].mT @ below, below.sum(-2)
            if scale is not None:
                of_weight, of_bias = of_weight * scale, of_bias * scale.squeeze(-2)
            found[:0] = of_weight, of_bias
        if layer == 0 and not of_inputs:
            break
        weight = weights[layer] if scale is None else weights[layer] * scale
        below = _times_transposed(below, weight)
        scale = None
        if layer:
            below = _through_relu(below, hidden[layer], into=below)
    return [*found, below] if of_inputs else found


def _times_transposed(rows: Tensor, weight: Tensor) -> Tensor:
    """(rows, out) @ (in, out).T, or the same with the axis G."""
    if rows.dim() == 2:
        product: Tensor = _fused_linear(rows, weight, None, "none", [], "")
        return product
    return rows @ weight.mT


def _through_relu(grad: Tensor, activated: Tensor, into: Tensor) -> Tensor:
    """The gradient, zero where a relu gave zero, written into a tensor that may be one of the two."""
    passed: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, activated, 0.0, grad_input=into)
    return passed


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
