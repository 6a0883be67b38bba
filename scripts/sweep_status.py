"""Show the state of a sweep's runs: ``python scripts/sweep_status.py FOLDER``; see ``--help``."""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from cql.commands import exit_code, real
from cql.sweep import status as sweeps
from cql.sweep import table


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A table of a sweep's runs: point, status, step, return, time left.")
    parser.add_argument("folder", help="folder of a sweep, or its name in outputs/sweeps")
    shown = parser.add_mutually_exclusive_group()
    watch_help = "refresh the table every SECONDS (default 5) until all runs have ended; Ctrl-C quits"
    shown.add_argument(
        "--watch", type=real(0, 1e6, above=True), nargs="?", const=5.0, metavar="SECONDS", help=watch_help
    )
    shown.add_argument("--json", action="store_true", help="print everything that is known as JSON")
    parser.add_argument("--figure", type=Path, metavar="PATH", help="draw the runs' curves to this PNG file")
    return parser.parse_args()


def watch(folder: Path, seconds: float) -> None:
    """Show the table again and again until all runs have ended: in place on a terminal, else one below the other."""
    console, was_ended = _console(), False
    with Live(console=console, auto_refresh=False) if sys.stdout.isatty() else contextlib.nullcontext() as live:
        while True:
            runs = sweeps.read_sweep(folder)
            if live is None:
                print(table.text(runs), flush=True)
            else:
                live.update(table.renderable(runs, console, is_watched=True), refresh=True)
            # Twice: between two runs of Hydra's basic launcher nothing shows that another one will start.
            if was_ended and sweeps.ended(runs):
                return
            was_ended = sweeps.ended(runs)
            time.sleep(seconds)
            if live is None:
                print()


def show(folder: Path) -> None:
    """Print the table once; in plain text and at its full width if the output is no terminal."""
    runs, console = sweeps.read_sweep(folder), _console()
    if sys.stdout.isatty():
        console.print(table.renderable(runs, console))
    else:
        print(table.text(runs))


def _console() -> Console:
    return Console(markup=False, emoji=False, highlight=False)


def report(chosen: argparse.Namespace) -> None:
    """Read and print."""
    folder = sweeps.find_sweep(chosen.folder)
    if chosen.watch is not None:
        with contextlib.suppress(KeyboardInterrupt):
            watch(folder, chosen.watch)
    elif chosen.json:
        runs = sweeps.read_sweep(folder)
        known = {"runs": [dataclasses.asdict(run) for run in runs], "seconds_left": sweeps.seconds_left(runs)}
        print(json.dumps({"folder": str(folder), **known}, indent=1))
    else:
        show(folder)
    if chosen.figure is not None:
        from cql.results import sweep_figure

        print(f"written: {sweep_figure.sweep_curves(folder, path=chosen.figure)}", file=sys.stderr)


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: report(chosen))


if __name__ == "__main__":
    sys.exit(main())
