"""The figure of docs/results/blueprint.md: the three runs of results/blueprint beside each other.

python docs/figures/blueprint.py      # writes docs/images/blueprint.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cql.training.local_logger import read_metrics

DOCS = Path(__file__).resolve().parents[1]
RUNS = {  # folder of results/blueprint: its label and colour
    "fixed": ("fixed, alpha_cql 1", "#4d4d4d"),
    "tau_2.8": ("learned, tau_cql 2.8", "#0b62a4"),
    "tau_5": ("learned, tau_cql 5", "#c8500a"),
}
PANELS = {  # key of metrics.jsonl: the panel's title
    "eval_return_mean": "return of an evaluation",
    "alpha_cql": "alpha_cql",
    "cql_gap": "cql_gap",
    "q_data": "Q of recorded actions",
}
DATA_RETURN = 5080  # mean return of the recorded episodes


def draw(results: Path) -> Figure:
    """Four panels over the training steps, a line per run."""
    figure = Figure(figsize=(10, 5.6), layout="constrained", facecolor="white")
    panels = dict(zip(PANELS, figure.subplots(2, 2).flat, strict=True))
    for folder, (label, colour) in RUNS.items():
        rows = read_metrics(results / folder)
        steps = np.array([row["step"] for row in rows]) / 1000
        for key, axes in panels.items():
            axes.plot(steps, [row[key] for row in rows], color=colour, lw=2.2, label=label)
    for key, axes in panels.items():
        axes.set_title(PANELS[key], size=14)
        axes.set_xlim(0, None)
        axes.tick_params(labelsize=12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("training steps (thousands)", size=12)
    panels["eval_return_mean"].axhline(DATA_RETURN, color="#9a9a9a", lw=1.4, ls="--")
    panels["eval_return_mean"].text(2, DATA_RETURN + 80, "recorded episodes", size=12, color="#5f5f5f")
    panels["eval_return_mean"].set_ylim(-1500, 6000)
    panels["alpha_cql"].set_yscale("log")
    panels["cql_gap"].set_ylim(2, None)
    figure.legend(*panels["alpha_cql"].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False,
                  fontsize=13)  # fmt: skip
    return figure


if __name__ == "__main__":
    draw(DOCS.parent / "results" / "blueprint").savefig(DOCS / "images" / "blueprint.png", dpi=150)
