"""The picture of a sweep in the maze: ``python scripts/maze.py FOLDER``; see ``--help``."""

import argparse
import sys
from pathlib import Path

from cql.commands import UsageError, exit_code


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw where the data and each arm of a sweep on an embedded pointmaze go, and the critics' values."
    )
    parser.add_argument("folder", type=Path, help="folder of the sweep, such as outputs/sweeps/maze_arms")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="the picture (default: maze.png in the folder)")
    return parser.parse_args()


def draw(chosen: argparse.Namespace) -> None:
    """Read, draw and write."""
    from cql.results.groups import read_results
    from cql.results.maze_figure import draw_maze, maze_runs

    if not chosen.folder.is_dir():
        raise UsageError(f"{chosen.folder} is not a folder: give that of a sweep, such as outputs/sweeps/maze_arms")
    path: Path = chosen.out or chosen.folder / "maze.png"
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.parent} does not exist; make it first")
    print(f"written: {draw_maze(maze_runs(read_results([chosen.folder])), path)}")


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: draw(chosen))


if __name__ == "__main__":
    sys.exit(main())
