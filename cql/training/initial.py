"""What a run begins with, if ``init_from`` or ``init_from_sweep`` names another run: a checkpoint of that one.

The networks, targets, coefficients and optimisers are the other run's, and so is the step. With the same seed the
random numbers continue too: a run on the dataset and one in the environment that begins with its last checkpoint are,
bit for bit, the one run that does both, if learning rates are constant (a schedule spans all steps of its own run).
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cql import config, data, files
from cql.algorithm.sampling import TRAINING_STREAM, generator
from cql.config import TrainConfig
from cql.config.schema import NO_SIMULATOR
from cql.points import parse_point
from cql.rollout.envs import EnvInfo
from cql.training.checkpoint import CheckpointError, CheckpointFolder, load
from cql.training.provenance import spaces
from cql.training.run_folder import CONFIG_FILE, FolderError, sweep_name

log = logging.getLogger(__name__)

INIT_FILE = "init_from.json"
_ITS_OWN = ("init_from", "init_from_sweep", "online")


def initial_checkpoint(train_config: TrainConfig, directory: Path, device: torch.device) -> dict[str, Any] | None:
    """The contents of a checkpoint that a run can begin with; None if it begins with fresh networks.

    Raises:
        FolderError: there is no such run, checkpoint or twin, or its step is beyond the config's.
        CheckpointError: the checkpoint is damaged.
    """
    found = _source(train_config, directory)
    if found is None:
        return None
    option, path = found
    contents = load(path)
    step = int(contents["step"])
    if step > train_config.n_steps:
        raise FolderError(
            f"{option}: {path} is of step {step}, but training on the dataset ends at n_steps={train_config.n_steps}: "
            f"write n_steps={step}, or more to train longer on the dataset"
        )
    if step >= train_config.n_all_steps:
        raise FolderError(
            f"{option}: {path} is of step {step}, at which this run would end: nothing is left to train. Raise "
            "n_steps, or add online=finetune"
        )
    sampler = generator(train_config.seed, TRAINING_STREAM, device).get_state()
    goes_on = contents["config"].get("seed") == train_config.seed and contents["sampler"].shape == sampler.shape
    return {
        "step": step,
        "agent": contents["agent"],
        "sampler": contents["sampler"] if goes_on else sampler,
        "epoch": {"sums": torch.zeros(0), "count": 0},
        "scores": {},
        "last_metrics": {},
        "normaliser": contents["normaliser"],
        "spaces": contents.get("spaces"),
        "init_from": {
            "option": option,
            "checkpoint": str(path),
            "step": step,
            "env_id": contents["config"].get("env", {}).get("id"),
            "data_fingerprint": contents["data_fingerprint"],
            "differences": _differences(contents["config"], train_config),
        },
    }


def begin_with(checkpoint: Mapping[str, Any], directory: Path, transitions: data.Transitions, info: EnvInfo) -> None:
    """Check that a run's data suit what it begins with, say in what it differs, and note that in its folder.

    Raises:
        FolderError: the observations are normalised, or without a simulator the actions scaled, otherwise than those
            that the networks know.
    """
    origin, theirs, normaliser = checkpoint["init_from"], checkpoint["normaliser"], transitions.normaliser.cpu()
    own = {"mean": normaliser.mean, "std": normaliser.std}
    if own["mean"].shape != theirs["mean"].shape:
        sizes = len(theirs["mean"]), len(own["mean"])
        raise FolderError(
            f"{origin['option']}: the networks of {origin['checkpoint']} take observations of {sizes[0]} numbers, this "
            f"environment's have {sizes[1]}: give the environment of that run, or begin with another"
        )
    if not all(torch.equal(own[name], theirs[name]) for name in own):
        remedy = "choose the dataset of that run"
        for is_raw, value in ((_is_raw(theirs), "false"), (_is_raw(own), "true")):
            if is_raw:
                remedy = f"set dataset.normalise_observations={value}, as that run has it"
        raise FolderError(
            f"{origin['option']}: the networks of {origin['checkpoint']} know observations that were normalised "
            f"otherwise: {remedy}"
        )
    _refuse_other_bounds(checkpoint, info)
    if origin["data_fingerprint"] != transitions.fingerprint:
        origin["differences"].append(f"data: {origin['data_fingerprint']} -> {transitions.fingerprint}")
    lines = "".join(f"\n  {line}" for line in origin["differences"])
    said = f"; differs from that run in:{lines}" if lines else ", with its config but for online"
    log.info("begins with step %d of %s%s", origin["step"], origin["checkpoint"], said, extra={"run_dir": directory})
    files.write_text(directory / INIT_FILE, json.dumps(origin, indent=2) + "\n")


def _refuse_other_bounds(checkpoint: Mapping[str, Any], info: EnvInfo) -> None:
    """Where bounds are not an environment's, those of a run and of what it begins with have to be the same."""
    origin, before, now = checkpoint["init_from"], checkpoint["spaces"], spaces(info)
    keys, is_free = ("action_low", "action_high"), info.env_id == NO_SIMULATOR
    if before is None or not (is_free or origin["env_id"] == NO_SIMULATOR):
        return
    if any(before[key].shape == now[key].shape and not torch.equal(before[key], now[key]) for key in keys):
        wanted, remedy = (before, "set") if is_free else (now, "train that run with")
        settings = " ".join(f"env.{key}=[{','.join(f'{x:.9g}' for x in wanted[key].tolist())}]" for key in keys)
        said = f"{origin['option']}: the networks of {origin['checkpoint']} know actions scaled by other bounds"
        raise FolderError(f"{said}: {remedy} {settings}")


def _is_raw(normaliser: Mapping[str, torch.Tensor]) -> bool:
    """Whether observations are left as they are."""
    return not normaliser["mean"].any() and bool((normaliser["std"] == 1.0).all())


def _source(train_config: TrainConfig, directory: Path) -> tuple[str, Path] | None:
    """The option that names what a run begins with, and the checkpoint's file."""
    if train_config.init_from is not None:
        option, path = f"init_from={train_config.init_from}", Path(train_config.init_from)
        if path.is_file():
            return option, path
        if not path.is_dir():
            raise FolderError(f"{option}: there is no such folder or file; give the folder of a run, or a checkpoint")
        if not (path / CONFIG_FILE).exists():
            other = (
                f"; for a whole sweep, write init_from_sweep={path.name}" if (path / config.SWEEP_FILE).exists() else ""
            )
            raise FolderError(f"{option}: that is not the folder of a run: it holds no {CONFIG_FILE}{other}")
        return option, _last(option, path)
    if train_config.init_from_sweep is None:
        return None
    option = f"init_from_sweep={train_config.init_from_sweep}"
    sweep = directory.resolve().parent.parent / train_config.init_from_sweep
    if sweep_name(directory) is None:
        raise FolderError(f"{option} is for the runs of a sweep: add -m, or give init_from=RUN")
    if not (sweep / config.SWEEP_FILE).exists():
        raise FolderError(f"{option}: {sweep} is not the folder of a sweep; give the name of one beside this run's")
    own = parse_point(directory.resolve().name)
    twins: dict[Path, int] = {}
    for folder in sorted(sweep.iterdir()):
        point = parse_point(folder.name)
        if point and point.items() <= own.items():
            twins[folder] = len(point)
    best = [folder for folder, size in twins.items() if size == max(twins.values())]
    if len(best) != 1:
        what = "no run" if not best else f"{len(best)} runs ({', '.join(folder.name for folder in best)})"
        raise FolderError(f"{option}: {what} of that sweep has the values of {directory.name}; sweep the same keys")
    return option, _last(option, best[0])


def _last(option: str, folder: Path) -> Path:
    try:
        return CheckpointFolder(folder / "checkpoints").find("last")
    except CheckpointError as error:
        raise FolderError(f"{option}: {error}; train that run first") from error


def _differences(theirs: Mapping[str, Any], own: TrainConfig) -> list[str]:
    """In what a run differs from the one that it begins with, besides what makes it begin with that one."""
    lines = config.differences(theirs, config.to_dict(own))
    found = [line for line in lines if line.partition(":")[0].partition(".")[0] not in _ITS_OWN]
    if own.algorithm.is_scheduled:
        found.append(f"learning rates: their schedule spans the {own.n_all_steps} steps of this run")
    return found
