"""Runs that were made to fail in each way, and runs that did not, before the doctor."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from composed import load
from entry_points import load_script
from made_runs import make_run
from tiny import tiny_config

from cql.results import doctor
from cql.results.doctor import CHECKS, Finding, diagnose
from cql.results.groups import read_results
from cql.results.runs import read_run
from cql.training import experiment
from cql.training.run_folder import claim_folder

ROOT = Path(__file__).resolve().parents[2]
N = 8  # rows

YARDSTICKS = {
    "reward_min": -1.0, "reward_max": 6.0, "return_min": -20.0, "return_mean": 200.0, "return_max": 480.0,
    "reward_scale": 1.0, "reward_bias": 0.0, "episodes": 100.0, "time_limit": 1000.0, "action_size": 6.0,
    "at_bounds": 0.1, "action_spread": 1.8, "action_noise": 0.8,
}  # fmt: skip
LEARNED = {"kind": "learned", "initial_value": 5.0, "tau_cql": -2.0, "alpha_learning_rate": 3e-4}
KINDS = {
    "learned": ["algorithm/alpha_cql=learned", "algorithm.alpha_cql.tau_cql=-2"],
    "fixed": ["algorithm/alpha_temp=fixed"],
}


def ramp(first: float, last: float) -> list[float]:
    """A curve that is a straight line."""
    return [first + (last - first) * index / (N - 1) for index in range(N)]


METRICS = {
    "critic_td": ramp(9.0, 5.0), "q_data": ramp(5.0, 200.0), "q_policy": ramp(5.0, 205.0), "cql_gap": ramp(4.0, 1.0),
    "cql_residual": ramp(4.0, 1.0), "alpha_cql": ramp(5.0, 5.0), "alpha_temp": ramp(1.0, 0.3),
    "entropy": ramp(4.0, -6.0), "action_distance": ramp(1.5, 1.1), "at_bounds": ramp(0.0, 0.12),
    "initial_value": ramp(2.0, 150.0),
}  # fmt: skip


def made(
    folder: Path, *, yardsticks: dict[str, float] | None = None, changes: dict[str, Any] | None = None,
    returns: list[float] | None = None, **metrics: list[float] | None,
) -> dict[str, Finding]:  # fmt: skip
    """The findings on a good run with some metrics, yardsticks, keys or returns replaced; None takes a metric out."""
    given = {name: values for name, values in {**METRICS, **metrics}.items() if values is not None}
    changes = {"algorithm.discount": 0.99, **(changes or {})}
    make_run(folder, returns or ramp(500.0, 3000.0), changes=changes, metrics=given, spread=150.0, n_episodes=10)
    known = {**YARDSTICKS, **(yardsticks or {})}
    (folder / "provenance.json").write_text(json.dumps({"yardsticks": known}))
    return {each.name: each for each in diagnose(read_run(folder))}


def learned(residuals: list[float], alphas: list[float]) -> dict[str, Any]:
    return {"changes": {"algorithm.alpha_cql": LEARNED}, "cql_residual": residuals, "alpha_cql": alphas,
            "cql_gap": [each - 2.0 for each in residuals]}  # fmt: skip


FAULTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "exploded": ("values", "wrong", "above what any return", {"q_policy": ramp(5.0, 5e5)}),
    "above the data's returns": ("values", "wrong", "above what any return", {"q_policy": ramp(5.0, 560.0)}),
    "above, and nobody knows what it earns": (
        "values", "watch", "above what any return",
        {"q_policy": ramp(5.0, 560.0), "changes": {"env.id": "none"}, "returns": [0.0] * N},
    ),
    "too low": ("values", "watch", "below every return", {"q_data": ramp(0.0, -90.0), "q_policy": ramp(0.0, -80.0)}),
    "valued above the data": ("values", "watch", "far above the data's", {"q_policy": ramp(5.0, 320.0)}),
    "promise": ("promise", "watch", "less than its critics promise", {"initial_value": ramp(2.0, 360.0)}),
    "false promise": ("promise", "wrong", "less than its critics promise", {"initial_value": ramp(2.0, 420.0)}),
    "sac": ("multiplier", "watch", "not conservative", {"changes": {"algorithm.alpha_cql.value": 0.0}}),
    "without a weight": ("multiplier", "watch", "not conservative", {"changes": {"algorithm.w_cql": 0.0}}),
    "runs off": ("multiplier", "wrong", "runs off", learned(ramp(6.0, 5.8), ramp(5.0, 40.0))),
    "ran off": ("multiplier", "wrong", "runs off", learned(ramp(6.0, 0.5), ramp(5.0, 900.0))),
    "below from the start": ("multiplier", "wrong", "from the start", learned(ramp(-3.0, -2.0), ramp(5.0, 1.0))),
    "collapsed": ("multiplier", "wrong", "collapsed", learned([0.5] * 4 + [-0.6] * 4, ramp(5.0, 0.01))),
    "on its way": ("multiplier", "watch", "not at tau_cql yet", learned(ramp(6.0, 2.0), ramp(5.0, 20.0))),
    "entropy collapsed": ("entropy", "wrong", "collapsed", {"entropy": ramp(4.0, -30.0)}),
    "entropy below": ("entropy", "watch", "far below its target", {"entropy": [-10.0] * N}),
    "entropy falls": (
        "entropy", "watch", "falls without end",
        {"entropy": ramp(4.0, -16.0), "changes": {"algorithm.alpha_temp": {"kind": "fixed", "value": 0.01}}},
    ),
    "bounds": ("bounds", "watch", "acts at the bounds", {"at_bounds": ramp(0.0, 0.6)}),
    "clone": ("cloning", "watch", "The policy may clone the data", {"action_distance": ramp(1.5, 0.6)}),
    "large": ("scale", "wrong", "very large", {"yardsticks": {"return_max": 4.8e5}}),
    "rather large": ("scale", "watch", "very large", {"yardsticks": {"return_max": 2e4}}),
    "small": (
        "scale", "wrong", "very small", {"yardsticks": {"return_min": 0.0, "return_max": 0.05},
                                         "q_policy": [0.0] * N, "q_data": [0.0] * N, "initial_value": [0.0] * N},
    ),
    "noisy": ("noise", "watch", "noisy", {"returns": [-20.0, 10.0, 30.0]} | dict.fromkeys(METRICS)),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_no_other(fault: str, tmp_path: Path) -> None:
    name, severity, title, given = FAULTS[fault]
    findings = made(tmp_path / "run", **given)
    alarms = {each.name: each for each in findings.values() if each.severity != "normal"}
    assert list(alarms) == [name]
    found = alarms[name]
    assert (found.severity, title in found.title) == (severity, True)
    assert re.search(r"\d", found.numbers)
    assert found.meaning
    assert found.change
    # An override that the program takes, of a run that is composed alike.
    own = {key: value for key, value in given.get("changes", {}).items() if not key.startswith("env.")}
    base = [
        text
        for key, value in own.items()
        for text in (KINDS[value["kind"]] if isinstance(value, dict) else [f"{key}={value}"])
    ]
    assert all(load(*base, change) != load(*base) for change in found.change)


def test_of_a_good_run_all_is_normal_and_each_check_says_so(tmp_path: Path) -> None:
    findings = made(tmp_path / "run")
    assert {each.severity for each in findings.values()} == {"normal"}
    assert list(findings) == list(CHECKS)
    assert "q_policy 205, q_data 200; discounted returns in the data -20 to 480" in findings["values"].numbers
    assert findings["promise"].numbers.endswith("discounted return of an evaluation about 300; tolerance 50")


@pytest.mark.parametrize(
    ("given", "name", "title"),
    [
        (learned(ramp(6.0, 0.3), ramp(5.0, 30.0)), "multiplier", "holds the gap at tau_cql"),
        # With a better policy than any that made the data, as from random play.
        ({"q_policy": ramp(0.0, 520.0), "q_data": ramp(0.0, 500.0), "returns": ramp(0.0, 5100.0)}, "values", "within"),
        ({"q_policy": ramp(0.0, -30.0), "q_data": ramp(0.0, -45.0)}, "values", "within what the data allow"),
        ({"changes": {"algorithm.bc_steps": 4000, "algorithm.alpha_cql.value": 0.0}, "entropy": ramp(0.0, -40.0),
          "action_distance": ramp(1.0, 0.5)}, "cloning", "clones the data, as bc_steps says"),
        ({"action_distance": ramp(1.0, 0.5), "yardsticks": {"action_spread": 0.7}}, "cloning", "Cloning cannot be"),
        ({"at_bounds": ramp(0.0, 0.6), "yardsticks": {"at_bounds": 0.5}}, "bounds", "not at their bounds"),
        # An entropy bonus makes values larger than returns.
        ({"q_policy": ramp(0.0, 560.0), "q_data": ramp(0.0, 550.0), "changes": {"algorithm.backup": "soft"},
          "entropy": [2.0] * N}, "values", "within what the data allow"),
        # Rewards of -1 for each step; critics see them halved and shifted.
        ({"yardsticks": {"reward_min": 0.5, "reward_max": 0.5, "return_min": 0.5, "return_max": 50.0,
                         "reward_scale": 0.5, "reward_bias": 1.0},
          "changes": {"dataset.reward_scale": 0.5, "dataset.reward_bias": 1.0}, "returns": ramp(-1000.0, -990.0),
          "q_policy": ramp(0.0, 48.0), "q_data": ramp(0.0, 47.0), "initial_value": ramp(0.0, 49.0)},
         "promise", "earns at least what its critics promise"),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_fault_is_normal(given: dict[str, Any], name: str, title: str, tmp_path: Path) -> None:
    findings = made(tmp_path / "run", **given)
    assert {each.severity for each in findings.values()} == {"normal"}
    assert title in findings[name].title


def test_a_failure_is_told_by_its_reason(tmp_path: Path) -> None:
    for name, reason in (("nan", "critic_td is not finite at step 5; last metrics: none"), ("disk", "disk full")):
        make_run(tmp_path / name, [1.0], status="failed", failure=reason)
    nan, disk = (diagnose(read_run(tmp_path / name))[0] for name in ("nan", "disk"))
    assert (nan.severity, nan.title, nan.numbers) == (
        "wrong", "Training gave NaN or infinity", "critic_td is not finite at step 5",
    )  # fmt: skip
    assert "algorithm.critic_max_grad_norm=1" in nan.change
    assert (disk.severity, disk.title, disk.numbers, disk.change) == ("wrong", "The run failed", "disk full", ())


def test_a_folder_of_an_earlier_version_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    old = {"q_policy": [10.0, 402.0], "q_data": [10.0, 390.0]}
    make_run(tmp_path / "a", [100.0, 300.0], metrics=old)
    found = {each.name: each for each in diagnose(read_run(tmp_path / "a"))}
    assert doctor.unknown(found.values()) == ["values", "entropy", "bounds", "cloning"]
    assert found["promise"].severity == "normal"
    make_run(tmp_path / "b", [100.0, 250.0], metrics=old)
    found = {each.name: each for each in diagnose(read_run(tmp_path / "b"))}
    assert (found["promise"].severity, found["promise"].numbers) == (
        "wrong", "q_policy 402, 1.2 times the largest return of an evaluation 300",
    )  # fmt: skip
    # Without the yardsticks, shifted rewards and returns are in different units.
    make_run(tmp_path / "c", [100.0, 250.0], metrics=old, changes={"dataset.reward_bias": -1.0})
    assert "promise" in doctor.unknown(diagnose(read_run(tmp_path / "c")))
    odd = {"return_max": "x", "return_min": None, "reward_scale": float("1e300"), "action_size": True}
    (tmp_path / "c" / "provenance.json").write_text(json.dumps({"yardsticks": odd}))
    assert "values" in doctor.unknown(diagnose(read_run(tmp_path / "c")))


def test_noise_is_measured_against_what_runs_differ_by(tmp_path: Path) -> None:
    for seed, value in enumerate((1000.0, 1020.0, 990.0)):
        make_run(tmp_path / f"seed-{seed}", [value], changes={"seed": seed}, spread=150.0, n_episodes=10)
    peers = read_results([tmp_path]).runs
    assert {each.name: each for each in diagnose(peers[0])}["noise"].severity == "normal"
    found = {each.name: each for each in diagnose(peers[0], peers)}["noise"]
    assert (found.severity, found.title) == ("watch", "Evaluations are too noisy to compare these runs")
    # The standard error 31.9 has to be half of the runs' 15.3, with (2 * 31.9 / 15.3)^2 = 17.4 times the episodes.
    assert found.change == ("env.n_eval_episodes=180",)
    make_run(tmp_path / "one", [5.0], n_episodes=1)
    assert {each.name: each for each in diagnose(read_run(tmp_path / "one"))}["noise"].change == (
        "env.n_eval_episodes=100",
    )


def test_a_policy_that_earns_a_little_less_than_promised_is_within_the_tolerance(tmp_path: Path) -> None:
    promise = made(tmp_path / "run", initial_value=ramp(2.0, 340.0))["promise"]
    assert promise.severity == "normal"
    assert promise.title == "The policy earns at least what its critics promise, within the tolerance"
    assert promise.numbers == "value of initial states 340, discounted return of an evaluation about 300; tolerance 50"


def cloning(folder: Path, best: float, **options: Any) -> dict[float, Finding]:
    """The finding on runs that clone, by alpha_cql, where a run with the value `best` has the highest return."""
    for alpha in (1.25, 5.0, 20.0):
        changes = {"algorithm.alpha_cql.value": alpha, **options.get(f"only_{alpha:g}", {})}
        returns = ramp(500.0, 3500.0 if alpha == best else 3000.0)
        made(folder / f"alpha_cql-{alpha:g}", changes=changes, returns=returns, action_distance=ramp(1.5, 0.6))
    found = doctor.examined(read_results([folder]))
    return {
        run.config["algorithm.alpha_cql.value"]: one for _, run, own in found for one in own if one.name == "cloning"
    }


def test_cloning_is_no_reason_to_lower_alpha_cql_if_a_larger_one_returns_more(tmp_path: Path) -> None:
    found = cloning(tmp_path / "large", best=20.0)
    assert {each.change for each in found.values()} == {()}
    assert all("of the values compared, 20 has the highest mean return" in each.meaning for each in found.values())
    found = cloning(tmp_path / "middle", best=5.0)
    assert [found[alpha].change for alpha in (1.25, 5.0, 20.0)] == [(), (), ("algorithm.alpha_cql.value=5",)]
    # Arms that differ in more are no evidence, nor is a run that failed or goes on.
    wide = {f"only_{alpha:g}": {"network.width": 32 + int(alpha)} for alpha in (1.25, 5.0, 20.0)}
    assert all(each.change for each in cloning(tmp_path / "wide", best=20.0, **wide).values())
    cloning(tmp_path / "one", best=20.0)
    (tmp_path / "one" / "alpha_cql-20" / "summary.json").unlink()
    found = {
        run.config["algorithm.alpha_cql.value"]: own
        for _, run, own in doctor.examined(read_results([tmp_path / "one"]))
    }
    assert "1.25 has the highest" in next(each for each in found[1.25] if each.name == "cloning").meaning
    assert next(each for each in found[20.0] if each.name == "cloning").change == ("algorithm.alpha_cql.value=5",)


def test_overrides_stand_with_the_runs_that_they_are_for(tmp_path: Path, monkeypatch, capsys) -> None:
    changes = {"a": ("x=1",), "b": ("x=2",), "c": ("x=1",), "d": ("x=1",)}
    own = [(label, Finding("watch", "t", "1", change=change)) for label, change in changes.items()]
    parts = [(part.change, [label for label, _ in part.runs], part.n_more) for part in doctor.advice(own, 4)]
    assert parts == [(("x=1",), ["a", "c"], 1), (("x=2",), ["b"], 0)]
    assert [len(part.runs) for part in doctor.advice(own, 1)] == [1, 1]
    cloning(tmp_path / "s", best=1.25)
    for seed in (1, 2):
        changes = {"algorithm.alpha_cql.value": 20.0, "seed": seed}
        made(tmp_path / "s" / f"alpha_cql-20__seed-{seed}", changes=changes, action_distance=ramp(1.5, 0.6))
    assert call(monkeypatch, tmp_path / "s") == 0
    said = capsys.readouterr().out
    runs = re.findall(r"Try (\S+) for\n((?: +- .*\n(?: {8}(?!Try)\w.*\n)?)+)", said)
    assert [(change, re.findall(r"- (alpha_cql=\d+)", lines)) for change, lines in runs] == [
        ("algorithm.alpha_cql.value=1.25", ["alpha_cql=5"]), ("algorithm.alpha_cql.value=5", ["alpha_cql=20"] * 3),
    ]  # fmt: skip


def test_every_section_that_findings_refer_to_exists() -> None:
    page = (ROOT / doctor.PAGE).read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)$", page, flags=re.MULTILINE) == list(CHECKS)
    linked = re.findall(r"doctor\.md#([\w-]+)|\]\(#([\w-]+)\)", page + (ROOT / "docs/trouble/files.md").read_text())
    assert {a or b for a, b in linked} <= set(CHECKS)
    assert Finding("wrong", "", "", name="scale").page == "docs/trouble/doctor.md#scale"


# Runs that were trained -----------------------------------------------------------------------------------------------

_LEARNED = ("algorithm/alpha_cql=learned", "algorithm.alpha_cql.alpha_learning_rate=0.03")
# The largest of many values is the target, at once and in large steps.
_GREEDY = (
    "algorithm.alpha_cql.value=0", "algorithm.backup=max", "algorithm.num_sampled_actions=10", "algorithm.tau_target=1",
    "algorithm.critic_learning_rate=0.01", "algorithm.actor_learning_rate=0.01", "n_steps=200", "n_steps_per_epoch=50",
    "n_epochs_per_eval=4",
)  # fmt: skip
STACKS: dict[str, dict[str, tuple[str, ...]]] = {
    "good": {"good": ("env.n_eval_episodes=5",)},
    "sac": {"sac": _GREEDY},
    "learned": {
        "tau_low": (*_LEARNED, "algorithm.alpha_cql.tau_cql=-50"),
        "tau_high": (*_LEARNED, "algorithm.alpha_cql.tau_cql=50"),
    },
    "bc": {"bc": ("+arm=bc",)},
    "scaled": {"scaled": ("dataset.reward_scale=100000",)},
}


@pytest.fixture(scope="module")
def trained(dataset: Path, no_figures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder with one run of each kind."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.json").write_text("{}")
    for stack in STACKS.values():
        configs = [tiny_config(dataset, *overrides) for overrides in stack.values()]
        directories = [folder / f"arm-{name}__seed-0" for name in stack]
        for train_config, directory in zip(configs, directories, strict=True):
            claim_folder(train_config, directory)
        assert all(isinstance(each, float) for each in experiment.run_stack(configs, directories))
    return folder


def alarms(folder: Path, name: str) -> dict[str, str]:
    found = diagnose(read_run(folder / f"arm-{name}__seed-0"))
    return {each.title: each.severity for each in found if each.severity != "normal"}


def test_trained_runs_that_were_made_to_fail_are_found_out(trained: Path) -> None:
    assert alarms(trained, "good") == {}
    assert alarms(trained, "sac") == {
        "Q is above what any return in the data allows": "wrong",
        "The policy earns less than its critics promise": "wrong",
        "The critics are not conservative": "watch",
    }
    assert alarms(trained, "tau_low") == {"alpha_cql runs off": "wrong"}
    assert alarms(trained, "tau_high") == {"The gap is below tau_cql from the start": "wrong"}
    assert alarms(trained, "scaled") == {"Rewards are very large": "wrong"}
    clone = {each.name: each for each in diagnose(read_run(trained / "arm-bc__seed-0"))}
    assert clone["cloning"].title == "The policy clones the data, as bc_steps says"
    assert alarms(trained, "bc") == {}
    assert doctor.unknown(clone.values()) == []


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["doctor.py", *map(str, arguments)])
    return load_script("doctor").main()


def test_the_script_groups_runs_by_what_they_share(trained, monkeypatch, capsys) -> None:
    assert call(monkeypatch, trained) == 0
    said = capsys.readouterr().out
    assert "wrong   alpha_cql runs off (1 of 6 runs)\n" in said
    assert "- arm=tau_low seed=0: alpha_cql went from 5 to" in said
    assert "Try algorithm.alpha_cql.tau_cql=null or algorithm.alpha_cql.tau_cql=" in said
    assert "See docs/trouble/doctor.md#multiplier." in said
    assert "normal  No loss or parameter is NaN or infinite (6 of 6)\n" in said
    assert re.search(r"^arm=good seed=0 +finished: (nothing stands out|watch: noise)$", said, flags=re.MULTILINE)
    assert re.search(r"^arm=tau_high seed=0 +finished: wrong: multiplier", said, flags=re.MULTILINE)
    assert call(monkeypatch, trained, "--strict") == 1
    assert call(monkeypatch, trained / "arm-good__seed-0", "--strict") == 0
    said = capsys.readouterr().out
    assert "arm=good seed=0 (finished): nothing stands out\n" in said
    assert "normal  Evaluations are precise enough: 5 episodes, mean" in said


def test_the_script_has_it_all_for_programs_too(trained, monkeypatch, capsys) -> None:
    assert call(monkeypatch, trained, "--json") == 0
    runs = {Path(run["directory"]).name: run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert len(runs) == 6
    first = runs["arm-scaled__seed-0"]["findings"][0]
    assert (first["name"], first["severity"], first["page"]) == ("scale", "wrong", "docs/trouble/doctor.md#scale")
    assert set(first) == {field.name for field in dataclasses.fields(Finding)} | {"page"}
    assert runs["arm-tau_low__seed-0"]["verdict"].startswith("wrong: multiplier")


def test_the_script_names_what_it_cannot_read(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    make_run(tmp_path / "s" / "alpha_cql-1__seed-0", [1.0, 2.0], status="running")
    make_run(tmp_path / "s" / "alpha_cql-2__seed-0", [1.0, 2.0])
    (tmp_path / "s" / "alpha_cql-2__seed-0" / "summary.json").write_text("{")
    assert call(monkeypatch, "s") == 0
    said = capsys.readouterr()
    assert "alpha_cql=1 seed=0 (running at step 2,667 of 4,000)" in said.out or "stopped at step" in said.out
    assert "not read: " in said.err
