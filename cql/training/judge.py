"""Judge trained policies by recorded data alone: the scorers, and fitted Q evaluation.

What is found of a run stands in its folder, in ``judgement.json``. All policies of one dataset are evaluated as one
stack, whatever else their runs differ in. Axes: P policies, K seeds, N rows of observations, E episodes, A action.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from cql import config, data, files, lock
from cql.algorithm import fast
from cql.algorithm.fqe import FittedQEvaluation
from cql.algorithm.networks import Mlp
from cql.config import TrainConfig
from cql.config.judge import JudgeConfig
from cql.config.mixture import PREPARATION
from cql.data.returns import discounted_returns
from cql.rollout.envs import EnvError
from cql.training.build import as_pool, env_of, env_spec, load_data
from cql.training.checkpoint import CheckpointError, CheckpointFolder, load, read, save
from cql.training.device import choose_device
from cql.training.local_logger import JUDGEMENT_FILE, read_judgement
from cql.training.networks import actor_of, critics_of
from cql.training.progress import duration, logging_above_bar
from cql.training.run_folder import CONFIG_FILE, FolderError
from cql.training.scoring import Scoring, act_of, value_of
from cql.training.wandb_run import add_to_summary

log = logging.getLogger(__name__)

_ACTION_BYTES = 2 * 2**30  # of the policies' actions at all rows, in one stack
_ROWS = 4096  # of one pass of a policy
_FIRST_LINE = 10.0  # seconds until the first line of progress; from then on each time that they have doubled


@dataclass(frozen=True)
class Judged:
    """One run that is judged.

    Attributes:
        directory: its folder.
        config: its config.
        checkpoint: the file of the policy.
        key: of the checkpoint; a judgement by scorers with the same one is up to date.
        fqe_key: of the checkpoint and the settings of fitted Q evaluation; the same for its estimates.
    """

    directory: Path
    config: TrainConfig
    checkpoint: Path
    key: str
    fqe_key: str

    def needs(self, settings: JudgeConfig) -> bool:
        """Whether the judgement in the folder lacks something, or is out of date."""
        found = read_judgement(self.directory)
        return found.get("key") != self.key or (settings.fqe and found.get("fqe_key") != self.fqe_key)


def judge(
    directories: Sequence[Path], settings: JudgeConfig, folder: Path
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Judge runs and write ``judgement.json`` to the folder of each.

    Runs whose judgement is up to date are left as they are. An evaluation that was interrupted resumes.

    Args:
        directories: of the runs.
        settings: how.
        folder: for the state of an evaluation that has not ended.

    Returns:
        The folders of the runs that are judged now, and those that cannot be, with the reason.
    """
    if settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    device = choose_device(settings.device)
    judged, refused = [], []
    for directory in directories:
        try:
            judged.append(_found(directory, settings))
        except (FolderError, CheckpointError, config.ConfigError, OSError) as error:
            refused.append((directory, str(error)))
    todo = [each for each in judged if each.needs(settings)]
    if len(todo) < len(judged):
        log.info("%d of %d runs are judged already", len(judged) - len(todo), len(judged))
    groups: dict[str, dict[Path, tuple[Judged, _Policy]]] = {}
    for each in todo:
        try:
            groups.setdefault(_data_key(each.config), {})[each.directory] = each, _Policy(each.checkpoint, device)
        except CheckpointError as error:
            refused.append((each.directory, str(error)))
    for members in groups.values():
        try:
            _judge_group(list(members.values()), settings, folder, device)
        except (data.DatasetError, EnvError) as error:
            refused += [(directory, str(error)) for directory in members]
    without = {directory for directory, _ in refused}
    return [each.directory for each in judged if each.directory not in without], refused


def publish(directories: Sequence[Path]) -> list[tuple[Path, str]]:
    """Add judgements to the summaries of runs in W&B, as ``judge_fqe`` and so on.

    Returns:
        The runs for which that could not be done, with the reason.
    """
    refused = []
    for directory in directories:
        own = {f"judge_{name}": value for name, value in read_judgement(directory).items() if "key" not in name}
        try:
            reason = add_to_summary(config.from_dict(config.saved_config(directory / CONFIG_FILE)), directory, own)
        except (OSError, ValueError, lock.FolderInUseError) as error:
            reason = str(error)
        if reason is not None:
            refused.append((directory, reason))
    return refused


def interval(values: NDArray[np.floating], n_bootstrap: int, level: float = 0.95) -> tuple[float, float]:
    """A bootstrap interval of the mean of values (K, E), over K seeds and E episodes."""
    random = np.random.default_rng(0)
    n_seeds, n_episodes = values.shape
    means = np.empty(n_bootstrap)
    for index in range(n_bootstrap):
        chosen = values[random.integers(n_seeds, size=n_seeds)].mean(0)
        means[index] = chosen[random.integers(n_episodes, size=n_episodes)].mean()
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _found(directory: Path, settings: JudgeConfig) -> Judged:
    """A run and its policy.

    Raises:
        FolderError: it is not the folder of a run.
        CheckpointError: there is no such checkpoint.
    """
    path = directory / CONFIG_FILE
    if not path.exists():
        raise FolderError(f"{directory} is not the folder of a run: it holds no {CONFIG_FILE}")
    train_config = config.from_dict(config.saved_config(path))
    checkpoint = CheckpointFolder(directory / "checkpoints").find(settings.checkpoint)
    key = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]
    return Judged(directory, train_config, checkpoint, key, f"{key} {_settings_key(settings)}")


def _settings_key(settings: JudgeConfig) -> str:
    """Of what changes estimates of fitted Q evaluation."""
    others = ("checkpoint", "fqe", "n_steps_per_epoch", "device", "n_threads")
    own = {key: value for key, value in dataclasses.asdict(settings).items() if key not in others}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]


def _same_data(train_config: TrainConfig) -> TrainConfig:
    """The config of a run's recorded episodes as the environment gave them, held-out ones included."""
    neutral: dict[str, Any] = {
        "normalise_observations": True, "reward_scale": 1.0, "reward_bias": 0.0, "timeouts_as_terminals": False,
        "normalise_rewards": False, "action_clip": None, "validation_fraction": 0.0,
        "returns_to_go": config.ReturnsToGo.truncate,
    }  # fmt: skip
    dataset = dataclasses.replace(train_config.dataset, **neutral)
    if isinstance(dataset, config.MixtureDataset):
        dropped = (*PREPARATION, "normalise_rewards", "ratio")
        dataset.mixture = [{key: x for key, x in each.items() if key not in dropped} for each in dataset.mixture]
    return dataclasses.replace(train_config, dataset=dataset)


def _data_key(train_config: TrainConfig) -> str:
    """Equal for runs on the same recorded episodes of one environment."""
    plain = config.to_dict(_same_data(train_config))["dataset"]
    env = train_config.env
    return f"{json.dumps(plain, sort_keys=True)} {env_spec(train_config)} {env.action_low} {env.action_high}"


def _judge_group(
    group: Sequence[tuple[Judged, _Policy]], settings: JudgeConfig, folder: Path, device: torch.device
) -> None:
    """Judge runs of one dataset."""
    members, policies = [each for each, _ in group], [policy for _, policy in group]
    info = env_of(members[0].config)
    scorings: dict[str, tuple[Scoring, data.Transitions]] = {}
    found: list[dict[str, Any]] = []
    for each, policy in zip(members, policies, strict=True):
        key = json.dumps(config.to_dict(each.config)["dataset"], sort_keys=True)
        if key not in scorings:
            own = load_data(each.config, info, device)
            scorings[key] = Scoring(own if own.held_out is None else own.held_out), own
        scoring, own = scorings[key]
        if own.fingerprint != policy.fingerprint:
            log.warning("%s was trained on other data than its dataset holds now", each.directory)
        found.append(
            {
                "key": each.key,
                "checkpoint": each.checkpoint.name,
                "step": policy.step,
                "scored_on": "all episodes" if own.held_out is None else "held-out episodes",
                **scoring.scores(policy.act, policy.value, each.config.algorithm.discount),
            }
        )
    states: list[Path] = []
    if settings.fqe:
        transitions = load_data(_same_data(members[0].config), info, device)
        estimates, states = _evaluated(members, policies, transitions, settings, folder)
        found = [own | more for own, more in zip(found, estimates, strict=True)]
    for each, judgement in zip(members, found, strict=True):
        before = read_judgement(each.directory)
        if not settings.fqe and before.get("key") == each.key:
            judgement = before | judgement  # with the estimates of an earlier start
        files.write_text(each.directory / JUDGEMENT_FILE, json.dumps(judgement, indent=1) + "\n")
    for path in states:
        path.unlink()


def _evaluated(
    members: Sequence[Judged],
    policies: Sequence[_Policy],
    transitions: data.Transitions,
    settings: JudgeConfig,
    folder: Path,
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Fitted Q evaluation of policies on the same data, in as few stacks as memory allows.

    Returns:
        What is found of each policy, and the files of the state of the evaluations, which are not needed any more.
    """
    pool = as_pool(transitions)
    starts = transitions.starts
    rows = pool.row[torch.from_numpy(starts).to(pool.row.device)]
    rewards = transitions.rewards.cpu().numpy()
    returns = discounted_returns(rewards, transitions.episode_lengths, settings.discount)
    per_stack = max(1, _ACTION_BYTES // (4 * len(pool.rows) * pool.actions.shape[1]))
    about = {
        "fqe_steps": settings.n_steps,
        "fqe_seeds": settings.n_seeds,
        "fqe_discount": settings.discount,
        "fqe_data_mean": float(returns[starts].mean()),
        "fqe_data_max": float(returns[starts].max()),
    }
    found: list[dict[str, Any]] = [{"fqe_key": each.fqe_key, **about} for each in members]
    states: list[Path] = []
    estimators = {"fqe": 0.0, **({"fqe_cql": settings.alpha_cql} if settings.alpha_cql else {})}
    n_left = len(estimators) * -(-len(members) // per_stack)
    for first in range(0, len(members), per_stack):
        chosen = slice(first, first + per_stack)
        actions = torch.stack([policy.actions_at(pool.rows, transitions.normaliser) for policy in policies[chosen]])
        keys = hashlib.sha256(" ".join(each.fqe_key for each in members[chosen]).encode()).hexdigest()[:16]
        for name, alpha_cql in estimators.items():
            fqe = FittedQEvaluation(
                Mlp(settings.width, settings.depth, settings.activation.value, settings.layer_norm),
                pool,
                actions,
                range(settings.n_seeds),
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                discount=settings.discount,
                tau_target=settings.tau_target,
                target_update_period=settings.target_update_period,
                alpha_cql=alpha_cql,
                centre=float(returns.mean()),
                scale=float(returns.std()) or 1.0,
            )
            states.append(folder / f"{name}_{keys}.pt")
            n_left -= 1
            _fit(fqe, settings, states[-1], name, n_left)
            for own, values in zip(found[chosen], fqe.values(rows).double().cpu().numpy(), strict=True):
                own[name] = float(values.mean())
                own[f"{name}_low"], own[f"{name}_high"] = interval(values, settings.n_bootstrap)
    return found, states


def _fit(fqe: FittedQEvaluation, settings: JudgeConfig, path: Path, name: str, n_left: int) -> None:
    """Train to the last step, from the state that an interrupted start left in a file.

    Args:
        fqe: evaluates a stack of policies.
        settings: how.
        path: of the state.
        name: of the estimator.
        n_left: evaluations of as many steps that follow, for the estimate of the time.
    """
    if path.exists():
        try:
            fqe.load_state(read(path)["fqe"])
            log.info("%s resumes at step %d", name, fqe.n_steps_done)
        except (CheckpointError, ValueError, KeyError, RuntimeError) as error:
            log.warning("%s cannot be resumed, so the evaluation begins anew: %s", path, error)
    log.info("%s of %d policies, %d seeds each, %d steps", name, fqe.n_policies, fqe.n_seeds, settings.n_steps)
    first, began, next_line = fqe.n_steps_done, time.perf_counter(), _FIRST_LINE
    with (
        logging_above_bar(),
        tqdm(total=settings.n_steps, initial=fqe.n_steps_done, unit="step", disable=None) as bar,
    ):
        while fqe.n_steps_done < settings.n_steps:
            try:
                fqe.step()
            except KeyboardInterrupt:
                saved = fqe.n_steps_done // settings.n_steps_per_epoch * settings.n_steps_per_epoch
                log.warning("%s was interrupted; the same command resumes it at step %d", name, saved)
                raise
            bar.update()
            done, elapsed = fqe.n_steps_done, time.perf_counter() - began
            is_saved = done % settings.n_steps_per_epoch == 0 or done == settings.n_steps
            if is_saved:
                save(path, {"fqe": fqe.state()})
            if is_saved or elapsed >= next_line:
                next_line = 2.0 * max(elapsed, _FIRST_LINE)
                pace = elapsed / (done - first)
                seconds_left = pace * (settings.n_steps - done + n_left * settings.n_steps)
                left = f", about {duration(seconds_left)} left on this dataset" if seconds_left else ""
                log.info("%s: step %d/%d  %s so far%s", name, done, settings.n_steps, duration(elapsed), left)


class _Policy:
    """The deterministic policy and the critics of one checkpoint, for many states at once."""

    def __init__(self, path: Path, device: torch.device) -> None:
        contents = load(path)
        self.step, self.fingerprint = int(contents["step"]), str(contents["data_fingerprint"])
        self._normaliser = data.Normaliser(*(contents["normaliser"][key].to(device) for key in ("mean", "std")))
        actor_shape, actor, log_std = actor_of(contents, path)
        critic_shape, critics = critics_of(contents, path)
        networks = fast.choose(actor_shape, critic_shape, device).networks
        actor, critics = ({k: x.to(device) for k, x in part.items()} for part in (actor, critics))
        # Of states as the run's networks see them.
        self.act, self.value = act_of(actor_shape, actor, log_std, networks), value_of(critic_shape, critics, networks)

    @torch.no_grad()
    def actions_at(self, rows: Tensor, normaliser: data.Normaliser) -> Tensor:
        """Actions (N, A) for rows (N, S) that another normaliser was applied to."""
        parts = (part * normaliser.std + normaliser.mean for part in torch.split(rows, _ROWS))
        return torch.cat([self.act(self._normaliser.apply(part)) for part in parts])
