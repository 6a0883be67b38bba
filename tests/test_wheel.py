"""A wheel, built and installed elsewhere, is the whole program: configs, entry points and embedded policies."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from tiny import OVERRIDES, write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.ci]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_configs_scripts_and_policies(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"cql/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "cql").rglob("*.py")} <= names
    templates = {f"cql/results/templates/{path.name}" for path in (ROOT / "cql/results/templates").iterdir()}
    assert templates <= names
    assert "cql/results/templates/page.css" in templates
    assert {
        "cql/training/templates/model_card.md",
        "cql/scripts/train.py",
        "cql/py.typed",
        "cql/data/behaviour/halfcheetah/sac_125k.npz",
    } <= names
    # Beside the launchers of other packages, so without an __init__.py of its own.
    assert "hydra_plugins/cql_stacked/launcher.py" in names
    assert "hydra_plugins/__init__.py" not in names
    assert not [name for name in names if name.startswith("tests/")]


def test_it_trains_where_there_is_no_repository(wheel: Path, tmp_path: Path) -> None:
    # The dependencies are those of this environment; only the package itself comes from the wheel.
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run([binaries / "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    # Only its folder, not its .pth files, which would bring the editable package back.
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    dataset = write_dataset(tmp_path / "pendulum.hdf5")
    result = subprocess.run(
        [binaries / "cql-train", "dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, "hydra.run.dir=run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "summary.json").exists()
    swept = subprocess.run(
        [
            binaries / "cql-train",
            "-m",
            "dataset=d4rl",
            f"dataset.path={dataset}",
            *OVERRIDES,
            "sweep_name=two",
            "seed=0,1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert swept.returncode == 0, swept.stderr
    assert "stack 1/1: step 60/60  2 runs" in swept.stdout
    table = subprocess.run(
        [binaries / "cql-sweep-status", "two"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert table.returncode == 0, table.stderr
    assert "2 runs: 2 finished" in table.stdout
    where = subprocess.run(
        [binaries / "python", "-c", "import cql; print(cql.__file__)"], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert str(tmp_path) in where.stdout


def test_every_script_is_a_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    listed = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt"))).decode()
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"__init__"}
    assert {"evaluate", "export", "train"} <= scripts
    for script in scripts:
        assert f"cql-{script.replace('_', '-')} = cql.scripts.{script}:main\n" in listed
