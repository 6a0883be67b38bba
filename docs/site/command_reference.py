"""The page of the reference that is generated from the commands' own help.

The parsers are built by the scripts themselves, in this process. A script without a line here, without a console
command, or whose help cannot be made is an error of the build.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]

WHEN = {  # in the order of the page
    "train": "To train a run or a sweep, and to resume one.",
    "sweep_status": "To see how far the runs of a sweep are, also while they train.",
    "evaluate": "To measure a checkpoint in more episodes, or to record a video of it.",
    "report": "To compare the arms of finished sweeps: tables, figures, significance.",
    "doctor": "If a return is low, or before a long sweep: it says what looks wrong in a run, and what to change.",
    "judge": "To choose a run by recorded data alone, without a simulator.",
    "table": "To train a paper's table and to show own results beside the published numbers.",
    "dashboard": "To get a workspace in W&B with the curves and settings of a sweep.",
    "export": "To use a policy outside this package: ONNX, TorchScript, safetensors.",
    "inspect_dataset": "Before training on a dataset: returns, lengths, actions, and warnings.",
    "collect": "To make a dataset from policies of your own.",
    "train_behaviour": "To train the policies that a dataset is collected from.",
    "maze": "To draw the paths of data and policies in a point maze, with the critics' values.",
}
GUIDES = {
    "train": "[The first run](../start/first_run.md), [Sweeps](../howto/sweeps.md), [Resume](../howto/resume.md)",
    "sweep_status": "[Sweeps](../howto/sweeps.md)",
    "evaluate": "[Export and use a policy](../howto/export.md)",
    "report": "[Read a report](../howto/reports.md)",
    "doctor": "[The doctor](../trouble/doctor.md)",
    "judge": "[Choose a policy without a simulator](../howto/choose.md), [keys](config.md#judge)",
    "table": "[Reproduce a table](../howto/tables.md)",
    "dashboard": "[Weights & Biases](../howto/wandb.md)",
    "export": "[Export and use a policy](../howto/export.md)",
    "inspect_dataset": "[Look at a dataset](../howto/inspection.md)",
    "collect": "[Own data](../howto/data.md)",
    "train_behaviour": "[Own data](../howto/data.md)",
    "maze": "[The maze](../results/maze.md)",
}
WIDTH = 90

HYDRA = """\
`KEY=VALUE` sets a key, `GROUP=OPTION` chooses an option of a group, `+experiment=NAME` and `+arm=NAME` add one:
[Config keys](config.md), [Config files](presets.md). Hydra's own options:

| option | what it does |
|---|---|
| `-m`, `--multirun` | a sweep: values separated by commas make a grid |
| `--cfg job` | print the composed config and stop; values are not checked |
| `--config-dir FOLDER` | also look for config files in a folder of your own |
| `--help`, `--hydra-help` | the text below; all options of Hydra |"""


class PageError(RuntimeError):
    """A command that cannot be shown."""


class _ParserFound(Exception):  # noqa: N818  it reports no error
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def page() -> str:
    """The help of every command, as Markdown.

    Raises:
        PageError: A script has no line in :data:`WHEN`, no console command, or no help.
    """
    commands, scripts = console_commands(), {path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")}
    if not scripts == set(WHEN) == set(GUIDES) == set(commands):
        raise PageError(f"scripts/ has {sorted(scripts)}, the page {sorted(WHEN)}, with commands {sorted(commands)}")
    # Hydra's help is no parser's; its process works while the others' parsers are made.
    command = [sys.executable, "scripts/train.py", "--help"]
    train = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    rows = [f"| [`scripts/{name}.py`](#{name}) | `{commands[name]}` | {when} |" for name, when in WHEN.items()]
    parts = [
        "# Commands\n\nEach command, when to use it, and its options. In a checkout a command is "
        "`python scripts/NAME.py`; an installed package has the same as `cql-NAME`. [Exit codes](exit_codes.md) "
        "has the exit codes.",
        "\n".join(["| in a checkout | installed | when |", "|---|---|---|", *rows]),
    ]
    for name, when in WHEN.items():
        parts.append(f"## {name} {{#{name}}}\n\n{when} Guide: {GUIDES[name]}.")
        if name == "train":
            parts += [HYDRA, _folded("python scripts/train.py --help", _output_of(train))]
        else:
            parts += [_block(f"{command} --help", text) for command, text in _helps(name)]
    return "\n\n".join(parts) + "\n"


def console_commands() -> dict[str, str]:
    """The console command of each script."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["project"]["scripts"]
    return {place.partition(":")[0].rpartition(".")[2]: name for name, place in listed.items()}


def _helps(name: str) -> Iterator[tuple[str, str]]:
    """The help of a script and of each of its subcommands, with the command that prints it."""
    parser, command = _parser(name), f"python scripts/{name}.py"
    parser.prog = command
    yield command, _formatted(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, own in action.choices.items():
                own.prog = f"{command} {word}"
                yield own.prog, _formatted(own)


def _parser(name: str) -> argparse.ArgumentParser:
    """The parser that a script makes of its command line."""

    def found(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _ParserFound(parser)

    script = importlib.import_module(f"cql.scripts.{name}")
    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", found):
        try:
            script.arguments()
        except _ParserFound as reached:
            return reached.parser
    raise PageError(f"scripts/{name}.py: arguments() parses no command line")


def _formatted(parser: argparse.ArgumentParser) -> str:
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH)}):
        return parser.format_help()


def _output_of(process: subprocess.Popen[str]) -> str:
    said, errors = process.communicate(timeout=120)
    if process.returncode or not said.strip():
        raise PageError(f"scripts/train.py --help ended with {process.returncode}: {errors}")
    return "\n".join(line.rstrip() for line in said.strip().splitlines())


def _block(title: str, text: str) -> str:
    return f'```text title="{title}"\n{text.rstrip()}\n```'


def _folded(title: str, text: str) -> str:
    inner = "\n".join(f"    {line}".rstrip() for line in f"```text\n{text}\n```".splitlines())
    return f'??? example "{title}"\n\n{inner}'
