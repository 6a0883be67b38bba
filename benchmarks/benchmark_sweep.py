"""Time one sweep of twelve runs: stacked, one after another, in two processes, as two stacks; see ``--help``."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

GRID = ("algorithm.alpha_cql.initial_value=1,5", "algorithm.alpha_cql.tau_cql=-5.3,-5.8", "seed=0,1,2")
WAYS = {
    "stacked": ["hydra/launcher=stacked"],
    "basic": ["hydra/launcher=basic"],
    # Two threads in each of two processes would fight for two cores.
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "n_threads=1"],
    "stacked_joblib": ["hydra/launcher=stacked_joblib", "hydra.launcher.workers=2", "n_threads=1"],
}


def memory(root: int) -> float:
    """MiB of a process and its descendants, shared pages counted once."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    family = [root]
    for process in family:
        family += parents.get(process, [])
    total = 0
    for process in family:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def measure(way: str, folder: Path, overrides: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a whole sweep."""
    train = Path(__file__).parents[1] / "scripts" / "train.py"
    command = [
        sys.executable, str(train), "-m", "+experiment=quickstart", "algorithm/alpha_cql=learned", "logger=local",
        f"sweep_name={way}", *GRID, *WAYS[way], *overrides,
    ]  # fmt: skip
    with (folder / f"{way}.txt").open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.5)
        seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{way} ended with {process.returncode}; see {output.name}")
    return seconds, peak


def largest_difference(folder: Path, way: str) -> tuple[float, float]:
    """Of the final parameters of each run from those of the basic launcher: relative to their norm, and of returns."""
    import torch

    worst, returns = 0.0, 0.0
    for other in sorted((folder / "outputs" / "sweeps" / "basic").glob("*/summary.json")):
        twin = folder / "outputs" / "sweeps" / way / other.parent.name
        one, two = (
            torch.load(max(run.glob("checkpoints/step_*.pt")), weights_only=True)["agent"]["parameters"]
            for run in (other.parent, twin)
        )
        for part in ("actor", "critics"):
            a, b = (torch.cat([tensor.flatten() for tensor in each[part].values()]) for each in (one, two))
            worst = max(worst, float((a - b).norm() / a.norm()))
        means = [json.loads((run / "summary.json").read_text())["eval_return_mean"] for run in (other.parent, twin)]
        returns = max(returns, abs(means[0] - means[1]))
    return worst, returns


def main() -> None:
    """Run, compare and print."""
    parser = argparse.ArgumentParser(
        description="A sweep of 12 runs (2 starting values of alpha_cql, 2 thresholds, 3 seeds; quickstart settings) "
        "with the stacking launcher, Hydra's basic launcher, joblib on two processes, and two stacks on two processes: "
        "total time, peak memory, and the runs' final parameters compared with those of the basic launcher."
    )
    parser.add_argument("folder", type=Path, help="a new folder for the sweeps")
    parser.add_argument("--steps", type=int, default=1000, help="of each run (default 1000)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which, in this order")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True)
    overrides = [f"n_steps={chosen.steps}", f"n_steps_per_epoch={max(1, chosen.steps // 2)}"]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {chosen.steps} steps a run")
    first: float | None = None
    for way in chosen.ways:
        seconds, peak = measure(way, chosen.folder, overrides)
        first = first or seconds
        line = f"{way:14}  {seconds:7.1f} s  {seconds / first:5.2f} of the first  {peak:7.0f} MiB at most"
        print(line, flush=True)
    for way in chosen.ways:
        if way != "basic" and "basic" in chosen.ways:
            parameters, returns = largest_difference(chosen.folder, way)
            print(f"{way:14}  final parameters differ by {parameters:.1e} of their norm, mean returns by {returns:.1f}")


if __name__ == "__main__":
    main()
