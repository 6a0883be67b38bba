"""The figure of docs/theory/steps.md: what each part of a training step reads and changes.

python docs/figures/training_step.py      # writes docs/images/theory/training_step.png
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

INK, GREY, CHANGED = "#1a1a1a", "#5f5f5f", "#0b62a4"
COLUMNS = ("minibatch", "critics", "target\ncritics", "policy", r"$\alpha_\mathrm{temp}$", r"$\alpha_\mathrm{cql}$")
STEPS = (  # name, what it does, what it reads, what it changes
    (
        "A  critics",
        r"descend $\Sigma_i\,[\,L_{\mathrm{TD},i} + w_\mathrm{cql}\,\alpha_\mathrm{cql}\,(g_i - \tau_\mathrm{cql})\,]$",
        (0, 2, 3, 4, 5),
        1,
    ),
    ("B  actor", r"descend $\alpha_\mathrm{temp}\,\log\,\pi(a|s) - \mathrm{min}_i\,Q_i(s, a)$", (0, 1, 4), 3),
    ("C  temperature, if learned", r"hold the policy's entropy at target_entropy", (3,), 4),
    ("D  alpha_cql, if learned", r"hold the gap $g_i$ of step A at $\tau_\mathrm{cql}$", (1,), 5),
    ("E  targets", r"move them a share $\tau_\mathrm{target}$ towards the critics", (1,), 2),
)
X, Y, LEFT = (5.0, 6.1, 7.2, 8.25, 9.3, 10.35), (4.0, 3.0, 2.0, 1.0, 0.0), -0.1


def draw() -> Figure:
    """The steps as rows, what training holds as columns."""
    figure = Figure(figsize=(10, 4.9), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.25, 10.95), ylim=(-0.95, 5.25))
    axes.axis("off")
    for x, name in zip(X, COLUMNS, strict=True):
        axes.plot([x, x], [-0.35, 4.45], color="#c4c4c4", lw=1.5, zorder=1)
        axes.text(x, 4.78, name, ha="center", va="center", size=13, color=INK)
    for y, (name, does, reads, changes) in zip(Y, STEPS, strict=True):
        ends = sorted((min(*reads, changes), max(*reads, changes)))
        axes.plot([X[ends[0]], X[ends[1]]], [y, y], color=INK, lw=1.2, zorder=2)
        axes.text(LEFT, y + 0.17, name, va="center", size=14, weight="bold", color=INK)
        axes.text(LEFT, y - 0.2, does, va="center", size=13, color=GREY)
        axes.plot([X[i] for i in reads], [y] * len(reads), "o", ms=11, color="white", mec=INK, mew=1.6, zorder=3)
        axes.plot(X[changes], y, "s", ms=15, color=CHANGED, zorder=3)
        if y:
            axes.axhline(y - 0.5, color="#ececec", lw=1.0, zorder=0)
    axes.plot(X[0], -0.72, "o", ms=11, color="white", mec=INK, mew=1.6)
    axes.text(5.2, -0.72, "reads", va="center", size=13, color=INK)
    axes.plot(6.3, -0.72, "s", ms=15, color=CHANGED)
    axes.text(6.55, -0.72, "changes", va="center", size=13, color=CHANGED)
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).parents[1] / "images" / "theory" / "training_step.png", dpi=200)
