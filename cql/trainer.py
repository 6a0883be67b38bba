"""The training loop of a stack of runs: one ``for``, and what happens at its cadences.

An epoch is only the cadence of logging; evaluation, videos and checkpoints come every so many epochs. Whatever a run
leaves in its folder depends on its config alone and not on its neighbours in the stack, on the clock, or on how often
it was stopped and resumed.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cql import report
from cql.agent import METRICS, Agent, Policy
from cql.checkpoint import CheckpointFolder
from cql.data import Normaliser
from cql.envs import normalised_score
from cql.evaluation import EpisodeResults, Evaluator, Recorder
from cql.loggers import LocalLogger, WandbLogger
from cql.rendering import RenderingError, write_gif, write_mp4
from cql.sampling import Batch, Sampler

Status = Literal["running", "finished", "interrupted", "failed"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how often to do what.

    Attributes:
        n_steps: gradient steps in all.
        n_steps_per_epoch: metrics are averaged and logged over so many; the last epoch may be shorter.
        n_epochs_per_eval: epochs between two evaluations. The last step is always evaluated.
        n_epochs_per_checkpoint: epochs between two checkpoints. The last step always has one.
        n_evals_per_video: evaluations between two videos; 0 films the last policy only.
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
        reference: lowest and highest reference return for normalised scores, None where the environment has none.
        log_checkpoints: at the end, copy the last and the best checkpoint to W&B.
        scores: of the evaluations so far.
        status: ``running`` until :func:`train` returns.
        exit_code: 0, 1 where the run failed, 128 + the signal's number where one ended it.
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
    status: Status = "running"
    exit_code: int = 0
    failure: str | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)

    def score(self, returns: float) -> float | None:
        """Normalised score, where there are reference returns."""
        return None if self.reference is None else float(normalised_score(returns, *self.reference))


class EpochMetrics:
    """Sums of the metrics of an epoch, on the device, and the first step that was not finite.

    Args:
        n_runs: R.
        device: of the agent.
    """

    def __init__(self, n_runs: int, device: torch.device) -> None:
        self._sums = torch.zeros(len(METRICS), n_runs, dtype=torch.float64, device=device)
        self._bad_step = torch.full((n_runs,), -1, dtype=torch.int64, device=device)
        self._count = 0

    def add(self, step: int, values: Tensor) -> None:
        """Add the metrics of one step, (len(METRICS), R); nothing is moved to the host."""
        self._sums += values
        self._count += 1
        bad = ~values.isfinite().all(0) & (self._bad_step < 0)
        self._bad_step.masked_fill_(bad, step)

    def means(self, run: int) -> dict[str, float]:
        """Mean of each metric over the epoch."""
        return dict(zip(METRICS, (self._sums[:, run] / max(self._count, 1)).tolist(), strict=True))

    def first_bad_step(self, run: int) -> int | None:
        """The first step at which a metric was NaN or infinite, None if all were finite."""
        step = int(self._bad_step[run])
        return None if step < 0 else step

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sums.zero_()
        self._count = 0

    def state(self, run: int) -> dict[str, Any]:
        """What a checkpoint in the middle of an epoch needs."""
        return {"sums": self._sums[:, run].cpu().clone(), "count": self._count}

    def load_state(self, run: int, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._sums[:, run] = state["sums"].to(self._sums.device)
        self._count = int(state["count"])


@dataclass
class Trainer:
    """A stack of runs with all that trains it.

    Attributes:
        agent: R agents.
        sampler: their random numbers.
        data: all transitions, on the agent's device.
        normaliser: of the observations; part of every checkpoint.
        evaluator: R x E environments.
        recorder: films rollouts; None where videos are off or nothing can draw.
        runs: R of them, in the order of the stack.
        schedule: shared by the stack.
        provenance: versions and the data's fingerprint, for the checkpoints.
        progress: show a progress bar; None shows it on a terminal only.
    """

    agent: Agent
    sampler: Sampler
    data: Batch
    normaliser: Normaliser
    evaluator: Evaluator
    recorder: Recorder | None
    runs: list[Run]
    schedule: Schedule
    provenance: Mapping[str, Any]
    progress: bool | None = None

    def __post_init__(self) -> None:
        self._epoch = EpochMetrics(self.agent.n_runs, self.agent.device)

    def load(self, checkpoints: list[dict[str, Any]]) -> None:
        """Go on from one checkpoint a run, in the order of the stack."""
        self.agent.load_states([checkpoint["agent"] for checkpoint in checkpoints])
        for index, (run, checkpoint) in enumerate(zip(self.runs, checkpoints, strict=True)):
            self.sampler.load_state(index, checkpoint["sampler"])
            self._epoch.load_state(index, checkpoint["epoch"])
            run.scores = Scores(**checkpoint["scores"])
            run.last_metrics = dict(checkpoint["last_metrics"])

    def train(self) -> None:
        """Train until the last step, a signal to stop, or the failure of every run.

        SIGINT and SIGTERM end it after the current step with a checkpoint; a second one ends it at once. A run with a
        value that is no longer finite fails alone, at the end of the epoch in which it appeared. The outcome stands in
        ``status`` of each run, and in its folder.
        """
        first, last = self.agent.n_steps_done + 1, self.schedule.n_steps
        for run in self.runs:
            self._write_summary(run)
        if first == 1:
            # From the first moment on there is something to resume from.
            self._checkpoint(self._alive())
        with (
            _stop_on_signal() as stop,
            logging_redirect_tqdm(),
            tqdm(
                total=last, initial=first - 1, unit="step", disable=None if self.progress is None else not self.progress
            ) as bar,
        ):
            began, count = time.perf_counter(), 0
            for step in range(first, last + 1):
                self._epoch.add(step, self.agent.update(*self.sampler.draw(self.data)))
                bar.update()
                count += 1
                if step % self.schedule.n_steps_per_epoch == 0 or step == last:
                    self._synchronise()
                    seconds = time.perf_counter() - began
                    self._end_epoch(step, seconds, count / seconds, bar)
                    began, count = time.perf_counter(), 0
                if stop.signal is not None or not self._alive():
                    break
        for index, run in self._alive():
            if self.agent.n_steps_done >= last:
                self._finish(index, run)
        interrupted = self._alive()
        if interrupted and stop.signal is not None:
            self._stop_failures()
            self._checkpoint(self._alive())
            for _, run in self._alive():
                self._end(run, "interrupted", exit_code=128 + stop.signal)

    def abort(self, reason: str) -> None:
        """Mark every run that has not ended as failed: an error from outside the runs has ended training."""
        for _, run in self._alive():
            self._fail(run, reason)

    def _alive(self) -> list[tuple[int, Run]]:
        return [(index, run) for index, run in enumerate(self.runs) if run.status == "running"]

    def _synchronise(self) -> None:
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize(self.agent.device)

    # The cadences -----------------------------------------------------------------------------------------------------

    def _end_epoch(self, step: int, seconds: float, rate: float, bar: Any) -> None:
        schedule = self.schedule
        epoch, is_last = math.ceil(step / schedule.n_steps_per_epoch), step == schedule.n_steps
        evaluate = is_last or epoch % schedule.n_epochs_per_eval == 0
        self._stop_failures()
        results = self.evaluator.evaluate(self._policy()) if evaluate and self._alive() else None
        best = []
        for index, run in self._alive():
            metrics = self._epoch.means(index)
            if results is not None:
                if not np.isfinite(results.returns[index]).all():
                    self._fail(run, f"the policy's actions were not finite in the evaluation at step {step}")
                    continue
                if self._note_evaluation(step, index, run, results, metrics):
                    best.append((index, run))
            self._log(step, run, metrics, seconds, rate)
            bar.set_postfix_str("" if run.scores.last_return is None else f"return {run.scores.last_return:.0f}")
        self._epoch.reset()
        if results is not None and not is_last and schedule.n_evals_per_video:
            n_evals = epoch // schedule.n_epochs_per_eval
            if n_evals % schedule.n_evals_per_video == 0:
                for index, run in self._alive():
                    self._film(step, index, run)
        for index, run in best:
            run.checkpoints.write_best(self._contents(index, run))
        if is_last or epoch % schedule.n_epochs_per_checkpoint == 0:
            self._checkpoint(self._alive())

    def _note_evaluation(
        self, step: int, index: int, run: Run, results: EpisodeResults, metrics: dict[str, float]
    ) -> bool:
        """Add an evaluation to the metrics and the folder; tell whether it is the best so far."""
        returns: list[float] = results.returns[index].tolist()
        scores = None if run.reference is None else normalised_score(results.returns[index], *run.reference).tolist()
        mean, std = float(np.mean(returns)), float(np.std(returns))
        metrics |= {"eval_return_mean": mean, "eval_return_std": std}
        score = run.score(mean)
        if score is not None:
            metrics["eval_score"] = score
        run.local.log_episodes(step, results.seeds[index].tolist(), returns, results.lengths[index].tolist(), scores)
        run.scores.last_return, run.scores.last_std = mean, std
        if run.scores.best_return is None or mean > run.scores.best_return:
            run.scores.best_return, run.scores.best_step = mean, step
            return True
        return False

    def _log(self, step: int, run: Run, metrics: dict[str, float], seconds: float, rate: float) -> None:
        timing = {"seconds": seconds, "steps_per_second": rate}
        run.local.log_metrics(step, metrics)
        run.local.log_timing(step, timing)
        run.wandb.log(step, {**metrics, **timing})
        run.last_metrics = {"step": step, **metrics}
        shown = f"step {step}/{self.schedule.n_steps}  {rate:.1f} steps/s"
        if "eval_return_mean" in metrics:
            shown += f"  return {metrics['eval_return_mean']:.0f} +- {metrics['eval_return_std']:.0f}"
            shown += f" (score {metrics['eval_score']:.1f})" if "eval_score" in metrics else ""
        shown += "".join(f"  {name} {metrics[name]:.4g}" for name in ("critic_td", "cql_gap", "alpha_cql", "q_data"))
        log.info("%s%s", f"[{run.directory.name}] " if len(self.runs) > 1 else "", shown)

    def _checkpoint(self, runs: list[tuple[int, Run]]) -> None:
        for index, run in runs:
            run.checkpoints.write(self.agent.n_steps_done, self._contents(index, run))
            self._write_summary(run)

    def _contents(self, index: int, run: Run) -> dict[str, Any]:
        return {
            "step": self.agent.n_steps_done,
            "config": dict(run.config),
            "agent": self.agent.state(index),
            "sampler": self.sampler.state(index).cpu(),
            "epoch": self._epoch.state(index),
            "normaliser": {"mean": self.normaliser.mean.cpu(), "std": self.normaliser.std.cpu()},
            "scores": asdict(run.scores),
            "last_metrics": dict(run.last_metrics),
            **self.provenance,
        }

    # Rollouts ---------------------------------------------------------------------------------------------------------

    def _policy(self, run: int | None = None) -> Policy:
        chosen = slice(None) if run is None else slice(run, run + 1)
        parameters = {name: tensor.detach()[chosen] for name, tensor in self.agent.actor.items()}
        return Policy(self.agent.structure.mlp, parameters, self.normaliser.mean, self.normaliser.std)

    def _film(self, step: int, index: int, run: Run, *, mp4: bool = False) -> None:
        if self.recorder is None:
            return
        path = run.directory / "videos" / f"step_{step:07d}.gif"
        path.parent.mkdir(exist_ok=True)
        try:
            recording = self.recorder.record(self._policy(index), int(self.evaluator.seeds[index, 0]))
            write_gif(path, recording.frames, recording.seconds_per_frame)
            if mp4:
                write_mp4(path.with_suffix(".mp4"), recording.frames, 1.0 / recording.seconds_per_frame)
        except RenderingError as error:
            log.warning("no more videos in this run: %s", error)
            self.recorder = None
            return
        run.wandb.log_video(step, path)

    # The ends of a run ------------------------------------------------------------------------------------------------

    def _finish(self, index: int, run: Run) -> None:
        self._film(self.agent.n_steps_done, index, run, mp4=True)
        title = f"{run.config['env']['id']}, seed {run.config['seed']}"
        run.wandb.log_figure(report.key_curves(run.directory, title=title))
        if run.log_checkpoints:
            for path in (run.checkpoints.find("last"), run.checkpoints.best):
                run.wandb.log_file_artifact(path, f"checkpoint-{run.wandb.run_id}-{path.stem}", "checkpoint")
        self._end(run, "finished", exit_code=0)

    def _stop_failures(self) -> None:
        for index, run in self._alive():
            step = self._epoch.first_bad_step(index)
            parameter = self.agent.non_finite(index)
            if step is not None:
                bad = [name for name, value in self._epoch.means(index).items() if not math.isfinite(value)]
                self._fail(run, f"{', '.join(bad)} not finite from step {step} on")
            elif parameter is not None:
                self._fail(run, f"parameter {parameter} not finite at step {self.agent.n_steps_done}")

    def _fail(self, run: Run, reason: str) -> None:
        steps = run.checkpoints.steps()
        kept = str(run.checkpoints.path(steps[-1])) if steps else "none"
        shown = ", ".join(f"{name} {value:.4g}" for name, value in run.last_metrics.items()) or "none"
        run.failure = f"{reason}; last metrics: {shown}; last good checkpoint: {kept}"
        log.error("%s: failed: %s", run.directory, run.failure)
        self._end(run, "failed", exit_code=1)

    def _end(self, run: Run, status: Status, exit_code: int) -> None:
        run.status, run.exit_code = status, exit_code
        self._write_summary(run)
        run.wandb.summary({"status": status, **self._summary_scores(run)})
        run.wandb.finish(exit_code)

    def _summary_scores(self, run: Run) -> dict[str, float | int | None]:
        scores = run.scores
        summary: dict[str, float | int | None] = {
            "eval_return_mean": scores.last_return,
            "eval_return_std": scores.last_std,
            "best_eval_return_mean": scores.best_return,
            "best_step": scores.best_step,
        }
        for prefix, value in (("", scores.last_return), ("best_", scores.best_return)):
            summary[f"{prefix}eval_score"] = None if value is None else run.score(value)
        return summary

    def _write_summary(self, run: Run) -> None:
        summary: dict[str, Any] = {
            "status": run.status,
            "step": self.agent.n_steps_done,
            "n_steps": self.schedule.n_steps,
            **self._summary_scores(run),
            "wandb_id": run.wandb.run_id,
        }
        if run.failure is not None:
            summary["failure"] = run.failure
        run.local.write_summary(summary)


@dataclass
class _Stop:
    signal: int | None = None


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[_Stop]:
    """Turn the first SIGINT or SIGTERM into a note, so that the loop can end between two steps."""
    stop = _Stop()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number
        log.warning(
            "%s: stopping after this step with a checkpoint (once more to stop at once)", signal.Signals(number).name
        )

    previous: dict[signal.Signals, Any] = {}
    try:
        for caught in (signal.SIGINT, signal.SIGTERM):
            # Only the main thread may; elsewhere whoever started the thread decides.
            with contextlib.suppress(ValueError):
                previous[caught] = signal.signal(caught, handle)
        yield stop
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
