"""What :mod:`cql.data.inspection` knows of a dataset, as one page with figures.

Axes: E episodes, S state features, A action features.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cql.data.inspection import (
    BINS,
    ENDS,
    EXPLAINED,
    NEAR,
    Inspection,
    Spread,
    by_behaviour,
    number,
    percent,
    share_of,
    summary,
)
from cql.results import figures, pages
from cql.results.page import Cell, document, figure, table, write
from cql.rollout.envs import normalised_score
from cql.training.curves import INK, PALE, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_DOTS = 1000
_MOST_PANELS = 24
_MOST_BARS = 60
_WIDTH = 11.1  # of a figure, in inches


def write_page(found: Inspection, folder: Path, *, title: str, command: str) -> Path:
    """Write ``index.html``, ``summary.json`` and ``figures/`` to a folder.

    Args:
        found: what is known.
        folder: made where it is not there; files of an earlier inspection are replaced one by one.
        title: heading of the page.
        command: that made it.

    Returns:
        The page.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for name, draw in _FIGURES.items():
        made = draw(found)
        if made is None:
            for suffix in ("svg", "png"):
                folder.joinpath("figures", f"{name}.{suffix}").unlink(missing_ok=True)
        else:
            svg_path, _ = figures.save(made, folder / "figures", name)
            drawn[name] = svg_path.read_text(encoding="utf-8")
    write(folder / "summary.json", json.dumps(summary(found), indent=1) + "\n")
    return write(folder / "index.html", document(title, _body(found, drawn, title, command)))


# Figures --------------------------------------------------------------------------------------------------------------


def _panels(n: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page and n panels, filled row by row."""
    return figures.page_panels(n, width=_WIDTH / columns, height=height, columns=columns)


def _head(axes: Axes, left: str, right: str = "", x: str = "", y: str = "") -> None:
    axes.set_title(left, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_title(right, loc="right", fontsize=8.5, color=PALE)
    axes.set_xlabel(x, fontsize=9, color=PALE)
    axes.set_ylabel(y, fontsize=9, color=PALE)


def _commas(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"))


def _thinned(n: int) -> NDArray[np.int64]:
    """Which of n are drawn as dots: all, or so many evenly chosen."""
    return np.arange(n) if n <= _MOST_DOTS else np.linspace(0, n - 1, _MOST_DOTS).round().astype(np.int64)


def _stacked(
    axes: Axes, groups: Sequence[tuple[str, NDArray[Any]]], colours: Sequence[str], bins: NDArray[np.float64]
) -> None:
    """A histogram of several groups, one on the other."""
    from matplotlib.ticker import MaxNLocator

    below = np.zeros(len(bins) - 1)
    for (label, values), colour in zip(groups, colours, strict=True):
        above = below + np.histogram(values, bins)[0]
        axes.stairs(above, bins, baseline=below, fill=True, color=colour, alpha=0.75, linewidth=0, label=label)
        below = above
    axes.set_ylim(bottom=0)
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _commas(axes.yaxis)


def _edges(values: NDArray[Any], bins: int, whole: bool = False) -> NDArray[np.float64]:
    """Edges of a histogram of values; with `whole` each bin holds equally many of the whole numbers."""
    low, high = float(values.min()), float(values.max())
    if whole:
        step = max(1.0, math.ceil((high - low + 1.0) / bins))
        return np.arange(low - 0.5, high + 0.5 + step, step)
    if high == low:
        low, high = low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)
    return np.linspace(low, high, bins + 1)


def _draw_returns(found: Inspection) -> Figure | None:
    """Returns as a histogram, and in the order of the data."""
    sound = np.isfinite(found.returns)
    if not sound.any():
        return None
    made, (left, right) = _panels(2, columns=2, height=3.1)
    groups = [(name, own[np.isfinite(own)]) for name, _, own in by_behaviour(found, found.returns)]
    if not 1 < len(groups) <= len(SERIES):
        groups = [("", found.returns[sound])]
    colours = SERIES[: len(groups)]
    edges = _edges(found.returns[sound], min(60, max(8, int(sound.sum()) // 3)))
    _stacked(left, groups, colours, edges)
    spread = Spread.of(found.returns)
    left.axvline(spread.mean, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    _head(left, "Returns", f"mean {number(spread.mean)} (dashed)", "return of an episode", "episodes")
    _commas(left.xaxis)
    if found.reference is not None:
        low, high = found.reference
        span = (high - low) / 100.0
        functions = (lambda r: (np.asarray(r) - low) / span, lambda s: low + np.asarray(s) * span)
        top = left.secondary_xaxis(-0.22, functions=functions)
        top.tick_params(labelsize=8, length=0, labelcolor=PALE)
        top.spines["bottom"].set_visible(False)
        top.set_xlabel("score", fontsize=8.5, color=PALE)
    chosen = _thinned(found.n_episodes)
    first = 0
    for (name, values), colour in zip(
        [(name, own) for name, _, own in by_behaviour(found, found.returns)] if len(groups) > 1 else
        [("", found.returns)], colours, strict=True,
    ):  # fmt: skip
        own = chosen[(chosen >= first) & (chosen < first + len(values))]
        right.plot(own, found.returns[own], "o", color=colour, markersize=3.0, alpha=0.55, markeredgewidth=0,
                   label=name or None)  # fmt: skip
        first += len(values)
    window = max(5, found.n_episodes // 30)
    if found.n_episodes >= 4 * window:
        places, medians = _running_median(found.returns, window)
        right.plot(places, medians, color=INK, linewidth=1.6)
    trend = "" if math.isnan(found.order_correlation) else f"rank correlation {found.order_correlation:.2f}"
    _head(right, "In the order of the data", trend, "episode", "return")
    _commas(right.yaxis)
    _commas(right.xaxis)
    if len(groups) > 1:
        left.legend(frameon=False, fontsize=8, labelcolor=INK)
    return made


def _running_median(values: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Medians of a window at 120 places or fewer, without what is NaN."""
    last = len(values) - window
    begins = np.unique(np.linspace(0, last, min(last + 1, 120)).round().astype(int))
    parts = [values[begin : begin + window] for begin in begins]
    parts = [part[np.isfinite(part)] for part in parts]
    medians = np.array([np.median(part) if len(part) else math.nan for part in parts])
    return begins + (window - 1) / 2.0, medians


def _draw_lengths(found: Inspection) -> Figure | None:
    """Lengths by how episodes ended, and returns against them; nothing where all are alike."""
    if len(np.unique(found.lengths)) == 1 and len(np.unique(found.ends)) == 1:
        return None
    made, (left, right) = _panels(2, columns=2, height=2.9)
    kinds = [(code, name) for code, name in enumerate(ENDS) if (found.ends == code).any()]
    groups = [(name, found.lengths[found.ends == code]) for code, name in kinds]
    _stacked(left, groups, [SERIES[code] for code, _ in kinds], _edges(found.lengths, 60, whole=True))
    left.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    _head(left, "Lengths", f"{found.lengths.min():,} to {found.lengths.max():,} steps", "steps of an episode",
          "episodes")  # fmt: skip
    chosen = _thinned(found.n_episodes)
    for code, _ in kinds:
        own = chosen[found.ends[chosen] == code]
        right.plot(found.lengths[own], found.returns[own], "o", color=SERIES[code], markersize=3.0, alpha=0.55,
                   markeredgewidth=0)  # fmt: skip
    _head(right, "Return against length", "one dot an episode", "steps of an episode", "return")
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        _commas(axis)
    return made


def _draw_actions(found: Inspection) -> Figure | None:
    """Histograms between the bounds, those near a bound in another colour."""
    n = min(len(found.near_bound), _MOST_PANELS)
    columns = 4 if n > 6 or n == 4 else min(n, 3)
    made, panels = _panels(n, columns=columns, height=1.75 if n > 3 else 2.2)
    highest = (
        100.0 * (found.action_counts[:n] / np.maximum(found.action_counts[:n].sum(axis=1, keepdims=True), 1)).max()
    )
    for index, axes in enumerate(panels):
        counts = found.action_counts[index]
        shares = 100.0 * counts / max(1, counts.sum())
        edges = np.linspace(found.action_low[index], found.action_high[index], BINS + 1)
        axes.stairs(shares[1:-1], edges[1:-1], fill=True, color=SERIES[0], alpha=0.75, linewidth=0)
        for begin in (0, BINS - 1):
            # Wider than they are, or they would hardly be seen.
            width = 1.6 * (edges[1] - edges[0])
            x = edges[0] - 0.6 * (edges[1] - edges[0]) if begin == 0 else edges[-2]
            axes.bar(x, shares[begin], width=width, align="edge", color=SERIES[1], linewidth=0)
        axes.set_ylim(0.0, 1.06 * highest)
        room = 0.03 * (edges[-1] - edges[0])
        axes.set_xlim(edges[0] - room, edges[-1] + room)
        axes.set_xticks([edges[0], edges[BINS // 2], edges[-1]])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.grid(False, axis="x")
        if index % columns:
            axes.set_yticklabels([])
        near = f"{percent(float(found.near_bound[index]))} near a bound"
        _head(axes, f"action {index}", near, "", "" if index % columns else "% of actions")
    return made


def _draw_observations(found: Inspection) -> Figure | None:
    """Where each feature lies, and its standard deviation."""
    own, n = found.observations, min(len(found.observations.std), _MOST_BARS)
    made, (left, right) = _panels(2, columns=2, height=max(2.6, 0.75 + (0.19 if n <= 30 else 0.12) * n))
    places = np.arange(n)
    left.hlines(places, own.min[:n], own.max[:n], color=SERIES[0], linewidth=1.2, alpha=0.6)
    left.hlines(places, (own.mean - own.std)[:n], (own.mean + own.std)[:n], color=SERIES[0], linewidth=5.0, alpha=0.55)
    left.plot(own.mean[:n], places, "|", color=INK, markersize=7, markeredgewidth=1.4)
    reach = np.maximum(np.abs(own.min[:n]), np.abs(own.max[:n]))
    if reach.max() > 30.0 * max(float(np.median(reach)), 1e-12):
        left.set_xscale("symlog", linthresh=float(f"{max(float(np.median(reach)), 1e-9):.1g}"))
    else:
        _commas(left.xaxis)
    _head(left, "Where observations lie", "thick: mean ± std, thin: min to max", "in the environment's units",
          "feature")  # fmt: skip
    varies = own.std[:n] > 0.0
    floor = float(own.std[:n][varies].min()) / 2.0 if varies.any() else 0.1
    right.hlines(places[varies], floor, own.std[:n][varies], color=SERIES[0], linewidth=1.2, alpha=0.5)
    right.plot(own.std[:n][varies], places[varies], "o", color=SERIES[0], markersize=5.0, markeredgewidth=0)
    for place in places[~varies]:
        right.text(floor * 1.05, place, "constant", color=SERIES[1], fontsize=8.5, va="center")
    right.set_xscale("log")
    right.set_xlim(left=floor)
    every = own.std[own.std > 0.0]
    ratio = float(every.max() / every.min()) if len(every) else 1.0
    _head(right, "Their scales", f"largest is {number(ratio)} times the smallest", "standard deviation")
    step = 1 if n <= 30 else 5
    for axes in (left, right):
        axes.set_yticks(places[::step], [str(place) for place in places[::step]], fontsize=8)
        axes.set_ylim(n - 0.4, -0.6)
        axes.grid(False, axis="y")
    return made


def _draw_rewards(found: Inspection) -> Figure | None:
    """Rewards, and discounted returns."""
    made, (left, right) = _panels(2, columns=2, height=2.7)
    for axes, histogram, spread, colour, title, x in (
        (left, found.reward_histogram, found.rewards, SERIES[0], "Rewards", "reward of a transition"),
        (right, found.discounted_histogram, found.discounted, SERIES[2],
         f"Discounted returns, discount {found.discount:g}", "from a transition to the episode's end"),
    ):  # fmt: skip
        total = max(1, spread.n)
        axes.stairs(100.0 * histogram.counts / total, histogram.edges, fill=True, color=colour, alpha=0.75, linewidth=0)
        if spread.n:
            axes.axvline(spread.mean, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        outside = f", {percent(histogram.outside / total)} further out" if histogram.outside else ""
        _head(axes, title, f"mean {number(spread.mean)} (dashed){outside}", x, "% of transitions")
        axes.set_ylim(bottom=0.0)
        axes.grid(False, axis="x")
        _commas(axes.xaxis)
    return made


def _draw_coverage(found: Inspection) -> Figure | None:
    """Variance by principal directions, and how densely the first two are covered."""
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import MaxNLocator

    own = found.coverage
    if own.plane is None:
        return None
    made, (left, right) = _panels(2, columns=2, height=3.4)
    n = len(own.explained)
    left.axhline(100.0 * EXPLAINED, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    left.bar(
        np.arange(1, n + 1), 100.0 * own.explained, width=0.8, linewidth=0, alpha=0.75,
        color=[SERIES[0] if index < own.n_directions else PALE for index in range(n)],
    )  # fmt: skip
    left.set_ylim(0.0, 103.0)
    left.grid(False, axis="x")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    _head(left, "Variance explained", f"{percent(EXPLAINED)} by {own.n_directions} of {n} directions",
          "principal directions", "% of the variance")  # fmt: skip
    # One colour that is more or less opaque reads on a light and on a dark ground.
    strength = np.sqrt(own.plane.T / max(1.0, own.plane.max()))
    picture = np.empty((*strength.shape, 4))
    picture[..., :3] = np.array(to_rgb(SERIES[5]))
    picture[..., 3] = strength
    right.imshow(picture, origin="lower", extent=own.extent, aspect="auto", interpolation="nearest", zorder=2)
    taken = float((own.plane > 0.0).mean())
    _head(right, "The first two directions", f"{percent(taken)} of the cells hold data", "first direction",
          "second direction")  # fmt: skip
    return made


_FIGURES: Mapping[str, Callable[[Inspection], Figure | None]] = {
    "returns": _draw_returns,
    "lengths": _draw_lengths,
    "rewards": _draw_rewards,
    "actions": _draw_actions,
    "observations": _draw_observations,
    "coverage": _draw_coverage,
}


# The page -------------------------------------------------------------------------------------------------------------


def _body(found: Inspection, drawn: Mapping[str, str], title: str, command: str) -> str:
    def shown(name: str, caption: str) -> str:
        if name not in drawn:
            return ""
        return figure(pages.themed(drawn[name], caption.partition(".")[0]), caption)

    sections = [
        ("returns", "Returns", _returns_section(found, shown)),
        ("ends", "Lengths and ends", _ends_section(found, shown)),
        ("rewards", "Rewards and what Q should be about", _rewards_section(found, shown)),
        ("actions", "Actions", _actions_section(found, shown)),
        ("observations", "Observations", _observations_section(found, shown)),
        ("coverage", "Coverage and repetition", _coverage_section(found, shown)),
        ("checks", "All checks", _checks_section(found)),
        ("metadata", "Metadata", _metadata_section(found, command)),
    ]
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    whose = f'<p class="pale"><code>{html.escape(found.name)}</code>, fingerprint <code>{found.fingerprint}</code></p>'
    parts = [f"<h1>{html.escape(title)}</h1>", whose, _tiles(found), _lead(found), _warnings(found)]
    parts.append(f"<nav>{links}</nav>")
    parts += [f'<section id="{name}"><h2>{heading}</h2>\n{own}</section>' for name, heading, own in sections]
    # Numbers stay with their units.
    return "\n".join(parts).replace(" %", "\u00a0%").replace("± ", "±\u00a0")


def _tiles(found: Inspection) -> str:
    returns, scores = Spread.of(found.returns), found.scores
    tiles = [
        (found.env_id, "environment"),
        (f"{found.n_transitions:,}", "transitions"),
        (f"{found.n_episodes:,}", "episodes"),
        (number(returns.mean), "mean return"),
    ]
    if scores is not None:
        tiles.append((f"{Spread.of(scores).mean:.1f}", "mean score"))
    tiles.append((number(found.discounted.mean), "discounted, from a transition on"))
    shown = "".join(f'<div class="tile"><b>{html.escape(number)}</b>{label}</div>' for number, label in tiles)
    return f'<div class="tiles">{shown}</div>'


def _lead(found: Inspection) -> str:
    returns, lengths = Spread.of(found.returns), found.lengths
    if not returns.n:
        return '<p class="lead">No episode has a finite return.</p>'
    steps = f"{lengths.min():,}" if lengths.min() == lengths.max() else f"{lengths.min():,} to {lengths.max():,}"
    best = ""
    if found.reference is not None:
        low, high = (normalised_score(value, *found.reference) for value in (returns.min, returns.max))
        best = f" (scores {low:.1f} to {high:.1f})"
    return (
        f'<p class="lead">Episodes of {steps} steps, with returns from {number(returns.min)} to '
        f"{number(returns.max)}{best}; half of them lie between {number(returns.q25)} and {number(returns.q75)}.</p>"
    )


def _with_code(said: str) -> str:
    """Plain text whose words between backticks are code, as HTML."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(said))


def _warnings(found: Inspection) -> str:
    if not found.warnings:
        return f"<p>None of {len(found.checks)} <a href='#checks'>checks</a> found anything.</p>"
    style = "border-left:4px solid {};background:var(--panel);border-radius:6px;padding:.45rem .9rem;margin:.5rem 0"
    lines = []
    for check in found.warnings:
        colour = "var(--pale)" if check.level == "note" else "var(--warn)"
        said = "training refuses the data" if check.level == "refused" else check.level
        word = f'<span class="{"pale" if check.level == "note" else "warn"}">{said}</span>'
        lines.append(
            f'<div style="{style.format(colour)}" id="{check.code}"><b>{html.escape(check.title)}</b>: '
            f"{html.escape(check.found)} · {word}"
            f'<p style="max-width:none">{_with_code(check.advice)}</p>'
            f'<p class="pale" style="max-width:none;font-size:.88rem">Said when: {html.escape(check.threshold)}.</p>'
            "</div>"
        )
    return "\n".join(lines)


def _spreads(rows: Sequence[tuple[str, Spread]], *, sortable: bool = False) -> str:
    heads = ["", "mean", "std", "min", "25 %", "median", "75 %", "max"]
    lines = [
        [
            Cell(name, is_text=True),
            *(Cell(number(value), value if math.isfinite(value) else "") for value in spread[1:]),
        ]
        for name, spread in rows
    ]
    return table([Cell(head, is_text=not head) for head in heads], lines, sortable=sortable)


_Shown = Callable[[str, str], str]


def _returns_section(found: Inspection, shown: _Shown) -> str:
    rows = [("return", Spread.of(found.returns))]
    scores = found.scores
    if scores is not None:
        rows.append(("score", Spread.of(scores)))
    if len(found.behaviours) > 1:
        rows += [(f"{name}, {n:,} episodes", Spread.of(own)) for name, n, own in by_behaviour(found, found.returns)]
    caption = "Returns of the episodes, undiscounted, and in the order they stand in the data."
    if found.n_episodes > 20:
        caption += (
            " The line is a running median: it rises where the data are those of a policy while it learnt, and jumps "
            "where one policy follows another."
        )
    if found.n_episodes > _MOST_DOTS:
        caption += f" {_MOST_DOTS:,} of {found.n_episodes:,} episodes are drawn as dots, evenly chosen."
    score = ""
    if found.reference is not None:
        low, high = map(number, found.reference)
        score = f"<p class=pale>A score of 0 is a return of {low}, one of 100 a return of {high}.</p>"
    return shown("returns", caption) + _spreads(rows) + score


def _ends_section(found: Inspection, shown: _Shown) -> str:
    caption = f"Lengths of the episodes by how they ended; the time limit is {found.time_limit:,} steps."
    heads = [Cell("end", is_text=True), Cell("episodes"), Cell("share"), Cell("steps, mean"), Cell("return, mean")]
    rows = []
    for code, name in enumerate(ENDS):
        own = found.ends == code
        n = int(own.sum())
        lengths, returns = Spread.of(found.lengths[own]), Spread.of(found.returns[own])
        rows.append(
            [Cell(name, is_text=True), Cell(f"{n:,}"), Cell(percent(n / found.n_episodes)),
             Cell(number(lengths.mean)), Cell(number(returns.mean))]
        )  # fmt: skip
    picture = shown("lengths", caption) or f"<p>All episodes have {found.lengths[0]:,} steps and end alike.</p>"
    note = (
        "<p class=pale>At a terminal state the return stops; behind an episode that was cut, it goes on, and the "
        "critics bootstrap from its last observation.</p>"
    )
    return picture + table(heads, rows, sortable=False) + note


def _rewards_section(found: Inspection, shown: _Shown) -> str:
    caption = "Rewards of all transitions, and their discounted sums to the end of the episode."
    if found.cut_short:
        caption += (
            " All episodes were cut so soon that the sums lack much of what would have followed: they are lower than "
            "the values they stand for."
        )
    elif found.discounted.n < found.rewards.n:
        caption += (
            f" {share_of(found.rewards.n - found.discounted.n, found.rewards.n, 'transitions')} are left out of the "
            "sums: their episodes were cut so soon behind them that the unknown rest would weigh more than 5 %."
        )
    name = f"discounted at {found.discount:g}"
    rows = [
        ("reward", found.rewards),
        (f"{name}, from every transition", found.discounted),
        (f"{name}, from the start of episodes", found.discounted_starts),
    ]
    note = (
        f"<p>The values that critics give to the data's actions (<code>q_data</code>) should come to lie about "
        f"{number(found.discounted.mean)}, times <code>dataset.reward_scale</code>, for a policy as good as the "
        f"data's; far beyond the largest, {number(found.discounted.max)}, they have exploded. A conservative critic "
        "lies lower.</p>"
    )
    return shown("rewards", caption) + _spreads(rows) + note


def _actions_section(found: Inspection, shown: _Shown) -> str:
    own, n = found.actions, len(found.near_bound)
    caption = (
        f"Actions between their bounds, in % of all; those within {percent(NEAR)} of a bound in the second colour."
    )
    if n > _MOST_PANELS:
        caption += f" The first {_MOST_PANELS} of {n} features."
    heads = [Cell(head) for head in ("feature", "low", "high", "mean", "std", "min", "max", "near a bound")]
    rows = []
    for index in range(n):
        values = (found.action_low, found.action_high, own.mean, own.std, own.min, own.max)
        cells = [Cell(number(float(array[index])), float(array[index])) for array in values]
        share = float(found.near_bound[index])
        rows.append([Cell(str(index)), *cells, Cell(percent(share), share)])
    note = (
        f"<p class=pale>{percent(float(found.near_bound.mean()))} of all features of all actions lie near a bound; "
        f"{percent(found.at_bound)} of transitions have one that cannot be told from it.</p>"
    )
    return shown("actions", caption) + table(heads, rows) + note


def _observations_section(found: Inspection, shown: _Shown) -> str:
    own, n = found.observations, len(found.observations.std)
    caption = "Each feature's range and its scale."
    if n > _MOST_BARS:
        caption += f" The first {_MOST_BARS} of {n} features; the table has all."
    heads = [Cell(head) for head in ("feature", "mean", "std", "min", "max")] + [Cell("", is_text=True)]
    rows = []
    for index in range(n):
        cells = [
            Cell(number(float(array[index])), float(array[index])) for array in (own.mean, own.std, own.min, own.max)
        ]
        rows.append([Cell(str(index)), *cells, Cell("constant" if index in own.constant else "", is_text=True)])
    whole = table(heads, rows)
    return shown("observations", caption) + f"<details><summary>All {n} features</summary>{whole}</details>"


def _coverage_section(found: Inspection, shown: _Shown) -> str:
    own = found.coverage
    caption = (
        "Principal directions of the observations, each feature on its own scale. Left: how much of the variance the "
        "first ones hold together. Right: how often the data visit each place of the plane of the first two."
    )
    alike = share_of(found.n_repeated, found.n_transitions, "transitions")
    lines = [
        f"{own.n_directions} of {len(own.explained)} directions hold {percent(EXPLAINED)} of the variance; by the "
        f"participation ratio the observations spread in {own.participation:.1f}.",
        f"Repeated bit for bit: {alike}; whole episodes: {found.n_repeated_episodes:,}.",
        "Begin in the very state of an earlier episode: "
        f"{share_of(found.n_shared_starts, found.n_episodes, 'episodes')}.",
    ]
    return shown("coverage", caption) + "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _checks_section(found: Inspection) -> str:
    rows = []
    for check in found.checks:
        state = "ok" if not check.fired else check.level
        name = f'<a href="#{check.code}">{html.escape(check.title)}</a>' if check.fired else html.escape(check.title)
        rows.append(
            [Cell(f'<span class="{"pale" if state in ("ok", "note") else "warn"}">{state}</span>', state, True, True),
             Cell(name, check.title, True, True), Cell(check.found, is_text=True)]
        )  # fmt: skip
    heads = [Cell(head, is_text=True) for head in ("", "looked for", "found")]
    listed = "".join(f"<li>{html.escape(check.title)}: {html.escape(check.threshold)}.</li>" for check in found.checks)
    return table(heads, rows) + f"<details><summary>When each is said</summary><ul>{listed}</ul></details>"


def _metadata_section(found: Inspection, command: str) -> str:
    known = {"id": found.name, "environment": found.env_id, "fingerprint": found.fingerprint, **found.metadata}
    rows = [
        [Cell(str(key), is_text=True),
         Cell(f'<span style="white-space:normal;overflow-wrap:anywhere">{html.escape(_said(value))}</span>', "", True,
              True)]
        for key, value in known.items()
    ]  # fmt: skip
    heads = [Cell("key", is_text=True), Cell("value", is_text=True)]
    return f"{table(heads, rows, sortable=False)}<p>Made by</p><pre>{html.escape(command)}</pre>"


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
