from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cql import commands

PATHS = [
    "outputs/a-b_c/2026-11-26_08-00-00_seed0",
    "/home/me/my runs/seed=0",
    "Ergebnisse für Zürich",
    "a,b [c] {d} (e)",
    "it's",
    'say "so"',
    "$HOME/*?~#&;|<>",
    "back\\slash",
    "it\\'s\\",
    "%@!",
]


@pytest.mark.parametrize("path", PATHS)
def test_what_is_printed_means_the_same_when_it_is_pasted(path: str) -> None:
    *_, word = shlex.split(commands.train(commands.override("resume", path)))
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert (parsed.key_or_group, parsed.value()) == ("resume", path)


def test_plain_paths_are_printed_plainly() -> None:
    assert commands.train(commands.override("resume", PATHS[0])) == f"python scripts/train.py resume={PATHS[0]}"
