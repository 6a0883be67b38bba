"""How the runs of a sweep fare: ``python scripts/sweep_status.py FOLDER``; see ``--help``."""

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

from cql.sweep import status as sweeps


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A table of a sweep's runs: point, status, step, return, time left.")
    parser.add_argument("folder", help="folder of a sweep, or its name in outputs/sweeps")
    shown = parser.add_mutually_exclusive_group()
    watch_help = "renew the table every so many seconds (default 5) until every run has ended; Ctrl-C leaves"
    shown.add_argument("--watch", type=float, nargs="?", const=5.0, metavar="SECONDS", help=watch_help)
    shown.add_argument("--json", action="store_true", help="print all that is known as JSON")
    parser.add_argument("--figure", type=Path, metavar="PATH", help="draw the runs' curves to this PNG file")
    chosen = parser.parse_args()
    if chosen.watch is not None and not chosen.watch > 0.0:
        parser.error(f"--watch {chosen.watch:g}: more than 0 seconds")
    return chosen


def watch(folder: Path, seconds: float) -> None:
    """Print the table again and again, on a terminal over the one before, until all has ended."""
    erase, was_ended = "", False
    while True:
        runs, size = sweeps.read_sweep(folder), shutil.get_terminal_size()
        text = sweeps.table(runs, size.columns if sys.stdout.isatty() else None)
        print(erase + text, flush=True)
        # Twice: between two runs of a plain launcher nothing says that there is another to come.
        if was_ended and sweeps.ended(runs):
            return
        was_ended = sweeps.ended(runs)
        time.sleep(seconds)
        erase = f"\x1b[{min(text.count(chr(10)) + 1, size.lines - 1)}A\r\x1b[J" if sys.stdout.isatty() else "\n"


def main() -> int:
    """Read and print; errors of the user's go to stderr with exit code 2."""
    chosen = arguments()
    try:
        folder = sweeps.find_sweep(chosen.folder)
        if chosen.watch is not None:
            with contextlib.suppress(KeyboardInterrupt):
                watch(folder, chosen.watch)
        elif chosen.json:
            runs = sweeps.read_sweep(folder)
            known = {"runs": [dataclasses.asdict(run) for run in runs], "seconds_left": sweeps.seconds_left(runs)}
            print(json.dumps({"folder": str(folder), **known}, indent=1))
        else:
            columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            print(sweeps.table(sweeps.read_sweep(folder), columns))
        if chosen.figure is not None:
            from cql.results import sweep_figure

            print(f"written: {sweep_figure.sweep_curves(folder, path=chosen.figure)}", file=sys.stderr)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
