"""The checks of a dataset: what each looks for, what it found, and what to do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from cql.data.checks import ACTION_TOLERANCE
from cql.data.transitions import STD_FLOOR

if TYPE_CHECKING:
    from cql.data.inspection import Inspection

Level = Literal["refused", "warning", "note"]

ENDS = ("terminated", "cut at the time limit", "cut otherwise")
"""How an episode ends."""
TERMINATED, AT_LIMIT, CUT = range(3)

NEVER_TERMINATE = ("HalfCheetah", "HumanoidStandup", "Pendulum", "Pusher", "Reacher", "Swimmer")
"""Gymnasium's continuous environments whose `step` never returns `terminated`, without their versions."""

AT_BOUND = 1e-6
"""In half-widths of the range; the likelihood of an action that is closer to a bound is computed at this distance."""


class NonFinite(NamedTuple):
    """NaN and infinite values of an array: their numbers, their columns, and where the first one is."""

    key: str
    nan: int
    infinite: int
    columns: tuple[int, ...]
    where: str


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that the dataset was checked for.

    Attributes:
        code: short name.
        level: training refuses the data, a warning, or a note.
        title: the problem.
        threshold: when the check fires.
        found: what the dataset holds, whether the check fires or not.
        advice: what to do.
        fired: whether the problem was found.
    """

    code: str
    level: Level
    title: str
    threshold: str
    found: str
    advice: str
    fired: bool


def all_checks(found: Inspection, lost_steps: int) -> Iterator[Check]:
    """All checks, fired or not; `lost_steps` as in :class:`cql.data.inspection.Source`."""
    m, n_episodes = len(found.raw), found.raw.n_episodes
    yield Check(
        "non_finite", "refused", "Values are NaN or infinite",
        "any observation, action or reward",
        "; ".join(map(_said, found.non_finite)) or "none",
        "Remove such episodes or repair the file. Values that overflow float32 become infinite: is the unit right?",
        bool(found.non_finite),
    )  # fmt: skip
    yield Check(
        "actions_outside", "refused", "Actions lie outside the bounds",
        f"any beyond a bound by more than {ACTION_TOLERANCE:g}",
        share_of(found.n_outside, m, "transitions"),
        f"Are they actions of {found.env_id}, in its own units rather than in [-1, 1]? Name the right environment.",
        found.n_outside > 0,
    )  # fmt: skip
    # A terminal step is never lost.
    as_long = found.ends[found.lengths >= found.time_limit - lost_steps * (found.ends != TERMINATED)]
    n_false = int((as_long == TERMINATED).sum())
    yield Check(
        "terminals_at_limit", "warning", "Time limits look like terminal states",
        f"more than 10 % of the episodes with all {found.time_limit:,} steps of the limit are marked as terminated",
        share_of(n_false, len(as_long), "such episodes"),
        "The return stops at a terminal state, so the critics would learn an end that does not exist. Mark these steps "
        "as truncated (Minari) or in `timeouts` instead of `terminals` (D4RL).",
        n_false > 0.1 * len(as_long),
    )  # fmt: skip
    n_terminated = int((found.ends == TERMINATED).sum())
    never = found.env_id.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0] in NEVER_TERMINATE
    yield Check(
        "never_terminates", "warning", "Terminal states where there are none",
        f"any terminated episode in an environment that never terminates ({', '.join(NEVER_TERMINATE)})",
        f"{share_of(n_terminated, n_episodes, 'episodes')} terminated; {found.env_id} "
        + ("never terminates" if never else "may terminate"),
        "The ends of the recording were taken for terminal states: mark them as truncated or as timeouts.",
        never and n_terminated > 0,
    )  # fmt: skip
    n_short = int((found.lengths == 1).sum())
    yield Check(
        "single_steps", "warning", "Episodes of one step",
        "any such episode",
        share_of(n_short, n_episodes, "episodes"),
        "Check the flags of the ends: an end that is marked twice, or at every step, leaves such episodes.",
        n_short > 0,
    )  # fmt: skip
    yield Check(
        "few_episodes", "warning", "Few episodes",
        "fewer than 10",
        f"{n_episodes:,}",
        "The policy depends on single trajectories: train several seeds, and collect more data if possible.",
        n_episodes < 10,
    )  # fmt: skip
    yield from _check_rewards(found)
    yield from _check_features(found)
    episodes = f", including {found.n_repeated_episodes:,} whole episode" + "s" * (found.n_repeated_episodes != 1)
    yield Check(
        "repeated_transitions", "warning", "Transitions are repeated",
        "more than 0.1 % of transitions repeat an earlier one bit for bit",
        share_of(found.n_repeated, m, "transitions") + episodes * (found.n_repeated_episodes > 0),
        "They weigh more than others, and a held-out part would not be new: was a file joined twice, or an environment "
        "reset with the same seed?",
        found.n_repeated > 0.001 * m,
    )  # fmt: skip
    yield Check(
        "shared_starts", "note", "Episodes share their initial states",
        "more than 10 % of episodes begin in the same state as an earlier one",
        share_of(found.n_shared_starts, n_episodes, "episodes"),
        "If the environment draws initial states at random, evaluations begin elsewhere than the data: were the resets "
        "seeded alike?",
        found.n_shared_starts > 0.1 * n_episodes,
    )  # fmt: skip


def _check_rewards(found: Inspection) -> Iterator[Check]:
    size, returns = found.reward_size, found.returns[np.isfinite(found.returns)]
    none = math.isnan(size)
    yield Check(
        "no_rewards", "warning", "All rewards are zero",
        "no reward other than 0",
        f"{share_of(found.n_zero_rewards, found.rewards.n, 'rewards')} are 0",
        "Nothing distinguishes good actions from bad ones: is the reward written to the file?",
        none,
    )  # fmt: skip
    scale = 0.0 if none else float(f"{1.0 / size:.1g}")
    yield Check(
        "reward_scale", "warning", "Rewards on a scale that the defaults do not suit",
        "root mean square of the rewards other than 0 below 0.1 or above 10",
        "no reward other than 0" if none else f"a root mean square of {number(size)}",
        f"alpha_cql, its thresholds and the learning rates suit rewards of about 1: `dataset.reward_scale={scale:g}` "
        "scales them. Returns and scores of evaluations stay in the environment's units.",
        not none and not 0.1 <= size <= 10.0,
    )  # fmt: skip
    mean, std = (float(returns.mean()), float(returns.std())) if len(returns) else (0.0, 0.0)
    relative = std / abs(mean) if mean else math.inf if std else 0.0
    yield Check(
        "flat_returns", "warning", "Returns have almost no spread",
        "standard deviation below 2 % of the mean, with more than one episode and a reward other than 0",
        f"{percent(relative)} of the mean" if math.isfinite(relative) else "a mean of 0",
        "All episodes are equally good: behaviour cloning (`+arm=bc`) is the baseline to beat, and mixed data may "
        "teach more.",
        len(returns) > 1 and relative < 0.02 and not none,
    )  # fmt: skip


def _check_features(found: Inspection) -> Iterator[Check]:
    yield Check(
        "actions_at_bound", "warning", "Actions at the very bound",
        f"more than 1 % of transitions with a feature within {AT_BOUND:g} half-widths of a bound",
        f"{percent(found.at_bound)} of transitions",
        "The log-likelihood of a tanh policy is infinite there. Behaviour cloning (`algorithm.bc_steps`, `+arm=bc`) "
        "computes it at 1 - 1e-6 and is drawn to the bounds. Critics and the conservative term are not affected.",
        found.at_bound > 0.01,
    )  # fmt: skip
    yield Check(
        "constant_actions", "warning", "Constant actions",
        "any action feature with a single value",
        _listed(found.actions.constant) or "none",
        "The data say nothing about other values: only the conservative term holds the policy back.",
        bool(found.actions.constant),
    )  # fmt: skip
    yield Check(
        "constant_columns", "warning", "Constant observations",
        "any observation feature with a single value",
        _listed(found.observations.constant) or "none",
        f"`dataset.normalise_observations=true` divides them by {STD_FLOOR:g}: a difference of 0.1 in an evaluation "
        f"becomes {0.1 / STD_FLOOR:g}. Remove these features, or do not normalise.",
        bool(found.observations.constant),
    )  # fmt: skip
    std = found.observations.std[found.observations.std > 0.0]
    ratio = float(std.max() / std.min()) if len(std) else 1.0
    yield Check(
        "observation_scales", "note", "Observations on different scales",
        "largest standard deviation more than 10 times the smallest, constants left out",
        f"{number(ratio)} times" if len(std) else "no feature varies",
        "Set `dataset.normalise_observations=true`, else small features have little effect at first. It is off by "
        "default; `+experiment=quickstart` sets it.",
        ratio > 10.0,
    )  # fmt: skip


def _said(entry: NonFinite) -> str:
    kinds = [f"{n} {kind}" for n, kind in ((entry.nan, "NaN"), (entry.infinite, "infinite")) if n]
    columns = f" in {_listed(entry.columns)}" if entry.columns else ""
    return f"{entry.key}: {' and '.join(kinds)}{columns}, first in {entry.where}"


def share_of(n: int, total: int, what: str) -> str:
    """A count, its total, and the share in %."""
    return f"{n:,} of {total:,} {what}" + (f" ({percent(n / total)})" if 0 < n < total else "")


def percent(share: float) -> str:
    """A share in %, with two significant digits."""
    shown = 100.0 * share
    if 0.0 < shown < 0.01:
        return "less than 0.01 %"
    return f"{shown:.0f} %" if shown >= 10.0 else f"{shown:.2g} %"


def _listed(columns: Sequence[int], most: int = 8) -> str:
    if not columns:
        return ""
    shown = ", ".join(map(str, columns[:most])) + (f" and {len(columns) - most} more" if len(columns) > most else "")
    return f"column{'s' * (len(columns) > 1)} {shown}"


def number(value: float) -> str:
    """Three or four significant digits, with an exponent only for very large and very small numbers."""
    size = abs(value)
    if not math.isfinite(value):
        return "–"
    if size >= 1e7 or 0.0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 1000.0 else f"{value:.4g}" if size >= 100.0 else f"{value:.3g}"
