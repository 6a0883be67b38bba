"""The pages of the reference name every key, file, command, metric and exit code that the code has."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from composed import compose
from omegaconf import OmegaConf
from tiny import tiny_config

from cql.algorithm.step import METRICS
from cql.config import keys
from cql.config.judge import JudgeConfig
from cql.results.selection import MEANINGS
from cql.scorer_names import DIRECTIONS, PREFIX
from cql.training import experiment
from cql.training.local_logger import LocalLogger
from cql.training.online import Collected, Online
from cql.training.run import Run, Scores

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"

pytestmark = pytest.mark.usefixtures("no_figures")


def site_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


config_reference, command_reference = site_module("config_reference"), site_module("command_reference")


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def named(text: str) -> set[str]:
    """What stands in code on a page, with the numbers in it as zeros."""
    return {re.sub(r"\d+", "0", each) for each in re.findall(r"`([^`]+)`", text)}


def section(text: str, heading: str) -> str:
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


# Config keys ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys_page() -> str:
    return str(config_reference.keys_page())


def test_every_key_has_an_anchor_a_type_a_default_and_a_meaning(keys_page):
    anchors = re.findall(r'<a id="([^"]+)"', keys_page) + re.findall(r"\{#([^}]+)\}", keys_page)
    assert len(anchors) == len(set(anchors))
    wanted = {key for key in keys.all_keys() if key.rpartition(".")[2] != "kind"}
    wanted |= {f"judge.{item.name}" for item in dataclasses.fields(JudgeConfig)}
    assert wanted <= set(anchors)
    rows = [line.strip("| ").split(" | ") for line in keys_page.splitlines() if line.startswith("| <a id=")]
    assert len(rows) > 100
    for row in rows:
        key, kind, _, default, meaning = row
        assert kind, key
        assert default.strip("`"), key
        assert meaning[0].isupper() or meaning[0] in "`[", meaning
        assert meaning.endswith("."), meaning


def test_what_a_key_lacks_is_an_error_of_the_build():
    item = dataclasses.fields(JudgeConfig)[0]
    with pytest.raises(config_reference.PageError, match=r"JudgeConfig\.checkpoint has no meaning"):
        config_reference._meaning({}, JudgeConfig, item, item.name)
    with pytest.raises(config_reference.PageError, match="no default"):
        config_reference._default("online", "no_such_key", ["finetune"])


def test_defaults_are_those_of_the_composed_config():
    chosen = {
        "algorithm/alpha_temp": "fixed", "algorithm/alpha_cql": "learned", "algorithm/penalty": "blueprint",
        "dataset": "minari", "online": "finetune", "network": "mlp_256x3", "env": "AntMaze_UMaze-v4",
        "logger": "wandb_offline",
    }  # fmt: skip
    for options in ({}, chosen):
        composed = OmegaConf.to_container(compose([f"{group}={name}" for group, name in options.items()]))
        defaults = dict(config_reference._default_options())
        for group, option in (defaults | options).items():
            path = group.replace("/", ".")
            node = composed
            for part in path.split("."):
                node = node[part]
            for name, value in node.items():
                if name != "kind" and not isinstance(node[name], dict):
                    found = config_reference._default(path, name, [option])
                    if isinstance(value, float):
                        assert float(found.strip("`")) == value, f"{path}.{name}"
                    else:
                        assert found == config_reference._shown(value), f"{path}.{name}"


def test_every_file_of_the_config_is_shown():
    text = config_reference.files_page()
    for path in keys.CONFIG_DIR.rglob("*.yaml"):
        name = f"configs/{path.relative_to(keys.CONFIG_DIR).as_posix()}"
        shown = text.partition(f'??? example "{name}"\n')[2].partition("    ```\n")[0]
        own = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        assert [line[4:] for line in shown.splitlines() if line.strip()][1:] == own, name


# Commands -------------------------------------------------------------------------------------------------------------


def test_every_command_is_shown_with_its_options(monkeypatch):
    monkeypatch.setattr(command_reference.subprocess, "Popen", lambda *_, **__: None)  # the build asks train itself
    monkeypatch.setattr(command_reference, "_output_of", lambda _: "its help")
    text = command_reference.page()
    for path in (ROOT / "scripts").glob("[a-z]*.py"):
        own = section(text, f"{path.stem} {{#{path.stem}}}")
        assert f"python scripts/{path.name} " in own
        written = re.sub(r".*help=argparse\.SUPPRESS.*", "", path.read_text(encoding="utf-8"))  # former names
        options = re.findall(r'add_argument\(\s*"(--[\w-]+)"', written)
        assert [option for option in options if option not in own] == []
        assert options or path.stem == "train"
    for name in re.findall(r"^(cql-[\w-]+) = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M):
        assert f"`{name}`" in text


def test_a_script_without_a_place_on_the_page_is_an_error_of_the_build(monkeypatch):
    monkeypatch.delitem(command_reference.WHEN, "maze")
    with pytest.raises(command_reference.PageError, match="maze"):
        command_reference.page()


# Metrics and files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reports all that a run without a camera can."""
    directory = tmp_path_factory.mktemp("reference") / "run"
    experiment.run(
        tiny_config(
            dataset, "algorithm/penalty=cal_ql", "online=finetune", "online.n_online_steps=20", "n_steps=20",
            "dataset.validation_fraction=0.3", "env.reference=[0,100]",
        ),
        directory,
    )  # fmt: skip
    return directory


def rows_of(path: Path) -> set[str]:
    return {name for line in path.read_text(encoding="utf-8").splitlines() for name in json.loads(line)} - {"step"}


def test_every_metric_of_a_run_has_its_place(folder):
    text = page("metrics.md")
    sections = "Training step", "Evaluation", "Policy at recorded states", "Scorers", "Environment's part"
    found = rows_of(folder / "metrics.jsonl")
    assert {*METRICS, "floor_share", "eval_score", "at_bounds", "env_steps", "offline_td_error"} <= found
    places = {name: {each for each in sections if f"| `{name}` |" in section(text, each)} for name in found}
    assert {name: own for name, own in places.items() if len(own) != 1} == {}
    assert rows_of(folder / "timing.jsonl") == set(re.findall(r"^\| `(\w+)` \|", section(text, "Timing"), re.M))
    columns = (folder / "episodes.csv").read_text(encoding="utf-8").partition("\n")[0].split(",")
    assert columns == re.findall(r"^\| `(\w+)` \|", section(text, "Episodes"), re.M)
    yardsticks = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["yardsticks"]
    assert set(yardsticks) <= named(section(text, "Yardsticks"))


def test_metrics_that_few_environments_give_have_their_place():
    text = page("metrics.md")
    online = SimpleNamespace(_episodes=[[Collected(0, 3, 1.0, True)]], buffer=SimpleNamespace(n_added=[3], capacity=5))
    found = Online.metrics(online, 0, 0)  # type: ignore[arg-type]
    assert set(found) == set(re.findall(r"^\| `(\w+)` \|", section(text, "Environment's part"), re.M))
    assert "| `eval_success` |" in section(text, "Evaluation")
    scorers = set(re.findall(r"^\| `offline_(\w+)` \|", section(text, "Scorers"), re.M))
    assert scorers == set(DIRECTIONS)


def test_every_key_of_a_summary_and_of_a_judgement_has_its_place(folder, tmp_path):
    own = section(page("metrics.md"), "Summary")
    keys_of_run = set(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    assert {"regret", "offline_eval_score", "last0_eval_score"} <= {re.sub(r"\d", "0", key) for key in keys_of_run}
    assert {re.sub(r"\d+", "0", key) for key in keys_of_run} | {"failure"} <= named(own)
    offline = Scores(offline={f"{PREFIX}soft_opc": 1.0})
    nothing = SimpleNamespace()
    run = Run(
        tmp_path, {}, LocalLogger(tmp_path), nothing, nothing, None, scores=offline, has_simulator=False,  # type: ignore[arg-type]
        best_by="soft_opc",
    )  # fmt: skip
    outcomes = set(run.outcomes())
    assert outcomes == {f"{PREFIX}soft_opc", "objective", "best_step", f"best_{PREFIX}soft_opc"}
    assert {"objective", "best_step", "best_offline_..."} <= named(own)
    judged = section(page("metrics.md"), "Judgement")
    written = (ROOT / "cql" / "training" / "judge.py").read_text(encoding="utf-8")
    assert {*MEANINGS, *re.findall(r'^ +"((?:fqe_)?[a-z_]+)": ', written, re.M)} - OF_THE_DATASET <= named(judged)


OF_THE_DATASET = {"normalise_observations", "normalise_rewards", "returns_to_go"}  # keys of a config in judge.py


def test_the_files_of_a_run_have_their_place(folder):
    own = named(section(page("files.md"), "A run"))
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"checkpoints/best.pt", "online/episode_0000000.npz", ".lock", "train.log"} <= found
    assert {re.sub(r"\d+", "0", name) for name in found} - own == set()
    contents = (ROOT / "cql" / "training" / "trainer.py").read_text(encoding="utf-8")
    written = contents.partition("def _contents(")[2].partition("def _policy")[0]
    assert set(re.findall(r'^ +"(\w+)": ', written, re.M)) <= named(section(page("files.md"), "A run"))


# Names of files in the code that are no output of ours.
NO_OUTPUT = {"judge.yaml", "metadata.json", "FILE.png", "example.html"}


def test_every_file_that_the_code_names_has_its_place():
    own = named(page("files.md"))
    shown = {part for each in own for part in (each, each.rpartition("/")[2])}
    found: dict[str, str] = {}
    name = re.compile(r'"(\.?[\w-]+\.(?:json|jsonl|csv|png|md|tex|html|log|pt|npz|yaml|lock))"')
    for path in [*(ROOT / "cql").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        found |= dict.fromkeys(name.findall(path.read_text(encoding="utf-8")), path.name)
    templates = {each.name for each in (ROOT / "cql").rglob("templates/*")}
    assert {"sweep.json", "table.tex", "dashboard.json", "sweep_curves.png"} <= set(found)
    missing = {name: where for name, where in found.items() if name not in {*shown, *templates, *NO_OUTPUT}}
    assert missing == {}


# Exit codes -----------------------------------------------------------------------------------------------------------


def returned(path: Path) -> set[int]:
    """The whole numbers that the functions of a script return or exit with."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        values = []
        if isinstance(node, ast.Return) and node.value is not None:
            values = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "SystemExit"):
            values = [each for argument in node.args for each in ast.walk(argument)]
        found |= {each.value for each in values if isinstance(each, ast.Constant) and type(each.value) is int}
    return found


def test_every_exit_code_has_its_place():
    text = page("exit_codes.md")
    general = section(text, "All commands but train")
    of_all = {int(code) for code in re.findall(r"^\| (\d+) \|", general, re.M)}
    assert returned(ROOT / "cql" / "commands.py") | {0} <= of_all
    for path in (ROOT / "scripts").glob("[a-z]*.py"):
        if path.stem != "train":
            rows = re.findall(rf"^\| `scripts/{path.name}[^`]*` \| (\d+) \|", general, re.M)
            assert returned(path) - {0} <= {int(code) for code in rows} | {2}, path.name
    own = section(text, "train")
    train = returned(ROOT / "scripts" / "train.py") | returned(ROOT / "cql" / "config" / "messages.py")
    assert {1, 2, 125, 130} <= train
    assert {str(code) for code in train} <= set(re.findall(r"\b\d+\b", own))


# Docstrings -----------------------------------------------------------------------------------------------------------


def test_roles_of_docstrings_become_links():
    pytest.importorskip("mkdocs")
    pytest.importorskip("ziamath")
    hooks = site_module("hooks")
    content = '<h3 id="cql.training.python.train"></h3>:func:<code>train</code> :mod:<code>~cql.data.minari</code>'
    assert hooks._without_roles(content) == (
        '<h3 id="cql.training.python.train"></h3><a href="#cql.training.python.train"><code>train</code></a> '
        '<autoref optional identifier="cql.data.minari"><code>minari</code></autoref>'
    )
    assert hooks._without_roles(":exc:<code>OSError</code>") == "<code>OSError</code>"


def test_api_pages_show_modules_that_exist():
    names = re.findall(r"^::: (\S+)$", page("algorithm.md") + page("python.md"), re.M)
    assert len(names) > 12
    for name in names:
        parts = name.split(".")
        assert any((ROOT / "/".join(parts[:n])).with_suffix(".py").exists() for n in range(2, len(parts) + 1)), name
    options = re.findall(r"^    options: (.*)$", page("algorithm.md") + page("python.md"), re.M)
    assert all(isinstance(yaml.safe_load(each), dict) for each in options)
