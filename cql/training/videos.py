"""Rollout videos of runs: from a recorder to the runs' folders and W&B."""

import contextlib
import logging
from collections.abc import Iterator

from cql.algorithm.agent import Policy
from cql.rollout.evaluation import BrokenEpisodeError, Recorder, RolledOut
from cql.rollout.rendering import RenderingError, write_gif, write_mp4, write_video
from cql.training.device import one_thread
from cql.training.local_logger import video_path
from cql.training.run import Run

log = logging.getLogger(__name__)


def keep(step: int, index: int, run: Run, rolled: RolledOut) -> RenderingError | None:
    """Write a run's video among the rollouts to its folder; returns why nothing can be drawn any more."""
    path, video = video_path(run.directory, step), rolled.videos.get(index)
    if video is None:
        return rolled.undrawable
    with _told(run):
        if isinstance(video, Exception):
            raise video
        path.parent.mkdir(exist_ok=True)
        write_video(path, video)
        run.wandb.log_video(step, path)
    return None


def record_last(recorder: Recorder, step: int, run: Run, policy: Policy, seed: int) -> RenderingError | None:
    """Record the policy of a run's last step, as GIF and MP4; returns why nothing can be drawn any more."""
    path = video_path(run.directory, step)
    with _told(run):
        try:
            with one_thread():
                recording = recorder.record(policy, seed)
        except RenderingError as error:
            return error
        path.parent.mkdir(exist_ok=True)
        write_gif(path, recording.frames, recording.seconds_per_frame)
        write_mp4(path.with_suffix(".mp4"), recording.frames, 1.0 / recording.seconds_per_frame)
        run.wandb.log_video(step, path)
    return None


@contextlib.contextmanager
def _told(run: Run) -> Iterator[None]:
    """A video that cannot be made is a warning."""
    try:
        yield
    except (RenderingError, BrokenEpisodeError) as error:
        log.warning("no video: %s", error, extra={"run_dir": run.directory})
