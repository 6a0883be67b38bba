"""Figures of a run and of a sweep, drawn from the files in the runs' folders.

``matplotlib`` is imported when something is drawn, and used through its objects alone: no window, no backend and no
global state, so that a figure may be drawn from any thread of any program.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.config.points import SEED, human_point, number, order, parse_point, without_seed
from cql.training.loggers import EPISODES_FILE, METRICS_FILE, SUMMARY_FILE, EpisodeRow, read_episodes, read_metrics

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY_CURVES_FILE = "key_curves.png"
SWEEP_CURVES_FILE = "sweep_curves.png"

# Told apart by readers with any form of colour vision, and in grey.
BLUE, ORANGE, GREEN = "#2166ac", "#d6732a", "#4a9b6e"
INK, PALE, GRID, PAPER = "#222222", "#767676", "#e3e3e3", "#ffffff"
_FEW_POINTS = 30  # so few are drawn as points too
_DECADES = 100.0  # a positive curve that spans this ratio gets a logarithmic axis


class _Curve(NamedTuple):
    """The values of one metric and the gradient steps they belong to, in the rows that have it."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def key_curves(run_dir: Path, title: str | None = None) -> Path:
    """Draw the curves that tell how a run went, and write them to ``key_curves.png`` in its folder.

    Six panels over gradient steps: the evaluation return (mean over the episodes, with a band of one standard
    deviation either side), the Q values of dataset, policy and uniform actions, ``critic_td``, ``cql_residual``
    (``cql_gap`` where there is no ``tau_cql`` to compare it with), ``alpha_cql``, and the policy's entropy with
    ``alpha_temp``. A panel without data says so.

    Args:
        run_dir: The run's folder, with ``metrics.jsonl`` or ``episodes.csv`` in it.
        title: Heading of the figure, such as the run's name.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: The folder has neither file.
        ValueError: A line in one of the files is damaged.
    """
    run_dir = Path(run_dir)
    if not any((run_dir / name).exists() for name in (METRICS_FILE, EPISODES_FILE)):
        raise FileNotFoundError(f"{run_dir} has neither {METRICS_FILE} nor {EPISODES_FILE}: is it the folder of a run?")
    metrics = read_metrics(run_dir)
    episodes = read_episodes(run_dir)

    figure, panels = canvas(13.0, 7.0, sharex=True)
    returns, q_values, critic_td, gap, alpha_cql, entropy = panels

    _draw_returns(returns, episodes, metrics)
    _draw_q_values(q_values, metrics)
    _draw_one(critic_td, metrics, "critic_td", "TD error of the critics")
    has_residual = any("cql_residual" in row for row in metrics)
    if has_residual:
        _draw_one(gap, metrics, "cql_residual", "Gap minus threshold")
        gap.axhline(0.0, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    else:
        _draw_one(gap, metrics, "cql_gap", "Conservative gap")
    _draw_one(alpha_cql, metrics, "alpha_cql", "Conservative multiplier")
    _draw_entropy(entropy, metrics)

    last = max([row["step"] for row in metrics] + [row.step for row in episodes], default=0)
    entropy.set_xlim(0.0, max(last, 1) * 1.02)
    if title:
        figure.suptitle(title, fontsize=17, color=INK)
    figure.supxlabel("gradient steps", fontsize=14, color=INK)

    return saved(figure, run_dir / KEY_CURVES_FILE)


def canvas(width: float, height: float, *, sharex: bool, footer: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure of six panels in two rows; width and height in inches.

    With a footer of so many inches, which come on top of the height, there is a seventh panel for it.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(width, height + footer), dpi=130, facecolor="white", layout=layout)
    heights = [height / 2, height / 2, *([footer] if footer else [])]
    grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    panels: list[Axes] = []
    for row in range(2):
        for column in range(3):
            panels.append(figure.add_subplot(grid[row, column], sharex=panels[0] if sharex and panels else None))
            _style(panels[-1])
            if sharex and row == 0:
                panels[-1].tick_params(labelbottom=False)
    if footer:
        panels.append(figure.add_subplot(grid[2, :]))
        panels[-1].axis("off")
    return figure, panels


def saved(figure: Figure, path: Path) -> Path:
    """Write a picture, whole or not at all."""
    partial = path.with_name("." + path.name)
    figure.savefig(partial, format="png")
    partial.replace(path)
    return path


def _curve(metrics: Sequence[dict[str, float]], name: str) -> _Curve:
    rows = [(row["step"], row[name]) for row in metrics if name in row]
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    return _Curve(table[:, 0], table[:, 1])


def _returns(episodes: Sequence[EpisodeRow], metrics: Sequence[dict[str, float]]) -> tuple[_Curve, NDArray[np.float64]]:
    """Mean return per evaluation, and its standard deviation over the episodes."""
    if not episodes:
        mean, spread = _curve(metrics, "eval_return_mean"), _curve(metrics, "eval_return_std")
        return mean, spread.values if len(spread.values) == len(mean.values) else np.zeros_like(mean.values)
    by_step: dict[int, list[float]] = {}
    for row in episodes:
        by_step.setdefault(row.step, []).append(row.return_)
    steps = sorted(by_step)
    means = np.array([np.mean(by_step[step]) for step in steps])
    return _Curve(np.array(steps, dtype=np.float64), means), np.array([np.std(by_step[step]) for step in steps])


def _draw_returns(axes: Axes, episodes: Sequence[EpisodeRow], metrics: Sequence[dict[str, float]]) -> None:
    _title(axes, "Evaluation return")
    curve, spread = _returns(episodes, metrics)
    if not len(curve.steps):
        _say(axes, "no evaluation yet")
        return
    low, high = curve.values - spread, curve.values + spread
    if len(curve.steps) == 1:
        axes.errorbar(curve.steps, curve.values, yerr=spread, color=BLUE, alpha=0.4, capsize=5, zorder=2)
    else:
        axes.fill_between(curve.steps, low, high, color=BLUE, alpha=0.18, linewidth=0, zorder=2)
    _line(axes, curve, BLUE)
    _scale(axes, np.concatenate([low, high]))
    axes.set_title(f"last {curve.values[-1]:,.0f} ± {spread[-1]:,.0f}", loc="right", fontsize=11, color=BLUE)
    over = f"over {sum(row.step == episodes[-1].step for row in episodes)} episodes" if episodes else "over episodes"
    _note(axes, f"mean ± one standard deviation\n{over}", "bottom")


def _draw_q_values(axes: Axes, metrics: Sequence[dict[str, float]]) -> None:
    _title(axes, "Q values")
    drawn = []
    for name, label, colour in (
        ("q_data", "dataset actions", BLUE),
        ("q_policy", "policy actions", ORANGE),
        ("q_uniform", "uniform actions", GREEN),
    ):
        curve = _curve(metrics, name)
        if len(curve.steps):
            _line(axes, curve, colour, label)
            drawn.append(curve.values)
    if not drawn:
        _say(axes, "no q_data, q_policy or q_uniform\nin the metrics")
        return
    _scale(axes, np.concatenate(drawn), decades=np.inf)
    axes.legend(frameon=False, fontsize=11, labelcolor=INK, handlelength=1.4)


def _draw_one(axes: Axes, metrics: Sequence[dict[str, float]], name: str, title: str) -> None:
    _title(axes, title, name)
    curve = _curve(metrics, name)
    if not len(curve.steps):
        _say(axes, f"no {name} in the metrics")
        return
    _line(axes, curve, BLUE)
    _scale(axes, curve.values)


def _draw_entropy(axes: Axes, metrics: Sequence[dict[str, float]]) -> None:
    entropy, temperature = _curve(metrics, "entropy"), _curve(metrics, "alpha_temp")
    _draw_one(axes, metrics, "entropy", "Entropy of the policy")
    if not len(temperature.steps):
        return
    if np.ptp(temperature.values) == 0.0:
        _note(axes, f"alpha_temp = {temperature.values[-1]:g}", "top")
        return
    if len(entropy.steps):
        axes.tick_params(axis="y", labelcolor=BLUE)
        axes.set_title("entropy", loc="right", fontsize=11, family="monospace", color=BLUE)
    right = axes.twinx()
    _line(right, temperature, ORANGE)
    _scale(right, temperature.values)
    right.tick_params(labelsize=11.5, length=0, labelcolor=ORANGE)
    right.spines[:].set_visible(False)
    right.set_ylabel("alpha_temp", fontsize=11, family="monospace", color=ORANGE)


def _line(axes: Axes, curve: _Curve, colour: str, label: str | None = None) -> None:
    marker = "o" if len(curve.steps) <= _FEW_POINTS else ""
    axes.plot(
        curve.steps, curve.values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=label, zorder=3
    )  # fmt: skip


def _scale(axes: Axes, values: NDArray[np.float64], decades: float = _DECADES) -> None:
    """A logarithmic axis where the values span decades; room around a constant."""
    low, high = float(values.min()), float(values.max())
    if low > 0.0 and high / low >= decades:
        axes.set_yscale("log")
        axes.tick_params(axis="y", which="minor", length=0)
        return
    axes.ticklabel_format(axis="y", useOffset=False)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        room = abs(high) or 1.0
        axes.set_ylim(low - room, high + room)


def _title(axes: Axes, title: str, name: str | None = None) -> None:
    axes.set_title(title, loc="left", fontsize=13.5, fontweight="bold", color=INK)
    if name:
        axes.set_title(name, loc="right", fontsize=11, family="monospace", color=PALE)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=PALE)
    axes.set_yticks([])


def _note(axes: Axes, text: str, where: Literal["top", "bottom"]) -> None:
    height = 0.95 if where == "top" else 0.05
    axes.text(0.98, height, text, transform=axes.transAxes, ha="right", va=where, fontsize=10.5, color=PALE)


def _style(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(labelsize=11.5, length=0, labelcolor=INK)


def short(steps: float) -> str:
    """20000 as 20k, 1500000 as 1.5M."""
    if abs(steps) >= 1e9:
        return f"{steps:.0e}".replace("e+0", "e").replace("e+", "e")
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{letter}"
    return f"{steps:g}"


# Sweeps ---------------------------------------------------------------------------------------------------------------

_LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
# Told apart in any order; beyond them the line style changes.
SERIES = (
    "#2166ac", "#d6732a", "#4a9b6e", "#b2375b", "#7b5ba6", "#35a3b8", "#8a6a3b", "#d4b13f", "#767676", "#e08fb5",
    "#1f2f52", "#9cb83c",
)  # fmt: skip
_MANY = 12  # points; with more of them bands would cover each other, and a legend of numbers leaves some out
_EXPLODED = 15.0  # so many times the usual value is off any linear axis that shows the others
_POSITIVE = {"alpha_cql": 10.0, "critic_td": _DECADES}  # from this ratio on, a logarithmic axis


class _SweptRun(NamedTuple):
    """What the figure needs of one run."""

    name: str  # of its folder
    metrics: list[dict[str, float]]
    returns: _Curve
    status: str  # "finished", "failed", or what else the summary says; empty before there is one
    step: int
    n_steps: int | None


class _Point(NamedTuple):
    """The runs that differ in the seed alone, and how they are drawn."""

    values: dict[str, str]
    label: str
    runs: list[_SweptRun]
    colour: Any = BLUE
    line_style: Any = "-"


class _OverSeeds(NamedTuple):
    """A metric over the runs of a point that have it at a step."""

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def sweep_curves(folder: Path, title: str | None = None, path: Path | None = None) -> Path:
    """Draw how the runs of a sweep compare, from their folders alone.

    Six panels: over gradient steps the evaluation return, ``q_data`` and ``q_policy``, ``cql_gap``, and ``alpha_cql``
    where some run learns it, else ``critic_td``; then the return of the last evaluation of each point. A line is the
    mean over the seeds of a point, with a band from their lowest to their highest. Values that explode, as those of
    ``alpha_cql=0`` do, get a symmetric logarithmic axis, on which the others are seen too. Runs that failed or have not
    finished are drawn as far as they came, and named.

    Args:
        folder: of the sweep, with a folder for each run.
        title: heading; None is the folder's name.
        path: of the picture; None writes ``sweep_curves.png`` into the folder.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: no run in the folder has metrics yet, or the folder of ``path`` does not exist.
        ValueError: a line in one of the files is damaged.
    """
    folder = Path(folder)
    path = folder / SWEEP_CURVES_FILE if path is None else Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; make it first")
    runs = _swept_runs(folder)
    if not any(run.metrics or len(run.returns.steps) for run in runs):
        raise FileNotFoundError(f"{folder} holds no run with a row in its {METRICS_FILE}: there is nothing to draw yet")
    points = _points(runs)
    keys = _varied(points)
    numbers = bool(keys) and all(number(p.values.get(key, "")) is not None for p in points for key in keys)
    by_number, by_grid = numbers and len(keys) == 1, numbers and len(keys) == 2
    if by_grid:
        # The colours tell the key with more values, and the line style the other.
        keys.sort(key=lambda key: -len(_values(points, key)))
    points = _coloured(points, keys) if by_number or by_grid else _named(points, keys)

    handles, n_columns, heading = _legend(points, keys, by_grid)
    caption = _caption(points, runs)
    if by_grid and len({point.line_style for point in points}) == 1:
        caption = f"one line for each {keys[1]}; {caption}".removesuffix("; ")
    footer = 0.5 + 0.27 * (-(-len(handles) // n_columns) + bool(heading)) + 0.22 * (caption.count("\n") + 1)
    figure, panels = canvas(15.5, 8.4, sharex=False, footer=footer)
    *panels, foot = panels
    returns, q_data, q_policy, gap, coefficient, final = panels
    _draw_swept(returns, points, lambda run: run.returns, "Evaluation return")
    for axes, name, title_of_panel in (
        (q_data, "q_data", "Q of dataset actions"),
        (q_policy, "q_policy", "Q of policy actions"),
        (gap, "cql_gap", "Conservative gap"),
    ):
        _draw_swept(axes, points, _metric(name), title_of_panel, name)
    if any(len(np.unique(_curve(run.metrics, "alpha_cql").values)) > 1 for run in runs):
        _draw_swept(coefficient, points, _metric("alpha_cql"), "Conservative multiplier", "alpha_cql")
    else:
        _draw_swept(coefficient, points, _metric("critic_td"), "TD error of the critics", "critic_td")
    last = max([1.0, *(float(run.step) for run in runs)])
    for axes in panels[:-1]:
        axes.set_xlim(0.0, last * 1.02)
        axes.set_xlabel("gradient steps", fontsize=11, color=PALE)

    _title(final, "Return of the last evaluation")
    if not any(len(run.returns.steps) for run in runs):
        _say(final, "no evaluation yet")
        final.set_xticks([])
    elif by_number:
        _draw_final_line(final, points, keys[0])
    elif by_grid:
        _draw_final_grid(final, points, keys[0], keys[1])
    else:
        _draw_final_bars(final, points)

    figure.suptitle(folder.resolve().name if title is None else title, fontsize=19, color=INK)
    foot.legend(
        handles=handles, title=heading, ncols=n_columns, loc="upper center", frameon=False, fontsize=12, borderpad=0.0,
        title_fontsize=13, labelcolor=INK, handlelength=2.2, columnspacing=1.8,
    )  # fmt: skip
    foot.text(0.5, 0.0, caption, transform=foot.transAxes, ha="center", va="bottom", fontsize=11.5, color=PALE)
    return saved(figure, path)


def _swept_runs(folder: Path) -> list[_SweptRun]:
    """The runs of a sweep that have begun, sorted by their points."""
    runs = []
    for directory in folder.iterdir():
        # Not by episodes.csv, which the folder of a report has too.
        files = (METRICS_FILE, SUMMARY_FILE)
        if directory.name.startswith(".") or not any((directory / name).exists() for name in files):
            continue
        metrics = read_metrics(directory)
        returns, _ = _returns(read_episodes(directory), metrics)
        path = directory / SUMMARY_FILE
        try:
            summary = json.loads(path.read_bytes()) if path.exists() else {}
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it, or take the run up again") from error
        step = max([int(summary.get("step", 0)), *(int(row["step"]) for row in metrics[-1:])])
        status = str(summary.get("status", ""))
        runs.append(_SweptRun(directory.name, metrics, returns, status, step, summary.get("n_steps")))
    keys = sorted({key for run in runs for key in parse_point(run.name)}, key=lambda key: (key == SEED, key))
    return sorted(runs, key=lambda run: ([order(parse_point(run.name).get(key, "")) for key in keys], run.name))


def _points(runs: Sequence[_SweptRun]) -> list[_Point]:
    by_name: dict[str, list[_SweptRun]] = {}
    for run in runs:
        by_name.setdefault(without_seed(run.name), []).append(run)
    return [_Point(parse_point(name), human_point(name) or "all seeds", group) for name, group in by_name.items()]


def _values(points: Sequence[_Point], key: str) -> list[str]:
    return sorted({point.values.get(key, "") for point in points}, key=order)


def _varied(points: Sequence[_Point]) -> list[str]:
    """The keys in which points differ."""
    return [key for key in sorted({key for p in points for key in p.values}) if len(_values(points, key)) > 1]


def _coloured(points: Sequence[_Point], keys: Sequence[str]) -> list[_Point]:
    """A colour for each number of the first key, in their order, and a line style for each of the second."""
    from matplotlib import colormaps

    values = _values(points, keys[0])
    ramp = colormaps["viridis"](np.linspace(0.0, 0.9 if len(values) > 4 else 0.72, len(values)))
    others = _values(points, keys[1]) if len(keys) > 1 else []
    styles = _LINE_STYLES if len(others) <= len(_LINE_STYLES) else ("-",) * len(others)
    return [
        point._replace(
            label=" ".join(point.values[key] for key in keys),
            colour=tuple(ramp[values.index(point.values[keys[0]])]),
            line_style=styles[others.index(point.values[keys[1]])] if others else "-",
        )
        for point in points
    ]


def _named(points: Sequence[_Point], keys: Sequence[str]) -> list[_Point]:
    """A colour, and beyond the twelfth point another line style, for each; labels without what all have in common."""
    named = []
    for index, point in enumerate(points):
        own = {key: point.values[key] for key in keys if key in point.values}
        label = " ".join(own.values() if len(keys) == 1 else (f"{key}={value}" for key, value in own.items()))
        style, colour = divmod(index, len(SERIES))
        named.append(
            point._replace(
                label=label or point.label,
                colour=SERIES[colour],
                line_style=_LINE_STYLES[style % len(_LINE_STYLES)],
            )
        )
    return named


def _metric(name: str) -> Callable[[_SweptRun], _Curve]:
    return lambda run: _curve(run.metrics, name)


def _over_seeds(curves: Sequence[_Curve]) -> _OverSeeds:
    at: dict[float, list[float]] = {}
    for curve in curves:
        for step, value in zip(curve.steps.tolist(), curve.values.tolist(), strict=True):
            at.setdefault(step, []).append(value)
    steps = sorted(at)
    columns = [[reduce(at[step]) for step in steps] for reduce in (np.mean, np.min, np.max)]
    return _OverSeeds(*(np.asarray(column, dtype=np.float64) for column in (steps, *columns)))


def _draw_swept(
    axes: Axes,
    points: Sequence[_Point],
    curve_of: Callable[[_SweptRun], _Curve],
    title: str,
    name: str | None = None,
) -> None:
    drawn, largest = [], []
    for index, point in enumerate(points):
        curves = [curve_of(run) for run in point.runs]
        over = _over_seeds(curves)
        if not len(over.steps):
            continue
        above = 3.0 - index / len(points)  # the first point, such as the plain method, stays visible
        if len(curves) > 1 and len(points) <= _MANY:
            alpha = 0.2 if len(points) <= 4 else 0.12
            axes.fill_between(over.steps, over.low, over.high, color=point.colour, alpha=alpha, linewidth=0, zorder=1.9)
        marker = "o" if len(over.steps) <= _FEW_POINTS // 2 and len(points) <= _MANY else ""
        width = 2.0 if len(points) <= _MANY else 1.3
        axes.plot(
            over.steps, over.mean, color=point.colour, linestyle=point.line_style, linewidth=width, marker=marker,
            markersize=3.0, zorder=above,
        )  # fmt: skip
        for run, curve in zip(point.runs, curves, strict=True):
            if run.status == "failed" and len(curve.steps):
                _mark_failure(axes, float(curve.steps[-1]), float(curve.values[-1]), point.colour)
        drawn += [over.low, over.high]
        largest.append(float(np.abs(drawn[-2:]).max()))
    _title(axes, title)
    if not drawn:
        _say(axes, f"no {name} in the metrics" if name else "no evaluation yet")
        return
    if name:
        axes.set_title(name, loc="right", fontsize=11, family="monospace", color=PALE)
    values = np.concatenate(drawn)
    usual = float(np.median(np.abs(values)))
    if name and usual > 0.0 and max(largest) / usual >= _EXPLODED and not (values.min() > 0.0 and name in _POSITIVE):
        _scale_exploded(axes, values, max([usual, *(size for size in largest if size <= 5.0 * usual)]))
    else:
        _scale(axes, values, decades=_POSITIVE.get(name or "", np.inf))


def _scale_exploded(axes: Axes, values: NDArray[np.float64], ordinary: float) -> None:
    """A linear axis as far as ordinary values go, up to the dashed line, and a logarithmic one beyond."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    power = 10.0 ** np.floor(np.log10(ordinary))
    threshold = float(next(digit * power for digit in (1.0, 2.0, 5.0, 10.0) if digit * power >= 0.999 * ordinary))
    axes.set_yscale("symlog", linthresh=threshold, linscale=2.0)
    ticks = [0.0]
    for sign in (-1.0, 1.0):
        extreme = max(float((sign * values).max()), 0.0)
        if extreme > 0.0:
            ticks += [sign * threshold / 2, sign * threshold]
        if extreme > threshold:
            axes.axhline(sign * threshold, color=PALE, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
            axes.text(
                0.01, sign * threshold, "logarithmic " + ("above" if sign > 0.0 else "below"), fontsize=9.5,
                color=PALE, transform=axes.get_yaxis_transform(), va="bottom" if sign > 0.0 else "top",
            )  # fmt: skip
        # From where a label does not touch that of the threshold.
        first, last = int(np.ceil(np.log10(2.5 * threshold))), int(np.floor(np.log10(max(extreme, 1e-300))))
        ticks += [sign * 10.0**exponent for exponent in range(first, last + 1, max(1, -(-(last - first) // 6)))]
    axes.set_yticks(ticks)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _mark_failure(axes: Axes, x: float, y: float, colour: Any) -> None:
    axes.plot(x, y, marker="X", color=colour, markersize=10, markeredgecolor="white", markeredgewidth=1.0, zorder=5)


class _Final(NamedTuple):
    """The last evaluations of a point's runs."""

    mean: float  # over the runs whose last evaluation is as late as any of the point's
    runs: list[tuple[_SweptRun, float]]


def _final(point: _Point) -> _Final | None:
    with_returns = [run for run in point.runs if len(run.returns.steps)]
    if not with_returns:
        return None
    last = max(run.returns.steps[-1] for run in with_returns)
    mean = np.mean([run.returns.values[-1] for run in with_returns if run.returns.steps[-1] == last])
    return _Final(float(mean), [(run, float(run.returns.values[-1])) for run in with_returns])


def _draw_final_line(axes: Axes, points: Sequence[_Point], key: str) -> None:
    """Over the numbers of one key, at equal distances: swept numbers are seldom evenly spaced, and may be 0."""
    finals = [(x, point, final) for x, point in enumerate(points) if (final := _final(point)) is not None]
    axes.plot([x for x, _, _ in finals], [final.mean for _, _, final in finals], color=PALE, linewidth=1.0, zorder=2)
    axes.hlines(
        [final.mean for _, _, final in finals], [x - 0.3 for x, _, _ in finals], [x + 0.3 for x, _, _ in finals],
        colors=[point.colour for _, point, _ in finals], linewidth=3.0, zorder=3,
    )  # fmt: skip
    for x, point, final in finals:
        spread = np.linspace(-0.12, 0.12, len(final.runs)) if len(final.runs) > 1 else np.zeros(1)
        for offset, (run, value) in zip(spread, final.runs, strict=True):
            _dot(axes, x + float(offset), value, run, point.colour)
    every = -(-len(points) // _MANY)
    axes.set_xticks(range(0, len(points), every), [point.values[key] for point in points[::every]])
    axes.set_xlim(-0.6, len(points) - 0.4)
    axes.set_xlabel(key, fontsize=13, color=INK)
    axes.set_title("mean and runs", loc="right", fontsize=11, color=PALE)


def _draw_final_bars(axes: Axes, points: Sequence[_Point]) -> None:
    from matplotlib.patheffects import withStroke

    if len(points) == 1:
        points = [points[0]._replace(label=human_point(run.name), runs=[run]) for run in points[0].runs]
    finals = [(point, final) for point in points if (final := _final(point)) is not None]
    finals.sort(key=lambda each: -each[1].mean)
    size = max(6.0, min(11.0, 200.0 / len(finals)))
    below = all(final.mean < 0.0 for _, final in finals)
    for y, (point, final) in enumerate(finals):
        axes.barh(y, final.mean, height=0.7, color=point.colour, alpha=0.4, linewidth=0, zorder=2)
        for run, value in final.runs:
            _dot(axes, value, float(y), run, point.colour)
        # In the bar: names of any length would take the room of the panels.
        axes.text(
            0.985 if below else 0.015, y, _shortened(point.label, 42), transform=axes.get_yaxis_transform(),
            ha="right" if below else "left", va="center", fontsize=size, color=INK, zorder=6,
            path_effects=[withStroke(linewidth=2.0, foreground="white", alpha=0.6)],
        )  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(max(len(finals), 4) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.axvline(0.0, color=PALE, linewidth=0.8)


def _draw_final_grid(axes: Axes, points: Sequence[_Point], across: str, up: str) -> None:
    from matplotlib import colormaps

    columns, rows = _values(points, across), _values(points, up)
    means, marks = np.full((len(rows), len(columns)), np.nan), {}
    for point in points:
        final, place = _final(point), (rows.index(point.values[up]), columns.index(point.values[across]))
        if final is not None:
            means[place] = final.mean
        if any(run.status == "failed" for run in point.runs):
            marks[place] = "×"
        elif any(run.status != "finished" for run in point.runs):
            marks[place] = "°"
    axes.imshow(means, aspect="auto", origin="lower", cmap=colormaps["Blues"].with_extremes(bad="#f4f4f4"), alpha=0.85)
    size = max(7.0, min(13.0, 90.0 / len(columns)))
    for (row, column), mean in np.ndenumerate(means):
        dark = bool(np.isfinite(mean)) and mean > 0.4 * np.nanmin(means) + 0.6 * np.nanmax(means)
        text = ("" if np.isnan(mean) else f"{mean:.0f}") + marks.get((row, column), "")
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else INK)
    if any(len(point.runs) > 1 for point in points):
        axes.set_title("mean over seeds", loc="right", fontsize=11, color=PALE)
    axes.grid(False)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(across, fontsize=13, color=INK)
    axes.set_ylabel(up, fontsize=13, color=INK)


def _dot(axes: Axes, x: float, y: float, run: _SweptRun, colour: Any) -> None:
    """One run: full where it finished, a cross where it failed, a ring where it is on its way."""
    if run.status == "failed":
        _mark_failure(axes, x, y, colour)
        return
    fill = colour if run.status == "finished" else "white"
    axes.plot(
        x, y, marker="o", markersize=6.5, markerfacecolor=fill, markeredgecolor=colour, markeredgewidth=1.4, zorder=4
    )  # fmt: skip


def _legend(points: Sequence[_Point], keys: Sequence[str], by_grid: bool) -> tuple[list[Artist], int, str | None]:
    """What the colours and line styles mean: entries, in how many columns, and their heading."""
    from matplotlib.lines import Line2D

    def entry(label: str, colour: Any, style: Any = "-") -> Artist:
        return Line2D([], [], color=colour, linestyle=style, linewidth=2.6, label=label)

    if by_grid:
        first = {point.values[keys[0]]: point.colour for point in points}
        second = {point.values[keys[1]]: point.line_style for point in points}
        colours = [entry(f"{keys[0]} = {value}", first[value]) for value in _values(points, keys[0])]
        if len(set(second.values())) < len(second):
            return colours, min(len(colours), 8), None
        styles = [entry(f"{keys[1]} = {value}", INK, second[value]) for value in _values(points, keys[1])]
        styles += [entry("", "none")] * (len(colours) - len(styles))
        # Legends are filled down their columns: this makes a row of colours and a row of line styles.
        return [handle for pair in zip(colours, styles, strict=True) for handle in pair], len(colours), None
    shown = list(points)
    if len(points) > _MANY and len(keys) == 1 and all(number(point.label) is not None for point in points):
        shown = [points[index] for index in np.linspace(0, len(points) - 1, 9).round().astype(int)]
    labels = [_shortened(point.label, 40) for point in shown]
    n_columns = max(1, min(len(shown), 150 // (max(map(len, labels)) + 8)))
    handles = [entry(label, point.colour, point.line_style) for label, point in zip(labels, shown, strict=True)]
    return handles, n_columns, keys[0] if len(keys) == 1 else None


def _caption(points: Sequence[_Point], runs: Sequence[_SweptRun]) -> str:
    """How to read the lines, and which runs are not whole."""
    n_seeds = sorted({len(point.runs) for point in points})
    parts = []
    if n_seeds[-1] > 1:
        seeds = f"{n_seeds[0]} to {n_seeds[-1]}" if len(n_seeds) > 1 else str(n_seeds[0])
        band = ", band from the lowest to the highest" if len(points) <= _MANY else ""
        parts.append(f"mean over {seeds} seeds{band}")
    failed = [f"{human_point(run.name)} at step {run.step}" for run in runs if run.status == "failed"]
    if failed:
        more = f" and {len(failed) - 4} more" if len(failed) > 4 else ""
        parts.append(f"failed (crosses): {', '.join(failed[:4])}{more}")
    going = [run for run in runs if run.status not in ("finished", "failed")]
    if going:
        steps, lengths = sorted({run.step for run in going}), {run.n_steps for run in going}
        which = human_point(going[0].name) if len(going) == 1 else f"{len(going)} of {len(runs)} runs"
        at = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        of = f" of {lengths.pop()}" if len(lengths) == 1 and None not in lengths else ""
        parts.append(f"not finished (rings): {which} at step {at}{of}")
    return textwrap.fill("; ".join(parts), 150)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
