"""Damaged and hostile folders of runs: what is shown of them is safe, and what cannot be shown is named."""

from __future__ import annotations

import contextlib
import dataclasses
import html.parser
import json
import os
import random
import re
import shutil
import unicodedata
import xml.dom.minidom
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import make_run

from cql.commands import is_own
from cql.results import groups, report
from cql.results.comparison import Comparison
from cql.sweep import status, table

FILES = ("summary.json", "metrics.jsonl", "episodes.csv", "timing.jsonl", ".hydra/config.yaml", "provenance.json")
HOSTILE = "<script>alert(1)</script>|[x](javascript:y)\x1b[31m\x07\u202e\\write18{ls}"
ODD: list[Any] = [
    None, True, -1, 2**70, 1e100, "", HOSTILE, [], {}, [[]], {"a": {"b": HOSTILE}}, float("nan"), float("inf"), "1",
    [HOSTILE],
]  # fmt: skip
COUNTS = [(0, 60), pytest.param(1, 2000, marks=[pytest.mark.slow])]


class Scripts(html.parser.HTMLParser):
    """Collects what would run in a page besides the page's own script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in ("script", "iframe", "object") else []
        self.found += [
            f"{name}={value}" for name, value in attrs if name.startswith("on") or "javascript:" in str(value)
        ]


def nested(depth: int, chance: random.Random) -> str:
    opening, closing = chance.choice([("[", "]"), ('{"a":', "}")])
    return opening * depth + "1" + closing * depth


def replaced(value: Any, chance: random.Random) -> Any:
    """A value with one of its members, at any depth, replaced, removed or renamed."""
    if not isinstance(value, dict) or not value or chance.random() < 0.2:
        return chance.choice(ODD)
    key = chance.choice(list(value))
    match chance.randrange(4):
        case 0:
            return {name: each for name, each in value.items() if name != key}
        case 1:
            return {(HOSTILE if name == key else name): each for name, each in value.items()}
        case _:
            return {**value, key: replaced(value[key], chance)}


def spoil(run: Path, chance: random.Random) -> None:
    """Put something else in the place of one of a run's files, or of its name."""
    path = run / chance.choice(FILES)
    body = path.read_bytes() if path.exists() else b""
    match chance.randrange(10):
        case 0:
            path.write_bytes(body[: chance.randrange(len(body) + 1)])
        case 1:
            spoiled = bytearray(body or b"x")
            for _ in range(chance.randrange(1, 6)):
                spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
            path.write_bytes(spoiled)
        case 2:
            path.write_text(nested(chance.choice([30, 3000, 200_000]), chance) + "\n")
        case 3:
            path.unlink(missing_ok=True)
            chance.choice([os.mkfifo, os.mkdir, lambda place: place.symlink_to(place)])(path)
        case 4:
            name = chance.choice(
                [HOSTILE.replace("/", ""), "alpha_cql-5__seed-\x1b[2J", "caf\udce9__seed-0", "-", "a" * 200]
            )
            if not run.with_name(name).exists():
                run.rename(run.with_name(name))
        case 5:
            path.unlink(missing_ok=True)
        case _ if path.suffix == ".csv":
            lines = body.decode().splitlines()
            cells = lines[-1].split(",")
            cells[chance.randrange(len(cells))] = str(chance.choice([*ODD, "9" * 5000]))
            path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
        case _ if path.suffix == ".yaml":
            path.write_text(yaml.safe_dump(replaced(yaml.safe_load(body), chance)))
        case _:
            lines = body.decode().splitlines() if path.suffix == ".jsonl" else [body.decode()]
            lines[-1:] = [json.dumps(replaced(json.loads(lines[-1] or "{}") if lines and lines[-1] else {}, chance))]
            path.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def outcome(outcomes: Counter[str]) -> Iterator[None]:
    """Count what the block came to: its end, or an error of the program's own; another error is raised."""
    try:
        yield
    except Exception as error:
        if not is_own(error):
            raise
        outcomes["refused by name"] += 1
    else:
        outcomes["shown"] += 1


def assert_harmless(text: str) -> None:
    assert not [each for each in text if unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t"], repr(text)
    assert not set(text) & {chr(code) for code in (0x202A, 0x202B, 0x202D, 0x202E)}, repr(text)
    text.encode()


def strict_json(text: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(("seed", "n"), COUNTS)
def test_folders_of_runs(tmp_path: Path, seed: int, n: int) -> None:
    chance, whole, folder = random.Random(seed), tmp_path / "whole", tmp_path / "sweep"
    for alpha in (1.0, 5.0):
        for each in (0, 1):
            changes = {"seed": each, "algorithm.alpha_cql": {"kind": "fixed", "value": alpha}}
            run = make_run(whole / f"alpha_cql-{alpha:g}__seed-{each}", [100.0, 200.0 + alpha, 300.0], changes=changes)
            (run / "timing.jsonl").write_text('{"step": 4000, "seconds": 1.0, "steps_per_second": 9.0}\n')
            (run / "provenance.json").write_text('{"versions": {"torch": "2.6"}, "host": "a"}\n')
    (whole / "sweep.json").write_text('{"base": {"n_steps": 4000}, "swept": ["algorithm.alpha_cql.value", "seed"]}')
    outcomes: Counter[str] = Counter()
    for number in range(n):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        for run in chance.sample(sorted(folder.glob("alpha*")), chance.randrange(1, 3)):
            spoil(run, chance)
        if chance.random() < 0.1:
            (folder / "sweep.json").write_text(chance.choice(["", "[]", nested(100_000, chance), json.dumps(HOSTILE)]))
        runs = status.read_sweep(folder)
        assert_harmless(table.text(runs))
        strict_json(json.dumps([dataclasses.asdict(run) for run in runs]))
        with outcome(outcomes):
            results = groups.read_results([folder])
            assert_harmless(report.markdown(Comparison.of(results, "last", None)))
            assert not re.search(r"(?<!\\)<script", report.markdown(Comparison.of(results, "last", None)))
            assert_harmless(report.latex(Comparison.of(results, "last", None)))
            if number % 100 == 0:
                shutil.rmtree(tmp_path / "report", ignore_errors=True)
                written = report.write_report(results, tmp_path / "report", title="t", command="c")
                page = written.page.read_text(encoding="utf-8")
                assert Scripts(page).found == ["script"]
                assert_harmless(page)
                for drawing in (tmp_path / "report").glob("figures/*.svg"):
                    xml.dom.minidom.parseString(drawing.read_bytes())
    print(dict(outcomes))  # noqa: T201  shown with -rP
    assert outcomes["shown"] > n / 2
