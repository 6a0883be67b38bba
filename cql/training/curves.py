"""The figure of a run, drawn from the files in its folder, and the colours of all figures.

``matplotlib`` is imported when something is drawn. It is used through its objects alone: no window, no backend and no
global state, so that figures can be drawn from any thread of any program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.files import replacing
from cql.scorer_names import PREFIX
from cql.training.local_logger import EPISODES_FILE, METRICS_FILE, EpisodeRow, read_episodes, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY_CURVES_FILE = "key_curves.png"

# Distinct for readers with any form of colour vision, and in grey.
SERIES = (
    "#2166ac", "#d6732a", "#4a9b6e", "#b2375b", "#7b5ba6", "#35a3b8", "#8a6a3b", "#d4b13f", "#767676", "#e08fb5",
    "#1f2f52", "#9cb83c",
)  # fmt: skip
BLUE, ORANGE, GREEN, *_ = SERIES
INK, PALE, GRID, PAPER = "#222222", "#767676", "#e3e3e3", "#ffffff"
_FEW_POINTS = 30  # so few are drawn as points too
_DECADES = 100.0  # a positive curve that spans this ratio gets a logarithmic axis

_SCORERS = {"initial_value": "initial value", "soft_opc": "soft OPC", "advantage": "advantage"}

Metrics = Sequence[Mapping[str, float]]


class Curve(NamedTuple):
    """One number per gradient step, both (n,)."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def key_curves(run_dir: Path, title: str | None = None) -> Path:
    """Draw the curves that show how a run went, and write them to ``key_curves.png`` in its folder.

    Six panels over gradient steps: the evaluation return (mean over the episodes, with a band of one standard
    deviation on either side), beside the return of the episodes that were collected for training, or without a
    simulator those scorers that are values; the Q values of dataset, policy and uniform actions; ``critic_td``;
    ``cql_residual`` (``cql_gap`` in files without it); ``alpha_cql``; the policy's entropy with ``alpha_temp``. A panel
    without data says so.

    Args:
        run_dir: the run's folder, with ``metrics.jsonl`` or ``episodes.csv`` in it.
        title: heading of the figure, such as the run's name.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: the folder has neither file.
        ValueError: a line in one of the files is damaged.
    """
    run_dir = Path(run_dir)
    if not any((run_dir / name).exists() for name in (METRICS_FILE, EPISODES_FILE)):
        raise FileNotFoundError(f"{run_dir} has neither {METRICS_FILE} nor {EPISODES_FILE}: is it the folder of a run?")
    metrics, episodes = read_metrics(run_dir), read_episodes(run_dir)
    figure, panels = canvas(6, 13.0 / 3, 3.5, columns=3, label_size=11.5)
    if any(f"{PREFIX}initial_value" in row for row in metrics) and not any(
        "eval_return_mean" in row for row in metrics
    ):
        _draw(
            panels[0],
            metrics,
            "Scorers on recorded data",
            {f"{PREFIX}{name}": words for name, words in _SCORERS.items()},
        )
    else:
        _draw_returns(panels[0], episodes, metrics)
    actions = {"q_data": "dataset actions", "q_policy": "policy actions", "q_uniform": "uniform actions"}
    _draw(panels[1], metrics, "Q values", actions)
    _draw(panels[2], metrics, "TD error of the critics", {"critic_td": ""})
    if any("cql_residual" in row for row in metrics):
        _draw(panels[3], metrics, "Gap minus threshold", {"cql_residual": ""})
        panels[3].axhline(0.0, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    else:
        _draw(panels[3], metrics, "Conservative gap", {"cql_gap": ""})
    _draw(panels[4], metrics, "Conservative multiplier", {"alpha_cql": ""})
    _draw_entropy(panels[5], metrics)

    last = max([row["step"] for row in metrics] + [row.step for row in episodes], default=0)
    for axes in panels:
        step_axis(axes)
        axes.set_xlim(0.0, max(last, 1) * 1.02)
        mark_switch(axes, [_offline_end(metrics)])
    if title:
        figure.suptitle(title, fontsize=17, color=INK)
    label = "gradient steps (dashed: training in the environment begins)" if _offline_end(metrics) else "gradient steps"
    figure.supxlabel(label, fontsize=14, color=INK)
    return saved(figure, run_dir / KEY_CURVES_FILE)


def canvas(
    n: int, width: float, height: float, *, columns: int = 1, label_size: float = 9.0
) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, filled row by row, each with a light grid, one spine and no tick marks.

    Args:
        n: number of panels.
        width: of a panel, in inches.
        height: of a panel, in inches.
        columns: panels in a row.
        label_size: of the ticks' labels, in points.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = -(-n // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(width * columns, height * rows), facecolor="none", layout=layout)
    panels = [figure.add_subplot(rows, columns, index + 1, facecolor="none") for index in range(n)]
    for axes in panels:
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(PALE)
        axes.tick_params(labelsize=label_size, length=0, labelcolor=INK)
    return figure, panels


def mark_switch(axes: Axes, steps: Iterable[float]) -> None:
    """A dashed line at each step after which training continues in the environment; none at 0."""
    for step in steps:
        if step > 0:
            axes.axvline(step, color=PALE, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)


def step_axis(axes: Axes) -> None:
    """Few ticks, as 20k and 1.5M."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def saved(figure: Figure, path: Path, dpi: float = 130.0) -> Path:
    """Write a PNG on white, atomically."""
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=dpi, facecolor="white")
    return path


def short(steps: float) -> str:
    """20000 as 20k, 1500000 as 1.5M."""
    if abs(steps) >= 1e9:
        return f"{steps:.0e}".replace("e+0", "e").replace("e+", "e")
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{letter}"
    return f"{steps:g}"


def column(metrics: Metrics, name: str) -> Curve:
    """One metric, in the rows that have it."""
    rows = [(row["step"], row[name]) for row in metrics if name in row]
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    return Curve(table[:, 0], table[:, 1])


def by_step(rows: Iterable[tuple[float, float]]) -> dict[float, list[float]]:
    """The values of each step, in the order of the rows."""
    found: dict[float, list[float]] = {}
    for step, value in rows:
        found.setdefault(step, []).append(value)
    return found


def _offline_end(metrics: Metrics) -> float:
    """The last step of training on the dataset, if training continued in the environment; else 0."""
    if not any("env_steps" in row for row in metrics):
        return 0.0
    return max((row["step"] for row in metrics if "env_steps" not in row), default=0.0)


def _draw_returns(axes: Axes, episodes: Sequence[EpisodeRow], metrics: Metrics) -> None:
    _title(axes, "Evaluation return")
    over = "over episodes"
    if episodes:
        returns = by_step((row.step, row.return_) for row in episodes)
        curve = Curve(np.array(list(returns), np.float64), np.array([np.mean(each) for each in returns.values()]))
        spread = np.array([np.std(each) for each in returns.values()])
        over = f"over {len(returns[episodes[-1].step])} episodes"
    else:
        curve, spread = column(metrics, "eval_return_mean"), column(metrics, "eval_return_std").values
        spread = spread if len(spread) == len(curve.values) else np.zeros_like(curve.values)
    if not len(curve.steps):
        _say(axes, "no evaluation yet")
        return
    low, high = curve.values - spread, curve.values + spread
    if len(curve.steps) == 1:
        axes.errorbar(curve.steps, curve.values, yerr=spread, color=BLUE, alpha=0.4, capsize=5, zorder=2)
    else:
        axes.fill_between(curve.steps, low, high, color=BLUE, alpha=0.18, linewidth=0, zorder=2)
    _line(axes, curve, BLUE)
    online = column(metrics, "online_return")
    if len(online.steps):
        _line(axes, online, ORANGE, "training episodes\n(sampled actions)")
        axes.legend(frameon=False, fontsize=11, labelcolor=INK, handlelength=1.4)
    _scale(axes, np.concatenate([low, high, online.values]))
    axes.set_title(f"last {curve.values[-1]:,.0f} ± {spread[-1]:,.0f}", loc="right", fontsize=11, color=BLUE)
    _note(axes, f"mean ± one standard deviation {over}")


def _draw(axes: Axes, metrics: Metrics, title: str, names: dict[str, str]) -> None:
    """Draw some metrics, with a legend of their labels if they have any; or say that they are missing."""
    _title(axes, title, next(iter(names)) if len(names) == 1 else "")
    curves = [column(metrics, name) for name in names]
    if not any(len(curve.steps) for curve in curves):
        missing = " or ".join(", ".join(names).rsplit(", ", 1))
        _say(axes, f"no {missing}{' ' if len(names) == 1 else chr(10)}in the metrics")
        return
    for curve, label, colour in zip(curves, names.values(), SERIES, strict=False):
        if len(curve.steps):
            _line(axes, curve, colour, label)
    _scale(axes, np.concatenate([curve.values for curve in curves]), _DECADES if len(names) == 1 else np.inf)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=11, labelcolor=INK, handlelength=1.4)


def _draw_entropy(axes: Axes, metrics: Metrics) -> None:
    entropy, temperature = column(metrics, "entropy"), column(metrics, "alpha_temp")
    _draw(axes, metrics, "Entropy of the policy", {"entropy": ""})
    if not len(temperature.steps):
        return
    if np.ptp(temperature.values) == 0.0:
        _note(axes, f"alpha_temp = {temperature.values[-1]:g}")
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


def _line(axes: Axes, curve: Curve, colour: str, label: str | None = None) -> None:
    marker = "o" if len(curve.steps) <= _FEW_POINTS else ""
    axes.plot(*curve, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=label, zorder=3)


def _scale(axes: Axes, values: NDArray[np.float64], decades: float = _DECADES) -> None:
    """A logarithmic axis for values that span decades; a margin around a constant."""
    low, high = float(values.min()), float(values.max())
    if low > 0.0 and high / low >= decades:
        axes.set_yscale("log")
        axes.tick_params(axis="y", which="minor", length=0)
        return
    axes.ticklabel_format(axis="y", useOffset=False)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        margin = abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


def _title(axes: Axes, title: str, name: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=13.5, fontweight="bold", color=INK)
    axes.set_title(name, loc="right", fontsize=11, family="monospace", color=PALE)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=PALE)
    axes.set_yticks([])


def _note(axes: Axes, text: str) -> None:
    """Below the panel, where it hides no curve."""
    axes.set_xlabel(text, loc="right", fontsize=10.5, color=PALE)
