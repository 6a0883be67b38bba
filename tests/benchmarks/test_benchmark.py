"""The benchmark: the floor's sum, rows and tables from made-up measurements, and one small run of the whole."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark")


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmark_measure")


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


# The floor ------------------------------------------------------------------------------------------------------------


def test_the_work_of_a_tiny_update_is_what_one_counts_by_hand(measuring: ModuleType) -> None:
    # S = 2, A = 1, H = 4, one hidden layer, B = 5, one action from each of three groups: 5 states, 20 rows.
    spec = measuring.Spec(
        "update", observation_size=2, action_size=1, width=4, depth=1, batch_size=5, num_sampled_actions=1
    )
    state, action, last = 5 * 2 * 4, 20 * 1 * 4, 20 * 4 * 1  # multiply-adds of one pass of one critic
    critics = 2 * 2 * (state + action + last)  # two critics, forward and the weights' gradient
    targets = 2 * 5 * (3 * 4 + 4 * 1)
    actor = 2 * 5 * (2 * 4 + 4 * 2)  # at s and at s'; two outputs for each action
    actor_gradient = 5 * (2 * 4 + 4 * 2) + 5 * 4 * 2  # of the weights; of the hidden layer
    actor_loss = 2 * 5 * (3 * 4 + 4 * 1) + 2 * 5 * 4 * 1  # forward, and back to the action
    assert measuring.update_flop(spec) == 2 * (critics + targets + actor + actor_gradient + actor_loss)


def test_a_second_hidden_layer_adds_its_products(measuring: ModuleType) -> None:
    one = measuring.Spec(
        "update", observation_size=2, action_size=1, width=4, depth=1, batch_size=5, num_sampled_actions=1
    )
    two = measuring.Spec(
        "update", observation_size=2, action_size=1, width=4, depth=2, batch_size=5, num_sampled_actions=1
    )
    hidden = 4 * 4
    critics = 2 * 20 * 3 * hidden  # forward, gradient of the weights, gradient between the layers
    targets, actor, actor_loss = 2 * 5 * hidden, 5 * 4 * hidden, 2 * 5 * 2 * hidden
    difference = measuring.update_flop(two) - measuring.update_flop(one)
    assert difference == 2 * (critics + targets + actor + actor_loss)


def test_the_work_at_the_sizes_of_halfcheetah(measuring: ModuleType) -> None:
    assert measuring.update_flop(measuring.Spec("update")) == pytest.approx(6.73e9, rel=1e-3)


@pytest.mark.parametrize(
    ("operator", "part"),
    [
        ("aten::bmm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("aten::baddbmm", "matrix products"),
        ("aten::threshold_backward", "activations' gradient"),
        ("aten::threshold", "other"),
        ("aten::sum", "other"),
    ],
)
def test_each_operator_belongs_to_one_part_of_a_step(measuring: ModuleType, operator: str, part: str) -> None:
    assert measuring.part_of_step(operator) == part


# Rows and tables ------------------------------------------------------------------------------------------------------


def measured(benchmark: ModuleType) -> list[dict]:
    """Three rounds of an update in which the machine grew slower, and one program that is not there."""
    rates = {
        "ours-exact": [30.0, 24.0, 20.0],
        "d3rlpy": [20.0, 16.0, 10.0],
        "torchrl": [15.0, 10.0, 12.0],
        "matmul-floor": [40.0, 40.0, 40.0],
    }
    tasks = [benchmark.Task("update", name, "updates/s", against=("ours-exact", {})) for name in rates]
    answers = [[{"rate": rate, "others": 0.0} for rate in own] for own in rates.values()]
    tasks.append(benchmark.Task("update", "ours-sampled-k1", "updates/s", against=("ours-exact", {})))
    answers.append([{"absent": "not in this version", "others": 0.0}])
    return benchmark.rows_of(tasks, answers)


def test_rows_have_medians_spreads_and_ratios_within_rounds(benchmark: ModuleType) -> None:
    ours, d3rlpy, _, floor, absent = measured(benchmark)
    assert (ours["rate"], ours["spread"], ours["rounds"]) == (24.0, [20.0, 30.0], 3)
    assert d3rlpy["ratio"]["rounds"] == pytest.approx([2 / 3, 2 / 3, 1 / 2])
    assert d3rlpy["ratio"]["median"] == pytest.approx(2 / 3)
    assert d3rlpy["ratio"]["spread"] == pytest.approx([1 / 2, 2 / 3])
    assert floor["ratio"]["to"] == {"impl": "ours-exact"}
    assert (absent["rate"], absent["spread"], absent["note"]) == (None, None, "not in this version")
    assert "ratio" not in absent


def test_ours_is_compared_with_the_faster_peer_and_with_the_floor(benchmark: ModuleType) -> None:
    found = benchmark.comparisons(measured(benchmark))
    assert [(each["impl"], each["to"]) for each in found] == [("ours-exact", "d3rlpy"), ("ours-exact", "matmul-floor")]
    assert found[0]["rounds"] == pytest.approx([1.5, 1.5, 2.0])
    assert found[0]["median"] == pytest.approx(1.5)
    assert found[1]["spread"] == pytest.approx([0.5, 0.75])
    without = [row for row in measured(benchmark) if row["impl"] not in ("d3rlpy", "torchrl")]
    assert [each["to"] for each in benchmark.comparisons(without)] == ["matmul-floor"]


def test_each_size_is_compared_with_its_own_reference(benchmark: ModuleType) -> None:
    tasks = [
        benchmark.Task("update_stack", name, "updates/s", {"runs": runs}, against=(name, {"runs": 1}))
        for name in ("ours-exact", "ours-sampled-k1")
        for runs in (1, 8)
    ]
    rows = benchmark.rows_of(tasks, [[{"rate": rate}] for rate in (10.0, 15.0, 20.0, 50.0)])
    assert [row["ratio"]["median"] for row in rows] == [1.0, 1.5, 1.0, 2.5]
    assert [line[-2] for line in benchmark.table(rows)] == ["to", "itself", "runs=1", "itself", "runs=1"]


def test_what_has_parts_is_a_row_for_each_and_other_numbers_keep_their_unit(benchmark: ModuleType) -> None:
    profile = benchmark.Task("profile", "ours-exact", "share")
    answers = [{"values": {"matrix products": 0.6, "other": 0.4}}, {"values": {"matrix products": 0.8, "other": 0.2}}]
    products, other = benchmark.rows_of([profile], [answers])
    assert (products["part"], products["rate"], products["value"]) == ("matrix products", None, pytest.approx(0.7))
    assert other["spread"] == [0.2, 0.4]
    memory = benchmark.Task("memory", "ours-load", "MiB", {"transitions": 1000})
    (row,) = benchmark.rows_of([memory], [[{"value": 300.0, "tensors_mib": 1.5}]])
    assert (row["value"], row["unit"], row["rate"], row["tensors_mib"]) == (300.0, "MiB", None, 1.5)


def test_the_table_says_what_is_missing_and_whether_the_machine_was_quiet(benchmark: ModuleType) -> None:
    rows = measured(benchmark)
    header, first, *_ = text = benchmark.as_text(benchmark.table(rows)).splitlines()
    assert " ".join(header.split()) == "implementation median lowest highest unit ratio of rounds to note"
    assert " ".join(first.split()) == "ours-exact 24 20 30 updates/s 1.00 1.00 to 1.00 itself"
    assert " ".join(text[-1].split()) == "ours-sampled-k1 - - - updates/s not in this version"
    markdown = benchmark.as_markdown(benchmark.table(rows)).splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert markdown[2] == "| ours-exact | 24 | 20 | 30 | updates/s | 1.00 | 1.00 to 1.00 | itself |  |"
    assert len(benchmark.sentences(rows)) == 2
    rows[0]["others"] = [0.0, 1.5, 0.02]
    assert (
        "in 1 of 12 measurements other processes took more than 0.1 cores, 1.5 at most" in benchmark.sentences(rows)[2]
    )


def test_a_measurement_that_fails_is_not_tried_again_and_the_order_is_reversed(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def apart(what: str, impl: str, **given: object) -> dict[str, float]:
        asked.append(impl)
        if impl == "broken":
            raise benchmark.MeasurementError("Traceback\nValueError: no")
        return {"rate": 1.0}

    tasks = [benchmark.Task("update", name, "updates/s") for name in ("first", "broken", "last")]
    answers, failures = benchmark.measure(tasks, 2, apart, 0.0)
    assert asked == ["first", "broken", "last", "last", "first"]
    assert [len(own) for own in answers] == [2, 1, 2]
    assert failures == ["Traceback\nValueError: no"]
    assert benchmark.rows_of(tasks, answers)[1]["note"] == "failed: ValueError: no"
    assert "update: last, round 2 of 2: 1.0 updates/s" in capsys.readouterr().err


@pytest.mark.parametrize(("wait", "tries"), [(0.0, 1), (100.0, 3)])
def test_a_disturbed_measurement_is_made_again_while_there_is_time(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, wait: float, tries: int
) -> None:
    busy = iter([1.5, 0.7, 0.02])
    monkeypatch.setattr(benchmark.Neighbours, "cores", lambda _: next(busy))
    monkeypatch.setattr(benchmark, "wait_for_quiet", lambda _: None)
    asked = []

    def apart(what: str, impl: str, **given: object) -> dict[str, float]:
        asked.append(impl)
        return {"rate": float(len(asked))}

    answer, failure = benchmark.undisturbed(benchmark.Task("update", "ours-exact", "updates/s"), apart, wait)
    assert (len(asked), failure) == (tries, "")
    assert answer == {"rate": float(tries), "others": 1.5 if tries == 1 else 0.02}


# The whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ci
def test_a_quick_run_writes_its_rows(tmp_path: Path) -> None:
    record, page = tmp_path / "rows.json", tmp_path / "rows.md"
    chosen = ("--only", "update", "--impl", "ours-exact,matmul-floor,d3rlpy", "--quick", "--seconds", "0.01")
    done = call(*chosen, "--threads", "1", "--json", str(record), "--markdown", str(page))
    assert done.returncode == 0, done.stderr
    written = json.loads(record.read_text())
    rows = {row["impl"]: row for row in written["rows"]}
    assert list(rows) == ["ours-exact", "d3rlpy", "matmul-floor"]
    assert rows["ours-exact"]["rate"] > 0
    assert rows["matmul-floor"]["gflop_per_update"] == pytest.approx(6.73, rel=1e-3)
    floor = rows["matmul-floor"]
    assert floor["rate"] == pytest.approx(floor["gflop_per_second"] / floor["gflop_per_update"])
    installed = importlib.util.find_spec("d3rlpy") is not None
    assert (rows["d3rlpy"]["rate"] is not None) == installed
    assert installed or "not installed" in rows["d3rlpy"]["note"]
    assert {"processor", "cores", "gpu"} <= written["machine"].keys()
    assert "torch" in written["versions"]
    assert written["settings"]["threads"] == 1
    ratio = rows["ours-exact"]["rate"] / floor["rate"]
    assert written["ratios"][-1]["median"] == pytest.approx(ratio)
    assert f"ours-exact / matmul-floor (the machine's product alone): {ratio:.2f}" in done.stdout
    assert "| ours-exact |" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--only", "update,rendering"),
            "--only: rendering is not known; there are: load, update, update_stack, cost,",
        ),
        (("--only", ""), "--only: nothing is not known; there are: load,"),
    ],
)
def test_what_is_not_known_is_refused_with_the_names(arguments: tuple[str, ...], said: str) -> None:
    done = call(*arguments)
    assert done.returncode == 1
    assert said in done.stderr


def test_ended_by_a_signal_it_removes_its_files(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--only", "load"]
    running = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("*/*")) and running.poll() is None:  # the folder of its first process
        time.sleep(0.01)
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_the_figure_shows_each_size_with_the_others_at_their_base(tmp_path: Path) -> None:
    figures = runpy.run_path(str(SCRIPTS / "benchmark_figure.py"))
    base = {"batch_size": 256, "width": 256, "num_sampled_actions": 10}
    points = [base, base | {"batch_size": 64}, base | {"width": 64}, base | {"width": 512}]
    rows = [
        {"what": "cost", "impl": "ours-exact", **point, "rate": 10.0 + n, "spread": [9.0 + n, 20.0 + n]}
        for n, point in enumerate(points)
    ]
    assert figures["varied"](rows, "width") == [rows[0], rows[2], rows[3]]
    assert figures["varied"](rows, "num_sampled_actions") == [rows[0]]
    absent = {"what": "update_stack", "impl": "ours-exact", "runs": 2, "rate": None, "spread": None}
    made = figures["figure"]([*rows, absent])
    curves = {axes.get_xlabel(): axes.lines[0].get_xydata().tolist() for axes in made.axes if axes.lines}
    assert set(curves) == {"batch size", "hidden width", "samples per group"}
    assert curves["hidden width"] == [[64, 1000 / 12], [256, 100], [512, 1000 / 13]]
    files = sorted((SCRIPTS.parent / "results" / "benchmark").glob("*.json"))
    out = tmp_path / "figure.png"
    command = [sys.executable, str(SCRIPTS / "benchmark_figure.py"), *map(str, files), "--out", str(out)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
