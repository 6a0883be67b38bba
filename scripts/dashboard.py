"""A workspace for a sweep in Weights & Biases: ``python scripts/dashboard.py SWEEP``; see ``--help``."""

import argparse
import shlex
import sys
from pathlib import Path

from cql.sweep import status as sweeps


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Build a W&B workspace for a sweep, with curves by point, outcomes and the settings' importance."
    )
    parser.add_argument("sweep", help="folder of a sweep, or its name in outputs/sweeps")
    parser.add_argument("--project", metavar="P", help="W&B project (default: that of the runs' configs)")
    parser.add_argument("--entity", metavar="E", help="W&B user or team (default: that of the configs, or the key's)")
    parser.add_argument("--dry-run", action="store_true", help="write the workspace as JSON and save nothing to W&B")
    json_help = "where the JSON goes (default: dashboard.json in the sweep's folder)"
    parser.add_argument("--json", type=Path, metavar="PATH", help=json_help)
    return parser.parse_args()


def command(chosen: argparse.Namespace) -> str:
    """What is to be typed to save the same workspace."""
    words = ["python", "scripts/dashboard.py", chosen.sweep]
    for option in ("project", "entity", "json"):
        value = getattr(chosen, option)
        words += [] if value is None else [f"--{option}", str(value)]
    return shlex.join(words)


def main() -> int:
    """Build the workspace and save it where W&B can be reached; errors of the user's go to stderr with exit code 2."""
    chosen = arguments()
    from cql.results import dashboard
    from cql.training import loggers

    try:
        folder = sweeps.find_sweep(chosen.sweep)
        path = chosen.json or folder / dashboard.DASHBOARD_FILE
        mode, reason = loggers.choose_mode("auto")
        found = dashboard.in_wandb(folder, project=chosen.project, entity=chosen.entity)
        built = dashboard.workspace(found)
        address = dashboard.saved_address(path)
        dashboard.write(path, built, address)
    except (sweeps.NoSweepError, dashboard.DashboardError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{found.n_runs} runs of {found.n_points} points in the W&B project {found.project}; written: {path}")
    if chosen.dry_run or mode != "online":
        why = "--dry-run" if chosen.dry_run else reason
        print(f"W&B has not been told ({why}); to save it: wandb login, upload the runs, {command(chosen)}")
        return 0
    try:
        address = dashboard.save(built, address)
    except Exception as error:  # noqa: BLE001  W&B raises what it likes, and the workspace has been written
        print(f"W&B did not take the workspace ({type(error).__name__}: {error}).", file=sys.stderr)
        print(f"Its runs have to be there first (wandb sync); to save it then: {command(chosen)}", file=sys.stderr)
        return 1
    dashboard.write(path, built, address)
    print(f"saved: {address}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
