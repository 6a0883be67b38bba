"""One update of CQL as other programs do it, for `benchmark.py`: d3rlpy and TorchRL at the sizes of ours.

All have twin critics and a tanh-Gaussian actor with the same hidden layers, ten actions each from the uniform
distribution, pi(.|s) and pi(.|s'), importance weights in the log-sum-exp, a soft backup, a fixed conservative weight of
5, a learned temperature, Adam, Polyak-averaged targets at every step, and float32. Each is run as its own training
program runs it; what differs from ours, and is not changed here, stands with each.
"""

import itertools
from collections.abc import Callable
from typing import Any

N_MINIBATCHES = 10  # prepared ones, taken in turns

Update = Callable[[], object]


def _d3rlpy_parts(spec: Any) -> tuple[Any, Any]:
    """d3rlpy's algorithm and a buffer of transitions."""
    import d3rlpy
    import numpy as np

    encoder = d3rlpy.models.encoders.VectorEncoderFactory([spec.width] * spec.depth)
    algo = d3rlpy.algos.CQLConfig(
        batch_size=spec.batch_size,
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        alpha_learning_rate=0.0,
        initial_alpha=5.0,
        conservative_weight=1.0,
        n_action_samples=spec.num_sampled_actions,
        soft_q_backup=True,
    ).create(device=_d3rlpy_device(spec))
    rng, n = np.random.default_rng(0), spec.transitions
    dataset = d3rlpy.dataset.MDPDataset(
        observations=rng.normal(size=(n, spec.observation_size)).astype(np.float32),
        actions=rng.uniform(-1, 1, (n, spec.action_size)).astype(np.float32),
        rewards=rng.normal(size=n).astype(np.float32),
        terminals=np.zeros(n, np.float32),
        timeouts=(np.arange(n) % 1000 == 999).astype(np.float32),
    )
    algo.build_with_dataset(dataset)
    return algo, dataset


def _d3rlpy_device(spec: Any) -> str:
    return f"{spec.device}:0"


def d3rlpy_update(spec: Any) -> Update:
    """d3rlpy's update on prepared minibatches: its own data path is left out.

    Differs from ours: the three groups of actions and the data's pass through the critics one after another, the next
    actions of penalty and target are of two passes of the actor, metrics become Python floats at every step.
    """
    from d3rlpy.torch_utility import TorchMiniBatch

    algo, dataset = _d3rlpy_parts(spec)
    picked = [dataset.sample_transition_batch(spec.batch_size) for _ in range(N_MINIBATCHES)]
    batches = itertools.cycle([TorchMiniBatch.from_batch(each, 0.99, False, _d3rlpy_device(spec)) for each in picked])
    return lambda: algo.impl.update(next(batches), 0)


def d3rlpy_with_data(spec: Any) -> Update:
    """What d3rlpy's ``fit`` does in a step: pick transitions, then update."""
    algo, dataset = _d3rlpy_parts(spec)
    return lambda: algo.update(dataset.sample_transition_batch(spec.batch_size))


def torchrl_update(spec: Any) -> Update:
    """TorchRL's update on prepared minibatches: its replay buffer is left out.

    The parts and their settings are those of TorchRL's own `sota-implementations/cql`, with the conservative weight
    fixed (no Lagrange multiplier), eager, as there by default. Two things are left out in its favour: the choice
    between the actor's loss and cloning at every step, through which it would send a gradient of zeros, and moving each
    step's losses to the host.

    Differs from ours, and is TorchRL 0.14's own: one backward pass of the sum of all losses, before any step, so that
    the actor hears the critics of the step before; every sampled action repeats its state; the cloning loss is computed
    and not used; and the log-sum-exp runs over triples of one action from each group, the ten triples of a state being
    averaged, where the paper's runs over all thirty. The number of state-action rows is the same.
    """
    import torch
    from tensordict import TensorDict
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torchrl.data import Bounded
    from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import CQLLoss, SoftUpdate, group_optimizers

    device, hidden = torch.device(spec.device), [spec.width] * spec.depth
    n_observation, n_action = spec.observation_size, spec.action_size
    low, high = -torch.ones(n_action, device=device), torch.ones(n_action, device=device)
    perceptron = MLP(n_observation, 2 * n_action, num_cells=hidden, activation_class=torch.nn.ReLU, device=device)
    parameters = NormalParamExtractor(scale_mapping="biased_softplus_1.0", scale_lb=0.1)
    network = torch.nn.Sequential(perceptron, parameters)
    actor = ProbabilisticActor(
        TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=Bounded(low, high),
        distribution_class=TanhNormal,
        distribution_kwargs={"low": low, "high": high, "tanh_loc": False},
    )
    critic = ValueOperator(
        MLP(n_observation + n_action, 1, num_cells=hidden, activation_class=torch.nn.ReLU, device=device),
        in_keys=["observation", "action"],
    )
    loss_module = CQLLoss(
        actor,
        critic,
        loss_function="l2",
        temperature=1.0,
        min_q_weight=5.0,
        max_q_backup=False,
        deterministic_backup=False,
        num_random=spec.num_sampled_actions,
        with_lagrange=False,
    )
    loss_module.make_value_estimator(gamma=0.99)
    targets = SoftUpdate(loss_module, tau=0.005)
    optimiser = group_optimizers(
        torch.optim.Adam(loss_module.actor_network_params.flatten_keys().values(), lr=1e-4),
        torch.optim.Adam(loss_module.qvalue_network_params.flatten_keys().values(), lr=3e-4),
        torch.optim.Adam([loss_module.log_alpha], lr=1e-4),
    )

    def minibatch() -> Any:
        size = spec.batch_size
        ended = torch.zeros(size, 1, dtype=torch.bool, device=device)
        following = {
            "observation": torch.randn(size, n_observation, device=device),
            "reward": torch.randn(size, 1, device=device),
            "done": ended,
            "terminated": ended.clone(),
        }
        observations = torch.randn(size, n_observation, device=device)
        actions = torch.rand(size, n_action, device=device) * 2 - 1
        return TensorDict({"observation": observations, "action": actions, "next": following}, [size], device=device)

    batches = itertools.cycle([minibatch() for _ in range(N_MINIBATCHES)])

    def update() -> Any:
        losses = loss_module(next(batches).copy())  # a shallow copy: the losses write into what they are given
        loss = losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_cql"] + losses["loss_alpha"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        targets.step()
        return loss.detach()

    return update


PEERS: dict[str, Callable[[Any], Update]] = {
    "d3rlpy": d3rlpy_update,
    "d3rlpy-with-data": d3rlpy_with_data,
    "torchrl": torchrl_update,
}
