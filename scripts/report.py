"""A report on sweeps and runs: ``python scripts/report.py FOLDER ...``; see ``--help``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cql.commands import UsageError, exit_code, printable, script

STATISTICS = ("last", "best", "last five")
VIDEOS = ("embed", "link", "none")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Compare the arms of sweeps: which is better, by how much, and whether that is significant. Writes "
        "a page, tables and figures."
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folders of sweeps or runs, or names of sweeps in outputs/sweeps"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: report/ in the first folder)"
    )
    parser.add_argument("--title", help="heading of the page (default: the folders' names)")
    parser.add_argument(
        "--base",
        metavar="ARM",
        help="the arm that others are compared with (default: base if there is one, else the first)",
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="ARM=TEXT", help="another name for an arm; may be repeated"
    )
    parser.add_argument(
        "--statistic",
        choices=STATISTICS,
        type=lambda text: text.replace("-", " "),
        default="last",
        help="evaluations that figures and comparisons show (last-five means last five)",
    )
    parser.add_argument(
        "--videos", choices=VIDEOS, default="embed",
        help="rollout videos in the page (default), linked in their folders, or left out",
    )  # fmt: skip
    # As earlier versions called it.
    parser.add_argument("--films", dest="videos", choices=VIDEOS, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--wandb", action="store_true", help="log tables and figures to a W&B run named report")
    parser.add_argument("--project", help="W&B project (default: that of the runs)")
    parser.add_argument("--entity", help="W&B user or team")
    chosen = parser.parse_args()
    if chosen.out is not None and chosen.out.is_file():
        parser.error(f"--out {chosen.out}: is a file; give a folder, which is created if it does not exist")
    return chosen


def make(chosen: argparse.Namespace) -> int:
    """Read, draw and write; the exit code."""
    from cql.results import dashboard, groups, report, wandb_report
    from cql.sweep.status import counted

    folders = [_folder(text) for text in chosen.folders]
    found = groups.read_results(folders)
    labels = _table_labels(folders, found.arms) | _labels(chosen.label)
    if chosen.base is not None:  # by its old name or by its new one
        chosen.base = labels.get(chosen.base, chosen.base)
    found = groups.renamed(found, labels)
    where = "", None
    if chosen.wandb:  # before anything is written
        configs = [run.config for run in found.runs]
        where = dashboard.place(configs, project=chosen.project, entity=chosen.entity)
    out = chosen.out or folders[0] / "report"
    title = chosen.title or ", ".join(folder.resolve().name for folder in folders)
    written = report.write_report(
        found,
        out,
        title=title,
        command=script("report", *sys.argv[1:]),
        statistic=chosen.statistic,
        base=chosen.base,
        videos=chosen.videos,
    )
    finished = sum(run.status == "finished" for run in found.runs)
    total = len(found.runs) + len(found.unread)
    print(
        f"{finished} of {total} runs finished; {counted(len(found.arms), 'arm')}, {counted(len(found.tasks), 'task')}"
    )
    sweeps = sorted({run.sweep.resolve() for run in (*found.runs, *found.repeated) if run.sweep is not None})
    if len(sweeps) > 1:
        names = printable(", ".join(sweep.name for sweep in sweeps))
        print(f"{len(sweeps)} sweeps are compared with each other: {names}")
    if found.repeated:
        n_repeated = counted(len(found.repeated), "run")
        print(f"left out: {n_repeated} with the config and the seed of another, listed in the page")
    print(f"written: {written.page} ({written.page.stat().st_size / 1e6:.1f} MB), tables and figures beside it")
    if chosen.wandb:
        project, entity = where
        line, arrived = wandb_report.log_report(
            out,
            files=list(written.files),
            table=list(written.rows),
            figures=list(written.figures),
            project=project,
            entity=entity,
            sweep=folders[0].resolve().name,
        )
        print(line)
        return 0 if arrived else 1
    return 0


def _labels(texts: list[str]) -> dict[str, str]:
    """New labels by old ones. An old label may contain an equals sign, a new one may not."""
    labels = {}
    for text in texts:
        arm, equals, label = text.rpartition("=")
        if not (equals and arm and label and label.isprintable()):
            raise UsageError(f"--label {text!r}: write ARM=TEXT, such as base='CQL, fixed'")
        labels[arm] = label
    return labels


def _table_labels(folders: list[Path], arms: Sequence[str]) -> dict[str, str]:
    """The names that a table gives its arms, if the folder is its sweep, by its name or by the command that ran it."""
    from cql import config
    from cql.results import runs
    from cql.results.tables import spec

    if len(folders) > 1:
        return {}
    own = folders[0].resolve().name.removeprefix("table_")
    tried = [f"table_{own}", *(text.removeprefix("+experiment=") for text in runs.overrides_of(folders[0]))]
    for name in spec.known_tables(config.CONFIG_DIR / "table"):
        if f"table_{name}" in tried:
            known = spec.load_table(name, config.CONFIG_DIR / "table").arms
            return {arm: known[arm] for arm in arms if arm in known}
    return {}


def _folder(text: str) -> Path:
    """A folder, given as such or by the name of a sweep."""
    from cql.sweep import status as sweeps

    return Path(text) if Path(text).is_dir() else sweeps.find_sweep(text)


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: make(chosen))


if __name__ == "__main__":
    sys.exit(main())
