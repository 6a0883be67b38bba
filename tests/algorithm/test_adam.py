"""Adam without torch.optim: the same bits, and no second of imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cql.algorithm.fast.adam import Adam, Group

SHAPES = ((3, 5), (5,), (1,))


def tensors(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_are_those_of_torch(dtype: torch.dtype) -> None:
    ours, theirs = tensors(dtype), tensors(dtype)
    adam = Adam([Group(ours[:2], 1e-2), Group(ours[2:], 3e-4)])
    groups = [{"params": theirs[:2], "lr": 1e-2}, {"params": theirs[2:], "lr": 3e-4}]
    reference = torch.optim.Adam(groups, fused=True)
    generator = torch.Generator().manual_seed(1)
    for step in range(50):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(a.shape, generator=generator, dtype=torch.float64).to(dtype) * 10.0 ** (step % 7 - 3)
            # The second one is passed over in some steps, the third one, alone in its group, begins late.
            stands = (index == 1 and step % 3 == 0) or (index == 2 and step < 5)
            a.grad, b.grad = (None, None) if stands else (gradient, gradient.clone())
        adam.step()
        reference.step()
        adam.zero_grad()
        assert all(tensor.grad is None for tensor in ours)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
            assert adam.state[a].keys() == reference.state[b].keys()
            for name, value in adam.state[a].items():
                assert value.dtype == reference.state[b][name].dtype
                assert torch.equal(value, reference.state[b][name])
    assert not torch.equal(ours[1], tensors(dtype)[1])


def test_a_loaded_state_goes_on() -> None:
    (whole, *_), (cut, *_) = tensors(torch.float32), tensors(torch.float32)
    first, second = Adam([Group([whole], 0.1)]), Adam([Group([cut], 0.1)])
    for step in range(6):
        if step == 3:
            state = {name: value.clone() for name, value in second.state[cut].items()}
            cut = cut.clone()
            second = Adam([Group([cut], 0.1)])
            second.state[cut] = state
        for adam, tensor in ((first, whole), (second, cut)):
            tensor.grad = torch.full_like(tensor, float(step + 1))
            adam.step()
    assert torch.equal(whole, cut)
    assert second.state[cut]["step"].item() == 6


def test_an_update_imports_no_compiler() -> None:
    code = """
import sys
from test_agent import LEARNED_RUN, STRUCTURE, transitions
import torch
from cql.algorithm.agent import Agent
before = "torch._dynamo" in sys.modules
agent = Agent(STRUCTURE, [LEARNED_RUN], [0], torch.device("cpu"))
agent.update(*agent.sampler([0], 16).draw(transitions()))
print(agent.n_steps_done, before, "torch._dynamo" in sys.modules)
"""
    here = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here, check=False)
    assert out.stdout.split() == ["[1]", "False", "False"], out.stderr
