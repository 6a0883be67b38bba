"""What makes two runs the same, and what lets them train in one stack."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cql.config.conversion import from_dict, to_dict
from cql.config.messages import ConfigError
from cql.config.schema import TrainConfig

# Keys that do not make another run: where it is logged, how it is started, by what means it is computed.
_OPERATIONAL = ("resume", "sweep_name", "retry_failed", "n_threads", "cuda_graph", "eval_worker", "logger")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """:func:`differing_keys` of two plain configs, without the keys that do not make another run.

    Keys that a file from before them lacks have their defaults.
    """
    with suppress(ConfigError):  # one of a version with other keys has them among its differences
        old = to_dict(from_dict(old))
    return differing_keys(_identity(old), _identity(new))


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


def run_key(config: TrainConfig) -> str:
    """What makes a run: equal for configs without :func:`differences`."""
    return json.dumps(_identity(to_dict(config)), sort_keys=True)


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


def _identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key not in _OPERATIONAL}


def _shown(value: Any, absent: object) -> str:
    return "(absent)" if value is absent else "null" if value is None else str(value)
