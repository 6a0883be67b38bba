"""A report on runs: a page, tables and figures that say which arm is better, by how much, and how sure that is."""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from cql.files import contents, write_text
from cql.results import doctor, figures, pages, selection, selection_figures, statistics, writers
from cql.results.comparison import Comparison
from cql.results.groups import NOT_BEGUN, Group, Results
from cql.results.runs import STATISTICS, Run, Statistic, mean_success, overrides_of, provenance_of, shown_value
from cql.results.verdict import FEW_SEEDS, evaluation, verdict
from cql.scorer_names import PREFIX
from cql.sweep.status import counted
from cql.training.curves import SERIES
from cql.training.local_logger import (
    EPISODES_FILE,
    METRICS_FILE,
    N_LAST_EVALUATIONS,
    SUMMARY_FILE,
    YARDSTICKS,
    read_episodes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Videos = Literal["embed", "link", "none"]

MEANINGS = {
    "last": "the last evaluation of each run",
    "best": "the best evaluation of each run, selected by the value it reports and so biased upwards",
    "last five": "the mean of each run's last five evaluations",
}
ONLINE_HEADER = ["task", "arm", "offline", "final", "regret"]
_OF_LINES = ("learning_curves", "online_curves", "profiles", "diagnostics_")  # figures that do not name the arms
_VIDEO_SIZE, _VIDEO_FRAMES, _VIDEO_COLOURS = 150, 24, 40  # of an embedded video: pixels, frames, colours
_MOST_VIDEOS = 40
_MOST_NAMED = 12  # runs that share a finding
_NOTES = {
    f"{YARDSTICKS}.return_{name}": f"{words} discounted return in the data"
    for name, words in (("min", "smallest"), ("mean", "mean"), ("max", "largest"))
} | {f"{YARDSTICKS}.episode_return": "mean return of a recorded episode, undiscounted"}


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: ``index.html``.
        files: all of them, the page included.
        rows: of the table, for other uses.
        figures: PNG files.
    """

    page: Path
    files: tuple[Path, ...]
    rows: tuple[dict[str, object], ...]
    figures: tuple[Path, ...]


def write_report(
    results: Results,
    folder: Path,
    *,
    title: str,
    command: str,
    statistic: Statistic = "last",
    base: str | None = None,
    videos: Videos = "embed",
) -> Report:
    """Write ``index.html``, ``table.md``, ``table.tex``, ``table.csv``, ``episodes.csv`` and ``figures/`` to a folder.

    Args:
        results: of the runs.
        folder: created if it does not exist; files of an earlier report are replaced.
        title: heading of the page.
        command: that made the report.
        statistic: the evaluations that figures and comparisons show; the tables have all of them.
        base: the arm that others are compared with; None takes ``base`` if there is one, else the first.
        videos: put one video of each group into the page, link to it, or leave videos out.

    Raises:
        ValueError: there is no arm named ``base``; the message lists the arms.
    """
    compared = Comparison.of(results, statistic, base)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    shown: dict[str, str] = {}
    written: list[Path] = []
    for name, figure in _drawn(compared).items():
        if figure is not None:
            if name.startswith(_OF_LINES):  # in the page one legend serves several figures
                shown[name] = figures.svg(figure)
                arms = compared.arms if name == "profiles" else results.arms
                figures.add_legend(figure, arms, figures.styles_of(results.arms))
            paths = figures.save(figure, folder / "figures", name)
            shown.setdefault(name, paths[0].read_text(encoding="utf-8"))
            written += paths
    rows = compared.rows()
    texts = {
        "table.csv": writers.csv_text(rows),
        "table.md": markdown(compared),
        "table.tex": latex(compared),
        "episodes.csv": writers.csv_text(episodes(results)),
        **_judgements(compared),
        "index.html": _Page(compared, shown, folder, videos).render(title, command, rows),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    page, *others = (folder / name for name in reversed(texts))
    return Report(page, (page, *others, *written), tuple(rows), tuple(p for p in written if p.suffix == ".png"))


def _judgements(compared: Comparison) -> dict[str, str]:
    """``judgements.csv``, if runs were judged without an environment."""
    rows = [row for each in compared.selections for row in selection.rows(each)]
    return {"judgements.csv": writers.csv_text(rows)} if rows else {}


def _drawn(compared: Comparison) -> dict[str, Figure | None]:
    """The figures by the names of their files."""
    results = compared.results
    return {
        "learning_curves": figures.learning_curves(results),
        "online_curves": figures.online_curves(results),
        "heat_map": figures.heat_maps(compared, lambda group: f"#{identity(group)}"),
        **{f"over_{_file_safe(key)}": figures.over_number(compared, key) for key in results.numeric_axes()},
        "outcomes": figures.outcomes(compared),
        "differences": figures.differences(compared),
        "aggregates": figures.aggregates(compared),
        "profiles": figures.profiles(compared),
        "improvement": figures.improvements(compared),
        **{f"diagnostics_{_file_safe(task)}": figures.diagnostics(results, task) for task in results.tasks},
        **{
            f"{name}_{_file_safe(each.task)}": figure
            for each in compared.selections
            for name, figure in (
                ("scorers", selection_figures.scatters(each, results.arms)),
                ("episodes", selection_figures.online_cost(each)),
            )
        },
    }


# Tables ---------------------------------------------------------------------------------------------------------------


def markdown(compared: Comparison) -> str:
    """Tasks down, arms across; and a second table if training continued in the environment."""
    text = f"{writers.markdown_table(*_table(compared))}\n{_caption(compared)}\n"
    if compared.has_online:
        text += f"\n{writers.markdown_table(ONLINE_HEADER, online_rows(compared))}\n{online_caption(compared)}\n"
    return text


def latex(compared: Comparison) -> str:
    """The same for a paper."""
    text = writers.latex_table(*_table(compared), caption=_caption(compared))
    if compared.has_online:
        text += "\n" + writers.latex_table(ONLINE_HEADER, online_rows(compared), caption=online_caption(compared))
    return text


def online_rows(compared: Comparison) -> list[list[str]]:
    """A row for each task and arm whose training continued in the environment, as :data:`ONLINE_HEADER` says."""
    rows = []
    for group in compared.results.groups:
        found = compared.online(group)
        if found["final"]:
            texts = [_online_cell(compared, name, values) for name, values in found.items()]
            rows.append([group.task, group.arm, *texts])
    return rows


def _online_cell(compared: Comparison, name: str, values: Sequence[float]) -> str:
    if not values:
        return "-"
    numbers = _mean_and_std(values)
    return " ± ".join([f"{x:.3f}" for x in numbers] if name == "regret" else compared.shown(*numbers, separator=""))


def _mean_and_std(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """The mean, and the standard deviation if there is more than one value."""
    return [float(np.mean(values)), *([float(np.std(values, ddof=1))] if len(values) > 1 else [])]


def online_caption(compared: Comparison) -> str:
    """What the columns of :func:`online_rows` are."""
    unit = "Normalised scores" if compared.results.scored else "Returns"
    return (
        f"{unit} at the end of training on the dataset (offline) and at the end of training in the environment "
        "(final), and the regret: the mean of 1 - score / 100 over the evaluations in the environment's part. Mean and "
        "standard deviation over the finished seeds."
    )


def episodes(results: Results) -> list[dict[str, object]]:
    """Every evaluation episode of every run."""
    return [
        {
            "task": group.task, "arm": group.arm, "seed": run.seed, "status": run.status, "step": row.step,
            "episode": row.episode, "episode_seed": row.seed, "return": row.return_, "length": row.length,
            "score": row.score,
        }
        for group in results.groups
        for run in group.runs
        for row in read_episodes(run.directory)
    ]  # fmt: skip


def _table(compared: Comparison) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Header, rows and footer: means and standard deviations, the highest mean of each row in bold."""
    results, rows = compared.results, []
    for task in results.tasks:
        row = [task]
        for arm in results.arms:
            values, of = compared.outcomes(task, arm), results.group(task, arm).n_planned
            if not len(values):
                row.append(f"- [0 of {of}]" if of else "-")
                continue
            text = " ± ".join(compared.shown(*_mean_and_std(values), separator=""))
            text += "" if len(values) == of else f" [{len(values)} of {of}]"
            row.append(writers.Bold(text) if arm == compared.best(task) and len(results.arms) > 1 else text)
        rows.append(row)
    return ["task", *results.arms], rows, _means(compared)


def _means(compared: Comparison) -> list[list[str]]:
    """A last row with means over the tasks that can be averaged."""
    means, results = compared.means(), compared.results
    of = "" if len(compared.tasks) == len(results.tasks) else f" of {len(compared.tasks)} tasks"
    texts = [f"{means[arm]:.1f}" if arm in means else "-" for arm in results.arms]
    return [[f"mean{of}", *texts]] if means else []


def _caption(compared: Comparison) -> str:
    unit = {"score": "Normalised scores", "return": "Returns"}.get(compared.results.unit, compared.results.unit)
    return (
        f"{unit}, {MEANINGS[compared.statistic]}: mean and standard deviation over the finished seeds, whose number is "
        "in brackets if some are missing. The highest mean of a row is bold, which does not say that it is "
        "significantly higher."
    )


# The page -------------------------------------------------------------------------------------------------------------


def identity(group: Group) -> str:
    """The id of a group's runs in the page."""
    return f"runs-{_file_safe(group.task)}--{_file_safe(group.arm)}"


def _file_safe(text: str) -> str:
    """A name for a file or an id in a page, unique except for texts that differ in spaces and ``=`` alone."""
    whole = re.sub(r"[^A-Za-z0-9._-]+", "_", text)
    safe = whole.strip("_.")
    # A number distinguishes texts that differ in the letters that are left out.
    is_known = safe == whole and re.fullmatch(r"[\w.=-]+( [\w.=-]+)*", text, re.ASCII)
    return safe if is_known else f"{safe}-{zlib.crc32(text.encode()):08x}"


class _Page:
    """What the template ``report.html`` shows, and asks for while it is rendered."""

    def __init__(self, compared: Comparison, shown: dict[str, str], folder: Path, videos: Videos) -> None:
        self.compared, self.results, self.figures = compared, compared.results, shown
        self.folder, self.videos = folder, videos
        self.identity, self.file_safe = identity, _file_safe
        self.is_single = len(self.results.tasks) == 1

    def render(self, title: str, command: str, rows: Sequence[dict[str, object]]) -> str:
        compared, results = self.compared, self.results
        outcomes = [compared.outcomes(group.task, group.arm) for group in results.groups]
        diagnostics = {task: self.figures.get(f"diagnostics_{_file_safe(task)}") for task in results.tasks}
        return pages.render(
            "report.html",
            title=title,
            command=command,
            page=self,
            compared=compared,
            results=results,
            figures=self.figures,
            verdict=verdict(compared),
            evaluation=evaluation(compared),
            meaning=MEANINGS[compared.statistic],
            rows=rows,
            means=_means(compared),
            online_header=ONLINE_HEADER,
            online_rows=online_rows(compared) if compared.has_online else [],
            online_caption=online_caption(compared),
            n_few=sum(len(own) < statistics.MIN_RUNS for own in outcomes),
            n_evaluations=sorted({len(run.evaluations.values) for group in results.groups for run in group.ended}),
            without_episodes=[
                run.name
                for run in results.runs
                if len(run.evaluations.values) and not run.n_episodes and run.has_simulator
            ],
            left_out=[
                *(task for task in results.tasks if task not in compared.tasks),
                *(arm for arm in results.arms if arm not in compared.arms),
            ],
            diagnostics={task: svg for task, svg in diagnostics.items() if svg},
            provenance=provenance_of(results.runs),
            notes=_NOTES,
            shared={key: shown_value(value) for key, value in sorted(results.shared.items())},
            selections=compared.selections,
            selection=selection,
            all_statistics=STATISTICS,
            statistics=statistics,
            most_bands=figures.MOST_BANDS,
            n_colours=len(SERIES),
            n_last=N_LAST_EVALUATIONS,
            episodes_file=EPISODES_FILE,
            metrics_file=METRICS_FILE,
        )

    def unfinished(self) -> tuple[str, list[tuple[str, str]], list[str]]:
        """Runs that failed or have not finished: a sentence, names with reasons, names of those that have not begun."""
        runs, lines = self.results.runs, []
        for run in runs:
            if run.status == "failed":
                reason = str(run.failure).partition("; last metrics: ")[0]
                lines.append((run.name, f"failed at step {run.step}: {reason}"))
            elif run.status == "waiting" and run.step:
                lines.append((run.name, f"has {run.step} of {run.n_steps} steps of metrics, but no {SUMMARY_FILE}"))
            elif run.status != "finished":
                status = {"running": "is running", "stopped": "was stopped", "waiting": "is waiting"}[run.status]
                lines.append((run.name, f"{status}, at step {run.step} of {run.n_steps}"))
        waiting = [path.name for path, reason in self.results.unread if reason == NOT_BEGUN]
        unreadable = [(path.name, reason) for path, reason in self.results.unread if reason != NOT_BEGUN]
        n_failed = sum(run.status == "failed" for run in runs)
        n_going = sum(run.status not in ("finished", "failed") for run in runs) + len(waiting)
        said = [f"{n_failed} failed"] if n_failed else []
        said += [f"{n_going} {'has' if n_going == 1 else 'have'} not finished"] if n_going else []
        said += [f"{len(unreadable)} cannot be read"] if unreadable else []
        summary = f"Of {counted(len(runs) + len(self.results.unread), 'run')} {', '.join(said)}." if said else ""
        return summary, lines + unreadable, waiting

    def number(self, row: dict[str, Any], label: str, sign: str = "") -> tuple[str, float | None]:
        """A cell of the table: its text and its value."""
        mean, low, high = (row.get(f"{label}_{part}") for part in ("mean", "low", "high"))
        if mean is None:
            return "", None
        if low is None or high is None:
            return self.compared.shown(mean, sign=sign)[0], mean
        text, lower, upper = self.compared.shown(mean, low, high, sign=sign)
        return f"{text} [{lower}, {upper}]", mean

    def mean(self, group: Group) -> str:
        """The mean outcome of a group with finished runs."""
        values = self.compared.outcomes(group.task, group.arm)
        text = self.compared.shown(float(values.mean()))[0]
        return text if len(values) == group.n_planned else f"{text} [{len(values)} of {group.n_planned}]"

    def mark(self, group: Group) -> str:
        """Whether a group is significantly above (``up``) or below the base arm (``down``), or neither."""
        if group.arm == self.compared.base:
            return "same"
        gap = self.compared.difference(group.task, group.arm)
        return "up" if gap.low > 0.0 else "down" if gap.high < 0.0 else "same"

    def settings(self) -> list[str]:
        """Keys of the table of settings; none if figures show all of them."""
        own = self.results.arm_settings
        keys = list(dict.fromkeys(key for settings in own.values() for key in settings))
        n_learned = sum(bool(self._learned(arm)) for arm in own)
        if keys and "tau_cql" not in keys and 0 < n_learned < len(own):
            keys.append("tau_cql")  # if it is null everywhere, the runs determined it
        return [] if 0 < len(self.results.numeric_axes()) <= 2 else keys

    def setting(self, arm: str, key: str) -> str:
        """A value of an arm's; for a threshold that is null, what the runs determined."""
        own, runs = self.results.arm_settings[arm], self._learned(arm)
        if own.get(key) is None and key == "tau_cql":
            rows = [row for run in runs for row in run.metrics[-1:] if {"cql_gap", "cql_residual"} <= row.keys()]
            found = sorted({f"{row['cql_gap'] - row['cql_residual']:.4g}" for row in rows})
            return "" if not runs else f"null: {', '.join(found)}" if found else "null"
        return shown_value(own[key]) if key in own else ""

    def _learned(self, arm: str) -> list[Run]:
        return [run for run in self.results.runs_of(arm=arm) if "algorithm.alpha_cql.tau_cql" in run.config]

    def narrow(self) -> str:
        """A warning about the bootstrap of few seeds."""
        n = self.compared.n_seeds
        return (
            f" With {n} seeds a bootstrap's intervals are too narrow." if statistics.MIN_RUNS <= n < FEW_SEEDS else ""
        )

    def about_improvements(self) -> str:
        """What the intervals of the probabilities of improvement are."""
        known = [each for each in self.compared.improvements.values() if each.has_interval]
        text = ""
        if any(0.0 < each.value < 1.0 for each in known):
            text += f" Bars are 95 % intervals of a stratified bootstrap.{self.narrow()}"
        if any(each.value in (0.0, 1.0) for each in known):
            text += (
                " A bar that ends at 0 or 1 is the exact binomial interval (Clopper and Pearson): one arm won every "
                "comparison, so a bootstrap has no width. With three seeds it is wide, from 0.29 to 1."
            )
        return text

    @cached_property
    def examined(self) -> list[tuple[tuple[Group, Run], list[doctor.Finding]]]:
        """Every run with its group and its findings."""
        return [((group, run), findings) for group, run, findings in doctor.examined(self.results)]

    def remarks(self) -> list[list[tuple[tuple[Group, Run], doctor.Finding]]]:
        """The findings that are not normal, each with the runs that share it."""
        return doctor.shared(self.examined)

    @staticmethod
    def advice(
        own: Sequence[tuple[tuple[Group, Run], doctor.Finding]],
    ) -> list[doctor.Advice[tuple[Group, Run]]]:
        """The overrides to try for one of :meth:`remarks`, each with the runs that it is for."""
        return doctor.advice(own, _MOST_NAMED)

    def normal(self) -> list[str]:
        """What was found to be normal, and in how many runs."""
        found = Counter(each.title for _, own in self.examined for each in own if each.severity == "normal")
        return [f"{title} ({counted(n, 'run')})" for title, n in found.items()]

    @property
    def n_uncompared(self) -> int:
        """Of how many runs nothing is known that Q values can be compared with."""
        return sum({"values", "promise"}.isdisjoint(each.name for each in own) for _, own in self.examined)

    def shown_videos(self) -> list[dict[str, Any]]:
        """The last video of the first seed that has one: of each group, or of each arm if there are many groups."""
        if self.videos == "none":
            return []
        groups = [group for group in self.results.groups if any(run.video for run in group.runs)]
        if len(groups) > _MOST_VIDEOS:
            groups = list({group.arm: group for group in reversed(groups)}.values())[::-1]
        shown = []
        for group in groups[:_MOST_VIDEOS]:
            run, path = next((run, run.video) for run in group.runs if run.video is not None)
            number = path.stem.removeprefix("step_")
            shown.append(
                {
                    "source": self.link(path) if self.videos == "link" else small_video(path),
                    "group": group,
                    "seed": run.seed,
                    "step": f"step {int(number):,}" if number.isdecimal() else path.stem,
                }
            )
        return shown

    def outcome(self, run: Run, statistic: Statistic) -> tuple[str, float | None]:
        value = run.outcome(statistic, scored=self.results.scored)
        return ("", None) if value is None else (self.compared.shown(value)[0], value)

    @property
    def has_success(self) -> bool:
        """Whether the evaluations of any run reported successes."""
        return any(run.success is not None for run in self.results.runs)

    def success(self, runs: Sequence[Run]) -> tuple[str, float | None]:
        """A cell with the mean success of some runs."""
        share = mean_success(runs)
        return ("", None) if share is None else (f"{100 * share:.0f} %", share)

    @property
    def is_judged(self) -> bool:
        """Whether there is, or will be, anything that makes an outcome of a run."""
        return any(run.has_simulator or len(run.evaluations.values) for run in self.results.runs)

    @property
    def about_simulator(self) -> str:
        """What to know of runs without a simulator; empty if there are none."""
        runs, n = self.results.without_simulator, len(self.results.runs)
        if not runs:
            return ""
        which = (
            "No simulator was used (env=none): policies were"
            if len(runs) == n
            else (f"{len(runs)} of {n} runs have no simulator (env=none): their policies were")
        )
        said = f"{which} scored on recorded data alone, and none of these scores is a return."
        units = {run.unit for run in runs} - {"return"}
        if any(len(run.evaluations.values) for run in runs):
            name = units.pop()
            meaning = selection.MEANINGS[name.removeprefix("minus_").removeprefix(PREFIX)]
            return f"{said} Runs are judged by {name}: {meaning}. It is worth no more than those critics are."
        if units:
            return f"{said} They are not compared, since outcomes of the runs are of several kinds: read them apart."
        return f"{said} No scorer was named to judge them by, as env.best_by=initial_value does."

    def scorer(self, row: dict[str, Any], name: str) -> tuple[str, float | None]:
        """A cell of the table of scorers: its text and its value."""
        mean, low, high = (row[f"{PREFIX}{name}_{part}"] for part in ("mean", "low", "high"))
        if mean is None:
            return "", None
        return f"{mean:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]"), mean

    @property
    def has_fqe(self) -> bool:
        """Whether fitted Q evaluation judged any run."""
        return any("fqe" in run.judgement for run in self.results.runs)

    @property
    def fitted(self) -> str:
        """The name of the estimate that chooses."""
        return next(name for name in selection.FITTED if any(name in run.judgement for run in self.results.runs))

    def fqe(self, runs: Sequence[Run]) -> tuple[str, float | None]:
        """A cell with the mean estimate of some runs."""
        mean = selection.mean_of(runs, self.fitted)
        return ("", None) if mean is None else (f"{mean:.4g}", mean)

    def link(self, path: Path) -> str:
        """The address of a file or a folder, relative to the page."""
        return quote(Path(os.path.relpath(path, self.folder)).as_posix())

    def overrides(self) -> list[tuple[Path, str]]:
        sweeps = sorted({run.sweep for run in self.results.runs if run.sweep is not None})
        return [(sweep, shlex.join(overrides)) for sweep in sweeps if (overrides := overrides_of(sweep))]


def small_video(path: Path) -> str | None:
    """A GIF as an address that holds all of it, with fewer frames, pixels and colours; None if it is damaged."""
    try:
        return _small_video(contents(path))
    except Exception:  # noqa: BLE001  Pillow's readers raise whatever comes up in a damaged file
        return None


def _small_video(gif: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(gif), formats=["GIF"]) as video:
        n = getattr(video, "n_frames", 1)
        chosen = np.unique(np.linspace(0, n - 1, min(n, _VIDEO_FRAMES)).round().astype(int))
        frames, duration = [], 0.0
        for index in range(n):
            video.seek(index)
            duration += float(video.info.get("duration", 50))
            if index in chosen:
                frame = video.convert("RGB")
                frame.thumbnail((_VIDEO_SIZE, _VIDEO_SIZE))
                frames.append(frame.quantize(_VIDEO_COLOURS, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    each = max(20, round(duration / len(frames)))
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=each, loop=0, optimize=True)
    return f"data:image/gif;base64,{base64.b64encode(buffer.getvalue()).decode()}"
