"""One run of a stack, and the schedule that the stack shares."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cql.rollout.envs import normalised_score
from cql.training.checkpoint import CheckpointFolder
from cql.training.local_logger import N_LAST_EVALUATIONS, LocalLogger
from cql.training.wandb_logger import WandbLogger

Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how often to do what.

    Attributes:
        n_steps: gradient steps in all.
        n_steps_per_epoch: steps over which metrics are averaged and logged; the last epoch may be shorter.
        n_epochs_per_eval: epochs between two evaluations. The last step is always evaluated.
        n_epochs_per_checkpoint: epochs between two checkpoints. The last step always has one.
        n_evals_per_video: evaluations between two videos; 0 records the last policy only.
    """

    n_steps: int
    n_steps_per_epoch: int
    n_epochs_per_eval: int = 1
    n_epochs_per_checkpoint: int = 1
    n_evals_per_video: int = 1


@dataclass
class Scores:
    """What evaluations said so far; part of a run's checkpoint.

    Attributes:
        last_return: mean return of the last evaluation.
        last_std: standard deviation of its episodes' returns.
        best_return: mean return of the best evaluation.
        best_step: its step.
    """

    last_return: float | None = None
    last_std: float | None = None
    best_return: float | None = None
    best_step: int | None = None


@dataclass
class Run:
    """One run of a stack: its place in the world, and how it fares.

    Attributes:
        directory: the run's folder.
        config: the resolved config as plain values; every checkpoint carries it.
        local: writes the folder's files.
        wandb: the run's mirror in W&B; may be switched off.
        checkpoints: the folder's checkpoints.
        reference: lowest and highest reference return for normalised scores, None if the environment has none.
        log_checkpoints: at the end, copy the last and the best checkpoint to W&B.
        scores: of the evaluations so far.
        last_returns: mean returns of the last :data:`cql.training.local_logger.N_LAST_EVALUATIONS` evaluations.
        status: ``running`` until :func:`train` returns.
        exit_code: 0, 1 if the run failed or was stopped on its page in W&B, 128 + the number of a signal that ended it.
        failure: what went wrong, where ``status`` is ``failed``.
        last_metrics: the last row that was logged, with its step.
    """

    directory: Path
    config: Mapping[str, Any]
    local: LocalLogger
    wandb: WandbLogger
    checkpoints: CheckpointFolder
    reference: tuple[float, float] | None
    log_checkpoints: bool = False
    scores: Scores = field(default_factory=Scores)
    last_returns: deque[float] = field(default_factory=lambda: deque(maxlen=N_LAST_EVALUATIONS))
    status: Status = "running"
    exit_code: int = 0
    failure: str | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)

    def score(self, returns: float) -> float | None:
        """Normalised score, where there are reference returns."""
        return None if self.reference is None else float(normalised_score(returns, *self.reference))

    def outcomes(self) -> dict[str, float | int | None]:
        """The last and the best evaluation and the mean of the last few, as returns and as scores."""
        last_few = float(np.mean(self.last_returns)) if self.last_returns else None
        returns = {
            "": self.scores.last_return,
            "best_": self.scores.best_return,
            f"last{N_LAST_EVALUATIONS}_": last_few,
        }
        summary: dict[str, float | int | None] = {
            **{f"{which}eval_return_mean": value for which, value in returns.items()},
            "eval_return_std": self.scores.last_std,
            "best_step": self.scores.best_step,
        }
        for which, value in returns.items():
            summary[f"{which}eval_score"] = None if value is None else self.score(value)
        return summary


def known(values: Mapping[str, float | int | None]) -> dict[str, float | int]:
    """The values that are there."""
    return {name: value for name, value in values.items() if value is not None}
