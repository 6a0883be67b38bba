"""Where runs resume: the newest step of which each run of a stack has a checkpoint that can be read."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from cql import data
from cql.config import TrainConfig, to_dict
from cql.config.identity import differences
from cql.training.checkpoint import CheckpointError, CheckpointFolder, load
from cql.training.local_logger import METRICS_FILE
from cql.training.provenance import versions
from cql.training.run_folder import FolderError

log = logging.getLogger(__name__)


class Stack(NamedTuple):
    """Runs that train together.

    Attributes:
        step: the step that all of them have taken.
        checkpoints: the contents of each run's checkpoint of that step, by folder; None for a run at its beginning.
    """

    step: int
    checkpoints: dict[Path, dict[str, Any] | None]


def stacks_to_resume(
    directories: Sequence[Path], initial: Mapping[Path, dict[str, Any]] = MappingProxyType({})
) -> tuple[list[Stack], dict[Path, Exception]]:
    """Divide runs into stacks whose runs resume from one step.

    Usually that is one stack: a kill in the middle of its checkpoints leaves some runs one checkpoint ahead, and these
    go back to the step before. Runs that have no step in common train in separate stacks. Damaged checkpoints are named
    in the log and passed over.

    Args:
        directories: the runs' folders.
        initial: what a run without a checkpoint of its own begins with, in place of fresh networks.

    Returns:
        The stacks, and for each run that cannot be resumed the reason: a FolderError if its folder holds results but no
        checkpoint, a CheckpointError if none of its checkpoints can be read.
    """
    steps: dict[Path, set[int]] = {}
    errors: dict[Path, Exception] = {}
    reasons: dict[Path, list[str]] = {directory: [] for directory in directories}
    for directory in directories:
        try:
            steps[directory] = _steps(directory, initial.get(directory))
        except (FolderError, OSError) as error:
            errors[directory] = error
    while True:
        stacks, damaged = [], False
        for members in grouped_by_step(steps):
            step = max(set.intersection(*(steps[member] for member in members)))
            contents: dict[Path, dict[str, Any] | None] = {}
            for member in members:
                path = _folder(member).path(step)
                try:
                    contents[member] = load(path) if path.exists() else initial.get(member)
                except CheckpointError as error:
                    damaged = True
                    log.warning("%s; trying the one before it", error, extra={"run_dir": member})
                    reasons[member].append(str(error))
                    steps[member].discard(step)
                    if not steps[member]:
                        del steps[member]
                        errors[member] = CheckpointError(f"{'; '.join(reasons[member])}. Start a new run")
            stacks.append(Stack(step, contents))
        if not damaged:
            return stacks, errors


def grouped_by_step(steps: Mapping[Path, Collection[int]]) -> list[list[Path]]:
    """Divide runs into groups that have a step in common, as few as come of taking them in their order.

    Args:
        steps: of which each run has a checkpoint; 0 for a run at its beginning.
    """
    groups: list[tuple[set[int], list[Path]]] = []
    for run, own in steps.items():
        for common, members in groups:
            if common & set(own):
                common &= set(own)
                members.append(run)
                break
        else:
            groups.append((set(own), [run]))
    return [members for _, members in groups]


def _folder(directory: Path) -> CheckpointFolder:
    return CheckpointFolder(directory / "checkpoints")


def _steps(directory: Path, initial: Mapping[str, Any] | None = None) -> set[int]:
    folder = _folder(directory)
    steps = set(folder.steps())
    if steps:
        return steps
    if (directory / METRICS_FILE).exists() or folder.best.exists():
        raise FolderError(
            f"{directory} holds results but no checkpoint to resume from; starting anew would overwrite them. "
            "Choose another hydra.run.dir, or move the folder away"
        )
    return {0 if initial is None else int(initial["step"])}


def check_checkpoint(
    checkpoint: Mapping[str, Any],
    train_config: TrainConfig,
    directory: Path,
    transitions: data.Transitions,
    device: torch.device,
) -> None:
    """Check that a run can resume from a checkpoint on this data and device; warn if versions have changed.

    Raises:
        FolderError: the checkpoint is of another run, of other data, or of another kind of device.
    """
    before = dict(checkpoint["config"])
    # A run may be trained for longer than it was meant to be, if nothing before its end depends on that.
    if not train_config.algorithm.is_scheduled and not train_config.online.n_updates:
        before["n_steps"] = train_config.n_steps
    others = differences(before, to_dict(train_config))
    if others:
        raise FolderError(
            f"{directory}: its checkpoint is of another run ({'; '.join(others)}). Put back the run's own, or start a "
            "new run"
        )
    log.info("resuming from step %d", checkpoint["step"], extra={"run_dir": directory})
    fingerprint = checkpoint["data_fingerprint"]
    if fingerprint != transitions.fingerprint:
        raise FolderError(
            f"{directory}: its checkpoint was trained on data with the fingerprint {fingerprint}, the dataset now has "
            f"{transitions.fingerprint}: the dataset has changed, so this run cannot resume. Restore the dataset, or "
            "start a new run"
        )
    fresh = torch.Generator(device).get_state()
    if checkpoint["sampler"].shape != fresh.shape or checkpoint["sampler"].dtype != fresh.dtype:
        raise FolderError(
            f"{directory}: its checkpoint holds the random state of another kind of device than {device.type}; "
            + (
                "resume it on a machine with a GPU"
                if device.type == "cpu"
                else "it was trained without a GPU: hide it by CUDA_VISIBLE_DEVICES= before the command"
            )
        )
    now = versions()
    changed = [
        f"{name} {was} -> {now.get(name)}" for name, was in checkpoint["versions"].items() if now.get(name) != was
    ]
    if changed:
        log.warning(
            "%s: resumed with other versions, so not bit for bit: %s", directory, ", ".join(changed),
            extra={"run_dir": directory},
        )  # fmt: skip
