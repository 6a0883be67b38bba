"""Actor and critics for a whole stack of runs: the only place that knows how the axes become matrix products.

Parameters are plain dictionaries of tensors whose first axis is R (runs), and for critics whose second is C, so that a
run's network is a slice, and a network without gradient is the same function on detached tensors.
Axes: R runs, C critics, N sampled actions, B batch, S state, A action, H hidden.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from cql.algorithm.fast.threads import each_alone

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
    mean, log_std = _forward(mlp, parameters, _rows(mlp, observations)).chunk(2, dim=-1)
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
    # A view where the critics share their actions: the C copies of an input are one piece of memory.
    rows = _rows(mlp, _beside(observations, actions), actions).flatten(2, 3).expand(-1, n_critics, -1, -1)
    flat = {name: tensor.flatten(0, 1) for name, tensor in parameters.items()}  # (G, ...) with G = R C
    return _forward(mlp, flat, rows).view(n_runs, n_critics, *actions.shape[2:4])


class Part(NamedTuple):
    """Some of the values (R, C, N, B), by slices of three of their axes."""

    runs: slice
    critics: slice
    states: slice


def critic_gradients(
    mlp: Mlp,
    parameters: Parameters,
    observations: Tensor,
    actions: Tensor,
    of_values: Callable[[Tensor, Part], Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Values of N actions in each state, and the gradient of a loss of them in the critics' parameters.

    On a processor, plain layers take a few states at a time, one critic after the other, forward and back: the hidden
    layers are still in the cache on the way back, and a stack needs no more memory for them than a single run.

    Args:
        mlp: the shape that the parameters were made with.
        parameters: of R x C critics.
        observations: (R, B, S).
        actions: as for :func:`critics`.
        of_values: the loss's gradient in a part of the values, (r, c, N, b), which it gets with their place: for one
            state and one critic it must not depend on other states or critics.

    Returns:
        Values (R, C, N, B), and a gradient for each of the parameters, in their order; all without a graph.
    """
    if takes_parts(mlp, observations.device, observations.dtype):
        return _gradients_by_parts(mlp, parameters, observations, actions, of_values)
    with torch.enable_grad():
        values = critics(mlp, parameters, observations, actions)
    whole = Part(*(slice(0, values.shape[axis]) for axis in (0, 1, 3)))
    grad = of_values(values.detach(), whole)
    return values.detach(), list(torch.autograd.grad(values, list(parameters.values()), grad))


def takes_parts(mlp: Mlp, device: torch.device, dtype: torch.dtype = torch.float32) -> bool:
    """Whether :func:`critic_gradients` holds the hidden layers of a few states at a time, and not of all."""
    return _is_plain(mlp) and _is_alone(device, dtype)


def _beside(observations: Tensor, actions: Tensor) -> Tensor:
    """Observations (R, B, S), repeated (a view) for actions (R, C, N, B, A)."""
    return observations[:, None, None].expand(*actions.shape[:-1], -1)


def _is_plain(mlp: Mlp) -> bool:
    """Whether the layers are those of the fast form."""
    return mlp.activation == "relu" and not mlp.layer_norm


def _rows(mlp: Mlp, *columns: Tensor) -> Tensor:
    """Inputs joined along the last axis; for plain layers with what :func:`_layers` expects of them at the end."""
    if not _is_plain(mlp):
        return torch.cat(columns, -1)
    n_inputs = sum(each.shape[-1] for each in columns)
    padding = columns[0].new_zeros(_padded(n_inputs) - n_inputs)
    padding[:1].fill_(1.0)
    return torch.cat([*columns, padding.expand(*columns[0].shape[:-1], -1)], -1)


def _forward(mlp: Mlp, parameters: Parameters, inputs: Tensor) -> Tensor:
    """(..., rows, in) to (G, rows, out), with parameters (G, ...); the leading axes of the inputs multiply to G."""
    if not _is_plain(mlp):
        return _layer_by_layer(mlp, parameters, inputs.flatten(0, -3))
    if torch.is_grad_enabled():
        outputs: Tensor = _ReluMlp.apply(inputs, *parameters.values())  # type: ignore[no-untyped-call]
        return outputs
    members = _one_by_one(inputs, _layers(list(parameters.values())))
    if members[0][0].dim() == 3 or inputs.shape[-2] < 2 * _FUSED_ROWS:
        return _joined([_outputs(rows, layers) for rows, layers in members])
    pieces = [
        functools.partial(_outputs, part, layers)
        for rows, layers in members
        for part in torch.split(rows, _cached_rows(mlp.width))
    ]
    return torch.cat(each_alone(pieces, inputs.device)).view(len(members), inputs.shape[-2], -1)


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
_CACHED_NUMBERS = 2**19  # of a layer's outputs: two megabytes, which the next layer finds in the cache

Layers = list[tuple[Tensor, Tensor | None]]
"""Weight (in, out) and bias (out) of each layer of a network, or both with the axis G in front; see :func:`_layers`."""


def _is_alone(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether each network takes its products by itself.

    On a processor its layers then stay in the cache, and its rounding does not depend on who else is in the stack.
    Elsewhere all of them are one batched product.
    """
    return _fused_linear is not None and device.type == "cpu" and dtype == torch.float32


def _cached_rows(width: int) -> int:
    """How many rows of a layer's outputs stay in the cache."""
    return max(_FUSED_ROWS, _CACHED_NUMBERS // width)


def _padded(n_inputs: int) -> int:
    """Columns of the inputs with a one behind them, and then zeros up to a multiple of eight."""
    return (n_inputs + 8) // 8 * 8


def _layers(parameters: Sequence[Tensor]) -> Layers:
    """Weight (G, in, out) and bias (G, out) of each layer, where the first bias is a row of the first weight.

    So the inputs end with a one, and then with zeros up to a multiple of eight columns: with 24 the first layer's
    products were measured nearly twice as fast as with 23, and the bias's gradient comes with the weight's.
    """
    weight, bias, *others = parameters
    n_inputs = weight.shape[-2]
    first = weight.new_zeros(len(weight), _padded(n_inputs), weight.shape[-1])
    first[:, :n_inputs], first[:, n_inputs] = weight, bias
    return [(first, None), *zip(others[::2], others[1::2], strict=True)]


def _zeros(layers: Layers, n_parts: int = 1) -> Layers:
    """What :func:`_add_gradients` adds to, with (n_parts G) for the axis G."""

    def of(tensor: Tensor) -> Tensor:
        return tensor.new_zeros(n_parts * len(tensor), *tensor.shape[1:])

    return [(of(weight), None if bias is None else of(bias)) for weight, bias in layers]


def _summed(sums: Layers, n_members: int) -> Layers:
    """The sums of all parts, in their order."""

    def of(tensor: Tensor) -> Tensor:
        return tensor.view(-1, n_members, *tensor.shape[1:]).sum(0)

    return [(of(weight), None if bias is None else of(bias)) for weight, bias in sums]


def _unfolded(sums: Layers, layers: Layers, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the parameters from the sums of :func:`_add_gradients`."""
    n_inputs = parameters[0].shape[-2]
    last = layers[-1][0]
    if last.shape[-1] == 1:
        weight, bias = sums[-2]
        weight *= last.mT
        if bias is not None:
            bias *= last.squeeze(-1)
    (first, _), *others = sums
    return [
        first[:, :n_inputs],
        first[:, n_inputs],
        *(tensor for layer in others for tensor in layer if tensor is not None),
    ]


def _members(layers: Layers) -> list[Layers]:
    """The layers of each network by itself: views without the axis G."""
    n_members = len(layers[0][0])
    by_layer = [
        zip(weight.unbind(), [None] * n_members if bias is None else bias.unbind(), strict=True)
        for weight, bias in layers
    ]
    return [list(own) for own in zip(*by_layer, strict=True)]


def _one_by_one(inputs: Tensor, layers: Layers) -> list[tuple[Tensor, Layers]]:
    """Inputs (..., rows, in) and layers (G, ...), cut into what one product takes at a time; see :func:`_is_alone`."""
    if not _is_alone(inputs.device, inputs.dtype):
        return [(inputs.flatten(0, -3), layers)]
    rows = [inputs[index] for index in itertools.product(*map(range, inputs.shape[:-2]))]
    return list(zip(rows, _members(layers), strict=True))


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    """What the products gave, as one tensor with the axis G."""
    return outputs[0] if outputs[0].dim() == 3 else torch.stack(list(outputs))


def _hidden_layer(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``relu(rows @ weight + bias)``.

    oneDNN's relu makes zero of NaN, where torch's keeps it. The passes with few rows, which are the policy's, its
    evaluation's, the target's and that of the actor's loss, are torch's, so a parameter that is no longer a number
    shows in the metrics of its step.
    """
    if rows.dim() == 2 and len(rows) >= _FUSED_ROWS:
        activated: Tensor = _fused_linear(rows, weight.mT, bias, "relu", [], "")
        return activated
    return _affine(rows, weight, bias).relu_()


def _affine(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``rows @ weight + bias`` by the BLAS; also the last layer, whose few columns oneDNN handles poorly."""
    if bias is None:
        return rows @ weight
    if rows.dim() == 3:
        return torch.baddbmm(bias.unsqueeze(1), rows, weight)
    if weight.shape[1] == 1:
        return torch.addmv(bias, rows, weight.squeeze(1)).unsqueeze(1)  # where addmm was measured three times as slow
    return torch.addmm(bias, rows, weight)


def _pass(rows: Tensor, layers: Layers) -> tuple[list[Tensor], Tensor]:
    """The inputs and what each relu gave, for the way back; and the outputs."""
    hidden = [rows]
    for weight, bias in layers[:-1]:
        hidden.append(_hidden_layer(hidden[-1], weight, bias))
    return hidden, _affine(hidden[-1], *layers[-1])


def _outputs(rows: Tensor, layers: Layers) -> Tensor:
    """The outputs alone."""
    return _pass(rows, layers)[1]


def _add_gradients(
    sums: Layers | None, hidden: list[Tensor], layers: Layers, grad: Tensor, of_inputs: bool = False
) -> Tensor | None:
    """The way back through plain layers.

    Args:
        sums: the parameters' gradients are added to these, but those of the last hidden layer, where there is a single
            output, without the factor that :func:`_unfolded` gives them. None where they are not needed.
        hidden: from :func:`_pass`; the last is overwritten.
        layers: that the pass was made with.
        grad: of the outputs, (rows, out), or with the axis G.
        of_inputs: whether the inputs' gradient is needed.

    Returns:
        The gradient of the inputs, (rows, in), or None.
    """
    if sums is not None:
        _add_layer(sums[-1], hidden[-1], grad)
    weights = [weight for weight, _ in layers]
    if grad.shape[-1] == 1:
        # The gradient of the layer below is the outer product of this column with the last weights. Only its column
        # passes through the relu here; the weights, one factor a column, wait for the smaller tensors further down.
        below = _through_relu(grad.expand_as(hidden[-1]), hidden[-1], into=hidden[-1])
        weights[-2] = weights[-2] * weights[-1].mT
    else:
        below = grad @ weights[-1].mT
        below = _through_relu(below, hidden[-1], into=below)
    for layer in range(len(weights) - 2, -1, -1):
        if sums is not None:
            _add_layer(sums[layer], hidden[layer], below)
        if layer == 0 and not of_inputs:
            return None
        below = _times_transposed(below, weights[layer])
        if layer:
            below = _through_relu(below, hidden[layer], into=below)
    return below


def _add_layer(sums: tuple[Tensor, Tensor | None], rows: Tensor, grad: Tensor) -> None:
    """Add a layer's gradients, from its inputs (rows, in) and the gradient before its activation (rows, out)."""
    weight, bias = sums
    if rows.dim() == 3:
        weight.baddbmm_(rows.mT, grad)
    elif grad.shape[1] == 1:
        weight.squeeze(1).addmv_(rows.mT, grad.squeeze(1))
    else:
        weight.addmm_(rows.mT, grad)
    if bias is not None:
        bias.add_(grad.sum(-2))


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


class _ReluMlp(torch.autograd.Function):
    """Plain relu layers with the gradient written out, for speed.

    Inputs (..., rows, in) as :func:`_rows` makes them, then weight (G, in, out) and bias (G, out) of each layer; the
    result is (G, rows, out). It is compared with :func:`_layer_by_layer` by a test. It keeps the hidden layers and
    nothing else, and the gradient overwrites them, so it can be asked for once only.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *parameters: Tensor) -> Tensor:
        passes = [_pass(rows, own) for rows, own in _one_by_one(inputs, _layers(parameters))]
        ctx.save_for_backward(inputs, *parameters, *(each for hidden, _ in passes for each in hidden[1:]))
        ctx.n_parameters = len(parameters)
        return _joined([outputs for _, outputs in passes])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, *saved = ctx.saved_tensors
        parameters, kept = saved[: ctx.n_parameters], iter(saved[ctx.n_parameters :])
        layers = _layers(parameters)
        members = _one_by_one(inputs, layers)
        alone = members[0][0].dim() == 2
        grads = grad.unbind() if alone else (grad,)
        sums = _zeros(layers) if ctx.needs_input_grad[1] else None
        own_sums = [None] * len(members) if sums is None else _members(sums) if alone else [sums]
        of_rows = [
            _add_gradients(
                own, [rows, *itertools.islice(kept, len(layers) - 1)], each, of_outputs, ctx.needs_input_grad[0]
            )
            for (rows, each), own, of_outputs in zip(members, own_sums, grads, strict=True)
        ]
        found = [each for each in of_rows if each is not None]
        of_inputs = _joined(found).view(inputs.shape) if found else None
        return of_inputs, *([None] * len(parameters) if sums is None else _unfolded(sums, layers, parameters))


def _gradients_by_parts(
    mlp: Mlp,
    parameters: Parameters,
    observations: Tensor,
    actions: Tensor,
    of_values: Callable[[Tensor, Part], Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """:func:`critic_gradients`, of one critic and a few states after the other."""
    n_runs, n_critics = parameters["0.weight"].shape[:2]
    n_actions, n_states = actions.shape[-3:-1]
    if actions.dim() == 4:
        actions = actions.unsqueeze(1).expand(-1, n_critics, -1, -1, -1)
    flat = [tensor.detach().flatten(0, 1) for tensor in parameters.values()]  # (G, ...) with G = R C
    layers = _layers(flat)
    members = _members(layers)
    parts = [
        Part(slice(run, run + 1), slice(critic, critic + 1), states)
        for states in _cached_states(n_states, n_actions, mlp.width)
        for run in range(n_runs)
        for critic in range(n_critics)
    ]
    sums = _zeros(layers, len(parts) // len(members))
    values = observations.new_empty(n_runs, n_critics, n_actions, n_states)

    def piece(part: Part, own_layers: Layers, own_sums: Layers) -> None:
        own_actions = actions[part.runs, part.critics, :, part.states]
        rows = _rows(mlp, _beside(observations[part.runs, part.states], own_actions), own_actions)
        hidden, outputs = _pass(rows.flatten(0, -2), own_layers)
        own_values = outputs.view(1, 1, n_actions, -1)
        values[part.runs, part.critics, :, part.states] = own_values
        _add_gradients(own_sums, hidden, own_layers, of_values(own_values, part).view(-1, 1))

    pieces = [
        functools.partial(piece, *each) for each in zip(parts, itertools.cycle(members), _members(sums), strict=False)
    ]
    each_alone(pieces, observations.device)
    gradients = _unfolded(_summed(sums, len(members)), layers, flat)
    return values, [each.view(tensor.shape) for each, tensor in zip(gradients, parameters.values(), strict=True)]


def _cached_states(n_states: int, n_actions: int, width: int) -> list[slice]:
    """Cut a minibatch into even parts, with as many states each as stay in the cache; equal for all runs of a stack."""
    n_parts = min(n_states, max(1, round(n_states * n_actions / _cached_rows(width))))
    bounds = [part * n_states // n_parts for part in range(n_parts + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


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
