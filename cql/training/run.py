"""One run of a stack, and the schedule that the stack shares."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cql.rollout.envs import normalised_score
from cql.scorer_names import DIRECTIONS, PREFIX
from cql.training.checkpoint import CheckpointFolder
from cql.training.local_logger import N_LAST_EVALUATIONS, LocalLogger
from cql.training.wandb_logger import WandbLogger

Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how often to do what.

    Attributes:
        n_steps: gradient steps in all.
        n_offline_steps: those of them on the dataset; the others come after them, in the environment.
        n_steps_per_epoch: steps over which metrics are averaged and logged; the last epoch may be shorter, and so may
            the last one on the dataset.
        n_steps_per_online_epoch: the same in the environment's part.
        n_epochs_per_eval: epochs between two evaluations. The last step is always evaluated.
        n_epochs_per_checkpoint: epochs between two checkpoints. The last step always has one.
        n_evals_per_video: evaluations between two videos; 0 records the last policy only.
    """

    n_steps: int
    n_offline_steps: int
    n_steps_per_epoch: int
    n_steps_per_online_epoch: int = 1
    n_epochs_per_eval: int = 1
    n_epochs_per_checkpoint: int = 1
    n_evals_per_video: int = 1

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch ends with a step."""
        return self.epoch_start(step + 1) == step or step == self.n_steps

    def epoch_start(self, step: int) -> int:
        """Steps before the epoch that a step, counted from 1, belongs to."""
        if step <= self.n_offline_steps:
            return (step - 1) // self.n_steps_per_epoch * self.n_steps_per_epoch
        n_done = step - 1 - self.n_offline_steps
        return self.n_offline_steps + n_done // self.n_steps_per_online_epoch * self.n_steps_per_online_epoch

    def epoch(self, step: int) -> int:
        """The number of the epoch that a step belongs to, counted from 1 in each of the two parts."""
        if step <= self.n_offline_steps:
            return math.ceil(step / self.n_steps_per_epoch)
        return math.ceil((step - self.n_offline_steps) / self.n_steps_per_online_epoch)


@dataclass
class Scores:
    """What evaluations said so far; part of a run's checkpoint.

    Attributes:
        last_return: mean return of the last evaluation.
        last_std: standard deviation of its episodes' returns.
        last_success: share of its episodes that succeeded; None where the environment does not report it.
        best_return: mean return of the best evaluation.
        best_step: its step; without a simulator, that of the best objective.
        offline: the scorers at the last evaluation, as metrics.
        best_objective: without a simulator: the best value of :attr:`Run.objective`.
    """

    last_return: float | None = None
    last_std: float | None = None
    best_return: float | None = None
    best_step: int | None = None
    last_success: float | None = None
    offline: dict[str, float] = field(default_factory=dict)
    best_objective: float | None = None


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
        evaluations: the step and the mean return of each evaluation so far.
        n_offline_steps: of the schedule, if the run continues in the environment; else None.
        status: ``running`` until :func:`train` returns.
        exit_code: 0, 1 if the run failed or was stopped on its page in W&B, 128 + the number of a signal that ended it.
        failure: what went wrong, where ``status`` is ``failed``.
        last_metrics: the last row that was logged, with its step.
        title: of its figure.
        has_simulator: whether evaluations have returns.
        best_by: without a simulator: the scorer that says which step is the best, None for none.
    """

    directory: Path
    config: Mapping[str, Any]
    local: LocalLogger
    wandb: WandbLogger
    checkpoints: CheckpointFolder
    reference: tuple[float, float] | None
    log_checkpoints: bool = False
    scores: Scores = field(default_factory=Scores)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    n_offline_steps: int | None = None
    status: Status = "running"
    exit_code: int = 0
    failure: str | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)
    title: str = ""
    has_simulator: bool = True
    best_by: str | None = None

    @property
    def judged_by(self) -> str:
        """What :attr:`judged` is."""
        return "return" if self.has_simulator else f"{PREFIX}{self.best_by}"

    @property
    def judged(self) -> float | None:
        """What the last evaluation came to: the mean return, or without a simulator the named scorer."""
        return self.scores.last_return if self.has_simulator else self.scores.offline.get(self.judged_by)

    @property
    def objective(self) -> float | None:
        """Without a simulator: the named scorer, with the sign that makes the larger value the better one."""
        return None if self.best_by is None or self.judged is None else DIRECTIONS[self.best_by] * self.judged

    def note_scores(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Keep the scorers among the metrics of a step; tell whether the objective is the best so far.

        Raises:
            ValueError: the named scorer is not defined.
        """
        found = {name: value for name, value in metrics.items() if name.startswith(PREFIX)}
        if not found:
            return False
        self.scores.offline = found
        objective, best = self.objective, self.scores.best_objective
        if self.best_by is not None and objective is None:
            raise ValueError(f"env.best_by={self.best_by} is not defined on these data: name another scorer")
        if objective is None or (best is not None and objective <= best):
            return False
        self.scores.best_objective, self.scores.best_step = objective, step
        return True

    def score(self, returns: float) -> float | None:
        """Normalised score, where there are reference returns."""
        return None if self.reference is None else float(normalised_score(returns, *self.reference))

    def outcomes(self) -> dict[str, float | int | None]:
        """The last and the best evaluation and the mean of the last few, as returns and as scores.

        Of a run with a part in the environment also the evaluation before that part, and the regret: the mean of
        1 - score / 100 over the evaluations in it. Without a simulator, the scorers and the objective.
        """
        if not self.has_simulator:
            best = self.scores.best_objective
            found = {**self.scores.offline, "objective": self.objective, "best_step": self.scores.best_step}
            if self.best_by is not None:
                found[f"best_{self.judged_by}"] = None if best is None else DIRECTIONS[self.best_by] * best
            return found
        returns_so_far = [return_ for _, return_ in self.evaluations]
        last_few = float(np.mean(returns_so_far[-N_LAST_EVALUATIONS:])) if returns_so_far else None
        returns = {
            "": self.scores.last_return,
            "best_": self.scores.best_return,
            f"last{N_LAST_EVALUATIONS}_": last_few,
        }
        online = []
        if self.n_offline_steps is not None:
            before = [return_ for step, return_ in self.evaluations if step <= self.n_offline_steps]
            online = [return_ for step, return_ in self.evaluations if step > self.n_offline_steps]
            returns["offline_"] = before[-1] if before else None
        summary: dict[str, float | int | None] = {
            **{f"{which}eval_return_mean": value for which, value in returns.items()},
            "eval_return_std": self.scores.last_std,
            "eval_success": self.scores.last_success,
            "best_step": self.scores.best_step,
        }
        for which, value in returns.items():
            summary[f"{which}eval_score"] = None if value is None else self.score(value)
        if self.n_offline_steps is not None:
            score = self.score(float(np.mean(online))) if online else None
            summary["regret"] = None if score is None else 1.0 - score / 100.0
        return summary


def known(values: Mapping[str, float | int | None]) -> dict[str, float | int]:
    """The values that are there."""
    return {name: value for name, value in values.items() if value is not None}
