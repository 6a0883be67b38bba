"""Inspection of a dataset: every number and every check on data made by hand, the page, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import browser
import h5py
import minari
import numpy as np
import pytest
import yaml
from minari.data_collector import EpisodeBuffer

from cql.data import DatasetError, DatasetNotFoundError, RawData, each_once, inspection
from cql.data.inspection import (
    Inspection,
    Source,
    Spread,
    discounted_returns,
    inspect,
    read_d4rl,
    read_minari,
    repeated_rows,
    summary,
    text,
)
from cql.data.local import minari_folder
from cql.results import inspection_page
from cql.results.inspection_page import write_page
from cql.rollout.envs import EnvInfo, EnvSpec

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "inspect_dataset.py"
S, A, LIMIT = 3, 2, 20
LOW, HIGH = np.array([-1, -3], np.float32), np.array([1, 3], np.float32)
INFO = EnvInfo(EnvSpec("Made-v5"), S, A, LOW, HIGH, max_episode_steps=LIMIT, step_seconds=0.05)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


class Made:
    """Arrays of a dataset in which nothing is wrong, to be changed before `source`."""

    def __init__(self, lengths: Any = (20, 12, 20, 16) * 6, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.lengths = np.array(lengths)
        m = int(self.lengths.sum())
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.last = self.starts + self.lengths - 1
        self.observations = generator.standard_normal((m, S)) * [1, 2, 3]
        self.next_observations = generator.standard_normal((m, S)) * [1, 2, 3]
        self.actions = generator.uniform(0.9 * LOW, 0.9 * HIGH, (m, A))
        self.rewards = 1 + 0.3 * generator.standard_normal(m)
        self.terminated = np.zeros(m, bool)
        self.terminated[self.last[self.lengths < LIMIT]] = True
        self.metadata: dict[str, Any] = {}
        self.others: dict[str, Any] = {}

    def raw(self) -> RawData:
        with np.errstate(over="ignore"):
            pair = (self.observations.astype(np.float32), self.next_observations.astype(np.float32))
        rows, row = each_once([pair])
        ends = np.zeros(len(self.rewards), bool)
        ends[self.last] = True
        return RawData(
            rows=rows,
            row=row,
            actions=self.actions.astype(np.float32),
            rewards=self.rewards.astype(np.float32),
            terminated=self.terminated,
            truncated=ends & ~self.terminated,
            episode=np.repeat(np.arange(len(self.lengths)), self.lengths),
            name="made/up-v0",
        )

    def inspect(self, env_id: str = "Made-v5", **options: Any) -> Inspection:
        source = Source(self.raw(), self.metadata, **self.others)
        return inspect(source, dataclasses.replace(INFO, spec=EnvSpec(env_id)), **options)

    def says(self, env_id: str = "Made-v5") -> list[str]:
        """Codes of the warnings."""
        return [check.code for check in self.inspect(env_id).warnings]


def check(found: Inspection, code: str) -> Any:
    return next(each for each in found.checks if each.code == code)


# Numbers --------------------------------------------------------------------------------------------------------------


def small() -> Made:
    """Three episodes: two steps that terminate, three to the limit of three, one cut before it."""
    made = Made((2, 3, 1))
    made.rewards = np.array([1.0, 2.0, 0.0, -4.0, 1.0, 8.0])
    made.terminated = np.array([False, True, False, False, False, False])
    made.others = {"time_limit": 3}
    made.actions = np.array([[1.0, 0.0], [0.5, 0.0], [-0.99, 3.0], [0.0, -2.95], [0.0, -2.9], [0.97, 1.0]])
    made.observations = np.array([[0, 1, 5], [2, 1, 5], [4, 1, 6], [0, 1, 6], [2, 1, 7], [4, 1, 7]], float)
    return made


def test_returns_lengths_and_ends() -> None:
    made = small()
    made.metadata = {"ref_min_score": -3.0, "ref_max_score": 7.0}
    found = made.inspect()
    assert (len(found.raw), found.raw.n_episodes, found.time_limit) == (6, 3, 3)
    assert found.returns.tolist() == [3.0, -3.0, 8.0]
    assert found.lengths.tolist() == [2, 3, 1]
    assert found.ends.tolist() == [0, 1, 2]
    assert found.scores is not None
    assert found.scores.tolist() == [60.0, 0.0, 110.0]
    plain = summary(found)
    assert plain["ends"] == {"terminated": 1, "cut at the time limit": 1, "cut otherwise": 1}
    assert plain["returns"]["mean"] == pytest.approx(8 / 3)
    assert plain["returns"]["std"] == pytest.approx(np.std([3, -3, 8]))
    assert [plain["returns"][key] for key in ("n", "min", "q25", "median", "q75", "max")] == [3, -3, 0, 3, 5.5, 8]
    assert plain["reference"] == {"min": -3.0, "max": 7.0}
    assert plain["scores"]["max"] == 110.0


def test_a_reference_that_is_given_comes_before_the_files() -> None:
    made = small()
    made.metadata = {"ref_min_score": -3.0, "ref_max_score": 7.0}
    found = made.inspect(reference=(0.0, 200.0))
    assert found.scores is not None
    assert found.scores.tolist() == [1.5, -1.5, 4.0]
    with pytest.raises(ValueError, match="must be greater"):
        made.inspect(reference=(2.0, 1.0))


def test_rewards() -> None:
    found = small().inspect()
    assert found.rewards == Spread(6, pytest.approx(8 / 6), pytest.approx(np.std([1, 2, 0, -4, 1, 8])), -4, 0.25, 1,
                                   1.75, 8)  # fmt: skip
    assert found.n_zero_rewards == 1
    assert found.reward_size == pytest.approx(math.sqrt((1 + 4 + 16 + 1 + 64) / 5))


def test_discounted_returns_are_those_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    lengths = np.array([3, 1, 7, 7, 2])
    rewards = generator.standard_normal(20).astype(np.float32)
    found = discounted_returns(rewards, lengths, 0.9)
    expected, place = [], 0
    for length in lengths:
        own = rewards[place : place + length].astype(float)
        expected += [sum(0.9**k * reward for k, reward in enumerate(own[t:])) for t in range(length)]
        place += length
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_is_cut_too_soon_does_not_count_as_a_discounted_return() -> None:
    made = small()
    # At 0.2 one more step weighs 0.2 and two 0.04: of the cut episode of three steps the first two are known.
    found = made.inspect(discount=0.2)
    np.testing.assert_allclose(found.discounted, [1.4, 2.0, 0.2 * -3.8, -3.8, np.nan, np.nan])
    starts = summary(found)["discounted_returns"]["episode_starts"]
    assert (starts["n"], starts["max"]) == (2, pytest.approx(1.4))
    assert not found.cut_short
    made.terminated[:] = False
    found = made.inspect(discount=0.9)
    assert found.cut_short
    assert Spread.of(found.discounted).n == 6


def test_actions_against_their_bounds() -> None:
    found = small().inspect()
    # The range is 2 and 6 wide, so that 0.02 and 0.06 are near: 1 and -0.99; 3 and -2.95.
    np.testing.assert_allclose(found.near_bound, [2 / 6, 2 / 6])
    assert found.at_bound == pytest.approx(2 / 6)
    assert found.n_outside == 0
    np.testing.assert_allclose(found.actions.mean, [(1 + 0.5 - 0.99 + 0.97) / 6, (3 - 2.95 - 2.9 + 1) / 6], rtol=1e-6)
    np.testing.assert_allclose(found.actions.max, [1, 3])


def test_observations() -> None:
    found = small().inspect()
    assert found.observations.constant == [1]
    np.testing.assert_allclose(found.observations.mean, [2, 1, 6])
    np.testing.assert_allclose(found.observations.std, [math.sqrt(8 / 3), 0, math.sqrt(2 / 3)])
    assert (found.observations.min.tolist(), found.observations.max.tolist()) == ([0, 1, 5], [4, 1, 7])


def test_repeats_are_those_a_dictionary_finds() -> None:
    generator = np.random.default_rng(1)
    made = Made((50,) * 8)
    m = len(made.rewards)
    # Values whose bits differ in their first one alone, so that a careless sum would take them for the same.
    made.observations = generator.choice([-1.0, 1.0], (m, S))
    made.next_observations = generator.choice([-1.0, 1.0], (m, S))
    made.actions = generator.choice([-1.0, 1.0], (m, A))
    made.rewards = generator.choice([0.0, 1.0], m)
    made.terminated = made.rewards > 0
    raw = made.raw()
    seen: set[tuple[float, ...]] = set()
    expected = []
    for t in range(m):
        key = (*raw.observations[t], *raw.next_observations[t], *raw.actions[t], raw.rewards[t], raw.terminated[t])
        expected.append(key in seen)
        seen.add(key)
    assert 20 < sum(expected) < m - 20
    assert repeated_rows(inspection._bits(raw)).tolist() == expected
    assert made.inspect().n_repeated == sum(expected)


def test_whole_episodes_that_are_copies_and_initial_states_that_are_shared() -> None:
    made = Made((20,) * 30)
    for array in (made.observations, made.next_observations, made.actions, made.rewards):
        array[100:120] = array[40:60]
    made.observations[200] = made.observations[0]
    found = made.inspect()
    assert (found.n_repeated, found.n_repeated_episodes, found.n_shared_starts) == (20, 1, 2)
    assert "whole episode" in check(found, "repeated_transitions").found


def test_behaviours_split_the_episodes_where_their_numbers_add_up() -> None:
    made = small()
    made.metadata = {"behaviours": [{"policy": "a", "n_episodes": 2}, {"policy": "b", "n_episodes": 1}]}
    parts = summary(made.inspect())["behaviours"]
    assert [(part["policy"], part["episodes"], part["returns"]["mean"]) for part in parts] == [("a", 2, 0), ("b", 1, 8)]
    made.metadata["behaviours"][0]["n_episodes"] = 3
    assert summary(made.inspect())["behaviours"] == []


# Warnings -------------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_data_that_are_in_order() -> None:
    made = Made()
    found = made.inspect()
    assert found.warnings == []
    assert len({each.code for each in found.checks}) == len(found.checks)
    assert all(each.threshold and each.advice and each.found for each in found.checks)
    assert f"{len(found.checks)} checks, none fired" in text(found)


def rows_of(count: int) -> Made:
    return Made((20, 12, 20, 16) * (count // 4) + (20, 12, 16)[: count % 4])


def scaled(size: float) -> Made:
    made = Made()
    made.rewards *= size / math.sqrt(np.square(made.rewards).mean())
    return made


def with_scales(ratio: float) -> Made:
    made = Made()
    made.observations /= made.observations.std(axis=0)
    made.observations[:, 1] *= ratio
    return made


def flat(relative: float) -> Made:
    made = Made((20,) * 20)
    made.rewards = np.repeat([1 - relative, 1 + relative] * 10, 20)
    return made


def at_bound(n: int) -> Made:
    made = Made((20,) * 10)
    made.actions[:n, 1] = HIGH[1]
    return made


def repeated(n: int) -> Made:
    made = Made((20, 18) * 40)
    for array in (made.observations, made.next_observations, made.actions, made.rewards):
        array[101 : 101 + n] = array[1 : 1 + n]
    return made


def shared(n: int) -> Made:
    made = Made((20, 18) * 10)
    made.observations[made.starts[: n + 1]] = made.observations[0]
    return made


def false_ends(n: int) -> Made:
    made = Made((20,) * 20 + (7,) * 4)
    made.terminated[made.last[:n]] = True
    return made


def outside(excess: float) -> Made:
    made = Made()
    made.actions[5, 0] = -1 - excess
    return made


def single(steps: int) -> Made:
    return Made((20, 12, 20, 16) * 6 + (steps,))


@pytest.mark.parametrize(
    ("code", "make", "silent", "speaks"),
    [
        ("few_episodes", rows_of, 10, 9),
        ("reward_scale", scaled, 9.9, 10.1),
        ("reward_scale", scaled, 0.101, 0.099),
        ("observation_scales", with_scales, 9.9, 10.1),
        ("observation_scales", with_scales, 1 / 9.9, 1 / 10.1),
        ("flat_returns", flat, 0.0201, 0.0199),
        ("actions_at_bound", at_bound, 2, 3),
        ("repeated_transitions", repeated, 1, 2),
        ("shared_starts", shared, 2, 3),
        ("terminals_at_limit", false_ends, 2, 3),
        ("actions_outside", outside, 0.9e-5, 1.2e-5),
        ("single_steps", single, 2, 1),
    ],
)
def test_a_warning_comes_when_its_threshold_is_passed_and_no_other_with_it(
    code: str, make: Any, silent: float, speaks: float
) -> None:
    assert make(silent).says() == []
    assert make(speaks).says() == [code]


def test_a_scale_for_the_rewards_is_named() -> None:
    assert "dataset.reward_scale=0.004" in check(scaled(250.0).inspect(), "reward_scale").advice
    assert "dataset.reward_scale=100" in check(scaled(0.01).inspect(), "reward_scale").advice


def test_sparse_rewards_are_measured_where_there_are_some() -> None:
    made = Made()
    made.rewards[:] = 0.0
    assert made.says() == ["no_rewards"]
    made.rewards[made.starts[::2]] = 1.0
    assert made.says() == []


def test_terminal_states_in_an_environment_without_them() -> None:
    assert Made().says("HalfCheetah-v5") == ["never_terminates"]
    assert Made().says("mo/HalfCheetah-v4") == ["never_terminates"]
    assert Made().says("Hopper-v5") == []
    made = Made()
    made.terminated[:] = False
    assert made.says("HalfCheetah-v5") == []


@pytest.mark.parametrize("key", ["observations", "actions"])
def test_constant_columns_are_named(key: str) -> None:
    made = Made()
    getattr(made, key)[:, 1] = 0.5
    made.next_observations[:, 1] = made.observations[:, 1]
    found = made.inspect()
    code = "constant_columns" if key == "observations" else "constant_actions"
    assert [each.code for each in found.warnings] == [code]
    assert check(found, code).found == "column 1"


def test_what_is_not_finite_is_counted_and_found_and_spoils_nothing_else() -> None:
    clean = Made()
    made = Made()
    made.rewards[made.starts[2] + 3] = math.nan
    made.observations[made.starts[1] + 4, [0, 2]] = [math.nan, math.inf]
    made.next_observations[made.starts[0] + 1, 0] = math.nan
    made.actions[7, 1] = -math.inf
    found = made.inspect()
    assert [entry[:4] for entry in found.non_finite] == [
        ("observations", 2, 1, (0, 2)),
        ("actions", 0, 1, (1,)),
        ("rewards", 1, 0, ()),
    ]
    assert [entry.where for entry in found.non_finite] == [
        "episode 0, step 1, in the next observation",
        "episode 0, step 7",
        "episode 2, step 3",
    ]
    assert found.warnings[0].code == "non_finite"
    assert [each.level for each in found.warnings] == ["refused"]
    assert "observations: 2 NaN and 1 infinite in columns 0, 2, first in episode 0" in found.warnings[0].found
    assert np.isnan(found.returns).nonzero()[0].tolist() == [2]
    sound = np.delete(clean.observations, made.starts[1] + 4, axis=0)
    np.testing.assert_allclose(found.observations.mean, sound.mean(axis=0), rtol=1e-5)
    assert Spread.of(found.returns).n == 23
    assert found.rewards.n == len(made.rewards) - 1
    json.dumps(summary(found), allow_nan=False)


def test_what_overflows_float32_is_infinite() -> None:
    made = Made()
    made.observations[3, 1] = 1e300
    assert made.says() == ["non_finite"]


def test_the_document_lists_every_warning() -> None:
    document = (SCRIPT.parents[1] / "docs" / "howto" / "inspection.md").read_text(encoding="utf-8")
    assert [each.title for each in Made().inspect().checks if f"| {each.title}" not in document] == []


def test_graver_things_stand_first() -> None:
    made = Made((20, 12, 16, 20))
    made.observations[:, 1] *= 100
    made.actions[0, 0] = 5
    assert made.says() == ["actions_outside", "few_episodes", "observation_scales"]


def test_data_of_another_environment_are_refused() -> None:
    raw = Made().raw()
    with pytest.raises(DatasetError, match="observations have 3 features, but Made-v5 has 4"):
        inspect(Source(raw, {}), dataclasses.replace(INFO, observation_size=4))
    with pytest.raises(DatasetError, match="recorded in Other-v1, but the environment is Made-v5: set --env Other-v1"):
        inspect(Source(dataclasses.replace(raw, env_id="Other-v1"), {}), INFO)
    made = Made()
    made.actions[:] = math.nan
    with pytest.raises(DatasetError, match="actions is finite"):
        made.inspect()


# Files ----------------------------------------------------------------------------------------------------------------


def write_pendulum(dataset_id: str = "tests/pendulum-v0", offset: float = 0.0, **metadata: Any) -> list[EpisodeBuffer]:
    generator = np.random.default_rng(0)
    buffers = []
    for index in range(12):
        steps = 1000 if index == 0 else 10 + index
        last = np.arange(steps) == steps - 1
        buffers.append(
            EpisodeBuffer(
                observations=generator.standard_normal((steps + 1, 4)) + offset,
                actions=generator.uniform(-2.9, 2.9, (steps, 1)).astype(np.float32),
                rewards=np.ones(steps),
                terminations=last & (index > 0),
                truncations=last & (index == 0),
                infos={},
            )
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is set to None")
        dataset = minari.create_dataset_from_buffers(
            dataset_id, buffers, env="InvertedPendulum-v5", data_format="hdf5", ref_min_score=6.0, ref_max_score=1000.0
        )
        dataset.storage.update_metadata(metadata)
    return buffers


PENDULUM = EnvInfo(EnvSpec("InvertedPendulum-v5"), 4, 1, np.float32([-3]), np.float32([3]), 1000, 0.04)


def test_a_minari_dataset_with_its_metadata() -> None:
    write_pendulum(collection_seed=7, behaviours=json.dumps([{"policy": "random", "n_episodes": 12}]))
    source = read_minari("tests/pendulum-v0")
    assert (source.time_limit, source.lost_steps) == (1000, 0)
    assert source.metadata["collection_seed"] == 7
    assert source.metadata["behaviours"] == [{"policy": "random", "n_episodes": 12}]
    assert "env_spec" not in source.metadata
    found = inspect(source, PENDULUM)
    assert found.ends.tolist() == [1] + [0] * 11
    assert found.behaviours == [("random", 12)]
    assert found.reference == (6.0, 1000.0)
    assert found.lengths.tolist() == [1000, *range(11, 22)]
    assert found.warnings == []


def test_a_minari_dataset_that_is_not_here() -> None:
    with pytest.raises(DatasetNotFoundError, match="minari download tests/none-v0"):
        read_minari("tests/none-v0")
    with pytest.raises(DatasetError, match="is not the id"):
        read_minari("nonsense")


def write_d4rl(path: Path, **changes: Any) -> Path:
    generator = np.random.default_rng(0)
    m = 60
    arrays: dict[str, Any] = {
        "observations": generator.standard_normal((m, S)).astype(np.float32),
        "actions": generator.uniform(0.9 * LOW, 0.9 * HIGH, (m, A)).astype(np.float32),
        "rewards": np.arange(m, dtype=np.float32) / m,
        "terminals": np.isin(np.arange(m), [9, 49]),
        "timeouts": np.isin(np.arange(m), [29, 49]),
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/iteration": np.array([100]),
        "metadata/policy/fc0/weight": np.zeros((4, S), np.float32),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            if array is not None:
                file[key] = array
    return path


def test_a_d4rl_file(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "made.hdf5", next_observations=np.ones((60, S), np.float32))
    source = read_d4rl(path, "Made-v5")
    assert source.metadata == {"algorithm": "SAC", "iteration": 100}
    found = inspect(source, INFO)
    assert found.raw.name == str(path)
    assert found.lengths.tolist() == [10, 20, 20, 10]
    # Both flags at 49 count as a terminal, and at the limit: one of the two episodes that have all its steps.
    assert found.ends.tolist() == [0, 1, 0, 2]
    assert check(found, "terminals_at_limit").found == "1 of 2 such episodes (50 %)"
    assert {"terminals_at_limit", "few_episodes"} == {each.code for each in found.warnings}


def test_the_last_step_that_d4rl_cannot_keep_is_no_other_end(tmp_path: Path) -> None:
    source = read_d4rl(write_d4rl(tmp_path / "made.hdf5"), "Made-v5")
    found = inspect(source, INFO)
    assert source.lost_steps == 1
    assert found.lengths.tolist() == [10, 19, 20, 9]
    assert found.ends.tolist() == [0, 1, 0, 2]


# The page and the command ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspection, Path]:
    """A dataset with two warnings, and its page."""
    made = Made()
    made.metadata = {
        "behaviours": [{"policy": "<b>", "n_episodes": 12}, {"policy": "b", "n_episodes": 12}],
        "ref_min_score": 0.0,
        "ref_max_score": 20.0,
    }
    made.observations[:, 0] *= 30
    made.actions[:, 1] = 0.0
    found = made.inspect()
    return found, write_page(found, tmp_path_factory.mktemp("out"), title="a <title>", command="python x.py 'a b'")


def test_the_page_is_self_contained(drawn: tuple[Inspection, Path]) -> None:
    found, page = drawn
    assert page.name == "index.html"
    content = page.read_text(encoding="utf-8")
    assert "a &lt;title&gt;" in content
    assert "&lt;b&gt;" in content
    assert "<b>, 12" not in content
    addresses = re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", content)
    assert len(addresses) > 8
    assert all(address.startswith(("#", "data:")) for address in addresses)
    for each in found.warnings:
        assert f'id="{each.code}"' in content
    assert {each.code for each in found.warnings} == {"constant_actions", "observation_scales"}
    names = {path.name for path in page.with_name("figures").iterdir()}
    shown = ("returns", "lengths", "rewards", "actions", "observations")
    assert names == {f"{name}.{suffix}" for name in shown for suffix in ("svg", "png")}
    assert json.loads(page.with_name("summary.json").read_text()) == summary(found)


def test_the_words_about_q_data_agree_with_a_critic_that_begins_at_zero(drawn: tuple[Inspection, Path]) -> None:
    found, path = drawn
    said = text(found)
    assert re.search(r"^  discounted .* at 0\.99, to the episode's end$", said, flags=re.MULTILINE)
    assert re.search(
        r"^  q_data +grows towards that mean .* conservative values stay below it$", said, flags=re.MULTILINE
    )
    page = " ".join(path.read_text(encoding="utf-8").split())
    assert "begin at zero, grow towards the mean discounted return" in page
    assert "yardsticks continue such an episode at its mean reward instead, so their range differs" in page


def test_the_advice_on_scales_says_what_sets_it(drawn: tuple[Inspection, Path]) -> None:
    advice = check(drawn[0], "observation_scales").advice
    assert "`+experiment=quickstart` sets it" in advice
    quickstart = yaml.safe_load((SCRIPT.parents[1] / "configs" / "experiment" / "quickstart.yaml").read_text())
    assert quickstart["dataset"]["normalise_observations"] is True


def test_episodes_of_one_length_have_no_figure_of_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out" / "figures").mkdir(parents=True)
    (tmp_path / "out" / "figures" / "lengths.svg").touch()  # of an earlier inspection
    draws = inspection_page._FIGURES["lengths"]
    monkeypatch.setattr(inspection_page, "_FIGURES", {"lengths": draws})
    same = Made((20,) * 12)
    page = write_page(same.inspect(), tmp_path / "out", title="same", command="x")
    assert not list((tmp_path / "out" / "figures").glob("lengths.*"))
    assert "20, all equal" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", ["rewards", "one_feature", "one_transition"])
def test_poor_data_have_a_page_too(tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_svg(figure: Any, folder: Path, name: str) -> list[Path]:
        path = folder / f"{name}.svg"
        path.write_text(inspection_page.figures.svg(figure), encoding="utf-8")
        return [path]

    monkeypatch.setattr(inspection_page.figures, "save", save_svg)  # a PNG too takes as long again
    made, info = (Made((1,)) if broken == "one_transition" else Made()), INFO
    if broken == "rewards":
        made.rewards[:] = math.nan
    elif broken == "one_feature":
        made.observations, made.next_observations = made.observations[:, :1], made.next_observations[:, :1]
        info = dataclasses.replace(info, observation_size=1)
    found = inspect(Source(made.raw(), {}), info)
    page = write_page(found, tmp_path, title="poor", command="x")
    assert "All checks" in page.read_text(encoding="utf-8")
    assert text(found).startswith("made/up-v0: Made-v5")
    json.dumps(summary(found), allow_nan=False)


@pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))
def test_in_a_browser(drawn: tuple[Inspection, Path]) -> None:
    _, page = drawn
    with browser.browser(width=400) as driver:
        driver.get(page.as_uri())
        assert browser.requests(driver, page) == []
        assert driver.get_log("browser") == []
        assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        assert driver.find_element("css selector", "#observation_scales").is_displayed()
        assert len(driver.find_elements("css selector", "figure svg")) == 5


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["inspect_dataset.py", *arguments])
    monkeypatch.setattr(inspection_page, "_FIGURES", {})
    code: int = runpy.run_path(str(SCRIPT))["main"]()
    return code


def test_the_command_on_a_minari_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pendulum()
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "tests/pendulum-v0") == 0
    out = capsys.readouterr().out
    folder = tmp_path / "outputs" / "datasets" / "tests-pendulum-v0"
    assert "tests/pendulum-v0: InvertedPendulum-v5, 12 episodes, 1,176 transitions" in out
    assert "1 cut at the time limit" in out
    assert f"written: {folder.relative_to(tmp_path) / 'index.html'}" in out
    assert (folder / "summary.json").is_file()

    assert call(monkeypatch, "tests/pendulum-v0", "--json", "--out", "here", "--reference", "0", "500") == 0
    said = capsys.readouterr()
    plain = json.loads(said.out)
    assert plain["scores"]["max"] == 200.0
    assert plain == json.loads((tmp_path / "here" / "summary.json").read_text())
    assert "written: here/index.html" in said.err


def test_data_of_an_environment_with_arguments_are_inspected_as_they_were_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pendulum()
    path = minari_folder("tests/pendulum-v0") / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    spec = json.loads(metadata["env_spec"]) | {"kwargs": {"reset_noise_scale": 0.2}, "max_episode_steps": 20}
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "tests/pendulum-v0") == 0
    assert "12 episodes, 1,176 transitions" in capsys.readouterr().out


def test_the_command_on_a_d4rl_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    path = write_d4rl(
        tmp_path / "hopper_made-v2.hdf5",
        observations=generator.standard_normal((60, 11)).astype(np.float32),
        actions=generator.uniform(-0.9, 0.9, (60, 3)).astype(np.float32),
    )
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, str(path), "--env", "Hopper-v5") == 0
    out = capsys.readouterr().out
    assert "warning: Few episodes: 4" in out
    assert "score" in out  # D4RL's constants
    folder = tmp_path / "outputs" / "datasets" / "hopper_made-v2"
    assert "<h1>hopper_made-v2</h1>" in (folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["file.hdf5"], "file.hdf5 does not exist"),
        (["made.hdf5"], "add --env"),
        ([__file__], "is neither an HDF5 file"),
        (["file.hdf5", "--env", "Hopper-v5"], "does not exist"),
        (["halfcheetah_mediun"], "embedded dataset: halfcheetah_random"),
        (["embedded/nothing"], "embedded dataset: halfcheetah_random"),
        (["tests/none-v0"], "minari download"),
        (
            ["tests/pendulum-v0", "--env", "Hopper-v5"],
            "recorded in InvertedPendulum-v5, but the environment is Hopper-v5: set --env Inv",
        ),
        (["tests/pendulum-v0", "--env", "Nothing-v5"], "gymnasium cannot make 'Nothing-v5'"),
    ],
)
def test_errors_of_the_users(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    write_pendulum()
    monkeypatch.chdir(tmp_path)
    Path("made.hdf5").touch()
    assert call(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_an_embedded_name_stands_for_its_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cql.data.embedded import EMBEDDED

    tiny = dataclasses.replace(EMBEDDED["hopper_random"], parts=(("random", 3),))
    monkeypatch.setitem(EMBEDDED, "hopper_random", tiny)
    monkeypatch.chdir(tmp_path)
    for name in ("hopper_random", "embedded/hopper_random"):
        assert call(monkeypatch, name) == 0
        assert "cql/hopper/random-v0: Hopper-v5, 3 episodes" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "outputs" / "datasets").iterdir()] == ["hopper_random"]
