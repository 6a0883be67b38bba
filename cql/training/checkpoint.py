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


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: the file is absent, truncated, altered, or of another format version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such checkpoint") from error
    body, trailer = data[:-_TRAILER_SIZE], data[-_TRAILER_SIZE:]
    if trailer != _TRAILER + hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: its {len(data)} bytes do not match its checksum")
    contents: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    version = contents.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, this program reads version {FORMAT_VERSION}")
    return contents


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
