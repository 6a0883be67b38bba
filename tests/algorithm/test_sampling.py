"""The random numbers of training: right distributions, one stream a run, states that go on exactly."""

from __future__ import annotations

import math

import pytest
import torch

from cql.algorithm.sampling import INITIALISATION_STREAM, TRAINING_STREAM, Batch, Pool, Sampler, generator

S, A, B = 3, 2, 8


def transitions(n_transitions=50):
    """Every field tells which transition it is."""
    index = torch.arange(float(n_transitions))
    return Batch(
        observations=index[:, None].expand(-1, S).contiguous(),
        actions=-index[:, None].expand(-1, A).contiguous(),
        rewards=10 * index,
        next_observations=(index[:, None] + 1).expand(-1, S).contiguous(),
        terminated=(index % 2),
    )


def sampler(seeds, batch_size=B, **sizes):
    counts = {"n_uniform": 4, "n_policy": 4, "n_next_policy": 4, "n_target": 1, "n_choices": (2, 1), "n_subset": 0}
    counts |= sizes
    return Sampler(seeds, batch_size=batch_size, action_size=A, device=torch.device("cpu"), **counts)


def copies(drawn):
    """What was drawn, safe from the next call."""
    return [tensor.clone() for part in drawn for tensor in part if tensor is not None]


def test_shapes_of_everything_drawn():
    batch, noise = sampler([0, 1, 2], n_next_policy=0, n_target=7, n_choices=(2, 3)).draw(transitions())
    assert batch.returns_to_go is None
    assert [tuple(t.shape) for t in batch[:5]] == [(3, B, S), (3, B, A), (3, B), (3, B, S), (3, B)]
    *actions, choice, subset = noise
    assert subset.shape == (3, 0)
    assert [t.shape[1] for t in actions] == [4, 4, 0, 7, 1]
    assert all(t.shape == (3, t.shape[1], B, A) for t in actions)
    assert choice.shape == (3, 2, 3, B)
    assert all(t.dtype == torch.float32 for t in (*batch[:5], *noise))


def test_the_fields_of_a_transition_stay_together():
    batch, _ = sampler([0, 1]).draw(transitions())
    index = batch.rewards / 10
    assert torch.equal(batch.observations, index[..., None].expand(-1, -1, S))
    assert torch.equal(batch.actions, -index[..., None].expand(-1, -1, A))
    assert torch.equal(batch.next_observations, index[..., None].expand(-1, -1, S) + 1)
    assert torch.equal(batch.terminated, index % 2)


def test_gathering_looks_at_no_value() -> None:
    # Tensors without values: whatever would bring one to the host, or have a shape that depends on one, fails.
    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    row, discount = empty(50, dtype=torch.int64), empty(3, 1, dtype=torch.int64)
    pool = Pool(empty(60, S), row, empty(50, A), empty(50), empty(50), empty(2, 50), discount)
    batch = pool.take(empty(3, B, dtype=torch.int64))
    assert [tuple(t.shape) for t in batch] == [(3, B, S), (3, B, A), (3, B), (3, B, S), (3, B), (3, B)]
    with pytest.raises((NotImplementedError, RuntimeError)):
        pool.rewards[pool.row > 0]


def test_batches_are_uniform_with_replacement():
    own, counts = sampler([0], batch_size=500), torch.zeros(50)
    for _ in range(100):
        batch, _ = own.draw(transitions())
        counts += torch.bincount((batch.rewards[0] / 10).long(), minlength=50)
    # 50,000 draws: each transition, the first and the last too, is drawn 1000 times, give or take five deviations.
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)
    assert len(batch.rewards[0].unique()) <= 50 < 500  # more draws than transitions: with replacement


def test_uniform_actions_span_minus_one_to_one():
    _, noise = sampler([0], batch_size=2000, n_uniform=20).draw(transitions())
    values = noise.uniform
    assert -1.0 <= float(values.min()) < -0.999
    assert 0.999 < float(values.max()) <= 1.0
    assert abs(float(values.mean())) < 5 / math.sqrt(3 * values.numel())
    assert float(values.std()) == pytest.approx(1 / math.sqrt(3), rel=0.01)


def test_the_other_noise_is_standard_normal_and_each_group_has_its_own():
    _, noise = sampler([0], batch_size=5000, n_target=4).draw(transitions())
    groups = [noise.policy, noise.next_policy, noise.target, noise.actor]
    for group in groups:
        assert abs(float(group.mean())) < 5 / math.sqrt(group.numel())
        assert float(group.std()) == pytest.approx(1.0, abs=0.03)
    single = torch.stack([group[0, 0, :, 0] for group in (noise.uniform, *groups)])
    correlations = torch.corrcoef(single) - torch.eye(5)
    assert float(correlations.abs().max()) < 5 / math.sqrt(5000)


def test_a_run_draws_the_same_numbers_alone_first_and_last_in_a_stack():
    alone, first, last = sampler([7]), sampler([7, 1, 2]), sampler([3, 7])
    for _ in range(5):
        drawn = [copies(own.draw(transitions())) for own in (alone, first, last)]
        for by_itself, at_the_start, at_the_end in zip(*drawn, strict=True):
            assert torch.equal(by_itself[0], at_the_start[0])
            assert torch.equal(by_itself[0], at_the_end[1])


def test_runs_of_a_stack_share_neither_batches_nor_noise():
    batch, noise = sampler([0, 1], n_choices=(2, 3), n_subset=4).draw(transitions())
    assert noise.subset.shape == (2, 4)
    for tensor in (batch.rewards, *noise):
        assert not torch.equal(tensor[0], tensor[1])


def test_a_loaded_state_goes_on_bit_for_bit():
    own = sampler([0, 1])
    own.draw(transitions())
    states = [own.state(run).clone() for run in range(2)]
    expected = [copies(own.draw(transitions())) for _ in range(3)]
    other = sampler([8, 9, 10])  # elsewhere in another stack
    other.load_state(2, states[0])
    other.load_state(0, states[1])
    for step in range(3):
        for ours, theirs in zip(expected[step], copies(other.draw(transitions())), strict=True):
            assert torch.equal(ours[0], theirs[2])
            assert torch.equal(ours[1], theirs[0])


def test_seeds_and_streams_are_unrelated():
    seeds = range(200)
    streams = (TRAINING_STREAM, INITIALISATION_STREAM)
    drawn = [torch.randn(3, generator=generator(seed, stream)) for seed in seeds for stream in streams]
    assert len({tuple(x.tolist()) for x in drawn}) == 400
    long = torch.stack(
        [torch.randn(2000, generator=generator(seed, stream)) for seed in range(5) for stream in streams]
    )
    correlations = torch.corrcoef(long) - torch.eye(10)
    assert float(correlations.abs().max()) < 5 / math.sqrt(2000)


def test_the_same_seed_gives_the_same_numbers():
    assert torch.equal(torch.randn(5, generator=generator(3, 0)), torch.randn(5, generator=generator(3, 0)))


@pytest.mark.parametrize(
    ("seed", "training", "initialisation"),
    [(0, 7896617691693857887, 2918264622725855778), (1, 3717377837946358015, 38901565946305238)],
)
def test_a_seed_means_the_same_run_as_in_earlier_versions(seed: int, training: int, initialisation: int) -> None:
    assert generator(seed, TRAINING_STREAM).initial_seed() == training
    assert generator(seed, INITIALISATION_STREAM).initial_seed() == initialisation
