from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cql.training.curves import key_curves
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
    assert returns.get_xlabel() == "mean ± one standard deviation over 2 episodes"
    assert returns.get_legend() is None
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
    assert shown["Entropy of the policy"].get_xlabel() == "alpha_temp = 1"


def test_episodes_in_the_environment_are_shown_beside_the_evaluations(tmp_path: Path, figures: list[Any]) -> None:
    logger = LocalLogger(tmp_path)
    logger.log_metrics(10, {"critic_td": 1.0})
    logger.log_metrics(20, {"eval_return_mean": 5.0, "eval_return_std": 2.0, "env_steps": 7.0, "online_return": 90.0})
    logger.log_metrics(30, {"eval_return_mean": 6.0, "eval_return_std": 2.0, "env_steps": 9.0, "online_return": 4.0})
    key_curves(tmp_path)
    returns = panels(figures[0])["Evaluation return"]
    assert curve(returns, 0) == [(20.0, 5.0), (30.0, 6.0)]
    assert curve(returns, 1) == [(20.0, 90.0), (30.0, 4.0)]
    assert returns.get_ylim()[1] > 90.0
    assert [text.get_text() for text in returns.get_legend().get_texts()] == ["training episodes\n(sampled actions)"]
    for axes in panels(figures[0]).values():
        assert [10.0, 10.0] in [list(line.get_xdata()) for line in axes.lines]  # where the dataset's part ends


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
