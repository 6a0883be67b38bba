"""Conversion between composed configs, plain values and the typed config."""

import copy
import dataclasses
import difflib
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cql.config.checks import check
from cql.config.keys import all_keys, choice, field_types, kind_of, kinds_of, variant_paths, without_none
from cql.config.messages import ConfigError, article, did_you_mean, explain, unknown_key, wrong_type
from cql.config.mixture import OF_ALL, RATIOS, SOURCES, source_name
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


# A sweep asks for the config of each of its runs several times, and a conversion takes ten milliseconds.
_converted: dict[str, TrainConfig] = {}
_MOST_KEPT = 1000


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """The typed config of plain values, as a checkpoint or a run's `.hydra/config.yaml` holds them.

    Raises:
        ConfigError: What is missing, unknown, of a wrong type or out of range.
    """
    key = repr(values)
    if key not in _converted:
        if len(_converted) >= _MOST_KEPT:
            _converted.clear()
        _converted[key] = _from_dict(values)
    return copy.deepcopy(_converted[key])


def _from_dict(values: Mapping[str, Any]) -> TrainConfig:
    problems: dict[str, str] = {}
    node = OmegaConf.structured(TrainConfig)
    values = {"online": {"kind": "none"}, **values}  # files of earlier versions lack it
    _fill(node, values, "", problems, {path: _kind_at(values, path) for path in variant_paths()})
    missing = OmegaConf.missing_keys(node) - set(problems)
    problems |= {key: _missing(node, key) for key in all_keys() if key in missing}
    if problems:
        raise ConfigError("\n".join(problems.values()))
    config = OmegaConf.to_object(node)
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


def _fill(
    node: DictConfig, values: Mapping[str, Any], prefix: str, problems: dict[str, str], kinds: Mapping[str, str]
) -> None:
    """Put plain values into a node of the schema, which checks them; `problems` gets what is wrong, by key."""
    for name, value in values.items():
        key = prefix + name
        if name not in field_types(_schema(node)):
            problems[key] = unknown_key(key, kinds)
            continue
        cls = without_none(all_keys()[key][0])[0]
        if cls in VARIANTS and isinstance(value, Mapping):
            if kinds[key] not in kinds_of(cls):
                problems[key] = _unknown_kind(cls, key, value.get("kind"))
                continue
            cls = kinds_of(cls)[kinds[key]]
        try:
            if dataclasses.is_dataclass(cls) and isinstance(value, Mapping):
                node[name] = OmegaConf.structured(cls)
                _fill(node[name], value, f"{key}.", problems, kinds)
            else:
                # Not by assignment: OmegaConf 2.4 warns of the conversions that it makes there.
                OmegaConf.update(node, name, _READ[key](value) if key in _READ else value, merge=False)
        except ConfigError as error:
            problems[key] = str(error)
        except (OmegaConfBaseException, TypeError):
            problems[key] = wrong_type(key, value)


def _schema(node: DictConfig) -> Any:
    return OmegaConf.get_type(node)


def _missing(node: DictConfig, key: str) -> str:
    parent, _, name = key.rpartition(".")
    owner = OmegaConf.select(node, parent) if parent else node
    ask = next(item.metadata.get("ask") for item in dataclasses.fields(_schema(owner)) if item.name == name)
    return f"{key} is missing: {f'give {ask}' if ask else f'add {key}=VALUE'}"


def _unknown_kind(base: type, key: str, kind: Any) -> str:
    wrong = "is missing" if kind in (None, MISSING) else f"is {kind}, which is unknown"
    return f"{key}.kind {wrong}: choose {' or '.join(choice(key, name) for name in kinds_of(base))}"


def _arguments(value: Any) -> dict[str, Any] | None:
    """`env.kwargs`: a mapping of names to plain values, None if there are none.

    Raises:
        TypeError: It is none.
    """
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        raise TypeError("not a mapping of names")
    return dict(value) if value else None


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


def _bound(value: Any) -> Any:
    """`env.action_low` or `env.action_high` as a number, a list of numbers, or None.

    Raises:
        TypeError: It has another form.
    """
    numbers = value if isinstance(value, list | tuple) else [value]
    if value is None or (numbers and all(type(each) in (int, float) and math.isfinite(each) for each in numbers)):
        return value
    raise TypeError("neither a finite number nor a list of them")


def _mixture(value: Any) -> Any:
    """`dataset.mixture`: for each dataset what it gives, as plain values of the right types.

    Raises:
        TypeError: It is no list of at least two mappings.
        ConfigError: What is wrong with the datasets.
    """
    if value == MISSING:
        return value
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(each, Mapping) for each in value):
        raise TypeError("not a list of at least two mappings")
    problems: list[str] = []
    found = [_source(each, source_name(index), problems) for index, each in enumerate(value)]
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _source(values: Mapping[Any, Any], name: str, problems: list[str]) -> dict[str, Any]:
    """What a dataset of a mixture gives, read like the keys of one alone; `problems` gets what is wrong."""
    kind = str(values.get("kind"))
    if kind not in SOURCES:
        wrong = "is missing" if kind in ("None", MISSING) else f"is {kind}"
        problems.append(f"{name}.kind {wrong}: it must be one of {', '.join(SOURCES)}")
        return {}
    known = [*(key for key in field_types(SOURCES[kind]) if key not in OF_ALL), "ratio"]
    node, refused = OmegaConf.structured(SOURCES[kind]), dict[str, str]()
    for key, value in values.items():
        if key in OF_ALL:
            problems.append(f"{name}.{key}: all datasets of a mixture share it: set dataset.{key}")
        elif key not in known:
            near = did_you_mean(difflib.get_close_matches(str(key), known, n=1, cutoff=0.7))
            problems.append(f"{name}.{key}: {article(kind)} dataset in a mixture has {', '.join(known)}{near}")
        elif key != "ratio":
            _fill(node, {key: value}, "dataset.", refused, {"dataset": kind})
        elif value is not None and not (type(value) in (int, float) and RATIOS[0] <= value <= RATIOS[1]):
            problems.append(f"{name}.ratio={value}: it must be a number from {RATIOS[0]:g} to {RATIOS[1]:g}")
    problems += [text.replace(key, f"{name}.{key.partition('.')[2]}") for key, text in refused.items()]
    asked = {item.name: str(item.metadata.get("ask", "")) for item in dataclasses.fields(SOURCES[kind])}
    for key in sorted(OmegaConf.missing_keys(node)):
        if f"dataset.{key}" not in refused and (asked[key] or key in values):
            ask = asked[key].replace(f"dataset.{key}=", f"{key}: ")
            problems.append(f"{name}.{key} is missing: give {ask or 'a value'}")
    if problems:
        return {}
    ratio = None if values.get("ratio") is None else float(values["ratio"])
    return {key: ratio if key == "ratio" else node[key] for key in values}


# Keys whose type OmegaConf cannot tell.
_READ = {
    "env.reference": _reference,
    "env.kwargs": _arguments,
    "env.action_low": _bound,
    "env.action_high": _bound,
    "dataset.mixture": _mixture,
}
