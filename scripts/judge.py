"""Rank runs without an environment: ``python scripts/judge.py FOLDER ... [KEY=VALUE ...]``; see ``--help``."""

import argparse
import logging
import sys
from pathlib import Path

from cql.commands import UsageError, exit_code, printable, script


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Judge the policies of runs by recorded data: by scorers, and by fitted Q evaluation of all "
        "policies of a dataset as one stack. Prints their order and, where runs were evaluated, how far to trust it.",
        epilog="KEY=VALUE overrides configs/judge.yaml, e.g. n_steps=20000 checkpoint=best fqe=false. "
        "Runs that are judged already are left as they are; an evaluation that was interrupted resumes.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folders of sweeps or runs, or names of sweeps in outputs/sweeps"
    )
    parser.add_argument("--csv", type=Path, metavar="PATH", help="also write the table as CSV")
    parser.add_argument("--wandb", action="store_true", help="add the judgement to the summary of each run in W&B")
    return parser.parse_args()


def show(chosen: argparse.Namespace) -> int:
    """Judge, and print; the exit code."""
    from cql.config.judge import judge_config
    from cql.files import write_text
    from cql.results import groups, runs, selection, writers
    from cql.sweep import status as sweeps
    from cql.sweep.status import counted

    if chosen.csv is not None and not chosen.csv.parent.is_dir():
        raise UsageError(f"--csv {chosen.csv}: the folder {chosen.csv.parent} does not exist; make it first")
    overrides = [text for text in chosen.folders if "=" in text and not Path(text).is_dir()]
    names = [text for text in chosen.folders if text not in overrides]
    if not names:
        raise UsageError("give the folder of a sweep or of runs, besides KEY=VALUE")
    settings = judge_config(overrides)
    folders = [Path(text) if Path(text).is_dir() else sweeps.find_sweep(text) for text in names]
    directories = [each for folder in folders for each in runs.run_directories(folder)]
    if not directories:
        raise runs.ResultsError(f"{names[0]} holds no runs")
    from cql.training import judge

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    judged, refused = judge.judge(list(dict.fromkeys(directories)), settings, folders[0])
    for directory, reason in refused:
        sys.stderr.write(printable(f"not judged: {directory}: {reason}\n"))
    if not judged:
        return 2
    found = selection.selections(groups.read_results(folders))
    for each in found:
        print(printable(selection.text(each)))
    if chosen.csv is not None:
        write_text(chosen.csv, writers.csv_text([row for each in found for row in selection.rows(each)]))
        print(f"written: {chosen.csv}")
    missed = judge.publish(judged) if chosen.wandb else []
    for directory, reason in missed:
        sys.stderr.write(printable(f"not in W&B: {directory}: {reason}\n"))
    if not found:
        for directory in judged:
            own = runs.read_run(directory).judgement
            shown = "  ".join(f"{name} {own[name]:.4g}" for name in selection.MEANINGS if name in own)
            print(printable(f"{directory}, {own['checkpoint']}: {shown}"))
        print(f"{counted(len(judged), 'run')} judged; to compare takes two on the same task: {judge.JUDGEMENT_FILE}")
    print(f"the page with figures: {script('report', *names)}")
    return 1 if missed else 0


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: show(chosen))


if __name__ == "__main__":
    sys.exit(main())
