"""The metrics of an epoch: sums on the device, per run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class EpochMetrics:
    """Sums of the metrics of each run's epoch, on the device, and the first step that was not finite.

    Args:
        names: of the metrics that a step reports.
        n_runs: R.
        device: of the agent.
    """

    def __init__(self, names: Sequence[str], n_runs: int, device: torch.device) -> None:
        self._names = names
        self._sums = torch.zeros(len(names), n_runs, dtype=torch.float64, device=device)
        self._bad_step = torch.full((n_runs,), -1, dtype=torch.int64, device=device)
        self._count = 0

    def add(self, step: int, values: Tensor) -> None:
        """Add the metrics of one step; nothing is moved to the host.

        Args:
            step: that was taken.
            values: (len(names), R).
        """
        self._sums += values
        self._count += 1
        bad = ~values.isfinite().all(0) & (self._bad_step < 0)
        self._bad_step.masked_fill_(bad, step)

    def means(self, run: int) -> dict[str, float]:
        """Mean of each metric over the epoch; empty before its first step."""
        if not self._count:
            return {}
        return dict(zip(self._names, (self._sums[:, run] / self._count).tolist(), strict=True))

    def first_bad_step(self, run: int) -> int | None:
        """The first step at which a metric was NaN or infinite, None if all were finite."""
        step = int(self._bad_step[run])
        return None if step < 0 else step

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sums.zero_()
        self._count = 0

    def state(self, run: int) -> dict[str, Any]:
        """What a checkpoint in the middle of an epoch needs."""
        return {"sums": self._sums[:, run].cpu().clone(), "count": self._count}

    def load_state(self, run: int, state: Mapping[str, Any]) -> None:
        """Resume from what :meth:`state` gave.

        If there were other metrics then, the epoch's means are those of the steps after the resume.
        """
        if state["sums"].shape != (len(self._names),):
            self.reset()
            return
        self._sums[:, run] = state["sums"].to(self._sums.device)
        self._count = int(state["count"])
