"""Train runs: one, or a stack of them, each in its own folder."""

import contextlib
import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cql import commands, config, data, files, lock
from cql.algorithm.agent import Agent, HyperParams
from cql.algorithm.fast.cuda_graph import CapturedStep
from cql.config import TrainConfig
from cql.data.yardsticks import yardsticks
from cql.rollout.envs import EnvInfo
from cql.rollout.evaluation import Evaluator, Recorder, rolling_out
from cql.rollout.reference_scores import AUTO
from cql.rollout.rendering import choose_backend
from cql.rollout.worker import Worker
from cql.scorer_names import PREFIX
from cql.training.build import agent_config, as_pool, env_of, env_spec, hyper_params, load_data, scores_of
from cql.training.build_online import build_online
from cql.training.checkpoint import CheckpointError, CheckpointFolder
from cql.training.conclusion import conclusion, results_of
from cql.training.device import choose_device, has_eval_worker
from cql.training.initial import begin_with, initial_checkpoint
from cql.training.limits import allow_open_files
from cql.training.local_logger import LocalLogger, evaluations
from cql.training.memory import keep_freed_memory
from cql.training.policy_metrics import policy_metrics
from cql.training.provenance import commit, provenance, spaces, versions
from cql.training.resume import Stack, check_checkpoint, stacks_to_resume
from cql.training.run import Run, Schedule
from cql.training.run_folder import FolderError, claim_folder, read_summary, score, sweep_name
from cql.training.run_logs import RAISED, check_log, run_logs
from cql.training.scoring import Scoring
from cql.training.trainer import Trainer
from cql.training.wandb_logger import WandbLogger
from cql.training.wandb_run import complete_wandb_run, finished_together, open_wandb_run

log = logging.getLogger(__name__)


class RunFailed(RuntimeError):  # noqa: N818  it names what happened to a run
    """A run ended with status ``failed``; its folder tells why.

    Attributes:
        n_failed: how many runs of the same sweep failed, this one included.
    """

    n_failed: int = 1


def run(train_config: TrainConfig, directory: Path) -> float:
    """Train one run in its folder, or resume it if it was stopped there before.

    Args:
        train_config: checked.
        directory: the run's folder.

    Returns:
        The score of the last evaluation, or its mean return if the environment has no reference scores: what a sweeper
        maximises. Without a simulator the scorer `env.best_by`, signed so that larger is better; NaN if none is named.

    Raises:
        FolderError: the folder belongs to another config, or has results but no checkpoint.
        FolderInUseError: another process trains in it.
        RunFailed: a value was not finite.
        SystemExit: a signal ended the run; the code is 128 + its number.
    """
    claim_folder(train_config, directory)
    (outcome,) = run_stack([train_config], [directory])
    if isinstance(outcome, Exception):
        raise outcome
    is_alone = sweep_name(directory) is None
    for text in conclusion(train_config, directory) if is_alone else [results_of(directory)]:
        log.info("%s", text)
    return outcome


def run_stack(
    configs: Sequence[TrainConfig], directories: Sequence[Path], *, label: str = ""
) -> list[float | Exception]:
    """Train runs as one stack, each in its own claimed folder, or resume them where they stopped.

    Runs that stopped at different steps resume from the newest step of which each has a checkpoint. Runs that have no
    such step in common train in separate stacks. Finished runs stay as they are, and so do failed runs of a sweep
    unless ``retry_failed`` is set.

    Args:
        configs: with equal :func:`cql.config.identity.stack_key`.
        directories: one per run.
        label: names the stack in the log and its progress bar, e.g. ``stack 1/2``. With a label, the console shows the
            stack's lines and its runs' warnings only.

    Returns:
        For each run what :func:`run` returns, or the exception that it would raise. One run's failure does not end the
        others.

    Raises:
        SystemExit: a signal ended the runs; the code is 128 + its number.
    """
    outcomes: dict[Path, float | Exception] = {}
    allow_open_files()
    with contextlib.ExitStack() as held:
        # Failed runs keep their places in the stack, so that the products of the others keep their shape and rounding.
        members: dict[Path, TrainConfig] = {}
        for train_config, directory in zip(configs, directories, strict=True):
            try:
                known = _known_outcome(train_config, directory)
                if known is not None and not isinstance(known, Exception):
                    complete_wandb_run(train_config, directory)
                if known is None:
                    held.enter_context(lock.hold(directory))
                    files.remove_leftovers(directory)  # they may be what fills the disk
                    # Both once more: the process that held the lock may have ended the run meanwhile.
                    claim_folder(train_config, directory)
                    check_log(directory)
                    known = _known_outcome(train_config, directory)
                if known is not None:
                    outcomes[directory] = known
                    if not label and not isinstance(known, Exception):
                        log.info("%s: finished already, nothing to do", directory)
                if known is None or isinstance(known, Exception):
                    members[directory] = train_config
            except (lock.FolderInUseError, FolderError, OSError, ValueError) as error:
                outcomes[directory] = error
                if label:  # Hydra raises the first failure of a sweep only
                    log.error("%s: %s", directory, error)
        todo = [directory for directory in members if directory not in outcomes]
        if todo:
            held.enter_context(run_logs(todo, quiet=bool(label)))
            results = _train_all(members, todo, label)
            outcomes |= {directory: _outcome(results[directory], directory) for directory in todo}
    return [outcomes[directory] for directory in directories]


def _train_all(members: Mapping[Path, TrainConfig], todo: Sequence[Path], label: str) -> dict[Path, "Run | Exception"]:
    """Train the runs of ``todo`` in as few stacks as their checkpoints allow; the other members keep their places.

    Raises:
        SystemExit: a signal ended the runs.
    """
    initial, failures = _initial_checkpoints({directory: members[directory] for directory in todo})
    stacks, errors = stacks_to_resume([directory for directory in todo if directory not in failures], initial)
    errors |= failures
    results: dict[Path, Run | Exception] = dict(errors)
    for directory, error in errors.items():
        log.error("%s: %s", directory, error, extra=_of_error(directory, label))
    if len(stacks) > 1:
        log.warning(
            "%s%d runs have no checkpoint of one step in common; they train in %d stacks, one after the other",
            f"{label}: " if label else "", len(todo), len(stacks),
        )  # fmt: skip
    for stack in stacks:
        # If the stack is not the one of before anyway, nobody's place has to be kept.
        chosen = [each for each in members if each in stack.checkpoints or (len(stacks) == 1 and each not in todo)]
        try:
            results |= train({each: members[each] for each in chosen}, stack, label=label)
        except Exception as error:
            ours = type(error).__module__.startswith("cql.")
            log.error(
                "%s%s", f"{label}: " if label else "", f"{type(error).__name__}: {error}", exc_info=not ours,
                extra={RAISED: all(_is_raised(each, label) for each in chosen)},
            )  # fmt: skip
            results |= dict.fromkeys(chosen, error)
        _exit_if_stopped([results[each] for each in chosen])
    return results


def _is_raised(directory: Path, label: str) -> bool:
    """Whether the user reads the error of a run when it is raised, too: that of a single run, not of one in a sweep."""
    return not label and sweep_name(directory) is None


def _of_error(directory: Path, label: str) -> dict[str, Any]:
    """What a record of the log says of the error of one run."""
    return {"run_dir": directory, RAISED: _is_raised(directory, label)}


def _initial_checkpoints(
    configs: Mapping[Path, TrainConfig],
) -> tuple[dict[Path, dict[str, Any]], dict[Path, Exception]]:
    """What runs without a checkpoint of their own begin with, if not with fresh networks; and why one cannot."""
    found: dict[Path, dict[str, Any]] = {}
    errors: dict[Path, Exception] = {}
    for directory, each in configs.items():
        begins_anew = each.init_from is None and each.init_from_sweep is None
        if begins_anew or CheckpointFolder(directory / "checkpoints").steps():
            continue
        try:
            contents = initial_checkpoint(each, directory, choose_device(each.device))
            if contents is not None:
                found[directory] = contents
        except (FolderError, CheckpointError, OSError) as error:
            errors[directory] = error
    return found, errors


def _exit_if_stopped(results: Collection["Run | Exception"]) -> None:
    stopped = [result for result in results if isinstance(result, Run) and result.exit_code >= 128]
    if not stopped:
        return
    step = min(int(read_summary(each.directory)["step"]) for each in stopped)
    sweep = sweep_name(stopped[0].directory)
    again = (
        f"resume it with: {commands.train(commands.override('resume', stopped[0].directory))}"
        if sweep is None
        else f"to resume, give the sweep's command again, with sweep_name={sweep}"
    )
    log.warning("stopped at step %d; %s", step, again)
    sys.exit(stopped[0].exit_code)


def _known_outcome(train_config: TrainConfig, directory: Path) -> float | Exception | None:
    """The outcome of a run that is not to be trained (again), None for one that is."""
    summary = read_summary(directory)
    if summary.get("status") == "finished":
        return score(summary)
    failed = summary.get("status") == "failed" and config.has_results(directory)
    if failed and sweep_name(directory) is not None and not train_config.retry_failed:
        return RunFailed(
            f"{directory} failed in an earlier start ({summary.get('failure')}); retry_failed=true tries it again"
        )
    return None


def _outcome(result: Run | Exception, directory: Path) -> float | Exception:
    """What :func:`run_stack` returns of a run; a failure that is not yet in the run's summary is written to it."""
    if isinstance(result, Run):
        if result.status == "finished":
            return score(read_summary(directory))
        return RunFailed(f"{directory}: {result.failure or 'stopped on its page in W&B; the same command resumes it'}")
    if isinstance(result, FolderError):
        return result
    summary = read_summary(directory)
    # An interrupted run has its summary: the exception is how the batch system ended the job.
    if summary.get("status") not in ("failed", "interrupted"):
        summary = {"step": 0, **summary, "status": "failed", "failure": f"{type(result).__name__}: {result}"}
        with contextlib.suppress(OSError, ValueError):
            LocalLogger(directory).write_summary(summary)
    return result


def train(
    configs: Mapping[Path, TrainConfig], stack: Stack, *, label: str = "", progress: bool | None = None
) -> dict[Path, "Run | Exception"]:
    """Train one stack in this process, each run in its own claimed folder.

    Args:
        configs: by folder, with equal :func:`cql.config.identity.stack_key`.
        stack: the step and the checkpoints that the runs resume from. Runs that it lacks only keep their places in the
            stack; nothing of theirs is touched.
        label: names the stack in the log.
        progress: show a bar; None shows it on a terminal only.

    Returns:
        The runs, each with its status; for one that could not be begun, the reason.
    """
    first = next(iter(configs.values()))
    device = _prepare_torch(first)
    # Before anything imports mujoco, which reads the choice of a backend only once.
    can_draw = first.env.has_simulator and first.video.enabled and choose_backend() is not None
    info = env_of(first)
    transitions = load_data(first, info, device)
    of_data = functools.cache(functools.partial(yardsticks, transitions))
    keep_freed_memory()  # from now on: what loading the data frees goes back
    log.info("%d transitions of %s on %s", len(transitions), config.task_label(first), device)
    if transitions.held_out is not None:
        n_held = len(transitions.held_out.episode_lengths)
        log.info("%d of %d episodes are held out", n_held, n_held + len(transitions.episode_lengths))
    rule = first.dataset.returns_to_go
    if rule is not config.ReturnsToGo.truncate and not first.algorithm.penalty.calibrated:
        log.warning("dataset.returns_to_go=%s has no effect without algorithm/penalty=cal_ql", rule.value)
    if first.env.has_simulator and first.env.reference == AUTO and scores_of(first) is None:
        log.info(
            "no reference scores are known for %s: its returns have no score; env.reference=[MIN,MAX] gives some",
            first.env.id,
        )
    results: dict[Path, Run | Exception] = {}
    mirrors: list[WandbLogger] = []
    with contextlib.ExitStack() as held:
        held.enter_context(finished_together(mirrors, first))
        for directory, each in configs.items():
            try:
                checkpoint = stack.checkpoints.get(directory)
                if checkpoint is not None and "init_from" in checkpoint:
                    begin_with(checkpoint, directory, transitions, info)
                elif checkpoint is not None:
                    check_checkpoint(checkpoint, each, directory, transitions, device)
                made_by = provenance(each, transitions, device, of_data(each.algorithm.discount))
                one = _begin(each, info, directory, stack, made_by)
            except (OSError, ValueError, CheckpointError, FolderError) as error:
                log.error("%s: %s", directory, error, extra=_of_error(directory, label))
                results[directory] = error
            else:
                mirrors.append(one.wandb)
                results[directory] = one
        begun = {directory: one for directory, one in results.items() if isinstance(one, Run)}
        if not any(one.status == "running" for one in begun.values()):
            return results
        chosen = [configs[directory] for directory in begun]
        numbers = [hyper_params(each, info) for each in chosen]
        for one, each, known in zip(begun.values(), chosen, numbers, strict=True):
            if one.status == "running":
                shown = ", ".join(f"{name} {x:g}" for name, x in dataclasses.asdict(known).items() if x is not None)
                log.info("seed %d: %s", each.seed, shown, extra={"run_dir": one.directory})
        trainer = _trainer(chosen, list(begun.values()), numbers, transitions, device, held)
        trainer.label, trainer.progress = label, progress
        if not can_draw:
            trainer.recorder = None
        checkpoints = {directory: stack.checkpoints.get(directory) for directory in begun}
        for directory, checkpoint in checkpoints.items():
            try:
                if checkpoint is not None:
                    _check_state(trainer.agent, checkpoint, stack.step)
            except CheckpointError as error:
                log.error("%s: %s", directory, error, extra=_of_error(directory, label))
                begun[directory].status, results[directory] = "failed", error
                begun[directory].wandb.end(1)
                checkpoints[directory] = None
        trainer.load(list(checkpoints.values()))
        try:
            trainer.train()
        except Exception as error:
            trainer.abort(f"{type(error).__name__}: {error}")
            raise
    return results


def _check_state(agent: Agent, checkpoint: Mapping[str, Any], step: int) -> None:
    """Check that a run's checkpoint fits its agent, before it is loaded together with those of its neighbours.

    Raises:
        CheckpointError: it does not.
    """
    try:
        agent.check(checkpoint["agent"])
        for found in (checkpoint["step"], checkpoint["agent"]["n_steps_done"]):
            if found != step:
                raise ValueError(f"it is of step {found}")
    except ValueError as error:
        origin = checkpoint.get("init_from")
        if origin is not None:
            raise CheckpointError(
                f"{origin['option']}: {origin['checkpoint']} does not fit the run: {error}. Give this run the networks "
                "and the learned coefficients of that one"
            ) from error
        raise CheckpointError(
            f"the checkpoint of step {step} does not fit the run: {error}. Remove it, to resume from an earlier one"
        ) from error


def _trainer(
    configs: Sequence[TrainConfig],
    runs: list[Run],
    numbers: Sequence[HyperParams],
    transitions: data.Transitions,
    device: torch.device,
    held: contextlib.ExitStack,
) -> Trainer:
    """The trainer of runs, in the order of the stack; ``held`` closes what it holds open."""
    first, seeds = configs[0], [each.seed for each in configs]
    info = env_of(first)
    agent = Agent(agent_config(first, info), numbers, seeds, device, fast=first.fast)
    sampler, pool = agent.sampler(seeds, first.batch_size), as_pool(transitions, configs)
    online = build_online(configs, [run.directory for run in runs], transitions, pool)
    if online is not None:
        held.callback(online.close)
    eval_seeds = [[each.env.eval_seed + e for e in range(each.env.n_eval_episodes)] for each in configs]
    size, seconds = first.video.size, first.video.seconds
    evaluator = recorder = worker = None
    if first.env.has_simulator:
        evaluator = Evaluator(env_spec(first), eval_seeds)
        held.callback(evaluator.close)
        if first.video.enabled:
            recorder = Recorder(env_spec(first), width=size, height=size, seconds=seconds)
    if has_eval_worker(first, device):
        build = functools.partial(rolling_out, env_spec(first), eval_seeds, size=size, seconds=seconds)
        worker = Worker(build, name="evaluation worker")
        held.callback(worker.close)
    captures = first.cuda_graph and device.type == "cuda"
    return Trainer(
        agent=agent,
        sampler=sampler,
        data=pool,
        normaliser=transitions.normaliser,
        evaluator=evaluator,
        recorder=recorder,
        runs=runs,
        schedule=_schedule(first),
        provenance={
            "versions": versions(),
            "commit": commit(),
            "data_fingerprint": transitions.fingerprint,
            "spaces": spaces(info),
        },
        step=CapturedStep(agent, sampler, pool) if captures else None,
        worker=worker,
        scoring=_scoring(configs, agent, transitions),
        online=online,
        online_step=CapturedStep(agent, sampler, online.mixture) if captures and online is not None else None,
    )


def _scoring(
    configs: Sequence[TrainConfig], agent: Agent, transitions: data.Transitions
) -> Callable[[int], dict[str, float]] | None:
    """What compares a run of the agent with the data, as metrics, and scores it on held-out episodes if there are any.

    Without a simulator it scores on all episodes then. None for runs that only learn in the environment.
    """
    of_policy = policy_metrics(agent, transitions) if configs[0].n_steps else None
    if transitions.held_out is None and configs[0].env.has_simulator:
        return of_policy
    scoring = Scoring(transitions.held_out or transitions)

    def metrics(run: int) -> dict[str, float]:
        found = scoring.of_agent(agent, run, configs[run].algorithm.discount)
        own = {} if of_policy is None else of_policy(run)
        return own | {f"{PREFIX}{name}": value for name, value in found.items()}

    return metrics


def _prepare_torch(train_config: TrainConfig) -> torch.device:
    """Set torch's threads and precision, and choose the device."""
    # Also if torch chooses the number: an evaluation takes one thread and sets the number again, and setting it takes
    # from MKL the choice to use fewer. A run must begin with what it continues with.
    n_threads = train_config.n_threads
    torch.set_num_threads(torch.get_num_threads() if n_threads is None else n_threads)
    device = choose_device(train_config.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if train_config.tf32 else "highest")
    elif train_config.tf32:
        log.warning("tf32=true has no effect on %s", device)
    return device


def _schedule(train_config: TrainConfig) -> Schedule:
    per_epoch, online = train_config.n_steps_per_epoch, train_config.online
    of_online = 1
    if isinstance(online, config.Finetune):
        of_online = online.update_to_data * (online.n_steps_per_epoch or per_epoch)
    return Schedule(
        n_steps=train_config.n_all_steps,
        n_offline_steps=train_config.n_steps,
        n_steps_per_epoch=per_epoch,
        n_steps_per_online_epoch=of_online,
        n_epochs_per_eval=train_config.n_epochs_per_eval,
        n_epochs_per_checkpoint=train_config.n_epochs_per_checkpoint,
        n_evals_per_video=train_config.n_evals_per_video,
    )


def _begin(
    train_config: TrainConfig, info: EnvInfo, directory: Path, stack: Stack, made_by: Mapping[str, object]
) -> Run:
    """Cut a run's files back to the step that it resumes from, note its provenance, and open its W&B run.

    Raises:
        ValueError: its files are damaged, or rows have been lost from them.
    """
    is_failed, checkpoint = directory not in stack.checkpoints, stack.checkpoints.get(directory)
    so_far: list[tuple[int, float]] = []
    local, logger, env = LocalLogger(directory), train_config.logger, train_config.env
    checkpoints = CheckpointFolder(directory / "checkpoints", train_config.n_kept_checkpoints)
    if not is_failed:
        checkpoints.cut(stack.step)  # before the rows: no checkpoint may count on rows that are gone
        checkpoints.prune(stack.step)  # a kill may have come before
        n_rows = None if checkpoint is None else checkpoint.get("n_rows")
        # A run that begins at its last step on the dataset has a checkpoint of that step before it has rows of it.
        local.rewind(stack.step if n_rows is None or any(n_rows.values()) else stack.step - 1)
        local.check_rows(n_rows)
        so_far = evaluations(directory)
        local.write_provenance(made_by)
    return Run(
        directory=directory,
        config=config.to_dict(train_config),
        local=local,
        wandb=open_wandb_run(train_config, info, directory, disabled=is_failed),
        checkpoints=checkpoints,
        reference=scores_of(train_config),
        log_checkpoints=isinstance(logger, config.WandbLoggerConfig) and logger.log_checkpoints,
        evaluations=so_far,
        n_offline_steps=train_config.n_steps if train_config.online.n_updates else None,
        status="failed" if is_failed else "running",
        title=f"{env.id if env.has_simulator else config.task_label(train_config)}, seed {train_config.seed}",
        has_simulator=env.has_simulator,
        best_by=env.best_by,
    )
