"""Fitted Q evaluation (FQE): what fixed policies are worth, learned from recorded data.

Each policy gets critics of its own. Their step is the critics' step of training with another target: the value of the
policy's own action, without entropy and without a minimum over critics. A conservative gap is optional.

    L = mean_B (Q(s, a) - y)^2,    y = r + discount (1 - terminated) Qbar(s', pi(s')),
    J = mean over initial states of Qbar(s0, pi(s0))

All policies are one stack. A seed means the same initial critics and the same minibatches for every policy, so that two
policies differ by what they do; and no policy's estimate depends on which others are in the stack.
Axes: P policies, K seeds, R = P K runs (policy after policy), B batch, N rows of observations, S state, A action.

Sources:
    - [CQL] Kumar et al., Conservative Q-Learning for Offline Reinforcement Learning, 2020.
    - [Le] Le et al., Batch Policy Learning under Constraints, 2019.
    - [Paine] Paine et al., Hyperparameter Selection for Offline Reinforcement Learning, 2020.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cql.algorithm import fast, losses
from cql.algorithm.adam import Adam
from cql.algorithm.networks import Mlp, critic_parameters
from cql.algorithm.sampling import INITIALISATION_STREAM, Pool, Sampler, generator


class FittedQEvaluation:
    """Critics that evaluate P policies, from K seeds each.

    Args:
        mlp: shape of the critics.
        pool: recorded transitions, with rewards in the units that estimates shall have.
        policy_actions: of each deterministic policy at all rows of the pool, (P, N, A) in [-1, 1].
        seeds: K of them.
        batch_size: B.
        learning_rate: of Adam.
        discount: per step, below 1.
        tau_target: Polyak rate of the target critics; 1 copies the critics.
        target_update_period: steps between two updates of the target critics.
        alpha_cql: weight of the conservative gap Q(s, pi(s)) - Q(s, a) in the critics' loss, 0 for none. With the same
            weight for all policies, an estimate is lowered where a policy leaves the data [CQL, eq. 2].
        centre: where estimates begin: values are ``centre + scale`` times the critics' outputs. That changes no fixed
            point, and saves the steps in which critics would grow from 0 to the size of returns.
        scale: see ``centre``.

    Attributes:
        bounds: the least and the largest value that rewards of the data allow; targets are clipped to them, so that an
            estimate that diverges stops there.
        n_steps_done: training steps taken.
    """

    def __init__(
        self,
        mlp: Mlp,
        pool: Pool,
        policy_actions: Tensor,
        seeds: Sequence[int],
        *,
        batch_size: int,
        learning_rate: float,
        discount: float,
        tau_target: float,
        target_update_period: int = 1,
        alpha_cql: float = 0.0,
        centre: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        device = pool.rewards.device
        self._mlp, self._tau_target, self._period = mlp, tau_target, target_update_period
        self._alpha_cql, self._centre, self._scale = alpha_cql, centre, scale
        self.n_policies, self.n_seeds, self.n_steps_done = len(policy_actions), len(seeds), 0
        self._size, action_size = pool.rows.shape[1], policy_actions.shape[-1]
        # Beside each observation stand the actions of all policies there: one gather brings both.
        beside = policy_actions.transpose(0, 1).flatten(1)
        self._pool = pool._replace(rows=torch.cat([pool.rows, beside], 1))
        self._sampler = Sampler(
            seeds, batch_size=batch_size, action_size=0, n_uniform=0, n_policy=0, n_next_policy=0, n_target=0,
            n_choices=(1, 0), n_subset=0, device=device,
        )  # fmt: skip
        generators = [generator(seed, INITIALISATION_STREAM) for seed in seeds]
        initial = critic_parameters(mlp, self._size, action_size, 1, generators)
        self.critics = {
            name: tensor.repeat(self.n_policies, *[1] * (tensor.dim() - 1)).to(device).requires_grad_()
            for name, tensor in initial.items()
        }
        self.targets = {name: tensor.detach().clone() for name, tensor in self.critics.items()}
        chosen = fast.choose(mlp, mlp, device)
        self._networks = chosen.networks
        n_runs = self.n_policies * self.n_seeds
        self._adam = Adam(self.critics, [learning_rate] * n_runs, chosen.adam_update)
        self._discount, self._zeros = torch.full((n_runs,), discount, device=device), torch.zeros(n_runs, device=device)
        rewards = pool.rewards
        least, most = float(rewards.min()), float(rewards.max())
        if bool((pool.terminated > 0).any()):
            least, most = min(least, least * (1.0 - discount)), max(most, most * (1.0 - discount))
        self.bounds = least / (1.0 - discount), most / (1.0 - discount)

    def step(self) -> None:
        """Train all critics for one step."""
        batch, _ = self._sampler.draw(self._pool)
        following, size = batch.next_observations, self._size
        own_actions, next_actions = (self._actions_in(each) for each in (batch.observations, following))
        states, actions, rewards, terminated, next_states = (
            each.repeat(self.n_policies, *[1] * (each.dim() - 1))
            for each in (
                batch.observations[..., :size], batch.actions, batch.rewards, batch.terminated, following[..., :size]
            )
        )  # fmt: skip
        with torch.no_grad():
            outputs = self._networks.critics(self._mlp, self.targets, next_states, next_actions)
            next_q = self._centre + self._scale * outputs
            target = losses.bellman_target(
                rewards, terminated, next_q, torch.zeros_like(next_q[:, 0]), self._discount, self._zeros, "hard"
            ).clamp(*self.bounds)
        _, gradients = self._networks.critic_gradients(
            self._mlp,
            self.critics,
            states,
            torch.cat([actions[:, None], own_actions], 1) if self._alpha_cql else actions[:, None],
            self._loss,
            [(target - self._centre) / self._scale],
        )
        self._adam.step(gradients)
        self.n_steps_done += 1
        if self.n_steps_done % self._period == 0:
            for name, tensor in self.critics.items():
                self.targets[name].lerp_(tensor.detach(), self._tau_target)

    def _loss(self, q: Tensor, target: Tensor) -> Tensor:
        td = losses.temporal_difference(q[:, :, 0], target)
        if self._alpha_cql:
            td = td + self._alpha_cql * (q[:, :, 1] - q[:, :, 0]).mean(-1)
        return td.sum(1)

    def _actions_in(self, gathered: Tensor) -> Tensor:
        """The policies' actions beside observations, from (K, B, S + P A) to (P K, 1, B, A)."""
        beside = gathered[..., self._size :]
        return beside.view(*beside.shape[:2], self.n_policies, -1).movedim(2, 0).flatten(0, 1)[:, None]

    @torch.no_grad()
    def values(self, rows: Tensor) -> Tensor:
        """Values of the policies' own actions at rows of the pool (E,), by the target critics: (P, K, E)."""
        found = []
        for index in torch.split(rows, 4096):
            gathered = self._pool.rows[index]
            states = gathered[None, :, : self._size].expand(self.n_policies * self.n_seeds, -1, -1)
            own = gathered[:, self._size :].view(len(index), self.n_policies, -1).movedim(1, 0)
            actions = own.repeat_interleave(self.n_seeds, 0)[:, None]
            found.append(self._networks.critics(self._mlp, self.targets, states, actions)[:, 0, 0])
        values = self._centre + self._scale * torch.cat(found, 1)
        return values.view(self.n_policies, self.n_seeds, -1)

    def state(self) -> dict[str, Any]:
        """All that is needed to resume, on the CPU."""
        return {
            "n_steps_done": self.n_steps_done,
            "tensors": [tensor.detach().cpu().clone() for tensor in self._tensors()],
            "sampler": [self._sampler.state(seed).cpu() for seed in range(self.n_seeds)],
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` gave, with the same policies, seeds and data.

        Raises:
            ValueError: the state is of another evaluation; this one is then as it was.
        """
        if [tensor.shape for tensor in state["tensors"]] != [tensor.shape for tensor in self._tensors()]:
            raise ValueError("the state is of other critics or other policies")
        for own, saved in zip(self._tensors(), state["tensors"], strict=True):
            own.copy_(saved)
        for seed, saved in enumerate(state["sampler"]):
            self._sampler.load_state(seed, saved)
        self.n_steps_done = int(state["n_steps_done"])

    def _tensors(self) -> list[Tensor]:
        adam = self._adam
        return [*self.critics.values(), *self.targets.values(), *adam.exp_avg, *adam.exp_avg_sq, adam.n_steps]
