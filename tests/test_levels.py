"""Level n imports only lower levels; level 0 imports nothing of ours (the layout of the house)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cql

LEVELS = {
    0: {
        "config",
        "adam",
        "losses",
        "threads",
        "sampling",
        "data",
        "envs",
        "checkpoint",
        "loggers",
        "rendering",
        "statistics",
        "lock",
        "points",
        "worker",
        "page",
    },
    1: {"networks", "evaluation", "report", "sweeps"},
    2: {"agent", "results"},
    3: {"trainer", "captured", "collect", "figures", "tables", "dashboard", "inspection"},
    4: {"experiment", "comparison", "inspection_page"},
}
LEVEL = {room: level for level, rooms in LEVELS.items() for room in rooms}
PACKAGE = Path(cql.__file__).parent
KNOWS_CONFIG = {"config", "experiment"}


def imported(source: str) -> set[str]:
    """The rooms of ours that a source imports anywhere, in functions and for types too."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "cql" + (f".{node.module}" if node.module else "") if node.level else node.module or ""
            names += [f"{base}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("cql.")}


def rooms() -> dict[str, list[Path]]:
    """Each room's files: a module, or a folder of modules."""
    found = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    found |= {path.parent.name: sorted(path.parent.rglob("*.py")) for path in PACKAGE.glob("*/__init__.py")}
    return found


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_imports_only_lower_levels(room):
    assert room in LEVEL, f"cql.{room} has no level yet: give it one in this test"
    for path in rooms()[room]:
        for other in imported(path.read_text(encoding="utf-8")) - {room}:
            assert LEVEL.get(other, 99) < LEVEL[room], f"{path.name} (level {LEVEL[room]}) imports cql.{other}"
            assert other != "config" or room in KNOWS_CONFIG, f"{path.name} must take plain values, not config types"


def test_the_package_itself_imports_nothing_of_ours():
    assert not imported((PACKAGE / "__init__.py").read_text(encoding="utf-8"))


def test_every_form_of_import_is_seen():
    source = "from cql import a\nimport cql.b as x\nfrom cql.c import d\nfrom . import e\nfrom .f import g\nimport os\n"
    assert imported(source + "def h():\n    from cql.i import j\n") == {"a", "b", "c", "e", "f", "i"}
