"""Behaviour policies: what acts when a dataset is collected.

Axes: E environments stepped together, S state features, A action features.
"""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from cql.algorithm.networks import Mlp, Parameters

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # stable-baselines3's clamp, which the embedded policies were trained with


class PolicyError(ValueError):
    """A behaviour policy is missing, has the wrong shapes, or returns NaN actions."""


class Behaviour(Protocol):
    """What acts in a collection. It is pickled for other processes, and each row is computed by itself.

    Attributes:
        name: for messages and metadata.
        observation_size: S.
        action_size: A.
    """

    name: str
    observation_size: int
    action_size: int

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return actions in [-1, 1], (E, A), for observations (E, S) and standard normal noise (E, A).

        Without noise it acts as it would when it is evaluated.
        """
        ...


@runtime_checkable
class Remembering(Behaviour, Protocol):
    """A behaviour that remembers what it is about, so that each episode needs one of its own."""

    def episode(self, generator: np.random.Generator) -> tuple[Behaviour, dict[str, Any]]:
        """The behaviour of one episode, with its own source of chance, and the options of the episode's reset."""
        ...


class RandomPolicy:
    """Actions drawn uniformly from [-1, 1]."""

    name = "random"

    def __init__(self, observation_size: int, action_size: int) -> None:
        self.observation_size, self.action_size = observation_size, action_size

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return actions (E, A): the normal noise through its own distribution function. None gives zeros."""
        from scipy.special import erf

        if noise is None:
            return np.zeros((len(observations), self.action_size), np.float32)
        uniform: NDArray[np.float32] = erf(noise / np.float32(np.sqrt(2.0))).astype(np.float32)
        return uniform


_LARGEST_WEIGHT = 1e6


class NpzPolicy:
    """A tanh-squashed Gaussian policy with two relu layers, in numpy."""

    def __init__(self, weights: dict[str, NDArray[Any]], name: str) -> None:
        """Check the weights and keep them.

        Args:
            weights: `hidden_0`, `hidden_1`, `mean` and `log_std`, each with `.weight` (out, in) and `.bias` (out,).
            name: where they came from.

        Raises:
            PolicyError: an array is missing or left over, its shape does not fit, or it is not finite.
        """
        layers = ("hidden_0", "hidden_1", "mean", "log_std")
        wanted = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
        if set(weights) != wanted:
            raise PolicyError(f"policy '{name}' must hold {sorted(wanted)}, found {sorted(weights)}")
        first, head = weights["hidden_0.weight"], weights["mean.weight"]
        if first.ndim != 2 or head.ndim != 2:
            raise PolicyError(f"policy '{name}': weights must have two axes, found {first.shape} and {head.shape}")
        width_1, self.observation_size = first.shape
        self.action_size, width_2 = head.shape
        sizes = {
            "hidden_0": (width_1, self.observation_size),
            "hidden_1": (width_2, width_1),
            "mean": (self.action_size, width_2),
            "log_std": (self.action_size, width_2),
        }
        for layer, (n_out, n_in) in sizes.items():
            for key, shape in ((f"{layer}.weight", (n_out, n_in)), (f"{layer}.bias", (n_out,))):
                if weights[key].shape != shape or weights[key].dtype != np.float32:
                    raise PolicyError(
                        f"policy '{name}': {key} must be float32 of shape {shape}, found {weights[key].dtype} of shape "
                        f"{weights[key].shape}"
                    )
                if not np.isfinite(weights[key]).all():
                    raise PolicyError(f"policy '{name}': {key} holds values that are not finite")
                if np.abs(weights[key]).max(initial=0.0) > _LARGEST_WEIGHT:
                    raise PolicyError(
                        f"policy '{name}': {key} holds values beyond {_LARGEST_WEIGHT:g}, with which actions overflow"
                    )
        self.name = name
        self._layers = {layer: (weights[f"{layer}.weight"].T, weights[f"{layer}.bias"]) for layer in layers}

    @classmethod
    def load(cls, path: str | Path) -> NpzPolicy:
        """Read a policy's weights from an `.npz` file; pickled objects in it are refused.

        Raises:
            PolicyError: the file is missing, is no `.npz` of plain arrays, or holds the wrong ones.
        """
        path = Path(path)
        if not path.is_file():
            raise PolicyError(f"policy file '{path}' does not exist")
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return cls({key: file[key] for key in file.files}, str(path))
        except PolicyError:
            raise
        except (PermissionError, BlockingIOError) as error:
            raise PolicyError(f"policy file '{path}' cannot be read now ({error})") from error
        except Exception as error:  # bytes of a stranger: zipfile, zlib and NumPy raise many kinds
            reason = f"{type(error).__name__}: {error}"
            raise PolicyError(f"policy file '{path}' is not an .npz of plain arrays ({reason})") from error

    @classmethod
    def sequence(cls, folder: str | Path) -> list[NpzPolicy]:
        """Read all policies of a folder, in the order of the numbers in their names: of a training, that of its steps.

        Raises:
            PolicyError: the folder holds no `.npz`, or one of them is not a policy's.
        """
        paths = sorted(Path(folder).glob("*.npz"), key=_by_numbers)
        if not paths:
            raise PolicyError(f"folder '{folder}' holds no .npz")
        return [cls.load(path) for path in paths]

    @classmethod
    def embedded(cls, name: str) -> NpzPolicy:
        """Read a policy of the package by its name, such as `halfcheetah/sac_125k`.

        Raises:
            PolicyError: there is none of that name; the message lists those there are.
        """
        names = cls.embedded_names()
        if name not in names:
            raise PolicyError(f"no behaviour policy '{name}'; there are {', '.join(names)}")
        with importlib.resources.as_file(importlib.resources.files("cql.data") / "behaviour" / f"{name}.npz") as path:
            policy = cls.load(path)
        policy.name = name
        return policy

    @staticmethod
    def embedded_names() -> list[str]:
        """The names of the package's policies, in order."""
        with importlib.resources.as_file(importlib.resources.files("cql.data") / "behaviour") as root:
            return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.npz"))

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Act as :class:`Behaviour`; with the mean if there is no noise."""
        # One matrix product per row: the product of a whole batch rounds differently with its size, and an action
        # that differs in the last bit becomes another episode.
        hidden = observations.astype(np.float32)[:, None, :]
        for layer in ("hidden_0", "hidden_1"):
            hidden = np.maximum(self._linear(layer, hidden), 0)
        action = self._linear("mean", hidden)[:, 0]
        if noise is not None:
            log_std = self._linear("log_std", hidden)[:, 0].clip(LOG_STD_MIN, LOG_STD_MAX)
            action = action + np.exp(log_std) * noise
        return np.tanh(action)

    def _linear(self, layer: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        weight, bias = self._layers[layer]
        outputs: NDArray[np.float32] = inputs @ weight + bias
        return outputs


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """A key that sorts `sac_9` before `sac_10`: digits by their value, the rest as text."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", path.stem)]


class ActorPolicy:
    """The actor of a run trained here, with its normalisation of observations."""

    def __init__(
        self,
        name: str,
        mlp: Mlp,
        parameters: Parameters,
        *,
        mean: torch.Tensor,
        std: torch.Tensor,
        log_std_min: float,
        log_std_max: float,
        bounds: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> None:
        """Keep the actor.

        Args:
            name: where it came from.
            mlp: shape of the network.
            parameters: of one actor, without the axis of runs.
            mean: of the observations, (S,).
            std: of the observations, (S,).
            log_std_min: the log standard deviation is clamped to at least this
            log_std_max: and at most this.
            bounds: of its actions, if these are not the environment's: lower and upper ones, (A,) each.
        """
        self.name = name
        self.observation_size = len(mean)
        self.action_size = len(parameters[f"{mlp.depth}.bias"]) // 2
        self._mlp = mlp
        self._parameters = {key: tensor.detach().unsqueeze(0) for key, tensor in parameters.items()}
        self._mean, self._std = mean, std
        self._clamp = log_std_min, log_std_max
        self.bounds = bounds

    def __call__(
        self, observations: NDArray[np.floating[Any]], noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Act as :class:`Behaviour`; with the mean if there is no noise."""
        import torch

        from cql.algorithm import networks

        # One product per row, on one thread, as in `NpzPolicy`.
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                inputs = (torch.from_numpy(observations.astype(np.float32)) - self._mean) / self._std
                rows = [networks.actor(self._mlp, self._parameters, row.view(1, 1, -1), *self._clamp) for row in inputs]
                action = torch.cat([mean[0] for mean, _ in rows])
                if noise is not None:
                    action += torch.cat([log_std[0] for _, log_std in rows]).exp() * torch.from_numpy(noise)
                actions: NDArray[np.float32] = action.tanh().numpy()
                return actions
        finally:
            torch.set_num_threads(n_threads)
