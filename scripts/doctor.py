"""Say what is wrong or normal with runs: ``python scripts/doctor.py FOLDER ...``; see ``--help``."""

import argparse
import dataclasses
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cql.commands import exit_code, printable
from cql.points import human_point
from cql.results import doctor, groups
from cql.results.doctor import Finding
from cql.results.runs import Run
from cql.sweep import status as sweeps
from cql.sweep.status import counted

_MOST_LINES = 6  # of runs that share a finding
_WIDTH = 110

Examined = list[tuple[str, Run, list[Finding]]]
"""Label, run and findings."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Read runs and report what is wrong, what to watch and what is normal: values, alpha_cql, entropy, "
        "actions, scale of rewards, evaluations. Each finding has its numbers, what it usually means, overrides to "
        f"try, and a section of {doctor.PAGE}.",
        epilog="Runs that have not finished are read up to their present step. Early in training much is normal that "
        "later is not.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folders of sweeps or runs, or names of sweeps in outputs/sweeps"
    )
    parser.add_argument("--json", action="store_true", help="print all findings on each run as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if anything is wrong")
    return parser.parse_args()


def show(chosen: argparse.Namespace) -> int:
    """Examine and print; the exit code."""
    folders = [Path(text) if Path(text).is_dir() else sweeps.find_sweep(text) for text in chosen.folders]
    results = groups.read_results(folders)
    examined = _examined(results)
    if chosen.json:
        print(json.dumps(_plain(examined, results), indent=1))
    elif len(examined) == 1:
        print(printable("\n".join(_of_one(*examined[0]))))
    else:
        print(printable("\n".join(_of_many(examined))))
    waiting = sum(reason == groups.NOT_BEGUN for _, reason in results.unread)
    if waiting and not chosen.json:
        print(f"{counted(waiting, 'run')} not begun")
    for path, reason in results.unread:
        if reason != groups.NOT_BEGUN:
            sys.stderr.write(printable(f"not read: {path}: {reason}\n"))
    is_wrong = any(finding.severity == "wrong" for _, _, findings in examined for finding in findings)
    return int(chosen.strict and is_wrong)


def _examined(results: groups.Results) -> Examined:
    several = len({run.sweep for run in results.runs}) > 1
    names = Counter(human_point(run.directory.name) for run in results.runs)
    found = []
    for _, run, findings in doctor.examined(results):
        name = human_point(run.directory.name)
        found.append((run.name if several or names[name] > 1 else name, run, findings))
    return found


def _plain(examined: Examined, results: groups.Results) -> dict[str, Any]:
    return {
        "runs": [
            {
                "directory": str(run.directory), "status": run.status, "step": run.step, "n_steps": run.n_steps,
                "verdict": verdict(findings), "unknown": doctor.unknown(findings),
                "findings": [{**dataclasses.asdict(each), "page": each.page} for each in findings],
            }
            for _, run, findings in examined
        ],
        "unread": [{"directory": str(path), "reason": reason} for path, reason in results.unread],
    }  # fmt: skip


def verdict(findings: Sequence[Finding]) -> str:
    """The findings on a run in one line."""
    names = {severity: [each.name for each in findings if each.severity == severity] for severity in doctor.SEVERITIES}
    return (
        "; ".join(f"{key}: {', '.join(names[key])}" for key in ("wrong", "watch") if names[key]) or "nothing stands out"
    )


def _of_one(label: str, run: Run, findings: Sequence[Finding]) -> list[str]:
    lines = [f"{label} ({_state(run)}): {verdict(findings)}", ""]
    for each in findings:
        if each.severity == "normal":
            lines += _wrapped("normal", f"{each.title}: {each.numbers}.")
        else:
            lines += [*_wrapped(each.severity, f"{each.title}: {each.numbers}."), *_advice(each, each.change), ""]
    return lines + _unknown({label: findings})


def _of_many(examined: Examined) -> list[str]:
    of_runs = {label: findings for label, _, findings in examined}
    lines = []
    for own in doctor.shared(of_runs.items()):
        first, parts = own[0][1], doctor.advice(own, _MOST_LINES)
        lines += _wrapped(first.severity, f"{first.title} ({len(own)} of {counted(len(examined), 'run')})")
        lines += _advice(first, first.change if len(parts) == 1 else ())
        for part in parts:
            lines += _wrapped("", f"Try {' or '.join(part.change)} for") if len(parts) > 1 and part.change else []
            for label, each in part.runs:
                lines += _wrapped("", f"- {label}: {each.numbers}")
            lines += [f"        - and {part.n_more} more"] if part.n_more else []
        lines.append("")
    normal = Counter(each.title for findings in of_runs.values() for each in findings if each.severity == "normal")
    lines += [line for title, n in normal.items() for line in _wrapped("normal", f"{title} ({n} of {len(examined)})")]
    lines += [*_unknown(of_runs), ""]
    width = max(map(len, of_runs))
    return lines + [f"{label:{width}}  {_state(run)}: {verdict(findings)}" for label, run, findings in examined]


def _advice(finding: Finding, change: Sequence[str]) -> list[str]:
    return [
        *_wrapped("", finding.sentence),
        *_wrapped("", (f"Try {' or '.join(change)}. " if change else "") + f"See {finding.page}."),
    ]


def _unknown(of_runs: Mapping[str, Sequence[Finding]]) -> list[str]:
    """What could not be looked at, and why."""
    missing = Counter(name for findings in of_runs.values() for name in doctor.unknown(findings))
    said = ", ".join(name if n == len(of_runs) else f"{name} ({n} of {len(of_runs)})" for name, n in missing.items())
    why = "too few rows or evaluations, or what earlier versions did not record"
    return _wrapped("unknown", f"{said}: {why}.") if said else []


def _state(run: Run) -> str:
    return run.status if run.status == "finished" else f"{run.status} at step {run.step:,} of {run.n_steps:,}"


def _wrapped(severity: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{severity:8}", subsequent_indent=" " * 8,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: show(chosen))


if __name__ == "__main__":
    sys.exit(main())
