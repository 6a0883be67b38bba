"""Folders of runs as training leaves them, with numbers that a test knows."""

import json
from pathlib import Path

import numpy as np
import yaml

BASE = {
    "seed": 0,
    "n_steps": 4000,
    "batch_size": 256,
    "sweep_name": None,
    "algorithm": {
        "w_cql": 1.0,
        "alpha_temp": {"kind": "learned", "initial_value": 1.0, "target_entropy": None, "temp_learning_rate": 3e-4},
        "alpha_cql": {"kind": "fixed", "value": 5.0},
        "penalty": {"kind": "cql_h", "temperature": 1.0},
    },
    "dataset": {"kind": "embedded", "name": "halfcheetah_medium", "normalise_observations": True, "reward_scale": 1.0,
                "reward_bias": 0.0},
    "env": {"id": "HalfCheetah-v5", "reference": {"name": "D4RL", "min_score": -280.0, "max_score": 12135.0}},
    "network": {"width": 256, "depth": 2},
    "logger": {"kind": "local"},
    "video": {"enabled": False},
}  # fmt: skip
MIN_SCORE, MAX_SCORE = -280.0, 12135.0


def changed(config, changes):
    """A config with some dotted keys set."""
    made = json.loads(json.dumps(config))
    for key, value in changes.items():
        *path, last = key.split(".")
        inner = made
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return made


def make_run(
    directory, returns, *, changes=None, status="finished", n_steps=4000, scored=True, metrics=None, failure=None,
    spread=0.0, n_episodes=2,
):  # fmt: skip
    """Write one run's folder.

    Args:
        directory: of the run.
        returns: mean return of each evaluation, at equal distances up to the last step.
        changes: dotted keys of the config that differ from `BASE`.
        status: of the summary; None writes none.
        n_steps: of the run.
        scored: whether the environment has reference scores.
        metrics: further columns, one number per evaluation.
        failure: of the summary.
        spread: distance of an evaluation's two outer episodes from its mean.
        n_episodes: of an evaluation.
    """
    directory = Path(directory)
    (directory / ".hydra").mkdir(parents=True)
    config = changed(BASE, {"n_steps": n_steps, **(changes or {})})
    (directory / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    offsets = np.linspace(-spread, spread, n_episodes).tolist()
    lines, rows = ["step,episode,seed,return,length,score"], []
    for index, mean in enumerate(returns, start=1):
        step = round(n_steps * index / len(returns))
        step = step if status == "finished" else round(n_steps * index / (len(returns) + 1))
        for episode, offset in enumerate(offsets):
            score = 100.0 * (mean + offset - MIN_SCORE) / (MAX_SCORE - MIN_SCORE) if scored else ""
            lines.append(f"{step},{episode},{1000 + episode},{mean + offset!r},1000,{score!r}" if scored else
                         f"{step},{episode},{1000 + episode},{mean + offset!r},1000,")  # fmt: skip
        row = {"step": step, "eval_return_mean": mean, "eval_return_std": spread}
        rows.append(row | {name: float(values[index - 1]) for name, values in (metrics or {}).items()})
    (directory / "episodes.csv").write_text("\n".join(lines) + "\n")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if status is not None:
        last = rows[-1]["step"] if rows else 0
        summary = {
            "status": status,
            "step": last,
            "n_steps": n_steps,
            "eval_return_mean": returns[-1] if returns else None,
        }
        if failure is not None:
            summary["failure"] = failure
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def make_grid(
    folder, alphas=(0.0, 1.0, 5.0), taus=(-5.0, -2.0), seeds=(0, 1, 2), n_evaluations=6, tasks=("halfcheetah_medium",)
):
    """A sweep over `alpha_cql` and `tau_cql`, with plausible curves that depend on the point alone."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    for task in tasks:
        for alpha in alphas:
            for tau in taus:
                for seed in seeds:
                    random = np.random.default_rng([seed, int(10 * alpha), int(abs(10 * tau))])
                    top = 4000.0 * (1 - np.exp(-alpha / 2)) * (1 + tau / 20) + 300.0 * random.standard_normal()
                    x = np.linspace(0.2, 1.0, n_evaluations)
                    returns = (top * (1 - np.exp(-4 * x)) + 120.0 * random.standard_normal(n_evaluations)).tolist()
                    q = 400.0 * x if alpha else 90.0 * np.exp(5 * x)
                    name = f"alpha_cql-{alpha:g}__tau_cql-{tau:g}__seed-{seed}"
                    if len(tasks) > 1:
                        name = f"dataset-embedded_{task}__{name}"
                    make_run(
                        folder / name,
                        returns,
                        changes={
                            "seed": seed,
                            "dataset.name": task,
                            "algorithm.alpha_cql": {
                                "kind": "learned", "initial_value": alpha, "tau_cql": tau, "alpha_learning_rate": 3e-4,
                            },
                        },
                        metrics={
                            "q_data": 0.9 * q, "q_policy": q, "q_uniform": 0.6 * q, "cql_gap": tau + 3 * np.exp(-3 * x),
                            "alpha_cql": alpha * np.exp((tau + 3.5) * -0.6 * x), "entropy": -6 + 4 * np.exp(-3 * x),
                        },
                        spread=200.0,
                    )  # fmt: skip
    return folder
