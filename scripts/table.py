"""A paper's table: ``python scripts/table.py run|show NAME``; see ``--help``."""

import os
import sys
from pathlib import Path

from hydra.core.config_store import ConfigStore

from cql import config, tables
sys.path.insert(0, str(Path(__file__).parent)); import train


def run(name, overrides, data):
    table = tables.load_table(name, config.CONFIG_DIR / "table")
    for (group, option), node in tables.hydra_options(table, table.tasks, data).items():
        ConfigStore.instance().store(group=group, name=option, node=node, package="_global_", provider="cql")
    sys.argv[1:] = ["-m", f"+experiment={table.sweep_name}", *overrides]
    train.main()

if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:], Path("."))
