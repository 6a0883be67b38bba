"""Inspect a dataset before training on it: ``python scripts/inspect_dataset.py ID_OR_FILE``; see ``--help``."""

import argparse
import json
import logging
import math
import re
import sys
from pathlib import Path

from cql.commands import exit_code, printable, real, script

DATASETS = """\
a dataset is one of
  halfcheetah_medium       an embedded one, made on first use; embedded/halfcheetah_medium is the same
  mujoco/hopper/medium-v0  a Minari dataset on this machine, by its id
  FILE.hdf5                a D4RL file, with --env
  FILE.csv, .parquet       a table, with the names of its columns, such as --action-columns 'action_*'
"""


_COLUMNS = {
    "observation_columns": None,
    "action_columns": None,
    "reward_column": "reward",
    "terminated_column": "terminated",
    "truncated_column": None,
    "episode_column": None,
    "next_observation_columns": None,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Inspect a dataset: a page with figures, a summary as JSON, and warnings with advice.",
        epilog=DATASETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="ID_OR_FILE", help="see below")
    env_help = "Gymnasium's id, if the dataset does not name it; none if there is no simulator (of a table the default)"
    parser.add_argument("--env", metavar="ENV", help=env_help)
    keys_help = "which parts of a Dict observation, in that order, such as achieved_goal,observation"
    parser.add_argument("--observation-keys", type=lambda text: text.split(","), metavar="KEY,...", help=keys_help)
    columns = parser.add_argument_group("columns of a table; in a list a star stands for a whole number")
    for name, default in _COLUMNS.items():
        is_list = name.endswith("columns")
        columns.add_argument(
            f"--{name.replace('_', '-')}",
            type=(lambda text: text.split(",")) if is_list else str,
            metavar="NAME,..." if is_list else "NAME",
            default=default,
            help=None if default is None else f"(default: {default})",
        )
    reference_help = "returns that score 0 and 100 (default: those of the metadata, else D4RL's of the environment)"
    parser.add_argument("--reference", type=real(-math.inf), nargs=2, metavar=("MIN", "MAX"), help=reference_help)
    discount_help = "discount factor of the discounted returns (default 0.99)"
    parser.add_argument("--discount", type=real(0, 1, below=True), default=0.99, help=discount_help)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="output folder (default: outputs/datasets/NAME)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON instead of the text")
    chosen = parser.parse_args()
    if chosen.out is not None and chosen.out.is_file():
        parser.error(f"--out {chosen.out}: is a file; give a folder, which is created if needed")
    if chosen.reference is not None and not chosen.reference[1] > chosen.reference[0]:
        parser.error(f"--reference {chosen.reference[0]:g} {chosen.reference[1]:g}: MAX must be greater than MIN")
    return chosen


def inspect(chosen: argparse.Namespace) -> None:
    """Read, count, write and report.

    Raises:
        DatasetError: the dataset is not found, cannot be read, or does not fit its environment.
        EnvError: the environment cannot be used.
    """
    from cql.config.schema import NO_SIMULATOR
    from cql.data import DatasetError, inspection, recorded_info
    from cql.data.table import SUFFIXES
    from cql.results.inspection_page import write_page
    from cql.rollout.envs import EnvSpec, env_info, refuse_foreign_package

    columns = {key: getattr(chosen, key) or None for key in _COLUMNS}
    name, source = inspection.find(chosen.dataset, chosen.env, chosen.observation_keys, columns)
    is_table = chosen.dataset.lower().endswith(SUFFIXES)
    env_id = chosen.env or source.raw.env_id or (NO_SIMULATOR if is_table else None)
    if env_id is None:
        raise DatasetError(f"{chosen.dataset} does not name its environment: add --env, such as --env Hopper-v5")
    refuse_foreign_package(env_id, f"{chosen.dataset}", chosen.env, "--env")
    raw = source.raw
    spec = EnvSpec.of(env_id, raw.env_kwargs, raw.max_episode_steps, raw.observation_keys)  # as it was recorded
    reference = None if chosen.reference is None else (chosen.reference[0], chosen.reference[1])
    info = recorded_info([raw]) if env_id == NO_SIMULATOR else env_info(spec)
    found = inspection.inspect(source, info, reference=reference, discount=chosen.discount)
    out = chosen.out or Path("outputs", "datasets", re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed")
    command = script("inspect_dataset", *sys.argv[1:])
    page = write_page(found, out, title=source.raw.name if "/" in name else name, command=command)
    print(json.dumps(inspection.summary(found), indent=1) if chosen.json else printable(inspection.text(found)))
    print(f"written: {page}, with summary.json and figures", file=sys.stderr if chosen.json else sys.stdout)


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cql").setLevel(logging.INFO)  # says that it makes an embedded dataset
    return exit_code(lambda: inspect(chosen))


if __name__ == "__main__":
    sys.exit(main())
