"""The settings of `scripts/judge.py`: `configs/judge.yaml`, with overrides KEY=VALUE."""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cql.config.bounds import AT_LEAST_0, AT_LEAST_1, RATE, Bounds, number
from cql.config.checks import range_problems
from cql.config.choices import Activation, Device
from cql.config.keys import CONFIG_DIR
from cql.config.messages import ConfigError, did_you_mean


@dataclass(kw_only=True)
class JudgeConfig:
    """How runs are judged by recorded data.

    Attributes:
        checkpoint: Checkpoint of each run that is judged: `last`, `best`, or a step. Evaluations in the environment
            chose the best one, if there were any.
        fqe: Whether to do fitted Q evaluation; false computes only the scorers, which takes seconds.
        n_steps: Training steps of fitted Q evaluation.
        n_steps_per_epoch: Training steps between two saves of its state, from which it resumes.
        batch_size: Transitions per minibatch.
        n_seeds: Critics per policy, from different seeds.
        learning_rate: Adam's learning rate.
        tau_target: Polyak rate of the target critics.
        target_update_period: Training steps between two updates of the target critics.
        alpha_cql: Weight of the conservative gap in `fqe_cql`, a second evaluation, the same for all runs; 0 leaves it
            out.
        discount: Discount factor of the estimates, the same for all runs so that they can be compared.
        width: Units per hidden layer of the critics.
        depth: Number of hidden layers of the critics.
        activation: Non-linearity after each hidden layer.
        layer_norm: Whether to normalise before each activation.
        n_bootstrap: Bootstrap samples for an interval.
        device: Where it is computed; `auto` is CUDA if there is a device, else the CPU.
        n_threads: Number of torch's threads; null leaves it to torch.
    """

    checkpoint: str
    fqe: bool
    n_steps: int = number(AT_LEAST_1)
    n_steps_per_epoch: int = number(AT_LEAST_1)
    batch_size: int = number(AT_LEAST_1)
    n_seeds: int = number(AT_LEAST_1, hint="3 is usual")
    learning_rate: float = number(RATE, hint="3e-4 is usual")
    tau_target: float = number(Bounds(above=0, at_most=1), hint="1 copies the critics, 0.005 is usual")
    target_update_period: int = number(AT_LEAST_1)
    alpha_cql: float = number(AT_LEAST_0, hint="0.02 is usual")
    discount: float = number(Bounds(at_least=0, below=1), hint="0.99 is usual")
    width: int = number(AT_LEAST_1)
    depth: int = number(AT_LEAST_1)
    activation: Activation
    layer_norm: bool
    n_bootstrap: int = number(AT_LEAST_1)
    device: Device
    n_threads: int | None = number(AT_LEAST_1)


def judge_config(overrides: Sequence[str] = ()) -> JudgeConfig:
    """The settings with some overrides, checked.

    Raises:
        ConfigError: An override is unknown, of a wrong type or out of range.
    """
    parser, names = OverridesParser.create(), [item.name for item in dataclasses.fields(JudgeConfig)]
    node = OmegaConf.merge(OmegaConf.structured(JudgeConfig), OmegaConf.load(CONFIG_DIR / "judge.yaml"))
    for override in overrides:
        key = override.partition("=")[0]
        if key not in names:
            near = did_you_mean(difflib.get_close_matches(key, names, n=1))
            raise ConfigError(f"{override}: there is no key {key}{near or ';'} all keys: {', '.join(names)}")
        try:
            OmegaConf.update(node, key, parser.parse_override(override).value())
        except (OmegaConfBaseException, HydraException) as error:
            kind = next(item.type for item in dataclasses.fields(JudgeConfig) if item.name == key)
            raise ConfigError(f"{override}: it must be {_described(kind)}") from error
    settings = OmegaConf.to_object(node)
    assert isinstance(settings, JudgeConfig)
    problems = list(range_problems(settings, ""))
    if settings.checkpoint not in ("last", "best") and not settings.checkpoint.isdigit():
        problems.append(f"checkpoint={settings.checkpoint} is unknown; there are last, best, and steps such as 5000")
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def _described(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(each.name for each in kind)}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(
        kind, "a whole number or null"
    )
