"""CQL once more: slow, obvious, in float64, one scalar at a time.

Written from the equations, with loops over critics, transitions and samples, and with plain `torch.nn` networks that
see one row at a time. There is no axis R here: one run is one object. It shares no code with `cql`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU, "gelu": nn.GELU}


def mean(values):
    return sum(values) / len(values)


def constant(value) -> float:
    """A number, and so without gradient."""
    return value.item() if isinstance(value, Tensor) else value


# The losses, each of one run ------------------------------------------------------------------------------------------


def log_prob(mu: Tensor, log_std: Tensor, u: Tensor) -> Tensor:
    """log pi(tanh(u)) of one action: the Gaussian's density of u over the slope of tanh at u."""
    total = 0.0
    for k in range(len(u)):
        total = total + Normal(mu[k], log_std[k].exp()).log_prob(u[k]) - torch.log(1 - torch.tanh(u[k]) ** 2)
    return total


def sample(mu: Tensor, log_std: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    u = mu + log_std.exp() * eps
    return torch.tanh(u), log_prob(mu, log_std, u)


def log_prob_of_action(mu: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    return log_prob(mu, log_std, torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6)))


def bellman_target(reward, terminated, next_q, next_log_prob, discount, alpha_temp, backup):
    """y of one transition; next_q[i][n] and next_log_prob[n]."""
    if terminated:
        return reward
    values = []
    for n in range(len(next_log_prob)):
        value = min(q[n] for q in next_q)
        if backup == "soft":
            value = value - alpha_temp * next_log_prob[n]
        values.append(value)
    return reward + discount * max(values)


def temporal_difference(q_data, y):
    """Of one critic; q_data[b] and y[b]."""
    return mean([(q - target) ** 2 for q, target in zip(q_data, y, strict=True)])


def conservative_gap(q_sampled, q_data, log_mu, temperature, clip=(None, None), counted=False):
    """Of one critic; q_sampled[b][j], q_data[b], log_mu[b][j] or None."""
    gaps = state_gaps(q_sampled, q_data, log_mu, temperature, counted)
    return mean([gap if is_within(gap, clip) else constant(gap.clamp(*clip)) for gap in gaps])


def is_within(gap, clip):
    low, high = clip
    return (low is None or gap >= low) and (high is None or gap <= high)


def state_gaps(q_sampled, q_data, log_mu, temperature, counted):
    """Of one critic, of each state."""
    gaps = []
    for b in range(len(q_data)):
        total = 0.0
        for j in range(len(q_sampled[b])):
            weight = 0.0 if log_mu is None else log_mu[b][j]
            total = total + torch.exp((q_sampled[b][j] - weight) / temperature)
        n = len(q_sampled[b]) if counted else 1
        gaps.append(temperature * (torch.log(total) - math.log(n)) - q_data[b])
    return gaps


def choices(q_sampled, log_mu, temperature, uniform):
    """Of one state: the index of the sampled action in which each k-th part's threshold falls."""
    scores = [(constant(q) - mu) / temperature for q, mu in zip(q_sampled, log_mu, strict=True)]
    total = sum(math.exp(score) for score in scores)
    found = []
    for part, u in enumerate(uniform):
        threshold, cumulated = (part + u) / len(uniform), 0.0
        for index, score in enumerate(scores):
            cumulated += math.exp(score) / total
            if threshold < cumulated:
                found.append(index)
                break
    return found


def sampled_gap(q_sampled, q_data, uniform, log_mu, temperature, clip=(None, None), counted=False):
    """The exact gap's value, with the gradient of the mean over the drawn actions; uniform[i][b]."""
    value = constant(conservative_gap(q_sampled, q_data, log_mu, temperature, clip, counted))
    exact = state_gaps(q_sampled, q_data, log_mu, temperature, counted)
    estimates = []
    for b in range(len(q_data)):
        mu = [0.0] * len(q_sampled[b]) if log_mu is None else log_mu[b]
        chosen = choices(q_sampled[b], mu, temperature, [float(own[b]) for own in uniform])
        estimate = mean([q_sampled[b][index] for index in chosen]) - q_data[b]
        estimates.append(estimate if is_within(exact[b], clip) else 0.0 * estimate)
    return value + mean(estimates) - constant(mean(estimates))


def critic_loss(td, gap, alpha_cql, w_cql, tau_cql):
    """td[i] and gap[i]; alpha_cql is a number, and so has no gradient."""
    return sum(td[i] + w_cql * constant(alpha_cql) * (gap[i] - tau_cql) for i in range(len(td)))


def actor_loss(log_prob, q, alpha_temp):
    """log_prob[b] and q[b][i]."""
    return mean([constant(alpha_temp) * log_prob[b] - min(q[b]) for b in range(len(q))])


def bc_loss(log_prob, log_prob_data, alpha_temp):
    return mean([constant(alpha_temp) * log_prob[b] - log_prob_data[b] for b in range(len(log_prob))])


def temperature_loss(alpha_temp, log_prob, target_entropy):
    return alpha_temp * mean([-constant(each) - target_entropy for each in log_prob])


def multiplier_loss(alpha_cql, gap, tau_cql):
    return -alpha_cql * mean([constant(each) - tau_cql for each in gap])


# The networks, each of one row ----------------------------------------------------------------------------------------


def network(parameters: dict[str, Tensor], activation: str = "relu") -> nn.Sequential:
    """`torch.nn` layers in float64 with the weights of one network of ours, whose matrices are (in, out)."""
    n_layers = sum(name.endswith(".weight") for name in parameters)
    layers: list[nn.Module] = []
    for index in range(n_layers):
        weight = parameters[f"{index}.weight"]
        linear = nn.Linear(*weight.shape, dtype=torch.float64)
        linear.load_state_dict({"weight": weight.T, "bias": parameters[f"{index}.bias"]})
        layers.append(linear)
        if f"{index}.norm_gain" in parameters:
            norm = nn.LayerNorm(weight.shape[1], dtype=torch.float64)
            norm.load_state_dict(
                {"weight": parameters[f"{index}.norm_gain"], "bias": parameters[f"{index}.norm_shift"]}
            )
            layers.append(norm)
        if index < n_layers - 1:
            layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def parameters_of(net: nn.Sequential, gradients: bool = False) -> dict[str, Tensor]:
    """The inverse of :func:`network`, of the weights or of their gradients."""
    found, index = {}, -1
    for layer in net:
        if isinstance(layer, nn.Linear | nn.LayerNorm):
            weight, bias = ((p.grad if gradients else p.detach()).clone() for p in (layer.weight, layer.bias))
            if isinstance(layer, nn.Linear):
                index += 1
                found[f"{index}.weight"], found[f"{index}.bias"] = weight.T, bias
            else:
                found[f"{index}.norm_gain"], found[f"{index}.norm_shift"] = weight, bias
    return found


# One run ------------------------------------------------------------------------------------------------------------


class Run:
    """Networks, coefficients and optimisers of one run, and its update.

    `config` and `hyper_params` are anything with the attributes that are read here; `parameters` is what
    `Agent.state(run)["parameters"]` gives before the first step.
    """

    def __init__(self, parameters, config, hyper_params):
        self.config, self.hyper = config, hyper_params
        own_layers = {name: each for name, each in parameters["actor"].items() if not name.startswith("log_std.")}
        self.actor = network(own_layers, config.actor.activation)
        self.log_std = {
            name: parameters["actor"][f"log_std.{name}"].double().requires_grad_()
            for name in ("multiplier", "offset")
            if f"log_std.{name}" in parameters["actor"]
        }
        self.critics, self.targets = (
            [
                network({name: tensor[i] for name, tensor in parameters[part].items()}, config.critic.activation)
                for i in range(config.n_critics)
            ]
            for part in ("critics", "targets")
        )
        self.n_steps_done = 0

        def logarithm(name):
            if name in parameters:  # learned: it starts from the logarithm that the agent took, in float32
                return parameters[name][f"log_{name}"].double().requires_grad_()
            return torch.tensor(math.log(getattr(hyper_params, name)), dtype=torch.float64)

        self.log_alpha_temp, self.log_alpha_cql = logarithm("alpha_temp"), logarithm("alpha_cql")
        adam, adam_w = torch.optim.Adam, torch.optim.AdamW
        self.critic_parameters = [p for critic in self.critics for p in critic.parameters()]
        self.actor_parameters = [*self.actor.parameters(), *self.log_std.values()]
        self.critic_optimiser = adam_w(
            self.critic_parameters, hyper_params.critic_learning_rate, weight_decay=hyper_params.critic_weight_decay
        )
        self.actor_optimiser = adam_w(
            self.actor_parameters, hyper_params.actor_learning_rate, weight_decay=hyper_params.actor_weight_decay
        )
        if hyper_params.temp_learning_rate is not None:
            self.temp_optimiser = adam([self.log_alpha_temp], hyper_params.temp_learning_rate)
        if hyper_params.alpha_learning_rate is not None:
            self.alpha_optimiser = adam([self.log_alpha_cql], hyper_params.alpha_learning_rate)

    def policy(self, s):
        size = self.config.action_size
        out = self.actor(s)
        log_std = self.log_std.get("multiplier", 1.0) * out[size:] + self.log_std.get("offset", 0.0)
        return out[:size], log_std.clamp(self.config.log_std_min, self.config.log_std_max)

    def target(self, batch, noise, b):
        next_s = batch.next_observations[b]
        drawn = [sample(*self.policy(next_s), eps[b]) for eps in noise.target]
        chosen = range(self.config.n_critics)
        if self.config.n_target_critics < self.config.n_critics:
            ranked = sorted(chosen, key=lambda i: float(noise.subset[i]))
            chosen = ranked[: self.config.n_target_critics]
        next_q = [[constant(self.targets[i](torch.cat([next_s, a]))) for a, _ in drawn] for i in chosen]
        return bellman_target(
            constant(batch.rewards[b]),
            bool(batch.terminated[b]),
            next_q,
            [constant(log_pi) for _, log_pi in drawn],
            self.hyper.discount,
            constant(self.log_alpha_temp.exp()),
            self.config.backup,
        )

    def proposals(self, batch, noise, b):
        """The sampled actions of one transition and log mu of each; constants for the critics."""
        s, next_s = batch.observations[b], batch.next_observations[b]
        found = [(a[b], math.log(0.5**self.config.action_size)) for a in noise.uniform]
        found += [sample(*self.policy(s), eps[b]) for eps in noise.policy]
        found += [sample(*self.policy(next_s), eps[b]) for eps in noise.next_policy]
        return [(a.detach(), constant(log_mu)) for a, log_mu in found]

    def descend(self, optimiser, parameters, max_norm, part):
        """A step with clipped gradients and the scheduled rate."""
        if max_norm is not None:
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
            for p in parameters:
                p.grad *= min(1.0, max_norm / (norm + 1e-6))
        kind = getattr(self.config, f"{part}_schedule")
        if kind != "constant":
            done = min(1.0, self.n_steps_done / self.config.n_schedule_steps)
            factor = 1 - done if kind == "linear" else (1 + math.cos(math.pi * done)) / 2
            optimiser.param_groups[0]["lr"] = getattr(self.hyper, f"{part}_learning_rate") * factor
        optimiser.step()

    def update(self, batch, noise):
        """One step with the batch (B, ...) and the noise (N, B, A) of this run; returns the metrics."""
        config, own = self.config, self.hyper
        rows, calibrated = range(len(batch.rewards)), config.calibrated
        alpha_temp = constant(self.log_alpha_temp.exp())
        alpha_cql = constant(self.log_alpha_cql.exp())
        tau_cql = own.tau_cql or 0.0

        # A. Critics.
        y = [self.target(batch, noise, b) for b in rows]
        proposals = [self.proposals(batch, noise, b) for b in rows]
        log_mu = [[each for _, each in p] for p in proposals] if config.importance_weighted else None
        td, gap, q_data_all, q_sampled_all, below_floor = [], [], [], [], []
        for i, critic in enumerate(self.critics):
            q_data = [critic(torch.cat([batch.observations[b], batch.actions[b]]))[0] for b in rows]
            # Every action is valued at s, also those that were drawn from pi(.|s').
            q_sampled = [[critic(torch.cat([batch.observations[b], a]))[0] for a, _ in proposals[b]] for b in rows]
            td.append(temporal_difference(q_data, y))
            q_in_gap = q_sampled
            if calibrated:
                floor = [constant(each) for each in batch.returns_to_go]
                first = config.num_sampled_actions  # behind the uniform ones
                below = [[constant(q) < floor[b] for q in q_sampled[b][first:]] for b in rows]
                below_floor.append(mean([mean([float(each) for each in own]) for own in below]))
                q_in_gap = [
                    q_sampled[b][:first] + [q if q > floor[b] else 0.0 * q + floor[b] for q in q_sampled[b][first:]]
                    for b in rows
                ]
            if config.include_data_action:
                q_in_gap = [[q_data[b], *q_in_gap[b]] for b in rows]
            options = log_mu, config.gap_temperature, (own.gap_clip_min, own.gap_clip_max), config.include_data_action
            if config.gradient == "sampled":
                gap.append(sampled_gap(q_in_gap, q_data, noise.choice[i], *options))
            else:
                gap.append(conservative_gap(q_in_gap, q_data, *options))
            q_data_all += q_data
            q_sampled_all += q_sampled
        loss = critic_loss(td, gap, alpha_cql, own.w_cql, tau_cql)
        self.critic_optimiser.zero_grad()
        loss.backward()
        self.descend(self.critic_optimiser, self.critic_parameters, own.critic_max_grad_norm, "critic")
        self.critic_gradients = [parameters_of(critic, gradients=True) for critic in self.critics]

        # B. Actor.
        policy = [self.policy(batch.observations[b]) for b in rows]
        drawn = [sample(*policy[b], noise.actor[0, b]) for b in rows]
        log_pi = [each for _, each in drawn]
        if self.n_steps_done < own.bc_steps:
            log_pi_data = [log_prob_of_action(*policy[b], batch.actions[b]) for b in rows]
            loss = bc_loss(log_pi, log_pi_data, alpha_temp)
        else:
            q = [[critic(torch.cat([batch.observations[b], drawn[b][0]]))[0] for critic in self.critics] for b in rows]
            loss = actor_loss(log_pi, q, alpha_temp)
        self.actor_optimiser.zero_grad()
        loss.backward()
        self.descend(self.actor_optimiser, self.actor_parameters, own.actor_max_grad_norm, "actor")
        self.actor_gradients = parameters_of(self.actor, gradients=True)
        self.actor_gradients |= {f"log_std.{name}": value.grad.clone() for name, value in self.log_std.items()}

        # C. Temperature.
        if own.temp_learning_rate is not None:
            self.temp_optimiser.zero_grad()
            temperature_loss(self.log_alpha_temp.exp(), log_pi, own.target_entropy).backward()
            self.temp_optimiser.step()

        # D. Multiplier.
        if own.alpha_learning_rate is not None:
            self.alpha_optimiser.zero_grad()
            multiplier_loss(self.log_alpha_cql.exp(), gap, tau_cql).backward()
            self.alpha_optimiser.step()

        # E. Targets.
        self.n_steps_done += 1
        if self.n_steps_done % config.target_update_period == 0:
            with torch.no_grad():
                for target, critic in zip(self.targets, self.critics, strict=True):
                    for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                        slow.copy_((1 - own.tau_target) * slow + own.tau_target * fast)

        n = config.num_sampled_actions
        share = {"floor_share": mean(below_floor)} if calibrated else {}
        return {
            "critic_td": constant(mean(td)),
            "cql_gap": constant(mean(gap)),
            "cql_residual": constant(mean(gap)) - tau_cql,
            "alpha_cql": alpha_cql,
            "alpha_temp": alpha_temp,
            "q_data": constant(mean(q_data_all)),
            "q_policy": constant(mean([mean(q[n : 2 * n]) for q in q_sampled_all])),
            "q_uniform": constant(mean([mean(q[:n]) for q in q_sampled_all])),
            "actor_loss": constant(loss),
            "entropy": -constant(mean(log_pi)),
            **share,
        }
