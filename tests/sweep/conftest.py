"""The sweep that most tests of sweeps start from."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def swept(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a sweep of four runs, `outputs/sweeps/four`, is finished."""
    from four import GRID, train

    folder = tmp_path_factory.mktemp("swept")
    ended = train(dataset, folder, "-m", "sweep_name=four", *GRID)
    assert ended.code == 0, ended.text
    (folder / "output.txt").rename(folder / "first_output.txt")
    return folder
