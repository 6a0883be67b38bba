"""Figures of a run, drawn from the files in its folder.

``matplotlib`` is imported when something is drawn, and used through its objects alone: no window, no backend and no
global state, so that a figure may be drawn from any thread of any program.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cql.loggers import EPISODES_FILE, METRICS_FILE, EpisodeRow, read_episodes, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEY_CURVES_FILE = "key_curves.png"

# Told apart by readers with any form of colour vision, and in grey.
_BLUE, _ORANGE, _GREEN = "#2166ac", "#d6732a", "#4a9b6e"
_INK, _PALE, _GRID = "#222222", "#767676", "#e3e3e3"
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

    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(13.0, 7.0), dpi=130, facecolor="white", layout=layout)
    panels: list[Axes] = list(figure.subplots(2, 3, sharex=True).flat)
    for panel in panels:
        _style(panel)
    returns, q_values, critic_td, gap, alpha_cql, entropy = panels

    _draw_returns(returns, episodes, metrics)
    _draw_q_values(q_values, metrics)
    _draw_one(critic_td, metrics, "critic_td", "TD error of the critics")
    has_residual = any("cql_residual" in row for row in metrics)
    if has_residual:
        _draw_one(gap, metrics, "cql_residual", "Gap minus threshold")
        gap.axhline(0.0, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    else:
        _draw_one(gap, metrics, "cql_gap", "Conservative gap")
    _draw_one(alpha_cql, metrics, "alpha_cql", "Conservative multiplier")
    _draw_entropy(entropy, metrics)

    last = max([row["step"] for row in metrics] + [row.step for row in episodes], default=0)
    entropy.set_xlim(0.0, max(last, 1) * 1.02)
    if title:
        figure.suptitle(title, fontsize=17, color=_INK)
    figure.supxlabel("gradient steps", fontsize=14, color=_INK)

    path = run_dir / KEY_CURVES_FILE
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
        axes.errorbar(curve.steps, curve.values, yerr=spread, color=_BLUE, alpha=0.4, capsize=5, zorder=2)
    else:
        axes.fill_between(curve.steps, low, high, color=_BLUE, alpha=0.18, linewidth=0, zorder=2)
    _line(axes, curve, _BLUE)
    _scale(axes, np.concatenate([low, high]))
    axes.set_title(f"last {curve.values[-1]:,.0f} ± {spread[-1]:,.0f}", loc="right", fontsize=11, color=_BLUE)
    over = f"over {sum(row.step == episodes[-1].step for row in episodes)} episodes" if episodes else "over episodes"
    _note(axes, f"mean ± one standard deviation\n{over}", "bottom")


def _draw_q_values(axes: Axes, metrics: Sequence[dict[str, float]]) -> None:
    _title(axes, "Q values")
    drawn = []
    for name, label, colour in (
        ("q_data", "dataset actions", _BLUE),
        ("q_policy", "policy actions", _ORANGE),
        ("q_uniform", "uniform actions", _GREEN),
    ):
        curve = _curve(metrics, name)
        if len(curve.steps):
            _line(axes, curve, colour, label)
            drawn.append(curve.values)
    if not drawn:
        _say(axes, "no q_data, q_policy or q_uniform\nin the metrics")
        return
    _scale(axes, np.concatenate(drawn), logarithm=False)
    axes.legend(frameon=False, fontsize=11, labelcolor=_INK, handlelength=1.4)


def _draw_one(axes: Axes, metrics: Sequence[dict[str, float]], name: str, title: str) -> None:
    _title(axes, title, name)
    curve = _curve(metrics, name)
    if not len(curve.steps):
        _say(axes, f"no {name} in the metrics")
        return
    _line(axes, curve, _BLUE)
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
        axes.tick_params(axis="y", labelcolor=_BLUE)
        axes.set_title("entropy", loc="right", fontsize=11, family="monospace", color=_BLUE)
    right = axes.twinx()
    _line(right, temperature, _ORANGE)
    _scale(right, temperature.values)
    right.tick_params(labelsize=11.5, length=0, labelcolor=_ORANGE)
    right.spines[:].set_visible(False)
    right.set_ylabel("alpha_temp", fontsize=11, family="monospace", color=_ORANGE)


def _line(axes: Axes, curve: _Curve, colour: str, label: str | None = None) -> None:
    marker = "o" if len(curve.steps) <= _FEW_POINTS else ""
    axes.plot(
        curve.steps, curve.values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=label, zorder=3
    )  # fmt: skip


def _scale(axes: Axes, values: NDArray[np.float64], logarithm: bool = True) -> None:
    """A logarithmic axis where the values span decades; room around a constant."""
    low, high = float(values.min()), float(values.max())
    if logarithm and low > 0.0 and high / low >= _DECADES:
        axes.set_yscale("log")
        axes.tick_params(axis="y", which="minor", length=0)
        return
    axes.ticklabel_format(axis="y", useOffset=False)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        room = abs(high) or 1.0
        axes.set_ylim(low - room, high + room)


def _title(axes: Axes, title: str, name: str | None = None) -> None:
    axes.set_title(title, loc="left", fontsize=13.5, fontweight="bold", color=_INK)
    if name:
        axes.set_title(name, loc="right", fontsize=11, family="monospace", color=_PALE)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=_PALE)
    axes.set_yticks([])


def _note(axes: Axes, text: str, where: Literal["top", "bottom"]) -> None:
    height = 0.95 if where == "top" else 0.05
    axes.text(0.98, height, text, transform=axes.transAxes, ha="right", va=where, fontsize=10.5, color=_PALE)


def _style(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_PALE)
    axes.tick_params(labelsize=11.5, length=0, labelcolor=_INK)


def _short(steps: float) -> str:
    """20000 as 20k, 1500000 as 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{letter}"
    return f"{steps:g}"
