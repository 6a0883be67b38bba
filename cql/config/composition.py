"""Composition of the config by Hydra: registration of schemas, resolvers and launcher."""

import functools
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from cql import commands
from cql.config import folders
from cql.config.keys import CONFIG_DIR, GROUPS, kind_of
from cql.config.messages import ConfigError
from cql.config.schema import VARIANTS, TrainConfig

_HYDRA_1_3 = hydra.__version__.startswith("1.3.")
# Keyword arguments for `hydra.main` and `initialize_config_dir`: 1.3 wants a version_base, 1.4 deprecates it.
VERSION_BASE = {"version_base": "1.3"} if _HYDRA_1_3 else {}


def register() -> None:
    """Register with Hydra what `configs/` uses: schemas, resolvers, launcher. Calling it again changes nothing."""
    _register_schemas_and_resolvers()
    # Hydra 1.4 makes our callback without a list of what may be called, and warns of it.
    warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved _target_='cql\.", UserWarning)
    from hydra.core.plugins import Plugins

    # First the instance: it scans for plugins, and in an editable install does not find ours.
    plugins = Plugins.instance()
    from hydra_plugins.cql_stacked.launcher import StackedLauncher

    plugins.register(StackedLauncher)


def stackable(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Mark a task function as one that trains the run of its config and does nothing else.

    The stacking launcher trains many runs at once instead of calling it, and refuses functions without this mark.
    """
    task.is_stackable = True  # type: ignore[attr-defined]
    return task


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The config that `scripts/train.py` would get from these overrides, e.g. `["+experiment=smoke", "seed=1"]`.

    Raises:
        HydraException: It cannot be composed; `explain` says why.
    """
    register()
    theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None  # a notebook may use Hydra for itself
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), **VERSION_BASE):
            return hydra.compose("train", overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = theirs


def arranged(arguments: Sequence[str]) -> list[str]:
    """Arrange command-line arguments as Hydra wants them: `-m` first, and the mode of the experiment's file next to it.

    An arm is put after the experiment: the last of two files wins in Hydra, and an arm before would change nothing.
    Hydra's parser takes no overrides on both sides of `-m`. Hydra 1.4 looks for `hydra.mode` only in `train.yaml` and
    among the arguments, and refuses one that it meets later; an experiment in a folder of the user's own
    (`--config-dir`) needs `-m` there.
    """
    if "WANDB_SWEEP_ID" in os.environ:  # `wandb agent` writes --KEY=VALUE unless its sweep's file says otherwise
        arguments = [re.sub(r"^--(?=[\w./]+=)", "", text) for text in arguments]
    for text in arguments:
        group, _, option = text.lstrip("+").partition("=")
        if group in GROUPS and group != "arm" and option.startswith("["):
            raise ConfigError(
                f"{text}: of several options of {group} only the last would count; choose one"
                + (", or put datasets together by dataset=mixture" if group == "dataset" else "")
            )
    flags = [text for text in arguments if text in ("-m", "--multirun")]
    found: list[str] = flags[:1]
    for text in arguments:
        path = CONFIG_DIR / "experiment" / f"{text.removeprefix('+experiment=')}.yaml"
        if text.startswith("+experiment=") and path.is_file():
            mode = OmegaConf.select(OmegaConf.load(path), "hydra.mode")
            if mode is not None and not any(other.startswith("hydra.mode=") for other in arguments):
                found.append(f"hydra.mode={mode}")  # all overrides must be in one place
        if text not in flags:
            found.append(text)
    experiments = [position for position, text in enumerate(found) if text.startswith("+experiment=")]
    if experiments:
        before, after = found[: experiments[-1] + 1], found[experiments[-1] + 1 :]
        arms = [text for text in before if text.startswith("+arm=")]
        found = [text for text in before if text not in arms] + arms + after
    resumed = next((_value_of(text) for text in found if text.startswith("resume=")), "null")
    if resumed != "null" and not flags:  # before Hydra refuses keys that the default config does not have
        plain = [text for text in found if "=" in text and not text.startswith(("-", "hydra"))]
        refuse_beside_resume(Path(resumed), plain)
    inherited = _inherited(arguments)
    if not inherited:
        return found
    if not flags and not any(text.startswith("hydra.mode=") for text in found):
        inherited.append("hydra.mode=RUN")  # what it begins with may be a run of a sweep
    first = next(index for index, text in enumerate(found) if "=" in text and not text.startswith("-"))
    return [*found[:first], *inherited, *found[first:]]


def refuse_beside_resume(directory: Path, overrides: Sequence[str]) -> None:
    """Refuse overrides that a resumed run would ignore.

    Raises:
        ConfigError: An override besides `resume`.
    """
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        anew = "start a new run"
        if any(_key_of(text) == "n_steps" for text in others):
            longer = commands.train(commands.override("init_from", directory), *others)
            anew = f"train longer in a new run that begins with this one: {longer}"
        raise ConfigError(f"resume={directory} keeps the run's own config; leave out {' '.join(others)}, or {anew}")


def _inherited(arguments: Sequence[str]) -> list[str]:
    """The overrides of the run that `init_from` names, without those that the command line gives or that are its own.

    So a run has the config of the one that it begins with, where nothing else is said.
    """
    given = {_key_of(text): _value_of(text) for text in arguments if "=" in text}
    if not given.get("init_from") or given["init_from"] == "null":
        return []
    path = Path(given["init_from"])
    folder = path.parents[1] if path.is_file() and len(path.parents) > 1 else path
    try:
        listed = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    except (OSError, YAMLError, ValueError):
        return []  # what differs is said when the run begins
    if not isinstance(listed, list):
        return []
    own = {*given, "sweep_name", "retry_failed", "resume", "init_from", "init_from_sweep"}
    return [text for text in listed if isinstance(text, str) and _key_of(text) not in own]


def _key_of(override: str) -> str:
    """The key of an override, without the signs of Hydra's syntax."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")


def _value_of(override: str) -> str:
    """The value of an override, without quotes around it."""
    return override.partition("=")[2].strip("'\"")


def _register_schemas_and_resolvers() -> None:
    # Hydra 1.4 wants to be told that a config may come a second time.
    again: dict[str, Any] = {} if _HYDRA_1_3 else {"replace": True}
    store = functools.partial(ConfigStore.instance().store, group="schema", **again)
    store(name="train", node=TrainConfig)
    for base, variants in VARIANTS.items():
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", base.__name__).lower()
        for variant in variants:
            store(name=f"{name}_{kind_of(variant)}", node=variant)
    # OmegaConf 2.4, which comes with Hydra 1.4, has given the one name the other's meaning.
    register_resolver = getattr(OmegaConf, "register_new_resolver" if _HYDRA_1_3 else "register_resolver")
    register_resolver("cql.run_dir", folders.run_dir, replace=True)
    register_resolver("cql.sweep_dir", folders.sweep_dir, replace=True)
    register_resolver("cql.sweep_log", folders.sweep_log, replace=True)
    register_resolver("cql.job_name", folders.job_name, replace=True)


# At import, so that a worker process that was handed a task, and did not run an entry point, has them too.
_register_schemas_and_resolvers()
