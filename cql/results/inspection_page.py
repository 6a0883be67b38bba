"""The page of a dataset that :mod:`cql.data.inspection` has inspected."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cql.data.inspection import Inspection, Spread, by_behaviour, mean_and_range, summary
from cql.data.inspection_checks import ENDS, number, percent
from cql.files import write_text
from cql.results import figures, pages
from cql.training.curves import INK, SERIES, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 24
_WIDTH = 11.1  # of a figure, in inches
_BAR: dict[str, Any] = {"alpha": 0.75, "linewidth": 0}


def write_page(found: Inspection, folder: Path, *, title: str, command: str) -> Path:
    """Write ``index.html``, ``summary.json`` and ``figures/`` to a folder.

    Args:
        found: the dataset.
        folder: created if needed. Files of an earlier inspection are replaced.
        title: heading of the page.
        command: that made it.

    Returns:
        The page.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for name, draw in _FIGURES.items():
        made = draw(found)
        if made is not None:
            drawn[name] = figures.save(made, folder / "figures", name)[0].read_text(encoding="utf-8")
        else:
            for suffix in ("svg", "png"):
                folder.joinpath("figures", f"{name}.{suffix}").unlink(missing_ok=True)
    write_text(folder / "summary.json", json.dumps(summary(found), indent=1) + "\n")
    write_text(folder / "index.html", _page(found, drawn, title, command))
    return folder / "index.html"


def _page(found: Inspection, drawn: Mapping[str, str], title: str, command: str) -> str:
    returns, discounted = Spread.of(found.returns), Spread.of(found.discounted)
    tiles = [
        (found.env_id, "environment"),
        (f"{len(found.raw):,}", "transitions"),
        (f"{found.raw.n_episodes:,}", "episodes"),
        (number(returns.mean), "mean return"),
        (number(discounted.mean), "mean discounted return"),
    ]
    rows = [("return", returns)] + [
        (f"{name}, {len(own):,} episodes", Spread.of(own)) for name, own in by_behaviour(found)
    ]
    if found.scores is not None:
        scores = Spread.of(found.scores)
        tiles.insert(4, (f"{scores.mean:.1f}", "mean score"))
        rows.insert(1, ("score", scores))
    known = {"id": found.raw.name, "environment": found.env_id, "fingerprint": found.fingerprint, **found.metadata}
    return pages.render(
        "inspection.html",
        title=title,
        found=found,
        figures={name: drawn.get(name) for name in ("returns", "lengths", "rewards", "actions", "observations")},
        tiles=tiles,
        returns=rows,
        rewards=[("reward", found.rewards), (f"discounted return, {found.discount:g}", discounted)],
        ends=", ".join(f"{int((found.ends == code).sum()):,} {name}" for code, name in enumerate(ENDS)),
        lengths=f"Steps of an episode: {mean_and_range(Spread.of(found.lengths))}",
        metadata=[
            (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for key, value in known.items()
        ],
        command=command,
        number=number,
    )


def _label(axes: Axes, title: str, note: str = "", x: str = "", y: str = "") -> None:
    figures.set_title(axes, title, note)
    figures.name_axes(axes, x, y)


def _draw_returns(found: Inspection) -> Figure | None:
    """Histogram of the returns, and the returns in the order of the data."""
    if not np.isfinite(found.returns).any():
        return None
    figure, (left, right) = canvas(2, _WIDTH / 2, 3.1, columns=2)
    groups = by_behaviour(found)
    if not 1 < len(groups) <= len(SERIES):
        groups = [("", found.returns)]
    parts = [own[np.isfinite(own)] for _, own in groups]
    left.hist(parts, bins=40, stacked=True, color=SERIES[: len(groups)], label=[name for name, _ in groups], **_BAR)
    _label(left, "Returns", f"mean {number(Spread.of(found.returns).mean)}", "return of an episode", "episodes")
    first = 0
    for (_, own), colour in zip(groups, SERIES, strict=False):
        step = -(-len(own) // 1000)
        right.plot(np.arange(first, first + len(own))[::step], own[::step], "o", color=colour, markersize=3, alpha=0.55)
        first += len(own)
    _label(right, "In the order of the data", "", "episode", "return")
    if len(groups) > 1:
        left.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _draw_lengths(found: Inspection) -> Figure | None:
    """Lengths by how episodes end, and returns against them; None if all episodes are alike."""
    if len(np.unique(found.lengths)) == 1 and len(np.unique(found.ends)) == 1:
        return None
    figure, (left, right) = canvas(2, _WIDTH / 2, 2.9, columns=2)
    codes = [code for code in range(len(ENDS)) if (found.ends == code).any()]
    parts, colours = [found.lengths[found.ends == code] for code in codes], [SERIES[code] for code in codes]
    left.hist(parts, bins=40, stacked=True, color=colours, label=[ENDS[code] for code in codes], **_BAR)
    left.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    _label(left, "Lengths", "", "steps of an episode", "episodes")
    for part, code, colour in zip(parts, codes, colours, strict=True):
        step = -(-len(part) // 1000)
        returns = found.returns[found.ends == code]
        right.plot(part[::step], returns[::step], "o", color=colour, markersize=3, alpha=0.55)
    _label(right, "Return against length", "one dot per episode", "steps of an episode", "return")
    return figure


def _draw_rewards(found: Inspection) -> Figure | None:
    """Rewards, and discounted returns, without the outermost thousandth at each side."""
    figure, (left, right) = canvas(2, _WIDTH / 2, 2.7, columns=2)
    for axes, values, colour, title in (
        (left, found.raw.rewards, SERIES[0], "Rewards"),
        (right, found.discounted, SERIES[2], f"Discounted returns, discount {found.discount:g}"),
    ):
        values = values[np.isfinite(values)].astype(np.float64)
        if len(values):
            low, high = np.quantile(values, [0.001, 0.999])
            axes.hist(values.clip(low, high), bins=60, color=colour, **_BAR)
        _label(axes, title, f"mean {number(Spread.of(values).mean)}", "", "transitions")
    return figure


def _draw_actions(found: Inspection) -> Figure | None:
    """Histograms between the bounds."""
    n = min(found.raw.actions.shape[1], _MOST_PANELS)
    columns = min(n, 4)
    figure, panels = canvas(n, _WIDTH / columns, 2.0, columns=columns)
    for index, axes in enumerate(panels):
        values = found.raw.actions[:, index]
        bounds = float(found.action_low[index]), float(found.action_high[index])
        axes.hist(values[np.isfinite(values)], bins=100, range=bounds, color=SERIES[0], **_BAR)
        _label(axes, f"action {index}", f"{percent(float(found.near_bound[index]))} near a bound")
    return figure


def _draw_observations(found: Inspection) -> Figure | None:
    """Standard deviation of each feature; constant ones have none."""
    std = found.observations.std
    figure, (axes,) = canvas(1, _WIDTH, 2.6)
    axes.plot(np.flatnonzero(std), std[std > 0.0], "o", color=SERIES[0])
    axes.set_xlim(-0.6, len(std) - 0.4)
    if (std > 0.0).any():
        axes.set_yscale("log")
    _label(axes, "Scales of the observations", "", "feature", "standard deviation")
    return figure


_FIGURES: Mapping[str, Callable[[Inspection], Figure | None]] = {
    "returns": _draw_returns,
    "lengths": _draw_lengths,
    "rewards": _draw_rewards,
    "actions": _draw_actions,
    "observations": _draw_observations,
}
