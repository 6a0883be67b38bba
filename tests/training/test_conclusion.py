"""What a single run says at its end, and which errors the console leaves to the exception."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import h5py
import pytest
from composed import load
from tiny import OVERRIDES, tiny_config

from cql import data
from cql.training import experiment
from cql.training.conclusion import conclusion
from cql.training.local_logger import LocalLogger, read_metrics
from cql.training.progress import rounded
from cql.training.run_logs import LOG_FILE

pytestmark = pytest.mark.usefixtures("no_figures")


def test_a_run_ends_with_its_evaluations_the_data_and_the_next_commands(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    directory = tmp_path / "a run"
    experiment.run(tiny_config(dataset, "n_steps=20", "dataset.reward_scale=0.1", "dataset.reward_bias=2"), directory)
    said = [record.getMessage() for record in caplog.records if record.name == experiment.log.name]
    assert said[-1].splitlines() == [
        "next:",
        f"  python scripts/doctor.py '{directory}'",
        f"  python scripts/evaluate.py '{directory}' --checkpoint best",
    ]
    assert said[-2].startswith(f"results: {directory}\n")
    with h5py.File(dataset) as file:
        ends = file["terminals"][:] | file["timeouts"][:]
        mean = file["rewards"][:].sum() / ends.sum()
    provenance = json.loads((directory / "provenance.json").read_text())
    assert provenance["yardsticks"]["episode_return"] == pytest.approx(mean, rel=1e-4)
    assert said[-3] == f"recorded episodes: mean return {rounded(mean)}"
    last = read_metrics(directory)[-1]
    assert f"step 20, return {rounded(last['eval_return_mean'])} +- " in "".join(said[-5:-3])


def test_the_best_evaluation_is_named_beside_the_last(dataset: Path, tmp_path: Path) -> None:
    logger, train_config = LocalLogger(tmp_path), tiny_config(dataset)
    for step, mean in ((10, 20.0), (20, 31.0), (30, 31.0), (40, 5.5)):
        logger.log_metrics(step, {"eval_return_mean": mean, "eval_return_std": 1.5, "eval_score": mean / 2})
    logger.log_metrics(50, {"critic_td": 1.0})
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "step_0000040.gif").touch()
    said = conclusion(train_config, tmp_path)
    assert said[:2] == [
        "last evaluation: step 40, return 5.5 +- 1.5 (score 2.8)",
        "best evaluation: step 20, return 31 +- 1.5 (score 15.5)",
    ]
    assert said[2].startswith("results: ")  # nothing is known of the data
    assert said[3].endswith("--checkpoint best --gif best.gif")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("{\n")
    assert conclusion(train_config, tmp_path) == said[2:]


def test_without_a_simulator_the_named_scorer_judges(tmp_path: Path) -> None:
    others = [text for text in OVERRIDES if not text.startswith(("env", "video"))]
    train_config = load("dataset=d4rl", "dataset.path=a.hdf5", *others, "env=none", "env.best_by=td_error")
    logger = LocalLogger(tmp_path)
    for step, error in ((10, 3.0), (20, 1.25), (30, 2.0)):
        logger.log_metrics(step, {"offline_td_error": error})
    assert conclusion(train_config, tmp_path) == [
        "last evaluation: step 30, td_error 2",
        "best evaluation: step 20, td_error 1.25",
        f"results: {tmp_path}",
        f"next:\n  python scripts/doctor.py {tmp_path}",
    ]


@pytest.mark.parametrize("in_sweep", [False, True])
def test_the_console_leaves_an_error_that_is_raised_to_the_exception(in_sweep: bool, tmp_path: Path) -> None:
    """That of a single run. Of a sweep's errors only the first is raised. The log file has it anyway."""
    directory, console = tmp_path / "run", io.StringIO()
    if in_sweep:
        (tmp_path / "sweep.json").write_text("{}")
    logging.getLogger().addHandler(logging.StreamHandler(console))
    with pytest.raises(data.DatasetNotFoundError, match="does not exist"):
        experiment.run(tiny_config(tmp_path / "nothing.hdf5"), directory)
    assert ("does not exist" in console.getvalue()) == in_sweep
    assert (directory / LOG_FILE).read_text().count("DatasetNotFoundError: D4RL file") == 1
    logging.getLogger().error("what comes later")
    assert "what comes later" in console.getvalue()
