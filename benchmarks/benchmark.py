"""How fast this program is on this machine, beside other programs and beside the machine's own matrix product.

python benchmarks/benchmark.py [--only update,evaluate] [--rounds N] [--seconds S] [--quick] [--json FILE] ...

The sizes are those of HalfCheetah: 17 observations, 6 actions, minibatches of 256, networks of 2 x 256, three groups of
10 sampled actions, soft backup, fixed alpha_cql = 5, learned temperature; float32. Every measurement has a process of
its own (`benchmark_measure.py`), so that neither allocator settings nor threads leak from one to the next; within a
round the implementations take turns, in reverse order every other round, and ratios are taken within rounds, since a
machine's speed drifts. `make benchmark` installs the other programs; one that is missing is a row that says so.

what            measured
load            transitions per second, from files to checked tensors
update          updates of one run per second: ours, d3rlpy's, TorchRL's, and what the matrix product alone would allow
update_stack    updates per second of all runs of a stack together
cost            updates per second against batch size, hidden width and samples per group
evaluate        environment steps per second of an evaluation, beside gymnasium's vector environments
render          frames per second of a film, beside gymnasium's default rendering
log             epochs logged per second
checkpoint      checkpoints written and read per second
start           starts per second: from the command to the first step, with a dataset that is there
memory          peak memory of a process, against the dataset's size and the stack's
profile         where a step's time goes
"""

# Longer than a module of the package may be: a script that is read from its plans to its tables.

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZES = {
    "observation_size": 17,
    "action_size": 6,
    "batch_size": 256,
    "width": 256,
    "depth": 2,
    "num_sampled_actions": 10,
}
EXACT, SAMPLED = "ours-exact", "ours-sampled-k1"
FLOOR = "matmul-floor"
SINGLE_PEERS = ("d3rlpy", "torchrl")  # their updates alone; the faster one is what ours is compared with
QUIET = 0.1  # cores that other processes may take before a measurement counts as disturbed

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One row to be: what is measured how often.

    Attributes:
        what: the group of measurements, which take turns.
        impl: the implementation.
        unit: of the number.
        settings: sizes in which it differs from others of its group; part of its row.
        given: further fields of its `benchmark_measure.Spec`.
        seconds: of each measurement.
        against: implementation and settings of the row that it is compared with, None for none.
    """

    what: str
    impl: str
    unit: str
    settings: dict[str, int] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    seconds: float = 1.0
    against: tuple[str, dict[str, int]] | None = None

    @property
    def name(self) -> str:
        """For a person: the implementation and its settings."""
        return " ".join([self.impl, *(f"{key}={value}" for key, value in self.settings.items())])


# What there is to measure ---------------------------------------------------------------------------------------------


def plan_load(options: argparse.Namespace, data: "Datasets") -> list[Task]:
    """From files to tensors."""
    n = 10_000 if options.quick else 100_000
    files = {"ours-d4rl": data.d4rl(n), "ours-minari": data.minari(n)}
    return [
        Task("load", impl, "transitions/s", {"transitions": n}, given, min(options.seconds, 2.0))
        for impl, given in files.items()
    ]


def plan_update(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """One run."""
    names = [EXACT, SAMPLED, "ours-sampled-k4", "d3rlpy", "d3rlpy-with-data", "torchrl", FLOOR]
    if options.device == "cuda":
        names[1:1] = [f"{EXACT}-captured", f"{EXACT}-captured-tf32"]
        names[4:4] = [f"{SAMPLED}-captured", f"{SAMPLED}-captured-tf32"]
        names += [f"{FLOOR}-tf32"]
    return [Task("update", name, "updates/s", seconds=options.seconds, against=(EXACT, {})) for name in names]


def plan_stack(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """Stacks, each compared with the smallest one."""
    stacks = options.stacks or ([1, 2] if options.quick else [1, 2, 4, 8, 16])
    names = [EXACT, SAMPLED] + ([f"{EXACT}-captured", f"{SAMPLED}-captured"] if options.device == "cuda" else [])
    return [
        Task(
            "update_stack",
            name,
            "updates/s",
            {"runs": runs},
            seconds=options.seconds,
            against=(name, {"runs": min(stacks)}),
        )
        for name in names
        for runs in stacks
    ]


def plan_cost(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """One factor at a time; the others keep their size."""
    base = {key: SIZES[key] for key in ("batch_size", "width", "num_sampled_actions")}
    factors = {
        "batch_size": (64, 128, 512, 1024),
        "width": (64, 128, 512, 1024),
        "num_sampled_actions": (1, 4, 20, 40),
    }
    if options.quick:
        factors = {"batch_size": (64,)}
    points = [base, *(base | {key: value} for key, values in factors.items() for value in values)]
    return [
        Task("cost", name, "updates/s", point, seconds=0.4 * options.seconds, against=(name, base))
        for name in (EXACT, SAMPLED)
        for point in sorted(points, key=lambda point: list(point.values()))
    ]


def plan_evaluate(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """One run's episodes and a stack's, stepped by us and by gymnasium."""
    episodes = 2 if options.quick else 10
    return [
        Task(
            "evaluate",
            impl,
            "environment steps/s",
            {"runs": runs, "episodes": episodes},
            seconds=options.seconds,
            against=("ours", {"runs": runs, "episodes": episodes}),
        )
        for runs in ((1,) if options.quick else (1, 4))
        for impl in ("ours", "gymnasium-sync", "gymnasium-async")
    ]


def plan_render(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """200 x 200 pixels."""
    return [
        Task("render", impl, "frames/s", seconds=options.seconds, against=("ours", {}))
        for impl in ("ours", "gymnasium-default")
    ]


def plan_log(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """The files of a run's folder, without and with W&B."""
    return [
        Task("log", impl, "epochs/s", seconds=min(options.seconds, 2.0))
        for impl in ("ours-local", "ours-wandb-offline")
    ]


def plan_checkpoint(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """One run's checkpoint."""
    return [
        Task("checkpoint", impl, "checkpoints/s", seconds=min(options.seconds, 2.0))
        for impl in ("ours-write", "ours-read")
    ]


def plan_start(options: argparse.Namespace, data: "Datasets") -> list[Task]:
    """From the command to the first step, by what the config asks for."""
    names = ["ours-no-video"] if options.quick else ["ours", "ours-no-video", "ours-wandb-offline"]
    return [Task("start", name, "starts/s", given=data.minari(10_000 if options.quick else 100_000)) for name in names]


def plan_memory(options: argparse.Namespace, data: "Datasets") -> list[Task]:
    """Against the data, and against the stack."""
    sizes = [10_000] if options.quick else [10_000, 100_000, 1_000_000]
    if options.large:
        sizes.append(10_000_000)
    stacks = options.stacks or ([1] if options.quick else [1, 2, 4, 8, 16])
    loads = [Task("memory", "ours-load", "MiB", {"transitions": n}, data.d4rl(n)) for n in sizes]
    return loads + [Task("memory", EXACT, "MiB", {"runs": runs}) for runs in stacks]


def plan_profile(options: argparse.Namespace, _: "Datasets") -> list[Task]:
    """Where a step's time goes."""
    return [Task("profile", name, "share", seconds=min(options.seconds, 2.0)) for name in (EXACT, SAMPLED)]


PLANS: dict[str, Callable[[argparse.Namespace, "Datasets"], list[Task]]] = {
    "load": plan_load,
    "update": plan_update,
    "update_stack": plan_stack,
    "cost": plan_cost,
    "evaluate": plan_evaluate,
    "render": plan_render,
    "log": plan_log,
    "checkpoint": plan_checkpoint,
    "start": plan_start,
    "memory": plan_memory,
    "profile": plan_profile,
}


# Processes ------------------------------------------------------------------------------------------------------------


class MeasurementError(RuntimeError):
    """A process of a measurement failed; the message is what it said."""


@dataclass
class Apart:
    """Runs measurements, each in a process of its own.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        folder: below it each process gets a folder of its own to work in.
        peers: the interpreter that has the other programs.
        quick: warm up for a moment only.
    """

    device: str
    threads: int
    folder: Path
    peers: str
    quick: bool

    def __call__(self, what: str, impl: str = "", **given: Any) -> dict[str, Any]:
        """The answer of one process; what it has to say is shown only where it fails.

        Raises:
            MeasurementError: it failed.
        """
        warm_up = {"warm_up": 2} if self.quick else {}
        spec = {"what": what, "impl": impl, "device": self.device, "threads": self.threads, **SIZES, **warm_up, **given}
        interpreter = self.peers if impl.startswith(SINGLE_PEERS) or impl == "peers" else sys.executable
        script = Path(__file__).resolve().with_name("benchmark_measure.py")
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            child = subprocess.run(
                [interpreter, str(script), json.dumps(spec)],
                cwd=own,
                env={**os.environ, "TMPDIR": own},  # where W&B leaves folders
                capture_output=True,
                text=True,
                check=False,
            )
        lines = child.stdout.splitlines()
        if child.returncode or not lines:
            raise MeasurementError(f"{what} {impl}: status {child.returncode}\n{child.stdout}{child.stderr}")
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer


class Datasets:
    """Files of made-up data in the temporary folder, written when first asked for.

    Args:
        apart: runs the process that writes them.
    """

    def __init__(self, apart: Apart) -> None:
        self._apart = apart
        self._made: set[str] = set()

    def d4rl(self, n: int) -> dict[str, Any]:
        """The fields of a spec that reads a D4RL file of n transitions."""
        return self._given("d4rl", {"path": str(self._apart.folder / f"{n}.hdf5"), "transitions": n})

    def minari(self, n: int) -> dict[str, Any]:
        """The fields of a spec that reads a Minari dataset of n transitions."""
        root = self._apart.folder / "minari"
        root.mkdir(exist_ok=True)
        return self._given("minari", {"path": f"benchmark/made-{n}-v0", "root": str(root), "transitions": n})

    def _given(self, impl: str, fields: dict[str, Any]) -> dict[str, Any]:
        if fields["path"] not in self._made:
            self._apart("make", impl, **fields)
            self._made.add(fields["path"])
        return fields


class Neighbours:
    """How many cores other processes keep busy, where the system tells (Linux); what a hypervisor takes counts too."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), *self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own_seconds = sum(usage.ru_utime + usage.ru_stime for usage in own)
        stat = Path("/proc/stat")
        if not stat.exists():
            return 0.0, 0.0
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), own_seconds

    def cores(self) -> float:
        """Since this object was made, on average."""
        busy, own = self._now()
        seconds = time.perf_counter() - self._began
        return max(0.0, (busy - self._busy - (own - self._own)) / seconds)


def wait_for_quiet(seconds: float) -> None:
    """Wait until other processes rest for a second, but no longer than the seconds given."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        neighbours = Neighbours()
        time.sleep(1.0)
        if neighbours.cores() < QUIET:
            return


def undisturbed(task: Task, apart: Apart, wait: float) -> tuple[dict[str, Any], str]:
    """One answer of a task, and what its process had to say if it failed.

    Args:
        task: what to measure.
        apart: runs it.
        wait: seconds to wait at most for other processes to rest. Within them a measurement that others disturbed is
            thrown away and made again, whatever it said.
    """
    end = time.perf_counter() + wait
    while True:
        wait_for_quiet(end - time.perf_counter())
        neighbours = Neighbours()
        try:
            answer = apart(task.what, task.impl, seconds=task.seconds, **(task.settings | task.given))
        except MeasurementError as error:
            last = (str(error).splitlines() or ["?"])[-1]
            return {"absent": f"failed: {last}"}, str(error)
        others = round(neighbours.cores(), 3)
        if "absent" in answer or others <= QUIET or time.perf_counter() >= end:
            return {**answer, "others": others}, ""


def measure(
    tasks: Sequence[Task], rounds: int, apart: Apart, wait: float
) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """All tasks in turn, round after round; the order is reversed every other round.

    Args:
        tasks: of one group.
        rounds: how many times each is measured. One that is absent, or failed, is not tried again.
        apart: runs one.
        wait: for each measurement, see :func:`undisturbed`.

    Returns:
        For each task its answers, one a round, with ``others``, the cores that other processes took; and what processes
        that failed had to say.
    """
    answers: list[list[dict[str, Any]]] = [[] for _ in tasks]
    failures = []
    for turn in range(rounds):
        order = range(len(tasks))
        for index in order if turn % 2 == 0 else reversed(order):
            task, own = tasks[index], answers[index]
            if own and "absent" in own[-1]:
                continue
            answer, failure = undisturbed(task, apart, wait)
            own.append(answer)
            failures += [failure] if failure else []
            shown = answer.get("absent") or f"{answer.get('rate', answer.get('value', 0.0)):.1f} {task.unit}"
            if "values" not in answer:
                sys.stderr.write(f"{task.what}: {task.name}, round {turn + 1} of {rounds}: {shown}\n")
    return answers, failures


# Rows -----------------------------------------------------------------------------------------------------------------


def rows_of(tasks: Sequence[Task], answers: Sequence[Sequence[dict[str, Any]]]) -> list[Row]:
    """One row for each task, or one for each part where an answer has parts; medians and spreads over the rounds.

    Args:
        tasks: of one group.
        answers: for each task one answer a round; shorter where it was not tried again.

    Returns:
        Rows as they are in the JSON.
    """
    rows = []
    for task, own in zip(tasks, answers, strict=True):
        there = [answer for answer in own if "absent" not in answer]
        head = {"what": task.what, "impl": task.impl, **task.settings}
        notes = [answer["absent"] for answer in own if "absent" in answer]
        others = [answer["others"] for answer in there if "others" in answer]
        if not there:
            rows.append(_row(head, task.unit, [], "; ".join(notes), others))
            continue
        if "values" in there[0]:
            names = dict.fromkeys(name for answer in there for name in answer["values"])
            for name in names:
                shares = [answer["values"][name] for answer in there if name in answer["values"]]
                rows.append(_row({**head, "part": name}, task.unit, shares, "; ".join(notes), others))
            continue
        key = "rate" if "rate" in there[0] else "value"
        row = _row(head, task.unit, [answer[key] for answer in there], "", others)
        for extra in there[0].keys() - {"rate", "value", "others"}:
            row[extra] = statistics.median(answer[extra] for answer in there)
            notes.append(f"{extra.replace('_', ' ')} {row[extra]:.4g}")
        row["note"] = "; ".join(sorted(notes))
        rows.append(row)
    for task, row in zip(tasks, rows, strict=False):
        if task.against is not None and row.get("rates"):
            impl, settings = task.against
            reference = next((r for r in rows if r["impl"] == impl and settings.items() <= r.items()), None)
            if reference is not None and reference["rates"]:
                row["ratio"] = {"to": {"impl": impl, **settings}, **paired(row, reference)}
    return rows


def _row(head: Row, unit: str, numbers: list[float], note: str, others: list[float]) -> Row:
    per_second = unit.endswith("/s")
    middle = statistics.median(numbers) if numbers else None
    spread = [min(numbers), max(numbers)] if numbers else None
    row = {**head, "unit": unit, "rate": middle if per_second else None, "spread": spread, "rounds": len(numbers)}
    row |= {"rates": numbers} if per_second else {"value": middle, "values": numbers}
    return {**row, "others": others, "note": note}


def paired(row: Row, reference: Row) -> dict[str, Any]:
    """The ratio of two rows' rates within each round: median, spread, and all of them."""
    ratios = [own / other for own, other in zip(row["rates"], reference["rates"], strict=False)]
    return {"median": statistics.median(ratios), "spread": [min(ratios), max(ratios)], "rounds": ratios}


def comparisons(rows: Sequence[Row]) -> list[Row]:
    """How ours compares with the faster of the other programs and with the floor, from the rows of ``update``."""
    updates = {row["impl"]: row for row in rows if row["what"] == "update" and row["rate"] is not None}
    own = [name for name in updates if name.startswith("ours-")]
    peers = sorted((name for name in SINGLE_PEERS if name in updates), key=lambda name: -updates[name]["rate"])
    references = (
        [(peers[0], f"the fastest of {', '.join(peers)}" if len(peers) > 1 else "the only peer here")] if peers else []
    )
    references += [(name, "the machine's product alone") for name in updates if name.startswith(FLOOR)]
    return [
        {"impl": name, "to": other, "which_is": why, **paired(updates[name], updates[other])}
        for name in own
        for other, why in references
    ]


# Tables ---------------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Four significant digits, never in powers of ten."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and lines of one group's rows, as text cells."""
    shown = [key for key in ("runs", "episodes", "transitions", *SIZES, "part") if any(key in row for row in rows)]
    has_ratio = any("ratio" in row for row in rows)
    header = ["implementation", *(key.replace("_", " ") for key in shown), "median", "lowest", "highest", "unit"]
    header += ["ratio", "of rounds", "to"] if has_ratio else []
    lines = [[*header, "note"]]
    for row in rows:
        middle = row["rate"] if row["rate"] is not None else row.get("value")
        low, high = row["spread"] or (None, None)
        line = [row["impl"], *(str(row.get(key, "")) for key in shown)]
        line += [number(middle), number(low), number(high), row["unit"]]
        if has_ratio and "ratio" in row:
            line += [f"{row['ratio']['median']:.2f}", _spread(row["ratio"]), _other(row)]
        elif has_ratio:
            line += ["", "", ""]
        lines.append([*line, row["note"]])
    return lines


def _other(row: Row) -> str:
    """What the row is compared with, by what differs."""
    differs = {key: value for key, value in row["ratio"]["to"].items() if value != row[key]}
    return (
        " ".join([differs.pop("impl", ""), *(f"{key}={value}" for key, value in differs.items())]).strip() or "itself"
    )


def _spread(ratio: dict[str, Any]) -> str:
    low, high = ratio["spread"]
    return f"{low:.2f} to {high:.2f}"


def sentences(rows: Sequence[Row]) -> list[str]:
    """What a group's table does not say: the comparisons, and whether the machine was quiet."""
    said = [
        f"{each['impl']} / {each['to']} ({each['which_is']}): {each['median']:.2f} ({_spread(each)} in single rounds)"
        for each in comparisons(rows)
    ]
    # Rows that are parts of one measurement share its list.
    others = {id(row["others"]): row["others"] for row in rows}.values()
    disturbed = [cores for each in others for cores in each if cores > QUIET]
    if disturbed:
        count, of, most = len(disturbed), sum(len(each) for each in others), max(disturbed)
        said.append(
            f"The machine was not quiet: in {count} of {of} measurements other processes took more than {QUIET} cores, "
            f"{most:.1f} at most. Measure again, or with --wait."
        )
    return said


def as_text(lines: Sequence[Sequence[str]]) -> str:
    """Aligned columns."""
    kept = _without_empty(lines)
    widths = [max(len(line[column]) for line in kept) for column in range(len(kept[0]))]
    right = [_is_number(kept, column) for column in range(len(kept[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in kept
    )


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """The same for a page."""
    kept = _without_empty(lines)
    marks = ["---:" if _is_number(kept, column) else "---" for column in range(len(kept[0]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [kept[0], marks, *kept[1:]])


def _without_empty(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    columns = [c for c in range(len(lines[0])) if any(line[c] for line in lines[1:])]
    return [[line[c] for c in columns] for line in lines]


def _is_number(lines: Sequence[Sequence[str]], column: int) -> bool:
    return all(
        line[column].replace(",", "").replace(".", "").replace("-", "").isdigit() or line[column] in ("", "-")
        for line in lines[1:]
    )


# The whole ------------------------------------------------------------------------------------------------------------


def surroundings(apart: Apart) -> tuple[dict[str, Any], dict[str, str]]:
    """The machine, and the versions; those of the peers' interpreter that differ are marked."""
    own = apart("about")
    theirs = apart("about", "peers") if apart.peers != sys.executable else own
    versions = dict(own["versions"])
    for package, found in theirs["versions"].items():
        if package not in versions and package in (*SINGLE_PEERS, "tensordict"):
            versions[package] = found
        elif package == "torch" and found != versions.get("torch"):
            versions["torch of the peers"] = found
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name") and ": " in line]
    machine = {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "vector_instructions": own.get("vector_instructions"),
        "gpu": own.get("gpu"),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return machine, versions


def names_of(text: str, known: Iterable[str], option: str) -> list[str]:
    """A list with commas, every name of which is known.

    Raises:
        SystemExit: one is not; the message lists those that are.
    """
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        sys.exit(f"{option}: {', '.join(unknown) or 'nothing'} is not known; there are: {', '.join(known)}")
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", default=",".join(PLANS), help="what to measure, with commas (default: all)")
    made.add_argument("--impl", help="only these implementations, with commas, e.g. ours-exact,d3rlpy")
    made.add_argument("--rounds", type=int, help="default 3")
    made.add_argument("--seconds", type=float, help="of an update's measurement, after its warm-up (default 5)")
    made.add_argument("--quick", action="store_true", help="a smoke run: one round of moments, fewer sizes")
    made.add_argument("--large", action="store_true", help="memory with 10,000,000 transitions too (2 GB of files)")
    made.add_argument("--stacks", type=lambda text: [int(n) for n in text.split(",")], help="sizes, e.g. 1,2,4,64,128")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, the same for all")
    made.add_argument(
        "--peers",
        type=os.path.abspath,
        default=sys.executable,
        help="the Python that has d3rlpy and TorchRL (default: this)",
    )
    made.add_argument(
        "--wait", type=float, default=0.0, help="seconds for which each measurement may wait for a quiet machine"
    )
    made.add_argument("--json", type=Path, help="write all measurements to this file")
    made.add_argument("--markdown", type=Path, help="write the tables to this file")
    return made


def main() -> None:
    """Measure in turns, print each group's table when it is done, and write the files that were asked for."""
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the child and removes the files too
    chosen = names_of(options.only, PLANS, "--only")
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (0.2 if options.quick else 5.0)
    with tempfile.TemporaryDirectory() as folder:
        apart = Apart(options.device, options.threads, Path(folder), options.peers, options.quick)
        machine, versions = surroundings(apart)
        settings = {key: getattr(options, key) for key in ("device", "threads", "rounds", "seconds", "quick", "wait")}
        head = [
            ", ".join(f"{name} {value}" for name, value in part.items() if value is not None)
            for part in (machine, versions, settings | SIZES)
        ]
        print("\n".join(head), flush=True)
        page, rows, failures = ["  \n".join(head)], [], []
        data = Datasets(apart)
        for what in chosen:
            tasks = PLANS[what](options, data)
            if options.impl:
                tasks = [task for task in tasks if task.impl in options.impl.split(",")]
            if not tasks:
                continue
            answers, failed = measure(tasks, options.rounds, apart, options.wait)
            own = rows_of(tasks, answers)
            failures += failed
            rows += own
            print("\n".join([f"\n{what}", as_text(table(own)), *sentences(own)]), flush=True)
            page.append("\n".join([f"### {what}\n", as_markdown(table(own)), *(f"\n{s}" for s in sentences(own))]))
            if options.json:
                whole = {"machine": machine, "versions": versions, "settings": settings | SIZES, "rows": rows}
                whole["ratios"] = comparisons(rows)
                options.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
            if options.markdown:
                options.markdown.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    if not rows:
        sys.exit(f"--impl: nothing of {options.only} has an implementation called {options.impl}")
    if failures:
        sys.exit("\n\n".join(["", f"{len(failures)} measurements failed", *failures]))


if __name__ == "__main__":
    main()
