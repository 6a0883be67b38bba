"""What a GPU must not change. Run with `pytest -m gpu` where there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_agent import CONFIG, LEARNED_RUN, transitions
from tiny import tiny_config, write_dataset

from cql.algorithm.agent import METRICS, Agent, AgentConfig
from cql.algorithm.fast.cuda_graph import CapturedStep
from cql.algorithm.sampling import Batch, Mixture, Noise, Pool, ReplayBuffer, pieces
from cql.training import experiment
from cql.training.checkpoint import load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def test_an_update_gives_the_metrics_of_the_cpu() -> None:
    agents = [Agent(CONFIG, [LEARNED_RUN] * 2, [0, 1], torch.device(name)) for name in ("cpu", "cuda")]
    sampler = agents[0].sampler([0, 1], batch_size=16)
    for _ in range(5):
        batch, noise = sampler.draw(transitions())
        on_cpu = agents[0].update(batch, noise)
        on_gpu = agents[1].update(
            Batch(*(None if x is None else x.cuda() for x in batch)), Noise(*(x.cuda() for x in noise))
        )
        assert on_gpu.shape == (len(METRICS), 2)
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)


SAMPLED = replace(CONFIG, gradient="sampled", num_gradient_actions=2)


FAMILY = replace(
    SAMPLED, calibrated=True, n_critics=4, log_std_offset=-1.0, critic_schedule="cosine", n_schedule_steps=40
)


@pytest.mark.parametrize("config", [CONFIG, SAMPLED, FAMILY], ids=["exact", "sampled", "the family"])
def test_captured_steps_are_the_plain_ones_step_by_step(config: AgentConfig, caplog: pytest.LogCaptureFixture) -> None:
    device, seeds = torch.device("cuda"), [0, 1, 2]
    plain, agent = (Agent(config, [LEARNED_RUN] * 3, seeds, device) for _ in range(2))
    samplers = [each.sampler(seeds, batch_size=16) for each in (plain, agent)]
    data = Batch(*(field.cuda() for field in transitions()))
    step = CapturedStep(agent, samplers[1], data)
    for _ in range(50):
        expected = plain.update(*samplers[0].draw(data))
        torch.testing.assert_close(step(), expected, rtol=1e-4, atol=1e-5)
    assert step.n_graphs == 1, caplog.text
    for ours, theirs in zip(agent.stack.tensors(), plain.stack.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for run in range(3):
        assert torch.equal(samplers[1].state(run), samplers[0].state(run))


@pytest.mark.parametrize("by_shares", [False, True])
@pytest.mark.parametrize("n_offline", [8, None])
def test_a_graph_sees_what_runs_have_collected_since(n_offline: int | None, by_shares: bool) -> None:
    device, seeds, clipped = torch.device("cuda"), [0, 1], replace(LEARNED_RUN, critic_max_grad_norm=1.0)
    plain, agent = (Agent(SAMPLED, [clipped] * 2, seeds, device) for _ in range(2))
    samplers = [each.sampler(seeds, batch_size=16) for each in (plain, agent)]
    data = transitions()
    rows, ends = data.observations.cuda(), data.terminated.cuda()
    pool = Pool(rows, torch.arange(39, device=device), data.actions.cuda()[:39], data.rewards.cuda()[:39], ends[:39])
    if by_shares:
        pool = pool._replace(pieces=pieces([(9, 0.8), (30, 0.2)], device))
    buffer = ReplayBuffer(2, 100, 3, 2, device, with_returns=False)
    mixture = Mixture(pool, buffer, n_offline)
    step = CapturedStep(agent, samplers[1], mixture)
    for index in range(40):
        if index % 10 == 0:
            for run in range(2):
                buffer.add(run, transitions(10 + index, seed=run)._replace(returns_to_go=None))
        expected = plain.update(*samplers[0].draw(mixture))
        torch.testing.assert_close(step(), expected, rtol=1e-4, atol=1e-5)
    assert step.n_graphs == 1


def test_each_phase_has_a_graph() -> None:
    device, seeds, runs = torch.device("cuda"), [0, 1], [replace(LEARNED_RUN, bc_steps=20), LEARNED_RUN]
    plain, agent = (Agent(replace(CONFIG, target_update_period=2), runs, seeds, device) for _ in range(2))
    samplers = [each.sampler(seeds, batch_size=16) for each in (plain, agent)]
    data = Batch(*(field.cuda() for field in transitions()))
    step = CapturedStep(agent, samplers[1], data)
    for _ in range(40):
        step()
        plain.update(*samplers[0].draw(data))
    assert step.n_graphs == 4
    for ours, theirs in zip(agent.stack.tensors(), plain.stack.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_a_step_does_not_wait_for_the_device() -> None:
    agent = Agent(SAMPLED, [LEARNED_RUN] * 2, [0, 1], torch.device("cuda"))
    sampler = agent.sampler([0, 1], batch_size=16)
    data = Batch(*(field.cuda() for field in transitions()))
    agent.update(*sampler.draw(data))
    try:
        torch.cuda.set_sync_debug_mode("error")
        agent.update(*sampler.draw(data))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_tf32_changes_the_losses_by_its_rounding_alone() -> None:
    metrics = []
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        agent = Agent(CONFIG, [LEARNED_RUN], [0], torch.device("cuda"))
        sampler = agent.sampler([0], batch_size=256)
        data = Batch(*(field.cuda() for field in transitions()))
        metrics.append(torch.stack([agent.update(*sampler.draw(data)) for _ in range(5)]))
    torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(metrics[1], metrics[0], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_run_on_the_gpu_resumes_bit_for_bit(tmp_path: Path, cuda_graph: bool) -> None:
    train_config = tiny_config(write_dataset(tmp_path / "data.hdf5"), "device=cuda", f"cuda_graph={cuda_graph}")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        experiment.run(train_config, folder)
    for step in (50, 60):
        (resumed / "checkpoints" / f"step_{step:07d}.pt").unlink()
    (resumed / "summary.json").unlink()
    experiment.run(train_config, resumed)
    a, b = (load(folder / "checkpoints" / "step_0000060.pt")["agent"]["parameters"] for folder in (whole, resumed))
    assert all(torch.equal(a[part][name], b[part][name]) for part in a for name in a[part])
