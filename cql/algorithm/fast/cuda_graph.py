"""A training step as a CUDA graph: the same step, without the host's time for each of its kernels.

A step launches some hundreds of small kernels, and launching takes longer than running them. A graph starts them by one
call. It holds :meth:`cql.algorithm.agent.Agent.step` and the sampler's draw, as they are: the mathematics has no second
form, and the random numbers come from the same generators in the same order.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from cql.algorithm.agent import Agent
from cql.algorithm.sampling import Batch, Mixture, Pool, Sampler
from cql.algorithm.step import Phase

log = logging.getLogger(__name__)

Replay = Callable[[], Tensor]
Capture = Callable[[Callable[[], Tensor], Sequence[Generator]], Replay]

_EAGER_STEPS = 3  # of a phase before its capture: by then libraries have allocated what they keep


class CapturedStep:
    """Takes training steps, by a CUDA graph for each :class:`cql.algorithm.step.Phase`; there are four at most.

    The first steps of a phase run without a graph. Then a step is captured and compared: one step runs as it is, one
    by the graph, both from the same state. If they differ by more than rounding, or the capture fails, a warning says
    so, and all steps run without graphs.

    Args:
        agent: on a CUDA device.
        sampler: of the same runs.
        data: all transitions.
        capture: makes a graph of a function that uses these generators; a replay fills what the function returned at
            its capture.
    """

    def __init__(
        self, agent: Agent, sampler: Sampler, data: Pool | Batch | Mixture, capture: Capture | None = None
    ) -> None:
        self._agent, self._sampler, self._data = agent, sampler, data
        self._capture = capture_cuda if capture is None else capture
        self._replays: dict[Phase, Replay] = {}
        self._n_eager: Counter[Phase] = Counter()
        self._given_up = False

    @property
    def n_graphs(self) -> int:
        """Phases that are captured."""
        return len(self._replays)

    def __call__(self) -> Tensor:
        """One step of all runs.

        Returns:
            The :data:`cql.algorithm.step.METRICS`, (len(METRICS), R), valid until the next call.
        """
        phase = self._agent.phase
        if phase not in self._replays and self._n_eager[phase] >= _EAGER_STEPS and not self._given_up:
            self._try_capturing(phase)
        replay = self._replays.get(phase)
        if replay is None:
            self._n_eager[phase] += 1
            metrics = self._eager(phase)
        else:
            metrics = replay()
        self._agent.n_steps_done += 1
        return metrics

    def _eager(self, phase: Phase) -> Tensor:
        return self._agent.step(phase, *self._sampler.draw(self._data))

    def _try_capturing(self, phase: Phase) -> None:
        """Capture a phase and compare one step of the graph with one without; the state is then as it was before."""
        before = self._state()
        try:
            replay = self._capture(lambda: self._eager(phase), self._sampler.generators)
        except RuntimeError as error:
            self._restore(before)
            self._give_up(f"a step could not be captured as a CUDA graph: {error}")
            return
        expected = self._eager(phase).clone()
        tensors_after, generators_after = self._state()
        self._restore(before)
        metrics = replay().clone()
        tensors, generators = self._state()
        self._restore(before)
        pairs = [(metrics, expected), *zip(tensors, tensors_after, strict=True)]  # with NaN in a run that has failed
        if not all(torch.equal(a, b) for a, b in zip(generators, generators_after, strict=True)):
            self._give_up("a captured step draws other random numbers than a step without a graph")
        elif not all(torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in pairs):
            self._give_up("a captured step gives other numbers than a step without a graph")
        else:
            if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
                log.warning(
                    "captured steps differ from others by rounding: a run that is interrupted and resumed will not be "
                    "equal to the last bit to one that was not; cuda_graph=false makes it so, and is slower"
                )
            self._replays[phase] = replay

    def _give_up(self, reason: str) -> None:
        log.warning("%s; training continues without graphs, which is slower and otherwise the same", reason)
        self._given_up = True

    def _state(self) -> tuple[list[Tensor], list[Tensor]]:
        """Copies of all that a step changes: the agent's tensors and the generators' states."""
        generators = [generator.get_state().clone() for generator in self._sampler.generators]
        return [tensor.detach().clone() for tensor in self._agent.stack.tensors()], generators

    def _restore(self, state: tuple[list[Tensor], list[Tensor]]) -> None:
        tensors, generators = state
        with torch.no_grad():
            for tensor, kept in zip(self._agent.stack.tensors(), tensors, strict=True):
                tensor.copy_(kept)
        for generator, kept in zip(self._sampler.generators, generators, strict=True):
            generator.set_state(kept)


def capture_cuda(function: Callable[[], Tensor], generators: Sequence[Generator]) -> Replay:
    """Capture a function as a CUDA graph. It is recorded here, and runs when the result is called.

    Args:
        function: has run before, so that nothing is set up during the capture.
        generators: all that it draws from; a replay advances their states like a call.

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
