"""Adam's step by torch's fused kernel: the numbers of ``torch.optim.Adam(..., fused=True)``, bit for bit."""

import torch

from cql.algorithm.adam import BETA_1, BETA_2, EPSILON, Adam


def fused_update(adam: Adam) -> None:
    """Like :func:`cql.algorithm.adam.plain_update`, in one pass over the memory.

    The kernel takes one learning rate, so runs with the same rate take their step together. It gets a slice per run:
    the rounding at the end of a tensor differs from that in its middle, and must not depend on the stack.
    """
    gradients = [parameter.grad for parameter in adam.parameters if parameter.grad is not None]
    stacks = adam.parameters, gradients, adam.exp_avg, adam.exp_avg_sq
    runs = [[stack.unbind() for stack in stacks_of_kind] for stacks_of_kind in stacks]
    for rate in dict.fromkeys(adam.learning_rates):
        chosen = [run for run, own in enumerate(adam.learning_rates) if own == rate]
        tensors = [[own[run] for own in kind for run in chosen] for kind in runs]
        parameters, gradients, exp_avg, exp_avg_sq = tensors
        torch._fused_adam_(
            parameters,
            gradients,
            exp_avg,
            exp_avg_sq,
            [],
            [adam.n_steps] * len(parameters),
            lr=rate,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
