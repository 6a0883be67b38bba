"""Is this tree as fast as another one? Updates and memory of both, in pairs on one machine.

python benchmarks/benchmark_paired.py --base TREE [--rounds N] [--seconds S] [--threads N] [--only exact,memory]

TREE is a checkout of another version with its own `benchmark_measure.py`, in `benchmarks/` or `scripts/`. Every
measurement has a process of its own; within a round the trees take turns, in reverse order every other round. A ratio
is this tree's number divided by the other tree's in the same round, since a machine's speed drifts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TASKS: dict[str, dict[str, Any]] = {
    "exact": {"what": "update", "impl": "ours-exact"},
    "sampled": {"what": "update", "impl": "ours-sampled-k1"},
    "exact-stack": {"what": "update_stack", "impl": "ours-exact", "runs": 6},
    "sampled-stack": {"what": "update_stack", "impl": "ours-sampled-k1", "runs": 6},
    "memory": {"what": "memory", "impl": "ours-exact", "runs": 6},
    "memory-16": {"what": "memory", "impl": "ours-exact", "runs": 16},
}


def measured(tree: Path, task: dict[str, Any], seconds: float, threads: int) -> float:
    """Updates per second or MiB, as the tree's own script measures them."""
    (script,) = (
        path for folder in ("benchmarks", "scripts") if (path := tree / folder / "benchmark_measure.py").exists()
    )
    spec = json.dumps({**task, "seconds": seconds, "threads": threads})
    paths = os.pathsep.join(map(str, (tree, tree / "plugins")))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), spec]
        ended = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
        )
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}: status {ended.returncode}\n{ended.stderr}")
    answer = json.loads(ended.stdout.splitlines()[-1])
    return float(answer.get("rate", answer.get("value")))


def main() -> None:
    """Measure and print one line per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="TREE", help="the other version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, separated by commas")
    options = parser.parse_args()
    trees = [Path(__file__).resolve().parents[1], options.base.resolve()]
    numbers: dict[str, list[list[float]]] = {name: [] for name in options.only.split(",")}
    for turn in range(options.rounds):
        for name, own in numbers.items():
            order = trees if turn % 2 == 0 else trees[::-1]
            found = {tree: measured(tree, TASKS[name], options.seconds, options.threads) for tree in order}
            own.append([found[tree] for tree in trees])
            print(f"round {turn + 1}: {name}: {own[-1][0]:.1f} and {own[-1][1]:.1f}", file=sys.stderr, flush=True)
    for name, own in numbers.items():
        ratios = [ours / base for ours, base in own]
        ours, base = (statistics.median(each) for each in zip(*own, strict=True))
        unit = "MiB" if name.startswith("memory") else "updates/s"
        print(
            f"{name:14} {ours:8.1f} against {base:8.1f} {unit:9}  ratio {statistics.median(ratios):.3f} in the median, "
            f"{min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds"
        )


if __name__ == "__main__":
    main()
