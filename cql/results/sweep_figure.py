"""The figure of a sweep: how its runs compare, while they train and afterwards."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cql.points import human_point
from cql.results import figures
from cql.results.comparison import Comparison
from cql.results.figures import LINES, Style
from cql.results.groups import NOT_BEGUN, Results, read_results
from cql.results.runs import run_directories
from cql.training.curves import INK, PALE, saved
from cql.training.local_logger import METRICS_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWEEP_CURVES_FILE = "sweep_curves.png"
_MOST_ENTRIES = 12  # of a legend of numbers
_MOST_NAMED = 4  # failed runs
_UNJUDGED = ("offline_initial_value", "offline_td_error")  # in place of evaluations that judge


def sweep_curves(folder: Path, title: str | None = None, path: Path | None = None) -> Path:
    """Draw how the runs of a sweep compare, from their folders alone, by the functions that draw a report.

    Six panels: over gradient steps the evaluations, ``q_data``, ``q_policy``, ``cql_gap``, and ``alpha_cql`` if a run
    learns it, else ``critic_td``; then the last evaluation of the finished runs of each arm. A line is the mean over
    the seeds of an arm, with a 95 % band from three seeds on. Failed runs are thin lines that end in a cross; failed
    and unfinished runs are named below.

    Args:
        folder: of the sweep, with a folder for each run.
        title: heading; None is the folder's name.
        path: of the picture; None writes ``sweep_curves.png`` into the folder.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: no run in the folder has metrics yet, or the folder of ``path`` does not exist.
        ResultsError: no run can be read.
    """
    folder = Path(folder)
    path = folder / SWEEP_CURVES_FILE if path is None else Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; make it first")
    results = _on_one_task(read_results([folder])) if run_directories(folder) else None
    if results is None or not any(run.metrics or len(run.evaluations.steps) for run in results.runs):
        raise FileNotFoundError(f"{folder} holds no run with a row in its {METRICS_FILE}: there is nothing to draw yet")
    styles = _styles(results)
    learns = any(len(np.unique(run.metric("alpha_cql").values)) > 1 for run in results.runs)
    last_metric = ("alpha_cql", "Conservative multiplier") if learns else ("critic_td", "TD error of the critics")
    metrics = {name: figures.DIAGNOSTICS[name] for name in ("q_data", "q_policy", "cql_gap")} | dict([last_metric])
    is_judged = any(run.has_simulator or len(run.evaluations.steps) for run in results.runs)
    outer = [f"Evaluation {results.unit}", f"{results.unit.capitalize()} of the last evaluation"]
    outer = outer if is_judged else [figures.DIAGNOSTICS[name] for name in _UNJUDGED]
    titles = [outer[0], *metrics.values(), outer[1]]
    figure, panels = figures.titled_panels(titles)
    first = (lambda run: run.judged(results.scored)) if is_judged else figures.metric_of(_UNJUDGED[0])
    figures.draw_curves(panels[0], results.groups, styles, first, may_be_wide=False)
    for axes, name in zip(panels[1:-1], metrics, strict=True):
        axes.set_title(name, loc="right", fontsize=8.5, color=PALE)
        figures.draw_curves(axes, results.groups, styles, figures.metric_of(name))
    for axes in panels[:-1]:
        axes.set_xlabel("gradient steps" if axes in panels[3:] else "", fontsize=9, color=PALE)
        if not axes.lines:
            axes.text(0.5, 0.5, "no data yet", transform=axes.transAxes, ha="center", color=PALE)
    if is_judged:
        _draw_last(panels[-1], Comparison.of(results), styles)
    else:
        figures.draw_curves(panels[-1], results.groups, styles, figures.metric_of(_UNJUDGED[-1]))
    figure.supxlabel(_caption(results), fontsize=8.5, color=PALE)
    entries = _entries(results, styles)
    columns = max(1, min(len(entries), 130 // (max(len(label) for label, _ in entries) + 8)))
    figure.set_figheight(figure.get_figheight() + 0.6 + 0.2 * -(-len(entries) // columns))
    figures.draw_legend(figure, entries, columns, folder.resolve().name if title is None else title)
    return saved(figure, path, dpi=170)


def _on_one_task(results: Results) -> Results:
    """The same groups on a single task: those of several tasks are arms of their own."""
    if len(results.tasks) == 1:
        return results
    groups = tuple(dataclasses.replace(group, task="", arm=f"{group.task} {group.arm}") for group in results.groups)
    arms = tuple(group.arm for group in groups)
    return dataclasses.replace(results, groups=groups, tasks=("",), arms=arms, arm_settings={arm: {} for arm in arms})


def _styles(results: Results) -> dict[str, Style]:
    """Of arms over numbers a ramp of colours, with a line style for each value of a second number."""
    from matplotlib import colormaps

    numbers = figures.swept_numbers(results)
    if not 0 < len(numbers) <= 2:
        return figures.line_styles(results)
    ramp = [tuple(colour) for colour in colormaps["viridis"](np.linspace(0.0, 0.9, len(numbers[0][1])))]
    styles = {}
    for arm, own in results.arm_settings.items():
        colour, line = [*(values.index(float(own[key])) for key, values in numbers), 0][:2]
        styles[arm] = Style(ramp[colour], LINES[line % len(LINES)])
    return styles


def _draw_last(axes: Axes, compared: Comparison, styles: dict[str, Style]) -> None:
    results, keys = compared.results, compared.results.numeric_axes()
    (task,) = results.tasks
    if not compared.judged:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center", color=PALE)
        axes.set_xticks([])
        axes.set_yticks([])
    elif figures.is_grid(results):
        figures.draw_heat_map(axes, compared, task)
    elif len(keys) == 1:
        figures.draw_over_number(axes, compared, task, keys[0])
    else:
        figures.draw_outcomes(axes, compared, task, styles)
        figures.arm_axis(axes, results.arms, results.arms, length=24)


def _entries(results: Results, styles: dict[str, Style]) -> list[tuple[str, Style]]:
    """The legend: the arms, or the values of two swept numbers, or some values of one with many."""
    if not figures.is_grid(results):
        chosen: Sequence[str] = results.arms
        if len(chosen) > _MOST_ENTRIES and results.numeric_axes():
            chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, 9).round().astype(int)]
        return [(label, styles[arm]) for arm, label in zip(chosen, figures.clipped(chosen, 60), strict=True)]
    (first, values), (second, others) = figures.swept_numbers(results)
    colours = {float(own[first]): styles[arm].colour for arm, own in results.arm_settings.items()}
    entries = [(f"{first} = {value:g}", Style(colours[value])) for value in values]
    if len(others) <= len(LINES):
        entries += [(f"{second} = {value:g}", Style(INK, LINES[index])) for index, value in enumerate(others)]
    return entries


def _caption(results: Results) -> str:
    """How to read the lines, and which runs are missing from them."""
    n_seeds = sorted({len(group.runs) for group in results.groups if group.runs})
    parts = []
    if n_seeds[-1] > 1:
        seeds = f"{n_seeds[0]} to {n_seeds[-1]}" if len(n_seeds) > 1 else str(n_seeds[0])
        has_band = n_seeds[-1] >= 3 and len(results.arms) <= figures.MOST_BANDS
        parts.append(f"mean over {seeds} seeds{', band of 95 %' if has_band else ''}")
    failed = [f"{human_point(run.directory.name)} at step {run.step}" for run in results.runs if run.status == "failed"]
    if failed:
        more = f" and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
        parts.append(f"failed (crosses): {', '.join(failed[:_MOST_NAMED])}{more}")
    going = [run for run in results.runs if run.status not in ("finished", "failed")]
    if going:
        steps = " to ".join(str(step) for step in sorted({min(r.step for r in going), max(r.step for r in going)}))
        which = human_point(going[0].directory.name) if len(going) == 1 else f"{len(going)} runs"
        parts.append(f"not finished: {which} at step {steps} of {going[0].n_steps}")
    waiting = sum(reason == NOT_BEGUN for _, reason in results.unread)
    parts += [f"not begun: {waiting}"] if waiting else []
    damaged = [path.name for path, reason in results.unread if reason != NOT_BEGUN]
    parts += [f"not readable: {', '.join(damaged)}"] if damaged else []
    return "\n".join(textwrap.wrap("; ".join(parts), 170))
