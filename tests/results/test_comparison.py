"""The report: what it writes, what it says, and what a real browser makes of it."""

import csv
import html
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock
from urllib.parse import unquote
from xml.etree import ElementTree

import browser
import numpy as np
import pytest
from entry_points import load_script
from made_runs import make_grid, make_run
from markupsafe import escape

from cql.results import figures, pages, writers
from cql.results import report as reports
from cql.results.comparison import Comparison
from cql.results.groups import read_results, renamed
from cql.results.report import small_video, write_report

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).resolve().parents[2]


def sweep(folder, arms, *, seeds=(0, 1, 2), tasks=("halfcheetah_medium",), **extra):
    """A sweep with known outcomes: `arms` maps an arm's name to the last return of seed 0; each seed adds 100."""
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    for task in tasks:
        for index, (arm, value) in enumerate(arms.items()):
            for seed in seeds:
                changes = {"seed": seed, "dataset.name": task, "algorithm.w_cql": float(index + 1)}
                name = f"arm-{arm}__task-{task}__seed-{seed}" if len(tasks) > 1 else f"arm-{arm}__seed-{seed}"
                make_run(folder / name, [value / 2, value + 100.0 * seed], changes=changes, **extra)
    return folder


def report(folder, **options):
    return write_report(read_results([folder]), folder / "report", title="t", command="the command", **options)


def text_of(folder, *others, **options):
    """The page of a report, without its figures, which take most of the time."""
    with mock.patch.object(reports, "_drawn", return_value={}):
        options = {"title": "t", "command": "c", **options}
        return write_report(read_results([folder, *others]), folder / "report", **options).page.read_text()


def rows(found):
    return Comparison.of(found).rows()


def markdown(found):
    return reports.markdown(Comparison.of(found))


# Numbers --------------------------------------------------------------------------------------------------------------


def test_rows_hold_every_statistic_and_the_difference(tmp_path):
    found = read_results([sweep(tmp_path / "s", {"base": 1000.0, "better": 2000.0})])
    base, better = rows(found)
    assert (base["arm"], base["finished"], base["runs"], base["steps"]) == ("base", 3, 3, 4000)
    assert base["return_last_mean"] == 1100.0
    assert base["return_last_std"] == 100.0
    assert base["return_last_five_mean"] == pytest.approx((500 + 1100) / 2)
    half = 4.302653 * 100 / np.sqrt(3)
    assert (base["return_last_low"], base["return_last_high"]) == pytest.approx((1100 - half, 1100 + half))
    assert "minus_base_mean" not in base
    # As scores: a thousand returns are 100000 / 12415.
    assert better["minus_base_mean"] == pytest.approx(1000 / 124.15)
    assert better["score_last_mean"] == pytest.approx((2100 + 280) / 124.15)


def test_the_tables_agree_with_each_other_and_show_holes(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "odd_name": 2000.0}, tasks=("one", "two"))
    shutil.rmtree(folder / "arm-odd_name__task-two__seed-2")
    for seed in range(3):
        shutil.rmtree(folder / f"arm-base__task-two__seed-{seed}")
    make_run(folder / "arm-odd_name__task-two__seed-2", [5.0], status="failed", failure="why",
             changes={"seed": 2, "dataset.name": "two", "algorithm.w_cql": 2.0})  # fmt: skip
    found = read_results([folder])
    lines = markdown(found).splitlines()
    mean = (1100 + 280) / 124.15
    assert lines[0] == "| task | base | odd\\_name |"
    assert lines[2] == f"| one | {mean:.1f} ± 0.8 | **{mean + 1000 / 124.15:.1f} ± 0.8** |"
    assert lines[3].startswith("| two | - | **18.8 ± 0.6 [2 of 3]** |")
    assert "mean" not in lines[4], "there is one task that both have: no mean over tasks"
    tex = reports.latex(Comparison.of(found))
    assert "\\textbf{19.2 $\\pm$ 0.8}" in tex
    assert "odd\\_name" in tex
    assert tex.count("\\\\") == 3
    written = list(csv.DictReader(io.StringIO(writers.csv_text(rows(found)))))
    assert [(row["task"], row["arm"], row["finished"], row["failed"]) for row in written] == [
        ("one", "base", "3", "0"), ("one", "odd_name", "3", "0"), ("two", "odd_name", "2", "1")
    ]  # fmt: skip
    assert written[2]["score_last_low"] == "", "two seeds have no interval"


def test_every_episode_is_kept(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0}, seeds=(0, 1), spread=50.0)
    rows = list(csv.DictReader(io.StringIO(writers.csv_text(reports.episodes(read_results([folder]))))))
    assert len(rows) == 2 * 2 * 2
    last = [float(row["return"]) for row in rows if row["seed"] == "1" and row["step"] == "4000"]
    assert last == [1050.0, 1150.0]


# What is written ------------------------------------------------------------------------------------------------------


def test_a_report_is_one_page_with_tables_and_figures(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "better": 2000.0}, metrics={"q_data": [1.0, 2.0]})
    found = report(folder)
    names = {path.relative_to(folder / "report").as_posix() for path in found.files}
    assert {"index.html", "table.md", "table.tex", "table.csv", "episodes.csv"} <= names
    assert {"figures/learning_curves.svg", "figures/outcomes.png", "figures/differences.svg"} <= names
    assert all(path.stat().st_size for path in found.files)
    assert not list((folder / "report").rglob(".*")), "nothing half-written is left"
    page = found.page.read_text()
    assert "<b>better</b> has the highest mean score" in page
    assert "It is ahead by 8.1" in page
    assert "the command" in page
    before = {path: path.read_bytes() for path in found.files}
    assert {path: path.read_bytes() for path in report(folder).files} == before, "twice the same"


def test_tasks_and_arms_at_a_glance_mark_only_significant_differences(tmp_path):
    arms = {"base": 1000.0, "better": 2000.0, "near": 1010.0, "worse": 100.0}
    folder = sweep(tmp_path / "s", arms, tasks=("one", "two"), scored=False)
    shutil.rmtree(folder / "arm-better__task-two__seed-2")
    shutil.rmtree(folder / "arm-better__task-two__seed-1")
    first = text_of(folder).partition("</table>")[0]
    rows = re.findall("<tr>(.*?)</tr>", first.partition("<tbody>")[2], re.DOTALL)
    marks = [re.findall('<span class="(same|up|down)"', row) for row in rows]
    assert marks == [["same", "up", "same", "down"], ["same", "same", "same", "down"]]
    texts = [[re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", row, re.DOTALL)] for row in rows]
    assert texts == [["one", "1,100", "2,100", "1,110", "200.0"], ["two", "1,100", "2,000", "1,110", "200.0"]]
    assert [re.findall("<b>(.*?)</b>", row) for row in rows] == [["2,100"], ["2,000"]]
    # Returns of different environments have no mean; scores have.
    assert 'class="sum"' not in first
    scored = text_of(sweep(tmp_path / "scored", arms, tasks=("one", "two"))).partition("</table>")[0]
    assert "It is ahead by 8.0, 95 % interval " in scored.replace("\u00a0", " ")
    assert "A bootstrap over 3 seeds makes that interval too narrow." in scored
    (last,) = re.findall('<tr class="sum">(.*?)</tr>', scored, re.DOTALL)
    assert re.sub("<.*?>", " ", last).split()[:3] == ["mean", f"{1380 / 124.15:.1f}", f"{2380 / 124.15:.1f}"]
    one_arm = text_of(sweep(tmp_path / "alone", {"base": 1.0}, tasks=("one", "two")))
    assert 'class="same"' not in one_arm


def test_success_has_a_column_where_the_environment_reports_it(tmp_path):
    plain = sweep(tmp_path / "plain", {"base": 1000.0})
    assert "share of episodes of the last evaluation" not in text_of(plain)
    assert "success_last_mean" not in rows(read_results([plain]))[0]
    folder = tmp_path / "s"
    folder.mkdir()
    for seed, last in ((0, 0.25), (1, 0.75)):
        make_run(
            folder / f"arm-base__seed-{seed}", [1.0, 2.0], changes={"seed": seed}, metrics={"eval_success": [0.9, last]}
        )
    make_run(folder / "arm-base__seed-2", [1.0, 2.0], changes={"seed": 2}, metrics={"eval_success": [0.9, math.nan]})
    (row,) = rows(read_results([folder]))
    assert row["success_last_mean"] == 0.5
    page = text_of(folder).replace("\xa0", " ")
    assert 'data-value="0.5">50 %</td>' in page
    assert 'data-value="0.25">25 %</td>' in page
    assert 'data-value="0.75">75 %</td>' in page
    assert "share of episodes of the last evaluation" in page


def test_names_cannot_break_the_page(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0})
    found = renamed(read_results([folder]), {"x": "<script>alert(1)</script> & co"})
    page = write_report(found, tmp_path / "out", title="<b>t</b>", command="<i>", videos="none").page.read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    assert "<h1>&lt;b&gt;t&lt;/b&gt;</h1>" in page


def test_the_verdict_claims_no_more_than_the_seeds_give(tmp_path):
    close = text_of(sweep(tmp_path / "close", {"base": 1000.0, "x": 1010.0}))
    assert "includes zero: the two are not distinguishable" in close
    few = text_of(sweep(tmp_path / "few", {"base": 1000.0, "x": 9000.0}, seeds=(0, 1)))
    assert "There is no interval of the difference: it takes 3 finished seeds of both, and x has 2 and" in few
    assert "fewer than 3 finished seeds, too few for an interval." in few
    many = sweep(tmp_path / "many", {"base": 1000.0, "x": 3000.0}, tasks=("one", "two", "three"))
    page = text_of(many)
    assert "Over 3 tasks, judged by the last evaluation, <b>x</b> has the highest interquartile mean score" in page
    assert "significantly better on 3, worse on 0, not distinguishable on 0 of 3 tasks" in page


def verdict(folder, *others, **options):
    """The first paragraph of a report and the lines under it, without markup."""
    text = text_of(folder, *others, **options).partition('<p class="lead">')[2].partition("<nav>")[0]
    text = text.partition("<details")[0].replace("\u00a0", " ")
    return re.sub(r"\s+", " ", re.sub("<.*?>", " ", text.replace("<b>", "").replace("</b>", ""))).strip()


def test_the_verdict_says_how_many_of_the_runs_it_rests_on(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, seeds=range(5))
    for seed in (3, 4):
        run = folder / f"arm-x__seed-{seed}"
        shutil.rmtree(run)
        make_run(run, [5.0], changes={"seed": seed, "algorithm.w_cql": 2.0}, status="failed", failure="Q is nan")
    make_run(folder / "arm-late__seed-0", [9e4], changes={"algorithm.w_cql": 3.0}, status="running")
    said = verdict(folder)
    assert "x has the highest mean score, 19.2 (17.2 to 21.2) [3 of 5 runs; 2 failed], before base with 11.9" in said
    assert "It is ahead by 7.2, 95 % interval" in said
    assert said.endswith("Left out: late (no run finished).")


def test_the_arm_that_lacks_seeds_is_named(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 5000.0, "y": 3000.0})
    shutil.rmtree(folder / "arm-y__seed-2")
    said = verdict(folder)
    assert "it takes 3 finished seeds of both, and y has 2. " in said
    assert "Compared with one arm at a time, it is significantly better (95 %) than base; too few seeds for" in said
    assert said.endswith("too few seeds for an interval: y.")


def test_the_verdict_names_the_arms_that_are_significantly_worse(tmp_path):
    arms = {"base": 1000.0, "x": 5000.0, "y": 4990.0}
    assert verdict(sweep(tmp_path / "s", arms)).endswith("it is significantly better (95 %) than base.")
    arms = {f"a{number}": 1000.0 + number for number in range(8)}
    said = verdict(sweep(tmp_path / "many", {**arms, "x": 9000.0}))
    assert said.endswith("it is significantly better (95 %) than all the 8 other arms.")
    said = verdict(sweep(tmp_path / "none", arms))
    assert said.endswith("it is significantly better (95 %) than none of the 7 other arms.")


def test_a_tie_for_the_second_place_is_said(tmp_path):
    said = verdict(sweep(tmp_path / "s", {"base": 1000.0, "x": 5000.0, "y": 1000.0}))
    assert "before base with 11.1 (9.1 to 13.1). Tied with base: y. It is ahead by" in said
    said = verdict(sweep(tmp_path / "t", {"base": 1000.0, "x": 1000.0, "y": 500.0}))
    assert "Tied: base, x. The difference of 0.0 (95 % interval " in said
    over_tasks = verdict(sweep(tmp_path / "u", {"base": 9.0, "x": 5000.0, "y": 9.0}, tasks=("one", "two")))
    assert "Tied with base: y." in over_tasks


def test_arms_of_which_there_is_little_to_say_share_a_line(tmp_path):
    arms = {"base": 1000.0, **{f"same{number}": 1000.0 + number for number in range(9)}, "x": 9000.0}
    said = verdict(sweep(tmp_path / "s", arms, tasks=("one", "two")))
    assert "x against base: significantly better on 2, worse on 0, not distinguishable on 0 of 2 tasks." in said
    assert "Against base not distinguishable on 2 of 2 tasks: same0, same1, " in said
    assert said.count("not distinguishable") == 2 + ("two are not distinguishable" in said)


def test_arms_that_train_for_other_numbers_of_steps_are_compared_with_a_warning(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0})
    for seed in range(3):
        changes = {"seed": seed, "algorithm.w_cql": 9.0}
        make_run(folder / f"arm-x__seed-{seed}", [1.0, 2000.0 + seed], changes=changes, n_steps=8000)
    assert "The arms did not train for the same number of gradient steps: 4,000 for base; 8,000 for x." in verdict(
        folder
    )
    assert "did not train" not in verdict(sweep(tmp_path / "t", {"base": 1.0, "x": 2.0}))


def test_how_long_arms_train_is_compared_task_by_task(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=("one", "two"))
    for seed in range(3):
        for name in (f"arm-base__task-one__seed-{seed}", f"arm-x__task-one__seed-{seed}"):
            path = folder / name / ".hydra" / "config.yaml"
            path.write_text(path.read_text().replace("n_steps: 4000", "n_steps: 2000"))
    assert "did not train" not in verdict(folder)  # each task has its own number
    for seed in range(3):
        path = folder / f"arm-x__task-one__seed-{seed}" / ".hydra" / "config.yaml"
        path.write_text(path.read_text().replace("n_steps: 2000", "n_steps: 3000"))
    assert (
        "The arms did not train for the same number of gradient steps on one: 2,000 for base; 3,000 for x."
        in verdict(folder)
    )


def test_small_returns_are_shown_with_two_digits(tmp_path):
    for index, (arm, value) in enumerate((("base", 0.01), ("x", 0.04))):
        for seed in range(3):
            changes = {"seed": seed, "algorithm.w_cql": float(index)}
            make_run(tmp_path / f"arm-{arm}__seed-{seed}", [value + 1e-3 * seed], changes=changes, scored=False)
    said = verdict(tmp_path)
    assert "x has the highest mean return, 0.041 (0.039 to 0.043), before base with 0.011" in said
    assert "It is ahead by 0.030, 95 % interval 0.028 to 0.032." in said
    assert "| halfcheetah\\_medium | 0.011 ± 0.001 | **0.041 ± 0.001** |" in markdown(read_results([tmp_path]))


def test_the_page_says_what_the_doctor_found_and_what_was_not_compared(tmp_path):
    metrics = {"q_data": [1.0, 1e9], "q_policy": [1.0, 1e9]}
    folder = sweep(tmp_path / "s", {"base": 1000.0}, metrics=metrics, seeds=(0,))
    make_run(folder / "arm-x__seed-0", [1.0, 2.0], metrics=metrics, changes={"dataset.reward_bias": -1.0})
    page = report(folder).page.read_text()
    assert "Wrong: The policy earns less than its critics promise (1 of 2 runs)" in page
    assert ", seed 0: q_policy 1e+09" in page
    assert "Try <code>algorithm.alpha_cql.value=20</code>. See docs/trouble/doctor.md#promise." in page
    assert "No loss or parameter is NaN or infinite (2 runs)" in page
    assert "The Q values of 1 of 2 runs are not compared with returns." in page
    assert "Diagnostics</h2>" not in report(sweep(tmp_path / "t", {"base": 1.0}, seeds=(0,))).page.read_text()
    healthy = sweep(tmp_path / "u", {"base": 1000.0}, metrics={"q_data": [1.0, 9.0], "q_policy": [1.0, 9.0]})
    assert "Nothing stands out, which does not prove that all is well" in report(healthy).page.read_text()


def test_the_page_shows_each_override_with_the_runs_that_it_is_for(tmp_path):
    for alpha in (5.0, 20.0):
        for seed in (0, 1):
            changes = {"algorithm.alpha_cql.value": alpha, "seed": seed}
            folder = tmp_path / f"alpha_cql-{alpha:g}__seed-{seed}"
            make_run(folder, [1.0, 2.0], metrics={"q_data": [1.0, 9.0], "q_policy": [1.0, 900.0]}, changes=changes)
            (folder / "provenance.json").write_text('{"yardsticks": {"return_max": 50.0}}')
    drawn = {"diagnostics_halfcheetah_medium": figures.diagnostics(read_results([tmp_path]), "halfcheetah_medium")}
    with mock.patch.object(reports, "_drawn", return_value=drawn):
        page = report(tmp_path).page.read_text()
    shown = re.sub(r"\s+", " ", re.sub("<.*?>", "", page))
    assert "Try algorithm.alpha_cql.value=20 for alpha_cql=5, seed 0: q_policy 900" in shown
    assert "Try algorithm.alpha_cql.value=80 for alpha_cql=20, seed 0: q_policy 900" in shown
    assert "yardsticks.return_max (largest discounted return in the data): 50" in shown


def test_the_better_an_arm_the_thicker_its_line_and_the_further_below(tmp_path):
    found = read_results([sweep(tmp_path / "s", {"base": 1000.0, "x": 3000.0, "y": 2000.0}, tasks=("one", "two"))])
    for axes in figures.learning_curves(found).axes:
        base, x, y = axes.lines
        assert x.get_linewidth() > y.get_linewidth() > base.get_linewidth()
        assert x.get_zorder() < y.get_zorder() < base.get_zorder()
    assert [style.colour for style in figures.line_styles(found).values()] == [
        style.colour for style in figures.styles_of(found.arms).values()
    ]


def test_seeds_that_have_no_step_in_common_are_points(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"seed-{seed}", [1.0], changes={"seed": seed}, status="running", n_steps=4000 + 2000 * seed)
        path = tmp_path / f"seed-{seed}" / ".hydra" / "config.yaml"
        path.write_text(path.read_text().replace("n_steps: 6000", "n_steps: 4000"))
    (axes,) = figures.learning_curves(read_results([tmp_path])).axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[2000.0], [3000.0]]
    assert {line.get_marker() for line in axes.lines} == {"o"}


def test_names_that_differ_in_an_end_alone_have_places_of_their_own(tmp_path):
    page = text_of(sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=("one", "one.", ".one")))
    ids = re.findall(r'<details id="(runs-[^"]*)"', page)
    assert len(ids) == len(set(ids)) == 6


def test_arms_beyond_the_colours_have_lines_of_another_kind(tmp_path):
    for index in range(26):
        make_run(tmp_path / f"run-{index}", [1.0, 2.0], changes={"algorithm.w_cql": float(index)})
    (axes,) = figures.learning_curves(read_results([tmp_path])).axes
    assert len({(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in axes.lines}) == 26


def test_what_a_folder_lacks_is_said(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0})
    assert "Without episodes.csv" not in text_of(folder)
    (folder / "arm-x__seed-1" / "episodes.csv").unlink()
    (folder / "arm-base__seed-2" / "summary.json").unlink()
    (folder / "arm-base__seed-1" / "metrics.jsonl").write_text("{broken}\n{}\n")
    (folder / "multirun.yaml").write_text("hydra: {overrides: {task: ['arm=base,x', 'seed=0,1,2', 'logger.name=a b']}}")
    page = report(folder).page.read_text()
    assert "Without episodes.csv, so that their evaluations are the means in metrics.jsonl" in page
    assert "are missing from the exported episodes: s/arm-x__seed-1.<" in page
    assert "has 4000 of 4000 steps of metrics, but no summary.json" in page
    assert "Of 6 runs 1 has not finished, 1 cannot be read." in page
    assert (
        f"overrides of {folder}, at its last start: <code>arm=base,x seed=0,1,2 &#39;logger.name=a b&#39;</code>"
        in page
    )
    (folder / "multirun.yaml").write_text("[")
    assert "overrides of" not in text_of(folder)


def test_one_arm_on_one_task_does_not_take_the_others_comparison_away(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=("one", "two", "three"))
    for seed in range(3):
        changes = {"seed": seed, "dataset.name": "two", "algorithm.w_cql": 9.0}
        make_run(folder / f"arm-extra__task-two__seed-{seed}", [400.0 + seed], changes=changes)
    found = read_results([folder])
    assert Comparison.of(found).complete == (["one", "three", "two"], ["base", "x"])
    # The base arm stays, whatever that costs.
    assert Comparison.of(found, base="extra").complete == (["two"], ["base", "x", "extra"])
    said = verdict(folder)
    assert "Over 3 tasks, judged by the last evaluation, x has the highest interquartile mean score" in said
    assert "x against base: significantly better on 3, worse on 0, not distinguishable on 0 of 3 tasks." in said
    assert "extra against base: significantly better on 0, worse on 1, not distinguishable on 0 of 1 task." in said
    assert said.endswith("Left out: extra (finished on 1 of 3 tasks).")
    assert "| **mean** | **11.1** | **19.2** | **-** |" in markdown(found)


@pytest.mark.parametrize(("own_tasks", "kept"), [(("two",), False), (("one", "two"), True)])
def test_an_arm_is_left_out_if_that_doubles_the_tasks(tmp_path, own_tasks, kept):
    tasks = ("one", "two", "three")[: 1 + len(own_tasks)]
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=tasks)
    for task in own_tasks:
        changes = {"dataset.name": task, "algorithm.w_cql": 9.0}
        make_run(folder / f"arm-extra__task-{task}__seed-0", [400.0], changes=changes)
    found_tasks, arms = Comparison.of(read_results([folder])).complete
    assert (sorted(found_tasks), arms) == (
        (sorted(own_tasks), ["base", "x", "extra"]) if kept else (sorted(tasks), ["base", "x"])
    )


def test_sweeps_of_other_tasks_are_judged_task_by_task(tmp_path):
    first = sweep(tmp_path / "a", {"base": 1000.0, "x": 2000.0}, tasks=("one",))
    second = tmp_path / "b"
    for arm, value, w in (("y", 100.0, 5.0), ("z", 900.0, 6.0)):
        for seed in range(3):
            changes = {"seed": seed, "dataset.name": "two", "algorithm.w_cql": w}
            make_run(second / f"arm-{arm}__seed-{seed}", [value + seed], changes=changes)
    said = verdict(first, second)
    assert said.startswith("The arms cannot be averaged over tasks. Task by task:")
    assert "On one, judged by the last evaluation, " in said
    assert "On two, judged by the last evaluation, " in said
    assert "It is ahead by 6.4, 95 % interval 6.4 to 6.5." in said
    assert "nothing to compare" not in said


def test_which_evaluation_decides_is_said(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=("one", "two"))
    assert "judged by the mean of the last five evaluations, x has" in verdict(folder, statistic="last five")
    assert "The best evaluation is selected by the value it reports" in verdict(folder, statistic="best")
    make_run(folder / "arm-x__task-two__seed-3", [1.0] * 9, changes={"seed": 3, "dataset.name": "two",
                                                                     "algorithm.w_cql": 2.0})  # fmt: skip
    assert "Runs have between 2 and 9 evaluations" in text_of(folder)


def test_a_task_without_scores_among_others_is_named(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=("one", "two"))
    for seed in range(3):
        changes = {"seed": seed, "dataset.name": "bare"}
        make_run(folder / f"arm-base__task-bare__seed-{seed}", [3.0 + seed], changes=changes, scored=False)
    said = verdict(folder)
    assert "Without reference scores: bare. All tasks are shown as returns" in said
    assert "On one, judged by the last evaluation, x has the highest mean return, 2,100" in said


def test_cells_that_have_not_begun_are_rows_of_the_table(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=("one", "two"))
    names = sorted(path.name for path in folder.glob("arm-*"))
    (folder / "stacks.json").write_text(json.dumps([[*names, "arm-base__task-one__seed-3", "arm-x__task-two__seed-3"]]))
    for name in names:
        if "task-two" in name:
            shutil.rmtree(folder / name)
    found = read_results([folder])
    counts = {(row["task"], row["arm"]): (row["finished"], row["planned"]) for row in rows(found)}
    assert counts == {("one", "base"): (3, 4), ("one", "x"): (3, 3), ("two", "base"): (0, 3), ("two", "x"): (0, 4)}
    page = report(folder).page.read_text()
    assert "<b>6 of 14</b>runs finished" in page
    assert "<b>3 to 4</b>seeds each" in page
    assert "| two | - [0 of 3] | - [0 of 4] |" in markdown(found)
    assert "before base with" in verdict(folder)
    assert "[3 of 4 runs; 1 not finished]" in verdict(folder)


def test_a_run_that_failed_takes_no_part_in_the_mean_and_is_drawn_to_where_it_failed(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0}, n_steps=6000)
    run = make_run(folder / "arm-base__seed-3", [9.0, 12.0], changes={"seed": 3, "algorithm.w_cql": 1.0},
                   status="failed", failure="Q is nan", n_steps=6000)  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"step": 4700}))
    (axes,) = figures.learning_curves(read_results([folder])).axes
    mean, alone, cross = axes.lines
    assert mean.get_xdata().tolist() == [3000.0, 6000.0]
    assert mean.get_ydata() == pytest.approx((np.array([600.0 - 50, 1100.0]) + 280) / 124.15, abs=0.6)
    assert alone.get_xdata().tolist() == [2000.0, 4000.0]
    assert cross.get_xdata() == [4700]
    assert cross.get_marker() == "X"


def test_a_seed_that_is_ahead_of_others_is_drawn_alone_from_there(tmp_path):
    for seed, returns in ((0, [1.0, 2.0, 3.0, 4.0]), (1, [3.0, 4.0])):
        run = make_run(tmp_path / f"seed-{seed}", returns, changes={"seed": seed}, scored=False)
        if seed == 1:
            shutil.rmtree(run)
            make_run(run, returns, changes={"seed": seed}, scored=False, status="running", n_steps=3000)
            text = (run / ".hydra" / "config.yaml").read_text()
            (run / ".hydra" / "config.yaml").write_text(text.replace("n_steps: 3000", "n_steps: 4000"))
    (axes,) = figures.learning_curves(read_results([tmp_path])).axes
    mean, alone = axes.lines
    assert (mean.get_xdata().tolist(), mean.get_ydata().tolist()) == ([1000.0, 2000.0], [2.0, 3.0])
    assert (alone.get_xdata().tolist(), alone.get_ydata().tolist()) == ([2000.0, 3000.0, 4000.0], [2.0, 3.0, 4.0])


@pytest.mark.parametrize("label", [r"a\1\g<0>", "$x_1$ and $y", "α=1", "<&\"'>", "a/../b"])
def test_any_label_can_be_drawn_and_linked_to(tmp_path, label):
    folder = sweep(tmp_path / "a #1%20", {"base": 1000.0, "x": 2000.0}, seeds=(0, 1))
    found = renamed(read_results([folder]), {"base": label, "x": "β=1"})
    page = write_report(found, folder / "report", title=label, command="c", base=label).page.read_text()
    ids = re.findall(r'<details id="(runs-[^"]*)"', page)
    assert len(set(ids)) == 2
    assert all(f'href="#{each}"' in page for each in ids)
    for name in found.arms:
        assert f">{escape(name)}</a>" in page
    (link, *_) = re.findall(r'href="(\.\./[^"]*)"', page)
    assert (folder / "report" / unquote(html.unescape(link))).is_dir()
    parsed = ElementTree.fromstring(figures.svg(figures.outcomes(Comparison.of(found))))
    texts = {element.text for element in parsed.iter(f"{SVG}text")}
    assert {label, "β=1"} <= texts


def test_a_threshold_that_is_null_is_shown_as_the_runs_determined_it(tmp_path):
    for name, tau, used in (("a", None, -6.0), ("b", -3.5, -3.5)):
        learned = {"kind": "learned", "initial_value": 5.0, "tau_cql": tau}
        make_run(tmp_path / name, [1.0, 2.0], changes={"algorithm.alpha_cql": learned},
                 metrics={"cql_gap": [9.0, 1.0], "cql_residual": [9.0 - used, 1.0 - used]})  # fmt: skip
    page = text_of(tmp_path)
    assert ">null: -6<" in page
    assert ">-3.5<" in page
    # Beside arms that have no threshold, one that is null in all that have one is shown too.
    shutil.rmtree(tmp_path / "b")
    shutil.rmtree(tmp_path / "report")
    make_run(tmp_path / "fixed", [1.0, 2.0])
    page = text_of(tmp_path)
    assert ">null: -6<" in page


def test_a_figure_that_stands_alone_says_what_its_colours_mean(tmp_path):
    metrics = {"q_data": [1.0, 2.0]}
    made = report(sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, tasks=("one", "two"), metrics=metrics))
    for name in ("learning_curves", "profiles", "diagnostics_one", "diagnostics_two"):
        path = made.page.parent / "figures" / name
        texts = [each.text for each in ElementTree.parse(path.with_suffix(".svg")).iter(f"{SVG}text")]
        assert texts.count("base") == texts.count("x") == 1, name
        assert path.with_suffix(".png").exists()
    # In the page there is one legend of HTML for several figures.
    (curves,) = [text for text in re.findall(r"<svg.*?</svg>", made.page.read_text(), re.DOTALL) if ">gradient" in text]
    assert ">one<" in curves
    assert ">base<" not in curves


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["short", "alpha"], ["short", "alpha"]),
        (["a234567890x", "b234567890x"], ["a234…890x", "b234…890x"]),
        (["a12345678901", "a12345678902", "b12345678901"], ["a123…8901", "a123…8902", "b123…8901"]),
        (["111111111a111111111", "111111111b111111111"], ["111111… #1", "111111… #2"]),
    ],
)
def test_long_labels_stay_different(labels, expected):
    assert figures.clipped(labels, 10) == expected


def visible_ticks(axes):
    low, high = axes.get_ylim()
    return [tick for tick in axes.get_yticks().tolist() if low <= tick <= high]


def test_wide_axes_have_few_round_ticks(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1.0, "x": 1.0})
    for path in folder.glob("arm-*"):
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        size = 3e6 if "arm-x" in path.name else 4.0
        lines = [
            json.dumps(row | {"q_data": size, "q_policy": -size, "cql_gap": 4.0 if size == 4.0 else -size})
            for row in rows
        ]
        (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    figure = figures.diagnostics(read_results([folder]), "halfcheetah_medium")
    positive, negative, gap = figure.axes
    assert (positive.get_yscale(), negative.get_yscale()) == ("log", "symlog")
    for axes in (positive, negative, gap):
        ticks = visible_ticks(axes)
        assert 3 <= len(ticks) <= 7
        assert all(f"{abs(tick):.0e}"[0] in "01235" for tick in ticks)
        assert len({axes.yaxis.get_major_formatter()(tick) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize(
    "curves",
    [
        ([3.0, 5.0], [3.0, 200.0]),
        ([1.0, 1.0], [26.0, 26.0]),
        ([-1.0, -1.0], [-30.0, -30.0]),
        ([3.0, 3.0], [-3000.0, 3000.0]),
        ([5.0, 1e-6], [5.0, 5e4]),
        ([-150.0, -150.0], [-5000.0, -5000.0]),
        ([1.0, 1.0], [1.0, 1e30]),
    ],
)
def test_wide_axes_hold_the_curves_and_have_ticks_all_over(tmp_path, curves):
    for index, values in enumerate(curves):
        make_run(tmp_path / f"arm-{index}", [1.0, 2.0], metrics={"q_data": list(values)},
                 changes={"algorithm.w_cql": float(index + 1)})  # fmt: skip
    figure = figures.diagnostics(read_results([tmp_path]), "halfcheetah_medium")
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    everything = np.ravel(curves)
    assert low <= everything.min()
    assert everything.max() <= high
    if low > 0.0:  # no more room than the curves need
        assert np.log(high / low) < 1.3 * np.log(everything.max() / everything.min())
    figure.draw_without_rendering()
    heights = [axes.transAxes.inverted().transform(axes.transData.transform((0.0, t)))[1] for t in visible_ticks(axes)]
    assert 3 <= len(heights) <= 7
    distances = np.diff([0.0, *sorted(heights), 1.0])
    assert distances.max() < 0.45
    assert distances[1:-1].min() > 0.06  # labels do not overlap


def test_what_failed_or_is_unfinished_stands_at_the_top(tmp_path):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0})
    make_run(folder / "arm-base__seed-3", [1.0], changes={"seed": 3, "algorithm.w_cql": 1.0}, status="failed",
             failure="critic_td is nan; last metrics: step 5")  # fmt: skip
    page = text_of(folder)
    assert "Of 7 runs 1 failed." in page
    assert "failed at step 2000: critic_td is nan<" in page
    assert "3 of 4" in page
    with pytest.raises(ValueError, match="there is no arm 'y'; there are base, x"):
        report(folder, base="y")


def test_before_the_first_evaluation_and_where_all_failed_there_is_a_page_too(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    for arm in ("base", "x"):
        make_run(folder / f"arm-{arm}__seed-0", [], status="failed", failure="loss is nan",
                 changes={"algorithm.w_cql": float(len(arm))})  # fmt: skip
    page = report(folder).page.read_text()
    assert "there is nothing to compare" in page
    assert "Of 2 runs 2 failed." in page
    assert page.count("loss is nan") == 2


def test_a_report_in_a_sweeps_folder_is_no_run_of_it(tmp_path):
    from cql.results.sweep_figure import sweep_curves
    from cql.sweep import status as sweeps

    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, spread=5.0)
    before = sweep_curves(folder, path=tmp_path / "a.png").read_bytes()
    report(folder)
    assert sweep_curves(folder, path=tmp_path / "b.png").read_bytes() == before
    assert len(sweeps.read_sweep(folder)) == len(read_results([folder]).runs) == 6


def test_videos_are_put_in_linked_or_left_out(tmp_path):
    from PIL import Image

    folder = sweep(tmp_path / "s", {"base": 1000.0}, seeds=(0,))
    (folder / "arm-base__seed-0" / "videos").mkdir()
    path = folder / "arm-base__seed-0" / "videos" / "step_0004000.gif"
    frames = [Image.new("RGB", (400, 300), (3 * i, 100, 0)) for i in range(80)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    assert 'src="data:image/gif;base64,' in text_of(folder)
    linked = report(folder, videos="link").page.read_text()
    assert 'src="../arm-base__seed-0/videos/step_0004000.gif"' in linked
    assert "<img" not in report(folder, videos="none").page.read_text()
    import base64

    with Image.open(io.BytesIO(base64.b64decode(small_video(path).partition(",")[2]))) as small:
        assert small.size in ((150, 112), (150, 113))
        assert small.n_frames == 24
        assert small.info["duration"] == pytest.approx(80 * 50 / 24, abs=10), "as long as it was"


@pytest.mark.parametrize("kept", [0, 6, 60, None])
def test_a_damaged_video_is_named_and_costs_no_report(tmp_path, kept):
    from PIL import Image

    folder = sweep(tmp_path / "s", {"base": 1000.0}, seeds=(0,))
    (folder / "arm-base__seed-0" / "videos").mkdir()
    path = folder / "arm-base__seed-0" / "videos" / "step_0004000.gif"
    if kept is None:
        os.mkfifo(path)  # would be waited for
    else:
        frames = [Image.new("RGB", (64, 64), (20 * i, 100, 0)) for i in range(8)]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
        path.write_bytes(path.read_bytes()[:kept])
    assert "The video of base, seed 0 is damaged." in text_of(folder)


def test_figures_for_a_page_take_its_colours_and_have_no_ids_in_common(tmp_path):
    found = read_results([make_grid(tmp_path / "g", alphas=(1.0, 5.0), taus=(-5.0, -2.0))])
    element = pages.themed(figures.svg(figures.learning_curves(found)), "label")
    assert "#222222" not in element
    assert "var(--ink)" in element
    assert "var(--c0)" in element
    assert 'aria-label="label"' in element
    ids, used = re.findall(r' id="([^"]+)"', element), set(re.findall(r"#([\w-]+)", element))
    assert set(ids) <= used


def test_the_script_reports_and_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    folder = sweep(tmp_path / "s", {"base": 1000.0, "x": 2000.0}, seeds=(0,))
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), str(folder), "--label", "x=tried"]
    command += ["--statistic", "best", "--films", "none"]  # --videos by its old name
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs finished; 2 arms, 1 task\n" in done.stdout
    assert "tried" in (folder / "report" / "table.md").read_text()
    for arguments, message in (
        ([tmp_path / "nowhere"], "neither a folder nor the name of a sweep"),
        ([folder, "--base", "y"], "there is no arm 'y'"),
        ([folder, "--label", "y"], "write ARM=TEXT"),
        ([folder, "--label", "x=a\nb"], "write ARM=TEXT"),
        ([folder, "--wandb"], "logger.project"),
        ([folder, "--out", __file__], "is a file; give a folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            sys.exit(load_script("report").main())
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_a_tables_sweep_has_the_tables_names_whatever_it_is_called(tmp_path):
    names = {"base": 1000.0, "learned_alpha_cql": 2000.0, "own": 3000.0}
    labels = load_script("report")._table_labels
    called = sweep(tmp_path / "table_embedded", names)
    started = sweep(tmp_path / "tiny", names)
    assert labels([started], list(names)) == {}
    (started / "multirun.yaml").write_text("hydra: {overrides: {task: [+experiment=table_embedded, n_steps=400]}}")
    expected = {"base": "CQL, fixed", "learned_alpha_cql": "CQL, learned"}
    assert labels([called], list(names)) == labels([started], list(names)) == expected
    assert labels([called, started], list(names)) == {}


# In a browser ---------------------------------------------------------------------------------------------------------

in_browser = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


@pytest.fixture(scope="module")
def grid_page(tmp_path_factory):
    folder = make_grid(tmp_path_factory.mktemp("grid") / "g", alphas=(0.5, 5.0, 10.0), taus=(-5.0, -2.0))
    return report(folder).page


@in_browser
def test_a_browser_opens_the_page_without_a_complaint_or_a_request(grid_page):
    for options in ({}, {"dark": True}, {"width": 390}):
        with browser.browser(**options) as driver:
            driver.get(grid_page.as_uri())
            assert driver.find_element("tag name", "h1").text == "t"
            assert browser.requests(driver, grid_page) == []
            assert driver.get_log("browser") == []
            inner, outer = driver.execute_script(
                "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert inner <= outer, "the page itself never scrolls sideways"
            ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert ground == ("rgb(22, 25, 29)" if options.get("dark") else "rgb(255, 255, 255)")


@in_browser
def test_a_browser_sees_a_request_where_there_is_one(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="nowhere.png"><script>console.error("oh")</script>')
    with browser.browser() as driver:
        driver.get(page.as_uri())
        assert any(url.endswith("nowhere.png") for url in browser.requests(driver, page))
        assert any("oh" in entry["message"] for entry in driver.get_log("browser"))


@in_browser
def test_a_click_sorts_and_a_cell_leads_to_its_runs(grid_page):
    from selenium.webdriver import ActionChains

    with browser.browser() as driver:
        driver.get(grid_page.as_uri())
        table = driver.find_element("css selector", "#result table")

        def column(index):
            rows = table.find_elements("css selector", "tbody tr")
            return [row.find_elements("tag name", "td")[index].get_attribute("data-value") for row in rows]

        before = [float(value) for value in column(2)]
        head = table.find_elements("css selector", "th button")[2]
        head.click()
        assert [float(value) for value in column(2)] == sorted(before, reverse=True) != before
        head.click()
        assert [float(value) for value in column(2)] == sorted(before)
        assert table.find_elements("tag name", "th")[2].get_attribute("aria-sort") == "ascending"
        # The arm that a row began with has no difference to itself, and stands last whichever way.
        difference = table.find_elements("css selector", "th button")[5]
        for _ in range(2):
            difference.click()
            assert column(5)[-1] == ""

        links = driver.find_elements("css selector", "svg a")
        targets = {link.get_attribute("xlink:href") or link.get_attribute("href") for link in links}
        assert len(targets) == 6
        wanted = "#runs-halfcheetah_medium--alpha_cql_5_tau_cql_-2"
        assert wanted in targets
        details = driver.find_element("css selector", wanted.replace("=", "\\="))
        assert not details.get_property("open")
        cell = next(link for link in links if wanted in (link.get_attribute("xlink:href"), link.get_attribute("href")))
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
        ActionChains(driver).move_to_element(cell).click().perform()
        assert driver.current_url.endswith(wanted)
        assert details.get_property("open")
        assert "alpha_cql-5__tau_cql--2__seed-1" in details.text
        assert driver.execute_script("return arguments[0].getBoundingClientRect().top < innerHeight", details)
