"""Commands that are printed to be pasted: quoted for Hydra's grammar, then for the shell."""

import re
import shlex
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")


def override(key: str, value: object) -> str:
    """``KEY=VALUE`` as Hydra reads it; a text with other characters than a plain path's is quoted."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return f"{key}={text}"
    # In Hydra's quotes a backslash counts only before a quote, and at the end.
    escaped = re.sub(r"(\\*)(')", r"\1\1\\\2", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"


def command(*words: str | Path) -> str:
    """Words as one line for the shell."""
    return shlex.join(map(str, words))


def train(*overrides: str) -> str:
    """The command that trains with some overrides, each as :func:`override` makes it."""
    return command("python", "scripts/train.py", *overrides)
