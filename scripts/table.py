"""A paper's table: ``python scripts/table.py list|run|show``; see ``--help``."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cql import config
from cql.results import page, tables
from cql.results import runs as results
from cql.sweep import status as sweeps

FOLDER = config.CONFIG_DIR / "table"


def arguments() -> argparse.Namespace:
    """The command line; what ``run`` does not know goes to Hydra."""
    parser = argparse.ArgumentParser(description="Train the runs of a paper's table, and set them beside its numbers.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the known tables")
    name_help = "of the table, or the path of a table's .yaml file"
    data_help = "folder with D4RL's files (default: $D4RL_DIR, else ~/.d4rl/datasets)"

    run = commands.add_parser("run", help="train it, or go on where it stopped")
    run.add_argument("name", help=name_help)
    run.add_argument("--data", type=Path, metavar="FOLDER", default=default_data(), help=data_help)
    run.add_argument("--tasks", metavar="A,B", help="only these of its tasks")
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, such as seed=0 n_steps=1000")

    show = commands.add_parser("show", help="set what is trained beside what is published")
    show.add_argument("name", help=name_help)
    show.add_argument("folders", nargs="*", metavar="FOLDER", help="of a sweep, or its name (default: its own)")
    show.add_argument(
        "--statistic",
        choices=results.STATISTICS,
        type=lambda text: text.replace("-", " "),
        default="last",
        help="of our evaluations, where the published column does not decide (default last); last-five is last five",
    )
    show.add_argument("--out", type=Path, metavar="DIR", help="also write table.md, table.tex and table.csv there")

    chosen, others = parser.parse_known_args()
    # argparse does not take up a list of words again behind an option.
    flags = [text for text in others if text.startswith("-")]
    if flags or (others and chosen.command == "list"):
        hint = "; of Hydra's, only KEY=VALUE may follow, and -m is given anyway" if chosen.command == "run" else ""
        parser.error(f"unrecognized arguments: {' '.join(flags or others)}{hint}")
    if chosen.command == "show" and chosen.out is not None and chosen.out.is_file():
        parser.error(f"--out {chosen.out}: is a file; give a folder, which is made where it is not there")
    if chosen.command != "list":
        (chosen.overrides if chosen.command == "run" else chosen.folders).extend(others)
    return chosen


def default_data() -> Path:
    """Where D4RL's files are looked for."""
    return Path(os.environ.get("D4RL_DIR") or Path.home() / ".d4rl" / "datasets")


def chosen_tasks(table: tables.Table, names: str | None) -> list[tables.Task]:
    """The tasks that are asked for, in the table's order.

    Raises:
        TableError: the table has no task of a name.
    """
    known = [task.name for task in table.tasks]
    wanted = known if names is None else names.split(",")
    for name in wanted:
        if name not in known:
            raise tables.TableError(f"--tasks: table '{table.name}' has no task '{name}'; there are {', '.join(known)}")
    return [task for task in table.tasks if task.name in wanted]


def store(table: tables.Table, tasks: list[tables.Task], data: Path) -> None:
    """Tell Hydra of the table's tasks and of its experiment."""
    from hydra.core.config_store import ConfigStore

    # Hydra 1.4 wants to be told that a config may come a second time.
    again: dict[str, Any] = {} if config.VERSION_BASE else {"replace": True}
    for (group, option), node in tables.hydra_options(table, tasks, data).items():
        ConfigStore.instance().store(group=group, name=option, node=node, package="_global_", provider="cql", **again)


def run(table: tables.Table, tasks: list[tables.Task], data: Path, overrides: list[str]) -> int:
    """Train the table's grid, without the tasks whose files are not there; the exit code."""
    for text in overrides:
        if "=" not in text and text in (task.name for task in table.tasks):
            raise tables.TableError(f"{text}: name tasks with commas and no spaces, --tasks A,B")
        if text.startswith("task="):
            raise tables.TableError(f"{text}: choose tasks by --tasks {text.removeprefix('task=')}")
    missing = tables.missing_files(tasks, data)
    if missing:
        print(f"left out, for want of their files in {data}:", file=sys.stderr)
        task_width = max(len(task.name) for task, _ in missing)
        file_width = max(len(path.name) for _, path in missing)
        for task, path in missing:
            where = f"published at {task.url}" if task.url else "the table does not say where it is published"
            print(f"  {task.name:{task_width}}  {path.name:{file_width}}  {where}", file=sys.stderr)
    there = [task for task in tasks if all(task is not other for other, _ in missing)]
    if not there:
        print(f"nothing to train: no file is in {data}; give their folder with --data FOLDER", file=sys.stderr)
        return 2
    names = ", ".join(task.name for task in there)
    print(f"table {table.name}: {len(there)} of {len(table.tasks)} tasks ({names})", file=sys.stderr)
    from cql.scripts import train

    store(table, there, data)
    sys.argv[1:] = ["-m", f"+experiment={table.sweep_name}", *overrides]
    train.main()
    return 0


def planned(table: tables.Table, cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the table means runs to be: config keys, dotted, by task and arm; without arms that are not known here."""
    import hydra
    from hydra.errors import HydraException

    config.register()
    store(table, list(table.tasks), default_data())
    found = {}
    with hydra.initialize_config_dir(str(config.CONFIG_DIR), **config.VERSION_BASE):
        for task, arm in cells:
            try:
                cfg = hydra.compose("train", [f"+experiment={table.sweep_name}", f"task={task}", f"arm={arm}"])
            except HydraException:
                if arm in table.arms:
                    raise
                continue
            found[task, arm] = results.flat(config.to_dict(config.checked(cfg)))
    return found


def show(table: tables.Table, folders: list[str], statistic: results.Statistic, out: Path | None) -> None:
    """Print the comparison, and write it down where asked."""
    own = sweeps.SWEEPS / table.sweep_name
    found = [sweeps.find_sweep(folder) for folder in folders] or ([own] if own.is_dir() else [])
    read = None
    try:
        read = results.read_results(found) if found else None
    except results.ResultsError as error:
        # A sweep that has only just begun; the table is shown without it.
        print(error, file=sys.stderr)
    runs = [] if read is None else [*read.runs, *read.repeated]
    points = [run.point for run in runs]
    # The first cell too: it tells how long runs are that have not begun.
    names = {task.name for task in table.tasks}
    if folders and runs and not any(point.get("task") in names and "arm" in point for point in points):
        raise tables.TableError(
            f"no run of {', '.join(map(str, found))} belongs to table '{table.name}': their names have no arm and no "
            f"task of its ({', '.join(sorted(names))}); scripts/report.py shows any sweep"
        )
    cells = {(point["task"], point["arm"]) for point in points if point.get("task") in names and "arm" in point}
    cells |= {(task.name, next(iter(table.arms))) for task in table.tasks[:1]}
    comparison = tables.compare(
        table,
        runs,
        statistic=statistic,
        planned=planned(table, sorted(cells)),
        unread=() if read is None else read.unread,
    )
    document = tables.document(comparison)
    print(tables.as_text(document, shutil.get_terminal_size((120, 24)).columns), end="")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for suffix, text in (
            ("md", tables.as_markdown(document)),
            ("tex", tables.as_latex(document)),
            ("csv", tables.as_csv(comparison)),
        ):
            page.write(out / f"table.{suffix}", text)
        print(f"written: {out}/table.md, table.tex, table.csv", file=sys.stderr)


def main() -> int:
    """List, train or show; errors of the user's go to stderr with exit code 2."""
    chosen = arguments()
    try:
        if chosen.command == "list":
            for name in tables.known_tables(FOLDER):
                table = tables.load_table(name, FOLDER)
                n_runs = len(table.tasks) * len(table.arms) * len(table.seeds)
                print(f"{name:12}  {len(table.tasks):2} tasks, {n_runs:3} runs  {table.title}")
            return 0
        table = tables.load_table(chosen.name, FOLDER)
        if chosen.command == "run":
            return run(table, chosen_tasks(table, chosen.tasks), chosen.data.expanduser(), chosen.overrides)
        with config.friendly_errors():
            show(table, chosen.folders, chosen.statistic, chosen.out)
    except (tables.TableError, results.ResultsError, sweeps.NoSweepError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
