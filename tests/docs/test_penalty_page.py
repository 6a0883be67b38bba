"""docs/howto/penalty.md: its changes, applied to a copy of the package, pass their own tests and train."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from pages import ROOT, blocks

PAGE = "docs/howto/penalty.md"
TESTS = ("tests/algorithm/test_losses.py", "tests/algorithm/test_agent.py")
# One process for all, since importing torch takes longer than what follows.
SCRIPT = f"""
import sys
import pytest
pytest.main(["-q", "-p", "no:cacheprovider", "-k", "hinge", *{TESTS}])
import cql
folder, *overrides = sys.argv[1:]
print("score", cql.train(overrides, directory=folder).score)
print((cql.load(folder).config["algorithm"]["penalty"], open(folder + "/metrics.jsonl").read()))
penalty = "algorithm.penalty."
for own in (
    [penalty + "temperature=2"],
    [penalty + "gradient=sampled", penalty + "num_gradient_actions=1"],
    ["algorithm/alpha_cql=learned"],
):
    try:
        cql.compose(["algorithm/penalty=hinge", *own])
    except cql.config.ConfigError as error:
        print("refused:", error)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a copy of the package with the page's changes prints of its tests, of a run and of refused settings."""
    copy, data = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("data")
    ignored = shutil.ignore_patterns("__pycache__", "*.npz")
    for folder in ("cql", "configs", "plugins", "tests/algorithm"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for path in (*ROOT.glob("tests/*.py"), ROOT / "pyproject.toml"):
        shutil.copy(path, copy / path.relative_to(ROOT))
    for block in blocks():
        if block.page == PAGE and block.language == "diff":
            apply(block.code, copy)
        elif block.page == PAGE and block.language == "yaml":
            (copy / block.code.splitlines()[0].removeprefix("# ")).write_text(block.code, encoding="utf-8")
    dataset = tiny.write_dataset(data / "data.hdf5", n_episodes=2)
    own = "dataset=d4rl", f"dataset.path={dataset}", "algorithm/penalty=hinge", "n_steps=1", "n_steps_per_epoch=1"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (copy, copy / "plugins", copy / "tests")))}
    command = [sys.executable, "-c", SCRIPT, str(data / "run"), *tiny.OVERRIDES, *own]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def apply(diff: str, root: Path) -> None:
    """Make the changes of one file: each hunk follows a line of ``@@``, and its old lines stand once in the file."""
    head, *hunks = re.split(r"^@@ .* @@\n", diff, flags=re.MULTILINE)
    path = root / head.strip().removeprefix("+++ b/")
    text = path.read_text(encoding="utf-8")
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] or line for line in lines if line[0] != sign) for sign in "+-")
        assert text.count(old) == 1, f"{PAGE}: in {path.name} these lines stand {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def test_the_penalty_is_its_slow_form_alone_and_in_training_steps(printed):
    assert re.search(r"^3 passed", printed, re.MULTILINE), printed


def test_a_run_trains_with_it(printed):
    assert re.search(r"^score \d", printed, re.MULTILINE), printed
    assert re.search(r"'kind': 'hinge', .*'margin': 1.0.*\"cql_gap\": \d", printed), printed


def test_what_would_have_no_effect_is_refused(printed):
    refused = re.findall(r"^refused: algorithm\.(\S+)=", printed, re.MULTILINE)
    assert refused == ["penalty.temperature", "penalty.gradient", "alpha_cql.tau_cql"], printed
