"""Messages for a wrong config: which key, which value, what to do."""

import dataclasses
import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from cql.commands import is_own, printable
from cql.config.keys import GROUPS, all_keys, choice, options_of, variant_paths, without_none
from cql.config.schema import VARIANTS

# What other codebases call our keys, for the "did you mean" of their users.
_ALIASES: dict[str, tuple[str, ...]] = {
    "tau": ("algorithm.tau_target", "algorithm.alpha_cql.tau_cql"),
    "soft_target_tau": ("algorithm.tau_target",),
    "soft_target_update_rate": ("algorithm.tau_target",),
    "lagrange_thresh": ("algorithm.alpha_cql.tau_cql",),
    "alpha_threshold": ("algorithm.alpha_cql.tau_cql",),
    "cql_target_action_gap": ("algorithm.alpha_cql.tau_cql",),
    "target_action_gap": ("algorithm.alpha_cql.tau_cql",),
    "alpha": ("algorithm.alpha_cql.value", "algorithm.alpha_temp.value"),
    "alpha_cql": ("algorithm.alpha_cql.value",),
    "cql_alpha": ("algorithm.alpha_cql.value",),
    "alpha_prime": ("algorithm.alpha_cql.initial_value",),
    "min_q_weight": ("algorithm.alpha_cql.value", "algorithm.w_cql"),
    "conservative_weight": ("algorithm.alpha_cql.value", "algorithm.w_cql"),
    "alpha_multiplier": ("algorithm.alpha_temp.value",),
    "alpha_temp": ("algorithm.alpha_temp.value",),
    "temp": ("algorithm.alpha_temp.value",),
    "gamma": ("algorithm.discount",),
    "lr": ("algorithm.critic_learning_rate", "algorithm.actor_learning_rate"),
    "learning_rate": ("algorithm.critic_learning_rate", "algorithm.actor_learning_rate"),
    "qf_lr": ("algorithm.critic_learning_rate",),
    "critic_lr": ("algorithm.critic_learning_rate",),
    "policy_lr": ("algorithm.actor_learning_rate",),
    "actor_lr": ("algorithm.actor_learning_rate",),
    "cql_n_actions": ("algorithm.num_sampled_actions",),
    "n_action_samples": ("algorithm.num_sampled_actions",),
    "max_timesteps": ("n_steps",),
    "total_steps": ("n_steps",),
    "eval_freq": ("n_steps_per_epoch", "n_epochs_per_eval"),
    "hidden_dim": ("network.width",),
    "hidden_sizes": ("network.width", "network.depth"),
    "utd": ("online.update_to_data",),
    "utd_ratio": ("online.update_to_data",),
    "online_utd_ratio": ("online.update_to_data",),
    "online_iterations": ("online.n_online_steps",),
    "max_online_env_steps": ("online.n_online_steps",),
    "cql_alpha_online": ("online.alpha_cql",),
    "cql_min_q_weight_online": ("online.w_cql", "online.alpha_cql"),
    "enable_calql": ("algorithm/penalty=cal_ql",),
    "cal_ql": ("algorithm/penalty=cal_ql",),
    "use_calql": ("algorithm/penalty=cal_ql",),
    "cql_clip_diff_min": ("algorithm.penalty.gap_clip_min",),
    "cql_clip_diff_max": ("algorithm.penalty.gap_clip_max",),
    "clip_action": ("dataset.action_clip",),
    "normalize_reward": ("dataset.normalise_rewards",),
    "max_grad_norm": ("algorithm.critic_max_grad_norm", "algorithm.actor_max_grad_norm"),
    "weight_decay": ("algorithm.critic_weight_decay", "algorithm.actor_weight_decay"),
    "num_critics": ("algorithm.n_critics",),
    "min_score": ("env.reference",),
    "max_score": ("env.reference",),
    "normalize": ("dataset.normalise_observations",),
    "normalize_observations": ("dataset.normalise_observations",),
}


class ConfigError(ValueError):
    """A config that cannot be run; the message names every wrong key, its value and what to do."""


def article(word: str) -> str:
    """A word with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@contextmanager
def friendly_errors() -> Iterator[None]:
    """A context in which a wrong config ends the program with a short message on stderr and status 2."""
    # Otherwise Hydra prints the error itself and exits before we see it.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        yield
    except Exception as error:
        message = explain(error)
        if message is None and _is_of_hydra(error):
            given = " ".join(text for text in sys.argv[1:] if len(text) < 200) or "the command line"
            message = f"Hydra cannot read {given} ({type(error).__name__}: {error}); --help shows what may be given"
        if message is None:
            raise
        sys.stderr.write(printable(f"Config error: {message}\n"))
        raise SystemExit(2) from error


def _is_of_hydra(error: Exception) -> bool:
    """Whether an error came up in Hydra or OmegaConf while they read the config: they choke on some odd overrides."""
    if is_own(error) or isinstance(error, OSError):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__", "")) for frame in frames]
    roots = [module.partition(".")[0] for module in modules if module.partition(".")[0] not in sys.stdlib_module_names]
    of_a_job = any(module.startswith("cql.training") for module in modules) or any(
        frame.f_code.co_name == "return_value"
        for frame in frames  # Hydra raises there what a job has raised
    )
    return roots[-1:] in (["hydra"], ["omegaconf"], ["antlr4"]) and not of_a_job


def explain(error: BaseException) -> str | None:
    """What is wrong with a config and what to do, for an exception of ours, Hydra's or OmegaConf's.

    Returns:
        The message, or None if the exception is not about a config.
    """
    if not isinstance(error, (ConfigError, HydraException, OmegaConfBaseException)):
        return None
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, ConfigError):
            return str(link)
    if isinstance(error, OverrideParseException):
        # The parser's own words; what Hydra puts before them differs between its versions.
        reason = str(next((link for link in chain[1:] if isinstance(link, HydraException)), error)).splitlines()[0]
        return (
            f"cannot read the override '{error.override}' ({reason}); "
            "write KEY=VALUE, with quotes round a value that holds spaces, commas or brackets"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(error.missing_cfg_file, list(error.options or ()), str(error))
    text = "\n".join(str(link) for link in chain)
    where = re.search(r"In '([^']+)'", text)
    prefix = f"in configs/{where[1]}.yaml: " if where else ""
    source = next((link for link in chain if isinstance(link, OmegaConfBaseException) and link.full_key), None)
    key, value = _overridden(text)
    if isinstance(error, ConfigCompositionException):
        if (sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'", text)) is not None:
            return f"{sweep[1]} gives several values: add -m to run one job for each, or quote it to mean one value"
        if (group := re.search(r"Multiple values for ([\w/]+)\.", text)) is not None:
            if group[1] == "experiment":
                return "experiment is given twice: one file at a time, e.g. a new one that combines the two"
            return f"{group[1]} is chosen already: write {group[1]}=OPTION, without a plus"
        if (group := re.search(r"Could not override '(experiment|[^']+/[^']*)'", text)) is not None:
            return _unknown_group(group[1], text)
    if key is not None and key.startswith("~"):
        return f"{key}: a key cannot be removed; set it to another value"
    if isinstance(source, (ConfigKeyError, ConfigAttributeError)):
        unknown = str(source.full_key) if key is None or key in _keys_of(_current_kinds(source)) else key
        return prefix + unknown_key(unknown, _current_kinds(source), value)
    if isinstance(source, ValidationError) and (key is None or key in all_keys()):
        full_key = str(source.full_key)
        wrong = source.value if source.value is not None or value is None else value
        return prefix + (wrong_type(full_key, wrong) if full_key in all_keys() else " ".join(str(source).split()))
    if key is not None and key not in all_keys() and not key.startswith("hydra"):
        return prefix + unknown_key(key, {}, value)
    lines = [line.strip() for link in chain for line in str(link).splitlines() if line.strip()]
    return prefix + "; ".join(dict.fromkeys(lines[:3])) if lines else type(error).__name__


def _overridden(text: str) -> tuple[str | None, str | None]:
    """The key, and the value if it is named, of the override that a Hydra message is about."""
    if (found := re.search(r"Error merging override \+*([^=\s]+)=?(\S*)", text)) is not None:
        return found[1], found[2]
    if (found := re.search(r"Could not override '([^']+)'", text)) is not None:
        value = re.search(r"use \+[^=\s]+=(\S*)", text)
        return found[1], value[1] if value else None
    return None, None


def _current_kinds(error: OmegaConfBaseException) -> dict[str, str]:
    """The chosen kind of each variant, from the config that an OmegaConf error arose in."""
    node = error.parent_node
    while node is not None and node._get_parent() is not None:
        node = node._get_parent()
    if not isinstance(node, DictConfig):
        return {}
    return {path: str(OmegaConf.select(node, f"{path}.kind")) for path in variant_paths()}


def _keys_of(kinds: Mapping[str, str]) -> set[str]:
    """The keys that exist if these kinds are chosen."""
    return {key for key, (_, owners) in all_keys().items() if not owners or kinds.get(key.rpartition(".")[0]) in owners}


def did_you_mean(names: Sequence[str]) -> str:
    """The end of a message that suggests names; empty without any."""
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _with_choice(key: str, kinds: Mapping[str, str]) -> str:
    """A key, with the choice that it needs if another one is made."""
    if key not in all_keys():  # an option of a group
        return key
    parent, owners = key.rpartition(".")[0], all_keys()[key][1]
    needed = owners and kinds.get(parent) not in owners
    return f"{key} (with {choice(parent, min(owners))})" if needed else key


def unknown_key(key: str, kinds: Mapping[str, str], value: str | None = None) -> str:
    """The message for a key that the config does not have."""
    known = all_keys()
    parent, _, leaf = key.rpartition(".")
    kind = kinds.get(parent)
    if key in known and known[key][1]:
        noun = parent.rpartition(".")[2]
        other = choice(parent, min(known[key][1]))
        twin = {"value": "initial_value", "initial_value": "value"}.get(leaf)
        if kind and twin and kind in known[f"{parent}.{twin}"][1]:
            return f"{key}: {article(kind)} {noun} has {twin}, not {leaf}; write {parent}.{twin}=... or add {other}"
        without = f"without {other}" if kind == "none" else f"with {article(kind or 'different')} {noun}"
        return f"{key}: {leaf} has no effect {without}; add {other} or drop it"
    if any(hasattr(variant, leaf) for variant in VARIANTS.get(variant_paths().get(parent, object), ())):
        choices = " or ".join(f"{parent.replace('.', '/')}={name}" for name in options_of(parent.replace(".", "/")))
        return f"{key}: {leaf} is fixed by the kind: choose {choices}"
    group = next((name for name in GROUPS if name.replace("/", ".") == key or name.rpartition("/")[2] == key), None)
    if group is not None and (group == "experiment" or value in options_of(group)):
        if group in ("experiment", "arm"):
            return f"{key} is a group that is added with a plus: +{group}={value or 'NAME'}"
        return f"{key} is a group: choose its option with a slash, {group}={value or 'NAME'}"
    aliases = [name for name in _ALIASES.get(leaf, ()) if name != key]
    candidates = [name for name in known if not name.endswith(".kind")]
    siblings = {name.rpartition(".")[2]: name for name in candidates if name.rpartition(".")[0] == parent}
    peers = [name for name in candidates if name.count(".") == key.count(".")]
    leaves: dict[str, str] = {}
    for name in candidates:
        leaves.setdefault(name.rpartition(".")[2], name)
    near = aliases or [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.7)]
    alike = [name for name in candidates if name.endswith(f".{leaf}")]
    near = near or sorted(alike, key=lambda name: -difflib.SequenceMatcher(None, key, name).ratio())
    if parent not in known:
        near = near or difflib.get_close_matches(key, peers, n=1, cutoff=0.7)
    near = near or [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)]
    shown = [_with_choice(name, kinds) for name in near[:3]]
    flag = "--cfg hydra" if key.startswith("hydra") else "--help"
    return f"{key}: there is no such key" + (did_you_mean(shown) or f"; {flag} lists them all")


def wrong_type(key: str, value: Any) -> str:
    """The message for a value whose type does not fit its key."""
    if key == "env.reference":
        return (
            f"{key}={'null' if value is None else value}: it must be auto (the known scores of env.id), null "
            f"(no score) or the returns that score 0 and 100, e.g. {key}=[0,1000]"
        )
    if key == "env.kwargs":
        return f"{key}={value}: it must be the environment's arguments, {{name:value,...}}, or null"
    if key in ("env.action_low", "env.action_high"):
        return f"{key}={value}: it must be a finite number, a list of such (one for each action feature), or null"
    if key == "dataset.mixture":
        shown = "null" if value is None else value
        return f"{key}={shown}: it must be a list of at least two datasets, [{{kind:embedded,name:...}},...]"
    annotation, optional = without_none(all_keys()[key][0])
    null = ", or null" if optional else ""
    shown = "null" if value is None else value
    if dataclasses.is_dataclass(annotation):
        group = key.replace(".", "/")
        options = options_of(group) if group in GROUPS else []
        if value in options:
            return f"{key} is a group: choose its option with a slash, {group}={value}"
        numbers = [f"{key}.{leaf}" for leaf in ("value", "initial_value") if f"{key}.{leaf}" in all_keys()]
        keys = numbers or [name for name in all_keys() if name.rpartition(".")[0] == key]
        listed = f"; choose one of {', '.join(f'{group}={name}' for name in options)}" if options else ""
        return f"{key}={shown}: it must be a set of keys{null}; set one of them (e.g. {keys[0]}=...){listed}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        near = did_you_mean(difflib.get_close_matches(str(value), annotation.__members__, n=1))
        return f"{key}={shown}: it must be one of {', '.join(annotation.__members__)}{null}{near}"
    words = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a text",
        list[str]: "a list of texts",
    }
    hint = ""
    whole = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", value) is not None
    if annotation is int and (whole or isinstance(value, float)) and float(value).is_integer():
        hint = f"; write {key}={int(float(value))}"
    if annotation == list[str]:
        hint = f"; write {key}=[first,second]"
    return f"{key}={shown}: it must be {words[annotation]}{null}{hint}"


# Options of Hydra's groups that other packages provide, and our extras that install these packages.
_EXTRAS = {
    "joblib": "joblib",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "optuna": "optuna",
}


def _missing_option(file: str, options: list[str], text: str) -> str:
    """The message for an option that its group does not have."""
    group = next((name for name in sorted(GROUPS, key=len, reverse=True) if file.startswith(f"{name}/")), None)
    if file.startswith("hydra/") and (extra := _EXTRAS.get(file.rpartition("/")[2].removesuffix(".yaml"))) is not None:
        return f"{Path(file).parent}={Path(file).stem} is not installed: pip install -e '.[{extra}]'"
    if group is None:
        folder, _, option = file.rpartition("/")
        listed = f"; there are {', '.join(sorted(options))}" if options else ""
        return f"{folder}={option}: there is no such option{listed}" if folder else text.strip().splitlines()[0]
    option = file.removeprefix(f"{group}/").removesuffix(".yaml")
    # Hydra's list adds the options in a user's own config folder.
    names = sorted({*options_of(group), *options})
    plus = "+" if group == "experiment" else ""
    near = difflib.get_close_matches(option, names, n=1) or [name for name in names if option and option in name][:2]
    meant = did_you_mean([f"{plus}{group}={name}" for name in near])
    if group == "env" and not near:
        meant = f"; choose a Gymnasium environment without a file by its id: env.id={option}"
    return f"{plus}{group}={option}: there is no such option; there are {', '.join(names)}{meant}"


def _unknown_group(group: str, text: str) -> str:
    """The message for a group that the defaults list does not have."""
    if group == "experiment":
        found = re.search(r"use \+experiment=(\S+)", text)
        return f"experiments are added with a plus: +experiment={found[1] if found else 'NAME'}"
    parent, _, leaf = group.rpartition("/")
    if parent in GROUPS and (names := [name for name in options_of(parent) if name.startswith(f"{leaf}_")]):
        return f"{group} is not a group: write {' or '.join(f'{parent}={name}' for name in names)}"
    near = difflib.get_close_matches(group, GROUPS, n=1) or [
        name for name in GROUPS if name.rpartition("/")[2] == group.rpartition("/")[2]
    ]
    return f"{group}: there is no such config group; there are {', '.join(GROUPS)}{did_you_mean(near)}"
