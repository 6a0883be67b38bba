"""Which run to choose without an environment, and how far that can be trusted.

Scorers judge each run by recorded data (:mod:`cql.training.judge`). Where runs were evaluated in an environment too,
the order of a scorer is compared with the order of their returns, and with what choosing by episodes would have given.

Sources:
    [Fu] Fu et al., Benchmarks for Deep Off-Policy Evaluation, 2021: rank correlation and regret@k.
    [Karnin] Karnin et al., Almost Optimal Exploration in Multi-Armed Bandits, 2013.
    [Kurenkov] Kurenkov and Kolesnikov, Showing Your Offline Reinforcement Learning Work, 2022: budgets of episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cql.results import writers
from cql.results.groups import Results
from cql.results.runs import Run
from cql.results.statistics import FEW_REPETITIONS, LEVEL, MIN_RUNS, REPETITIONS, Estimate
from cql.scorer_names import DIRECTIONS
from cql.sweep.status import counted
from cql.training.local_logger import read_episodes

MEANINGS = {
    "fqe_cql": "fitted Q evaluation with CQL's conservative gap, of the same weight for all runs: low where a policy "
    "leaves the data; its order counts, not its size",
    "fqe": "fitted Q evaluation: the discounted return of the policy, by critics trained for it on the recorded data",
    "initial_value": "value of the policy's action in initial states, by the run's own critics",
    "q_policy": "value of the policy's actions in recorded states",
    "q_data": "value of recorded actions",
    "advantage": "value of the policy's actions less that of recorded ones",
    "soft_opc": "value of recorded actions in episodes of a high return less that of all",
    "td_error": "mean squared TD error",
    "action_distance": "distance of the policy's actions from recorded ones",
}
"""Every scorer, in the order in which they are shown. The first that all runs have chooses."""

OF_CRITICS = ("initial_value", "q_policy", "q_data", "advantage")
"""Scorers in the units of the runs' own critics, whose values the conservative term lowers."""

FITTED = ("fqe_cql", "fqe")
"""Scorers with critics of their own, and with intervals."""

KS = (1, 3, 5)
"""Of regret@k."""

FAR = 1.5
"""Times the median ``action_distance`` of the runs: fitted Q evaluation does not choose a run beyond it."""

_FEWEST = 6  # runs, for an interval over them
_SPLITS = 500  # of the episodes of an evaluation


class Candidate(NamedTuple):
    """A run that was judged.

    Attributes:
        run: it.
        arm: label of its settings.
        returns: of the episodes of the policy that was judged, as scores where they are known, (E,); empty if it was
            not evaluated in an environment.
    """

    run: Run
    arm: str
    returns: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Settings and seed."""
        return f"{self.arm}, seed {self.run.seed}"


@dataclass(frozen=True)
class Selection:
    """The judged runs of one task.

    Attributes:
        task: label.
        candidates: the runs.
        unit: of returns: ``return`` or ``score``.
    """

    task: str
    candidates: tuple[Candidate, ...]
    unit: str

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """The scorers that all runs have."""
        given = [each.run.judgement for each in self.candidates]
        return tuple(name for name in MEANINGS if all(_is_number(own.get(name)) for own in given))

    def values(self, scorer: str) -> NDArray[np.float64]:
        """What a scorer says of each run, (n,)."""
        return np.array([each.run.judgement[scorer] for each in self.candidates], np.float64)

    def preference(self, scorer: str) -> NDArray[np.float64]:
        """The same with the sign by which larger is better, (n,); for ``fqe`` runs that are :attr:`far` come last."""
        values = DIRECTIONS.get(scorer, 1) * self.values(scorer)
        return np.where(self.far, values - np.ptp(values) - 1.0, values) if scorer == "fqe" else values

    @cached_property
    def far(self) -> NDArray[np.bool_]:
        """Which policies act far from recorded actions, (n,): there are no data to evaluate them by."""
        if "action_distance" not in self.scorers:
            return np.zeros(len(self.candidates), bool)
        distance = self.values("action_distance")
        return distance > FAR * np.median(distance)

    def order(self, scorer: str) -> list[Candidate]:
        """The runs from the best to the worst by a scorer."""
        return [self.candidates[index] for index in np.argsort(-self.preference(scorer), kind="stable")]

    @cached_property
    def is_known(self) -> bool:
        """Whether every run was evaluated in an environment, and there are enough runs to compare orders."""
        return len(self.candidates) >= MIN_RUNS and all(len(each.returns) for each in self.candidates)

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """The mean return of each run, (n,)."""
        return np.array([each.returns.mean() for each in self.candidates], np.float64)

    def rank(self, candidate: Candidate) -> int:
        """The place of a run by its return, 1 for the best."""
        return 1 + int((self.returns > candidate.returns.mean()).sum())

    def correlation(self, scorer: str) -> Estimate:
        """Spearman's correlation of a scorer's order with that of the returns, with an interval over runs."""
        return over_runs(rank_correlation, self.preference(scorer), self.returns)

    def regret(self, scorer: str, k: int) -> Estimate:
        """:func:`regret_at` of a scorer, with an interval over runs."""
        return over_runs(lambda scores, returns: regret_at(scores, returns, k), self.preference(scorer), self.returns)

    @cached_property
    def online(self) -> NDArray[np.float64]:
        """:func:`by_episodes` of the runs; empty if they were evaluated in different numbers of episodes."""
        return by_episodes(self._episodes)

    @cached_property
    def halving(self) -> NDArray[np.float64]:
        """:func:`by_halving` of the runs; empty likewise."""
        return by_halving(self._episodes)

    @cached_property
    def _episodes(self) -> NDArray[np.float64]:
        """(n, E), or (n, 0) if returns are not known or numbers differ."""
        n = len(self.candidates)
        is_even = self.is_known and len({len(each.returns) for each in self.candidates}) == 1
        return np.array([each.returns for each in self.candidates]) if is_even else np.empty((n, 0))

    @property
    def sentences(self) -> list[str]:
        """In words: what is chosen by the first scorer, what it is worth, and how far to trust that."""
        scorer, n = self.scorers[0], len(self.candidates)
        chosen = self.order(scorer)[0]
        own = chosen.run.judgement
        known = f"{scorer}_low" in own
        bounds = f" (95 % interval {own[f'{scorer}_low']:.4g} to {own[f'{scorer}_high']:.4g})" if known else ""
        said = []
        if len({_settings_of(each.run.judgement) for each in self.candidates}) > 1:
            said.append(
                "These runs were judged with different settings or on different episodes, so their order means little: "
                "judge them all again with the same settings."
            )
        if own.get("checkpoint") == "best.pt" and chosen.run.has_simulator:
            said.append("These are best checkpoints, which evaluations in the environment chose.")
        said += [f"Of {n} runs, {scorer} chooses {chosen.name}: {own[scorer]:.4g}{bounds}."]
        if scorer in OF_CRITICS and len({str(_conservatism(each.run)) for each in self.candidates}) > 1:
            said.append(
                "The runs differ in how conservative their critics are, and these critics give the values: a smaller "
                "alpha_cql alone raises them. Do not choose by them."
            )
        if scorer == "fqe" and self.far.any():
            said.append(
                f"{counted(int(self.far.sum()), 'run')} came last whatever the estimate, with an action_distance above "
                f"{FAR:g} times the median: where their policies act there are no data to evaluate them by."
            )
        if scorer in FITTED:
            same = sum(each.run.judgement[f"{scorer}_high"] >= own[f"{scorer}_low"] for each in self.candidates) - 1
            if same:
                said.append(
                    f"{counted(same, 'other run')} {'is' if same == 1 else 'are'} not distinguishable from it by this "
                    "estimate: the 95 % intervals overlap."
                )
        if _is_number(own.get("fqe_data_max")) and own["fqe"] > own["fqe_data_max"]:
            said.append(
                f"Its fqe, {own['fqe']:.4g}, is above the largest discounted return of any recorded episode, "
                f"{own['fqe_data_max']:.4g}: unless episodes were cut short, take more n_steps, or do not trust it."
            )
        if not self.is_known:
            some = "not all runs were" if any(len(each.returns) for each in self.candidates) else "no run was"
            is_few = n < MIN_RUNS and all(len(each.returns) for each in self.candidates)
            few = f"it takes {MIN_RUNS} runs" if is_few else f"{some} evaluated in an environment"
            return [*said, f"How far that can be trusted is not known here: {few}."]
        value, best = float(chosen.returns.mean()), float(self.returns.max())
        said.append(
            f"In the environment its {self.unit} is {value:.1f}, place {self.rank(chosen)} of {n}; the best run has "
            f"{best:.1f}, the mean of all is {float(self.returns.mean()):.1f}."
        )
        chance = {name: by_chance(self.preference(name), self.returns) for name in self.scorers}
        trusted = [name for name, p in chance.items() if p < (1.0 - LEVEL) / len(chance)]
        said.append(
            f"The order of {', '.join(trusted)} agrees significantly with that of the {self.unit}s (permutation test, "
            f"5 % over all {len(chance)} scorers)."
            if trusted
            else f"No scorer's order agrees significantly with that of the {self.unit}s."
        )
        if len(self.online):
            enough = np.nonzero(self.online >= value)[0]
            said.append(
                f"To choose as well by evaluation takes {counted(int(enough[0]) + 1, 'episode')} of each run, "
                f"{(enough[0] + 1) * n} in all."
                if len(enough)
                else f"Up to {counted(len(self.online), 'evaluation episode')} of each run choose no better one."
            )
        return said


def selections(results: Results) -> list[Selection]:
    """The judged runs of each task that has at least two."""
    found = []
    for task in results.tasks:
        candidates = tuple(
            Candidate(run, group.arm, _returns(run, results.scored))
            for group in results.groups_of(task)
            for run in group.runs
            if run.judgement
        )
        selection = Selection(task, candidates, "score" if results.scored else "return")
        if len(candidates) > 1 and selection.scorers:
            found.append(selection)
    return found


def rows(selection: Selection) -> list[dict[str, object]]:
    """One row for each run: its scorers, its return and its places."""
    orders = {scorer: selection.order(scorer) for scorer in selection.scorers}
    return [
        {
            "task": selection.task,
            "arm": each.arm,
            "seed": each.run.seed,
            "folder": str(each.run.directory),
            "checkpoint": each.run.judgement.get("checkpoint"),
            **{scorer: each.run.judgement[scorer] for scorer in selection.scorers},
            **{f"{name}_{end}": each.run.judgement.get(f"{name}_{end}") for name in FITTED for end in ("low", "high")},
            **{f"{scorer}_place": 1 + orders[scorer].index(each) for scorer in selection.scorers},
            selection.unit: float(each.returns.mean()) if len(each.returns) else None,
        }
        for each in selection.order(selection.scorers[0])
    ]


TRUST_HEADER = ["scorer", "rank correlation", *(f"regret@{k}" for k in KS), "chooses"]


def trust(selection: Selection) -> list[list[str]]:
    """A row for each scorer as :data:`TRUST_HEADER` says; none if returns are not known."""
    return [
        [
            scorer,
            _shown(selection.correlation(scorer), 2),
            *(_shown(selection.regret(scorer, k), 1) if k < len(selection.candidates) else "-" for k in KS),
            f"{chosen.name}: {chosen.returns.mean():.1f}, place {selection.rank(chosen)}",
        ]
        for scorer in (selection.scorers if selection.is_known else ())
        for chosen in selection.order(scorer)[:1]
    ]


def text(selection: Selection) -> str:
    """For a terminal: the runs in the order of the first scorer, how far scorers can be trusted, and words."""
    lines = [
        [
            str(place),
            each.name,
            *(f"{each.run.judgement[scorer]:.4g}" for scorer in selection.scorers),
            f"{each.returns.mean():.1f}" if len(each.returns) else "-",
        ]
        for place, each in enumerate(selection.order(selection.scorers[0]), start=1)
    ]
    parts = [
        f"{selection.task}, in the order of {selection.scorers[0]}:",
        writers.text_table(["place", "run", *selection.scorers, selection.unit], lines),
        *([writers.text_table(TRUST_HEADER, trust(selection))] if selection.is_known else []),
        *selection.sentences,
    ]
    return "\n".join(parts) + "\n"


def _shown(estimate: Estimate, decimals: int) -> str:
    if not math.isfinite(estimate.value):
        return "-"
    bounds = f" [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]" if estimate.has_interval else ""
    return f"{estimate.value:.{decimals}f}{bounds}"


def mean_of(runs: Iterable[Run], scorer: str) -> float | None:
    """The mean over runs of what a scorer says; None if none was judged by it."""
    found = [float(run.judgement[scorer]) for run in runs if _is_number(run.judgement.get(scorer))]
    return float(np.mean(found)) if found else None


# Functions of arrays --------------------------------------------------------------------------------------------------


def rank_correlation(scores: NDArray[np.float64], returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation along the last axis; NaN if all scores or all returns are the same."""
    a, b = (stats.rankdata(each, axis=-1) for each in (scores, returns))
    a, b = (each - each.mean(-1, keepdims=True) for each in (a, b))
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(norm > 0.0, (a * b).sum(-1) / np.where(norm > 0.0, norm, 1.0), np.nan))


def regret_at(scores: NDArray[np.float64], returns: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """regret@k [Fu, section 4]: the best return of all less the best of the k runs with the highest scores."""
    top = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    return np.asarray(returns.max(-1) - np.take_along_axis(returns, top, -1).max(-1))


def by_chance(scores: NDArray[np.float64], returns: NDArray[np.float64]) -> float:
    """The probability that an order without relation to the returns agrees with theirs as well: a permutation test."""
    value = float(rank_correlation(scores, returns))
    if not math.isfinite(value):
        return 1.0
    random = np.random.default_rng(0)
    shuffled = random.permuted(np.tile(returns, (REPETITIONS, 1)), axis=1)
    as_good = int((rank_correlation(np.broadcast_to(scores, shuffled.shape), shuffled) >= value - 1e-9).sum())
    return (1 + as_good) / (1 + REPETITIONS)


def over_runs(
    statistic: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    scores: NDArray[np.float64],
    returns: NDArray[np.float64],
) -> Estimate:
    """A statistic of runs with a bootstrap interval over them.

    Args:
        statistic: along the last axis of both. With fewer than six runs it has no interval: a bootstrap of so few is
            too narrow.
        scores: (n,).
        returns: (n,).
    """
    index = np.random.default_rng(0).integers(len(scores), size=(FEW_REPETITIONS, len(scores)))
    found = statistic(scores[index], returns[index])
    found = found[np.isfinite(found)]
    value = float(statistic(scores, returns))
    if not (len(found) and math.isfinite(value) and len(scores) >= _FEWEST):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(found, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return Estimate(value, float(low), float(high))


def by_episodes(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """What choosing by k evaluation episodes of each run gives, for k from 1 to E - 1: (E - 1,).

    The run with the highest mean over k episodes is chosen, and valued by its other episodes: those that chose it would
    flatter it. Mean over random choices of the k, the same for all runs.

    Args:
        returns: (n, E), of the runs' episodes, which began in the same E states.
    """
    n_episodes = returns.shape[1]
    if n_episodes < 2:
        return np.array([])
    random, k = np.random.default_rng(0), np.arange(1, n_episodes)
    total = np.zeros(n_episodes - 1)
    for _ in range(_SPLITS):
        shuffled = returns[:, random.permutation(n_episodes)]
        sums = shuffled.cumsum(1)
        chosen = sums[:, :-1].argmax(0)
        total += (shuffled.sum(1)[chosen] - sums[chosen, k - 1]) / (n_episodes - k)
    return total / _SPLITS


def by_halving(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for a bandit, sequential halving [Karnin]: the worse half of the runs gets no more episodes.

    Args:
        returns: as for :func:`by_episodes`.

    Returns:
        For budgets of k episodes times n runs, for k from 1 as far as the episodes go; NaN where a budget is too small
        for an episode of each run in each round.
    """
    n_runs, n_episodes = returns.shape
    n_rounds, found = math.ceil(math.log2(max(n_runs, 2))), []
    for k in range(1, n_episodes):
        sizes = [math.ceil(n_runs / 2**each) for each in range(n_rounds)]
        ends = np.cumsum([k * n_runs // (size * n_rounds) for size in sizes])
        if ends[-1] >= n_episodes:
            break
        random, total = np.random.default_rng(0), 0.0
        for _ in range(_SPLITS if ends[0] else 0):
            shuffled = returns[:, random.permutation(n_episodes)]
            alive = np.arange(n_runs)
            for size, end in zip([*sizes[1:], 1], ends, strict=True):
                alive = alive[np.argsort(-shuffled[alive, :end].mean(1), kind="stable")[:size]]
            total += float(shuffled[alive[0], ends[-1] :].mean())
        found.append(total / _SPLITS if ends[0] else math.nan)
    return np.array(found)


def _returns(run: Run, scored: bool) -> NDArray[np.float64]:
    """Of the episodes at the step of the policy that was judged."""
    rows = [row for row in read_episodes(run.directory) if row.step == run.judgement.get("step")]
    return np.array([row.score if scored else row.return_ for row in rows], np.float64)


def _settings_of(judgement: Mapping[str, Any]) -> tuple[Any, ...]:
    """How a judgement was made; only equal ones can be compared."""
    is_best, of_fqe = judgement.get("checkpoint") == "best.pt", str(judgement.get("fqe_key")).partition(" ")[2]
    return judgement.get("scored_on"), is_best, of_fqe


def _conservatism(run: Run) -> dict[str, Any]:
    """The settings by which a run's critics are lowered, or their rewards scaled."""
    keys = ("algorithm.alpha_cql", "algorithm.w_cql", "algorithm.penalty", "dataset.reward_", "algorithm.discount")
    return {key: value for key, value in sorted(run.config.items()) if key.startswith(keys)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
