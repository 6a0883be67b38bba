"""What the README shows of the code is the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_block_of_code_is_the_critics_loss_of_the_step():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    language, code = blocks[0]
    assert language == "python"
    assert "losses.critic_loss(" in code
    assert code in (ROOT / "cql" / "algorithm" / "step.py").read_text(encoding="utf-8")


def test_files_that_it_links_to_exist():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_modules_that_it_names_exist():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"\b(?:cql|scripts|benchmarks)/[\w/]+\.py\b", text):
            assert (ROOT / name).exists(), f"{document.name} names {name}"
