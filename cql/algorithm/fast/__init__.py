"""Optional speed. Each piece computes what a plain form does, but for rounding, and a test compares the two.

- :mod:`~cql.algorithm.fast.layers`: relu networks on a CPU, in pieces that stay in the cache.
- :mod:`~cql.algorithm.fast.threads`: those pieces in parallel.
- :mod:`~cql.algorithm.fast.state_groups`: the critics' gradient on a GPU.
- :mod:`~cql.algorithm.fast.fused_adam`: Adam in one kernel.
- :mod:`~cql.algorithm.fast.cuda_graph`: a whole training step as a CUDA graph.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from cql.algorithm.adam import Adam, plain_update
from cql.algorithm.fast.fused_adam import fused_update
from cql.algorithm.fast.layers import FAST, suits
from cql.algorithm.fast.state_groups import GROUPED
from cql.algorithm.networks import PLAIN, Mlp, Networks

__all__ = ["Forms", "choose", "suits"]


class Forms(NamedTuple):
    """How a step is computed.

    Attributes:
        networks: actor and critics.
        adam_update: the optimisers' step.
    """

    networks: Networks
    adam_update: Callable[[Adam], None]


def choose(mlp: Mlp, device: torch.device, fast: bool = True) -> Forms:
    """The fast forms that suit networks on a device; the plain ones if ``fast`` is false."""
    if not fast:
        return Forms(PLAIN, plain_update)
    if device.type == "cuda":
        return Forms(GROUPED, fused_update)
    return Forms(FAST if suits(mlp, device) else PLAIN, fused_update)
