"""Composing and training from Python, in a process that may use Hydra for something else."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from tiny import OVERRIDES

import cql
from cql.config import VERSION_BASE, ConfigError
from cql.training import experiment
from cql.training.run_folder import FolderError

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def overrides(dataset: Path) -> list[str]:
    return ["dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, "n_steps=10"]


@pytest.fixture
def others_hydra(tmp_path: Path):
    """As in a notebook that has initialised Hydra for configs of its own."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "own.yaml").write_text("key: 5\n")
    hydra.initialize_config_dir(str(tmp_path / "theirs"), **VERSION_BASE)
    yield
    GlobalHydra.instance().clear()


def test_it_trains_twice_in_one_process_beside_somebody_elses_hydra(overrides, others_hydra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = cql.train(overrides, directory="first")
    assert (first.folder, first.score) == (Path("first"), float(first.score))
    assert cql.load(first.folder, 10).act([0.0] * 4).shape == (1,)
    second = cql.train([*overrides, "seed=1"])
    assert second.folder.parent == Path("outputs") / "InvertedPendulum-v5" / "pendulum"
    assert second.folder.name.endswith("_seed1")
    assert hydra.compose("own").key == 5
    written = (tmp_path / "first" / "metrics.jsonl").stat().st_mtime_ns
    assert cql.train(overrides, directory="first") == first  # it has finished
    assert (tmp_path / "first" / "metrics.jsonl").stat().st_mtime_ns == written
    with pytest.raises(FolderError, match="seed: 0 -> 2"):
        cql.train([*overrides, "seed=2"], directory="first")
    runs = cql.read_runs(tmp_path)
    assert runs["seed"].tolist() == [0, 1]
    assert runs["eval_return_mean"].tolist() == [first.score, second.score]


def test_an_interrupt_is_one(overrides, tmp_path, monkeypatch):
    def ended(code: int):
        def run(*_: object) -> float:
            raise SystemExit(code)

        return run

    monkeypatch.setattr(experiment, "run", ended(130))
    with pytest.raises(KeyboardInterrupt, match="resumes it"):
        cql.train(overrides, directory=tmp_path)
    monkeypatch.setattr(experiment, "run", ended(143))
    with pytest.raises(SystemExit):
        cql.train(overrides, directory=tmp_path)


def test_a_config_is_a_tree_of_checked_values():
    config = cql.compose(["+arm=sac", "+experiment=smoke", "seed=3"])
    assert (config.seed, config.network.width, config.algorithm.discount) == (3, 32, 0.99)
    assert config.algorithm.alpha_cql.value == 0  # an arm comes after the experiment, as on the command line
    assert cql.compose("seed=4").seed == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.discuont=0.9", "did you mean algorithm.discount"),
        ("n_steps=ten", "n_steps=ten: it must be an integer"),
        ("n_steps=-1", "n_steps=-1 is out of range"),
        ("network.width=[", "cannot read the override"),
        ("seed=0,1", "seed=0,1: this composes one run.*scripts/train.py"),
        ("-m", "-m: this composes one run"),
        ("+experiment=alpha_cql_sweep", "hydra.mode=MULTIRUN: this composes one run"),
        ("hydra.run.dir=here", r"options of Hydra are for the command line"),
        ("resume=here", r"resume=here: .*cql.train resumes"),
    ],
)
def test_wrong_overrides_are_explained(override, message):
    with pytest.raises(ConfigError, match=message) as found:
        cql.compose([override])
    assert found.value.__suppress_context__


def test_what_it_offers_is_listed():
    assert cql.__all__ == ["Policy", "__version__", "compose", "load", "read_runs", "train"]
    assert all(getattr(cql, name) for name in cql.__all__)
    with pytest.raises(AttributeError, match="it offers Policy"):
        _ = cql.evaluate
