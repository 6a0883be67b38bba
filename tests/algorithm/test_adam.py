"""Adam for a stack: the numbers of torch.optim.Adam, run by run, and no second of imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cql.algorithm.adam import Adam, plain_update
from cql.algorithm.fast.fused_adam import fused_update

R = 3
SHAPES = ((R, 3, 5), (R, 5), (R,))
SAME, DIFFERENT = [1e-2] * R, [1e-2, 3e-4, 1e-2]


def leaves(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {str(shape): torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES}


def gradients(step: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    scale = 10.0 ** (step % 7 - 3)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


@pytest.mark.parametrize("rates", [SAME, DIFFERENT], ids=["one rate", "two rates"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("update", [plain_update, fused_update])
def test_the_numbers_are_those_of_torch(update, dtype: torch.dtype, rates: list[float]) -> None:
    ours, theirs = leaves(dtype), leaves(dtype)
    slices = [[tensor[run].clone() for tensor in theirs.values()] for run in range(R)]
    groups = [{"params": own, "lr": rate} for own, rate in zip(slices, rates, strict=True)]
    adam, reference = Adam(ours, rates, update), torch.optim.Adam(groups, fused=True)
    for step in range(50):
        found = gradients(step, dtype)
        adam.step(found)
        for run, own in enumerate(slices):
            for tensor, gradient in zip(own, found, strict=True):
                tensor.grad = gradient[run].clone()
        reference.step()
        for run, own in enumerate(slices):
            state = adam.state(run)
            for tensor, their, moments in zip(ours.values(), own, state, strict=True):
                expected = reference.state[their]
                assert moments.keys() == expected.keys()
                if update is fused_update:
                    assert torch.equal(tensor[run], their)
                    assert all(torch.equal(moments[name], expected[name]) for name in moments)
                else:
                    # The error of one rounding per operation: 1e-5 of a step of float32's Adam.
                    tolerance = 1e-7 * (step + 1) if dtype == torch.float32 else 1e-13
                    torch.testing.assert_close(tensor[run], their, rtol=1e-6, atol=tolerance)
                    for name in moments:
                        torch.testing.assert_close(moments[name], expected[name], rtol=1e-5, atol=1e-12)
    assert not torch.equal(ours[str(SHAPES[0])], leaves(dtype)[str(SHAPES[0])])


@pytest.mark.parametrize("update", [plain_update, fused_update])
@pytest.mark.parametrize("n_before", [0, 3])
def test_a_loaded_state_continues(update, n_before: int) -> None:
    whole, cut = leaves(torch.float32), leaves(torch.float32)
    first, second = Adam(whole, DIFFERENT, update), Adam(cut, DIFFERENT, update)
    for step in range(n_before):
        for adam in (first, second):
            adam.step(gradients(step, torch.float32))
    states = [second.state(run) for run in range(R)]
    assert all(bool(moments) == (n_before > 0) for state in states for moments in state)
    second = Adam(cut, DIFFERENT, update)
    second.step([torch.zeros_like(tensor) for tensor in cut.values()])  # changes nothing but the optimiser's state
    for run, state in enumerate(states):
        second.load_state(run, state)
    for step in range(n_before, 6):
        for adam in (first, second):
            adam.step(gradients(step, torch.float32))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert second.state(1)[0]["step"].item() == 6


def test_an_update_imports_no_compiler() -> None:
    code = """
import sys
from test_agent import CONFIG, LEARNED_RUN, transitions
import torch
from cql.algorithm.agent import Agent
before = "torch._dynamo" in sys.modules
agent = Agent(CONFIG, [LEARNED_RUN], [0], torch.device("cpu"))
agent.update(*agent.sampler([0], 16).draw(transitions()))
print(agent.n_steps_done, before, "torch._dynamo" in sys.modules, "sympy" in sys.modules)
"""
    here = Path(__file__).parent
    paths = {**os.environ, "PYTHONPATH": str(here.parent)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here, env=paths, check=False)
    assert out.stdout.split() == ["1", "False", "False", "False"], out.stderr


def test_a_bound_of_one_run_does_nothing_to_another_whose_norm_overflows() -> None:
    parameters = {"x": torch.zeros(2, 3)}
    adam = Adam(parameters, [1e-2, 1e-2], max_norms=[None, 1.0])
    adam.step([torch.full((2, 3), 2e19)])
    assert (parameters["x"][0] == parameters["x"][0]).all()  # no NaN
    assert torch.equal(adam.parameters[0].grad[0], torch.full((3,), 2e19))
