from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cql.training.curves import key_curves, sweep_curves
from cql.training.loggers import LocalLogger


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


def write_run(run_dir: Path, n_rows: int, *, without: tuple[str, ...] = (), episodes: bool = True) -> Path:
    logger = LocalLogger(run_dir)
    for row in range(1, n_rows + 1):
        metrics = {
            "critic_td": 1000.0 * math.exp(-row),
            "cql_gap": 7.0 - row,
            "cql_residual": 2.0 - row,
            "alpha_cql": 5.0,
            "alpha_temp": 1.0 / row,
            "entropy": -float(row),
            "q_data": 10.0 * row,
            "q_policy": 9.0 * row,
            "q_uniform": 1.0 * row,
        }
        logger.log_metrics(1000 * row, {name: value for name, value in metrics.items() if name not in without})
        if episodes and row % 2 == 0:
            logger.log_episodes(1000 * row, [1, 2], [100.0 * row, 300.0 * row], [10, 10], None)
    return run_dir


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


def test_every_panel_shows_its_metric(tmp_path: Path, figures: list[Any]) -> None:
    path = key_curves(write_run(tmp_path, 6), "a run")

    assert path == tmp_path / "key_curves.png"
    assert size_of(path)[0] >= 1200
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.jsonl", "episodes.csv", "key_curves.png"}
    (figure,) = figures
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("a run", "gradient steps")
    shown = panels(figure)
    assert len(shown) == 6
    returns = shown["Evaluation return"]
    assert curve(returns) == [(2000.0, 400.0), (4000.0, 800.0), (6000.0, 1200.0)]
    band = returns.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (200.0, 1800.0)
    assert returns.get_title(loc="right") == "last 1,200 ± 600"
    assert "over 2 episodes" in texts(returns)
    assert shown["TD error of the critics"].get_yscale() == "log"
    residual = shown["Gap minus threshold"]
    assert curve(residual)[-1] == (6000.0, -4.0)
    assert set(residual.lines[1].get_ydata()) == {0.0}
    assert [line.get_label() for line in shown["Q values"].lines] == [
        "dataset actions",
        "policy actions",
        "uniform actions",
    ]
    assert curve(shown["Conservative multiplier"])[0] == (1000.0, 5.0)
    assert shown["Conservative multiplier"].get_ylim() == (0.0, 10.0)
    assert shown["Entropy of the policy"].get_yscale() == "linear"
    assert any(axes.get_ylabel() == "alpha_temp" for axes in figure.axes)


def test_without_a_threshold_the_gap_is_shown(tmp_path: Path, figures: list[Any]) -> None:
    key_curves(write_run(tmp_path, 3, without=("cql_residual",)))
    shown = panels(figures[0])
    assert "Gap minus threshold" not in shown
    assert curve(shown["Conservative gap"]) == [(1000.0, 6.0), (2000.0, 5.0), (3000.0, 4.0)]


def test_one_row_is_enough(tmp_path: Path, figures: list[Any]) -> None:
    run_dir = write_run(tmp_path, 1)
    LocalLogger(run_dir).log_episodes(1000, [1], [50.0], [10], [0.5])
    size_of(key_curves(run_dir))
    shown = panels(figures[0])
    assert curve(shown["TD error of the critics"]) == [(1000.0, pytest.approx(1000.0 / math.e))]
    assert shown["Evaluation return"].get_title(loc="right") == "last 50 ± 0"
    assert "alpha_temp = 1" in texts(shown["Entropy of the policy"])


def test_missing_metrics_are_said(tmp_path: Path, figures: list[Any]) -> None:
    every = ("critic_td", "cql_gap", "cql_residual", "alpha_cql", "entropy", "q_data", "q_policy", "q_uniform")
    size_of(key_curves(write_run(tmp_path, 3, without=(*every, "alpha_temp"), episodes=False)))
    said = [texts(axes) for axes in panels(figures[0]).values()]
    assert said == [
        "no evaluation yet",
        "no q_data, q_policy or q_uniform\nin the metrics",
        "no critic_td in the metrics",
        "no cql_gap in the metrics",
        "no alpha_cql in the metrics",
        "no entropy in the metrics",
    ]


def test_returns_come_from_the_metrics_where_there_are_no_episodes(tmp_path: Path, figures: list[Any]) -> None:
    logger = LocalLogger(tmp_path)
    logger.log_metrics(10, {"critic_td": 1.0})
    logger.log_metrics(20, {"eval_return_mean": 5.0, "eval_return_std": 2.0})
    key_curves(tmp_path)
    assert curve(panels(figures[0])["Evaluation return"]) == [(20.0, 5.0)]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither metrics\.jsonl nor episodes\.csv"):
        key_curves(tmp_path)


def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    key_curves(write_run(tmp_path, 2))
    assert ("matplotlib.pyplot" in sys.modules) == before


# Sweeps ---------------------------------------------------------------------------------------------------------------

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
    logger = LocalLogger(folder / name)
    for row in range(1, n_rows + 1):
        values = {"critic_td": 4.0 / row, "cql_gap": 2.0 - row, "alpha_cql": 5.0, "q_data": 100.0, "q_policy": 90.0}
        values |= {key: value * 10.0 ** (growth * row) for key, value in metrics.items()}
        if row % 2 == 0:
            values |= {"eval_return_mean": final * row / 4, "eval_return_std": 1.0}
        logger.log_metrics(100 * row, values)
    logger.write_summary({"status": status, "step": 100 * n_rows, "n_steps": 400})


def legend(figure: Any) -> dict[str, Any]:
    found = figure.axes[-1].get_legend()
    return {text.get_text(): line for text, line in zip(found.get_texts(), found.get_lines(), strict=True)}


def caption(figure: Any) -> str:
    return " ".join(texts(figure.axes[-1]).split())


def colours(axes: Any) -> list[Any]:
    return [line.get_color() for line in axes.lines]


def test_a_sweep_over_one_number(tmp_path: Path, figures: list[Any]) -> None:
    for value, final in (("20", 500.0), ("0", -100.0), ("5", 2000.0)):
        for seed in (0, 1):
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
    assert figure.get_suptitle() == tmp_path.name
    assert list(legend(figure)) == ["0", "5", "20"]
    assert figure.axes[-1].get_legend().get_title().get_text() == "alpha_cql"
    assert caption(figure) == "mean over 2 seeds, band from the lowest to the highest"

    returns = shown["Evaluation return"]
    assert [line.get_ydata()[-1] for line in returns.lines] == [-50.0, 2050.0, 550.0]
    assert curve(returns, 1) == [(200.0, 1025.0), (400.0, 2050.0)]
    band = returns.collections[1].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (1000.0, 2100.0)
    assert colours(returns) == [line.get_color() for line in legend(figure).values()]

    # Values of 100 and of 100,000 on one axis: the former on its linear part.
    for name, ordinary, exploded in (("Q of dataset actions", 100.0, 1e5), ("Q of policy actions", 90.0, 1.4e5)):
        axes = shown[name]
        assert axes.get_yscale() == "symlog"
        heights = axes.transData.transform([(0.0, value) for value in (0.0, ordinary, exploded)])[:, 1]
        assert heights[1] - heights[0] > 0.2 * (heights[2] - heights[0])
        assert "logarithmic above" in texts(axes)
        assert [text.get_text() for text in axes.get_yticklabels()][-1] in ("100k", "10k")
    assert shown["Conservative gap"].get_yscale() == "linear"

    final = shown["Return of the last evaluation"]
    assert [text.get_text() for text in final.get_xticklabels()] == ["0", "5", "20"]
    assert final.get_xlabel() == "alpha_cql"
    assert list(final.lines[0].get_ydata()) == [-50.0, 2050.0, 550.0]
    assert sorted(float(line.get_ydata()[0]) for line in final.lines[1:]) == [-100.0, 0.0, 500.0, 600.0, 2000.0, 2100.0]


def test_a_grid_of_two_numbers(tmp_path: Path, figures: list[Any]) -> None:
    taus = ("-5", "-1", "2")
    for alpha in ("10", "0.5"):
        for tau in taus:
            final = 1000.0 * float(alpha) + float(tau)
            write_swept(tmp_path, f"alpha_cql-{alpha}__tau_cql-{tau}__seed-0", final=final, growth=0.5, alpha_cql=1.0)
    write_swept(tmp_path, "alpha_cql-10__tau_cql-2__seed-0", n_rows=2, status="failed", final=4.0)
    sweep_curves(tmp_path, title="a grid", path=tmp_path / "grid.png")
    assert (tmp_path / "grid.png").exists()
    assert not (tmp_path / "sweep_curves.png").exists()
    (figure,) = figures
    assert figure.get_suptitle() == "a grid"
    entries = legend(figure)
    assert [label for label in entries if label] == [
        "tau_cql = -5", "alpha_cql = 0.5", "tau_cql = -1", "alpha_cql = 10", "tau_cql = 2"
    ]  # fmt: skip
    shown = panels(figure)
    returns = shown["Evaluation return"]
    first_three = colours(returns)[:3]
    assert len({tuple(colour) for colour in first_three}) == 3
    assert first_three == [entries[f"tau_cql = {tau}"].get_color() for tau in taus]
    assert [line.get_linestyle() for line in returns.lines[:6]] == ["-"] * 3 + ["--"] * 3
    assert shown["Conservative multiplier"].get_yscale() == "log"
    final = shown["Return of the last evaluation"]
    assert (final.get_xlabel(), final.get_ylabel()) == ("tau_cql", "alpha_cql")
    assert texts(final).split()[:5] == ["495", "499", "502", "9995", "9999"]


def test_named_arms(tmp_path: Path, figures: list[Any]) -> None:
    arms = [f"arm_{index:02d}" for index in range(12)]
    for index, arm in enumerate(arms):
        write_swept(tmp_path, f"arm-{arm}__seed-0", final=1000.0 + index)
    sweep_curves(tmp_path)
    (figure,) = figures
    assert list(legend(figure)) == arms
    assert len(set(colours(panels(figure)["Evaluation return"]))) == 12
    final = panels(figure)["Return of the last evaluation"]
    assert [text.get_text() for text in final.texts] == arms[::-1]  # the best on top
    assert [bar.get_width() for bar in final.patches] == [1000.0 + index for index in range(12)][::-1]
    assert caption(figure) == ""


def test_points_of_several_keys_are_called_by_what_differs(tmp_path: Path, figures: list[Any]) -> None:
    for name in ("depth-2__penalty-cql_h", "depth-2__penalty-cql_rho", "backup-soft__depth-2__penalty-cql_h"):
        write_swept(tmp_path, f"{name}__seed-0")
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == ["penalty=cql_h", "penalty=cql_rho", "backup=soft penalty=cql_h"]


def test_folders_that_name_no_point_are_called_by_their_names(tmp_path: Path, figures: list[Any]) -> None:
    for name in ("000_seed0", "001_seed1"):
        write_swept(tmp_path, name)
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == ["000_seed0", "001_seed1"]


def test_many_points_keep_a_short_legend(tmp_path: Path, figures: list[Any]) -> None:
    for tau in range(-12, 13):
        write_swept(tmp_path, f"tau_cql-{tau}__seed-0", final=float(tau))
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == ["-12", "-9", "-6", "-3", "0", "3", "6", "9", "12"]
    final = panels(figures[0])["Return of the last evaluation"]
    assert len(final.get_xticks()) <= 13


def test_seeds_alone(tmp_path: Path, figures: list[Any]) -> None:
    for seed in (0, 1, 2):
        write_swept(tmp_path, f"seed-{seed}", final=100.0 * seed)
    sweep_curves(tmp_path)
    assert list(legend(figures[0])) == ["all seeds"]
    final = panels(figures[0])["Return of the last evaluation"]
    assert [text.get_text() for text in final.texts] == ["seed=2", "seed=1", "seed=0"]


def test_what_failed_or_has_not_finished_is_drawn_as_far_as_it_came_and_named(
    tmp_path: Path, figures: list[Any]
) -> None:
    write_swept(tmp_path, "alpha_cql-0__seed-0", final=1000.0)
    write_swept(tmp_path, "alpha_cql-0__seed-1", n_rows=3, status="failed", final=800.0)
    write_swept(tmp_path, "alpha_cql-5__seed-0", n_rows=2, status="running", final=600.0)
    LocalLogger(tmp_path / "alpha_cql-5__seed-1").write_summary({"status": "failed", "step": 0, "failure": "no data"})
    sweep_curves(tmp_path)
    (figure,) = figures
    assert caption(figure) == (
        "mean over 2 seeds, band from the lowest to the highest; failed (crosses): alpha_cql=0 seed=1 at step 300, "
        "alpha_cql=5 seed=1 at step 0; not finished (rings): alpha_cql=5 seed=0 at step 200 of 400"
    )
    returns = panels(figure)["Evaluation return"]
    crosses = [line.get_xydata()[0].tolist() for line in returns.lines if line.get_marker() == "X"]
    assert crosses == [[200.0, 400.0]]
    assert [line.get_xydata()[-1].tolist() for line in returns.lines if line.get_marker() != "X"] == [
        [400.0, 1000.0],
        [200.0, 300.0],
    ]
    # The mean is over those that came furthest: that of a run which failed early is of another step.
    assert list(panels(figure)["Return of the last evaluation"].lines[0].get_ydata()) == [1000.0, 300.0]


def test_a_sweep_before_its_first_evaluation(tmp_path: Path, figures: list[Any]) -> None:
    write_swept(tmp_path, "alpha_cql-5__seed-0", n_rows=1, status="running")
    with (tmp_path / "alpha_cql-5__seed-0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 200, "crit')
    (tmp_path / "alpha_cql-5__seed-1").mkdir()
    LocalLogger(tmp_path / "alpha_cql-6__seed-0").log_metrics(100, {"loss": 1.0})
    sweep_curves(tmp_path)
    shown = panels(figures[0])
    assert texts(shown["Evaluation return"]) == texts(shown["Return of the last evaluation"]) == "no evaluation yet"
    assert curve(shown["TD error of the critics"]) == [(100.0, 4.0)]


def test_a_sweep_without_anything_to_draw_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(FileNotFoundError, match="there is nothing to draw yet"):
        sweep_curves(tmp_path)
    write_swept(tmp_path, "seed-0")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; make it first"):
        sweep_curves(tmp_path, path=tmp_path / "nowhere" / "x.png")
    (tmp_path / "seed-0" / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        sweep_curves(tmp_path)
