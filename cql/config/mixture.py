"""The datasets of a mixture: each by itself, and its share of a minibatch."""

import dataclasses

from cql.config.datasets import D4rlDataset, Dataset, EmbeddedDataset, MinariDataset, MixtureDataset, TableDataset

SOURCES: dict[str, type] = {cls.kind: cls for cls in (EmbeddedDataset, MinariDataset, D4rlDataset, TableDataset)}
"""The kinds of dataset that a mixture may hold."""

OF_ALL = ("normalise_observations", "returns_to_go", "validation_fraction")
"""Keys that concern all datasets of a mixture together: no dataset in it has a value of its own."""

RATIOS = 1e-6, 1e6
"""The smallest and the largest ratio; what counts is a ratio divided by the sum of all."""

PREPARATION = ("reward_scale", "reward_bias", "timeouts_as_terminals", "action_clip")
"""Keys that say how transitions are prepared, those that are collected in the environment as well."""


def source_name(index: int) -> str:
    """How messages name a dataset of a mixture."""
    return f"dataset.mixture[{index}]"


def sources_of(dataset: MixtureDataset) -> list[Dataset]:
    """Each dataset of a mixture as one alone, with the mixture's values of the keys that it does not give."""
    shared = {item.name: getattr(dataset, item.name) for item in dataclasses.fields(Dataset) if item.name != "kind"}
    return [
        SOURCES[given["kind"]](**{**shared, **{key: value for key, value in given.items() if key != "ratio"}})
        for given in dataset.mixture
    ]


def ratios_of(dataset: MixtureDataset) -> list[float] | None:
    """The ratios of the datasets, as they are given; None if every transition is as likely as any other."""
    given = [source.get("ratio") for source in dataset.mixture]
    return None if None in given else given
