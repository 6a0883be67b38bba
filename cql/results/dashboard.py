"""A workspace in Weights & Biases for a sweep.

``dashboard.json`` in the sweep's folder holds the workspace as it was last built, and its address once it was saved.
``wandb`` and ``wandb_workspaces`` are imported only when needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cql import files
from cql.config import SWEEP_FILE
from cql.config.schema import NO_SIMULATOR
from cql.points import SEED, without_seed
from cql.results.runs import ResultsError, read_run
from cql.scorer_names import DIRECTIONS, PREFIX
from cql.sweep.status import read_sweep
from cql.training.local_logger import N_LAST_EVALUATIONS
from cql.training.wandb_logger import VIDEO_KEY, WANDB_FILE, wandb_text

DASHBOARD_FILE = "dashboard.json"
REPORT = "report"
"""Job type of the run that carries a sweep's report."""

# Prefixes of `eval_score` and `eval_return_mean` in the summary of a run in W&B.
_JUDGED = f"last{N_LAST_EVALUATIONS}_"
_OUTCOMES = {
    "": "last evaluation",
    "best_": "best evaluation",
    _JUDGED: f"mean of the last {N_LAST_EVALUATIONS} evaluations",
}
_SECTIONS = {
    "Coefficients": ("alpha_cql", "alpha_temp"),
    "Q values": ("q_data", "q_policy", "q_uniform"),
    "Conservative gap": ("cql_gap", "cql_residual"),
    "Critics and policy": ("critic_td", "entropy"),
}
# The config in W&B has these values a second time, under one name for all kinds of `alpha_cql` and as the run used
# them if the config leaves them to be derived.
_AS_USED = {
    "algorithm.alpha_cql.value": "coefficients.alpha_cql",
    "algorithm.alpha_cql.initial_value": "coefficients.alpha_cql",
    "algorithm.alpha_cql.tau_cql": "coefficients.tau_cql",
}


class DashboardError(ValueError):
    """There is nothing to make a dashboard of, or a package is missing."""


@dataclass(frozen=True)
class SweepInWandb:
    """What a sweep's workspace depends on.

    Attributes:
        name: Name of the sweep, with which its runs are tagged.
        project: W&B project.
        entity: W&B user or team; None is the one of the API key.
        varied: Keys of the runs' config in W&B that differ between runs, besides the seed.
        scored: Whether every run's environment has reference scores.
        has_videos: Whether any run records videos.
        is_calibrated: Whether any run's penalty has the floor of Cal-QL.
        is_online: Whether the training of any run continues in the environment.
        n_runs: Number of its runs in W&B.
        n_points: Number of its points in W&B, each with one run per seed.
        has_simulator: Whether any run was evaluated in an environment.
        scorer: Without a simulator: the scorer that all runs are judged by; None if there is none.
    """

    name: str
    project: str
    entity: str | None
    varied: tuple[str, ...]
    scored: bool
    has_videos: bool
    is_calibrated: bool
    is_online: bool
    n_runs: int
    n_points: int
    has_simulator: bool = True
    scorer: str | None = None


def in_wandb(folder: Path, *, project: str | None = None, entity: str | None = None) -> SweepInWandb:
    """Read from a sweep's folder which of its runs are in W&B, or will be when they are synced.

    Args:
        folder: The sweep's folder.
        project: W&B project; None takes it from the runs' configs.
        entity: W&B user or team; None takes it from the runs' configs.

    Raises:
        DashboardError: No run of the sweep is in W&B, the configs disagree on the project or the entity, a file of a
            run is damaged, or W&B's filters would misread the sweep's name.
    """
    name = folder.resolve().name
    if re.search(r"[^\w.-]", name, re.ASCII):
        raise DashboardError(
            f"{folder}: W&B's filters would read a character of this name as an operator. Rename the folder: letters, "
            "digits, dots, dashes and underscores"
        )
    directories = [folder / run.name for run in read_sweep(folder) if (folder / run.name / WANDB_FILE).exists()]
    if not directories:
        raise DashboardError(
            f"no run of {folder} is in W&B: they were trained with logger=local or logger.mode=disabled. Give the "
            "sweep's command again with logger=wandb, or with logger=wandb_offline and run `wandb sync` later; in the "
            "same folder this sends the runs that have not ended yet"
        )
    try:
        configs = [read_run(directory).config for directory in directories]
    except ResultsError as error:
        raise DashboardError(str(error)) from error
    project, entity = place(configs, project=project, entity=entity)
    has_simulator = any(config.get("env.id") != NO_SIMULATOR for config in configs)
    scorers = {config.get("env.best_by") for config in configs}
    return SweepInWandb(
        name=name,
        project=project,
        entity=entity,
        varied=varied_keys(configs, _swept(folder)),
        scored=all(config.get("env.reference") is not None for config in configs),
        has_videos=has_simulator and any(config.get("video.enabled") for config in configs),
        is_calibrated=any(config.get("algorithm.penalty.kind") == "cal_ql" for config in configs),
        is_online=any(config.get("online.kind") == "finetune" for config in configs),
        n_runs=len(directories),
        n_points=len({without_seed(directory.name) for directory in directories}),
        has_simulator=has_simulator,
        scorer=scorers.pop() if len(scorers) == 1 else None,
    )


def place(
    configs: Sequence[Mapping[str, Any]], *, project: str | None = None, entity: str | None = None
) -> tuple[str, str | None]:
    """Find the W&B project and entity of runs.

    Args:
        configs: One config per run, with dotted keys.
        project: W&B project; None takes it from the configs.
        entity: W&B user or team; None takes it from the configs, or is the one of the API key if they have none.

    Raises:
        DashboardError: The configs disagree, or have no project.
    """
    project, entity = _agreed("project", project, configs), _agreed("entity", entity, configs)
    if project is None:
        raise DashboardError("no config of the runs has a logger.project; name W&B's project with --project")
    return project, entity


def _agreed(key: str, chosen: str | None, configs: Sequence[Mapping[str, Any]]) -> str | None:
    if chosen is not None:
        return chosen
    found = sorted({str(config[f"logger.{key}"]) for config in configs if config.get(f"logger.{key}") is not None})
    if len(found) > 1:
        raise DashboardError(f"the runs disagree: logger.{key} is {', '.join(found)}; choose one with --{key}")
    return found[0] if found else None


def varied_keys(configs: Sequence[Mapping[str, Any]], swept: Sequence[str] = ()) -> tuple[str, ...]:
    """Find the keys of the runs' config in W&B that can be axes of a plot: every run has a value, and they differ.

    Some keys differ together, as all of ``env`` does with the dataset. One of them is enough, unless the sweep's
    command names several.

    Args:
        configs: One config per run, with dotted keys.
        swept: Keys that the command varies; they may be those of whole groups.
    """

    def is_swept(key: str) -> bool:
        return any(f"{key}.".startswith(f"{each}.") for each in swept)

    keys = dict.fromkeys(key for config in configs for key in config)
    varied: list[str] = []
    partitions: list[list[int]] = []
    for key in sorted(keys, key=lambda key: not is_swept(key)):
        values = [config.get(key) for config in configs]
        partition = [values.index(value) for value in values]
        if key == SEED or key.startswith("logger.") or len(set(partition)) == 1:
            continue
        as_used = _AS_USED.get(key, key)
        match as_used:
            case "coefficients.alpha_cql":
                is_complete = True
            case "coefficients.tau_cql":  # absent if alpha_cql is fixed
                is_complete = all(key in config for config in configs)
            case _:
                is_complete = all(isinstance(value, (str, int, float)) for value in values)
        if is_complete and as_used not in varied and (is_swept(key) or partition not in partitions):
            varied.append(as_used)
            partitions.append(partition)
    return tuple(varied)


def _swept(folder: Path) -> list[str]:
    """Keys that the sweep's command varies, as far as its folder tells."""
    swept = _read_json(folder / SWEEP_FILE).get("swept")
    return [str(key) for key in swept] if isinstance(swept, list) else []


def workspace(sweep: SweepInWandb) -> Any:
    """Build the workspace of a sweep, a ``wandb_workspaces.workspaces.Workspace``; needs no server.

    It shows the runs that have the sweep's tag, without its report. They are grouped by point, so each curve is a mean
    over seeds with a band from the lowest to the highest.

    Raises:
        DashboardError: ``wandb_workspaces`` is not installed.
    """
    ws, wr, expr = _wandb_workspaces()
    judged, shown = "eval_score" if sweep.scored else "eval_return_mean", _OUTCOMES
    chosen = f"{_JUDGED}{judged}"
    if not sweep.has_simulator:
        judged, chosen = f"{PREFIX}{sweep.scorer}", "objective"
        shown = {which: title for which, title in _OUTCOMES.items() if sweep.scorer and which != _JUDGED}
    by_point: dict[str, Any] = {
        "groupby": wr.Metric("Group"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
        "max_runs_to_show": sweep.n_runs,
    }

    def curve(metric: str, title: str | None = None, x: str = "step", title_x: str = "gradient steps") -> Any:
        return wr.LinePlot(title=title or metric, x=x, y=[metric], title_x=title_x, **by_point)

    def bars(metric: str, title: str) -> Any:
        return wr.BarPlot(title=title, metrics=[metric], max_bars_to_show=sweep.n_points, **by_point)

    evaluations = [curve("eval_score", "normalised score")] if sweep.scored else []
    evaluations.append(curve("eval_return_mean", "return"))
    if not sweep.has_simulator:
        evaluations = [curve(f"{PREFIX}{name}") for name in DIRECTIONS]
    outcomes = [bars(f"{outcome}{judged}", title) for outcome, title in shown.items()]
    sections = [
        ws.Section(name="Evaluations", panels=evaluations, is_open=True),
        ws.Section(name="Outcomes", panels=outcomes, is_open=True),
    ]
    if sweep.varied:
        axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), display_name=key) for key in sweep.varied]
        axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(chosen)))
        plots = [
            wr.ParallelCoordinatesPlot(title="each run's settings and outcome", columns=axes),
            wr.ParameterImportancePlot(with_respect_to=chosen),
        ]
        sections.append(ws.Section(name="Settings", panels=plots, is_open=True))
    if sweep.is_online:
        over = {"x": "env_steps", "title_x": "environment steps"}
        plots = [curve(judged, "evaluation", **over), curve("online_return", "return of training episodes", **over)]
        if sweep.scored:
            plots.append(bars("regret", "regret"))
        sections.append(ws.Section(name="In the environment", panels=plots, is_open=True))
    calibrated = {"Conservative gap": ("cql_gap", "cql_residual", "floor_share")} if sweep.is_calibrated else {}
    for name, metrics in (_SECTIONS | calibrated).items():
        sections.append(ws.Section(name=name, panels=[curve(metric) for metric in metrics], is_open=True))
    if sweep.has_videos:
        videos = wr.MediaBrowser(title="rollouts", media_keys=[VIDEO_KEY], num_columns=4)
        sections.append(ws.Section(name="Rollouts", panels=[videos], is_open=False))
    return ws.Workspace(
        entity=sweep.entity or "",
        project=sweep.project,
        name=f"sweep {sweep.name}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=sweep.n_runs),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Tags().isin([wandb_text("tags", sweep.name)]), expr.Metric("JobType") != REPORT),
            groupby=[expr.Metric("Group")],
            order=[expr.Ordering(expr.Summary(chosen), ascending=False)],
            pinned_columns=[f"summary:{outcome}{judged}" for outcome in shown],
        ),
    )


def _wandb_workspaces() -> tuple[Any, Any, Any]:
    """Its modules for workspaces, panels and filters; as Any, since not all their types are exported."""
    try:
        from wandb_workspaces import expr, workspaces
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise DashboardError(
            f"{error}: W&B's workspaces need another package; install it with: pip install -e '.[dashboard]'"
        ) from error
    return workspaces, v2, expr


def save(built: Any, address: str | None = None) -> str:
    """Save a workspace to W&B. This needs an API key and a network, and raises whatever W&B raises.

    Args:
        built: The result of :func:`workspace`.
        address: Address of a saved workspace, whose contents are replaced. If it was deleted, a new one is made.

    Returns:
        The workspace's address.
    """
    import wandb

    target = built
    if not built.entity:
        built.entity = wandb.Api().default_entity
    if address is not None:
        try:
            target = type(built).from_url(address)
        except Exception:  # noqa: BLE001  W&B documents no error for a workspace that was deleted
            target = built
        else:
            target.name, target.sections = built.name, built.sections
            target.settings, target.runset_settings = built.settings, built.runset_settings
    target.save()
    return str(target.url)


def write(path: Path, built: Any, address: str | None) -> None:
    """Write a workspace in the form that W&B receives, and its address if it has one.

    Raises:
        FileNotFoundError: The path's folder does not exist.
    """
    model = json.loads(built._to_model().model_dump_json(by_alias=True, exclude_none=True))
    files.write_text(path, json.dumps({"address": address, "workspace": model}, indent=1) + "\n")


def saved_address(path: Path) -> str | None:
    """Address of the workspace that was saved last; None if none was saved."""
    address = _read_json(path).get("address")
    return address if isinstance(address, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none."""
    try:
        found = json.loads(files.contents(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
