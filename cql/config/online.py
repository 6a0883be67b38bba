"""The schema of the group `online`: training that continues in the environment."""

from dataclasses import dataclass

from cql.config.bounds import ALPHA_CQL_MAX, AT_LEAST_0, AT_LEAST_1, Bounds, number


@dataclass(kw_only=True)
class Online:
    """Training that continues in the environment, after `n_steps` steps on the dataset."""

    kind: str

    @property
    def n_updates(self) -> int:
        """Training steps in the environment's part of a run."""
        return 0


@dataclass(kw_only=True)
class NoOnline(Online):
    """Training ends with the dataset.

    Attributes:
        kind: `none`.
    """

    kind: str = "none"


@dataclass(kw_only=True)
class Finetune(Online):
    """Training continues with the episodes that each run collects with sampled actions, one or several at a time.

    Attributes:
        kind: `finetune`.
        n_online_steps: Environment steps of each run. Episodes are collected whole, so a run may take more, by less
            than the episodes of one collection.
        n_start_steps: Environment steps that are collected before training continues, a part of
            `online.n_online_steps`. No training steps are taken for them.
        update_to_data: Training steps per environment step.
        episodes_per_collection: Episodes that a run collects at a time, whenever its training has caught up.
        mixing_ratio: Share of each minibatch that comes from the dataset; null draws from both in proportion to their
            sizes.
        buffer_size: Size of the replay buffer: the newest transitions of its own that a run learns from.
        n_steps_per_epoch: Environment steps averaged into one row of metrics; null for `n_steps_per_epoch`.
        alpha_cql: Value of a fixed `alpha_cql` in this part; null keeps it.
        w_cql: Value of `algorithm.w_cql` in this part; null keeps it.
        calibrated: Whether this part uses Cal-QL's floor; null keeps it.
    """

    kind: str = "finetune"
    n_online_steps: int = number(AT_LEAST_1)
    n_start_steps: int = number(AT_LEAST_0)
    update_to_data: int = number(AT_LEAST_1)
    episodes_per_collection: int = number(AT_LEAST_1)
    mixing_ratio: float | None = number(Bounds(at_least=0, at_most=1), hint="0.5 is usual")
    buffer_size: int = number(AT_LEAST_1)
    n_steps_per_epoch: int | None = number(AT_LEAST_1)
    alpha_cql: float | None = number(Bounds(at_least=0, at_most=ALPHA_CQL_MAX), hint="0 continues as SAC")
    w_cql: float | None = number(AT_LEAST_0)
    calibrated: bool | None = None

    @property
    def n_updates(self) -> int:
        """Training steps in the environment's part of a run."""
        return self.update_to_data * (self.n_online_steps - self.n_start_steps)
