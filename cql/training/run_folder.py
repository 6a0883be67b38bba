"""The folder of one run: its config, its summary, and what a person opens first.

How a run comes to its folder: ``cql.config.folders`` names it (``run_dir``, ``job_name``) and makes it when Hydra
starts the run or sweep. :func:`claim_folder` writes the config into it or checks that it is the same.
``experiment.run_stack`` locks it and asks whether the run has ended. ``resume.stacks_to_resume`` finds the step to
resume from.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cql import config, files
from cql.config import TrainConfig
from cql.training.checkpoint import CheckpointFolder
from cql.training.curves import KEY_CURVES_FILE
from cql.training.local_logger import SUMMARY_FILE, VIDEO_FOLDER

CONFIG_FILE = Path(config.RUN_CONFIG_FILE)


class FolderError(RuntimeError):
    """A run's folder belongs to another config, or has lost or damaged files; nothing in it was touched."""


def claim_folder(train_config: TrainConfig, directory: Path) -> None:
    """Make the folder this config's own, or check that it already is.

    Writes ``.hydra/config.yaml``, all values resolved, and Hydra's own ``hydra.yaml`` and ``overrides.yaml`` beside it,
    until the run has its first checkpoint and never again.

    Raises:
        FolderError: the folder is of a run with another config.
        ConfigError: the config in it is damaged.
    """
    path, plain = directory / CONFIG_FILE, config.to_dict(train_config)
    if path.exists() and config.has_begun(directory):
        differences = config.differences(config.saved_config(path), plain)
        if differences:
            raise FolderError(
                f"{directory} holds a run with another config and is left as it is; choose another hydra.run.dir, or "
                "take back:\n  " + "\n  ".join(differences)
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    written: dict[str, Any] = {}
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        written = {"hydra.yaml": OmegaConf.create({"hydra": hydra}), "overrides.yaml": hydra.overrides.task}
    for name, contents in {**written, path.name: OmegaConf.create(plain)}.items():
        with files.replacing(path.with_name(name)) as aside:
            OmegaConf.save(contents, aside)


def resumed_config(directory: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of an earlier run.

    Args:
        directory: the run's folder.
        overrides: the command line's, to refuse those that would be ignored.

    Raises:
        ConfigError: an override besides ``resume``: a run keeps the config that it began with.
        FolderError: the folder is not that of a run, or it holds no checkpoint.
    """
    config.refuse_beside_resume(directory, overrides)
    path = directory / CONFIG_FILE
    if not path.exists():
        raise FolderError(f"resume={directory}: there is no {path}, so this is not the folder of a run")
    if not CheckpointFolder(directory / "checkpoints").steps():
        raise FolderError(
            f"resume={directory}: {directory / 'checkpoints'} holds no checkpoint. If the run was stopped before its "
            f"first one, start it again in the same folder with its own overrides and hydra.run.dir={directory}"
        )
    return config.from_dict(config.saved_config(path))


def read_summary(directory: Path) -> dict[str, Any]:
    """``summary.json`` of a run's folder; empty if there is none yet.

    Raises:
        FolderError: it cannot be read, is damaged, or that of a finished run lacks the outcome.
    """
    path = directory / SUMMARY_FILE
    try:
        summary = dict(json.loads(files.contents(path)))
        if summary.get("status") == "finished":
            score(summary)
    except FileNotFoundError:
        return {}
    except files.UnreadableError as error:
        raise FolderError(str(error)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FolderError(
            f"{files.damage(path)}: remove it and start the run again. It resumes from its last checkpoint, and the "
            "file is written anew"
        ) from error
    return summary


def score(summary: Mapping[str, Any]) -> float:
    """The last score in the summary of a finished run, or its mean return without reference scores.

    Of a run without a simulator, its objective; NaN if no scorer was named.
    """
    if "objective" in summary:
        return math.nan if summary["objective"] is None else float(summary["objective"])
    return float(summary["eval_score"] if summary["eval_score"] is not None else summary["eval_return_mean"])


def sweep_name(directory: Path) -> str | None:
    """The name of the sweep that a run's folder belongs to, None if it belongs to none."""
    parent = directory.resolve().parent
    return parent.name if (parent / config.SWEEP_FILE).exists() else None


def shown_results(directory: Path) -> list[Path]:
    """What a person opens first: the last video and the figure, if they exist."""
    videos = sorted((directory / VIDEO_FOLDER).glob("*.gif"))[-1:]
    return [path for path in (*videos, directory / KEY_CURVES_FILE) if path.exists()]
