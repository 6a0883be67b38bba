"""The W&B run that carries a sweep's report.

``wandb_report/`` in the report's folder holds what belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cql.results.dashboard import REPORT
from cql.training.wandb_logger import open_wandb

REPORT_FOLDER = "wandb_report"


def log_report(
    folder: Path,
    files: Sequence[Path],
    *,
    project: str,
    entity: str | None = None,
    mode: str = "auto",
    sweep: str | None = None,
    table: Sequence[Mapping[str, object]] = (),
    figures: Sequence[Path] = (),
) -> tuple[str, bool]:
    """Log a report to W&B as the run ``report`` of its sweep; the same folder always continues the same run.

    The table is logged as ``results``, each figure by its file's name without the ending, and all files together as the
    next version of one artifact. Whatever W&B raises is logged as a warning.

    Args:
        folder: The report's folder.
        files: Files of the report, in the folder or elsewhere.
        project: W&B project.
        entity: W&B user or team; None is the one of the API key.
        mode: See :func:`cql.training.wandb_logger.open_wandb`.
        sweep: Group and tag; None is the folder's name.
        table: One mapping of columns to values per row.
        figures: Pictures.

    Returns:
        One line for people, which says where the run is or which command uploads it if W&B is offline; and whether the
        report is where it was to go.

    Raises:
        FileNotFoundError: One of the files or figures does not exist; nothing was logged.
        ValueError: The mode, or WANDB_MODE, is unknown.
    """
    for path in (*files, *figures):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, so the report was not logged to W&B")
    name = sweep or folder.resolve().name
    with open_wandb(
        folder / REPORT_FOLDER,
        config={"sweep": name},
        project=project,
        entity=entity,
        group=name,
        job_type=REPORT,
        tags=[name],
        name=REPORT,
        mode=mode,
    ) as logger:
        if not logger.active:
            return logger.place, not logger.missed
        if table:
            logger.log_table("results", table)
        for figure in figures:
            logger.log_figure(figure)
        if files:
            # W&B allows these characters in an artifact's name, and 128 of them.
            artifact = re.sub(r"[^\w.-]", "_", f"{REPORT}-{name}", flags=re.ASCII)[:128]
            logger.log_artifact({_name_in(folder, path): path for path in files}, artifact, REPORT)
        line = logger.place if logger.active else "the report was not logged to W&B: see the warning above"
    return line, not logger.missed


def _name_in(folder: Path, path: Path) -> str:
    """A file's name in the artifact: its path within the report's folder, or its own name if it lies elsewhere."""
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
