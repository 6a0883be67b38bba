"""Where a run trains: the device, and how many runs of a stack its memory holds."""

import contextlib
from collections.abc import Iterator

import torch

from cql import config
from cql.algorithm import fast as fast_path
from cql.algorithm.agent import AgentConfig
from cql.config import TrainConfig
from cql.training import limits
from cql.training.build import agent_config, env_of
from cql.training.build_online import buffer_bytes

_USABLE = 0.6  # of the free memory; the data, libraries and other programs need some as well
_LARGEST_STACK = 256  # each run is a level of nested jobs


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: ``cuda`` was asked for and torch sees no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise config.ConfigError("device=cuda: torch sees no CUDA device here; use device=cpu or device=auto")
    return torch.device(name)


def has_eval_worker(train_config: TrainConfig, device: torch.device) -> bool:
    """Whether a worker process does evaluations and videos."""
    if not train_config.env.has_simulator:
        return False
    match train_config.eval_worker:
        case config.EvalWorker.auto:
            # Training on the CPU leaves no core idle for a worker.
            return device.type == "cuda"
        case chosen:
            return chosen is config.EvalWorker.on


def n_devices(train_config: TrainConfig) -> int:
    """How many devices of this machine a sweep of this config can use: its GPUs, or 1 for the CPU."""
    return max(1, torch.cuda.device_count()) if choose_device(train_config.device).type == "cuda" else 1


def fitting_stack_size(train_config: TrainConfig, workers: int = 1) -> tuple[int, str]:
    """How many runs of a config fit into one stack, with the memory that is free now and the files that may be open.

    Args:
        train_config: of one of the runs.
        workers: number of stacks that share the memory.

    Returns:
        The number, at least 1, and a line that explains it.
    """
    info = env_of(train_config)
    device = choose_device(train_config.device)
    shape = agent_config(train_config, info)
    one = run_bytes(shape, train_config.batch_size, device, fast=train_config.fast) + buffer_bytes(train_config, info)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else limits.free_memory()
    size = int(_USABLE * free / workers / one)
    mib = 2**20
    why = f"a run takes about {one / mib:.0f} MiB of the {free / mib:.0f} MiB that are free on {device}"
    why += f", shared by {workers} stacks" if workers > 1 else ""
    most = limits.runs_by_files()
    if most < min(size, _LARGEST_STACK):
        size, why = most, f"a run takes {limits.FILES_PER_RUN} open files, and more are not allowed (ulimit -Hn)"
    return min(max(size, 1), _LARGEST_STACK), why


def run_bytes(shape: AgentConfig, batch_size: int, device: torch.device, *, fast: bool = True) -> int:
    """Estimate the bytes that one run of a stack takes: its parameters, and what one update keeps for the gradient.

    Measured with stacks of 1 to 16 runs, each run added 9 MiB to the peak of the process when the fast path works in
    pieces; the estimate is above that, since environments and logs come on top.
    """
    size = shape.observation_size + shape.action_size
    of_actor, of_critic = (
        (size + 2) * mlp.width + (mlp.depth - 1) * mlp.width * mlp.width for mlp in (shape.actor, shape.critic)
    )  # parameters of one network, nearly
    n_groups = 3 if shape.next_actions else 2
    n_rows = batch_size * (1 + n_groups * shape.num_sampled_actions)
    n_numbers = 12 * n_rows * size  # noise, actions, inputs
    if not (fast and fast_path.suits(shape.critic, device)):
        # Of all critics: each hidden layer's output, kept for the gradient, and its gradient.
        n_numbers += shape.n_critics * n_rows * 2 * shape.critic.depth * shape.critic.width
    # Actor and critics with gradients, their parts, and Adam's two moments, the target critics; environments and logs
    # besides.
    n_parameters = 4 * of_actor + 10 * shape.n_critics * of_critic
    return 4 * (n_numbers + n_parameters) + 8 * 2**20


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as a worker does: products of a few rows are slower in two, and may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
