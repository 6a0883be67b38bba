"""The sweeps of `configs/experiment/`: their points, what these differ in, and how they stack."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from composed import held_by, hydra_part, load
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny import OVERRIDES, write_dataset

from cql import config
from cql.training import build

ROOT = Path(__file__).resolve().parents[2]
SEEDS = ["0", "1", "2"]
# What one seed of each preset varies, each point as it differs from the base.
POINTS = {
    "alpha_cql_sweep": [{"algorithm.alpha_cql.value": value} for value in (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)],
    "tau_cql_sweep": [{"algorithm.alpha_cql.tau_cql": value} for value in (-5.0, -2.0, -1.0, 0.0, 2.0, 5.0, 10.0)],
    "alpha_tau_sweep": [
        {"algorithm.alpha_cql.initial_value": start, "algorithm.alpha_cql.tau_cql": tau}
        for start in (1.0, 5.0, 25.0)
        for tau in (-5.0, -2.0, 0.0, 5.0)
    ],
}
BASES = {
    "alpha_cql_sweep": ["+experiment=quickstart"],
    "tau_cql_sweep": ["+experiment=quickstart", "algorithm/alpha_cql=learned"],
    "alpha_tau_sweep": ["+experiment=quickstart", "algorithm/alpha_cql=learned"],
    "ablation": ["+experiment=quickstart"],
}
# Where an arm chooses another kind, the kind stands for the values that come with it.
ARMS = {
    "base": {},
    "exact_gradient": {"algorithm.penalty.gradient": "exact", "algorithm.penalty.num_gradient_actions": None},
    "cql_rho": {"algorithm.penalty.kind": "cql_rho"},
    "blueprint_penalty": {"algorithm.penalty.kind": "blueprint"},
    "soft_backup": {"algorithm.backup": "soft"},
    "max_backup": {"algorithm.backup": "max"},
    "fixed_alpha_temp": {"algorithm.alpha_temp.kind": "fixed"},
    "learned_alpha_cql": {"algorithm.alpha_cql.kind": "learned"},
    "fixed_alpha_temp_learned_alpha_cql": {
        "algorithm.alpha_temp.kind": "fixed",
        "algorithm.alpha_cql.kind": "learned",
    },
    "raw_observations": {"dataset.normalise_observations": False},
    "depth_3": {"network.depth": 3},
    "bc_warmup": {"algorithm.bc_steps": 1000},
    "cal_ql": {"algorithm.penalty.kind": "cal_ql"},
    "ensemble_10_of_2": {"algorithm.n_critics": 10, "algorithm.n_target_critics": 2},
    "critic_depth_4": {"network.critic.depth": 4},
    "critic_layer_norm": {"network.critic.layer_norm": True},
    "grad_clip": {"algorithm.critic_max_grad_norm": 1.0, "algorithm.actor_max_grad_norm": 1.0},
}

# Of tables: other methods rather than changes to the base.
TABLE_ARMS = {
    "bc": {
        "algorithm.bc_steps": 16000,
        "algorithm.num_sampled_actions": 1,
        "algorithm.alpha_temp.kind": "fixed",
        "algorithm.alpha_cql.value": 0.0,
    },
    "sac": {"algorithm.num_sampled_actions": 1, "algorithm.alpha_cql.value": 0.0},
}


def jobs(name, *arguments):
    """The overrides of each job of `train.py +experiment=NAME ARGUMENT ...`, as Hydra's own sweeper splits them."""
    parsed = OverridesParser.create().parse_overrides([*held_by(name), f"+experiment={name}", *arguments])
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    return batch


def flat(values, prefix=""):
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def differences(base, point):
    """What a point has and its base has not; of a node of another kind, the kind alone."""
    old, new = flat(config.to_dict(base)), flat(config.to_dict(point))
    lines = config.differing_keys(config.to_dict(base), config.to_dict(point))
    keys = [line.partition(":")[0] for line in lines]
    nodes = tuple(f"{key.removesuffix('.kind')}." for key in keys if key.endswith(".kind"))
    kept = [key for key in keys if key.endswith(".kind") or not key.startswith(nodes)]
    assert all(key in old and key in new for key in kept)
    return {key: new[key] for key in kept}


# --- what each preset is ---


@pytest.mark.parametrize("name", BASES)
def test_a_preset_is_a_named_multirun_without_more_words(name):
    assert str(hydra_part(f"+experiment={name}").mode) == "RunMode.MULTIRUN"
    assert hydra_part(f"+experiment={name}").sweeper.params["seed"] == ",".join(SEEDS)
    assert load(f"+experiment={name}").sweep_name == name


@pytest.mark.parametrize("name", POINTS)
def test_the_points_of_a_grid_differ_in_their_values_alone_and_are_one_stack(name):
    assert len(jobs(name)) == len(POINTS[name]) * len(SEEDS)
    base = load(*BASES[name])
    points = [load(*job) for job in jobs(name, "seed=1")]
    found = [differences(base, point) for point in points]
    # A value that is the base's own is no difference.
    own = flat(config.to_dict(base))
    shared = {"seed": 1, "sweep_name": name}
    expected = [shared | {key: value for key, value in point.items() if own[key] != value} for point in POINTS[name]]
    assert found == expected
    assert len({config.stack_key(point) for point in points}) == 1


def test_each_arm_is_one_change_to_the_same_base():
    assert len(jobs("ablation")) == len(ARMS) * len(SEEDS)
    base, points = load(*BASES["ablation"]), jobs("ablation", "seed=0")
    assert [job[0] for job in points] == [f"arm={arm}" for arm in ARMS]
    found = {arm: differences(base, load(*job)) for arm, job in zip(ARMS, points, strict=True)}
    assert found == {arm: {"sweep_name": "ablation"} | change for arm, change in ARMS.items()}
    # Of one action the largest is that one: the arm would be the base under another name.
    assert base.algorithm.num_sampled_actions > 1


def test_the_arms_of_tables_are_other_methods():
    base = load(*BASES["ablation"])
    for arm, changes in TABLE_ARMS.items():
        found = load("+experiment=quickstart", f"+arm={arm}")
        assert differences(base, found) == changes
    assert load("+experiment=quickstart", "+arm=bc").algorithm.alpha_temp.value == 0.0
    assert load("+experiment=quickstart", "+arm=bc", "n_steps=2000").algorithm.bc_steps == 2000


def test_the_four_coefficient_arms_have_the_values_of_their_options():
    fixed_and_learned = load(*BASES["ablation"], "algorithm/alpha_temp=fixed", "algorithm/alpha_cql=learned")
    temp, cql, both = (
        load("+experiment=ablation", f"arm={arm}").algorithm
        for arm in ("fixed_alpha_temp", "learned_alpha_cql", "fixed_alpha_temp_learned_alpha_cql")
    )
    assert temp.alpha_temp == both.alpha_temp == fixed_and_learned.algorithm.alpha_temp
    assert cql.alpha_cql == both.alpha_cql == fixed_and_learned.algorithm.alpha_cql


def test_arms_stack_where_they_differ_in_numbers_alone():
    keys = {arm: config.stack_key(load("arm=" + arm, "seed=0", "+experiment=ablation")) for arm in ARMS}
    assert keys.pop("bc_warmup") == keys.pop("grad_clip") == keys["base"]
    assert len(set(keys.values())) == len(keys) == 15


@pytest.mark.parametrize("name", BASES)
def test_each_point_has_a_folder_of_its_own(name):
    swept = [[text for text in job if not text.startswith("+")] for job in jobs(name)]
    names = [config.point_name(job, int(job[-1].partition("=")[2])) for job in swept]
    assert len(set(names)) == len(names)
    first = {
        "alpha_cql_sweep": "alpha_cql-0__seed-0",
        "tau_cql_sweep": "tau_cql--5__seed-0",
        "alpha_tau_sweep": "alpha_cql-1__tau_cql--5__seed-0",
        "ablation": "arm-base__seed-0",
    }
    assert names[0] == first[name]


def test_published_settings_differ_in_what_their_sources_say():
    ours = {"n_epochs_per_checkpoint": 5, "n_evals_per_video": 100}  # an epoch is a fifth as long
    corl, d3rlpy = (load(f"+experiment={name}", "dataset.path=a.hdf5") for name in ("corl_v2", "d3rlpy_v0"))
    assert differences(corl, d3rlpy) == ours | {
        "n_steps": 500_000,
        "n_steps_per_epoch": 1000,
        "algorithm.actor_learning_rate": 1e-4,
        "algorithm.alpha_temp.temp_learning_rate": 1e-4,
        "algorithm.alpha_cql.value": 5.0,
        "dataset.normalise_observations": False,
        # d3rlpy leaves the initialisation to torch.
        "algorithm.log_std_multiplier": None,
        "algorithm.log_std_offset": None,
        "network.last_layer_scale": None,
        "network.actor.initialisation": None,
        "network.critic.initialisation": None,
    }


# --- overrides on top ---


def test_overrides_narrow_and_widen_a_grid():
    assert len(jobs("alpha_cql_sweep", "seed=0")) == 7
    assert len(jobs("alpha_cql_sweep", "seed=range(5)")) == 35
    narrow = jobs("alpha_cql_sweep", "algorithm.alpha_cql.value=0,5", "seed=0")
    assert [load(*job).algorithm.alpha_cql.value for job in narrow] == [0.0, 5.0]
    wider = jobs("tau_cql_sweep", "algorithm.alpha_cql.tau_cql=-7,null", "network=mlp_256x2,mlp_256x3", "seed=0")
    found = [(c.algorithm.alpha_cql.tau_cql, c.network.depth) for c in (load(*job) for job in wider)]
    assert found == [(-7.0, 2), (-7.0, 3), (None, 2), (None, 3)]
    assert [job[0] for job in jobs("ablation", "arm=base,cql_rho", "seed=0")] == ["arm=base", "arm=cql_rho"]


@pytest.mark.parametrize(
    ("name", "logger"), list(zip(BASES, itertools.cycle(config.options_of("logger")), strict=False))
)
def test_length_dataset_and_logger_are_free(name, logger):
    job = jobs(name, "n_steps=2000", "dataset=embedded_hopper_medium", f"logger={logger}", "hydra/launcher=basic")[0]
    c = load(*job)
    assert (c.n_steps, c.dataset.name, c.env.id) == (2000, "hopper_medium", "Hopper-v5")
    assert c.logger.kind == logger.partition("_")[0]
    assert c.dataset.normalise_observations


def test_the_shortest_run_that_a_preset_allows_is_short_enough_for_every_arm():
    assert load("+experiment=ablation", "arm=bc_warmup", "n_steps=1000").algorithm.bc_steps == 1000


# --- arms ---


def test_an_arm_of_ones_own_has_the_last_word_over_the_experiment(tmp_path):
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /dataset: embedded_hopper_medium\n"  # quickstart chooses another
        "  - override /algorithm/penalty: cql_rho\n"
        "algorithm:\n"
        "  num_sampled_actions: 10\n"  # the quickstart has 4
    )
    (job,) = jobs("ablation", "arm=mine", "seed=0", f"hydra.searchpath=[file://{tmp_path}]")
    c = load(*job)
    assert (c.dataset.name, c.env.id) == ("hopper_medium", "Hopper-v5")
    assert (c.algorithm.penalty.kind, c.algorithm.num_sampled_actions) == ("cql_rho", 10)
    # And the command line over the arm.
    assert load(*job, "algorithm/penalty=blueprint").algorithm.penalty.kind == "blueprint"


def test_an_arm_can_be_tried_on_any_experiment():
    base = load("+experiment=blueprint")
    assert differences(base, load("+experiment=blueprint", "+arm=depth_3")) == {"network.depth": 3}


def test_each_arm_is_a_delta_over_the_whole_config():
    for path in (config.CONFIG_DIR / "arm").glob("*.yaml"):
        assert path.read_text().startswith("# @package _global_\n"), path


# --- the whole command ---


@pytest.mark.slow
@pytest.mark.ci
def test_one_command_runs_the_sweep(tmp_path):
    dataset = write_dataset(tmp_path / "pendulum.hdf5")
    tiny = ["dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, "seed=0"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts/train.py"), "+experiment=ablation", "arm=base,soft_backup", *tiny],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "outputs/sweeps/ablation"
    finished = {path.parent.name for path in folder.glob("*/summary.json")}
    assert finished == {"arm-base__seed-0", "arm-soft_backup__seed-0"}


def test_an_arm_on_another_experiment_counts_wherever_it_stands():
    behind = ["+experiment=quickstart", "+arm=exact_gradient", "seed=1"]
    assert config.arranged(["+arm=exact_gradient", "+experiment=quickstart", "seed=1"]) == behind
    assert config.arranged(behind) == behind
    assert config.arranged(["+arm=depth_3", "seed=1"]) == ["+arm=depth_3", "seed=1"]
    assert load(*behind).algorithm.penalty.gradient == "exact"


# --- offline to online ---


FINETUNE_ARMS = {
    "base": {},
    "cql_h": {"algorithm.penalty.kind": "cql_h"},
    "cql_h_then_sac": {"algorithm.penalty.kind": "cql_h", "online.alpha_cql": 0.0},
    "sac_online": {
        "algorithm.penalty.kind": "cql_h",
        "algorithm.alpha_cql.value": 0.0,
        "algorithm.num_sampled_actions": 1,
        "n_steps": 0,
        "online.mixing_ratio": 0.0,
    },
    "sac_prior_data": {
        "algorithm.penalty.kind": "cql_h",
        "algorithm.alpha_cql.value": 0.0,
        "algorithm.num_sampled_actions": 1,
        "n_steps": 0,
    },
}


def test_the_arms_of_finetuning():
    base = load("+experiment=finetune")
    assert (base.n_steps, base.online.n_updates, base.algorithm.penalty.kind) == (8000, 12000, "cal_ql")
    assert len(jobs("finetune_arms")) == len(FINETUNE_ARMS) * 2 * len(SEEDS)
    found = {arm: differences(base, load("+experiment=finetune", f"+arm={arm}")) for arm in FINETUNE_ARMS}
    assert found == FINETUNE_ARMS


def test_published_settings_of_finetuning():
    antmaze, adroit, corl = (
        load(f"+experiment={name}", "dataset.path=a.hdf5")
        for name in ("cal_ql_antmaze", "cal_ql_adroit", "corl_finetune")
    )
    for each in (antmaze, adroit, corl):
        assert (each.algorithm.penalty.kind, each.algorithm.backup.value) == ("cal_ql", "max")
        assert (each.algorithm.log_std_offset, each.online.mixing_ratio, each.online.update_to_data) == (-1.0, 0.5, 1)
    assert antmaze.n_all_steps == corl.n_all_steps == 2_000_000
    assert adroit.n_all_steps == 220_000
    assert [each.algorithm.alpha_cql.kind for each in (antmaze, adroit, corl)] == ["learned", "fixed", "learned"]
    shapes = [build.mlp(each.network, part(each)) for each in (antmaze, adroit, corl) for part in (actor_of, critic_of)]
    assert [(shape.width, shape.depth) for shape in shapes] == [
        (256, 2),
        (256, 4),
        (512, 2),
        (512, 3),
        (256, 3),
        (256, 5),
    ]
    assert {shape.initialisation for shape in shapes} == {"orthogonal"}
    assert differences(antmaze, corl) == {
        "algorithm.penalty.gap_clip_min": -200.0,
        "dataset.action_clip": None,
        "dataset.returns_to_go": "bootstrap_last_failure",
        "env.n_eval_episodes": 100,
        "network.actor.depth": 3,
        "network.critic.depth": 5,
        "network.last_layer_scale": 2**0.5,
        "online.buffer_size": 10_000_000,
        "online.calibrated": False,
        "online.n_steps_per_epoch": 50_000,
        "online.w_cql": 5.0,
    }


def test_published_settings_of_antmaze_adroit_and_kitchen():
    antmaze, adroit, kitchen, corl, finetuned = (
        load(f"+experiment={name}", "dataset.path=a.hdf5")
        for name in ("antmaze", "adroit", "kitchen", "corl_v2", "corl_finetune")
    )
    assert (antmaze.algorithm.w_cql, antmaze.algorithm.alpha_cql.tau_cql) == (5.0, 0.8)
    # CORL's fine-tuning scripts have the same offline part, but for the calibration and how layers begin.
    same = {line.partition(":")[0] for line in config.differing_keys(*map(config.to_dict, (antmaze, finetuned)))}
    assert {key for key in same if not key.startswith("online.")} == {
        "algorithm.penalty.kind",
        "dataset.returns_to_go",
        "env.reference",
        "network.actor.initialisation",
        "network.actor.width",
        "network.critic.initialisation",
        "network.critic.width",
        "network.initialisation",
        "network.last_layer_scale",
    }
    assert differences(corl, adroit) == {
        "algorithm.actor_learning_rate": 1e-4,
        "algorithm.alpha_temp.temp_learning_rate": 1e-4,
        "algorithm.alpha_cql.value": 1.0,
    }
    penalty = kitchen.algorithm.penalty
    assert (penalty.kind, penalty.counts_data_action, penalty.importance_weighted) == ("cql_rho", True, False)
    assert (kitchen.n_steps, kitchen.dataset.reward_bias, kitchen.algorithm.alpha_cql.value) == (250_000, -4.0, 5.0)
    assert [each.algorithm.backup.value for each in (antmaze, adroit, kitchen)] == ["max", "hard", "max"]
    shapes = [build.mlp(each.network, part(each)) for each in (antmaze, kitchen) for part in (actor_of, critic_of)]
    assert [(shape.width, shape.depth) for shape in shapes] == [(256, 3), (256, 5), (512, 3), (512, 3)]
    assert [shape.initialisation for shape in shapes] == ["torch", *["orthogonal"] * 3]


def test_antmaze_on_minaris_data_ends_at_the_goal():
    d4rl = load("+experiment=antmaze", "dataset.path=a.hdf5", "env.id=my_package:antmaze-umaze-v2")
    minari = load("+experiment=antmaze_minari", "dataset.id=D4RL/antmaze/umaze-v1")
    assert minari.dataset.end_at_success
    assert not d4rl.dataset.end_at_success
    # On a scale from 0 to 1 both, the one because its preset says so, the other because it ends at the goal.
    assert build.scores_of(d4rl) == build.scores_of(minari) == (0.0, 1.0)
    goes_on = load("+experiment=antmaze_minari", "dataset.id=a", "env.kwargs={continuing_task:true}")
    assert build.scores_of(goes_on) is None
    changed = {line.partition(":")[0] for line in config.differing_keys(*map(config.to_dict, (d4rl, minari)))}
    assert {key for key in changed if not key.startswith(("dataset.", "env."))} == set()


def actor_of(found):
    return found.network.actor


def critic_of(found):
    return found.network.critic


def test_corl_begins_as_corl_does():
    found = load("+experiment=corl_v2", "dataset.path=a.hdf5")
    actor, critic = (build.mlp(found.network, part(found)) for part in (actor_of, critic_of))
    assert (actor.initialisation, critic.initialisation) == ("torch", "orthogonal")
    assert actor.last_layer_scale == critic.last_layer_scale == 0.01
    assert (found.algorithm.log_std_multiplier, found.algorithm.log_std_offset) == (1.0, -1.0)


def test_a_run_that_begins_with_another_has_its_overrides(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(
        "- arm=grad_clip\n- +experiment=ablation\n- seed=3\n- n_steps=9000\n- sweep_name=first\n- algorithm.w_cql=2\n"
    )
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "step_0009000.pt"
    checkpoint.touch()
    for given in (tmp_path, checkpoint):
        own = [f"init_from={given}", "online=finetune", "seed=4"]
        found = config.arranged(own)
        inherited = ["arm=grad_clip", "+experiment=ablation", "n_steps=9000", "algorithm.w_cql=2"]
        assert found == [*inherited, "hydra.mode=RUN", *own]
        options = ["--cfg", "job"]
        assert config.arranged([*options, *own]) == [*options, *inherited, "hydra.mode=RUN", *own]
        assert config.arranged(["-m", *own]) == ["-m", *inherited, *own]
    composed = load(*found)
    assert (composed.seed, composed.n_steps, composed.algorithm.critic_max_grad_norm) == (4, 9000, 1.0)
    assert (composed.algorithm.w_cql, composed.sweep_name) == (2.0, "ablation")
    with pytest.raises(config.ConfigError, match=r"leave out online\.mixing_ratio=0"):
        config.arranged([f"resume={tmp_path}", "online.mixing_ratio=0"])
    nowhere = [f"init_from={tmp_path / 'nowhere'}", "seed=1"]
    assert config.arranged(nowhere) == nowhere
