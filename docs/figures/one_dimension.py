"""The figures of docs/theory: this program's agent on a problem with one state and one action in [-1, 1].

The reward of an action has a single peak, at the edge of the data; beyond it, where the data have no action, it drops
to zero. Every transition leads back to the only state, so the true value of an action is its reward plus the discounted
value of what follows, and an error in a target returns in the next one.

    python docs/figures/one_dimension.py      # about a minute on one core; writes docs/images/theory/*.png

Axes: T snapshots, K settings, J seeds, G actions of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cql.algorithm import networks
from cql.algorithm.agent import Agent, AgentConfig, HyperParams
from cql.algorithm.networks import Mlp
from cql.algorithm.sampling import Batch
from cql.algorithm.threshold import neutral_threshold

Array = NDArray[np.float32]

DATA, DISCOUNT = (-0.7, 0.25), 0.9  # the range of the recorded actions
ACTIONS: Array = np.linspace(-1, 1, 81, dtype=np.float32)
SNAPSHOTS = (0.05, 0.1, 0.2, 1.0)  # as shares of the steps

SMALL = Mlp(width=24, depth=2)
CONFIG = AgentConfig(
    actor=SMALL, critic=SMALL, observation_size=1, action_size=1, backup="hard", num_sampled_actions=4,
    importance_weighted=True, next_actions=True, gap_temperature=1.0, gradient="exact", num_gradient_actions=None,
    target_update_period=1, log_std_min=-5.0, log_std_max=2.0,
)  # fmt: skip
SAC = HyperParams(
    alpha_cql=0.0, tau_cql=None, w_cql=1.0, alpha_temp=1.0, target_entropy=-1.0, discount=DISCOUNT, tau_target=0.05,
    bc_steps=0, critic_learning_rate=1e-2, actor_learning_rate=3e-3, temp_learning_rate=3e-3, alpha_learning_rate=None,
)  # fmt: skip
NEUTRAL = neutral_threshold(
    num_sampled_actions=4, next_actions=True, importance_weighted=True, action_size=1, target_entropy=-1.0
)
ALPHAS, THRESHOLDS = (0.0, 0.5, 5.0, 20.0), (NEUTRAL, 3.0, 8.0)
FIXED = [replace(SAC, alpha_cql=alpha) for alpha in ALPHAS]
LEARNED = [replace(SAC, alpha_cql=5.0, tau_cql=tau, alpha_learning_rate=1e-2) for tau in THRESHOLDS]


class Runs(NamedTuple):
    """What K settings came to, with J seeds each.

    Attributes:
        steps: of the snapshots, (T,).
        q: the lower of both critics' values, (T, K, J, G).
        action: of the policy's mode, at the end, (K, J).
        metrics: what each step reported, by name, (n_steps, K, J).
    """

    steps: NDArray[np.int64]
    q: Array
    action: Array
    metrics: dict[str, Array]


def reward(actions: Array) -> Array:
    """Rises to 5 at the action 0.3, and drops faster than it rose."""
    return 5.0 * np.exp(-(((actions - 0.3) / np.where(actions < 0.3, 0.6, 0.15)) ** 2)).astype(np.float32)


def best_q() -> Array:
    """The true value of each action of the grid if the best one follows for ever, (G,)."""
    return reward(ACTIONS) + DISCOUNT / (1 - DISCOUNT) * reward(ACTIONS).max()


def behaviour_value() -> float:
    """The value of acting as the data do."""
    return float(reward(np.linspace(*DATA, 1000, dtype=np.float32)).mean()) / (1 - DISCOUNT)


def train(settings: Sequence[HyperParams] = FIXED, n_steps: int = 1500, n_seeds: int = 3) -> Runs:
    """Train all settings with all seeds as one stack, for at least 20 steps."""
    actions = np.random.default_rng(0).uniform(*DATA, (2000, 1)).astype(np.float32)
    state = torch.zeros(2000, 1)
    data = Batch(state, torch.from_numpy(actions), torch.from_numpy(reward(actions[:, 0])), state, torch.zeros(2000))
    shape, seeds = (len(settings), n_seeds), list(range(n_seeds)) * len(settings)
    # Without the fast path, which does not pay for networks as small as these.
    agent = Agent(CONFIG, [each for each in settings for _ in range(n_seeds)], seeds, torch.device("cpu"), fast=False)
    sampler, metrics, q = agent.sampler(seeds, batch_size=32), [], []
    state = torch.zeros(len(seeds), 1, 1)
    grid = torch.from_numpy(ACTIONS).view(1, -1, 1, 1).expand(len(seeds), -1, 1, 1)
    steps = np.round(np.array(SNAPSHOTS) * n_steps).astype(np.int64)
    for step in range(1, n_steps + 1):
        metrics.append(agent.update(*sampler.draw(data)))
        if step in steps:
            values = networks.critics(CONFIG.critic, agent.critics, state, grid).detach()
            q.append(values.amin(1).view(*shape, -1).numpy())
    mode = networks.actor(CONFIG.actor, agent.actor, state, -5.0, 2.0)[0].detach().tanh().view(shape).numpy()
    curves = torch.stack(metrics, 1).view(len(agent.metrics), n_steps, *shape).numpy()
    return Runs(steps, np.stack(q), mode, dict(zip(agent.metrics, curves, strict=True)))


# Figures --------------------------------------------------------------------------------------------------------------

INK, GREY, BAND, RED = "#1a1a1a", "#5f5f5f", "#e9e9e9", "#c8430a"  # red and the others differ in lightness, too
BLUES, THREE = ("#3f97d0", "#0b62a4", "#083a6b"), ("#8a3f9e", "#00805a", "#b06f00")
SIZE = 13  # points, of a picture 10 inches wide


def draw_overestimation(fixed: Runs) -> Figure:
    """SAC's values over the actions as training continues, and the values of the policy's actions of all settings."""
    figure, (left, right) = _canvas(2)
    _actions_axis(left, "SAC: values of all actions", (-5, 95))
    for step, q, opacity in zip(fixed.steps, fixed.q[:, 0, 0], (0.35, 0.5, 0.7, 1.0), strict=True):
        left.plot(ACTIONS, q, color=RED, alpha=opacity, lw=2.2)
        _label(left, 1.04, q[-1], f"{step:,} steps", RED)
    _label(left, -0.97, best_q()[0] - 6, "true Q*", INK)
    n_steps = _steps_axis(right, "Values of the policies' actions", fixed)
    right.set_ylim(-5, 95)
    right.axhline(best_q().max(), color=INK, lw=1.6, ls="--")
    _label(right, n_steps, best_q().max() + 5, "largest possible", INK, ha="right")
    for k, colour in enumerate((RED, *BLUES)):
        curve = fixed.metrics["q_policy"][:, k].mean(-1)
        right.plot(curve, color=colour, lw=2.2)
        _label(right, n_steps * 1.02, curve[-20:].mean() + (0, 0, 1.2, -1.6)[k], _name(k), colour)
    return figure


def draw_values(fixed: Runs) -> Figure:
    """The values over the actions at the end for each ``alpha_cql``; what the policy expects and what it earns."""
    figure, panels = _canvas(len(ALPHAS))
    for k, (axes, colour) in enumerate(zip(panels, (RED, *BLUES), strict=True)):
        _actions_axis(axes, f"alpha_cql {ALPHAS[k]:g}" + (": SAC" if k == 0 else ""), (-25, 95))
        axes.axhline(behaviour_value(), color=GREY, lw=1.4, ls=":")
        axes.plot(ACTIONS, fixed.q[-1, k].T, color=colour, lw=1.8)
        _outcome(axes, fixed.action[k], fixed.q[-1, k], colour)
        axes.tick_params(labelleft=k == 0)
    for y, words, colour in ((74, "expected", RED), (5, "earned", RED)):
        _label(panels[0], 0.8, y, words, colour, ha="right")
    _label(panels[0], -0.97, best_q()[0] - 6, "true Q*", INK)
    _label(panels[0], -0.97, behaviour_value() - 6, "value of the data", GREY)
    return figure


def draw_thresholds(learned: Runs) -> Figure:
    """The gap and a learned ``alpha_cql`` over the steps, and the values at the end, for each ``tau_cql``."""
    figure, (gaps, multipliers, values) = _canvas(3)
    n_steps = _steps_axis(gaps, "cql_gap (dashed: tau_cql)", learned)
    _steps_axis(multipliers, "alpha_cql", learned)
    _actions_axis(values, "Q(a) at the end", (-25, 95))
    gaps.set_ylim(0, 9)
    multipliers.set_ylim(1e-2, 4e6)
    width = max(1, n_steps // 30)
    words = ("too low", "in reach", "too high")
    for k, (colour, y) in enumerate(zip(THREE, (2e5, 3.0, 0.02), strict=True)):
        gap = np.convolve(learned.metrics["cql_gap"][:, k].mean(-1), np.ones(width) / width, "valid")
        gaps.plot(np.arange(len(gap)) + width, gap, color=colour, lw=2.0)
        gaps.axhline(THRESHOLDS[k], color=colour, lw=1.6, ls="--")
        _label(gaps, n_steps * 1.03, THRESHOLDS[k], f"{THRESHOLDS[k]:.2g}", colour)
        multipliers.semilogy(np.exp(np.log(learned.metrics["alpha_cql"][:, k]).mean(-1)), color=colour, lw=2.2)
        _label(multipliers, n_steps * 0.98, y, f"{THRESHOLDS[k]:.2g}: {words[k]}", colour, ha="right")
        values.plot(ACTIONS, learned.q[-1, k].T, color=colour, lw=1.8)
        _outcome(values, learned.action[k, :1], learned.q[-1, k, :1], colour)
    return figure


def _name(k: int) -> str:
    return f"CQL {ALPHAS[k]:g}" if ALPHAS[k] else "SAC"


def _canvas(n: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(10, 4.4), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12)
    panels = figure.subplots(1, n)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=SIZE)
    return figure, panels


def _steps_axis(axes: Axes, title: str, runs: Runs) -> int:
    n_steps = len(runs.metrics["cql_gap"])
    axes.set_xlim(0, n_steps)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("training steps", size=SIZE)
    axes.set_title(title, size=SIZE + 1)
    return n_steps


def _actions_axis(axes: Axes, title: str, limits: tuple[float, float]) -> None:
    axes.axvspan(*DATA, color=BAND, lw=0)
    axes.text(sum(DATA) / 2, limits[0] + 2, "data", ha="center", size=SIZE, color=GREY)
    axes.plot(ACTIONS, best_q(), color=INK, lw=2.0)
    axes.set(xlim=(-1, 1), ylim=limits, xticks=(-1, 0, 1))
    axes.set_xlabel("action", size=SIZE)
    axes.set_title(title, size=SIZE + 1)


def _outcome(axes: Axes, actions: Array, q: Array, colour: str) -> None:
    """For each seed what the critics expect of the policy's action (dot), and what the action earns (ring)."""
    expected = [np.interp(action, ACTIONS, own) for action, own in zip(actions, q, strict=True)]
    earned = reward(actions) / (1 - DISCOUNT)
    axes.vlines(actions, expected, earned, color=colour, lw=1.0)
    axes.plot(actions, expected, "o", color=colour, ms=7, mec="white", zorder=4)
    axes.plot(actions, earned, "o", color="white", ms=7, mec=colour, mew=1.8, zorder=3)


def _label(axes: Axes, x: float, y: float, words: str, colour: str, ha: str = "left") -> None:
    axes.text(x, y, words, color=colour, size=SIZE, va="center", ha=ha)


if __name__ == "__main__":
    torch.set_num_threads(1)
    images, fixed = Path(__file__).parents[1] / "images" / "theory", train(FIXED)
    figures = {"overestimation": draw_overestimation(fixed), "values": draw_values(fixed)}
    for name, figure in (figures | {"thresholds": draw_thresholds(train(LEARNED))}).items():
        figure.savefig(images / f"{name}.png", dpi=200)
