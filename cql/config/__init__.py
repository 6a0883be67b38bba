"""What a run is: schema, checks, messages, composition and identity of configs.

The names that other packages use are here. Importing the package registers schemas and resolvers, which a worker
process needs that unpickles a config and imports nothing else.
"""

from cql.config.choices import EvalWorker, ReturnsToGo
from cql.config.composition import VERSION_BASE, arranged, compose, refuse_beside_resume, register, stackable
from cql.config.conversion import checked, from_dict, to_dict
from cql.config.datasets import D4rlDataset, EmbeddedDataset, MinariDataset, MixtureDataset, TableDataset
from cql.config.folders import (
    RUN_CONFIG_FILE,
    SWEEP_FILE,
    SWEEP_IN_USE_FILE,
    SWEEP_LOCK_FILE,
    has_begun,
    has_results,
    new_run_folder,
    saved_config,
    sweep_started,
)
from cql.config.identity import NO_OTHER_RUN, ROUNDING, differences, differing_keys, run_key, stack_key
from cql.config.keys import CONFIG_DIR, GROUPS, options_of
from cql.config.messages import ConfigError, explain, friendly_errors
from cql.config.names import dataset_label, point_name, task_label
from cql.config.online import Finetune
from cql.config.schema import (
    CqlConfig,
    FixedAlphaCql,
    FixedAlphaTemp,
    LearnedAlphaCql,
    LearnedAlphaTemp,
    NetworkConfig,
    NetworkPart,
    TrainConfig,
    WandbLoggerConfig,
)

__all__ = [
    "CONFIG_DIR",
    "GROUPS",
    "NO_OTHER_RUN",
    "ROUNDING",
    "RUN_CONFIG_FILE",
    "SWEEP_FILE",
    "SWEEP_IN_USE_FILE",
    "SWEEP_LOCK_FILE",
    "VERSION_BASE",
    "ConfigError",
    "CqlConfig",
    "D4rlDataset",
    "EmbeddedDataset",
    "EvalWorker",
    "Finetune",
    "FixedAlphaCql",
    "FixedAlphaTemp",
    "LearnedAlphaCql",
    "LearnedAlphaTemp",
    "MinariDataset",
    "MixtureDataset",
    "NetworkConfig",
    "NetworkPart",
    "ReturnsToGo",
    "TableDataset",
    "TrainConfig",
    "WandbLoggerConfig",
    "arranged",
    "checked",
    "compose",
    "dataset_label",
    "differences",
    "differing_keys",
    "explain",
    "friendly_errors",
    "from_dict",
    "has_begun",
    "has_results",
    "new_run_folder",
    "options_of",
    "point_name",
    "refuse_beside_resume",
    "register",
    "run_key",
    "saved_config",
    "stack_key",
    "stackable",
    "sweep_started",
    "task_label",
    "to_dict",
]
