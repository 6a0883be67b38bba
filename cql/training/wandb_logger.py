"""A run's copy in Weights & Biases. It mirrors the local files and may fail without harm.

``wandb.json`` in the run's folder holds the id of the W&B run and how far the copy has come. ``wandb`` is imported when
a W&B run is opened.

Each row of the W&B history has a number, W&B's ``_step``, that follows from the gradient step and from what the row
holds. So the number of the last row that the server has says what is missing there, whatever was lost on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import numbers
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from cql import files
from cql.commands import command
from cql.training.local_logger import read_metrics, read_timing, video_path
from cql.training.wandb_mode import SERVER, check_mode, choose_mode, is_disabled, settings

if TYPE_CHECKING:
    from types import TracebackType

    import wandb

WANDB_FILE = "wandb.json"
VIDEO_KEY = "rollout"

_log = logging.getLogger(__name__)

# Older releases of wandb refuse a setting they do not know, so only the known ones are passed.
_WANDB_SETTINGS: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "save_code": False,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    # The default writes to the disk every 15 seconds, so that a killed run loses all rows of its last 15 seconds.
    "x_transaction_log_flush_interval": 0.2,
    "finish_timeout_raises": True,
}
_INIT_TIMEOUT = 30.0  # seconds; the default of 90 is a long wait for a machine that cannot reach the server
FINISH_TIMEOUT = 600.0
"""Seconds to wait for W&B at the end of a stack, if the config does not say."""
SHORT_TIMEOUT = 10.0
"""The same for a stack that was interrupted."""
_SECONDS_IN_SILENCE = 3.0
_SECONDS_UNTIL_REPEATED = 60.0
_GRACE = 3.0
_SAID_ANYWAY = ("Timed out finishing", "Problem finishing run")  # by a line of ours

# W&B refuses longer texts: online when the run starts, offline when it is synced.
_LONGEST = {"name": 128, "group": 128, "job_type": 64, "tags": 64}

_KINDS = 4
_METRICS, _VIDEO, _OTHER = 0, 1, 2  # what a row holds


def _number(step: int, kind: int) -> int:
    """The number of a row, from 4 on: W&B does not tell number 0 from no row."""
    return _KINDS * (int(step) + 1) + kind


class WandbLogger:
    """One W&B run, made by `open_wandb`.

    Any failure of W&B is logged once with its reason and switches the logger off; a logger that is off ignores every
    call. Nothing here raises because of W&B, so that training never stops for it.

    As a context manager it finishes the run at the end of the block, with exit code 1 if the block raised.

    Each `log` makes one row of the W&B history. Charts have the key "step" (gradient steps) as their x-axis. A row that
    W&B has from before the run was resumed is not sent again.

    Attributes:
        place: One line that says where the run is, and if it is offline, which command uploads it.
        is_online: Whether the run is on the server.
        missed: Whether the run was to be on the server, and is not, or W&B may lack a part of it.
    """

    def __init__(
        self,
        run: wandb.Run | None,
        run_dir: Path,
        progress: _Progress,
        place: str = "W&B is switched off",
        stopped: threading.Event | None = None,
        *,
        missed: bool = False,
    ) -> None:
        self.place = place
        self.missed = missed
        self.is_online = run is not None and not run.offline
        self._run = run
        self._run_dir = run_dir
        self._broken = False
        self._finished = run is None
        self._exit_code: int | None = None
        self._progress = progress
        self._stopped = stopped or threading.Event()
        self._opened = time.monotonic()
        self._step = 0  # of the last metrics

    @property
    def active(self) -> bool:
        """Whether calls still reach W&B."""
        return not (self._finished or self._broken)

    @property
    def run_id(self) -> str | None:
        """The id of the W&B run, or None if the training run has none."""
        return self._progress.id if self._run is not None or (self._run_dir / WANDB_FILE).exists() else None

    @property
    def is_stop_requested(self) -> bool:
        """Whether somebody has stopped the run on its page in W&B."""
        return self._stopped.is_set()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one row of metrics. Give all metrics of a step in one call."""
        self._step = int(step)
        self._log_row("log metrics", _number(step, _METRICS), lambda: {"step": int(step), **metrics})

    def log_video(self, step: int, path: Path) -> None:
        """Log a GIF or MP4 file as :data:`VIDEO_KEY`.

        Raises:
            FileNotFoundError: There is no such file.
        """
        _require(path)

        def row() -> dict[str, Any]:
            import wandb

            return {"step": int(step), VIDEO_KEY: wandb.Video(str(path))}

        self._log_row("log a video", _number(step, _VIDEO), row)

    def log_figure(self, path: Path) -> None:
        """Log a picture under the name of its file (``key_curves.png`` becomes ``key_curves``).

        Raises:
            FileNotFoundError: There is no such file.
        """
        _require(path)

        def row() -> dict[str, Any]:
            import wandb

            return {"step": self._step, path.stem: wandb.Image(str(path))}

        self._log_row("log a figure", self._next_number, row)

    def log_table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Log a table; its columns are the keys of the rows, in the order in which they come.

        Args:
            name: The key in W&B.
            rows: By their columns; a cell that is missing stays empty, and what is neither text, number nor truth value
                is shown as text.
        """

        def row() -> dict[str, Any]:
            import wandb

            columns: list[str | int] = list(dict.fromkeys(key for each in rows for key in each))
            cells = [[_cell(each.get(str(column))) for column in columns] for each in rows]
            table = wandb.Table(columns=columns, data=cells, allow_mixed_types=True)
            return {"step": self._step, name: table}

        self._log_row("log a table", self._next_number, row)

    def log_artifact(self, files: Mapping[str, Path], name: str, type: str) -> None:
        """Keep copies of files as one versioned W&B artifact. If W&B cannot, that is one warning.

        Args:
            files: By their names in the artifact. W&B copies them, so they may be deleted afterwards.
            name: Letters, digits, dots, dashes and underscores; the same name again makes the next version.
            type: What it is, for example "checkpoint".

        Raises:
            FileNotFoundError: One of the files is not there.
        """
        for path in files.values():
            _require(path)
        if not self.active or self._run is None:
            return
        import wandb

        try:
            artifact = wandb.Artifact(name, type)
            for inside, path in files.items():
                artifact.add_file(str(path), name=inside)
            self._run.log_artifact(artifact)
        except Exception as error:  # noqa: BLE001  W&B raises what it likes
            self.missed = True
            self._warn("W&B did not take the artifact %s (%s: %s)", name, error.__class__.__name__, error)

    def summary(self, values: Mapping[str, object]) -> None:
        """Set values of the run's summary, the columns of W&B's table of runs."""
        if self.active:
            self._guard("write the summary", lambda run: run.summary.update(dict(values)))

    def mirror(self) -> None:
        """Send what the run's folder has and W&B lacks: rows of metrics with their timings, and videos."""
        timing = {int(row["step"]): row for row in read_timing(self._run_dir)} if self.active else {}
        for row in read_metrics(self._run_dir) if self.active else ():
            step = int(row["step"])
            self.log(step, {name: value for name, value in {**row, **timing.get(step, {})}.items() if name != "step"})
            if (video := video_path(self._run_dir, step)).is_file():
                self.log_video(step, video)

    def end(self, exit_code: int = 0) -> None:
        """Note how the run ended; :func:`finish_all` or the end of the block tells W&B. Only the first call counts."""
        if self._exit_code is None:
            self._exit_code = exit_code

    def finish(self, exit_code: int = 0) -> None:
        """Finish the W&B run; a nonzero code marks it as failed. Only the first call of this or of `end` counts."""
        self.end(exit_code)
        finish_all([self])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_well = kind is None or (isinstance(error, SystemExit) and error.code in (None, 0))
        self.finish(0 if ended_well else 1)

    @property
    def _next_number(self) -> int:
        return max(self._progress.number + 1, _number(self._step, _OTHER))

    def _log_row(self, what: str, number: int, row: Callable[[], dict[str, Any]]) -> None:
        if not self.active or number <= self._progress.number:
            return
        self._guard(what, lambda run: run.log(row(), step=number, commit=True))
        if self.active:
            self._progress = self._progress._replace(number=number)
            self._progress.write(self._run_dir)

    def _guard(self, what: str, call: Callable[[wandb.Run], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # noqa: BLE001  W&B raises what it likes, and none of it may stop a training run
            self.missed = True
            if not self._broken:
                self._warn(
                    "W&B could not %s and is switched off for this run (%s: %s); the files in %s are complete",
                    what, type(error).__name__, error, self._run_dir,
                )  # fmt: skip
            self._broken = True

    def _warn(self, text: str, *values: object) -> None:
        _log.warning(text, *values, extra={"run_dir": self._run_dir})

    def _finish_now(self) -> None:
        """Tell W&B that the run has ended, and wait until it has everything, or until the run's own timeout."""
        assert self._run is not None
        try:
            # Tried even after a failure: a run left open would be finished by W&B when the process ends, as a success.
            self._run.finish(exit_code=self._exit_code)
        except Exception as error:  # noqa: BLE001  W&B raises what it likes
            _log.debug("W&B: %s: %s", type(error).__name__, error)
        else:
            self._finished = not self._broken


def finish_all(loggers: Sequence[WandbLogger], seconds: float = FINISH_TIMEOUT) -> bool:
    """Finish several W&B runs together. Ctrl-C ends the wait.

    Args:
        loggers: Of the runs; those that are finished or off are left alone. A run whose end was not noted ends well.
        seconds: To wait for all of them.

    Returns:
        Whether W&B has everything.
    """
    left = [logger for logger in loggers if logger._run is not None and not logger._finished]
    for logger in left:
        logger.end(0)
    began = time.monotonic()
    threads = [threading.Thread(target=logger._finish_now, daemon=True) for logger in left]
    for thread in threads:
        thread.start()
    try:
        _join(threads, _SECONDS_IN_SILENCE)
        if n_waiting := sum(thread.is_alive() for thread in threads):
            _log.info(
                "waiting for W&B, which lacks the end of %d run%s (at most %.0f s; Ctrl-C ends the wait, "
                "the local files are complete)", n_waiting, "s" if n_waiting > 1 else "", seconds,
            )  # fmt: skip
            # A moment longer than W&B's own process waits: it writes the end of the run's file.
            _join(threads, began + seconds + _GRACE - time.monotonic())
    except KeyboardInterrupt:
        _log.warning("not waiting for W&B any longer")
    for logger in left:
        complete = logger._finished and not (logger.is_online and _MESSAGES.gave_up > logger._opened)
        logger._finished = True
        logger._progress = logger._progress._replace(complete=complete)
        with contextlib.suppress(OSError):
            logger._progress.write(logger._run_dir)
        if not complete and logger.is_online:
            logger.missed = True
            logger._warn("W&B may lack the end of this run: start it again in the same folder, which sends the rest")
    return all(logger._progress.complete for logger in left)


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.0))


class _Messages:
    """What W&B would print on the console while runs go on, as lines of our log."""

    def __init__(self) -> None:
        self.gave_up = -math.inf  # when rows of a run, which is not said, were given up
        self._said: dict[str, float] = {}
        self._is_installed = False

    def install(self) -> None:
        import wandb

        if not self._is_installed:
            settings()  # makes W&B choose its own way of printing, once
            wandb.termsetup(wandb.Settings(silent=True), self)
            self._is_installed = True

    def warning(self, text: str) -> None:
        now = time.monotonic()
        if any(known in text for known in _SAID_ANYWAY):
            return
        text = text.removeprefix("wandb: ").removeprefix("WARNING ").removeprefix("ERROR ")
        if "Fatal error while uploading" in text:
            self.gave_up = now
            text = (
                "the server does not take the rows of a run any more. They are kept in its folder; when W&B takes them "
                "again, start the run again in the same folder, which sends the rest"
            )
        if now - self._said.get(text, -math.inf) > _SECONDS_UNTIL_REPEATED:
            self._said[text] = now
            _log.warning("W&B: %s", text)

    def error(self, text: str) -> None:
        self.warning(text)

    def info(self, text: str) -> None:
        _log.debug("W&B: %s", text)

    debug = info


_MESSAGES = _Messages()


def open_wandb(
    run_dir: Path,
    run_id: str | None = None,
    *,
    config: Mapping[str, Any],
    project: str,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    name: str | None = None,
    mode: str = "auto",
    finish_timeout: float = FINISH_TIMEOUT,
) -> WandbLogger:
    """Open the W&B run of a training run: a new one, or, where the folder has one already, the same one again.

    Several may be open at once in one process. Opening sends what the run's folder has and W&B lacks, so at a resume
    `LocalLogger.rewind` comes first. Offline, a resumed run is a second folder with the same id.

    Args:
        run_dir: The run's folder; W&B writes to ``wandb/`` in it.
        run_id: The W&B id; None takes the one of the folder, else that of a W&B agent, else a new one.
        config: The whole resolved config, as nested dicts of plain values.
        project: W&B project.
        entity: W&B user or team; None is the key's own.
        group: Group of runs in W&B's table, such as the sweep or the dataset.
        job_type: Kind of run within the group.
        tags: W&B tags.
        name: Name shown for the run.
        mode: "online"; "offline" (files only, to be synced later); "disabled" (nothing is written, wandb is not
            imported); "auto": see :func:`cql.training.wandb_mode.choose_mode`.
        finish_timeout: Seconds after which W&B's own process gives up at the end of the run.

    Returns:
        A logger, never an exception of W&B's: if the server cannot be reached or refuses, the run is offline, and if
        that fails too the logger is off. Both are logged as warnings.

    Raises:
        ValueError: The mode, or WANDB_MODE, is unknown, or ``wandb.json`` is damaged.
    """
    run_dir = Path(run_dir)
    check_mode(mode)
    progress = _Progress.read(run_dir, run_id)
    if is_disabled(mode):
        return WandbLogger(None, run_dir, progress)

    # Read by wandb when it starts; without it even an offline run looks up a host of W&B's error reports.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    mode, reason = choose_mode(mode)
    wanted_online = mode == "online"
    if mode == "disabled":
        return WandbLogger(None, run_dir, progress)
    _MESSAGES.install()
    if mode == "online" and (problem := SERVER.problem()) is not None:
        mode, reason = "offline", problem
        _log.warning("W&B: %s; the run continues offline", problem, extra={"run_dir": run_dir})
    texts = {"name": name, "group": group, "job_type": job_type}
    options: dict[str, Any] = {
        "id": progress.id,
        "config": dict(config),
        "project": project,
        "entity": entity,
        "tags": [wandb_text("tags", tag) for tag in tags],
        **{key: None if text is None else wandb_text(key, text) for key, text in texts.items()},
    }
    run, stopped = None, threading.Event()
    if mode == "online":
        try:
            run = _start(run_dir, "online", options, stopped, finish_timeout)
        except Exception as error:  # noqa: BLE001  a tracker that cannot start may not stop a training run
            reason = f"the run was not let in: {' '.join(str(error).split())}"
            _log.warning("W&B: %s; the run continues offline", reason, extra={"run_dir": run_dir})
            _give_back(progress.id)
            if type(error).__name__ == "CommError" and "imed out" in str(error):
                SERVER.note(reason)  # the next runs need not wait for it too
    if run is None:
        try:
            run = _start(run_dir, "offline", options, stopped, finish_timeout)
        except Exception as error:  # noqa: BLE001
            _log.warning(
                "W&B did not start (%s: %s): nothing is sent; the local files are written",
                type(error).__name__, error, extra={"run_dir": run_dir},
            )  # fmt: skip
            return WandbLogger(None, run_dir, progress, missed=True)
    # Under an agent the id is the agent's, whatever is asked for.
    progress = progress._replace(id=run.id, complete=run.offline)
    if not run.offline:
        # What was handed to W&B before may have got lost: what counts is what the server has.
        progress = progress._replace(number=max(run.starting_step - 1, progress.first_number))
    progress.write(run_dir)
    if run.offline:
        upload = command("wandb", "sync", *_folders(run_dir, run.id, "offline-run"))
        place = f"W&B is offline ({reason}); to upload the run when it has ended: {upload}"
    else:
        place = f"W&B run: {run.url}"
    _log.info("%s", place, extra={"run_dir": run_dir})
    logger = WandbLogger(run, run_dir, progress, place, stopped, missed=wanted_online and run.offline)
    logger.mirror()
    if logger.is_online and logger.active:
        _mark_as_synced(run_dir, run)
    return logger


def _start(
    run_dir: Path,
    mode: Literal["online", "offline"],
    options: Mapping[str, Any],
    stopped: threading.Event,
    finish_timeout: float,
) -> wandb.Run:
    import wandb

    wanted = {**_WANDB_SETTINGS, "finish_timeout": finish_timeout, "stop_fn": stopped.set}
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        wanted["init_timeout"] = _INIT_TIMEOUT
    run_dir.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        dir=run_dir,
        mode=mode,
        resume="allow",
        # Without it a second run in this process would be given the first one's, or finish it.
        reinit="create_new",
        # A run may be resumed with another length or device.
        allow_val_change=True,
        settings=wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}),
        **options,
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


def _give_back(run_id: str) -> None:
    """Make W&B's process forget a run that it failed to start: it would refuse the same id offline."""
    import wandb

    with contextlib.suppress(Exception):
        run = wandb.sdk._attach(attach_id=run_id)
        if run is not None:
            run.finish(exit_code=1)


def _folders(run_dir: Path, run_id: str, kind: str) -> list[Path]:
    """W&B's folders of a run, by age, without those that need not be synced any more."""
    found = (run_dir / "wandb").glob(f"{kind}-*-{run_id}")
    return sorted(path for path in found if not any(path.glob("*.wandb.synced")))


def _mark_as_synced(run_dir: Path, run: wandb.Run) -> None:
    """Tell ``wandb sync`` that nothing is missing of the run's earlier folders, as the server has it by now."""
    present = Path(run.dir).parent.resolve()
    for kind in ("offline-run", "run"):
        for folder in _folders(run_dir, run.id, kind):
            if folder.resolve() != present:
                (folder / f"run-{run.id}.wandb.synced").touch()
                if kind == "offline-run":
                    _log.info("W&B has the rows of %s too: it need not be synced", folder, extra={"run_dir": run_dir})


class _Progress(NamedTuple):
    """How far W&B has come in mirroring the run's files: ``wandb.json``.

    Attributes:
        id: Of the W&B run.
        number: Of the last row that was handed over.
        first_number: The server has all rows up to this number, which older versions sent with other numbers.
        complete: Whether W&B has everything that it was given.
    """

    id: str
    number: int = 0
    first_number: int = 0
    complete: bool = True

    @classmethod
    def read(cls, run_dir: Path, run_id: str | None) -> _Progress:
        path = run_dir / WANDB_FILE
        if path.exists():
            try:
                stored = json.loads(files.contents(path))
                if "rows" in stored:  # of an older version, which counted rows
                    number = max(_number(stored["step"], _METRICS), _number(stored["video_step"], _VIDEO))
                    stored = {"id": stored["id"], "number": number, "first_number": number}
                progress = cls(**stored)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete it to start a new W&B run") from error
            if run_id in (None, progress.id):
                return progress
        agent = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
        return cls(run_id or agent or secrets.token_hex(4))

    def write(self, run_dir: Path) -> None:
        files.write_text(run_dir / WANDB_FILE, json.dumps(self._asdict()) + "\n")


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is to be logged, but is not there")


def is_complete(run_dir: Path) -> bool:
    """Whether W&B has everything of a run, as far as its folder tells."""
    return _Progress.read(run_dir, None).complete


def wandb_text(kind: str, text: str) -> str:
    """A text as W&B takes it for a name, group, job type or tag: one that is too long is cut, and stays its own."""
    longest = _LONGEST[kind]
    if len(text) <= longest:
        return text
    return f"{text[: longest - 9]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _cell(value: object) -> str | float | None:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's too
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)
