from __future__ import annotations

import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cql.lock import hold
from cql.points import human_point, order, parse_point, without_seed
from cql.sweep.status import (
    NoSweepError,
    SweepRun,
    ended,
    find_sweep,
    read_sweep,
    seconds_left,
    shown_seconds,
)
from cql.sweep.table import text
from cql.training.local_logger import LocalLogger

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "sweep_status.py"


def write_run(
    directory: Path, status: str, step: int = 500, *, rate: float | None = 50.0, score: float | None = 40.0, **more: Any
) -> Path:
    """A run's folder as the trainer leaves it; its timing goes 100 steps further than its last checkpoint."""
    logger = LocalLogger(directory)
    summary = {
        "status": status,
        "step": step,
        "n_steps": 1000,
        "eval_return_mean": 4500.0,
        "best_eval_return_mean": 5000.0,
        "eval_score": score,
        "best_eval_score": None if score is None else score + 5.0,
    }
    logger.write_summary({**summary, **more})
    if rate is not None:
        logger.log_timing(step, {"seconds": 1.0, "steps_per_second": 2 * rate})
        logger.log_timing(step + 100, {"seconds": 1.0, "steps_per_second": rate})
    return directory


def by_name(folder: Path) -> dict[str, SweepRun]:
    return {run.name: run for run in read_sweep(folder)}


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("alpha_cql-5__tau_cql--2__seed-0", {"alpha_cql": "5", "tau_cql": "-2", "seed": "0"}),
        ("tau_cql--1e-05__seed-10", {"tau_cql": "-1e-05", "seed": "10"}),
        ("dataset-embedded_hopper_medium__seed-1", {"dataset": "embedded_hopper_medium", "seed": "1"}),
        ("algorithm.alpha_temp.value-0.1__algorithm.alpha_cql.value-5__seed-0",
         {"algorithm.alpha_temp.value": "0.1", "algorithm.alpha_cql.value": "5", "seed": "0"}),
        ("seed-3", {"seed": "3"}),
        ("000_seed0", {}),
        ("2026-11-23_10-00-00", {}),
        ("alpha_cql-__seed-0", {}),
        ("seed-0__seed-1", {}),
        ("notes", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_a_folders_name_is_a_point_or_none(name: str, point: dict[str, str]) -> None:
    assert parse_point(name) == point
    assert human_point(name) == (" ".join(f"{key}={value}" for key, value in point.items()) or name)


@pytest.mark.parametrize(
    ("point", "shared"),
    [
        ("alpha_cql-5__tau_cql--2__seed-0", "alpha_cql-5__tau_cql--2"),
        ("alpha_cql=5 tau_cql=-2 seed=12", "alpha_cql=5 tau_cql=-2"),
        ("seed-0", ""),
        ("seed=0", ""),
        ("subset_seed-4", "subset_seed-4"),
        ("000_seed0", "000_seed0"),
    ],
)
def test_without_its_seed_a_point_is_what_runs_share(point: str, shared: str) -> None:
    assert without_seed(point) == shared


def test_values_sort_as_numbers_before_texts() -> None:
    assert sorted(["10", "null", "2", "-5", "1e-3", "0", "fixed", "nan"], key=order) == [
        "-5", "0", "1e-3", "2", "10", "fixed", "nan", "null"
    ]  # fmt: skip


# Reading --------------------------------------------------------------------------------------------------------------


def test_each_status_is_told_from_the_summary_and_the_lock(tmp_path: Path) -> None:
    names = {index: f"alpha_cql-{index}__seed-0" for index in range(8)}
    for index, status in enumerate(["finished", "running", "running", "interrupted", "failed"]):
        why = {"failure": "critic_td not finite from step 300 on"} if status == "failed" else {}
        write_run(tmp_path / names[index], status, **why)
    (tmp_path / names[5] / ".hydra").mkdir(parents=True)  # made a moment ago
    (tmp_path / names[6]).mkdir()  # its process loads the data
    (tmp_path / "stacks.json").write_text(json.dumps([[names[0], names[1]], [names[7]]]))
    (tmp_path / "sweep.json").write_text(json.dumps({"base": {"n_steps": 2000}, "swept": ["alpha_cql"]}))
    with hold(tmp_path / names[0]), hold(tmp_path / names[1]), hold(tmp_path / names[4]), hold(tmp_path / names[6]):
        runs = read_sweep(tmp_path)
    assert [run.name for run in runs] == list(names.values())
    assert [run.status for run in runs] == [
        "finished", "running", "stopped", "stopped", "failed", "waiting", "running", "waiting"
    ]  # fmt: skip
    assert [run.stack for run in runs] == [0, 0, None, None, None, None, None, 1]
    # A running one has come as far as its timing says, a stopped one resumes from its checkpoint.
    assert [run.step for run in runs] == [500, 600, 500, 500, 500, 0, 0, 0]
    assert [run.n_steps for run in runs] == [1000] * 5 + [2000] * 3
    assert [run.seconds_left for run in runs] == [None, pytest.approx(8.0), *[None] * 6]
    assert runs[4].failure == "critic_td not finite from step 300 on"
    assert runs[0] == SweepRun(
        name=names[0], point={"alpha_cql": "0", "seed": "0"}, status="finished", step=500, n_steps=1000,
        last_return=4500.0, last_score=40.0, best_return=5000.0, best_score=45.0, steps_per_second=50.0, stack=0,
    )  # fmt: skip


def test_a_plain_launchers_sweep_has_no_list_of_stacks(tmp_path: Path) -> None:
    write_run(tmp_path / "n_steps-300__seed-0", "finished", score=None)
    (tmp_path / "n_steps-400__seed-0" / ".hydra").mkdir(parents=True)
    first, second = read_sweep(tmp_path)
    assert (first.status, first.last_score, first.n_steps) == ("finished", None, 1000)
    assert (second.status, second.n_steps) == ("waiting", 400)


def test_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path / "alpha_cql-5__seed-0", "finished")
    write_run(tmp_path / ".stacks" / "0", "finished")
    write_run(tmp_path / ".alpha_cql-7__seed-0", "finished")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "sweep.log").touch()
    (tmp_path / "sweep_curves.png").touch()
    assert list(by_name(tmp_path)) == ["alpha_cql-5__seed-0"]


def test_a_damaged_file_is_named_and_is_no_error(tmp_path: Path) -> None:
    damaged, row = (
        write_run(tmp_path / "alpha_cql-1__seed-0", "running"),
        write_run(tmp_path / "a-2__seed-0", "running"),
    )
    (damaged / "summary.json").write_text('{"status": "runn')
    with (row / "timing.jsonl").open("a") as file:
        file.write('{"step": 700, "steps_per_second": broken}\n[7]\n{"step": 800, "steps_per_sec')
    (tmp_path / "b-3__seed-0").mkdir()
    (tmp_path / "b-3__seed-0" / "summary.json").write_text("[]")
    for content in ("", "[", "{}", '["a-2__seed-0", [7, "b-3__seed-0"]]'):
        (tmp_path / "stacks.json").write_text(content)
        (tmp_path / "sweep.json").write_text(content)
        with hold(row):
            runs = by_name(tmp_path)
        assert {name: run.status for name, run in runs.items()} == {
            "alpha_cql-1__seed-0": "damaged", "a-2__seed-0": "running", "b-3__seed-0": "damaged"
        }  # fmt: skip
    assert (runs["a-2__seed-0"].step, runs["a-2__seed-0"].steps_per_second) == (600, 50.0)
    assert "summary.json cannot be read" in str(runs["alpha_cql-1__seed-0"].failure)


def finished_run(directory: Path) -> Path:
    """A finished run with two evaluations of two episodes."""
    run = write_run(directory, "finished")
    logger = LocalLogger(run)
    for step in (10, 20):
        logger.log_metrics(step, {"eval_return_mean": 1.5})
        logger.log_episodes(step, [0, 1], [1.5, 1.5], [7, 7], None)
    return run


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("metrics.jsonl", lambda lines: [lines[0], lines[1][:9]], "metrics.jsonl is cut"),
        ("episodes.csv", lambda lines: [*lines[:-1], lines[-1][:5]], "episodes.csv is cut"),
        ("metrics.jsonl", lambda lines: [b"x" + lines[0], lines[1]], "metrics.jsonl"),
        ("metrics.jsonl", lambda lines: lines[:1], "metrics.jsonl is damaged: it lacks the evaluation at step 20"),
        ("episodes.csv", lambda lines: lines[:-2], "episodes.csv is damaged: it lacks the evaluation at step 20"),
        ("episodes.csv", lambda lines: lines[:-1], "episodes.csv is damaged: its evaluation at step 20 has 1 episodes"),
    ],
)
def test_a_finished_run_with_a_damaged_file_is_damaged(
    tmp_path: Path, file: str, damage: Callable[[list[bytes]], list[bytes]], reason: str
) -> None:
    path = finished_run(tmp_path / "seed-0") / file
    (whole,) = read_sweep(tmp_path)
    assert (whole.status, whole.failure) == ("finished", None)
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    (run,) = read_sweep(tmp_path)
    assert run.status == "damaged"
    assert reason in str(run.failure)
    assert text([run]).splitlines()[-1] == "1 run: 1 damaged"
    assert ended([run])


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "seed-0", "running")
    with (run / "timing.jsonl").open("a") as file:
        file.writelines(f'{{"step": {step}, "steps_per_second": 25.0}}\n' for step in range(700, 1000))
    with hold(run):
        (read,) = read_sweep(tmp_path)
    assert (read.step, read.steps_per_second) == (999, 25.0)


def test_runs_are_sorted_by_number_with_the_seed_last(tmp_path: Path) -> None:
    names = [f"alpha_cql-{a}__tau_cql-{t}__seed-{s}" for a in ("2", "10") for t in ("-5", "0.5") for s in ("0", "11")]
    (tmp_path / "stacks.json").write_text(json.dumps([sorted(names), ["custom"]]))
    assert [run.name for run in read_sweep(tmp_path)] == [*names, "custom"]


def test_a_sweep_is_found_by_its_folder_or_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoSweepError, match=r"nowhere is neither a folder nor the name of a sweep.*holds no sweeps"):
        find_sweep("nowhere")
    sweep = tmp_path / "outputs" / "sweeps" / "night"
    run = write_run(sweep / "seed-0", "finished")
    assert find_sweep(sweep) == sweep
    assert find_sweep("night") == Path("outputs/sweeps/night")
    (tmp_path / "night").mkdir()  # a folder of that name which is no sweep is in nobody's way
    assert find_sweep("night") == Path("outputs/sweeps/night")
    with pytest.raises(NoSweepError, match=r"outputs holds no runs.*the sweeps in outputs/sweeps are night"):
        find_sweep("outputs")
    with pytest.raises(NoSweepError, match=f"the folder of one run: give that of its sweep, {sweep}"):
        find_sweep(run)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "sweep.json").write_text("{}")
    assert read_sweep(find_sweep("begun")) == []


# The time left --------------------------------------------------------------------------------------------------------


def some_run(
    status: str, *, step: int = 0, rate: float | None = None, stack: int | None = None, **more: Any
) -> SweepRun:
    values = {"name": f"seed-{step}-{stack}", "point": {}, "n_steps": 1000, **more}
    return SweepRun(status=status, step=step, steps_per_second=rate, stack=stack, **values)


def test_the_time_left_counts_what_follows() -> None:
    done = some_run("finished", step=1000, rate=10.0)
    first = [some_run("running", step=900, rate=10.0, stack=0), some_run("running", step=600, rate=10.0, stack=0)]
    assert seconds_left([done, *first]) == pytest.approx(40.0)  # of the run that is furthest behind
    second = [some_run("waiting", stack=1), some_run("stopped", step=200, rate=10.0, stack=1)]
    assert seconds_left([done, *first, *second]) == pytest.approx(140.0)
    beside = some_run("running", step=500, rate=10.0, stack=2)
    assert seconds_left([*first, *second, beside]) == pytest.approx(140.0)  # two at once, the first makes room
    assert seconds_left([some_run("running", rate=None), done]) == pytest.approx(100.0)


def test_there_is_no_time_left_to_tell_where_nothing_runs_or_no_rate_is_known() -> None:
    assert seconds_left([]) is None
    assert seconds_left([some_run("running")]) is None
    assert seconds_left([some_run("stopped", rate=10.0), some_run("waiting")]) is None
    assert seconds_left([some_run("failed", rate=10.0)]) is None


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (750, "12 min"), (3599, "1 h 0 min"), (12000, "3 h 20 min"),
     (190800, "2 d 5 h")],
)  # fmt: skip
def test_times_are_shown_for_people(seconds: float, shown: str) -> None:
    assert shown_seconds(seconds) == shown


# The table ------------------------------------------------------------------------------------------------------------


def test_the_table(tmp_path: Path) -> None:
    write_run(
        tmp_path / "alpha_cql-10__tau_cql--2__seed-0", "failed", 300, failure="q_data not finite; last metrics: x 1"
    )
    write_run(tmp_path / "alpha_cql-5__tau_cql--2__seed-0", "finished", 1000)
    running = write_run(tmp_path / "alpha_cql-5__tau_cql--2__seed-1", "running", rate=0.5, score=-3.25)
    names = ["alpha_cql-5__tau_cql--2__seed-1", "alpha_cql-5__tau_cql-0.5__seed-0"]
    (tmp_path / "stacks.json").write_text(json.dumps([names]))
    with hold(running):
        runs = read_sweep(tmp_path)
    assert text(runs).splitlines() == [
        "alpha_cql  tau_cql  seed  status         step  return  score  steps/s  left",
        "        5       -2     0  finished  1000/1000    4500   40.0     50.0",
        "        5       -2     1  running    600/1000    4500   -3.2      0.5  13 min",
        "        5      0.5     0  waiting",
        "       10       -2     0  failed     300/1000    4500   40.0     50.0",
        "",
        "alpha_cql=10 tau_cql=-2 seed=0 failed: q_data not finite",
        "",
        "4 runs: 1 finished, 1 running, 1 failed, 1 waiting; about 13 min left",
    ]


def test_success_has_a_column_where_it_was_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "seed-0", "finished", 1000, score=None, eval_success=0.625)
    write_run(tmp_path / "seed-1", "finished", 1000, score=None, eval_success=None)
    assert text(read_sweep(tmp_path)).splitlines()[:3] == [
        "seed  status         step  return  success  steps/s",
        "   0  finished  1000/1000    4500     0.62     50.0",
        "   1  finished  1000/1000    4500              50.0",
    ]


def test_columns_without_a_value_and_names_that_are_no_points() -> None:
    runs = [
        some_run("stopped", step=20, name="000_seed0", last_return=3.25, n_steps=None),
        some_run("finished", step=1000, name="arm-cql_rho__seed-0", point={"arm": "cql_rho", "seed": "0"}),
    ]
    assert text(runs).splitlines() == [
        "run        arm      seed  status         step  return",
        "000_seed0                 stopped          20     3.2",
        "           cql_rho     0  finished  1000/1000",
        "",
        "2 runs: 1 finished, 1 stopped; nothing is training: to resume the sweep, give its command again",
    ]
    assert text([]) == "no runs yet"
    assert text([some_run("finished", name="seed-0", point={"seed": "0"})]).splitlines()[-1] == "1 run: 1 finished"


def test_a_narrow_table_wraps_and_loses_nothing() -> None:
    names = ["backup-soft__seed-0", "normalise_observations-false__seed-0", "penalty-blueprint__seed-0"]
    runs = [some_run("failed", name=name, point=parse_point(name), failure="a b " * 20, step=7) for name in names]
    lines = text(runs, width=60).splitlines()
    assert lines[0].split() == ["point", "status", "step"]  # one column for all keys is narrower here
    assert lines[2].startswith("normalise_observations=false seed=0")
    assert max(map(len, lines)) <= 60
    assert " ".join(" ".join(lines).split()).count("a b") == 60
    narrow = text(runs, width=20).splitlines()
    assert max(map(len, narrow)) <= 20
    assert "normalise_observations=falseseed=0" in "".join(line.split("  ")[0] for line in narrow)
    assert sum("failed  7/1000" in line for line in narrow) == 3


def test_brackets_and_colons_of_a_message_are_shown_as_they_are() -> None:
    assert "seed=0 failed: bad [red]index[/red] :smile: [3]" in text(
        [some_run("failed", name="seed-0", point={}, failure="bad [red]index[/red] :smile: [3]")]
    )


def test_a_sweep_has_ended_when_nothing_is_to_come() -> None:
    done = [some_run("finished"), some_run("failed")]
    assert ended(done)
    assert not ended([])
    for status in ("running", "waiting", "stopped"):
        assert not ended([*done, some_run(status)])


# The entry point ------------------------------------------------------------------------------------------------------


def status(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_script_prints_a_table_or_json_or_a_figure(tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "night"
    run = write_run(sweep / "alpha_cql-5__seed-0", "finished")
    LocalLogger(run).log_metrics(10, {"critic_td": 1.0})
    (run / ".hydra").mkdir(exist_ok=True)
    (run / ".hydra" / "config.yaml").write_text("{seed: 0, n_steps: 10}\n")
    shown = status("night", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == text(read_sweep(sweep)) + "\n"
    plain = status("night", "--json", "--figure", "night.png", cwd=tmp_path)
    assert plain.returncode == 0
    assert json.loads(plain.stdout) == {
        "folder": "outputs/sweeps/night",
        "runs": [dataclasses.asdict(run) for run in read_sweep(sweep)],
        "seconds_left": None,
    }
    assert (tmp_path / "night.png").exists()
    assert not (sweep / "sweep_curves.png").exists()


def test_the_script_says_what_is_wrong(tmp_path: Path) -> None:
    nothing = status("nowhere", cwd=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "nowhere is neither a folder nor the name of a sweep" in nothing.stderr
    (tmp_path / "stacks.json").write_text('[["seed-0"]]')
    early = status(".", "--figure", "x.png", cwd=tmp_path)
    assert early.returncode == 2
    assert "nothing to draw yet" in early.stderr
    assert status(".", "--watch", "0", cwd=tmp_path).returncode == 2


def test_the_table_needs_no_torch_and_little_time(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep" / "seed-0", "finished")
    for heavy in ("torch", "numpy", "matplotlib", "hydra"):
        (tmp_path / f"{heavy}.py").write_text(f"raise SystemExit('{heavy} was imported')\n")
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "sweep"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "1 run: 1 finished" in result.stdout


def test_plain_output_has_no_colours_and_is_not_cut(tmp_path: Path) -> None:
    name = "__".join(f"algorithm.key_{index}-{'x' * 30}" for index in range(5))
    write_run(tmp_path / name, "finished")
    shown = subprocess.run(
        [sys.executable, str(SCRIPT), "."], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "40"},
    )  # fmt: skip
    assert "\x1b" not in shown.stdout
    assert shown.stdout == text(read_sweep(tmp_path)) + "\n"
    assert shown.stdout.splitlines()[1].count("x" * 30) == 5


def on_terminal(*arguments: str, cwd: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The script with a terminal of 100 columns, and the other end of the terminal."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (30, 100))
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), ".", *arguments],
        cwd=cwd, stdin=its, stdout=its, stderr=its, env={**environment, "TERM": "xterm"},
    )  # fmt: skip
    os.close(its)
    return process, ours


def shown_on(terminal: int, until: bytes | None = None) -> bytes:
    """What is shown on a terminal until a certain text, or until its process ends."""
    shown = b""
    while until is None or until not in shown:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # Linux's way to say that nobody writes any more
            break
    return shown


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    write_run(tmp_path / "seed-0", "finished", 1000)
    process, terminal = on_terminal(cwd=tmp_path)
    shown = shown_on(terminal)
    assert process.wait(60) == 0
    assert b"\x1b[32mfinished" in shown
    assert b"1 run: 1 finished" in shown


def test_on_a_terminal_the_table_is_refreshed_in_place(tmp_path: Path) -> None:
    run = write_run(tmp_path / "seed-0", "running")
    with hold(run):
        process, terminal = on_terminal("--watch", "0.05", cwd=tmp_path)
        shown_on(terminal, b"1 running")
    write_run(run, "finished", 1000)
    shown = shown_on(terminal)
    assert process.wait(60) == 0
    assert b"1 run: 1 finished" in shown
    assert b"\x1b[1A" in shown  # the cursor goes up instead of a new table below
    assert shown.rstrip().endswith(b"\x1b[?25h")  # and is visible again


def test_an_interrupt_on_a_terminal_ends_watching_quietly(tmp_path: Path) -> None:
    write_run(tmp_path / "seed-0", "interrupted")
    process, terminal = on_terminal("--watch", cwd=tmp_path)
    shown = shown_on(terminal, b"stopped")
    process.send_signal(signal.SIGINT)
    shown += shown_on(terminal)
    assert process.wait(60) == 0
    assert b"Traceback" not in shown
    assert b"\x1b[?25h" in shown


def watching(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), ".", "--watch", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_watching_goes_on_until_all_has_ended(tmp_path: Path) -> None:
    run = write_run(tmp_path / "seed-0", "running")
    with watching("0.05", cwd=tmp_path) as process:
        assert process.stdout is not None
        with hold(run):
            assert process.stdout.readline().startswith("seed")
        write_run(run, "finished", 1000)
        output = process.stdout.read()
    assert process.returncode == 0
    assert "1 run: 1 running; about" in output
    assert output.endswith("1 run: 1 finished\n")


def test_an_interrupt_ends_watching_quietly(tmp_path: Path) -> None:
    write_run(tmp_path / "seed-0", "interrupted")
    with watching(cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("seed")
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")
