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
    parser.add_argument(
        "--label", action="append", default=[], metavar="ARM=TEXT", help="another name for an arm; may be repeated"
    )
    return parser.parse_args()


def draw(chosen: argparse.Namespace) -> None:
    """Read, draw and write."""
    from cql.results.groups import read_results, renamed
    from cql.results.maze_figure import draw_maze, maze_runs

    if not chosen.folder.is_dir():
        raise UsageError(f"{chosen.folder} is not a folder: give that of a sweep, such as outputs/sweeps/maze_arms")
    path: Path = chosen.out or chosen.folder / "maze.png"
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.parent} does not exist; make it first")
    labels = dict(text.rpartition("=")[::2] for text in chosen.label)
    results = read_results([chosen.folder])
    unknown = [arm for arm, text in labels.items() if arm not in results.arms or not text]
    if unknown:
        raise UsageError(f"--label {unknown[0]}: write ARM=TEXT, with one of {', '.join(results.arms)}")
    print(f"written: {draw_maze(maze_runs(renamed(results, labels)), path)}")


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: draw(chosen))


if __name__ == "__main__":
    sys.exit(main())
