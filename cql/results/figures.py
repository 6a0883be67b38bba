"""The figures of a report and of a sweep, drawn from :class:`cql.results.groups.Results`.

Every function returns a figure, or None if there is nothing to draw. Colours are few and fixed, so that a page can
replace them by its own in light and in dark: see :mod:`cql.results.pages`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.files import write_text
from cql.results import statistics
from cql.results.comparison import Comparison
from cql.results.groups import Group, Results
from cql.results.runs import Run
from cql.results.statistics import Estimate
from cql.training.curves import INK, PALE, PAPER, SERIES, Curve, by_step, canvas, mark_switch, saved, short, step_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIAGNOSTICS = {
    "q_data": "Q of dataset actions",
    "q_policy": "Q of policy actions",
    "q_uniform": "Q of uniform actions",
    "cql_gap": "Conservative gap",
    "alpha_cql": "Conservative multiplier",
    "entropy": "Entropy of the policy",
    "floor_share": "Share of values at Cal-QL's floor",
    "online_return": "Return of collected episodes",
    "online_success": "Success of collected episodes",
    "offline_td_error": "TD error on episodes",
    "offline_advantage": "Advantage",
    "offline_soft_opc": "Soft OPC",
    "offline_action_distance": "Action distance",
    "offline_initial_value": "Initial value",
}
MOST_BANDS = 6
"""Arms; the bands of more would cover each other, and are left out."""

LINES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Line styles. Arms beyond the colours share these."""
_DASHED = (0, (4, 3))
_COLUMNS = 3
_MOST_POINTS = 150  # of a curve
_FAR_APART = 25.0  # curves whose sizes differ by more get a logarithmic axis


class Style(NamedTuple):
    """How an arm's lines are drawn."""

    colour: Any
    line: Any = "-"
    width: float = 2.0


def styles_of(arms: Sequence[str]) -> dict[str, Style]:
    """The style of each arm, the same in every figure of a report."""
    return {
        arm: Style(SERIES[index % len(SERIES)], LINES[index // len(SERIES) % len(LINES)])
        for index, arm in enumerate(arms)
    }


def line_styles(results: Results) -> dict[str, Style]:
    """The same for curves: the better an arm, the thicker its line and the further below, so that none hides another.

    Arms are ordered by their places on each task, in the mean of the last evaluations of finished runs.
    """
    places: dict[str, list[int]] = {arm: [] for arm in results.arms}
    for task in results.tasks:
        outcomes = {group.arm: group.outcomes("last", scored=results.scored) for group in results.groups_of(task)}
        means = {arm: float(values.mean()) for arm, values in outcomes.items() if len(values)}
        for place, arm in enumerate(sorted(means, key=lambda arm: -means[arm])):
            places[arm].append(place)
    order = sorted(results.arms, key=lambda arm: float(np.mean(places[arm])) if places[arm] else math.inf)
    return {
        arm: style._replace(width=3.2 - 1.8 * order.index(arm) / max(len(order) - 1, 1))
        for arm, style in styles_of(results.arms).items()
    }


# Writing --------------------------------------------------------------------------------------------------------------


def svg(figure: Figure) -> str:
    """A figure as an SVG element that holds text as text. Its bytes depend on the figure alone."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "cql", "font.family": "sans-serif"}):
        buffer = io.StringIO()
        # The layout depends on the ticks, and the ticks on the layout: the second drawing is stable.
        figure.draw_without_rendering()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as ``NAME.svg`` and ``NAME.png``, atomically."""
    vector, picture = folder / f"{name}.svg", folder / f"{name}.png"
    write_text(vector, svg(figure))
    return [vector, saved(figure, picture)]


def add_legend(figure: Figure, arms: Sequence[str], styles: dict[str, Style]) -> None:
    """Add a legend of arms above a figure of lines, for use outside a page.

    Args:
        figure: made taller by what the legend needs.
        arms: those that are drawn.
        styles: of all arms of the results.
    """
    labels = _labels(arms, list(styles), 60)
    columns = max(1, min(len(arms), int(13 * figure.get_figwidth()) // (max(map(len, labels)) + 6)))
    figure.set_figheight(figure.get_figheight() + 0.12 + 0.2 * -(-len(arms) // columns))
    draw_legend(figure, [(label, styles[arm]) for arm, label in zip(arms, labels, strict=True)], columns)


def draw_legend(figure: Figure, entries: Sequence[tuple[str, Style]], columns: int, title: str | None = None) -> None:
    """Add a legend of labels with their styles above a figure."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=s.colour, linestyle=s.line, linewidth=2.4, label=label) for label, s in entries]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=9, labelcolor=INK,
        title=title, title_fontsize=13, alignment="left",
    )  # fmt: skip


# Panels ---------------------------------------------------------------------------------------------------------------


def titled_panels(
    titles: Sequence[str], *, width: float = 3.7, height: float = 2.7, columns: int = _COLUMNS, length: int = 38
) -> tuple[Figure, list[Axes]]:
    """Panels with titles and few ticks across; a single one is wide."""
    from matplotlib.ticker import MaxNLocator

    n = len(titles)
    figure, panels = canvas(n, max(width, 6.4) if n == 1 else width, height, columns=min(columns, n))
    for axes, title in zip(panels, clipped(titles, length if n > 1 else 2 * length), strict=True):
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        set_title(axes, title)
    return figure, panels


def _words(text: str) -> str:
    """A user's text. Matplotlib would read what stands between two dollars as a formula."""
    return text.replace("$", r"\$")


def set_title(axes: Axes, text: str, right: str = "") -> None:
    """Put a bold title at the left of a panel, and a pale note at the right."""
    axes.set_title(_words(text), loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_title(right, loc="right", fontsize=8.5, color=PALE)


def name_axes(axes: Axes, x: str = "", y: str = "") -> None:
    """Name the axes, small and pale."""
    axes.set_xlabel(x, fontsize=9, color=PALE)
    axes.set_ylabel(y, fontsize=9, color=PALE)


def _wide_axis(axes: Axes, threshold: float) -> None:
    """Make the vertical axis logarithmic, in both directions if some of what is drawn is not positive.

    Args:
        axes: with lines.
        threshold: an axis in both directions is linear up to this size.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, SymmetricalLogLocator

    low, high = axes.dataLim.intervaly
    smallest = max(threshold, min(abs(low), abs(high)))
    ratio = max(abs(low), abs(high)) / smallest if low > 0.0 or high < 0.0 else math.inf
    subs = (1.0, 2.0, 5.0) if ratio < 100.0 else (1.0, 3.0) if ratio < 1000.0 else (1.0,)
    locator: LogLocator | SymmetricalLogLocator
    if low > 0.0:
        axes.set_yscale("log")
        locator = LogLocator(subs=subs, numticks=6)
    else:
        axes.set_yscale("symlog", linthresh=threshold)
        locator = SymmetricalLogLocator(base=10.0, linthresh=threshold, subs=subs)
        locator.set_params(numticks=5)
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def clipped(labels: Sequence[str], length: int = 34) -> list[str]:
    """Labels of at most `length` letters: long ones are cut in the middle, and numbered if some would be the same."""
    half = (length - 1) // 2
    found = [text if len(text) <= length else f"{text[:half]}…{text[-half:]}" for text in labels]
    if len(set(found)) == len(set(labels)):
        return found
    ends = [f"… #{number}" for number in range(1, len(labels) + 1)]
    return [text if len(text) <= length else text[: length - len(e)] + e for text, e in zip(labels, ends, strict=True)]


def _labels(arms: Sequence[str], all_arms: Sequence[str], length: int = 34) -> list[str]:
    """Labels of some arms; an arm has the same one in every figure."""
    short_ones = dict(zip(all_arms, clipped(all_arms, length), strict=True))
    return [_words(short_ones[arm]) for arm in arms]


# Curves ---------------------------------------------------------------------------------------------------------------


def over_seeds(curves: Sequence[Curve]) -> tuple[NDArray[np.float64], list[Estimate]]:
    """The mean over curves with Student's interval, at each step that all of them have.

    At other steps there is none: a mean over other runs than before would jump.
    """
    at = by_step(pair for curve in curves for pair in zip(*map(np.ndarray.tolist, curve), strict=True))
    steps = sorted(step for step, values in at.items() if len(values) == len(curves))
    if len(steps) > _MOST_POINTS:
        steps = [steps[index] for index in np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))]
    return np.array(steps), [statistics.mean_estimate(at[step]) for step in steps]


def draw_curves(
    axes: Axes,
    groups: Sequence[Group],
    styles: dict[str, Style],
    curve_of: Callable[[Run], Curve],
    *,
    may_be_wide: bool = True,
    marks_switch: bool = True,
) -> None:
    """A line with its band for each group; a logarithmic axis if they lie far apart and the panel may have one.

    A dashed line shows where training in the environment begins.
    """
    sizes = sorted(_draw_group(axes, group, styles[group.arm], curve_of, len(styles) <= MOST_BANDS) for group in groups)
    sizes = [size for size in sizes if size > 0.0]
    if may_be_wide and len(sizes) > 1 and sizes[-1] > _FAR_APART * max(sizes[0], 1e-12):
        _wide_axis(axes, 10.0 ** math.floor(math.log10(max(sizes[0], sizes[-1] / 1e6))))
    step_axis(axes)
    axes.set_xlim(left=0)
    if marks_switch:
        mark_switch(axes, {run.n_offline_steps or 0 for group in groups for run in group.runs})


def _draw_group(axes: Axes, group: Group, style: Style, curve_of: Callable[[Run], Curve], has_band: bool) -> float:
    """The mean of a group's runs, and single runs as thin lines if they have no mean; the largest size drawn.

    The mean is over the runs that have not failed, up to the last step that all of them have.
    """
    curves = [(run, curve_of(run)) for run in group.runs]
    curves = [(run, Curve(*(each[np.isfinite(curve.values)] for each in curve))) for run, curve in curves]
    curves = [(run, curve) for run, curve in curves if len(curve.steps)]
    if not curves:
        return 0.0
    steps, estimates = over_seeds([curve for run, curve in curves if run.status != "failed"])
    sizes = []
    if len(steps):
        means, lows, highs = np.array(estimates).T
        if np.isfinite(lows).all() and has_band:
            axes.fill_between(steps, lows, highs, color=style.colour, alpha=0.15, linewidth=0, zorder=2)
        marker = "o" if len(steps) <= 15 else ""
        axes.plot(steps, means, color=style.colour, linewidth=style.width, linestyle=style.line, marker=marker,
                  markersize=2.8, zorder=3.0 - 0.05 * style.width)  # fmt: skip
        sizes.append(np.abs(means).max())
    for run, curve in curves:
        alone = curve.steps >= (steps[-1] if len(steps) and run.status != "failed" else -np.inf)
        if run.status == "failed" or alone.sum() > 1 or not len(steps):
            marker = "o" if alone.sum() == 1 else ""
            axes.plot(curve.steps[alone], curve.values[alone], color=style.colour, linewidth=0.9, alpha=0.8,
                      marker=marker, markersize=2.8, zorder=2.8)  # fmt: skip
            sizes.append(np.abs(curve.values[alone]).max())
        if run.status == "failed":
            end = [max(run.step, curve.steps[-1])], [curve.values[-1]]
            axes.plot(*end, "X", color=style.colour, markersize=8, markeredgecolor=PAPER, zorder=5)
    return float(max(sizes, default=0.0))


def learning_curves(results: Results) -> Figure | None:
    """Evaluations over gradient steps, one panel per task, one line per arm: mean over seeds, band of 95 %."""
    return _curves(results, lambda run: run.judged(results.scored), "gradient steps")


def online_curves(results: Results) -> Figure | None:
    """Evaluations over environment steps, for runs whose training continued there; the first is that of the switch."""
    return _curves(results, lambda run: run.online_curve(results.scored), "environment steps", marks_switch=False)


def _curves(
    results: Results, curve_of: Callable[[Run], Curve], label: str, *, marks_switch: bool = True
) -> Figure | None:
    tasks = [task for task in results.tasks if any(len(curve_of(run).steps) for run in results.runs_of(task=task))]
    if not tasks:
        return None
    figure, panels = titled_panels(tasks)
    styles = line_styles(results)
    for axes, task in zip(panels, tasks, strict=True):
        groups = results.groups_of(task)
        draw_curves(axes, groups, styles, curve_of, may_be_wide=False, marks_switch=marks_switch)
        name_axes(axes, y=results.unit if axes in panels[::_COLUMNS] else "")
    for axes in panels[-_COLUMNS:]:
        axes.set_xlabel(label, fontsize=9, color=PALE)
    return figure


def diagnostics(results: Results, task: str) -> Figure | None:
    """Q values, gap, multiplier and entropy on a task over gradient steps, one line per arm."""
    groups = results.groups_of(task)
    names = [name for name in DIAGNOSTICS if any(len(run.metric(name).steps) for g in groups for run in g.runs)]
    if not names:
        return None
    figure, panels = titled_panels([DIAGNOSTICS[name] for name in names])
    styles = line_styles(results)
    for axes, name in zip(panels, names, strict=True):
        set_title(axes, DIAGNOSTICS[name], name)
        draw_curves(axes, groups, styles, metric_of(name))
    return figure


def metric_of(name: str) -> Callable[[Run], Curve]:
    """What reads a metric of a run."""
    return lambda run: run.metric(name)


# Outcomes -------------------------------------------------------------------------------------------------------------


def outcomes(compared: Comparison) -> Figure | None:
    """Bars of each arm's outcome, one panel per task: mean over seeds, its 95 % interval, and every seed."""
    unit = f"{compared.results.unit}, {compared.statistic}"
    return _bars(compared, compared.judged, compared.results.arms, draw_outcomes, unit)


def differences(compared: Comparison) -> Figure | None:
    """Each arm minus the base arm, one panel per task, with Welch's 95 % interval."""
    arms = [arm for arm in compared.results.arms if arm != compared.base]
    tasks = [t for t in compared.results.tasks if any(math.isfinite(compared.difference(t, a).value) for a in arms)]
    return _bars(compared, tasks, arms, _draw_differences, f"{compared.results.unit} minus the base arm's")


_Draw = Callable[["Axes", Comparison, str, dict[str, Style]], None]


def _bars(compared: Comparison, tasks: Sequence[str], arms: Sequence[str], draw: _Draw, unit: str) -> Figure | None:
    if not tasks:
        return None
    figure, panels = titled_panels(tasks, height=0.75 + 0.26 * max(len(arms), 3))
    for index, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        draw(axes, compared, task, styles_of(compared.results.arms))
        shown = index % _COLUMNS == 0 or max(map(len, arms)) <= 10
        arm_axis(axes, arms, compared.results.arms, shown=shown)
    for axes in panels[-_COLUMNS:]:
        axes.set_xlabel(unit, fontsize=9, color=PALE)
    return figure


def draw_outcomes(axes: Axes, compared: Comparison, task: str, styles: dict[str, Style]) -> None:
    """Draw each arm's mean with its interval and seeds."""
    for y, arm in enumerate(compared.results.arms):
        values, colour = compared.outcomes(task, arm), styles[arm].colour
        if not len(values):
            axes.text(0.01, y, "no run finished", transform=axes.get_yaxis_transform(), fontsize=7.5, va="center",
                      color=PALE, zorder=5, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0})  # fmt: skip
            continue
        _bar(axes, y, statistics.mean_estimate(values), colour)
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(values, y + spread, "o", color=colour, markersize=3.2, zorder=4, markeredgewidth=0)
    base = compared.outcomes(task, compared.base)
    if len(base):
        axes.axvline(float(base.mean()), color=INK, linewidth=1.0, linestyle=_DASHED, zorder=1.5)
    axes.axvline(0.0, color=PALE, linewidth=0.8, zorder=1.4)


def _draw_differences(axes: Axes, compared: Comparison, task: str, styles: dict[str, Style]) -> None:
    for y, arm in enumerate(arm for arm in compared.results.arms if arm != compared.base):
        estimate = compared.difference(task, arm)
        if math.isfinite(estimate.value):
            _bar(axes, y, estimate, styles[arm].colour)
    axes.axvline(0.0, color=INK, linewidth=1.0, zorder=2.5)


def _bar(axes: Axes, y: float, estimate: Estimate, colour: str) -> None:
    """A bar from zero, its interval as a line, and its value as a tick."""
    axes.barh(y, estimate.value, height=0.63, color=colour, alpha=0.35, linewidth=0, zorder=2)
    if estimate.has_interval:
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt", zorder=3)
    axes.plot(estimate.value, y, "|", color=colour, markersize=11, markeredgewidth=2.2, zorder=3)


def _interval(axes: Axes, y: float, estimate: Estimate, colour: str) -> None:
    """A bar over the interval alone, and its value as a tick."""
    if estimate.has_interval:
        axes.barh(y, estimate.high - estimate.low, left=estimate.low, height=0.6, color=colour, alpha=0.35, linewidth=0,
                  zorder=2)  # fmt: skip
    axes.plot([estimate.value] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2.4, zorder=3)


def arm_axis(axes: Axes, arms: Sequence[str], all_arms: Sequence[str], *, shown: bool = True, length: int = 34) -> None:
    """Arms from top to bottom."""
    axes.set_yticks(range(len(arms)), _labels(arms, all_arms, length) if shown else [""] * len(arms))
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(False, axis="y")


# Sweeps over numbers --------------------------------------------------------------------------------------------------


def over_number(compared: Comparison, key: str) -> Figure | None:
    """The outcome against one swept number, one panel per task; a line for each value of a second swept number."""
    if key not in compared.results.numeric_axes() or not compared.judged:
        return None
    figure, panels = titled_panels(compared.judged, height=3.0)
    for axes, task in zip(panels, compared.judged, strict=True):
        draw_over_number(axes, compared, task, key)
        axes.set_ylabel(f"{compared.results.unit}, {compared.statistic}", fontsize=9, color=PALE)
    return figure


def draw_over_number(axes: Axes, compared: Comparison, task: str, key: str) -> None:
    """Draw the outcomes on a task against one swept number."""
    settings = compared.results.arm_settings
    others = [other for other in compared.results.numeric_axes() if other != key]
    xs = sorted({float(own[key]) for own in settings.values()})
    lines: dict[tuple[float, ...], list[tuple[float, Estimate, NDArray[np.float64]]]] = {}
    for arm, own in settings.items():
        values = compared.outcomes(task, arm)
        if len(values):
            line = lines.setdefault(tuple(float(own[other]) for other in others), [])
            line.append((float(own[key]), statistics.mean_estimate(values), values))
    # Side by side, so that no interval hides another.
    offsets = min(0.08, 0.4 / max(len(lines), 1)) * (np.arange(len(lines)) - (len(lines) - 1) / 2)
    for index, (held, points) in enumerate(sorted(lines.items())):
        colour = SERIES[index % len(SERIES)]
        points.sort(key=lambda point: point[0])
        places = [xs.index(x) + float(offsets[index]) for x, _, _ in points]
        label = ", ".join(f"{_words(other)}={value:g}" for other, value in zip(others, held, strict=True))
        axes.plot(places, [e.value for _, e, _ in points], color=colour, linewidth=1.8, zorder=3, label=label or None)
        for place, (_, estimate, values) in zip(places, points, strict=True):
            if estimate.has_interval:
                axes.plot([place] * 2, [estimate.low, estimate.high], color=colour, linewidth=1.8, alpha=0.55,
                          zorder=2.5)  # fmt: skip
            axes.plot([place] * len(values), values, "o", color=colour, markersize=3.4, markeredgewidth=0, zorder=4)
    # At equal distances: swept numbers are seldom evenly spaced, and may be 0.
    every = -(-len(xs) // 12)
    axes.set_xticks(range(0, len(xs), every), [f"{x:g}" for x in xs[::every]])
    axes.set_xlim(-0.4, len(xs) - 0.6)
    axes.set_xlabel(_words(key), fontsize=10, color=INK)
    if others and lines:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def heat_maps(compared: Comparison, link: Callable[[Group], str]) -> Figure | None:
    """The mean outcome over a grid of two swept numbers, one panel per task.

    Args:
        compared: arms of a sweep.
        link: address that a cell leads to.
    """
    if not (is_grid(compared.results) and compared.judged):
        return None
    (_, columns), (_, rows) = swept_numbers(compared.results)
    figure, panels = titled_panels(
        compared.results.tasks, width=max(3.8, 1.0 + 0.75 * len(columns)), height=1.2 + 0.5 * len(rows), columns=2,
        length=24,
    )  # fmt: skip
    for axes, task in zip(panels, compared.results.tasks, strict=True):
        axes.set_title(f"mean {compared.results.unit}, {compared.statistic}", loc="right", fontsize=8.5, color=PALE)
        draw_heat_map(axes, compared, task, link)
    return figure


def swept_numbers(results: Results) -> list[tuple[str, list[float]]]:
    """The numbers in which arms differ with their values, the one with most values first."""
    axes = [(key, sorted({float(own[key]) for own in results.arm_settings.values()})) for key in results.numeric_axes()]
    return sorted(axes, key=lambda axis: -len(axis[1]))


def is_grid(results: Results) -> bool:
    """Whether arms are a grid of two numbers, each with several values."""
    numbers = swept_numbers(results)
    return len(numbers) == 2 and all(len(values) > 1 for _, values in numbers)


def draw_heat_map(axes: Axes, compared: Comparison, task: str, link: Callable[[Group], str] | None = None) -> None:
    """Draw the mean outcomes on a task over a grid of two swept numbers."""
    from matplotlib.patches import Rectangle

    (across, columns), (up, rows) = swept_numbers(compared.results)
    groups = [group for group in compared.results.groups if group.task == task]
    means = {group.arm: float(np.mean(own)) for group in groups if len(own := compared.outcomes(task, group.arm))}
    low, high = min(means.values(), default=0.0), max(means.values(), default=1.0)
    for group in groups:
        settings, mean = compared.results.arm_settings[group.arm], means.get(group.arm)
        x, y = columns.index(float(settings[across])), rows.index(float(settings[up]))
        # Opacity over the page's own ground is readable in light and in dark.
        share = 0.5 if high == low or mean is None else (mean - low) / (high - low)
        strength = 0.0 if mean is None else 0.08 + 0.5 * share
        cell = Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=SERIES[0], alpha=strength, linewidth=0, zorder=2)
        text = "–" if mean is None else f"{mean:.0f}" if high - low >= 20 or abs(mean) >= 1000 else f"{mean:.1f}"
        missing = "*" if group.n_planned > len(group.ended) else ""
        words = axes.text(x, y, text + missing, ha="center", va="center", fontsize=9.5, color=INK, zorder=3)
        if link is not None:
            cell.set_url(link(group))
            words.set_url(link(group))
        axes.add_patch(cell)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xlabel(_words(across), fontsize=10, color=INK)
    axes.set_ylabel(_words(up), fontsize=10, color=INK)


# Arms over several tasks ----------------------------------------------------------------------------------------------


def aggregates(compared: Comparison) -> Figure | None:
    """IQM, median, mean and optimality gap of each arm, with their intervals."""
    if not compared.aggregates:
        return None
    arms, styles = compared.arms, styles_of(compared.results.arms)
    figure, panels = titled_panels(
        list(compared.aggregates), width=2.9, height=0.8 + 0.27 * max(len(arms), 3), columns=4
    )
    for index, (axes, (name, by_arm)) in enumerate(zip(panels, compared.aggregates.items(), strict=True)):
        set_title(axes, name, "less is better" if name == "optimality gap" else "")
        for y, arm in enumerate(arms):
            _interval(axes, y, by_arm[arm], styles[arm].colour)
        arm_axis(axes, arms, compared.results.arms, shown=index == 0, length=26)
        axes.margins(x=0.08)
        name_axes(axes, "score")
    return figure


def profiles(compared: Comparison) -> Figure | None:
    """Performance profiles: the share of runs above each score, with pointwise intervals."""
    if not compared.profiles:
        return None
    figure, (axes,) = canvas(1, 6.4, 3.4)
    styles = styles_of(compared.results.arms)
    for arm, profile in compared.profiles.items():
        style = styles[arm]
        if np.isfinite(profile.low).all() and len(compared.profiles) <= MOST_BANDS:
            axes.fill_between(
                profile.thresholds, profile.low, profile.high, color=style.colour, alpha=0.15, linewidth=0
            )
        axes.plot(profile.thresholds, profile.share, color=style.colour, linewidth=1.8, linestyle=style.line)
    axes.set_ylim(-0.02, 1.02)
    name_axes(axes, f"{compared.results.unit} τ", "share of runs above τ")
    return figure


def improvements(compared: Comparison) -> Figure | None:
    """The probability that a run of each arm beats one of the base arm on the same task."""
    found = compared.improvements
    if not found:
        return None
    figure, (axes,) = canvas(1, 6.4, 0.8 + 0.3 * max(len(found), 3))
    all_arms = compared.results.arms
    for y, (arm, estimate) in enumerate(found.items()):
        _interval(axes, y, estimate, styles_of(all_arms)[arm].colour)
    axes.axvline(0.5, color=INK, linewidth=1.0, linestyle=_DASHED, zorder=1.5)
    axes.set_xlim(0.0, 1.0)
    arm_axis(axes, list(found), all_arms)
    name_axes(axes, f"probability that it beats {_labels([compared.base], all_arms)[0]}")
    return figure
