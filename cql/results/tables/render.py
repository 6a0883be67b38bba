"""What is written of a comparison: sections with one table each, as text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.results.groups import Group
from cql.results.runs import STATISTICS, Statistic, mean_success
from cql.results.statistics import MIN_RUNS, Estimate, mean_estimate, overlap
from cql.results.tables.cells import Arm, Comparison
from cql.results.tables.spec import MARKS, NOT_SAID, OF_DATASET, Published, Table, Value
from cql.results.writers import Row, csv_text, escape_latex, escape_markdown, latex_table, markdown_table, text_table
from cql.sweep.status import counted

NOTHING = "-"

_COUNTS: Mapping[str, str] = {
    "last": "the last evaluation",
    "best": "the best evaluation, which is selected by the value it reports and so biased upwards",
    "last five": "the mean of the last five evaluations, or of all if there are fewer",
}
_STATISTIC: Mapping[str, str] = {
    "last": "last evaluation",
    "best": "best evaluation",
    "last five": "mean of the last five evaluations",
    NOT_SAID: "which evaluation is not stated",
    OF_DATASET: "no training",
}
_SPREAD: Mapping[str, str] = {
    "sample": "± standard deviation (n - 1) over seeds",
    "population": "± standard deviation (n) over seeds, times the square root of n/(n - 1) for its interval",
    "not said": "± not specified, read as a standard deviation (n - 1) over seeds",
    "episodes": "± standard deviation over episodes",
    "none": "",
}


class Section(NamedTuple):
    """A part of the document: a title, and one table as :mod:`cql.results.writers` takes it."""

    title: str
    header: Row
    rows: Sequence[Row]
    averages: Sequence[Row]


@dataclass(frozen=True)
class Document:
    """What is written of a comparison, whatever the format.

    Attributes:
        name: Name of the table.
        title: For people.
        warnings: What a reader must see first.
        sections: One table each.
        notes: What is said below the tables.
    """

    name: str
    title: str
    warnings: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str]


def document(comparison: Comparison) -> Document:
    """Make the document of a comparison: scores, each arm's runs, each arm against each published column, notes."""
    table, footnotes = comparison.table, _Footnotes(comparison.table)
    sections = [_scores(comparison, scale, footnotes) for scale in (None, *table.scales)]
    for arm in comparison.arms:
        if any(comparison.cells[task, arm].runs for task in table.tasks):
            sections.append(_runs(comparison, arm))
            sections += [_against(comparison, arm, key, column, footnotes) for key, column in comparison.compared(arm)]
    notes = [note.replace("+-", "±") for note in _notes(comparison, footnotes)]
    return Document(table.name, table.title, list(_warnings(comparison)), sections, notes)


def _warnings(comparison: Comparison) -> Iterator[str]:
    unit, cells = comparison.table.unit, comparison.cells
    if comparison.departures:
        yield "Our runs differ from the table's settings: " + "; ".join(comparison.departures)
    for line in comparison.refused:
        yield (
            f"Left out, since another version of the data is not compared: {line}. See them by scripts/report.py, or "
            "beside published numbers of their own data by a table of your own."
        )
    if not (any(cell.runs for cell in cells.values()) or comparison.refused):
        yield "No run has begun yet."
    yield from comparison.failures
    if comparison.unfinished:
        states = ", ".join(f"{count} {status}" for status, count in sorted(comparison.unfinished.items()))
        yield f"Not finished, so in no mean: {states}."
    silent = [
        task
        for task in comparison.table.tasks
        if any(cells[task, arm].ended and not len(comparison.outcomes(task, arm, "last")) for arm in comparison.arms)
    ]
    if silent:
        why = "; their environments have no reference scores, 'unit: return' shows returns" if unit == "score" else ""
        yield f"Finished without a {unit}: {', '.join(silent)}{why}."
    datasets = {str(run.config.get("dataset.id", "")) for cell in cells.values() for run in cell.runs}
    if unit == "score" and any(name.startswith("mujoco/") for name in datasets):
        yield (
            "Minari's mujoco datasets have no reference scores: our scores on them are normalised by the constants of "
            "the run's environment. The table minari_v0 shows returns and two named normalisations."
        )
    if comparison.strangers:
        more = len(comparison.strangers) - 3
        also = f"; and {more} more" if more > 0 else ""
        yield "Ignored: " + "; ".join(comparison.strangers[:3]) + also


class _Footnotes:
    """Letters for the remarks on single values and tasks, in the order of the table."""

    def __init__(self, table: Table) -> None:
        tasks = table.tasks.values()
        texts = [value.remark for task in tasks for column in task.published for value in task.values(column)]
        texts += [task.note for task in tasks]
        self.letters = {text: _letter(index) for index, text in enumerate(dict.fromkeys(filter(None, texts)))}

    def mark(self, text: str) -> str:
        return f"[{self.letters[text]}]" if text else ""


def _letter(index: int) -> str:
    return (chr(ord("a") + index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


# Cells ----------------------------------------------------------------------------------------------------------------


def _number(value: float, n_decimals: int = 1) -> str:
    return NOTHING if math.isnan(value) else f"{value:.{n_decimals}f}"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.0f} %"


def _with_spread(mean: float, spread: float | None, n_decimals: int = 1) -> str:
    return _number(mean, n_decimals) + ("" if spread is None else f" ± {spread:.{n_decimals}f}")


def _ours(values: NDArray[np.float64]) -> str:
    return _with_spread(float(values.mean()), _deviation(values)) if len(values) else NOTHING


def _theirs(table: Table, key: str, value: Value, scale: str | None, footnotes: _Footnotes) -> str:
    n_decimals = _decimals(table, key) if scale is None else 1
    return _with_spread(value.mean, value.spread, n_decimals) + footnotes.mark(value.remark)


def _decimals(table: Table, key: str) -> int:
    """As many as the longest number of a published column has."""
    numbers = [x for task in table.tasks.values() for value in task.values(key) for x in (value.mean, value.spread)]
    return max((len(f"{x!r}".partition(".")[2].rstrip("0")) for x in numbers if x is not None), default=1) or 1


def _deviation(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.1f} to {estimate.high:.1f}" if estimate.has_interval else NOTHING


def _overlap(ours: Estimate, n: int, theirs: Estimate, why: str) -> str:
    """Whether two intervals overlap, or why one is missing."""
    if not n:
        return NOTHING
    shared = overlap(ours, theirs)
    if shared is None:
        return why if not theirs.has_interval else f"ours: {counted(n, 'seed')}"
    return "yes" if shared else "no"


def _average(values: Sequence[float]) -> str:
    """Mean of numbers, nothing if one is NaN."""
    return _number(float(np.mean(values)))


def _average_label(n: int, n_tasks: int) -> str:
    return f"average of all {n_tasks}" if n == n_tasks else f"average of {n} complete of {n_tasks}"


def _done(cell: Group) -> str:
    return f"{len(cell.ended)} of {cell.n_planned}"


def _can_average(table: Table, scale: str | None = None) -> bool:
    """Returns of different environments have no common unit."""
    return table.unit == "score" or scale is not None


# Sections -------------------------------------------------------------------------------------------------------------


def _scores(comparison: Comparison, scale: str | None, footnotes: _Footnotes) -> Section:
    """Tasks by columns: ours, then all that was published, for the tasks that have this scale."""
    table, statistic = comparison.table, comparison.statistic
    rows: list[Row] = []
    means: list[list[float]] = []
    complete: list[list[float]] = []
    for name, task in table.tasks.items():
        row, numbers = [name + footnotes.mark(task.note)], []
        cells = [comparison.cells[name, arm] for arm in comparison.arms]
        for arm, cell in zip(comparison.arms, cells, strict=True):
            values = comparison.outcomes(name, arm, statistic, scale)
            row.append(_ours(values) + ("" if cell.is_complete or not cell.runs else f" ({_done(cell)})"))
            numbers.append(float(values.mean()) if len(values) and cell.is_complete else math.nan)
        for key in table.published:
            published = task.values(key, scale)
            row.append(" / ".join(_theirs(table, key, each, scale, footnotes) for each in published) or NOTHING)
            numbers.append(published[0].mean if published else math.nan)
        rows.append(row)
        means.append(numbers)
        if all(cell.is_complete for cell in cells):
            complete.append(numbers)
    averages: list[Row] = []
    if _can_average(table, scale):
        for several in [complete, means] if 0 < len(complete) < len(means) else [means]:
            label = _average_label(len(several), len(means))
            averages.append([label, *map(_average, zip(*several, strict=True))])
    header = [
        "task",
        *(f"{comparison.label(arm)}, {statistic} (ours)" for arm in comparison.arms),
        *(f"{column.label} [{column.mark}]" for column in table.published.values()),
    ]
    title = f"{table.unit.capitalize()}s" if scale is None else f"Scores, normalised by {scale}"
    return Section(title, header, rows, averages)


def _runs(comparison: Comparison, arm: Arm) -> Section:
    """The result of an arm on every task, and how far it is."""
    table = comparison.table
    rows: list[Row] = []
    whole: list[float] = []
    has_success = any(run.success is not None for task in table.tasks for run in comparison.cells[task, arm].runs)
    for task in table.tasks:
        cell = comparison.cells[task, arm]
        if not cell.runs:  # the first table shows that it is missing
            continue
        values = comparison.outcomes(task, arm, comparison.statistic)
        seeds = f"{_done(cell)} seeds" + (f", {cell.n_failed} failed" if cell.n_failed else "")
        steps = f"{sum(run.step for run in cell.runs):,}"
        if comparison.n_steps is not None:
            steps += f" of {sum(run.n_steps for run in cell.runs) + comparison.n_steps * cell.n_unread:,}"
        success = [_percent(mean_success(cell.ended))] if has_success else []
        rows.append((task, _ours(values), _interval(mean_estimate(values)), *success, seeds, steps))
        if cell.is_complete and len(values):
            whole.append(float(values.mean()))
    title = f"Ours: {comparison.label(arm)}, {comparison.statistic}"
    success = ["success, last"] if has_success else []
    header = ("task", f"mean ± std, {table.unit}", "95 % interval", *success, "seeds done", "steps done")
    averages: list[Row] = []
    if whole and _can_average(table):
        averages.append([_average_label(len(whole), len(table.tasks)), _average(whole), *[NOTHING] * (len(header) - 2)])
    return Section(title, header, rows, averages)


def _against(comparison: Comparison, arm: Arm, key: str, column: Published, footnotes: _Footnotes) -> Section:
    """An arm compared with a published column, by that column's own statistic."""
    table, statistic = comparison.table, column.ours(comparison.statistic)
    rows: list[Row] = []
    complete: list[tuple[float, float]] = []
    for name, task in table.tasks.items():
        cell, published = comparison.cells[name, arm], task.values(key)
        if not cell.runs:
            continue
        values = comparison.outcomes(name, arm, statistic)
        ours = mean_estimate(values)
        first, last = [name, _ours(values), _interval(ours)], _done(cell)
        for value in published:
            theirs = column.estimate(value)
            difference = ours.value - theirs.value
            rows.append(
                [
                    *first,
                    _theirs(table, key, value, None, footnotes),
                    _interval(theirs),
                    NOTHING if math.isnan(difference) else f"{difference:+.1f}",
                    _overlap(ours, len(values), theirs, column.why_no_interval(value)),
                    last,
                ]
            )
            first, last = ["", "", ""], ""  # further values stand below the first
        if not published:
            rows.append([*first, *[NOTHING] * 4, last])
        elif cell.is_complete and len(values):
            complete.append((ours.value, published[0].mean))
    averages: list[Row] = []
    if complete and _can_average(table):
        mine, others = np.mean(complete, axis=0)
        label = _average_label(len(complete), len(table.tasks))
        averages.append(
            [label, _number(mine), NOTHING, _number(others), NOTHING, f"{mine - others:+.1f}", NOTHING, NOTHING]
        )
    if column.is_of_data:
        how = f"ours: {statistic}; {column.label}: the data themselves"
    elif column.statistic in STATISTICS:
        how = f"{statistic} against {column.statistic}"
    else:
        how = f"ours: {statistic}; theirs: not stated"
    title = f"{comparison.label(arm)} (ours) compared with {column.label} [{column.mark}] ({how})"
    header = [
        "task", "ours", "95 % interval", column.label if column.is_of_data else "theirs", "95 % interval", "difference",
        "intervals overlap", "seeds done",
    ]  # fmt: skip
    # Data have no interval over seeds, so nothing can overlap.
    shown = [index for index in range(len(header)) if not (column.is_of_data and index in (4, 6))]

    def cut(row: Row) -> Row:
        return [row[index] for index in shown]

    return Section(title, cut(header), list(map(cut, rows)), list(map(cut, averages)))


def _notes(comparison: Comparison, footnotes: _Footnotes) -> Iterable[str]:
    table = comparison.table
    yield from filter(None, [table.note])
    yield (
        "Ours: mean ± standard deviation (n - 1) over the finished seeds; (2 of 4) means that 2 of 4 seeds have "
        f"finished. Intervals are Student's 95 % intervals, from {MIN_RUNS} seeds on. The result of a run is "
        f"{_COUNTS[comparison.statistic]}, unless the published column uses another. Averages are over complete tasks "
        "(every seed has finished), over the same tasks on both sides; of several values in a cell the first counts."
    )
    if not all(column.is_of_data for column in table.published.values()):
        yield (
            "Theirs: mean ± published spread. Intervals are Student's 95 % intervals, if the number of seeds is known "
            "and the spread is one over seeds. Overlap is not a test: without overlap a difference is likely; with "
            "overlap nothing follows."
        )
    if any(run.success is not None for cell in comparison.cells.values() for run in cell.runs):
        yield "Success: the share of episodes of the last evaluation with a success, mean over the finished seeds."
    for column in table.published.values():
        seeds = "seeds not stated" if column.seeds is None else counted(column.seeds, "seed")
        parts = [column.data, _STATISTIC[column.statistic], "" if column.is_of_data else seeds]
        parts += [_SPREAD[column.spread], column.protocol, column.source]
        yield f"{column.label} [{column.mark}]: {'; '.join(filter(None, parts))}."
    for text, letter in footnotes.letters.items():
        yield f"[{letter}] {text}"
    text = " ".join([table.note, *(column.protocol for column in table.published.values()), *footnotes.letters])
    used = {column.mark for column in table.published.values()} | {mark for mark in MARKS if f"[{mark}]" in text}
    if used:
        yield "Marks: " + "; ".join(f"[{mark}] {meaning}" for mark, meaning in MARKS.items() if mark in used) + "."


# Formats --------------------------------------------------------------------------------------------------------------


def as_text(document: Document, width: int = 120) -> str:
    """For a terminal: notes and warnings are broken to the width, tables are not."""
    parts = [document.title, "=" * len(document.title)]
    parts += [_wrapped(f"! {text}", width) for text in document.warnings]
    for section in document.sections:
        parts += ["", section.title, text_table(section.header, section.rows, section.averages)[:-1]]
    parts += ["", *(_wrapped(f"- {note}", width) for note in document.notes)]
    return "\n".join(parts).replace("±", "+-") + "\n"


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def as_markdown(document: Document) -> str:
    """For a page of Markdown."""
    parts = [f"# {document.title}", "", *(f"> **{escape_markdown(text)}**\n" for text in document.warnings)]
    for section in document.sections:
        parts += [f"## {section.title}", "", markdown_table(section.header, section.rows, section.averages)]
    parts += ["## Notes", "", *(f"- {escape_markdown(note)}" for note in document.notes)]
    return "\n".join(parts) + "\n"


def as_latex(document: Document) -> str:
    r"""For a document that has ``\usepackage{booktabs}``; ``\input`` it anywhere in its body."""
    parts = [r"% Needs \usepackage{booktabs} in the preamble. Put it in by \input{table.tex}."]
    parts += [f"% {line}" for text in document.warnings for line in _wrapped(text, 110).splitlines()]
    for index, section in enumerate(document.sections):
        caption, label = f"{document.title}. {section.title}.", f"tab:{document.name}-{index + 1}"
        table = latex_table(section.header, section.rows, section.averages, caption=caption, label=label)
        parts += ["", table[:-1]]
    parts += ["", r"\begin{footnotesize}", r"\begin{itemize}"]
    parts += [rf"  \item {escape_latex(text)}" for text in (*document.warnings, *document.notes)]
    parts += [r"\end{itemize}", r"\end{footnotesize}"]
    return "\n".join(parts) + "\n"


CSV_COLUMNS = (
    "task", "arm", "varied", "statistic", "scale", "mean", "std", "low", "high", "seeds_done", "seeds_planned",
    "seeds_failed", "steps_done", "success", "published", "published_statistic", "published_mark", "published_mean",
    "published_spread", "published_low", "published_high", "difference", "overlap", "note",
)  # fmt: skip


def as_csv(comparison: Comparison) -> str:
    """One line per task, arm and published value, on every scale; empty if there is nothing.

    Lines without an arm are published values that nothing of ours is compared with. Lines without a published column
    are ours alone, by the chosen statistic.
    """
    return csv_text(list(_csv_rows(comparison)), CSV_COLUMNS)


def _csv_rows(comparison: Comparison) -> Iterator[dict[str, object]]:
    table = comparison.table
    for name, task in table.tasks.items():
        for scale in filter(task.has, (None, *table.scales)):
            place = {"task": name, "scale": scale or table.unit}
            theirs = {
                key: [(value, _csv_theirs(key, column, value)) for value in task.values(key, scale)]
                for key, column in table.published.items()
            }
            for arm in comparison.arms:
                yield place | _csv_ours(comparison, name, arm, comparison.statistic, scale)
                for key, column in comparison.compared(arm):
                    statistic = column.ours(comparison.statistic)
                    estimate = mean_estimate(comparison.outcomes(name, arm, statistic, scale))
                    ours = _csv_ours(comparison, name, arm, statistic, scale)
                    for value, further in theirs[key]:
                        difference = _digits(estimate.value - value.mean)
                        shared = {None: "", True: "yes", False: "no"}[overlap(estimate, column.estimate(value))]
                        yield place | ours | further | {"difference": difference, "overlap": shared}
            for key, column in table.published.items():
                if column.arm is None:
                    yield from (place | further for _, further in theirs[key])


def _csv_ours(
    comparison: Comparison, task: str, arm: Arm, statistic: Statistic, scale: str | None
) -> dict[str, object]:
    cell, values = comparison.cells[task, arm], comparison.outcomes(task, arm, statistic, scale)
    estimate = mean_estimate(values)
    return {
        "arm": arm.name,
        "varied": arm.varied,
        "statistic": statistic,
        "mean": _digits(estimate.value),
        "std": _digits(_deviation(values)),
        "low": _digits(estimate.low),
        "high": _digits(estimate.high),
        "seeds_done": len(cell.ended),
        "seeds_planned": cell.n_planned,
        "seeds_failed": cell.n_failed,
        "steps_done": sum(run.step for run in cell.runs),
        "success": _digits(mean_success(cell.ended)),
    }


def _csv_theirs(key: str, column: Published, value: Value) -> dict[str, object]:
    estimate = column.estimate(value)
    return {
        "published": key,
        "published_statistic": column.statistic,
        "published_mark": value.mark or column.mark,
        "published_mean": _digits(estimate.value),
        "published_spread": _digits(value.spread),
        "published_low": _digits(estimate.low),
        "published_high": _digits(estimate.high),
        "note": value.remark,
    }


def _digits(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.10g}"
