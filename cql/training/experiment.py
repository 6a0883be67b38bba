"""From configs to objects and from objects to a trained run: the only room that sees everything."""

import contextlib
import copy
import ctypes
import dataclasses
import functools
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cql import config, data
from cql.algorithm import networks
from cql.algorithm.agent import Agent, AgentConfig, HyperParams, Policy
from cql.algorithm.fast.captured import CapturedStep
from cql.algorithm.sampling import Pool
from cql.config import points
from cql.config.schema import TrainConfig
from cql.data import embedded, policies
from cql.rollout.envs import EnvInfo, env_info, normalised_score
from cql.rollout.evaluation import Evaluator, Recorder, rolling_out
from cql.rollout.reference_scores import AUTO, reference_scores, scores_name
from cql.rollout.rendering import choose_backend, write_gif, write_mp4
from cql.rollout.worker import Worker
from cql.training import curves as report
from cql.training import lock
from cql.training.checkpoint import CheckpointError, CheckpointFolder, load
from cql.training.loggers import METRICS_FILE, SUMMARY_FILE, LocalLogger, WandbLogger, open_wandb
from cql.training.trainer import Run, Schedule, Trainer

CONFIG_FILE = Path(config.RUN_CONFIG_FILE)
LOG_FILE = "train.log"

log = logging.getLogger(__name__)


class RunFailed(RuntimeError):  # noqa: N818  it is the run that failed, and it says so
    """A run ended with status ``failed``; its folder holds what is needed to find out why.

    Attributes:
        n_failed: how many runs of the same sweep failed, this one included.
    """

    n_failed: int = 1


class FolderError(RuntimeError):
    """A run's folder belongs to another config, or has lost its checkpoints; nothing in it was touched."""


# The runs of the entry points -----------------------------------------------------------------------------------------


def run(train_config: TrainConfig, directory: Path) -> float:
    """Train one run in its folder, or go on where an earlier start in the same folder stopped.

    Args:
        train_config: checked.
        directory: the run's folder.

    Returns:
        The score of the last evaluation where the environment has reference scores, else its mean return: what a
        sweeper maximises.

    Raises:
        FolderError: the folder belongs to another config, or has results but no checkpoint.
        FolderInUseError: another process trains in it.
        RunFailed: a value was no longer finite.
        SystemExit: a signal ended the run; the code is 128 + its number.
    """
    claim_folder(train_config, directory)
    (outcome,) = run_stack([train_config], [directory])
    if isinstance(outcome, Exception):
        raise outcome
    log.info("results: %s", "\n  ".join([str(directory), *map(str, shown_results(directory))]))
    return outcome


def run_stack(
    configs: Sequence[TrainConfig], directories: Sequence[Path], *, label: str = ""
) -> list[float | Exception]:
    """Train runs together that may be stacked, each in its own claimed folder, or go on where they stopped.

    What is finished stays as it is; in a sweep so does what failed, unless ``retry_failed`` is set.

    Args:
        configs: with equal :func:`cql.config.identity.stack_key`.
        directories: one a run.
        label: names the stack in the log and its progress bar, e.g. ``stack 1/2``. With one, the console shows the
            stack's lines and its runs' warnings only.

    Returns:
        For each run what :func:`run` returns, or the exception that it would raise. One run's failure is its own.

    Raises:
        SystemExit: a signal ended the runs; the code is 128 + its number.
    """
    outcomes: dict[Path, float | Exception] = {}
    with contextlib.ExitStack() as held:
        # Those to be trained, and those that failed: these keep their places, so that the products have the shape, and
        # the neighbours the rounding, that they had before.
        members: list[tuple[TrainConfig, Path]] = []
        for train_config, directory in zip(configs, directories, strict=True):
            try:
                known = _known_outcome(train_config, directory)
                if known is None:
                    held.enter_context(lock.hold(directory))
                    # Once more: who held it may have ended the run meanwhile.
                    known = _known_outcome(train_config, directory)
                if known is not None:
                    outcomes[directory] = known
                    if not label and not isinstance(known, Exception):
                        log.info("%s: finished already, nothing to do", directory)
                if known is None or isinstance(known, Exception):
                    members.append((train_config, directory))
            except (lock.FolderInUseError, OSError, ValueError) as error:
                outcomes[directory] = error
        todo = [directory for _, directory in members if directory not in outcomes]
        if todo:
            held.enter_context(_run_logs(todo, quiet=bool(label)))
            try:
                results = train(
                    [each for each, _ in members],
                    [directory for _, directory in members],
                    failed={directory for _, directory in members if directory in outcomes},
                    label=label,
                )
            except Exception as error:
                ours = type(error).__module__.startswith("cql.")
                log.error("%s%s", f"{label}: " if label else "", f"{type(error).__name__}: {error}", exc_info=not ours)
                results = [error] * len(members)
            ended = {directory: result for result, (_, directory) in zip(results, members, strict=True)}
            outcomes |= {directory: _outcome(ended[directory], directory) for directory in todo}
            stopped = [result for result in results if isinstance(result, Run) and result.status == "interrupted"]
            if stopped:
                step = min(int(read_summary(each.directory)["step"]) for each in stopped)
                sweep = _sweep_name(stopped[0].directory)
                again = (
                    f"go on with: python scripts/train.py resume={stopped[0].directory}"
                    if sweep is None
                    else f"to go on, give the sweep's command again, with sweep_name={sweep}"
                )
                log.warning("stopped at step %d; %s", step, again)
                sys.exit(stopped[0].exit_code)
    return [outcomes[directory] for directory in directories]


def _known_outcome(train_config: TrainConfig, directory: Path) -> float | Exception | None:
    """The outcome of a run that is not to be trained (again), None for one that is."""
    summary = read_summary(directory)
    if summary.get("status") == "finished":
        return score(summary)
    if summary.get("status") == "failed" and _sweep_name(directory) is not None and not train_config.retry_failed:
        return RunFailed(
            f"{directory} failed in an earlier start ({summary.get('failure')}); retry_failed=true tries it again"
        )
    return None


def _outcome(result: Run | Exception, directory: Path) -> float | Exception:
    """What :func:`run_stack` says of a run; a failure that no run could write down yet is written to its summary."""
    if isinstance(result, Run):
        return (
            score(read_summary(directory))
            if result.status == "finished"
            else RunFailed(f"{directory}: {result.failure or result.status}")
        )
    summary = read_summary(directory)
    # An interrupted run has said what it had to: the exception is how the batch system ended its job.
    if not isinstance(result, FolderError) and summary.get("status") not in ("failed", "interrupted"):
        summary = {"step": 0, **summary, "status": "failed", "failure": f"{type(result).__name__}: {result}"}
        with contextlib.suppress(OSError):
            LocalLogger(directory).write_summary(summary)
    return result


def score(summary: Mapping[str, Any]) -> float:
    """The last score in the summary of a finished run, its mean return where the environment has no reference."""
    return float(summary["eval_score"] if summary["eval_score"] is not None else summary["eval_return_mean"])


def _sweep_name(directory: Path) -> str | None:
    """The name of the sweep whose run lives in a folder, None for a run of its own."""
    parent = directory.resolve().parent
    return parent.name if (parent / config.SWEEP_FILE).exists() else None


@contextlib.contextmanager
def _run_logs(directories: Sequence[Path], *, quiet: bool) -> Iterator[None]:
    """Give each run its ``train.log``, in which nothing tells of its neighbours.

    A record with the attribute ``run_dir`` belongs to that run alone, one with ``stack`` to the stack, and all others
    to every run.

    Args:
        directories: one a run.
        quiet: keep what the runs report, short of warnings, off the handlers that are there already.
    """

    def belongs(directory: Path) -> Callable[[logging.LogRecord], bool]:
        return lambda record: getattr(record, "run_dir", directory) == directory and not hasattr(record, "stack")

    def is_shown(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or not hasattr(record, "run_dir")

    root = logging.getLogger()
    there, added = list(root.handlers), []
    try:
        for directory in directories:
            # Opened at the first record: a folder that cannot be written is found out by what depends on it.
            handler = logging.FileHandler(directory / LOG_FILE, delay=True, encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            handler.addFilter(belongs(directory))
            root.addHandler(handler)
            added.append(handler)
        if quiet:
            for other in there:
                other.addFilter(is_shown)
                other.setFormatter(_NamesTheRun(other.formatter))
        yield
    finally:
        for other in there:
            other.removeFilter(is_shown)
            if isinstance(other.formatter, _NamesTheRun):
                other.setFormatter(other.formatter.inner)
        for handler in added:
            root.removeHandler(handler)
            handler.close()


class _NamesTheRun(logging.Formatter):
    """Puts the run's name before what one of several runs reports."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        self.inner = inner
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        if hasattr(record, "run_dir"):
            record = copy.copy(record)
            record.msg, record.args = f"{record.__dict__['run_dir'].name}: {record.getMessage()}", None
        return (self.inner or logging.Formatter()).format(record)


def shown_results(directory: Path) -> list[Path]:
    """What a person will want to open first: the last film and the figure, where they exist."""
    films = sorted((directory / "videos").glob("*.gif"))[-1:]
    return [path for path in (*films, directory / report.KEY_CURVES_FILE) if path.exists()]


def resumed_config(directory: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of an earlier run.

    Args:
        directory: the run's folder.
        overrides: the command line's, to refuse those that would be ignored.

    Raises:
        ConfigError: an override besides ``resume``: a run goes on with the config that it began with.
        FolderError: the folder is not that of a run, or there is no checkpoint to go on from.
    """
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise config.ConfigError(
            f"resume={directory} goes on with the run's own config; leave out {' '.join(others)}, or start a new run"
        )
    path = directory / CONFIG_FILE
    if not path.exists():
        raise FolderError(f"resume={directory}: there is no {path}, so this is not the folder of a run")
    if not CheckpointFolder(directory / "checkpoints").steps():
        raise FolderError(
            f"resume={directory}: {directory / 'checkpoints'} holds no checkpoint. If the run was stopped before its "
            f"first one, start it again in the same folder with its own overrides and hydra.run.dir={directory}"
        )
    return config.from_dict(config.saved_config(path))


def claim_folder(train_config: TrainConfig, directory: Path) -> None:
    """Make the folder this config's own, or see that it already is.

    Writes ``.hydra/config.yaml``, all values resolved, and Hydra's own ``hydra.yaml`` and ``overrides.yaml`` beside it,
    at the first start and never again.

    Raises:
        FolderError: the folder is of a run with another config.
    """
    path, plain = directory / CONFIG_FILE, config.to_dict(train_config)
    if path.exists():
        differences = config.differences(config.saved_config(path), plain)
        if differences:
            raise FolderError(
                f"{directory} holds a run with another config and is left as it is; choose another hydra.run.dir, or "
                "take back:\n  " + "\n  ".join(differences)
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        OmegaConf.save({"hydra": hydra}, path.with_name("hydra.yaml"))
        OmegaConf.save(hydra.overrides.task, path.with_name("overrides.yaml"))
    partial = path.with_suffix(".partial")
    OmegaConf.save(OmegaConf.create(plain), partial)
    partial.replace(path)


def read_summary(directory: Path) -> dict[str, Any]:
    """``summary.json`` of a run's folder, empty where there is none yet."""
    path = directory / SUMMARY_FILE
    return dict(json.loads(path.read_text())) if path.exists() else {}


# A stack of runs ------------------------------------------------------------------------------------------------------


def train(
    configs: Sequence[TrainConfig],
    directories: Sequence[Path],
    *,
    failed: Collection[Path] = (),
    label: str = "",
    progress: bool | None = None,
) -> list[Run | Exception]:
    """Train runs that may be stacked together in one process, each in its own claimed folder.

    Args:
        configs: with equal :func:`cql.config.identity.stack_key`.
        directories: one a run.
        failed: directories of runs that only keep their places in the stack; nothing of theirs is touched.
        label: names the stack in the log.
        progress: show a bar; None shows it on a terminal only.

    Returns:
        The runs, each with its status; for one that could not be begun, why.
    """
    first = configs[0]
    # Also where the choice is torch's own: an evaluation takes one thread and sets this again, and setting it, to
    # whatever number, takes from MKL the choice to use fewer. A run has to begin as it goes on.
    torch.set_num_threads(torch.get_num_threads() if first.n_threads is None else first.n_threads)
    device = choose_device(first.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if first.tf32 else "highest")
    elif first.tf32:
        log.warning("tf32=true has no effect on %s", device)
    # Before anything imports mujoco, which reads the choice of a backend only once.
    can_draw = first.video.enabled and choose_backend() is not None
    info = env_info(first.env.id)
    transitions = load_data(first, info, device)
    keep_freed_memory()  # from now on: what loading the data frees goes back
    log.info("%d transitions of %s on %s", len(transitions), first.env.id, device)
    if first.env.reference == AUTO and scores_of(first) is None:
        log.info(
            "no reference scores are known for %s: its returns have no score; env.reference=[MIN,MAX] gives some",
            first.env.id,
        )

    results: dict[Path, Run | Exception] = {}
    begun: list[tuple[TrainConfig, Run, dict[str, Any] | None]] = []
    with contextlib.ExitStack() as stack:
        for each, directory in zip(configs, directories, strict=True):
            try:
                checkpoint = None if directory in failed else _checkpoint_to_resume(directory, transitions, device)
                one = _begin(each, info, directory, checkpoint, is_failed=directory in failed)
                if directory not in failed:
                    one.local.write_provenance(provenance(each, transitions, device))
            except (OSError, ValueError, CheckpointError, FolderError) as error:
                log.error("%s: %s", directory, error, extra={"run_dir": directory})
                results[directory] = error
            else:
                stack.enter_context(one.wandb)
                results[directory] = one
                begun.append((each, one, checkpoint))
        if not begun:
            return list(results.values())
        seeds = [each.seed for each, _, _ in begun]
        numbers = [coefficients(each, info) for each, _, _ in begun]
        for (each, one, _), known in zip(begun, numbers, strict=True):
            if one.directory in failed:
                continue
            shown = ", ".join(
                f"{name} {value:g}" for name, value in dataclasses.asdict(known).items() if value is not None
            )
            log.info("seed %d: %s", each.seed, shown, extra={"run_dir": one.directory})
        agent = Agent(structure(first, info), numbers, seeds, device)
        eval_seeds = [[each.env.eval_seed + e for e in range(each.env.n_eval_episodes)] for each, _, _ in begun]
        evaluator = Evaluator(first.env.id, eval_seeds)
        stack.callback(evaluator.close)
        size, seconds = first.video.size, first.video.seconds
        sampler, all_data = agent.sampler(seeds, first.batch_size), as_pool(transitions)
        worker = None
        if has_eval_worker(first, device):
            build = functools.partial(rolling_out, first.env.id, eval_seeds, size=size, seconds=seconds)
            worker = Worker(build, name="evaluation worker")
            stack.callback(worker.close)
        trainer = Trainer(
            agent=agent,
            sampler=sampler,
            data=all_data,
            normaliser=transitions.normaliser,
            evaluator=evaluator,
            recorder=Recorder(first.env.id, width=size, height=size, seconds=seconds) if can_draw else None,
            runs=[one for _, one, _ in begun],
            schedule=Schedule(
                n_steps=first.n_steps,
                n_steps_per_epoch=first.n_steps_per_epoch,
                n_epochs_per_eval=first.n_epochs_per_eval,
                n_epochs_per_checkpoint=first.n_epochs_per_checkpoint,
                n_evals_per_video=first.n_evals_per_video,
            ),
            provenance={"versions": versions(), "data_fingerprint": transitions.fingerprint},
            progress=progress,
            label=label,
            step=CapturedStep(agent, sampler, all_data) if first.cuda_graph and device.type == "cuda" else None,
            worker=worker,
        )
        trainer.load([checkpoint for _, _, checkpoint in begun])
        try:
            trainer.train()
        except Exception as error:
            trainer.abort(f"{type(error).__name__}: {error}")
            raise
    return list(results.values())


def _begin(
    train_config: TrainConfig, info: EnvInfo, directory: Path, checkpoint: Mapping[str, Any] | None, *, is_failed: bool
) -> Run:
    """Cut a run's files back to its checkpoint and open its W&B run, unless it only keeps its place."""
    local, logger = LocalLogger(directory), train_config.logger
    if not is_failed:
        local.rewind(0 if checkpoint is None else int(checkpoint["step"]))
    return Run(
        directory=directory,
        config=config.to_dict(train_config),
        local=local,
        wandb=_open_wandb(train_config, info, directory, disabled=is_failed),
        checkpoints=CheckpointFolder(directory / "checkpoints", train_config.n_kept_checkpoints),
        reference=scores_of(train_config),
        log_checkpoints=isinstance(logger, config.WandbLoggerConfig) and logger.log_checkpoints,
        status="failed" if is_failed else "running",
    )


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU where there is one, else the CPU.

    Raises:
        ConfigError: ``cuda`` was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise config.ConfigError("device=cuda: torch sees no CUDA device here; use device=cpu or device=auto")
    return torch.device(name)


def has_eval_worker(train_config: TrainConfig, device: torch.device) -> bool:
    """Whether evaluation and films are a worker's."""
    match train_config.eval_worker:
        case config.EvalWorker.auto:
            # A processor has to do the worker's sums as well, and by default training leaves none of its cores idle.
            return device.type == "cuda"
        case chosen:
            return chosen is config.EvalWorker.on


def n_devices(train_config: TrainConfig) -> int:
    """How many devices of one machine a sweep of this config can use: its GPUs, or the processor."""
    return max(1, torch.cuda.device_count()) if choose_device(train_config.device).type == "cuda" else 1


def fitting_stack_size(train_config: TrainConfig, workers: int = 1) -> tuple[int, str]:
    """How many runs of a config a stack can hold in the memory that is free now.

    Args:
        train_config: of one of the runs.
        workers: stacks that share the memory.

    Returns:
        The number, at least 1, and a line that says where it comes from.
    """
    info = env_info(train_config.env.id)
    device = choose_device(train_config.device)
    one = run_bytes(structure(train_config, info), train_config.batch_size, device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    size = int(_USABLE * free / workers / one)
    mib = 2**20
    why = f"a run takes about {one / mib:.0f} MiB of the {free / mib:.0f} MiB that are free on {device}"
    return min(max(size, 1), _LARGEST_STACK), why + (f", shared by {workers} stacks" if workers > 1 else "")


_USABLE = 0.6  # of the free memory; the data, libraries and other programs need some as well
_LARGEST_STACK = 256  # each run is a level of nested jobs, and of open log files


def run_bytes(shape: AgentConfig, batch_size: int, device: torch.device) -> int:
    """About how much memory one run of a stack takes: its parameters, and what one update keeps for the gradient.

    On the safe side of the peak of processes with stacks of 1 to 16 runs: each took 9 MiB more, where the parts of a
    minibatch are taken one by one and training's environments and logs are left out.
    """
    size = shape.observation_size + shape.action_size
    width, depth = shape.mlp.width, shape.mlp.depth
    n_parameters = (size + 2) * width + (depth - 1) * width * width  # of one network, nearly
    n_groups = 3 if shape.next_actions else 2
    n_rows = batch_size * (1 + n_groups * shape.num_sampled_actions)
    n_numbers = 12 * n_rows * size  # noise, actions, inputs
    if not networks.takes_parts(shape.mlp, device):
        # Twin critics: each hidden layer's output, kept for the gradient, and its gradient.
        n_numbers += 2 * n_rows * 2 * depth * width
    # Actor and twin critics with gradients, their parts, and Adam's two moments, the target critics; environments and
    # logs besides.
    return 4 * (n_numbers + 24 * n_parameters) + 8 * 2**20


def _free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its control group, as batch systems set it."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        pages = int(fields["MemAvailable"].split()[0]) * 1024
    limits = [pages]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit).exists() and Path(used).exists() and (text := Path(limit).read_text().strip()) != "max":
            limits.append(int(text) - int(Path(used).read_text()))
    return max(min(limits), 0)


def load_data(train_config: TrainConfig, info: EnvInfo, device: torch.device) -> data.Transitions:
    """Read, check and prepare the dataset; the embedded ones are made at their first use."""
    chosen = train_config.dataset
    match chosen:
        case config.EmbeddedDataset():
            raw = data.load_minari(embedded.ensure_embedded(chosen.name))
        case config.MinariDataset():
            raw = data.load_minari(chosen.id, download=chosen.download)
        case config.D4rlDataset():
            raw = data.load_d4rl(Path(chosen.path))
        case _:
            raise TypeError(f"dataset: no loader for {type(chosen).__name__}")
    data.check(
        raw,
        observation_size=info.observation_size,
        action_size=info.action_size,
        action_low=info.action_low,
        action_high=info.action_high,
        env_id=info.env_id,
    )
    raw = data.select_episodes(raw, n_episodes=chosen.n_episodes, fraction=chosen.fraction, seed=chosen.subset_seed)
    return data.prepare(
        raw,
        action_low=info.action_low,
        action_high=info.action_high,
        normalise_observations=chosen.normalise_observations,
        reward_scale=chosen.reward_scale,
        reward_bias=chosen.reward_bias,
        timeouts_as_terminals=chosen.timeouts_as_terminals,
        device=device,
        in_place=True,
    )


def as_pool(transitions: data.Transitions) -> Pool:
    """All transitions, in the form that the sampler gathers from."""
    return Pool(transitions.rows, transitions.row, transitions.actions, transitions.rewards, transitions.terminated)


def structure(train_config: TrainConfig, info: EnvInfo) -> AgentConfig:
    """What a stack shares, as plain values."""
    algorithm = train_config.algorithm
    return AgentConfig(
        mlp=mlp(train_config),
        observation_size=info.observation_size,
        action_size=info.action_size,
        backup=algorithm.backup.value,
        num_sampled_actions=algorithm.num_sampled_actions,
        importance_weighted=algorithm.penalty.importance_weighted,
        next_actions=algorithm.penalty.next_actions,
        temperature=algorithm.penalty.temperature,
        gradient=algorithm.penalty.gradient.value,
        num_gradient_actions=algorithm.penalty.num_gradient_actions,
        target_update_period=algorithm.target_update_period,
        log_std_min=algorithm.log_std_min,
        log_std_max=algorithm.log_std_max,
    )


def coefficients(train_config: TrainConfig, info: EnvInfo) -> HyperParams:
    """The numbers of one run that enter its losses and steps."""
    algorithm = train_config.algorithm
    tau_cql: float | None = None
    target_entropy: float | None = None
    temp_rate: float | None = None
    alpha_rate: float | None = None
    match algorithm.alpha_temp:
        case config.FixedAlphaTemp(value=alpha_temp):
            pass
        case config.LearnedAlphaTemp(
            initial_value=alpha_temp, target_entropy=target_entropy, temp_learning_rate=temp_rate
        ):
            target_entropy = -float(info.action_size) if target_entropy is None else target_entropy
        case other:
            raise TypeError(f"algorithm.alpha_temp: {type(other).__name__} is no kind of it")
    match algorithm.alpha_cql:
        case config.FixedAlphaCql(value=alpha_cql):
            pass
        case config.LearnedAlphaCql(initial_value=alpha_cql, tau_cql=tau_cql, alpha_learning_rate=alpha_rate):
            tau_cql = neutral_threshold(algorithm, info.action_size, target_entropy) if tau_cql is None else tau_cql
        case other_:
            raise TypeError(f"algorithm.alpha_cql: {type(other_).__name__} is no kind of it")
    return HyperParams(
        alpha_cql=alpha_cql,
        tau_cql=tau_cql,
        w_cql=algorithm.w_cql,
        alpha_temp=alpha_temp,
        target_entropy=target_entropy,
        discount=algorithm.discount,
        tau_target=algorithm.tau_target,
        bc_steps=algorithm.bc_steps,
        critic_learning_rate=algorithm.critic_learning_rate,
        actor_learning_rate=algorithm.actor_learning_rate,
        temp_learning_rate=temp_rate,
        alpha_learning_rate=alpha_rate,
    )


def neutral_threshold(algorithm: config.CqlConfig, action_size: int, target_entropy: float | None) -> float:
    """The gap of critics that value the policy's actions just like the data's: the default ``tau_cql``.

    Where the m policy actions of a state are valued like the data's action, and the uniform ones lower, the log-sum-exp
    exceeds that value by log m; under importance weights -log pi adds the policy's entropy, which a learned temperature
    holds at its target. A larger gap means that the policy's actions are valued higher than the data's. Held far below
    this, only ever lower values of the policy's actions could meet it, and the multiplier would grow without end.

    Args:
        algorithm: its penalty and samples.
        action_size: A.
        target_entropy: of a learned temperature, None where it is fixed; then -A stands for it.
    """
    n_groups = 2 if algorithm.penalty.next_actions else 1
    gap = math.log(n_groups * algorithm.num_sampled_actions)
    if algorithm.penalty.importance_weighted:
        gap += -float(action_size) if target_entropy is None else target_entropy
    return gap


def mlp(train_config: TrainConfig) -> networks.Mlp:
    """The networks' shape."""
    network = train_config.network
    return networks.Mlp(
        network.width, network.depth, network.activation.value, network.layer_norm, network.initialisation.value
    )


def scores_of(train_config: TrainConfig) -> tuple[float, float] | None:
    """Lowest and highest reference return of the environment, None where it has none."""
    return reference_scores(train_config.env.id, train_config.env.reference)


def load_policy(path: Path) -> tuple[Policy, TrainConfig, int]:
    """The deterministic policy of a checkpoint, with its normalisation, its config and its step.

    Raises:
        CheckpointError: the file is absent, damaged or of another format.
    """
    checkpoint = load(path)
    train_config = config.from_dict(checkpoint["config"])
    parameters = {name: tensor.unsqueeze(0) for name, tensor in checkpoint["agent"]["parameters"]["actor"].items()}
    normaliser = checkpoint["normaliser"]
    policy = Policy(mlp(train_config), parameters, normaliser["mean"], normaliser["std"])
    return policy, train_config, int(checkpoint["step"])


def load_behaviour(path: Path, name: str) -> policies.ActorPolicy:
    """The policy of a checkpoint as a behaviour to collect data from, with sampled actions as in its training.

    Args:
        path: of the checkpoint.
        name: for messages and the data's metadata, which get the checkpoint's step besides.

    Raises:
        CheckpointError: the file is absent, damaged or of another format.
    """
    checkpoint = load(path)
    train_config = config.from_dict(checkpoint["config"])
    return policies.ActorPolicy(
        f"{name} (step {checkpoint['step']})",
        mlp(train_config),
        checkpoint["agent"]["parameters"]["actor"],
        mean=checkpoint["normaliser"]["mean"],
        std=checkpoint["normaliser"]["std"],
        log_std_min=train_config.algorithm.log_std_min,
        log_std_max=train_config.algorithm.log_std_max,
    )


def evaluate(
    directory: Path,
    *,
    which: str = "last",
    n_episodes: int = 10,
    seed: int | None = None,
    gif: Path | None = None,
    mp4: Path | None = None,
    seconds: float = 10.0,
) -> str:
    """Run a checkpoint's deterministic policy, and film it where asked.

    Args:
        directory: the run's folder.
        which: ``last``, ``best``, a step, or the name of a file.
        n_episodes: E.
        seed: of the first episode, the others count on from it; None takes the seeds of the run's own evaluations.
        gif: where to write a GIF of the first episode's beginning.
        mp4: where to write the same as MP4.
        seconds: length of the film.

    Returns:
        One line a person can read.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        FolderError: this is not the folder of a run, or a film is to go where there is no folder.
        RenderingError: a film was asked for and nothing can draw here.
    """
    for film in (gif, mp4):
        if film is not None and not film.parent.is_dir():
            raise FolderError(f"{film}: the folder {film.parent} does not exist; make it first")
    if not (directory / CONFIG_FILE).exists():
        raise FolderError(f"{directory} is not the folder of a run: it holds no {CONFIG_FILE}")
    if gif is not None or mp4 is not None:
        choose_backend()
    torch.set_num_threads(1)  # products of a few rows are slower in two threads than in one
    path = CheckpointFolder(directory / "checkpoints").find(which)
    policy, train_config, step = load_policy(path)
    first_seed = train_config.env.eval_seed if seed is None else seed
    evaluator = Evaluator(train_config.env.id, [[first_seed + e for e in range(n_episodes)]])
    returns = evaluator.evaluate(policy).returns[0]
    evaluator.close()
    line = (
        f"{train_config.env.id}, {path.name} (step {step}), {n_episodes} episodes: "
        f"return {returns.mean():.1f} +- {returns.std():.1f} (lowest {returns.min():.1f}, highest {returns.max():.1f})"
    )
    reference = scores_of(train_config)
    if reference is not None:
        scores = normalised_score(returns, *reference)
        line += f", {scores_name(train_config.env.id, reference)} score {scores.mean():.1f} +- {scores.std():.1f}"
    if gif is not None or mp4 is not None:
        size = train_config.video.size
        recording = Recorder(train_config.env.id, width=size, height=size, seconds=seconds).record(policy, first_seed)
        if gif is not None:
            write_gif(gif, recording.frames, recording.seconds_per_frame)
            line += f"\nwritten: {gif}"
        if mp4 is not None:
            write_mp4(mp4, recording.frames, 1.0 / recording.seconds_per_frame)
            line += f"\nwritten: {mp4}"
    return line


def human_name(train_config: TrainConfig) -> str:
    """A run's name for people: what it learns from, the kind of CQL, and the seed."""
    algorithm = train_config.algorithm
    match algorithm.alpha_cql:
        case config.LearnedAlphaCql(tau_cql=tau_cql):
            multiplier = "alpha_cql learned" if tau_cql is None else f"tau_cql={tau_cql:g}"
        case config.FixedAlphaCql(value=value):
            multiplier = f"alpha_cql={value:g}"
        case other:
            raise TypeError(f"algorithm.alpha_cql: {type(other).__name__} is no kind of it")
    label = config.dataset_label(train_config.dataset)
    return f"{label} {algorithm.penalty.kind} {multiplier} seed={train_config.seed}"


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    packages = ("cql", "torch", "numpy", "gymnasium", "mujoco")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def provenance(train_config: TrainConfig, transitions: data.Transitions, device: torch.device) -> dict[str, Any]:
    """What a run's numbers depend on besides its config."""
    return {
        "versions": versions(),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "dataset": {
            "name": config.dataset_label(train_config.dataset),
            "fingerprint": transitions.fingerprint,
            "transitions": len(transitions),
        },
    }


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that this package is in, with ``-dirty`` where it was changed; None elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _open_wandb(train_config: TrainConfig, info: EnvInfo, directory: Path, *, disabled: bool) -> WandbLogger:
    plain = {
        **config.to_dict(train_config),
        "coefficients": dataclasses.asdict(coefficients(train_config, info)),  # with the derived ones filled in
        "versions": versions(),
        "run_dir": str(directory),
    }
    match train_config.logger:
        case config.WandbLoggerConfig() as chosen if not disabled:
            group, name = (
                f"{train_config.env.id}/{config.dataset_label(train_config.dataset)}",
                human_name(train_config),
            )
            tags, sweep = list(chosen.tags), _sweep_name(directory)
            if sweep is not None:
                # W&B averages over the runs of a group: the point without its seed.
                group = "/".join(filter(None, [sweep, points.human_point(points.without_seed(directory.name))]))
                name, tags = points.human_point(directory.name), [*tags, sweep]
            return open_wandb(
                directory,
                config=plain,
                project=chosen.project,
                entity=chosen.entity,
                group=chosen.group or group,
                job_type=chosen.job_type,
                tags=tags,
                name=chosen.name or name,
                mode=chosen.mode,
            )
        case _:
            return open_wandb(directory, config=plain, project="", mode="disabled")


def _checkpoint_to_resume(
    directory: Path, transitions: data.Transitions, device: torch.device
) -> dict[str, Any] | None:
    """What a run goes on from, None where it begins.

    Raises:
        FolderError: results without a checkpoint, or a checkpoint of other data or of another kind of device.
        CheckpointError: none of the checkpoints can be read.
    """
    folder = CheckpointFolder(directory / "checkpoints")
    if not folder.steps():
        if (directory / METRICS_FILE).exists() or folder.best.exists():
            raise FolderError(
                f"{directory} holds results but no checkpoint to go on from; starting afresh would overwrite them. "
                "Choose another hydra.run.dir, or move the folder away"
            )
        return None
    path, contents = folder.newest()
    log.info("resuming from %s at step %d", path, contents["step"], extra={"run_dir": directory})
    before = contents["data_fingerprint"]
    if before != transitions.fingerprint:
        raise FolderError(
            f"{directory}: its checkpoint was trained on data with the fingerprint {before}, the dataset now has "
            f"{transitions.fingerprint}: it has changed, and the run cannot go on as the same run"
        )
    if len(contents["sampler"]) != len(torch.Generator(device).get_state()):
        raise FolderError(
            f"{directory}: its checkpoint holds the random numbers of another kind of device than {device.type}; go on "
            "where it was trained, e.g. with device=cpu"
        )
    now = versions()
    changed = [f"{name} {was} -> {now.get(name)}" for name, was in contents["versions"].items() if now.get(name) != was]
    if changed:
        log.warning(
            "%s: resumed with other versions, so not bit for bit: %s", directory, ", ".join(changed),
            extra={"run_dir": directory},
        )  # fmt: skip
    return contents


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that are freed, instead of giving them back and faulting them in at every step.

    The activations of one update are tens of megabytes, above the size from which glibc maps each block anew; kept
    blocks made an update about a fifth faster on two cores. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_max = -1, -4  # the parameters' numbers in malloc.h
    # Not by mmap_threshold, which glibc bounds at 32 MB without a word: the layers of a stack are larger.
    for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1)):
        if libc.mallopt(parameter, value) != 1:
            log.warning("mallopt(%d, %d) was refused; updates may be slower", parameter, value)
