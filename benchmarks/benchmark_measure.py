"""One measurement of `benchmark.py`, in a process of its own: ``python benchmark_measure.py '{"what": "load", ...}'``.

The argument is a :class:`Spec` as JSON; the last line printed is the answer: ``{"rate": 24.1}``, in work per second,
``{"value": 512.0}`` in the unit of its row, ``{"values": {"part": 0.6, ...}}``, or ``{"absent": "why"}`` where this
machine or this version cannot do it. torch and all else that is large is imported in the functions, after the
environment variables are set that it reads.
"""

# Longer than a module of the package may be: every measurement starts this file alone, in a process of its own.

import dataclasses
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ENV = "HalfCheetah-v5"
PACKAGES = (
    "cql",
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "h5py",
    "minari",
    "wandb",
    "d3rlpy",
    "torchrl",
    "tensordict",
)
CHUNK = 50  # steps on a GPU between two looks at the clock, which have to wait for it

Call = Callable[[], object]
Answer = dict[str, Any]


class Absent(Exception):  # noqa: N818  nothing is wrong
    """What is asked for is not there: a row that says so."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What to measure.

    Attributes:
        what: a key of :data:`MEASUREMENTS`.
        impl: of which implementation.
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        seconds: to measure for, after the warm-up.
        warm_up: calls before.
        runs: R of the stack.
        batch_size: B.
        width: of the hidden layers.
        depth: hidden layers.
        num_sampled_actions: per group of the penalty.
        observation_size: S.
        action_size: A.
        episodes: of one evaluation of one run.
        transitions: in the data.
        path: a dataset's file, where one is read.
        root: the folder of Minari's datasets, where one is read.
    """

    what: str
    impl: str = ""
    device: str = "cpu"
    threads: int = 1
    seconds: float = 1.0
    warm_up: int = 20
    runs: int = 1
    batch_size: int = 256
    width: int = 256
    depth: int = 2
    num_sampled_actions: int = 10
    observation_size: int = 17
    action_size: int = 6
    episodes: int = 10
    transitions: int = 100_000
    path: str = ""
    root: str = ""


def rate_of(call: Call, spec: Spec) -> float:
    """Calls per second."""
    import torch

    on_gpu = spec.device == "cuda"
    for _ in range(spec.warm_up):
        call()
    if on_gpu:
        torch.cuda.synchronize()
    done, start = 0, time.perf_counter()
    while True:
        for _ in range(CHUNK if on_gpu else 1):
            call()
            done += 1
        if on_gpu:
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed >= spec.seconds:
            return done / elapsed


# Updates --------------------------------------------------------------------------------------------------------------


def update_flop(spec: Spec) -> float:
    """Floating-point operations of the matrix products in one exact update of one run, a multiply-add being two.

    A product of ``rows`` with a weight (in, out) takes 2 rows in out, and so do the gradients of its weight and of its
    input. With B states, n = 3 N sampled actions and the data's one, C = 2 critics:

    * critics, forward and the weights' gradient: C times the products of (1 + n) B rows, but those of the first layer's
      state part, which is linear and shared by a state's actions, of B rows;
    * critics, gradient between the layers: C times (1 + n) B rows through the hidden weights, not the first layer's;
    * targets: C times forward of B rows, whole;
    * actor: forward of B rows at s and B at s', the weights' gradient of B rows and between the layers of B rows;
    * the actor's loss through the critics: C times forward of B rows and back to the actions.

    The gradient below a critic's single output is an outer product, no matrix product, and is not counted. Biases,
    activations, losses, optimisers and noise are not either: this is the floor's work, not all work.
    """
    b, w, s, a = spec.batch_size, spec.width, spec.observation_size, spec.action_size
    n_critics, rows = 2, (1 + 3 * spec.num_sampled_actions) * spec.batch_size
    hidden = (spec.depth - 1) * w * w
    critic_forward = b * s * w + rows * (a * w + hidden + w)
    critics = n_critics * (2 * critic_forward + rows * hidden)
    targets = n_critics * b * ((s + a) * w + hidden + w)
    actor_sizes = s * w + hidden + w * 2 * a
    actor = b * (2 * actor_sizes + actor_sizes + hidden + w * 2 * a)
    actor_loss = n_critics * b * ((s + a) * w + hidden + w + hidden + a * w)
    return 2.0 * (critics + targets + actor + actor_loss)


def matmul_floor(spec: Spec) -> Answer:
    """Updates per second if the machine's own product, at the size that dominates, were all there is to do."""
    import torch

    if spec.impl.endswith("-tf32"):
        torch.backends.cuda.matmul.allow_tf32 = True
    rows, width = (1 + 3 * spec.num_sampled_actions) * spec.batch_size, spec.width
    left, right = torch.randn(rows, width, device=spec.device), torch.randn(width, width, device=spec.device)
    out = torch.empty(rows, width, device=spec.device)
    per_second = rate_of(lambda: torch.mm(left, right, out=out), spec) * 2.0 * rows * width * width
    work = update_flop(spec)
    return {"rate": per_second / work, "gflop_per_second": per_second / 1e9, "gflop_per_update": work / 1e9}


def structure(spec: Spec, samples: int | None) -> Any:
    """Ours, with the exact gradient, or where ``samples`` is a number with the sampled one."""
    from cql.algorithm.agent import AgentConfig
    from cql.algorithm.networks import Mlp

    mlp = Mlp(width=spec.width, depth=spec.depth)
    return AgentConfig(
        actor=mlp,
        critic=mlp,
        observation_size=spec.observation_size,
        action_size=spec.action_size,
        backup="soft",
        num_sampled_actions=spec.num_sampled_actions,
        importance_weighted=True,
        next_actions=True,
        gap_temperature=1.0,
        gradient="exact" if samples is None else "sampled",
        num_gradient_actions=samples,
        target_update_period=1,
        log_std_min=-20.0,
        log_std_max=2.0,
    )


def parts(spec: Spec, samples: int | None) -> tuple[Any, Any, Any]:
    """An agent of ours, its sampler, and made-up data, all on the device."""
    import torch

    from cql.algorithm.agent import Agent, HyperParams
    from cql.algorithm.sampling import Pool
    from cql.training.memory import keep_freed_memory

    keep_freed_memory()  # as training does
    device, seeds = torch.device(spec.device), list(range(spec.runs))
    run = HyperParams(
        alpha_cql=5.0,
        tau_cql=None,
        w_cql=1.0,
        alpha_temp=1.0,
        target_entropy=-float(spec.action_size),
        discount=0.99,
        tau_target=0.005,
        bc_steps=0,
        critic_learning_rate=3e-4,
        actor_learning_rate=1e-4,
        temp_learning_rate=1e-4,
        alpha_learning_rate=None,
    )
    agent = Agent(structure(spec, samples), [run] * spec.runs, seeds, device)
    n, size = spec.transitions, spec.observation_size
    data = Pool(
        rows=torch.randn(n + 1, size, device=device),
        row=torch.arange(n, device=device),
        actions=torch.rand(n, spec.action_size, device=device) * 2 - 1,
        rewards=torch.randn(n, device=device),
        terminated=torch.zeros(n, device=device),
    )
    return agent, agent.sampler(seeds, spec.batch_size), data


def ours(spec: Spec, *, samples: int | None, captured: bool, tf32: bool) -> Call:
    """One update of a stack with all that belongs to it: minibatch, noise, step.

    Args:
        spec: sizes and device.
        samples: k of the sampled gradient, None for the exact one.
        captured: replay the update as a CUDA graph instead of launching its operators one by one.
        tf32: let matrix products round their factors to TF32.
    """
    import torch

    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    agent, sampler, data = parts(spec, samples)
    if captured:
        from cql.algorithm.fast.cuda_graph import CapturedStep

        return CapturedStep(agent, sampler, data)
    return lambda: agent.update(*sampler.draw(data))


def implementation(spec: Spec) -> Call:
    """One update of what ``spec.impl`` names: ``ours-exact``, ``ours-sampled-k4-captured-tf32``, ``torchrl``, ..."""
    named = re.fullmatch(r"ours-(?:exact|sampled-k(\d+))(-captured)?(-tf32)?", spec.impl)
    if named:
        samples = int(named[1]) if named[1] else None
        return ours(spec, samples=samples, captured=bool(named[2]), tf32=bool(named[3]))
    from benchmark_peers import PEERS

    return PEERS[spec.impl](spec)


def update(spec: Spec) -> Answer:
    """Updates per second; those of all runs together where a stack is updated."""
    if spec.impl.startswith("matmul-floor"):
        return matmul_floor(spec)
    call = implementation(spec)
    answer: Answer = {"rate": rate_of(call, spec) * spec.runs}
    if spec.device == "cuda":
        import torch

        answer["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    if hasattr(call, "n_graphs"):
        answer["graphs"] = call.n_graphs  # none: the capture failed, and this is the rate without
    return answer


_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "linear", "_addmm_activation"}
_PRODUCTS |= {"mkldnn::_linear_pointwise"}  # with its activation
_ACTIVATIONS = {f"{name}_backward" for name in ("threshold", "tanh", "elu", "silu", "gelu")}


def part_of_step(operator: str) -> str:
    """Which part of the step an operator of torch's belongs to."""
    name = operator.removeprefix("aten::").removesuffix("_")  # what adds to its first argument is a product as well
    if name in _PRODUCTS:
        return "matrix products"
    return "activations' gradient" if name in _ACTIVATIONS else "other"


def profile(spec: Spec) -> Answer:
    """Shares of the operators' own time in a step: by part, and of the longest ones by name."""
    import torch
    from torch.profiler import ProfilerActivity

    call, on_gpu = implementation(spec), spec.device == "cuda"
    n_steps = min(max(1, round(rate_of(call, spec) * spec.seconds)), 50)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as recorded:
        for _ in range(n_steps):
            call()
        if on_gpu:
            torch.cuda.synchronize()
    own: dict[str, float] = {}
    for event in recorded.key_averages():
        if event.device_type == torch.autograd.DeviceType.CPU:  # kernels of a GPU count with the operator they are of
            own[event.key] = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    total = sum(own.values())
    parts = dict.fromkeys(("matrix products", "activations' gradient", "other"), 0.0)
    for operator, time_ in own.items():
        parts[part_of_step(operator)] += time_ / total
    longest = sorted(own, key=lambda operator: -own[operator])[:12]
    return {"values": {**parts, **{operator: own[operator] / total for operator in longest}}}


# Data -----------------------------------------------------------------------------------------------------------------


def make(spec: Spec) -> Answer:
    """Write the data of random play at an environment's sizes: a D4RL file, or (``impl: minari``) Minari's."""
    import numpy as np

    rng, n, length = np.random.default_rng(0), spec.transitions, 1000

    def columns(size: int) -> dict[str, Any]:
        return {
            "observations": rng.standard_normal((size, spec.observation_size), np.float32),
            "actions": rng.uniform(-1, 1, (size, spec.action_size)).astype(np.float32),
            "rewards": rng.standard_normal(size, np.float32),
        }

    if spec.impl == "minari":
        import warnings

        import gymnasium
        import minari
        from minari.data_collector.episode_buffer import EpisodeBuffer

        os.environ["MINARI_DATASETS_PATH"] = spec.root
        episodes = []
        for _ in range(n // length):
            one = columns(length)
            last = rng.standard_normal((1, spec.observation_size), np.float32)
            one["observations"] = np.concatenate([one["observations"], last])
            ends = np.arange(length) == length - 1
            episodes.append(EpisodeBuffer(**one, terminations=ends & False, truncations=ends, infos={}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of authors and the like, which it has none of
            minari.create_dataset_from_buffers(
                spec.path,
                episodes,
                observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (spec.observation_size,)),
                action_space=gymnasium.spaces.Box(-1.0, 1.0, (spec.action_size,)),
                data_format="hdf5",
            )
        return {}
    import h5py

    with h5py.File(spec.path, "w") as file:
        arrays = {
            "observations": file.create_dataset("observations", (n, spec.observation_size), np.float32),
            "next_observations": file.create_dataset("next_observations", (n, spec.observation_size), np.float32),
            "actions": file.create_dataset("actions", (n, spec.action_size), np.float32),
            "rewards": file.create_dataset("rewards", (n,), np.float32),
        }
        for start in range(0, n, 100_000):
            stop = min(start + 100_000, n)
            one = columns(stop - start + 1)
            one["next_observations"] = one["observations"][1:]  # also over the end of an episode, where it is as good
            for name, values in one.items():
                arrays[name][start:stop] = values[: stop - start]
        file["terminals"] = np.zeros(n, bool)
        file["timeouts"] = np.arange(n) % length == length - 1
    return {}


def dataset_overrides(spec: Spec) -> list[str]:
    """The dataset of a spec, for Hydra."""
    if spec.root:
        os.environ["MINARI_DATASETS_PATH"] = spec.root
        return ["dataset=minari", f"dataset.id={spec.path}", "dataset.download=false"]
    return ["dataset=d4rl", f"dataset.path={spec.path}"]


def loader(spec: Spec) -> Callable[[], Any]:
    """What training calls to get its data: from files to checked tensors on the device."""
    import torch

    from cql import config
    from cql.rollout.envs import env_info
    from cql.training import build

    train_config = config.checked(config.compose([*dataset_overrides(spec), f"env={ENV}"]))
    info, device = env_info(ENV), torch.device(spec.device)
    return lambda: build.load_data(train_config, info, device)


def load(spec: Spec) -> Answer:
    """Transitions per second, the files being in the system's cache."""
    call = loader(spec)
    return {"rate": rate_of(call, dataclasses.replace(spec, warm_up=1)) * spec.transitions}


def memory(spec: Spec) -> Answer:
    """The most memory that a process held in MiB: one that loads a dataset, or one that updates a stack."""
    import torch

    if spec.path:
        from cql.training import memory

        memory.keep_freed_memory()
        transitions = loader(spec)()
        tensors = [value for value in vars(transitions).values() if isinstance(value, torch.Tensor)]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        answer: Answer = {"tensors_mib": size / 2**20}
    else:
        call = implementation(spec)
        for _ in range(5):
            call()
        answer = {}
    if spec.device == "cuda":
        torch.cuda.synchronize()
        answer["device_mib"] = torch.cuda.max_memory_allocated() / 2**20
    # In KiB on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"value": peak / (2**20 if sys.platform == "darwin" else 2**10), **answer}


# Evaluation and pictures ----------------------------------------------------------------------------------------------


def policy(spec: Spec) -> Any:
    """Fresh actors of a stack, numpy in and out."""
    import torch

    from cql.algorithm import networks
    from cql.algorithm.agent import Policy
    from cql.algorithm.sampling import INITIALISATION_STREAM, generator

    device, mlp = torch.device(spec.device), networks.Mlp(width=spec.width, depth=spec.depth)
    generators = [generator(seed, INITIALISATION_STREAM) for seed in range(spec.runs)]
    parameters = networks.actor_parameters(mlp, spec.observation_size, spec.action_size, generators)
    size = spec.observation_size
    mean, std = torch.zeros(size, device=device), torch.ones(size, device=device)
    return Policy(mlp, {name: tensor.to(device) for name, tensor in parameters.items()}, mean, std)


def evaluate(spec: Spec) -> Answer:
    """Environment steps per second of whole evaluations: ours, and gymnasium's vector classes under the same policy."""
    import numpy as np

    act, n = policy(spec), spec.runs * spec.episodes
    seeds = [[1000 + episode for episode in range(spec.episodes)] for _ in range(spec.runs)]
    act(np.zeros((spec.runs, spec.episodes, spec.observation_size), np.float32))
    if spec.impl == "ours":
        from cql.rollout.evaluation import Evaluator

        evaluator = Evaluator(ENV, seeds)

        def once() -> int:
            return int(evaluator.evaluate(act).lengths.sum())

    else:
        import gymnasium
        import mujoco

        mujoco.set_mju_user_warning(lambda _: None)
        envs = gymnasium.make_vec(ENV, num_envs=n, vectorization_mode=spec.impl.removeprefix("gymnasium-"))
        specification = envs.spec
        assert specification is not None
        length = specification.max_episode_steps
        assert length is not None
        shape = (spec.runs, spec.episodes, spec.observation_size)

        def once() -> int:
            # No episode of this environment ends before its time, so all end together.
            observations, _ = envs.reset(seed=[seed for row in seeds for seed in row])
            returns = np.zeros(n)
            for _ in range(length):
                actions = act(observations.astype(np.float32).reshape(shape)).reshape(n, -1)
                observations, rewards, *_ = envs.step(actions)
                returns += rewards
            return n * length

    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < spec.seconds:
        done += once()
    rate = done / elapsed
    if spec.impl != "ours":
        envs.close()
    return {"rate": rate}


def render(spec: Spec) -> Answer:
    """Frames per second of a film with its simulation and policy: our Recorder, and gymnasium's default rendering."""
    import numpy as np

    from cql.rollout.evaluation import Recorder
    from cql.rollout.rendering import choose_backend

    if choose_backend() is None:
        raise Absent("nothing can draw here")
    act, size = policy(spec), 200
    if spec.impl == "ours":
        recorder = Recorder(ENV, width=size, height=size, seconds=0.5)

        def once() -> int:
            return len(recorder.record(act, seed=0).frames)

    else:
        import gymnasium
        import mujoco

        mujoco.set_mju_user_warning(lambda _: None)
        env = gymnasium.make(ENV, render_mode="rgb_array", width=size, height=size)

        def once() -> int:
            observation, _ = env.reset(seed=0)
            for _ in range(10):
                inputs = np.asarray(observation, np.float32).reshape(1, 1, -1)
                observation, *_ = env.step(act(inputs)[0, 0])
                env.render()
            return 10

    once()
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < spec.seconds:
        done += once()
    return {"rate": done / elapsed}


# Files of a run -------------------------------------------------------------------------------------------------------


def log(spec: Spec) -> Answer:
    """Epochs logged per second, each with its metrics, its timing, ten episodes and the summary, in a new folder."""
    from cql.algorithm.agent import METRICS
    from cql.training.local_logger import LocalLogger
    from cql.training.wandb_logger import open_wandb

    folder = Path.cwd()
    local, metrics = LocalLogger(folder), {name: 0.1 + index for index, name in enumerate(METRICS)}
    mirror = None
    if spec.impl == "ours-wandb-offline":
        mirror = open_wandb(folder, config={}, project="benchmark", mode="offline")
    step = 0

    def once() -> None:
        nonlocal step
        step += 1000
        local.log_metrics(step, metrics)
        local.log_timing(step, {"seconds": 9.5, "steps_per_second": 105.0})
        local.log_episodes(step, range(10), [1234.5 + e for e in range(10)], [1000] * 10, [50.25] * 10)
        local.write_summary({"status": "running", "step": step, **metrics})
        if mirror is not None:
            mirror.log(step, metrics)

    rate = rate_of(once, dataclasses.replace(spec, warm_up=2))
    if mirror is not None:
        mirror.finish()
    return {"rate": rate}


def checkpoint(spec: Spec) -> Answer:
    """Checkpoints of one run written per second from a live agent, or read back into one."""
    import torch

    from cql.training.checkpoint import CheckpointFolder, load

    agent, sampler, data = parts(spec, None)
    agent.update(*sampler.draw(data))  # so that there are moments of Adam to keep
    folder = CheckpointFolder(Path.cwd() / "checkpoints")
    normaliser = {"mean": torch.zeros(spec.observation_size), "std": torch.ones(spec.observation_size)}
    step = 0

    def write() -> None:
        nonlocal step
        step += 1
        contents = {"step": step, "agent": agent.state(0), "sampler": sampler.state(0).cpu(), "normaliser": normaliser}
        folder.write(step, contents)

    def read() -> None:
        agent.load_states([load(folder.path(step))["agent"]])

    write()
    size = folder.path(step).stat().st_size
    rate = rate_of(write if spec.impl == "ours-write" else read, dataclasses.replace(spec, warm_up=2))
    return {"rate": rate, "megabytes": size / 1e6}


_FIRST_STEP = """
import os, runpy, sys, time
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
from cql.algorithm.agent import Agent

step = Agent.step  # what is captured as a CUDA graph passes through it as well

def first(self, *arguments, **options):
    float(step(self, *arguments, **options).sum())
    print("first step at", time.monotonic(), flush=True)
    os._exit(0)

Agent.step = first
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(spec: Spec) -> Answer:
    """From the start of ``scripts/train.py`` to the end of its first step, with the quickstart's settings.

    The dataset is there already, of Minari's format and 100,000 transitions, as the embedded one is. The process is
    ended after the step, by a hook in ``Agent.step``.
    """
    train = Path(__file__).parents[1] / "scripts" / "train.py"
    overrides = ["+experiment=quickstart", *dataset_overrides(spec), f"env={ENV}", f"device={spec.device}"]
    overrides += ["hydra.run.dir=first_step", f"n_threads={spec.threads}"]
    overrides += {
        "ours": ["logger=local"],
        "ours-no-video": ["logger=local", "video.enabled=false"],
        "ours-wandb-offline": ["logger=wandb", "logger.mode=offline"],
    }[spec.impl]
    began = time.monotonic()  # of one clock for all processes
    child = subprocess.run(
        [sys.executable, "-c", _FIRST_STEP, str(train), *overrides], capture_output=True, text=True, check=False
    )
    lines = [line for line in child.stdout.splitlines() if line.startswith("first step at")]
    if child.returncode or not lines:
        raise RuntimeError(f"scripts/train.py did not get to its first step\n{child.stdout}{child.stderr}")
    seconds = float(lines[0].split()[-1]) - began
    return {"rate": 1 / seconds, "seconds": seconds}


def about(spec: Spec) -> Answer:
    """Versions of this interpreter's packages and what torch says of the machine."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    answer: Answer = {"versions": found}
    if "torch" in found:
        import torch

        answer["gpu"] = torch.cuda.get_device_name() if spec.device == "cuda" and torch.cuda.is_available() else None
        answer["vector_instructions"] = torch.backends.cpu.get_cpu_capability()
    return answer


MEASUREMENTS: dict[str, Callable[[Spec], Answer]] = {
    "about": about,
    "make": make,
    "load": load,
    "update": update,
    "update_stack": update,
    "cost": update,
    "evaluate": evaluate,
    "render": render,
    "log": log,
    "checkpoint": checkpoint,
    "start": start,
    "memory": memory,
    "profile": profile,
}


def main() -> None:
    """Measure what the argument says and print the answer."""
    spec = Spec(**json.loads(sys.argv[1]))
    peer = spec.impl.split("-")[0] if spec.impl.startswith(("d3rlpy", "torchrl")) else None
    if peer is None and not spec.impl.startswith("matmul"):
        # Each as its users run it: this is what scripts/train.py sets before it imports torch.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        if peer is not None and importlib.util.find_spec(peer) is None:
            raise Absent("not installed: `make benchmark` installs it")
        if spec.what not in ("about", "make", "start"):  # the last measures how long this takes
            import torch

            if spec.device == "cuda" and not torch.cuda.is_available():
                raise Absent("torch finds no CUDA device")
            torch.set_num_threads(spec.threads)
        answer = MEASUREMENTS[spec.what](spec)
    except Absent as absent:
        answer = {"absent": str(absent)}
    print(json.dumps(answer), flush=True)
    if spec.what == "render":
        os._exit(0)  # some drivers fail while the interpreter goes down, after the work is done


if __name__ == "__main__":
    main()
