"""Adam on lists of tensors, by torch's fused kernel but without ``torch.optim``.

The first optimiser of ``torch.optim`` imports ``torch._dynamo`` and with it some 800 modules, which is more than a
second of every start; and it sorts its tensors by device and type at every step. The numbers are those of
``torch.optim.Adam(..., fused=True)``, bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Group(NamedTuple):
    """Tensors with one learning rate.

    Attributes:
        tensors: of one device and type, to be changed in place.
        learning_rate: of all of them.
    """

    tensors: Sequence[Tensor]
    learning_rate: float


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with their beta_1 = 0.9, beta_2 = 0.999 and epsilon = 1e-8.

    Attributes:
        state: of each tensor that has been stepped, ``step`` (a tensor of its own on the tensor's device, float32) and
            the moments ``exp_avg`` and ``exp_avg_sq``; torch's names.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = list(groups)
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Step every tensor that has a gradient; the others keep their state, and their count of steps."""
        for group in self._groups:
            tensors = [tensor for tensor in group.tensors if tensor.grad is not None]
            if not tensors:
                continue
            states = [self.state[tensor] or self._begin(tensor) for tensor in tensors]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                tensors,
                [tensor.grad for tensor in tensors if tensor.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group.learning_rate,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.0,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        for group in self._groups:
            for tensor in group.tensors:
                tensor.grad = None

    def _begin(self, tensor: Tensor) -> dict[str, Tensor]:
        state = self.state[tensor]
        state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
        return state
