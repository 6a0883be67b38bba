"""The figure of a sweep, and what it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cql.points import number, parse_point
from cql.results.sweep_figure import sweep_curves
from cql.training.local_logger import LocalLogger


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved, to look at what is in them."""
    from matplotlib.figure import Figure

    saved = []
    savefig = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        saved.append(self)
        savefig(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def panels(figure: Any) -> dict[str, Any]:
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def texts(axes: Any) -> str:
    return " ".join(text.get_text() for text in axes.texts)


def curve(axes: Any, index: int = 0) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in axes.lines[index].get_xydata()]


def size_of(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 1.0
        return image.size


EXPLODING = {"q_data": 10.0, "q_policy": 14.0}


def write_swept(
    folder: Path,
    name: str,
    *,
    final: float = 1000.0,
    n_rows: int = 4,
    status: str = "finished",
    growth: float = 0.0,
    **metrics: float,
) -> None:
    """A run of n_rows rows at every 100 steps of 400, evaluated at every second; Q grows by 10**growth a row."""
    write_config(folder, name)
    logger = LocalLogger(folder / name)
    for row in range(1, n_rows + 1):
        values = {"critic_td": 4.0 / row, "cql_gap": 2.0 - row, "alpha_cql": 5.0, "q_data": 100.0, "q_policy": 90.0}
        values |= {key: value * 10.0 ** (growth * row) for key, value in metrics.items()}
        if row % 2 == 0:
            values |= {"eval_return_mean": final * row / 4, "eval_return_std": 1.0}
        logger.log_metrics(100 * row, values)
    logger.write_summary({"status": status, "step": 100 * n_rows, "n_steps": 400})


def write_config(folder: Path, name: str) -> None:
    """The config of a run whose folder names its point."""
    values = {key: value if number(value) is None else float(value) for key, value in parse_point(name).items()}
    (folder / name / ".hydra").mkdir(parents=True, exist_ok=True)
    config = {"n_steps": 400, **values, "seed": int(values.get("seed", name[-1]))}
    (folder / name / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))


def legend(figure: Any) -> dict[str, Any]:
    (found,) = figure.legends
    return {text.get_text(): line for text, line in zip(found.get_texts(), found.get_lines(), strict=True)}


def caption(figure: Any) -> str:
    return " ".join(figure.get_supxlabel().split())


def colours(axes: Any) -> list[Any]:
    return [line.get_color() for line in axes.lines]


def test_a_sweep_over_one_number(tmp_path: Path, figures: list[Any]) -> None:
    for value, final in (("20", 500.0), ("0", -100.0), ("5", 2000.0)):
        for seed in (0, 1, 2):
            explodes = {"growth": 1.0, **EXPLODING} if value == "0" else {}
            write_swept(tmp_path, f"alpha_cql-{value}__seed-{seed}", final=final + 100.0 * seed, **explodes)
    write_swept(tmp_path / ".stacks", "alpha_cql-7__seed-0")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "sweep.log").touch()

    assert sweep_curves(tmp_path) == tmp_path / "sweep_curves.png"
    assert size_of(tmp_path / "sweep_curves.png")[0] >= 1800
    (figure,) = figures
    shown = panels(figure)
    assert list(shown) == [
        "Evaluation return", "Q of dataset actions", "Q of policy actions", "Conservative gap",
        "TD error of the critics", "Return of the last evaluation",
    ]  # fmt: skip
    assert figure.legends[0].get_title().get_text() == tmp_path.name
    assert list(legend(figure)) == ["alpha_cql=0", "alpha_cql=5", "alpha_cql=20"]
    assert caption(figure) == "mean over 3 seeds, band of 95 %"

    returns = shown["Evaluation return"]
    assert [line.get_ydata()[-1] for line in returns.lines] == pytest.approx([0.0, 2100.0, 600.0])
    assert curve(returns, 1) == [(200.0, 1050.0), (400.0, 2100.0)]
    band = returns.collections[1].get_paths()[0].get_extents()
    assert band.ymax == pytest.approx(2100.0 + 4.302653 * 100.0 / 3.0**0.5)
    assert colours(returns) == [line.get_color() for line in legend(figure).values()]

    # Values of 100 and of 100,000 are both visible on one axis.
    for name, ordinary, exploded in (("Q of dataset actions", 100.0, 1e5), ("Q of policy actions", 90.0, 1.4e5)):
        axes = shown[name]
        assert axes.get_yscale() == "log"
        low, high = axes.transAxes.inverted().transform(axes.transData.transform([(0, ordinary), (0, exploded)]))[:, 1]
        assert 0.0 < low < 0.5 < high < 1.0
        assert [t.get_text() for t in axes.get_yticklabels() if t.get_position()[1] <= axes.get_ylim()[1]][-1] == "100k"
    assert shown["Conservative gap"].get_yscale() == "linear"

    final = shown["Return of the last evaluation"]
    assert [text.get_text() for text in final.get_xticklabels()] == ["0", "5", "20"]
    assert final.get_xlabel() == "alpha_cql"
    assert list(final.lines[0].get_ydata()) == [0.0, 2100.0, 600.0]
    dots = sorted(float(y) for line in final.lines[1:] if line.get_marker() == "o" for y in line.get_ydata())
    assert dots == [-100.0, 0.0, 100.0, 500.0, 600.0, 700.0, 2000.0, 2100.0, 2200.0]


def test_a_grid_of_two_numbers(tmp_path: Path, figures: list[Any]) -> None:
    taus = ("-5", "-1", "2")
    for alpha in ("10", "0.5"):
        for tau in taus:
            final = 1000.0 * float(alpha) + float(tau)
            name = f"alpha_cql-{alpha}__tau_cql-{tau}__seed-0"
            if (alpha, tau) == ("10", "2"):
                write_swept(tmp_path, name, n_rows=2, status="failed", final=4.0, growth=0.5, alpha_cql=1.0)
            else:
                write_swept(tmp_path, name, final=final, growth=0.5 * float(alpha), alpha_cql=1.0)
    sweep_curves(tmp_path, title="a grid", path=tmp_path / "grid.png")
    assert (tmp_path / "grid.png").exists()
    assert not (tmp_path / "sweep_curves.png").exists()
    (figure,) = figures
    assert figure.legends[0].get_title().get_text() == "a grid"
    entries = legend(figure)
    assert list(entries) == ["tau_cql = -5", "tau_cql = -1", "tau_cql = 2", "alpha_cql = 0.5", "alpha_cql = 10"]
    shown = panels(figure)
    returns = shown["Evaluation return"]
    lines = [line for line in returns.lines if line.get_marker() != "X"]
    assert [line.get_color() for line in lines[:3]] == [entries[f"tau_cql = {tau}"].get_color() for tau in taus]
    assert len({tuple(line.get_color()) for line in lines[:3]}) == 3
    assert [line.get_linestyle() for line in lines[:5]] == ["-"] * 3 + ["--"] * 2
    assert shown["Conservative multiplier"].get_yscale() == "log"
    final = shown["Return of the last evaluation"]
    assert (final.get_xlabel(), final.get_ylabel()) == ("tau_cql", "alpha_cql")
    assert texts(final).split() == ["495", "499", "502", "9995", "9999", "–*"]


def test_named_arms(tmp_path: Path, figures: list[Any]) -> None:
    arms = [f"arm_{index:02d}" for index in range(12)]
    for index, arm in enumerate(arms):
        write_swept(tmp_path, f"arm-{arm}__seed-0", final=1000.0 + index)
    sweep_curves(tmp_path)
    (figure,) = figures
    assert list(legend(figure)) == arms
    assert len(set(colours(panels(figure)["Evaluation return"]))) == 12
    final = panels(figure)["Return of the last evaluation"]
    assert [text.get_text() for text in final.get_yticklabels()] == arms
    assert [bar.get_width() for bar in final.patches] == [1000.0 + index for index in range(12)]
    assert caption(figure) == ""


def test_points_of_several_keys_are_called_by_their_words(tmp_path: Path, figures: list[Any]) -> None:
    names = ("depth-2__penalty-cql_h", "depth-2__penalty-cql_rho", "backup-soft__depth-2__penalty-cql_h")
    for name in names:
        write_swept(tmp_path, f"{name}__seed-0")
    sweep_curves(tmp_path)
    assert sorted(legend(figures[0])) == [
        "backup=soft depth=2 penalty=cql_h", "depth=2 penalty=cql_h", "depth=2 penalty=cql_rho",
    ]  # fmt: skip


def test_several_tasks_are_lines_of_their_own(tmp_path: Path, figures: list[Any]) -> None:
    for task in ("one", "two"):
        for arm in ("base", "x"):
            write_swept(tmp_path, f"arm-{arm}__task-{task}__seed-0", final=1.0)
            path = tmp_path / f"arm-{arm}__task-{task}__seed-0" / ".hydra" / "config.yaml"
            path.write_text(path.read_text() + f"dataset: {{name: {task}}}\n")
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == ["one base", "one x", "two base", "two x"]


def test_folders_that_name_no_point_are_grouped_by_their_configs(tmp_path: Path, figures: list[Any]) -> None:
    for name in ("000_seed0", "001_seed1"):
        write_swept(tmp_path, name)
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == ["all runs"]


def test_many_points_keep_a_short_legend(tmp_path: Path, figures: list[Any]) -> None:
    for tau in range(-12, 13):
        write_swept(tmp_path, f"tau_cql-{tau}__seed-0", final=float(tau))
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == [f"tau_cql={tau}" for tau in (-12, -9, -6, -3, 0, 3, 6, 9, 12)]
    final = panels(figures[0])["Return of the last evaluation"]
    assert len(final.get_xticks()) <= 13


def test_seeds_alone(tmp_path: Path, figures: list[Any]) -> None:
    for seed in (0, 1, 2):
        write_swept(tmp_path, f"seed-{seed}", final=100.0 * seed)
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == ["all runs"]
    final = panels(figures[0])["Return of the last evaluation"]
    dots = [line.get_xdata().tolist() for line in final.lines if line.get_marker() == "o"]
    assert dots == [[0.0, 100.0, 200.0]]


def test_what_failed_or_has_not_finished_is_drawn_as_far_as_it_came_and_named(
    tmp_path: Path, figures: list[Any]
) -> None:
    write_swept(tmp_path, "alpha_cql-0__seed-0", final=1000.0)
    write_swept(tmp_path, "alpha_cql-0__seed-1", n_rows=3, status="failed", final=800.0)
    write_swept(tmp_path, "alpha_cql-5__seed-0", n_rows=2, status="running", final=600.0)
    write_config(tmp_path, "alpha_cql-5__seed-1")
    LocalLogger(tmp_path / "alpha_cql-5__seed-1").write_summary({"status": "failed", "step": 0, "failure": "no data"})
    write_swept(tmp_path, "alpha_cql-5__seed-2")
    (tmp_path / "alpha_cql-5__seed-2" / "summary.json").write_text("{")
    (tmp_path / "sweep.json").write_text("{}")
    (tmp_path / "stacks.json").write_text('[["alpha_cql-5__seed-3"]]')
    sweep_curves(tmp_path)
    (figure,) = figures
    assert caption(figure) == (
        "mean over 2 seeds; failed (crosses): alpha_cql=0 seed=1 at step 300, alpha_cql=5 seed=1 at step 0; not "
        "finished: alpha_cql=5 seed=0 at step 200 of 400; not begun: 1; not readable: alpha_cql-5__seed-2"
    )
    returns = panels(figure)["Evaluation return"]
    crosses = [[float(line.get_xdata()[0]), float(line.get_ydata()[0])] for line in returns.lines if is_cross(line)]
    assert crosses == [[300.0, 400.0]]
    # The failed run is a line of its own, and not in the mean.
    ends = [line.get_xydata()[-1].tolist() for line in returns.lines if not is_cross(line)]
    assert ends == [[400.0, 1000.0], [200.0, 400.0], [200.0, 300.0]]
    final = panels(figure)["Return of the last evaluation"]
    assert list(final.lines[0].get_ydata()) == [1000.0]


def is_cross(line: Any) -> bool:
    return bool(line.get_marker() == "X")


def test_a_sweep_before_its_first_evaluation(tmp_path: Path, figures: list[Any]) -> None:
    write_swept(tmp_path, "alpha_cql-5__seed-0", n_rows=1, status="running")
    with (tmp_path / "alpha_cql-5__seed-0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 200, "crit')
    (tmp_path / "alpha_cql-5__seed-1").mkdir()
    write_config(tmp_path, "alpha_cql-6__seed-0")
    LocalLogger(tmp_path / "alpha_cql-6__seed-0").log_metrics(100, {"loss": 1.0})
    sweep_curves(tmp_path)
    shown = panels(figures[0])
    assert texts(shown["Evaluation return"]) == "no data yet"
    assert texts(shown["Return of the last evaluation"]) == "no run finished"
    assert curve(shown["TD error of the critics"]) == [(100.0, 4.0)]


def test_a_sweep_without_anything_to_draw_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(FileNotFoundError, match="there is nothing to draw yet"):
        sweep_curves(tmp_path)
    write_config(tmp_path, "seed-0")
    with pytest.raises(FileNotFoundError, match="there is nothing to draw yet"):
        sweep_curves(tmp_path)
    write_swept(tmp_path, "seed-0")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; make it first"):
        sweep_curves(tmp_path, path=tmp_path / "nowhere" / "x.png")
    (tmp_path / "seed-0" / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        sweep_curves(tmp_path)
