"""An experiment framework for Conservative Q-Learning (CQL).

What programs may use stands in ``__all__`` and in docs/reference/python.md: it stays, or a release says otherwise.
Everything else in this package is private. Nothing is imported before it is used.
"""

from importlib import import_module as _import
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cql.results.frame import read_runs
    from cql.training.policy import Policy, load
    from cql.training.python import compose, train

    __version__: str

__all__ = ["Policy", "__version__", "compose", "load", "read_runs", "train"]

_POLICY, _PYTHON = "cql.training.policy", "cql.training.python"
_PLACES = {"Policy": _POLICY, "load": _POLICY, "compose": _PYTHON, "train": _PYTHON, "read_runs": "cql.results.frame"}


if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return _import("importlib.metadata").version("cql")
        if name not in _PLACES:
            raise AttributeError(f"module 'cql' has no attribute {name!r}; it offers {', '.join(__all__)}")
        return getattr(_import(_PLACES[name]), name)
