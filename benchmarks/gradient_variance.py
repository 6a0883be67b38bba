"""How much noise a sampled conservative gradient adds: ``python benchmarks/gradient_variance.py RUN_DIR``.

Takes the critics of a run's checkpoint and minibatches of its dataset, and compares the gradient of the critics' loss
through k actions, drawn many times for the same minibatch and the same sampled actions, with the exact one. Beside it
stands the noise that is there anyway, the variance of the exact gradient from minibatch to minibatch.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from cql.algorithm.agent import Agent
from cql.algorithm.sampling import Batch, Noise
from cql.config import from_dict
from cql.rollout.envs import env_info
from cql.training import build
from cql.training.checkpoint import CheckpointFolder, load


def gradients(agent: Agent, batch: Batch, noise: Noise) -> Tensor:
    """Of the critics' loss, flat, one row a run of the stack: (R, parameters)."""
    agent.step(agent.phase, batch, noise)  # at rates of zero it changes nothing
    return torch.cat([stack.grad.flatten(1) for stack in agent.critics.values() if stack.grad is not None], 1)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--checkpoint", default="last", help="last (default), best, or a step")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 4, 8], help="actions of the sampled gradients")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--draws", type=int, default=16, help="of the sampled gradient, for each minibatch")
    options = parser.parse_args()

    contents = load(CheckpointFolder(options.run_dir / "checkpoints").find(options.checkpoint))
    train_config = from_dict(contents["config"])
    info, device, draws = env_info(train_config.env.id), torch.device("cpu"), options.draws
    data = build.as_pool(build.load_data(train_config, info, device))
    numbers = build.hyper_params(train_config, info)
    rates = [name for name, value in asdict(numbers).items() if name.endswith("_learning_rate") and value is not None]
    numbers = replace(numbers, **dict.fromkeys([*rates, "tau_target"], 0.0))

    def agent(k: int | None, n_runs: int) -> Agent:
        shape = replace(
            build.agent_config(train_config, info),
            gradient="exact" if k is None else "sampled",
            num_gradient_actions=k,
        )
        made = Agent(shape, [numbers] * n_runs, [0] * n_runs, device)
        made.load_states([contents["agent"]] * n_runs)
        return made

    exact_agent, sampled_agents = agent(None, 1), {k: agent(k, draws) for k in options.k}
    sampler, random = exact_agent.sampler([0], train_config.batch_size), torch.Generator().manual_seed(0)
    exact, of_sampling = [], {k: [] for k in options.k}
    for _ in range(options.batches):
        batch, noise = sampler.draw(data)
        exact.append(gradients(exact_agent, batch, noise)[0].double())
        stacked_batch = Batch(*(field.expand(draws, *field.shape[1:]) for field in batch[:5]))
        stacked_noise = Noise(*(field.expand(draws, *field.shape[1:]) for field in noise))
        for k, own in sampled_agents.items():
            choice = torch.rand(draws, own.config.n_critics, k, train_config.batch_size, generator=random)
            found = gradients(own, stacked_batch, stacked_noise._replace(choice=choice)).double()
            of_sampling[k].append(float((found - exact[-1]).square().sum(1).mean()))
    all_exact = torch.stack(exact)
    size = float(all_exact.mean(0).square().sum())
    of_minibatch = float(all_exact.var(0).sum())
    print(f"{options.run_dir.name}, step {contents['step']}, {options.batches} minibatches, {draws} draws each")
    print("variance of the critics' gradient, in units of its squared mean:")
    print(f"  exact, from minibatch to minibatch  {of_minibatch / size:8.3f}")
    for k, values in of_sampling.items():
        added = sum(values) / len(values)
        print(f"  added by k = {k:<2}                     {added / size:8.3f}  ({added / of_minibatch:.2f} of that)")


if __name__ == "__main__":
    main()
