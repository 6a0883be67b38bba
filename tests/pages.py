"""The README's and the site's pages as tests read them: blocks of code, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL
)
NEEDS = re.compile(r"#.*\bneeds?\b")
PLACEHOLDER = re.compile(r"\b(RUN|SWEEP|NAME|FOLDER|ENTITY|PROJECT|DATASET|ENV|PRESET|KEY)\b|\.\.\.")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    title: str
    code: str


class Command(NamedTuple):
    """One command of a page, its continued lines joined; ``needs`` if it says that it needs what is not everywhere."""

    page: str
    words: tuple[str, ...]
    needs: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def pages() -> list[Path]:
    """The README and all pages of the site that are written by hand."""
    return [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> Iterator[Block]:
    """The fenced blocks of all pages."""
    for page in pages():
        for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
            language, _, rest = found["info"].strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE)
            yield Block(page.relative_to(ROOT).as_posix(), language, title[1] if title else "", code)


def commands() -> list[Command]:
    """The commands in the blocks of a shell's language, but those that take a file that the reader has yet to write."""
    shells = [block for block in blocks() if block.language in ("bash", "sh", "console")]
    found = [command for block in shells for command in commands_of(block)]
    return [command for command in found if not {"algorithm/penalty=hinge", "arm=base,wide"} & set(command.words)]


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of one block. A comment with ``needs`` is of its line, or of the line below.

    In a console's block, commands begin with ``$``.
    """
    above = False
    for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        if line.strip().startswith("#"):
            above = bool(NEEDS.search(line))
            continue
        words = tuple(shlex.split(line, comments=True))
        if words:
            yield Command(block.page, words, above or bool(NEEDS.search(line)))
        above = False


def programs(command: Command) -> list[list[str]]:
    """The words of each program of a pipeline or a list, without variables in front."""
    parts: list[list[str]] = [[]]
    for word in command.words:
        if word in ("|", "&&", ";", "&"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            parts[-1].append(word)
    return [part for part in parts if part]
