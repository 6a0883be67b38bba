"""Adam's step by torch's fused kernels: the numbers of ``torch.optim.Adam(..., fused=True)``, bit for bit."""

from typing import Any

import torch
from torch import Tensor

from cql.algorithm.adam import BETA_1, BETA_2, EPSILON, Adam


def fused_update(adam: Adam) -> None:
    """Like :func:`cql.algorithm.adam.plain_update`, in one pass over the memory.

    The kernel takes one learning rate and one decay, so runs with the same ones take their step together. It gets a
    slice per run: the rounding at the end of a tensor differs from that in its middle, and must not depend on the
    stack.
    """
    gradients = [parameter.grad for parameter in adam.parameters if parameter.grad is not None]
    stacks = adam.parameters, gradients, adam.exp_avg, adam.exp_avg_sq
    runs = [[stack.unbind() for stack in stacks_of_kind] for stacks_of_kind in stacks]
    settings = list(zip(adam.learning_rates, adam.weight_decays, strict=True))
    for rate, decay in dict.fromkeys(settings):
        chosen = [run for run, own in enumerate(settings) if own == (rate, decay)]
        tensors = [[own[run] for own in kind for run in chosen] for kind in runs]
        parameters, gradients, exp_avg, exp_avg_sq = tensors
        kernel: Any = torch._fused_adamw_ if decay else torch._fused_adam_
        kernel(
            parameters,
            gradients,
            exp_avg,
            exp_avg_sq,
            [],
            [adam.n_steps] * len(parameters),
            lr=_scheduled(adam, chosen[0]) if adam.is_scheduled else rate,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )


def _scheduled(adam: Adam, run: int) -> Tensor:
    """The present learning rate of a run: a tensor on the device, so that a graph holds its change."""
    rate = adam.rates[run]
    return rate if rate.device.type == "cpu" else rate.float()  # the kernel of a GPU reads float32
