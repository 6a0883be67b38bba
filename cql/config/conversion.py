"""Conversion between composed configs, plain values and the typed config."""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cql.config.checks import check
from cql.config.keys import choice, field_types, kind_of, kinds_of, variant_paths, without_none
from cql.config.messages import ConfigError, explain, unknown_key, wrong_type
from cql.config.schema import VARIANTS, TrainConfig
from cql.rollout.reference_scores import AUTO, reference_scores


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
    for path, base in variant_paths().items():
        node = OmegaConf.select(cfg, path)
        cls = OmegaConf.get_type(node) if OmegaConf.is_config(node) else None
        if cls in VARIANTS[base] and node.kind != kind_of(cls):
            other = f": choose {choice(path, node.kind)} instead" if node.kind in kinds_of(base) else ""
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
    config = _build(TrainConfig, values, "", problems, {path: _kind_at(values, path) for path in variant_paths()})
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


def _kind_at(values: Mapping[str, Any], path: str) -> str:
    node: Any = values
    for part in (*path.split("."), "kind"):
        node = node.get(part) if isinstance(node, Mapping) else None
    return str(node)


def _build(cls: type, values: Mapping[str, Any], prefix: str, problems: list[str], kinds: Mapping[str, str]) -> Any:
    """An instance of a schema class; what is wrong is appended to `problems`, and None returned."""
    if cls in VARIANTS:
        variants, kind = kinds_of(cls), values.get("kind")
        if kind not in variants:
            wrong = "is missing" if kind is None or kind == MISSING else f"is {kind}, which is unknown"
            choices = " or ".join(choice(prefix.rstrip("."), name) for name in variants)
            problems.append(f"{prefix}kind {wrong}: choose {choices}")
            return None
        cls = variants[str(kind)]
    before = len(problems)
    hints = field_types(cls)
    problems.extend(unknown_key(f"{prefix}{key}", kinds) for key in values if key not in hints)
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        key, value = prefix + item.name, values.get(item.name, MISSING)
        if value == MISSING and item.name not in values and item.default is not dataclasses.MISSING:
            value = item.default
        if value == MISSING:
            ask = item.metadata.get("ask")
            problems.append(f"{key} is missing: give {ask}" if ask else f"{key} is missing: add {key}=VALUE")
            continue
        annotation, optional = without_none(hints[item.name])
        if value is None and optional:
            arguments[item.name] = None
        elif dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
            assert isinstance(annotation, type)
            arguments[item.name] = _build(annotation, value, f"{key}.", problems, kinds)
        else:
            try:
                arguments[item.name] = _converted(value, annotation)
            except TypeError:
                problems.append(wrong_type(key, value))
    return cls(**arguments) if len(problems) == before else None


def _converted(value: Any, annotation: Any) -> Any:
    """A plain value as the annotated type.

    Raises:
        TypeError: It has another type.
    """
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        if str(value) in annotation.__members__:
            return annotation[str(value)]
    elif annotation is float and type(value) in (int, float):
        return float(value)
    elif annotation == list[str]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return list(value)
    elif annotation is Any:
        return _reference(value)
    elif type(value) is annotation:
        return value
    raise TypeError(f"{value!r} is not of type {annotation}")


def _reference(value: Any) -> Any:
    """`env.reference` as "auto", None or a list of two numbers; run folders of older versions hold a mapping.

    Raises:
        TypeError: It has another form.
    """
    if value is None or value == AUTO:
        return value
    try:
        scores = reference_scores("", value)
    except ValueError as error:
        raise TypeError(str(error)) from error
    return None if scores is None else list(scores)
