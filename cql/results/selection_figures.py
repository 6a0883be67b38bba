"""Figures of a choice without an environment: each scorer against the returns, and what episodes would have given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cql.results.figures import Style, name_axes, set_title, styles_of, titled_panels
from cql.results.selection import FITTED, Selection, rank_correlation
from cql.training.curves import INK, PALE, SERIES, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_LINES = 6  # runs that scorers choose, beside the curve of episodes


def scatters(selection: Selection, arms: tuple[str, ...]) -> Figure | None:
    """Every scorer against the runs' returns, a point per run; the run that it chooses has a ring."""
    if not selection.is_known:
        return None
    styles = styles_of(arms)
    figure, panels = titled_panels(selection.scorers, width=2.9, height=2.5, columns=_COLUMNS)
    for index, (axes, scorer) in enumerate(zip(panels, selection.scorers, strict=True)):
        agreed, values = (
            float(rank_correlation(selection.preference(scorer), selection.returns)),
            selection.values(scorer),
        )
        note = "" if math.isnan(agreed) else f"ρ = {agreed:.2f}"
        set_title(axes, scorer, note)
        # A policy that leaves the data has a conservative estimate far below all others, which would be one point.
        least = values.max() - 3.0 * float(values.max() - np.median(values)) if scorer == "fqe_cql" else -math.inf
        shown = np.maximum(values, least)
        for place, candidate in enumerate(selection.candidates):
            style: Style = styles[candidate.arm]
            is_beyond = values[place] < least
            marker = "<" if is_beyond else "o"
            axes.plot(shown[place], selection.returns[place], marker, color=style.colour, markersize=5, zorder=3)
            if scorer in FITTED and not is_beyond:
                bounds = [candidate.run.judgement[f"{scorer}_{end}"] for end in ("low", "high")]
                height = [selection.returns[place]] * 2
                axes.plot(bounds, height, color=style.colour, linewidth=1.2, alpha=0.6, zorder=2)
        chosen = selection.candidates.index(selection.order(scorer)[0])
        axes.plot(shown[chosen], selection.returns[chosen], "o", markersize=11, markerfacecolor="none",
                  markeredgecolor=INK, markeredgewidth=1.4, zorder=4)  # fmt: skip
        name_axes(axes, "", selection.unit if index % _COLUMNS == 0 else "")
    return figure


def online_cost(selection: Selection) -> Figure | None:
    """The return of the run that k evaluation episodes of each run choose, over k, beside what scorers choose."""
    curve = selection.online
    if not len(curve):
        return None
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = canvas(1, 8.4, 3.2)
    k = np.arange(1, len(curve) + 1)
    axes.plot(k, curve, color=INK, linewidth=2.0, marker="o", markersize=3.0, zorder=3, label="k episodes of each run")
    halving = selection.halving
    if np.isfinite(halving).any():
        axes.plot(
            np.arange(1, len(halving) + 1), halving, color=INK, linewidth=1.4, linestyle=(0, (1, 1.5)), marker="s",
            markersize=3.0, zorder=3, label="as many by halving",
        )  # fmt: skip
    chosen: dict[float, list[str]] = {}
    for scorer in selection.scorers:
        chosen.setdefault(float(selection.order(scorer)[0].returns.mean()), []).append(scorer)
    for index, (value, names) in enumerate(list(chosen.items())[:_LINES]):
        axes.axhline(value, color=SERIES[index], linewidth=1.6, linestyle=(0, (4, 2)), label=", ".join(names))
    axes.axhline(float(selection.returns.mean()), color=PALE, linewidth=1.2, linestyle=(0, (1, 2)), label="any run")
    axes.set_xlim(0, len(curve) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1.01, 0.5))
    name_axes(
        axes, f"evaluation episodes of each of {len(selection.candidates)} runs", f"{selection.unit} of the chosen run"
    )
    return figure
