"""Checkpoint files: whole or absent, versioned, and safe to open.

A file is written beside its final name, flushed to the disk and renamed, so that a crash at any moment leaves either
the old state or the new one. It holds tensors and plain values only and loads with ``weights_only=True``: opening a
stranger's checkpoint never runs code. One file is one run, also where runs are trained in a stack.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from cql import files

FORMAT_VERSION = 1
"""Raised with every change that an older reader would misunderstand."""

_TRAILER = b"\ncql checkpoint, sha256 "
_TRAILER_SIZE = len(_TRAILER) + 64
_NAME = re.compile(r"step_(\d{7,})\.pt")


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or of another format; the message names the file."""


def save(path: Path, contents: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    The file is what ``torch.save`` writes, followed by its SHA-256, since ``torch.load`` does not notice altered
    bytes. Plain ``torch.load(path, weights_only=True)`` reads it too.

    Args:
        path: its final name; an existing file is replaced.
        contents: nested dictionaries and lists of tensors and plain values.
    """
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, **contents}, buffer)
    body = buffer.getvalue()
    files.write_bytes(path, body + _TRAILER + hashlib.sha256(body).hexdigest().encode())


def load(path: Path, *, policy_only: bool = False) -> dict[str, Any]:
    """Read the checkpoint of a run onto the CPU.

    Args:
        path: of the file.
        policy_only: ask only for what its policy needs, which is not enough to resume from.

    Raises:
        CheckpointError: the file is absent, cannot be read, is damaged or of another format version, or it does not
            hold what the checkpoint of a run does.
    """
    contents = read(path)
    check(contents, path, policy_only=policy_only)
    return contents


def check(contents: dict[str, Any], path: Path, *, policy_only: bool = False) -> None:
    """Refuse what is not the contents of a run's checkpoint; see :func:`load`."""
    new = ("spaces", "commit") if policy_only else tuple(_NEW)
    wanted = (_POLICY if policy_only else _SCHEMA) | {key: _NEW[key] for key in new if key in contents}
    problem = _problem(contents, wanted)
    if problem is not None:
        raise CheckpointError(f"{path}: not the checkpoint of a run: {problem}")


def read(path: Path) -> dict[str, Any]:
    """What :func:`save` wrote, whatever it is.

    Raises:
        CheckpointError: the file is absent, cannot be read, is damaged, or of another format version.
    """
    try:
        data = files.contents(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such checkpoint") from error
    except files.UnreadableError as error:
        raise CheckpointError(str(error)) from error
    body, trailer = data[:-_TRAILER_SIZE], data[-_TRAILER_SIZE:]
    if trailer != _TRAILER + hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: its {len(data)} bytes do not match its checksum")
    try:
        contents = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: not a checkpoint: it holds a {type(contents).__name__}")
    version = contents.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, this program reads version {FORMAT_VERSION}")
    return contents


_EACH = "each"
_NUMBER = (int, float)
_NUMBER_OR_NONE = (int, float, type(None))
# What the checkpoint of a run holds: types, members of dictionaries, and the same for each member.
_SCHEMA: dict[str, Any] = {
    "step": int,
    "config": dict,
    "agent": {
        "n_steps_done": int,
        "parameters": {_EACH: {_EACH: torch.Tensor}},
        "optimisers": {_EACH: [{_EACH: torch.Tensor}]},
    },
    "sampler": torch.Tensor,
    "epoch": {"sums": torch.Tensor, "count": int},
    "normaliser": {"mean": torch.Tensor, "std": torch.Tensor},
    "scores": dict.fromkeys(("last_return", "last_std", "best_return", "best_step"), _NUMBER_OR_NONE),
    "last_metrics": {_EACH: _NUMBER},
    "versions": {_EACH: str},
    "data_fingerprint": str,
}
# What checkpoints of earlier versions lack.
_NEW: dict[str, Any] = {
    "n_rows": {_EACH: int},
    "online": {"n_episodes": int, "n_env_steps": int},
    "spaces": {"action_low": torch.Tensor, "action_high": torch.Tensor, "observation_keys": [str]},
    "commit": (str, type(None)),
}

_POLICY: dict[str, Any] = {
    "step": int,
    "config": dict,
    "agent": {"parameters": {"actor": {_EACH: torch.Tensor}}},
    "normaliser": _SCHEMA["normaliser"],
}


def _problem(value: Any, wanted: Any, name: str = "") -> str | None:
    """The first member that is missing or of another type, None if there is none."""
    kinds = type(wanted) if isinstance(wanted, (dict, list)) else wanted
    if not isinstance(value, kinds) or isinstance(value, bool):
        return f"{name} is a {type(value).__name__}"
    members: list[tuple[Any, Any]] = []
    if isinstance(wanted, list):
        members = [(index, wanted[0]) for index in range(len(value))]
    elif isinstance(wanted, dict) and _EACH in wanted:
        members = [(key, wanted[_EACH]) for key in value]
    elif isinstance(wanted, dict):
        members = list(wanted.items())
    for key, own in members:
        if isinstance(value, dict) and key not in value:
            return f"it has no {name}.{key}".replace(" .", " ")
        if (found := _problem(value[key], own, f"{name}.{key}".removeprefix("."))) is not None:
            return found
    return None


class CheckpointFolder:
    """The checkpoints of one run: the last few and the best.

    Args:
        directory: made when the first checkpoint is written.
        n_kept: how many of the newest to keep; the best is kept besides.
    """

    def __init__(self, directory: Path, n_kept: int = 3) -> None:
        self.directory = directory
        self._n_kept = n_kept

    @property
    def best(self) -> Path:
        """Where the best checkpoint is, or will be."""
        return self.directory / "best.pt"

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.directory / f"step_{step:07d}.pt"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in ascending order, damaged ones included."""
        names = (_NAME.fullmatch(path.name) for path in self.directory.glob("step_*.pt"))
        return sorted(int(name[1]) for name in names if name)

    def write(self, step: int, contents: dict[str, Any]) -> Path:
        """Write the checkpoint of a step."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.path(step)
        save(path, contents)
        return path

    def prune(self, step: int) -> None:
        """Drop all but the newest ``n_kept`` checkpoints of the steps up to this one."""
        for old in [each for each in self.steps() if each <= step][: -self._n_kept]:
            self.path(old).unlink()

    def cut(self, step: int) -> None:
        """Drop the checkpoints of later steps, the newest first."""
        for later in [each for each in reversed(self.steps()) if each > step]:
            self.path(later).unlink()

    def write_best(self, contents: dict[str, Any]) -> Path:
        """Replace the best checkpoint."""
        self.directory.mkdir(parents=True, exist_ok=True)
        save(self.best, contents)
        return self.best

    def find(self, which: str) -> Path:
        """The file of ``best``, ``last`` or a step, which may be given as a number or by the file's name.

        Raises:
            CheckpointError: there is none; the message lists those that there are.
        """
        steps = self.steps()
        name = which.removesuffix(".pt").removeprefix("step_")
        if name == "best" and self.best.exists():
            return self.best
        if name == "last" and steps:
            return self.path(steps[-1])
        if name.isdigit() and int(name) in steps:
            return self.path(int(name))
        kept = [*(["best"] if self.best.exists() else []), *(["last"] if steps else []), *map(str, steps)]
        raise CheckpointError(f"{self.directory}: no checkpoint {which!r}; there are: {', '.join(kept) or 'none'}")
