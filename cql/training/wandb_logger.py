"""A run's copy in Weights & Biases. It mirrors the local files and may fail without harm.

``wandb.json`` in the run's folder holds the id of the W&B run and what has been sent to it. ``wandb`` is imported when
a W&B run is opened.
"""

from __future__ import annotations

import json
import logging
import netrc
import numbers
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from cql import files
from cql.training.local_logger import read_metrics

if TYPE_CHECKING:
    from types import TracebackType

    import wandb

WANDB_FILE = "wandb.json"
VIDEO_KEY = "rollout"

_log = logging.getLogger(__name__)

_MODES = ("auto", "online", "offline", "disabled")

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
    # The default waits for ever at the end of a run whose network has gone. What was not sent stays on the disk.
    "finish_timeout": 600.0,
    "finish_timeout_raises": True,
}
_TAG_LENGTH = 64  # W&B refuses to start a run with a longer one
_INIT_TIMEOUT = 30.0  # seconds; the default of 90 is a long wait for a machine that cannot reach the server


class WandbLogger:
    """One W&B run, made by `open_wandb`.

    Any failure of W&B is logged once with its reason and switches the logger off; a logger that is off ignores every
    call. Nothing here raises because of W&B, so that training never stops for it.

    As a context manager it finishes the run at the end of the block, with exit code 1 if the block raised. `finish`
    may be called before that with another code.

    Each `log` makes one row of the W&B history. Charts have the key "step" (gradient steps) as their x-axis; W&B's own
    ``_step`` counts the rows. ``wandb.json`` in the run's folder holds the id and how far the mirror has come, so that
    a resumed run continues with the same id, and what W&B already has is not sent again.

    Attributes:
        place: One line that says where the run is, and if it is offline, which command uploads it.
    """

    def __init__(
        self, run: wandb.Run | None, run_dir: Path, progress: _Progress, place: str = "W&B is switched off"
    ) -> None:
        self.place = place
        self._run = run
        self._run_dir = run_dir
        self._broken = False
        self._finished = run is None
        self._progress = progress
        self._sent_before = progress.step  # rows up to this step were sent before this process began

    @property
    def active(self) -> bool:
        """Whether calls still reach W&B."""
        return not (self._finished or self._broken)

    @property
    def run_id(self) -> str | None:
        """The id of the W&B run, or None where none was started."""
        return None if self._run is None else self._progress.id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one row of metrics; a step that W&B got before the run was resumed is left out.

        Give all metrics of a step in one call: the mirror counts in steps.
        """
        if step > self._sent_before:
            row = {"step": int(step), **metrics}
            self._log_row("log metrics", lambda: row, self._progress._replace(step=int(step)))

    def log_video(self, step: int, path: Path) -> None:
        """Log a GIF or MP4 file as :data:`VIDEO_KEY`; a step that has its video in W&B is left out.

        Raises:
            FileNotFoundError: There is no such file.
        """
        _require(path)
        if step > self._progress.video_step:

            def row() -> dict[str, Any]:
                import wandb

                return {"step": int(step), VIDEO_KEY: wandb.Video(str(path))}

            self._log_row("log a video", row, self._progress._replace(video_step=int(step)))

    def log_figure(self, path: Path) -> None:
        """Log a picture under the name of its file (``key_curves.png`` becomes ``key_curves``).

        Raises:
            FileNotFoundError: There is no such file.
        """
        _require(path)

        def row() -> dict[str, Any]:
            import wandb

            return {"step": max(self._progress.step, 0), path.stem: wandb.Image(str(path))}

        self._log_row("log a figure", row, self._progress)

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
            return {"step": max(self._progress.step, 0), name: table}

        self._log_row("log a table", row, self._progress)

    def log_artifact(self, files: Mapping[str, Path], name: str, type: str) -> None:
        """Keep copies of files as one versioned W&B artifact.

        Args:
            files: By their names in the artifact. W&B copies them, so they may be deleted afterwards.
            name: Letters, digits, dots, dashes and underscores; the same name again makes the next version.
            type: What it is, for example "checkpoint".

        Raises:
            FileNotFoundError: One of the files is not there.
        """
        for path in files.values():
            _require(path)

        def send(run: wandb.Run) -> None:
            import wandb

            artifact = wandb.Artifact(name, type)
            for inside, path in files.items():
                artifact.add_file(str(path), name=inside)
            run.log_artifact(artifact)

        if self.active:
            self._guard("log an artifact", send)

    def summary(self, values: Mapping[str, object]) -> None:
        """Set values of the run's summary, the columns of W&B's table of runs."""
        if self.active:
            self._guard("write the summary", lambda run: run.summary.update(dict(values)))

    def finish(self, exit_code: int = 0) -> None:
        """Finish the W&B run; a nonzero code marks it as failed. Only the first call counts."""
        if self._finished:
            return
        # Tried even after a failure: a run left open would be finished by W&B when the process ends, as a success.
        self._guard("finish the run", lambda run: run.finish(exit_code=exit_code))
        self._finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_well = kind is None or (isinstance(error, SystemExit) and error.code in (None, 0))
        self.finish(0 if ended_well else 1)

    def _log_row(self, what: str, row: Callable[[], dict[str, Any]], then: _Progress) -> None:
        if not self.active:
            return
        self._guard(what, lambda run: run.log(row(), step=self._progress.rows, commit=True))
        if self.active:
            self._progress = then._replace(rows=then.rows + 1)
            self._progress.write(self._run_dir)

    def _guard(self, what: str, call: Callable[[wandb.Run], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:  # noqa: BLE001  W&B raises what it likes, and none of it may stop a training run
            if not self._broken:
                _log.warning(
                    "W&B could not %s and is switched off for this run (%s: %s); the files in %s are complete",
                    what, type(error).__name__, error, self._run_dir, extra={"run_dir": self._run_dir},
                )  # fmt: skip
            self._broken = True


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
) -> WandbLogger:
    """Open the W&B run of a training run: a new one, or, where the folder has one already, the same one again.

    Several may be open at once in one process. Opening sends the rows of ``metrics.jsonl`` that W&B does not have, so
    at a resume `LocalLogger.rewind` comes first. Offline, a resumed run is a second folder with the same id; sync them
    in the order of their names.

    Args:
        run_dir: The run's folder; W&B writes to ``wandb/`` in it.
        run_id: The W&B id; None takes the one of the folder, or a new one.
        config: The whole resolved config, as nested dicts of plain values.
        project: W&B project.
        entity: W&B user or team; None is the key's own.
        group: Group of runs in W&B's table, such as the sweep or the dataset.
        job_type: Kind of run within the group.
        tags: W&B tags, of which W&B takes 64 characters.
        name: Name shown for the run.
        mode: "online"; "offline" (files only, to be synced later); "disabled" (nothing is written, wandb is not
            imported); "auto" obeys the environment variable WANDB_MODE if it is set, and else is online if a key
            is found, offline where none is.

    Returns:
        A logger, never an exception of W&B's: if the server cannot be reached the run is offline, and if that fails too
        the logger is off. Both are logged as warnings.

    Raises:
        ValueError: The mode, or WANDB_MODE, is none of the four.
    """
    run_dir = Path(run_dir)
    _check_mode("mode", mode)
    progress = _Progress.read(run_dir, run_id)
    if mode == "disabled" or (mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"):
        return WandbLogger(None, run_dir, progress)

    # Read by wandb when it starts, which looking for a key does too; without it even an offline run looks up a host of
    # W&B's error reports.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    mode, reason = choose_mode(mode)
    options: dict[str, Any] = {
        "id": progress.id,
        "config": dict(config),
        "project": project,
        "entity": entity,
        "group": group,
        "job_type": job_type,
        "tags": [wandb_tag(tag) for tag in tags],
        "name": name,
    }
    run = None
    attempts: tuple[Literal["online", "offline"], ...] = ("online", "offline") if mode == "online" else ("offline",)
    for attempt in attempts:
        try:
            run = _start(run_dir, attempt, options)
            break
        except Exception as error:  # noqa: BLE001  a tracker that cannot start may not stop a training run
            then = "it continues offline" if attempt == "online" else "nothing is sent; the local files are written"
            kind = type(error).__name__
            _log.warning("W&B did not start %s (%s: %s): %s", attempt, kind, error, then, extra={"run_dir": run_dir})
            reason = "the server was not reached"
    if run is None:
        return WandbLogger(None, run_dir, progress)
    if run.offline:
        place = f"W&B is offline ({reason}); to upload the run: wandb sync {Path(run.dir).parent}"
    else:
        place = f"W&B run: {run.url}"
    _log.info("%s", place, extra={"run_dir": run_dir})

    # The server may have more rows than the folder knows of; W&B drops a row whose number lies behind its own.
    progress = progress._replace(rows=max(progress.rows, run.starting_step))
    progress.write(run_dir)
    logger = WandbLogger(run, run_dir, progress, place)
    for row in read_metrics(run_dir):
        logger.log(int(row["step"]), {name: value for name, value in row.items() if name != "step"})
    return logger


def _start(run_dir: Path, mode: Literal["online", "offline"], options: Mapping[str, Any]) -> wandb.Run:
    import wandb

    settings = {key: value for key, value in _WANDB_SETTINGS.items() if key in wandb.Settings.model_fields}
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings["init_timeout"] = _INIT_TIMEOUT
    run_dir.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        dir=run_dir,
        mode=mode,
        resume="allow",
        # Without it a second run in this process would be given the first one's, or finish it.
        reinit="create_new",
        # A run may be resumed with another length or device.
        allow_val_change=True,
        settings=wandb.Settings(**settings),
        **options,
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


class _Progress(NamedTuple):
    """How far W&B has come in mirroring the run's files: ``wandb.json``."""

    id: str
    rows: int = 0
    step: int = -1
    video_step: int = -1

    @classmethod
    def read(cls, run_dir: Path, run_id: str | None) -> _Progress:
        path = run_dir / WANDB_FILE
        if path.exists():
            try:
                stored = cls(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete it to start a new W&B run") from error
            if run_id in (None, stored.id):
                return stored
        return cls(run_id or secrets.token_hex(4))

    def write(self, run_dir: Path) -> None:
        files.write_text(run_dir / WANDB_FILE, json.dumps(self._asdict()) + "\n")


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is to be logged, but is not there")


def _check_mode(where: str, mode: str) -> None:
    if mode not in _MODES:
        raise ValueError(f"{where} is {mode!r}; choose one of {', '.join(_MODES)}")


def wandb_tag(name: str) -> str:
    """A name as W&B takes it for a tag."""
    return name[:_TAG_LENGTH]


def _cell(value: object) -> str | float | None:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's too
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)


def choose_mode(mode: str) -> tuple[str, str]:
    """Where W&B runs go by `open_wandb`'s ``mode``: "online", "offline" or, by WANDB_MODE, "disabled"; and why.

    Raises:
        ValueError: WANDB_MODE is none of the modes.
    """
    if mode != "auto":
        return mode, f"mode={mode}"
    from_environment = os.environ.get("WANDB_MODE")
    if from_environment:
        _check_mode("the environment variable WANDB_MODE", from_environment)
        if from_environment != "auto":
            return from_environment, f"WANDB_MODE={from_environment}"
    if _has_key():
        return "online", "a key was found"
    return "offline", "no key was found; `wandb login` stores one"


def _has_key() -> bool:
    """Whether wandb would find a key without asking for one: in the environment, its settings or the netrc file."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = wandb.setup().settings
    if settings.api_key:
        return True
    hosts = [urlsplit(settings.base_url).netloc]
    if "WANDB_BASE_URL" not in os.environ:
        hosts.append("api.wandb.ai")  # where older keys were stored; newer releases of wandb have another default
    path = os.environ.get("NETRC") or next(
        (str(file) for file in (Path.home() / ".netrc", Path.home() / "_netrc") if file.exists()), None
    )
    if path is None:
        return False
    try:
        stored = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError) as error:
        _log.warning("no W&B key could be read from %s: %s", path, error)
        return False
    return any(stored.authenticators(host) for host in hosts)
