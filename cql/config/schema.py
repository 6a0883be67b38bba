"""The schema of a training run's config: dataclasses with the types, bounds and hints of every key.

The YAML files of `configs/` hold names and values only. `train.yaml` and every file of a group with variants begin with
their schema (`/schema/...@_here_`), so that OmegaConf refuses a misspelt key or a wrong type while the config is
composed.

A variant (a learned or a fixed `alpha_cql`, a Minari or a D4RL dataset) is a dataclass of its own, so a combination
without effect cannot be written, and code that reads a config matches on the class. Each variant carries its name as
`kind`, by which :func:`cql.config.conversion.from_dict` finds the class again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

# ----------------------------------------------------------------------------------------------------------------------
# Bounds, as metadata of the fields
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """An interval of numbers; None leaves a side open."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        sides = {
            "greater than": self.above,
            "at least": self.at_least,
            "less than": self.below,
            "at most": self.at_most,
        }
        return " and ".join(f"{words} {side}" for words, side in sides.items() if side is not None) or "finite"


def _number(bounds: Bounds | None = None, *, hint: str = "") -> Any:
    """A number without a default (the YAML files hold the values), its bounds, and what to do when it is outside."""
    return field(metadata={"bounds": bounds or Bounds(), "hint": hint})


def _later(default: Any, bounds: Bounds | None = None, *, hint: str = "") -> Any:
    """A number or null that the files of earlier versions lack, so that it has a default; bounds as in `_number`."""
    return field(default=default, metadata={"bounds": bounds or Bounds(), "hint": hint})


def _text(*, ask: str = "", one_of: Sequence[str] = ()) -> Any:
    """A text without a default; `ask` says what to give if it is missing."""
    return field(metadata={"ask": ask, "one_of": tuple(one_of)})


_POSITIVE = Bounds(above=0)
_AT_LEAST_0 = Bounds(at_least=0)
_AT_LEAST_1 = Bounds(at_least=1)
_RATE = Bounds(above=0, at_most=1)
_SEED = Bounds(at_least=0, at_most=2**32 - 1)
ALPHA_CQL_MAX = 1e6  # equal to cql.algorithm.losses.ALPHA_CQL_MAX, whose module imports torch


# ----------------------------------------------------------------------------------------------------------------------
# Choices
# ----------------------------------------------------------------------------------------------------------------------


class Device(StrEnum):
    """Where training runs; `auto` is CUDA if there is a device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class EvalWorker(StrEnum):
    """Whether another process evaluates and records videos while training continues; `auto`: if training is on CUDA.

    The results are the same, bit for bit.
    """

    auto = "auto"
    on = "on"
    off = "off"


class Backup(StrEnum):
    """The critics' target: with the entropy term, without it, or the largest over sampled next actions."""

    soft = "soft"
    hard = "hard"
    max = "max"


class Gradient(StrEnum):
    """The gradient of the conservative gap: through every sampled action, or through a few drawn by weight."""

    exact = "exact"
    sampled = "sampled"


class Activation(StrEnum):
    """The non-linearity after each hidden layer."""

    relu = "relu"
    tanh = "tanh"
    elu = "elu"
    silu = "silu"
    gelu = "gelu"


class Initialisation(StrEnum):
    """How weights begin: torch's own `Linear` default, orthogonal, or Xavier uniform."""

    torch = "torch"
    orthogonal = "orthogonal"
    xavier = "xavier"


class Schedule(StrEnum):
    """How a learning rate falls from its value to 0, over all training steps of a run."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class ReturnsToGo(StrEnum):
    """How Cal-QL's floor, the return of the data from a state on, is taken from an episode.

    `truncate`: the discounted sum of the rewards that were recorded. `bootstrap_failure`: the same, but in an episode
    in which every reward is the lowest of the dataset, the failure of a sparse task, that reward goes on for ever, as
    in the code published with Cal-QL. `bootstrap_last_failure`: it does so in every episode that ends with that
    reward, as in CORL's code.
    """

    truncate = "truncate"
    bootstrap_failure = "bootstrap_failure"
    bootstrap_last_failure = "bootstrap_last_failure"


class LoggerMode(StrEnum):
    """Where a W&B run goes; `auto` is online with a key and a network, and offline otherwise."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


# ----------------------------------------------------------------------------------------------------------------------
# The algorithm
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class AlphaTemp:
    """The entropy temperature `alpha_temp` of the soft actor-critic."""

    kind: str


@dataclass(kw_only=True)
class FixedAlphaTemp(AlphaTemp):
    """A constant temperature.

    Attributes:
        kind: `fixed`.
        value: The temperature; 0 removes the entropy term.
    """

    kind: str = "fixed"
    value: float = _number(_AT_LEAST_0)


@dataclass(kw_only=True)
class LearnedAlphaTemp(AlphaTemp):
    """A temperature learned so that the policy's entropy meets a target.

    Attributes:
        kind: `learned`.
        initial_value: The temperature at step 0.
        target_entropy: In nats; null is minus the number of action dimensions, as in SAC.
        temp_learning_rate: Adam's rate for log alpha_temp.
    """

    kind: str = "learned"
    initial_value: float = _number(
        _POSITIVE, hint="it is learned as a logarithm; for 0 choose algorithm/alpha_temp=fixed"
    )
    target_entropy: float | None = _number()
    temp_learning_rate: float = _number(_RATE, hint="for a constant temperature choose algorithm/alpha_temp=fixed")


@dataclass(kw_only=True)
class AlphaCql:
    """The multiplier `alpha_cql` of the conservative gap."""

    kind: str


@dataclass(kw_only=True)
class FixedAlphaCql(AlphaCql):
    """A constant multiplier.

    Attributes:
        kind: `fixed`.
        value: The multiplier, at most 1e6 like a learned one; 0 is SAC.
    """

    kind: str = "fixed"
    value: float = _number(Bounds(at_least=0, at_most=ALPHA_CQL_MAX), hint="0.5 to 20 is usual")


@dataclass(kw_only=True)
class LearnedAlphaCql(AlphaCql):
    """A multiplier learned by dual ascent, so that the gap stays near `tau_cql` (CQL paper, Eq. 30 and appendix F).

    Attributes:
        kind: `learned`.
        initial_value: The multiplier at step 0; it is clamped to 1e6.
        tau_cql: The threshold that the gap is held to, in units of return; null is the gap of critics that value the
            policy's actions just like the data's: `log m + target entropy` under `cql_h`, `log m` under the others,
            with m policy actions per state in the gap. Far above it nothing stays conservative; far below it the
            multiplier grows without end.
        alpha_learning_rate: Adam's rate for log alpha_cql.
    """

    kind: str = "learned"
    initial_value: float = _number(
        Bounds(above=0, at_most=ALPHA_CQL_MAX),
        hint="it is learned as a logarithm; for 0 choose algorithm/alpha_cql=fixed",
    )
    tau_cql: float | None = _number()
    alpha_learning_rate: float = _number(_RATE, hint="for a constant multiplier choose algorithm/alpha_cql=fixed")


@dataclass(kw_only=True)
class Penalty:
    """How the conservative gap is estimated; the class variables define a kind and are no options.

    Attributes:
        kind: The estimator's name.
        temperature: T of T logsumexp(q / T).
        gradient: `exact`, or `sampled`: unbiased, and faster where many actions are sampled, see
            `cql.algorithm.losses.sampled_gap`.
        num_gradient_actions: Actions per state and critic that a sampled gradient goes through; null if exact.
        gap_clip_min: Lower bound of each state's gap, beyond which it has no gradient; null for none.
        gap_clip_max: Upper bound; null for none.
    """

    importance_weighted: ClassVar[bool]
    next_actions: ClassVar[bool]
    calibrated: ClassVar[bool] = False

    kind: str
    temperature: float = _number(_POSITIVE)
    gradient: Gradient = Gradient.exact
    num_gradient_actions: int | None = field(default=None, metadata={"bounds": _AT_LEAST_1, "hint": "1 is fastest"})
    gap_clip_min: float | None = _later(None)
    gap_clip_max: float | None = _later(None)

    @property
    def n_groups(self) -> int:
        """Groups of sampled actions: uniform, from pi(.|s) and, in some kinds, from pi(.|s')."""
        return 3 if self.next_actions else 2

    @property
    def counts_data_action(self) -> bool:
        """Whether the data's action is in the log-sum-exp."""
        return bool(getattr(self, "include_data_action", False))


@dataclass(kw_only=True)
class CqlH(Penalty):
    """CQL(H) as published code runs it: uniform, current and next actions, weighted by importance."""

    importance_weighted: ClassVar[bool] = True
    next_actions: ClassVar[bool] = True

    kind: str = "cql_h"


@dataclass(kw_only=True)
class CalQl(CqlH):
    """Cal-QL: CQL(H) that pushes no action of the policy below the data's return (Nakamoto et al. 2023).

    In the gap, the value of each action that was drawn from the policy is at least the discounted return that the data
    had from that state on; `dataset.returns_to_go` says how that is counted.
    """

    calibrated: ClassVar[bool] = True

    kind: str = "cal_ql"


@dataclass(kw_only=True)
class CqlRho(Penalty):
    """CQL(rho): the three groups of actions without importance weights.

    Attributes:
        include_data_action: The data's action is in the log-sum-exp too, from which the logarithm of the number of
            actions is then subtracted, as in published code.
    """

    importance_weighted: ClassVar[bool] = False
    next_actions: ClassVar[bool] = True

    kind: str = "cql_rho"
    include_data_action: bool = False


@dataclass(kw_only=True)
class Blueprint(Penalty):
    """A plain log-sum-exp over uniform and current actions.

    Attributes:
        include_data_action: As in `cql_rho`.
    """

    importance_weighted: ClassVar[bool] = False
    next_actions: ClassVar[bool] = False

    kind: str = "blueprint"
    include_data_action: bool = False


@dataclass(kw_only=True)
class CqlConfig:
    """Conservative Q-Learning on the soft actor-critic.

    Attributes:
        w_cql: Fixed weight in front of `alpha_cql`.
        backup: The critics' target.
        num_sampled_actions: Actions sampled per group for the gap, and for the `max` backup.
        bc_steps: First steps in which the actor clones the data's actions.
        tau_target: Polyak rate of the target critics.
        target_update_period: Training steps between two updates of the target critics.
        discount: Gamma.
        critic_learning_rate: Adam's rate for the critics.
        actor_learning_rate: Adam's rate for the policy.
        log_std_min: Lower clamp of the policy's log standard deviation.
        log_std_max: Upper clamp.
        log_std_multiplier: Initial value of a number, learned with the policy, that multiplies its log standard
            deviation; null for none.
        log_std_offset: Initial value of a learned number that is added to it; null for none.
        n_critics: Critics in the ensemble; the policy maximises the lowest of their values.
        n_target_critics: The critics' target is the lowest value of so many target critics, drawn anew for each step;
            null for all.
        critic_max_grad_norm: Largest norm of the gradient of all critics together; null for none.
        actor_max_grad_norm: Largest norm of the policy's gradient; null for none.
        critic_weight_decay: AdamW's, for the critics.
        actor_weight_decay: AdamW's, for the policy.
        critic_schedule: How the critics' learning rate falls.
        actor_schedule: How the policy's learning rate falls.
        alpha_temp: The entropy temperature.
        alpha_cql: The conservative multiplier.
        penalty: The estimator of the conservative gap.
    """

    w_cql: float = _number(_AT_LEAST_0)
    backup: Backup
    num_sampled_actions: int = _number(_AT_LEAST_1)
    bc_steps: int = _number(_AT_LEAST_0)
    tau_target: float = _number(Bounds(above=0, at_most=1), hint="1 copies the critics, 0.005 is usual")
    target_update_period: int = _number(_AT_LEAST_1)
    discount: float = _number(Bounds(at_least=0, below=1), hint="0.99 is usual")
    critic_learning_rate: float = _number(_RATE, hint="3e-4 is usual")
    actor_learning_rate: float = _number(_RATE, hint="3e-5 to 3e-4 is usual")
    log_std_min: float = _number()
    log_std_max: float = _number()
    log_std_multiplier: float | None = _later(None)
    log_std_offset: float | None = _later(None)
    n_critics: int = _later(2, _AT_LEAST_1)
    n_target_critics: int | None = _later(None, _AT_LEAST_1)
    critic_max_grad_norm: float | None = _later(None, _POSITIVE)
    actor_max_grad_norm: float | None = _later(None, _POSITIVE)
    critic_weight_decay: float = _later(0.0, _AT_LEAST_0)
    actor_weight_decay: float = _later(0.0, _AT_LEAST_0)
    critic_schedule: Schedule = Schedule.constant
    actor_schedule: Schedule = Schedule.constant
    alpha_temp: AlphaTemp
    alpha_cql: AlphaCql
    penalty: Penalty

    @property
    def is_scheduled(self) -> bool:
        """Whether a learning rate changes in training."""
        return {self.critic_schedule, self.actor_schedule} != {Schedule.constant}


# ----------------------------------------------------------------------------------------------------------------------
# Data, network, environment, logger
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Dataset:
    """What every dataset has.

    Attributes:
        kind: Where the data come from.
        normalise_observations: Subtract the data's mean and divide by its standard deviation, in evaluation too.
        reward_scale: Multiplies the rewards.
        reward_bias: Is added to the scaled rewards.
        n_episodes: Use that many episodes, chosen by `subset_seed`; null for all.
        fraction: Use that share of the episodes; null for all.
        subset_seed: Seed of that choice.
        timeouts_as_terminals: Also cut the return at truncations. Teaches the critics a false end; it is here to
            reproduce code that does so.
        normalise_rewards: First divide the rewards by the range of the episodes' returns, and multiply them by the
            environment's time limit.
        action_clip: Largest magnitude of the data's actions, which are scaled to [-1, 1]; null leaves them.
        returns_to_go: Of Cal-QL.
    """

    kind: str
    normalise_observations: bool
    reward_scale: float = _number(_POSITIVE)
    reward_bias: float = _number()
    n_episodes: int | None = _number(_AT_LEAST_1)
    fraction: float | None = _number(Bounds(above=0, at_most=1))
    subset_seed: int = _number(_SEED)
    timeouts_as_terminals: bool
    normalise_rewards: bool = False
    action_clip: float | None = _later(None, Bounds(above=0, at_most=1), hint="published code has 0.99999")
    returns_to_go: ReturnsToGo = ReturnsToGo.truncate


QUALITIES = ("medium", "medium_replay", "medium_expert", "random")
EMBEDDED_DATASETS = tuple(f"{task}_{quality}" for task in ("halfcheetah", "hopper") for quality in QUALITIES)


@dataclass(kw_only=True)
class EmbeddedDataset(Dataset):
    """A dataset made from the behaviour policies in this package, on first use, as a local Minari dataset.

    Attributes:
        name: Which.
    """

    kind: str = "embedded"
    name: str = _text(one_of=EMBEDDED_DATASETS)


@dataclass(kw_only=True)
class MinariDataset(Dataset):
    """A Minari dataset, local or downloaded.

    Attributes:
        id: Such as `mujoco/hopper/medium-v0`.
        download: Fetch it from Minari's hub when it is not local.
    """

    kind: str = "minari"
    id: str = _text(ask="the id of a Minari dataset, e.g. dataset.id=mujoco/hopper/medium-v0")
    download: bool


@dataclass(kw_only=True)
class D4rlDataset(Dataset):
    """A D4RL HDF5 file. If it has no `timeouts`, like the first `-v0` files, they are derived by D4RL's rule.

    Attributes:
        path: The file.
    """

    kind: str = "d4rl"
    path: str = _text(ask="the path of a D4RL HDF5 file, e.g. dataset.path=data/halfcheetah_medium-v2.hdf5")


@dataclass(kw_only=True)
class Online:
    """Training that goes on in the environment, after `n_steps` steps on the dataset."""

    kind: str

    @property
    def n_updates(self) -> int:
        """Training steps in the environment's part of a run."""
        return 0


@dataclass(kw_only=True)
class NoOnline(Online):
    """Training ends with the dataset.

    Attributes:
        kind: `none`.
    """

    kind: str = "none"


@dataclass(kw_only=True)
class Finetune(Online):
    """Training goes on with whole episodes that each run collects with sampled actions.

    Attributes:
        kind: `finetune`.
        n_online_steps: Environment steps of each run. Episodes are collected whole, so that there may be more, by less
            than the episodes of one collection.
        n_start_steps: Of these, how many are collected before training goes on; no training steps are taken for them.
        update_to_data: Training steps per environment step.
        episodes_per_collection: Episodes that a run collects at once, whenever its training has caught up.
        mixing_ratio: Share of each minibatch that comes from the dataset; null draws from both in proportion to their
            sizes.
        buffer_size: The newest transitions of its own that a run learns from.
        n_steps_per_epoch: Environment steps averaged into one row of metrics; null for the run's `n_steps_per_epoch`.
        alpha_cql: A fixed multiplier from here on; null keeps it.
        w_cql: The weight in front of it from here on; null keeps it.
        calibrated: Whether Cal-QL's floor is still used; null keeps it.
    """

    kind: str = "finetune"
    n_online_steps: int = _number(_AT_LEAST_1)
    n_start_steps: int = _number(_AT_LEAST_0)
    update_to_data: int = _number(_AT_LEAST_1)
    episodes_per_collection: int = _number(_AT_LEAST_1)
    mixing_ratio: float | None = _number(Bounds(at_least=0, at_most=1), hint="0.5 is usual")
    buffer_size: int = _number(_AT_LEAST_1)
    n_steps_per_epoch: int | None = _number(_AT_LEAST_1)
    alpha_cql: float | None = _number(Bounds(at_least=0, at_most=ALPHA_CQL_MAX), hint="0 trains on as SAC")
    w_cql: float | None = _number(_AT_LEAST_0)
    calibrated: bool | None = None

    @property
    def n_updates(self) -> int:
        """Training steps in the environment's part of a run."""
        return self.update_to_data * (self.n_online_steps - self.n_start_steps)


@dataclass(kw_only=True)
class NetworkPart:
    """What the policy's network or the critics' have otherwise than `network` says; null for what it says.

    Attributes:
        width: Units per hidden layer.
        depth: Hidden layers.
        activation: After each hidden layer.
        layer_norm: Normalise before each activation.
        initialisation: How weights begin.
        last_layer_scale: Gain of the last layer.
    """

    width: int | None = _later(None, _AT_LEAST_1)
    depth: int | None = _later(None, _AT_LEAST_1)
    activation: Activation | None = None
    layer_norm: bool | None = None
    initialisation: Initialisation | None = None
    last_layer_scale: float | None = _later(None, _POSITIVE)


@dataclass(kw_only=True)
class NetworkConfig:
    """Multi-layer perceptrons for the policy and the critics.

    Attributes:
        width: Units per hidden layer.
        depth: Hidden layers.
        activation: After each hidden layer.
        layer_norm: Normalise before each activation.
        initialisation: How weights begin.
        last_layer_scale: Gain of the last layer, which then has zero biases, and orthogonal weights if the others have,
            or else Xavier uniform ones; null lets it begin like the others.
        actor: What the policy's network has otherwise.
        critic: What the critics' networks have otherwise.
    """

    width: int = _number(_AT_LEAST_1)
    depth: int = _number(_AT_LEAST_1)
    activation: Activation
    layer_norm: bool
    initialisation: Initialisation
    last_layer_scale: float | None = _later(None, _POSITIVE, hint="published code has 0.01")
    actor: NetworkPart = field(default_factory=NetworkPart)
    critic: NetworkPart = field(default_factory=NetworkPart)


@dataclass(kw_only=True)
class EnvConfig:
    """The environment that policies are evaluated in.

    Attributes:
        id: Gymnasium's, such as `Hopper-v5`, or with the module that registers it, such as `my_package:MyEnv-v0`.
        reference: The returns that score 0 and 100: `auto` for D4RL's constants of this environment, if there are any;
            null for no score; or `[MIN, MAX]`. See `cql.rollout.reference_scores`.
        kwargs: Arguments that the environment is made with besides those of its registration, such as
            `{healthy_reward:2}`; null for none.
        max_episode_steps: Time limit of an episode; null for the environment's own.
        n_eval_episodes: Episodes per evaluation.
        eval_seed: Episode e of every evaluation is reset with `eval_seed + e`.
    """

    id: str
    reference: Any  # OmegaConf knows no union of a text and a list; `conversion` checks it
    kwargs: Any = None  # a mapping or null; Hydra adds no keys to one whose type is known, and `conversion` checks it
    max_episode_steps: int | None = field(default=None, metadata={"bounds": _AT_LEAST_1, "hint": ""})
    n_eval_episodes: int = _number(_AT_LEAST_1)
    eval_seed: int = _number(Bounds(at_least=0, at_most=2**31))


@dataclass(kw_only=True)
class Logger:
    """Where metrics go besides the run's folder, which always holds them."""

    kind: str


@dataclass(kw_only=True)
class WandbLoggerConfig(Logger):
    """Weights & Biases.

    Attributes:
        project: W&B's.
        entity: A team or user; null for the account's default.
        group: Runs to be averaged on a dashboard; null is `<env>/<dataset>`.
        job_type: W&B's.
        tags: W&B's.
        name: The run's name; null for one made from the config.
        mode: Where the run goes.
        log_checkpoints: Upload the final and the best checkpoint as artifacts.
        finish_timeout: Seconds to wait at the end, for all runs of a stack together, until W&B has everything.
    """

    kind: str = "wandb"
    project: str
    entity: str | None
    group: str | None
    job_type: str
    tags: list[str]
    name: str | None
    mode: LoggerMode
    log_checkpoints: bool
    finish_timeout: float = field(default=600.0, metadata={"bounds": Bounds(above=0.0), "hint": ""})


@dataclass(kw_only=True)
class LocalLoggerConfig(Logger):
    """Only the run's folder."""

    kind: str = "local"


@dataclass(kw_only=True)
class VideoConfig:
    """Rollouts as GIF and MP4.

    Attributes:
        enabled: Whether any are made.
        seconds: Length, in simulated time.
        size: Width and height in pixels; even, as MP4 demands.
    """

    enabled: bool
    seconds: float = _number(Bounds(above=0, at_most=60))
    size: int = _number(Bounds(at_least=32, at_most=1080))


@dataclass(kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        seed: Of everything random in training.
        device: Where training runs.
        n_steps: Training steps on the dataset; with `online=finetune` there may be none.
        n_steps_per_epoch: Steps averaged into one row of metrics; the last epoch is shorter if it does not divide
            `n_steps`.
        batch_size: Transitions per step.
        n_epochs_per_eval: Epochs between evaluations; the last epoch always ends with one.
        n_evals_per_video: Evaluations between videos; 0 records the final policy alone.
        n_epochs_per_checkpoint: Epochs between checkpoints.
        n_kept_checkpoints: The newest that are kept, besides the best.
        resume: The folder of a run to resume.
        n_threads: Torch's threads; null leaves the choice to torch.
        fast: Compute Adam in one kernel, relu networks on a CPU in pieces that stay in its cache, and the critics'
            gradient on a GPU in groups of states: the same numbers but for rounding, faster.
        cuda_graph: On a GPU, capture training steps as CUDA graphs: the same numbers, faster.
        tf32: On a GPU, let matrix products round their factors to TF32's 10 bits: faster, and other numbers.
        eval_worker: Whether evaluations and videos run in another process, beside training.
        sweep_name: The sweep's folder under `outputs/sweeps/`; the same name again resumes the sweep. Null names it by
            date and time.
        init_from: A run's folder, or one of its checkpoints, whose networks, optimisers and step this run begins with.
        init_from_sweep: A sweep's name; each run begins with the one there that has the same values.
        retry_failed: Also resume runs that failed, from their last checkpoint.
        algorithm: The learner.
        dataset: What it learns from.
        online: Whether and how training goes on in the environment.
        network: Its networks.
        env: Where it is evaluated.
        logger: Where metrics go.
        video: Rollouts.
    """

    seed: int = _number(_SEED)
    device: Device
    n_steps: int = _number(_AT_LEAST_0)
    n_steps_per_epoch: int = _number(_AT_LEAST_1)
    batch_size: int = _number(_AT_LEAST_1)
    n_epochs_per_eval: int = _number(_AT_LEAST_1)
    n_evals_per_video: int = _number(_AT_LEAST_0, hint="for no videos at all write video.enabled=false")
    n_epochs_per_checkpoint: int = _number(_AT_LEAST_1)
    n_kept_checkpoints: int = _number(_AT_LEAST_1)
    resume: str | None
    n_threads: int | None = _number(_AT_LEAST_1)
    # With defaults, because the files of runs from before these keys lack them.
    eval_worker: EvalWorker = EvalWorker.auto
    sweep_name: str | None = None
    retry_failed: bool = False
    init_from: str | None = None
    init_from_sweep: str | None = None
    fast: bool = True
    cuda_graph: bool = True
    tf32: bool = False
    algorithm: CqlConfig
    dataset: Dataset
    online: Online
    network: NetworkConfig
    env: EnvConfig
    logger: Logger
    video: VideoConfig

    @property
    def n_all_steps(self) -> int:
        """Training steps in all."""
        return self.n_steps + self.online.n_updates


# The variants of each base class.
VARIANTS: dict[type, tuple[type, ...]] = {
    AlphaTemp: (FixedAlphaTemp, LearnedAlphaTemp),
    AlphaCql: (FixedAlphaCql, LearnedAlphaCql),
    Penalty: (CqlH, CalQl, CqlRho, Blueprint),
    Online: (NoOnline, Finetune),
    Dataset: (EmbeddedDataset, MinariDataset, D4rlDataset),
    Logger: (WandbLoggerConfig, LocalLoggerConfig),
}
