"""Odd command lines: each is obeyed or refused by name; none ends in a traceback or leaves something behind."""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from children import start, wait

from cql.config.keys import GROUPS, all_keys
from cql.training import experiment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

VALUES = [
    "1", "0", "-1", "1.5", "1e400", "nan", "-inf", "9" * 400, "null", "true", "x", "''", '""', "' '", "[]", "[1,2]",
    "{}", "{a:1}", "[[[[]]]]", "???", "${seed}", "${absent}", "${oc.env:ABSENT}", "${cql.run_dir:}", "${", "}", "\\",
    "'", '"', "a=b", "a,b", "1,2", "range(3)", "choice(1,x)", "glob(*)", "interval(0,1)", "../../etc/passwd",
    "/dev/null", "/proc/1/mem", "/root/\x00", "é\u202e", "\x1b[31m", "~", "*", "?", "a b", "a\nb", "\udce9", "-", "--",
    "@", "%", "file:///x", "0x10", "1_000", "2023-01-01", "on", "!!python/object:os.system",
]  # fmt: skip
KEYS = [
    *GROUPS, "experiment", "+experiment", "+arm", "hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/help",
    "hydra.run.dir", "hydra.sweep.dir", "hydra.job.name", "hydra.job.chdir", "hydra.output_subdir", "hydra.searchpath",
    "hydra.verbose", "hydra.mode", "hydra.launcher.stack_size", "hydra.callbacks", "hydra.runtime.cwd", "hydra", "",
]  # fmt: skip
FORMS = [
    "{}={}", "{}={}", "{}={}", "+{}={}", "++{}={}", "~{}={}", "~{}", "{}", "{}@x={}", "{}.x={}", "{} = {}", "--{}={}",
]  # fmt: skip
COUNTS = [(0, 24), pytest.param(1, 1000, marks=[pytest.mark.slow])]


def odd(chance: random.Random, keys: list[str]) -> list[str]:
    """Up to three overrides, and now and then a multirun."""
    texts = []
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        form = chance.choice(FORMS)
        given = (chance.choice(keys), chance.choice(VALUES))
        texts.append(form.format(*given[: form.count("{}")]).replace("\x00", "\\0"))
    return [*(["-m"] if chance.random() < 0.3 else []), *texts]


@pytest.mark.parametrize(
    ("texts", "code", "said"),
    [
        (["+arm=1"], 2, "Hydra cannot read"),
        (["-m", "logger.group=glob(*)"], 2, "the sweep has no runs: one of its keys has no value"),
        (
            ["++hydra.verbose=[[[[]]]]"],
            2,
            "(TypeError: A logger name must be a string); --help shows what may be given",
        ),
        (["hydra.run.dir=/proc/none/x"], 1, "FileNotFoundError: [Errno 2] No such file or directory: '/proc/none"),
        (["hydra.run.dir=output.txt"], 1, "FileExistsError: [Errno 17] File exists: 'output.txt'"),
        (["-m", "seed=0,1", "hydra.sweep.dir=output.txt/x"], 2, "the folder of the sweep cannot be read or written"),
        (["-m", "n_steps=${cql.run_dir:}"], 2, "Config error"),
    ],
)
def test_what_hydra_and_the_system_choke_on_is_named(
    dataset: Path, tmp_path: Path, texts: list[str], code: int, said: str
) -> None:
    ended = wait(start(dataset, tmp_path, *texts), tmp_path)
    assert ended.code == code, ended.text
    assert said in ended.text
    assert "Traceback" not in ended.text


@pytest.mark.parametrize(("seed", "n"), COUNTS)
def test_odd_command_lines(dataset: Path, tmp_path: Path, seed: int, n: int) -> None:
    chance, keys, outcomes = random.Random(seed), [*KEYS * 3, *all_keys()], Counter[str]()

    def without_training() -> None:
        experiment.run = lambda *_: 0.0  # type: ignore[assignment]
        experiment.run_stack = lambda configs, *_, **__: [0.0] * len(configs)  # type: ignore[assignment]

    for number in range(n):
        folder, texts = tmp_path / str(number), odd(chance, keys)
        ended = wait(start(dataset, folder, *texts, before=without_training, lean=True), folder)
        assert ended.code in (0, 1, 2), (texts, ended.text)
        assert "Traceback" not in ended.text, (texts, ended.text)
        left = {path.name for path in folder.rglob("*") if path.is_file()} - {"output.txt", "sweep.json", ".starting"}
        left = set() if "stacks.json" in left else left  # the sweep had begun
        if ended.code == 2 and "usage:" not in ended.text:
            assert not left, (texts, ended.text)
            outcomes["refused by name"] += 1
            assert ended.text.strip(), texts
        else:
            outcomes["obeyed"] += 1
        shutil.rmtree(folder)
    print(dict(outcomes))  # noqa: T201  shown with -rP
    assert outcomes["refused by name"] > n / 3
