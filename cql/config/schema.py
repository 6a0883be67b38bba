"""The schemas of every config, their checks, and the messages for what is wrong.

Types, bounds and prose live here; the YAML files of `configs/` hold names and values only. `train.yaml` and every file
of a group with variants begin with their schema (`/schema/...@_here_`), so that a misspelt key or a wrong type is
refused while the config is composed, and `checked` refuses values out of range before anything heavy is imported: this
module imports neither torch, wandb, minari, gymnasium nor mujoco.

A variant (a learned against a fixed `alpha_cql`, a Minari against a D4RL dataset) is a dataclass of its own, so a
combination that has no effect cannot be written, and code that reads a config matches on the class. Each variant
carries its name as `kind`, by which `from_dict` finds the class again.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

# In a wheel the folder stands inside the package, in a checkout beside it.
CONFIG_DIR = next(
    (path / "configs" for path in Path(__file__).resolve().parents[1:3] if (path / "configs").is_dir()),
    Path(__file__).resolve().parents[2] / "configs",
)

_HYDRA_1_3 = hydra.__version__.startswith("1.3.")
# What `hydra.main` and its like are to be given: 1.3 asks for the version, 1.4 deprecates the question.
VERSION_BASE = {"version_base": "1.3"} if _HYDRA_1_3 else {}


class ConfigError(ValueError):
    """A config that cannot be run; the message names every wrong key, its value and what to do."""


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


def _text(*, ask: str = "", one_of: Sequence[str] = ()) -> Any:
    """A text without a default; `ask` says what is to be given where it is missing."""
    return field(metadata={"ask": ask, "one_of": tuple(one_of)})


_POSITIVE = Bounds(above=0)
_AT_LEAST_0 = Bounds(at_least=0)
_AT_LEAST_1 = Bounds(at_least=1)
_RATE = Bounds(above=0, at_most=1)
_SEED = Bounds(at_least=0, at_most=2**32 - 1)
_ALPHA_CQL_MAX = 1e6  # cql.algorithm.losses.ALPHA_CQL_MAX, which torch comes with


# ----------------------------------------------------------------------------------------------------------------------
# Choices
# ----------------------------------------------------------------------------------------------------------------------


class Device(StrEnum):
    """Where training runs; `auto` takes CUDA where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class EvalWorker(StrEnum):
    """Whether a process of its own evaluates and films while training goes on; `auto` is where training is on CUDA.

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
    """How the conservative gap's gradient is taken: through every sampled action, or through a few drawn by weight."""

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
        value: The temperature; 0 takes the entropy term away.
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
        value: The multiplier, at most 1e6 as where it is learned; 0 leaves plain SAC.
    """

    kind: str = "fixed"
    value: float = _number(Bounds(at_least=0, at_most=_ALPHA_CQL_MAX), hint="0.5 to 20 is usual")


@dataclass(kw_only=True)
class LearnedAlphaCql(AlphaCql):
    """A multiplier learned by dual ascent, so that the gap stays near `tau_cql` (CQL paper, Eq. 30 and appendix F).

    Attributes:
        kind: `learned`.
        initial_value: The multiplier at step 0; it is held at 1e6 at most.
        tau_cql: The threshold that the gap is held to, in units of return; null is the gap of critics that value the
            policy's actions just like the data's: `log m + target entropy` under `cql_h`, `log m` under the others,
            with m policy actions per state in the gap. Far above it nothing stays conservative; far below it the
            multiplier grows without end.
        alpha_learning_rate: Adam's rate for log alpha_cql.
    """

    kind: str = "learned"
    initial_value: float = _number(
        Bounds(above=0, at_most=_ALPHA_CQL_MAX),
        hint="it is learned as a logarithm; for 0 choose algorithm/alpha_cql=fixed",
    )
    tau_cql: float | None = _number()
    alpha_learning_rate: float = _number(_RATE, hint="for a constant multiplier choose algorithm/alpha_cql=fixed")


@dataclass(kw_only=True)
class Penalty:
    """How the conservative gap is estimated; the two class variables are what a kind is, not options.

    Attributes:
        kind: The estimator's name.
        temperature: T of T logsumexp(q / T).
        gradient: `exact`, or `sampled`: unbiased, and about twice as fast (see `cql.algorithm.losses.critic_gradient`).
        num_gradient_actions: Actions per state and critic that a sampled gradient goes through; null where exact.
    """

    importance_weighted: ClassVar[bool]
    next_actions: ClassVar[bool]

    kind: str
    temperature: float = _number(_POSITIVE)
    gradient: Gradient = Gradient.exact
    num_gradient_actions: int | None = field(default=None, metadata={"bounds": _AT_LEAST_1, "hint": "1 is fastest"})

    @property
    def n_groups(self) -> int:
        """Groups of sampled actions: uniform, from pi(.|s), and where the kind has it from pi(.|s')."""
        return 3 if self.next_actions else 2


@dataclass(kw_only=True)
class CqlH(Penalty):
    """CQL(H) as published code runs it: uniform, current and next actions, weighted by importance."""

    importance_weighted: ClassVar[bool] = True
    next_actions: ClassVar[bool] = True

    kind: str = "cql_h"


@dataclass(kw_only=True)
class CqlRho(Penalty):
    """CQL(rho): the three groups of actions without importance weights."""

    importance_weighted: ClassVar[bool] = False
    next_actions: ClassVar[bool] = True

    kind: str = "cql_rho"


@dataclass(kw_only=True)
class Blueprint(Penalty):
    """A plain log-sum-exp over uniform and current actions."""

    importance_weighted: ClassVar[bool] = False
    next_actions: ClassVar[bool] = False

    kind: str = "blueprint"


@dataclass(kw_only=True)
class CqlConfig:
    """Conservative Q-Learning on the soft actor-critic.

    Attributes:
        w_cql: Fixed weight in front of `alpha_cql`.
        backup: The critics' target.
        num_sampled_actions: Actions sampled per group for the gap, and for the `max` backup.
        bc_steps: The actor's first steps, which imitate the data.
        tau_target: Polyak rate of the target critics.
        target_update_period: Training steps between two updates of the target critics.
        discount: Gamma.
        critic_learning_rate: Adam's rate for the critics.
        actor_learning_rate: Adam's rate for the policy.
        log_std_min: Lower clamp of the policy's log standard deviation.
        log_std_max: Upper clamp.
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
    alpha_temp: AlphaTemp
    alpha_cql: AlphaCql
    penalty: Penalty


# ----------------------------------------------------------------------------------------------------------------------
# Data, network, environment, logger
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Dataset:
    """What every dataset has.

    Attributes:
        kind: Where the data come from.
        normalise_observations: Subtract the data's mean and divide by its standard deviation, in evaluation too.
        reward_scale: Rewards are multiplied by it,
        reward_bias: and then this is added.
        n_episodes: Use that many episodes, chosen by `subset_seed`; null for all.
        fraction: Use that share of the episodes; null for all.
        subset_seed: Seed of that choice.
        timeouts_as_terminals: Also cut the return where an episode was merely truncated. Teaches the critics a false
            end; it is here to reproduce code that does so.
    """

    kind: str
    normalise_observations: bool
    reward_scale: float = _number(_POSITIVE)
    reward_bias: float = _number()
    n_episodes: int | None = _number(_AT_LEAST_1)
    fraction: float | None = _number(Bounds(above=0, at_most=1))
    subset_seed: int = _number(_SEED)
    timeouts_as_terminals: bool


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
    """A D4RL HDF5 file. Where it has no `timeouts`, as the first `-v0` files, they are derived by D4RL's rule.

    Attributes:
        path: The file.
    """

    kind: str = "d4rl"
    path: str = _text(ask="the path of a D4RL HDF5 file, e.g. dataset.path=data/halfcheetah_medium-v2.hdf5")


@dataclass(kw_only=True)
class NetworkConfig:
    """Multi-layer perceptrons, of one shape for the policy and the critics.

    Attributes:
        width: Units per hidden layer.
        depth: Hidden layers.
        activation: After each hidden layer.
        layer_norm: Normalise before each activation.
        initialisation: How weights begin.
    """

    width: int = _number(_AT_LEAST_1)
    depth: int = _number(_AT_LEAST_1)
    activation: Activation
    layer_norm: bool
    initialisation: Initialisation


@dataclass(kw_only=True)
class Reference:
    """Returns that stand for 0 and 100 on the normalised scale.

    Attributes:
        name: Whose constants they are; shown beside every normalised score.
        min_score: The return of a random policy.
        max_score: The return of an expert.
    """

    name: str
    min_score: float = _number()
    max_score: float = _number()


@dataclass(kw_only=True)
class EnvConfig:
    """The environment that policies are evaluated in.

    Attributes:
        id: Gymnasium's.
        reference: Null where no normalised score exists.
        n_eval_episodes: Episodes per evaluation.
        eval_seed: Episode e of every evaluation is reset with `eval_seed + e`.
    """

    id: str
    reference: Reference | None
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


@dataclass(kw_only=True)
class LocalLoggerConfig(Logger):
    """The run's folder alone."""

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
        n_steps: Training steps in all.
        n_steps_per_epoch: Steps averaged into one row of metrics; the last epoch is shorter where it does not divide
            `n_steps`.
        batch_size: Transitions per step.
        n_epochs_per_eval: Epochs between evaluations; the last epoch always ends with one.
        n_evals_per_video: Evaluations between videos; 0 records the final policy alone.
        n_epochs_per_checkpoint: Epochs between checkpoints.
        n_kept_checkpoints: The newest that are kept, besides the best.
        resume: The folder of a run to go on with.
        n_threads: Torch's threads; null leaves the choice to torch.
        cuda_graph: On a GPU, capture training steps as CUDA graphs: the same steps, sooner.
        tf32: On a GPU, let matrix products round their factors to TF32's 10 bits: faster, and other numbers.
        eval_worker: Whether evaluations and films run in a process of their own, beside training.
        sweep_name: The sweep's folder under `outputs/sweeps/`; the same name again takes the sweep up. Null names it by
            date and time.
        retry_failed: Also take up runs that failed, from their last checkpoint.
        algorithm: The learner.
        dataset: What it learns from.
        network: Its networks.
        env: Where it is evaluated.
        logger: Where metrics go.
        video: Rollouts.
    """

    seed: int = _number(_SEED)
    device: Device
    n_steps: int = _number(_AT_LEAST_1)
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
    cuda_graph: bool = True
    tf32: bool = False
    algorithm: CqlConfig
    dataset: Dataset
    network: NetworkConfig
    env: EnvConfig
    logger: Logger
    video: VideoConfig


# ----------------------------------------------------------------------------------------------------------------------
# The schema as data: variants, keys, groups
# ----------------------------------------------------------------------------------------------------------------------

_VARIANTS: dict[type, tuple[type, ...]] = {
    AlphaTemp: (FixedAlphaTemp, LearnedAlphaTemp),
    AlphaCql: (FixedAlphaCql, LearnedAlphaCql),
    Penalty: (CqlH, CqlRho, Blueprint),
    Dataset: (EmbeddedDataset, MinariDataset, D4rlDataset),
    Logger: (WandbLoggerConfig, LocalLoggerConfig),
}

_GROUPS = (
    "algorithm",
    "algorithm/alpha_temp",
    "algorithm/alpha_cql",
    "algorithm/penalty",
    "dataset",
    "network",
    "env",
    "logger",
    "arm",
    "experiment",
)

# What other codebases call our keys; for the "did you mean" of someone who comes from one of them.
_ALIASES: dict[str, tuple[str, ...]] = {
    "tau": ("algorithm.tau_target", "algorithm.alpha_cql.tau_cql"),
    "soft_target_tau": ("algorithm.tau_target",),
    "soft_target_update_rate": ("algorithm.tau_target",),
    "lagrange_thresh": ("algorithm.alpha_cql.tau_cql",),
    "alpha_threshold": ("algorithm.alpha_cql.tau_cql",),
    "cql_target_action_gap": ("algorithm.alpha_cql.tau_cql",),
    "target_action_gap": ("algorithm.alpha_cql.tau_cql",),
    "alpha": ("algorithm.alpha_cql.value", "algorithm.alpha_temp.value"),
    "alpha_cql": ("algorithm.alpha_cql.value",),
    "cql_alpha": ("algorithm.alpha_cql.value",),
    "alpha_prime": ("algorithm.alpha_cql.initial_value",),
    "min_q_weight": ("algorithm.alpha_cql.value", "algorithm.w_cql"),
    "conservative_weight": ("algorithm.alpha_cql.value", "algorithm.w_cql"),
    "alpha_multiplier": ("algorithm.alpha_temp.value",),
    "alpha_temp": ("algorithm.alpha_temp.value",),
    "temp": ("algorithm.alpha_temp.value",),
    "gamma": ("algorithm.discount",),
    "lr": ("algorithm.critic_learning_rate", "algorithm.actor_learning_rate"),
    "learning_rate": ("algorithm.critic_learning_rate", "algorithm.actor_learning_rate"),
    "qf_lr": ("algorithm.critic_learning_rate",),
    "critic_lr": ("algorithm.critic_learning_rate",),
    "policy_lr": ("algorithm.actor_learning_rate",),
    "actor_lr": ("algorithm.actor_learning_rate",),
    "cql_n_actions": ("algorithm.num_sampled_actions",),
    "n_action_samples": ("algorithm.num_sampled_actions",),
    "max_timesteps": ("n_steps",),
    "total_steps": ("n_steps",),
    "eval_freq": ("n_steps_per_epoch", "n_epochs_per_eval"),
    "hidden_dim": ("network.width",),
    "hidden_sizes": ("network.width", "network.depth"),
    "normalize": ("dataset.normalise_observations",),
    "normalize_observations": ("dataset.normalise_observations",),
}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def _kind(cls: type) -> str:
    return next(str(item.default) for item in dataclasses.fields(cls) if item.name == "kind")


def _kinds(base: type) -> dict[str, type]:
    return {_kind(cls): cls for cls in _VARIANTS[base]}


def _bare(annotation: Any) -> tuple[Any, bool]:
    """A type without its `| None`, and whether it had one."""
    if isinstance(annotation, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        return inner[0], True
    return annotation, False


@functools.cache
def _keys() -> dict[str, tuple[Any, frozenset[str]]]:
    """Every dotted key of every variant: its type, and the kinds of its node that have it (none: always there)."""
    found: dict[str, tuple[Any, frozenset[str]]] = {}

    def walk(cls: Any, prefix: str) -> None:
        for name, annotation in _hints(cls).items():
            inner = _bare(annotation)[0]
            found[prefix + name] = (annotation, frozenset())
            if inner in _VARIANTS:
                variants = _VARIANTS[inner]
                for variant in variants:
                    walk(variant, f"{prefix}{name}.")
                for leaf in {leaf for variant in variants for leaf in _hints(variant)}:
                    owners = frozenset(_kind(variant) for variant in variants if leaf in _hints(variant))
                    kinds = frozenset() if len(owners) == len(variants) else owners
                    found[f"{prefix}{name}.{leaf}"] = (found[f"{prefix}{name}.{leaf}"][0], kinds)
            elif dataclasses.is_dataclass(inner):
                walk(inner, f"{prefix}{name}.")

    walk(TrainConfig, "")
    return found


def _options(group: str) -> list[str]:
    """The options of a config group, such as `embedded_hopper_medium` of `dataset`."""
    return sorted(path.stem for path in CONFIG_DIR.joinpath(group).glob("*.yaml"))


def _choice(path: str, kind: str) -> str:
    """What to type for a kind: `algorithm/alpha_cql=learned` for `algorithm.alpha_cql`, `learned`."""
    group = path.replace(".", "/")
    option = next((name for name in _options(group) if name == kind or name.startswith(f"{kind}_")), kind)
    return f"{group}={option}"


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


# ----------------------------------------------------------------------------------------------------------------------
# Registration and composition
# ----------------------------------------------------------------------------------------------------------------------


def register() -> None:
    """Tells Hydra of all that `configs/` uses: schemas, resolvers, launcher. Calling it again changes nothing."""
    _register_schemas_and_resolvers()
    from hydra.core.plugins import Plugins

    # First the instance: it scans for plugins, and in an editable install does not find ours.
    plugins = Plugins.instance()
    from hydra_plugins.cql_stacked.launcher import StackedLauncher

    plugins.register(StackedLauncher)


def _register_schemas_and_resolvers() -> None:
    # Hydra 1.4 wants to be told that a config may come a second time.
    again: dict[str, Any] = {} if _HYDRA_1_3 else {"replace": True}
    store = functools.partial(ConfigStore.instance().store, group="schema", **again)
    store(name="train", node=TrainConfig)
    for base, variants in _VARIANTS.items():
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", base.__name__).lower()
        for variant in variants:
            store(name=f"{name}_{_kind(variant)}", node=variant)
    # OmegaConf 2.4, which comes with Hydra 1.4, has given the one name the other's meaning.
    register_resolver = getattr(OmegaConf, "register_new_resolver" if _HYDRA_1_3 else "register_resolver")
    register_resolver("cql.run_dir", _run_dir, replace=True)
    register_resolver("cql.sweep_dir", _sweep_dir, replace=True)
    register_resolver("cql.sweep_log", _sweep_log, replace=True)
    register_resolver("cql.job_name", _job_name, replace=True)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The config that `scripts/train.py` would get from these overrides, e.g. `["+experiment=smoke", "seed=1"]`.

    Raises:
        HydraException: Where it cannot be composed; `explain` says why.
    """
    register()
    with hydra.initialize_config_dir(str(CONFIG_DIR), **VERSION_BASE):
        return hydra.compose("train", overrides=list(overrides))


def arranged(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments as Hydra wants them: `-m` first, and the mode of the experiment's file beside it.

    An arm comes after the experiment: Hydra gives the last of two files the final word, and an arm before would change
    nothing. Hydra's parser takes no overrides on both sides of `-m`. Hydra 1.4 looks for `hydra.mode` in `train.yaml`
    and among the arguments alone, and refuses one that it meets later; an experiment in a folder of the user's own
    (`--config-dir`) needs `-m` there.
    """
    flags = [text for text in arguments if text in ("-m", "--multirun")]
    found: list[str] = flags[:1]
    for text in arguments:
        path = CONFIG_DIR / "experiment" / f"{text.removeprefix('+experiment=')}.yaml"
        if text.startswith("+experiment=") and path.is_file():
            mode = OmegaConf.select(OmegaConf.load(path), "hydra.mode")
            if mode is not None and not any(other.startswith("hydra.mode=") for other in arguments):
                found.append(f"hydra.mode={mode}")  # here, since all overrides are to stand in one place
        if text not in flags:
            found.append(text)
    experiments = [position for position, text in enumerate(found) if text.startswith("+experiment=")]
    if experiments:
        before, after = found[: experiments[-1] + 1], found[experiments[-1] + 1 :]
        arms = [text for text in before if text.startswith("+arm=")]
        found = [text for text in before if text not in arms] + arms + after
    return found


def known_reference(env_id: str) -> dict[str, Any] | None:
    """`name`, `min_score` and `max_score` of the environment's file in `configs/env`; None without a file."""
    path = CONFIG_DIR / "env" / f"{env_id}.yaml"
    if not path.is_file():
        return None
    plain: Any = OmegaConf.to_container(OmegaConf.load(path))
    reference: dict[str, Any] | None = plain["reference"]
    return reference


def dataset_label(dataset: Dataset) -> str:
    """A short name that is safe in paths: `halfcheetah_medium`, `mujoco-hopper-medium-v0`, a D4RL file's stem."""
    match dataset:
        case EmbeddedDataset(name=name) | MinariDataset(id=name):
            label = name
        case D4rlDataset(path=path):
            label = Path(path).stem
        case _:
            raise TypeError(f"no label is defined for {type(dataset).__name__}")
    return _path_safe(label)


def _path_safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "unnamed"


def _new_folder(parent: Path, name: str) -> Path:
    """Makes and returns `parent/name`, or `parent/name_2`, `_3`, ... where another start took it first."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            # The one step that two starts within a second cannot both succeed in.
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _folder(root: DictConfig, parent: Path, name: str) -> str:
    """A new folder, the same one each time that Hydra asks for it."""
    if OmegaConf.select(root, "hydra.mode") is None:
        # Nothing runs: `--cfg` only shows the config.
        return str(parent / name)
    # OmegaConf's own cache, which Hydra hands on with the config; `use_cache` is refused to what sees the root.
    cache = OmegaConf.get_cache(root)["cql.folder"]
    if str(parent) not in cache:
        cache[str(parent)] = str(_new_folder(parent, name))
    return str(cache[str(parent)])


def _resumed(root: DictConfig) -> Path | None:
    folder = root.get("resume")
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise ConfigError(
            f"resume={folder}: there is no such folder; give the folder of a run, e.g. one under outputs/"
        )
    if not Path(folder, ".hydra", "config.yaml").is_file():
        # Before Hydra opens a log there.
        raise ConfigError(f"resume={folder}: it holds no .hydra/config.yaml, so this is not the folder of a run")
    return Path(folder)


def _time() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}"


def _run_dir(*, _root_: DictConfig) -> str:
    if "env" not in _root_:
        return "outputs/ENV/DATASET/TIME_seedN"  # `--cfg hydra` shows Hydra's own part, without the experiment
    folder = _resumed(_root_)
    if folder is not None:
        return str(folder)
    for key, unset in (("sweep_name", None), ("retry_failed", False)):
        if _root_.get(key, unset) != unset and OmegaConf.select(_root_, "hydra.mode") is not None:
            raise ConfigError(f"{key}={_root_[key]} has no effect on a single run: add -m for a sweep, or drop it")
    # Hydra makes the folder before the task starts: checking here leaves none behind for a config that is wrong.
    config = checked(_root_)
    parent = Path("outputs", _path_safe(config.env.id), dataset_label(config.dataset))
    return _folder(_root_, parent, f"{_time()}_seed{config.seed}")


# ----------------------------------------------------------------------------------------------------------------------
# Sweeps: their folder, and what their runs are called
# ----------------------------------------------------------------------------------------------------------------------

SWEEP_FILE = "sweep.json"

# Keys that do not make another run: where it is logged, how it is started, by what means it is computed.
_OPERATIONAL = ("resume", "sweep_name", "retry_failed", "n_threads", "cuda_graph", "eval_worker", "logger")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """:func:`differing_keys` of two plain configs, without the keys that do not make another run.

    Keys that a file from before them lacks have their defaults.
    """
    with suppress(ConfigError):  # one of a version with other keys has them among its differences
        old = to_dict(from_dict(old))
    return differing_keys(_identity(old), _identity(new))


def run_key(config: TrainConfig) -> str:
    """What makes a run: equal for configs without :func:`differences`."""
    return json.dumps(_identity(to_dict(config)), sort_keys=True)


def _identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key not in _OPERATIONAL}


def stack_key(config: TrainConfig) -> str:
    """What runs must share to be trained as one stack; equal for those that may be.

    It is the config without what a stack keeps one value a run of: the seed, the numbers that enter the losses, the
    learning rates, and the keys that do not make another run but `n_threads`, which a process has one of. (So it has of
    `eval_worker`; that of a stack's first run is taken, since it changes no number.)
    """
    plain = {**_identity(to_dict(config)), "n_threads": config.n_threads}
    del plain["seed"]
    algorithm = plain["algorithm"]
    for key in ("w_cql", "discount", "tau_target", "bc_steps", "critic_learning_rate", "actor_learning_rate"):
        del algorithm[key]
    for coefficient in ("alpha_temp", "alpha_cql"):
        algorithm[coefficient] = algorithm[coefficient]["kind"]
    return json.dumps(plain, sort_keys=True)


def point_name(overrides: Sequence[str], seed: int) -> str:
    """The folder of a sweep's run: safe in paths, and the same for the same point whatever the order of the grid.

    Parts `KEY-VALUE` are joined by `__`, sorted by key, the seed last: `alpha_cql-5__tau_cql--2__seed-0`.

    Args:
        overrides: those that the sweep varies, such as `algorithm.alpha_cql.value=5`.
        seed: of the run.
    """
    parser = OverridesParser.create()
    parsed = [parser.parse_override(text) for text in overrides]
    keys = {str(each.key_or_group): each for each in parsed if each.key_or_group != "seed"}
    labels = [_label(key) for key in keys]
    parts = {}
    for key, each in keys.items():
        label = _label(key) if labels.count(_label(key)) == 1 else key.replace("/", ".")
        parts[label] = _value_text(each.value())
    name = "__".join([*(f"{label}-{parts[label]}" for label in sorted(parts)), f"seed-{seed}"])
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: _LONGEST_NAME - 30].rstrip('-_.')}__etc-{digest}__seed-{seed}"
    return name


_LONGEST_NAME = 160  # file systems allow 255 bytes


def _label(key: str) -> str:
    """`alpha_cql` for `algorithm.alpha_cql.value`, `penalty` for `algorithm/penalty`, `tau_cql` for its dotted key."""
    parts = re.split(r"[./]", key)
    return parts[-2] if parts[-1] in ("value", "initial_value") and len(parts) > 1 else parts[-1]


def _value_text(value: Any) -> str:
    """A value as part of a folder's name."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return repr(value).removesuffix(".0")
        case _:
            return re.sub("_{2,}", "_", _path_safe(str(value)))


def _sweep_dir(*, _root_: DictConfig) -> str:
    parent, name = Path("outputs", "sweeps"), _root_.get("sweep_name")
    if name is None:
        return _folder(_root_, parent, _time())
    if name != _path_safe(name):
        raise ConfigError(_unsafe_name(name))
    return str(parent / name)


def _unsafe_name(name: str) -> str:
    return (
        f"sweep_name={name} names a folder: use letters, digits, dots, dashes and underscores only, "
        f"e.g. sweep_name={_path_safe(name)}"
    )


def _sweep_log(*, _root_: DictConfig) -> str:
    """Where the sweep's own log goes, and the null device where there is no sweep.

    Hydra asks for it when a program starts, whatever the launcher: here the sweep's folder is claimed.
    """
    if str(OmegaConf.select(_root_, "hydra.mode")) != "RunMode.MULTIRUN" or "env" not in _root_:
        return os.devnull
    folder = Path(_root_.hydra.sweep.dir)
    # A preset's own keys vary, also where the command line leaves one of their values: its points keep their names.
    held = OmegaConf.select(_root_, "hydra.sweeper.params") or {}
    constant = [key for key, is_swept in _typed_keys(_root_).items() if not is_swept and key not in held]
    # Hydra hands OmegaConf's cache on to the configs of the jobs, in other processes too.
    OmegaConf.get_cache(_root_)["cql.sweep"] = {"constant": constant}
    _claim_sweep(_root_, folder, constant)
    return str(folder / "sweep.log")


def _typed_keys(root: DictConfig) -> dict[str, bool]:
    """The keys on the command line, and whether each is swept there; of one that is given twice the last counts."""
    parsed = OverridesParser.create().parse_overrides([str(text) for text in root.hydra.overrides.task])
    return {str(each.get_key_element()): each.is_sweep_override() for each in parsed}


def _swept_keys(root: DictConfig, constant: Sequence[str]) -> list[str]:
    typed = [key for key, is_swept in _typed_keys(root).items() if is_swept]
    held = [str(key) for key in OmegaConf.select(root, "hydra.sweeper.params") or ()]
    return sorted({key.lstrip("+").replace("/", ".") for key in (*typed, *held) if key not in constant})


def _claim_sweep(root: DictConfig, folder: Path, constant: Sequence[str]) -> None:
    """Write down what the sweep's runs have in common, or see that it still is what was written.

    Raises:
        ConfigError: the folder's sweep was begun with another config.
    """
    path, swept = folder / SWEEP_FILE, _swept_keys(root, constant)
    for key in ("sweep_name", "retry_failed", "resume"):
        if key in swept:
            raise ConfigError(f"{key} is one for the whole sweep: give it one value")
    task = OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
    base = OmegaConf.to_container(task, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(base, dict)
    # A start that was refused has left no run to disagree with.
    if path.exists() and any(folder.glob(f"*/{RUN_CONFIG_FILE}")):
        before = json.loads(path.read_text(encoding="utf-8"))
        # A part of a grid may be swept in one start and fixed in another: its runs tell for themselves.
        free = {*swept, *before["swept"]}
        # An option that is one of several here or there has changed the base in keys that its name does not tell.
        chosen = {key.lstrip("+") for key in _typed_keys(root)} & set(_GROUPS)
        lines = [
            line
            for line in differences(before["base"], {str(key): value for key, value in base.items()})
            if not any(f"{line.partition(':')[0]}.".startswith(f"{key}.") for key in free)
            and not any(group.replace("/", ".") in free for group in chosen)
        ]
        if lines:
            raise ConfigError(
                f"sweep_name={folder.name}: {folder} holds a sweep with another config and is left as it is; give "
                "another sweep_name, or take back:\n  " + "\n  ".join(lines)
            )
        base, swept = before["base"], sorted({*swept, *before["swept"]})
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"base": base, "swept": swept}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _job_name(*, _root_: DictConfig) -> str:
    if "env" not in _root_ or OmegaConf.is_missing(_root_.hydra.job, "num"):
        return "POINT__seed-N"
    folder = _resumed(_root_)
    if folder is not None:
        # An absolute path wins over the sweep's folder that Hydra puts before it.
        return str(folder.resolve())
    constant = OmegaConf.get_cache(_root_)["cql.sweep"].get("constant", ())
    swept = [text for text in _root_.hydra.overrides.task if text.partition("=")[0] not in constant]
    name = point_name([text for text in swept if not text.startswith("hydra")], _root_.seed)
    return _known_point(Path(_root_.hydra.sweep.dir), name, to_dict(checked(_root_))) or name


def _known_point(sweep: Path, name: str, plain: Mapping[str, Any]) -> str | None:
    """The folder of the sweep that holds this very config, under whatever name; None where there is none."""
    named = sweep / name / RUN_CONFIG_FILE
    paths = [named, *(path for path in sorted(sweep.glob(f"*/{RUN_CONFIG_FILE}")) if path != named)]
    for path in paths:
        if path.exists() and not differences(saved_config(path), plain):
            return path.parents[1].name
    return None


RUN_CONFIG_FILE = ".hydra/config.yaml"


def saved_config(path: Path) -> dict[str, Any]:
    """The plain config in a file of a run's folder."""
    return _saved_config(path, path.stat().st_mtime_ns)


@functools.cache
def _saved_config(path: Path, _changed: int) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Values to typed configs, and back
# ----------------------------------------------------------------------------------------------------------------------


def checked(cfg: DictConfig) -> TrainConfig:
    """A composed config as a tree of dataclasses, every value resolved and checked.

    Raises:
        ConfigError: What is missing, unknown, of a wrong type or out of range.
    """
    values: dict[str, Any] = {}
    try:
        for key in cfg:
            if key != "hydra":
                value = MISSING if OmegaConf.is_missing(cfg, key) else cfg[key]
                values[str(key)] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    problems = []
    for path, base in _variant_paths().items():
        node = OmegaConf.select(cfg, path)
        cls = OmegaConf.get_type(node) if OmegaConf.is_config(node) else None
        if cls in _VARIANTS[base] and node.kind != _kind(cls):
            other = f": choose {_choice(path, node.kind)} instead" if node.kind in _kinds(base) else ""
            problems.append(f"{path}.kind={node.kind} cannot be set by hand{other}")
    if problems:
        raise ConfigError("\n".join(problems))
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The typed config of plain values, as a checkpoint or a run's `.hydra/config.yaml` holds them.

    Raises:
        ConfigError: What is missing, unknown, of a wrong type or out of range.
    """
    problems: list[str] = []
    config = _build(TrainConfig, values, "", problems, {path: _kind_at(values, path) for path in _variant_paths()})
    if problems:
        raise ConfigError("\n".join(problems))
    assert isinstance(config, TrainConfig)
    check(config)
    return config


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain values only (dict, list, str, int, float, bool, None): `from_dict(to_dict(config)) == config`."""

    def plain(value: Any) -> Any:
        match value:
            case Enum():
                return value.name
            case dict():
                return {key: plain(item) for key, item in value.items()}
            case list():
                return [plain(item) for item in value]
            case _:
                return value

    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """One line `key: a's value -> b's value` for each dotted key in which two plain configs differ."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in values.items():
            result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        return result

    absent = object()
    old, new = flat(a), flat(b)
    pairs = ((key, old.get(key, absent), new.get(key, absent)) for key in {**old, **new})
    return [f"{key}: {_shown(x, absent)} -> {_shown(y, absent)}" for key, x, y in pairs if x is absent or x != y]


def _shown(value: Any, absent: object) -> str:
    return "(absent)" if value is absent else "null" if value is None else str(value)


def _variant_paths() -> dict[str, type]:
    """`algorithm.alpha_cql` -> AlphaCql, and so on."""
    return {key: _bare(annotation)[0] for key, (annotation, _) in _keys().items() if _bare(annotation)[0] in _VARIANTS}


def _kind_at(values: Mapping[str, Any], path: str) -> str:
    node: Any = values
    for part in (*path.split("."), "kind"):
        node = node.get(part) if isinstance(node, Mapping) else None
    return str(node)


def _build(cls: type, values: Mapping[str, Any], prefix: str, problems: list[str], kinds: Mapping[str, str]) -> Any:
    """An instance of a schema class; what is wrong is appended to `problems`, and None returned."""
    if cls in _VARIANTS:
        variants, kind = _kinds(cls), values.get("kind")
        if kind not in variants:
            wrong = "is missing" if kind is None or kind == MISSING else f"is {kind}, which is unknown"
            choices = " or ".join(_choice(prefix.rstrip("."), name) for name in variants)
            problems.append(f"{prefix}kind {wrong}: choose {choices}")
            return None
        cls = variants[str(kind)]
    before = len(problems)
    hints = _hints(cls)
    problems.extend(_unknown_key(f"{prefix}{key}", kinds) for key in values if key not in hints)
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        key, value = prefix + item.name, values.get(item.name, MISSING)
        if value == MISSING and item.name not in values and item.default is not dataclasses.MISSING:
            value = item.default
        if value == MISSING:
            ask = item.metadata.get("ask")
            problems.append(f"{key} is missing: give {ask}" if ask else f"{key} is missing: add {key}=VALUE")
            continue
        annotation, optional = _bare(hints[item.name])
        if value is None and optional:
            arguments[item.name] = None
        elif dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
            assert isinstance(annotation, type)
            arguments[item.name] = _build(annotation, value, f"{key}.", problems, kinds)
        else:
            try:
                arguments[item.name] = _converted(value, annotation)
            except TypeError:
                problems.append(_wrong_type(key, value))
    return cls(**arguments) if len(problems) == before else None


def _converted(value: Any, annotation: Any) -> Any:
    """A plain value as the annotated type.

    Raises:
        TypeError: Where it is of another type.
    """
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        if str(value) in annotation.__members__:
            return annotation[str(value)]
    elif annotation is float and type(value) in (int, float):
        return float(value)
    elif annotation == list[str]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return list(value)
    elif type(value) is annotation:
        return value
    raise TypeError(f"{value!r} is not of type {annotation}")


def check(config: TrainConfig) -> None:
    """Refuses values that are out of range, alone or together.

    Raises:
        ConfigError: Every problem on its own line: the dotted key, its value, what is allowed, what to do.
    """
    problems = [*_range_problems(config, ""), *_cross_problems(config)]
    if problems:
        raise ConfigError("\n".join(problems))


def _range_problems(node: Any, prefix: str) -> Iterator[str]:
    for item in dataclasses.fields(node):
        key, value = prefix + item.name, getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from _range_problems(value, f"{key}.")
        elif value is None:
            continue
        elif item.name == "kind" and value != item.default:
            yield f"{key}={value} cannot be set by hand: this is {_article(str(item.default))} {prefix.rstrip('.')}"
        elif "bounds" in item.metadata and value not in item.metadata["bounds"]:
            hint = f" ({item.metadata['hint']})" if item.metadata["hint"] else ""
            yield f"{key}={value} is out of range: it must be {item.metadata['bounds']}{hint}"
        elif item.metadata.get("one_of") and value not in item.metadata["one_of"]:
            near = _did_you_mean(difflib.get_close_matches(value, item.metadata["one_of"], n=1))
            yield f"{key}={value} is unknown; there are {', '.join(item.metadata['one_of'])}{near}"


def _cross_problems(config: TrainConfig) -> Iterator[str]:
    n_steps, per_epoch, algorithm, dataset = config.n_steps, config.n_steps_per_epoch, config.algorithm, config.dataset
    if per_epoch > n_steps:
        yield (
            f"n_steps_per_epoch={per_epoch} is larger than n_steps={n_steps}: "
            f"lower n_steps_per_epoch (e.g. n_steps_per_epoch={n_steps}) or raise n_steps"
        )
    if algorithm.bc_steps > n_steps:
        yield f"algorithm.bc_steps={algorithm.bc_steps} is larger than n_steps={n_steps}: lower it or raise n_steps"
    if algorithm.log_std_min >= algorithm.log_std_max:
        yield (
            f"algorithm.log_std_min={algorithm.log_std_min} must be less than "
            f"algorithm.log_std_max={algorithm.log_std_max}: lower the one or raise the other"
        )
    if algorithm.w_cql == 0 and isinstance(algorithm.alpha_cql, LearnedAlphaCql):
        yield (
            "algorithm.w_cql=0.0 takes the conservative term away, so a learned alpha_cql has no effect: "
            "choose algorithm/alpha_cql=fixed or a larger algorithm.w_cql"
        )
    yield from _gradient_problems(algorithm)
    if dataset.n_episodes is not None and dataset.fraction is not None:
        yield (
            f"dataset.n_episodes={dataset.n_episodes} and dataset.fraction={dataset.fraction} both choose a part of "
            "the episodes: set one of them to null"
        )
    reference = config.env.reference
    if reference is not None and reference.max_score <= reference.min_score:
        yield (
            f"env.reference.max_score={reference.max_score} must be greater than "
            f"env.reference.min_score={reference.min_score}; for no normalised score write env.reference=null"
        )
    if config.tf32 and config.device is Device.cpu:
        yield "tf32=true has no effect with device=cpu: write tf32=false, or device=cuda"
    if config.video.size % 2:
        yield f"video.size={config.video.size} must be even, as MP4 demands: take {config.video.size + 1}"
    if config.sweep_name is not None and config.sweep_name != _path_safe(config.sweep_name):
        yield _unsafe_name(config.sweep_name)
    texts = {"env.id": config.env.id}
    match dataset:
        case MinariDataset(id=name):
            texts["dataset.id"] = name
        case D4rlDataset(path=path):
            texts["dataset.path"] = path
    yield from (f"{key} is empty: give one, e.g. {key}=NAME" for key, text in texts.items() if not text.strip())


def _gradient_problems(algorithm: CqlConfig) -> Iterator[str]:
    key, penalty = "algorithm.penalty.num_gradient_actions", algorithm.penalty
    k, n_samples = penalty.num_gradient_actions, penalty.n_groups * algorithm.num_sampled_actions
    if penalty.gradient is Gradient.exact and k is not None:
        yield (
            f"{key}={k} has no effect with algorithm.penalty.gradient=exact: "
            f"write {key}=null, or algorithm.penalty.gradient=sampled"
        )
    if penalty.gradient is Gradient.sampled and k is None:
        yield f"{key} is missing: algorithm.penalty.gradient=sampled needs it, e.g. {key}=1"
    if penalty.gradient is Gradient.sampled and k is not None and k > n_samples:
        yield (
            f"{key}={k} is more than the {n_samples} actions that are sampled (algorithm.num_sampled_actions="
            f"{algorithm.num_sampled_actions} in each of {penalty.n_groups} groups): lower it, or write "
            f"algorithm.penalty.gradient=exact {key}=null"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Messages
# ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def messages() -> Iterator[None]:
    """A context in which a wrong config ends the program with a short message on stderr and status 2."""
    # Without it Hydra prints the error in its own words and exits before we see it.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        yield
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        sys.stderr.write(f"Config error: {message}\n")
        raise SystemExit(2) from error


def explain(error: BaseException) -> str | None:
    """What is wrong with a config and what to do, for an exception of ours, Hydra's or OmegaConf's.

    Returns:
        The message, or None where the exception is not about a config.
    """
    if not isinstance(error, (ConfigError, HydraException, OmegaConfBaseException)):
        return None
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, ConfigError):
            return str(link)
    if isinstance(error, OverrideParseException):
        # The parser's own words; what Hydra puts before them differs between its versions.
        reason = str(next((link for link in chain[1:] if isinstance(link, HydraException)), error)).splitlines()[0]
        return (
            f"cannot read the override '{error.override}' ({reason}); "
            "write KEY=VALUE, with quotes round a value that holds spaces, commas or brackets"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(error.missing_cfg_file, list(error.options or ()), str(error))
    text = "\n".join(str(link) for link in chain)
    where = re.search(r"In '([^']+)'", text)
    prefix = f"in configs/{where[1]}.yaml: " if where else ""
    source = next((link for link in chain if isinstance(link, OmegaConfBaseException) and link.full_key), None)
    key, value = _overridden(text)
    if isinstance(error, ConfigCompositionException):
        if (sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'", text)) is not None:
            return f"{sweep[1]} gives several values: add -m to run one job for each, or quote it to mean one value"
        if (group := re.search(r"Multiple values for ([\w/]+)\.", text)) is not None:
            if group[1] == "experiment":
                return "experiment is given twice: one file at a time, e.g. a new one that combines the two"
            return f"{group[1]} is chosen already: write {group[1]}=OPTION, without a plus"
        if (group := re.search(r"Could not override '(experiment|[^']+/[^']*)'", text)) is not None:
            return _unknown_group(group[1], text)
    if key is not None and key.startswith("~"):
        return f"{key}: a key cannot be taken away; set it to another value"
    if isinstance(source, (ConfigKeyError, ConfigAttributeError)):
        unknown = str(source.full_key) if key is None or key in _keys_of(_current_kinds(source)) else key
        return prefix + _unknown_key(unknown, _current_kinds(source), value)
    if isinstance(source, ValidationError) and (key is None or key in _keys()):
        full_key = str(source.full_key)
        wrong = source.value if source.value is not None or value is None else value
        return prefix + (_wrong_type(full_key, wrong) if full_key in _keys() else " ".join(str(source).split()))
    if key is not None and key not in _keys() and not key.startswith("hydra"):
        return prefix + _unknown_key(key, {}, value)
    lines = [line.strip() for link in chain for line in str(link).splitlines() if line.strip()]
    return prefix + "; ".join(dict.fromkeys(lines[:3])) if lines else type(error).__name__


def _overridden(text: str) -> tuple[str | None, str | None]:
    """The key, and the value where it is told, of the override that a Hydra message is about."""
    if (found := re.search(r"Error merging override \+*([^=\s]+)=?(\S*)", text)) is not None:
        return found[1], found[2]
    if (found := re.search(r"Could not override '([^']+)'", text)) is not None:
        value = re.search(r"use \+[^=\s]+=(\S*)", text)
        return found[1], value[1] if value else None
    return None, None


def _current_kinds(error: OmegaConfBaseException) -> dict[str, str]:
    """The chosen kind of each variant, from the config that an OmegaConf error arose in."""
    node = error.parent_node
    while node is not None and node._get_parent() is not None:
        node = node._get_parent()
    if not isinstance(node, DictConfig):
        return {}
    return {path: str(OmegaConf.select(node, f"{path}.kind")) for path in _variant_paths()}


def _keys_of(kinds: Mapping[str, str]) -> set[str]:
    """The keys that exist where these kinds are chosen."""
    return {key for key, (_, owners) in _keys().items() if not owners or kinds.get(key.rpartition(".")[0]) in owners}


def _did_you_mean(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _with_choice(key: str, kinds: Mapping[str, str]) -> str:
    """A key, with the choice that it needs where another one is made."""
    parent, owners = key.rpartition(".")[0], _keys()[key][1]
    needed = owners and kinds.get(parent) not in owners
    return f"{key} (with {_choice(parent, min(owners))})" if needed else key


def _unknown_key(key: str, kinds: Mapping[str, str], value: str | None = None) -> str:
    """What to say of a key that the config does not have."""
    known = _keys()
    parent, _, leaf = key.rpartition(".")
    kind = kinds.get(parent)
    if key in known and known[key][1]:
        noun = parent.rpartition(".")[2]
        other = _choice(parent, min(known[key][1]))
        twin = {"value": "initial_value", "initial_value": "value"}.get(leaf)
        if kind and twin and kind in known[f"{parent}.{twin}"][1]:
            return f"{key}: {_article(kind)} {noun} has {twin}, not {leaf}; write {parent}.{twin}=... or add {other}"
        return f"{key}: {leaf} has no effect with {_article(kind or 'different')} {noun}; add {other} or drop it"
    if any(hasattr(variant, leaf) for variant in _VARIANTS.get(_variant_paths().get(parent, object), ())):
        choices = " or ".join(f"{parent.replace('.', '/')}={name}" for name in _options(parent.replace(".", "/")))
        return f"{key}: {leaf} is what a kind is, not an option: choose {choices}"
    group = next((name for name in _GROUPS if name.replace("/", ".") == key or name.rpartition("/")[2] == key), None)
    if group is not None and (group == "experiment" or value in _options(group)):
        if group in ("experiment", "arm"):
            return f"{key} is a group that is added with a plus: +{group}={value or 'NAME'}"
        return f"{key} is a group: choose its option with a slash, {group}={value or 'NAME'}"
    aliases = [name for name in _ALIASES.get(leaf, ()) if name != key]
    candidates = [name for name in known if not name.endswith(".kind")]
    siblings = {name.rpartition(".")[2]: name for name in candidates if name.rpartition(".")[0] == parent}
    peers = [name for name in candidates if name.count(".") == key.count(".")]
    leaves: dict[str, str] = {}
    for name in candidates:
        leaves.setdefault(name.rpartition(".")[2], name)
    near = aliases or [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.7)]
    near = near or [name for name in candidates if name.endswith(f".{leaf}")]
    if parent not in known:
        near = near or difflib.get_close_matches(key, peers, n=1, cutoff=0.7)
    near = near or [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)]
    shown = [_with_choice(name, kinds) for name in near[:3]]
    flag = "--cfg hydra" if key.startswith("hydra") else "--help"
    return f"{key}: there is no such key" + (_did_you_mean(shown) or f"; {flag} lists them all")


def _wrong_type(key: str, value: Any) -> str:
    """What to say of a value whose type does not fit its key."""
    annotation, optional = _bare(_keys()[key][0])
    null = ", or null" if optional else ""
    shown = "null" if value is None else value
    if dataclasses.is_dataclass(annotation):
        group = key.replace(".", "/")
        options = _options(group) if group in _GROUPS else []
        if value in options:
            return f"{key} is a group: choose its option with a slash, {group}={value}"
        numbers = [f"{key}.{leaf}" for leaf in ("value", "initial_value") if f"{key}.{leaf}" in _keys()]
        keys = numbers or [name for name in _keys() if name.rpartition(".")[0] == key]
        listed = f"; choose one of {', '.join(f'{group}={name}' for name in options)}" if options else ""
        return f"{key}={shown}: it must be a set of keys{null}; set one of them (e.g. {keys[0]}=...){listed}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        near = _did_you_mean(difflib.get_close_matches(str(value), annotation.__members__, n=1))
        return f"{key}={shown}: it must be one of {', '.join(annotation.__members__)}{null}{near}"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a text", list[str]: "a list of texts"}
    hint = ""
    whole = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", value) is not None
    if annotation is int and (whole or isinstance(value, float)) and float(value).is_integer():
        hint = f"; write {key}={int(float(value))}"
    if annotation == list[str]:
        hint = f"; write {key}=[first,second]"
    return f"{key}={shown}: it must be {words[annotation]}{null}{hint}"


# Options of Hydra's groups that other packages bring, and our extras that install these.
_EXTRAS = {
    "joblib": "joblib",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "optuna": "optuna",
}


def _missing_option(file: str, options: list[str], text: str) -> str:
    """What to say of an option that its group does not have."""
    group = next((name for name in sorted(_GROUPS, key=len, reverse=True) if file.startswith(f"{name}/")), None)
    if file.startswith("hydra/") and (extra := _EXTRAS.get(file.rpartition("/")[2].removesuffix(".yaml"))) is not None:
        return f"{Path(file).parent}={Path(file).stem} is not installed: pip install -e '.[{extra}]'"
    if group is None:
        folder, _, option = file.rpartition("/")
        listed = f"; there are {', '.join(sorted(options))}" if options else ""
        return f"{folder}={option}: there is no such option{listed}" if folder else text.strip().splitlines()[0]
    option = file.removeprefix(f"{group}/").removesuffix(".yaml")
    # Hydra's list adds what a user's own config folder has.
    names = sorted({*_options(group), *options})
    plus = "+" if group == "experiment" else ""
    near = difflib.get_close_matches(option, names, n=1) or [name for name in names if option and option in name][:2]
    meant = _did_you_mean([f"{plus}{group}={name}" for name in near])
    return f"{plus}{group}={option}: there is no such option; there are {', '.join(names)}{meant}"


def _unknown_group(group: str, text: str) -> str:
    """What to say of a group that the defaults list does not have."""
    if group == "experiment":
        found = re.search(r"use \+experiment=(\S+)", text)
        return f"experiments are added with a plus: +experiment={found[1] if found else 'NAME'}"
    parent, _, leaf = group.rpartition("/")
    if parent in _GROUPS and (names := [name for name in _options(parent) if name.startswith(f"{leaf}_")]):
        return f"{group} is no group of its own: write {' or '.join(f'{parent}={name}' for name in names)}"
    near = difflib.get_close_matches(group, _GROUPS, n=1) or [
        name for name in _GROUPS if name.rpartition("/")[2] == group.rpartition("/")[2]
    ]
    return f"{group}: there is no such config group; there are {', '.join(_GROUPS)}{_did_you_mean(near)}"


# At import, so that a worker process that was handed a task, and did not run an entry point, has them too.
_register_schemas_and_resolvers()
