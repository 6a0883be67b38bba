"""What a training step reads and changes: the config that a stack shares, and the tensors of its runs.

Axes: R runs, C critics.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cql.algorithm import networks
from cql.algorithm.adam import Adam, RateSchedule
from cql.algorithm.losses import Backup
from cql.algorithm.networks import Mlp, Parameters
from cql.algorithm.sampling import INITIALISATION_STREAM, generator


@dataclass(frozen=True)
class AgentConfig:
    """What all runs of a stack share.

    Attributes:
        actor: shape of the actor's network.
        critic: shape of each critic's network.
        observation_size: S.
        action_size: A.
        backup: of the Bellman target, see :func:`cql.algorithm.losses.bellman_target`.
        num_sampled_actions: actions per group of the penalty, and of the ``max`` backup.
        importance_weighted: subtract log mu_j in the gap, as CQL(H) does.
        next_actions: the gap has a third group, drawn from pi(.|s').
        gap_temperature: T of the gap's log-sum-exp.
        gradient: of the gap: ``exact``, or ``sampled`` as in :func:`cql.algorithm.losses.sampled_gap`.
        num_gradient_actions: k of a sampled gradient, None if it is exact.
        target_update_period: steps between two updates of the target critics.
        log_std_min: lower bound of the policy's log standard deviation.
        log_std_max: its upper bound.
        n_critics: C.
        n_target_critics: the Bellman target takes the minimum over so many critics, drawn anew for each step.
        calibrated: values of the policy's actions have the data's return as their floor in the gap, as in Cal-QL.
        include_data_action: the data's action is among those of the gap's log-sum-exp, which are then counted.
        log_std_multiplier: initial value of a learned factor of the policy's log standard deviation; None for none.
        log_std_offset: initial value of a learned term; None for none.
        critic_schedule: of the critics' learning rate.
        actor_schedule: of the policy's.
        n_schedule_steps: after how many steps a schedule ends; 0 if both are constant.
    """

    actor: Mlp
    critic: Mlp
    observation_size: int
    action_size: int
    backup: Backup
    num_sampled_actions: int
    importance_weighted: bool
    next_actions: bool
    gap_temperature: float
    gradient: Literal["exact", "sampled"]
    num_gradient_actions: int | None
    target_update_period: int
    log_std_min: float
    log_std_max: float
    n_critics: int = 2
    n_target_critics: int = 2
    calibrated: bool = False
    include_data_action: bool = False
    log_std_multiplier: float | None = None
    log_std_offset: float | None = None
    critic_schedule: RateSchedule = "constant"
    actor_schedule: RateSchedule = "constant"
    n_schedule_steps: int = 0


@dataclass(frozen=True)
class HyperParams:
    """The numbers of one run that enter its losses and steps; runs of a stack may differ in all of them.

    Attributes:
        alpha_cql: the fixed conservative multiplier, or the starting value of the learned one.
        tau_cql: threshold of the learned form, None if ``alpha_cql`` is fixed.
        w_cql: weight in front of ``alpha_cql``.
        alpha_temp: the fixed entropy temperature, or the starting value of the learned one.
        target_entropy: of the learned temperature, in nats; None if ``alpha_temp`` is fixed.
        discount: gamma.
        tau_target: Polyak rate of the target critics.
        bc_steps: number of first steps in which the actor clones the data's actions.
        critic_learning_rate: of Adam, like the other rates.
        actor_learning_rate: of the policy.
        temp_learning_rate: of a learned ``alpha_temp``, None if it is fixed.
        alpha_learning_rate: of a learned ``alpha_cql``, None if it is fixed.
        gap_clip_min: lower bound of each state's gap, None for none.
        gap_clip_max: upper bound, None for none.
        critic_max_grad_norm: largest norm of the gradient of all critics together, None for none.
        actor_max_grad_norm: of the policy's gradient, None for none.
        critic_weight_decay: of AdamW.
        actor_weight_decay: of AdamW.
    """

    alpha_cql: float
    tau_cql: float | None
    w_cql: float
    alpha_temp: float
    target_entropy: float | None
    discount: float
    tau_target: float
    bc_steps: int
    critic_learning_rate: float
    actor_learning_rate: float
    temp_learning_rate: float | None
    alpha_learning_rate: float | None
    gap_clip_min: float | None = None
    gap_clip_max: float | None = None
    critic_max_grad_norm: float | None = None
    actor_max_grad_norm: float | None = None
    critic_weight_decay: float = 0.0
    actor_weight_decay: float = 0.0


class Constants(NamedTuple):
    """The :class:`HyperParams` that every run has as constants of a step, each (R,); 0 for what a run does not have."""

    w_cql: Tensor
    tau_cql: Tensor
    target_entropy: Tensor
    discount: Tensor
    tau_target: Tensor
    bc_steps: Tensor


class AgentState:
    """Everything that a training step changes, for R runs; each tensor is changed in place.

    Args:
        config: what the runs share.
        hyper_params: one per run.
        seeds: one per run; the initial parameters depend on nothing else.
        device: where the tensors are.
        adam_update: how Adam computes its step, None for the plain form.

    Attributes:
        actor: (R, ...).
        critics: (R, C, ...).
        targets: (R, C, ...), without gradient.
        log_coefficients: ``alpha_temp`` and ``alpha_cql``, if they are learned: a parameter that holds the logarithm.
        constants: the fixed hyperparameters.
        gap_clip: lower and upper bounds of each state's gap, (R,) each; None if no run has any.
        optimisers: of the actor, the critics and each learned coefficient, by these names.

    Raises:
        ValueError: a coefficient is learned in some of the runs and fixed in others.
    """

    def __init__(
        self,
        config: AgentConfig,
        hyper_params: Sequence[HyperParams],
        seeds: Sequence[int],
        device: torch.device,
        adam_update: Callable[[Adam], None] | None = None,
    ) -> None:
        # Drawn on the CPU, so that a seed means the same initial networks on every device.
        generators = [generator(seed, INITIALISATION_STREAM) for seed in seeds]
        sizes = config.observation_size, config.action_size
        numbers = {"multiplier": config.log_std_multiplier, "offset": config.log_std_offset}
        log_std = {name: value for name, value in numbers.items() if value is not None}
        self.actor = _leaves(networks.actor_parameters(config.actor, *sizes, generators, log_std), device)
        self.critics = _leaves(networks.critic_parameters(config.critic, *sizes, config.n_critics, generators), device)
        self.targets = {name: tensor.detach().clone() for name, tensor in self.critics.items()}

        def per_run(name: str) -> Tensor:
            values = [getattr(each, name) or 0.0 for each in hyper_params]
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.constants = Constants(*map(per_run, Constants._fields))
        self._fixed = {name: per_run(name) for name in ("alpha_temp", "alpha_cql")}
        bounds = [_bounds(each) for each in hyper_params]
        self.gap_clip = None
        if any(map(math.isfinite, itertools.chain(*bounds))):
            low, high = torch.tensor(bounds, dtype=torch.float32, device=device).unbind(1)
            self.gap_clip = low.contiguous(), high.contiguous()
        rates: dict[str, list[float]] = {
            "critics": [each.critic_learning_rate for each in hyper_params],
            "actor": [each.actor_learning_rate for each in hyper_params],
        }
        self.log_coefficients: dict[str, Parameters] = {}
        for name, learning_rate in (("alpha_temp", "temp_learning_rate"), ("alpha_cql", "alpha_learning_rate")):
            given = [rate for each in hyper_params if (rate := getattr(each, learning_rate)) is not None]
            if len(given) not in (0, len(seeds)):
                raise ValueError(
                    f"{name} is learned in {len(given)} of the {len(seeds)} runs; a stack needs all or none"
                )
            if given:
                self.log_coefficients[name] = _leaves({f"log_{name}": self._fixed[name].log()}, device)
                rates[name] = given
        options: dict[str, dict[str, Any]] = {
            part: {
                "max_norms": [getattr(each, f"{name}_max_grad_norm") for each in hyper_params],
                "weight_decays": [getattr(each, f"{name}_weight_decay") for each in hyper_params],
                "schedule": (getattr(config, f"{name}_schedule"), config.n_schedule_steps),
            }
            for part, name in (("critics", "critic"), ("actor", "actor"))
        }
        self.optimisers = {
            part: Adam(self.parts()[part], own, adam_update, **options.get(part, {})) for part, own in rates.items()
        }

    @property
    def alpha_temp(self) -> Tensor:
        """The entropy temperature, (R,); with a gradient if it is learned."""
        return self._coefficient("alpha_temp")

    @property
    def alpha_cql(self) -> Tensor:
        """The conservative multiplier, (R,); with a gradient if it is learned."""
        return self._coefficient("alpha_cql")

    def override(self, name: str, values: Sequence[float | None]) -> None:
        """Give a constant of the losses, or a fixed ``alpha_cql``, other values from now on; None keeps a run's."""
        tensor = self._fixed[name] if name in self._fixed else getattr(self.constants, name)
        for run, value in enumerate(values):
            if value is not None:
                tensor[run] = value

    def _coefficient(self, name: str) -> Tensor:
        learned = self.log_coefficients.get(name)
        return self._fixed[name] if learned is None else learned[f"log_{name}"].exp()

    def parts(self) -> dict[str, Parameters]:
        """All parameters, by the names that a checkpoint has for them."""
        return {"actor": self.actor, "critics": self.critics, "targets": self.targets, **self.log_coefficients}

    def tensors(self) -> list[Tensor]:
        """All tensors that a step changes: parameters, targets, coefficients, and the optimisers' states."""
        parameters = [tensor for part in self.parts().values() for tensor in part.values()]
        return parameters + [
            tensor for each in self.optimisers.values() for tensor in (*each.exp_avg, *each.exp_avg_sq, each.n_steps)
        ]


def _bounds(hyper_params: HyperParams) -> tuple[float, float]:
    low, high = hyper_params.gap_clip_min, hyper_params.gap_clip_max
    return -math.inf if low is None else low, math.inf if high is None else high


def _leaves(parameters: Parameters, device: torch.device) -> Parameters:
    return {name: tensor.detach().to(device).clone().requires_grad_() for name, tensor in parameters.items()}
