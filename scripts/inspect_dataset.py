"""Look at a dataset before training on it: ``python scripts/inspect_dataset.py ID_OR_FILE``; see ``--help``."""

import argparse
import json
import logging
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cql.data.inspection import Source

DATASETS = """\
a dataset is one of
  halfcheetah_medium       an embedded one, made where it is absent; embedded/halfcheetah_medium is the same
  mujoco/hopper/medium-v0  a Minari dataset of this machine, by its id
  FILE.hdf5                a file of D4RL's, with --env
"""


class UsageError(ValueError):
    """What was asked for does not make sense; the message names the argument."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="A page with figures, a summary as JSON, and plain warnings with what to do about them.",
        epilog=DATASETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="ID_OR_FILE", help="see below")
    parser.add_argument("--env", metavar="ENV", help="Gymnasium's id, where the dataset does not say it")
    reference_help = "returns that score 0 and 100 (default: those of the metadata, else D4RL's of the environment)"
    parser.add_argument("--reference", type=float, nargs=2, metavar=("MIN", "MAX"), help=reference_help)
    parser.add_argument("--discount", type=float, default=0.99, help="of the discounted returns (default 0.99)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: outputs/datasets/NAME)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON instead of the text")
    chosen = parser.parse_args()
    if chosen.out is not None and chosen.out.is_file():
        parser.error(f"--out {chosen.out}: is a file; give a folder, which is made where it is not there")
    if not 0.0 <= chosen.discount < 1.0:
        parser.error(f"--discount {chosen.discount:g}: at least 0 and less than 1")
    if chosen.reference is not None and not chosen.reference[1] > chosen.reference[0]:
        parser.error(f"--reference {chosen.reference[0]:g} {chosen.reference[1]:g}: MAX must be greater than MIN")
    return chosen


def read(text: str, env_id: str | None) -> "tuple[str, Source]":
    """A short name, safe in paths, and the dataset.

    Raises:
        UsageError: there is no such dataset, or its environment is not known.
        DatasetError: it cannot be read.
    """
    from cql.data import inspection

    path, name = Path(text).expanduser(), text.removeprefix("embedded/")
    if path.is_file() and path.suffix not in (".hdf5", ".h5"):
        raise UsageError(f"{text}: no HDF5 file; D4RL's end in .hdf5")
    if path.suffix in (".hdf5", ".h5"):
        if not path.is_file():
            raise UsageError(f"{text} does not exist")
        if env_id is None:
            raise UsageError(f"{text}: a D4RL file does not say its environment: add --env, such as --env Hopper-v5")
        return path.stem, inspection.read_d4rl(path, env_id)
    from cql.data.embedded import EMBEDDED, ensure_embedded

    if name in EMBEDDED:
        return name, inspection.read_minari(ensure_embedded(name, progress=sys.stderr.isatty()))
    if "/" not in name or name != text:
        raise UsageError(
            f"{text}: neither a file nor the id of a Minari dataset, which looks like mujoco/hopper/medium-v0, nor an "
            f"embedded dataset: {', '.join(EMBEDDED)}"
        )
    return text, inspection.read_minari(text)


def inspect(chosen: argparse.Namespace) -> None:
    """Read, count, write and report."""
    from cql.data import inspection
    from cql.results import inspection_page
    from cql.rollout.envs import env_info
    from cql.rollout.reference_scores import known_scores

    name, source = read(chosen.dataset, chosen.env)
    env_id = chosen.env or source.raw.env_id
    if env_id is None:
        raise UsageError(
            f"{chosen.dataset}: its metadata do not say its environment: add --env, such as --env Hopper-v5"
        )
    reference = None if chosen.reference is None else (chosen.reference[0], chosen.reference[1])
    if reference is None and not source.has_reference:
        reference = known_scores(env_id)
    found = inspection.inspect(source, env_info(env_id), reference=reference, discount=chosen.discount)
    out = chosen.out or Path("outputs", "datasets", re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed")
    command = shlex.join(["python", "scripts/inspect_dataset.py", *sys.argv[1:]])
    page = inspection_page.write_page(found, out, title=source.raw.name if "/" in name else name, command=command)
    print(json.dumps(inspection.summary(found), indent=1) if chosen.json else inspection.text(found))
    print(f"written: {page}, summary.json and figures beside it", file=sys.stderr if chosen.json else sys.stdout)


def main() -> int:
    """Inspect; errors of the user's go to stderr with exit code 2."""
    chosen = arguments()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("cql").setLevel(logging.INFO)  # says that it makes an embedded dataset
    from cql.data import DatasetError
    from cql.rollout.envs import EnvError

    try:
        inspect(chosen)
    except (UsageError, DatasetError, EnvError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
