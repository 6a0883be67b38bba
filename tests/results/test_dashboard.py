"""A sweep's workspace against what its runs really send to W&B, and the run that carries its report."""

from __future__ import annotations

import copy
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from entry_points import load_script
from PIL import Image
from tiny import tiny_config
from wandb_reader import OfflineRun, offline_runs

from cql.algorithm.agent import METRICS
from cql.config import LearnedAlphaCql
from cql.results.dashboard import DashboardError, SweepInWandb, in_wandb, varied_keys, workspace
from cql.results.wandb_report import REPORT_FOLDER, log_report
from cql.training import experiment, run_folder
from cql.training.local_logger import LocalLogger, read_metrics
from cql.training.wandb_logger import open_wandb

# Of its own making, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")
WANDB_VARIABLES = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL")


@pytest.fixture(scope="module", autouse=True)
def wandb_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps W&B's files in the test's folder, and the developer's own keys and settings out of the tests."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(home / name.lower()))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        for name in WANDB_VARIABLES:
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="module")
def sweep(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two thresholds on two seeds, with made-up reference scores, offline in W&B."""
    folder = tmp_path_factory.mktemp("sweeps") / "grid"
    shared = tiny_config(
        dataset, "logger=wandb_offline", "logger.project=cql-tests", "logger.entity=team", "n_steps=12",
        "n_steps_per_epoch=2", "algorithm/alpha_cql=learned",
    )  # fmt: skip
    shared.env.reference = [2.0, 52.0]
    configs, directories = [], []
    for tau_cql in (-5.0, 1.0):
        for seed in (0, 1):
            configs.append(copy.deepcopy(shared))
            assert isinstance(configs[-1].algorithm.alpha_cql, LearnedAlphaCql)
            configs[-1].algorithm.alpha_cql.tau_cql = tau_cql
            configs[-1].seed = seed
            directories.append(folder / f"tau_cql-{tau_cql:g}__seed-{seed}")
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"base": {}, "swept": ["algorithm.alpha_cql.tau_cql", "seed"]}))
    for train_config, directory in zip(configs, directories, strict=True):
        run_folder.claim_folder(train_config, directory)
    with pytest.MonkeyPatch.context() as patch:  # nothing here looks at the figures of the runs
        patch.setattr("matplotlib.figure.Figure.savefig", lambda _, to, **__: Image.new("RGB", (8, 8)).save(to, "png"))
        outcomes = experiment.run_stack(configs, directories)
    assert all(isinstance(outcome, float) for outcome in outcomes), outcomes
    return folder


@pytest.fixture(scope="module")
def recorded(sweep: Path) -> dict[str, OfflineRun]:
    """What W&B has of each run, by the name of its folder."""
    found = {}
    for directory in sorted(sweep.glob("*__seed-*")):
        (found[directory.name],) = offline_runs(directory)
    assert len(found) == 4
    return found


def serialised(built: Any) -> dict[str, Any]:
    return dict(json.loads(built._to_model().model_dump_json(by_alias=True)))


def panels(built: Any) -> dict[str, list[dict[str, Any]]]:
    """The configs of a workspace's panels, by their type."""
    found: dict[str, list[dict[str, Any]]] = {}
    for section in serialised(built)["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            found.setdefault(panel["viewType"], []).append(panel["config"])
    return found


def of_history(built: Any) -> set[str]:
    return {metric for panel in panels(built)["Run History Line Plot"] for metric in panel["metrics"]}


def of_summary(built: Any) -> set[str]:
    kinds = panels(built)
    names = {metric for panel in kinds["Bar Chart"] for metric in panel["metrics"]}
    names |= {panel["targetKey"] for panel in kinds.get("Parameter Importance", ())}
    columns = [
        column["accessor"] for panel in kinds.get("Parallel Coordinates Plot", ()) for column in panel["columns"]
    ]
    names |= {column.removeprefix("summary:") for column in columns if column.startswith("summary:")}
    runset = serialised(built)["spec"]["section"]["runSets"][0]
    names |= {key["key"]["name"] for key in runset["sort"]["keys"]}
    pinned = [column for column in runset["runFeed"]["columnOrder"] if column != "run:displayName"]
    assert all(column.startswith("summary:") for column in pinned)
    return names | {column.removeprefix("summary:") for column in pinned}


def of_config(built: Any) -> list[list[str]]:
    """Paths in W&B's config; W&B keeps a value under ``value`` below its first key."""
    paths = []
    for panel in panels(built).get("Parallel Coordinates Plot", ()):
        for column in panel["columns"]:
            if column["accessor"].startswith("config:"):
                first, value, *rest = column["accessor"].removeprefix("config:").split(".")
                assert value == "value"
                paths.append([first, *rest])
    return paths


def subject(**changes: Any) -> SweepInWandb:
    return replace(SweepInWandb("grid", "cql", None, (), False, False, False, False, 6, 2), **changes)


# What arrives ---------------------------------------------------------------------------------------------------------


def test_runs_arrive_grouped_by_point_with_their_outcomes_in_the_summary(
    sweep: Path, recorded: Mapping[str, OfflineRun]
) -> None:
    for name, run in recorded.items():
        point, seed = (part.replace("-", "=", 1) for part in name.split("__"))
        assert (run.group, run.name) == (f"grid/{point}", f"{point} {seed}")
        assert (run.tags, run.job_type, run.exit_code) == (["grid"], "train", 0)
        returns = [row["eval_return_mean"] for row in read_metrics(sweep / name)]
        assert len(returns) == 6
        last_five = sum(returns[-5:]) / 5
        expected = {"eval_": returns[-1], "best_eval_": max(returns), "last5_eval_": last_five}
        for key, value in expected.items():
            assert run.summary[f"{key}return_mean"] == pytest.approx(value)
            assert run.summary[f"{key}score"] == pytest.approx(2.0 * (value - 2.0))
        in_file = json.loads((sweep / name / "summary.json").read_text())
        for key in ("last5_eval_return_mean", "last5_eval_score", "best_eval_score", "eval_score"):
            assert in_file[key] == run.summary[key]


def test_without_reference_scores_none_arrive(dataset: Path, tmp_path: Path) -> None:
    train_config = tiny_config(dataset, "logger=wandb_offline", "n_steps=10")
    experiment.run(train_config, tmp_path)
    (run,) = offline_runs(tmp_path)
    assert run.summary["last5_eval_return_mean"] == run.summary["eval_return_mean"]
    assert not [key for key in run.summary if "score" in key]
    assert json.loads((tmp_path / "summary.json").read_text())["last5_eval_score"] is None


# The workspace --------------------------------------------------------------------------------------------------------


def test_every_name_in_the_workspace_is_one_that_the_runs_send(sweep: Path, recorded: Mapping[str, OfflineRun]) -> None:
    built = workspace(in_wandb(sweep))
    assert of_history(built) - {"eval_score", "eval_return_mean"} <= set(METRICS)
    for run in recorded.values():
        assert of_history(built) <= set().union(*run.history)
        assert of_summary(built) <= set(run.summary)
        for path in of_config(built):
            value: Any = run.config
            for key in path:
                value = value[key]
            assert isinstance(value, float)
    assert {panel["xAxis"] for panel in panels(built)["Run History Line Plot"]} == {"step"}
    assert all("step" in row for run in recorded.values() for row in run.history)


def test_the_workspace_has_the_panels_of_a_cql_sweep(sweep: Path) -> None:
    built = workspace(in_wandb(sweep))
    asked = {
        "eval_score", "eval_return_mean", "alpha_cql", "alpha_temp", "q_data", "q_policy", "q_uniform", "cql_gap",
        "cql_residual", "critic_td", "entropy",
    }  # fmt: skip
    assert of_history(built) == asked
    bars = [panel["metrics"] for panel in panels(built)["Bar Chart"]]
    assert bars == [["eval_score"], ["best_eval_score"], ["last5_eval_score"]]
    assert of_config(built) == [["coefficients", "tau_cql"]]
    assert [panel["targetKey"] for panel in panels(built)["Parameter Importance"]] == ["last5_eval_score"]
    assert "Media Browser" not in panels(built)  # none of its runs records videos


def test_runs_are_filtered_by_tag_and_grouped_by_point(sweep: Path, recorded: Mapping[str, OfflineRun]) -> None:
    built = workspace(in_wandb(sweep))
    view = serialised(built)
    assert (view["entity"], view["project"], view["displayName"]) == ("team", "cql-tests", "sweep grid")
    (runset,) = view["spec"]["section"]["runSets"]
    tags, job_type = runset["filters"]["filters"]
    assert (tags["key"], tags["op"]) == ({"section": "run", "name": "tags"}, "IN")
    assert all(set(tags["value"]) <= set(run.tags) for run in recorded.values())
    assert (job_type["key"], job_type["op"]) == ({"section": "run", "name": "jobType"}, "!=")
    assert all(run.job_type != job_type["value"] for run in recorded.values())
    assert runset["grouping"] == [{"section": "run", "name": "group"}]
    for panel in panels(built)["Run History Line Plot"] + panels(built)["Bar Chart"]:
        assert (panel["groupBy"], panel["groupAgg"], panel["groupArea"]) == ("group", "mean", "minmax")
        assert panel["limit"] == 4
    assert {panel["barLimit"] for panel in panels(built)["Bar Chart"]} == {2}


def test_without_scores_returns_stand_in_and_without_varied_keys_no_settings() -> None:
    built = workspace(subject())
    assert "eval_score" not in of_history(built)
    assert of_summary(built) == {"eval_return_mean", "best_eval_return_mean", "last5_eval_return_mean"}
    assert "Parallel Coordinates Plot" not in panels(built)


def test_a_sweep_that_continues_in_the_environment_has_its_own_panels(dataset: Path, tmp_path: Path) -> None:
    """Every name of which is one that a run sends."""
    folder = tmp_path / "grid"
    folder.mkdir()
    (folder / "sweep.json").write_text("{}")
    train_config = tiny_config(
        dataset, "logger=wandb_offline", "logger.project=cql-tests", "n_steps=10", "online=finetune",
        "online.n_online_steps=20", "algorithm/penalty=cal_ql", "env.reference=[2,52]",
    )  # fmt: skip
    experiment.run(train_config, folder / "seed-0")
    (run,) = offline_runs(folder / "seed-0")
    found = in_wandb(folder)
    assert (found.is_online, found.is_calibrated) == (True, True)
    built = workspace(found)
    plain = of_history(workspace(replace(found, is_online=False, is_calibrated=False)))
    assert of_history(built) - plain == {"online_return", "floor_share"}
    assert of_history(built) <= set().union(*run.history)
    assert of_summary(built) <= set(run.summary)
    assert ["regret"] in [panel["metrics"] for panel in panels(built)["Bar Chart"]]
    over = {panel["xAxis"]: panel["metrics"] for panel in panels(built)["Run History Line Plot"]}
    assert over["env_steps"] == ["online_return"]
    assert any("env_steps" in row and "eval_score" in row for row in run.history)
    assert ["regret"] not in [
        panel["metrics"] for panel in panels(workspace(subject(is_online=True, scored=False)))["Bar Chart"]
    ]


def test_videos_are_shown_under_the_key_by_which_they_are_sent(tmp_path: Path) -> None:
    video = tmp_path / "video.gif"
    Image.new("RGB", (8, 8)).save(video)
    with open_wandb(tmp_path / "run", config={}, project="cql-tests", mode="offline") as logger:
        logger.log_video(1, video)
    (run,) = offline_runs(tmp_path / "run")
    (panel,) = panels(workspace(subject(has_videos=True)))["Media Browser"]
    (key,) = panel["mediaKeys"]
    assert run.rows(key)[0][0]["_type"] == "video-file"


@pytest.mark.parametrize(
    ("differing", "swept", "expected"),
    [
        ({}, [], ()),
        ({"algorithm.alpha_cql.value": [1.0, 5.0, 1.0]}, [], ("coefficients.alpha_cql",)),
        # The kinds are mixed: alpha_cql has a first value either way, tau_cql only where it is learned.
        ({"algorithm.alpha_cql.kind": ["fixed", "learned", "learned"], "algorithm.alpha_cql.value": [5.0],
          "algorithm.alpha_cql.initial_value": [..., 1.0, 2.0], "algorithm.alpha_cql.tau_cql": [..., -2.0, 5.0]},
         ["algorithm.alpha_cql"],
         ("algorithm.alpha_cql.kind", "coefficients.alpha_cql")),
        # A threshold that is left to be found out.
        ({"algorithm.alpha_cql.tau_cql": [None, -2.0, 5.0]}, [], ("coefficients.tau_cql",)),
        ({"dataset.name": ["a", "b", "c"], "env.id": ["A", "B", "C"], "env.reference": [[0, 1], [0, 2], [0, 3]]},
         ["dataset"], ("dataset.name",)),
        # Named by the command, though they go together.
        ({"batch_size": [1, 2, 3], "algorithm.discount": [0.1, 0.2, 0.3]}, ["algorithm.discount", "batch_size"],
         ("batch_size", "algorithm.discount")),
        ({"batch_size": [1, 2, 3], "algorithm.discount": [0.1, 0.2, 0.3]}, ["algorithm.discount"],
         ("algorithm.discount",)),
        ({"logger.tags": [["a"], ["b"], ["c"]], "seed": [0, 1, 2], "dataset.fraction": [None, 0.5, 0.5]}, [], ()),
    ],
)  # fmt: skip
def test_axes_are_the_keys_that_differ_besides_the_seed(
    differing: Mapping[str, list[Any]], swept: list[str], expected: tuple[str, ...]
) -> None:
    configs: list[dict[str, Any]] = [{"seed": 0, "n_steps": 10, "env.reference": None} for _ in range(3)]
    for key, values in differing.items():
        for config, value in zip(configs, values, strict=False):
            if value is not ...:
                config[key] = value
    assert varied_keys(configs, swept) == expected


def written_run(directory: Path, *lines: str) -> Path:
    """A run that is in W&B, with a config of a few lines."""
    LocalLogger(directory)
    (directory / "wandb.json").write_text('{"id": "abc"}')
    (directory / ".hydra").mkdir()
    (directory / ".hydra" / "config.yaml").write_text("\n".join(lines) + "\n")
    return directory


def test_the_runs_have_to_agree_on_a_project(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    written_run(folder / "seed-0", "seed: 0", "logger: {kind: wandb, project: one, entity: null}")
    written_run(folder / "seed-1", "seed: 1", "logger: {kind: wandb, project: two, entity: null}")
    with pytest.raises(DashboardError, match=r"logger\.project is one, two; choose one with --project"):
        in_wandb(folder)
    found = in_wandb(folder, project="two")
    assert (found.project, found.entity, found.n_runs, found.n_points) == ("two", None, 2, 1)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: LocalLogger(folder / "seed-0").write_summary({"status": "finished"}), "logger=wandb_offline"),
        (lambda folder: written_run(folder / "seed-0", "seed: 0", "logger: {kind: local}"), "--project"),
        (lambda folder: written_run(folder / "seed-0", "seed: {"), r"config\.yaml is damaged"),
    ],
)
def test_what_is_missing_is_said(prepare: Any, message: str, tmp_path: Path) -> None:
    prepare(tmp_path / "grid")
    with pytest.raises(DashboardError, match=message):
        in_wandb(tmp_path / "grid")


def test_a_name_that_filters_would_misread_is_refused(tmp_path: Path) -> None:
    for name in ("a=1", "gäp"):
        written_run(tmp_path / name / "seed-0", "seed: 0", "logger: {project: cql}")
        with pytest.raises(DashboardError, match="letters, digits, dots"):
            in_wandb(tmp_path / name)


# The script -----------------------------------------------------------------------------------------------------------


class Server:
    """As much of W&B's server as keeps workspaces."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}

    def __call__(self, _: Any, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            identity = variables.get("id") or f"view-{len(self.views)}"
            self.views[identity] = dict(variables)
            return {"upsertView": {"view": {"id": identity, "name": variables["name"]}}}
        nodes = [
            {"node": {"id": identity, "displayName": view["displayName"], "spec": view["spec"]}}
            for identity, view in self.views.items()
            if view["name"] == variables["viewName"]
        ]
        return {"project": {"allViews": {"edges": nodes}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    import wandb
    from wandb_workspaces.workspaces import internal

    api = SimpleNamespace(default_entity="me", client=SimpleNamespace(app_url="https://wandb.test"))
    monkeypatch.setattr(wandb, "Api", lambda: api)
    monkeypatch.setattr(internal, "execute_graphql", found := Server())
    return found


@pytest.fixture
def script() -> ModuleType:
    return load_script("dashboard")


@pytest.fixture
def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the script; gives its exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dashboard.py", *arguments])
        code = script.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_without_a_key_the_workspace_is_written_and_how_to_save_it_is_said(
    call: Any, sweep: Path, tmp_path: Path, server: Server
) -> None:
    code, out, _ = call(str(sweep), "--json", str(tmp_path / "w.json"), "--project", "other")
    assert code == 0
    assert "4 runs of 2 points" in out
    assert f"python scripts/dashboard.py {sweep} --project other --json {tmp_path / 'w.json'}" in out
    assert "wandb login" in out
    stored = json.loads((tmp_path / "w.json").read_text())
    assert stored["address"] is None
    assert stored["workspace"]["project"] == "other"
    assert server.views == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.json"]


def test_with_a_key_it_is_saved_once_and_then_renewed(
    call: Any, sweep: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    code, out, _ = call(str(sweep), "--dry-run")
    assert code == 0
    assert "--dry-run" in out
    assert server.views == {}
    code, out, _ = call(str(sweep))
    assert code == 0
    ((identity, view),) = server.views.items()
    assert (view["entityName"], view["projectName"]) == ("team", "cql-tests")
    address = json.loads((sweep / "dashboard.json").read_text())["address"]
    assert address.startswith("https://wandb.test/team/cql-tests?nw=")
    assert f"saved: {address}" in out

    spec = json.loads(view["spec"])
    spec["section"]["panelBankConfig"]["sections"] = []
    server.views[identity]["spec"] = json.dumps(spec)  # somebody has emptied it
    assert call(str(sweep))[0] == 0
    ((_, renewed),) = server.views.items()
    assert "best_eval_score" in renewed["spec"]

    server.views.clear()
    assert call(str(sweep))[0] == 0
    assert len(server.views) == 1


def test_a_server_that_refuses_is_said_and_the_workspace_written(
    call: Any, sweep: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(Server, "__call__", refuse)
    code, _, err = call(str(sweep), "--json", str(tmp_path / "w.json"))
    assert code == 1
    assert "no route to host" in err
    assert "to save it then: python scripts/dashboard.py" in err
    assert (tmp_path / "w.json").exists()


def test_a_missing_package_is_named_with_its_extra(
    call: Any, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    code, _, err = call(str(sweep), "--json", str(tmp_path / "w.json"))
    assert code == 2
    assert "pip install -e '.[dashboard]'" in err
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_user_are_messages(call: Any, sweep: Path, tmp_path: Path) -> None:
    code, _, err = call(str(tmp_path / "nowhere"))
    assert (code, "is neither a folder nor the name of a sweep" in err) == (2, True)
    LocalLogger(tmp_path / "local" / "seed-0").write_summary({"status": "finished"})
    code, _, err = call(str(tmp_path / "local"))
    assert (code, "logger=wandb" in err) == (2, True)
    code, _, err = call(str(sweep), "--json", str(tmp_path / "nowhere" / "w.json"))
    assert (code, "nowhere" in err) == (2, True)


# The report -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    """A report's folder and what is in it."""
    folder = tmp_path / "my report"
    (folder / "tables").mkdir(parents=True)
    page, figure, data = folder / "index.html", folder / "curves.png", folder / "tables" / "scores.csv"
    page.write_text("<p>report</p>")
    data.write_text("arm,score\n")
    Image.new("RGB", (8, 8)).save(figure)
    other = tmp_path / "elsewhere.md"
    other.write_text("# report\n")
    return {
        "folder": folder,
        "files": [page, figure, data, other],
        "table": [{"arm": "cql", "score": 41.5}, {"arm": "bc", "score": None}],
        "figures": [figure],
        "project": "cql-tests",
    }


def test_a_report_is_one_run_with_a_table_figures_and_files(report: dict[str, Any]) -> None:
    said, arrived = log_report(**report, mode="auto", sweep="grid")
    assert arrived  # offline, as no key is known
    (run,) = offline_runs(report["folder"] / REPORT_FOLDER)
    assert (run.name, run.job_type, run.group, run.tags) == ("report", "report", "grid", ["grid"])
    assert (run.project, run.exit_code, run.config["sweep"]) == ("cql-tests", 0, "grid")
    ((table,),) = run.rows("results")
    stored = json.loads((run.folder / "files" / table["path"]).read_text())
    assert (stored["columns"], stored["data"]) == (["arm", "score"], [["cql", 41.5], ["bc", None]])
    ((figure,),) = run.rows("curves")
    assert figure["_type"] == "image-file"
    assert ("report-grid", "report") in run.artifacts
    assert "wandb sync " in said
    assert run.folder.samefile(shlex.split(said)[-1])


def test_a_report_given_again_is_the_same_run(report: dict[str, Any]) -> None:
    for _ in range(2):
        log_report(**report)
    first, second = offline_runs(report["folder"] / REPORT_FOLDER)
    assert first.id == second.id
    assert [row["_step"] for run in (first, second) for row in run.history] == [6, 7, 8, 9]
    assert (second.tags, second.artifacts[-1]) == (["my report"], ("report-my_report", "report"))


def test_any_name_of_a_sweep_makes_one_of_an_artifact(report: dict[str, Any]) -> None:
    log_report(**report, sweep="α " + 60 * "long")
    (run,) = offline_runs(report["folder"] / REPORT_FOLDER)
    assert run.artifacts[-1] == (("report-__" + 60 * "long")[:128], "report")


def test_a_report_in_a_runs_folder_leaves_its_wandb_run_alone(report: dict[str, Any]) -> None:
    state = report["folder"] / "wandb.json"
    state.write_text('{"id": "of-the-run", "rows": 7}')
    log_report(**report)
    assert json.loads(state.read_text()) == {"id": "of-the-run", "rows": 7}
    (run,) = offline_runs(report["folder"] / REPORT_FOLDER)
    assert run.id != "of-the-run"


def test_files_keep_their_places_in_the_artifact(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    names: list[str | None] = []
    monkeypatch.setattr(wandb.Artifact, "add_file", lambda *_, name=None: names.append(name))
    log_report(**{**report, "table": [], "figures": []})
    assert names == ["index.html", "curves.png", "tables/scores.csv", "elsewhere.md"]


def test_what_wandb_raises_stays_a_warning(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the pipe is broken")

    with monkeypatch.context() as broken:
        broken.setattr(wandb.Run, "log_artifact", fail)
        line, arrived = log_report(**report)
        assert ("the report was not logged to W&B" in line, arrived) == (True, False)
    assert [record.levelno for record in caplog.records if "the pipe is broken" in record.getMessage()] == [
        logging.WARNING
    ]
    monkeypatch.setattr(wandb, "init", fail)
    assert log_report(**report) == ("W&B is switched off", False)


def test_nothing_is_sent_where_wandb_is_off_or_a_file_is_missing(report: dict[str, Any]) -> None:
    assert log_report(**report, mode="disabled") == ("W&B is switched off", True)
    with pytest.raises(FileNotFoundError, match=r"gone\.md does not exist"):
        log_report(**{**report, "files": [report["folder"] / "gone.md"]})
    assert not (report["folder"] / REPORT_FOLDER).exists()
