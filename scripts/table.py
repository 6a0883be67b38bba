"""A paper's table: ``python scripts/table.py list|run|show``; see ``--help``."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from cql import config, files
from cql.commands import exit_code
from cql.results import groups
from cql.results import runs as results
from cql.results.tables import cells, grid, render, spec
from cql.sweep import status as sweeps

FOLDER = config.CONFIG_DIR / "table"


def arguments() -> argparse.Namespace:
    """Parse the command line; further words after ``run`` are Hydra's."""
    parser = argparse.ArgumentParser(description="Train the runs of a paper's table and compare them with its numbers.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the known tables")
    name_help = "name of a table, or the path of a table's .yaml file"
    data_help = "folder with D4RL's files (default: $D4RL_DIR, else ~/.d4rl/datasets)"

    run = commands.add_parser("run", help="train a table, or resume it")
    run.add_argument("name", help=name_help)
    run.add_argument("--data", type=Path, metavar="FOLDER", default=default_data(), help=data_help)
    run.add_argument("--tasks", metavar="A,B", help="train only these tasks")
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, such as seed=0 n_steps=1000")

    show = commands.add_parser("show", help="compare a table's runs with its published numbers")
    show.add_argument("name", help=name_help)
    show.add_argument("folders", nargs="*", metavar="FOLDER", help="folder or name of a sweep (default: table_NAME)")
    show.add_argument(
        "--statistic",
        choices=results.STATISTICS,
        type=lambda text: text.replace("-", " "),
        default="last",
        help="the evaluations of our runs that count, unless a published column decides (default last)",
    )
    show.add_argument("--out", type=Path, metavar="DIR", help="also write table.md, .tex and .csv to this folder")

    chosen, others = parser.parse_known_args()
    # argparse does not continue a list of words after an option.
    flags = [text for text in others if text.startswith("-")]
    if flags or (others and chosen.command == "list"):
        hint = "; of Hydra's, only KEY=VALUE may follow, and -m is always set" if chosen.command == "run" else ""
        parser.error(f"unrecognized arguments: {' '.join(flags or others)}{hint}")
    if chosen.command == "show" and chosen.out is not None and chosen.out.is_file():
        parser.error(f"--out {chosen.out}: is a file; give a folder, which is created if it does not exist")
    if chosen.command != "list":
        (chosen.overrides if chosen.command == "run" else chosen.folders).extend(others)
    return chosen


def default_data() -> Path:
    """Default folder of D4RL's files."""
    return Path(os.environ.get("D4RL_DIR") or Path.home() / ".d4rl" / "datasets")


def chosen_tasks(table: spec.Table, names: str | None) -> dict[str, spec.Task]:
    """The chosen tasks, in the table's order.

    Raises:
        TableError: The table has no such task.
    """
    wanted = list(table.tasks) if names is None else names.split(",")
    for name in wanted:
        if name not in table.tasks:
            known = ", ".join(table.tasks)
            raise spec.TableError(f"--tasks: table '{table.name}' has no task '{name}'; there are {known}")
    return {name: task for name, task in table.tasks.items() if name in wanted}


def run(table: spec.Table, tasks: dict[str, spec.Task], data: Path, overrides: list[str]) -> int:
    """Train the table's grid, without the tasks whose files are missing, and return the exit code."""
    for text in overrides:
        if "=" not in text and text in table.tasks:
            raise spec.TableError(f"{text}: name tasks with commas and no spaces, --tasks A,B")
        if text.startswith("task="):
            raise spec.TableError(f"{text}: choose tasks by --tasks {text.removeprefix('task=')}")
    missing = grid.missing_files(tasks, data)
    if missing:
        print(f"skipped, since their files are not in {data}:", file=sys.stderr)
        width, file_width = max(map(len, missing)), max(len(path.name) for path in missing.values())
        for name, path in missing.items():
            url = tasks[name].url
            where = f"published at {url}" if url else "the table gives no address for it"
            print(f"  {name:{width}}  {path.name:{file_width}}  {where}", file=sys.stderr)
    there = [name for name in tasks if name not in missing]
    if not there:
        print(f"nothing to train: {data} has none of the files; give their folder with --data FOLDER", file=sys.stderr)
        return 2
    print(f"table {table.name}: {len(there)} of {len(table.tasks)} tasks ({', '.join(there)})", file=sys.stderr)
    from cql.scripts import train

    grid.store(table, there, data)
    sys.argv[1:] = ["-m", f"+experiment={table.sweep_name}", *overrides]
    train.main()
    return 0


def show(table: spec.Table, folders: list[str], statistic: results.Statistic, out: Path | None) -> None:
    """Print the comparison, and write it to a folder if there is one."""
    own = sweeps.SWEEPS / table.sweep_name
    found = [sweeps.find_sweep(folder) for folder in folders] or ([own] if own.is_dir() else [])
    read = None
    try:
        read = groups.read_results(found) if found else None
    except results.ResultsError as error:
        # The sweep has only just started. The table is shown without it.
        print(error, file=sys.stderr)
    runs = [] if read is None else [*read.runs, *read.repeated]
    points = [run.point for run in runs]
    of_table = [(each["task"], each["arm"]) for each in points if each.get("task") in table.tasks and "arm" in each]
    if folders and runs and not of_table:
        raise spec.TableError(
            f"no run of {', '.join(map(str, found))} belongs to table '{table.name}': their names do not give an arm "
            f"and one of its tasks ({', '.join(sorted(table.tasks))}); scripts/report.py shows any sweep"
        )
    # The first cell gives the length of runs that have not begun.
    places = {*of_table, (next(iter(table.tasks)), next(iter(table.arms)))}
    comparison = cells.compare(
        table,
        runs,
        statistic=statistic,
        planned=grid.planned(table, sorted(places), default_data()),
        unread=() if read is None else read.unread,
    )
    made = render.document(comparison)
    print(render.as_text(made, shutil.get_terminal_size((120, 24)).columns), end="")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        files.write_text(out / "table.md", render.as_markdown(made))
        files.write_text(out / "table.tex", render.as_latex(made))
        files.write_text(out / "table.csv", render.as_csv(comparison))
        print(f"written: {out}/table.md, table.tex, table.csv", file=sys.stderr)


def obey(chosen: argparse.Namespace) -> int:
    """List, train or show; the exit code."""
    if chosen.command == "list":
        for name in spec.known_tables(FOLDER):
            table = spec.load_table(name, FOLDER)
            n_runs = len(table.tasks) * len(table.arms) * len(table.seeds)
            print(f"{name:12}  {len(table.tasks):2} tasks, {n_runs:3} runs  {table.title}")
        return 0
    table = spec.load_table(chosen.name, FOLDER)
    if chosen.command == "run":
        return run(table, chosen_tasks(table, chosen.tasks), chosen.data.expanduser(), chosen.overrides)
    with config.friendly_errors():
        show(table, chosen.folders, chosen.statistic, chosen.out)
    return 0


def main() -> int:
    """The entry point; its exit code."""
    chosen = arguments()
    return exit_code(lambda: obey(chosen))


if __name__ == "__main__":
    sys.exit(main())
