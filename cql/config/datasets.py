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
        normalise_observations: Whether to subtract the data's mean from observations and divide by the data's standard
            deviation, in evaluations too.
        reward_scale: Factor of the rewards.
        reward_bias: Constant that is added to the scaled rewards.
        n_episodes: Number of episodes to use, chosen by `dataset.subset_seed`; null for all.
        fraction: Share of the episodes to use, chosen by `dataset.subset_seed`; null for all.
        subset_seed: Seed that chooses the used and the held-out episodes.
        validation_fraction: Share of the episodes that training never sees, chosen by `dataset.subset_seed`. At each
            evaluation the policy is scored on them, see `cql.algorithm.scorers`; 0 for none.
        timeouts_as_terminals: Whether to treat truncated episodes as terminated. Then the critics do not bootstrap at a
            time limit, which is wrong; use it only to reproduce code that does so.
        normalise_rewards: Whether to first divide the rewards by the range of the episodes' returns and multiply them
            by the environment's time limit.
        action_clip: Largest magnitude of the data's actions, which are scaled to [-1, 1]; null does not clip them.
        returns_to_go: How the returns are counted that are Cal-QL's floor. `truncate` sums the recorded rewards.
            `bootstrap_failure` continues the lowest reward of the dataset for ever in an episode in which every reward
            is the lowest. `bootstrap_last_failure` does so in every episode that ends with that reward.
        end_at_success: Whether to cut each episode after its first success and make that step terminal. For tasks that
            end at the goal if the recording continued, as in Minari's AntMaze data.
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
        name: Name of the embedded dataset.
    """

    kind: str = "embedded"
    name: str = text(ask="the name of an embedded dataset, e.g. halfcheetah_medium", one_of=EMBEDDED_DATASETS)


@dataclass(kw_only=True)
class MinariDataset(Dataset):
    """A Minari dataset, local or downloaded.

    Attributes:
        id: Minari id, such as `mujoco/hopper/medium-v0`.
        download: Whether to download it from Minari's hub if it is not local.
    """

    kind: str = "minari"
    id: str = text(ask="the id of a Minari dataset, e.g. dataset.id=mujoco/hopper/medium-v0")
    download: bool = True  # a default, because a dataset of a mixture need not say it


@dataclass(kw_only=True)
class D4rlDataset(Dataset):
    """A D4RL HDF5 file. If it has no `timeouts`, like the first `-v0` files, they are derived by D4RL's rule.

    Attributes:
        path: Path of the HDF5 file.
    """

    kind: str = "d4rl"
    path: str = text(ask="the path of a D4RL HDF5 file, e.g. dataset.path=data/halfcheetah_medium-v2.hdf5")


@dataclass(kw_only=True)
class TableDataset(Dataset):
    """A CSV or Parquet file with a row for each step; see `cql.data.table`.

    Lists of columns hold names, and patterns with a star that stands for a whole number: `obs_*` are all such columns
    in the order of their numbers.

    Attributes:
        path: Path of the file, `.csv`, `.csv.gz` or `.parquet`.
        observation_columns: Columns of the observation.
        action_columns: Columns of the action.
        reward_column: Column of the reward.
        terminated_column: Column that is 1 where an episode ended in a terminal state; null if none did.
        truncated_column: Column that is 1 where the recording of an episode was cut; null if there is none.
        episode_column: Column of the episodes' ids; null if the terminated and truncated columns say where they end.
        next_observation_columns: Columns of the next observation; null for the observation in the following row.
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
