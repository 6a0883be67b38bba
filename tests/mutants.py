# ruff: noqa: T201
"""How good the net is: break the code on purpose, one place at a time, and count what the fast tests catch.

    python tests/mutants.py [--wings algorithm training sweep] [--count 48] [--seed 0] [--workers 2] [--own-wing]

Places are drawn at random, evenly over kinds of faults and wings: a sign, an index or bound that is off by one, a
comparison, a negated condition, a dropped `detach`, two swapped arguments, a dropped statement. Each mutant lives in a
copy of the tree, in which the tests of its wing run until the first failure, then, if none fails, those of the other
wings. Nothing in the working tree changes. The exit code is 1 if a mutant survives.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("sign", "off by one", "comparison", "condition", "detach", "order", "dropped")
_SIGNS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
_COMPARISONS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: (" in ", " not in "), ast.NotIn: (" not in ", " in "),
    ast.Is: (" is ", " is not "), ast.IsNot: (" is not ", " is "),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: str
    line: int
    kind: str
    begin: int
    end: int
    text: str
    shown: str


class _Places(ast.NodeVisitor):
    """All places of a source at which it can be broken."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source, self.found = path, source, list[Mutant]()
        lines = source.encode().splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._bytes = source.encode()

    def _span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self._starts[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            self._starts[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    def _text(self, node: ast.AST) -> str:
        begin, end = self._span(node)
        return self._bytes[begin:end].decode()

    def _add(self, node: ast.AST, kind: str, text: str, span: tuple[int, int] | None = None) -> None:
        begin, end = span or self._span(node)
        line: int = node.lineno  # type: ignore[attr-defined]
        shown = f"{self._bytes[begin:end].decode()!r} -> {text!r}"
        self.found.append(Mutant(self.path, line, kind, begin, end, text, shown))

    def _between(self, left: ast.AST, right: ast.AST, kind: str, old: str, new: str) -> None:
        begin, end = self._span(left)[1], self._span(right)[0]
        middle = self._bytes[begin:end].decode()
        if old in middle and "#" not in middle:
            self._add(left, kind, middle.replace(old, new, 1), (begin, end))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _SIGNS and not isinstance(node.left, ast.Constant | ast.JoinedStr):
            self._between(node.left, node.right, "sign", *_SIGNS[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self._add(node, "sign", self._text(node.operand))
        if isinstance(node.op, ast.Not):
            self._add(node, "condition", f"bool({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
            self._between(node.left, node.comparators[0], "comparison", *_COMPARISONS[type(node.ops[0])])
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self._add(node.test, "condition", f"not ({self._text(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._add(node.test, "condition", f"not ({self._text(node.test)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int and -2 <= node.value <= 3:
            self._add(node, "off by one", str(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "detach":
            self._add(node, "detach", self._text(node.func.value))
        plain = [each for each in node.args if not isinstance(each, ast.Starred)]
        if len(plain) == len(node.args) >= 2 and self._text(plain[0]) != self._text(plain[1]):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in ("info", "warning", "error", "debug", "getattr", "isinstance", "min", "max"):
                first, second = self._span(plain[0]), self._span(plain[1])
                middle = self._bytes[first[1] : second[0]].decode()
                swapped = self._text(plain[1]) + middle + self._text(plain[0])
                self._add(node, "order", swapped, (first[0], second[1]))
        self.generic_visit(node)

    def _dropped(self, node: ast.stmt) -> None:
        self._add(node, "dropped", "pass")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._dropped(node)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            func = self._text(node.value.func)
            if not func.startswith(("log.", "print", "super(")):
                self._dropped(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._dropped(node)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """What only a message says is no matter of this."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """Neither is how it says it."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                self.visit(default)


def places(wing: str) -> Iterator[Mutant]:
    """All mutants of a wing."""
    for path in sorted((ROOT / "cql" / wing).rglob("*.py")):
        if path.name == "curves.py":
            continue  # figures are judged by eye
        source = path.read_text(encoding="utf-8")
        visitor = _Places(str(path.relative_to(ROOT)), source)
        visitor.visit(ast.parse(source))
        yield from visitor.found


def drawn(wings: list[str], count: int, seed: int) -> list[Mutant]:
    """So many mutants, as evenly over wings and kinds as there are places."""
    rng = random.Random(seed)
    by_slot: dict[tuple[str, str], list[Mutant]] = defaultdict(list)
    for wing in wings:
        for mutant in places(wing):
            by_slot[wing, mutant.kind].append(mutant)
    for found in by_slot.values():
        rng.shuffle(found)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(by_slot.values()):
        for kind in KINDS:
            for wing in wings:
                if by_slot[wing, kind] and len(chosen) < count:
                    chosen.append(by_slot[wing, kind].pop())
    return chosen


def judged(mutant: Mutant, tree: Path, own_wing: bool) -> tuple[str, float]:
    """How a mutant fares in a copy of the tree: `caught by TEST`, or `survived`."""
    path = tree / mutant.path
    source = (ROOT / mutant.path).read_bytes()
    path.write_bytes(source[: mutant.begin] + mutant.text.encode() + source[mutant.end :])
    began = time.perf_counter()
    wing = Path(mutant.path).parts[1]
    others = sorted(str(each.relative_to(ROOT)) for each in (ROOT / "tests").iterdir() if each.is_dir())
    first = [each for each in others if each == f"tests/{wing}"]
    rest = [each for each in others if each not in (*first, "tests/__pycache__", "tests/benchmarks")]
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree / 'plugins'}", "PYTHONDONTWRITEBYTECODE": "1"}
    verdict = "survived"
    for group in (first,) if own_wing else (first, rest):
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *group]
        try:
            child = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=900
            )
        except subprocess.TimeoutExpired:
            verdict = "caught by a test that never ended"
            break
        if child.returncode:
            failed = [line for line in child.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            verdict = "caught by " + (failed[0].split(" ")[1] if failed else "the test run")
            break
    path.write_bytes(source)
    return verdict, time.perf_counter() - began


def main() -> None:
    """Make the mutants, run the tests, and print what was caught."""
    parser = argparse.ArgumentParser(description="Break the code on purpose and count what the fast tests catch.")
    parser.add_argument("--wings", nargs="+", default=["algorithm", "training", "sweep"])
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--own-wing", action="store_true", help="run the tests of the mutant's wing only")
    chosen = parser.parse_args()
    mutants = drawn(chosen.wings, chosen.count, chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder, str(worker)) for worker in range(chosen.workers)]
        for tree in trees:
            ignored = shutil.ignore_patterns(".git", ".venv*", "outputs", "__pycache__", "*_cache", "wandb")
            shutil.copytree(ROOT, tree, ignore=ignored)
        free = list(trees)

        def judge(mutant: Mutant) -> tuple[Mutant, str]:
            tree = free.pop()
            try:
                verdict, seconds = judged(mutant, tree, chosen.own_wing)
            finally:
                free.append(tree)
            print(
                f"{mutant.path}:{mutant.line} [{mutant.kind}] {mutant.shown[:110]}\n  {verdict} ({seconds:.0f} s)",
                flush=True,
            )
            return mutant, verdict

        with ThreadPoolExecutor(chosen.workers) as pool:
            results = list(pool.map(judge, mutants))
    survivors = [mutant for mutant, verdict in results if verdict == "survived"]
    by_wing = Counter(Path(mutant.path).parts[1] for mutant, _ in results)
    kept = Counter(Path(mutant.path).parts[1] for mutant in survivors)
    print(f"\n{len(results) - len(survivors)} of {len(results)} caught")
    for wing, n in by_wing.items():
        print(f"  {wing}: {n - kept[wing]} of {n}")
    for mutant in survivors:
        print(f"survived: {mutant.path}:{mutant.line} [{mutant.kind}] {mutant.shown}")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
