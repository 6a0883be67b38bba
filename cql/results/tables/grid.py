"""The sweep that trains a table: what Hydra has to know of it, and the config of each of its cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

from cql import config
from cql.config.identity import flat
from cql.results.tables.spec import Table, Task
from cql.rollout.reference_scores import with_scores


def missing_files(tasks: Mapping[str, Task], data: Path) -> dict[str, Path]:
    """The tasks whose D4RL file is not in a folder, with the path that was looked at."""
    files = {name: data / task.file for name, task in tasks.items() if task.file}
    return {name: path for name, path in files.items() if not path.is_file()}


def hydra_options(table: Table, tasks: Iterable[str], data: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Contents of the config files that a table stands for: its tasks, and the experiment that sweeps over them.

    The experiment's own config has the table's first task, whichever tasks are trained: a sweep that is resumed is
    compared with it.

    Args:
        table: The table.
        tasks: Names of the tasks to train.
        data: Folder with D4RL's files.

    Returns:
        Contents by group and name, all of the package ``_global_``.
    """
    options: dict[tuple[str, str], dict[str, Any]] = {}
    for name, task in table.tasks.items():
        own: dict[str, Any] = {"defaults": [{f"override /{group}": option} for group, option in task.choose.items()]}
        own["defaults"].append("_self_")
        own |= task.set
        if task.file:
            own["dataset"] = {**own.get("dataset", {}), "path": str((data / task.file).resolve())}
        options["task", name] = own
    options["experiment", table.sweep_name] = {
        # The arm after the task, so that the arm has the final word.
        "defaults": [table.experiment, "_self_", {"/task": next(iter(table.tasks))}, {"/arm": next(iter(table.arms))}],
        **table.set,
        "sweep_name": table.sweep_name,
        "hydra": {
            "sweeper": {
                "params": {
                    "task": ",".join(tasks),
                    "arm": ",".join(table.arms),
                    "seed": ",".join(map(str, table.seeds)),
                }
            },
        },
    }
    return options


def store(table: Table, tasks: Iterable[str], data: Path) -> None:
    """Give :func:`hydra_options` to Hydra."""
    # Hydra 1.4 has to be told if a config may be stored again.
    again: dict[str, Any] = {} if config.VERSION_BASE else {"replace": True}
    for (group, name), node in hydra_options(table, tasks, data).items():
        ConfigStore.instance().store(group=group, name=name, node=node, package="_global_", provider="cql", **again)


def planned(table: Table, cells: Iterable[tuple[str, str]], data: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Compose the configs that the table plans for some cells.

    Args:
        table: The table.
        cells: Tasks and arms.
        data: Folder with D4RL's files.

    Returns:
        Config keys as :func:`cql.results.runs.read_run` has them, by task and arm. Arms that are neither the table's
        nor known here are left out.
    """
    config.register()
    store(table, table.tasks, data)
    found = {}
    with hydra.initialize_config_dir(str(config.CONFIG_DIR), **config.VERSION_BASE):
        for task, arm in cells:
            try:
                cfg = hydra.compose("train", [f"+experiment={table.sweep_name}", f"task={task}", f"arm={arm}"])
            except HydraException:
                if arm in table.arms:
                    raise
                continue
            found[task, arm] = flat(with_scores(config.to_dict(config.checked(cfg))))
    return found
