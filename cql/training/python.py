"""Compose and train from Python, as in a notebook; the command line is ``scripts/train.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from cql import config
from cql.config import ConfigError, TrainConfig

_OF_COMMANDS = ("-", "hydra", "resume=", "sweep_name=", "retry_failed=")


class Trained(NamedTuple):
    """The outcome of :func:`train`.

    Attributes:
        folder: of the run; :func:`cql.load` takes it.
        score: of the last evaluation, normalised; its mean return if the environment has no reference scores. Without
            a simulator the scorer ``env.best_by``, NaN if there is none.
    """

    folder: Path
    score: float


def compose(overrides: Sequence[str] = ()) -> TrainConfig:
    """The checked config of one run, as ``scripts/train.py`` would train it.

    Args:
        overrides: as on its command line, such as ``["+experiment=quickstart", "seed=1"]``.

    Returns:
        A tree of dataclasses: ``compose().algorithm.discount``.

    Raises:
        ConfigError: what is wrong with the overrides and what to write. A sweep is refused too.
    """
    parser = OverridesParser.create()
    try:
        texts = config.arranged([overrides] if isinstance(overrides, str) else overrides)
        for text in texts:
            of_command = text.startswith(_OF_COMMANDS) and text != "hydra.mode=RUN"
            if of_command or parser.parse_overrides([text])[0].is_sweep_override():
                raise ConfigError(
                    f"{text}: this composes one run; sweeps, resume and options of Hydra are for the command line, "
                    "python scripts/train.py (cql.train resumes a run that it finds in its directory)"
                )
        return config.checked(config.compose(texts))
    except Exception as error:
        message = config.explain(error)
        if message is None:
            raise
        raise ConfigError(message) from None


def train(overrides: Sequence[str] = (), directory: str | Path | None = None) -> Trained:
    """Train one run in this process, or resume it.

    Args:
        overrides: see :func:`compose`.
        directory: the run's folder; None makes one in ``outputs/``, as the command line does. One that holds a run of
            the same config is resumed where that stopped.

    Returns:
        The folder and the score.

    Raises:
        ConfigError: the overrides are wrong.
        FolderError: the folder belongs to another config.
        FolderInUseError: another process trains in the folder.
        RunFailed: the run failed, such as by a value that is not finite; its folder tells why.
        KeyboardInterrupt: the run was interrupted, and has a checkpoint.
    """
    train_config = compose(overrides)
    from cql.training import experiment

    folder = config.new_run_folder(train_config) if directory is None else Path(directory)
    try:
        return Trained(folder, experiment.run(train_config, folder))
    except SystemExit as ended:
        if ended.code != 130:
            raise
        raise KeyboardInterrupt(f"interrupted; the same call with directory={str(folder)!r} resumes it") from None
