"""The figures of a report: how arms compare over tasks and seeds, drawn from :class:`cql.results.runs.Results`.

Every function returns a figure, or None where there is nothing to draw. Colours are few and fixed, so that a page may
replace them by its own in light and in dark: see :func:`svg`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cql.results import statistics
from cql.results.runs import Curve, Group, Results, Run, Statistic
from cql.results.statistics import Estimate
from cql.training.curves import GRID, INK, PALE, SERIES, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "#ffffff"
COLOURS = {INK: "--ink", PALE: "--pale", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--c{index}" for index, colour in enumerate(SERIES)
}
"""The colours of the figures, and the CSS properties that take their place in a page."""

DIAGNOSTICS = {
    "q_data": "Q of the data's actions",
    "q_policy": "Q of the policy's actions",
    "q_uniform": "Q of uniform actions",
    "cql_gap": "Conservative gap",
    "alpha_cql": "Conservative multiplier",
    "entropy": "Entropy of the policy",
}
MOST_BANDS = 6
"""Arms; the bands of more would cover each other, and are left out."""

_LINE_STYLES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # more arms share colours
_MOST_POINTS = 150  # of a curve
_EXPLODED = 25.0


def colour_of(results: Results, arm: str) -> str:
    """The colour of an arm in every figure."""
    return SERIES[results.arms.index(arm) % len(SERIES)]


def _line_style(results: Results, arm: str) -> Any:
    return _LINE_STYLES[results.arms.index(arm) // len(SERIES) % len(_LINE_STYLES)]


# Writing --------------------------------------------------------------------------------------------------------------


def svg(figure: Figure) -> str:
    """A figure as an SVG element whose texts are texts and whose bytes depend on the figure alone."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "cql", "font.family": "sans-serif"}):
        buffer = io.StringIO()
        # Ticks are chosen for the room that the layout leaves, and it leaves room for the ticks of the time before.
        figure.draw_without_rendering()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def themed(element: str, label: str) -> str:
    """An SVG element for a page: colours by its CSS properties, its own width at most, and read out as `label`."""
    for colour, name in COLOURS.items():
        element = element.replace(colour, f"var({name})")
    used = set(re.findall(r"(?:#|url\(#)([\w.-]+)", element))
    # Several figures in one page would have the same ids.
    element = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", element)
    element = re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL)
    # A link within the page opens no other one.
    element = re.sub(r'(<a xlink:href="#[^"]*") target="_blank"', r"\1", element)
    width = re.search(r'width="([\d.]+)pt"', element)
    element = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", element, count=1)
    style = ""
    if width:
        pixels = float(width[1]) * 4 / 3
        # On a narrow screen it shrinks by as much as its texts can be read, and then scrolls.
        style = f'style="max-width:{pixels:.0f}px;min-width:{0.6 * pixels:.0f}px" '
    opening = f'<svg {style}role="img" aria-label="{label}"'
    return re.sub(r'<svg([^>]*?) width="[\d.]+pt"', lambda found: opening + found[1], element, count=1)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as ``NAME.svg`` and ``NAME.png``, each whole or not at all."""
    paths = []
    for suffix in ("svg", "png"):
        path = folder / f"{name}.{suffix}"
        partial = path.with_name(f".{path.name}")
        if suffix == "svg":
            partial.write_text(svg(figure), encoding="utf-8")
        else:
            figure.savefig(partial, format="png", dpi=130, facecolor="white")
        partial.replace(path)
        paths.append(path)
    return paths


def add_legend(figure: Figure, results: Results, arms: Sequence[str]) -> None:
    """Put above a figure of lines what its colours mean, for where it stands alone."""
    from matplotlib.lines import Line2D

    labels = _tick_labels(results, arms, 60)
    columns = max(1, min(len(arms), int(13 * figure.get_figwidth()) // (max(map(len, labels)) + 6)))
    handles = [
        Line2D([], [], color=colour_of(results, arm), linestyle=_line_style(results, arm), linewidth=2.4, label=label)
        for arm, label in zip(arms, labels, strict=True)
    ]
    figure.set_figheight(figure.get_figheight() + 0.12 + 0.2 * -(-len(arms) // columns))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=9, labelcolor=INK
    )  # fmt: skip


# Panels ---------------------------------------------------------------------------------------------------------------


def page_panels(n: int, *, width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure for a page and n panels, filled row by row.

    Args:
        n: how many panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
        columns: panels in a row.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = -(-n // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(width * columns, height * rows), facecolor="none", layout=layout)
    panels: list[Axes] = []
    for index in range(n):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_facecolor("none")
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(PALE)
        axes.tick_params(labelsize=9, length=0, labelcolor=INK)
        panels.append(axes)
    return figure, panels


def _panels(n: int, *, width: float = 3.7, height: float = 2.7, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Those of a report, with few ticks across; one by itself is wide."""
    from matplotlib.ticker import MaxNLocator

    figure, panels = page_panels(n, width=max(width, 6.4) if n == 1 else width, height=height, columns=min(columns, n))
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return figure, panels


def _step_axis(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlim(left=0)


def _wide_axis(axes: Axes, threshold: float) -> None:
    """A logarithmic axis for what has been drawn, in both directions where some of it is not positive.

    Args:
        axes: with lines.
        threshold: below it in size an axis in both directions is linear.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    if axes.dataLim.y0 > 0.0:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = _decades(low, high, most=5)
    else:
        axes.set_yscale("symlog", linthresh=threshold)
        low, high = axes.get_ylim()
        most = 5 if high < threshold or low > -threshold else 3
        ticks = [0.0, *_decades(threshold, high, most=most), *(-x for x in _decades(threshold, -low, most=most))]
        ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks)
    axes.set_ylim(low, high)  # which ticks would widen
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _decades(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers between two positive ones, at about equal distances on a logarithmic axis, `most` at most."""
    first, last = (math.floor(math.log10(max(end, 1e-300))) for end in (low, high))
    choices = [[m * 10.0**e for e in range(first, last + 1) for m in own] for own in ((1, 2, 5), (1, 3))]
    choices += [[10.0**e for e in range(last, first - 1, -every)][::-1] for every in range(1, last - first + 2)]
    for choice in choices:
        ticks = [tick for tick in choice if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return []


def _words(text: str) -> str:
    """A user's text, in which matplotlib would take what stands between two dollars for a formula."""
    return text.replace("$", r"\$")


def _titles(tasks: Sequence[str], length: int = 38) -> dict[str, str]:
    """Of panels for tasks, so short that they do not run into each other; one panel by itself is wide."""
    return dict(zip(tasks, clipped(tasks, length if len(tasks) > 1 else 2 * length), strict=True))


def _small_title(axes: Axes, text: str, right: str = "") -> None:
    axes.set_title(_words(text), loc="left", fontsize=10, fontweight="bold", color=INK)
    if right:
        axes.set_title(right, loc="right", fontsize=8.5, color=PALE)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=PALE)


def _unit(results: Results) -> str:
    return "score" if results.scored else "return"


# Learning curves ------------------------------------------------------------------------------------------------------


def over_seeds(curves: Sequence[Curve]) -> tuple[NDArray[np.float64], list[Estimate]]:
    """At each step that every curve has, the mean over them with Student's interval.

    Where some lack a step there is no mean: over other runs than before it would jump.
    """
    at: dict[float, list[float]] = {}
    for curve in curves:
        for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
            at.setdefault(step, []).append(value)
    steps = sorted(step for step, values in at.items() if len(values) == len(curves))
    if len(steps) > _MOST_POINTS:
        steps = [steps[index] for index in np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).round().astype(int))]
    return np.array(steps), [statistics.mean_estimate(at[step]) for step in steps]


def learning_curves(results: Results) -> Figure | None:
    """Evaluations over gradient steps, one panel a task, one line an arm: mean over seeds, band of 95 %."""
    tasks = [task for task in results.tasks if any(len(run.evaluations.steps) for run in _runs(results, task))]
    if not tasks:
        return None
    figure, panels = _panels(len(tasks))
    for axes, (task, title) in zip(panels, _titles(tasks).items(), strict=True):
        _small_title(axes, title)
        for arm in results.arms:
            group = results.group(task, arm)
            if group is not None:
                _draw_group(axes, results, group, lambda run: run.judged(results.scored))
        _step_axis(axes)
        if axes in panels[::3]:
            axes.set_ylabel(_unit(results), fontsize=9, color=PALE)
    for axes in panels[-min(3, len(panels)) :]:
        axes.set_xlabel("gradient steps", fontsize=9, color=PALE)
    return figure


def _draw_group(axes: Axes, results: Results, group: Group, curve_of: Callable[[Run], Curve]) -> float:
    """A line and its band, and thin lines of runs where there is no mean over all; the largest absolute value drawn.

    The mean is over the runs that have not failed, as far as all of them have come.
    """
    curves = [(run, _finite(curve_of(run))) for run in group.runs]
    curves = [(run, curve) for run, curve in curves if len(curve.steps)]
    if not curves:
        return 0.0
    steps, estimates = over_seeds([curve for run, curve in curves if run.status != "failed"])
    colour, index = colour_of(results, group.arm), results.arms.index(group.arm)
    sizes = []
    if len(steps):
        means = np.array([estimate.value for estimate in estimates])
        lows, highs = (np.array([getattr(e, bound) for e in estimates]) for bound in ("low", "high"))
        if np.isfinite(lows).all() and len(results.arms) <= MOST_BANDS:
            axes.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0, zorder=2)
        style = _line_style(results, group.arm)
        marker = "o" if len(steps) <= 15 else ""
        # Ever thinner: a line on which another one lies shows as its edge.
        width = 3.2 - 1.8 * index / max(len(results.arms) - 1, 1)
        axes.plot(steps, means, color=colour, linewidth=width, linestyle=style, marker=marker, markersize=2.8, zorder=3)
        sizes.append(np.abs(means).max())
    for run, curve in curves:
        alone = curve.steps >= (steps[-1] if len(steps) and run.status != "failed" else -np.inf)
        if run.status == "failed" or alone.sum() > 1 or not len(steps):
            marker = "o" if alone.sum() == 1 else ""
            axes.plot(curve.steps[alone], curve.values[alone], color=colour, linewidth=0.9, alpha=0.8, marker=marker,
                      markersize=2.8, zorder=2.8)  # fmt: skip
            sizes.append(np.abs(curve.values[alone]).max())
        if run.status == "failed":
            end = [max(run.step, curve.steps[-1])], [curve.values[-1]]
            axes.plot(*end, "X", color=colour, markersize=8, markeredgecolor=PAPER, zorder=5)
    return float(max(sizes, default=0.0))


def _finite(curve: Curve) -> Curve:
    known = np.isfinite(curve.values)
    return Curve(curve.steps[known], curve.values[known])


def _runs(results: Results, task: str) -> list[Run]:
    return [run for group in results.groups if group.task == task for run in group.runs]


# Outcomes -------------------------------------------------------------------------------------------------------------


def outcomes(results: Results, statistic: Statistic, base: str | None = None) -> Figure | None:
    """Bars of each arm's outcome, one panel a task: mean over seeds, its 95 % interval, and every seed.

    Args:
        results: of the runs.
        statistic: which evaluations.
        base: the arm whose mean is drawn through each panel.
    """
    tasks = _judged(results, statistic)
    if not tasks:
        return None
    n = len(results.arms)
    figure, panels = _panels(len(tasks), height=0.75 + 0.26 * max(n, 3))
    longest = max(map(len, results.arms))
    for index, (axes, (task, title)) in enumerate(zip(panels, _titles(tasks).items(), strict=True)):
        _small_title(axes, title)
        for y, arm in enumerate(results.arms):
            values = _outcomes(results, task, arm, statistic)
            if not len(values):
                axes.text(0.01, y, "no run finished", transform=axes.get_yaxis_transform(), fontsize=7.5, va="center",
                          color=PALE, zorder=5, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0})  # fmt: skip
                continue
            colour, estimate = colour_of(results, arm), statistics.mean_estimate(values)
            axes.barh(y, estimate.value, height=0.66, color=colour, alpha=0.35, linewidth=0, zorder=2)
            _interval(axes, estimate, y, colour)
            spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(values, y + spread, "o", color=colour, markersize=3.2, zorder=4, markeredgewidth=0)
        if base is not None and len(_outcomes(results, task, base, statistic)):
            axes.axvline(float(_outcomes(results, task, base, statistic).mean()), color=INK, linewidth=1.0,
                         linestyle=(0, (4, 3)), zorder=1.5)  # fmt: skip
        shown = index % 3 == 0 or longest <= 10
        axes.set_yticks(range(n), _tick_labels(results, results.arms) if shown else [""] * n)
        axes.set_ylim(n - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.axvline(0.0, color=PALE, linewidth=0.8, zorder=1.4)
    for axes in panels[-min(3, len(panels)) :]:
        axes.set_xlabel(f"{_unit(results)}, {statistic}", fontsize=9, color=PALE)
    return figure


def differences(results: Results, statistic: Statistic, base: str) -> Figure | None:
    """Each arm minus the base arm, one panel a task, with Welch's 95 % interval."""
    arms = [arm for arm in results.arms if arm != base]
    tasks = [
        task
        for task in results.tasks
        if len(_outcomes(results, task, base, statistic))
        and any(len(_outcomes(results, task, a, statistic)) for a in arms)
    ]
    if not (arms and tasks):
        return None
    figure, panels = _panels(len(tasks), height=0.75 + 0.26 * max(len(arms), 3))
    longest = max(map(len, arms))
    for index, (axes, (task, title)) in enumerate(zip(panels, _titles(tasks).items(), strict=True)):
        _small_title(axes, title)
        for y, arm in enumerate(arms):
            values = _outcomes(results, task, arm, statistic)
            if not len(values):
                continue
            estimate = statistics.difference_estimate(values, _outcomes(results, task, base, statistic))
            colour = colour_of(results, arm)
            axes.barh(y, estimate.value, height=0.6, color=colour, alpha=0.35, linewidth=0, zorder=2)
            _interval(axes, estimate, y, colour)
        axes.axvline(0.0, color=INK, linewidth=1.0, zorder=2.5)
        shown = index % 3 == 0 or longest <= 10
        axes.set_yticks(range(len(arms)), _tick_labels(results, arms) if shown else [""] * len(arms))
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.grid(False, axis="y")
    for axes in panels[-min(3, len(panels)) :]:
        axes.set_xlabel(f"{_unit(results)} minus the base arm's", fontsize=9, color=PALE)
    return figure


def _interval(axes: Axes, estimate: Estimate, y: float, colour: str) -> None:
    if estimate.has_interval:
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt", zorder=3)
    axes.plot(estimate.value, y, "|", color=colour, markersize=11, markeredgewidth=2.2, zorder=3)


def _outcomes(results: Results, task: str, arm: str, statistic: Statistic) -> NDArray[np.float64]:
    group = results.group(task, arm)
    return np.array([]) if group is None else group.outcomes(statistic, scored=results.scored)


def _judged(results: Results, statistic: Statistic) -> list[str]:
    """The tasks on which any arm has an outcome."""
    return [task for task in results.tasks if any(len(_outcomes(results, task, a, statistic)) for a in results.arms)]


def clipped(labels: Sequence[str], length: int = 34) -> list[str]:
    """Labels of at most so many letters that are as different as before: without their ends, beginnings or middles.

    Where none of that tells them apart, the long ones are numbered.
    """
    half = (length - 1) // 2
    ways: tuple[Callable[[str], str], ...] = (
        lambda text: f"{text[: length - 1]}…",
        lambda text: f"…{text[-(length - 1) :]}",
        lambda text: f"{text[:half]}…{text[-half:]}",
    )
    for way in ways:
        found = [text if len(text) <= length else way(text) for text in labels]
        if len(set(found)) == len(set(labels)):
            return found
    ends = [f"… #{number}" for number in range(1, len(labels) + 1)]
    return [
        text if len(text) <= length else text[: length - len(end)] + end for text, end in zip(labels, ends, strict=True)
    ]


def _tick_labels(results: Results, arms: Sequence[str], length: int = 34) -> list[str]:
    """Of some arms; an arm has the same one in every figure."""
    short_ones = dict(zip(results.arms, clipped(results.arms, length), strict=True))
    return [_words(short_ones[arm]) for arm in arms]


# Sweeps over numbers --------------------------------------------------------------------------------------------------


def over_number(results: Results, key: str, statistic: Statistic) -> Figure | None:
    """The outcome against one swept number, one panel a task; where a second one is swept, a line for each of it."""
    axes_keys, tasks = results.numeric_axes(), _judged(results, statistic)
    if key not in axes_keys or not tasks:
        return None
    others = [other for other in axes_keys if other != key]
    xs = sorted({float(own[key]) for own in results.arm_settings.values()})
    figure, panels = _panels(len(tasks), height=3.0)
    for axes, (task, title) in zip(panels, _titles(tasks).items(), strict=True):
        _small_title(axes, title)
        lines: dict[tuple[float, ...], list[tuple[float, Estimate, NDArray[np.float64]]]] = {}
        for arm, own in results.arm_settings.items():
            values = _outcomes(results, task, arm, statistic)
            if len(values):
                line = lines.setdefault(tuple(float(own[other]) for other in others), [])
                line.append((float(own[key]), statistics.mean_estimate(values), values))
        colours = [SERIES[index % len(SERIES)] for index in range(len(lines))]
        # Beside each other, so that no interval hides another.
        offsets = min(0.08, 0.4 / max(len(lines), 1)) * (np.arange(len(lines)) - (len(lines) - 1) / 2)
        for colour, offset, (held, points) in zip(colours, offsets, sorted(lines.items()), strict=True):
            points.sort(key=lambda point: point[0])
            places = [xs.index(x) + float(offset) for x, _, _ in points]
            label = ", ".join(f"{_words(other)}={value:g}" for other, value in zip(others, held, strict=True))
            axes.plot(
                places, [e.value for _, e, _ in points], color=colour, linewidth=1.8, zorder=3, label=label or None
            )
            for place, (_, estimate, values) in zip(places, points, strict=True):
                if estimate.has_interval:
                    axes.plot(
                        [place] * 2, [estimate.low, estimate.high], color=colour, linewidth=1.8, alpha=0.55, zorder=2.5
                    )
                axes.plot([place] * len(values), values, "o", color=colour, markersize=3.4, markeredgewidth=0, zorder=4)
        # At equal distances: swept numbers are seldom evenly spaced, and may be 0.
        axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axes.set_xlim(-0.4, len(xs) - 0.6)
        axes.set_xlabel(_words(key), fontsize=10, color=INK)
        axes.set_ylabel(f"{_unit(results)}, {statistic}", fontsize=9, color=PALE)
        if others:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def heat_maps(results: Results, statistic: Statistic, link: Callable[[Group], str] | None = None) -> Figure | None:
    """The mean outcome over a grid of two swept numbers, one panel a task.

    Args:
        results: of the runs.
        statistic: which evaluations.
        link: address that a cell leads to.
    """
    keys = results.numeric_axes()
    if len(keys) != 2 or not _judged(results, statistic):
        return None
    # The key with more values lies across.
    across, up = sorted(keys, key=lambda key: -len({own[key] for own in results.arm_settings.values()}))
    columns, rows = (sorted({float(own[key]) for own in results.arm_settings.values()}) for key in (across, up))
    if len(columns) < 2 or len(rows) < 2:
        return None
    from matplotlib.patches import Rectangle

    figure, panels = _panels(
        len(results.tasks), width=max(3.8, 1.0 + 0.75 * len(columns)), height=1.2 + 0.5 * len(rows), columns=2
    )
    for axes, (task, title) in zip(panels, _titles(results.tasks, 24).items(), strict=True):
        _small_title(axes, title, f"mean {_unit(results)}, {statistic}")
        means = {}
        for arm, own in results.arm_settings.items():
            group = results.group(task, arm)
            if group is not None:
                values = group.outcomes(statistic, scored=results.scored)
                place = columns.index(float(own[across])), rows.index(float(own[up]))
                means[place] = group, float(values.mean()) if len(values) else math.nan
        finite = [mean for _, mean in means.values() if math.isfinite(mean)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        for (x, y), (group, mean) in means.items():
            share = 0.5 if high == low else (mean - low) / (high - low)
            # Opacity over the page's own ground reads in light and in dark.
            strength = 0.0 if math.isnan(mean) else 0.08 + 0.5 * share
            cell = Rectangle(
                (x - 0.48, y - 0.46), 0.96, 0.92, facecolor=SERIES[0], alpha=strength, linewidth=0, zorder=2
            )
            missing = group.n_planned - len(group.ended)
            text = ("–" if math.isnan(mean) else _number(mean, high - low)) + ("*" if missing else "")
            words = axes.text(x, y, text, ha="center", va="center", fontsize=9.5, color=INK, zorder=3)
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
    return figure


def _number(value: float, span: float) -> str:
    return f"{value:.0f}" if span >= 20 or abs(value) >= 1000 else f"{value:.1f}"


# Aggregates over tasks ------------------------------------------------------------------------------------------------


def complete(results: Results, statistic: Statistic, base: str | None = None) -> tuple[list[str], list[str]]:
    """The tasks and arms that can be averaged: tasks on which every such arm has a run that finished.

    Arms without any finished run are left out, then those that stand in the way of others: an arm on few tasks, where
    the rest can be compared on twice as many without it.

    Args:
        results: of the runs.
        statistic: which evaluations.
        base: an arm that is not left out as long as it has a finished run.

    Returns:
        Tasks and arms, each in the order of the results; no task where no two arms have one in common.
    """
    done = {
        arm: {task for task in results.tasks if len(_outcomes(results, task, arm, statistic))} for arm in results.arms
    }
    arms = [arm for arm in results.arms if done[arm]]
    if not arms:
        return [], []
    best_arms, best_tasks = arms, set.intersection(*(done[arm] for arm in arms))
    while len(arms) > 2:
        weakest = min((arm for arm in reversed(arms) if arm != base), key=lambda arm: len(done[arm]))
        arms = [arm for arm in arms if arm != weakest]
        tasks = set.intersection(*(done[arm] for arm in arms))
        if len(tasks) >= max(2 * len(best_tasks), 1):
            best_arms, best_tasks = arms, tasks
    return [task for task in results.tasks if task in best_tasks], best_arms


def scores_of(results: Results, tasks: Sequence[str], arm: str, statistic: Statistic) -> list[NDArray[np.float64]]:
    """Outcomes of an arm, one array a task, as :mod:`cql.results.statistics` takes them."""
    return [_outcomes(results, task, arm, statistic) for task in tasks]


def aggregates(estimates: Mapping[str, Mapping[str, Estimate]], results: Results) -> Figure | None:
    """IQM, median, mean and optimality gap of each arm, with their intervals.

    Args:
        estimates: by the statistic's name and the arm.
        results: for the arms' colours.
    """
    if not estimates:
        return None
    arms = list(next(iter(estimates.values())))
    figure, panels = _panels(len(estimates), width=2.9, height=0.8 + 0.27 * max(len(arms), 3), columns=4)
    for index, (axes, (name, by_arm)) in enumerate(zip(panels, estimates.items(), strict=True)):
        _small_title(axes, name, "less is better" if name == "optimality gap" else "")
        for y, arm in enumerate(arms):
            estimate, colour = by_arm[arm], colour_of(results, arm)
            if estimate.has_interval:
                axes.barh(y, estimate.high - estimate.low, left=estimate.low, height=0.6, color=colour, alpha=0.35,
                          linewidth=0, zorder=2)  # fmt: skip
            axes.plot([estimate.value] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2.4, zorder=3)
        axes.set_yticks(range(len(arms)), _tick_labels(results, arms, 26) if index == 0 else [""] * len(arms))
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.margins(x=0.08)
        axes.set_xlabel("score", fontsize=9, color=PALE)
    return figure


def profiles(found: Mapping[str, statistics.Profile], results: Results) -> Figure | None:
    """Performance profiles: the share of runs above each score, with pointwise intervals."""
    if not found:
        return None
    figure, (axes,) = _panels(1, width=6.4, height=3.4)
    for arm, profile in found.items():
        colour = colour_of(results, arm)
        if np.isfinite(profile.low).all() and len(found) <= MOST_BANDS:
            axes.fill_between(profile.thresholds, profile.low, profile.high, color=colour, alpha=0.15, linewidth=0)
        style = _line_style(results, arm)
        axes.plot(profile.thresholds, profile.share, color=colour, linewidth=1.8, linestyle=style)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"{_unit(results)} τ", fontsize=9, color=PALE)
    axes.set_ylabel("share of runs above τ", fontsize=9, color=PALE)
    return figure


def improvements(estimates: Mapping[str, Estimate], base: str, results: Results) -> Figure | None:
    """How probable it is that a run of each arm beats one of the base arm on the same task."""
    if not estimates:
        return None
    figure, (axes,) = _panels(1, width=6.4, height=0.8 + 0.3 * max(len(estimates), 3))
    for y, (arm, estimate) in enumerate(estimates.items()):
        colour = colour_of(results, arm)
        if estimate.has_interval:
            axes.barh(y, estimate.high - estimate.low, left=estimate.low, height=0.6, color=colour, alpha=0.35,
                      linewidth=0, zorder=2)  # fmt: skip
        axes.plot([estimate.value] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2.4, zorder=3)
    axes.axvline(0.5, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    axes.set_xlim(0.0, 1.0)
    axes.set_yticks(range(len(estimates)), _tick_labels(results, list(estimates)))
    axes.set_ylim(len(estimates) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel(f"probability that it beats {_tick_labels(results, [base])[0]}", fontsize=9, color=PALE)
    return figure


# Diagnostics ----------------------------------------------------------------------------------------------------------


def diagnostics(results: Results, task: str) -> Figure | None:
    """What explains a task's results: Q values, gap, multiplier and entropy over gradient steps, one line an arm."""
    groups = [group for group in results.groups if group.task == task]
    names = [name for name in DIAGNOSTICS if any(len(run.metric(name).steps) for g in groups for run in g.runs)]
    if not names:
        return None
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        _small_title(axes, DIAGNOSTICS[name], name)
        sizes = [_draw_group(axes, results, group, lambda run, name=name: run.metric(name)) for group in groups]  # type: ignore[misc]
        sizes = sorted(size for size in sizes if size > 0.0)
        usual = sizes[len(sizes) // 2] if sizes else 0.0
        if len(sizes) > 1 and sizes[-1] > _EXPLODED * max(sizes[0], 1e-12) and usual > 0.0:
            _wide_axis(axes, float(f"{max(sizes[0], sizes[-1] / 1e6):.1g}"))
        _step_axis(axes)
    return figure
