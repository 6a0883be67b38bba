"""What a run's metrics show if its training went wrong: exploded values, a multiplier that ran away or vanished."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from cql.results.groups import Group
from cql.results.runs import Run

# q_policy stands out if it exceeds the largest return on the task, 1.2 times the run's own, or q_data by half of it.
# Each has a floor, since critics that have hardly learnt lie below it.
_Q_OF_TASK_FLOOR = 100.0
_Q_OF_RUN, _Q_OF_RUN_FLOOR = 1.2, 50.0
_Q_OVER_DATA, _Q_OVER_DATA_FLOOR = 0.5, 20.0
_RAN_AWAY = 100.0  # times its starting value

CHECKS = (
    f"q_policy above {_Q_OF_RUN:g} times the policy's largest return in an evaluation (and above {_Q_OF_RUN_FLOOR:g})",
    f"q_policy larger than any return on the task (and than {_Q_OF_TASK_FLOOR:g}); returns are undiscounted, so both "
    "limits are generous",
    f"q_policy above q_data by {_Q_OVER_DATA:g} of it (and by {_Q_OVER_DATA_FLOOR:g})",
    f"a learned alpha_cql above {_RAN_AWAY:g} times its start or below a hundredth of it",
    "a gap more than 1 from tau_cql",
)
"""What :func:`remarks` looks for, in each run's last row of metrics."""


def remarks(group: Group, highest: float) -> list[str]:
    """What stands out in the metrics of a group's runs, with the seeds of those that share it.

    Args:
        group: the runs.
        highest: the largest return, in absolute value, of any run on the group's task.
    """
    found: dict[str, list[int]] = {}
    for run in group.runs:
        for text in (*_remarks_on_q(run, highest), *_remarks_on_alpha(run)):
            found.setdefault(text, []).append(run.seed)
    return [f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}: {t}" for t, seeds in found.items()]


def is_shifted(run: Run) -> bool:
    """Whether rewards are shifted in training, or scaled by what only the data know.

    Then Q values and returns cannot be compared.
    """
    own = re.compile(r"dataset\.mixture\[\d+\]\.(reward_scale|reward_bias|normalise_rewards)")
    of_one = any(own.fullmatch(key) and value for key, value in run.config.items())
    return bool(run.config.get("dataset.reward_bias", 0.0) or run.config.get("dataset.normalise_rewards")) or of_one


def _remarks_on_q(run: Run, highest: float) -> Iterator[str]:
    q, data = run.metric("q_policy").values[-1:], run.metric("q_data").values[-1:]
    if not len(q):
        return
    scale = abs(float(run.config.get("dataset.reward_scale", 1.0)))
    own, ever = scale * run.evaluations.values.max(initial=-np.inf), scale * highest
    comparable = len(run.evaluations.values) > 0 and not is_shifted(run)
    scaled = "" if scale == 1.0 else f", times dataset.reward_scale={scale:g}"
    if comparable and abs(q[0]) > max(ever, _Q_OF_TASK_FLOOR):
        yield (
            f"Q exploded. q_policy ends at {q[0]:.4g}, beyond {ever:.4g}, the largest return of any run on this task "
            f"(undiscounted{scaled})"
        )
    elif comparable and q[0] > max(_Q_OF_RUN * own, _Q_OF_RUN_FLOOR):
        yield (
            f"Q is too high. q_policy ends at {q[0]:.4g}, and the policy never earned more than {own:.4g} in an "
            f"evaluation (undiscounted{scaled})"
        )
    elif len(data) and q[0] > data[0] + max(_Q_OVER_DATA * abs(data[0]), _Q_OVER_DATA_FLOOR):
        yield (
            f"the policy's actions are valued far above the data's ({q[0]:.4g} against {data[0]:.4g}): little keeps "
            "the policy near the data"
        )


def _remarks_on_alpha(run: Run) -> Iterator[str]:
    start = float(run.config.get("algorithm.alpha_cql.initial_value") or 0.0)
    residual, alpha = run.metric("cql_residual").values[-1:], run.metric("alpha_cql").values[-1:]
    if start and len(residual) and abs(residual[0]) > 1.0:
        side = "above" if residual[0] > 0.0 else "below"
        yield f"the gap is still {abs(residual[0]):.2g} {side} tau_cql, at which alpha_cql should hold it"
    if start and len(alpha):
        if alpha[0] > _RAN_AWAY * start:
            yield (
                f"alpha_cql ran away, from {start:g} to {alpha[0]:.3g}: the gap does not come down to tau_cql; try a "
                "higher threshold"
            )
        elif alpha[0] < start / _RAN_AWAY:
            yield (
                f"alpha_cql vanished, from {start:g} to {alpha[0]:.3g}: the gap is below tau_cql, and the critics are "
                "not conservative any more; try a lower threshold"
            )
