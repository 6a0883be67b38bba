"""Policies of a collection by the names that users give them, and their shares of the episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cql.data.collect import Part
from cql.data.policies import Behaviour, NpzPolicy, RandomPolicy
from cql.rollout.envs import EnvInfo

FromRun = Callable[[str], Sequence[Behaviour] | None]
"""Finds the policies of a run trained here, or returns None if the name is not that of a run or checkpoint."""


class SpecError(ValueError):
    """Policies or numbers of episodes that make no sense; the message names the option."""


def parts(
    specs: Sequence[str], n_episodes: int | None, noise: float | None, info: EnvInfo, from_run: FromRun
) -> list[Part]:
    """What acts and for how many episodes.

    Args:
        specs: policies, each with ``=N`` or without. Those without share the remaining episodes evenly.
        n_episodes: in all.
        noise: scale of their standard deviations, None for 1.
        info: of the environment.
        from_run: finds the policies of runs.

    Raises:
        SpecError: a policy is not found, or the numbers of episodes do not add up.
        PolicyError: a file does not hold a policy.
    """
    named = [split(spec) for spec in specs]
    own = sum(number for _, number in named if number is not None)
    sharing = [name for name, number in named if number is None]
    if sharing and n_episodes is None:
        raise SpecError(f"--episodes N is needed, or {sharing[0]}=N")
    left = (own if n_episodes is None else n_episodes) - own
    if not sharing and left != 0:
        raise SpecError(f"--episodes {n_episodes}: the policies' own numbers add up to {own}; leave --episodes out")
    if sharing and left < len(sharing):
        taken = f" less the {own} of other policies" if own else ""
        raise SpecError(f"--episodes {n_episodes}{taken}: too few for {', '.join(sharing)}, at least one each")
    shares = iter(share_out(left, len(sharing)) if sharing else [])
    found = []
    for name, number in named:
        known, share = behaviours(name, info, from_run), next(shares) if number is None else number
        if share < len(known):
            raise SpecError(f"--policy {name}: {share} episodes for its {len(known)} policies, at least one each")
        if noise is not None and name == "random":
            raise SpecError("--noise: random has no standard deviation to scale; leave --noise or random out")
        scale = 1.0 if noise is None else noise
        found += [Part(each, count, scale) for each, count in zip(known, share_out(share, len(known)), strict=True)]
    return found


def split(spec: str) -> tuple[str, int | None]:
    """A policy and its own number of episodes, if it has one; names of runs hold ``=`` too."""
    name, _, number = spec.rpartition("=")
    is_path = Path(spec).exists() or ("@" in spec and "=" not in spec.rpartition("@")[2])
    return (spec, None) if is_path or not name or not number.isdigit() else (name, int(number))


def behaviours(name: str, info: EnvInfo, from_run: FromRun) -> Sequence[Behaviour]:
    """The policy of a name, or those of a folder in their order.

    Raises:
        SpecError: there is no policy of that name.
        PolicyError: a file does not hold a policy.
    """
    path = Path(name)
    if name == "random":
        return [RandomPolicy(info.observation_size, info.action_size)]
    if path.suffix == ".npz":
        return [NpzPolicy.load(path)]
    if path.is_file() and path.suffix != ".pt":
        raise SpecError(f"--policy {name} is not a policy's file; these end in .npz or, checkpoints of runs, in .pt")
    found = from_run(name)
    if found is not None:
        return found
    if path.is_dir():
        return NpzPolicy.sequence(path)
    names = NpzPolicy.embedded_names()
    chosen = [each for each in names if each == name or each.startswith(f"{name}/")]
    if not chosen:
        raise SpecError(
            f"--policy {name}: there is no such file or folder, and no policy of that name in the package, which has "
            + ", ".join(names)
        )
    return [NpzPolicy.embedded(each) for each in chosen]


def share_out(total: int, n: int) -> list[int]:
    """Episodes in n parts as equal as possible, the larger ones first."""
    return [total // n + (position < total % n) for position in range(n)]
