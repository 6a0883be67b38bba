"""Adam for a stack of runs: a learning rate, a decay and a largest gradient norm per run, and one count of steps.

``torch.optim`` has one learning rate per group of tensors. Its first optimiser also imports ``torch._dynamo`` and with
it some 800 modules, which takes more than a second of every start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from cql.algorithm.networks import Parameters

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

RateSchedule = Literal["constant", "linear", "cosine"]


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1; decay as in AdamW) on tensors whose first axis is R.

    Args:
        parameters: stacked leaves, changed in place.
        learning_rates: one per run.
        update: computes a step: :func:`plain_update`, or a faster form of it.
        max_norms: of the gradient of all parameters of a run together, one per run, None for no bound.
        weight_decays: one per run; None for none.
        schedule: how the learning rates fall to 0, and after how many steps they are 0.

    Attributes:
        parameters: the leaves; ``grad`` of each is that of the last step.
        learning_rates: one per run, at the first step.
        weight_decays: one per run.
        decays: the same, (R,) float64, on the parameters' device.
        n_steps: steps taken, a float32 scalar on the parameters' device.
        exp_avg: first moment of each parameter, by torch's name.
        exp_avg_sq: second moment of each parameter.
    """

    def __init__(
        self,
        parameters: Parameters,
        learning_rates: Sequence[float],
        update: Callable[[Adam], None] | None = None,
        *,
        max_norms: Sequence[float | None] = (),
        weight_decays: Sequence[float] | None = None,
        schedule: tuple[RateSchedule, int] = ("constant", 0),
    ) -> None:
        self.parameters = list(parameters.values())
        self.learning_rates = list(learning_rates)
        self.exp_avg = [torch.zeros_like(each, requires_grad=False) for each in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(each, requires_grad=False) for each in self.parameters]
        device = self.parameters[0].device
        self.n_steps = torch.zeros((), dtype=torch.float32, device=device)
        self._rates = torch.tensor(self.learning_rates, dtype=torch.float64, device=device)
        self.weight_decays = [0.0] * len(self.learning_rates) if weight_decays is None else list(weight_decays)
        self.decays = torch.tensor(self.weight_decays, dtype=torch.float64, device=device)
        self._max_norms: Tensor | None = None
        if any(norm is not None for norm in max_norms):
            self._max_norms = torch.tensor([math.inf if norm is None else norm for norm in max_norms], device=device)
        self._schedule, self._n_schedule_steps = schedule
        self._update = plain_update if update is None else update

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step of all runs, with one gradient per parameter."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.contiguous()
        if self._max_norms is not None:
            self._clip_gradients(self._max_norms)
        self.n_steps += 1
        self._update(self)

    @property
    def is_scheduled(self) -> bool:
        """Whether the learning rates change."""
        return self._schedule != "constant"

    @property
    def rates(self) -> Tensor:
        """The learning rates of the step that ``n_steps`` counts last, (R,) float64, on the parameters' device."""
        if not self.is_scheduled:
            return self._rates
        done = ((self.n_steps.double() - 1.0) / self._n_schedule_steps).clamp(max=1.0)
        return self._rates * (1.0 - done if self._schedule == "linear" else (1.0 + torch.cos(math.pi * done)) / 2.0)

    def _clip_gradients(self, max_norms: Tensor) -> None:
        """Scale each run's gradients, like ``torch.nn.utils.clip_grad_norm_`` does those of a run alone."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norms = [torch.nn.utils.get_total_norm([own[run] for own in gradients]) for run in range(len(max_norms))]
        scales = torch.where(max_norms.isinf(), 1.0, (max_norms / (torch.stack(norms) + 1e-6)).clamp(max=1.0))
        for gradient in gradients:
            gradient.mul_(scales.view(-1, *[1] * (gradient.dim() - 1)))

    def state(self, run: int) -> list[dict[str, Tensor]]:
        """Step count and moments of one run on the CPU, one dictionary per parameter; empty ones before a step."""
        if not self.n_steps:
            return [{} for _ in self.parameters]
        return [
            {
                "step": self.n_steps.cpu().clone(),
                "exp_avg": exp_avg[run].cpu().clone(),
                "exp_avg_sq": exp_avg_sq[run].cpu().clone(),
            }
            for exp_avg, exp_avg_sq in zip(self.exp_avg, self.exp_avg_sq, strict=True)
        ]

    def check(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Refuse what :meth:`state` of the same parameters would not give.

        Raises:
            ValueError: a moment is missing, or has another shape or type than its parameter.
        """
        if len(state) != len(self.parameters):
            raise ValueError(f"moments of {len(state)} parameters, expected {len(self.parameters)}")
        for parameter, moments in zip(self.parameters, state, strict=True):
            own = tuple(parameter.shape[1:]), parameter.dtype
            expected = {"step": ((), torch.float32), "exp_avg": own, "exp_avg_sq": own}
            found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in moments.items()}
            if found not in ({}, expected):
                raise ValueError(f"moments {found}, expected {expected}")

    def load_state(self, run: int, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Continue from :meth:`state`. The step count is the stack's: all runs have to be loaded at the same step."""
        for exp_avg, exp_avg_sq, moments in zip(self.exp_avg, self.exp_avg_sq, state, strict=True):
            exp_avg[run] = moments.get("exp_avg", 0.0)
            exp_avg_sq[run] = moments.get("exp_avg_sq", 0.0)
            self.n_steps.fill_(moments.get("step", 0.0))


def plain_update(adam: Adam) -> None:
    """Adam's step in its equations.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, and with m_hat = m / (1 - b1^n) and v_hat = v / (1 - b2^n)
    theta <- (1 - rate decay) theta - rate m_hat / (sqrt(v_hat) + epsilon).
    """
    n_steps = adam.n_steps.double()  # float32 has too few digits for 1 - 0.999^n
    correction_1, correction_2 = 1.0 - BETA_1**n_steps, 1.0 - BETA_2**n_steps
    rates = adam.rates
    for parameter, m, v in zip(adam.parameters, adam.exp_avg, adam.exp_avg_sq, strict=True):
        gradient = parameter.grad
        assert gradient is not None
        m.lerp_(gradient, 1.0 - BETA_1)
        v.mul_(BETA_2).addcmul_(gradient, gradient, value=1.0 - BETA_2)
        shape = -1, *[1] * (m.dim() - 1)
        if any(adam.weight_decays):
            parameter.mul_((1.0 - rates * adam.decays).to(m.dtype).view(shape))
        rate = (rates / correction_1).to(m.dtype).view(shape)
        parameter.sub_(rate * m / ((v / correction_2).sqrt() + EPSILON))
