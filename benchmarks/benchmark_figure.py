"""Draw how cost grows, from the files that `benchmark.py --json` wrote.

python benchmarks/benchmark_figure.py FILE.json ... --out FIGURE.png

Reads the rows of `cost`, `update_stack` and `memory`; a panel for which the files hold nothing stays empty.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from cql.training.curves import BLUE, GREEN, ORANGE, canvas, saved

Row = dict[str, Any]

# What implementations are called, and their colours: each has the same in every panel.
LINES = {
    "ours-exact": ("exact", BLUE),
    "ours-sampled-k1": ("sampled, k = 1", ORANGE),
    "ours-load": ("loading the data", GREEN),
}
SIZES = ("batch_size", "width", "num_sampled_actions")
NAMES = {"batch_size": "batch size", "width": "hidden width", "num_sampled_actions": "samples per group"}


def milliseconds(row: Row) -> tuple[float, list[float]]:
    """Of a step: median and spread."""
    return 1000 / row["rate"], [1000 / rate for rate in reversed(row["spread"])]


def rate(row: Row) -> tuple[float, list[float]]:
    """Updates per second: median and spread."""
    return row["rate"], row["spread"]


def value(row: Row) -> tuple[float, list[float]]:
    """What was measured: median and spread."""
    return row["value"], row["spread"]


def varied(rows: Iterable[Row], size: str) -> list[Row]:
    """The rows of `cost` in which no other size than this one differs from the base, which most others share."""
    own = [row for row in rows if row["what"] == "cost"]
    base = {key: max(counted := [row[key] for row in own], key=counted.count) for key in SIZES} if own else {}
    return [row for row in own if all(row[key] == base[key] for key in SIZES if key != size)]


def draw(axes: Axes, rows: Iterable[Row], across: str, number: Callable[[Row], tuple[float, list[float]]]) -> None:
    """A line for each implementation, with the spread of its rounds as a bar."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("rate") is not None or row.get("value") is not None:
            by_name.setdefault(row["impl"], []).append(row)
    for name, own in by_name.items():
        own.sort(key=lambda row: row[across])
        found = [number(row) for row in own]
        label, colour = LINES.get(name, (name, None))
        middle = [each for each, _ in found]
        spread = [[each - low for each, (low, _) in found], [high - each for each, (_, high) in found]]
        axes.errorbar(
            [row[across] for row in own], middle, yerr=spread, color=colour, marker="o", markersize=4, label=label
        )
        axes.set_xscale("log")
        axes.set_xticks([row[across] for row in own])  # of a log axis, which has its own before


def figure(rows: list[Row]) -> Figure:
    """Six panels: a step's time against three sizes, a stack's rate and memory, memory against the data's size."""
    made, panels = canvas(6, 11 / 3, 3, columns=3)
    for axes, size in zip(panels, SIZES, strict=False):
        draw(axes, varied(rows, size), size, milliseconds)
        axes.set(title="Time of a step", xlabel=NAMES[size], ylabel="ms", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    draw(panels[3], [row for row in rows if row["what"] == "update_stack"], "runs", rate)
    panels[3].set(title="Updates of all runs", xlabel="runs in the stack", ylabel="per second", ylim=(0, None))
    memory = [row for row in rows if row["what"] == "memory"]
    draw(panels[4], [row for row in memory if "runs" in row], "runs", value)
    panels[4].set(title="Peak memory of a process", xlabel="runs in the stack", ylabel="MiB", ylim=(0, None))
    draw(panels[5], [row for row in memory if "transitions" in row], "transitions", value)
    panels[5].set(title="Peak memory of a process", xlabel="transitions", ylabel="MiB", ylim=(0, None))
    for axes in panels:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False)
    panels[5].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:,.0f}k"))
    return made


def main() -> None:
    """Read the files and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FIGURE.png")
    options = parser.parse_args()
    rows = [row for file in options.files for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
    print(saved(figure(rows), options.out))


if __name__ == "__main__":
    main()
