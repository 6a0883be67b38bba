"""The training loop of a stack of runs: one ``for``, and what happens at its cadences.

An epoch is only the cadence of logging; evaluations, videos and checkpoints come every few epochs. What a run
leaves in its folder depends on its config alone, and not on its neighbours in the stack, on the clock, or on how often
it was stopped and resumed. All runs of a stack are at the same step.

A worker may do evaluations and videos while training continues. What an epoch leaves is then written when the
worker's answer is there, from what its end looked like: the same bytes in the same order. Only one epoch is pending.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cql.algorithm.agent import Agent, Policy
from cql.algorithm.sampling import Batch, Mixture, Pool, Sampler
from cql.data import Normaliser
from cql.rollout.envs import normalised_score
from cql.rollout.episodes import EpisodeResults
from cql.rollout.evaluation import Evaluator, Recorder, RolledOut, Rollouts, roll_out
from cql.rollout.rendering import RenderingError
from cql.rollout.worker import Worker
from cql.training import curves as report
from cql.training import videos
from cql.training.checkpoint import CheckpointError
from cql.training.device import one_thread
from cql.training.epoch_metrics import EpochMetrics
from cql.training.online import Online
from cql.training.progress import duration, logging_above_bar, rounded, run_line
from cql.training.run import Run, Schedule, Scores, Status, known
from cql.training.signals import noted_signals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Epoch:
    """The end of an epoch, as it looked when its last step had been taken.

    Attributes:
        step: at which it ended.
        metrics: of each run that had not failed.
        states: of the same runs, where they take further steps before checkpoints can be written; else empty.
        rollouts: what is to be evaluated and recorded, if anything.
        saved: whether it ends with a checkpoint.
        seconds: how long its updates took.
        rate: of them, in steps per second.
    """

    step: int
    metrics: dict[int, dict[str, float]]
    states: dict[int, dict[str, Any]]
    rollouts: Rollouts | None
    saved: bool
    seconds: float
    rate: float


@dataclass
class Trainer:
    """A stack of runs with all that trains it.

    Attributes:
        agent: R agents.
        sampler: their random numbers.
        data: all transitions, on the agent's device; in the environment's part what ``online`` draws from.
        online: the part in the environment; None if training ends with the dataset.
        online_step: like ``step``, for that part.
        normaliser: of the observations; part of every checkpoint.
        evaluator: R x E environments; None if there is no simulator.
        recorder: records rollouts; None if videos are off or no OpenGL backend works.
        runs: R of them, in the order of the stack. One whose status is not ``running`` keeps its slot, so that the
            rounding of the others stays what it was, and nothing of it is touched.
        schedule: shared by the stack.
        provenance: versions, the data's fingerprint and the environment's spaces, for the checkpoints.
        progress: show a progress bar; None shows it on a terminal only.
        label: names the stack in the one line that is logged of it at the end of an epoch; empty logs no such line.
        step: takes one training step and gives its metrics, like :class:`cql.algorithm.fast.cuda_graph.CapturedStep`;
            None calls the agent's ``update``.
        scoring: the scores of a run on recorded data, as metrics; they join those of each evaluation. None for none.
        worker: does evaluations and videos beside training, bit for bit like ``evaluator`` and ``recorder``; None
            does them in between. It is the caller's to close.
    """

    agent: Agent
    sampler: Sampler
    data: Pool | Batch | Mixture
    normaliser: Normaliser
    evaluator: Evaluator | None
    recorder: Recorder | None
    runs: list[Run]
    schedule: Schedule
    provenance: Mapping[str, Any]
    progress: bool | None = None
    label: str = ""
    step: Callable[[], Tensor] | None = None
    worker: Worker | None = None
    online: Online | None = None
    online_step: Callable[[], Tensor] | None = None
    scoring: Callable[[int], dict[str, float]] | None = None

    def __post_init__(self) -> None:
        self._epoch = EpochMetrics(self.agent.metrics, self.agent.n_runs, self.agent.device)
        self._first, self._began = 1, time.perf_counter()
        self._pending: _Epoch | None = None
        self._completing: _Epoch | None = None
        self._bar: Any = None
        self._begins = True

    def load(self, checkpoints: Sequence[dict[str, Any] | None]) -> None:
        """Resume from one checkpoint per run, all of one step.

        Args:
            checkpoints: in the order of the stack; None for a run at its beginning, or that only keeps its place.

        Raises:
            ValueError: the checkpoints are of different steps.
        """
        given = {index: checkpoint for index, checkpoint in enumerate(checkpoints) if checkpoint is not None}
        steps = {int(checkpoint["step"]) for checkpoint in given.values()}
        steps |= {0 for index, run in self._alive() if index not in given}
        if len(steps) > 1:
            raise ValueError(f"the runs of a stack resume from one step, but their checkpoints are of steps {steps}")
        if not given:
            return
        self._begins = 0 in steps or any("init_from" in checkpoint for checkpoint in given.values())
        # A run at its beginning keeps its own state. A run that only keeps its place takes a neighbour's finite values.
        neighbour = next(iter(given.values()))["agent"]
        self.agent.load_states(
            [
                each["agent"] if each is not None else self.agent.state(index) if steps == {0} else neighbour
                for index, each in enumerate(checkpoints)
            ]
        )
        for index, checkpoint in given.items():
            run = self.runs[index]
            self.sampler.load_state(index, checkpoint["sampler"])
            self._epoch.load_state(index, checkpoint["epoch"])
            if self.online is not None and run.status == "running":
                with self._own_failure(index):
                    self.online.load(index, checkpoint.get("online", {"n_episodes": 0, "n_env_steps": 0}))
            run.scores = Scores(**checkpoint["scores"])
            run.last_metrics = dict(checkpoint["last_metrics"])

    def train(self) -> None:
        """Train until the last step, a signal to stop, or the failure of every run.

        SIGINT and SIGTERM end it after the current step with a checkpoint; a second one ends it at once. Where somebody
        has a handler of their own for SIGTERM, SIGUSR1 or SIGUSR2, as submitit has to requeue a job, that handler is
        called after the current step and a checkpoint; if it returns, training continues.

        A run with a value that is no longer finite fails alone, at the end of the epoch in which it appeared, and one
        whose folder cannot be written, at once. The outcome stands in ``status`` of each run, and in its folder.
        """
        last = self.schedule.n_steps
        for index, run in self._alive():
            with self._own_failure(index):
                self._write_summary(run)
        if self._begins:
            self._checkpoint()  # from the first moment on there is something to resume from
        self._finish_those_at_the_end()
        self._first = first = 1 + self._step_done
        if self.worker is not None and first <= last:
            self.worker.start()
        self._began = time.perf_counter()
        with (
            noted_signals() as signals,
            logging_above_bar(),
            tqdm(
                total=last,
                initial=self._step_done,
                desc=self.label or None,
                unit="step",
                disable=None if self.progress is None else not self.progress,
            ) as bar,
        ):
            self._bar = bar
            self._evaluate_at_the_switch()
            began, count = time.perf_counter(), 0
            for step in range(first, last + 1):
                if self._pending is not None and self._is_answered:
                    began += self._complete_between_steps()
                if step > self.schedule.n_offline_steps:
                    self._collect(step - 1)
                if not self._alive():
                    break
                self._epoch.add(step, self._step())
                bar.update()
                count += 1
                if self.schedule.ends_epoch(step):
                    self._synchronise()
                    seconds = time.perf_counter() - began
                    self._end_epoch(step, seconds, count / seconds)
                    if step != last:
                        self._stop_those_asked()
                    began, count = time.perf_counter(), 0
                while signals.of_others:
                    self._hand_on(*signals.of_others.pop(0))
                if signals.stop is not None:
                    break
            self._complete()
        self._bar = None
        self._finish_those_at_the_end()
        if signals.stop is not None:
            self._save()
            for index, run in self._alive():
                self._end(index, run, "interrupted", exit_code=128 + signals.stop)

    @property
    def _step_done(self) -> int:
        """The step at which the stack is."""
        return self.agent.n_steps_done

    def _step(self) -> Tensor:
        if self.step is not None:
            return self.step()
        return self.agent.update(*self.sampler.draw(self.data))

    def _collect(self, step: int) -> None:
        """Have runs collect that have to before their next training step, in the environment's part."""
        online = self.online
        assert online is not None
        if self.data is not online.mixture:  # the first step in the environment
            self.data, self.step = online.mixture, self.online_step
            self.agent.calibrated = online.calibrated
            for name, values in online.overrides.items():
                self.agent.stack.override(name, values)
        n_done, alive = step - self.schedule.n_offline_steps, [index for index, _ in self._alive()]
        if online.is_due(n_done, alive):
            with one_thread():
                problems = online.collect(self._policy, step, n_done, alive)
            if problems:
                self._complete()  # first what these runs had done before
            for index, problem in problems.items():
                self._fail(index, self.runs[index], problem)

    def _evaluate_at_the_switch(self) -> None:
        """Evaluate what the environment's part begins with, if this process has not trained it."""
        step = self._step_done
        lacking = [index for index, run in self._alive() if run.last_metrics.get("step") != step]
        if lacking and step == self.schedule.n_offline_steps < self.schedule.n_steps:
            self._end_epoch(step, 0.0, 0.0, lacking)
            self._complete()

    def abort(self, reason: str) -> None:
        """Mark every run that has not ended as failed: an error from outside the runs has ended training."""
        self._bar = None
        try:
            self._complete()
        except Exception as error:  # noqa: BLE001  without a worker it would have come first
            reason = f"{type(error).__name__}: {error}"
        for index, run in self._alive():
            self._fail(index, run, reason)

    def _alive(self, among: Sequence[int] | None = None) -> list[tuple[int, Run]]:
        indices = range(len(self.runs)) if among is None else among
        return [(index, self.runs[index]) for index in indices if self.runs[index].status == "running"]

    @contextlib.contextmanager
    def _own_failure(self, index: int) -> Iterator[None]:
        """What goes wrong with a run's own files, or is wrong in them, ends that run and no other."""
        try:
            yield
        except (OSError, ValueError, CheckpointError) as error:
            self._fail(index, self.runs[index], f"{type(error).__name__}: {error}")

    def _save(self) -> None:
        """Write a checkpoint of every run at the current step, which may be in the middle of an epoch."""
        self._complete()
        self._stop_failures()
        self._checkpoint()

    def _hand_on(self, number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
        """Make the runs safe and call the handler that somebody else had installed for a signal."""
        log.warning("%s: writing checkpoints before passing it on", signal.Signals(number).name)
        self._save()
        waiting = self._alive()
        try:
            for index, run in waiting:
                run.status, run.exit_code = "interrupted", 128 + number
                with self._own_failure(index):
                    self._write_summary(run)
            handler(number, None)
        except BaseException:
            for index, run in waiting:
                if run.status == "interrupted":
                    self._end(index, run, "interrupted", exit_code=128 + number)
            raise
        for index, run in waiting:
            if run.status == "interrupted":
                run.status, run.exit_code = "running", 0
                with self._own_failure(index):
                    self._write_summary(run)

    def _synchronise(self) -> None:
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize(self.agent.device)

    # The cadences -----------------------------------------------------------------------------------------------------

    def _end_epoch(self, step: int, seconds: float, rate: float, among: Sequence[int] | None = None) -> None:
        """Note how the epoch of all runs, or of some, ended, and order its rollouts.

        What it leaves is written now, or when the rollouts are done.
        """
        self._complete()
        schedule = self.schedule
        epoch, is_last = schedule.epoch(step), step == schedule.n_steps
        ends_part = is_last or step == schedule.n_offline_steps
        self._stop_failures()
        metrics = {index: self._epoch.means(index) for index, _ in self._alive(among)}
        due = [index in metrics for index in range(len(self.runs))]
        evaluated = any(due) and (ends_part or epoch % schedule.n_epochs_per_eval == 0)
        recorded = not is_last and self.recorder is not None and self._is_video_due(epoch)
        saved = ends_part or epoch % schedule.n_epochs_per_checkpoint == 0
        if self.online is not None and step > schedule.n_offline_steps:
            since = schedule.epoch_start(step)
            metrics = {index: own | self.online.metrics(index, since) for index, own in metrics.items()}
        if evaluated and self.scoring is not None:
            metrics = {index: own | self.scoring(index) for index, own in metrics.items()}
        self._epoch.reset()
        beside = evaluated and self.worker is not None
        pending = _Epoch(
            step=step,
            metrics=metrics,
            states={index: self._state(index) for index in metrics} if beside else {},
            rollouts=self._rollouts(due, recorded) if evaluated and self.evaluator is not None else None,
            saved=saved,
            seconds=seconds,
            rate=rate,
        )
        if beside and self.worker is not None:
            self.worker.submit(pending.rollouts)
        self._pending = pending
        if not beside:
            self._complete()

    def _is_video_due(self, epoch: int) -> bool:
        every = self.schedule.n_evals_per_video
        return every > 0 and epoch // self.schedule.n_epochs_per_eval % every == 0

    @property
    def _is_answered(self) -> bool:
        """Whether the pending epoch can be completed without waiting. Asked at every step: it has to cost nothing."""
        return self.worker is None or self.worker.done

    def _complete_between_steps(self) -> float:
        """Complete the pending epoch; the seconds for which the updates waited."""
        self._synchronise()
        began = time.perf_counter()
        self._complete()
        return time.perf_counter() - began

    def _complete(self) -> None:
        """Write what the pending epoch leaves, where there is one, when its rollouts have been done.

        Runs that took further steps meanwhile are written as they were then. If this raises, they stay at that step,
        so that :meth:`abort` says of them what it would say without a worker.
        """
        if self._pending is None:
            return
        epoch, self._pending = self._pending, None
        self._completing, rolled = epoch, None
        if epoch.rollouts is not None:
            worker, here = self.worker, self._roll_out
            rolled = here(epoch.rollouts) if worker is None else worker.result(here)
        best = []
        for index, run in self._alive(list(epoch.metrics)):
            metrics = epoch.metrics[index]
            problem = None if rolled is None else rolled.results.problem(index)
            if problem is not None and problem.is_fatal:
                self._fail(index, run, f"{problem.reason} in the evaluation at step {epoch.step}")
                continue
            with self._own_failure(index):
                if problem is not None:
                    said = "no evaluation at step %d: %s"
                    log.warning(said, epoch.step, problem.reason, extra={"run_dir": run.directory})
                elif rolled is not None and self._note_evaluation(epoch.step, index, run, rolled.results, metrics):
                    best.append(index)
                if run.note_scores(epoch.step, metrics):
                    best.append(index)
                self._log(epoch.step, run, metrics, epoch.seconds, epoch.rate)
                if self._bar is not None and run.judged is not None:
                    self._bar.set_postfix_str(f"{run.judged_by} {rounded(run.judged)}")
        if self.label:
            self._log_stack(epoch.step, epoch.rate)
        if rolled is not None and epoch.rollouts is not None and epoch.rollouts.videos:
            for index, run in self._alive():
                with self._own_failure(index):
                    self._stop_recording(videos.keep(epoch.step, index, run, rolled))
        for index, run in self._alive(best):
            with self._own_failure(index):
                run.checkpoints.write_best(self._contents(run, epoch.states.get(index) or self._state(index)))
        if epoch.saved:
            self._checkpoint(epoch.states)
        self._completing = None

    def _note_evaluation(
        self, step: int, index: int, run: Run, results: EpisodeResults, metrics: dict[str, float]
    ) -> bool:
        """Add an evaluation to the metrics and the folder; tell whether it is the best so far."""
        returns: list[float] = results.returns[index].tolist()
        scores = None if run.reference is None else normalised_score(results.returns[index], *run.reference).tolist()
        mean, std = float(np.mean(returns)), float(np.std(returns))
        metrics |= {"eval_return_mean": mean, "eval_return_std": std}
        score, success = run.score(mean), results.success_rate(index)
        metrics |= known({"eval_score": score, "eval_success": success})
        run.local.log_episodes(step, results.seeds[index].tolist(), returns, results.lengths[index].tolist(), scores)
        run.scores.last_return, run.scores.last_std, run.scores.last_success = mean, std, success
        run.evaluations.append((step, mean))
        if run.scores.best_return is None or mean > run.scores.best_return:
            run.scores.best_return, run.scores.best_step = mean, step
            return True
        return False

    def _log(self, step: int, run: Run, metrics: dict[str, float], seconds: float, rate: float) -> None:
        timing = {"seconds": seconds, "steps_per_second": rate}
        run.local.log_metrics(step, metrics)
        run.local.log_timing(step, timing)
        run.wandb.log(step, {**metrics, **timing})
        if "eval_return_mean" in metrics or not run.has_simulator:
            run.wandb.summary(known(run.outcomes()))  # a sweep is looked at while it trains
        run.last_metrics = {"step": step, **metrics}
        log.info("%s", run_line(step, self.schedule.n_steps, rate, metrics), extra={"run_dir": run.directory})

    def _log_stack(self, step: int, rate: float) -> None:
        """One line for all runs together."""
        alive = [run for _, run in self._alive()]
        n_failed = sum(run.status == "failed" for run in self.runs)
        shown = f"{self.label}: step {step}/{self.schedule.n_steps}  {len(alive)} run{'s' if len(alive) != 1 else ''}"
        shown += f"  {n_failed} failed" if n_failed else ""
        shown += f"  {rate:.1f} steps/s" if rate else ""
        found = [run.judged for run in alive if run.judged is not None]
        if found:
            mean, low, high = (rounded(float(each)) for each in (np.mean(found), min(found), max(found)))
            shown += f"  {alive[0].judged_by} {mean} ({low} to {high})"
        n_left = self.schedule.n_steps - step
        pace = (time.perf_counter() - self._began) / max(1, step - self._first + 1)  # with evaluations and all
        shown += f"  about {duration(n_left * pace)} left" if n_left and alive and rate else ""
        log.info("%s", shown, extra={"stack": True})

    def _checkpoint(self, states: Mapping[int, dict[str, Any]] = {}) -> None:
        """Write checkpoints of all runs, of states that were taken before or as they are now.

        Older ones are dropped when all runs have the new one: whenever this is killed, there is a step of which each
        run has a checkpoint.
        """
        written = {}
        for index, run in self._alive():
            with self._own_failure(index):
                state = states.get(index) or self._state(index)
                run.checkpoints.write(state["step"], self._contents(run, state))
                self._write_summary(run)
                written[index] = state["step"]
        for index, run in self._alive(list(written)):
            with self._own_failure(index):
                run.checkpoints.prune(written[index])

    def _state(self, index: int) -> dict[str, Any]:
        """A snapshot of a run for its checkpoint, on the CPU."""
        return {
            "step": self._step_done,
            "agent": self.agent.state(index),
            "sampler": self.sampler.state(index).cpu(),
            "epoch": self._epoch.state(index),
            "online": None if self.online is None else self.online.state(index),
        }

    def _contents(self, run: Run, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "step": state["step"],
            "config": dict(run.config),
            "agent": state["agent"],
            "sampler": state["sampler"],
            "epoch": state["epoch"],
            "normaliser": {"mean": self.normaliser.mean.cpu(), "std": self.normaliser.std.cpu()},
            "scores": asdict(run.scores),
            "last_metrics": dict(run.last_metrics),
            "n_rows": run.local.n_rows,
            **self.provenance,
            **({} if state["online"] is None else {"online": state["online"]}),
        }

    # Rollouts ---------------------------------------------------------------------------------------------------------

    def _policy(self, runs: Sequence[int] | None = None) -> Policy:
        """The policies of all runs, or of some, as they are now: copies on the CPU, whatever the device."""
        chosen = list(range(len(self.runs)) if runs is None else runs)
        parameters = {name: tensor.detach()[chosen].cpu() for name, tensor in self.agent.actor.items()}
        config, own = self.agent.config, self.normaliser.cpu()
        return Policy(config.actor, parameters, own.mean, own.std, (config.log_std_min, config.log_std_max))

    def _rollouts(self, due: Sequence[bool], recorded: bool) -> Rollouts:
        videos = {index: self._policy([index]) for index, is_due in enumerate(due) if is_due} if recorded else {}
        return Rollouts(self._policy(), due, videos)

    def _roll_out(self, rollouts: Rollouts) -> RolledOut:
        """Do in this process, and with its arithmetic, what a worker does."""
        assert self.evaluator is not None
        with one_thread():
            return roll_out(self.evaluator, self.recorder, rollouts)

    def _stop_recording(self, reason: RenderingError | None) -> None:
        if reason is not None and self.recorder is not None:
            log.warning("no more videos: %s", reason)
            self.recorder = None

    # The ends of a run ------------------------------------------------------------------------------------------------

    def _finish_those_at_the_end(self) -> None:
        if self._step_done >= self.schedule.n_steps:
            for index, run in self._alive():
                with self._own_failure(index):
                    self._finish(index, run)

    def _finish(self, index: int, run: Run) -> None:
        if run.has_simulator and run.scores.last_return is None:
            raise ValueError("none of its evaluations could be made")
        run.local.check_rows()
        if self.recorder is not None and self.evaluator is not None:
            seed = int(self.evaluator.seeds[index, 0])
            self._stop_recording(videos.record_last(self.recorder, self._step_done, run, self._policy([index]), seed))
        run.wandb.log_figure(report.key_curves(run.directory, title=run.title))
        self._end(index, run, "finished", exit_code=0)
        if run.log_checkpoints:
            for path in filter(Path.exists, (run.checkpoints.find("last"), run.checkpoints.best)):
                run.wandb.log_artifact({path.name: path}, f"checkpoint-{run.wandb.run_id}-{path.stem}", "checkpoint")

    def _stop_those_asked(self) -> None:
        """End the runs that somebody has stopped on their pages in W&B; the others go on."""
        asked = [index for index, run in self._alive() if run.wandb.is_stop_requested]
        if asked:
            self._complete()
        for index, run in self._alive(asked):
            with self._own_failure(index):
                state = self._state(index)
                run.checkpoints.write(state["step"], self._contents(run, state))
                log.warning("stopped on its page in W&B at step %d", state["step"], extra={"run_dir": run.directory})
                self._end(index, run, "interrupted", exit_code=1)

    def _stop_failures(self) -> None:
        for index, run in self._alive():
            step = self._epoch.first_bad_step(index)
            found = self.agent.non_finite(index)
            if step is not None:
                bad = [name for name, value in self._epoch.means(index).items() if not math.isfinite(value)]
                self._fail(index, run, f"{', '.join(bad)} not finite from step {step} on")
            elif found is not None:
                self._fail(index, run, f"{found} not finite at step {self._step_done}")

    @property
    def _step_shown(self) -> int:
        """The step that the summaries tell: of the epoch that is being completed, if one is."""
        return self._step_done if self._completing is None else self._completing.step

    def _fail(self, index: int, run: Run, reason: str) -> None:
        steps = []
        with contextlib.suppress(OSError):  # the folder may be what failed
            steps = run.checkpoints.steps()
        kept = str(run.checkpoints.path(steps[-1])) if steps else "none"
        shown = ", ".join(f"{name} {value:.4g}" for name, value in run.last_metrics.items()) or "none"
        run.failure = f"{reason}; last metrics: {shown}; last good checkpoint: {kept}"
        log.error("failed: %s", run.failure, extra={"run_dir": run.directory})
        self._end(index, run, "failed", exit_code=1)

    def _end(self, index: int, run: Run, status: Status, exit_code: int) -> None:
        run.status, run.exit_code = status, exit_code
        try:
            self._write_summary(run)
        except OSError as error:
            if status != "failed":  # the outcome is not in the folder, so to the next start the run has not ended so
                self._fail(index, run, f"{type(error).__name__}: {error}")
                return
            log.error("the summary could not be written: %s", error, extra={"run_dir": run.directory})
        run.wandb.summary({"status": status, **known(run.outcomes())})
        run.wandb.end(exit_code)

    def _write_summary(self, run: Run) -> None:
        summary: dict[str, Any] = {
            "status": run.status,
            "step": self._step_shown,
            "n_steps": self.schedule.n_steps,
            **run.outcomes(),
            "wandb_id": run.wandb.run_id,
        }
        if run.failure is not None:
            summary["failure"] = run.failure
        run.local.write_summary(summary)
