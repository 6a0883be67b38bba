"""The schema of the group `dataset`: what a run learns from."""

from dataclasses import dataclass, field
from typing import Any

from cql.config.bounds import AT_LEAST_1, POSITIVE, SEED, Bounds, later, number, text
from cql.config.choices import ReturnsToGo


@dataclass(kw_only=True)
class Dataset:
    """What every dataset has.

    Attributes:
        kind: Where the data come from.
        normalise_observations: Subtract the data's mean and divide by its standard deviation, in evaluation too.
        reward_scale: Multiplies the rewards.
        reward_bias: Is added to the scaled rewards.
        n_episodes: Use that many episodes, chosen by `subset_seed`; null for all.
        fraction: Use that share of the episodes; null for all.
        subset_seed: Seed of that choice.
        validation_fraction: Share of the episodes that training never sees, also chosen by `subset_seed`. At each
            evaluation the policy is scored on them, see `cql.algorithm.scorers`; 0 for none.
        timeouts_as_terminals: Also cut the return at truncations. Teaches the critics a false end; it is here to
            reproduce code that does so.
        normalise_rewards: First divide the rewards by the range of the episodes' returns, and multiply them by the
            environment's time limit.
        action_clip: Largest magnitude of the data's actions, which are scaled to [-1, 1]; null leaves them.
        returns_to_go: Of Cal-QL.
        end_at_success: Cut each episode behind its first success, and make that step terminal. For data of tasks that
            end at the goal whose recording went on, as Minari's AntMaze.
    """

    kind: str
    normalise_observations: bool
    reward_scale: float = number(POSITIVE)
    reward_bias: float = number()
    n_episodes: int | None = number(AT_LEAST_1)
    fraction: float | None = number(Bounds(above=0, at_most=1))
    subset_seed: int = number(SEED)
    timeouts_as_terminals: bool
    normalise_rewards: bool = False
    action_clip: float | None = later(None, Bounds(above=0, at_most=1), hint="published code has 0.99999")
    returns_to_go: ReturnsToGo = ReturnsToGo.truncate
    end_at_success: bool = False
    validation_fraction: float = later(0.0, Bounds(at_least=0, below=1), hint="0.1 is usual")


QUALITIES = ("medium", "medium_replay", "medium_expert", "random")
EMBEDDED_DATASETS = (
    *(f"{task}_{quality}" for task in ("halfcheetah", "hopper") for quality in QUALITIES),
    "pointmaze_umaze",
    "pointmaze_medium",
)


@dataclass(kw_only=True)
class EmbeddedDataset(Dataset):
    """A dataset made from the behaviour policies in this package, on first use, as a local Minari dataset.

    Attributes:
        name: Which.
    """

    kind: str = "embedded"
    name: str = text(ask="the name of an embedded dataset, e.g. halfcheetah_medium", one_of=EMBEDDED_DATASETS)


@dataclass(kw_only=True)
class MinariDataset(Dataset):
    """A Minari dataset, local or downloaded.

    Attributes:
        id: Such as `mujoco/hopper/medium-v0`.
        download: Fetch it from Minari's hub when it is not local.
    """

    kind: str = "minari"
    id: str = text(ask="the id of a Minari dataset, e.g. dataset.id=mujoco/hopper/medium-v0")
    download: bool = True  # a default, because a dataset of a mixture need not say it


@dataclass(kw_only=True)
class D4rlDataset(Dataset):
    """A D4RL HDF5 file. If it has no `timeouts`, like the first `-v0` files, they are derived by D4RL's rule.

    Attributes:
        path: The file.
    """

    kind: str = "d4rl"
    path: str = text(ask="the path of a D4RL HDF5 file, e.g. dataset.path=data/halfcheetah_medium-v2.hdf5")


@dataclass(kw_only=True)
class TableDataset(Dataset):
    """A CSV or Parquet file with a row for each step; see `cql.data.table`.

    Lists of columns hold names, and patterns with a star that stands for a whole number: `obs_*` are all such columns
    in the order of their numbers.

    Attributes:
        path: The file, `.csv`, `.csv.gz` or `.parquet`.
        observation_columns: Of the observation.
        action_columns: Of the action.
        reward_column: Of the reward.
        terminated_column: 1 where an episode ended in a terminal state; null if none did.
        truncated_column: 1 where the recording of an episode was cut; null if no column says so.
        episode_column: Ids of episodes; null if the two columns before say where they end.
        next_observation_columns: Of the next observation; null for the observation in the following row.
    """

    kind: str = "table"
    path: str = text(ask="the path of a table, e.g. dataset.path=data/log.csv")
    observation_columns: list[str] = field(metadata={"ask": "columns, e.g. 'dataset.observation_columns=[obs_*]'"})
    action_columns: list[str] = field(metadata={"ask": "columns, e.g. 'dataset.action_columns=[action_*]'"})
    # With defaults, because a dataset of a mixture need not say them.
    reward_column: str = "reward"
    terminated_column: str | None = "terminated"
    truncated_column: str | None = None
    episode_column: str | None = None
    next_observation_columns: list[str] | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The keys of columns, which are the arguments of `cql.data.load_table`."""
        return {name: value for name, value in vars(self).items() if name.endswith(("_column", "_columns"))}


@dataclass(kw_only=True)
class MixtureDataset(Dataset):
    """Several datasets as one; see `cql.config.mixture`.

    Attributes:
        mixture: A mapping for each dataset: its `kind` and the keys of that kind, those keys of every dataset in which
            it has another value than the mixture, and its `ratio`, its share of each minibatch, which all have or none.
    """

    kind: str = "mixture"
    mixture: Any = field(  # a list of mappings; OmegaConf knows no union, and `conversion` checks it
        metadata={"ask": "datasets, e.g. 'dataset.mixture=[{kind:embedded,name:hopper_random},{kind:d4rl,path:FILE}]'"}
    )
