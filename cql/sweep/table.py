"""The table of a sweep's runs, drawn by rich."""

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cql.commands import printable
from cql.points import human_point, order
from cql.sweep.status import SweepRun, counted, counts, point_keys, seconds_left, shown_seconds

_STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red", "damaged": "red"}
_UNLIMITED = 100_000  # characters per line of plain text


def renderable(runs: Sequence[SweepRun], console: Console, *, is_watched: bool = False) -> RenderableType:
    """The table, the reasons of failures, and a line of counts.

    Args:
        runs: Those of :func:`cql.sweep.status.read_sweep`.
        console: Where it will be shown; a narrow one gets one column for all keys of the points.
        is_watched: Put the counts first: rich cuts off the end of a view that is longer than the screen.
    """
    if not runs:
        return Text("no runs yet")
    table = _table(runs, _point_columns(runs))
    if _width(table) > console.width:
        joined = _table(runs, [("point", [_name(run) for run in runs])])
        table = min(table, joined, key=_width)
    failures = [
        Text(f"{_name(run)} {run.status}: {printable(_first_line(run.failure))}")
        for run in runs
        if run.failure is not None
    ]
    below = [Text(""), *failures] if failures else []
    total = Text(_total(runs))
    return Group(total, Text(""), table, *below) if is_watched else Group(table, *below, Text(""), total)


def text(runs: Sequence[SweepRun], width: int | None = None) -> str:
    """The same as plain text, without colours.

    Args:
        runs: Those of :func:`cql.sweep.status.read_sweep`.
        width: Characters per line; None for as many as are needed.
    """
    console = Console(
        file=io.StringIO(), width=width or _UNLIMITED, color_system=None, markup=False, emoji=False, highlight=False
    )
    with console.capture() as capture:
        console.print(renderable(runs, console))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _table(runs: Sequence[SweepRun], points: Sequence[tuple[str, list[str]]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns: list[list[Text]] = []
    for title, cells in points:
        is_text = title in ("run", "point") or any(order(cell)[0] for cell in cells if cell)
        table.add_column(title, justify="left" if is_text else "right", overflow="fold")
        columns.append([Text(cell) for cell in cells])
    table.add_column("status", no_wrap=True)
    columns.append([Text(run.status, _STYLES.get(run.status, "dim")) for run in runs])
    for title, cells in _value_columns(runs):
        if any(cells):
            table.add_column(title, justify="left" if title == "left" else "right", no_wrap=True)
            columns.append([Text(cell) for cell in cells])
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _point_columns(runs: Sequence[SweepRun]) -> list[tuple[str, list[str]]]:
    """A column per key, and one for the names that are not points."""
    names = ["" if run.point else _name(run) for run in runs]
    named = [("run", names)] if any(names) else []
    return named + [(printable(key), [printable(run.point.get(key, "")) for run in runs]) for key in point_keys(runs)]


def _name(run: SweepRun) -> str:
    return printable(human_point(run.name))


def _value_columns(runs: Sequence[SweepRun]) -> list[tuple[str, list[str]]]:
    steps = [
        "" if run.status == "waiting" else f"{run.step}/{run.n_steps}" if run.n_steps else str(run.step) for run in runs
    ]
    scorers = {run.scorer for run in runs if run.scorer is not None}
    return [
        ("step", steps),
        ("return", _numbers([run.last_return for run in runs])),
        ("score", _numbers([run.last_score for run in runs], n_decimals=1)),
        ("success", _numbers([run.last_success for run in runs], n_decimals=2)),
        (scorers.pop() if len(scorers) == 1 else "scorer", _numbers([run.last_scorer for run in runs], n_decimals=3)),
        ("steps/s", _numbers([run.steps_per_second for run in runs])),
        ("left", ["" if run.seconds_left is None else shown_seconds(run.seconds_left) for run in runs]),
    ]


def _numbers(values: Sequence[float | None], n_decimals: int | None = None) -> list[str]:
    """Numbers with the same number of decimals; large ones need none."""
    if n_decimals is None:
        n_decimals = 0 if max((abs(value) for value in values if value is not None), default=0.0) >= 1000.0 else 1
    return ["" if value is None else f"{value:.{n_decimals}f}" for value in values]


def _width(table: Table) -> int:
    """Characters per line if nothing is wrapped."""
    wide = Console(file=io.StringIO(), width=_UNLIMITED)
    return Measurement.get(wide, wide.options, table).maximum


def _total(runs: Sequence[SweepRun]) -> str:
    found = counts(run.status for run in runs)
    line = f"{counted(len(runs), 'run')}: " + ", ".join(f"{count} {status}" for status, count in found.items())
    left = seconds_left(runs)
    if left is not None:
        line += f"; about {shown_seconds(left)} left"
    elif "stopped" in found and "running" not in found:
        line += "; nothing is training: to resume the sweep, give its command again"
    return line


def _first_line(failure: str) -> str:
    """The reason without the last metrics and the checkpoint, which are in the run's folder."""
    return failure.partition("; last metrics: ")[0].strip().partition("\n")[0]
