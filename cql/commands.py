"""What commands print: commands to be pasted, quoted for Hydra's grammar and for the shell, and errors."""

import re
import shlex
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")


def is_own(error: Exception) -> bool:
    """Whether an error is one of the program's own, whose text is written for users."""
    return type(error).__module__.startswith("cql.")


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
