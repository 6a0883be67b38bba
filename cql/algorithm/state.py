"""What a training step reads and changes: the config that a stack shares, and the tensors of its runs.

Axes: R runs, C critics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cql.algorithm import networks
from cql.algorithm.adam import Adam
from cql.algorithm.losses import Backup
from cql.algorithm.networks import Mlp, Parameters
from cql.algorithm.sampling import INITIALISATION_STREAM, generator

N_CRITICS = 2


@dataclass(frozen=True)
class AgentConfig:
    """What all runs of a stack share.

    Attributes:
        mlp: shape of the actor's and the critics' networks.
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
    """

    mlp: Mlp
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
        self.actor = _leaves(networks.actor_parameters(config.mlp, *sizes, generators), device)
        self.critics = _leaves(networks.critic_parameters(config.mlp, *sizes, N_CRITICS, generators), device)
        self.targets = {name: tensor.detach().clone() for name, tensor in self.critics.items()}

        def per_run(name: str) -> Tensor:
            values = [getattr(each, name) or 0.0 for each in hyper_params]
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.constants = Constants(*map(per_run, Constants._fields))
        self._fixed = {name: per_run(name) for name in ("alpha_temp", "alpha_cql")}
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
        self.optimisers = {part: Adam(self.parts()[part], own, adam_update) for part, own in rates.items()}

    @property
    def alpha_temp(self) -> Tensor:
        """The entropy temperature, (R,); with a gradient if it is learned."""
        return self._coefficient("alpha_temp")

    @property
    def alpha_cql(self) -> Tensor:
        """The conservative multiplier, (R,); with a gradient if it is learned."""
        return self._coefficient("alpha_cql")

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


def _leaves(parameters: Parameters, device: torch.device) -> Parameters:
    return {name: tensor.detach().to(device).clone().requires_grad_() for name, tensor in parameters.items()}
