"""Checks of values that are out of range, alone or together."""

import dataclasses
import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cql.config.choices import Device, Gradient
from cql.config.datasets import D4rlDataset, Dataset, MinariDataset, MixtureDataset, TableDataset
from cql.config.messages import ConfigError, article, did_you_mean
from cql.config.mixture import PREPARATION, source_name, sources_of
from cql.config.names import path_safe, unsafe_name
from cql.config.online import Finetune
from cql.config.schema import CqlConfig, LearnedAlphaCql, TrainConfig
from cql.rollout.reference_scores import AUTO
from cql.scorer_names import DIRECTIONS


def check(config: TrainConfig) -> None:
    """Refuses values that are out of range, alone or together.

    Raises:
        ConfigError: Every problem on its own line: the dotted key, its value, what is allowed, what to do.
    """
    problems = [*range_problems(config, ""), *_cross_problems(config)]
    if isinstance(config.dataset, MixtureDataset):
        problems += list(_mixture_problems(config.dataset, isinstance(config.online, Finetune), problems))
    if problems:
        raise ConfigError("\n".join(problems))


def range_problems(node: Any, prefix: str) -> Iterator[str]:
    """What is out of range in a tree of dataclasses, whose keys begin with a prefix."""
    for item in dataclasses.fields(node):
        key, value = prefix + item.name, getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from range_problems(value, f"{key}.")
        elif value is None:
            continue
        elif item.name == "kind" and value != item.default:
            yield f"{key}={value} cannot be set by hand: this is {article(str(item.default))} {prefix.rstrip('.')}"
        elif "bounds" in item.metadata and value not in item.metadata["bounds"]:
            hint = f" ({item.metadata['hint']})" if item.metadata["hint"] else ""
            yield f"{key}={value} is out of range: it must be {item.metadata['bounds']}{hint}"
        elif item.metadata.get("one_of") and value not in item.metadata["one_of"]:
            near = did_you_mean(difflib.get_close_matches(value, item.metadata["one_of"], n=1))
            yield f"{key}={value} is unknown; there are {', '.join(item.metadata['one_of'])}{near}"


def _cross_problems(config: TrainConfig) -> Iterator[str]:
    n_steps, per_epoch, algorithm, dataset = config.n_steps, config.n_steps_per_epoch, config.algorithm, config.dataset
    if n_steps == 0 and not isinstance(config.online, Finetune):
        yield "n_steps=0 trains nothing: raise n_steps, or choose online=finetune to learn in the environment alone"
    elif per_epoch > n_steps > 0:
        yield (
            f"n_steps_per_epoch={per_epoch} is larger than n_steps={n_steps}: "
            f"lower n_steps_per_epoch (e.g. n_steps_per_epoch={n_steps}) or raise n_steps"
        )
    if algorithm.bc_steps > n_steps:
        yield f"algorithm.bc_steps={algorithm.bc_steps} is larger than n_steps={n_steps}: lower it or raise n_steps"
    if algorithm.log_std_min >= algorithm.log_std_max:
        yield (
            f"algorithm.log_std_min={algorithm.log_std_min} must be less than "
            f"algorithm.log_std_max={algorithm.log_std_max}: lower the first or raise the second"
        )
    if algorithm.w_cql == 0 and isinstance(algorithm.alpha_cql, LearnedAlphaCql):
        yield (
            "algorithm.w_cql=0.0 removes the conservative term, so a learned alpha_cql has no effect: "
            "choose algorithm/alpha_cql=fixed or a larger algorithm.w_cql"
        )
    yield from _gradient_problems(algorithm)
    yield from _online_problems(config)
    n_target, penalty = algorithm.n_target_critics, algorithm.penalty
    if n_target is not None and n_target > algorithm.n_critics:
        yield (
            f"algorithm.n_target_critics={n_target} is more than algorithm.n_critics={algorithm.n_critics}: lower it, "
            "or write algorithm.n_target_critics=null for all"
        )
    low, high = penalty.gap_clip_min, penalty.gap_clip_max
    if low is not None and high is not None and low >= high:
        yield (
            f"algorithm.penalty.gap_clip_min={low} must be less than algorithm.penalty.gap_clip_max={high}: "
            "lower the first or raise the second"
        )
    yield from _dataset_problems(dataset, "dataset.")
    yield from _env_problems(config)
    reference = config.env.reference
    if isinstance(reference, list) and not (all(map(math.isfinite, reference)) and reference[0] < reference[1]):
        yield (
            f"env.reference={reference}: the second return must be greater than the first, and both finite; for no "
            "normalised score write env.reference=null"
        )
    if config.tf32 and config.device is Device.cpu:
        yield "tf32=true has no effect with device=cpu: write tf32=false, or device=cuda"
    if config.video.size % 2:
        yield f"video.size={config.video.size} must be even for MP4: write video.size={config.video.size + 1}"
    if config.sweep_name is not None and config.sweep_name != path_safe(config.sweep_name):
        yield unsafe_name(config.sweep_name)
    texts = {"env.id": config.env.id}
    texts |= {key: text for key in ("init_from", "init_from_sweep") if (text := getattr(config, key)) is not None}
    yield from _empty_problems(texts)


def _env_problems(config: TrainConfig) -> Iterator[str]:
    """What has an effect only with a simulator, or only without one."""
    env = config.env
    if env.has_simulator:
        for key in ("action_low", "action_high", "best_by"):
            if (given := getattr(env, key)) is not None:
                yield f"env.{key}={given} has no effect with env.id={env.id}: write null, or choose env=none"
        return
    if isinstance(config.online, Finetune):
        yield "online=finetune collects episodes, and env=none has no simulator: choose online=none or another env"
    for key, value in (("kwargs", env.kwargs), ("reference", env.reference)):
        if value not in (None, AUTO):
            yield f"env.{key}={value} has no effect with env=none, which has no simulator: write env.{key}=null"
    if env.best_by is not None and env.best_by not in DIRECTIONS:
        near = did_you_mean(difflib.get_close_matches(env.best_by, DIRECTIONS, n=1))
        yield f"env.best_by={env.best_by} is unknown; there are {', '.join(DIRECTIONS)}{near}"


def _empty_problems(texts: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{key} is empty: give one, e.g. {key}=NAME" for key, text in texts.items() if not text.strip())


def _dataset_problems(dataset: Dataset, prefix: str) -> Iterator[str]:
    if dataset.n_episodes is not None and dataset.fraction is not None:
        yield (
            f"{prefix}n_episodes={dataset.n_episodes} and {prefix}fraction={dataset.fraction} both choose a part of "
            "the episodes: set one of them to null"
        )
    match dataset:
        case MinariDataset(id=name):
            yield from _empty_problems({f"{prefix}id": name})
        case D4rlDataset(path=path):
            yield from _empty_problems({f"{prefix}path": path})
        case TableDataset():
            given = {"path": dataset.path, **dataset.columns}
            texts = {f"{prefix}{key}": "".join(own) for key, own in given.items() if own is not None}
            yield from _empty_problems(texts)


def _mixture_problems(dataset: MixtureDataset, in_environment: bool, known: Collection[str]) -> Iterator[str]:
    """What is wrong with each dataset of a mixture, without what it has from the mixture and is `known`."""
    some_have_ratios = any(given.get("ratio") is not None for given in dataset.mixture)
    for index, source in enumerate(sources_of(dataset)):
        prefix = f"{source_name(index)}."
        for problem in (*range_problems(source, prefix), *_dataset_problems(source, prefix)):
            if problem.replace(prefix, "dataset.") not in known:
                yield problem
        if dataset.mixture[index].get("ratio") is None and some_have_ratios:
            yield f"{prefix}ratio is missing: give all datasets of the mixture a ratio, or none"
        for key in PREPARATION if in_environment else ():
            own, shared = getattr(source, key), getattr(dataset, key)
            if own != shared:
                yield (
                    f"{prefix}{key}={own} is not dataset.{key}={shared}, by which online=finetune prepares what is "
                    f"collected: leave it out and set dataset.{key}, or choose online=none"
                )
        if in_environment and source.normalise_rewards:
            yield (
                f"{prefix}normalise_rewards=True gives each dataset a scale of its own, and online=finetune needs one "
                f"for what is collected: write false there and in dataset.normalise_rewards, and a dataset.reward_scale"
            )


def _online_problems(config: TrainConfig) -> Iterator[str]:
    if config.init_from is not None and config.init_from_sweep is not None:
        yield "init_from and init_from_sweep both say what the run begins with: set one of them to null"
    online, algorithm = config.online, config.algorithm
    if not isinstance(online, Finetune):
        return
    if online.n_start_steps >= online.n_online_steps:
        yield (
            f"online.n_start_steps={online.n_start_steps} must be less than online.n_online_steps="
            f"{online.n_online_steps}, of which they are a part: lower the first or raise the second"
        )
    if online.alpha_cql is not None and isinstance(algorithm.alpha_cql, LearnedAlphaCql):
        yield (
            f"online.alpha_cql={online.alpha_cql} has no effect on a learned alpha_cql: write online.alpha_cql=null, "
            "or choose algorithm/alpha_cql=fixed; online.w_cql works with both"
        )
    if online.calibrated is not None and not algorithm.penalty.calibrated:
        yield (
            f"online.calibrated={str(online.calibrated).lower()} has no effect with algorithm/penalty="
            f"{algorithm.penalty.kind}: write online.calibrated=null, or choose algorithm/penalty=cal_ql"
        )


def _gradient_problems(algorithm: CqlConfig) -> Iterator[str]:
    key, penalty = "algorithm.penalty.num_gradient_actions", algorithm.penalty
    k, n_samples = penalty.num_gradient_actions, penalty.n_groups * algorithm.num_sampled_actions
    n_samples += penalty.counts_data_action
    if penalty.gradient is Gradient.exact and k is not None:
        yield (
            f"{key}={k} has no effect with algorithm.penalty.gradient=exact: "
            f"write {key}=null, or algorithm.penalty.gradient=sampled"
        )
    if penalty.gradient is Gradient.sampled and k is None:
        yield f"{key} is missing: algorithm.penalty.gradient=sampled needs it, e.g. {key}=1"
    if penalty.gradient is Gradient.sampled and k is not None and k > n_samples:
        yield (
            f"{key}={k} is more than the {n_samples} actions that are sampled (algorithm.num_sampled_actions="
            f"{algorithm.num_sampled_actions} in each of {penalty.n_groups} groups): lower it, or write "
            f"algorithm.penalty.gradient=exact {key}=null"
        )
