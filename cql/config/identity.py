"""What makes two runs the same, and what lets them train in one stack."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from cql.config.conversion import from_dict, to_dict
from cql.config.messages import ConfigError
from cql.config.schema import TrainConfig
from cql.rollout.reference_scores import with_scores

NO_OTHER_RUN = (
    # How it is started, where it is logged, by what means it is computed.
    "resume",
    "sweep_name",
    "retry_failed",
    "logger",
    "n_threads",
    "fast",
    "cuda_graph",
    "eval_worker",
    "dataset.download",
    "dataset.mixture.download",
    # What is kept of it besides its numbers.
    "video",
    "n_evals_per_video",
    "n_epochs_per_checkpoint",
    "n_kept_checkpoints",
)
"""Keys, or groups of them, that make no other run, whatever their values."""

ROUNDING = ("device", "tf32")
"""Keys that change how a run's numbers are rounded: another run, but not another experiment."""

# Those of NO_OTHER_RUN of which a stack has one value.
_ONE_PER_STACK = (
    "n_threads",
    "fast",
    "video",
    "n_evals_per_video",
    "n_epochs_per_checkpoint",
    "n_kept_checkpoints",
)


# Keys of the algorithm that are numbers of each run in a stack.
_PER_RUN = (
    "w_cql",
    "discount",
    "tau_target",
    "bc_steps",
    "critic_learning_rate",
    "actor_learning_rate",
    "critic_max_grad_norm",
    "actor_max_grad_norm",
    "critic_weight_decay",
    "actor_weight_decay",
)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """:func:`differing_keys` of two plain configs, without the keys that do not make another run.

    Keys that a file from before them lacks have their defaults.
    """
    with suppress(ConfigError):  # one of a version with other keys has them among its differences
        old = to_dict(from_dict(old))
    return differing_keys(_identity(old), _identity(new))


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """One line `key: a's value -> b's value` for each dotted key in which two plain configs differ."""
    absent = object()
    old, new = flat(a), flat(b)
    pairs = ((key, old.get(key, absent), new.get(key, absent)) for key in {**old, **new})
    return [f"{key}: {_shown(x, absent)} -> {_shown(y, absent)}" for key, x, y in pairs if x is absent or x != y]


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one with dotted keys; those of a list's mappings are `LIST[0].KEY` and so on."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                found |= flat(item, f"{name}[{index}].")
        else:
            found[name] = value
    return found


def run_key(config: TrainConfig) -> str:
    """What makes a run: equal for configs without :func:`differences`."""
    return json.dumps(_identity(to_dict(config)), sort_keys=True)


def stack_key(config: TrainConfig) -> str:
    """What runs must share to be trained as one stack: equal for runs that may be.

    It is the config without what a stack keeps per run (the seed, the numbers that enter the losses, the learning
    rates) and without the keys that make no other run, unless a stack has one value of them. A stack has one
    `eval_worker` as well: its first run's, since it changes no number.
    """
    whole = to_dict(config)
    plain = {**_identity(whole), **{key: whole[key] for key in _ONE_PER_STACK}}
    for key in ("seed", "init_from", "init_from_sweep"):
        del plain[key]
    for key in ("alpha_cql", "w_cql"):
        plain["online"].pop(key, None)
    algorithm = plain["algorithm"]
    for key in _PER_RUN:
        del algorithm[key]
    for key in ("gap_clip_min", "gap_clip_max"):
        del algorithm["penalty"][key]
    for coefficient in ("alpha_temp", "alpha_cql"):
        algorithm[coefficient] = algorithm[coefficient]["kind"]
    return json.dumps(plain, sort_keys=True)


def _identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config without the keys that make no other run, and with the reference scores that it means."""
    found = _without(plain, NO_OTHER_RUN)
    with suppress(ValueError):  # of a form that no version had: it differs as it is
        return with_scores(found)
    return found


def _without(plain: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """A nested mapping without these dotted keys; those of a list's mappings have no number."""

    def kept(value: Any, key: str) -> Any:
        match value:
            case Mapping():
                return _without(value, keys, f"{key}.")
            case list():
                return [kept(item, key) for item in value]
            case float():
                return value or 0.0  # -0.0 is written otherwise
            case _:
                return value

    return {key: kept(value, f"{prefix}{key}") for key, value in plain.items() if f"{prefix}{key}" not in keys}


def _shown(value: Any, absent: object) -> str:
    return "(absent)" if value is absent else "null" if value is None else str(value)
