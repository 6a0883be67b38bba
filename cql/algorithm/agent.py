"""A stack of CQL agents: R runs that train together, their checkpoints, and their policies.

A single run is a stack of one. Runs of a stack may differ in all their :class:`HyperParams`; they share the
:class:`AgentConfig` and are always at the same step.
Axes: R runs, B batch, S state, A action.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cql.algorithm import fast as fast_path
from cql.algorithm.networks import Mlp, Parameters
from cql.algorithm.sampling import Batch, Noise, Sampler
from cql.algorithm.state import AgentConfig, AgentState, HyperParams
from cql.algorithm.step import METRICS, Phase, metrics_of, training_step

__all__ = ["METRICS", "Agent", "AgentConfig", "HyperParams", "Policy"]


class Agent:
    """R agents and their training.

    Args:
        config: what the runs share.
        hyper_params: one per run.
        seeds: one per run; the initial parameters depend on nothing else.
        device: where parameters live and updates run.
        fast: use the fast forms of :mod:`cql.algorithm.fast` that suit the config and the device. The numbers are the
            same but for rounding.

    Attributes:
        config: what the runs share.
        device: where the parameters are.
        stack: all that training changes; ``actor``, ``critics``, ``targets`` and ``log_coefficients`` are its own.
        n_steps_done: training steps taken, the same for all runs.
        metrics: names of what a step reports, in their order.
        calibrated: whether the values of the policy's actions have a floor in the gap, if the config has it at all.

    Raises:
        ValueError: a coefficient is learned in some of the runs and fixed in others.
    """

    def __init__(
        self,
        config: AgentConfig,
        hyper_params: Sequence[HyperParams],
        seeds: Sequence[int],
        device: torch.device,
        *,
        fast: bool = True,
    ) -> None:
        self.config, self.device, self.n_runs, self.n_steps_done = config, device, len(seeds), 0
        self._metrics, self.calibrated = metrics_of(config), config.calibrated
        self.metrics = tuple(self._metrics)
        chosen = fast_path.choose(config.actor, config.critic, device, fast)
        self.networks = chosen.networks
        self.stack = AgentState(config, hyper_params, seeds, device, chosen.adam_update)
        self.actor, self.critics, self.targets = self.stack.actor, self.stack.critics, self.stack.targets
        self.log_coefficients = self.stack.log_coefficients
        self._most_bc_steps = max(each.bc_steps for each in hyper_params)

    def sampler(self, seeds: Sequence[int], batch_size: int) -> Sampler:
        """A sampler that draws exactly the noise that :meth:`update` needs."""
        config, n = self.config, self.config.num_sampled_actions
        return Sampler(
            seeds,
            batch_size=batch_size,
            action_size=config.action_size,
            n_uniform=n,
            n_policy=n,
            n_next_policy=n if config.next_actions else 0,
            n_target=n if config.backup == "max" else 1,
            n_choices=(config.n_critics, config.num_gradient_actions or 0),
            n_subset=config.n_critics if config.n_target_critics < config.n_critics else 0,
            device=self.device,
        )

    def update(self, batch: Batch, noise: Noise) -> Tensor:
        """One training step of all runs.

        Args:
            batch: one minibatch per run.
            noise: of a sampler made by :meth:`sampler`.

        Returns:
            What :attr:`metrics` names, of this step: (len(metrics), R), on the device and without gradient.
        """
        metrics = self.step(self.phase, batch, noise)
        self.n_steps_done += 1
        return metrics

    @property
    def phase(self) -> Phase:
        """What the host decides about the next step."""
        return Phase(
            cloning=self.n_steps_done < self._most_bc_steps,
            update_targets=(self.n_steps_done + 1) % self.config.target_update_period == 0,
            calibrated=self.calibrated,
        )

    def step(self, phase: Phase, batch: Batch, noise: Noise) -> Tensor:
        """The device's part of :meth:`update`; it can be captured as a CUDA graph."""
        values = training_step(self.config, self.stack, batch, noise, phase, self.networks)
        return torch.stack([metric(values) for metric in self._metrics.values()])

    def non_finite(self, run: int) -> str | None:
        """The first parameter or moment of Adam of a run that holds a NaN or an infinity; None if all are finite.

        Gradients beyond 1.8e19 have an infinite second moment, and Adam no longer moves their parameters.
        """
        parts = self.stack.parts()
        named = {f"parameter {part}.{name}": own[name][run] for part, own in parts.items() for name in own}
        for part, optimiser in self.stack.optimisers.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                moments = zip(parts[part], getattr(optimiser, moment), strict=True)
                named |= {f"Adam's {moment} of {part}.{name}": tensor[run] for name, tensor in moments}
        are_finite = torch.stack([tensor.isfinite().all() for tensor in named.values()]).tolist()  # one wait for all
        return next((name for name, is_finite in zip(named, are_finite, strict=True) if not is_finite), None)

    def state(self, run: int) -> dict[str, Any]:
        """All that one run needs to resume: nested dictionaries of CPU tensors and plain values.

        The tensors have no axis R: nothing in them tells whether the run was stacked.
        """
        parameters = {
            part: {name: tensor[run].detach().cpu().clone() for name, tensor in own.items()}
            for part, own in self.stack.parts().items()
        }
        optimisers = {part: optimiser.state(run) for part, optimiser in self.stack.optimisers.items()}
        return {"n_steps_done": self.n_steps_done, "parameters": parameters, "optimisers": optimisers}

    @torch.no_grad()
    def load_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue from what :meth:`state` gave, one per run, in the order of the stack.

        Raises:
            ValueError: there are not R states, they are of different steps, or the names or shapes in one do not fit
                this agent. The agent is then as it was.
        """
        if len(states) != self.n_runs:
            raise ValueError(f"{len(states)} states for a stack of {self.n_runs} runs")
        steps = sorted({int(state["n_steps_done"]) for state in states})
        if len(steps) != 1:
            raise ValueError(
                f"states of steps {', '.join(map(str, steps))}: all runs of a stack resume at the same step"
            )
        for state in states:
            self.check(state)
        for run, state in enumerate(states):
            for part, own in self.stack.parts().items():
                for name, tensor in own.items():
                    tensor[run] = state["parameters"][part][name]
            for part, optimiser in self.stack.optimisers.items():
                optimiser.load_state(run, state["optimisers"][part])
        (self.n_steps_done,) = steps

    def check(self, state: Mapping[str, Any]) -> None:
        """Check that the names and shapes of what :meth:`state` gave, or a file holds, fit this agent.

        Raises:
            ValueError: they do not; the message names the first that does not.
        """
        self._check_parameters(state["parameters"])
        for part, optimiser in self.stack.optimisers.items():
            if part not in state["optimisers"]:
                raise ValueError(f"the state has no optimiser of {part}")
            optimiser.check(state["optimisers"][part])

    def _check_parameters(self, given: Mapping[str, Parameters]) -> None:
        for part, own in self.stack.parts().items():
            names = given.get(part, {}).keys()
            if names != own.keys():
                raise ValueError(f"{part}: the state holds {sorted(names)}, this agent {sorted(own)}")
            for name, tensor in own.items():
                forms = [(tuple(each.shape), each.dtype) for each in (given[part][name], tensor[0])]
                if forms[0] != forms[1]:
                    raise ValueError(f"{part}.{name}: {forms[0]}, expected {forms[1]}")


_ROWS = 16  # of one product of a policy's evaluation


class Policy:
    """Actions of trained runs for raw observations, numpy in and out.

    It carries the normalisation of observations, without which a reloaded policy acts on the wrong inputs.

    Args:
        mlp: shape of the actor's network.
        parameters: of R actors.
        mean: of the observations, (S,).
        std: of the observations, (S,).
        log_std: lower and upper bound of the policy's log standard deviation; needed to sample.
    """

    def __init__(
        self,
        mlp: Mlp,
        parameters: Parameters,
        mean: Tensor,
        std: Tensor,
        log_std: tuple[float, float] = (-20.0, 2.0),
    ) -> None:
        self._actor = functools.partial(fast_path.choose_actor(mlp, mean.device), mlp)
        self._parameters = parameters
        self._mean, self._std = mean, std
        self._log_std = log_std

    def __call__(
        self, observations: NDArray[np.float32], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(R, E, S) to (R, E, A) in [-1, 1]: the policy's mode, or samples by standard normal noise (R, E, A)."""
        n_runs, n_episodes, size = observations.shape
        # In chunks of one shape: the last digits of a product depend on its number of rows, and a simulation makes
        # another episode of them. So an episode does not depend on how many others are evaluated with it.
        n_chunks = -(-n_episodes // _ROWS)
        rows = np.zeros((n_runs, n_chunks * _ROWS, size), np.float32)
        rows[:, :n_episodes] = observations
        with torch.no_grad():
            inputs = (torch.from_numpy(rows).to(self._mean.device) - self._mean) / self._std
            chunks = [
                self._actor(self._parameters, inputs[:, i * _ROWS : (i + 1) * _ROWS], *self._log_std)
                for i in range(n_chunks)
            ]
            pre_tanh, log_std = (torch.cat(each, 1)[:, :n_episodes] for each in zip(*chunks, strict=True))
            if noise is not None:
                pre_tanh = pre_tanh + log_std.exp() * torch.from_numpy(noise).to(pre_tanh.device)
            actions: NDArray[np.float32] = pre_tanh.tanh().cpu().numpy()
            return actions
