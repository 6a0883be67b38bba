"""What a config can contain: dotted keys with their types, kinds of variants, config groups with their options."""

import dataclasses
import functools
import types
import typing
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cql.config.schema import VARIANTS, TrainConfig

# In a wheel the folder stands inside the package, in a checkout beside it.
CONFIG_DIR = next(
    (path / "configs" for path in Path(__file__).resolve().parents[1:3] if (path / "configs").is_dir()),
    Path(__file__).resolve().parents[2] / "configs",
)

GROUPS = (
    "algorithm",
    "algorithm/alpha_temp",
    "algorithm/alpha_cql",
    "algorithm/penalty",
    "dataset",
    "online",
    "network",
    "env",
    "logger",
    "arm",
    "experiment",
)


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The type of each field of a schema class."""
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def kind_of(cls: type) -> str:
    """The kind that a variant stands for."""
    return next(str(item.default) for item in dataclasses.fields(cls) if item.name == "kind")


def kinds_of(base: type) -> dict[str, type]:
    """The variants of a base class by their kinds."""
    return {kind_of(cls): cls for cls in VARIANTS[base]}


def without_none(annotation: Any) -> tuple[Any, bool]:
    """A type without its `| None`, and whether it had one."""
    if isinstance(annotation, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        return inner[0], True
    return annotation, False


@functools.cache
def all_keys() -> dict[str, tuple[Any, frozenset[str]]]:
    """Every dotted key of every variant: its type, and the kinds of its node that have it (none: always there)."""
    found: dict[str, tuple[Any, frozenset[str]]] = {}

    def walk(cls: Any, prefix: str) -> None:
        for name, annotation in field_types(cls).items():
            inner = without_none(annotation)[0]
            found[prefix + name] = (annotation, frozenset())
            if inner in VARIANTS:
                variants = VARIANTS[inner]
                for variant in variants:
                    walk(variant, f"{prefix}{name}.")
                for leaf in {leaf for variant in variants for leaf in field_types(variant)}:
                    owners = frozenset(kind_of(variant) for variant in variants if leaf in field_types(variant))
                    kinds = frozenset() if len(owners) == len(variants) else owners
                    found[f"{prefix}{name}.{leaf}"] = (found[f"{prefix}{name}.{leaf}"][0], kinds)
            elif dataclasses.is_dataclass(inner):
                walk(inner, f"{prefix}{name}.")

    walk(TrainConfig, "")
    return found


def variant_paths() -> dict[str, type]:
    """The base class of each key that has variants: `algorithm.alpha_cql` -> AlphaCql, and so on."""
    bare = {key: without_none(annotation)[0] for key, (annotation, _) in all_keys().items()}
    return {key: base for key, base in bare.items() if base in VARIANTS}


def options_of(group: str) -> list[str]:
    """The options of a config group, such as `embedded_hopper_medium` of `dataset`."""
    return sorted(path.stem for path in CONFIG_DIR.joinpath(group).glob("*.yaml"))


@functools.cache
def env_option(env_id: str) -> str | None:
    """The option of the group `env` that chooses an environment by its id, `Hopper-v5` or `UMaze`; None without one."""
    for name in options_of("env"):
        if OmegaConf.select(OmegaConf.load(CONFIG_DIR / "env" / f"{name}.yaml"), "id") == env_id:
            return name
    return None


def choice(path: str, kind: str) -> str:
    """What to type for a kind: `algorithm/alpha_cql=learned` for `algorithm.alpha_cql`, `learned`."""
    group = path.replace(".", "/")
    option = next((name for name in options_of(group) if name == kind or name.startswith(f"{kind}_")), kind)
    return f"{group}={option}"
