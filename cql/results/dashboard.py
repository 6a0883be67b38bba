"""A sweep's place in Weights & Biases: a workspace made for it, and a run that carries its report.

``dashboard.json``  in the sweep's folder: the workspace as it was last built, and its address once it has been saved
``wandb_report/``   in the report's folder: the W&B run that carries it

``wandb`` and ``wandb_workspaces`` are imported where they are used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cql.config.points import SEED, without_seed
from cql.results.runs import ResultsError, read_run
from cql.sweep.status import SWEEP_FILE, read_sweep
from cql.training.loggers import N_LAST_EVALUATIONS, VIDEO_KEY, WANDB_FILE, open_wandb, wandb_tag

DASHBOARD_FILE = "dashboard.json"
REPORT = "report"
REPORT_FOLDER = "wandb_report"

# What the summary of a run in W&B has of its evaluations, before `eval_score` and `eval_return_mean`.
_OUTCOMES = {
    "": "last evaluation",
    "best_": "best evaluation",
    f"last{N_LAST_EVALUATIONS}_": f"mean of the last {N_LAST_EVALUATIONS} evaluations",
}
_JUDGED = f"last{N_LAST_EVALUATIONS}_"
_SECTIONS = {
    "Coefficients": ("alpha_cql", "alpha_temp"),
    "Q values": ("q_data", "q_policy", "q_uniform"),
    "Conservative gap": ("cql_gap", "cql_residual"),
    "Critics and policy": ("critic_td", "entropy"),
}
# What a run's config leaves to be found out, or names by the kind of `alpha_cql`, its copy in W&B has once more, as the
# run used it.
_AS_USED = {
    "algorithm.alpha_cql.value": "coefficients.alpha_cql",
    "algorithm.alpha_cql.initial_value": "coefficients.alpha_cql",
    "algorithm.alpha_cql.tau_cql": "coefficients.tau_cql",
}


class DashboardError(ValueError):
    """There is nothing to make a dashboard of, or nothing to make it with."""


# The workspace --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepInWandb:
    """What a sweep's workspace depends on.

    Attributes:
        name: of the sweep, by which its runs are tagged.
        project: W&B project.
        entity: W&B user or team; None is the key's own.
        varied: keys of the runs' config in W&B that differ between runs, besides the seed.
        scored: whether every run's environment has reference scores.
        filmed: whether any run is filmed.
        n_runs: how many of its runs are in W&B.
        n_points: how many of its points are, each with one run a seed.
    """

    name: str
    project: str
    entity: str | None
    varied: tuple[str, ...]
    scored: bool
    filmed: bool
    n_runs: int
    n_points: int


def in_wandb(folder: Path, *, project: str | None = None, entity: str | None = None) -> SweepInWandb:
    """Read from a sweep's folder what of it is in W&B, or will be when it is synced.

    Args:
        folder: of the sweep.
        project: None takes the one of the runs' configs.
        entity: likewise.

    Raises:
        DashboardError: no run of the sweep is in W&B, their configs do not agree on a project, one of their files is
            damaged, or the sweep's name is none that W&B's filters can hold.
    """
    name = folder.resolve().name
    if re.search(r"[^\w.-]", name, re.ASCII):
        raise DashboardError(
            f"{folder}: a sweep with a dashboard has a name of letters, digits, dots, dashes and underscores, as a "
            "sweep_name is; W&B's filters read others as operators"
        )
    directories = [folder / run.name for run in read_sweep(folder) if (folder / run.name / WANDB_FILE).exists()]
    if not directories:
        raise DashboardError(
            f"no run of {folder} is in W&B: they were trained with logger=local or logger.mode=disabled. Give the "
            "sweep's command with logger=wandb, or logger=wandb_offline and `wandb sync` later; in this sweep's own "
            "folder that sends the runs which have not ended yet"
        )
    try:
        configs = [read_run(directory).config for directory in directories]
    except ResultsError as error:
        raise DashboardError(str(error)) from error
    project, entity = place(configs, project=project, entity=entity)
    return SweepInWandb(
        name=name,
        project=project,
        entity=entity,
        varied=varied_keys(configs, _swept(folder)),
        scored=all(config.get("env.reference.min_score") is not None for config in configs),
        filmed=any(config.get("video.enabled") for config in configs),
        n_runs=len(directories),
        n_points=len({without_seed(directory.name) for directory in directories}),
    )


def place(
    configs: Sequence[Mapping[str, Any]], *, project: str | None = None, entity: str | None = None
) -> tuple[str, str | None]:
    """The W&B project and entity of runs.

    Args:
        configs: with dotted keys, one a run.
        project: None takes the one of the configs.
        entity: likewise; where they have none, None, which is the key's own.

    Raises:
        DashboardError: the configs do not agree on one, or have no project.
    """
    project, entity = _agreed("project", project, configs), _agreed("entity", entity, configs)
    if project is None:
        raise DashboardError("no config of the runs has a logger.project; name W&B's project with --project")
    return project, entity


def varied_keys(configs: Sequence[Mapping[str, Any]], swept: Sequence[str] = ()) -> tuple[str, ...]:
    """The keys of the runs' config in W&B that can be the axes of a plot: every run has a value, and they differ.

    Of keys that differ in step with another one, as all of ``env`` does with the dataset, one is enough, unless the
    sweep's command names them.

    Args:
        configs: with dotted keys, one a run.
        swept: keys that the command varies, which may be those of whole groups.
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
            case "coefficients.tau_cql":  # absent where alpha_cql is fixed
                is_complete = all(key in config for config in configs)
            case _:
                is_complete = all(isinstance(value, (str, int, float)) for value in values)
        if is_complete and as_used not in varied and (is_swept(key) or partition not in partitions):
            varied.append(as_used)
            partitions.append(partition)
    return tuple(varied)


def workspace(sweep: SweepInWandb) -> Any:
    """The workspace of a sweep, a ``wandb_workspaces.workspaces.Workspace``, built without a server.

    Its runs are those with the sweep's tag, without its report; they are grouped by point, so that each curve is a mean
    over seeds with the band from the lowest to the highest.

    Raises:
        DashboardError: ``wandb_workspaces`` is not installed.
    """
    ws, wr, expr = _wandb_workspaces()
    judged = "eval_score" if sweep.scored else "eval_return_mean"
    by_point: dict[str, Any] = {
        "groupby": wr.Metric("Group"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
        "max_runs_to_show": sweep.n_runs,
    }

    def curve(metric: str, title: str | None = None) -> Any:
        return wr.LinePlot(title=title or metric, x="step", y=[metric], title_x="gradient steps", **by_point)

    def bars(outcome: str, title: str) -> Any:
        return wr.BarPlot(title=title, metrics=[f"{outcome}{judged}"], max_bars_to_show=sweep.n_points, **by_point)

    evaluations = [curve("eval_score", "normalised score")] if sweep.scored else []
    evaluations.append(curve("eval_return_mean", "return"))
    sections = [
        ws.Section(name="Evaluations", panels=evaluations, is_open=True),
        ws.Section(name="Outcomes", panels=[bars(*each) for each in _OUTCOMES.items()], is_open=True),
    ]
    if sweep.varied:
        axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), display_name=key) for key in sweep.varied]
        axes.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(f"{_JUDGED}{judged}")))
        plots = [
            wr.ParallelCoordinatesPlot(title="each run's settings and outcome", columns=axes),
            wr.ParameterImportancePlot(with_respect_to=f"{_JUDGED}{judged}"),
        ]
        sections.append(ws.Section(name="Settings", panels=plots, is_open=True))
    for name, metrics in _SECTIONS.items():
        sections.append(ws.Section(name=name, panels=[curve(metric) for metric in metrics], is_open=True))
    if sweep.filmed:
        films = wr.MediaBrowser(title="rollouts", media_keys=[VIDEO_KEY], num_columns=4)
        sections.append(ws.Section(name="Rollouts", panels=[films], is_open=False))
    return ws.Workspace(
        entity=sweep.entity or "",
        project=sweep.project,
        name=f"sweep {sweep.name}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=sweep.n_runs),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Tags().isin([wandb_tag(sweep.name)]), expr.Metric("JobType") != REPORT),
            groupby=[expr.Metric("Group")],
            order=[expr.Ordering(expr.Summary(f"{_JUDGED}{judged}"), ascending=False)],
            pinned_columns=[f"summary:{outcome}{judged}" for outcome in _OUTCOMES],
        ),
    )


def _wandb_workspaces() -> tuple[Any, Any, Any]:
    """Its rooms for workspaces, panels and filters; as Any, for its types are not all exported."""
    try:
        from wandb_workspaces import expr, workspaces
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise DashboardError(
            f"{error}: W&B's workspaces need another package; install it with: pip install -e '.[dashboard]'"
        ) from error
    return workspaces, v2, expr


def save(built: Any, address: str | None = None) -> str:
    """Save a workspace to W&B, which needs a key and a network; any exception of W&B's is raised.

    Args:
        built: of :func:`workspace`.
        address: of a saved one, which takes the place's contents instead of a new one being made. One that is there no
            more is made anew.

    Returns:
        Its address.
    """
    import wandb

    target = built
    if not built.entity:
        built.entity = wandb.Api().default_entity
    if address is not None:
        try:
            target = type(built).from_url(address)
        except Exception:  # noqa: BLE001  W&B raises what it likes where a workspace has been deleted
            target = built
        else:
            target.name, target.sections = built.name, built.sections
            target.settings, target.runset_settings = built.settings, built.runset_settings
    target.save()
    return str(target.url)


def write(path: Path, built: Any, address: str | None) -> None:
    """Write a workspace, in the form in which W&B is given it, and its address where it has one.

    Raises:
        FileNotFoundError: the path's folder does not exist.
    """
    model = json.loads(built._to_model().model_dump_json(by_alias=True, exclude_none=True))
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"address": address, "workspace": model}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def saved_address(path: Path) -> str | None:
    """The address of the workspace that was saved last, None where none was."""
    try:
        address = json.loads(path.read_bytes())["address"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return address if isinstance(address, str) else None


def _agreed(key: str, chosen: str | None, configs: Sequence[Mapping[str, Any]]) -> str | None:
    if chosen is not None:
        return chosen
    found = sorted({str(config[f"logger.{key}"]) for config in configs if config.get(f"logger.{key}") is not None})
    if len(found) > 1:
        raise DashboardError(
            f"the runs are in several W&B places: logger.{key} is {', '.join(found)}; choose one with --{key}"
        )
    return found[0] if found else None


def _swept(folder: Path) -> list[str]:
    """The keys that the sweep's command varies, as far as its folder tells."""
    try:
        swept = json.loads((folder / SWEEP_FILE).read_bytes())["swept"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    return [str(key) for key in swept]


# The report -----------------------------------------------------------------------------------------------------------


def log_report(
    folder: Path,
    files: Sequence[Path],
    *,
    project: str,
    entity: str | None = None,
    mode: str = "auto",
    sweep: str | None = None,
    table: Sequence[Mapping[str, object]] = (),
    figures: Sequence[Path] = (),
) -> str:
    """Give a report to W&B, as the run ``report`` of its sweep; for the same folder always as the same run.

    The table arrives as ``results``, each figure under its file's name without the ending, and all files together as
    the next version of one artifact. Whatever W&B raises is logged as a warning and goes no further.

    Args:
        folder: of the report. What belongs to the W&B run is kept in ``wandb_report/`` in it.
        files: of the report, in the folder or elsewhere.
        project: W&B project.
        entity: W&B user or team; None is the key's own.
        mode: see :func:`cql.training.loggers.open_wandb`.
        sweep: group and tag; None is the folder's name.
        table: rows, by their columns.
        figures: pictures to be shown.

    Returns:
        One line for people: where the run is, and where W&B is offline, which command uploads it.

    Raises:
        FileNotFoundError: one of the files or figures does not exist; W&B has been told nothing then.
        ValueError: the mode, or WANDB_MODE, is none that there is.
    """
    for path in (*files, *figures):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is to go into W&B's report, but is not there")
    name = sweep or folder.resolve().name
    with open_wandb(
        folder / REPORT_FOLDER,
        config={"sweep": name},
        project=project,
        entity=entity,
        group=name,
        job_type=REPORT,
        tags=[name],
        name=REPORT,
        mode=mode,
    ) as logger:
        if not logger.active:
            return logger.place
        if table:
            logger.log_table("results", table)
        for figure in figures:
            logger.log_figure(figure)
        if files:
            # W&B takes these letters, and as many.
            artifact = re.sub(r"[^\w.-]", "_", f"{REPORT}-{name}", flags=re.ASCII)[:128]
            logger.log_artifact({_inside(path, folder): path for path in files}, artifact, REPORT)
        return logger.place if logger.active else "W&B could not be given the report: see the warning above"


def _inside(path: Path, folder: Path) -> str:
    """A file's name in the artifact: its path in the report's folder, or its own name where it is elsewhere."""
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
