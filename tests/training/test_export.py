"""An exported policy acts as the policy does, in a process that does not have this package."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from entry_points import load_script
from pages import blocks
from tiny import OVERRIDES

import cql
from cql import commands
from cql.algorithm.networks import Mlp, actor_parameters, critic_parameters
from cql.training import checkpoint, policy
from cql.training.checkpoint import CheckpointError
from cql.training.export import ExportError, export

ROOT = Path(__file__).resolve().parents[2]
OLD_RUN = ROOT / "tests" / "data" / "old_runs" / "learned"
OWN = {"activation": "silu", "layer_norm": True, "width": 24, "depth": 3}
LOW, HIGH = [-3.0, 0.5], [1.0, 2.0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with everything that a graph may have to hold, policy.pt, and its exports beside it."""
    folder = tmp_path_factory.mktemp("exported")
    contents = checkpoint.read(OLD_RUN / "checkpoints" / "best.pt")
    del contents["format_version"]
    generator = torch.Generator().manual_seed(0)
    made = actor_parameters(Mlp(**OWN), 4, 2, [generator], {"multiplier": 0.7, "offset": -1.5})
    parameters = contents["agent"]["parameters"]
    parameters["actor"] = {
        name: each[0] * (1 + 0.3 * torch.randn(each[0].shape, generator=generator)) for name, each in made.items()
    }
    parameters["critics"] = {name: each[0] for name, each in critic_parameters(Mlp(8), 4, 2, 2, [generator]).items()}
    contents["config"]["network"]["actor"] = OWN
    contents["config"]["algorithm"] |= {"log_std_min": -1.6, "log_std_max": -1.38}  # some are clamped, some are not
    contents["normaliser"] = {"mean": torch.tensor([0.5, -1, 0, 2]), "std": torch.tensor([0.1, 2, 1, 0.5])}
    contents["spaces"] = {
        "action_low": torch.tensor(LOW), "action_high": torch.tensor(HIGH), "observation_keys": ["position", "speed"],
    }  # fmt: skip
    contents["commit"] = "0123456789ab"
    checkpoint.save(folder / "policy.pt", contents)
    for form in ("onnx", "torchscript"):
        export(folder / "policy.pt", form, sampling=True)
    export(folder / "policy.pt", "safetensors")
    return folder


# `import cql` at once; then the graphs while it fails, on inputs.npz into outputs.npz; then `cql.load`, which is quick.
PROCESS = """
import sys, time
import cql
assert not {"torch", "numpy", "hydra"} & set(sys.modules), "import cql imports too much"
sys.modules["cql"] = None

import numpy, onnxruntime, torch
session, module = onnxruntime.InferenceSession("policy.onnx"), torch.jit.load("policy.ts")
plain, found = torch.jit.load("plain.ts"), {}
for name, each in numpy.load("inputs.npz").items():
    observation, noise = each[:, :4], each[:, 4:]
    tensors = torch.from_numpy(observation), torch.from_numpy(noise)
    outputs = *session.run(None, {"observation": observation, "noise": noise}), *module(*tensors), plain(tensors[0])
    found |= {f"{name} {index}": numpy.asarray(output) for index, output in enumerate(outputs)}
numpy.savez("outputs.npz", **found)
assert not [each for each in sys.modules if each.startswith("cql.")]

del sys.modules["cql"]
import cql
started = time.process_time()
policy = cql.load("policy.pt")
policy.act([0.0] * 4), policy.q([0.0] * 4, [0.0, 1.0])
seconds = time.process_time() - started
heavy = {"hydra", "omegaconf", "wandb", "gymnasium", "mujoco", "cql.config", "minari", "matplotlib", "scipy", "pandas"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert seconds < 0.7, seconds
assert isinstance(policy, cql.Policy) and cql.__version__
"""


def test_graphs_act_as_the_policy_without_this_package_and_loading_takes_no_time(exported):
    export(exported / "policy.pt", "torchscript", out=exported / "plain.ts")
    own = cql.load(exported / "policy.pt")
    random = np.random.default_rng(0)
    batches = {f"batch_{n}": random.normal(size=(n, 6)).astype(np.float32) for n in (1, 2, 7, 40)}
    batches["mode"] = batches["batch_40"] * np.array([1, 1, 1, 1, 0, 0], np.float32)
    np.savez(exported / "inputs.npz", **batches)
    code = [sys.executable, "-W", "ignore", "-c", PROCESS]
    subprocess.run(code, cwd=exported, check=True, timeout=300)
    found = np.load(exported / "outputs.npz")
    for name, batch in batches.items():
        onnx_action, onnx_log_std, action, log_std, mode = (found[f"{name} {index}"] for index in range(5))
        mean = own._policy(batch[None, :, :4])[0]
        expected = own.act(batch[:, :4])
        assert np.allclose(mode, expected, rtol=1e-6, atol=1e-6)
        sampled = own._policy(batch[None, :, :4], batch[None, :, 4:])[0]
        low, high = np.array(LOW), np.array(HIGH)
        for each in (action, onnx_action):
            assert each.shape == (len(batch), 2)
            assert np.allclose(each, (low + high) / 2 + (high - low) / 2 * sampled, rtol=1e-6, atol=1e-6)
        assert np.allclose(onnx_log_std, log_std, rtol=1e-6, atol=1e-6)
        steps = np.arctanh(sampled.astype(np.float64)) - np.arctanh(mean.astype(np.float64))
        assert np.allclose(steps, np.exp(log_std) * batch[:, 4:], atol=1e-3)
        if name == "mode":
            assert np.allclose(action, expected, rtol=1e-6, atol=1e-6)
    spread = found["batch_40 3"]
    assert spread.min() == np.float32(-1.6)  # clamped
    assert spread.max() == np.float32(-1.38)
    assert ((spread > -1.59) & (spread < -1.39)).any()


def test_a_safetensors_file_is_the_policy_bit_for_bit(exported, tmp_path):
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((exported / "policy.safetensors").read_bytes())
    own, other = cql.load(exported / "policy.pt"), cql.load(alone)
    observations = np.random.default_rng(0).normal(size=(9, 4))
    actions = own.act(observations, sample=True, seed=0)
    assert np.array_equal(other.act(observations), own.act(observations))
    assert np.array_equal(other.act(observations, sample=True, seed=0), actions)
    assert np.array_equal(
        other.act({"speed": observations[:, 2:], "position": observations[:, :2]}), own.act(observations)
    )
    assert (other.config, other.step) == (own.config, own.step)
    again, _ = export(alone, "safetensors", out=tmp_path / "again.safetensors")
    assert again.read_bytes() == alone.read_bytes()
    for damaged in (alone.read_bytes()[:-9], alone.read_bytes().replace(b"cql", b"abc", 1), b"", b"x" * 50):
        alone.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"alone\.safetensors: not a whole policy"):
            cql.load(alone)


def test_graphs_are_not_loaded_but_said_how_to(exported):
    with pytest.raises(CheckpointError, match=r"policy\.onnx is an ONNX model: run it with onnxruntime"):
        cql.load(exported / "policy.onnx")
    with pytest.raises(CheckpointError, match=r"policy\.ts is a TorchScript module: load it with torch\.jit\.load"):
        cql.load(exported / "policy.ts")


def test_the_card_says_what_it_is_and_its_code_runs(exported, monkeypatch):
    card = (exported / "policy.safetensors.md").read_text(encoding="utf-8")
    for line in (
        "| environment | InvertedPendulum-v5 |",
        "| data | pendulum |",
        "| evaluation | mean return 5.0 of 2 episodes |",
        "| step | 20 |",
        "| commit | 0123456789ab |",
        "| observation | 4 numbers: position, speed, side by side |",
        "| action | 2 numbers, from [-3.0, 0.5] to [1.0, 2.0] |",
        "n_steps: 60",
    ):
        assert f"\n{line}\n" in card
    monkeypatch.chdir(exported)
    for suffix in ("safetensors", "onnx", "ts"):
        (code,) = re.findall(r"```python\n(.*?)```", Path(f"policy.{suffix}.md").read_text(encoding="utf-8"), re.DOTALL)
        assert len(code.splitlines()) <= 5
        names: dict[str, object] = {}
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch.jit.load
            exec(code, names)
        assert np.shape(names["action"])[-1] == 2


def test_the_script_writes_beside_the_checkpoint_and_replaces_nothing_else(exported, tmp_path, monkeypatch, capsys):
    script, source = load_script("export"), tmp_path / "run"
    (source / "checkpoints").mkdir(parents=True)
    (source / "checkpoints" / "best.pt").write_bytes((exported / "policy.pt").read_bytes())

    def call(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["export.py", str(source), "--format", "safetensors", *arguments])
        return script.main()

    expected = source / "checkpoints" / "best.safetensors"
    for _ in range(2):
        assert call() == 0
        assert capsys.readouterr().out == f"written: {expected}\nwritten: {expected}.md\n"
    out = tmp_path / "mine.safetensors"
    assert call("--out", str(out)) == 0
    capsys.readouterr()
    for arguments, message in (
        (["--out", str(out)], "mine.safetensors exists and is left as it is"),
        (["--out", str(tmp_path / "mine.pt")], "the name must end with .safetensors"),
        (["--out", str(tmp_path / "nowhere" / "a.safetensors")], "does not exist; make it first"),
        (["--sampling"], "--sampling has no effect on safetensors"),
        (["--checkpoint", "last"], "no checkpoint 'last'; there are: best"),
    ):
        assert call(*arguments) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "mine.safetensors.md", "run"]
    with pytest.raises(ExportError, match="exists"):
        export(expected, "safetensors")


def test_a_missing_package_is_named_with_its_extra(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.torch")
    with pytest.raises(commands.MissingPackageError, match=r"onnxscript is not installed: pip install 'cql\[export\]'"):
        export(exported / "policy.pt", "onnx", out=tmp_path / "a.onnx")
    with pytest.raises(commands.MissingPackageError, match="safetensors is not installed"):
        cql.load(exported / "policy.safetensors")
    assert not list(tmp_path.iterdir())


def code_of(page: str, language: str) -> list[str]:
    return [each.code for each in blocks() if (each.page, each.language) == (f"docs/{page}", language)]


def test_the_pages_run_from_top_to_bottom(dataset, tmp_path, monkeypatch, no_figures):
    """Of Python, then of export, with the run that the first one trains."""
    monkeypatch.chdir(tmp_path)
    own = ["dataset=d4rl", f"dataset.path={dataset}", *OVERRIDES, "n_steps=10"]
    names: dict[str, object] = {}
    code = code_of("reference/python.md", "python")
    assert len(code) == 3
    for block in code:
        exec(block.replace('"+experiment=smoke"', repr(own)[1:-1]), names)
    assert np.shape(names["values"]) == (10,)
    assert names["runs"]["step"].tolist() == [10]
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    for name in cql.__all__:
        assert name.startswith("__") or f"`cql.{name}" in page

    written = [line.split() for block in code_of("howto/export.md", "bash") for line in block.splitlines()]
    assert len(written) == 5
    script = load_script("export")
    for words in written:
        if "15000" in words:  # a step of a longer run
            continue
        assert words[:3] == ["python", "scripts/export.py", "RUN"]
        own_name = [] if "--out" in words else ["--out", "first.onnx"]
        monkeypatch.setattr("sys.argv", ["export.py", "outputs/first", *words[3:], *own_name])
        assert script.main() == 0
    code = code_of("howto/export.md", "python")
    assert len(code) == 6
    for block in code:
        block = block.replace("outputs/HalfCheetah-v5/halfcheetah_medium/RUN", "outputs/first")
        block = block.replace("HalfCheetah", "InvertedPendulum").replace("17", "4").replace(", 6)", ", 1)")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            exec(block, names)
    assert np.shape(names["action"]) == (3, 1)
    assert names["observations"].shape == (100, 4)
    assert np.allclose(names["ours"], names["theirs"], rtol=1e-6, atol=1e-6)
    assert isinstance(names["policy"], policy.Policy)
