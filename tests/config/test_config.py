import copy
import functools
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from composed import compose, load
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.types import RunMode
from omegaconf import OmegaConf

from cql import config
from cql.config import datasets, schema
from cql.config import folders as folders_module
from cql.config.folders import MakeFolders, new_folder
from cql.config.keys import all_keys, choice, kinds_of, variant_paths
from cql.config.messages import ConfigError
from cql.config.schema import (
    Blueprint,
    CqlH,
    CqlRho,
    D4rlDataset,
    EmbeddedDataset,
    FixedAlphaCql,
    FixedAlphaTemp,
    LearnedAlphaCql,
    LearnedAlphaTemp,
    LocalLoggerConfig,
    MinariDataset,
    WandbLoggerConfig,
)
from cql.data.embedded import EMBEDDED

NEEDED = {
    "dataset=minari": ["dataset.id=mujoco/hopper/medium-v0"],
    "dataset=d4rl": ["dataset.path=a.hdf5"],
    "dataset=table": ["dataset.path=a.csv", "dataset.observation_columns=[obs_*]", "dataset.action_columns=[act]"],
    "dataset=mixture": ["dataset.mixture=[{kind:d4rl,path:a.hdf5,ratio:1},{kind:minari,id:a/b-v0,ratio:2}]"],
}
# Each option of each group once, in as few compositions as that takes.
COMBINATIONS = [
    [f"{group}={option}" for group, option in options if option is not None]
    for options in itertools.zip_longest(
        *(
            [(group, option) for option in config.options_of(group)]
            for group in config.GROUPS
            if group not in ("arm", "experiment")
        ),
        fillvalue=("", None),
    )
]


def needed(*overrides):
    return [value for override in overrides for value in NEEDED.get(override, [])]


def changed(values, changes):
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        functools.reduce(lambda node, key: node[key], parents, values)[leaf] = value
    return values


def message(*overrides):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of Hydra's, OmegaConf's or ours
        config.checked(config.compose(overrides))
    text = config.explain(caught.value)
    assert text is not None
    return text


# --- what stands in configs/ ---


@pytest.mark.parametrize("path", variant_paths())
def test_every_kind_of_a_variant_has_an_option(path):
    group = path.replace(".", "/")
    for kind in kinds_of(variant_paths()[path]):
        assert choice(path, kind).removeprefix(f"{group}=") in config.options_of(group)


def test_every_embedded_dataset_has_a_file_and_can_be_made():
    assert {f"embedded_{name}" for name in datasets.EMBEDDED_DATASETS} <= set(config.options_of("dataset"))
    assert set(datasets.EMBEDDED_DATASETS) == set(EMBEDDED)


@pytest.mark.parametrize("choices", COMBINATIONS)
def test_every_option_composes_and_is_valid(choices):
    load(*choices, *needed(*choices))


@pytest.mark.parametrize("name", config.options_of("experiment"))
def test_every_experiment_composes_and_tells_how_it_is_run(name):
    dataset = compose([f"+experiment={name}"]).dataset
    missing = [key for key in dataset if OmegaConf.is_missing(dataset, key)]
    load(f"+experiment={name}", *(f"dataset.{key}=a" for key in missing))
    text = (config.CONFIG_DIR / "experiment" / f"{name}.yaml").read_text()
    package, command, *_ = text.splitlines()
    assert package == "# @package _global_"
    assert command.startswith("# ")
    assert f"scripts/train.py +experiment={name}" in command


@pytest.mark.parametrize("choices", COMBINATIONS[:3])
def test_every_coefficient_penalty_network_and_logger_can_be_chosen_on_top_of_quickstart(choices):
    load("+experiment=quickstart", *choices, *needed(*choices))


def test_smoke_leaves_the_choice_of_logger_and_coefficients_free():
    choices = ["logger=local", "algorithm/alpha_cql=learned", "algorithm/alpha_temp=fixed", "network=mlp_256x3"]
    c = load("+experiment=smoke", *choices)
    assert c.logger == LocalLoggerConfig()
    assert (c.network.width, c.network.depth) == (32, 3)


def test_every_key_of_every_file_is_in_the_schema_and_holds_a_plain_value():
    def leaves(node, prefix):
        for key, value in node.items():
            yield prefix + key
            if isinstance(value, dict) and prefix + key != "env.kwargs":  # whose keys are the environment's
                yield from leaves(value, f"{prefix}{key}.")

    found = set()
    for path in config.CONFIG_DIR.rglob("*.yaml"):
        content = OmegaConf.to_container(OmegaConf.load(path))
        content.pop("defaults", None)
        content.pop("hydra", None)
        parts = path.relative_to(config.CONFIG_DIR).parent.parts
        # A table's file is data of its own form, and judge.yaml has a schema of its own.
        if parts[:1] not in (("hydra",), ("table",)) and path.name != "judge.yaml":
            parts = [part for part in parts if part not in ("arm", "experiment")]
            found |= set(leaves(content, "".join(f"{part}." for part in parts)))
    known = set(all_keys())
    assert found - known == set()
    # And the other way round: no key of the schema is without a value somewhere; kinds are the schema's own.
    assert {key for key in known if not key.endswith(".kind")} - found <= {
        "algorithm", "algorithm.alpha_temp", "algorithm.alpha_cql", "algorithm.penalty", "network", "logger", "online"
    }  # fmt: skip


def test_defaults():
    c = load()
    assert (c.n_steps, c.n_steps_per_epoch, c.batch_size, c.seed) == (200_000, 5_000, 256, 0)
    assert isinstance(c.algorithm.alpha_temp, LearnedAlphaTemp)
    assert c.algorithm.alpha_cql == FixedAlphaCql(value=5.0)
    assert isinstance(c.algorithm.penalty, CqlH)
    assert isinstance(c.dataset, EmbeddedDataset)
    assert isinstance(c.logger, WandbLoggerConfig)
    assert c.env.reference == "auto"


@pytest.mark.parametrize(
    ("choice", "cls"),
    [
        ("algorithm/alpha_temp=fixed", FixedAlphaTemp),
        ("algorithm/alpha_temp=learned", LearnedAlphaTemp),
        ("algorithm/alpha_cql=fixed", FixedAlphaCql),
        ("algorithm/alpha_cql=learned", LearnedAlphaCql),
        ("algorithm/penalty=cql_h", CqlH),
        ("algorithm/penalty=cql_rho", CqlRho),
        ("algorithm/penalty=blueprint", Blueprint),
        ("dataset=embedded_hopper_medium", EmbeddedDataset),
        ("dataset=minari", MinariDataset),
        ("dataset=d4rl", D4rlDataset),
        ("logger=wandb", WandbLoggerConfig),
        ("logger=local", LocalLoggerConfig),
    ],
)
def test_a_choice_is_a_class_with_its_kind(choice, cls):
    choices = next(choices for choices in COMBINATIONS if choice in choices)
    node = load(*choices, *needed(*choices))
    for part in choice.partition("=")[0].split("/"):
        node = getattr(node, part)
    assert type(node) is cls
    assert choice.partition("=")[2].removesuffix("_hopper_medium") == node.kind


def test_penalties_are_what_their_kinds_say():
    properties = {cls: (cls.importance_weighted, cls.next_actions) for cls in (CqlH, CqlRho, Blueprint)}
    assert properties == {CqlH: (True, True), CqlRho: (False, True), Blueprint: (False, False)}


# --- the dataset chooses the environment ---


@pytest.mark.parametrize(
    ("overrides", "env"),
    [
        ([], "HalfCheetah-v5"),
        (["dataset=embedded_hopper_medium"], "Hopper-v5"),
        (["dataset=embedded_hopper_medium", "env=Walker2d-v5"], "Walker2d-v5"),
        (["dataset=minari", "dataset.id=a/b-v0", "env=Ant-v5"], "Ant-v5"),
        (["+experiment=quickstart", "dataset=embedded_hopper_medium"], "Hopper-v5"),
        (["+experiment=quickstart", "env=Hopper-v5"], "Hopper-v5"),
        (["+experiment=corl_v2", "dataset.path=a.hdf5", "env=Walker2d-v5"], "Walker2d-v5"),
    ],
)
def test_dataset_chooses_env_unless_it_is_given(overrides, env):
    assert load(*overrides).env.id == env


def test_an_experiment_can_override_dataset_and_env(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n"
        "  - override /dataset: embedded_hopper_medium\n  - override /env: Walker2d-v5\n\nn_steps: 10000\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path}]"
    assert load(search, "+experiment=mine").env.id == "Walker2d-v5"
    assert load(search, "+experiment=mine").dataset.name == "hopper_medium"
    assert load(search, "+experiment=mine", "env=Ant-v5").env.id == "Ant-v5"


# --- what is refused, and in which words ---


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # Misspelt or foreign names.
        ("algorithm.tua_target=0.1", ["algorithm.tua_target", "did you mean algorithm.tau_target?"]),
        ("+algorithm.tua_target=0.1", ["algorithm.tua_target", "did you mean algorithm.tau_target?"]),
        ("+algorithm={discunt:0.5}", ["algorithm.discunt", "did you mean algorithm.discount?"]),
        ("algoritm.discount=0.9", ["algoritm.discount", "did you mean algorithm.discount?"]),
        ("discount=0.9", ["discount", "did you mean algorithm.discount?"]),
        ("enable_calql=true", ["enable_calql", "did you mean algorithm/penalty=cal_ql?"]),
        ("algorithm.alpha_cqll.value=3", ["did you mean algorithm.alpha_cql.value or algorithm.alpha_temp.value"]),
        ("algorithm.alpha_tmp.value=3", ["did you mean algorithm.alpha_temp.value"]),
        ("online.mixing_ratio=0", ["mixing_ratio has no effect without online=finetune; add online=finetune or drop"]),
        ("+foo=1", ["foo: there is no such key", "--help"]),
        ("hydra.run.dri=x", ["hydra.run.dri: there is no such key"]),
        ("~algorithm.discount", ["~algorithm.discount", "cannot be removed"]),
        # Keys of the variant that is not chosen.
        (
            "algorithm.alpha_cql.tau_cql=5",
            [
                "algorithm.alpha_cql.tau_cql",
                "no effect with a fixed alpha_cql",
                "add algorithm/alpha_cql=learned or drop",
            ],
        ),
        ("+algorithm.alpha_cql.tau_cql=5", ["no effect with a fixed alpha_cql; add algorithm/alpha_cql=learned"]),
        (
            "algorithm/alpha_cql=learned algorithm.alpha_cql.value=3",
            ["algorithm.alpha_cql.value", "write algorithm.alpha_cql.initial_value=...", "algorithm/alpha_cql=fixed"],
        ),
        ("logger=local logger.mode=offline", ["logger.mode", "no effect with a local logger; add logger=wandb"]),
        (
            "+experiment=blueprint algorithm/alpha_cql=learned",
            ["configs/experiment/blueprint.yaml", "algorithm.alpha_cql.value"],
        ),
        # Groups.
        ("algorithm/alpha_cql=larned", ["there are fixed, learned; did you mean algorithm/alpha_cql=learned?"]),
        ("dataset=embedded_hoper_medium", ["d4rl", "did you mean dataset=embedded_hopper_medium?"]),
        ("dataset=embedded/halfcheetah_medium", ["did you mean dataset=embedded_halfcheetah_medium?"]),
        ("dataset/embedded=hopper_medium", ["dataset=embedded_hopper_medium"]),
        ("experiment=smoke", ["+experiment=smoke"]),
        ("+experiment=smoke +experiment=paper", ["experiment", "twice"]),
        ("+dataset=minari", ["dataset=OPTION", "without a plus"]),
        ("algorithm/alpha=fixed", ["algorithm/alpha:", "did you mean algorithm/alpha_cql?"]),
        ("algorithm.alpha_cql=learned", ["with a slash, algorithm/alpha_cql=learned"]),
        ("alpha_cql=learned", ["with a slash, algorithm/alpha_cql=learned"]),
        ("algorithm.alpha_cql=5", ["algorithm.alpha_cql=5", "algorithm.alpha_cql.value"]),
        ("~dataset", ["dataset.kind is missing", "dataset=minari"]),
        ("hydra/launcher=foo", ["hydra/launcher=foo", "basic"]),
        # Kinds are chosen, not set.
        (
            "algorithm.alpha_cql.kind=learned",
            ["algorithm.alpha_cql.kind=learned", "choose algorithm/alpha_cql=learned"],
        ),
        # Types.
        ("seed=abc", ["seed=abc: it must be an integer"]),
        ("seed=null", ["seed=null: it must be an integer"]),
        ("n_steps=1e5", ["n_steps", "write n_steps=100000"]),
        ("algorithm.backup=sft", ["algorithm.backup=sft", "soft, hard, max; did you mean soft?"]),
        ("algorithm.penalty.gradient=some", ["gradient=some: it must be one of exact, sampled"]),
        ("video.enabled=perhaps", ["video.enabled=perhaps: it must be true or false"]),
        ("logger.tags=a", ["logger.tags=a", "write logger.tags=[first,second]"]),
        # Missing values.
        ("dataset=d4rl", ["dataset.path is missing", "dataset.path=data/"]),
        ("n_steps=${nothing}", ["n_steps", "nothing"]),
        # Overrides that Hydra cannot read.
        (
            "algorithm.actor_learning_rate=-1e-4",
            ["algorithm.actor_learning_rate=-0.0001", "greater than 0 and at most 1"],
        ),
        ("seed=0,1", ["seed=0,1", "-m"]),
        ("seed=[1", ["'seed=[1' (no viable alternative at input '[1')", "KEY=VALUE"]),
        ("seed", ["'seed' (missing EQUAL", "KEY=VALUE"]),
    ],
)
def test_a_wrong_config_is_refused_in_words_that_name_the_key(overrides, words):
    text = message(*overrides.split())
    assert [word for word in words if word not in text] == [], text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # A gradient and the actions that it goes through.
        (
            "algorithm.penalty.num_gradient_actions=2",
            ["num_gradient_actions=2 has no effect with algorithm.penalty.gradient=exact", "gradient=sampled"],
        ),
        ("algorithm.penalty.gradient=sampled", ["num_gradient_actions is missing", "num_gradient_actions=1"]),
        (
            "algorithm.penalty.gradient=sampled algorithm.penalty.num_gradient_actions=31",
            ["num_gradient_actions=31 is more than the 30 actions", "lower it"],
        ),
        (
            "algorithm/penalty=blueprint algorithm.penalty.gradient=sampled algorithm.penalty.num_gradient_actions=21",
            ["more than the 20 actions", "num_sampled_actions=10 in each of 2 groups"],
        ),
        (
            "algorithm.penalty.gradient=sampled algorithm.penalty.num_gradient_actions=0",
            ["num_gradient_actions=0 is out of range: it must be at least 1"],
        ),
        ("algorithm.alpha_cql.value=3e38", ["algorithm.alpha_cql.value=3e+38", "at most 1000000.0", "0.5 to 20"]),
        ("algorithm/alpha_cql=learned algorithm.alpha_cql.initial_value=2e6", ["initial_value=2000000.0", "at most"]),
        ("device=cpu tf32=true", ["tf32=true has no effect with device=cpu"]),
    ],
)
def test_values_that_do_not_go_together_are_refused(overrides, words):
    with pytest.raises(ConfigError) as caught:
        load(*overrides.split())
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert len(text.splitlines()) == 1


LEARNED = ["algorithm/alpha_cql=learned"]


@pytest.mark.parametrize(
    ("overrides", "changes", "words"),
    [
        # One value out of its range.
        ([], {"algorithm.critic_learning_rate": 0.0}, ["algorithm.critic_learning_rate=0.0", "greater than 0 and at"]),
        ([], {"algorithm.actor_learning_rate": -1.0}, ["algorithm.actor_learning_rate=-1.0", "greater than 0 and at"]),
        (
            [],
            {"algorithm.alpha_temp.temp_learning_rate": -1.0},
            ["algorithm.alpha_temp.temp_learning_rate=-1.0", "algorithm/alpha_temp=fixed"],
        ),
        (
            LEARNED,
            {"algorithm.alpha_cql.alpha_learning_rate": -1.0},
            ["algorithm.alpha_cql.alpha_learning_rate=-1.0", "algorithm/alpha_cql=fixed"],
        ),
        (
            LEARNED,
            {"algorithm.alpha_cql.initial_value": 0.0},
            ["algorithm.alpha_cql.initial_value=0.0", "greater than 0"],
        ),
        ([], {"algorithm.alpha_temp.initial_value": 0.0}, ["algorithm.alpha_temp.initial_value=0.0", "greater than 0"]),
        ([], {"algorithm.alpha_cql.value": -1.0}, ["algorithm.alpha_cql.value=-1.0", "at least 0"]),
        ([], {"algorithm.discount": 1.0}, ["algorithm.discount=1.0", "at least 0 and less than 1"]),
        ([], {"algorithm.discount": float("nan")}, ["algorithm.discount=nan", "at least 0 and less than 1"]),
        ([], {"dataset.reward_bias": float("inf")}, ["dataset.reward_bias=inf", "finite"]),
        ([], {"algorithm.tau_target": 0.0}, ["algorithm.tau_target=0.0", "greater than 0 and at most 1"]),
        ([], {"algorithm.penalty.temperature": 0.0}, ["algorithm.penalty.temperature=0.0", "greater than 0"]),
        ([], {"network.width": 0}, ["network.width=0", "at least 1"]),
        ([], {"n_kept_checkpoints": 0}, ["n_kept_checkpoints=0", "at least 1"]),
        ([], {"n_evals_per_video": -1}, ["n_evals_per_video=-1", "at least 0", "video.enabled=false"]),
        ([], {"n_threads": 0}, ["n_threads=0", "at least 1"]),
        ([], {"seed": -1}, ["seed=-1", "at least 0 and at most 4294967295"]),
        ([], {"dataset.fraction": 1.5}, ["dataset.fraction=1.5", "greater than 0 and at most 1"]),
        ([], {"dataset.name": "halfcheetah"}, ["dataset.name=halfcheetah", "did you mean halfcheetah_random?"]),
        # Values that do not go together.
        ([], {"n_steps_per_epoch": 300_000}, ["n_steps_per_epoch=300000", "n_steps=200000"]),
        ([], {"algorithm.bc_steps": 300_000}, ["algorithm.bc_steps=300000", "n_steps=200000"]),
        ([], {"algorithm.log_std_min": 3.0}, ["algorithm.log_std_min=3.0", "algorithm.log_std_max=2.0"]),
        (
            [],
            {"dataset.n_episodes": 3, "dataset.fraction": 0.5},
            ["dataset.n_episodes=3", "dataset.fraction=0.5", "null"],
        ),
        ([], {"env.reference": [5.0, 5.0]}, ["env.reference=[5.0, 5.0]", "greater", "env.reference=null"]),
        ([], {"env.reference": [0.0, math.inf]}, ["env.reference=[0.0, inf]", "finite"]),
        (LEARNED, {"algorithm.w_cql": 0.0}, ["algorithm.w_cql=0.0", "algorithm/alpha_cql=fixed"]),
        ([], {"video.size": 201}, ["video.size=201", "202"]),
    ],
)
def test_values_out_of_range_are_refused(overrides, changes, words):
    with pytest.raises(ConfigError) as caught:
        config.from_dict(changed(config.to_dict(load(*overrides)), changes))
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm.tau_target": 1.0},
        {"algorithm.discount": 0.0},
        {"algorithm.w_cql": 0.0},
        {"algorithm.alpha_cql.value": 0.0},
        {"algorithm.bc_steps": 200_000},
        {"n_steps_per_epoch": 200_000},
        {"dataset.fraction": 1.0},
        {"algorithm.alpha_temp.target_entropy": -3.0},
        {"seed": 2**32 - 1},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(changes):
    config.from_dict(changed(config.to_dict(load()), changes))


def test_all_problems_are_told_at_once():
    lines = message("seed=-1", "algorithm.alpha_cql.value=-2", "video.size=201").splitlines()
    assert [line.partition("=")[0] for line in lines] == ["seed", "algorithm.alpha_cql.value", "video.size"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("seed"), ValueError("no config")])
def test_other_errors_are_not_explained(error):
    assert config.explain(error) is None
    with pytest.raises(type(error)), config.friendly_errors():
        raise error


def test_messages_ends_with_status_2(capsys, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as caught, config.friendly_errors():
        load("seed=-1")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("Config error: seed=-1 is out of range")


# --- to plain values and back ---


VARIED = [
    [],
    [
        "algorithm/alpha_cql=learned",
        "algorithm/alpha_temp=fixed",
        "algorithm/penalty=blueprint",
        "algorithm.backup=max",
        "algorithm.penalty.gradient=sampled",
        "algorithm.penalty.num_gradient_actions=4",
    ],
    ["dataset=minari", "dataset.id=a/b-v0", "env=InvertedPendulum-v5", "logger=local", "dataset.n_episodes=3"],
    [
        "dataset=d4rl",
        "dataset.path=a.hdf5",
        "logger.tags=[a,b]",
        "n_threads=2",
        "algorithm.alpha_temp.target_entropy=-3",
    ],
]


@pytest.mark.parametrize("overrides", VARIED)
def test_round_trips(overrides):
    c = load(*overrides)
    plain = config.to_dict(c)
    assert config.from_dict(plain) == c
    assert config.from_dict(json.loads(json.dumps(plain))) == c
    assert config.from_dict(yaml.safe_load(yaml.safe_dump(plain))) == c
    saved = OmegaConf.create(OmegaConf.to_yaml(config.compose(overrides)))
    assert config.from_dict(OmegaConf.to_container(saved)) == c


def test_plain_values_are_plain():
    plain = config.to_dict(load())
    assert plain["device"] == "auto"
    assert type(plain["device"]) is str
    assert plain["algorithm"]["alpha_cql"] == {"kind": "fixed", "value": 5.0}
    assert config.differing_keys(plain, OmegaConf.to_container(compose([]), enum_to_str=True, resolve=True)) == []


FIXED_TEMP = ["algorithm/alpha_temp=fixed"]
MINARI = ["dataset=minari", "dataset.id=a/b-v0"]
D4RL = ["dataset=d4rl", "dataset.path=a.hdf5"]


@pytest.mark.parametrize(
    ("overrides", "path", "value", "words"),
    [
        # Other names.
        ([], "algorithm.dscount", 0.9, "did you mean algorithm.discount?"),
        ([], "gamma", 0.9, "did you mean algorithm.discount?"),
        ([], "batchsize", 9, "did you mean batch_size?"),
        ([], "min_q_weight", 5.0, "did you mean algorithm.alpha_cql.value or algorithm.w_cql?"),
        ([], "tau", 1.0, "algorithm.tau_target or algorithm.alpha_cql.tau_cql (with algorithm/alpha_cql=learned)?"),
        (LEARNED, "tau", 1.0, "did you mean algorithm.tau_target or algorithm.alpha_cql.tau_cql?"),
        # The other variant's keys, and properties of a variant.
        ([], "algorithm.alpha_cql.tau_cql", 5.0, "tau_cql has no effect with a fixed alpha_cql"),
        (
            [],
            "algorithm.alpha_cql.alpha_learning_rate",
            1.0,
            "alpha_learning_rate has no effect with a fixed alpha_cql",
        ),
        (
            [],
            "algorithm.alpha_cql.initial_value",
            3.0,
            "write algorithm.alpha_cql.value=... or add algorithm/alpha_cql=l",
        ),
        (
            FIXED_TEMP,
            "algorithm.alpha_temp.target_entropy",
            -6.0,
            "target_entropy has no effect with a fixed alpha_temp",
        ),
        (FIXED_TEMP, "algorithm.alpha_temp.temp_learning_rate", 1.0, "drop it"),
        ([], "dataset.id", "a", "no effect with an embedded dataset; add dataset=minari or drop it"),
        (MINARI, "dataset.path", "a", "no effect with a minari dataset; add dataset=d4rl or drop it"),
        (D4RL, "dataset.download", True, "no effect with a d4rl dataset; add dataset=minari or drop it"),
        ([], "algorithm.penalty.next_actions", False, "choose algorithm/penalty=blueprint or algorithm/penalty=cal_ql"),
        # Kinds.
        ([], "algorithm.alpha_cql.kind", "learned", "algorithm.alpha_cql.tau_cql is missing"),
        ([], "algorithm.alpha_cql.kind", "huge", "algorithm.alpha_cql.kind is huge, which is unknown"),
        # Types.
        ([], "algorithm.discount", "high", "algorithm.discount=high: it must be a number"),
        ([], "algorithm.discount", True, "algorithm.discount=True: it must be a number"),
        ([], "algorithm.discount", {"x": 1}, "algorithm.discount={'x': 1}: it must be a number"),
        ([], "seed", True, "seed=True: it must be an integer"),
        ([], "n_steps", 0.5, "n_steps=0.5: it must be an integer"),
        ([], "n_threads", "two", "n_threads=two: it must be an integer, or null"),
        ([], "eval_worker", True, "eval_worker=True: it must be one of auto, on, off"),
        ([], "device", "gpu", "device=gpu: it must be one of auto, cpu, cuda"),
        ([], "env.id", None, "env.id=null: it must be a text"),
        ([], "env.reference", "D4RL", "env.reference=D4RL: it must be auto"),
        ([], "env.reference", [1.0], "env.reference=[1.0]: it must be auto"),
        ([], "env.reference", {"name": "D4RL", "min_score": 0.0}, "env.reference={'name': 'D4RL', 'min_score': 0.0}"),
        ([], "network", None, "network=null: it must be a set of keys"),
        ([], "dataset", 3, "dataset=3: it must be a set of keys"),
        # Missing and empty values.
        (MINARI, "dataset.id", "???", "dataset.id is missing: give the id of a Minari dataset"),
        (D4RL, "dataset.path", " ", "dataset.path is empty"),
        ([], "seed", "???", "seed is missing"),
    ],
)
def test_from_dict_refuses_what_does_not_fit(overrides, path, value, words):
    with pytest.raises(ConfigError) as caught:
        config.from_dict(changed(config.to_dict(load(*overrides)), {path: value}))
    assert path.removesuffix(".kind") in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == (4 if (path, value) == ("algorithm.alpha_cql.kind", "learned") else 1)


def test_from_dict_names_every_missing_key():
    with pytest.raises(ConfigError) as caught:
        config.from_dict({})
    assert "seed is missing" in str(caught.value)
    assert "algorithm is missing" in str(caught.value)


def test_differing_keys():
    old = config.to_dict(load())
    new = config.to_dict(load("seed=1", "algorithm/alpha_cql=learned", "n_threads=2"))
    assert config.differing_keys(old, old) == []
    assert config.differing_keys(old, new) == [
        "seed: 0 -> 1",
        "n_threads: null -> 2",
        "algorithm.alpha_cql.kind: fixed -> learned",
        "algorithm.alpha_cql.value: 5.0 -> (absent)",
        "algorithm.alpha_cql.initial_value: (absent) -> 5.0",
        "algorithm.alpha_cql.tau_cql: (absent) -> null",
        "algorithm.alpha_cql.alpha_learning_rate: (absent) -> 0.0003",
    ]


# --- the run's folder ---


def test_dataset_labels_are_safe_in_paths():
    minari = load("dataset=minari", "dataset.id=mujoco/hopper/medium-v0").dataset
    d4rl = load("dataset=d4rl", "dataset.path='/data/My set,1/hopper medium-v2.hdf5'").dataset
    assert config.dataset_label(load().dataset) == "halfcheetah_medium"
    assert config.dataset_label(minari) == "mujoco-hopper-medium-v0"
    assert config.dataset_label(d4rl) == "hopper-medium-v2"


# An entry point like scripts/train.py, without the training.
ENTRY = """
import logging, sys
import hydra
from cql import config
config.register()
@hydra.main(config_path=str(config.CONFIG_DIR), config_name="train", **config.VERSION_BASE)
def main(cfg):
    from hydra.core.hydra_config import HydraConfig
    config.checked(cfg)
    heavy = {"torch", "wandb", "minari", "gymnasium", "mujoco", "h5py", "matplotlib"} & set(sys.modules)
    assert not heavy, heavy
    folder = HydraConfig.get().runtime.output_dir
    logging.getLogger("entry").info("trained in %s", folder)
    with open(folder + "/trained.txt", "a") as file:
        file.write(folder + "\\n")
if __name__ == "__main__":
    with config.friendly_errors():
        sys.argv[1:] = config.arranged(sys.argv[1:])
        main()
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "entry.py").write_text(ENTRY)

    def run(*overrides, env=None):
        command = [sys.executable, "entry.py", *overrides]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=env)

    return run


def folders(tmp_path):
    return sorted(path.parent for path in (tmp_path / "outputs").rglob("trained.txt"))


def test_a_run_has_its_own_folder_and_resume_goes_back_to_it(start, tmp_path):
    first = start("seed=3", "dataset=embedded_hopper_medium")
    assert first.returncode == 0, first.stderr
    (folder,) = folders(tmp_path)
    assert folder.parent == tmp_path / "outputs" / "Hopper-v5" / "hopper_medium"
    assert folder.name.endswith("_seed3")
    # Neither Hydra's own .hydra nor a log of Hydra's: the run writes both itself.
    assert [path.name for path in folder.iterdir()] == ["trained.txt"]
    assert f"INFO trained in {folder}" in first.stdout
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("seed: 3\n")  # as a run does
    again = start(f"resume={folder.relative_to(tmp_path)}")
    assert again.returncode == 0, again.stderr
    assert folders(tmp_path) == [folder]
    assert (folder / "trained.txt").read_text().splitlines() == [str(folder), str(folder)]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm.actor_learning_rate=-1"], "algorithm.actor_learning_rate=-1.0"),
        (["resume=nowhere"], "resume=nowhere: there is no such folder"),
        (["sweep_name=first"], "sweep_name=first has no effect on a single run: add -m"),
        (["retry_failed=true"], "retry_failed=True has no effect on a single run: add -m"),
        (["resume=."], "resume=.: it holds no .hydra/config.yaml, so this is not the folder of a run"),
    ],
)
def test_a_wrong_config_ends_with_status_2_and_leaves_no_folder(start, tmp_path, overrides, words):
    result = start(*overrides)
    assert result.returncode == 2
    assert result.stderr.startswith("Config error: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["entry.py"]


@pytest.mark.parametrize(
    ("arguments", "sweep", "points"),
    [
        (["-m", "seed=0,1"], "2*", ["seed-0", "seed-1"]),
        # The experiment's file says that it is a sweep.
        (
            ["+experiment=ablation", "arm=base,soft_backup", "seed=0"],
            "ablation",
            ["arm-base__seed-0", "arm-soft_backup__seed-0"],
        ),
    ],
)
def test_a_sweep_names_its_folders_by_their_points(start, tmp_path, arguments, sweep, points):
    result = start(*arguments, "hydra/launcher=basic")
    assert result.returncode == 0, result.stderr
    found = folders(tmp_path)
    assert [path.name for path in found] == points
    (folder,) = {path.parent for path in found}
    assert folder.parent == tmp_path / "outputs" / "sweeps"
    assert folder.match(sweep)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--cfg", "hydra", "--resolve"], "outputs/"),
        (["--cfg", "all", "--resolve"], "outputs/HalfCheetah-v5/halfcheetah_medium/"),
        (["--cfg", "all", "--resolve", "+experiment=alpha_cql_sweep", "sweep_name=null"], "outputs/sweeps/2"),
        (["--cfg", "job", "+experiment=alpha_cql_sweep"], "n_steps"),
        (["--info", "searchpath"], "configs"),
        (["--help"], "config"),
        (["--shell-completion", "query=bash"], ""),
    ],
)
def test_what_only_shows_makes_no_folder(start, tmp_path, arguments, shown):
    environment = os.environ | {"COMP_LINE": "python entry.py net", "COMP_POINT": "19"}
    result = start(*arguments, env=environment)
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["entry.py"]


def test_two_starts_in_one_second_get_two_folders(tmp_path):
    names = [new_folder(tmp_path / "a" / "b", "same").name for _ in range(3)]
    assert names == ["same", "same_2", "same_3"]


def composed(*overrides):
    config.register()
    with initialize_config_dir(str(config.CONFIG_DIR), **config.VERSION_BASE):
        return hydra_compose("train", list(overrides), return_hydra_config=True)


def test_a_folder_is_named_by_resolvers_and_made_by_a_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = composed()
    cfg.hydra.mode = RunMode.RUN
    named = cfg.hydra.run.dir
    assert named.startswith("outputs/HalfCheetah-v5/halfcheetah_medium/")
    assert copy.deepcopy(cfg).hydra.run.dir == named
    assert list(tmp_path.iterdir()) == []
    twin = copy.deepcopy(cfg)
    for each in (cfg, twin):
        MakeFolders().on_run_start(each)
        assert list(Path(each.hydra.run.dir).iterdir()) == []
    assert (cfg.hydra.run.dir, twin.hydra.run.dir) == (named, f"{named}_2")
    assert copy.deepcopy(twin).hydra.run.dir == f"{named}_2"


def test_a_folder_that_the_command_line_names_is_left_to_hydra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MakeFolders().on_run_start(composed("hydra.run.dir=mine"))
    assert list(tmp_path.iterdir()) == []


def test_two_sweeps_that_start_in_one_second_get_two_folders_and_logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = composed()
    cfg.hydra.mode = RunMode.MULTIRUN
    cfg.hydra.overrides.task = ["seed=0,1"]
    named = cfg.hydra.sweep.dir
    assert cfg.hydra.hydra_logging.handlers.sweep.filename == os.devnull  # there is no folder yet
    assert list(tmp_path.iterdir()) == []
    twin = copy.deepcopy(cfg)
    logs = []
    monkeypatch.setattr(folders_module, "configure_log", lambda found, _: logs.append(found.handlers.sweep.filename))
    for each in (cfg, twin):
        MakeFolders().on_multirun_start(each)
        MakeFolders().on_multirun_end(each)
        assert json.loads(Path(each.hydra.sweep.dir, "sweep.json").read_text())["swept"] == ["seed"]
    logged = [f"{named}/sweep.log", f"{named}_2/sweep.log"]
    assert (cfg.hydra.sweep.dir, twin.hydra.sweep.dir, logs) == (named, f"{named}_2", logged)


# --- sweeps ---


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "seed-3"),
        (["seed=3"], "seed-3"),
        (["algorithm.alpha_cql.value=5"], "alpha_cql-5__seed-3"),
        (["algorithm.alpha_cql.value=5.0"], "alpha_cql-5__seed-3"),
        (["algorithm.alpha_cql.tau_cql=-2", "algorithm.alpha_cql.initial_value=0.5"],
         "alpha_cql-0.5__tau_cql--2__seed-3"),
        (["algorithm/penalty=cql_rho", "+arm=no_entropy"], "arm-no_entropy__penalty-cql_rho__seed-3"),
        (["dataset.id=mujoco/hopper/medium-v0"], "id-mujoco-hopper-medium-v0__seed-3"),
        (["dataset.path='/data/My set,1.hdf5'"], "path-data-My-set-1.hdf5__seed-3"),
        (["algorithm.critic_learning_rate=3e-05", "video.enabled=false"],
         "critic_learning_rate-3e-05__enabled-false__seed-3"),
        (["algorithm.alpha_temp.target_entropy=null"], "target_entropy-null__seed-3"),
    ],
)  # fmt: skip
def test_a_point_has_one_safe_name_whatever_the_order_of_the_grid(overrides, name):
    assert config.point_name(overrides, 3) == name
    assert config.point_name(overrides[::-1], 3) == name


def test_a_very_long_name_is_cut_and_stays_the_points_own():
    names = {config.point_name([f"logger.name={'x' * 200}{end}"], 0) for end in "ab"}
    assert len(names) == 2
    assert all(len(name) < 200 and name.endswith("__seed-0") for name in names)


STACKABLE = [
    ["seed=1"], ["algorithm.w_cql=2"], ["algorithm.discount=0.9"], ["algorithm.tau_target=0.1"],
    ["algorithm.bc_steps=5"], ["algorithm.critic_learning_rate=1e-4"], ["algorithm.actor_learning_rate=1e-5"],
    ["algorithm.alpha_cql.value=1"], ["algorithm.alpha_temp.initial_value=2"],
    ["algorithm.alpha_temp.target_entropy=-1"], ["algorithm.alpha_temp.temp_learning_rate=1e-4"], ["logger.group=x"],
    ["logger=local"], ["sweep_name=x"], ["retry_failed=true"], ["cuda_graph=false"],
    ["eval_worker=on"],
]  # fmt: skip
NOT_STACKABLE = [
    ["network.width=32"], ["batch_size=64"], ["n_steps=100000"], ["n_steps_per_epoch=100"], ["algorithm.backup=soft"],
    ["algorithm/alpha_cql=learned"], ["algorithm/alpha_temp=fixed"], ["algorithm/penalty=cql_rho"],
    ["algorithm.penalty.gradient=sampled", "algorithm.penalty.num_gradient_actions=1"], ["device=cuda", "tf32=true"],
    ["fast=false"],
    ["algorithm.penalty.temperature=2"], ["algorithm.num_sampled_actions=4"], ["dataset=embedded_hopper_medium"],
    ["dataset.normalise_observations=true"], ["env.n_eval_episodes=3"], ["device=cpu"], ["n_threads=1"],
    ["algorithm.target_update_period=2"], ["n_epochs_per_eval=2"],
]  # fmt: skip


@pytest.mark.parametrize("overrides", STACKABLE)
def test_runs_that_differ_in_a_number_of_theirs_may_be_stacked(overrides):
    assert config.stack_key(load(*overrides)) == config.stack_key(load())


@pytest.mark.parametrize("overrides", NOT_STACKABLE)
def test_runs_that_differ_in_what_a_stack_shares_may_not(overrides):
    assert config.stack_key(load(*overrides)) != config.stack_key(load())


def test_a_learned_multiplier_may_differ_in_its_start_its_threshold_and_its_rate():
    learned = "algorithm/alpha_cql=learned"
    numbers = (("initial_value", 2), ("tau_cql", -1), ("alpha_learning_rate", 1e-3))
    keys = {config.stack_key(load(learned, f"algorithm.alpha_cql.{key}={value}")) for key, value in numbers}
    assert keys == {config.stack_key(load(learned))}


def test_what_does_not_make_another_run_is_no_difference():
    one, other = (
        config.to_dict(load()),
        config.to_dict(load("logger=local", "n_threads=2", "retry_failed=true", "eval_worker=on")),
    )
    assert config.differing_keys(one, other)
    assert config.differences(one, other) == []
    assert config.differences(one, config.to_dict(load("seed=1"))) == ["seed: 0 -> 1"]


OLD_REFERENCE = {"name": "D4RL", "min_score": -280.178953, "max_score": 12135.0}


@pytest.mark.parametrize(
    ("env_id", "old", "new", "is_same"),
    [
        ("HalfCheetah-v5", OLD_REFERENCE, "auto", True),
        ("HalfCheetah-v5", OLD_REFERENCE, [-280.178953, 12135.0], True),
        ("HalfCheetah-v5", {**OLD_REFERENCE, "max_score": 12000.0}, "auto", False),
        ("HalfCheetah-v5", {**OLD_REFERENCE, "max_score": 12000.0}, [-280.178953, 12000.0], True),
        ("HalfCheetah-v5", None, "auto", False),
        ("InvertedPendulum-v5", None, "auto", True),
        # What `env.id=Pusher-v5` alone once led to.
        ("Pusher-v5", OLD_REFERENCE, "auto", False),
    ],
)
def test_runs_are_the_same_if_their_reference_scores_are_whatever_the_form(env_id, old, new, is_same):
    plain = config.to_dict(load(f"env.id={env_id}"))
    one, other = ({**plain, "env": {**plain["env"], "reference": reference}} for reference in (old, new))
    lines = config.differences(one, other)
    assert [line.partition(":")[0] for line in lines] == ([] if is_same else ["env.reference"])
    keys = {config.run_key(config.from_dict(each)) for each in (one, other)}
    assert len(keys) == (1 if is_same else 2)
    assert config.from_dict(config.to_dict(config.from_dict(one))) == config.from_dict(one)


def test_an_environment_without_a_file_is_chosen_by_its_id():
    env = load("env.id=my_package:MyEnv-v0").env
    assert (env.id, env.reference) == ("my_package:MyEnv-v0", "auto")
    assert load("env.id=Pusher-v5", "env.reference=[-150,-20]").env.reference == [-150.0, -20.0]
    assert "env.id=Xyz-v9" in message("env=Xyz-v9")
    assert "did you mean env=Hopper-v5?" in message("env=Hoper-v5")
    assert "did you mean env.reference?" in message("env.reference.min_score=3")


def test_a_sweeps_name_is_that_of_a_folder():
    with pytest.raises(ConfigError, match=r"sweep_name=a/b.*sweep_name=a-b"):
        load("sweep_name=a/b")


def test_configs_from_before_a_key_with_a_default_are_read():
    plain = config.to_dict(load())
    del plain["sweep_name"], plain["retry_failed"], plain["cuda_graph"], plain["tf32"], plain["eval_worker"]
    del plain["fast"]
    del plain["algorithm"]["penalty"]["gradient"], plain["algorithm"]["penalty"]["num_gradient_actions"]
    assert config.from_dict(plain) == load()
    # So a run from before them is the same run.
    assert config.differences(plain, config.to_dict(load())) == []
    assert config.differences(plain, config.to_dict(load("seed=1"))) == ["seed: 0 -> 1"]
    assert config.differences({"seed": 0}, {"seed": 1, "n_steps": 2}) == ["seed: 0 -> 1", "n_steps: (absent) -> 2"]


def test_a_fixed_alpha_cql_is_bounded_as_a_learned_one_is():
    from cql.algorithm import losses

    assert schema.ALPHA_CQL_MAX == losses.ALPHA_CQL_MAX


# --- under W&B's agent ---


AGENT = {"WANDB_SWEEP_ID": "swp12345", "WANDB_RUN_ID": "agentrun1"}


def test_an_agents_way_of_writing_overrides_is_read(start, tmp_path):
    result = start("--seed=3", "--algorithm.alpha_cql.value=7", env={**os.environ, **AGENT})
    assert result.returncode == 0, result.stderr
    (folder,) = folders(tmp_path)
    assert folder.name.endswith("_seed3")


def test_a_multirun_is_refused_under_an_agent(start, tmp_path):
    result = start("-m", "seed=0,1", env={**os.environ, **AGENT})
    assert result.returncode == 2
    assert result.stderr.startswith("Config error: a multirun has no place under `wandb agent`")
    assert folders(tmp_path) == []


def test_wandbs_variables_count_unless_a_key_is_given(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert (load("seed=11").logger.project, load("seed=11").logger.entity) == ("theirs", "team")
    assert load("seed=11", "logger.project=mine").logger.project == "mine"


def test_the_sweep_for_wandb_is_a_command_that_trains():
    plan = yaml.safe_load((config.CONFIG_DIR.parent / "scripts" / "wandb_sweep.yaml").read_text())
    assert plan["command"][2:4] == ["${program}", "+experiment=quickstart"]
    values = [f"{key}={each.get('values', [each.get('min')])[0]}" for key, each in plan["parameters"].items()]
    trained = config.checked(config.compose([plan["command"][3], *values]))
    assert (trained.algorithm.alpha_cql.value, trained.seed) == (0.5, 0)


# --- environments with arguments ---


def test_arguments_of_the_environment_are_keys_and_make_another_run():
    plain, other = load(), load("env.kwargs={healthy_reward:2.0}", "env.max_episode_steps=500")
    assert (other.env.kwargs, other.env.max_episode_steps) == ({"healthy_reward": 2.0}, 500)
    assert config.differences(config.to_dict(plain), config.to_dict(other)) == [
        "env.reference: [-280.178953, 12135.0] -> null",  # known scores are of no other environment
        "env.kwargs: null -> (absent)",
        "env.max_episode_steps: null -> 500",
        "env.kwargs.healthy_reward: (absent) -> 2.0",
    ]
    assert load("env.kwargs={}").env.kwargs is None


@pytest.mark.parametrize("value", ["3", "text", "[1,2]"])
def test_arguments_that_are_none_are_refused(value):
    assert "env.kwargs=" in message(f"env.kwargs={value}")
    assert "it must be the environment's arguments, {name:value,...}, or null" in message(f"env.kwargs={value}")


def test_a_config_is_its_owners_and_equal_values_of_other_types_are_others():
    plain = config.to_dict(load("dataset=embedded_halfcheetah_medium"))
    first = config.from_dict(plain)
    first.seed = 99
    first.algorithm.discount = 0.5
    assert config.from_dict(plain).seed == 0
    assert config.from_dict(plain).algorithm.discount == 0.99
    assert config.from_dict({**plain, "env": {**plain["env"], "kwargs": {"a": 1}}}).env.kwargs == {"a": 1}
    assert type(config.from_dict({**plain, "env": {**plain["env"], "kwargs": {"a": True}}}).env.kwargs["a"]) is bool
    with pytest.raises(config.ConfigError, match="seed"):
        config.from_dict({**plain, "seed": -1})


@pytest.mark.parametrize("text", ["dataset=[minari,d4rl]", "env=[Hopper-v5]", "+experiment=[smoke,maze]"])
def test_several_options_of_a_group_are_refused(text):
    """Hydra would take the last without a word."""
    with pytest.raises(config.ConfigError, match=re.escape(f"{text}: of several options of ")) as refused:
        config.arranged([text, "seed=1"])
    assert ("dataset=mixture" in str(refused.value)) == text.startswith("dataset")
    assert config.arranged(["dataset.mixture=[{kind:d4rl}]", "algorithm.x=[1]"])
