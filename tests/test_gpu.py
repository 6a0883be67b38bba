"""What a GPU must not change. Run with `pytest -m gpu` where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_config, write_dataset

from cql import experiment
from cql.agent import METRICS, Agent, Coefficients, Structure
from cql.checkpoint import load
from cql.networks import Mlp
from cql.sampling import Batch, Noise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

STRUCTURE = Structure(
    mlp=Mlp(width=32, depth=2),
    observation_size=5,
    action_size=3,
    backup="soft",
    num_sampled_actions=4,
    importance_weighted=True,
    next_actions=True,
    temperature=1.0,
    bc_steps=0,
    target_update_period=1,
    log_std_min=-20.0,
    log_std_max=2.0,
    critic_learning_rate=3e-4,
    actor_learning_rate=1e-4,
    temp_learning_rate=1e-4,
    alpha_learning_rate=3e-4,
)
COEFFICIENTS = Coefficients(
    alpha_cql=5.0, tau_cql=-1.0, w_cql=1.0, alpha_temp=1.0, target_entropy=-3.0, discount=0.99, tau_target=0.005
)


def test_an_update_gives_the_metrics_of_the_cpu() -> None:
    agents = [Agent(STRUCTURE, [COEFFICIENTS] * 2, [0, 1], torch.device(name)) for name in ("cpu", "cuda")]
    random = torch.Generator().manual_seed(0)
    data = Batch(
        torch.randn(100, 5, generator=random),
        torch.rand(100, 3, generator=random) * 2 - 1,
        torch.randn(100, generator=random),
        torch.randn(100, 5, generator=random),
        torch.zeros(100),
    )
    sampler = agents[0].sampler([0, 1], batch_size=16)
    for _ in range(5):
        batch, noise = sampler.draw(data)
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
