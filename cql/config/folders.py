"""Folders of runs and sweeps: the resolvers that Hydra asks for them."""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cql.config.conversion import checked, to_dict
from cql.config.identity import differences
from cql.config.keys import GROUPS
from cql.config.messages import ConfigError
from cql.config.names import dataset_label, path_safe, point_name, unsafe_name

SWEEP_FILE = "sweep.json"
RUN_CONFIG_FILE = ".hydra/config.yaml"


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
    # Hydra makes the folder before the task starts: checking here leaves none behind for a config that is wrong.
    config = checked(_root_)
    parent = Path("outputs", path_safe(config.env.id), dataset_label(config.dataset))
    return _folder(_root_, parent, f"{_time()}_seed{config.seed}")


def sweep_dir(*, _root_: DictConfig) -> str:
    """`hydra.sweep.dir`: the folder of a sweep."""
    parent, name = Path("outputs", "sweeps"), _root_.get("sweep_name")
    if name is None:
        return _folder(_root_, parent, _time())
    if name != path_safe(name):
        raise ConfigError(unsafe_name(name))
    return str(parent / name)


def sweep_log(*, _root_: DictConfig) -> str:
    """Where the sweep's own log goes, and the null device where there is no sweep.

    Hydra asks for it when a program starts, whatever the launcher: here the sweep's folder is claimed.
    """
    if str(OmegaConf.select(_root_, "hydra.mode")) != "RunMode.MULTIRUN" or "env" not in _root_:
        return os.devnull
    folder = Path(_root_.hydra.sweep.dir)
    # A preset's own keys vary, also where the command line leaves one of their values: its points keep their names.
    held = OmegaConf.select(_root_, "hydra.sweeper.params") or {}
    constant = [key for key, is_swept in _typed_keys(_root_).items() if not is_swept and key not in held]
    # Hydra hands OmegaConf's cache on to the configs of the jobs, in other processes too.
    OmegaConf.get_cache(_root_)["cql.sweep"] = {"constant": constant}
    _claim_sweep(_root_, folder, constant)
    return str(folder / "sweep.log")


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
    """The plain config in a file of a run's folder."""
    return _saved_config(path, path.stat().st_mtime_ns)


def _new_folder(parent: Path, name: str) -> Path:
    """Makes and returns `parent/name`, or `parent/name_2`, `_3`, ... where another start took it first."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            # The one step that two starts within a second cannot both succeed in.
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _folder(root: DictConfig, parent: Path, name: str) -> str:
    """A new folder, the same one each time that Hydra asks for it."""
    if OmegaConf.select(root, "hydra.mode") is None:
        # Nothing runs: `--cfg` only shows the config.
        return str(parent / name)
    # OmegaConf's own cache, which Hydra hands on with the config; `use_cache` is refused to what sees the root.
    cache = OmegaConf.get_cache(root)["cql.folder"]
    if str(parent) not in cache:
        cache[str(parent)] = str(_new_folder(parent, name))
    return str(cache[str(parent)])


def _resumed(root: DictConfig) -> Path | None:
    folder = root.get("resume")
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise ConfigError(
            f"resume={folder}: there is no such folder; give the folder of a run, e.g. one under outputs/"
        )
    if not Path(folder, ".hydra", "config.yaml").is_file():
        # Before Hydra opens a log there.
        raise ConfigError(f"resume={folder}: it holds no .hydra/config.yaml, so this is not the folder of a run")
    return Path(folder)


def _time() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}"


def _typed_keys(root: DictConfig) -> dict[str, bool]:
    """The keys on the command line, and whether each is swept there; of one that is given twice the last counts."""
    parsed = OverridesParser.create().parse_overrides([str(text) for text in root.hydra.overrides.task])
    return {str(each.get_key_element()): each.is_sweep_override() for each in parsed}


def _swept_keys(root: DictConfig, constant: Sequence[str]) -> list[str]:
    typed = [key for key, is_swept in _typed_keys(root).items() if is_swept]
    held = [str(key) for key in OmegaConf.select(root, "hydra.sweeper.params") or ()]
    return sorted({key.lstrip("+").replace("/", ".") for key in (*typed, *held) if key not in constant})


def _claim_sweep(root: DictConfig, folder: Path, constant: Sequence[str]) -> None:
    """Write down what the sweep's runs have in common, or see that it still is what was written.

    Raises:
        ConfigError: the folder's sweep was begun with another config.
    """
    path, swept = folder / SWEEP_FILE, _swept_keys(root, constant)
    for key in ("sweep_name", "retry_failed", "resume"):
        if key in swept:
            raise ConfigError(f"{key} is one for the whole sweep: give it one value")
    task = OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
    base = OmegaConf.to_container(task, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(base, dict)
    # A start that was refused has left no run to disagree with.
    if path.exists() and any(folder.glob(f"*/{RUN_CONFIG_FILE}")):
        before = json.loads(path.read_text(encoding="utf-8"))
        # A part of a grid may be swept in one start and fixed in another: its runs tell for themselves.
        free = {*swept, *before["swept"]}
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
        base, swept = before["base"], sorted({*swept, *before["swept"]})
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"base": base, "swept": swept}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _known_point(sweep: Path, name: str, plain: Mapping[str, Any]) -> str | None:
    """The folder of the sweep that holds this very config, under whatever name; None where there is none."""
    named = sweep / name / RUN_CONFIG_FILE
    paths = [named, *(path for path in sorted(sweep.glob(f"*/{RUN_CONFIG_FILE}")) if path != named)]
    for path in paths:
        if path.exists() and not differences(saved_config(path), plain):
            return path.parents[1].name
    return None


@functools.cache
def _saved_config(path: Path, _changed: int) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
