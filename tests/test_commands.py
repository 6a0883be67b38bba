from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from entry_points import load_script
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


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (commands.UsageError("--label x: write ARM=TEXT"), 2, "--label x: write ARM=TEXT\n"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), 2, "[Errno 2] No such file or directory: 'a/b'\n"),
        (commands.UsageError("red \x1b[31m, bell \a,\ntab\t."), 2, "red \\x1b[31m, bell \\x07,\ntab\t.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_users_end_a_script_with_their_message(
    raised: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def script() -> None:
        raise raised

    assert commands.exit_code(script) == code
    assert capsys.readouterr().err == said


def test_other_errors_are_raised_and_a_script_gives_its_code() -> None:
    def script() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        commands.exit_code(script)
    assert commands.exit_code(lambda: None) == 0
    assert commands.exit_code(lambda: 3) == 3


def test_output_that_is_not_read_and_locales_without_unicode_are_no_errors() -> None:
    code = "import sys\nfrom cql.commands import exit_code\nsys.exit(exit_code(lambda: print('é' * 200_000)))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(8) == rb"\xe9\xe9"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


SCRIPTS = {
    "evaluate": ["run"],
    "collect": ["me/a/b-v0", "--env", "Hopper-v5", "--policy", "random"],
    "inspect_dataset": ["a.hdf5"],
    "sweep_status": ["a"],
    "train_behaviour": ["--env", "Hopper-v5", "--steps", "1", "--save-every", "1", "--out", "a"],
}
WRONG = {
    "evaluate": (
        "--episodes=0", "--episodes=-1", "--seed=-1", "--seed=2147483648", "--seconds=0", "--seconds=nan",
        "--seconds=inf",
    ),
    "collect": (
        "--episodes=0", "--seed=-1", "--seed=4294967296", "--noise=-1", "--noise=nan", "--noise=inf", "--workers=0",
        "--n-envs=-2",
    ),
    "inspect_dataset": ("--discount=1", "--discount=-0.1", "--discount=nan"),
    "sweep_status": ("--watch=0", "--watch=-1", "--watch=nan", "--watch=inf"),
    "train_behaviour": (
        "--steps=0", "--save-every=-1", "--seed=-1", "--episodes=0", "--learning-starts=-1", "--learning-rate=0",
        "--learning-rate=nan", "--batch-size=0", "--buffer-size=0", "--gamma=1.5", "--gamma=nan", "--gradient-steps=0",
        "--width=0", "--threads=0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("script", WRONG)
def test_every_number_of_every_script_is_bounded(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load_script(script)
    for option in WRONG[script]:
        monkeypatch.setattr(sys, "argv", [script, *SCRIPTS[script], option])
        with pytest.raises(SystemExit) as ended:
            module.arguments()
        assert ended.value.code == 2
        name, _, value = option.partition("=")
        assert f"argument {name}: {value} is out of range: " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [script, *SCRIPTS[script], f"{name}=x"])
    with pytest.raises(SystemExit):
        module.arguments()
    assert "'x' is not a" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["collect", "inspect_dataset"])
@pytest.mark.parametrize("values", [("1", "1"), ("nan", "1"), ("0", "inf"), ("2", "1")])
def test_reference_returns_are_two_finite_numbers_in_order(
    script: str, values: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *SCRIPTS[script], "--reference", *values])
    with pytest.raises(SystemExit):
        load_script(script).arguments()
    assert "--reference" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        "hello", "1e3", "null", "True", "it's", "a b", "", 5, 2.5, True, None,
        ["x", "1", 1, None], {"a": "1", "b c": "x y"},
        {"maze_map": [[1, "r"], ["c", 0]]}, {"a": {"b": [True, "true"]}},
    ],
)  # fmt: skip
def test_an_override_is_read_as_the_value_it_was_made_of(value: object) -> None:
    parsed = OverridesParser.create().parse_override(commands.override("key", value))
    assert parsed.value() == value
    assert type(parsed.value()) is type(value)


def test_threads_of_every_script_sleep_while_they_wait() -> None:
    """The variable is set before torch reads it, unless the user has set it."""
    code = "import os, sys, cql.commands; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    for own, expected in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | own
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        assert found.stdout == f"{expected} False\n"
    for path in (Path(__file__).resolve().parents[1] / "scripts").glob("[!_]*.py"):
        assert "\nfrom cql.commands import " in path.read_text(encoding="utf-8"), path
