"""Updates per second, ours beside d3rlpy's: ``python scripts/benchmark.py [--rounds N] [--seconds S] [--json FILE]``.

One run of CQL(H) at the sizes of HalfCheetah: 17 observations, 6 actions, minibatches of 256, networks of 2 x 256,
three groups of 10 sampled actions, soft backup, fixed alpha_cql = 5, learned temperature; float32 on the CPU. Every
measurement has a process of its own, so that neither allocator settings nor threads leak from one to the next, and the
implementations take turns within a round. ``make benchmark`` installs the peer.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

S, A, BATCH, WIDTH, N, TRANSITIONS = 17, 6, 256, 256, 10, 100_000
WARM_UP = 20  # updates

Update = Callable[[], object]


def ours() -> Update:
    """One update with all that belongs to it: minibatch, noise, step."""
    import torch

    from cql.agent import Agent, Coefficients, Structure
    from cql.experiment import keep_freed_memory
    from cql.networks import Mlp
    from cql.sampling import Batch

    keep_freed_memory()  # as training does
    structure = Structure(
        mlp=Mlp(width=WIDTH, depth=2),
        observation_size=S,
        action_size=A,
        backup="soft",
        num_sampled_actions=N,
        importance_weighted=True,
        next_actions=True,
        temperature=1.0,
        target_update_period=1,
        log_std_min=-20.0,
        log_std_max=2.0,
    )
    run = Coefficients(
        alpha_cql=5.0,
        tau_cql=None,
        w_cql=1.0,
        alpha_temp=1.0,
        target_entropy=-A,
        discount=0.99,
        tau_target=0.005,
        bc_steps=0,
        critic_learning_rate=3e-4,
        actor_learning_rate=1e-4,
        temp_learning_rate=1e-4,
        alpha_learning_rate=None,
    )
    agent = Agent(structure, [run], [0], torch.device("cpu"))
    sampler = agent.sampler([0], BATCH)
    n = TRANSITIONS
    data = Batch(torch.randn(n, S), torch.rand(n, A) * 2 - 1, torch.randn(n), torch.randn(n, S), torch.zeros(n))
    return lambda: agent.update(*sampler.draw(data))


def d3rlpy_parts() -> tuple[Any, Any]:
    """d3rlpy's algorithm and a buffer of transitions."""
    import d3rlpy
    import numpy as np

    encoder = d3rlpy.models.encoders.VectorEncoderFactory([WIDTH, WIDTH])
    algo = d3rlpy.algos.CQLConfig(
        batch_size=BATCH,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        alpha_learning_rate=0.0,
        initial_alpha=5.0,
        conservative_weight=1.0,
        n_action_samples=N,
        soft_q_backup=True,
    ).create(device="cpu:0")
    rng, n = np.random.default_rng(0), TRANSITIONS
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rng.normal(size=(n, S)).astype(np.float32),
        actions=rng.uniform(-1, 1, (n, A)).astype(np.float32),
        rewards=rng.normal(size=n).astype(np.float32),
        terminals=np.zeros(n, np.float32),
        timeouts=(np.arange(n) % 1000 == 999).astype(np.float32),
    )
    algo.build_with_dataset(dataset)
    return algo, dataset


def d3rlpy_update() -> Update:
    """Its update on prepared minibatches: its own data path is left out."""
    from d3rlpy.torch_utility import TorchMiniBatch

    algo, dataset = d3rlpy_parts()
    picked = [dataset.sample_transition_batch(BATCH) for _ in range(10)]
    batches = itertools.cycle([TorchMiniBatch.from_batch(each, 0.99, False, "cpu:0") for each in picked])
    return lambda: algo.impl.update(next(batches), 0)


def d3rlpy_with_data() -> Update:
    """What its ``fit`` does in a step: pick transitions, then update."""
    algo, dataset = d3rlpy_parts()
    return lambda: algo.update(dataset.sample_transition_batch(BATCH))


IMPLEMENTATIONS: dict[str, Callable[[], Update]] = {
    "cql": ours,
    "d3rlpy, update alone": d3rlpy_update,
    "d3rlpy, with its data path": d3rlpy_with_data,
}


def measure(name: str, seconds: float, n_threads: int) -> float:
    """Updates per second in this process."""
    import torch

    torch.set_num_threads(n_threads)
    update = IMPLEMENTATIONS[name]()
    for _ in range(WARM_UP):
        update()
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        update()
        done += 1
    return done / elapsed


def measure_apart(name: str, seconds: float, n_threads: int) -> float:
    """The same in a process of its own; what it has to say is shown only where it fails."""
    command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds), "--threads", str(n_threads)]
    # Each as its users run it: GOMP_SPINCOUNT is what scripts/train.py sets before it imports torch.
    setting = {"GOMP_SPINCOUNT": "1000"} if name == "cql" else {}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **setting})
    if done.returncode:
        sys.exit(f"{name}: the measurement failed\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def surroundings() -> dict[str, str]:
    """Versions, None left out, and the processor."""
    found = {}
    for package in ("cql", "torch", "d3rlpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name") and ": " in line]
    return found | {"processor": names[0] if names else platform.machine(), "cores": str(os.cpu_count())}


def main() -> None:
    """Measure in turns, print a table, and write the numbers where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement, after its warm-up")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, the same for all")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--one", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)  # the process of one measurement
    options = parser.parse_args()
    if options.one:
        print(measure(options.one, options.seconds, options.threads))
        return

    around = surroundings()
    rates: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS if name == "cql" or "d3rlpy" in around}
    for turn in range(options.rounds):
        for name in rates if turn % 2 == 0 else reversed(rates):
            rates[name].append(measure_apart(name, options.seconds, options.threads))

    settings = {"threads": options.threads, "rounds": options.rounds, "seconds": options.seconds}
    print(", ".join(f"{name} {value}" for name, value in {**around, **settings}.items()) + "\n")
    print(f"{'updates per second':<28}{'median':>8}{'min':>8}{'max':>8}{'ours is':>10}")
    for name in IMPLEMENTATIONS:
        if name not in rates:
            print(f"{name:<28}  not installed: `make benchmark` installs it")
            continue
        median = statistics.median(rates[name])
        ratio = statistics.median(rates["cql"]) / median
        print(f"{name:<28}{median:>8.1f}{min(rates[name]):>8.1f}{max(rates[name]):>8.1f}{ratio:>8.2f} x")
    if options.json:
        options.json.write_text(json.dumps({**around, **settings, "rates": rates}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
