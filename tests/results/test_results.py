"""Runs read from their folders: what is compared with what, and that nothing is dropped without a word."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from made_runs import MAX_SCORE, MIN_SCORE, make_grid, make_run

from cql import lock
from cql.config.identity import flat
from cql.results import report
from cql.results.comparison import Comparison
from cql.results.doctor import is_shifted
from cql.results.groups import read_results, renamed
from cql.results.runs import ResultsError, overrides_of, provenance_of, read_run
from cql.sweep import status


def sweep(folder):
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    return folder


def test_a_run_is_what_its_files_say(tmp_path):
    metrics = {"q_data": [1.0, 2.0, 3.0]}
    run = read_run(make_run(tmp_path / "run", [100.0, 300.0, 200.0], changes={"seed": 4}, metrics=metrics, spread=50.0))
    assert (run.seed, run.status, run.step, run.n_steps) == (4, "finished", 4000, 4000)
    assert run.evaluations.steps.tolist() == [1333, 2667, 4000]
    assert run.evaluations.values.tolist() == [100.0, 300.0, 200.0]
    assert run.scores.values == pytest.approx((np.array([100.0, 300.0, 200.0]) + 280) / 124.15)
    assert run.metric("q_data").values.tolist() == [1.0, 2.0, 3.0]
    assert not len(run.metric("entropy").steps)
    assert run.config["algorithm.alpha_cql.value"] == 5.0


def test_last_best_and_the_mean_of_the_last_five_are_three_numbers(tmp_path):
    run = read_run(make_run(tmp_path / "run", [9.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
    found = [run.outcome(name, scored=False) for name in ("last", "best", "last five")]
    assert found == [5.0, 9.0, 3.0]
    short = read_run(make_run(tmp_path / "short", [2.0, 4.0]))
    assert short.outcome("last five", scored=False) == 3.0
    nothing = read_run(make_run(tmp_path / "none", [], status="running"))
    assert nothing.outcome("last", scored=False) is None


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    folder = sweep(tmp_path / "s")
    for alpha in (1.0, 5.0):
        for seed in (1, 0):
            changes = {"seed": seed, "algorithm.alpha_cql.value": alpha, "logger.kind": f"k{seed}", "n_threads": seed}
            make_run(folder / f"alpha_cql-{alpha:g}__seed-{seed}", [alpha + seed], changes=changes)
    found = read_results([folder])
    assert found.tasks == ("halfcheetah_medium",)
    assert found.arms == ("alpha_cql=1", "alpha_cql=5")
    assert [[run.seed for run in group.runs] for group in found.groups] == [[0, 1], [0, 1]]
    assert found.arm_settings == {"alpha_cql=1": {"alpha_cql": 1.0}, "alpha_cql=5": {"alpha_cql": 5.0}}
    assert found.numeric_axes() == ["alpha_cql"]
    assert found.group("halfcheetah_medium", "alpha_cql=5").outcomes("last", scored=False).tolist() == [5.0, 6.0]
    assert "algorithm.w_cql" in found.shared
    assert "algorithm.alpha_cql.value" not in found.shared


def test_only_what_differs_is_shown_where_names_say_nothing(tmp_path):
    make_run(tmp_path / "a", [1.0], changes={"algorithm.w_cql": 2.0})
    make_run(tmp_path / "b", [1.0])
    make_run(
        tmp_path / "c", [1.0], changes={"algorithm.alpha_cql": {"kind": "learned", "initial_value": 5.0, "tau_cql": -4}}
    )
    found = read_results([tmp_path])
    assert len(found.arms) == 3
    assert "w_cql=2" in " ".join(found.arms)
    assert any("tau_cql=-4" in arm for arm in found.arms)
    assert not any("batch_size" in arm for arm in found.arms)
    assert found.numeric_axes() == []


def test_arms_that_differ_in_much_have_short_names(tmp_path):
    many = {"network.layer_norm": True, "algorithm.penalty.temperature": 2.0, "dataset.reward_scale": 0.1,
            "batch_size": 512, "algorithm.backup": "soft", "network.depth": 3, "dataset.reward_bias": 1.0}  # fmt: skip
    for name, changes in (("first", {}), ("second", many)):
        folder = sweep(tmp_path / name)
        for w in (1.0, 2.0):
            make_run(folder / f"w_cql-{w:g}__seed-0", [w], changes={"algorithm.w_cql": w, **changes})
    found = read_results([tmp_path])
    assert tuple(sorted(found.arms)) == ("first w_cql=1", "first w_cql=2", "second w_cql=1", "second w_cql=2")
    assert found.arm_settings["second w_cql=2"]["temperature"] == 2.0
    # Two runs of their own have the folders' names.
    for path in sorted((tmp_path / "first").glob("w_*")) + sorted((tmp_path / "second").glob("w_*")):
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "second")
    assert max(map(len, read_results([tmp_path]).arms)) < 40


def test_where_a_learned_multiplier_starts_is_not_taken_for_its_value(tmp_path):
    for start in (1.0, 5.0):
        learned = {"kind": "learned", "initial_value": start, "tau_cql": -4.0}
        make_run(tmp_path / f"alpha_cql-{start:g}__seed-0", [1.0], changes={"algorithm.alpha_cql": learned})
    found = read_results([tmp_path])
    assert found.numeric_axes() == ["initial alpha_cql"]
    assert found.arms == ("alpha_cql=1", "alpha_cql=5")  # by their folders


def test_tasks_are_told_by_environment_and_data(tmp_path):
    make_run(tmp_path / "a", [1.0])
    make_run(tmp_path / "b", [1.0], changes={"dataset.name": "halfcheetah_random"})
    make_run(tmp_path / "c", [1.0], changes={"dataset.fraction": 0.5})
    found = read_results([tmp_path])
    assert found.arms == ("all runs",)
    assert set(found.tasks) == {
        "halfcheetah_medium fraction=null",
        "halfcheetah_medium fraction=0.5",
        "halfcheetah_random",
    }


def test_runs_of_a_table_are_told_by_its_names(tmp_path):
    folder = sweep(tmp_path / "table_x")
    for task, alpha in (("one", 5.0), ("two", 10.0)):  # a task may have settings of its own
        for arm, w in (("base", 1.0), ("heavy", 2.0)):
            changes = {"dataset.name": task, "algorithm.alpha_cql.value": alpha, "algorithm.w_cql": w}
            make_run(folder / f"arm-{arm}__task-{task}__seed-0", [w], changes=changes)
    found = read_results([folder])
    assert (found.tasks, found.arms) == (("one", "two"), ("base", "heavy"))
    assert found.arm_settings == {"base": {"w_cql": 1.0}, "heavy": {"w_cql": 2.0}}


def table_runs(folder, arms=("base", "heavy"), seeds=(0,), **changes):
    """A table's sweep over two tasks, of which each has a setting of its own."""
    sweep(folder)
    for task, scale in (("one", 5.0), ("two", 10.0)):
        for index, arm in enumerate(arms):
            for seed in seeds:
                own = {"seed": seed, "dataset.name": task, "dataset.reward_scale": scale, "algorithm.w_cql": index + 1}
                make_run(folder / f"arm-{arm}__task-{task}__seed-{seed}", [1.0, 2.0], changes={**own, **changes})
    return folder


def test_two_sweeps_of_one_table_are_told_by_its_names_too(tmp_path):
    first = table_runs(tmp_path / "a", seeds=(0,))
    second = table_runs(tmp_path / "b", seeds=(1, 2))
    found = read_results([first, second])
    assert (found.tasks, found.arms) == (("one", "two"), ("base", "heavy"))
    assert [len(group.runs) for group in found.groups] == [3] * 4


def test_what_else_a_table_was_varied_by_is_the_arms(tmp_path):
    folder = sweep(tmp_path / "table_x")
    for width in (64, 128):
        changes = {"network.width": width}
        make_run(folder / f"arm-base__task-one__network.width-{width}__seed-0", [1.0], changes=changes)
    assert read_results([folder]).arms == ("base network.width=64", "base network.width=128")


def test_runs_of_one_name_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path):
    first = table_runs(tmp_path / "a", seeds=(0,))
    second = table_runs(tmp_path / "b", seeds=(1,), batch_size=64)
    make_run(first / "arm-late__task-one__seed-0", [1.0], changes={"dataset.name": "one"})
    found = read_results([first, second])
    assert set(found.arms) == {"late", *(f"{arm} batch_size={n}" for arm in ("base", "heavy") for n in (64, 256))}
    assert all(len(group.runs) == 1 for group in found.groups)
    # Which of them a run is that has not begun, its sweep tells.
    (second / "stacks.json").write_text(json.dumps([["arm-heavy__task-two__seed-7", "arm-heavy__task-three__seed-1"]]))
    waiting = read_results([first, second])
    assert waiting.arms == found.arms
    assert waiting.group("two", "heavy batch_size=64").n_planned == 2
    assert waiting.group("three", "heavy batch_size=64").n_planned == 1
    (second / "stacks.json").unlink()
    # The same name for other data.
    third = table_runs(tmp_path / "c", seeds=(5,), **{"dataset.fraction": 0.5})
    assert read_results([first, third]).tasks == ("one fraction=0.5", "one fraction=null", "two fraction=0.5",
                                                  "two fraction=null")  # fmt: skip


def test_two_arms_of_a_table_that_coincide_on_a_task_keep_both_cells(tmp_path):
    folder = sweep(tmp_path / "s")
    for arm in ("plain", "scaled"):
        make_run(folder / f"arm-{arm}__task-one__seed-0", [1.0])
        make_run(folder / f"arm-{arm}__task-two__seed-0", [1.0], changes={"dataset.reward_scale": float(len(arm))})
    found = read_results([folder])
    assert [(group.task, group.arm) for group in found.groups] == [
        ("one", "plain"), ("one", "scaled"), ("two", "plain"), ("two", "scaled"),
    ]  # fmt: skip
    assert not found.repeated


@pytest.mark.parametrize("parent", [False, True])
def test_seeds_and_cells_that_have_not_begun_are_counted(tmp_path, parent):
    folder = sweep(tmp_path / "sweeps" / "table_x")
    names = [f"arm-{arm}__task-{task}__seed-{seed}" for task in ("one", "two") for arm in "ab" for seed in range(3)]
    (folder / "stacks.json").write_text(json.dumps([names]))
    for name in names[:4]:
        make_run(
            folder / name, [1.0], changes={"dataset.name": "one", "seed": int(name[-1]), "batch_size": ord(name[4])}
        )
    found = read_results([tmp_path / "sweeps" if parent else folder])
    assert (found.tasks, found.arms) == (("one", "two"), ("a", "b"))
    counts = {(group.task, group.arm): (len(group.ended), group.n_planned) for group in found.groups}
    assert counts == {("one", "a"): (3, 3), ("one", "b"): (1, 3), ("two", "a"): (0, 3), ("two", "b"): (0, 3)}
    assert len(found.unread) == 8
    # Who names a run asks for no other one.
    alone = read_results([folder / names[3]])
    assert (len(alone.runs), len(alone.unread), alone.groups[0].n_planned) == (1, 0, 1)


def test_seeds_that_have_not_begun_are_counted_by_any_point(tmp_path):
    folder = sweep(tmp_path / "s")
    names = [f"alpha_cql-{alpha}__seed-{seed}" for alpha in (1, 5) for seed in range(4)]
    (folder / "stacks.json").write_text(json.dumps([names]))
    for name in names[:6]:
        changes = {"algorithm.alpha_cql.value": float(name[10]), "seed": int(name[-1])}
        make_run(folder / name, [1.0], changes=changes)
    assert [(len(group.runs), group.n_planned) for group in read_results([folder]).groups] == [(4, 4), (2, 4)]


def test_a_key_that_is_null_is_one_that_is_not_there(tmp_path):
    make_run(tmp_path / "a", [1.0], changes={"seed": 0})
    make_run(tmp_path / "b", [1.0], changes={"seed": 1, "dataset.fraction": None, "algorithm.new": None})
    found = read_results([tmp_path])
    assert (found.tasks, found.arms, len(found.groups[0].runs)) == (("halfcheetah_medium",), ("all runs",), 2)


def test_how_a_dataset_is_fetched_or_its_path_is_written_makes_no_other_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, path, download in (("a", "data/x.hdf5", True), ("b", "./data/../data/x.hdf5", False)):
        changes = {"seed": ord(name), "dataset.name": None, "dataset.path": path, "dataset.download": download}
        make_run(tmp_path / name, [1.0], changes=changes)
    found = read_results([tmp_path])
    assert (found.tasks, found.arms, len(found.runs)) == (("x",), ("all runs",), 2)


def test_the_datasets_of_a_mixture_make_its_task_and_their_ratios_its_arm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [("data/x.hdf5", 0.5), ("data/../data/x.hdf5", 0.5), ("data/x.hdf5", 0.25), ("y", 0.5)]
    for seed, (path, ratio) in enumerate(runs):
        file = {"kind": "d4rl", "path": path, "ratio": 1.0 - ratio}
        hub = {"kind": "minari", "id": "a/b-v0", "ratio": ratio, "download": seed == 1}
        changes = {"seed": seed, "dataset.kind": "mixture", "dataset.name": None, "dataset.mixture": [file, hub]}
        run = read_run(make_run(tmp_path / str(seed), [1.0], changes=changes))
        assert not is_shifted(run)
    assert run.config["dataset.mixture[1].id"] == "a/b-v0"
    found = read_results([tmp_path])
    assert [(group.task, group.arm, len(group.runs)) for group in found.groups] == [
        ("mixture-x-a-b-v0", "dataset.mixture[0].ratio=0.5 dataset.mixture[1].ratio=0.5", 2),
        ("mixture-x-a-b-v0", "dataset.mixture[0].ratio=0.75 dataset.mixture[1].ratio=0.25", 1),
        ("mixture-y-a-b-v0", "dataset.mixture[0].ratio=0.5 dataset.mixture[1].ratio=0.5", 1),
    ]
    hub["reward_scale"] = 2.0
    assert is_shifted(read_run(make_run(tmp_path / "s", [1.0], changes=changes)))


def test_a_half_written_evaluation_of_a_run_that_trains_is_left_out(tmp_path):
    run = make_run(tmp_path / "run", [1.0, 2.0, 900.0], status="running", n_episodes=3)
    path = run / "episodes.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert read_run(run).evaluations.values.tolist() == [1.0, 2.0]
    assert len(read_run(run).scores.values) == 2
    (run / "summary.json").write_text('{"status": "finished"}')
    with pytest.raises(ResultsError, match=r"episodes.csv is damaged: its evaluation at step 3000 has 2 episodes, oth"):
        read_run(run)


def test_a_finished_run_whose_files_do_not_agree_is_not_read(tmp_path):
    make_run(tmp_path / "whole", [1.0, 2.0])
    cut = make_run(tmp_path / "cut", [1.0, 2.0], changes={"seed": 1})
    path = cut / "episodes.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    short = make_run(tmp_path / "short", [1.0, 2.0], changes={"seed": 2})
    path = short / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    bare = make_run(tmp_path / "bare", [1.0, 2.0], changes={"seed": 3})
    (bare / ".hydra" / "config.yaml").unlink()
    found = read_results([tmp_path])
    assert [run.name for run in found.runs] == ["whole"]
    reasons = {path.name: reason for path, reason in found.unread}
    assert reasons["cut"].endswith("cut/episodes.csv is damaged: it lacks the evaluation at step 4000")
    assert reasons["short"].endswith("short/metrics.jsonl is damaged: it lacks the evaluation at step 4000")
    assert reasons["bare"] == "its .hydra/config.yaml is missing"


def test_overrides_are_read_where_there_are_any(tmp_path):
    assert overrides_of(tmp_path) == []
    for text, expected in (
        ("hydra: {overrides: {task: [seed=0, 'arm=a,b']}}", ["seed=0", "arm=a,b"]),
        ("hydra: {overrides: {task: null}}", []),
        ("hydra: [", []),
        ("nothing: 1", []),
    ):
        (tmp_path / "multirun.yaml").write_text(text)
        assert overrides_of(tmp_path) == expected


def test_of_two_finished_runs_the_newer_one_counts(tmp_path):
    import os

    for name, when in (("a", 2000.0), ("b", 3000.0), ("c", 1000.0)):
        run = make_run(tmp_path / name, [when])
        for path in run.iterdir():
            os.utime(path, (when, when))
    found = read_results([tmp_path])
    assert [run.directory.name for run in found.runs] == ["b"]
    assert {run.directory.name for run in found.repeated} == {"a", "c"}


def test_what_failed_waits_or_cannot_be_read_is_kept_apart_and_named(tmp_path):
    folder = sweep(tmp_path / "s")
    names = [f"alpha_cql-1__seed-{seed}" for seed in range(5)]
    (folder / "stacks.json").write_text(json.dumps([names]))
    make_run(folder / names[0], [1.0, 2.0], changes={"seed": 0})
    make_run(folder / names[1], [5.0], changes={"seed": 1}, status="failed", failure="alpha_cql is nan")
    going = make_run(folder / names[2], [7.0], changes={"seed": 2}, status="running")
    damaged = make_run(folder / names[3], [1.0], changes={"seed": 3})
    (damaged / "episodes.csv").write_text("step,episode,seed,return,length,score\nnonsense\n")
    with lock.hold(going):
        found = read_results([folder])
        (group,) = found.groups
        assert [run.status for run in group.runs] == ["finished", "failed", "running"]
    assert group.runs[1].failure == "alpha_cql is nan"
    assert group.outcomes("last", scored=False).tolist() == [2.0], "only what finished enters an average"
    reasons = {path.name: reason for path, reason in found.unread}
    assert set(reasons) == {names[3], names[4]}
    assert "line 2 is damaged" in reasons[names[3]]
    assert reasons[names[4]] == "has not begun"


def test_the_same_run_twice_counts_once(tmp_path):
    first, second = sweep(tmp_path / "a"), sweep(tmp_path / "b")
    make_run(first / "alpha_cql-5__seed-0", [1.0], status="running")
    make_run(second / "alpha_cql-5__seed-0", [1.0, 2.0])
    found = read_results([first, second])
    assert [run.directory.parent.name for run in found.runs] == ["b"]
    assert [run.directory.parent.name for run in found.repeated] == ["a"]
    assert len(read_results([second, tmp_path / "b"]).runs) == 1, "nor is a folder that is given twice"


def test_folders_without_runs_are_named(tmp_path):
    with pytest.raises(ResultsError, match="nowhere is not a folder"):
        read_results([tmp_path / "nowhere"])
    with pytest.raises(ResultsError, match="holds no runs"):
        read_results([tmp_path])
    damaged = make_run(tmp_path / "run", [1.0])
    (damaged / "summary.json").write_text("{")
    with pytest.raises(ResultsError, match=r"none of the 1 runs can be read yet; .*summary\.json is damaged"):
        read_results([tmp_path])


def test_arms_can_be_given_other_names(tmp_path):
    found = read_results([make_grid(tmp_path / "g", alphas=(1.0, 5.0), taus=(-5.0,), seeds=(0,))])
    old = found.arms[0]
    new = renamed(found, {old: "gentle"})
    assert new.arms == ("gentle", found.arms[1])
    assert new.groups[0].arm == "gentle"
    with pytest.raises(ResultsError, match="no arm 'x'"):
        renamed(found, {"x": "y"})
    with pytest.raises(ResultsError, match="the same label"):
        renamed(found, {old: found.arms[1]})


def test_provenance_lists_every_value_that_occurs(tmp_path):
    for name, torch in (("a", "2.6"), ("b", "2.13")):
        run = make_run(tmp_path / name, [1.0], changes={"seed": len(name + torch)})
        (run / "provenance.json").write_text(json.dumps({"versions": {"torch": torch}, "commit": "abc"}))
    assert provenance_of(read_results([tmp_path]).runs) == {"commit": ["abc"], "versions.torch": ["2.13", "2.6"]}


def test_without_reference_scores_returns_are_compared(tmp_path):
    make_run(tmp_path / "a", [1.0], scored=False)
    found = read_results([tmp_path])
    assert not found.scored
    assert found.groups[0].outcomes("last", scored=False).tolist() == [1.0]


def test_nested_keys_become_dotted():
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": [2]}) == {"a.b": 1, "a.c.d": None, "e": [2]}


def test_reading_needs_no_torch(tmp_path):
    import subprocess

    make_run(tmp_path / "a", [1.0])
    read = f"from cql.results import groups, report; groups.read_results(['{tmp_path}'])"
    code = f"import sys; {read}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    shutil.rmtree(tmp_path / "a")


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000, "a:\n" + "\n".join(" " * i + "b:" for i in range(1, 3000)), "- " * 4000]
)
def test_a_config_that_is_nested_too_deep_is_damaged(tmp_path, text):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(ResultsError, match="nested more than 200 levels deep"):
        read_run(tmp_path)


def test_a_summary_that_is_nested_too_deep_or_a_pipe_is_damaged(tmp_path):
    (tmp_path / "summary.json").write_text("[" * 100_000)
    with pytest.raises(ResultsError, match=r"summary\.json is damaged"):
        read_run(tmp_path)
    assert status.read_status(tmp_path)[0] == "damaged"
    (tmp_path / "summary.json").unlink()
    os.mkfifo(tmp_path / "summary.json")
    with pytest.raises(ResultsError, match=r"summary.json is not a file"):
        read_run(tmp_path)
    assert status.read_status(tmp_path)[0] == "damaged"


def test_numbers_that_json_does_not_know_are_none(tmp_path):
    run = tmp_path / "seed-0"
    run.mkdir()
    (run / "summary.json").write_text(
        '{"status": "finished", "step": 3, "eval_return_mean": NaN, "eval_score": Infinity}'
    )
    (found,) = status.read_sweep(tmp_path)
    assert (found.last_return, found.last_score) == (None, None)


def test_runs_that_went_on_in_the_environment_have_a_table_of_their_own(tmp_path):
    online = {"online.kind": "finetune", "online.n_online_steps": 3000, "online.n_start_steps": 1000,
              "online.update_to_data": 1, "n_steps": 2000}  # fmt: skip
    scores = {0: [10.0, 20.0, 0.0, 40.0], 1: [10.0, 30.0, 10.0, 60.0]}
    for seed, own in scores.items():
        returns = [MIN_SCORE + score / 100 * (MAX_SCORE - MIN_SCORE) for score in own]
        make_run(tmp_path / f"arm-a__seed-{seed}", returns, changes={**online, "seed": seed})
        make_run(tmp_path / f"arm-b__seed-{seed}", returns, changes={"seed": seed})
    compared = Comparison.of(read_results([tmp_path]), "last", None)
    (a,) = [group for group in compared.results.groups if group.runs[0].n_offline_steps is not None]
    assert [(run.n_steps, run.n_offline_steps) for run in a.runs] == [(4000, 2000)] * 2
    # Steps 1000 and 2000 are on the data, 3000 and 4000 in the environment.
    found = compared.online(a)
    assert found["offline"] == pytest.approx([20.0, 30.0])
    assert found["final"] == pytest.approx([40.0, 60.0])
    assert found["regret"] == pytest.approx([0.8, 0.65])
    ((*_, offline, final, regret),) = report.online_rows(compared)
    assert (offline, final, regret) == ("25.0 ± 7.1", "50.0 ± 14.1", "0.725 ± 0.106")
    assert "| offline | final | regret |" in report.markdown(compared)
    curve = a.runs[0].online_curve(scored=True)
    assert curve.steps.tolist() == [0.0, 1000.0, 2000.0]
    assert curve.values.tolist() == pytest.approx([20.0, 0.0, 40.0])
    by_arm = {row["arm"]: row for row in compared.rows()}
    assert by_arm[a.arm]["regret_mean"] == pytest.approx(0.725)
    assert sum("regret_mean" in row for row in by_arm.values()) == 1

    make_run(tmp_path / "stopped" / "run", returns[:3], status="interrupted", changes=online)
    begun = Comparison.of(read_results([tmp_path / "stopped"]), "last", None)
    assert "offline" not in report.markdown(begun) + report.latex(begun)  # no table without rows
