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
from cql.algorithm.networks import PLAIN, ActorFunction, Mlp, Networks

__all__ = ["Forms", "choose", "choose_actor", "suits"]


class Forms(NamedTuple):
    """How a step is computed.

    Attributes:
        networks: actor and critics.
        adam_update: the optimisers' step.
    """

    networks: Networks
    adam_update: Callable[[Adam], None]


def choose(actor: Mlp, critic: Mlp, device: torch.device, fast: bool = True) -> Forms:
    """The fast forms that suit the two shapes of networks on a device; the plain ones if ``fast`` is false."""
    if not fast:
        return Forms(PLAIN, plain_update)
    if device.type == "cuda":
        return Forms(GROUPED, fused_update)
    of_critics = FAST if suits(critic, device) else PLAIN
    return Forms(of_critics._replace(actor=choose_actor(actor, device)), fused_update)


def choose_actor(mlp: Mlp, device: torch.device) -> ActorFunction:
    """The form of the actor that suits its shape on a device."""
    return (FAST if suits(mlp, device) else PLAIN).actor
