"""`dataset=mixture`: several datasets with options of their own, read like one alone."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import yaml
from composed import load

from cql import config
from cql.config.choices import ReturnsToGo
from cql.config.datasets import D4rlDataset, MinariDataset, MixtureDataset
from cql.config.messages import ConfigError
from cql.config.mixture import ratios_of, sources_of
from cql.config.schema import TrainConfig

RANDOM = "{kind: embedded, name: halfcheetah_random, ratio: 7}"
MEDIUM = "{kind: embedded, name: halfcheetah_medium, ratio: 3, fraction: 0.1}"
FILE = "{kind: d4rl, path: a/b.hdf5, reward_scale: 2, n_episodes: 3}"
HUB = "{kind: minari, id: mujoco/hopper/medium-v0}"


def mixture(*sources: str, **others: Any) -> TrainConfig:
    keys = [f"dataset.{key}={value}" for key, value in others.items()]
    return load("dataset=mixture", f"dataset.mixture=[{','.join(sources)}]", *keys)


def of(train_config: TrainConfig) -> MixtureDataset:
    assert isinstance(train_config.dataset, MixtureDataset)
    return train_config.dataset


def test_each_dataset_is_one_alone_with_the_mixtures_values_where_it_has_none() -> None:
    c = mixture(FILE, HUB, reward_scale=5.0, reward_bias=-1.0, normalise_observations=True, returns_to_go="truncate")
    file, hub = sources_of(of(c))
    assert isinstance(file, D4rlDataset)
    assert isinstance(hub, MinariDataset)
    assert (file.path, file.reward_scale, file.reward_bias, file.n_episodes) == ("a/b.hdf5", 2.0, -1.0, 3)
    assert (hub.id, hub.download, hub.reward_scale, hub.n_episodes) == ("mujoco/hopper/medium-v0", True, 5.0, None)
    assert all(each.normalise_observations and each.returns_to_go is ReturnsToGo.truncate for each in (file, hub))
    alone = load("dataset=embedded_halfcheetah_medium", "dataset.fraction=0.1")
    assert sources_of(of(mixture(RANDOM, MEDIUM)))[1] == alone.dataset
    assert (ratios_of(of(c)), ratios_of(of(mixture(RANDOM, MEDIUM)))) == (None, [7.0, 3.0])


def test_it_composes_from_the_command_line_and_from_a_file_of_ones_own(tmp_path: Any) -> None:
    given = ["dataset=mixture", "env=Hopper-v5", f"dataset.mixture=[{RANDOM},{MEDIUM}]"]
    c = config.checked(config.compose(given))
    assert of(c).mixture == of(mixture(RANDOM, MEDIUM)).mixture
    assert c.env.id == "Hopper-v5"
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text(f"defaults: [mixture, _self_]\nmixture: [{RANDOM}, {MEDIUM}]\n")
    own = config.checked(config.compose([f"hydra.searchpath=[file://{tmp_path}]", "dataset=mine"]))
    assert of(own) == of(c)


@pytest.mark.parametrize("sources", [(RANDOM, MEDIUM), (FILE, HUB)])
def test_it_round_trips(sources: tuple[str, ...]) -> None:
    c = mixture(*sources)
    plain = config.to_dict(c)
    assert config.from_dict(plain) == c
    assert config.from_dict(json.loads(json.dumps(plain))) == c
    assert config.from_dict(yaml.safe_load(yaml.safe_dump(plain))) == c
    assert all(type(value) in (str, float, int) for source in plain["dataset"]["mixture"] for value in source.values())
    of(c).mixture[0]["ratio"] = 5.0
    assert config.from_dict(plain) != c  # a config is its owner's


def test_what_makes_another_run_and_what_may_be_stacked() -> None:
    c = mixture(RANDOM, HUB.replace("}", ", ratio: 1}"))
    same = mixture(RANDOM, HUB.replace("}", ", ratio: 1.0, download: false}"))
    other = mixture(RANDOM, HUB.replace("}", ", ratio: 2}"))
    assert config.run_key(c) == config.run_key(same) != config.run_key(other)
    assert config.stack_key(c) == config.stack_key(same) != config.stack_key(other)
    assert config.stack_key(c) == config.stack_key(load(*given(RANDOM, HUB.replace("}", ", ratio: 1}")), "seed=3"))
    assert config.differences(config.to_dict(c), config.to_dict(other)) == ["dataset.mixture[1].ratio: 1.0 -> 2.0"]


def given(*sources: str) -> list[str]:
    return ["dataset=mixture", f"dataset.mixture=[{','.join(sources)}]"]


def test_its_label_is_short_and_safe_in_paths() -> None:
    assert config.dataset_label(of(mixture(RANDOM, MEDIUM))) == "mixture-halfcheetah_random-halfcheetah_medium"
    assert config.dataset_label(of(mixture(FILE, HUB))) == "mixture-b-mujoco-hopper-medium-v0"
    long = [f"{{kind: d4rl, path: '{'x y' * 40}{end}.hdf5'}}" for end in "abc"]
    labels = {config.dataset_label(of(mixture(*pair))) for pair in itertools.permutations(long, 2)}
    assert len(labels) == 6
    assert all(len(label) <= 80 and set(label) <= set("-abcdefghijklmnopqrstuvwxyz0123456789") for label in labels)


TWO = "it must be a list of at least two datasets"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("???", ["dataset.mixture is missing: give datasets, e.g. 'dataset.mixture=[{kind:embedded"]),
        ("null", [f"dataset.mixture=null: {TWO}"]),
        ("3", [f"dataset.mixture=3: {TWO}"]),
        ("[1,2]", [f"dataset.mixture=[1, 2]: {TWO}"]),
        (f"[{RANDOM}]", [TWO]),
        (f"[{FILE},{{path: a}}]", ["dataset.mixture[1].kind is missing: it must be one of embedded, minari, d4rl"]),
        (f"[{FILE},{{kind: mixture}}]", ["dataset.mixture[1].kind is mixture: it must be one of"]),
        (f"[{FILE},{{kind: [1]}}]", ["dataset.mixture[1].kind is [1]: it must be one of"]),
        (f"[{FILE},{{kind: embedded}}]", ["dataset.mixture[1].name is missing", "e.g. halfcheetah_medium"]),
        (f"[{FILE},{{kind: d4rl}}]", ["dataset.mixture[1].path is missing", "e.g. path: data/"]),
        (f"[{{kind: minari}},{FILE}]", ["dataset.mixture[0].id is missing", "e.g. id: mujoco/"]),
        (f"[{FILE},{{kind: d4rl, path: a, reward_bias: ???}}]", ["dataset.mixture[1].reward_bias is missing"]),
        (f"[{FILE},{{kind: d4rl, path: ' '}}]", ["dataset.mixture[1].path is empty"]),
        (f"[{FILE},{{kind: minari, id: ''}}]", ["dataset.mixture[1].id is empty"]),
        (
            f"[{FILE},{{kind: embedded, name: hopper}}]",
            ["dataset.mixture[1].name=hopper", "did you mean hopper_random"],
        ),
        (f"[{FILE},{{kind: d4rl, path: a, download: true}}]", ["dataset.mixture[1].download: a d4rl dataset in a"]),
        (f"[{FILE},{{kind: d4rl, path: a, 3: 4}}]", ["dataset.mixture[1].3: a d4rl dataset in a mixture has kind,"]),
        (f"[{FILE},{{kind: d4rl, path: a, reward_scael: 1}}]", ["[1].reward_scael: ", "did you mean reward_scale?"]),
        (f"[{FILE},{{kind: d4rl, path: a, returns_to_go: x}}]", ["mixture[1].returns_to_go", "set dataset.returns_to"]),
        (
            f"[{FILE},{{kind: d4rl, path: a, normalise_observations: true}}]",
            ["mixture[1].normalise_observations: all datasets of a mixture share it"],
        ),
        # What one alone is refused for.
        (f"[{FILE},{{kind: d4rl, path: a, reward_scale: x}}]", ["dataset.mixture[1].reward_scale=x: it must be a num"]),
        (f"[{FILE},{{kind: d4rl, path: a, reward_bias: null}}]", ["dataset.mixture[1].reward_bias=null: it must be"]),
        (
            f"[{FILE},{{kind: d4rl, path: a, n_episodes: 1.5}}]",
            ["mixture[1].n_episodes=1.5: it must be an integer, or"],
        ),
        (
            f"[{FILE},{{kind: d4rl, path: a, reward_scale: -2}}]",
            ["mixture[1].reward_scale=-2.0 is out of range: it must"],
        ),
        (
            f"[{FILE},{{kind: d4rl, path: a, fraction: 2}}]",
            ["dataset.mixture[1].fraction=2.0", "greater than 0 and at"],
        ),
        (
            f"[{FILE},{{kind: d4rl, path: a, fraction: 0.5, n_episodes: 2}}]",
            ["dataset.mixture[1].n_episodes=2 and dataset.mixture[1].fraction=0.5 both choose"],
        ),
        # Ratios.
        (f"[{RANDOM},{FILE}]", ["dataset.mixture[1].ratio is missing: give all datasets of the mixture a ratio"]),
        (f"[{FILE},{{kind: d4rl, path: a, ratio: 0}}]", ["dataset.mixture[1].ratio=0: it must be a number from 1e-06"]),
        (f"[{FILE},{{kind: d4rl, path: a, ratio: -1.5}}]", ["dataset.mixture[1].ratio=-1.5: it must be a number from"]),
        (f"[{FILE},{{kind: d4rl, path: a, ratio: nan}}]", ["dataset.mixture[1].ratio=nan"]),
        (f"[{FILE},{{kind: d4rl, path: a, ratio: true}}]", ["dataset.mixture[1].ratio=True"]),
        (f"[{FILE},{{kind: d4rl, path: a, ratio: half}}]", ["dataset.mixture[1].ratio=half"]),
        (f"[{FILE},{{kind: d4rl, path: a, ratio: {'9' * 400}}}]", ["dataset.mixture[1].ratio=999"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(value: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load("dataset=mixture", f"dataset.mixture={value}")
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert [line for line in text.splitlines() if not line.startswith("dataset.mixture")] == []


def test_all_is_told_at_once_and_what_is_the_mixtures_once() -> None:
    with pytest.raises(ConfigError) as caught:
        mixture("{kind: d4rl, n_episodes: x}", "{kind: minari, name: y, ratio: z}")
    assert [line.partition(" ")[0].partition("=")[0].rstrip(":") for line in str(caught.value).splitlines()] == [
        "dataset.mixture[0].n_episodes", "dataset.mixture[0].path",
        "dataset.mixture[1].name", "dataset.mixture[1].ratio", "dataset.mixture[1].id",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        mixture("{kind: d4rl, path: a}", "{kind: d4rl, path: a, fraction: 2}", reward_scale=-1)
    assert [line.partition("=")[0] for line in str(caught.value).splitlines()] == [
        "dataset.reward_scale", "dataset.mixture[1].fraction"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "other", "words"),
    [
        (FILE, "seed=0", "dataset.mixture[0].reward_scale=2.0 is not dataset.reward_scale=1.0"),
        (
            HUB.replace("}", ", reward_bias: 1}"),
            "seed=0",
            "dataset.mixture[0].reward_bias=1.0 is not dataset.reward_bias=0",
        ),
        (
            HUB.replace("}", ", action_clip: 0.9}"),
            "seed=0",
            "dataset.mixture[0].action_clip=0.9 is not dataset.action_clip",
        ),
        (
            HUB.replace("}", ", normalise_rewards: true}"),
            "seed=0",
            "dataset.mixture[0].normalise_rewards=True gives each",
        ),
        (FILE, "dataset.reward_scale=2", ""),
        (HUB.replace("}", ", fraction: 0.5, end_at_success: true}"), "seed=0", ""),
    ],
)
def test_in_the_environment_there_is_one_preparation(source: str, other: str, words: str) -> None:
    overrides = ["online=finetune", *given(source, HUB), other]
    if not words:
        load(*overrides)
        return
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value).splitlines()) == 1
    load(*overrides[1:])
