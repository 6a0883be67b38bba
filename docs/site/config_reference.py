"""Pages of the reference that are generated from the config's schema and files.

Types, bounds and choices come from the schema's dataclasses, meanings from the ``Attributes:`` of their docstrings,
defaults from the files in ``configs/``. What has no meaning or no default is an error of the build.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from cql import config
from cql.config import judge, keys, mixture, schema
from cql.config.bounds import Bounds
from cql.config.datasets import Dataset

CONFIGS = keys.CONFIG_DIR
REFERENCE = Path(__file__).resolve().parents[1] / "reference"

RUN, MIXTURE, JUDGE = "run", "dataset-mixture", "judge"  # anchors of sections that are no node of the config
PREFIXES = {MIXTURE: "dataset.mixture", JUDGE: "scripts/judge.py"}

UNTYPED = {  # of keys that OmegaConf cannot type, and `cql.config.conversion` checks
    "env.reference": "`auto`, `[MIN, MAX]` or null",
    "env.kwargs": "mapping or null",
    "env.action_low": "number, list or null",
    "env.action_high": "number, list or null",
    "dataset.mixture": "list of mappings",
}
HOW_TOS = {  # pages that show the keys of a section in use
    "algorithm": "[Own arm](../howto/ablations.md)",
    "algorithm.alpha_cql": "[A learned alpha_cql](../theory/multiplier.md)",
    "algorithm.penalty": "[Own penalty](../howto/penalty.md), [Cal-QL](../howto/finetune.md)",
    "dataset": "[Own data](../howto/data.md)",
    "online": "[Fine-tune online](../howto/finetune.md)",
    "env": "[Own environment](../howto/environments.md)",
    "logger": "[Weights & Biases](../howto/wandb.md)",
}
TITLES = {
    "": "Run",
    "algorithm": "Algorithm",
    "algorithm.alpha_temp": "Entropy temperature",
    "algorithm.alpha_cql": "Conservative multiplier",
    "algorithm.penalty": "Penalty",
    "dataset": "Dataset",
    "online": "Online",
    "network": "Network",
    "network.actor": "Policy's network",
    "network.critic": "Critics' networks",
    "env": "Environment",
    "logger": "Logger",
    "video": "Video",
}
GROUP_NOTES = {
    "experiment": "Changes to several groups at once, added with `+experiment=NAME`. Those with published settings "
    "cite their sources.",
    "arm": "One change each, for ablations and for other methods, added with `+arm=NAME` after an experiment.",
    "algorithm": "The learner. It has one option; its parts are the next three groups.",
    "algorithm/alpha_temp": "The entropy temperature, fixed or learned.",
    "algorithm/alpha_cql": "The conservative multiplier, fixed or learned.",
    "algorithm/penalty": "The estimator of the conservative gap.",
    "dataset": "What a run learns from. An embedded dataset also chooses its environment.",
    "online": "Whether training continues in the environment.",
    "network": "The networks of the policy and of the critics.",
    "env": "The environment of evaluations. `env.id` takes any other id.",
    "logger": "Where metrics go besides the run's folder.",
    "table": "The tables of `scripts/table.py`. They are no config group of `scripts/train.py`: "
    "[Reproduce a table](../howto/tables.md) explains their keys.",
    "hydra/launcher": "Where a sweep trains, chosen with `hydra/launcher=NAME`. `stacked`, the default, is defined in "
    "code: [its keys](config.md#hydra.launcher).",
    "hydra/job_logging": "The console's log of a run.",
    "hydra/hydra_logging": "The log of a sweep.",
}


class PageError(RuntimeError):
    """Something of the config cannot be shown: it has no meaning, no default or no place."""


class Key(NamedTuple):
    """A row of a table."""

    name: str
    type: str
    allowed: str
    default: str
    meaning: str
    anchor: str


# The page of keys ----------------------------------------------------------------------------------------------------


def keys_page() -> str:
    """Every key with type, bounds, default and meaning, as Markdown.

    Raises:
        PageError: A key has no meaning in its class's docstring, or no default.
    """
    sections = list(_sections())
    parts = [_opening(sections)]
    for title, anchor, text, tables in sections:
        parts.append(f"## {title} {{#{anchor}}}\n\n{text}")
        for heading, above, rows in tables:
            parts.append("\n\n".join(each for each in (f"### {heading}" if heading else "", above) if each))
            parts.append(_table(rows))
    return FIRST_IN_SEARCH + "\n\n".join(part.rstrip() for part in parts if part) + "\n"


FIRST_IN_SEARCH = "---\nsearch:\n  boost: 4\n---\n\n"  # whoever types a key wants its meaning first
Tables = list[tuple[str, str, list[Key]]]
Section = tuple[str, str, str, Tables]


def _opening(sections: list[Section]) -> str:
    rows = []
    for title, anchor, _, tables in sections:
        named: dict[str, str] = {}
        for row in (row for _, _, own in tables for row in own):
            named.setdefault(row.name.rpartition(".")[2], row.anchor)
        if anchor == MIXTURE:
            named = {"kind": MIXTURE, "ratio": MIXTURE}
        links = " ".join(f"[`{name}`](#{target})" for name, target in named.items())
        place = f" `{PREFIXES.get(anchor, f'{anchor}.')}`" if anchor != RUN else ""
        rows.append(f"| [{title}](#{anchor}){place} | {links} |")
    index = "\n".join(["| section | keys |", "|---|---|", *rows])
    return f"""# Config keys

Each key of a training run: its type, the values that it takes, its default, and what it does.
A key is written here as it is typed on the command line. `group=option` chooses a variant, `key=value` sets a value:

```bash
python scripts/train.py +experiment=quickstart seed=1 \\
    algorithm/alpha_cql=learned algorithm.alpha_cql.tau_cql=-4.4
```

<div class="key-index" markdown>

{index}

</div>

- The default is the value of `configs/train.yaml` and of the groups that it chooses. An experiment or an arm changes
  defaults: [Config files](presets.md) shows each file. `--cfg job` prints the composed config of a command.
- A key of a variant exists only if that variant is chosen. `algorithm.alpha_cql.tau_cql` needs
  `algorithm/alpha_cql=learned`.
- A key that does not exist, a value of a wrong type, a value that is out of range and a key without effect end the
  program before training begins. The message names the key and says what to write instead.
- `null` is no value. Lists and mappings need quotes in the shell: `'logger.tags=[laptop,first]'`.
- In a saved config each variant also has a key `kind`, its name. It cannot be set by hand."""


def _sections() -> Iterator[Section]:
    by_path = {"": schema.TrainConfig} | {
        path: keys.without_none(annotation)[0]
        for path, (annotation, _) in keys.all_keys().items()
        if dataclasses.is_dataclass(keys.without_none(annotation)[0])
    }
    if set(by_path) != set(TITLES):
        raise PageError(f"sections without a title, or titles without a section: {set(by_path) ^ set(TITLES)}")
    seen: set[str] = set()
    for path in TITLES:
        base = by_path[path]
        variants = schema.VARIANTS.get(base, ())
        text = _about(path, base, variants)
        if not variants:
            options = keys.options_of(path.replace(".", "/")) if path else []
            yield TITLES[path], path or RUN, text, [("", "", _rows(path, base, seen, options))]
        else:
            shared = set.intersection(*(set(keys.field_types(each)) for each in variants))
            options = keys.options_of(path.replace(".", "/"))
            common = _rows(path, variants[0], seen, options, only=shared)
            tables: Tables = [("", "", common)] if common else []
            for variant in variants:
                kind = keys.kind_of(variant)
                chosen = _options_of_kind(path.replace(".", "/"), kind)
                own = _rows(path, variant, seen, chosen, only=set(keys.field_types(variant)) - shared)
                if own:
                    head = f"`{keys.choice(path, kind) if kind in chosen else f'{path}={kind}_...'}`"
                    tables.append((head, _prose(_docs(variant)[0]) if path == "dataset" else "", own))  # else above
            yield TITLES[path], path, text, tables
        if path == "dataset":
            yield _mixture_section()
    yield _launcher_section()
    yield _judge_section()


def _about(path: str, base: type, variants: tuple[type, ...]) -> str:
    """What stands above the keys of a section: what it is, its options, and where it is used."""
    lines = [_prose(_docs(base)[0]) if path else "Keys at the top level of the config."]
    group = path.replace(".", "/")
    if (CONFIGS / group).is_dir() and path:
        chosen = _default_options()[group]
        if variants and path != "dataset":
            lines.append("\n".join(["| option | what it is |", "|---|---|", *_options(path, variants, chosen)]))
        elif len(options := keys.options_of(group)) > 1:
            named = ", ".join(f"`{name}`" for name in options)
            lines.append(f"Choose it with `{group}=OPTION`: {named}. The default is `{chosen}`.")
    if path in HOW_TOS:
        lines.append(f"See also: {HOW_TOS[path]}.")
    return "\n\n".join(lines)


def _options(path: str, variants: tuple[type, ...], chosen: str) -> Iterator[str]:
    group = path.replace(".", "/")
    for variant in variants:
        kind = keys.kind_of(variant)
        names = _options_of_kind(group, kind)
        if not names:
            raise PageError(f"no file in configs/{group} chooses {kind}")
        text = _cell(_prose(_docs(variant)[0].replace("\n\n", " ")))
        for name in names:
            sets = [f"`{path}.{key}={value}`" for key, value in _changes_of(group, name).items()]
            also = f" Sets {', '.join(sets)}." if sets else ""
            yield f"| `{group}={name}`{' (default)' if name == chosen else ''} | {text}{also} |"


def _rows(path: str, cls: type, seen: set[str], options: Sequence[str], only: set[str] | None = None) -> list[Key]:
    """The rows of a class's fields, without those that are sections themselves, and without ``kind``.

    Args:
        path: of the section.
        cls: that has the fields.
        seen: names that have an anchor already; those of the rows are added.
        options: of the section's group that choose the class.
        only: fields to show; None shows all.
    """
    meanings, rows = _docs(cls)[1], []
    prefix = f"{path}." if path else ""
    for item in dataclasses.fields(cls):
        annotation = keys.field_types(cls)[item.name]
        inner = keys.without_none(annotation)[0]
        if dataclasses.is_dataclass(inner) or item.name == "kind" or (only is not None and item.name not in only):
            continue
        name = prefix + item.name
        anchor = name if name not in seen else f"{name}-{keys.kind_of(cls)}"
        seen.add(name)
        rows.append(
            Key(
                name=name,
                type=UNTYPED[name] if inner is Any else _type(annotation),
                allowed=_allowed(item, inner),
                default=_default(path, item.name, options),
                meaning=_meaning(meanings, cls, item, name),
                anchor=anchor,
            )
        )
    return rows


def _meaning(meanings: dict[str, str], cls: type, item: dataclasses.Field[Any], name: str) -> str:
    if item.name not in meanings:
        raise PageError(f"{cls.__name__}.{item.name} has no meaning in the docstrings of its class and its bases")
    text = meanings[item.name].rstrip(".") + "."
    if hint := item.metadata.get("hint"):
        hint = re.sub(r"[a-z_./]+=[a-z]+", r"`\g<0>`", hint)
        text += f" {hint[0].upper()}{hint[1:].rstrip('.')}."
    return _linked(text[0].upper() + text[1:], name)


def _type(annotation: Any) -> str:
    inner, optional = keys.without_none(annotation)
    if isinstance(inner, type) and issubclass(inner, Enum):
        name = "choice"
    elif typing.get_origin(inner) is list:
        name = f"list of {typing.get_args(inner)[0].__name__}"
    elif inner in (bool, int, float, str):
        name = inner.__name__
    else:
        raise PageError(f"the type {annotation} has no name on the page")
    return f"{name} or null" if optional else name


def _allowed(item: dataclasses.Field[Any], inner: Any) -> str:
    if isinstance(inner, type) and issubclass(inner, Enum):
        return ", ".join(f"`{each.value}`" for each in inner)
    if inner is bool:
        return "`true`, `false`"
    if item.metadata.get("one_of"):
        return ", ".join(f"`{each}`" for each in item.metadata["one_of"])
    if item.name == "best_by":
        from cql.scorer_names import DIRECTIONS

        return ", ".join(f"`{each}`" for each in DIRECTIONS)
    bounds = item.metadata.get("bounds")
    return "" if bounds is None else interval(bounds)


def interval(bounds: Bounds) -> str:
    """Bounds as a reader of mathematics expects them, such as ``> 0, ≤ 1``."""
    sides = {">": bounds.above, "≥": bounds.at_least, "<": bounds.below, "≤": bounds.at_most}
    return ", ".join(f"{sign} {_number(side)}" for sign, side in sides.items() if side is not None) or "any number"


def _number(value: float) -> str:
    for power, text in ((2**31, "2³¹"), (2**32 - 1, "2³² - 1")):
        if value == power:
            return text
    return {1e6: "10⁶", 1e-6: "10⁻⁶"}.get(value, f"{value:g}")


# Defaults ------------------------------------------------------------------------------------------------------------


@functools.cache
def _composed() -> dict[str, Any]:
    found = OmegaConf.to_container(config.compose(), resolve=False)
    assert isinstance(found, dict)
    return found


@functools.cache
def _default_options() -> dict[str, str]:
    """The option of each group that ``train.yaml`` and ``algorithm/cql.yaml`` choose."""
    chosen = {}
    for file, prefix in (("train.yaml", ""), ("algorithm/cql.yaml", "algorithm/")):
        for each in yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8"))["defaults"]:
            if isinstance(each, dict):
                chosen |= {f"{prefix}{group}": name for group, name in each.items() if " " not in group}
    return chosen


@functools.cache
def _defaults_and_values(group: str, option: str) -> tuple[list[str], dict[str, Any]]:
    """What an option's file begins with, and the values in it."""
    content = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    return [each for each in content.pop("defaults", ()) if isinstance(each, str)], content


def _file_of(group: str, option: str) -> tuple[list[str], dict[str, Any]]:
    """The options that an option's file builds on, and the values in it."""
    listed, content = _defaults_and_values(group, option)
    return [each for each in listed if each != "_self_" and not each.startswith("/")], content


def _kind_of(group: str, option: str) -> str:
    """The kind that an option's file begins with, or that of the option that it builds on."""
    listed, _ = _defaults_and_values(group, option)
    for each in listed:
        if found := re.fullmatch(rf"/schema/{group.rpartition('/')[2]}_(\w+)@_here_", each):
            return found[1]
    for base in _file_of(group, option)[0]:
        return _kind_of(group, base)
    raise PageError(f"configs/{group}/{option}.yaml begins with no schema")


def _options_of_kind(group: str, kind: str) -> list[str]:
    return [option for option in keys.options_of(group) if _kind_of(group, option) == kind]


def _changes_of(group: str, option: str) -> dict[str, Any]:
    """The values of an option that builds on another one; empty for any other."""
    bases, content = _file_of(group, option)
    return content if bases else {}


def _values_of(group: str, option: str) -> dict[str, Any]:
    """The values of an option, those that it builds on included."""
    bases, content = _file_of(group, option)
    found: dict[str, Any] = {}
    for each in bases:
        found |= _values_of(group, each)
    return found | content


def _default(path: str, name: str, options: Sequence[str]) -> str:
    """The default of a key, of the group's default option if that has the key; and of options that have another one.

    Args:
        path: of the key's section.
        name: of the key in it.
        options: of the section's group that have the key; none if the section is no group.

    Raises:
        PageError: No file gives the key a value.
    """
    group, node = path.replace(".", "/"), functools.reduce(dict.__getitem__, filter(None, path.split(".")), _composed())
    if not options:
        return _shown(node[name])
    default = _default_options()[group]
    shared = node if default in options else {}
    train = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))
    values = {each: _values_of(group, each).get(name, train.get(group, {}).get(name, _MISSING)) for each in options}
    values = {each: shared.get(name, _MISSING) if value is _MISSING else value for each, value in values.items()}
    if _MISSING in values.values():
        raise PageError(f"{path}.{name} has no default in the files of configs/{group}")
    first = values.get(default, next(iter(values.values())))
    others = {option: value for option, value in values.items() if value != first}
    if len(others) > 2:
        return f"{_shown(first)}; each option has its own"
    return "; ".join([_shown(first), *(f"{_shown(value)} with `{option}`" for option, value in others.items())])


_MISSING = object()
_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+),(\w+)\}")


def _shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value == "???":
        return "must be given"
    if isinstance(value, str) and (found := _ENVIRONMENT.fullmatch(value)):
        return f"`{found[2]}`, or `${found[1]}` if that is set"
    if isinstance(value, str) and re.fullmatch(r"[\d.]+e-?\d+", value):  # to YAML a text, to OmegaConf a number
        value = float(value)
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return f"`{re.sub('[.]?0*e-0*', 'e-', f'{value:e}')}`"
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{name}: {_shown(own)[1:-1]}' for name, own in value.items())}}}`"
    return f"`{str(value).lower() if isinstance(value, bool) else 'null' if value is None else value}`"


# Meanings ------------------------------------------------------------------------------------------------------------


@functools.cache
def _docs(cls: type) -> tuple[str, dict[str, str]]:
    """The text of a class's docstring, and the meaning of each attribute, those of its bases included."""
    meanings: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        own = inspect.cleandoc(each.__dict__.get("__doc__") or "")
        meanings |= dict(_attributes(own))
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:")[0].strip()
    if not text:
        raise PageError(f"{cls.__name__} has no docstring")
    return text, meanings


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    _, _, listed = docstring.partition("\nAttributes:\n")
    for entry in re.split(r"\n(?= {4}\w)", f"\n{listed.partition(chr(10) * 2)[0]}"):
        name, colon, text = entry.strip().partition(":")
        if colon:
            yield name, " ".join(text.split())


def _prose(text: str) -> str:
    """The text of a docstring, without its attributes, as Markdown."""
    return _linked(re.sub(r":(?:func|class|mod|attr):(?=`)", "", text.partition("\nAttributes:")[0].strip()))


@functools.cache
def _modules() -> tuple[str, ...]:
    """The modules whose functions have an entry in the reference."""
    pages = (REFERENCE / name for name in ("algorithm.md", "python.md"))
    return tuple(name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M))


def _linked(text: str, own: str = "") -> str:
    """Names of keys and of functions in a text become links."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        if name in keys.all_keys() and name not in {own, *TITLES}:
            return f"[`{name}`](#{name})"
        if name.startswith(_modules()):
            return f"[`{name}`][{name}]"
        return match[0]

    return re.sub(r"`([\w.]+)`", link, text)


# Sections that are no part of the schema of a run --------------------------------------------------------------------


def _mixture_section() -> Section:
    shared = [f"`{item.name}`" for item in dataclasses.fields(Dataset) if item.name not in (*mixture.OF_ALL, "kind")]
    kinds = "\n".join(
        f"| `{kind}` | {', '.join(f'`{each}`' for each in keys.field_types(cls) if each in _own_fields(cls))} |"
        for kind, cls in mixture.SOURCES.items()
    )
    low, high = mixture.RATIOS
    ratio = (
        f"share of each minibatch, {_number(low)} to {_number(high)}, divided by the sum of all ratios. All datasets "
        "have one, or none has. Without ratios every transition is equally likely"
    )
    text = f"""[`dataset.mixture`](#dataset.mixture) is a list with a mapping for each dataset. Its keys:

| key | meaning |
|---|---|
| `kind` | {", ".join(f"`{kind}`" for kind in mixture.SOURCES)}; it must be given |
| the keys of that kind | see below |
| {", ".join(shared)} | another value than `dataset.KEY` has, for this dataset alone |
| `ratio` | {ratio} |

{", ".join(f"`{each}`" for each in mixture.OF_ALL)} concern all datasets together and stand under `dataset` only.

| kind | its keys |
|---|---|
{kinds}

```bash
python scripts/train.py dataset=mixture \\
    'dataset.mixture=[{{kind:embedded,name:hopper_random,ratio:1}},{{kind:embedded,name:hopper_medium,ratio:3}}]' \\
    env=Hopper-v5
```"""
    return "Mixture of datasets", MIXTURE, text, []


def _own_fields(cls: type) -> set[str]:
    return set(keys.field_types(cls)) - set(keys.field_types(Dataset))


def _launcher_section() -> Section:
    from hydra_plugins.cql_stacked.launcher import StackedConf

    meanings = _docs(StackedConf)[1]
    rows = [
        Key(
            name=(name := f"hydra.launcher.{item.name}"),
            type=_type(keys.field_types(StackedConf)[item.name]) if item.name != "inner" else "config or null",
            allowed="≥ 1" if item.name != "inner" else "",
            default=_shown(item.default),
            meaning=_meaning(meanings, StackedConf, item, name),
            anchor=name,
        )
        for item in dataclasses.fields(StackedConf)
        if not item.name.startswith("_")
    ]
    text = (
        "Keys of the stacking launcher, `hydra/launcher=stacked` (the default of a sweep), and of the launchers "
        "`stacked_...` that build on it. [Config files](presets.md) shows what each sets.\n\n"
        "See also: [Sweeps](../howto/sweeps.md), [Clusters](../howto/clusters.md)."
    )
    return "Launcher of sweeps", "hydra.launcher", text, [("", "", rows)]


def _judge_section() -> Section:
    values, meanings = yaml.safe_load((CONFIGS / "judge.yaml").read_text(encoding="utf-8")), _docs(judge.JudgeConfig)[1]
    types = keys.field_types(judge.JudgeConfig)
    rows = [
        Key(
            name=item.name,
            type=_type(types[item.name]),
            allowed=(
                "`last`, `best`, a step"
                if item.name == "checkpoint"
                else _allowed(item, keys.without_none(types[item.name])[0])
            ),
            default=_shown(values[item.name]),
            meaning=_judge_meaning(meanings, item),
            anchor=f"{JUDGE}.{item.name}",
        )
        for item in dataclasses.fields(judge.JudgeConfig)
    ]
    text = (
        "Keys of `scripts/judge.py`, which reads `configs/judge.yaml` and takes `KEY=VALUE` after the folders. They "
        "are no keys of a training run.\n\n"
        "See also: [Choose a policy without a simulator](../howto/choose.md)."
    )
    return "Judge", JUDGE, text, [("", "", rows)]


def _judge_meaning(meanings: dict[str, str], item: dataclasses.Field[Any]) -> str:
    text = _meaning(meanings, judge.JudgeConfig, item, item.name)
    return re.sub(r"\[(`[^`]+`)\]\(#[^)]+\)", r"\1", text)  # a name here is the judge's own key


# Markdown ------------------------------------------------------------------------------------------------------------


def _table(rows: list[Key]) -> str:
    lines = ["| key | type | values | default | meaning |", "|---|---|---|---|---|"]
    for row in rows:
        name = row.name.replace(".", ".<wbr>").replace("_", "_<wbr>")
        key = f'<a id="{row.anchor}" href="#{row.anchor}"><code>{name}</code></a>'
        lines.append(f"| {' | '.join([key, *map(_cell, (row.type, row.allowed, row.default, row.meaning))])} |")
    return '<div class="keys" markdown>\n\n' + "\n".join(lines) + "\n\n</div>"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("\n", " ")


# The page of files ---------------------------------------------------------------------------------------------------


def files_page() -> str:
    """The files of every config group, as Markdown.

    Raises:
        PageError: A folder of ``configs/`` has no place on the page.
    """
    folders = {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")} - {"."}
    if folders != set(GROUP_NOTES):
        raise PageError(f"groups without a note, or notes without a group: {sorted(folders ^ set(GROUP_NOTES))}")
    jumps = " · ".join(f"[`{group}`](#{_anchor(group)})" for group in GROUP_NOTES)
    parts = [
        "---\nsearch:\n  boost: 0.3\n---\n\n# Config files\n\n"
        "Each file of `configs/`: the command that uses it, what it is, and its text. "
        "[Config keys](config.md) says what each key means.",
        "An option of a group is a file's name without `.yaml`: `network=mlp_256x3` chooses "
        "`configs/network/mlp_256x3.yaml`. A group of your own files is added with `--config-dir FOLDER`.",
        jumps,
        "## Defaults {#train}\n\nThe config of `python scripts/train.py` without overrides, and the settings of "
        "`scripts/judge.py`.",
        _example(CONFIGS / "train.yaml"),
        _example(CONFIGS / "judge.yaml"),
    ]
    for group, note in GROUP_NOTES.items():
        parts.append(f"## {group} {{#{_anchor(group)}}}\n\n{note}")
        for path in sorted((CONFIGS / group).glob("*.yaml"), key=lambda path: path.name.lower()):
            parts += _file(group, path)
    return "\n\n".join(parts) + "\n"


def _anchor(*names: str) -> str:
    return "-".join(names).replace("/", "-")


def _file(group: str, path: Path) -> list[str]:
    about = _markdown(_first_comment(path.read_text(encoding="utf-8")))
    heading = f"### {path.stem} {{#{_anchor(group, path.stem)}}}"
    return [heading, *([about] if about else []), _example(path)]


def _first_comment(text: str) -> list[str]:
    """The lines of a file's first comment, without the line that places the file in Hydra's config."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def _markdown(lines: list[str]) -> str:
    """A comment as Markdown: lists stay lists, and commands and what else is indented become blocks of code."""
    blocks: list[tuple[str, list[str]]] = []
    for line in lines:
        kind = blocks[-1][0] if blocks else ""
        if line.startswith("- "):
            blocks.append(("list", [line]))
        elif kind == "list" and line.startswith("  "):
            blocks[-1][1].append(line.strip())
        else:
            is_code = line.startswith(("  ", "python scripts/"))
            wanted = "code" if is_code else "text"
            if wanted != kind or not line:
                blocks.append((wanted, []))
            if line:
                blocks[-1][1].append(line)
    parts = []
    for kind, own in blocks:
        if kind == "code":
            indent = min(len(line) - len(line.lstrip()) for line in own)
            language = "bash" if own[0].lstrip().startswith("python") else "yaml"
            parts.append(f"```{language}\n" + "\n".join(line[indent:] for line in own) + "\n```")
        elif own:
            parts.append(re.sub(r"([\\*<\[\]`_])", r"\\\1", " ".join(own)))
    return "\n\n".join(parts)


def _example(path: Path) -> str:
    text = path.read_text(encoding="utf-8").rstrip("\n")
    name = f"configs/{path.relative_to(CONFIGS).as_posix()}"
    body = "\n".join(f"    {line}".rstrip() for line in f"```yaml\n{text}\n```".splitlines())
    return f'??? example "{name}"\n\n{body}'
