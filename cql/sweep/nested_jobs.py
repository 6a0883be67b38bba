"""One stack of a sweep, trained by one call inside the nested Hydra jobs of its runs.

Hydra's own ``run_job`` is nested once per run, and the stack is trained in the innermost job. So every run is a job
like any other, with its own HydraConfig, callbacks and ``JobReturn``.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig

from cql import config
from cql.config import TrainConfig
from cql.training import experiment, run_folder
from cql.training.experiment import RunFailed

log = logging.getLogger(__name__)


def train_stack(context: HydraContext, configs: Sequence[DictConfig], label: str) -> list[JobReturn]:
    """Train one stack, each run in a Hydra job of its own.

    Args:
        context: Hydra's.
        configs: The whole config of each job.
        label: Names the stack in the log, e.g. ``stack 1/2``.

    Returns:
        One return per run: its score, or its failure.

    Raises:
        SystemExit: A signal ended the runs.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 10 * len(configs))
    try:
        return _NestedJobs(context, configs, label).run()
    finally:
        sys.setrecursionlimit(limit)


def failed_return(error: Exception, overrides: Sequence[str]) -> JobReturn:
    """The return of a job that failed."""
    return JobReturn(overrides=list(overrides), status=JobStatus.FAILED, _return_value=error)


class _NestedJobs:
    """Level i of the nesting is the job of run i; the level after the last trains the stack."""

    def __init__(self, context: HydraContext, configs: Sequence[DictConfig], label: str) -> None:
        self._context, self._configs, self._label = context, configs, label
        self._returns: dict[int, JobReturn] = {}
        self._claimed: dict[int, tuple[TrainConfig, Path]] = {}
        self._outcomes: dict[int, float | Exception] = {}
        self._entered: set[int] = set()

    def run(self) -> list[JobReturn]:
        self._enter(0)
        return [self._returns[index] for index in range(len(self._configs))]

    def _enter(self, index: int) -> None:
        if index == len(self._configs):
            self._train()
            return
        try:
            self._returns[index] = run_job(
                hydra_context=self._context,
                task_function=lambda cfg: self._task(index, cfg),
                config=self._configs[index],
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                configure_logging=False,  # it would close the log handlers of the outer jobs
            )
        except OSError as error:
            if index in self._entered:
                raise
            # The job's folder could not be made.
            log.error("%s", error)
            self._returns[index] = failed_return(RunFailed(str(error)), self._configs[index].hydra.overrides.task)
            self._enter(index + 1)

    def _task(self, index: int, cfg: DictConfig) -> float:
        """Claim the run's folder, go one level deeper, and return the run's outcome."""
        self._entered.add(index)
        # Read before the inner jobs start: HydraConfig is global and then tells of them.
        directory = Path(HydraConfig.get().runtime.output_dir)
        try:
            train_config = config.checked(cfg)
            run_folder.claim_folder(train_config, directory)
            self._claimed[index] = (train_config, directory)
        except Exception as error:  # noqa: BLE001  one run's failure does not end the others
            log.error("%s: %s", directory, error)
            self._outcomes[index] = error
        self._enter(index + 1)
        outcome = self._outcomes[index]
        if isinstance(outcome, RunFailed):
            raise outcome
        if isinstance(outcome, Exception):
            raise RunFailed(f"{directory}: {type(outcome).__name__}: {outcome}") from outcome
        return outcome

    def _train(self) -> None:
        if self._claimed:
            configs, directories = zip(*self._claimed.values(), strict=True)
            results = experiment.run_stack(configs, directories, label=self._label)
            self._outcomes.update(zip(self._claimed, results, strict=True))
