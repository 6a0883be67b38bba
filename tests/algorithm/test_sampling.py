"""The random numbers of training: right distributions, one stream a run, states that go on exactly."""

from __future__ import annotations

import math

import pytest
import torch

from cql.algorithm.sampling import (
    INITIALISATION_STREAM,
    TRAINING_STREAM,
    Batch,
    Mixture,
    Pool,
    ReplayBuffer,
    Sampler,
    generator,
    pieces,
)

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
    weighted = pool._replace(pieces=empty(4, 2, dtype=torch.float64))
    assert weighted.number_at(empty(3, B, dtype=torch.float64)).dtype == torch.int64
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


# --- datasets with shares of their own ---


def joined(*shares):
    """Datasets of some sizes, one after the other; rewards tell which transition it is."""
    m = sum(size for size, _ in shares)
    index = torch.arange(float(m + 1))
    rows = index[:, None].expand(-1, S).contiguous()
    in_pieces = pieces(shares) if shares[0][1] is not None else None
    return Pool(rows, torch.arange(m), -rows[:m, :A], index[:m], index[:m] % 2, pieces=in_pieces)


def test_each_dataset_has_its_share_of_a_minibatch_and_its_transitions_divide_it():
    own, pool, counts = sampler([0], batch_size=1000), joined((90, 0.2), (10, 0.8)), torch.zeros(100)
    for _ in range(100):
        counts += torch.bincount(own.draw(pool)[0].rewards[0].long(), minlength=100)
    n = 100_000
    assert abs(counts[:90].sum() - 0.2 * n) < 5 * math.sqrt(n * 0.2 * 0.8)
    for part, share in ((counts[:90], 0.2 / 90), (counts[90:], 0.8 / 10)):
        assert (part - n * share).abs().max() < 5 * math.sqrt(n * share)


@pytest.mark.parametrize(
    "shares",
    [
        [(90, 0.2), (10, 0.8)],
        [(1, 1e-6), (1, 1e6), (1, 1e-6)],
        [(3, 1 / 3), (1, 1 / 3), (1_000_000, 1 / 3)],
        [(7, 0.1), (7, 0.2), (7, 0.3), (7, 0.7), (100_003, 1e-6)],
    ],
)
def test_a_position_is_of_the_dataset_whose_piece_it_is_in(shares):
    pool = Pool(*[torch.zeros(sum(size for size, _ in shares))] * 5, pieces=pieces(shares))
    m, total = len(pool.rewards), sum(ratio for _, ratio in shares)
    first, begin = 0, 0.0
    for size, ratio in shares:
        # Just behind its first border and just before its last one; an inner border may be a rounding error off.
        end = begin + ratio / total * m
        inside = [begin + 1e-9 * (end - begin), (begin + end) / 2, end - 1e-9 * (end - begin)]
        if first == 0:
            inside = [0.0, math.nextafter(0.0, 1.0), *inside]
        if first + size == m:
            inside = [*inside, math.nextafter(1.0, 0.0) * m, math.nextafter(m, 0.0), float(m), 2.0 * m]
        numbers = pool.number_at(torch.tensor([inside], dtype=torch.float64))
        assert first <= int(numbers.min()) <= int(numbers.max()) < first + size
        assert (int(numbers[0, 0]), int(numbers[0, -1])) == (first, first + size - 1)
        first, begin = first + size, end
    for border in pool.pieces[0].tolist():
        near = [math.nextafter(border, 0.0), border, math.nextafter(border, math.inf)]
        before, at, behind = pool.number_at(torch.tensor([near], dtype=torch.float64))[0].tolist()
        assert before in (at - 1, 0)
        assert at == behind
    chance = torch.rand(1, 100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * m
    numbers = pool.number_at(chance.sort().values)[0]
    assert int(numbers.diff().min()) >= 0
    assert 0 <= int(numbers[0]) <= int(numbers[-1]) < m


def test_without_shares_the_numbers_are_the_old_ones():
    (pool, *noise), (batch, *other) = (
        sampler([3, 4]).draw(data) for data in (joined((20, None), (30, None)), transitions())
    )
    assert torch.equal(10 * pool.rewards, batch.rewards)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*noise, *other, strict=True))
    generator_ = generator(3, TRAINING_STREAM)
    assert pool.rewards[0].tolist() == torch.randint(50, (B,), generator=generator_).tolist()
    positions = torch.tensor([[0.0, 0.99, 1.0, 49.999]], dtype=torch.float64)
    assert joined((20, None), (30, None)).number_at(positions).tolist() == [[0, 0, 1, 49]]


@pytest.mark.parametrize("n_offline", [None, 0, 5, "alone"])
def test_a_stack_that_draws_by_shares_is_its_runs_alone_and_goes_on_exactly(n_offline):
    pool = joined((20, 0.1), (30, 0.9))

    def data(*runs):
        if n_offline == "alone":
            return pool
        buffer = ReplayBuffer(len(runs), 30, S, A, torch.device("cpu"), with_returns=False)
        for place, run in enumerate(runs):
            buffer.add(place, transitions(5 + run))
        return Mixture(pool, buffer, n_offline)

    stack, alone = sampler([7, 8]), [sampler([7]), sampler([8])]
    together, apart = data(0, 1), [data(0), data(1)]
    for step in range(4):
        if step == 2:
            states = [each.state(0) for each in alone]
            alone = [sampler([1]), sampler([2])]
            for each, state in zip(alone, states, strict=True):
                each.load_state(0, state)
        drawn = copies(stack.draw(together))
        for run in range(2):
            for ours, theirs in zip(drawn, copies(alone[run].draw(apart[run])), strict=True):
                assert torch.equal(ours[run], theirs[0])


def test_shares_hold_among_the_datasets_of_a_mixture_with_collected_transitions():
    pool, n = joined((90, 0.2), (10, 0.8)), 50_000
    buffer = ReplayBuffer(1, 300, S, A, torch.device("cpu"), with_returns=False)
    collected = transitions(300)
    buffer.add(0, collected._replace(rewards=-1 - collected.rewards))
    for n_offline, share in ((None, 0.25), (200, 0.4)):
        own, rewards = sampler([0], batch_size=500), []
        for _ in range(100):
            rewards.append(own.draw(Mixture(pool, buffer, n_offline))[0].rewards[0].clone())
        found = torch.cat(rewards)
        for low, high, expected in ((-math.inf, 0, 1 - share), (0, 90, 0.2 * share), (90, 100, 0.8 * share)):
            count = int(((found >= low) & (found < high)).sum())
            assert abs(count - n * expected) < 5 * math.sqrt(n * expected * (1 - expected))
        assert found.unique().numel() == 400  # every transition, the first and the last of each too
