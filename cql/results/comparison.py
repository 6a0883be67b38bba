"""A report on runs: one page, tables and figures that say which arm is better, by how much, and how sure that is."""

from __future__ import annotations

import csv
import html
import io
import math
import os
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import numpy as np

from cql.results import figures, statistics
from cql.results.page import Cell, beside, breakable, document, figure, table, write
from cql.results.runs import NOT_BEGUN, STATISTICS, Group, Results, Run, Statistic, overrides_of, provenance_of
from cql.results.statistics import MIN_RUNS, Estimate
from cql.results.writers import escape_latex as latex
from cql.training.curves import SERIES
from cql.training.loggers import EPISODES_FILE, METRICS_FILE, N_LAST_EVALUATIONS, SUMMARY_FILE, read_episodes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Films = Literal["embed", "link", "none"]

_MEANINGS = {
    "last": "the last evaluation of each run",
    "best": "the best evaluation of each run, chosen by what it is judged by and so too good",
    "last five": "the mean of each run's last five evaluations",
}
_OF_LINES = ("learning_curves", "profiles", "diagnostics_")  # figures that do not name the arms
_FILM_SIZE, _FILM_FRAMES, _FILM_COLOURS = 150, 24, 40  # of an embedded film: pixels, frames, colours
_MOST_FILMS = 40
_MOST_VERDICTS = 8  # of tasks one by one
_FEW_SEEDS = 5  # below which percentiles of a bootstrap are no good intervals
_RAN_AWAY = 100.0  # times its starting value
# Beyond which q_policy stands out: the largest return on the task, the run's own times a factor, q_data and a share of
# it; each with a floor, below which critics lie that have hardly learnt.
_Q_OF_TASK_FLOOR = 100.0
_Q_OF_RUN, _Q_OF_RUN_FLOOR = 1.2, 50.0
_Q_OVER_DATA, _Q_OVER_DATA_FLOOR = 0.5, 20.0


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: ``index.html``.
        files: all of it, the page included.
        rows: of the table, for other uses.
        figures: PNG files.
    """

    page: Path
    files: tuple[Path, ...]
    rows: tuple[dict[str, object], ...]
    figures: tuple[Path, ...]


def write_report(
    results: Results,
    folder: Path,
    *,
    title: str,
    command: str,
    statistic: Statistic = "last",
    base: str | None = None,
    films: Films = "embed",
) -> Report:
    """Write ``index.html``, ``table.md``, ``table.tex``, ``table.csv``, ``episodes.csv`` and ``figures/`` to a folder.

    Args:
        results: of the runs.
        folder: made where it is not there; files of an earlier report are replaced one by one.
        title: heading of the page.
        command: that made the report.
        statistic: of the evaluations, which the figures and comparisons show; the tables have all of them.
        base: the arm that others are compared with; None takes ``base`` where there is one, else the first.
        films: put one film of each group into the page, link to it, or leave films out.

    Raises:
        ValueError: there is no arm of the name of `base`; the message lists those there are.
    """
    if base is None:
        base = "base" if "base" in results.arms else results.arms[0]
    elif base not in results.arms:
        raise ValueError(f"there is no arm '{base}'; there are {', '.join(results.arms)}")
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    rows = table_rows(results, base, statistic)
    drawn: dict[str, str] = {}
    written: list[Path] = []
    comparison = _Comparison.of(results, base, statistic)
    for name, found in _drawn(results, comparison, statistic, base).items():
        if found is not None:
            if name.startswith(_OF_LINES):  # in the page one legend serves several figures
                drawn[name] = figures.svg(found)
                figures.add_legend(found, results, comparison.arms if name == "profiles" else results.arms)
            paths = figures.save(found, folder / "figures", name)
            if name not in drawn:
                drawn[name] = paths[0].read_text(encoding="utf-8")
            written += paths
    tables = [
        write(folder / "table.csv", as_csv(rows)),
        write(folder / "table.md", as_markdown(results, statistic, base)),
        write(folder / "table.tex", as_latex(results, statistic, base)),
        write(folder / "episodes.csv", episodes_csv(results)),
    ]
    writer = _Page(results, comparison, drawn, folder, statistic, base, films)
    page = write(folder / "index.html", document(title, writer.body(title, command, rows)))
    return Report(
        page, (page, *tables, *written), tuple(rows), tuple(path for path in written if path.suffix == ".png")
    )


def _drawn(results: Results, comparison: _Comparison, statistic: Statistic, base: str) -> dict[str, Figure | None]:
    """The figures by the names of their files."""
    drawn: dict[str, Figure | None] = {"learning_curves": figures.learning_curves(results)}
    axes = results.numeric_axes()
    if len(axes) == 2:
        drawn["heat_map"] = figures.heat_maps(results, statistic, lambda group: f"#{identity(group)}")
    for key in axes:
        drawn[f"over_{_file_safe(key)}"] = figures.over_number(results, key, statistic)
    drawn["outcomes"] = figures.outcomes(results, statistic, base)
    drawn["differences"] = figures.differences(results, statistic, base)
    drawn["aggregates"] = figures.aggregates(comparison.aggregates, results)
    drawn["profiles"] = figures.profiles(comparison.profiles, results)
    drawn["improvement"] = figures.improvements(comparison.improvements, base, results)
    for task in results.tasks:
        drawn[f"diagnostics_{_file_safe(task)}"] = figures.diagnostics(results, task)
    return drawn


# Numbers --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Comparison:
    """Arms over the tasks that all of them have finished runs on: see :func:`cql.results.figures.complete`.

    Attributes:
        tasks: those tasks.
        arms: those arms.
        aggregates: by the statistic's name and the arm; empty without scores or tasks.
        profiles: by arm.
        improvements: over the base arm, by arm.
    """

    tasks: list[str]
    arms: list[str]
    aggregates: dict[str, dict[str, Estimate]]
    profiles: dict[str, statistics.Profile]
    improvements: dict[str, Estimate]

    @classmethod
    def of(cls, results: Results, base: str, statistic: Statistic) -> _Comparison:
        tasks, arms = figures.complete(results, statistic, base)
        scores = {arm: figures.scores_of(results, tasks, arm, statistic) for arm in arms}
        # One task of several stands for none of the others.
        if not tasks or len(tasks) == 1 < len(results.tasks):
            return cls(tasks, arms, {}, {}, {})
        aggregates, profiles = {}, {}
        if results.scored and len(tasks) > 1:
            aggregates = {
                name: {arm: statistics.aggregate_estimate(scores[arm], function) for arm in arms}
                for name, function in statistics.AGGREGATES.items()
            }
            everything = np.concatenate([x for own in scores.values() for x in own])
            low, high = float(everything.min()), float(everything.max())
            room = 0.03 * (high - low or 1.0)
            thresholds = np.linspace(low - room, high + room, 101)
            profiles = {arm: statistics.performance_profile(scores[arm], thresholds) for arm in arms}
        improvements = {}
        if base in scores:
            improvements = {
                arm: statistics.probability_of_improvement(scores[arm], scores[base]) for arm in arms if arm != base
            }
        return cls(tasks, arms, aggregates, profiles, improvements)


def table_rows(results: Results, base: str, statistic: Statistic) -> list[dict[str, object]]:
    """One row for each group: seeds, steps, and every statistic with its interval, as scores and as returns."""
    rows = []
    for group in results.groups:
        row: dict[str, object] = {
            "task": group.task,
            "arm": group.arm,
            "planned": group.n_planned,
            "runs": len(group.runs),
            "finished": len(group.ended),
            "failed": sum(run.status == "failed" for run in group.runs),
            "steps": max((run.step for run in group.runs), default=0),
            "n_steps": max((run.n_steps for run in group.runs), default=None),
        }
        for kind, scored in (("return", False), ("score", True)):
            if scored and not results.scored:
                continue
            for name in STATISTICS:
                values = group.outcomes(name, scored=scored)
                estimate, label = statistics.mean_estimate(values), f"{kind}_{name.replace(' ', '_')}"
                row[f"{label}_mean"] = _or_none(estimate.value)
                row[f"{label}_std"] = float(values.std(ddof=1)) if len(values) > 1 else None
                row[f"{label}_low"], row[f"{label}_high"] = _or_none(estimate.low), _or_none(estimate.high)
        other = results.group(group.task, base)
        if group.arm != base and other is not None:
            found = statistics.difference_estimate(
                group.outcomes(statistic, scored=results.scored), other.outcomes(statistic, scored=results.scored)
            )
            row |= {
                "minus_base_mean": _or_none(found.value),
                "minus_base_low": _or_none(found.low),
                "minus_base_high": _or_none(found.high),
            }
        rows.append(row)
    return rows


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def remarks(group: Group, highest: float) -> list[str]:
    """What the diagnostics say of a group's runs, where something is out of the ordinary.

    Args:
        group: the runs.
        highest: the largest return, in absolute value, that any run on the group's task was seen to earn.
    """
    found: dict[str, list[int]] = {}
    for run in group.runs:
        for text in _remarks_on(run, highest):
            found.setdefault(text, []).append(run.seed)
    return [f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}: {t}" for t, seeds in found.items()]


def _remarks_on(run: Run, highest: float) -> Iterator[str]:
    q, data, alpha = run.metric("q_policy"), run.metric("q_data"), run.metric("alpha_cql")
    scale, bias = (
        abs(float(run.config.get("dataset.reward_scale", 1.0))),
        run.config.get("dataset.reward_bias", 0.0),
    )
    own, ever = scale * run.evaluations.values.max(initial=-np.inf), scale * highest
    # A shifted reward has other returns than those that were seen.
    comparable = len(q.values) > 0 and len(run.evaluations.values) > 0 and bias == 0.0
    scaled = "" if scale == 1.0 else f" and times dataset.reward_scale={scale:g}"
    if comparable and abs(q.values[-1]) > max(ever, _Q_OF_TASK_FLOOR):
        yield (
            f"Q exploded. q_policy ends at {q.values[-1]:.4g}, beyond {ever:.4g}, the return of the largest size "
            f"of any run on this task, undiscounted{scaled}"
        )
    elif comparable and q.values[-1] > max(_Q_OF_RUN * own, _Q_OF_RUN_FLOOR):
        yield (
            f"Q is too high. q_policy ends at {q.values[-1]:.4g}, and the policy never earned more than "
            f"{own:.4g} in an evaluation, undiscounted{scaled}"
        )
    elif (
        len(q.values)
        and len(data.values)
        and q.values[-1] > data.values[-1] + max(_Q_OVER_DATA * abs(data.values[-1]), _Q_OVER_DATA_FLOOR)
    ):
        yield (
            f"the policy's actions are valued far above the data's ({q.values[-1]:.4g} against "
            f"{data.values[-1]:.4g}): little keeps the policy near the data"
        )
    start = run.config.get("algorithm.alpha_cql.initial_value")
    residual = run.metric("cql_residual").values
    if start and len(residual) and abs(residual[-1]) > 1.0:
        where = "above" if residual[-1] > 0.0 else "below"
        yield f"the gap still lies {abs(residual[-1]):.2g} {where} tau_cql, where alpha_cql is to hold it"
    if start and len(alpha.values):
        if alpha.values[-1] > _RAN_AWAY * float(start):
            yield (
                f"alpha_cql ran away, from {float(start):g} to {alpha.values[-1]:.3g}: the gap cannot be "
                "brought down to tau_cql; a higher threshold is worth a try"
            )
        elif alpha.values[-1] < float(start) / _RAN_AWAY:
            yield (
                f"alpha_cql vanished, from {float(start):g} to {alpha.values[-1]:.3g}: the gap lies below "
                "tau_cql and nothing is conservative any more; a lower threshold is worth a try"
            )


# Tables ---------------------------------------------------------------------------------------------------------------


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows, every number in full."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return text.getvalue()


def episodes_csv(results: Results) -> str:
    """Every evaluation episode of every run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "arm", "seed", "status", "step", "episode", "episode_seed", "return", "length", "score"])
    for group in results.groups:
        for run in group.runs:
            for row in read_episodes(run.directory):
                score = "" if row.score is None else repr(row.score)
                writer.writerow(
                    [group.task, group.arm, run.seed, run.status, row.step, row.episode, row.seed, repr(row.return_),
                     row.length, score]
                )  # fmt: skip
    return text.getvalue()


def _matrix(
    results: Results, statistic: Statistic
) -> tuple[list[list[tuple[float, float, int, int]]], list[int | None]]:
    """For each task and arm mean, standard deviation, finished and planned runs; and the best arm of each task."""
    cells, best = [], []
    for task in results.tasks:
        row = []
        for arm in results.arms:
            group = results.group(task, arm)
            values = np.array([]) if group is None else group.outcomes(statistic, scored=results.scored)
            mean = float(values.mean()) if len(values) else math.nan
            spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
            row.append((mean, spread, len(values), 0 if group is None else group.n_planned))
        means = [mean for mean, *_ in row]
        cells.append(row)
        best.append(None if all(math.isnan(mean) for mean in means) else int(np.nanargmax(means)))
    return cells, best


def _caption(results: Results, statistic: Statistic) -> str:
    unit = "Normalised scores" if results.scored else "Returns"
    return (
        f"{unit}, {_MEANINGS[statistic]}: mean and standard deviation over the seeds that finished, whose number is in "
        "brackets where it is not all. The highest mean of a row is bold, which says nothing of how sure it is."
    )


def _fine(results: Results) -> int:
    """Decimals of the numbers of some results: one, or as many as the largest outcome needs for two digits."""
    outcomes = [group.outcomes("best", scored=results.scored) for group in results.groups]
    largest = max((float(np.abs(own).max()) for own in outcomes if len(own)), default=1.0)
    return min(1 - math.floor(math.log10(largest)), 8) if 0.0 < largest < 1.0 else 1


def _digits(value: float, fine: int) -> int:
    """Decimals that are shown of one score or return, where results need so many."""
    return 0 if abs(value) >= 1000 else fine


def _cell(mean: float, spread: float, n: int, of: int, *, plus_minus: str, fine: int) -> str:
    if math.isnan(mean):
        return f"- [0 of {of}]" if of else "-"
    digits = _digits(mean, fine)
    text = f"{mean:.{digits}f}" + ("" if math.isnan(spread) else f" {plus_minus} {spread:.{digits}f}")
    return text if n == of else f"{text} [{n} of {of}]"


def as_markdown(results: Results, statistic: Statistic, base: str | None = None) -> str:
    """Tasks down, arms across.

    Args:
        results: of the runs.
        statistic: which evaluations.
        base: the arm that the means are not to do without.
    """
    (cells, best), fine = _matrix(results, statistic), _fine(results)
    lines = [f"| task | {' | '.join(map(_markdown_safe, results.arms))} |", "|---" * (len(results.arms) + 1) + "|"]
    for task, row, highest in zip(results.tasks, cells, best, strict=True):
        texts = [_cell(*cell, plus_minus="±", fine=fine) for cell in row]
        if highest is not None and len(row) > 1:
            texts[highest] = f"**{texts[highest]}**"
        lines.append(f"| {_markdown_safe(task)} | {' | '.join(texts)} |")
    lines += [f"| {label} | {' | '.join(texts)} |" for label, texts in _means(results, statistic, base)]
    return "\n".join([*lines, "", _caption(results, statistic), ""])


def as_latex(results: Results, statistic: Statistic, base: str | None = None) -> str:
    """The same for a paper, with the package booktabs."""
    (cells, best), fine = _matrix(results, statistic), _fine(results)
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{latex(_caption(results, statistic))}}}",
        f"  \\begin{{tabular}}{{l{'r' * len(results.arms)}}}",
        "    \\toprule",
        f"    task & {' & '.join(map(latex, results.arms))} \\\\",
        "    \\midrule",
    ]
    for task, row, highest in zip(results.tasks, cells, best, strict=True):
        texts = [_cell(*cell, plus_minus="$\\pm$", fine=fine) for cell in row]
        if highest is not None and len(row) > 1:
            texts[highest] = f"\\textbf{{{texts[highest]}}}"
        lines.append(f"    {latex(task)} & {' & '.join(texts)} \\\\")
    means = [f"    {label} & {' & '.join(texts)} \\\\" for label, texts in _means(results, statistic, base)]
    lines += ["    \\midrule", *means] if means else []
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""])


def _means(results: Results, statistic: Statistic, base: str | None) -> list[tuple[str, list[str]]]:
    """A last row, label and texts, with means over the tasks that can be averaged; none where that means nothing."""
    tasks, arms = figures.complete(results, statistic, base)
    if not results.scored or len(tasks) < 2:
        return []
    texts = [
        f"{float(statistics.mean(figures.scores_of(results, tasks, arm, statistic))):.1f}" if arm in arms else "-"
        for arm in results.arms
    ]
    of = "" if len(tasks) == len(results.tasks) else f" of {len(tasks)} tasks"
    return [(f"mean{of}", texts)]


def _markdown_safe(text: str) -> str:
    return text.replace("|", "\\|")


# The page -------------------------------------------------------------------------------------------------------------


def identity(group: Group) -> str:
    """The place of a group's runs in the page."""
    return f"runs-{_file_safe(group.task)}--{_file_safe(group.arm)}"


def _file_safe(text: str) -> str:
    """A name for a file or a place in a page: one of its own for texts that differ in more than spaces and ``=``."""
    whole = re.sub(r"[^A-Za-z0-9._-]+", "_", text)
    safe = whole.strip("_.")
    # What is told apart by letters that are left out is told apart by a number.
    is_known = safe == whole and re.fullmatch(r"[\w.=-]+( [\w.=-]+)*", text, re.ASCII)
    return safe if is_known else f"{safe}-{zlib.crc32(text.encode()):08x}"


class _Page:
    """Writes the body of the page, section by section."""

    def __init__(
        self,
        results: Results,
        comparison: _Comparison,
        drawn: Mapping[str, str],
        folder: Path,
        statistic: Statistic,
        base: str,
        films: Films,
    ) -> None:
        self.results, self.comparison, self.drawn, self.folder = results, comparison, drawn, folder
        self.statistic, self.base, self.films = statistic, base, films
        self.unit = "score" if results.scored else "return"
        self.fine = _fine(results)
        self._evaluation = (
            "the mean of the last five evaluations" if statistic == "last five" else f"the {statistic} evaluation"
        )

    def body(self, title: str, command: str, rows: Sequence[Mapping[str, object]]) -> str:
        sections = [
            ("result", "Result", self._table(rows)),
            ("sweep", "What was swept", self._swept()),
            ("curves", "Learning curves", self._curves()),
            ("arms", "Arms on each task", self._arms()),
            ("over-tasks", "Aggregates and profiles", self._over_tasks()),
            ("diagnostics", "Diagnostics", self._diagnostics()),
            ("films", "Rollouts", self._films()),
            ("runs", "Runs", self._runs()),
            ("how", "How this was made", self._how(command)),
        ]
        sections = [section for section in sections if section[2]]
        links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
        parts = [f"<h1>{html.escape(title)}</h1>", self._tiles(), self._verdict(), self._unfinished()]
        parts.append(f"<nav>{links}</nav>")
        parts += [f'<section id="{name}"><h2>{heading}</h2>\n{text}</section>' for name, heading, text in sections]
        # Numbers stay with their units.
        return "\n".join(part for part in parts if part).replace(" %", "\u00a0%").replace("± ", "±\u00a0")

    # At a glance ------------------------------------------------------------------------------------------------------

    def _tiles(self) -> str:
        results = self.results
        runs = results.runs
        seeds = sorted({group.n_planned for group in results.groups})
        finished = sum(run.status == "finished" for run in runs)
        steps = sorted({run.n_steps for run in runs})
        tiles = [
            (f"{finished} of {len(runs) + len(results.unread)}", "runs finished"),
            (results.tasks[0], "task") if len(results.tasks) == 1 else (str(len(results.tasks)), "tasks"),
            (str(len(results.arms)), "arm" if len(results.arms) == 1 else "arms"),
            (str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}", "seeds each"),
            (f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}", "gradient steps"),
        ]
        boxes = (f'<div class="tile"><b>{html.escape(value)}</b>{what}</div>' for value, what in tiles)
        return f'<div class="tiles">{"".join(boxes)}</div>'

    def _verdict(self) -> str:
        """Which arm is ahead, by how much, and whether that can be told apart from chance."""
        by_task = {task: found for task in self.results.tasks if len(found := self._compared(task)) > 1}
        iqm = self.comparison.aggregates.get("IQM", {})
        if len(iqm) > 1:
            leads = [self._lead_over_tasks(iqm)]
        else:
            leads = [self._lead_on(task, scores) for task, scores in by_task.items()]
        if not leads:
            # One arm has nothing that it could be compared with.
            nothing = "No task has finished runs of two arms yet: there is nothing to compare."
            return f'<p class="lead">{nothing}</p>' if len(self.results.arms) > 1 else ""
        lines = [*self._against_base(by_task), *self._warnings(by_task)]
        if len(leads) == 1:
            text = f'<p class="lead">{leads[0]}</p>'
        else:
            more = len(leads) - _MOST_VERDICTS
            lines = [
                *leads[:_MOST_VERDICTS],
                *([f"And on {more} more {'task' if more == 1 else 'tasks'}: see below."] if more > 0 else []),
                *lines,
            ]
            text = '<p class="lead">The arms cannot be averaged over tasks; task by task:</p>'
        return text + (f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else "")

    def _compared(self, task: str) -> dict[str, np.ndarray]:
        """Outcomes on a task by arm, of those that have any."""
        found = {arm: figures.scores_of(self.results, [task], arm, self.statistic)[0] for arm in self.results.arms}
        return {arm: values for arm, values in found.items() if len(values)}

    def _lead_on(self, task: str, scores: Mapping[str, np.ndarray]) -> str:
        """Who is ahead on one task."""
        values = {arm: float(scores[arm].mean()) for arm in scores}
        first, second, *others = sorted(values, key=lambda arm: -values[arm])
        where = "" if len(self.results.tasks) == 1 else f"On {html.escape(task)}, "
        means = [self._plain(statistics.mean_estimate(scores[arm])) for arm in (first, second)]
        gaps = [statistics.difference_estimate(scores[first], scores[arm]) for arm in (second, *others)]
        lead = self._sentence(
            f"{where}judged by {self._evaluation}, <b>{html.escape(first)}</b> has the highest mean {self.unit}, "
            f"{means[0]}{self._survivors(first, [task])}, before {html.escape(second)} with "
            f"{means[1]}{self._survivors(second, [task])}.{self._level(values)} "
            f"{self._sure(gaps[0], {arm: len(scores[arm]) for arm in (first, second)})}"
        )
        known = [each for each in gaps if each.has_interval]
        if others and known:
            n_beaten, n_few = sum(each.low > 0.0 for each in known), len(gaps) - len(known)
            lead += f" It is told apart from {n_beaten} of the {len(gaps)} other arms, each comparison by itself"
            lead += f"; {n_few} {'has' if n_few == 1 else 'have'} too few seeds for one." if n_few else "."
        return lead

    def _lead_over_tasks(self, iqm: Mapping[str, Estimate]) -> str:
        """Who is ahead over the tasks that can be averaged."""
        tasks = self.comparison.tasks
        first, second = sorted(iqm, key=lambda arm: -iqm[arm].value)[:2]
        a, b = (figures.scores_of(self.results, tasks, arm, self.statistic) for arm in (first, second))
        gap = statistics.aggregate_difference(a, b, statistics.iqm)
        n_seeds = min(map(len, (*a, *b)))
        narrow = f" A bootstrap over {n_seeds} seeds makes that interval too narrow."
        return (
            f"Over {len(tasks)} tasks, judged by {self._evaluation}, <b>{html.escape(first)}</b> has the highest "
            f"interquartile mean score, {self._plain(iqm[first])}{self._survivors(first, tasks)}, before "
            f"{html.escape(second)} with {self._plain(iqm[second])}{self._survivors(second, tasks)}."
            f"{self._level({arm: estimate.value for arm, estimate in iqm.items()})} "
            + self._sure(gap, {arm: min(map(len, own)) for arm, own in ((first, a), (second, b))})
            + (narrow if gap.has_interval and n_seeds < _FEW_SEEDS else "")
        )

    @staticmethod
    def _level(values: Mapping[str, float]) -> str:
        """Which arms have the same value as the first or the second one, where that leaves their order open."""
        first, second, *others = sorted(values, key=lambda arm: -values[arm])
        same = [arm for arm in others if math.isclose(values[arm], values[second], rel_tol=1e-9, abs_tol=1e-12)]
        if math.isclose(values[first], values[second], rel_tol=1e-9, abs_tol=1e-12):
            return f" The same value: {html.escape(', '.join([first, second, *same]))}."
        return f" The same value as {html.escape(second)}: {html.escape(', '.join(same))}." if same else ""

    def _against_base(self, by_task: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
        """On how many tasks each arm is better or worse than the base arm, of those that both have."""
        lines: list[str] = []
        alike: dict[str, list[str]] = {}
        for arm in self.results.arms if len(self.results.tasks) > 1 else ():
            pairs = [(own[arm], own[self.base]) for own in by_task.values() if arm in own and self.base in own]
            if arm == self.base or not pairs:
                continue
            found = [statistics.difference_estimate(*pair) for pair in pairs]
            better = sum(each.has_interval and each.low > 0.0 for each in found)
            worse = sum(each.has_interval and each.high < 0.0 for each in found)
            few = sum(not each.has_interval for each in found)
            open_ = len(found) - better - worse - few
            of = f"{len(found)} task{'' if len(found) == 1 else 's'}"
            words = [f"better on {better}, worse on {worse}, not told apart on {open_} of {of}"]
            words += [f"too few seeds on {few}"] if few else []
            if better or worse:
                lines.append(f"{self._arm(arm)} against {html.escape(self.base)}: {'; '.join(words)}.")
            else:  # there may be many, of which there is nothing else to say
                said = f"not told apart on {open_} of {of}" if open_ else f"too few seeds on all of {of}"
                alike.setdefault(said + (f", too few seeds on {few}" if few and open_ else ""), []).append(arm)
        lines += [
            f"Against {html.escape(self.base)} {said}: {', '.join(map(self._arm, arms))}."
            for said, arms in alike.items()
        ]
        return lines

    def _warnings(self, by_task: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
        """What a reader of the verdict must know beside it."""
        lines = []
        unequal: dict[str, list[str]] = {}
        for task, own in by_task.items():
            by_length: dict[str, list[str]] = {}
            for arm in own:
                group = self.results.group(task, arm)
                lengths = sorted({run.n_steps for run in group.ended} if group is not None else ())
                by_length.setdefault(" or ".join(f"{n:,}" for n in lengths), []).append(self._arm(arm))
            if len(by_length) > 1:
                said = "; ".join(f"{length} of {', '.join(arms)}" for length, arms in by_length.items())
                unequal.setdefault(said, []).append(task)
        for said, tasks in unequal.items():
            where = "" if len(tasks) == len(by_task) else f" on {html.escape(', '.join(tasks))}"
            lines.append(f"The arms are not trained equally long{where}, in gradient steps: {said}.")
        beside = set(
            self.comparison.arms if self.comparison.aggregates else (arm for own in by_task.values() for arm in own)
        )
        n_tasks = {arm: sum(arm in self._compared(task) for task in self.results.tasks) for arm in self.results.arms}
        left_out = [
            f"{self._arm(arm)} ({f'finished on {n} of {len(self.results.tasks)} tasks' if n else 'no run finished'})"
            for arm, n in n_tasks.items()
            if arm not in beside
        ]
        if left_out:
            lines.append(f"Left out: {', '.join(left_out)}.")
        if self.statistic == "best":
            lines.append(
                "The best evaluation is chosen by what it is judged by, and so too good; the more of them, the better."
            )
        if self.results.unscored_tasks and len(self.results.unscored_tasks) < len(self.results.tasks):
            names = ", ".join(map(html.escape, self.results.unscored_tasks))
            lines.append(
                f"Without reference scores: {names}. All tasks are shown as returns, which are averaged over none; "
                "without those runs the report has scores."
            )
        return lines

    def _survivors(self, arm: str, tasks: Sequence[str]) -> str:
        """How many of an arm's runs an outcome is of, where it is not of all."""
        groups = [group for group in self.results.groups if group.arm == arm and group.task in tasks]
        planned, ended = sum(group.n_planned for group in groups), sum(len(group.ended) for group in groups)
        failed = sum(run.status == "failed" for group in groups for run in group.runs)
        if ended == planned:
            return ""
        rest = planned - ended - failed
        unreadable = any(reason != NOT_BEGUN for _, reason in self.results.unread)
        said = [f"{failed} failed"] if failed else []
        said += [f"{rest} not finished{' or not readable' if unreadable else ''}"] if rest else []
        return f" [{ended} of {planned} runs; {', '.join(said)}]"

    @staticmethod
    def _sentence(text: str) -> str:
        return text[:1].upper() + text[1:]

    def _sure(self, estimate: Estimate, n_seeds: Mapping[str, int]) -> str:
        """How sure a difference is; the finished seeds of both arms say why there is no interval."""
        if not estimate.has_interval:
            few = " and ".join(f"{html.escape(arm)} has {n}" for arm, n in n_seeds.items() if n < MIN_RUNS)
            why = f": it takes {MIN_RUNS} finished seeds of both, and {few}" if few else ""
            return f"There is no interval to say how sure that is{why}."
        digits = self.fine
        value, low, high = (f"{each:,.{digits}f}" for each in (estimate.value, estimate.low, estimate.high))
        shown = f"by {value}, 95 % interval {low} to {high}"
        if estimate.low > 0.0:
            return f"It is ahead {shown}."
        return f"The difference ({shown}) includes zero: the two are not told apart."

    def _plain(self, estimate: Estimate) -> str:
        digits = _digits(estimate.value, self.fine)
        text = f"{estimate.value:,.{digits}f}"
        return f"{text} ({estimate.low:,.{digits}f} to {estimate.high:,.{digits}f})" if estimate.has_interval else text

    def _unfinished(self) -> str:
        """Runs that failed or have not finished: named, never silently dropped."""
        lines = []
        for run in self.results.runs:
            if run.status == "failed":
                reason = str(run.failure).partition("; last metrics: ")[0]
                lines.append(
                    f"<li><code>{html.escape(run.name)}</code> failed at step {run.step}: {html.escape(reason)}</li>"
                )
            elif run.status != "finished":
                how = f"{_STATUS[run.status]}, at step {run.step} of {run.n_steps}"
                if run.status == "waiting" and run.step:
                    how = (
                        f"has {run.step} of {run.n_steps} steps of metrics and no {SUMMARY_FILE} that says how it ended"
                    )
                lines.append(f"<li><code>{html.escape(run.name)}</code> {how}</li>")
        waiting = [(path, reason) for path, reason in self.results.unread if reason == NOT_BEGUN]
        others = [(path, reason) for path, reason in self.results.unread if reason != NOT_BEGUN]
        lines += [f"<li><code>{html.escape(path.name)}</code>: {html.escape(reason)}</li>" for path, reason in others]
        if waiting:
            names = ", ".join(html.escape(path.name) for path, _ in waiting)
            have = "run has" if len(waiting) == 1 else "runs have"
            lines.append(f"<li>{len(waiting)} {have} not begun: <span class=pale>{names}</span></li>")
        if not lines:
            return ""
        note = "What could be read of them is drawn, and enters no average of outcomes."
        n_failed = sum(run.status == "failed" for run in self.results.runs)
        n_going = sum(run.status not in ("finished", "failed") for run in self.results.runs) + len(waiting)
        said = [f"{n_failed} failed"] if n_failed else []
        said += [f"{n_going} {'has' if n_going == 1 else 'have'} not finished"] if n_going else []
        said += [f"{len(others)} cannot be read"] if others else []
        what = f"Of {len(self.results.runs) + len(self.results.unread)} runs {', '.join(said)}."
        opened = " open" if len(lines) <= 3 else ""
        return f'<details{opened}><summary class="warn">{what} {note}</summary><ul>{"".join(lines)}</ul></details>'

    # Sections ---------------------------------------------------------------------------------------------------------

    def _glance(self, rows: Sequence[Mapping[str, object]]) -> str:
        """Tasks down, arms across, where there are several of both; what is told apart from the base arm is marked."""
        results = self.results
        if len(results.tasks) == 1 or len(results.arms) == 1:
            return ""
        by_place = {(row["task"], row["arm"]): row for row in rows}
        cells, best = _matrix(results, self.statistic)
        heads = [Cell("task", is_text=True)] + [Cell(self._narrow(arm), is_html=True) for arm in results.arms]
        lines = []
        for task, row, highest in zip(results.tasks, cells, best, strict=True):
            line = [Cell(task, is_text=True)]
            for index, arm in enumerate(results.arms):
                mean, _, n, of = row[index]
                if math.isnan(mean):
                    line.append(Cell(f'<span class="same pale">0 of {of}</span>' if of else "", "", is_html=True))
                    continue
                text = f"{mean:,.{_digits(mean, self.fine)}f}" + ("" if n == of else f" [{n} of {of}]")
                text = f"<b>{text}</b>" if index == highest else text
                low, high = (by_place[task, arm].get(f"minus_base_{end}") for end in ("low", "high"))
                mark = "up" if isinstance(low, float) and low > 0.0 else ""
                mark = "down" if isinstance(high, float) and high < 0.0 else mark
                title = {"up": f"above {self.base}", "down": f"below {self.base}"}.get(mark, "")
                text = f'<span class="{mark or "same"}" title="{html.escape(title, quote=True)}">{text}</span>'
                line.append(Cell(text, mean, is_html=True))
            lines.append(line)
        means = _means(results, self.statistic, self.base)
        for label, texts in means:
            cells_of_means = [Cell(f'<span class="same">{text}</span>', is_html=True) for text in texts]
            lines.append([Cell(label, is_text=True), *cells_of_means])
        base = html.escape(self.base)
        note = (
            f"Mean {self.unit} of {self._evaluation} over the seeds that finished; the highest of a row is bold. "
            f"<span class=up></span> and <span class=down></span>: above or below {base} by Welch's 95 % interval, "
            "each task by itself."
        )
        return table(heads, lines, sortable=False, sums=bool(means)) + f'<p class="pale">{note}</p>'

    def _table(self, rows: Sequence[Mapping[str, object]]) -> str:
        heads = [Cell("task", is_text=True), Cell("arm", is_text=True), Cell("seeds"), *map(Cell, STATISTICS)]
        if len(self.results.arms) > 1:
            heads.append(Cell("difference"))
        # One task stands at the top of the page.
        first = 1 if len(self.results.tasks) == 1 else 0
        lines = []
        for row, group in zip(rows, self.results.groups, strict=True):
            cells = [
                Cell(group.task, is_text=True),
                Cell(
                    f'{self._swatch(group.arm)}<a href="#{identity(group)}">{html.escape(group.arm)}</a>',
                    group.arm, is_html=True, is_text=True,
                ),
                Cell(f"{row['finished']} of {row['planned']}", float(str(row["finished"]))),
            ]  # fmt: skip
            for name in STATISTICS:
                cells.append(self._number(row, f"{self.unit}_{name.replace(' ', '_')}"))
            if len(self.results.arms) > 1:
                cells.append(self._number(row, "minus_base", signed=True))
            lines.append(cells[first:])
        few = [
            group
            for group in self.results.groups
            if len(group.outcomes(self.statistic, scored=self.results.scored)) < MIN_RUNS
        ]
        counts = sorted({len(run.evaluations.values) for group in self.results.groups for run in group.ended})
        notes = [
            f"Mean {self.unit} over the seeds that finished, with its 95 % interval in brackets (Student's). "
            + (
                f"The difference is {self._evaluation} minus that of {html.escape(self.base)}, with Welch's interval "
                '(another base arm: <code class="word">--base</code>). '
                if len(self.results.arms) > 1
                else ""
            )
            + "<i>last</i>, <i>best</i> and <i>last five</i> are those evaluations of each run: <i>best</i> is chosen "
            "by what it is judged by, and is too good. A click on a head sorts, on an arm shows its runs."
        ]
        if few:
            notes.append(
                f"{len(few)} of {len(self.results.groups)} {'rows' if len(self.results.groups) > 1 else 'row'} "
                f"{'has' if len(few) == 1 else 'have'} fewer than {MIN_RUNS} finished seeds: too few for "
                "an interval, and none is given."
            )
        if counts and 0 < counts[0] < N_LAST_EVALUATIONS:
            runs = "All runs" if len(counts) == 1 else "Some runs"
            notes.append(f"{runs} have {counts[0]} evaluations in all: <i>last five</i> is the mean of those.")
        if len(counts) > 1:
            notes.append(
                f"Runs have between {counts[0]} and {counts[-1]} evaluations: <i>best</i> is the better the more of "
                "them there are, whatever the arm."
            )
        bare = [run for run in self.results.runs if len(run.evaluations.values) and not run.n_episodes]
        if bare:
            names = ", ".join(html.escape(run.name) for run in bare)
            notes.append(
                f"Without {EPISODES_FILE}, so that their evaluations are the means in {METRICS_FILE} and the exported "
                f"episodes lack them: {names}."
            )
        if self.results.scored:
            notes.append(
                "Scores are 0 for a random policy and 100 for the reference expert of the environment's config."
            )
        return (
            self._glance(rows) + table(heads[first:], lines) + "".join(f'<p class="pale">{note}</p>' for note in notes)
        )

    def _number(self, row: Mapping[str, object], label: str, *, signed: bool = False) -> Cell:
        mean, low, high = (row.get(f"{label}_{part}") for part in ("mean", "low", "high"))
        if not isinstance(mean, float):
            return Cell("", "")
        digits = _digits(mean, self.fine)
        text = f"{mean:+,.{digits}f}" if signed else f"{mean:,.{digits}f}"
        if isinstance(low, float) and isinstance(high, float):
            text += f" [{low:,.{digits}f}, {high:,.{digits}f}]"
        return Cell(text, mean)

    def _figure(self, name: str, caption: str) -> str:
        return (
            figure(figures.themed(self.drawn[name], html.escape(caption, quote=True)), caption)
            if name in self.drawn
            else ""
        )

    def _legend(self, arms: Iterable[str]) -> str:
        return '<div class="legend">' + "".join(f"<span>{self._arm(arm)}</span>" for arm in arms) + "</div>"

    def _swatch(self, arm: str) -> str:
        turn, index = divmod(self.results.arms.index(arm), len(SERIES))
        # More arms than colours: the others' lines are dashed.
        kind = "key dashed" if turn else "key"
        return f'<span class="{kind}" style="--colour:var(--c{index})"></span>'

    def _arm(self, arm: str) -> str:
        return self._swatch(arm) + html.escape(arm)

    def _narrow(self, arm: str) -> str:
        """The same for the head of a narrow column, to be broken at spaces alone."""
        first, *others = arm.split(" ")
        words = [self._swatch(arm) + html.escape(first), *map(html.escape, others)]
        return f'<span class="narrow">{" ".join(f"<span>{word}</span>" for word in words)}</span>'

    def _side(self, parts: Sequence[str]) -> str:
        """Figures beside each other where there is room: those of one task are small."""
        return beside(parts) if len(self.results.tasks) == 1 else "".join(parts)

    def _swept(self) -> str:
        axes = self.results.numeric_axes()
        drawn = [
            self._figure(
                "heat_map",
                "The stronger the colour, the higher; a star marks cells with runs that have not finished. A click on "
                "a cell leads to its runs.",
            )
        ]
        for key in axes:
            drawn.append(
                self._figure(
                    f"over_{_file_safe(key)}",
                    f"{self._sentence(self._evaluation)} against {key}: mean over seeds with its 95 % interval, and "
                    "every seed as a point. The values stand at equal distances.",
                )
            )
        parts = [self._side(drawn)]
        settings = self.results.arm_settings
        keys = list(dict.fromkeys(key for own in settings.values() for key in own))
        learned = [arm for arm in settings if any("algorithm.alpha_cql.tau_cql" in run.config for run in self._of(arm))]
        if keys and "tau_cql" not in keys and 0 < len(learned) < len(settings):
            keys.append("tau_cql")  # where it is null everywhere, it is what the runs found
        if keys and not (axes and len(axes) <= 2):
            heads = [Cell("arm", is_text=True), *(Cell(breakable(key), is_html=True, is_text=True) for key in keys)]
            lines = [
                [
                    Cell(self._arm(arm), arm, is_html=True, is_text=True),
                    *(Cell(self._setting(arm, key), is_text=True) for key in keys),
                ]
                for arm in settings
            ]
            parts.append("<p>The settings in which the arms differ; all others are the same.</p>" + table(heads, lines))
        return "".join(parts)

    def _setting(self, arm: str, key: str) -> str:
        """A value of an arm's; of a threshold that is found out, what the runs found."""
        own = self.results.arm_settings[arm]
        value = own.get(key)
        if value is None and key == "tau_cql":
            runs = [run for run in self._of(arm) if "algorithm.alpha_cql.tau_cql" in run.config]
            if not runs:
                return ""
            rows = [row for run in runs for row in run.metrics[-1:] if {"cql_gap", "cql_residual"} <= row.keys()]
            found = sorted({f"{row['cql_gap'] - row['cql_residual']:.4g}" for row in rows})
            return f"null: {', '.join(found)}" if found else "null"
        return _shown(value) if key in own else ""

    def _of(self, arm: str) -> list[Run]:
        return [run for group in self.results.groups if group.arm == arm for run in group.runs]

    def _curves(self) -> str:
        caption = (
            f"Evaluations over training: mean over seeds, with a band of 95 % (Student's) from {MIN_RUNS} seeds on "
            f"where there are at most {figures.MOST_BANDS} arms. A run that failed is a thin line of its own that ends "
            "in a cross, and in no mean; so is what a run has beyond others that still train. The lines of arms are "
            "ever thinner, so that one shows under another."
        )
        return (
            self._legend(self.results.arms) + self._figure("learning_curves", caption)
            if "learning_curves" in self.drawn
            else ""
        )

    def _arms(self) -> str:
        parts = [
            self._figure(
                "outcomes",
                f"{self._sentence(self._evaluation)}: mean over seeds (tick) with its 95 % interval, every finished "
                f"seed as a point; the dashed line is {self.base}.",
            ),
            self._figure(
                "differences",
                f"The same minus {self.base}, with Welch's 95 % interval where both have {MIN_RUNS} seeds: what "
                "crosses zero is not told apart.",
            ),
        ]
        return self._side(parts)

    def _over_tasks(self) -> str:
        comparison = self.comparison
        if not (comparison.aggregates or comparison.improvements):
            return ""
        n, n_arms = len(comparison.tasks), len(comparison.arms)
        every = "every arm has" if n_arms == len(self.results.arms) else f"these {n_arms} arms have"
        left_out = [task for task in self.results.tasks if task not in comparison.tasks]
        left_out += [arm for arm in self.results.arms if arm not in comparison.arms]
        text = f"<p>Over the {n} tasks on which {every} a finished run" if n > 1 else "<p>There is one task"
        text += f"; judged by {self._evaluation}"
        text += f"; left out: {', '.join(map(html.escape, left_out))}.</p>" if left_out else ".</p>"
        n_seeds = min(
            (len(x) for arm in comparison.arms for x in figures.scores_of(self.results, comparison.tasks, arm,
                                                                         self.statistic)), default=0
        )  # fmt: skip
        narrow = (
            f" Over {n_seeds} seeds a bootstrap's intervals are too narrow." if MIN_RUNS <= n_seeds < _FEW_SEEDS else ""
        )
        profiles = self._figure(
            "profiles",
            "Performance profiles: the share of runs above each value, averaged over tasks. A curve that lies "
            f"above another everywhere is better; where they cross, it depends on what is wanted.{narrow}",
        )
        improvement = self._figure(
            "improvement",
            f"Probability that a run beats one of {self.base} on the same task, averaged over tasks; it says "
            f"nothing of by how much.{self._of_improvements(narrow)}",
        )
        parts = [
            text,
            self._legend(comparison.arms),
            self._figure(
                "aggregates",
                "Interquartile mean (of the middle half of all runs), median and mean over tasks, and how far runs "
                "stay below a score of 100. Bars are 95 % intervals of a stratified bootstrap over seeds, which "
                "with few seeds are narrower than Student's above.",
            ),
            beside([profiles, improvement]),
        ]
        return "".join(parts)

    def _of_improvements(self, narrow: str) -> str:
        """What the intervals of the probabilities of improvement are."""
        known = [each for each in self.comparison.improvements.values() if each.has_interval]
        swept = any(each.value in (0.0, 1.0) for each in known)
        drawn = any(0.0 < each.value < 1.0 for each in known)
        text = f" Bars are 95 % intervals of a stratified bootstrap.{narrow}" if drawn else ""
        pairs = (
            " Where one side wins every pair, the bar is Clopper's and Pearson's 95 % interval over pairs without a "
            "run in common; with three such pairs it still begins at 0.29."
        )
        return text + (pairs if swept else "")

    def _diagnostics(self) -> str:
        if not any(name.startswith("diagnostics_") for name in self.drawn):
            return ""
        said = []
        for group in self.results.groups:
            found = remarks(group, self._highest(group.task))
            if found:
                texts = "; ".join(html.escape(each) for each in found)
                said.append(f"<li>{self._arm(group.arm)} on {html.escape(group.task)}: {texts}.</li>")
        parts = []
        if said:
            opened = " open" if len(said) <= 8 else ""
            stand = "stands" if len(said) == 1 else "stand"
            summary = f'<summary class="warn">{len(said)} of {len(self.results.groups)} rows {stand} out</summary>'
            parts.append(f"<details{opened}>{summary}<ul>{''.join(said)}</ul></details>")
        else:
            parts.append(
                "<p>Nothing was found by these checks of each run's last row of metrics, which is no proof of health: "
                f"q_policy above {_Q_OF_RUN:g} times what the policy ever earned in an evaluation (and above "
                f"{_Q_OF_RUN_FLOOR:g}), or larger than any return on the task (and than {_Q_OF_TASK_FLOOR:g}), both "
                f"undiscounted and so generous; q_policy above q_data by {_Q_OVER_DATA:g} of it (and by "
                f"{_Q_OVER_DATA_FLOOR:g}); a learned alpha_cql {_RAN_AWAY:g} times its start or less than its "
                "hundredth; a gap more than 1 from tau_cql. critic_td is not looked at.</p>"
            )
        shifted = sum(run.config.get("dataset.reward_bias", 0.0) != 0.0 for run in self.results.runs)
        if shifted:
            what = "With a dataset.reward_bias, and so with a Q that is compared with no return"
            parts.append(f"<p>{what}: {shifted} of {len(self.results.runs)} runs.</p>")
        parts.append(self._legend(self.results.arms))
        for index, task in enumerate(self.results.tasks):
            drawn = self._figure(
                f"diagnostics_{_file_safe(task)}",
                "Means over the minibatches of an epoch, over seeds, with a band of 95 %. Where arms lie orders of "
                "magnitude apart, the axis is logarithmic, in both directions where there are values below zero. Thin "
                "lines are single runs, as above.",
            )
            if drawn:
                opened = " open" if index == 0 else ""
                parts.append(f"<details{opened}><summary>{html.escape(task)}</summary>{drawn}</details>")
        return "".join(parts)

    def _highest(self, task: str) -> float:
        """The largest return in absolute value of all evaluations on a task."""
        runs = [run for group in self.results.groups if group.task == task for run in group.runs]
        return max((float(np.abs(run.evaluations.values).max(initial=0.0)) for run in runs), default=0.0)

    def _films(self) -> str:
        if self.films == "none":
            return ""
        shown, groups = [], [group for group in self.results.groups if any(run.film for run in group.runs)]
        if len(groups) > _MOST_FILMS:  # one of each arm
            groups = [
                next(group for group in groups if group.arm == arm) for arm in dict.fromkeys(g.arm for g in groups)
            ]
        for group in groups[:_MOST_FILMS]:
            run, path = next((run, run.film) for run in group.runs if run.film is not None)
            source = small_film(path) if self.films == "embed" else self._link(path)
            lazy = ' loading="lazy"' if self.films == "link" else ""
            number = path.stem.removeprefix("step_")
            step = f"step {int(number):,}" if number.isdecimal() else path.stem
            label = html.escape(f"{group.arm} on {group.task}, seed {run.seed}, {step}")
            shown.append(
                f'<figure><img{lazy} src="{source}" alt="{label}"><figcaption>{self._arm(group.arm)}<br>'
                f"{breakable(group.task)}, seed {run.seed}, {html.escape(step)}</figcaption></figure>"
            )
        note = "<p>The last film of the first seed that has one. A film is one episode, and no evidence.</p>"
        return f'{note}<div class="films">{"".join(shown)}</div>' if shown else ""

    def _runs(self) -> str:
        numbers = [Cell(name) for name in STATISTICS]
        heads = [Cell("seed"), Cell("status", is_text=True), Cell("step"), *numbers, Cell("folder", is_text=True)]
        parts = []
        for group in self.results.groups:
            lines = []
            for run in group.runs:
                where = self._link(run.directory)
                lines.append(
                    [
                        Cell(str(run.seed), run.seed),
                        Cell(run.status, is_text=True),
                        Cell(f"{run.step:,}", run.step),
                        *(self._outcome(run, name) for name in STATISTICS),
                        Cell(f'<a href="{where}">{html.escape(run.name)}</a>', is_html=True, is_text=True),
                    ]
                )
            parts.append(
                f'<details id="{identity(group)}"><summary>{self._arm(group.arm)} on {html.escape(group.task)} '
                f"({len(group.ended)} of {group.n_planned} finished)</summary>{table(heads, lines)}</details>"
            )
        if self.results.repeated:
            names = ", ".join(html.escape(run.name) for run in self.results.repeated)
            parts.append(
                "<p>Left out, since another run has the same config and seed and has come further, or as far and is "
                f"newer: {names}.</p>"
            )
        return "".join(parts)

    def _link(self, path: Path) -> str:
        """The address of a file or a folder, as seen from the page."""
        return html.escape(quote(Path(os.path.relpath(path, self.folder)).as_posix()))

    def _outcome(self, run: Run, statistic: Statistic) -> Cell:
        value = run.outcome(statistic, scored=self.results.scored)
        return Cell("", "") if value is None else Cell(f"{value:,.{_digits(value, self.fine)}f}", value)

    def _how(self, command: str) -> str:
        known = provenance_of(self.results.runs)
        lines = [
            f"<li>{html.escape(key)}: <code>{html.escape(', '.join(values))}</code></li>"
            for key, values in known.items()
        ]
        without = sum(not run.provenance for run in self.results.runs)
        if without:
            lines.append(f"<li>{without} of {len(self.results.runs)} runs recorded no versions, commit or data</li>")
        lines += [
            f"<li>overrides of {html.escape(str(sweep))}, at its last start: "
            f"<code>{html.escape(shlex.join(overrides))}</code></li>"
            for sweep in sorted({run.sweep for run in self.results.runs if run.sweep is not None})
            if (overrides := overrides_of(sweep))
        ]
        folders = ", ".join(f"<code>{html.escape(str(folder))}</code>" for folder in self.results.folders)
        shared = "\n".join(f"{key}: {_shown(value)}" for key, value in sorted(self.results.shared.items()))
        return (
            f"<p>Read from {folders} by</p><pre>{html.escape(command)}</pre>"
            f"<p>Bootstrap: {statistics.REPETITIONS:,} repetitions for aggregates and 2,000 for profiles and "
            f"probabilities, seed 0; intervals from {MIN_RUNS} seeds on. Figures are of {_MEANINGS[self.statistic]}; "
            f"the tables have all three.</p><ul>{''.join(lines)}</ul>"
            f"<details><summary>What all arms have in common</summary><pre>{html.escape(shared)}</pre></details>"
        )


_STATUS = {"running": "is running", "stopped": "was stopped", "waiting": "waits for its turn", "finished": "finished"}


def _shown(value: object) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def small_film(path: Path) -> str:
    """A GIF as an address that holds all of it: fewer frames, pixels and colours, to be mailed."""
    import base64

    from PIL import Image

    with Image.open(path) as film:
        n = getattr(film, "n_frames", 1)
        chosen = np.unique(np.linspace(0, n - 1, min(n, _FILM_FRAMES)).round().astype(int))
        frames, duration = [], 0.0
        for index in range(n):
            film.seek(index)
            duration += float(film.info.get("duration", 50))
            if index in chosen:
                frame = film.convert("RGB")
                frame.thumbnail((_FILM_SIZE, _FILM_SIZE))
                frames.append(frame.quantize(_FILM_COLOURS, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    each = max(20, round(duration / len(frames)))
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=each, loop=0, optimize=True)
    return f"data:image/gif;base64,{base64.b64encode(buffer.getvalue()).decode()}"
