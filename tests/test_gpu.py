"""What a GPU must not change. Run with `pytest -m gpu` where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_agent import LEARNED_RUN, STRUCTURE, transitions
from tiny import tiny_config, write_dataset

from cql import experiment
from cql.agent import METRICS, Agent
from cql.checkpoint import load
from cql.sampling import Batch, Noise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def test_an_update_gives_the_metrics_of_the_cpu() -> None:
    agents = [Agent(STRUCTURE, [LEARNED_RUN] * 2, [0, 1], torch.device(name)) for name in ("cpu", "cuda")]
    sampler = agents[0].sampler([0, 1], batch_size=16)
    for _ in range(5):
        batch, noise = sampler.draw(transitions())
        on_cpu = agents[0].update(batch, noise)
        on_gpu = agents[1].update(Batch(*(x.cuda() for x in batch)), Noise(*(x.cuda() for x in noise)))
        assert on_gpu.shape == (len(METRICS), 2)
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)


def test_a_run_on_the_gpu_resumes_bit_for_bit(tmp_path: Path) -> None:
    train_config = tiny_config(write_dataset(tmp_path / "data.hdf5"), "device=cuda")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        experiment.run(train_config, folder)
    for step in (50, 60):
        (resumed / "checkpoints" / f"step_{step:07d}.pt").unlink()
    (resumed / "summary.json").unlink()
    experiment.run(train_config, resumed)
    a, b = (load(folder / "checkpoints" / "step_0000060.pt")["agent"]["parameters"] for folder in (whole, resumed))
    assert all(torch.equal(a[part][name], b[part][name]) for part in a for name in a[part])
