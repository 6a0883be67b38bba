"""A paper's table: its file, its grid, its runs, and what is written of them."""

import csv
import dataclasses
import functools
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cql.scripts import table as script
from PIL import Image
from tiny import OVERRIDES, write_dataset

from cql import config
from cql.results.groups import read_results
from cql.results.runs import flat
from cql.results.tables import cells, grid, render, spec

ROOT = Path(__file__).resolve().parents[2]
TABLES = spec.known_tables(script.FOLDER)
T_2, T_3 = 4.302652729911275, 3.182446305284263
"""Student's factors of 95 % intervals with 2 and 3 degrees of freedom."""


@functools.cache
def shipped(name):
    """A table of the package, for tests that only read it."""
    return load(name)


def load(name):
    return spec.load_table(name, script.FOLDER)


# --- the tables that come with the package ---


@pytest.mark.parametrize("name", TABLES)
def test_every_task_and_arm_of_a_shipped_table_is_a_valid_config(name):
    table = shipped(name)
    first, arm = next(iter(table.tasks)), next(iter(table.arms))
    # Tasks that differ in their file alone are composed once, and arms change no key that a task sets.
    same = {str((task.choose, task.set)): task_name for task_name, task in table.tasks.items()}
    wanted = {*((task_name, arm) for task_name in same.values()), *((first, each) for each in table.arms)}
    found = grid.planned(table, wanted, script.default_data())
    assert {each for _, each in found} == set(table.arms)
    options = grid.hydra_options(table, table.tasks, script.default_data())
    for task_name, task in table.tasks.items():
        c = found[same[str((task.choose, task.set))], arm]
        assert c["sweep_name"] == f"table_{name}"
        assert task_name.partition("-")[0] in c["env.id"].lower()
        if task.file:
            assert (c["dataset.kind"], Path(c["dataset.path"]).suffix) == ("d4rl", ".hdf5")
            assert Path(options["task", task_name]["dataset"]["path"]).name == task.file
            assert task.url.endswith(f"/{task.file}")
        for key, value in flat(task.set).items():
            assert c[key] == value, key
    # Without a file the dataset is what tells the tasks apart.
    named = {task.file or str(task.set or task.choose) for task in table.tasks.values()}
    assert len(named) == len(table.tasks)


@pytest.mark.parametrize("name", TABLES)
def test_a_shipped_table_begins_with_its_commands_and_renders_before_anything_ran(name):
    text = (script.FOLDER / f"{name}.yaml").read_text()
    assert f"scripts/table.py run {name}" in text.splitlines()[0]
    assert f"scripts/table.py show {name}" in text.splitlines()[1]
    document = render.document(cells.compare(shipped(name), []))
    assert "No run has begun yet." in document.warnings
    for section in document.sections:
        assert all(len(row) == len(section.header) for row in (*section.rows, *section.averages)), section.title
    assert_latex(render.as_latex(document))


@pytest.mark.parametrize(
    ("name", "key", "average"),
    # As CORL's own table and the arithmetic on IQL's have them.
    [
        ("corl_v2", "corl_last", 78.28),
        ("corl_v2", "corl_best", 84.68),
        ("corl_v2", "iql_paper", 77.6),
        ("antmaze", "corl_last", 50.71),
        ("antmaze", "corl_best", 61.83),
        ("antmaze", "corl_bc", 17.21),
        ("antmaze", "corl_iql", 57.17),
        ("adroit", "corl_last", 1.53),
        ("adroit", "corl_best", 13.65),
        ("adroit", "corl_bc", 48.18),
        ("adroit", "corl_iql", 53.43),
    ],
)
def test_published_columns_have_their_published_averages(name, key, average):
    values = [task.values(key)[0].mean for task in shipped(name).tasks.values()]
    assert sum(values) / len(values) == pytest.approx(average, abs=0.05)


def test_what_the_tables_say_of_single_tasks():
    alphas = {name: task.set for name, task in shipped("d3rlpy_v0").tasks.items()}
    ten = {"algorithm": {"alpha_cql": {"value": 10.0}}}
    assert {name: own for name, own in alphas.items() if own} == {
        f"{env}-medium": ten for env in ("halfcheetah", "hopper", "walker2d")
    }
    ((name, scaled),) = [(name, task) for name, task in shipped("corl_v2").tasks.items() if task.set]
    assert (name, bool(scaled.note)) == ("hopper-medium", True)
    assert scaled.set["dataset"]["reward_scale"] == pytest.approx(1000 / (3222.360596 - 315.868011), abs=1e-5)
    several = {name for name, task in shipped("cql_2020").tasks.items() if len(task.values("cql")) > 1}
    assert several == {"walker2d-medium", "hopper-medium", "walker2d-mixed", "hopper-medium-expert"}
    # D4RL's own spelling of one file.
    assert shipped("cql_2020").tasks["walker2d-mixed"].file == "walker_mixed.hdf5"


def test_every_maze_and_hand_is_scored_on_d4rls_scale():
    for name in ("antmaze", "adroit"):
        table = shipped(name)
        found = grid.planned(table, [(task, "base") for task in table.tasks], script.default_data())
        scores = {task: c["env.reference"] for (task, _), c in found.items()}
        assert all(scores.values()), scores
        assert {c["env.max_episode_steps"] for (task, _), c in found.items() if task.startswith("pen-")} <= {100}
    assert {c["env.id"] for c in found.values()} == {
        f"AdroitHand{hand}-v1" for hand in ("Pen", "Door", "Hammer", "Relocate")
    }


# --- reading a file ---

PLAIN = {
    "title": "A table",
    "note": "made up",
    "experiment": "quickstart",
    "seeds": [0, 1, 2],
    "arms": {"base": "ours"},
    "url": "http://example.org/files",
    "published": {
        "paper": {
            "label": "Paper", "arm": "base", "statistic": "last", "source": "a page", "mark": "V", "data": "v2",
            "seeds": 4, "spread": "population",
        },
        "other": {
            "label": "Other_best", "arm": "*", "statistic": "best", "source": "a thread", "mark": "T", "data": "v2",
            "spread": "none",
        },
        "alone": {
            "label": "Alone", "statistic": "not said", "source": "a page", "mark": "V", "data": "v2", "seeds": 3,
            "spread": "sample",
        },
    },
    "tasks": {
        "easy": {"file": "easy.hdf5", "published": {"paper": [25, 3.0], "other": 41.25, "alone": [1.0, 0.5]}},
        "hard": {
            "file": "hard.hdf5",
            "note": "harder",
            "published": {
                "paper": [{"mean": 60, "note": "later"}, {"mean": 70.5, "note": "from memory", "mark": "NV"}],
            },
        },
    },
}  # fmt: skip


def changed(plain, path, value):
    """A copy in which one dotted key has another value."""
    copy = json.loads(json.dumps(plain))
    *parents, leaf = path.split("/")
    node = copy
    for key in parents:
        node = node[key]
    node[leaf] = value
    return copy


def write(folder, plain, name="mine"):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return path


def test_a_file_of_ones_own_is_given_by_its_path(tmp_path):
    table = load(str(write(tmp_path, PLAIN)))
    assert (table.name, table.sweep_name, table.seeds, table.unit) == ("mine", "table_mine", [0, 1, 2], "score")
    easy, hard = table.tasks["easy"], table.tasks["hard"]
    assert (easy.file, easy.url) == ("easy.hdf5", "http://example.org/files/easy.hdf5")
    assert easy.values("paper") == (spec.Value(25.0, 3.0),)
    assert hard.values("paper") == (
        spec.Value(60.0, None, "later"),
        spec.Value(70.5, None, "from memory", "NV"),
    )
    assert grid.missing_files(table.tasks, tmp_path) == {"easy": tmp_path / "easy.hdf5", "hard": tmp_path / "hard.hdf5"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("titel", "A table", "the table has no key 'titel'"),
        ("seeds", None, "the table lacks the key 'seeds'"),
        ("seeds", [0, "one"], "seeds must be list[int], got [0, 'one']"),
        ("seeds", [0, -1], "seeds must be a list of different integers from 0 on"),
        ("seeds", [1, 1], "seeds must be a list of different integers from 0 on"),
        ("tasks", {}, "at least one arm and one task"),
        ("arms", ["base"], "arms must be dict[str, str], got ['base']"),
        ("unit", "points", "unit is 'points'; choose one of score, return"),
        ("published/paper/arm", "bc", "published.paper.arm is 'bc'; the table's arms are base"),
        ("published/paper/mark", "W", "published.paper.mark is 'W'; choose one of V, T"),
        ("published/paper/statistic", "first", "published.paper.statistic is 'first'"),
        ("published/paper/spread", "wide", "published.paper.spread is 'wide'"),
        ("published/paper/seeds", "four", "published.paper.seeds must be int | None, got 'four'"),
        ("published/paper/label", None, "published.paper lacks the key 'label'"),
        ("published/paper/sede", 4, "published.paper has no key 'sede'"),
        ("tasks/easy/files", "x", "tasks.easy has no key 'files'"),
        ("tasks/easy/published/papers", 3, "tasks.easy.published has no column 'papers'"),
        ("tasks/easy/published/paper", "25", "tasks.easy.published.paper is '25'"),
        ("tasks/easy/published/paper", True, "tasks.easy.published.paper is True"),
        ("tasks/easy/published/other", [41.0, 2.0], "its column has 'spread: none'"),
        ("tasks/hard/published/paper", [{"mean": 1, "mark": "X"}], "tasks.hard.published.paper.mark is 'X'"),
        ("tasks/easy/references", {"D4RL": [5, 1]}, "tasks.easy.references.D4RL is [5, 1]"),
        ("tasks/two__parts", {}, "'two__parts' is not a valid name"),
        ("tasks/a,b", {}, "'a,b' is not a valid name"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(path, value, message, tmp_path):
    written = write(tmp_path, changed(PLAIN, path, value))
    with pytest.raises(spec.TableError) as caught:
        load(str(written))
    assert message in str(caught.value)
    assert str(written) in str(caught.value)


def test_an_unknown_table_and_a_file_that_is_not_yaml(tmp_path):
    with pytest.raises(spec.TableError, match="no table 'corl'; there are adroit, antmaze, corl_v2, cql_2020"):
        load("corl")
    (tmp_path / "bad.yaml").write_text("title: [\n")
    with pytest.raises(spec.TableError, match="is not valid YAML"):
        load(str(tmp_path / "bad.yaml"))


# --- comparing, by hand ---

CONFIG = {"n_steps": 60, "env": {"id": "Made-v5"}}


def write_run(sweep, task, seed, evaluations, *, status="finished", step=60, arm="base", more="", **summary):
    """The folder of a run; each evaluation is one episode whose return is ten times its score."""
    directory = sweep / f"{more}arm-{arm}__task-{task}__seed-{seed}"
    (directory / ".hydra").mkdir(parents=True)
    own = {**CONFIG, "dataset": {"path": f"/data/{task}.hdf5"}, "kind": f"{arm}{more}", "seed": seed}
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(own))
    (directory / "summary.json").write_text(json.dumps({"status": status, "step": step, "n_steps": 60, **summary}))
    rows = [f"{10 * (i + 1)},0,1000,{10 * score!r},9,{score!r}\n" for i, score in enumerate(evaluations)]
    (directory / "episodes.csv").write_text("step,episode,seed,return,length,score\n" + "".join(rows))
    return directory


@pytest.fixture
def half_run(tmp_path):
    """Three seeds of one task; of the other one seed, one that failed, and none."""
    sweep = tmp_path / "sweep"
    write_run(sweep, "easy", 0, [40.0, 10.0])
    write_run(sweep, "easy", 1, [5.0, 20.0])
    write_run(sweep, "easy", 2, [5.0, 30.0])
    write_run(sweep, "hard", 0, [1.0, 50.0])
    write_run(sweep, "hard", 1, [1.0], status="failed", step=30, failure="critic_td is NaN at step 30; last metrics: x")
    return load(str(write(tmp_path, PLAIN))), read_results([sweep]).runs


def rows_below(text, title):
    """The rows below a section's heading, as lists of cells."""
    lines = text.splitlines()
    begin = lines.index(title) + 1
    end = next((i for i in range(begin, len(lines)) if not lines[i]), len(lines))
    return [re.split(r" {2,}", line.strip()) for line in lines[begin:end] if not line.startswith("---")]


def test_ours_beside_theirs_as_computed_by_hand(half_run):
    table, runs = half_run
    text = render.as_text(render.document(cells.compare(table, runs)), 100)
    header, easy, hard, complete, everything = rows_below(text, "Scores")
    assert header == ["task", "ours, last (ours)", "Paper [V]", "Other_best [T]", "Alone [V]"]
    assert easy == ["easy", "20.0 +- 10.0", "25.0 +- 3.0", "41.25", "1.0 +- 0.5"]
    assert hard == ["hard[c]", "50.0 (1 of 3)", "60.0[a] / 70.5[b]", "-", "-"]
    assert complete == ["average of 1 complete of 2", "20.0", "25.0", "41.2", "1.0"]
    assert everything == ["average of all 2", "-", "42.5", "-", "-"]

    half = T_2 * 10.0 / math.sqrt(3.0)
    ours = f"{20 - half:.1f} to {20 + half:.1f}"
    _, easy, hard, average = rows_below(text, "Ours: ours, last")
    assert easy == ["easy", "20.0 +- 10.0", ours, "3 of 3 seeds", "180 of 180"]
    assert hard == ["hard", "50.0", "-", "1 of 3 seeds, 1 failed", "90 of 180"]
    assert average == ["average of 1 complete of 2", "20.0", "-", "-", "-"]

    # The spread has n under it: of 4 seeds, a sample's is sqrt(4 / 3) times larger.
    theirs = T_3 * 3.0 * math.sqrt(4.0 / 3.0) / 2.0
    _, easy, hard, second, average = rows_below(text, "ours (ours) compared with Paper [V] (last against last)")
    interval = f"{25 - theirs:.1f} to {25 + theirs:.1f}"
    assert easy == ["easy", "20.0 +- 10.0", ours, "25.0 +- 3.0", interval, "-5.0", "yes", "3 of 3"]
    assert hard == ["hard", "50.0", "-", "60.0[a]", "-", "-10.0", "no spread published", "1 of 3"]
    assert second == ["70.5[b]", "-", "-20.5", "no spread published"]
    assert average == ["average of 1 complete of 2", "20.0", "-", "25.0", "-", "-5.0", "-", "-"]

    # The best evaluations are 40, 20 and 30, whatever was chosen for the rest.
    _, easy, hard = rows_below(text, "ours (ours) compared with Other_best [T] (best against best)")[:3]
    assert easy[1] == "30.0 +- 10.0"
    assert easy[5:] == ["-11.2", "no spread published", "3 of 3"]
    assert hard == ["hard", "50.0", "-", "-", "-", "-", "-", "1 of 3"]

    assert "! arm=base task=hard seed=1 failed at step 30: critic_td is NaN at step 30" in text
    assert "- [a] later\n- [b] from memory [NV]\n- [c] harder\n" in text
    assert "[NV] not verified" in " ".join(text.split())
    assert "[2nd]" not in text


def test_other_statistics_are_named(half_run):
    table, runs = half_run
    text = render.as_text(render.document(cells.compare(table, runs, statistic="last five")), 100)
    # (40 + 10) / 2, (5 + 20) / 2 and (5 + 30) / 2.
    assert rows_below(text, "Scores")[1][1] == f"{(25 + 12.5 + 17.5) / 3:.1f} +- {6.2915:.1f}"
    assert rows_below(text, "ours (ours) compared with Paper [V] (last against last)")[1][1] == "20.0 +- 10.0"


def test_the_interval_and_its_absence_have_reasons():
    value = spec.Value(50.0, 2.0)

    def column(**own):
        known = {
            "label": "x",
            "statistic": "last",
            "source": "",
            "mark": "V",
            "data": "",
            "spread": "sample",
            "seeds": 4,
        }
        return spec.Published(**{**known, **own})

    estimate = column().estimate(value)
    assert estimate.high - 50.0 == pytest.approx(T_3 * 2.0 / 2.0)
    assert column(spread="not said").estimate(value) == estimate
    for own, reason in (
        ({"seeds": None}, "seeds not published"),
        ({"seeds": 2}, "theirs: 2 seeds"),
        ({"spread": "episodes"}, "spread over episodes"),
        ({"spread": "none"}, "no spread published"),
    ):
        assert not column(**own).estimate(value).has_interval
        assert column(**own).why_no_interval(value) == reason


def test_csv_has_a_line_for_each_value_and_scale(half_run):
    table, runs = half_run
    rows = list(csv.DictReader(io.StringIO(render.as_csv(cells.compare(table, runs)))))
    paper = next(row for row in rows if (row["task"], row["published"]) == ("easy", "paper"))
    assert (paper["arm"], paper["statistic"], paper["scale"], paper["overlap"]) == ("base", "last", "score", "yes")
    numbers = {
        key: float(paper[key]) for key in ("mean", "std", "low", "published_mean", "published_low", "difference")
    }
    theirs = T_3 * 3.0 * math.sqrt(4.0 / 3.0) / 2.0
    assert numbers == pytest.approx(
        {"mean": 20, "std": 10, "low": 20 - T_2 * 10 / math.sqrt(3), "published_mean": 25, "published_low": 25 - theirs,
         "difference": -5}
    )  # fmt: skip
    hard = [row for row in rows if (row["task"], row["published"]) == ("hard", "paper")]
    assert [(row["published_mean"], row["published_mark"], row["difference"], row["overlap"]) for row in hard] == [
        ("60", "V", "-10", ""),
        ("70.5", "NV", "-20.5", ""),
    ]
    assert [(row["seeds_done"], row["seeds_planned"], row["seeds_failed"], row["steps_done"]) for row in hard] == [
        ("1", "3", "1", "90")
    ] * 2
    (alone,) = [row for row in rows if row["published"] == "alone"]
    assert (alone["arm"], alone["mean"], alone["published_mean"]) == ("", "", "1")


def test_markdown_and_latex_of_the_same(half_run):
    table, runs = half_run
    document = render.document(cells.compare(table, runs))
    markdown = render.as_markdown(document)
    assert "| hard<sup>c</sup> | 50.0 (1 of 3) | 60.0<sup>a</sup> / 70.5<sup>b</sup> | - | - |" in markdown
    assert r"| task | ours, last (ours) | Paper [V] | Other\_best [T] | Alone [V] |" in markdown
    latex = render.as_latex(document)
    assert (
        r"hard\textsuperscript{c} & 50.0 (1 of 3) & 60.0\textsuperscript{a} / 70.5\textsuperscript{b} & - & - \\"
        in latex
    )
    assert r"easy & 20.0 $\pm$ 10.0 & " in latex
    assert r"Other\_best" in latex
    assert " & $-$5.0 & yes" in latex
    assert r"critic\_td is NaN" in latex
    assert_latex(latex)


def assert_latex(text):
    """What LaTeX would stop at: environments, braces, columns, characters with a meaning."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    bare = re.sub(r"\\[\\{}$&#%_]|\\label\{.*\}", "", body)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[#%_~^±\"]", bare)
    for columns, rows in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        lines = [line for line in rows.splitlines() if line.strip() and not re.fullmatch(r"\s*\\\w+", line)]
        assert lines
        for line in lines:
            assert line.endswith(r" \\")
            assert re.sub(r"\\&", "", line).count("&") == len(columns) - 1
            # Read as the argument of the line's end before it.
            assert not line.strip().startswith("[")
    assert not re.search(r"(\\\\|\\item) \[", body)


def test_what_runs_have_otherwise_than_the_table_is_said_first(half_run):
    table, runs = half_run
    wanted = {
        "n_steps": 1000,
        "env.id": "Made-v5",
        "dataset.path": "/elsewhere/easy.hdf5",
        "seed": 7,
        "algorithm.w": 1.0,
    }
    wanted["kind"] = "base"
    planned = {("easy", "base"): wanted, ("hard", "base"): {**wanted, "n_steps": 60, "dataset.path": "medium.hdf5"}}
    comparison = cells.compare(table, runs, planned=planned)
    assert comparison.departures == (
        "algorithm.w: 1 -> (absent) (all 5 runs)",
        "n_steps: 1000 -> 60 (3 of 5 runs)",
        "dataset.path: medium.hdf5 -> hard.hdf5 (2 of 5 runs)",
    )
    first = render.document(comparison).warnings[0]
    assert first.startswith("Our runs differ from the table's settings: algorithm.w: 1 -> (absent) (all 5 runs); ")


@pytest.mark.parametrize(("steps", "own", "is_said"), [(60, 60, False), (60, 30, True), (1000, 1000, True)])
def test_cloning_for_as_long_as_one_trains_follows_from_how_long(half_run, steps, own, is_said):
    table, runs = half_run
    runs = [
        dataclasses.replace(run, config={**run.config, "n_steps": steps, "algorithm.bc_steps": own})
        for run in runs
        if run.point["task"] == "easy"
    ]
    # The table means to clone for all of 1,000 steps.
    wanted = {**runs[0].config, "n_steps": 1000, "algorithm.bc_steps": 1000}
    if steps == own == 1000:
        wanted |= {"algorithm.bc_steps": 500}
    said = cells.compare(table, runs, planned={("easy", "base"): wanted}).departures
    assert any(line.startswith("algorithm.bc_steps") for line in said) == is_said


def test_the_data_themselves_have_no_seeds_and_no_interval(tmp_path, half_run):
    _, runs = half_run
    behaviour = {"label": "behaviour", "arm": "*", "statistic": "dataset", "source": "our data", "mark": "own",
                 "data": "v0", "spread": "episodes"}  # fmt: skip
    plain = {
        **PLAIN,
        "published": {"behaviour": behaviour},
        "tasks": {name: {"published": {"behaviour": [15.0, 4.0]}} for name in ("easy", "hard")},
    }
    text = render.as_text(render.document(cells.compare(load(str(write(tmp_path, plain))), runs)), 300)
    half = T_2 * 10.0 / math.sqrt(3.0)
    header, easy, hard, average = rows_below(
        text, "ours (ours) compared with behaviour [own] (ours: last; behaviour: the data themselves)"
    )
    assert header == ["task", "ours", "95 % interval", "behaviour", "difference", "seeds done"]
    interval = f"{20 - half:.1f} to {20 + half:.1f}"
    assert easy == ["easy", "20.0 +- 10.0", interval, "15.0 +- 4.0", "+5.0", "3 of 3"]
    assert hard == ["hard", "50.0", "-", "15.0 +- 4.0", "+35.0", "1 of 3"]
    assert average == ["average of 1 complete of 2", "20.0", "-", "15.0", "+5.0", "-"]
    assert "heirs" not in text
    assert "seeds not said" not in text


def test_runs_of_other_arms_variations_and_tables(tmp_path, half_run):
    table, runs = half_run
    other = tmp_path / "other"
    write_run(other, "easy", 0, [7.0], arm="bc")
    write_run(other, "easy", 1, [9.0], more="alpha_cql-5__")
    write_run(other, "unknown", 0, [9.0])
    write_run(other, "hard", 0, [2.0], status="interrupted", step=10)
    more = read_results([other])
    comparison = cells.compare(table, [*runs, *more.runs, *more.repeated])
    labels = [comparison.label(arm) for arm in comparison.arms]
    assert labels == ["ours", "ours (alpha_cql=5)", "bc"]
    assert done(comparison, cells.Arm("bc")) == (1, 3)
    # The finished run is taken, not the other; the column of every arm is compared with all three.
    assert comparison.outcomes("hard", cells.Arm("base"), "last").tolist() == [50.0]
    left = sorted(line.partition(": ")[2] for line in comparison.strangers)
    assert left[0].endswith("was taken instead")
    assert left[1] == "its name does not give a task of this table and an arm"
    titles = [section.title for section in render.document(comparison).sections]
    assert sum("compared with Other_best" in title for title in titles) == 3
    assert sum("compared with Paper" in title for title in titles) == 2


def test_runs_that_wait_are_counted_and_damaged_ones_are_named(tmp_path, half_run):
    table, runs = half_run
    broken = tmp_path / "arm-base__task-hard__seed-2"
    broken.mkdir()
    waiting = tmp_path / "arm-base__task-easy__seed-9"
    comparison = cells.compare(table, runs, unread=[(waiting, "has not begun"), (broken, "config.yaml is damaged")])
    assert comparison.unfinished == {"waiting": 1}
    assert comparison.strangers == (f"{broken.name}: config.yaml is damaged",)
    warnings = render.document(comparison).warnings
    assert "Not finished, so in no mean: 1 waiting." in warnings
    assert warnings[-1] == f"Ignored: {broken.name}: config.yaml is damaged"


def of_data(run, **dataset):
    return dataclasses.replace(run, config={**run.config, **{f"dataset.{key}": own for key, own in dataset.items()}})


MINARI = {"kind": "minari", "id": "D4RL/easy/some-v1"}
MIXED = {"kind": "mixture", "mixture[0].kind": "d4rl", "mixture[0].path": "a.hdf5", "mixture[1].kind": "minari",
         "mixture[1].id": "D4RL/easy/some-v1"}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "dataset", "refused"),
    [
        ("D4RL -v2", MINARI, "Minari's D4RL/easy/some-v1"),
        ("D4RL -v2", MIXED, "Minari's D4RL/easy/some-v1"),
        ("D4RL -v2", {"kind": "d4rl", "path": "/data/easy.hdf5"}, None),
        ("D4RL -v2", {"kind": "embedded", "name": "hopper_medium"}, None),
        ("Minari D4RL/easy/*-v1", {"kind": "d4rl", "path": "/data/easy.hdf5"}, "D4RL's easy.hdf5"),
        ("Minari D4RL/easy/*-v1", MINARI, None),
        ("cql/hopper/*-v0", MINARI, None),
    ],
)
def test_another_version_of_the_data_is_never_set_beside_a_column(tmp_path, half_run, data, dataset, refused):
    _, runs = half_run
    plain = changed(PLAIN, "published/paper/data", data)
    runs = [of_data(run, **dataset) if run.point["task"] == "easy" else run for run in runs]
    comparison = cells.compare(load(str(write(tmp_path, plain))), runs)
    found = comparison.outcomes("easy", cells.Arm("base"), "last").tolist()
    if refused is None:
        assert (found, comparison.refused) == ([10.0, 20.0, 30.0], ())
        return
    assert found == []
    names = ", ".join(f"arm-base__task-easy__seed-{seed}" for seed in range(3))
    assert comparison.refused == (f'3 runs on {refused}, where "Paper" is on {data}: {names}',)
    document = render.document(comparison)
    (said,) = [text for text in document.warnings if text.startswith("Left out, since another version")]
    assert comparison.refused[0] in said
    assert "scripts/report.py" in said
    # The other task's run has no such data, and stays.
    assert comparison.outcomes("hard", cells.Arm("base"), "last").tolist() == [50.0]


def test_runs_that_were_all_left_out_have_begun(tmp_path, half_run):
    _, runs = half_run
    table = load(str(write(tmp_path, changed(PLAIN, "published/paper/data", "D4RL -v2"))))
    warnings = render.document(cells.compare(table, [of_data(run, **MINARI) for run in runs])).warnings
    assert any(text.startswith("Left out") for text in warnings)
    assert "No run has begun yet." not in warnings


def test_success_is_shown_where_runs_have_it(half_run):
    table, runs = half_run
    assert "success" not in render.as_text(render.document(cells.compare(table, runs)))
    rows = [[{"step": 10, "eval_success": 0.1}, {"step": 20, "eval_success": share}] for share in (0.5, 0.6, 0.7)]
    easy = [run for run in runs if run.point["task"] == "easy"]
    others = [run for run in runs if run not in easy]
    with_it = [dataclasses.replace(run, metrics=own) for run, own in zip(easy, rows, strict=True)]
    comparison = cells.compare(table, [*with_it, *others])
    document = render.document(comparison)
    found = rows_below(render.as_text(document), "Ours: ours, last")
    assert found[0] == ["task", "mean +- std, score", "95 % interval", "success, last", "seeds done", "steps done"]
    assert [row[3] for row in found[1:]] == ["60 %", "-", "-"]
    assert sum("the share of episodes" in note for note in document.notes) == 1
    assert_latex(render.as_latex(document))
    shares = {row["task"]: row["success"] for row in csv.DictReader(io.StringIO(render.as_csv(comparison)))
              if row["arm"]}  # fmt: skip
    assert shares == {"easy": "0.6", "hard": ""}


def done(comparison, arm):
    """Finished and planned runs of the easy task."""
    cell = comparison.cells["easy", arm]
    return len(cell.ended), cell.n_planned


def test_other_seeds_than_the_tables_are_planned_instead_of_them(tmp_path):
    table = load(str(write(tmp_path, PLAIN)))
    for seed in (100, 101):
        write_run(tmp_path / "s", "easy", seed, [1.0])
    waiting = [(tmp_path / f"arm-base__task-easy__seed-{seed}", "has not begun") for seed in (102, 103)]
    arm = cells.Arm("base")
    assert done(cells.compare(table, read_results([tmp_path / "s"]).runs, unread=waiting), arm) == (2, 4)
    write_run(tmp_path / "s", "hard", 0, [1.0])
    # One of the table's own, and the table's are planned too.
    assert done(cells.compare(table, read_results([tmp_path / "s"]).runs), arm) == (2, 5)


def test_a_sweep_that_is_none_of_the_table_is_refused(tmp_path, monkeypatch, capsys):
    from made_runs import make_grid

    folder = make_grid(tmp_path / "grid", seeds=(0,))
    code, out, err = call("show", "embedded", folder, "--out", tmp_path / "out", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (2, "")
    assert f"no run of {folder} belongs to table 'embedded'" in err
    assert not (tmp_path / "out").exists()
    # The folder may stand behind the option too.
    turned = call("show", "embedded", "--out", tmp_path / "out", folder, monkeypatch=monkeypatch, capsys=capsys)
    assert turned == (code, out, err)


def test_hydras_own_options_are_refused_with_a_hint(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("run", "embedded", "-m", monkeypatch=monkeypatch, capsys=capsys)
    assert "unrecognized arguments: -m; of Hydra's, only KEY=VALUE may follow" in capsys.readouterr().err


def test_a_file_is_no_folder_to_write_to(tmp_path, monkeypatch, capsys):
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit, match="2"):
        call("show", "embedded", "--out", tmp_path / "out", monkeypatch=monkeypatch, capsys=capsys)
    assert f"--out {tmp_path / 'out'}: is a file; give a folder" in capsys.readouterr().err


def test_returns_are_shown_with_each_named_normalisation_and_never_averaged(tmp_path):
    plain = changed(
        changed(PLAIN, "unit", "return"), "tasks/easy/references", {"D4RL": [0, 200], "v5 expert": [-100, 300]}
    )
    sweep = tmp_path / "sweep"
    for seed in range(3):
        write_run(sweep, "easy", seed, [10.0])  # a return of 100
    table, runs = load(str(write(tmp_path, plain))), read_results([sweep]).runs
    comparison = cells.compare(table, runs)
    text = render.as_text(render.document(comparison))
    assert [row[:3] for row in rows_below(text, "Returns")[1:]] == [
        ["easy", "100.0 +- 0.0", "25.0 +- 3.0"],
        ["hard[c]", "-", "60.0[a] / 70.5[b]"],
    ]
    _, easy, hard, *averages = rows_below(text, "Scores, normalised by D4RL")
    assert easy[:3] == ["easy", "50.0 +- 0.0", "12.5 +- 1.5"]
    assert hard[1:3] == ["-", "-"]
    assert averages[-1][1:3] == ["-", "-"]
    assert rows_below(text, "Scores, normalised by v5 expert")[1][1:3] == ["50.0 +- 0.0", "31.2 +- 0.8"]
    assert not any(row[0].startswith("average") for row in rows_below(text, "Ours: ours, last"))
    rows = list(csv.DictReader(io.StringIO(render.as_csv(comparison))))
    assert {row["scale"] for row in rows if row["task"] == "easy"} == {"return", "D4RL", "v5 expert"}
    paper = next(row for row in rows if (row["scale"], row["published"]) == ("D4RL", "paper"))
    assert (paper["mean"], paper["published_mean"], paper["published_spread"]) == ("50", "12.5", "1.5")


# --- the commands ---


def call(*arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table.py", *map(str, arguments)])
    code = script.main()
    return code, *capsys.readouterr()


def test_list_names_every_table():
    command = [sys.executable, ROOT / "scripts/table.py", "list"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == TABLES
    assert "18 tasks,  72 runs" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "there is no table 'nothing'"),
        (["show", "nothing"], "there is no table 'nothing'"),
        (["show", "nothing.yaml"], "nothing.yaml: file not found"),
        (["run", "embedded", "--tasks", "hopper-medium", "hopper-random"], "hopper-random: name tasks with commas"),
        (["run", "corl_v2", "--data", "."], "nothing to train"),
        (["run", "corl_v2", "--data", ".", "--tasks", "hopper"], "has no task 'hopper'"),
        (["run", "corl_v2", "--data", ".", "n_steps=5", "task=hopper-medium"], "choose tasks by --tasks hopper-medium"),
        (["show", "corl_v2", "nowhere"], "nowhere is neither a folder nor the name of a sweep"),
    ],
)
def test_errors_of_the_users_end_with_2_and_a_message(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_files_are_looked_for_where_the_environment_says(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("D4RL_DIR", str(tmp_path))
    code, _, err = call("run", "corl_v2", "--tasks", "hopper-medium", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    url = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2/hopper_medium-v2.hdf5"
    assert f"skipped, since their files are not in {tmp_path}:" in err
    assert f"  hopper-medium  hopper_medium-v2.hdf5  published at {url}\n" in err
    monkeypatch.delenv("D4RL_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert script.default_data() == tmp_path / ".d4rl" / "datasets"


def nested(overrides):
    """Overrides of keys, without choices of options, as a table's file has them."""
    found = {}
    for text in overrides:
        key, _, value = text.partition("=")
        *parents, leaf = key.split(".")
        if key not in config.GROUPS:
            node = found
            for part in parents:
                node = node.setdefault(part, {})
            node[leaf] = value if value == "off" else yaml.safe_load(value)
    return found


def test_a_table_is_trained_resumed_and_shown(tmp_path, monkeypatch, capsys):
    plain = {
        "title": "Tiny",
        "experiment": "quickstart",
        "set": {**nested(OVERRIDES), "n_steps": 20},
        "seeds": [0, 1],
        "arms": {"base": "CQL"},
        "published": {"p": {**PLAIN["published"]["other"], "label": "p"}},
        "tasks": {
            name: {
                "choose": {"env": "InvertedPendulum-v5", "dataset": "d4rl", "logger": "local"},
                "file": f"{name}.hdf5",
                "published": {"p": 3.0},
            }
            for name in ("absent", "first", "second")
        },
    }
    path, data = write(tmp_path, plain, "tiny"), tmp_path / "data"
    data.mkdir()
    write_dataset(data / "first.hdf5", 4)
    write_dataset(data / "second.hdf5", 5)

    monkeypatch.chdir(tmp_path)
    # Nothing here looks at the figures.
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda _, to, **__: Image.new("RGB", (8, 8)).save(to, "png")
    )

    def run(*options):
        return call(
            "run", path, "--data", data, *options, "n_steps=30", "seed=0", monkeypatch=monkeypatch, capsys=capsys
        )

    code, _, err = run("--tasks", "absent,second")
    assert code == 0, err
    assert f"skipped, since their files are not in {data}:\n  absent  absent.hdf5  the table gives no" in err
    assert "1 of 3 tasks (second)" in err
    sweep = tmp_path / "outputs" / "sweeps" / "table_tiny"
    assert {path.parent.name for path in sweep.glob("*/summary.json")} == {"arm-base__task-second__seed-0"}
    before = (sweep / "arm-base__task-second__seed-0" / "metrics.jsonl").stat()

    # More tasks now, in the same folder: finished runs are kept.
    code, _, err = run()
    assert (code, "2 of 3 tasks (first, second)" in err) == (0, True), err
    finished = {path.parent.name for path in sweep.glob("*/summary.json")}
    assert finished == {f"arm-base__task-{task}__seed-0" for task in ("first", "second")}
    assert (sweep / "arm-base__task-second__seed-0" / "metrics.jsonl").stat().st_mtime_ns == before.st_mtime_ns

    code, out, err = call("show", path, "--out", "written", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert err == "written: written/table.md, table.tex, table.csv\n"
    assert "! Our runs differ from the table's settings: n_steps: 20 -> 30 (all 2 runs)" in out
    # The environment has no reference, so there is no score.
    assert "! Finished without a score: first, second; their environments" in out
    rows = rows_below(out, "Ours: CQL, last")
    assert rows[1] == ["first", "-", "-", "1 of 2 seeds", "30 of 60"]
    assert not any(row[0] == "absent" for row in rows), "where nothing has begun, a hole in the first table is enough"
    assert ["absent", "-"] in [row[:2] for row in rows_below(out, "Scores")]
    assert {path.name for path in (tmp_path / "written").iterdir()} == {"table.md", "table.tex", "table.csv"}
    # By the sweep's name too.
    assert call("show", path, "table_tiny", monkeypatch=monkeypatch, capsys=capsys)[1] == out


def test_hydra_is_told_the_same_base_whichever_tasks_are_trained(tmp_path):
    table = load(str(write(tmp_path, PLAIN)))
    both = grid.hydra_options(table, table.tasks, tmp_path)
    one = grid.hydra_options(table, ["hard"], tmp_path)
    name = ("experiment", "table_mine")
    assert one[name]["hydra"]["sweeper"]["params"] == {"task": "hard", "arm": "base", "seed": "0,1,2"}
    assert both[name].pop("hydra") != one[name].pop("hydra")
    assert both == one
    assert config.VERSION_BASE is not None
    assert both["task", "hard"]["dataset"] == {"path": str(tmp_path.resolve() / "hard.hdf5")}
