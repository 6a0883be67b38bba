"""The commands of the README and the start pages, run in their order with few steps; as slow tests those of how-tos."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
from children import fork, wait
from entry_points import load_script
from pages import ROOT, commands

TINY = (
    "n_steps=4", "n_steps_per_epoch=2", "env.n_eval_episodes=1", "video.enabled=false", "network.width=16",
    "batch_size=16", "n_threads=1", "device=cpu", "eval_worker=off",
)  # fmt: skip
READ = ("report", "doctor", "sweep_status", "judge", "evaluate", "export")  # scripts that take a run or a sweep
PAGES = ["README.md", "docs/start/first_run.md", "docs/start/first_sweep.md"]
MORE = [
    "docs/howto/sweeps.md",
    "docs/howto/ablations.md",
    "docs/howto/export.md",
    "docs/trouble/doctor.md",
    "docs/theory/objective.md",
]
EXCEPT = {  # and why
    "table.py run": "trains 32 runs; tests/results/test_tables.py has a table of two",
    "inspect_dataset.py": "draws for half a minute; tests/results/test_inspection.py",
    "tau_cql=-3.9": "names an arm of another sweep",
    "--watch": "ends with the sweep",
    "range(10)": "ten runs",
    "finetune_arms": "tests/training/test_online.py",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run, outputs/run, and a finished sweep, outputs/sweeps/made."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    quickstart = ["+experiment=quickstart", "logger=local", *TINY]
    run(folder, "train", [*quickstart, "hydra.run.dir=outputs/run"])
    run(folder, "train", ["-m", *quickstart, "algorithm.alpha_cql.value=1,5", "seed=0,1", "sweep_name=made"])
    return folder


def run(folder, name, words, code=0):
    """Run a script in a process of its own, and compare its exit status."""

    def task():
        warnings.simplefilter("default")  # of other people's packages; pytest has made them errors
        os.chdir(folder)
        sys.argv = [f"scripts/{name}.py", *words]
        sys.exit(load_script(name).main())

    ended = wait(fork(task, folder / "output.txt"), folder)
    assert ended.code == code, f"{name} {words}\n{ended.text}"
    assert "Traceback" not in ended.text, ended.text


def shrunk(folder, name, arguments):
    """The arguments with the folder's run and sweep in place of the page's, and few steps."""
    words = ["resume=outputs/run" if word.startswith("resume=") else word for word in arguments]
    words = ["outputs/run" if "=" not in word and Path(word).name == "RUN" else word for word in words]
    smaller = {"SWEEP": "made", "15000": "4", "hydra.sweeper.n_trials=20": "hydra.sweeper.n_trials=4"}
    words = [smaller.get(word, word) for word in words]
    if name == "train":
        own = [] if words[0].startswith("resume=") else [*TINY, "logger=local"]
        kept = [word for word in words if not word.startswith(("n_steps", "logger"))]
        return [*kept, *own] if "--cfg" not in words else words
    if name in READ and words[0] != "outputs/run" and not (folder / "outputs" / "sweeps" / words[0]).exists():
        (folder / "outputs" / "sweeps" / words[0]).symlink_to("made")  # a sweep that another page trains
    if name == "evaluate":
        words += ["--episodes", "1"]
    if name == "judge":
        words += ["n_steps=4", "n_steps_per_epoch=2", "n_seeds=1"]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", [*(pytest.param(page, marks=pytest.mark.ci) for page in PAGES), *MORE])
def test_the_commands_of_a_page_run_in_their_order(page, folder):
    found = [command for command in commands() if command.page == page and not command.needs]
    n_run = 0
    for command in found:
        text = " ".join(command.words)
        if command.words[0] != "python" or any(part in text for part in EXCEPT):
            continue
        name = Path(command.words[1]).stem
        run(folder, name, shrunk(folder, name, command.words[2:]))
        n_run += 1
    assert n_run >= 3
