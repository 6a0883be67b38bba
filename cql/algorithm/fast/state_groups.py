"""The critics' gradient on a GPU, with the minibatch's states in groups that are computed like further runs.

The gradient of a weight is a sum over all rows, and a GPU's library adds thousands of them up one after another if the
matrix is small: for one run, that took 0.5 of an exact update's 1.3 ms on an H200. In groups it adds them in parallel.
"""

import functools
import math

from torch import Tensor

from cql.algorithm import networks
from cql.algorithm.networks import PLAIN, Mlp, Parameters

_N_PRODUCTS = 32  # per layer and critic: of so many runs, the products fill a GPU


def critics(mlp: Mlp, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
    """Like :func:`cql.algorithm.networks.critics`."""
    n_runs, n_states, size = observations.shape
    n_groups = math.gcd(n_states, 2 ** int(math.log2(max(1, _N_PRODUCTS // n_runs))))
    per_group = {name: tensor.repeat_interleave(n_groups, 0) for name, tensor in parameters.items()}
    own_observations = observations.reshape(n_runs * n_groups, -1, size)
    own_actions = actions.reshape(*actions.shape[:-2], n_groups, -1, actions.shape[-1]).movedim(-3, 1).flatten(0, 1)
    values = networks.critics(mlp, per_group, own_observations, own_actions)
    return values.view(n_runs, n_groups, *values.shape[1:]).movedim(1, -2).flatten(-2)


GROUPED = PLAIN._replace(critic_gradients=functools.partial(networks.critic_gradients, critics=critics))
