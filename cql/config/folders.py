"""Folders of runs and sweeps: how they are named, and how a start claims them.

Hydra asks resolvers for the names of folders, and asks again whenever it reads the config: to show it, for `--help`, in
worker processes. So a resolver only names a folder, and :class:`MakeFolders` makes it when a run or a sweep starts.
"""

import functools
import io
import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cql import lock
from cql.config.conversion import checked, to_dict
from cql.config.identity import differences
from cql.config.keys import GROUPS
from cql.config.messages import ConfigError, friendly_errors
from cql.config.names import dataset_label, path_safe, point_name, unsafe_name
from cql.config.schema import NO_SIMULATOR, TrainConfig
from cql.files import contents, damage, remove_leftovers, write_text

SWEEP_FILE = "sweep.json"
# Locks of a sweep: of the one process that starts it, and of all that train its runs.
SWEEP_LOCK_FILE, SWEEP_IN_USE_FILE = ".starting", ".running"
RUN_CONFIG_FILE = ".hydra/config.yaml"
# In OmegaConf's cache of resolved values, which Hydra hands on to the configs of a sweep's jobs. OmegaConf does not
# cache by itself what a resolver makes of the whole config.
_NAMED = "cql.folder"
_REMEDY = "put back the file, or move the run's folder away and start the run anew"
_starting, _running = ExitStack(), ExitStack()

log = logging.getLogger(__name__)


class MakeFolders(Callback):
    """Makes the folder of a run, or the folder of a sweep with its `sweep.json`.

    Hydra calls it after the config is composed and before anything is written. It reports what a callback raises as a
    warning only, so the config of a run is checked earlier, by the resolvers, and a sweep that is refused exits.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Claim the folder of a single run, unless the command line names it."""
        with suppress(OmegaConfBaseException):  # a wrong config: Hydra reads the name next, and ends with this error
            str(config.hydra.run.dir)  # names it
            _claim_named(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Claim the folder of a sweep, and write down what its runs have in common."""
        if "env" not in config:
            return
        with friendly_errors():  # Hydra would only warn of an error
            # Kept for the jobs, whose command lines no longer tell what is swept.
            OmegaConf.get_cache(config)["cql.sweep"] = {"constant": _constant_keys(config)}
            named = Path(config.hydra.sweep.dir)
            try:
                _sweep_plan(config, named)  # before anything is made
                _claim_named(config)
                folder = Path(config.hydra.sweep.dir)
                _wait_for_others(folder)
                configure_log(config.hydra.hydra_logging, config.hydra.verbose)  # now there is a place for sweep.log
                plan = _sweep_plan(config, folder)  # once more: somebody may have begun the sweep meanwhile
                remove_leftovers(folder, deep=False)
                write_text(folder / SWEEP_FILE, json.dumps(plan, indent=1) + "\n")
                _running.enter_context(lock.share(folder, SWEEP_IN_USE_FILE))
            except OSError as error:
                raise ConfigError(f"the folder of the sweep cannot be read or written: {error}") from error

    def on_job_start(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002
        """Let other starts of the same sweep go on: those with the same config train what this one does not."""
        sweep_started()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002
        """Leave the sweep's folder to others."""
        sweep_started()
        _running.close()


def sweep_started() -> None:
    """Let other starts of the same sweep go on: the runs of this one are known."""
    _starting.close()


def has_results(run: Path) -> bool:
    """Whether a run's folder holds what a training has left.

    A start that went no further than its config, since its dataset was not there, say, is in nobody's way.
    """
    return any((run / "checkpoints").glob("*.pt")) or (run / "metrics.jsonl").exists()


def has_begun(run: Path) -> bool:
    """Whether a run's folder has results, or a process is about to train there."""
    return has_results(run) or lock.held(run)


def _wait_for_others(folder: Path) -> None:
    """Hold the lock of a sweep's start; wait for another process that holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        # If the other process was refused, it has removed the folder.
        with suppress(FileNotFoundError):
            try:
                _starting.enter_context(lock.hold(folder, name=SWEEP_LOCK_FILE))
            except lock.FolderInUseError:
                log.info("another process is starting the sweep %s; waiting for it", folder)
                _starting.enter_context(lock.hold(folder, name=SWEEP_LOCK_FILE, patience=float("inf")))
            return


def run_dir(*, _root_: DictConfig) -> str:
    """`hydra.run.dir`: the folder of a single run, or of the run that is resumed."""
    if "env" not in _root_:
        return "outputs/ENV/DATASET/TIME_seedN"  # `--cfg hydra` shows Hydra's own part, without the experiment
    folder = _resumed(_root_)
    if folder is not None:
        return str(folder)
    for key, unset in (("sweep_name", None), ("retry_failed", False)):
        if _root_.get(key, unset) != unset and OmegaConf.select(_root_, "hydra.mode") is not None:
            raise ConfigError(f"{key}={_root_[key]} has no effect on a single run: add -m for a sweep, or drop it")
    # Hydra makes the folder before the task starts: checking here leaves none behind for a wrong config.
    config = checked(_root_)
    return _named_by_time(_root_, _task_folder(config), f"_seed{config.seed}")


def sweep_dir(*, _root_: DictConfig) -> str:
    """`hydra.sweep.dir`: the folder of a sweep."""
    parent, name = Path("outputs", "sweeps"), _root_.get("sweep_name")
    if name is None:
        return _named_by_time(_root_, parent)
    if name != path_safe(name):
        raise ConfigError(unsafe_name(name))
    return str(parent / name)


def sweep_log(*, _root_: DictConfig) -> str:
    """The file of the sweep's own log; the null device if there is no sweep, or as long as it has no folder."""
    if str(OmegaConf.select(_root_, "hydra.mode")) != "RunMode.MULTIRUN" or "env" not in _root_:
        return os.devnull
    folder = Path(_root_.hydra.sweep.dir)
    return str(folder / "sweep.log") if folder.is_dir() else os.devnull


def job_name(*, _root_: DictConfig) -> str:
    """`hydra.sweep.subdir`: the folder of one run within the sweep's."""
    if "env" not in _root_ or OmegaConf.is_missing(_root_.hydra.job, "num"):
        return "POINT__seed-N"
    folder = _resumed(_root_)
    if folder is not None:
        # An absolute path wins over the sweep's folder that Hydra puts before it.
        return str(folder.resolve())
    constant = OmegaConf.get_cache(_root_)["cql.sweep"].get("constant", ())
    swept = [text for text in _root_.hydra.overrides.task if text.partition("=")[0] not in constant]
    name = point_name([text for text in swept if not text.startswith("hydra")], _root_.seed)
    return _known_point(Path(_root_.hydra.sweep.dir), name, to_dict(checked(_root_))) or name


def saved_config(path: Path) -> dict[str, Any]:
    """The plain config in a file of a run's folder.

    Raises:
        ConfigError: The file is damaged, or empty, as a loss of power may leave it.
    """
    return _saved_config(path, path.stat().st_mtime_ns)


def new_folder(parent: Path, name: str) -> Path:
    """Make and return `parent/name`, or `parent/name_2`, `_3`, ... if another start has taken it."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            # The one step in which two starts within a second cannot both succeed.
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def new_run_folder(config: TrainConfig) -> Path:
    """Make the folder of a single run that is started without Hydra, named as Hydra's would be."""
    return new_folder(_task_folder(config), f"{_now()}_seed{config.seed}")


def _task_folder(config: TrainConfig) -> Path:
    return Path("outputs", path_safe(config.env.id), dataset_label(config.dataset))


def _now() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}"


def _named_by_time(root: DictConfig, parent: Path, suffix: str = "") -> str:
    """A folder named by the time of the start: the same one each time that Hydra asks for it."""
    named = OmegaConf.get_cache(root)[_NAMED]
    return str(named.setdefault(str(parent), str(parent / f"{_now()}{suffix}")))


def _claim_named(root: DictConfig) -> None:
    """Make the folders that were named by the time; one that another start has taken gets a number."""
    named = OmegaConf.get_cache(root)[_NAMED]
    for parent, folder in named.items():
        named[parent] = str(new_folder(Path(parent), Path(folder).name))


def _resumed(root: DictConfig) -> Path | None:
    folder = root.get("resume")
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise ConfigError(f"resume={folder}: there is no such folder; give the folder of a run, e.g. one in outputs/")
    if not Path(folder, ".hydra", "config.yaml").is_file():
        # Before Hydra opens a log there.
        is_sweep = (Path(folder) / SWEEP_FILE).exists()
        other = f"; the sweep resumes by its own command, with sweep_name={Path(folder).name}" if is_sweep else ""
        raise ConfigError(f"resume={folder}: it holds no .hydra/config.yaml, so this is not the folder of a run{other}")
    return Path(folder)


def _typed_keys(root: DictConfig) -> dict[str, bool]:
    """The keys on the command line, and whether each is swept there; if one is given twice, the last counts."""
    parsed = OverridesParser.create().parse_overrides([str(text) for text in root.hydra.overrides.task])
    return {str(each.get_key_element()): each.is_sweep_override() for each in parsed}


def _preset_keys(root: DictConfig) -> list[str]:
    """The keys that the experiment's own file sweeps."""
    return [str(key) for key in OmegaConf.select(root, "hydra.sweeper.params") or ()]


def _constant_keys(root: DictConfig) -> list[str]:
    """The keys that the command line fixes for all runs.

    A key that the experiment sweeps is not one of them, even if the command line leaves it one value: the names of the
    points stay the same.
    """
    presets = _preset_keys(root)
    return [key for key, is_swept in _typed_keys(root).items() if not is_swept and key not in presets]


def _swept_keys(root: DictConfig) -> list[str]:
    constant = _constant_keys(root)
    typed = [key for key, is_swept in _typed_keys(root).items() if is_swept]
    return sorted({key.lstrip("+").replace("/", ".") for key in (*typed, *_preset_keys(root)) if key not in constant})


def _sweep_plan(root: DictConfig, folder: Path) -> dict[str, Any]:
    """What `sweep.json` is to hold: the config that the sweep's runs share, and the keys that are swept.

    Raises:
        ConfigError: The folder's sweep was begun with another config, or a key of the whole sweep has several values.
    """
    if "WANDB_SWEEP_ID" in os.environ:
        raise ConfigError(
            "a multirun has no place under `wandb agent`, whose W&B run can be one run's only: leave out -m and the "
            "experiments that are sweeps, and let W&B's sweep vary the keys"
        )
    path, swept = folder / SWEEP_FILE, _swept_keys(root)
    for key in ("sweep_name", "retry_failed", "resume"):
        if key in swept:
            raise ConfigError(f"{key} is one for the whole sweep: give it one value")
    task = OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
    base = OmegaConf.to_container(task, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(base, dict)
    sweeper, env = str(root.hydra.sweeper._target_), base["env"]
    if env["id"] == NO_SIMULATOR and env["best_by"] is None and not sweeper.endswith(".BasicSweeper"):
        raise ConfigError(
            f"{sweeper.rpartition('.')[2]} needs a number to maximise, and runs with env=none have none: name a "
            "scorer, e.g. env.best_by=initial_value"
        )
    # A start that was refused, or could not begin, has left no run to disagree with.
    begun = lock.shared(folder, SWEEP_IN_USE_FILE) or any(
        has_begun(each.parents[1]) for each in folder.glob(f"*/{RUN_CONFIG_FILE}")
    )
    if not path.exists() or not begun:
        return {"base": base, "swept": swept}
    try:
        before = json.loads(contents(path))
        before = {"base": dict(before["base"]), "swept": list(before["swept"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{damage(path)}: remove it and give the command again. It is written anew, and each run is compared with "
            "its own config"
        ) from error
    # A key may be swept in one start and fixed in another, so it is compared run by run. The seed is in every name: the
    # jobs of an array may have one each.
    free = {*swept, *before["swept"], *(["seed"] if before["base"].get("seed") != base["seed"] else [])}
    # An option that is one of several here or there has changed the base in keys that its name does not tell.
    chosen = {key.lstrip("+") for key in _typed_keys(root)} & set(GROUPS)
    lines = [
        line
        for line in differences(before["base"], {str(key): value for key, value in base.items()})
        if not any(f"{line.partition(':')[0]}.".startswith(f"{key}.") for key in free)
        and not any(group.replace("/", ".") in free for group in chosen)
    ]
    if lines:
        raise ConfigError(
            f"sweep_name={folder.name}: {folder} holds a sweep with another config and is left as it is; give "
            "another sweep_name, or take back:\n  " + "\n  ".join(lines)
        )
    return {"base": before["base"], "swept": sorted(free)}


def _known_point(sweep: Path, name: str, plain: Mapping[str, Any]) -> str | None:
    """The folder of the sweep that holds this very config, under whatever name; None if there is none."""
    named = sweep / name / RUN_CONFIG_FILE
    paths = [named, *(path for path in sorted(sweep.glob(f"*/{RUN_CONFIG_FILE}")) if path != named)]
    for path in paths:
        with suppress(ConfigError, OSError):  # a damaged one is the trouble of its own run, when that starts
            if path.exists() and not differences(saved_config(path), plain):
                return path.parents[1].name
    return None


@functools.cache
def _saved_config(path: Path, _changed: int) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(io.BytesIO(contents(path))))
    except (OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: {_REMEDY}") from error
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{path} holds no config, as after a loss of power: {_REMEDY}")
    return {str(key): value for key, value in values.items()}
