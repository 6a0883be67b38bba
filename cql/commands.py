"""What all scripts share: their numbers, how they end, and the commands that they print to be pasted."""

import argparse
import contextlib
import importlib
import io
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# OpenMP's threads wait for each other in a busy loop by default, which makes training three times slower, and fitted Q
# evaluation far more, if another process has one of the cores. With this they sleep after 1000 turns. It has no effect
# once torch is imported, which no script does before this module.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Control characters but tabs and line breaks, marks that reverse the direction of writing, half characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]+")


def is_own(error: Exception) -> bool:
    """Whether an error is one of the program's own, whose text is written for users."""
    return type(error).__module__.startswith("cql.")


class UsageError(ValueError):
    """A command line asks for what cannot be done; the message says what to write."""


class MissingPackageError(ImportError):
    """A package that one of the extras brings is not installed; the message says how to install it."""


def required(package: str, extra: str) -> Any:
    """Import a package that comes with one of our extras.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        if (error.name or "").partition(".")[0] != name:  # something that the package itself needs
            raise
        raise MissingPackageError(f"{name} is not installed: pip install 'cql[{extra}]'") from error


def exit_code(script: Callable[[], int | None]) -> int:
    """Call the body of a script and return its exit code.

    The program's own errors, and files that cannot be read or written, are errors of the user: the message goes to
    stderr, and the code is 2. Any other error is raised.
    """
    tolerate_narrow_locales()
    try:
        code = script() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # whoever reads the output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not (is_own(error) or isinstance(error, OSError)):
            raise
        sys.stderr.write(f"{printable(str(error))}\n")
        return 2
    return code


def tolerate_narrow_locales() -> None:
    """Have characters that the output's encoding lacks written as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """The type of an option of argparse: a whole number within bounds, both included."""

    def parse(text: str) -> int:
        value = int(_parsed(text, int))
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range: at least {low}, at most {high}")
        return value

    return parse


def real(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Callable[[str], float]:
    """The type of an option of argparse: a finite number within bounds.

    Args:
        low: the least.
        high: the greatest.
        above: ``low`` itself is out of range.
        below: ``high`` itself is out of range.
    """

    def parse(text: str) -> float:
        value = _parsed(text, float)
        if not (low <= value <= high and math.isfinite(value)) or (above and value == low) or (below and value == high):
            bounds = [f"{'more than' if above else 'at least'} {low:g}"] if math.isfinite(low) else []
            bounds += [f"{'less than' if below else 'at most'} {high:g}"] if math.isfinite(high) else []
            raise argparse.ArgumentTypeError(f"{text} is out of range: {', '.join(bounds) or 'a finite number'}")
        return value

    return parse


def _parsed(text: str, kind: Callable[[str], float]) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number") from error


def printable(text: str) -> str:
    """A text of a file or folder as it may be shown: control characters and what UTF-8 cannot write are escaped."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def override(key: str, value: object) -> str:
    """``KEY=VALUE`` as Hydra reads it; a text with other characters than a plain path's is quoted."""
    return f"{key}={_literal(value)}"


def _literal(value: object) -> str:
    match value:
        case Mapping():
            # Hydra takes no quotes in the names of a mapping in a mapping.
            return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_literal, value)) + "]"
        case None | bool():
            return "null" if value is None else str(value).lower()
    text = str(value)
    if _PLAIN.fullmatch(text) and not (isinstance(value, str) and _is_other(text)):
        return text
    # In Hydra's quotes a backslash counts only before a quote, and at the end.
    escaped = re.sub(r"(\\*)(')", r"\1\1\\\2", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def _is_other(text: str) -> bool:
    """Whether Hydra takes a text for a number, a truth value or null, unless it is quoted."""
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return text.lower() in ("null", "true", "false")


def command(*words: str | Path) -> str:
    """Words as one line for the shell."""
    return shlex.join(map(str, words))


def script(name: str, *words: str | Path) -> str:
    """The command that calls one of our scripts, e.g. ``doctor``, with some words."""
    return command("python", f"scripts/{name}.py", *words)


def train(*overrides: str) -> str:
    """The command that trains with some overrides, each as :func:`override` makes it."""
    return script("train", *overrides)
