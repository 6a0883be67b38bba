"""A stack of CQL agents: the only place that steps anything.

Everything carries the run axis R; a single run is a stack of one. Per-run coefficients are tensors (R,), so runs of a
stack may differ in them; what is structure (networks, penalty, backup) they share. Runs of a stack may stand at
different steps: those that are not active in an update keep all that is theirs, bit for bit.
Axes: R runs, C critics, N sampled actions, B batch, S state, A action.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cql.algorithm import losses, networks
from cql.algorithm.fast.adam import Adam, Group
from cql.algorithm.networks import Mlp, Parameters
from cql.algorithm.sampling import INITIALISATION_STREAM, Batch, Noise, Sampler, generator

N_CRITICS = 2

METRICS = (
    "critic_td",
    "cql_gap",
    "cql_residual",
    "alpha_cql",
    "alpha_temp",
    "q_data",
    "q_policy",
    "q_uniform",
    "actor_loss",
    "entropy",
)
"""What :meth:`Agent.update` reports, in this order."""


@dataclass(frozen=True)
class HyperParams:
    """The numbers of one run that enter its losses and steps; runs of a stack may differ in all of them.

    Attributes:
        alpha_cql: the fixed conservative multiplier, or the starting value of the learned one.
        tau_cql: threshold of the learned form, None where ``alpha_cql`` is fixed.
        w_cql: weight in front of ``alpha_cql``.
        alpha_temp: the fixed entropy temperature, or the starting value of the learned one.
        target_entropy: of the learned temperature, in nats; None where ``alpha_temp`` is fixed.
        discount: gamma.
        tau_target: Polyak rate of the target critics.
        bc_steps: first steps in which the actor clones the data's actions.
        critic_learning_rate: of Adam, likewise the others.
        actor_learning_rate: of the policy.
        temp_learning_rate: of a learned ``alpha_temp``, None where it is fixed.
        alpha_learning_rate: of a learned ``alpha_cql``, None where it is fixed.
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
        temperature: T of the gap's log-sum-exp.
        gradient: of the gap: ``exact``, or ``sampled`` as in :func:`cql.algorithm.losses.critic_gradient`.
        num_gradient_actions: k of a sampled gradient, None where it is exact.
        target_update_period: steps between two updates of the target critics.
        log_std_min: the policy's log standard deviation is clamped to at least this
        log_std_max: and at most this.
    """

    mlp: Mlp
    observation_size: int
    action_size: int
    backup: losses.Backup
    num_sampled_actions: int
    importance_weighted: bool
    next_actions: bool
    temperature: float
    gradient: Literal["exact", "sampled"]
    num_gradient_actions: int | None
    target_update_period: int
    log_std_min: float
    log_std_max: float


@dataclass(frozen=True)
class Plan:
    """What the host decides of a step, one flag a run. All else happens on the device and is the same for equal plans.

    Attributes:
        active: takes the step.
        clones: is in its first ``bc_steps``, so that its actor clones the data.
        due: updates its target critics.
    """

    active: tuple[bool, ...]
    clones: tuple[bool, ...]
    due: tuple[bool, ...]


class Agent:
    """Actors, twin critics, their targets, the coefficients and their optimisers, for R runs.

    Args:
        structure: what the runs share.
        coefficients: one a run.
        seeds: one a run; the initial parameters depend on nothing else.
        device: where parameters live and updates run.

    Raises:
        ValueError: a coefficient is learned in some of the runs and fixed in others.
    """

    def __init__(
        self, structure: AgentConfig, coefficients: Sequence[HyperParams], seeds: Sequence[int], device: torch.device
    ) -> None:
        self.structure = structure
        self.device = device
        self.n_steps_done = [0] * len(seeds)
        # Drawn on the CPU, so that a seed means the same initial networks on every device.
        generators = [generator(seed, INITIALISATION_STREAM) for seed in seeds]
        mlp, sizes = structure.mlp, (structure.observation_size, structure.action_size)
        self.actor = _leaves(networks.actor_parameters(mlp, *sizes, generators), device)
        self.critics = _leaves(networks.critic_parameters(mlp, *sizes, N_CRITICS, generators), device)
        self.targets = {name: tensor.detach().clone() for name, tensor in self.critics.items()}

        def per_run(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self._w_cql = per_run([c.w_cql for c in coefficients])
        self._discount = per_run([c.discount for c in coefficients])
        self._tau_target = per_run([c.tau_target for c in coefficients])
        self._tau_cql = per_run([c.tau_cql or 0.0 for c in coefficients])
        self._target_entropy = per_run([c.target_entropy or 0.0 for c in coefficients])
        self._alpha_cql = per_run([c.alpha_cql for c in coefficients])
        self._alpha_temp = per_run([c.alpha_temp for c in coefficients])

        self._bc_steps = [c.bc_steps for c in coefficients]
        self._masks: dict[tuple[bool, ...], Tensor] = {}

        self._learning_rates = {
            "critics": [c.critic_learning_rate for c in coefficients],
            "actor": [c.actor_learning_rate for c in coefficients],
        }
        # A learned coefficient is a parameter that holds its logarithm; a fixed one is no parameter at all.
        self.log_coefficients: dict[str, Parameters] = {}
        self._add_learned("alpha_temp", self._alpha_temp, [c.temp_learning_rate for c in coefficients])
        self._add_learned("alpha_cql", self._alpha_cql, [c.alpha_learning_rate for c in coefficients])
        self._make_optimisers()

    def _add_learned(self, name: str, start: Tensor, rates: Sequence[float | None]) -> None:
        given = [rate for rate in rates if rate is not None]
        if not given:
            return
        if len(given) != len(rates):
            raise ValueError(f"{name} is learned in {len(given)} of the {len(rates)} runs: in one stack, all or none")
        self.log_coefficients[name] = _leaves({f"log_{name}": start.log()}, self.device)
        self._learning_rates[name] = given

    def _make_optimisers(self) -> None:
        """Give Adam a tensor of its own for each run of each parameter: a slice that shares the stack's memory.

        Adam counts steps per tensor and has one learning rate per group of tensors, and both are a run's own. The actor
        and the learned coefficients, whose losses share no parameter, take their step in one.
        """
        self.optimisers: dict[str, Adam] = {}
        self._slices: dict[str, dict[str, tuple[Tensor, ...]]] = {}
        others = tuple(part for part in self._learning_rates if part != "critics")
        for parts in (("critics",), others):
            by_rate: dict[float, list[Tensor]] = {}
            for part in parts:
                slices = {name: tensor.detach().unbind() for name, tensor in self._parts()[part].items()}
                self._slices[part] = slices
                for run, rate in enumerate(self._learning_rates[part]):
                    by_rate.setdefault(rate, []).extend(own[run] for own in slices.values())
            optimiser = Adam([Group(tensors, rate) for rate, tensors in by_rate.items()])
            self.optimisers |= dict.fromkeys(parts, optimiser)

    @property
    def n_runs(self) -> int:
        """R."""
        return len(self._w_cql)

    @property
    def alpha_temp(self) -> Tensor:
        """The entropy temperature, (R,); with a gradient where it is learned."""
        learned = self.log_coefficients.get("alpha_temp")
        return self._alpha_temp if learned is None else learned["log_alpha_temp"].exp()

    @property
    def alpha_cql(self) -> Tensor:
        """The conservative multiplier, (R,); with a gradient where it is learned."""
        learned = self.log_coefficients.get("alpha_cql")
        return self._alpha_cql if learned is None else learned["log_alpha_cql"].exp()

    def sampler(self, seeds: Sequence[int], batch_size: int) -> Sampler:
        """A sampler that draws just the noise which :meth:`update` needs."""
        n = self.structure.num_sampled_actions
        return Sampler(
            seeds,
            batch_size=batch_size,
            action_size=self.structure.action_size,
            n_uniform=n,
            n_policy=n,
            n_next_policy=n if self.structure.next_actions else 0,
            n_target=n if self.structure.backup == "max" else 1,
            n_choices=(N_CRITICS, self.structure.num_gradient_actions or 0),
            device=self.device,
        )

    def mask(self, flags: Sequence[bool]) -> Tensor:
        """Flags as a tensor (R,) on the device. Each combination is moved there once, so that no step waits for it."""
        key = tuple(flags)
        if key not in self._masks:
            self._masks[key] = torch.tensor(key, device=self.device)
        return self._masks[key]

    def update(self, batch: Batch, noise: Noise, active: Sequence[bool] | None = None) -> Tensor:
        """One training step of the active runs.

        Args:
            batch: one minibatch a run.
            noise: of a sampler made by :meth:`sampler`.
            active: whether a run takes this step, (R,); None is all of them.

        Returns:
            :data:`METRICS` of this step, as :meth:`step` gives them.
        """
        plan = self.plan(active)
        metrics = self.step(plan, batch, noise)
        self.count(plan)
        return metrics

    def plan(self, active: Sequence[bool] | None = None) -> Plan:
        """What the next step of the active runs is to do; None is all of them."""
        active = (True,) * self.n_runs if active is None else tuple(active)
        period, own = (
            self.structure.target_update_period,
            list(zip(active, self.n_steps_done, self._bc_steps, strict=True)),
        )
        return Plan(
            active=active,
            clones=tuple(is_active and done < bc_steps for is_active, done, bc_steps in own),
            due=tuple(is_active and (done + 1) % period == 0 for is_active, done, _ in own),
        )

    def count(self, plan: Plan) -> None:
        """Note that a step was taken."""
        self.n_steps_done = [done + active for done, active in zip(self.n_steps_done, plan.active, strict=True)]

    def step(self, plan: Plan, batch: Batch, noise: Noise) -> Tensor:
        """The device's part of a training step: critics, actor, temperature, multiplier, targets, in this order.

        It decides nothing by a tensor's value and moves none to the host, so it can be captured as a CUDA graph.

        Runs that are not active take part in the matrix products, so that the shapes and with them the rounding do not
        depend on who is active, and keep their parameters, targets, optimiser states and step counts bit for bit.

        Args:
            plan: of this step.
            batch: one minibatch a run.
            noise: of a sampler made by :meth:`sampler`.

        Returns:
            :data:`METRICS` of this step, (len(METRICS), R), on the device and without gradient; those of runs that are
            not active mean nothing.
        """
        shape, backup, active = self.structure, self.structure.backup, plan.active
        # With gradient: the first sample is that of the actor's loss, the others are those of the gap.
        policy = self._policy(batch.observations)
        own_actions, own_log_prob = losses.squashed_gaussian(*policy, torch.cat([noise.actor, noise.policy], 1))
        with torch.no_grad():
            alpha_temp = self.alpha_temp.detach()
            next_policy = self._policy(batch.next_observations)
            next_noise = torch.cat([noise.target, noise.next_policy], 1)
            next_actions, next_log_prob = losses.squashed_gaussian(*next_policy, next_noise)
            n_target = noise.target.shape[1]
            target = losses.bellman_target(
                batch.rewards,
                batch.terminated,
                networks.critics(shape.mlp, self.targets, batch.next_observations, next_actions[:, :n_target]),
                next_log_prob[:, :n_target],
                discount=self._discount,
                alpha_temp=alpha_temp,
                backup=backup,
            )
            sampled_actions = torch.cat([noise.uniform, own_actions[:, 1:], next_actions[:, n_target:]], 1)
            log_proposal = None
            if shape.importance_weighted:
                log_uniform = torch.full_like(noise.uniform[..., 0], -shape.action_size * math.log(2.0))
                log_proposal = torch.cat([log_uniform, own_log_prob[:, 1:], next_log_prob[:, n_target:]], 1)

        # A. Critics.
        with torch.no_grad():
            q_data, q_sampled, gradients = self._critic_gradients(batch, noise, target, sampled_actions, log_proposal)
            self._take_step(["critics"], gradients, active)
            td = losses.temporal_difference(q_data, target)
            gap = losses.conservative_gap(q_sampled, q_data, log_proposal, temperature=shape.temperature)

        # B. Actor, against the critics just updated; their detached parameters take no gradient.
        actions, log_prob = own_actions[:, :1], own_log_prob[:, :1]
        actor_loss = self._actor_loss(plan, batch, policy, actions, log_prob, alpha_temp)

        # C and D. The coefficients that are learned. None of the three losses has a gradient in another's parameters.
        loss, alpha_cql = actor_loss, self.alpha_cql
        if "alpha_temp" in self.log_coefficients:
            loss = loss + losses.temperature_loss(self.alpha_temp, log_prob, self._target_entropy)
        if "alpha_cql" in self.log_coefficients:
            loss = loss + losses.multiplier_loss(alpha_cql, gap, self._tau_cql)
        parts = ["actor", *self.log_coefficients]
        learned = [tensor for part in parts for tensor in self._parts()[part].values()]
        self._take_step(parts, torch.autograd.grad(loss.sum(), learned), active)
        if "alpha_cql" in self.log_coefficients:
            with torch.no_grad():
                # Clamped after the step, not in the loss: a clamp in the loss has no gradient beyond its bound, so
                # a multiplier that once reached it would stay there for good.
                log_alpha_cql = self.log_coefficients["alpha_cql"]["log_alpha_cql"]
                self._assign(log_alpha_cql, log_alpha_cql.clamp(max=math.log(losses.ALPHA_CQL_MAX)), active)

        # E. Targets.
        with torch.no_grad():
            if any(plan.due):
                for name, tensor in self.critics.items():
                    rates = self._tau_target.view(-1, *[1] * (tensor.dim() - 1))
                    if all(plan.due):
                        self.targets[name].lerp_(tensor, rates)
                    else:
                        self._assign(self.targets[name], self.targets[name].lerp(tensor, rates), plan.due)
            n = shape.num_sampled_actions
            mean_gap = gap.mean(1)
            reported = {
                "critic_td": td.mean(1),
                "cql_gap": mean_gap,
                "cql_residual": mean_gap - self._tau_cql,
                "alpha_cql": alpha_cql,
                "alpha_temp": alpha_temp,
                "q_data": q_data.mean((1, 2)),
                "q_policy": q_sampled[:, :, n : 2 * n].mean((1, 2, 3)),
                "q_uniform": q_sampled[:, :, :n].mean((1, 2, 3)),
                "actor_loss": actor_loss,
                "entropy": -log_prob.mean((1, 2)),
            }
            return torch.stack([reported[name] for name in METRICS])

    def _critic_gradients(
        self, batch: Batch, noise: Noise, target: Tensor, sampled_actions: Tensor, log_proposal: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What the critics' step needs, and what is reported of it.

        Args:
            batch: one minibatch a run.
            noise: of this step.
            target: (R, B).
            sampled_actions: of all groups, (R, N, B, A).
            log_proposal: their log-densities, (R, N, B), or None.

        Returns:
            Values of the data's actions (R, C, B) and of the sampled ones (R, C, N, B), and the gradients.
        """
        shape, n_states = self.structure, target.shape[1]
        weight = self._w_cql * self.alpha_cql

        def of_values(q: Tensor, part: networks.Part) -> Tensor:
            """Gradient in the values of the data's action and of those behind it, (r, c, 1 + N, b)."""
            q_data, q_behind = q[:, :, 0], q[:, :, 1:]
            if shape.gradient == "exact":
                own_proposal = None if log_proposal is None else log_proposal[part.runs, :, part.states]
                shares = losses.softmax_weights(q_behind, own_proposal, temperature=shape.temperature)
            else:
                shares = torch.full_like(q_behind, 1.0 / q_behind.shape[2])
            return losses.critic_gradient(q_data, target[part.runs, part.states], shares, weight[part.runs], n_states)

        data_actions = batch.actions.unsqueeze(1)
        if shape.gradient == "exact":
            actions = torch.cat([data_actions, sampled_actions], 1)
            q, gradients = networks.critic_gradients(shape.mlp, self.critics, batch.observations, actions, of_values)
            return q[:, :, 0], q[:, :, 1:], gradients
        q_sampled = networks.critics(shape.mlp, self.critics, batch.observations, sampled_actions)
        chosen = losses.softmax_choices(q_sampled, log_proposal, noise.choice, temperature=shape.temperature)
        by_critic = sampled_actions.unsqueeze(1).expand(-1, N_CRITICS, -1, -1, -1)
        drawn = by_critic.gather(2, chosen.unsqueeze(-1).expand(-1, -1, -1, -1, shape.action_size))  # (R, C, k, B, A)
        actions = torch.cat([data_actions.unsqueeze(1).expand(-1, N_CRITICS, -1, -1, -1), drawn], 2)
        q, gradients = networks.critic_gradients(shape.mlp, self.critics, batch.observations, actions, of_values)
        return q[:, :, 0], q_sampled, gradients

    def _policy(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        shape = self.structure
        return networks.actor(shape.mlp, self.actor, observations, shape.log_std_min, shape.log_std_max)

    def _actor_loss(
        self,
        plan: Plan,
        batch: Batch,
        policy: tuple[Tensor, Tensor],
        actions: Tensor,
        log_prob: Tensor,
        alpha_temp: Tensor,
    ) -> Tensor:
        """(R,): runs in their first ``bc_steps`` clone, the others listen to their critics.

        Of the two losses only those are computed that an active run needs.
        """
        clones = plan.clones
        if any(clones):
            log_prob_data = losses.squashed_gaussian_log_prob(*policy, batch.actions)
            bc_loss = losses.bc_loss(log_prob, log_prob_data, alpha_temp)
            if clones == plan.active:
                return bc_loss
        frozen = {name: tensor.detach() for name, tensor in self.critics.items()}
        q = networks.critics(self.structure.mlp, frozen, batch.observations, actions)
        actor_loss = losses.actor_loss(log_prob, q, alpha_temp)
        return torch.where(self.mask(clones), bc_loss, actor_loss) if any(clones) else actor_loss

    def _take_step(self, parts: Sequence[str], gradients: Sequence[Tensor], active: tuple[bool, ...]) -> None:
        """One step of the active runs' slices.

        Args:
            parts: those of one optimiser.
            gradients: of their parameters, in their order; those of the runs do not mix.
            active: whether a run takes the step.
        """
        everything = self._parts()
        stacks = [stack for part in parts for stack in everything[part].values()]
        slices = [own for part in parts for own in self._slices[part].values()]
        for stack, own_slices, gradient in zip(stacks, slices, gradients, strict=True):
            stack.grad = gradient.contiguous()  # Adam's fused step takes the numbers as they lie in memory
            for own, own_gradient, is_active in zip(own_slices, stack.grad.unbind(), active, strict=True):
                own.grad = own_gradient if is_active else None  # Adam passes over what has none
        optimiser = self.optimisers[parts[0]]
        optimiser.step()
        optimiser.zero_grad()  # the slices' gradients would keep the stacks' from being freed

    def _assign(self, stack: Tensor, values: Tensor, chosen: tuple[bool, ...]) -> None:
        """Overwrite the chosen runs of a stack, and no bit of the others."""
        if not all(chosen):
            values = torch.where(self.mask(chosen).view(-1, *[1] * (stack.dim() - 1)), values, stack)
        stack.copy_(values)

    def non_finite(self, run: int) -> str | None:
        """What of a run holds a NaN or an infinity: a parameter or a moment of Adam's; None if all is finite.

        Gradients beyond 1.8e19 have an infinite second moment, and Adam no longer moves what they are of.
        """
        named = {
            f"parameter {part}.{name}": tensor[run]
            for part, parameters in self._parts().items()
            for name, tensor in parameters.items()
        }
        named |= {
            f"Adam's {moment} of {part}.{name}": tensor
            for part, optimiser in self.optimisers.items()
            for name, own in self._slices[part].items()
            for moment, tensor in optimiser.state.get(own[run], {}).items()
        }
        are_finite = torch.stack([tensor.isfinite().all() for tensor in named.values()]).tolist()  # one wait for all
        return next((name for name, is_finite in zip(named, are_finite, strict=True) if not is_finite), None)

    def tensors(self) -> list[Tensor]:
        """All that a step changes on the device: parameters, targets, coefficients, the optimisers' moments."""
        parameters = [tensor for part in self._parts().values() for tensor in part.values()]
        optimisers = dict.fromkeys(self.optimisers.values())
        return [*parameters, *(x for each in optimisers for state in each.state.values() for x in state.values())]

    def state(self, run: int) -> dict[str, Any]:
        """All that one run needs to go on: nested dictionaries of CPU tensors and plain values.

        The tensors carry no axis R: nothing in them tells whether the run was stacked.
        """
        optimisers = {
            part: [
                {key: value.cpu().clone() for key, value in optimiser.state[own[run]].items()}
                for own in self._slices[part].values()
            ]
            for part, optimiser in self.optimisers.items()
        }
        parameters = {
            part: {name: tensor[run].detach().cpu().clone() for name, tensor in parameters.items()}
            for part, parameters in self._parts().items()
        }
        return {"n_steps_done": self.n_steps_done[run], "parameters": parameters, "optimisers": optimisers}

    def load_states(self, states: Sequence[dict[str, Any] | None]) -> None:
        """Go on from what :meth:`state` gave, one a run, in the order of the stack; the steps may differ.

        Args:
            states: None leaves a run as it is, which for a new agent is at its beginning.

        Raises:
            ValueError: the number of states, or the names or shapes in one, do not fit this agent.
        """
        if len(states) != self.n_runs:
            raise ValueError(f"{len(states)} states for a stack of {self.n_runs} runs")
        for run, state in enumerate(states):
            if state is not None:
                self._load_state(run, state)

    def _load_state(self, run: int, state: dict[str, Any]) -> None:
        for part, parameters in self._parts().items():
            given = state["parameters"].get(part, {})
            if given.keys() != parameters.keys():
                raise ValueError(f"{part}: the state holds {sorted(given)}, this agent {sorted(parameters)}")
            for name, tensor in parameters.items():
                if given[name].shape != tensor.shape[1:]:
                    shapes = tuple(given[name].shape), tuple(tensor.shape[1:])
                    raise ValueError(f"{part}.{name}: shape {shapes[0]}, expected {shapes[1]}")
                with torch.no_grad():
                    tensor[run].copy_(given[name])
        self.n_steps_done[run] = int(state["n_steps_done"])
        for part, optimiser in self.optimisers.items():
            for slices, moments in zip(self._slices[part].values(), state["optimisers"][part], strict=True):
                optimiser.state[slices[run]] = {key: value.to(self.device, copy=True) for key, value in moments.items()}

    def _parts(self) -> dict[str, Parameters]:
        return {"actor": self.actor, "critics": self.critics, "targets": self.targets, **self.log_coefficients}


_ROWS = 16  # of one product of a policy's evaluation


class Policy:
    """Deterministic actions of trained runs for raw observations, numpy in and out.

    It carries the normalisation of observations, without which a reloaded policy acts on the wrong inputs.

    Args:
        mlp: shape of the actor's network.
        parameters: of R actors.
        mean: of the observations, (S,).
        std: of the observations, (S,).
    """

    def __init__(self, mlp: Mlp, parameters: Parameters, mean: Tensor, std: Tensor) -> None:
        self._mlp, self._parameters = mlp, parameters
        self._mean, self._std = mean, std

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(R, E, S) to (R, E, A) in [-1, 1]."""
        n_runs, n_episodes, size = observations.shape
        # In chunks of one shape: a product's last digits depend on its number of rows, and a simulation makes another
        # episode of them. An episode is the same whatever the number of others that are evaluated with it.
        n_chunks = -(-n_episodes // _ROWS)
        rows = np.zeros((n_runs, n_chunks * _ROWS, size), np.float32)
        rows[:, :n_episodes] = observations
        with torch.no_grad():
            inputs = (torch.from_numpy(rows).to(self._mean.device) - self._mean) / self._std
            chunks = [
                networks.actor(self._mlp, self._parameters, inputs[:, i * _ROWS : (i + 1) * _ROWS], -1.0, 1.0)[0]
                for i in range(n_chunks)
            ]
            actions: NDArray[np.float32] = torch.cat(chunks, 1)[:, :n_episodes].tanh().cpu().numpy()
            return actions


def _leaves(parameters: Parameters, device: torch.device) -> Parameters:
    return {name: tensor.detach().to(device).clone().requires_grad_() for name, tensor in parameters.items()}
