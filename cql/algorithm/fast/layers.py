"""Plain relu layers on a CPU, fast: the functions of :mod:`cql.algorithm.networks` in another order of summation.

- Products are computed per network. Its layers stay in the cache, and its rounding does not depend on how many
  runs are in the stack.
- The critics' gradient is computed in pieces: a few states of one critic go forward and back before the next. The
  hidden layers are still in the cache on the way back, and a stack needs no more memory for them than a single run.
- The pieces are independent, so that each runs on one thread from beginning to end (:mod:`cql.algorithm.fast.threads`).
- oneDNN's fused layer computes ``relu(x @ weight + bias)`` while the results are in registers.

The loss of the critics is not known here. Its derivative in the values of a piece comes from autograd.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cql.algorithm.fast.threads import each_alone
from cql.algorithm.networks import Mlp, Networks, Parameters, ValueLoss, layer_tensors, policy_head

# PyTorch's compiler calls this operator too, but it has no public name. Without it the BLAS computes all products.
_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
_fused_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _HAS_ONEDNN else None

_FUSED_ROWS = 512  # with fewer, the BLAS is as fast
_CACHED_NUMBERS = 2**19  # of a layer's outputs: two megabytes, which the next layer finds in the cache
_GRADIENT_NUMBERS = 2**20  # of a piece with a gradient: with fewer, the many derivatives in the values take longer

Layers = list[tuple[Tensor, Tensor | None]]
"""Weight (in, out) and bias (out) of each layer of one network."""


def actor(
    mlp: Mlp,  # noqa: ARG001  the parameters determine the layers
    parameters: Parameters,
    observations: Tensor,
    log_std_min: float,
    log_std_max: float,
) -> tuple[Tensor, Tensor]:
    """Like :func:`cql.algorithm.networks.actor`."""
    members = _members(layer_tensors(parameters))
    outputs = [_outputs(rows, layers) for rows, layers in zip(observations, members, strict=True)]
    return policy_head(torch.stack(outputs), parameters, log_std_min, log_std_max)


def critics(mlp: Mlp, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
    """Like :func:`cql.algorithm.networks.critics`; many rows without a gradient are computed in pieces."""
    n_runs, n_critics = parameters["0.weight"].shape[:2]
    flat = [tensor.flatten(0, 1) for tensor in parameters.values()]  # (R C, ...)
    if actions.dim() == 4:
        actions = actions.unsqueeze(1)
    places = list(itertools.product(range(n_runs), range(n_critics)))
    if torch.is_grad_enabled() or math.prod(actions.shape[2:4]) < 2 * _FUSED_ROWS:  # few rows: not worth a thread
        rows = _joined(observations[:, None, None], actions).expand(-1, n_critics, -1, -1, -1).flatten(2, 3)
        outputs = [_outputs(rows[place], layers) for place, layers in zip(places, _members(flat), strict=True)]
        return torch.stack(outputs).view(n_runs, n_critics, *actions.shape[2:4])
    rows = _joined(observations[:, None, None], actions, pad=True).expand(-1, n_critics, -1, -1, -1).flatten(2, 3)
    pieces = [
        functools.partial(_outputs, part, layers)
        for place, layers in zip(places, _members(_padded(flat)), strict=True)
        for part in torch.split(rows[place], max(_FUSED_ROWS, _CACHED_NUMBERS // mlp.width))
    ]
    return torch.cat(each_alone(pieces)).view(n_runs, n_critics, *actions.shape[2:4])


def critic_gradients(
    mlp: Mlp,
    parameters: Parameters,
    observations: Tensor,
    actions: Tensor,
    loss: ValueLoss,
    inputs: Sequence[Tensor | None],
) -> tuple[Tensor, list[Tensor]]:
    """Like :func:`cql.algorithm.networks.critic_gradients`, of one critic and a few states at a time."""
    n_runs, n_critics = parameters["0.weight"].shape[:2]
    n_actions, n_states = actions.shape[-3:-1]
    if actions.dim() == 4:
        actions = actions.unsqueeze(1).expand(-1, n_critics, -1, -1, -1)
    flat = [tensor.detach().flatten(0, 1) for tensor in parameters.values()]  # (R C, ...)
    padded, parts = _padded(flat), _parts(n_states, n_actions, mlp.width)
    members, ways_back = _members(padded), _ways_back(padded)
    sums = [tensor.new_empty(len(parts), *tensor.shape) for tensor in padded]
    values = observations.new_empty(n_runs, n_critics, n_actions, n_states)

    def piece(part: int, run: int, critic: int) -> None:
        """The gradients that a critic gets from a part of the states."""
        states, runs, place = parts[part], slice(run, run + 1), run * n_critics + critic
        rows = _joined(observations[run, None, states], actions[run, critic, :, states], pad=True).flatten(0, 1)
        hidden = list(_hidden(rows, members[place]))
        own_values = _last(hidden[-1], members[place]).view(1, 1, n_actions, -1)
        values[runs, critic : critic + 1, :, states] = own_values
        own_inputs = [_part(each, runs, critic, states) for each in inputs]
        grad = _value_gradient(loss, own_values, own_inputs, n_states)
        own_sums = _layers([each[part, place] for each in sums])
        _write_gradients(own_sums, hidden, ways_back[place], grad.view(-1, 1))

    each_alone(
        [
            functools.partial(piece, part, run, critic)
            for part, run, critic in itertools.product(range(len(parts)), range(n_runs), range(n_critics))
        ]
    )
    # One part after the other: the order in which `sum` adds depends on the size of the stack.
    totals = [functools.reduce(torch.Tensor.add_, each.unbind()) for each in sums]
    gradients = _unfolded(totals, flat)
    return values, [each.view(tensor.shape) for each, tensor in zip(gradients, parameters.values(), strict=True)]


FAST = Networks(actor, critics, critic_gradients)


def suits(mlp: Mlp, device: torch.device) -> bool:
    """Whether networks of this shape on this device have the fast form."""
    return device.type == "cpu" and mlp.activation == "relu" and not mlp.layer_norm


# The loss in a piece --------------------------------------------------------------------------------------------------


def _part(tensor: Tensor | None, runs: slice, critic: int, states: slice) -> Tensor | None:
    """Of an input of the loss: (R,), (R, B), (R, N, B), or (R, C, N, B), of which a critic gets its own."""
    if tensor is None or tensor.dim() == 1:
        return None if tensor is None else tensor[runs]
    return tensor[runs, ..., states] if tensor.dim() < 4 else tensor[runs, critic : critic + 1, :, states]


def _value_gradient(loss: ValueLoss, values: Tensor, inputs: Sequence[Tensor | None], n_states: int) -> Tensor:
    """Derivative of the whole minibatch's loss, a mean over ``n_states`` states, in the values of a piece."""
    leaf = values.detach().requires_grad_()
    with torch.enable_grad():
        # A scalar: a gradient of its own for the outputs would make torch import sympy, half a second of every start.
        total = loss(leaf, *inputs).sum() * (values.shape[-1] / n_states)
    (grad,) = torch.autograd.grad(total, leaf)
    return grad


def _parts(n_states: int, n_actions: int, width: int) -> list[slice]:
    """Even parts of a minibatch, with as many states as stay in the cache; equal for all runs of a stack."""
    n_rows = max(_FUSED_ROWS, _GRADIENT_NUMBERS // width)
    n_parts = min(n_states, max(1, round(n_states * n_actions / n_rows)))
    bounds = [part * n_states // n_parts for part in range(n_parts + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


# Layers ---------------------------------------------------------------------------------------------------------------


def _n_columns(n_inputs: int) -> int:
    """Columns of the padded inputs: a one behind them, then zeros up to a multiple of eight."""
    return (n_inputs + 8) // 8 * 8


def _joined(states: Tensor, actions: Tensor, *, pad: bool = False) -> Tensor:
    """States, repeated for their actions (..., N, B, A), beside these; padded for the layers of :func:`_padded`."""
    columns = [states.expand(*actions.shape[:-1], -1), actions]
    if pad:
        n_inputs = states.shape[-1] + actions.shape[-1]
        padding = states.new_zeros(_n_columns(n_inputs) - n_inputs)
        padding[:1].fill_(1.0)
        columns.append(padding.expand(*actions.shape[:-1], -1))
    return torch.cat(columns, -1)


def _padded(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Parameters (G, ...) whose first bias has become a row of the first weight.

    The inputs then end with a one, and with zeros up to a multiple of eight columns. With 24 columns, the products of
    the first layer take half as long as with 23, and the gradient of the bias comes with that of the weight.
    """
    weight, bias, *others = parameters
    n_inputs = weight.shape[-2]
    first = weight.new_zeros(len(weight), _n_columns(n_inputs), weight.shape[-1])
    first[:, :n_inputs], first[:, n_inputs] = weight, bias
    return [first, *others]


def _members(parameters: Sequence[Tensor]) -> list[Layers]:
    """The layers of each network from parameters (G, ...), which may be those of :func:`_padded`."""
    return [_layers(own) for own in zip(*(each.unbind() for each in parameters), strict=True)]


def _layers(parameters: Sequence[Tensor]) -> Layers:
    """The layers of one network; those of :func:`_padded` have no first bias."""
    tensors = iter(parameters)
    layers: Layers = [(next(tensors), None)] if len(parameters) % 2 else []
    return layers + list(zip(tensors, tensors, strict=True))


def _ways_back(padded: Sequence[Tensor]) -> list[list[Tensor]]:
    """For each critic, the weights that :func:`_write_gradients` multiplies with, from the second layer to the last.

    The gradient of the last hidden layer is the outer product of a column with the last weights. Only the column passes
    through the relu; the last weights, one factor per column, are multiplied into the weights of the layer before.
    """
    weights = list(padded[1::2])[:-1]  # the first layer, which has no bias of its own, needs none
    if weights:
        weights[-1] = weights[-1] * padded[-2].mT
    return [list(own) for own in zip(*(each.unbind() for each in weights), strict=True)] or [[] for _ in padded[0]]


def _hidden(rows: Tensor, layers: Layers) -> Iterator[Tensor]:
    """The inputs, and what each relu gave.

    oneDNN's relu turns NaN into zero; torch's keeps it. Passes with few rows are torch's: the policy's, the target's
    and that of the actor's loss. So a parameter that has become NaN shows in the metrics of its step.
    """
    yield rows
    for weight, bias in layers[:-1]:
        if _is_fused(rows) and not torch.is_grad_enabled():
            rows = _fused_linear(rows, weight.mT, bias, "relu", [], "")
        else:
            rows = (rows @ weight if bias is None else torch.addmm(bias, rows, weight)).relu_()
        yield rows


def _last(rows: Tensor, layers: Layers) -> Tensor:
    """The last layer, whose few columns oneDNN handles poorly."""
    weight, bias = layers[-1]
    assert bias is not None
    if weight.shape[1] == 1:  # a third of addmm's time
        return torch.addmv(bias, rows, weight.squeeze(1)).unsqueeze(1)
    return torch.addmm(bias, rows, weight)


def _outputs(rows: Tensor, layers: Layers) -> Tensor:
    """Rows (rows, in) to (rows, out)."""
    *_, hidden = _hidden(rows, layers)
    return _last(hidden, layers)


def _is_fused(rows: Tensor) -> bool:
    return _fused_linear is not None and rows.dtype == torch.float32 and len(rows) >= _FUSED_ROWS


def _write_gradients(gradients: Layers, hidden: list[Tensor], way_back: list[Tensor], grad: Tensor) -> None:
    """Carry a gradient back through the layers of one critic.

    Args:
        gradients: of the parameters, written here; those of the last hidden layer without the factor that
            :func:`_unfolded` gives them.
        hidden: of :func:`_hidden`; overwritten.
        way_back: of :func:`_ways_back`.
        grad: of the outputs, (rows, 1).
    """
    ones = torch.ones_like(grad[:, 0])  # a product with them takes less time than a sum
    weight, bias = gradients[-1]
    assert bias is not None
    torch.mv(hidden[-1].mT, grad[:, 0], out=weight[:, 0])
    torch.sum(grad, 0, out=bias)
    below = _through_relu(grad.expand_as(hidden[-1]), hidden[-1], into=hidden[-1])
    for layer in range(len(gradients) - 2, -1, -1):
        weight, bias = gradients[layer]
        torch.mm(hidden[layer].mT, below, out=weight)
        if bias is not None:
            torch.mv(below.mT, ones, out=bias)
        if layer:
            back = way_back[layer - 1]
            below = _fused_linear(below, back, None, "none", [], "") if _is_fused(below) else below @ back.mT
            below = _through_relu(below, hidden[layer], into=below)


def _unfolded(sums: list[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of parameters (G, ...) from the sums over all parts, in the form of :func:`_padded`."""
    first, *others = sums
    last = parameters[-2]  # (G, H, 1)
    n_inputs = parameters[0].shape[-2]
    if len(others) == 2:
        first = first * last.mT
    else:
        others[-4], others[-3] = others[-4] * last.mT, others[-3] * last.squeeze(-1)
    return [first[:, :n_inputs], first[:, n_inputs], *others]


def _through_relu(grad: Tensor, activated: Tensor, into: Tensor) -> Tensor:
    """The gradient, zero for the outputs that relu set to zero, written into a tensor that may be one of the two."""
    passed: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, activated, 0.0, grad_input=into)
    return passed
