"""The scripts as modules: they stand outside the package in a checkout."""

import importlib.util
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def load_script(name: str) -> ModuleType:
    """The module of `scripts/NAME.py`, new at each call."""
    spec = importlib.util.spec_from_file_location(f"{name}_entry_point", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
