"""Adam's step by torch's fused kernel: the numbers of ``torch.optim.Adam(..., fused=True)``, bit for bit."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cql.algorithm.adam import BETA_1, BETA_2, EPSILON, Adam


class _Group(NamedTuple):
    """Runs with one learning rate, and their slices of the parameters and moments: views, made once."""

    rate: float
    runs: list[int]
    parameters: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]


_groups: WeakKeyDictionary[Adam, list[_Group]] = WeakKeyDictionary()


def fused_update(adam: Adam) -> None:
    """Like :func:`cql.algorithm.adam.plain_update`, in one pass over the memory.

    The kernel takes one learning rate, so runs with the same rate take their step together. It gets a slice per run:
    the rounding at the end of a tensor differs from that in its middle, and must not depend on the stack.
    """
    if adam not in _groups:
        _groups[adam] = [_group(adam, rate) for rate in dict.fromkeys(adam.learning_rates)]
    gradients = [parameter.grad for parameter in adam.parameters if parameter.grad is not None]
    for group in _groups[adam]:
        torch._fused_adam_(
            group.parameters,
            _slices(gradients, group.runs),
            group.exp_avg,
            group.exp_avg_sq,
            [],
            [adam.n_steps] * len(group.parameters),
            lr=group.rate,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )


def _group(adam: Adam, rate: float) -> _Group:
    runs = [run for run, own in enumerate(adam.learning_rates) if own == rate]
    kinds = [each.detach() for each in adam.parameters], adam.exp_avg, adam.exp_avg_sq
    return _Group(rate, runs, *(_slices(kind, runs) for kind in kinds))


def _slices(stacks: list[Tensor], runs: list[int]) -> list[Tensor]:
    slices = [stack.unbind() for stack in stacks]
    return [own[run] for own in slices for run in runs]
