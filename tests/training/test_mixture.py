"""Several datasets as one: what training reads of them, and that it trains, resumes and stacks like any other."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from children import fork
from composed import load
from test_resume import assert_same_run, exit_code, run_and_signal
from tiny import OVERRIDES

from cql import data
from cql.config.schema import TrainConfig
from cql.data import DatasetError
from cql.rollout.envs import env_info
from cql.training import experiment
from cql.training.build import as_pool, env_spec, load_data
from cql.training.local_logger import read_metrics
from cql.training.run_folder import claim_folder

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kills forked processes"),
    pytest.mark.usefixtures("no_figures"),
]

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def halves(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first five episodes of the tiny dataset, and the others."""
    place = tmp_path_factory.mktemp("halves")
    with h5py.File(dataset) as whole:
        columns = {name: whole[name][:] for name in whole}
    end = int(np.flatnonzero(columns["terminals"] | columns["timeouts"])[4]) + 1
    paths = [place / "first.hdf5", place / "second.hdf5"]
    for path, part in zip(paths, (slice(None, end), slice(end, None)), strict=True):
        with h5py.File(path, "w") as file:
            for name, column in columns.items():
                file.create_dataset(name, data=column[part])
    return paths


def mixture(paths: list[Path], *overrides: str, own: tuple[str, str] = ("", "")) -> TrainConfig:
    sources = ",".join(f"{{kind: d4rl, path: {path}{more}}}" for path, more in zip(paths, own, strict=True))
    return load("dataset=mixture", f"dataset.mixture=[{sources}]", *OVERRIDES, *overrides)


def read(train_config: TrainConfig) -> data.Transitions:
    return load_data(train_config, env_info(env_spec(train_config)), CPU)


def alone(path: Path, *overrides: str) -> data.Transitions:
    return read(load("dataset=d4rl", f"dataset.path={path}", *OVERRIDES, *overrides))


def assert_equal(one: data.Transitions, other: data.Transitions, *but: str) -> None:
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in but:
            continue
        if field.name == "normaliser":
            assert torch.equal(a.mean, b.mean)
            assert torch.equal(a.std, b.std)
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b), field.name
        else:
            assert np.array_equal(a, b), field.name


BY_RATIO = (", ratio: 0.8", ", ratio: 0.2")


def test_without_ratios_it_is_one_file_with_all_episodes(dataset: Path, halves: list[Path], tmp_path: Path) -> None:
    # Normalised by the mean and the deviation of both, which is of one file, to the last bit.
    one, two = alone(dataset), read(mixture(halves))
    assert_equal(two, one, "fingerprint")
    assert one.fingerprint != two.fingerprint
    assert_equal(two, read(mixture(halves, own=BY_RATIO)), "shares")
    assert read(mixture(halves[::-1])).fingerprint not in (one.fingerprint, two.fingerprint)
    experiment.run(mixture(halves), tmp_path / "mixture")
    experiment.run(load("dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES), tmp_path / "whole")
    assert read_metrics(tmp_path / "mixture") == read_metrics(tmp_path / "whole")


def test_each_dataset_has_its_own_options(halves: list[Path]) -> None:
    plain = [alone(path, "dataset.normalise_observations=false") for path in halves]
    own = (", reward_scale: 2, reward_bias: -1, action_clip: 0.5", ", n_episodes: 2, timeouts_as_terminals: true")
    found = read(mixture(halves, "dataset.normalise_observations=false", own=own))
    n = len(plain[0])
    assert torch.equal(found.rewards[:n], 2 * plain[0].rewards - 1)
    assert torch.equal(found.actions[:n], plain[0].actions.clamp(-0.5, 0.5))
    assert found.actions[n:].abs().max() > 0.5
    assert torch.equal(found.observations[:n], plain[0].observations)
    chosen = alone(halves[1], "dataset.n_episodes=2", "dataset.normalise_observations=false")
    assert torch.equal(found.next_observations[n:], chosen.next_observations)
    assert torch.equal(found.rewards[n:], chosen.rewards)
    assert found.episode_lengths.tolist() == [*plain[0].episode_lengths, *chosen.episode_lengths]
    assert np.isnan([found.reward_scale, found.reward_bias]).all()
    shared = read(mixture(halves, "dataset.reward_scale=3"))
    assert (shared.reward_scale, shared.reward_bias) == (3.0, 0.0)
    assert torch.equal(shared.rewards[:n], 3 * plain[0].rewards)


def test_ratios_reach_the_sampler_and_returns_count_all_episodes(dataset: Path, halves: list[Path]) -> None:
    c = mixture(halves, "algorithm/penalty=cal_ql", own=BY_RATIO)
    transitions = read(c)
    pool = as_pool(transitions, [c])
    n, m = len(alone(halves[0])), len(transitions)
    assert pool.pieces is not None
    assert torch.equal(pool.pieces[2:], torch.tensor([[0.0, n], [n - 1, m - 1]], dtype=torch.float64))
    assert pool.pieces[0].tolist() == pytest.approx([0.0, 0.8 * m])
    whole = as_pool(alone(dataset), [c])
    assert whole.pieces is None
    assert pool.returns_to_go is not None
    assert torch.equal(pool.returns_to_go, whole.returns_to_go)
    assert as_pool(read(mixture(halves)), [c]).pieces is None


def test_what_does_not_fit_says_which_dataset_it_is(halves: list[Path], tmp_path: Path) -> None:
    with h5py.File(halves[1]) as file, h5py.File(tmp_path / "other.hdf5", "w") as other:
        for name in file:
            values = file[name][:]
            other.create_dataset(name, data=values[:, :3] if name.endswith("observations") else values)
    for paths, own, words in (
        (
            [halves[0], tmp_path / "other.hdf5"],
            "",
            r"dataset\.mixture\[1\]: .*other.hdf5': observations have 3 features",
        ),
        ([halves[0], tmp_path / "none.hdf5"], "", r"dataset\.mixture\[1\]: .*none.hdf5' does not exist"),
        (halves, ", n_episodes: 99", r"dataset\.mixture\[1\]: dataset\.n_episodes=99, but"),
        (
            halves,
            ", reward_scale: 3e38, reward_bias: 3e38",
            r"dataset\.mixture\[1\]: .* is not finite in float32 once it is scaled",
        ),
    ):
        with pytest.raises(DatasetError, match=words):
            read(mixture(paths, own=("", own)))


SMALL = ("algorithm/penalty=cal_ql", "network.width=64", "batch_size=64")  # rounded alike alone and in a stack
ONLINE = ("n_steps=20", "online=finetune", "online.n_online_steps=20", "online.n_steps_per_epoch=12")


@pytest.mark.parametrize(
    "more", [(), (*ONLINE, "online.mixing_ratio=null"), ONLINE], ids=["offline", "online by size", "online"]
)
def test_a_killed_run_goes_on_and_a_stack_is_its_runs(halves: list[Path], tmp_path: Path, more: Any) -> None:
    configs = [mixture(halves, *SMALL, *more, f"seed={seed}", own=BY_RATIO) for seed in (0, 1)]
    folders = [tmp_path / str(seed) for seed in (0, 1)]
    for each, folder in zip(configs, folders, strict=True):
        experiment.run(each, folder)
    killed = tmp_path / "killed"
    assert exit_code(fork(lambda: run_and_signal(configs[0], killed, 34, signal.SIGKILL))) == -signal.SIGKILL
    assert exit_code(fork(lambda: experiment.run(configs[0], killed))) == 0
    assert_same_run(killed, folders[0])
    stacked = [tmp_path / "stack" / str(seed) for seed in (0, 1)]
    for each, folder in zip(configs, stacked, strict=True):
        claim_folder(each, folder)
    experiment.run_stack(configs, stacked)
    for together, apart in zip(stacked, folders, strict=True):
        assert_same_run(together, apart)
    assert read_metrics(folders[0]) != read_metrics(folders[1])
