"""From configs to objects and from objects to a trained run: the only room that sees everything."""

import contextlib
import ctypes
import dataclasses
import json
import logging
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cql import collect, config, data, networks, report
from cql.agent import Agent, Coefficients, Policy, Structure
from cql.checkpoint import CheckpointFolder, load
from cql.config import TrainConfig
from cql.envs import EnvInfo, env_info, normalised_score
from cql.evaluation import Evaluator, Recorder
from cql.loggers import METRICS_FILE, SUMMARY_FILE, LocalLogger, WandbLogger, open_wandb
from cql.rendering import choose_backend, write_gif, write_mp4
from cql.sampling import Batch
from cql.trainer import Run, Schedule, Trainer

CONFIG_FILE = Path(".hydra") / "config.yaml"

log = logging.getLogger(__name__)


class RunFailed(RuntimeError):  # noqa: N818  it is the run that failed, and it says so
    """A run ended with status ``failed``; its folder holds what is needed to find out why."""


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
        RunFailed: a value was no longer finite.
        SystemExit: a signal ended the run; the code is 128 + its number.
    """
    claim_folder(train_config, directory)
    summary = read_summary(directory)
    if summary.get("status") == "finished":
        log.info("%s: finished already, nothing to do", directory)
    else:
        try:
            (done,) = train([train_config], [directory])
        except Exception as error:
            if not read_summary(directory):  # it failed before there was a run that could say so
                failure = f"{type(error).__name__}: {error}"
                LocalLogger(directory).write_summary({"status": "failed", "step": 0, "failure": failure})
            raise
        summary = read_summary(directory)
        if done.status == "failed":
            raise RunFailed(f"{directory}: {done.failure}")
        if done.status == "interrupted":
            log.warning("stopped at step %d; go on with: python scripts/train.py resume=%s", summary["step"], directory)
            sys.exit(done.exit_code)
    score = summary["eval_score"] if summary["eval_score"] is not None else summary["eval_return_mean"]
    log.info("results: %s", "\n  ".join([str(directory), *map(str, shown_results(directory))]))
    return float(score)


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
    return config.from_dict(_saved(path))


def claim_folder(train_config: TrainConfig, directory: Path) -> None:
    """Make the folder this config's own, or see that it already is.

    Writes ``.hydra/config.yaml``, all values resolved, and Hydra's own ``hydra.yaml`` and ``overrides.yaml`` beside it,
    at the first start and never again.

    Raises:
        FolderError: the folder is of a run with another config.
    """
    path, plain = directory / CONFIG_FILE, config.to_dict(train_config)
    if path.exists():
        differences = config.differing_keys(_saved(path), plain)
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


def _saved(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))


def read_summary(directory: Path) -> dict[str, Any]:
    """``summary.json`` of a run's folder, empty where there is none yet."""
    path = directory / SUMMARY_FILE
    return dict(json.loads(path.read_text())) if path.exists() else {}


# A stack of runs ------------------------------------------------------------------------------------------------------


def train(configs: Sequence[TrainConfig], directories: Sequence[Path], *, progress: bool | None = None) -> list[Run]:
    """Train runs that may be stacked together in one process, each in its own claimed folder.

    Args:
        configs: they differ in seed and coefficients only.
        directories: one a run.
        progress: show a bar; None shows it on a terminal only.

    Returns:
        The runs, each with its status.
    """
    first = configs[0]
    keep_freed_memory()
    if first.n_threads is not None:
        torch.set_num_threads(first.n_threads)
    device = choose_device(first.device)
    # Before anything imports mujoco, which reads the choice of a backend only once.
    can_draw = first.video.enabled and choose_backend() is not None
    info = env_info(first.env.id)
    transitions = load_data(first, info, device)
    log.info("%d transitions of %s on %s", len(transitions), first.env.id, device)

    checkpoints = [_checkpoint_to_resume(directory) for directory in directories]
    with contextlib.ExitStack() as stack:
        runs = []
        for each, directory, checkpoint in zip(configs, directories, checkpoints, strict=True):
            if checkpoint is not None:
                _check_same_data(checkpoint, transitions, directory)
            local = LocalLogger(directory)
            local.rewind(0 if checkpoint is None else int(checkpoint["step"]))
            runs.append(
                Run(
                    directory=directory,
                    config=config.to_dict(each),
                    local=local,
                    wandb=stack.enter_context(_open_wandb(each, info, directory)),
                    checkpoints=CheckpointFolder(directory / "checkpoints", each.n_kept_checkpoints),
                    reference=reference_scores(each),
                    log_checkpoints=isinstance(each.logger, config.WandbLoggerConfig) and each.logger.log_checkpoints,
                )
            )
        seeds = [each.seed for each in configs]
        numbers = [coefficients(each, info) for each in configs]
        for each, known in zip(configs, numbers, strict=True):
            shown = ", ".join(
                f"{name} {value:g}" for name, value in dataclasses.asdict(known).items() if value is not None
            )
            log.info("seed %d: %s", each.seed, shown)
        agent = Agent(structure(first, info), numbers, seeds, device)
        evaluator = Evaluator(
            first.env.id, [[each.env.eval_seed + e for e in range(each.env.n_eval_episodes)] for each in configs]
        )
        stack.callback(evaluator.close)
        size, seconds = first.video.size, first.video.seconds
        trainer = Trainer(
            agent=agent,
            sampler=agent.sampler(seeds, first.batch_size),
            data=as_batch(transitions),
            normaliser=transitions.normaliser,
            evaluator=evaluator,
            recorder=Recorder(first.env.id, width=size, height=size, seconds=seconds) if can_draw else None,
            runs=runs,
            schedule=Schedule(
                n_steps=first.n_steps,
                n_steps_per_epoch=first.n_steps_per_epoch,
                n_epochs_per_eval=first.n_epochs_per_eval,
                n_epochs_per_checkpoint=first.n_epochs_per_checkpoint,
                n_evals_per_video=first.n_evals_per_video,
            ),
            provenance={"versions": versions(), "data_fingerprint": transitions.fingerprint},
            progress=progress,
        )
        if any(checkpoint is not None for checkpoint in checkpoints):
            trainer.load(checkpoints)
            log.info("going on from step %d", min(agent.n_steps_done))
        try:
            trainer.train()
        except Exception as error:
            trainer.abort(f"{type(error).__name__}: {error}")
            raise
    return runs


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


def load_data(train_config: TrainConfig, info: EnvInfo, device: torch.device) -> data.Transitions:
    """Read, check and prepare the dataset; the embedded ones are made at their first use."""
    chosen = train_config.dataset
    match chosen:
        case config.EmbeddedDataset():
            raw = data.load_minari(collect.ensure_embedded(chosen.name))
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
    )


def as_batch(transitions: data.Transitions) -> Batch:
    """All transitions, in the form that the sampler gathers from."""
    return Batch(
        transitions.observations,
        transitions.actions,
        transitions.rewards,
        transitions.next_observations,
        transitions.terminated,
    )


def structure(train_config: TrainConfig, info: EnvInfo) -> Structure:
    """What a stack shares, as plain values."""
    algorithm = train_config.algorithm
    return Structure(
        mlp=mlp(train_config),
        observation_size=info.observation_size,
        action_size=info.action_size,
        backup=algorithm.backup.value,
        num_sampled_actions=algorithm.num_sampled_actions,
        importance_weighted=algorithm.penalty.importance_weighted,
        next_actions=algorithm.penalty.next_actions,
        temperature=algorithm.penalty.temperature,
        target_update_period=algorithm.target_update_period,
        log_std_min=algorithm.log_std_min,
        log_std_max=algorithm.log_std_max,
    )


def coefficients(train_config: TrainConfig, info: EnvInfo) -> Coefficients:
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
    return Coefficients(
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


def reference_scores(train_config: TrainConfig) -> tuple[float, float] | None:
    """Lowest and highest reference return of the environment, None where it has none."""
    reference = train_config.env.reference
    return None if reference is None else (reference.min_score, reference.max_score)


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
    reference = train_config.env.reference
    if reference is not None:
        scores = normalised_score(returns, reference.min_score, reference.max_score)
        line += f", {reference.name} score {scores.mean():.1f} +- {scores.std():.1f}"
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


def _open_wandb(train_config: TrainConfig, info: EnvInfo, directory: Path) -> WandbLogger:
    plain = {
        **config.to_dict(train_config),
        "coefficients": dataclasses.asdict(coefficients(train_config, info)),  # with the derived ones filled in
        "versions": versions(),
        "run_dir": str(directory),
    }
    match train_config.logger:
        case config.WandbLoggerConfig() as chosen:
            return open_wandb(
                directory,
                config=plain,
                project=chosen.project,
                entity=chosen.entity,
                group=chosen.group or f"{train_config.env.id}/{config.dataset_label(train_config.dataset)}",
                job_type=chosen.job_type,
                tags=chosen.tags,
                name=chosen.name or human_name(train_config),
                mode=chosen.mode,
            )
        case _:
            return open_wandb(directory, config=plain, project="", mode="disabled")


def _checkpoint_to_resume(directory: Path) -> dict[str, Any] | None:
    folder = CheckpointFolder(directory / "checkpoints")
    if folder.steps():
        path, contents = folder.newest()
        log.info("resuming from %s", path)
        return contents
    if (directory / METRICS_FILE).exists() or folder.best.exists():
        raise FolderError(
            f"{directory} holds results but no checkpoint to go on from; starting afresh would overwrite them. Choose "
            "another hydra.run.dir, or move the folder away"
        )
    return None


def _check_same_data(checkpoint: Mapping[str, Any], transitions: data.Transitions, directory: Path) -> None:
    before = checkpoint["data_fingerprint"]
    if before != transitions.fingerprint:
        raise FolderError(
            f"{directory}: its checkpoint was trained on data with the fingerprint {before}, the dataset now has "
            f"{transitions.fingerprint}: it has changed, and the run cannot go on as the same run"
        )
    now = versions()
    changed = [
        f"{name} {was} -> {now.get(name)}" for name, was in checkpoint["versions"].items() if now.get(name) != was
    ]
    if changed:
        log.warning("%s: resumed with other versions, so not bit for bit: %s", directory, ", ".join(changed))


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
