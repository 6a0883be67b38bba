"""The schema of a training run's config: dataclasses with the types, bounds and hints of every key.

The YAML files of `configs/` hold names and values only. `train.yaml` and every file of a group with variants begin with
their schema (`/schema/...@_here_`), so that OmegaConf refuses a misspelt key or a wrong type while the config is
composed.

A variant (a learned or a fixed `alpha_cql`, a Minari or a D4RL dataset) is a dataclass of its own, so a combination
without effect cannot be written, and code that reads a config matches on the class. Each variant carries its name as
`kind`, by which :func:`cql.config.conversion.from_dict` finds the class again.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from cql.config.bounds import ALPHA_CQL_MAX, AT_LEAST_0, AT_LEAST_1, POSITIVE, RATE, SEED, Bounds, later, number
from cql.config.choices import (
    Activation,
    Backup,
    Device,
    EvalWorker,
    Gradient,
    Initialisation,
    LoggerMode,
    RateSchedule,
)
from cql.config.datasets import (
    D4rlDataset,
    Dataset,
    EmbeddedDataset,
    MinariDataset,
    MixtureDataset,
    TableDataset,
)
from cql.config.online import Finetune, NoOnline, Online

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
    value: float = number(AT_LEAST_0)


@dataclass(kw_only=True)
class LearnedAlphaTemp(AlphaTemp):
    """A temperature learned so that the policy's entropy meets a target.

    Attributes:
        kind: `learned`.
        initial_value: The temperature at step 0.
        target_entropy: The entropy that the policy is held to, in nats; null is minus the number of action dimensions,
            as in SAC.
        temp_learning_rate: Adam's learning rate for log alpha_temp.
    """

    kind: str = "learned"
    initial_value: float = number(
        POSITIVE, hint="it is learned as a logarithm; for 0 choose algorithm/alpha_temp=fixed"
    )
    target_entropy: float | None = number()
    temp_learning_rate: float = number(RATE, hint="for a constant temperature choose algorithm/alpha_temp=fixed")


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
    value: float = number(Bounds(at_least=0, at_most=ALPHA_CQL_MAX), hint="0.5 to 20 is usual")


@dataclass(kw_only=True)
class LearnedAlphaCql(AlphaCql):
    """A multiplier learned by dual ascent, so that the gap stays near `tau_cql` (CQL paper, Eq. 30 and appendix F).

    Attributes:
        kind: `learned`.
        initial_value: The multiplier at step 0; it is clamped to 1e6.
        tau_cql: The threshold that the gap is held to, in units of return. Null is an estimate of the gap of critics
            that value the policy's actions like the data's: `log m + target entropy` with importance weights, else
            `log m`, with m policy actions per state in the gap. Far above this gap the multiplier falls to 0; far
            below it the multiplier grows without end.
        alpha_learning_rate: Adam's learning rate for log alpha_cql.
    """

    kind: str = "learned"
    initial_value: float = number(
        Bounds(above=0, at_most=ALPHA_CQL_MAX),
        hint="it is learned as a logarithm; for 0 choose algorithm/alpha_cql=fixed",
    )
    tau_cql: float | None = number()
    alpha_learning_rate: float = number(RATE, hint="for a constant multiplier choose algorithm/alpha_cql=fixed")


@dataclass(kw_only=True)
class Penalty:
    """How the conservative gap is estimated.

    Attributes:
        kind: The estimator's name.
        temperature: Temperature T of the log-sum-exp, T logsumexp(Q / T).
        gradient: `exact` goes through every sampled action. `sampled` goes through a few of them, drawn by their
            weight: unbiased, and faster if many actions are sampled; see `cql.algorithm.losses.sampled_gap`.
        num_gradient_actions: Actions per state and critic that a `sampled` gradient goes through; null if `exact`.
        gap_clip_min: Lower bound of each state's gap; a gap below it has no gradient. Null for none.
        gap_clip_max: Upper bound of each state's gap; a gap above it has no gradient. Null for none.
    """

    # What defines a kind, and is no option.
    importance_weighted: ClassVar[bool]
    next_actions: ClassVar[bool]
    calibrated: ClassVar[bool] = False

    kind: str
    temperature: float = number(POSITIVE)
    gradient: Gradient = Gradient.exact
    num_gradient_actions: int | None = field(default=None, metadata={"bounds": AT_LEAST_1, "hint": "1 is fastest"})
    gap_clip_min: float | None = later(None)
    gap_clip_max: float | None = later(None)

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
        include_data_action: Whether the log-sum-exp includes the data's action. Then the logarithm of the number of
            actions is subtracted from it, as in published code.
    """

    importance_weighted: ClassVar[bool] = False
    next_actions: ClassVar[bool] = True

    kind: str = "cql_rho"
    include_data_action: bool = False


@dataclass(kw_only=True)
class Blueprint(Penalty):
    """A plain log-sum-exp over uniform and current actions.

    Attributes:
        include_data_action: Whether the log-sum-exp includes the data's action, as in `cql_rho`.
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
        backup: The critics' target: `soft` with the entropy term, `hard` without it, `max` the largest value over
            sampled next actions.
        num_sampled_actions: Actions sampled per group for the gap, and for the `max` backup.
        bc_steps: Number of training steps at the start in which the actor clones the data's actions.
        tau_target: Polyak rate of the target critics.
        target_update_period: Training steps between two updates of the target critics.
        discount: Discount factor gamma.
        critic_learning_rate: Adam's learning rate for the critics.
        actor_learning_rate: Adam's learning rate for the policy.
        log_std_min: Lower clamp of the policy's log standard deviation.
        log_std_max: Upper clamp of the policy's log standard deviation.
        log_std_multiplier: Initial value of a number, learned with the policy, that multiplies its log standard
            deviation; null for none.
        log_std_offset: Initial value of a number, learned with the policy, that is added to its log standard deviation;
            null for none.
        n_critics: Critics in the ensemble; the policy maximises the lowest of their values.
        n_target_critics: Target critics whose lowest value is the critics' target, drawn at random at each step; null
            for all.
        critic_max_grad_norm: Largest norm of the gradient of all critics together; null for none.
        actor_max_grad_norm: Largest norm of the policy's gradient; null for none.
        critic_weight_decay: AdamW's weight decay for the critics.
        actor_weight_decay: AdamW's weight decay for the policy.
        critic_schedule: How the critics' learning rate falls to 0 over all training steps of a run.
        actor_schedule: How the policy's learning rate falls to 0 over all training steps of a run.
        alpha_temp: The entropy temperature.
        alpha_cql: The conservative multiplier.
        penalty: The estimator of the conservative gap.
    """

    w_cql: float = number(AT_LEAST_0)
    backup: Backup
    num_sampled_actions: int = number(AT_LEAST_1)
    bc_steps: int = number(AT_LEAST_0)
    tau_target: float = number(Bounds(above=0, at_most=1), hint="1 copies the critics, 0.005 is usual")
    target_update_period: int = number(AT_LEAST_1)
    discount: float = number(Bounds(at_least=0, below=1), hint="0.99 is usual")
    critic_learning_rate: float = number(RATE, hint="3e-4 is usual")
    actor_learning_rate: float = number(RATE, hint="3e-5 to 3e-4 is usual")
    log_std_min: float = number()
    log_std_max: float = number()
    log_std_multiplier: float | None = later(None)
    log_std_offset: float | None = later(None)
    n_critics: int = later(2, AT_LEAST_1)
    n_target_critics: int | None = later(None, AT_LEAST_1)
    critic_max_grad_norm: float | None = later(None, POSITIVE)
    actor_max_grad_norm: float | None = later(None, POSITIVE)
    critic_weight_decay: float = later(0.0, AT_LEAST_0)
    actor_weight_decay: float = later(0.0, AT_LEAST_0)
    critic_schedule: RateSchedule = RateSchedule.constant
    actor_schedule: RateSchedule = RateSchedule.constant
    alpha_temp: AlphaTemp
    alpha_cql: AlphaCql
    penalty: Penalty

    @property
    def is_scheduled(self) -> bool:
        """Whether a learning rate changes in training."""
        return {self.critic_schedule, self.actor_schedule} != {RateSchedule.constant}


# ----------------------------------------------------------------------------------------------------------------------
# Network, environment, logger
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class NetworkPart:
    """Settings of the policy's network or of the critics' that differ from `network`; null takes those of `network`.

    Attributes:
        width: Units per hidden layer.
        depth: Number of hidden layers.
        activation: Non-linearity after each hidden layer.
        layer_norm: Whether to normalise before each activation.
        initialisation: How weights are initialised.
        last_layer_scale: Gain of the last layer.
    """

    width: int | None = later(None, AT_LEAST_1)
    depth: int | None = later(None, AT_LEAST_1)
    activation: Activation | None = None
    layer_norm: bool | None = None
    initialisation: Initialisation | None = None
    last_layer_scale: float | None = later(None, POSITIVE)


@dataclass(kw_only=True)
class NetworkConfig:
    """Multi-layer perceptrons for the policy and the critics.

    Attributes:
        width: Units per hidden layer.
        depth: Number of hidden layers.
        activation: Non-linearity after each hidden layer.
        layer_norm: Whether to normalise before each activation.
        initialisation: How weights are initialised: `torch` is the default of torch's `Linear`.
        last_layer_scale: Gain of the last layer. Its biases are then zero, its weights orthogonal if the other layers'
            are, else Xavier uniform. Null initialises it like the others.
        actor: Settings of the policy's network that differ.
        critic: Settings of the critics' networks that differ.
    """

    width: int = number(AT_LEAST_1)
    depth: int = number(AT_LEAST_1)
    activation: Activation
    layer_norm: bool
    initialisation: Initialisation
    last_layer_scale: float | None = later(None, POSITIVE, hint="published code has 0.01")
    actor: NetworkPart = field(default_factory=NetworkPart)
    critic: NetworkPart = field(default_factory=NetworkPart)


NO_SIMULATOR = "none"
"""The id of an environment that is known from recorded data alone."""


@dataclass(kw_only=True)
class EnvConfig:
    """The environment that policies are evaluated in.

    Attributes:
        id: Gymnasium id, such as `Hopper-v5`, or with the module that registers it, such as `my_package:MyEnv-v0`;
            `none` if there is no simulator. Then policies are scored on recorded data, by `cql.algorithm.scorers`.
        reference: The returns that score 0 and 100: `auto` for D4RL's constants of this environment, if there are any;
            null for no score; or `[MIN, MAX]`.
        kwargs: Arguments that the environment is made with besides those of its registration, such as
            `{healthy_reward:2}`; null for none.
        max_episode_steps: Time limit of an episode, in environment steps; null for the environment's own, or that of
            the data.
        observation_keys: Which parts of a Dict observation the policy sees, in that order; null for the only part, or
            for the three of a goal environment (`achieved_goal`, `observation`, `desired_goal`) if they are vectors.
        n_eval_episodes: Episodes per evaluation.
        eval_seed: Episode e of every evaluation is reset with `eval_seed + e`.
        action_low: Only with `env=none`: lower bounds of the actions, one number for all or one for each; null for the
            data's.
        action_high: Only with `env=none`: upper bounds of the actions, given in the same way.
        best_by: Only with `env=none`: the scorer that chooses the best checkpoint and the best run; null for none.
    """

    id: str
    reference: Any  # OmegaConf knows no union of a text and a list; `conversion` checks it
    kwargs: Any = None  # a mapping or null; Hydra adds no keys to one whose type is known, and `conversion` checks it
    max_episode_steps: int | None = field(default=None, metadata={"bounds": AT_LEAST_1, "hint": ""})
    observation_keys: list[str] | None = None
    n_eval_episodes: int = number(AT_LEAST_1)
    eval_seed: int = number(Bounds(at_least=0, at_most=2**31))
    action_low: Any = None  # `conversion` checks both
    action_high: Any = None
    best_by: str | None = None

    @property
    def has_simulator(self) -> bool:
        """Whether policies can act in it."""
        return self.id != NO_SIMULATOR


@dataclass(kw_only=True)
class Logger:
    """Where metrics go besides the run's folder, which always holds them."""

    kind: str


@dataclass(kw_only=True)
class WandbLoggerConfig(Logger):
    """Weights & Biases.

    Attributes:
        project: Project in W&B.
        entity: Team or user in W&B; null for the account's default.
        group: Group of the run in W&B, over which its charts average; null for `<env>/<dataset>`, in a sweep
            `<sweep>/<point without the seed>`.
        job_type: Job type of the run in W&B.
        tags: Tags of the run in W&B.
        name: The run's name in W&B; null for one made from the config.
        mode: Where the run goes; `auto` is `online` if there are an API key and a network, else `offline`.
        log_checkpoints: Whether to upload the last and the best checkpoint as artifacts.
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
        enabled: Whether videos are recorded.
        seconds: Length of a video, in simulated time.
        size: Width and height in pixels; an even number, which MP4 requires.
    """

    enabled: bool
    seconds: float = number(Bounds(above=0, at_most=60))
    size: int = number(Bounds(at_least=32, at_most=1080))


@dataclass(kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        seed: Seed of all random numbers in training.
        device: Where training runs; `auto` is CUDA if there is a device, else the CPU.
        n_steps: Training steps on the dataset; may be 0 with `online=finetune`.
        n_steps_per_epoch: Training steps per epoch. An epoch is averaged into one row of metrics; the last one is
            shorter if this does not divide `n_steps`.
        batch_size: Transitions per minibatch.
        n_epochs_per_eval: Epochs between evaluations; the last epoch always ends with one.
        n_evals_per_video: Evaluations between videos; 0 records only the final policy.
        n_epochs_per_checkpoint: Epochs between checkpoints; the last epoch always ends with one.
        n_kept_checkpoints: How many of the newest checkpoints are kept, besides the best.
        resume: The folder of a run to resume; takes no other override.
        n_threads: Number of torch's threads; null leaves it to torch.
        fast: Use the fast path: fused Adam; on a CPU relu networks in pieces that fit its cache; on a GPU the critics'
            gradient in groups of states. The numbers are the same up to rounding.
        cuda_graph: On a GPU, capture training steps as CUDA graphs: faster.
        tf32: On a GPU, let matrix products round their factors to TF32's 10 bits: faster, with other numbers.
        eval_worker: Whether another process does evaluations and videos while training continues; `auto` does so if
            training is on CUDA. The results are the same, bit for bit.
        sweep_name: The sweep's folder under `outputs/sweeps/`; the same name again resumes the sweep. Null names it by
            date and time.
        init_from: A run's folder, or one of its checkpoints. This run begins with its networks, optimisers and step.
        init_from_sweep: A sweep's name. Each run begins with the run of that sweep that has the same values.
        retry_failed: Whether to also resume runs that failed, from their last checkpoint.
        algorithm: The learner.
        dataset: What it learns from.
        online: Whether and how training continues in the environment.
        network: Its networks.
        env: Where it is evaluated.
        logger: Where metrics go.
        video: Rollouts.
    """

    seed: int = number(SEED)
    device: Device
    n_steps: int = number(AT_LEAST_0)
    n_steps_per_epoch: int = number(AT_LEAST_1)
    batch_size: int = number(AT_LEAST_1)
    n_epochs_per_eval: int = number(AT_LEAST_1)
    n_evals_per_video: int = number(AT_LEAST_0, hint="for no videos at all write video.enabled=false")
    n_epochs_per_checkpoint: int = number(AT_LEAST_1)
    n_kept_checkpoints: int = number(AT_LEAST_1)
    resume: str | None
    n_threads: int | None = number(AT_LEAST_1)
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
    Dataset: (EmbeddedDataset, MinariDataset, D4rlDataset, TableDataset, MixtureDataset),
    Logger: (WandbLoggerConfig, LocalLoggerConfig),
}
