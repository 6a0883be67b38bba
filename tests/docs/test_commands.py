"""Every command of the README and of the site can be typed: its options, overrides, targets and extras exist."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest
from composed import compose
from entry_points import load_script
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from pages import ROOT, Block, Command, blocks, commands, commands_of

from cql import config

PLACEHOLDER = re.compile(r"\b(RUN|SWEEP|NAME|FOLDER|ENTITY|PROJECT|DATASET|ENV|PRESET|CONFIG_DIR)\b|\.\.\.")
OTHERS = {  # commands of other programs
    "apt-get", "cat", "cd", "cp", "git", "jupyter", "ls", "mkdir", "nvidia-smi", "ray", "rm", "sbatch",
    "source", "squeue", "ssh", "tail", "wandb", "xargs",
}  # fmt: skip
FOUND = commands()


def test_comments_mark_the_command_that_needs_something():
    block = Block("page.md", "bash", "", "# needs SLURM\na b\\\n  c # d\ne  # needs more\nf 'g h'\n")
    found = list(commands_of(block))
    assert [command.words for command in found] == [("a", "b", "c"), ("e",), ("f", "g h")]
    assert [command.needs for command in found] == [True, True, False]


def simple_commands(command: Command) -> list[list[str]]:
    """The words of each program of a pipeline or a list, without variables in front."""
    parts: list[list[str]] = [[]]
    for word in command.words:
        if word in ("|", "&&", ";", "&"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            parts[-1].append(word)
    return [part for part in parts if part]


@pytest.mark.parametrize("command", FOUND, ids=str)
def test_a_command_can_be_typed(command, monkeypatch):
    for words in simple_commands(command):
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
    # Numbers in place of placeholders would do, too: no option of ours has a type that refuses words of a path.
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    script = load_script(name)
    if "--help" in arguments or "-h" in arguments:
        with pytest.raises(SystemExit, match="0"):
            script.arguments()
    else:
        script.arguments()


def check_overrides(arguments):
    """Compose each value of each override at least once, and check the configs."""
    parser = OverridesParser.create()
    plain = config.arranged([word for word in arguments if not word.startswith("resume=")])
    overrides = [word for word in plain if not word.startswith("-") and word not in ("job", "...")]
    if any(word.startswith(("--config-dir", "--help")) for word in arguments):
        parser.parse_overrides([word for word in overrides if "=" in word])
        return
    known = [word for word in overrides if not PLACEHOLDER.search(word.partition("=")[2])]
    experiment = next((word.partition("=")[2] for word in known if word.startswith("+experiment=")), None)
    held = held_by(experiment) if experiment else []
    parsed = parser.parse_overrides([*held, *(word for word in known if not word.startswith("hydra"))])
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    for job in {tuple(batch[0]), tuple(batch[-1])}:
        config.checked(compose(config.arranged(list(job))))
    parser.parse_overrides([word for word in overrides if word.startswith("hydra")])


def held_by(experiment):
    """The grid that a ready-made sweep holds."""
    from omegaconf import OmegaConf

    path = config.CONFIG_DIR / "experiment" / f"{experiment}.yaml"
    params = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper.params") or {}
    return [f"{key}={values}" for key, values in params.items()]


def check_extras(arguments):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in arguments:
        if found := re.search(r"\.\[([\w,-]+)\]", word):
            assert set(found[1].split(",")) <= set(extras), f"{word}: the extras are {', '.join(extras)}"


@pytest.mark.parametrize(
    "block", [block for block in blocks() if block.title], ids=lambda block: f"{block.page}: {block.title}"
)
def test_code_with_a_files_name_stands_in_that_file(block):
    path = ROOT / block.title
    if not path.exists() and PLACEHOLDER.search(block.title):
        pytest.skip("a file of the reader's")
    text = path.read_text(encoding="utf-8")
    lines = dedented(block.code)
    wanted = "\n".join(lines)
    for start in range(len(text.splitlines())):
        if "\n".join(dedented("\n".join(text.splitlines()[start : start + len(lines)]))) == wanted:
            return
    raise AssertionError(f"{block.page} shows of {block.title} what is not there:\n{block.code}")


def dedented(text):
    import textwrap

    return textwrap.dedent(text).rstrip().splitlines()
