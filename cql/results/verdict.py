"""The first lines of a report: which arm is ahead, by how much, whether that is significant, and what to know besides.

Everything is plain text; a page marks the arms' names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cql.results import statistics
from cql.results.comparison import Comparison, ranked, tied
from cql.results.groups import NOT_BEGUN
from cql.results.statistics import MIN_RUNS, Estimate
from cql.sweep.status import counted

MOST_LEADS = 8
"""Tasks of which the verdict speaks one by one."""
_MOST_NAMED = 6  # arms, of those that the lead is better than
FEW_SEEDS = 5
"""With fewer, the percentiles of a bootstrap make intervals that are too narrow."""


class Arm(str):
    """The name of an arm within a sentence."""

    __slots__ = ()
    is_arm = True


Sentence = Sequence[str]
"""Parts of a sentence, to be joined; those that are an :class:`Arm` are names."""


@dataclass(frozen=True)
class Verdict:
    """What a report says first.

    Attributes:
        leads: who is ahead: over all tasks, or on each task.
        more: tasks with a lead that is not shown.
        notes: what to know besides.
    """

    leads: Sequence[Sentence]
    more: int
    notes: Sequence[Sentence]


def verdict(compared: Comparison) -> Verdict:
    """Compare the arms in words."""
    return _Verdict(compared).all()


def evaluation(compared: Comparison) -> str:
    """The evaluations that make an outcome, within a sentence."""
    if compared.statistic == "last five":
        return "the mean of the last five evaluations"
    return f"the {compared.statistic} evaluation"


def joined(arms: Sequence[str]) -> list[str]:
    """Names of arms, with commas in between."""
    parts: list[str] = []
    for arm in arms:
        parts += [", ", Arm(arm)] if parts else [Arm(arm)]
    return parts


class _Verdict:
    def __init__(self, compared: Comparison) -> None:
        self.compared, self.results = compared, compared.results
        by_arm = {task: compared.by_arm(task) for task in self.results.tasks}
        self.by_task = {task: found for task, found in by_arm.items() if len(found) > 1}

    def all(self) -> Verdict:
        leads = [self._lead_on(task, found) for task, found in self.by_task.items()]
        if len(self.compared.aggregates.get("IQM", {})) > 1:
            leads = [self._lead_over_tasks()]
        if not leads:
            return Verdict([], 0, [])
        notes = [*self._against_base(), *self._lengths(), *self._left_out(), *self._statistic(), *self._unscored()]
        return Verdict(leads[:MOST_LEADS], max(len(leads) - MOST_LEADS, 0), notes)

    # Who is ahead -----------------------------------------------------------------------------------------------------

    def _lead_on(self, task: str, found: Mapping[str, np.ndarray]) -> Sentence:
        means = {arm: float(values.mean()) for arm, values in found.items()}
        first, second, *others = ranked(means)
        gaps = [statistics.difference_estimate(found[first], found[arm]) for arm in (second, *others)]
        judged = f"judged by {evaluation(self.compared)}, "
        judged = judged.capitalize() if len(self.results.tasks) == 1 else f"On {task}, {judged}"
        lead = [
            judged, Arm(first), f" has the highest mean {self.results.unit}, ",
            self._with_interval(statistics.mean_estimate(found[first])), self._survivors(first, [task]),
            f", before {second} with ", self._with_interval(statistics.mean_estimate(found[second])),
            self._survivors(second, [task]), ".", self._ties(means),
            " ", self._significance(gaps[0], {arm: len(found[arm]) for arm in (first, second)}),
        ]  # fmt: skip
        gap_of = dict(zip((second, *others), gaps, strict=True))
        few = [arm for arm, gap in gap_of.items() if not gap.has_interval]
        if others and len(few) < len(gap_of):
            beaten = [arm for arm, gap in gap_of.items() if gap.has_interval and gap.low > 0.0]
            lead.append(
                " Compared with one arm at a time, it is significantly better (95 %) than "
                + self._some_of(beaten, len(gap_of))
            )
            lead.append(f"; too few seeds for an interval: {self._some_of(few, len(gap_of))}." if few else ".")
        return lead

    @staticmethod
    def _some_of(arms: Sequence[str], n: int) -> str:
        """Which of the n other arms: their names, or how many if these are too many to read."""
        if 0 < len(arms) <= _MOST_NAMED:
            return ", ".join(arms)
        share = "none of" if not arms else "all" if len(arms) == n else f"{len(arms)} of"
        return f"{share} the {n} other arms"

    def _lead_over_tasks(self) -> Sentence:
        compared, iqm = self.compared, self.compared.aggregates["IQM"]
        values = {arm: estimate.value for arm, estimate in iqm.items()}
        first, second = ranked(values)[:2]
        a, b = compared.scores(first), compared.scores(second)
        gap = statistics.aggregate_estimate(a, statistics.iqm, minus=b)
        n_seeds = min(map(len, (*a, *b)))
        narrow = f" A bootstrap over {n_seeds} seeds makes that interval too narrow."
        return [
            f"Over {len(compared.tasks)} tasks, judged by {evaluation(compared)}, ", Arm(first),
            " has the highest interquartile mean score, ", self._with_interval(iqm[first]),
            self._survivors(first, compared.tasks), f", before {second} with ", self._with_interval(iqm[second]),
            self._survivors(second, compared.tasks), ".", self._ties(values),
            " ", self._significance(gap, {first: min(map(len, a)), second: min(map(len, b))}),
            narrow if gap.has_interval and n_seeds < FEW_SEEDS else "",
        ]  # fmt: skip

    def _with_interval(self, estimate: Estimate) -> str:
        if not estimate.has_interval:
            return self.compared.shown(estimate.value)[0]
        value, low, high = self.compared.shown(*estimate)
        return f"{value} ({low} to {high})"

    def _survivors(self, arm: str, tasks: Sequence[str]) -> str:
        """How many of an arm's runs make an outcome, if these are not all."""
        groups = [group for group in self.results.groups if group.arm == arm and group.task in tasks]
        planned, ended = sum(group.n_planned for group in groups), sum(len(group.ended) for group in groups)
        failed = sum(group.n_failed for group in groups)
        if ended == planned:
            return ""
        rest = planned - ended - failed
        unreadable = any(reason != NOT_BEGUN for _, reason in self.results.unread)
        said = [f"{failed} failed"] if failed else []
        said += [f"{rest} not finished{' or not readable' if unreadable else ''}"] if rest else []
        return f" [{ended} of {planned} runs; {', '.join(said)}]"

    @staticmethod
    def _ties(values: dict[str, float]) -> str:
        """The arms that share the first or the second place, which leaves the order open."""
        first, second, *others = ranked(values)
        same = tied(values, second, others)
        if tied(values, first, [second]):
            return f" Tied: {', '.join([first, second, *same])}."
        return f" Tied with {second}: {', '.join(same)}." if same else ""

    def _significance(self, gap: Estimate, n_seeds: Mapping[str, int]) -> str:
        if not gap.has_interval:
            few = " and ".join(f"{arm} has {n}" for arm, n in n_seeds.items() if n < MIN_RUNS)
            why = f": it takes {MIN_RUNS} finished seeds of both, and {few}" if few else ""
            return f"There is no interval of the difference{why}."
        value, low, high = (f"{each:,.{self.compared.decimals}f}" for each in gap)
        if gap.low > 0.0:
            return f"It is ahead by {value}, 95 % interval {low} to {high}."
        return (
            f"The difference of {value} (95 % interval {low} to {high}) includes zero: the two are not distinguishable."
        )

    # What to know besides ---------------------------------------------------------------------------------------------

    def _against_base(self) -> Iterator[Sentence]:
        """On how many tasks each arm is better or worse than the base arm, of those that both have."""
        base = self.compared.base
        alike: dict[str, list[str]] = {}
        for arm in self.results.arms if len(self.results.tasks) > 1 else ():
            tasks = [task for task, found in self.by_task.items() if arm in found and base in found]
            if arm == base or not tasks:
                continue
            known = [gap for task in tasks if (gap := self.compared.difference(task, arm)).has_interval]
            better, worse = sum(gap.low > 0.0 for gap in known), sum(gap.high < 0.0 for gap in known)
            few, even = len(tasks) - len(known), len(known) - better - worse
            of = counted(len(tasks), "task")
            if better or worse:
                said = f"significantly better on {better}, worse on {worse}, not distinguishable on {even} of {of}"
                yield [Arm(arm), f" against {base}: {said}{f'; too few seeds on {few}' if few else ''}."]
            else:  # there may be many arms like this
                said = f"not distinguishable on {even} of {of}" if even else f"too few seeds on all of {of}"
                alike.setdefault(said + (f", too few seeds on {few}" if few and even else ""), []).append(arm)
        for said, arms in alike.items():
            yield [f"Against {base} {said}: ", *joined(arms), "."]

    def _lengths(self) -> Iterator[Sentence]:
        """Arms of a task that trained for different numbers of steps."""
        unequal: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
        for task, found in self.by_task.items():
            by_length: dict[str, tuple[str, ...]] = {}
            for arm in found:
                lengths = sorted({run.n_steps for run in self.results.group(task, arm).ended})
                text = " or ".join(f"{n:,}" for n in lengths)
                by_length[text] = (*by_length.get(text, ()), arm)
            if len(by_length) > 1:
                unequal.setdefault(tuple(by_length.items()), []).append(task)
        for lengths_, tasks in unequal.items():
            on = "" if len(tasks) == len(self.by_task) else f" on {', '.join(tasks)}"
            line = [f"The arms did not train for the same number of gradient steps{on}: "]
            for index, (length, arms) in enumerate(lengths_):
                line += ["; " if index else "", f"{length} for ", *joined(arms)]
            yield [*line, "."]

    def _left_out(self) -> Iterator[Sentence]:
        """Arms that no lead compares."""
        compared = {arm for found in self.by_task.values() for arm in found}
        compared = set(self.compared.arms) if self.compared.aggregates else compared
        line: list[str] = []
        for arm in self.results.arms:
            if arm not in compared:
                n = sum(bool(len(self.compared.outcomes(task, arm))) for task in self.results.tasks)
                why = f"finished on {n} of {len(self.results.tasks)} tasks" if n else "no run finished"
                line += [", " if line else "Left out: ", Arm(arm), f" ({why})"]
        if line:
            yield [*line, "."]

    def _statistic(self) -> Iterator[Sentence]:
        if self.compared.statistic == "best":
            yield [
                "The best evaluation is selected by the value it reports, so it is biased upwards, and more so the "
                "more evaluations a run has."
            ]

    def _unscored(self) -> Iterator[Sentence]:
        if self.results.unscored_tasks and len(self.results.unscored_tasks) < len(self.results.tasks):
            yield [
                f"Without reference scores: {', '.join(self.results.unscored_tasks)}. All tasks are shown as returns, "
                "which are not averaged over tasks. Leave those runs out to get scores."
            ]
