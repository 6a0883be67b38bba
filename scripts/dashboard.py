"""A workspace for a sweep in Weights & Biases: ``python scripts/dashboard.py SWEEP``; see ``--help``."""

import argparse
import sys
from pathlib import Path

from cql.commands import exit_code, printable, script
from cql.sweep import status as sweeps


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Build a W&B workspace for a sweep: curves by point, outcomes, and how much each setting matters."
    )
    parser.add_argument("sweep", help="folder of a sweep, or its name in outputs/sweeps")
    parser.add_argument("--project", metavar="P", help="W&B project (default: from the runs' configs)")
    parser.add_argument("--entity", metavar="E", help="W&B user or team (default: from the configs, or the API key's)")
    parser.add_argument("--dry-run", action="store_true", help="write the workspace as JSON and do not save it to W&B")
    json_help = "file of the JSON (default: dashboard.json in the sweep's folder)"
    parser.add_argument("--json", type=Path, metavar="PATH", help=json_help)
    return parser.parse_args()


def command(chosen: argparse.Namespace) -> str:
    """The command that saves the same workspace."""
    words = [chosen.sweep]
    for option in ("project", "entity", "json"):
        value = getattr(chosen, option)
        words += [] if value is None else [f"--{option}", str(value)]
    return script("dashboard", *words)


def build(chosen: argparse.Namespace) -> int:
    """Build the workspace, and save it if W&B is online; the exit code."""
    from cql.results import dashboard
    from cql.training import wandb_mode

    folder = sweeps.find_sweep(chosen.sweep)
    path = chosen.json or folder / dashboard.DASHBOARD_FILE
    mode, reason = wandb_mode.choose_mode("auto")
    found = dashboard.in_wandb(folder, project=chosen.project, entity=chosen.entity)
    built = dashboard.workspace(found)
    address = dashboard.saved_address(path)
    dashboard.write(path, built, address)
    project = printable(found.project)
    print(f"{found.n_runs} runs of {found.n_points} points in the W&B project {project}; written: {path}")
    if chosen.dry_run or mode != "online":
        why = "--dry-run" if chosen.dry_run else reason
        print(f"not saved to W&B ({why}); to save it: wandb login, upload the runs, {command(chosen)}")
        return 0
    try:
        address = dashboard.save(built, address)
    except Exception as error:  # noqa: BLE001  W&B documents no errors, and the workspace has been written
        print(f"W&B refused the workspace ({type(error).__name__}: {error}).", file=sys.stderr)
        print(f"Its runs must be there first (wandb sync); to save it then: {command(chosen)}", file=sys.stderr)
        return 1
    dashboard.write(path, built, address)
    print(f"saved: {address}")
    return 0


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: build(chosen))


if __name__ == "__main__":
    sys.exit(main())
