"""From a config to the objects that it describes: the dataset, the agent, and the policy of a checkpoint."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
import torch

from cql import config, data
from cql.algorithm import networks
from cql.algorithm.agent import AgentConfig, HyperParams, Policy
from cql.algorithm.sampling import Pool, pieces
from cql.algorithm.threshold import neutral_threshold
from cql.config import TrainConfig
from cql.config.datasets import Dataset
from cql.config.mixture import ratios_of, source_name, sources_of
from cql.config.schema import NO_SIMULATOR
from cql.data import embedded, policies
from cql.data.returns import returns_to_go
from cql.rollout.envs import EnvInfo, EnvSpec, env_info, own_argument
from cql.rollout.reference_scores import reference_scores
from cql.training.checkpoint import load
from cql.training.networks import mlp_of, policy_of

_recorded: dict[str, EnvInfo] = {}  # a dataset is read once for it, and once more to train on


def env_of(train_config: TrainConfig) -> EnvInfo:
    """The environment of a run: made once and closed, or without a simulator as the dataset tells it.

    Raises:
        EnvError: it cannot be used.
        DatasetError: the dataset cannot be read, or does not tell what is needed.
    """
    env, dataset = train_config.env, train_config.dataset
    if env.has_simulator:
        return env_info(env_spec(train_config))
    key = repr((dataset, env))
    if key not in _recorded:
        sources = sources_of(dataset) if isinstance(dataset, config.MixtureDataset) else [dataset]
        _recorded[key] = data.recorded_info(
            (_raw(source, env.observation_keys) for source in sources),
            action_low=env.action_low,
            action_high=env.action_high,
            max_episode_steps=env.max_episode_steps,
        )
    return _recorded[key]


def load_data(train_config: TrainConfig, info: EnvInfo, device: torch.device) -> data.Transitions:
    """Read, check and prepare the dataset, or those of a mixture. Embedded datasets are made at their first use."""
    chosen = train_config.dataset
    if not isinstance(chosen, config.MixtureDataset):
        return _prepared(_read(chosen, info), chosen, info, device)
    raws: list[tuple[data.RawData, data.RawData | None]] = []
    parts: list[data.Transitions] = []
    sources = sources_of(chosen)
    for index, source in enumerate(sources):
        with _named(index):
            raws.append(_read(source, info))
    normaliser = data.normaliser_of([raw for raw, _ in raws], device) if chosen.normalise_observations else None
    for index, (raw, source) in enumerate(zip(raws, sources, strict=True)):
        with _named(index):
            parts.append(_prepared(raw, source, info, device, normaliser))
    return data.join(parts, ratios_of(chosen))


@contextlib.contextmanager
def _named(index: int) -> Iterator[None]:
    """Errors of a dataset say which one of a mixture it is."""
    try:
        yield
    except data.DatasetError as error:
        said = f"{source_name(index)}: {error} (the datasets of a mixture have one environment and one env section)"
        raise type(error)(said) from error


def _raw(chosen: Dataset, keys: Sequence[str] | None) -> data.RawData:
    """A dataset as it was recorded, with these parts of a Dict observation."""
    match chosen:
        case config.EmbeddedDataset():
            return data.load_minari(embedded.ensure_embedded(chosen.name), with_success=chosen.end_at_success)
        case config.MinariDataset():
            return data.load_minari(chosen.id, download=chosen.download, keys=keys, with_success=chosen.end_at_success)
        case config.D4rlDataset():
            return data.load_d4rl(Path(chosen.path))
        case config.TableDataset():
            return data.load_table(chosen.path, **chosen.columns)
        case _:
            raise TypeError(f"dataset: no loader for {type(chosen).__name__}")


def _read(chosen: Dataset, info: EnvInfo) -> tuple[data.RawData, data.RawData | None]:
    """The chosen episodes of a dataset, checked: those to train on, and those that are held out, if any."""
    raw = _raw(chosen, info.observation_keys)
    data.check(raw, info, ends_at_success=chosen.end_at_success)
    if chosen.end_at_success:
        ends_there = info.env_id == NO_SIMULATOR or own_argument(info.spec, "continuing_task") is False
        raw = data.end_at_success(raw, ends_there=ends_there)
    seed = chosen.subset_seed
    raw = data.select_episodes(raw, n_episodes=chosen.n_episodes, fraction=chosen.fraction, seed=seed)
    return data.hold_out(raw, chosen.validation_fraction, seed)


def _prepared(
    read: tuple[data.RawData, data.RawData | None],
    chosen: Dataset,
    info: EnvInfo,
    device: torch.device,
    normaliser: data.Normaliser | None = None,
) -> data.Transitions:
    """What training reads of a dataset, which is used up."""
    raw, held_out = read
    prepare = functools.partial(
        data.prepare,
        action_low=info.action_low,
        action_high=info.action_high,
        normalise_observations=chosen.normalise_observations,
        reward_bias=chosen.reward_bias,
        timeouts_as_terminals=chosen.timeouts_as_terminals,
        action_clip=chosen.action_clip,
        device=device,
        in_place=True,
    )
    transitions = prepare(
        raw,
        reward_scale=chosen.reward_scale,
        normalised_length=info.max_episode_steps if chosen.normalise_rewards else None,
        normaliser=normaliser,
    )
    if held_out is None:
        return transitions
    own = prepare(held_out, reward_scale=transitions.reward_scale, normaliser=transitions.normaliser)
    return dataclasses.replace(transitions, held_out=own)


def as_pool(transitions: data.Transitions, configs: Sequence[TrainConfig] = ()) -> Pool:
    """All transitions, as the sampler draws from them for runs of these configs.

    If their gaps are calibrated, it holds the returns to go, once for each discount of the runs.
    """
    pool = Pool(transitions.rows, transitions.row, transitions.actions, transitions.rewards, transitions.terminated)
    if transitions.shares is not None:
        pool = pool._replace(pieces=pieces(transitions.shares, transitions.rewards.device))
    if not configs or not configs[0].algorithm.penalty.calibrated:
        return pool
    rewards, lengths = transitions.rewards.cpu().numpy(), transitions.episode_lengths
    own = [each.algorithm.discount for each in configs]
    discounts = list(dict.fromkeys(own))
    failure, by_last = failure_rule(configs[0], transitions)
    found = [returns_to_go(rewards, lengths, each, failure=failure, by_last=by_last) for each in discounts]
    device = transitions.rewards.device
    return pool._replace(
        returns_to_go=torch.tensor(np.array(found), dtype=torch.float32, device=device),
        discount=torch.tensor([[discounts.index(each)] for each in own], device=device),
    )


def failure_rule(train_config: TrainConfig, transitions: data.Transitions) -> tuple[float | None, bool]:
    """The last two arguments of :func:`cql.data.returns.returns_to_go` under this config."""
    rule = train_config.dataset.returns_to_go
    if rule is config.ReturnsToGo.truncate:
        return None, False
    return float(transitions.rewards.min()), rule is config.ReturnsToGo.bootstrap_last_failure


def agent_config(train_config: TrainConfig, info: EnvInfo) -> AgentConfig:
    """What the runs of a stack share."""
    algorithm = train_config.algorithm
    return AgentConfig(
        actor=actor_mlp(train_config),
        critic=mlp(train_config.network, train_config.network.critic),
        observation_size=info.observation_size,
        action_size=info.action_size,
        backup=algorithm.backup.value,
        num_sampled_actions=algorithm.num_sampled_actions,
        importance_weighted=algorithm.penalty.importance_weighted,
        next_actions=algorithm.penalty.next_actions,
        gap_temperature=algorithm.penalty.temperature,
        gradient=algorithm.penalty.gradient.value,
        num_gradient_actions=algorithm.penalty.num_gradient_actions,
        target_update_period=algorithm.target_update_period,
        log_std_min=algorithm.log_std_min,
        log_std_max=algorithm.log_std_max,
        n_critics=algorithm.n_critics,
        n_target_critics=algorithm.n_critics if algorithm.n_target_critics is None else algorithm.n_target_critics,
        calibrated=algorithm.penalty.calibrated,
        include_data_action=algorithm.penalty.counts_data_action,
        log_std_multiplier=algorithm.log_std_multiplier,
        log_std_offset=algorithm.log_std_offset,
        critic_schedule=algorithm.critic_schedule.value,
        actor_schedule=algorithm.actor_schedule.value,
        n_schedule_steps=train_config.n_all_steps if algorithm.is_scheduled else 0,
    )


def hyper_params(train_config: TrainConfig, info: EnvInfo) -> HyperParams:
    """What belongs to one run: coefficients and learning rates, with the derived ones filled in."""
    algorithm = train_config.algorithm
    tau_cql: float | None = None
    target_entropy: float | None = None
    temp_rate: float | None = None
    alpha_rate: float | None = None
    match algorithm.alpha_temp:
        case config.FixedAlphaTemp(value=alpha_temp):
            pass
        case config.LearnedAlphaTemp(
            initial_value=alpha_temp, target_entropy=target_entropy, temp_learning_rate=temp_rate
        ):
            target_entropy = -float(info.action_size) if target_entropy is None else target_entropy
        case other:
            raise TypeError(f"algorithm.alpha_temp: {type(other).__name__} is not a known kind")
    match algorithm.alpha_cql:
        case config.FixedAlphaCql(value=alpha_cql):
            pass
        case config.LearnedAlphaCql(initial_value=alpha_cql, tau_cql=tau_cql, alpha_learning_rate=alpha_rate):
            if tau_cql is None:
                tau_cql = neutral_threshold(
                    num_sampled_actions=algorithm.num_sampled_actions,
                    next_actions=algorithm.penalty.next_actions,
                    importance_weighted=algorithm.penalty.importance_weighted,
                    action_size=info.action_size,
                    target_entropy=target_entropy,
                    include_data_action=algorithm.penalty.counts_data_action,
                )
        case other_:
            raise TypeError(f"algorithm.alpha_cql: {type(other_).__name__} is not a known kind")
    return HyperParams(
        alpha_cql=alpha_cql,
        tau_cql=tau_cql,
        w_cql=algorithm.w_cql,
        alpha_temp=alpha_temp,
        target_entropy=target_entropy,
        discount=algorithm.discount,
        tau_target=algorithm.tau_target,
        bc_steps=algorithm.bc_steps,
        critic_learning_rate=algorithm.critic_learning_rate,
        actor_learning_rate=algorithm.actor_learning_rate,
        temp_learning_rate=temp_rate,
        alpha_learning_rate=alpha_rate,
        gap_clip_min=algorithm.penalty.gap_clip_min,
        gap_clip_max=algorithm.penalty.gap_clip_max,
        critic_max_grad_norm=algorithm.critic_max_grad_norm,
        actor_max_grad_norm=algorithm.actor_max_grad_norm,
        critic_weight_decay=algorithm.critic_weight_decay,
        actor_weight_decay=algorithm.actor_weight_decay,
    )


def mlp(network: config.NetworkConfig, part: config.NetworkPart) -> networks.Mlp:
    """The shape of the policy's network, or of the critics'."""
    plain = [
        {name: value.value if isinstance(value, Enum) else value for name, value in vars(each).items()}
        for each in (network, part)
    ]
    return mlp_of(*plain)


def actor_mlp(train_config: TrainConfig) -> networks.Mlp:
    """The shape of the policy's network."""
    return mlp(train_config.network, train_config.network.actor)


def scores_of(train_config: TrainConfig) -> tuple[float, float] | None:
    """Lowest and highest reference return of the environment, None if it has none."""
    spec = env_spec(train_config)
    return reference_scores(spec.id, train_config.env.reference, spec.kwargs, spec.max_episode_steps)


def env_spec(train_config: TrainConfig) -> EnvSpec:
    """The environment that policies are evaluated in."""
    env = train_config.env
    return EnvSpec.of(env.id, env.kwargs, env.max_episode_steps, env.observation_keys)


def load_policy(path: Path) -> tuple[Policy, TrainConfig, int]:
    """The deterministic policy of a checkpoint, with its normalisation, its config and its step.

    Raises:
        CheckpointError: the file is absent, damaged or of another format.
    """
    checkpoint = load(path, policy_only=True)
    train_config = config.from_dict(checkpoint["config"])
    return policy_of(checkpoint, path), train_config, int(checkpoint["step"])


def load_behaviour(path: Path, name: str) -> policies.ActorPolicy:
    """The policy of a checkpoint as a behaviour to collect data from, with sampled actions as in its training.

    Args:
        path: of the checkpoint.
        name: for messages and the data's metadata, which get the checkpoint's step besides.

    Raises:
        CheckpointError: the file is absent, damaged or of another format.
    """
    checkpoint = load(path, policy_only=True)
    train_config = config.from_dict(checkpoint["config"])
    bounds = None
    if not train_config.env.has_simulator:
        bounds = checkpoint["spaces"]["action_low"].numpy(), checkpoint["spaces"]["action_high"].numpy()
    return policies.ActorPolicy(
        f"{name} (step {checkpoint['step']})",
        actor_mlp(train_config),
        checkpoint["agent"]["parameters"]["actor"],
        mean=checkpoint["normaliser"]["mean"],
        std=checkpoint["normaliser"]["std"],
        log_std_min=train_config.algorithm.log_std_min,
        log_std_max=train_config.algorithm.log_std_max,
        bounds=bounds,
    )
