"""The policy of a checkpoint, evaluated and recorded."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cql.rollout import envs
from cql.rollout.envs import EnvError, normalised_score, refuse_foreign_package
from cql.rollout.episodes import Policy
from cql.rollout.evaluation import Evaluator, Recorder
from cql.rollout.reference_scores import reference_scores, scores_name
from cql.rollout.rendering import choose_backend, write_gif, write_mp4
from cql.training.build import env_spec, load_policy
from cql.training.checkpoint import CheckpointFolder, load
from cql.training.run_folder import CONFIG_FILE, FolderError


class Evaluation(NamedTuple):
    """What episodes of a checkpoint's policy came to.

    Attributes:
        env_id: Gymnasium's id.
        checkpoint: name of the file.
        step: at which it was written.
        returns: of the episodes, (E,).
        scores: the same as normalised scores, (E,); None without reference scores.
        scores_name: whose reference scores they are.
        success: share of the episodes that succeeded; None where the environment does not report it.
        videos: the files that were written.
    """

    env_id: str
    checkpoint: str
    step: int
    returns: NDArray[np.float64]
    scores: NDArray[np.float64] | None
    scores_name: str
    success: float | None
    videos: list[Path]


def evaluate(
    directory: Path,
    *,
    which: str = "last",
    n_episodes: int = 10,
    seed: int | None = None,
    gif: Path | None = None,
    mp4: Path | None = None,
    seconds: float = 10.0,
    env: str | None = None,
) -> Evaluation:
    """Run the deterministic policy of a checkpoint, and record a video if asked.

    Args:
        directory: the run's folder.
        which: ``last``, ``best``, a step, or the name of a file.
        n_episodes: E.
        seed: of the first episode, the others count on from it; None takes the seeds of the run's own evaluations.
        gif: where to write a GIF of the first episode's beginning.
        mp4: where to write the same as MP4.
        seconds: length of the video.
        env: the run's environment, if it is of the form PACKAGE:ID: its package is imported only if it is given here.
            Of a run without a simulator, the id of an environment with the same sizes.

    Raises:
        EnvError: the environment cannot be made, does not fit, or was not given where it has to be, or an episode
            broke.
        CheckpointError: there is no such checkpoint, or it is damaged.
        FolderError: this is not the folder of a run, or the folder for a video does not exist.
        RenderingError: a video was asked for and no OpenGL backend works here.
    """
    for video in (gif, mp4):
        if video is not None and not video.parent.is_dir():
            raise FolderError(f"{video}: the folder {video.parent} does not exist; make it first")
    if not (directory / CONFIG_FILE).exists():
        raise FolderError(f"{directory} is not the folder of a run: it holds no {CONFIG_FILE}")
    if gif is not None or mp4 is not None:
        choose_backend()
    torch.set_num_threads(1)  # products of a few rows are slower in two threads than in one
    path = CheckpointFolder(directory / "checkpoints").find(which)
    own, train_config, step = load_policy(path)
    policy: Policy = own
    refuse_foreign_package(train_config.env.id, str(path), env, "--env")
    spec = env_spec(train_config)
    if not train_config.env.has_simulator:
        if env is None:
            raise EnvError(
                f"{directory} was trained without a simulator (env=none), so that there is nothing to evaluate it in: "
                f"judge it by recorded data (scripts/judge.py {directory}), or name an environment of the same sizes "
                "with --env ID"
            )
        spec = dataclasses.replace(spec, id=env)
        policy = _acting_in(spec, policy, path)
    first_seed = train_config.env.eval_seed if seed is None else seed
    evaluator = Evaluator(spec, [[first_seed + e for e in range(n_episodes)]])
    results = evaluator.evaluate(policy)
    evaluator.close()
    problem = results.problem(0)
    if problem is not None:
        raise EnvError(f"{spec.id}: {problem.reason}")
    returns = results.returns[0]
    reference = reference_scores(spec.id, train_config.env.reference, spec.kwargs, spec.max_episode_steps)
    if gif is not None or mp4 is not None:
        size = train_config.video.size
        recording = Recorder(spec, width=size, height=size, seconds=seconds).record(policy, first_seed)
        if gif is not None:
            write_gif(gif, recording.frames, recording.seconds_per_frame)
        if mp4 is not None:
            write_mp4(mp4, recording.frames, 1.0 / recording.seconds_per_frame)
    return Evaluation(
        env_id=spec.id,
        checkpoint=path.name,
        step=step,
        returns=returns,
        scores=None if reference is None else normalised_score(returns, *reference),
        scores_name="" if reference is None else scores_name(spec.id, reference, spec.kwargs, spec.max_episode_steps),
        success=results.success_rate(0),
        videos=[video for video in (gif, mp4) if video is not None],
    )


def _acting_in(spec: envs.EnvSpec, policy: Policy, path: Path) -> Policy:
    """A policy that was trained without a simulator, with the bounds of its actions changed for an environment's.

    Raises:
        EnvError: the environment has other sizes.
    """
    info, contents = envs.env_info(spec), load(path, policy_only=True)
    low, high = (contents["spaces"][key].numpy() for key in ("action_low", "action_high"))
    own, other = (len(contents["normaliser"]["mean"]), len(low)), (info.observation_size, info.action_size)
    if own != other:
        raise EnvError(
            f"--env {spec.id}: it has {other[0]} observation and {other[1]} action features, but the policy of {path} "
            f"{own[0]} and {own[1]}: name another environment"
        )
    own_units = (info.action_low, info.action_high)
    return lambda states: envs.from_env_actions(envs.to_env_actions(policy(states), low, high), *own_units)
