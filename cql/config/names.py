"""Names of folders: of datasets, sweeps and the points of a sweep."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from cql.config.datasets import D4rlDataset, Dataset, EmbeddedDataset, MinariDataset, MixtureDataset, TableDataset
from cql.config.mixture import sources_of
from cql.config.schema import TrainConfig

_LONGEST_NAME = 160  # file systems allow 255 bytes
_LONGEST_MIXTURE = 80  # W&B allows 128 for a name that has more in it


def dataset_label(dataset: Dataset) -> str:
    """A short name that is safe in paths: `halfcheetah_medium`, `mujoco-hopper-medium-v0`, a file's stem."""
    match dataset:
        case EmbeddedDataset(name=name) | MinariDataset(id=name):
            label = name
        case D4rlDataset(path=path) | TableDataset(path=path):
            label = Path(path).stem.removesuffix(".csv")
        case MixtureDataset():
            label = mixture_label([dataset_label(source) for source in sources_of(dataset)])
        case _:
            raise TypeError(f"no label is defined for {type(dataset).__name__}")
    return path_safe(label)


def task_label(config: TrainConfig) -> str:
    """`Hopper-v5/hopper_medium`; the dataset's label alone if there is no simulator."""
    label = dataset_label(config.dataset)
    return f"{config.env.id}/{label}" if config.env.has_simulator else label


def mixture_label(names: Sequence[str]) -> str:
    """`mixture-halfcheetah_random-halfcheetah_medium`; a long one is cut and stays its datasets' own."""
    label = "-".join(["mixture", *names])
    if len(label) > _LONGEST_MIXTURE:
        digest = hashlib.sha256(label.encode()).hexdigest()[:8]
        label = f"{label[: _LONGEST_MIXTURE - 13].rstrip('-_.')}-etc-{digest}"
    return label


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


def path_safe(text: str) -> str:
    """A text with a dash for each run of characters that are not safe in paths."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "unnamed"


def unsafe_name(name: str) -> str:
    """The message for a sweep's name that is not safe in paths."""
    return (
        f"sweep_name={name} names a folder: use letters, digits, dots, dashes and underscores only, "
        f"e.g. sweep_name={path_safe(name)}"
    )


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
            return re.sub("_{2,}", "_", path_safe(str(value)))
