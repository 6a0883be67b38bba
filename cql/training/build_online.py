"""From configs to the part of training in the environment."""

from collections.abc import Sequence
from pathlib import Path

from cql import config, data
from cql.algorithm.sampling import Mixture, Pool, ReplayBuffer
from cql.config import TrainConfig
from cql.rollout.collection import Collector
from cql.rollout.envs import EnvInfo
from cql.training.build import env_spec, failure_rule
from cql.training.online import Online, Preparation


def build_online(
    configs: Sequence[TrainConfig], directories: Sequence[Path], transitions: data.Transitions, pool: Pool
) -> Online | None:
    """The part in the environment of a stack of runs; None if they have none."""
    first = configs[0]
    online, calibrated = first.online, first.algorithm.penalty.calibrated
    if not isinstance(online, config.Finetune):
        return None
    ratio = online.mixing_ratio
    collector = Collector(env_spec(first), [each.seed for each in configs], online.episodes_per_collection)
    buffer = ReplayBuffer(
        len(configs),
        ring_size(first, collector.info.max_episode_steps),
        collector.info.observation_size,
        collector.info.action_size,
        transitions.rewards.device,
        with_returns=calibrated,
    )
    failure, by_last = failure_rule(first, transitions)
    preparation = Preparation(
        normaliser=transitions.normaliser.cpu(),
        reward_scale=transitions.reward_scale,
        reward_bias=transitions.reward_bias,
        action_clip=first.dataset.action_clip,
        timeouts_as_terminals=first.dataset.timeouts_as_terminals,
        failure=failure,
        by_last=by_last,
    )
    return Online(
        collector=collector,
        mixture=Mixture(pool, buffer, None if ratio is None else round(first.batch_size * ratio)),
        preparation=preparation,
        directories=directories,
        discounts=[each.algorithm.discount for each in configs],
        n_start_steps=online.n_start_steps,
        update_to_data=online.update_to_data,
        overrides={name: [getattr(each.online, name) for each in configs] for name in ("alpha_cql", "w_cql")},
        calibrated=calibrated and online.calibrated is not False,
    )


def ring_size(train_config: TrainConfig, max_episode_steps: int) -> int:
    """Transitions for which a run's ring has room: no more than it keeps, or can ever collect."""
    online = train_config.online
    if not isinstance(online, config.Finetune):
        return 0
    most = online.n_online_steps + online.episodes_per_collection * max_episode_steps
    return min(online.buffer_size, most)


def buffer_bytes(train_config: TrainConfig, info: EnvInfo) -> int:
    """Bytes that a run's ring takes when it is full."""
    row = 2 * info.observation_size + info.action_size + 3  # both observations, action, reward, end, return to go
    return 4 * row * ring_size(train_config, info.max_episode_steps)
