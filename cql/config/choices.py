"""Choices of the config: values that have names."""

from enum import StrEnum


class Device(StrEnum):
    """Where training runs; `auto` is CUDA if there is a device, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class EvalWorker(StrEnum):
    """Whether another process evaluates and records videos while training continues; `auto`: if training is on CUDA.

    The results are the same, bit for bit.
    """

    auto = "auto"
    on = "on"
    off = "off"


class Backup(StrEnum):
    """The critics' target: with the entropy term, without it, or the largest over sampled next actions."""

    soft = "soft"
    hard = "hard"
    max = "max"


class Gradient(StrEnum):
    """The gradient of the conservative gap: through every sampled action, or through a few drawn by weight."""

    exact = "exact"
    sampled = "sampled"


class Activation(StrEnum):
    """The non-linearity after each hidden layer."""

    relu = "relu"
    tanh = "tanh"
    elu = "elu"
    silu = "silu"
    gelu = "gelu"


class Initialisation(StrEnum):
    """How weights begin: torch's own `Linear` default, orthogonal, or Xavier uniform."""

    torch = "torch"
    orthogonal = "orthogonal"
    xavier = "xavier"


class RateSchedule(StrEnum):
    """How a learning rate falls from its value to 0, over all training steps of a run."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


class ReturnsToGo(StrEnum):
    """How Cal-QL's floor, the return of the data from a state on, is taken from an episode.

    `truncate`: the discounted sum of the rewards that were recorded. `bootstrap_failure`: the same, but in an episode
    in which every reward is the lowest of the dataset, the failure of a sparse task, that reward continues for ever, as
    in the code published with Cal-QL. `bootstrap_last_failure`: it does so in every episode that ends with that
    reward, as in CORL's code.
    """

    truncate = "truncate"
    bootstrap_failure = "bootstrap_failure"
    bootstrap_last_failure = "bootstrap_last_failure"


class LoggerMode(StrEnum):
    """Where a W&B run goes; `auto` is online with a key and a network, and offline otherwise."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"
