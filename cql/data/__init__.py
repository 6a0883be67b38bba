"""Offline datasets: read, checked against an environment, and turned into the tensors that training reads.

`load_minari`, `load_d4rl` and `load_table` read a file into `RawData`, in the environment's units. `check` compares it
with the environment that it is used with. `prepare` turns it into `Transitions`.
"""

from cql.data.checks import ACTION_TOLERANCE, check
from cql.data.d4rl import TIME_LIMIT, load_d4rl
from cql.data.local import WORK_FOLDER, minari_folder, minari_root, minari_root_set_to, new_dataset
from cql.data.minari import load_minari
from cql.data.raw import (
    DatasetError,
    DatasetNotFoundError,
    RawData,
    each_once,
    end_at_success,
    fingerprint,
    hold_out,
    select_episodes,
)
from cql.data.recorded import recorded_info
from cql.data.table import load_table
from cql.data.transitions import STD_FLOOR, Normaliser, Transitions, join, normaliser_of, prepare

__all__ = [
    "ACTION_TOLERANCE",
    "STD_FLOOR",
    "TIME_LIMIT",
    "WORK_FOLDER",
    "DatasetError",
    "DatasetNotFoundError",
    "Normaliser",
    "RawData",
    "Transitions",
    "check",
    "each_once",
    "end_at_success",
    "fingerprint",
    "hold_out",
    "join",
    "load_d4rl",
    "load_minari",
    "load_table",
    "minari_folder",
    "minari_root",
    "minari_root_set_to",
    "new_dataset",
    "normaliser_of",
    "prepare",
    "recorded_info",
    "select_episodes",
]
