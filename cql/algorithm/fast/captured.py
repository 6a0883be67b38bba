"""A training step as a CUDA graph: the same step, without the host's time for each of its kernels.

A step launches some hundreds of small kernels, and launching takes longer than running them. Captured, they are started
by one call. What is captured is :meth:`cql.algorithm.agent.Agent.step` and the sampler's draw themselves, so there is
no second form of the mathematics; the random numbers come from the same generators in the same order.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from cql.algorithm.agent import Agent, Plan
from cql.algorithm.sampling import Batch, Pool, Sampler

log = logging.getLogger(__name__)

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor], Sequence[Generator]], Replay]

_EAGER_STEPS = 3  # of a plan before it is captured: by then libraries and optimisers have allocated what they keep
_MOST_GRAPHS = 16  # each holds the memory of a step


class CapturedStep:
    """Takes training steps, captured where their plan has come up before.

    The first steps of each :class:`cql.algorithm.agent.Plan` run as they are; then it is captured, and the capture
    taken on trial: one step as it is and one from the graph, from the same state. Where the two differ by more than
    rounding, or the capture fails, a warning says so and all steps run as they are.

    Args:
        agent: on a CUDA device.
        sampler: of the same runs.
        data: all transitions.
        capture: makes a graph of a function that uses these generators; what the function returned at its capture is
            what the graph's replay fills.
    """

    def __init__(self, agent: Agent, sampler: Sampler, data: Pool | Batch, capture: Capture | None = None) -> None:
        self._agent, self._sampler, self._data = agent, sampler, data
        self._capture = capture_cuda if capture is None else capture
        self._replays: dict[Plan, Replay] = {}
        self._n_eager: Counter[Plan] = Counter()
        self._given_up = False

    @property
    def n_graphs(self) -> int:
        """Plans that are captured."""
        return len(self._replays)

    def __call__(self, active: Sequence[bool]) -> Tensor:
        """One step of the active runs.

        Returns:
            :data:`cql.algorithm.agent.METRICS`, (len(METRICS), R), valid until the next call.
        """
        plan = self._agent.plan(active)
        due = plan not in self._replays and self._n_eager[plan] >= _EAGER_STEPS
        if due and len(self._replays) < _MOST_GRAPHS and not self._given_up:
            self._try_capturing(plan)
        replay = self._replays.get(plan)
        if replay is None:
            self._n_eager[plan] += 1
            values = self._eager(plan)
        else:
            values = replay()
        self._agent.count(plan)
        return values

    def _eager(self, plan: Plan) -> Tensor:
        return self._agent.step(plan, *self._sampler.draw(self._data, plan.active))

    def _try_capturing(self, plan: Plan) -> None:
        """Capture a plan and compare one step of the graph with one as it is; the state is then as it was before."""
        before = self._state()
        try:
            replay = self._capture(lambda: self._eager(plan), self._sampler.generators)
        except RuntimeError as error:
            self._restore(before)
            self._give_up(f"a step could not be captured as a CUDA graph: {error}")
            return
        expected = self._eager(plan).clone()
        tensors_after, generators_after = self._state()
        self._restore(before)
        values = replay().clone()
        tensors, generators = self._state()
        self._restore(before)
        # Runs that are not active have no meaningful metrics, and a run that has failed has NaN.
        pairs = [
            (values[:, list(plan.active)], expected[:, list(plan.active)]),
            *zip(tensors, tensors_after, strict=True),
        ]
        if not all(torch.equal(a, b) for a, b in zip(generators, generators_after, strict=True)):
            self._give_up("a captured step draws other random numbers")
        elif not all(torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in pairs):
            self._give_up("a captured step does not give what the same step gives as it is")
        else:
            if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
                log.warning(
                    "captured steps differ from plain ones by rounding: a run that is stopped and taken up will not be "
                    "equal to the last bit to one that was not; cuda_graph=false gives that, more slowly"
                )
            self._replays[plan] = replay

    def _give_up(self, reason: str) -> None:
        log.warning("%s; training goes on without graphs, which is slower and otherwise the same", reason)
        self._given_up = True

    def _state(self) -> tuple[list[Tensor], list[Tensor]]:
        """Copies of all that a step changes: the agent's tensors, and the generators' states."""
        generators = [generator.get_state().clone() for generator in self._sampler.generators]
        return [tensor.detach().clone() for tensor in self._agent.tensors()], generators

    def _restore(self, state: tuple[list[Tensor], list[Tensor]]) -> None:
        tensors, generators = state
        with torch.no_grad():
            for tensor, kept in zip(self._agent.tensors(), tensors, strict=True):
                tensor.copy_(kept)
        for generator, kept in zip(self._sampler.generators, generators, strict=True):
            generator.set_state(kept)


def capture_cuda(function: Callable[[], Tensor], generators: Sequence[Generator]) -> Replay:
    """Capture a function as a CUDA graph; it is recorded here and runs when the result is called.

    Args:
        function: has run before, so that nothing is set up while it is captured.
        generators: all that it draws from; their states advance with each replay as with each call.

    Raises:
        RuntimeError: the function does something that a graph cannot hold, such as waiting for the device.
    """
    graph: Any = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        values = function()

    def replay() -> Tensor:
        graph.replay()
        return values

    return replay
