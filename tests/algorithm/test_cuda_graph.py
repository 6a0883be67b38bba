"""Captured steps: the same training as without, in every phase.

A CUDA graph records what a function launches and does not run it; a replay runs it on the same memory. Here a stand-in
does so with the function itself, and all but the graph is tested without a GPU; `test_gpu.py` has the rest.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from nested import assert_same
from test_agent import (
    CONFIG,
    CPU,
    DIFFERENT,
    FIXED_RUN,
    LEARNED_RUN,
    SEEDS,
    A,
    S,
    make,
    of_shape,
    state_of,
    transitions,
)
from torch.utils._python_dispatch import TorchDispatchMode

from cql.algorithm import networks
from cql.algorithm.agent import METRICS
from cql.algorithm.fast.cuda_graph import CapturedStep
from cql.algorithm.networks import Mlp
from cql.algorithm.sampling import Mixture, Pool, ReplayBuffer, pieces

SAMPLED = replace(CONFIG, gradient="sampled", num_gradient_actions=2)


class Recorder:
    """Stands in for CUDA graphs: a capture runs nothing, a replay writes into the memory that the capture returned."""

    def __init__(self, n_runs, spoil=None):
        self.n_runs, self.n_captures, self.n_replays, self.spoil = n_runs, 0, 0, spoil

    def __call__(self, function, generators):
        self.n_captures += 1
        values = torch.full((len(METRICS), self.n_runs), torch.nan)
        assert generators

        def replay():
            self.n_replays += 1
            values.copy_(function())
            if self.spoil is not None:
                self.spoil(values)
            return values

        return replay


def both(config, runs, seeds=SEEDS, spoil=None):
    """A plain agent with its sampler, and a captured one with its step and the recorder."""
    plain, plain_sampler = make(config, runs, seeds)
    agent, sampler = make(config, runs, seeds)
    recorder = Recorder(len(runs), spoil)
    return (plain, plain_sampler), (agent, sampler), CapturedStep(agent, sampler, transitions(), recorder), recorder


def train_both(pair, other, step, n_steps):
    for _ in range(n_steps):
        expected = pair[0].update(*pair[1].draw(transitions()))
        assert torch.equal(step(), expected)
    for run in range(pair[0].n_runs):
        assert_same(state_of(*other, run), state_of(*pair, run))


@pytest.mark.parametrize("config", [CONFIG, SAMPLED], ids=["exact", "sampled"])
def test_captured_steps_are_the_plain_ones_bit_for_bit(config):
    pair, other, step, recorder = both(config, [LEARNED_RUN] * 3)
    train_both(pair, other, step, 10)
    assert (recorder.n_captures, step.n_graphs) == (1, 1)
    assert recorder.n_replays == 1 + 7  # the trial, and all steps but the first three


def test_each_phase_has_a_graph_of_its_own():
    # Runs that clone for 4, 0 and 25 steps, and targets every third step: four phases, each of more than three steps.
    runs = [DIFFERENT[0], DIFFERENT[1], replace(DIFFERENT[2], bc_steps=25)]
    pair, other, step, recorder = both(replace(CONFIG, target_update_period=3), runs)
    phases = []
    for _ in range(50):
        phases.append(other[0].phase)
        train_both(pair, other, step, 1)
    assert [phase.cloning for phase in phases] == [True] * 25 + [False] * 25
    assert [phase.update_targets for phase in phases] == [(n + 1) % 3 == 0 for n in range(50)]
    assert step.n_graphs == recorder.n_captures == len(set(phases)) == 4


def test_a_resumed_run_has_graphs_of_its_own():
    pair, other, step, _ = both(SAMPLED, [LEARNED_RUN], [3])
    train_both(pair, other, step, 8)
    pair2, other2, step2, recorder2 = both(SAMPLED, [LEARNED_RUN], [9])
    for agent, sampler in (pair2, other2):
        agent.load_states([other[0].state(0)])
        sampler.load_state(0, other[1].state(0))
    train_both(pair2, other2, step2, 8)
    train_both(pair, other, step, 8)
    assert recorder2.n_replays == 6
    assert_same(state_of(*other2, 0), state_of(*other, 0))


def test_a_failed_run_does_not_stand_in_the_way_of_a_graph():
    pair, other, step, recorder = both(CONFIG, [LEARNED_RUN] * 3)
    for agent in (pair[0], other[0]):
        with torch.no_grad():
            agent.critics["2.bias"][1] = torch.nan
    for _ in range(6):
        step()
    assert recorder.n_replays == 4


def test_what_cannot_be_captured_is_trained_without(caplog):
    def failing(function, generators):
        function()  # as far as it came, something may have been changed
        raise RuntimeError("operation not permitted when stream is capturing")

    pair, other, _, _ = both(CONFIG, [LEARNED_RUN] * 3)
    step = CapturedStep(*other, transitions(), failing)
    train_both(pair, other, step, 8)
    assert step.n_graphs == 0
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "could not be captured" in warning
    assert "not permitted" in warning


@pytest.mark.parametrize("kind", ["metrics", "parameters", "random numbers"])
def test_a_graph_that_gives_something_else_is_not_used(kind, caplog):
    pair, other, step, recorder = both(CONFIG, [LEARNED_RUN] * 3)

    def spoil(values):
        with torch.no_grad():
            if kind == "metrics":
                values.add_(0.01)
            elif kind == "parameters":
                other[0].actor["1.weight"][2, 0, 0] += 0.01
            else:
                torch.rand(3, generator=other[1].generators[1])

    recorder.spoil = spoil
    train_both(pair, other, step, 8)
    assert step.n_graphs == 0
    assert recorder.n_replays == 1
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_graph_that_rounds_otherwise_is_used_and_said_to(caplog):
    def spoil(values):
        values.mul_(1 + 1e-6)

    _, _, step, _ = both(CONFIG, [LEARNED_RUN] * 3, spoil=spoil)
    for _ in range(8):
        step()
    assert step.n_graphs == 1
    assert "to the last bit" in caplog.text


# No value decides anything in a step ----------------------------------------------------------------------------------


class NoSynchronisation(TorchDispatchMode):
    """Fails at what would have a GPU's host wait: values read, sizes that depend on values, tensors made of numbers."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "is_nonzero",
        "equal",
        "lift_fresh",
        "repeat_",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.startswith(self.WAITING) or (
            name == "index" and any(x.dtype == torch.bool for x in args[1] if x is not None)
        ):
            raise AssertionError(f"aten.{name} would wait for the device in a training step")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        (CONFIG, [LEARNED_RUN] * 3),
        (SAMPLED, [FIXED_RUN] * 3),
        (replace(CONFIG, backup="max", importance_weighted=False, gap_temperature=2.0), DIFFERENT),
        (
            replace(
                SAMPLED, **of_shape(Mlp(width=6, depth=3, activation="tanh", layer_norm=True)), target_update_period=2
            ),
            DIFFERENT,
        ),
        (replace(SAMPLED, calibrated=True), [replace(LEARNED_RUN, gap_clip_max=3.0)] * 3),
        (replace(SAMPLED, importance_weighted=False, include_data_action=True, n_critics=4), DIFFERENT),
        (
            replace(CONFIG, log_std_offset=-1.0, critic_schedule="cosine", actor_schedule="linear", n_schedule_steps=9),
            [replace(LEARNED_RUN, critic_max_grad_norm=1.0, actor_weight_decay=0.1)] * 3,
        ),
    ],
    ids=["exact", "sampled", "max", "tanh", "cal_ql", "subset of critics", "norms and schedules"],
)
@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_a_step_never_waits_for_the_device(config, runs, fast):
    agent, sampler = make(config, runs, SEEDS, fast=fast)
    phases = []
    for _ in range(8):
        phases.append(agent.phase)
        agent.update(*sampler.draw(transitions()))
    data = transitions()
    for phase in dict.fromkeys(phases):
        with NoSynchronisation():
            agent.step(phase, *sampler.draw(data))


@pytest.mark.parametrize("shares", [None, [(9, 0.8), (30, 0.2)]], ids=["alike", "by shares"])
@pytest.mark.parametrize("n_offline", [None, 0, 2])
def test_a_draw_from_dataset_and_buffer_never_waits(n_offline, shares):
    data, buffer = transitions(), ReplayBuffer(2, 20, S, A, CPU, with_returns=False)
    pool = Pool(data.observations, torch.arange(39), data.actions[:39], data.rewards[:39], data.terminated[:39])
    if shares is not None:
        pool = pool._replace(pieces=pieces(shares))
    for run in range(2):
        buffer.add(run, data._replace(returns_to_go=None))
    _, sampler = make(CONFIG, [LEARNED_RUN] * 2)
    with NoSynchronisation():
        batch, _ = sampler.draw(Mixture(pool, buffer, n_offline))
        alone, _ = sampler.draw(pool)
    assert batch.rewards.shape == alone.rewards.shape == (2, 4)


@pytest.mark.parametrize(
    "wait", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any()), lambda x: x.nonzero()]
)
def test_that_check_notices_a_wait(wait):
    agent, sampler = make(CONFIG, [FIXED_RUN])
    data = transitions()

    def waiting(mlp, parameters, observations, *bounds):
        wait(observations)
        return networks.actor(mlp, parameters, observations, *bounds)

    agent.update(*sampler.draw(data))
    agent.networks = agent.networks._replace(actor=waiting)
    with NoSynchronisation(), pytest.raises(AssertionError, match="would wait"):
        agent.step(agent.phase, *sampler.draw(data))


def test_a_step_changes_no_tensor_but_those_that_a_trial_restores():
    agent, sampler = make(SAMPLED, [LEARNED_RUN] * 2)
    data = transitions()
    agent.update(*sampler.draw(data))
    known = {tensor.data_ptr() for tensor in agent.stack.tensors()}
    assert len(known) == len(agent.stack.tensors())
    own = {**agent.stack.constants._asdict(), **agent.stack._fixed}
    before = {name: value.clone() for name, value in own.items()}
    addresses = [tensor.data_ptr() for tensor in agent.stack.tensors()]
    agent.update(*sampler.draw(data))
    assert addresses == [tensor.data_ptr() for tensor in agent.stack.tensors()]  # all in place, as a graph needs it
    assert all(torch.equal(value, before[name]) for name, value in own.items())
    state = [value for part in agent.state(0)["optimisers"].values() for moments in part for value in moments.values()]
    assert len(state) == 3 * sum(len(part) for part in agent.state(0)["parameters"].values()) - 3 * len(agent.targets)


def test_buffers_of_the_sampler_stay_where_they_are():
    _, sampler = make(SAMPLED, [LEARNED_RUN] * 2)
    draws = [sampler.draw(transitions())[1] for _ in range(2)]
    assert [x.data_ptr() for x in draws[0]] == [x.data_ptr() for x in draws[1]]
    assert draws[0].choice.shape == (2, 2, 2, 4)
