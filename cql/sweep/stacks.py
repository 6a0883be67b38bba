"""Which runs of a sweep train together.

The plan is recorded in the sweep's folder (``stacks.json``), so that a resumed sweep trains the same runs together, by
the same matrix products.
"""

import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cql.config import ConfigError, TrainConfig
from cql.files import contents, damage, write_text
from cql.sweep.status import STACKS_FILE, counted
from cql.training import device, limits

log = logging.getLogger(__name__)


def largest_sizes(
    examples: Mapping[str, TrainConfig],
    keys: Sequence[str],
    *,
    stack_size: int | None,
    workers: int,
    n_devices: int,
) -> dict[str, int]:
    """The most runs per stack, by stack key.

    Args:
        examples: One config with each stack key.
        keys: The stack keys of all runs.
        stack_size: A fixed size for all; None for what fits into memory.
        workers: Stacks that train at the same time and share the memory.
        n_devices: Stacks that train at the same time, each on a device of its own.

    Raises:
        ConfigError: ``stack_size`` needs more open files than are allowed.
    """
    if stack_size is not None:
        most = limits.runs_by_files()
        if min(stack_size, max(map(keys.count, examples))) > most:
            raise ConfigError(
                f"hydra.launcher.stack_size={stack_size}: a run takes {limits.FILES_PER_RUN} open files, and this "
                f"process may not open so many: give at most {most}, or have its hard limit raised (ulimit -Hn)"
            )
        return dict.fromkeys(examples, stack_size)
    sizes, fitting = {}, []
    for key, train_config in examples.items():
        size, why = device.fitting_stack_size(train_config, workers)
        fitting.append((size, why))
        # Every worker and device gets a share of the runs.
        sizes[key] = min(size, -(-keys.count(key) // max(workers, n_devices)))
    size, why = min(fitting)
    log.info("at most %s per stack: %s", counted(size, "run"), why)
    return sizes


def plan(sweep: Path, keys: Mapping[str, str], sizes: Mapping[str, int]) -> list[list[str]]:
    """Assign the runs to stacks and record the plan.

    Runs of a recorded stack stay together, at their places. The others form stacks in the order of their names, which
    does not depend on the order of the grid.

    Args:
        sweep: The folder of the sweep.
        keys: Stack key of each run, by the name of its folder.
        sizes: The most runs per stack, by stack key.

    Returns:
        The names of the runs of each stack.

    Raises:
        ConfigError: The recorded plan is damaged.
    """
    path = sweep / STACKS_FILE
    recorded = _recorded(path) if path.exists() else []

    def split(names: Iterable[str]) -> list[list[str]]:
        by_key: dict[str, list[str]] = {}
        for name in names:
            by_key.setdefault(keys[name], []).append(name)
        return [chunk for key, together in by_key.items() for chunk in _chunks(together, sizes[key])]

    stacks = [chunk for before in recorded for chunk in split(name for name in before if name in keys)]
    fresh = split(sorted(keys.keys() - {name for before in recorded for name in before}))
    write_text(path, json.dumps(recorded + fresh, indent=1) + "\n")
    return stacks + fresh


def _recorded(path: Path) -> list[list[str]]:
    try:
        recorded = json.loads(contents(path))
        if not all(isinstance(name, str) for stack in recorded for name in stack):
            raise ValueError("not lists of names")
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{damage(path)}: remove it and give the command again. Its runs are assigned to stacks anew, so that "
            "those that resume may differ in rounding"
        ) from error
    return [list(stack) for stack in recorded]


def _chunks(names: list[str], size: int) -> list[list[str]]:
    """As few chunks of at most this size as possible, of nearly equal lengths."""
    n_chunks = -(-len(names) // size)
    bounds = [round(index * len(names) / n_chunks) for index in range(n_chunks + 1)]
    return [names[start:end] for start, end in itertools.pairwise(bounds)]
