"""Every command of the README and of the site can be typed: its options, overrides, targets and extras exist."""

from __future__ import annotations

import functools
import re
import sys
import textwrap
import tomllib

import pytest
from composed import compose, held_by, hydra_part
from entry_points import load_script
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from pages import PLACEHOLDER, ROOT, Block, blocks, commands, commands_of, programs

from cql import config

OTHERS = {  # commands of other programs
    "apt-get", "cat", "cd", "cp", "git", "jupyter", "ls", "mkdir", "nvidia-smi", "ray", "rm", "sbatch",
    "source", "squeue", "ssh", "tail", "wandb", "xargs",
}  # fmt: skip
NEEDS = (  # what is not on every machine, and how a command shows that it takes it
    r"\bdataset=(d4rl|table|minari)\b", r"\bdataset\.path=", r"\bstacked_(slurm|ray)\b", r"^wandb\b", r"--wandb\b",
    r"\bdevice=cuda\b", r"/whl/cu\d", r"^(squeue|sbatch|apt-get|nvidia-smi)\b", r"D4RL/", r"--data\b",
)  # fmt: skip


def test_comments_mark_the_command_that_needs_something():
    block = Block("page.md", "bash", "", "# needs SLURM\na b\\\n  c # d\ne  # needs more\nf 'g h'\n")
    found = list(commands_of(block))
    assert [command.words for command in found] == [("a", "b", "c"), ("e",), ("f", "g h")]
    assert [command.needs for command in found] == [True, True, False]
    console = Block("page.md", "console", "", "$ a b \\\n    c\nwhat it printed\n")
    assert [command.words for command in commands_of(console)] == [("a", "b", "c")]


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_says_so_if_it_needs_what_is_not_on_every_machine(command):
    text = " ".join(command.words)
    taken = [pattern for pattern in NEEDS if re.search(pattern, text)]
    assert command.needs or not taken, f"{command} matches {taken}: say `# needs ...` beside it"


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_can_be_typed(command, monkeypatch):
    for words in programs(command):
        program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
        if program in ("python", "python3") and arguments[:1] and arguments[0].startswith("scripts/"):
            check_script(arguments[0].removeprefix("scripts/").removesuffix(".py"), arguments[1:], monkeypatch)
        elif program.startswith("cql-"):
            check_script(program.removeprefix("cql-").replace("-", "_"), arguments, monkeypatch)
        elif program in ("python", "python3"):
            assert arguments[0] in ("-m", "-c", "-") or (ROOT / arguments[0]).exists(), f"no file {arguments[0]}"
        elif program == "make":
            target = next((word for word in arguments if "=" not in word and not word.startswith("-")), "help")
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {target}"
        elif program == "pip":
            check_extras(arguments)
        elif program == "pytest":
            assert all((ROOT / word).exists() for word in arguments if word.startswith("tests"))
        else:
            assert program in OTHERS, f"{program!r} is not known; if a page needs it, add it to OTHERS"


def check_script(name, arguments, monkeypatch):
    assert (ROOT / "scripts" / f"{name}.py").exists(), f"no script {name}"
    if name == "train":
        check_overrides(arguments)
        return
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    script = load_script(name)
    if "--help" in arguments or "-h" in arguments:
        with pytest.raises(SystemExit, match="0"):
            script.arguments()
    else:
        script.arguments()


def check_overrides(arguments):
    """Compose and check configs until each value of each override has been in one."""
    parser = OverridesParser.create()
    resumed = [word for word in arguments if word.startswith("resume=")]
    assert not resumed or len(arguments) == 1, "resume= takes no other override"
    plain = config.arranged([word for word in arguments if word not in resumed])
    overrides = [word for word in plain if not word.startswith("-") and word not in ("job", "...")]
    if any(word.startswith(("--config-dir", "--help")) for word in arguments):
        parser.parse_overrides([word for word in overrides if "=" in word])
        return
    known = [word for word in overrides if not PLACEHOLDER.search(word.partition("=")[2])]
    experiment = next((word.partition("=")[2] for word in known if word.startswith("+experiment=")), None)
    values = {}  # of each key, those of the command in place of those that a ready-made sweep holds
    for override in parser.parse_overrides(
        [*(held_by(experiment) if experiment else []), *(word for word in known if not word.startswith("hydra"))]
    ):
        name = override.get_key_element()
        values[name.lstrip("+")] = [f"{name}={value}" for value in values_of(override)]
    values["seed"] = values.get("seed", ["seed=0"])[:1]
    for index in range(max(map(len, values.values()))):
        check(tuple(each[min(index, len(each) - 1)] for each in values.values()))
    of_hydra = [word for word in overrides if word.startswith("hydra")]
    check_hydra([word for word in of_hydra if not word.startswith(("hydra.run.dir=", "hydra.sweep.dir="))])


def values_of(override):
    """The values that a command gives a key."""
    if override.value_type is ValueType.INTERVAL_SWEEP:
        interval = override.value()
        return [str(interval.start), str(interval.end)]
    return (
        list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
    )


@functools.cache
def check(overrides):
    """Compose a config and check it, once: pages repeat themselves."""
    config.checked(compose(config.arranged(list(overrides))))


def check_hydra(overrides):
    """Compose Hydra's own part: the launcher and its keys."""
    if overrides and "hydra/launcher=stacked_ray" not in overrides:  # whose launcher has an environment of its own
        hydra_part(*overrides)


def check_extras(arguments):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in arguments:
        if found := re.search(r"(?:\.|cql)\[([\w,-]+)\]", word):
            assert set(found[1].split(",")) <= set(extras), f"{word}: the extras are {', '.join(extras)}"


TITLED = [block for block in blocks() if block.title]


@pytest.mark.parametrize("block", TITLED, ids=[f"{block.page}: {block.title}" for block in TITLED])
def test_code_with_a_files_name_stands_in_that_file(block):
    wanted, text = dedented(block.code), (ROOT / block.title).read_text(encoding="utf-8").splitlines()
    starts = range(len(text) - len(wanted) + 1)
    assert any(dedented("\n".join(text[start : start + len(wanted)])) == wanted for start in starts), (
        f"{block.page} shows of {block.title} what is not there:\n{block.code}"
    )


def dedented(text):
    return textwrap.dedent(text).rstrip().splitlines()
