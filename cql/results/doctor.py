"""What is wrong or normal with a run, in plain words: findings, each with its numbers, its meaning and what to change.

A finding is a function of what a run's folder holds. docs/trouble/doctor.md says how each is computed.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from cql.points import SEED
from cql.results.groups import Group, Results
from cql.results.runs import Run, is_compared
from cql.scorer_names import PREFIX
from cql.training.local_logger import YARDSTICKS, EpisodeRow, read_episodes

Label = TypeVar("Label")
Severity = Literal["wrong", "watch", "normal"]
SEVERITIES: tuple[Severity, ...] = ("wrong", "watch", "normal")
PAGE = "docs/trouble/doctor.md"

_OVER, _FAR_OVER, _FLOOR = 0.1, 0.2, 50.0  # of the range of returns in the data; if that is unknown, a margin instead
_FACTOR, _OPEN = 100.0, 0.9  # of alpha_cql to its start; of a gap to what it was a quarter of the run before
_NEAR = 0.9  # of the distance between the actions of neighbouring states
_LARGE, _SMALL, _FAR = 1e4, 1.0, 10.0  # discounted returns; how many times more is wrong rather than unusual
_ALPHA = "algorithm.alpha_cql.value"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong or normal with a run.

    Attributes:
        severity: ``wrong``, ``watch`` (it may be meant) or ``normal``.
        title: a sentence without numbers, the same for all runs that share the finding.
        numbers: that say so.
        meaning: what it usually comes from; empty if all is normal.
        change: overrides to try, each by itself.
        name: what was looked at, and the section of :data:`PAGE` that explains it.
    """

    severity: Severity
    title: str
    numbers: str
    meaning: str = ""
    change: tuple[str, ...] = ()
    name: str = ""

    @property
    def sentence(self) -> str:
        """The meaning as a sentence."""
        begin = self.meaning[:1] if self.meaning.startswith("docs/") else self.meaning[:1].upper()
        return f"{begin}{self.meaning[1:]}." if self.meaning else ""

    @property
    def page(self) -> str:
        """The page and the section that explain it."""
        return f"{PAGE}#{self.name}"


def diagnose(run: Run, peers: Sequence[Run] = ()) -> list[Finding]:
    """All findings on a run, the gravest first; what its folder does not tell has none.

    Args:
        run: whose folder was read.
        peers: runs on the same task, this one included, that it is to be compared with.
    """
    chart = _Chart(run, peers)
    found = [dataclasses.replace(each, name=name) for name, check in CHECKS.items() if (each := check(chart))]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def examined(results: Results) -> list[tuple[Group, Run, list[Finding]]]:
    """All findings on all runs; evaluations have to tell runs of several arms on a task from each other."""
    found = []
    for group in results.groups:
        peers = results.runs_of(task=group.task) if len(results.groups_of(group.task)) > 1 else ()
        found += [(group, run, diagnose(run, peers)) for run in group.runs]
    return found


def unknown(findings: Iterable[Finding]) -> list[str]:
    """The names of the checks that found nothing, not even that all is normal: their numbers are missing."""
    return [name for name in CHECKS if name not in {each.name for each in findings}]


def shared(examined: Iterable[tuple[Label, Iterable[Finding]]]) -> list[list[tuple[Label, Finding]]]:
    """The findings that are not normal, each with the labels of all runs that share it, the gravest first.

    Such findings have one severity, title and meaning. Their numbers and overrides may differ: see :func:`advice`.

    Args:
        examined: runs, by any label, with their findings.
    """
    found: dict[str, list[tuple[Label, Finding]]] = {}
    for label, findings in examined:
        for each in findings:
            if each.severity != "normal":
                found.setdefault(each.severity + each.title + each.meaning, []).append((label, each))
    return sorted(found.values(), key=lambda own: (SEVERITIES.index(own[0][1].severity), -len(own)))


@dataclasses.dataclass(frozen=True)
class Advice(Generic[Label]):
    """The overrides to try for some of the runs that share a finding.

    Attributes:
        change: overrides, each by itself; none if there is nothing to try.
        runs: those that it is for, by their labels, with their findings.
        n_more: how many more runs it is for, which are not listed.
    """

    change: tuple[str, ...]
    runs: Sequence[tuple[Label, Finding]]
    n_more: int


def advice(own: Sequence[tuple[Label, Finding]], most: int) -> list[Advice[Label]]:
    """The different overrides to try for a finding that runs share, each with the runs that it is for.

    Args:
        own: one entry of :func:`shared`.
        most: number of runs to list in all. Each advice has one at least.
    """
    by_change: dict[tuple[str, ...], list[tuple[Label, Finding]]] = {}
    for label, each in own:
        by_change.setdefault(each.change, []).append((label, each))
    n = max(1, most // max(1, len(by_change)))
    return [Advice(change, runs[:n], max(0, len(runs) - n)) for change, runs in by_change.items()]


def is_shifted(run: Run) -> bool:
    """Whether rewards are shifted in training, or scaled by what only the data know.

    Then Q values and returns cannot be compared, unless the run's provenance has the yardsticks of its data.
    """
    own = re.compile(r"dataset\.mixture\[\d+\]\.(reward_scale|reward_bias|normalise_rewards)")
    of_one = any(own.fullmatch(key) and value for key, value in run.config.items())
    return bool(run.config.get("dataset.reward_bias", 0.0) or run.config.get("dataset.normalise_rewards")) or of_one


class _Chart:
    """What is read of a run. Numbers that are missing or odd are None."""

    def __init__(self, run: Run, peers: Sequence[Run] = ()) -> None:
        self.run, self.peers = run, peers
        yardsticks, rows = run.provenance.get(YARDSTICKS), read_episodes(run.directory)
        self.data: Mapping[str, Any] = yardsticks if isinstance(yardsticks, dict) else {}
        self.last_episodes: list[EpisodeRow] = [row for row in rows if row.step == rows[-1].step]
        discount = self.set("discount", 0.99)
        self.discount = discount if 0.0 <= discount < 1.0 else 0.99
        self.is_learned = "algorithm.alpha_cql.initial_value" in run.config
        self.clones = run.n_steps > 0 and self.set("bc_steps") >= run.n_steps
        low, high = self.of_data("return_min"), self.of_data("return_max")
        self.margin = _FLOOR if low is None or high is None else _OVER * (high - low)

    def set(self, key: str, default: float = 0.0) -> float:
        """A number of the algorithm's config."""
        found = _number(self.run.config.get(f"algorithm.{key}"))
        return default if found is None else found

    def of_data(self, name: str) -> float | None:
        """A yardstick."""
        return _number(self.data.get(name))

    def last(self, *names: str, until: float = math.inf) -> float | None:
        """The last value, up to a step, of the first of these metrics that the run has."""
        curves = (self.run.metric(name) for name in names)
        found = (curve.values[curve.steps <= until] for curve in curves)
        return next((float(values[-1]) for values in found if len(values)), None)

    def quarters(self, name: str) -> tuple[float, float]:
        """The means of a metric over the third and the fourth quarter of its rows, of which there is one at least."""
        values = self.run.metric(name).values
        n = max(1, len(values) // 4)
        return float(values[-2 * n : -n].mean() if len(values) > 1 else values[0]), float(values[-n:].mean())

    @property
    def earned(self) -> float | None:
        """The discounted return of the last evaluation, as the critics see it and as if its rewards were even."""
        scale, bias = self.of_data("reward_scale"), self.of_data("reward_bias")
        if scale is None or bias is None:
            scale, bias = _number(self.run.config.get("dataset.reward_scale")) or 1.0, 0.0
            if is_shifted(self.run):
                return None
        limit = self.of_data("time_limit") or math.inf
        found = [
            (scale * row.return_ / row.length + bias)
            * (1.0 - (0.0 if row.length >= limit else self.discount**row.length))
            / (1.0 - self.discount)
            for row in self.last_episodes
            if row.length > 0 and self.run.has_simulator
        ]
        return float(np.mean(found)) if found else None

    def conservative(self, sign: int = 1) -> str:
        """The override that makes the critics more conservative, or with another sign less."""
        if self.is_learned:
            return "algorithm.alpha_cql.tau_cql=null" if self.tau is None else _tau(self.tau - 2.0 * sign)
        if not self.set("w_cql", 1.0):
            return "algorithm.w_cql=1"
        value = self.set("alpha_cql.value")
        return f"{_ALPHA}={min(value * 4.0**sign, 1e6) if value else 5.0:.3g}"

    @property
    def best_alpha(self) -> float | None:
        """The fixed alpha_cql with the highest mean of last returns, of the finished peers that have the same rest.

        None if there are not two values, this run's among them.
        """
        by_alpha: dict[float, list[float]] = {}
        for peer in self.peers:
            alpha, outcome = _number(peer.config.get(_ALPHA)), peer.outcome("last", scored=False)
            is_evaluated = peer.status == "finished" and peer.has_simulator and _have_same_rest(self.run, peer)
            if is_evaluated and alpha is not None and outcome is not None:
                by_alpha.setdefault(alpha, []).append(outcome)
        if len(by_alpha) < 2 or _number(self.run.config.get(_ALPHA)) not in by_alpha:
            return None
        return max(by_alpha, key=lambda alpha: float(np.mean(by_alpha[alpha])))

    @property
    def tau(self) -> float | None:
        """The threshold, also if the config leaves it to be derived."""
        gap, residual = self.last("cql_gap"), self.last("cql_residual")
        derived = None if gap is None or residual is None else gap - residual
        given = _number(self.run.config.get("algorithm.alpha_cql.tau_cql"))
        return derived if given is None else given


def _failure(chart: _Chart) -> Finding:
    run = chart.run
    if run.status != "failed":
        return Finding("normal", "No loss or parameter is NaN or infinite", f"{run.step} of {run.n_steps} steps")
    reason = str(run.failure).partition("; last metrics: ")[0]
    if not re.search(r"not finite|\bnan\b|\binf(inite|inity)?\b", reason, re.IGNORECASE):
        return Finding("wrong", "The run failed", reason, "docs/trouble/files.md says what to do about it")
    meaning = "the critics diverged: their learning rate or the rewards are too large, or little is conservative"
    rate = f"algorithm.critic_learning_rate={chart.set('critic_learning_rate', 3e-4) / 3.0:.2g}"
    change = (rate, "algorithm.critic_max_grad_norm=1")
    return Finding("wrong", "Training gave NaN or infinity", reason, meaning, change)


def _values(chart: _Chart) -> Finding | None:
    """Q against the returns that the data allow. Data say nothing of returns that are collected later."""
    until = math.inf if chart.run.n_offline_steps is None else chart.run.n_offline_steps
    q, of_data = chart.last("q_policy", until=until), chart.last("q_data", until=until)
    if q is None or of_data is None:
        return None
    said = f"q_policy {q:.4g}, q_data {of_data:.4g}"
    too_high = "little or nothing holds down the values of actions that the data do not show"
    lowest, highest, reward = map(chart.of_data, ("return_min", "return_max", "reward_max"))
    if lowest is not None and highest is not None and reward is not None:
        soft = chart.last("entropy", until=until) if chart.run.config.get("algorithm.backup") == "soft" else None
        bonus = max(0.0, soft or 0.0) * (chart.last("alpha_temp", until=until) or 0.0) / (1.0 - chart.discount)
        most = max(reward, reward / (1.0 - chart.discount)) + bonus
        earned = -math.inf if chart.earned is None else chart.earned
        limit = min(most, max(highest, earned) + chart.margin + bonus)
        said += f"; discounted returns in the data {lowest:.4g} to {highest:.4g}"
        if q > limit:
            said += f", at most {most:.4g} with the largest reward at each step"
            severity: Severity = "wrong" if q > most or earned > -math.inf else "watch"
            title = "Q is above what any return in the data allows"
            return Finding(severity, title, said, too_high, (chart.conservative(),))
        if of_data < lowest - chart.margin:
            meaning = "the penalty pushes all values down: alpha_cql is too large for rewards of this scale"
            return Finding("watch", "Q is below every return in the data", said, meaning, (chart.conservative(-1),))
    if q > of_data + max(0.5 * abs(of_data), chart.margin):
        title = "The policy's actions are valued far above the data's"
        return Finding("watch", title, said, too_high, (chart.conservative(),))
    return None if highest is None else Finding("normal", "Q is within what the data allow", said)


def _promise(chart: _Chart) -> Finding | None:
    """Q in initial states against what the policy earns."""
    value, earned = chart.last("initial_value", f"{PREFIX}initial_value"), chart.earned
    if earned is None:
        return None
    said = f"value of initial states {value or 0.0:.4g}, discounted return of an evaluation about {earned:.4g}"
    if value is None:  # of an earlier version: the mean over all states against the largest undiscounted return
        value = chart.last("q_policy") or 0.0
        scale = _number(chart.run.config.get("dataset.reward_scale")) or 1.0
        earned = max(1.2 * scale * float(chart.run.evaluations.values.max(initial=0.0)), 0.0)
        said = f"q_policy {value:.4g}, 1.2 times the largest return of an evaluation {earned:.4g}"
    if value <= earned + chart.margin:
        said += f"; tolerance {chart.margin:.4g}"
        return Finding("normal", "The policy earns at least what its critics promise, within the tolerance", said)
    severity: Severity = "wrong" if value > earned + _FAR_OVER / _OVER * chart.margin else "watch"
    meaning = "the policy takes actions that the data do not show, and exploits errors in their values"
    return Finding(severity, "The policy earns less than its critics promise", said, meaning, (chart.conservative(),))


def _multiplier(chart: _Chart) -> Finding | None:
    """alpha_cql; a learned one with the gap and its threshold."""
    if not chart.is_learned:
        weight = chart.set("w_cql", 1.0) * chart.set("alpha_cql.value")
        said = f"w_cql * alpha_cql = {weight:g}"
        if weight or chart.clones or chart.run.n_offline_steps is not None:
            return Finding("normal", "alpha_cql is fixed", said)
        meaning = "this is SAC on fixed data, whose policy exploits the errors of its critics"
        return Finding("watch", "The critics are not conservative", said, meaning, (chart.conservative(),))
    alpha, residual, tau = chart.run.metric("alpha_cql").values, chart.run.metric("cql_residual").values, chart.tau
    if min(len(alpha), len(residual)) < 4 or tau is None:
        return None
    start, end, gap = chart.set("alpha_cql.initial_value") or 1.0, float(alpha[-1]), float(residual[-1]) + tau
    (was, now), later = chart.quarters("cql_residual"), residual[len(residual) // 2 :]
    said = f"alpha_cql went from {start:g} to {end:.3g}; gap {gap:.3g}, tau_cql {tau:.3g}"
    is_given = chart.run.config.get("algorithm.alpha_cql.tau_cql") is not None
    change = ("algorithm.alpha_cql.tau_cql=null",) if is_given else ()
    below = (residual[: max(1, len(residual) // 10)] < 0.0).all() and (later < 0.0).all()
    if end < start and (below or end < start / _FACTOR):
        title = "The gap is below tau_cql from the start" if below else "alpha_cql collapsed"
        meaning = (
            "the threshold is above the gap of critics that are not conservative, so alpha_cql falls and stays low"
        )
        return Finding("wrong", title, said, meaning, (*change, _tau(math.floor(gap) - 1.0)))
    if end > _FACTOR * start or (end > 1.5 * start and (later > 1.0).all() and now > _OPEN * was):
        meaning = "the gap does not come down to a threshold that is too low for these data and this entropy"
        return Finding("wrong", "alpha_cql runs off", said, meaning, (*change, _tau(math.ceil(gap))))
    if abs(now) > 1.0:
        rate = min(1.0, 3.0 * chart.set("alpha_cql.alpha_learning_rate", 3e-4))
        change = (f"algorithm.alpha_cql.alpha_learning_rate={rate:.2g}",)
        return Finding(
            "watch",
            "The gap is not at tau_cql yet",
            said,
            "the multiplier still moves, and needs more steps or a higher rate",
            change,
        )
    return Finding("normal", "alpha_cql holds the gap at tau_cql", said)


def _entropy(chart: _Chart) -> Finding | None:
    """The policy's entropy against its target, and per dimension of an action."""
    last, size, key = chart.last("entropy"), chart.of_data("action_size"), "algorithm.alpha_temp"
    if last is None or size is None:
        return None
    is_learned, given = f"{key}.initial_value" in chart.run.config, chart.run.config.get(f"{key}.target_entropy")
    target, (was, now) = _number(given), chart.quarters("entropy")
    target = -size if target is None else target
    said = f"entropy {last:.3g}, {last / size:.2g} for each dimension" + (f"; target {target:g}" if is_learned else "")
    rate = min(1.0, 3.0 * chart.set("alpha_temp.temp_learning_rate", 3e-4))
    change = (f"{key}.temp_learning_rate={rate:.2g}" if is_learned else "algorithm/alpha_temp=learned",)
    meaning = "values are too steep for the entropy term: alpha_temp is too small or too slow, or rewards too large"
    if chart.clones:
        return Finding("normal", "Nothing holds the entropy of a policy that clones", said)
    if last < -4.0 * size:
        return Finding("wrong", "The policy's entropy collapsed", said, meaning, change)
    if is_learned and last < target - max(2.0, 0.5 * abs(target)):
        return Finding("watch", "The policy's entropy is far below its target", said, meaning, change)
    if last < -2.0 * size and now < was - 0.25 * size:
        return Finding("watch", "The policy's entropy falls without end", said, meaning, change)
    return Finding("normal", "The policy's entropy has not collapsed", said)


def _bounds(chart: _Chart) -> Finding | None:
    """The share of the policy's actions at a bound, against the data's."""
    share, of_data = chart.last("at_bounds"), chart.of_data("at_bounds")
    if share is None or of_data is None:
        return None
    said = f"{share:.0%} of the components of its actions, {of_data:.0%} of the data's"
    if share < max(0.3, 2.0 * of_data):
        return Finding("normal", "The policy's actions are not at their bounds", said)
    meaning = "values rise beyond the recorded actions, and the policy follows them as far as it can"
    return Finding("watch", "The policy acts at the bounds of its actions", said, meaning, (chart.conservative(),))


def _cloning(chart: _Chart) -> Finding | None:
    """The policy's distance from the data against that of the data from themselves."""
    distance, noise = chart.last("action_distance", f"{PREFIX}action_distance"), chart.of_data("action_noise")
    if distance is None or noise is None:
        return None
    said = f"its actions are {distance:.3g} from the data's, which at neighbouring states are {noise:.3g} apart"
    if noise > (chart.of_data("action_spread") or math.inf) and not chart.clones:
        return Finding(
            "normal",
            "Cloning cannot be told: actions of neighbouring states differ as much as any",
            said,
        )
    if chart.clones or distance > _NEAR * noise:
        does = "clones the data, as bc_steps says" if chart.clones else "is no clone of the data"
        return Finding("normal", f"The policy {does}", said)
    title = "The policy may clone the data: it is as close to them as actions of neighbouring states are to each other"
    best = chart.best_alpha
    if best is not None and best >= chart.set("alpha_cql.value"):
        meaning = (
            f"no reason to lower alpha_cql here: of the values compared, {best:g} has the highest mean return in the "
            "last evaluation"
        )
        return Finding("watch", title, said, meaning)
    meaning = (
        "a strong penalty keeps the policy near the recorded actions, which can be right on good data and early in "
        "training; compare a weaker penalty with this one before you prefer either"
    )
    return Finding("watch", title, said, meaning, (chart.conservative(-1),))


def _scale(chart: _Chart) -> Finding | None:
    """The size of discounted returns, beside which penalty and entropy have to count."""
    low, high = chart.of_data("return_min"), chart.of_data("return_max")
    size = abs(chart.earned or 0.0) if low is None or high is None else max(abs(low), abs(high))
    if not size:
        return None
    td = chart.last("critic_td")
    said = f"discounted returns of size {size:.4g}" + ("" if td is None else f", critic_td {td:.4g}")
    if _SMALL <= size <= _LARGE:
        return Finding("normal", "Rewards are of a usual scale", said)
    large = "entropy and penalty count for nothing beside such values, and critics follow them slowly"
    meaning = large if size > _LARGE else "entropy and penalty, which are of order 1, drown the rewards"
    scale = (_number(chart.run.config.get("dataset.reward_scale")) or 1.0) * 10.0 ** -round(math.log10(size / 300.0))
    severity: Severity = "wrong" if size > _FAR * _LARGE or size < _SMALL / _FAR else "watch"
    title = f"Rewards are very {'large' if size > _LARGE else 'small'}"
    return Finding(severity, title, said, meaning, (f"dataset.reward_scale={scale:.3g}",))


def _noise(chart: _Chart) -> Finding | None:
    """The standard error of an evaluation against what it is to show."""
    returns, curve = np.array([row.return_ for row in chart.last_episodes]), chart.run.evaluations.values
    if not len(returns) or not len(curve) or not chart.run.has_simulator:
        return None
    n, outcomes = len(returns), [run.outcome("last", scored=False) for run in chart.peers]
    others = [value for value in outcomes if value is not None]
    error = float(returns.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    said = f"{n} {'episodes' if n > 1 else 'episode'}, mean {returns.mean():.4g}, standard error {error:.3g}"
    title, between = "Evaluations are noisy", max(float(np.ptp(curve)), abs(float(returns.mean())))
    if len(others) > 2:
        title, between = "Evaluations are too noisy to compare these runs", float(np.std(others, ddof=1))
        said += f"; standard deviation of the last evaluations of {len(others)} runs {between:.3g}"
    if error <= 0.5 * between:
        return Finding("normal", "Evaluations are precise enough", said)
    wanted = min(math.ceil(n * min((2.0 * error / max(between, 1e-9)) ** 2, 100.0) / 10.0) * 10, 1000)
    meaning = (
        "such differences are chance: take more episodes, or the mean of the last five evaluations, and more seeds"
    )
    return Finding("watch", title, said, meaning, (f"env.n_eval_episodes={max(wanted, n)}",))


CHECKS = {
    "failure": _failure, "values": _values, "promise": _promise, "multiplier": _multiplier, "entropy": _entropy,
    "bounds": _bounds, "cloning": _cloning, "scale": _scale, "noise": _noise,
}  # fmt: skip
"""What is looked at, by the names of findings."""


def _have_same_rest(run: Run, peer: Run) -> bool:
    """Whether two runs differ in alpha_cql and the seed at most."""
    a, b = run.config, peer.config
    differing = (key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return all(key in (_ALPHA, SEED) or not is_compared(key) for key in differing)


def _tau(value: float) -> str:
    return f"algorithm.alpha_cql.tau_cql={value:.3g}"


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e100 else None
