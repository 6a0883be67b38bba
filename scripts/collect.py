"""Make a Minari dataset: ``python scripts/collect.py DATASET_ID --env ENV --policy SPEC ...``; see ``--help``."""

import argparse
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cql import config
from cql.commands import exit_code, override, printable, real, train, whole

if TYPE_CHECKING:
    from cql.data.collect import Episode
    from cql.data.policies import Behaviour
    from cql.rollout.envs import EnvSpec

POLICIES = """\
a policy is one of
  random                   actions drawn uniformly
  halfcheetah/sac_125k     a policy of the package, by its name; halfcheetah stands for all of that training
  FILE.npz                 weights such as scripts/train_behaviour.py saves
  RUN, RUN@best, RUN@5000  a checkpoint of a run trained here: the last, the best, or that of a step
  FILE.pt                  a checkpoint's file
  FOLDER                   all .npz in a folder, or all steps in a run's folder of checkpoints, one after the other
and =N after it gives it N episodes. The policies of a folder share its episodes evenly; the first ones get the rest.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Collect episodes of policies into a local Minari dataset. An interrupted collection leaves none.",
        epilog=POLICIES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset_id", help="Minari id of the new dataset, such as me/hopper/mixed-v0")
    parser.add_argument("--env", required=True, metavar="ENV", help="Gymnasium's id, such as Hopper-v5")
    kwargs_help = "its arguments as YAML, such as '{healthy_reward: 2}'"
    parser.add_argument("--env-kwargs", type=mapping, default={}, metavar="{NAME: VALUE}", help=kwargs_help)
    limit_help = "time limit of an episode in steps (default: the environment's)"
    parser.add_argument("--max-episode-steps", type=whole(1), metavar="N", help=limit_help)
    keys_help = "which parts of a Dict observation to store, in that order, such as achieved_goal,observation"
    parser.add_argument("--observation-keys", type=lambda text: text.split(","), metavar="KEY,...", help=keys_help)
    policy_help = "policy that acts, see below; given several times, the dataset is a mixture"
    parser.add_argument("--policy", required=True, action="append", metavar="SPEC[=N]", help=policy_help)
    episodes_help = "total number of episodes; the policies without =N share the remainder evenly"
    parser.add_argument("--episodes", type=whole(1), metavar="N", help=episodes_help)
    noise_help = "scale of the policies' own standard deviations: 1 as they were trained (default), 0 deterministic"
    parser.add_argument("--noise", type=real(0), metavar="SCALE", help=noise_help)
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of all random numbers (default 0)")
    parser.add_argument(
        "--workers", type=whole(1), default=1, metavar="N", help="processes (default 1); the data are the same"
    )
    n_envs_help = "environments stepped together in a process (default 10); the data are the same"
    parser.add_argument("--n-envs", type=whole(1), default=10, metavar="N", help=n_envs_help)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing dataset once the new one is whole"
    )
    reference_help = "returns that score 0 and 100 (default: D4RL's, where the environment has them)"
    parser.add_argument("--reference", type=real(-math.inf), nargs=2, metavar=("MIN", "MAX"), help=reference_help)
    parser.add_argument("--description", default="", help="a sentence for the metadata")
    parser.add_argument("--author", help="author, for the metadata")
    chosen = parser.parse_args()
    if chosen.reference is not None and not chosen.reference[1] > chosen.reference[0]:
        parser.error(f"--reference {chosen.reference[0]:g} {chosen.reference[1]:g}: MAX must be greater than MIN")
    return chosen


def from_run(name: str) -> "list[Behaviour] | None":
    """The policies of a run, of its checkpoints or of one of them; None if there is no such run.

    Raises:
        SpecError: the name is that of a sweep.
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    from cql.data.specs import SpecError
    from cql.training.build import load_behaviour
    from cql.training.checkpoint import CheckpointFolder

    path = Path(name)
    run, _, which = name.rpartition("@")
    if path.joinpath("sweep.json").exists():
        runs = sorted(each.parent.parent for each in path.glob(f"*/{config.RUN_CONFIG_FILE}"))
        example = f", such as {runs[0]}" if runs else ""
        raise SpecError(f"--policy {name}: a sweep has many policies; name one of its runs{example}")
    if path.suffix == ".pt":
        return [load_behaviour(path, name)]
    if path.joinpath(config.RUN_CONFIG_FILE).exists():
        return [load_behaviour(CheckpointFolder(path / "checkpoints").find("last"), name)]
    if path.is_dir():
        folder = CheckpointFolder(path)
        paths = [folder.path(step) for step in folder.steps()]
        return [load_behaviour(each, str(each)) for each in paths] or None
    if run and Path(run).is_dir():
        return [load_behaviour(CheckpointFolder(Path(run) / "checkpoints").find(which), name)]
    return None


def mapping(text: str) -> dict[str, Any]:
    """An argument that is a mapping in YAML."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mapping such as '{{healthy_reward: 2}}'")
    return found


def train_command(dataset_id: str, env: "EnvSpec", reference: tuple[float, float] | None) -> str:
    """The command that trains on a dataset with the same reference scores."""
    from cql.rollout.reference_scores import known_scores

    env_id = env.id
    overrides = ["dataset=minari", override("dataset.id", dataset_id), override("env.id", env_id)]
    if env.kwargs:
        overrides.append(override("env.kwargs", env.kwargs))
    if env.max_episode_steps is not None:
        overrides.append(override("env.max_episode_steps", env.max_episode_steps))
    if env.observation_keys:
        overrides.append(override("env.observation_keys", list(env.observation_keys)))
    if reference is not None and reference != known_scores(env_id, env.kwargs, env.max_episode_steps):
        overrides.append(f"env.reference=[{reference[0]},{reference[1]}]")
    return train(*overrides)


def summary(episodes: "Sequence[Episode]", reference: tuple[float, float] | None, name: str) -> str:
    """Episodes, transitions, return and score, in one line."""
    import numpy as np

    from cql.rollout.envs import normalised_score

    returns = np.array([episode.rewards.sum() for episode in episodes])
    line = (
        f"{len(episodes)} episodes, {sum(len(episode.rewards) for episode in episodes):,} transitions, "
        f"return {returns.mean():.1f} +- {returns.std():.1f}"
    )
    if reference is not None:
        scores = normalised_score(returns, *reference)
        line += f", {name} score {scores.mean():.1f} +- {scores.std():.1f}"
    return line


def collect(chosen: argparse.Namespace) -> None:
    """Roll out, write and report."""
    from cql.data import minari_folder
    from cql.data.collect import collect_dataset
    from cql.data.specs import parts
    from cql.rollout.envs import EnvSpec, env_info
    from cql.rollout.reference_scores import AUTO, reference_scores, scores_name

    minari_folder(chosen.dataset_id)  # refuses a malformed id before anything is loaded
    spec = EnvSpec.of(chosen.env, chosen.env_kwargs, chosen.max_episode_steps, chosen.observation_keys)
    acting = parts(chosen.policy, chosen.episodes, chosen.noise, env_info(spec), from_run)
    made_with = spec.kwargs, spec.max_episode_steps
    reference = reference_scores(spec.id, AUTO if chosen.reference is None else chosen.reference, *made_with)
    if reference is None:
        print(f"{chosen.env} has no reference returns: no score; --reference MIN MAX gives it some", file=sys.stderr)
    name = "" if reference is None else scores_name(spec.id, reference, *made_with)
    episodes = collect_dataset(
        chosen.dataset_id,
        spec,
        acting,
        seed=chosen.seed,
        n_envs=chosen.n_envs,
        workers=chosen.workers,
        reference=reference,
        description=chosen.description,
        author=chosen.author,
        overwrite=chosen.overwrite,
        progress=sys.stderr.isatty(),
    )
    assert episodes is not None  # an existing dataset was refused
    start = 0
    for part in acting if len(acting) > 1 else []:
        print(
            f"{printable(part.behaviour.name)}: {summary(episodes[start : start + part.n_episodes], reference, name)}"
        )
        start += part.n_episodes
    print(f"{chosen.dataset_id}: {summary(episodes, reference, name)}, in {minari_folder(chosen.dataset_id)}")
    print(f"train on it: {train_command(chosen.dataset_id, spec, reference)}")


def what_is_kept(chosen: argparse.Namespace, started: float) -> str:
    """What an interrupt left of the dataset, in words."""
    data = sys.modules.get("cql.data")  # imported by now if anything was written
    folder = None if data is None else data.minari_folder(chosen.dataset_id)
    if folder is not None and folder.exists() and folder.stat().st_ctime >= started:
        return f"{chosen.dataset_id} is whole, in {folder}"
    if chosen.overwrite:
        return f"nothing of the new {chosen.dataset_id} is kept; one that was there is as it was"
    return f"nothing of {chosen.dataset_id} is kept"


def main() -> int:
    """The entry point; an interrupt, from the first import on, ends it with exit code 130."""
    chosen, started = arguments(), time.time()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cql.data.local").setLevel(logging.INFO)  # reports a collection that it waits for

    def body() -> int:
        try:
            collect(chosen)
        except KeyboardInterrupt:
            print(f"interrupted: {what_is_kept(chosen, started)}", file=sys.stderr)
            return 130
        return 0

    return exit_code(body)


if __name__ == "__main__":
    sys.exit(main())
