"""The README is short, and what it and the pages name exists."""

from __future__ import annotations

import re

import pytest
from pages import README, ROOT, blocks, pages

IDS = [page.relative_to(ROOT).as_posix() for page in pages()]


def test_it_is_read_on_one_screen_and_begins_with_the_critics_loss():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120
    first = next(block for block in blocks() if block.page == "README.md")
    assert (first.language, first.title) == ("python", "cql/algorithm/step.py")
    assert "losses.critic_loss(" in first.code


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_files_that_a_page_links_to_exist(page):
    text = page.read_text(encoding="utf-8")
    generated = {"config.md", "presets.md", "commands.md"}
    for target in re.findall(r"\]\(([^)#:\s]+?)(?:#[^)]*)?\)", text):
        if target.rpartition("/")[2] not in generated:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:cql|scripts|benchmarks|tests)/[\w/]+\.py\b", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
