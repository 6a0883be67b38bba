"""The picture of runs in a maze, and the values that it shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from entry_points import load_script
from PIL import Image
from tiny import tiny_config

from cql import config
from cql.data.embedded import EMBEDDED, ensure_embedded
from cql.results import maze_figure
from cql.results.groups import read_results
from cql.results.maze_figure import draw_maze, maze_runs
from cql.results.runs import ResultsError
from cql.training import experiment
from cql.training.checkpoint import CheckpointFolder, load
from cql.training.networks import load_values


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two arms of a few steps in the maze, in a small dataset of its kind."""
    folder = tmp_path_factory.mktemp("maze")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        made = EMBEDDED["pointmaze_umaze"]
        patched.setitem(EMBEDDED, "pointmaze_umaze", type(made)(**{**vars(made), "parts": (("wanderer", 70),)}))
        ensure_embedded("pointmaze_umaze", progress=False)
        small = ("network.width=8", "n_steps=4", "n_steps_per_epoch=2", "batch_size=8", "env.n_eval_episodes=2")
        for arm, own in (("cql", ()), ("sac", ("+arm=sac",))):
            overrides = ["+experiment=maze", *own, *small, "logger=local", "video.enabled=false", "device=cpu"]
            run = config.checked(config.compose(overrides))
            experiment.run(run, folder / "sweep" / f"arm-{arm}__seed-0")
        yield folder / "sweep"


def test_it_has_a_picture_for_each_arm_and_the_data(sweep, tmp_path):
    found = maze_runs(read_results([sweep]))
    assert (found.env_id, found.dataset, len(found.groups)) == ("cql/UMaze-v0", "pointmaze_umaze", 2)
    picture = np.asarray(Image.open(draw_maze(found, tmp_path / "maze.png")).convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    for column in range(3):
        for row in range(2):
            part = picture[row * height // 2 : (row + 1) * height // 2, column * width // 3 : (column + 1) * width // 3]
            assert len(np.unique(part.reshape(-1, 3), axis=0)) > 20, (row, column)


def test_impossible_values_are_red(sweep, tmp_path, monkeypatch):
    """All maps have one scale, which ends where values cannot be right."""
    monkeypatch.setattr(maze_figure, "_N_EPISODES", 1)
    red = {}
    for value in (19.0, 23.0):  # of at most 1 / (1 - 0.95) = 20
        monkeypatch.setattr(
            maze_figure, "load_values", lambda _, value=value: lambda o, a: np.full((len(o), len(a)), 5 * value)
        )
        path = draw_maze(maze_runs(read_results([sweep])), tmp_path / f"{value}.png")
        picture = np.asarray(Image.open(path).convert("RGB"))
        red[value] = (picture == (0xB3, 0x20, 0x2C)).all(-1).mean()
    assert red[19.0] < 0.001  # the arrow of the colour bar
    assert red[23.0] > 0.02


def test_the_script_writes_it_beside_the_runs(sweep, monkeypatch, capsys):
    script = load_script("maze")
    monkeypatch.setattr("sys.argv", ["maze.py", str(sweep)])
    assert script.main() == 0
    assert capsys.readouterr().out == f"written: {sweep / 'maze.png'}\n"
    assert (sweep / "maze.png").is_file()
    monkeypatch.setattr("sys.argv", ["maze.py", str(sweep), "--out", str(sweep / "nowhere" / "a.png")])
    assert script.main() == 2
    assert "does not exist; make it first" in capsys.readouterr().err
    for label in ("nobody=CQL", "arm-cql"):
        monkeypatch.setattr("sys.argv", ["maze.py", str(sweep), "--label", label])
        assert script.main() == 2
        assert "write ARM=TEXT, with one of " in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["maze.py", str(sweep / "nowhere")])
    assert script.main() == 2
    assert "nowhere is not a folder: give that of a sweep" in capsys.readouterr().err


def test_other_runs_have_no_such_picture(tmp_path, dataset):
    experiment.run(tiny_config(dataset), tmp_path / "one")
    with pytest.raises(
        ResultsError, match="on one embedded dataset of a maze; these are on None in InvertedPendulum-v5"
    ):
        maze_runs(read_results([tmp_path / "one"]))


def test_values_are_the_critics_lowest_in_the_environments_units(sweep):
    path = CheckpointFolder(sweep / "arm-cql__seed-0" / "checkpoints").find("last")
    generator = np.random.default_rng(0)
    observations, actions = generator.normal(size=(5, 4)), generator.uniform(-1, 1, (3, 2))
    values = load_values(path)(observations, actions)
    assert values.shape == (5, 3)
    checkpoint = load(path)
    critics = checkpoint["agent"]["parameters"]["critics"]
    mean, std = (checkpoint["normaliser"][key].double() for key in ("mean", "std"))
    for b, n in ((0, 0), (4, 2), (1, 2)):
        inputs = torch.cat([(torch.tensor(observations[b]) - mean) / std, torch.tensor(actions[n])])
        each = []
        for critic in range(2):
            hidden = inputs
            for layer in range(3):
                weight, bias = (critics[f"{layer}.{kind}"][critic].double() for kind in ("weight", "bias"))
                hidden = hidden @ weight + bias
                hidden = hidden.relu() if layer < 2 else hidden
            each.append(hidden.item())
        assert values[b, n] == pytest.approx(min(each), rel=1e-4, abs=1e-5)
