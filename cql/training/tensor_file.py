"""A policy as one safetensors file, which holds what :func:`cql.load` needs: tensors, and the rest as JSON beside them.

A tensor's name is its place in the contents of a checkpoint, such as ``agent/parameters/actor/0.weight``.
"""

import functools
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cql import files
from cql.commands import required
from cql.training.checkpoint import CheckpointError, check

SUFFIX = ".safetensors"


def encoded(contents: Mapping[str, Any]) -> bytes:
    """The file of what :func:`cql.training.policy.read` gives."""
    tensors, rest = _divided(contents, "")
    return bytes(required("safetensors.torch", "export").save(tensors, metadata={"cql": json.dumps(rest)}))


def read(path: Path) -> dict[str, Any]:
    """The contents that a file was made of; nothing in it is run.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is another program's.
        MissingPackageError: safetensors is not installed.
    """
    load = required("safetensors.torch", "export").load
    try:
        data = files.contents(path)
        tensors, header = load(data), data[8 : 8 + int.from_bytes(data[:8], "little")]
        contents: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["cql"])
        for name, tensor in tensors.items():
            *parents, last = name.split("/")
            node = functools.reduce(operator.getitem, parents, contents)
            node[last] = tensor
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a whole policy of scripts/export.py ({type(error).__name__}: {error})"
        ) from error
    check(contents, path, policy_only=True)
    return contents


def _divided(node: Mapping[str, Any], prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by their places, and the rest, with None in these places."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"], rest[key] = value.contiguous(), None  # its place: layers come in their order
        elif isinstance(value, Mapping):
            inner, rest[key] = _divided(value, f"{prefix}{key}/")
            tensors |= inner
        else:
            rest[key] = value
    return tensors, rest
