"""Quick composition of a sweep's jobs: those that differ in plain values alone are made from one composition.

Hydra composes each job from its files, twice, which takes a quarter of a second per job. Here a job is a copy of the
first one that has the same groups and keys, with its own values set. The second job of each kind is composed in both
ways; if they differ, all others of its kind are composed by Hydra.
"""

import copy
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf


class SweepLoader:
    """Stands in for Hydra's config loader, to which it leaves all but the composition of jobs.

    Args:
        loader: Hydra's.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._made: dict[tuple[str, ...], DictConfig] = {}
        self._is_right: dict[tuple[str, ...], bool] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_loader"], name)

    def __getstate__(self) -> dict[str, Any]:
        return {"_loader": self._loader, "_made": {}, "_is_right": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Compose the config of one job.

        Args:
            master_config: That of the multirun.
            sweep_overrides: Of the job.

        Raises:
            HydraException: As Hydra's own.
        """
        texts = list(sweep_overrides)
        overrides = [_parsed(text) for text in texts]
        values = [override for override in overrides if self._is_value(override)]
        kind = tuple(f"{each.key_or_group}=" if each in values else str(each.input_line) for each in overrides)
        made = None
        if self._is_right.get(kind, kind in self._made):
            made = self._derived(kind, overrides, values, master_config)
        if made is not None and kind in self._is_right:
            return made
        whole: DictConfig = self._loader.load_sweep_config(master_config, texts)
        if made is not None:
            self._is_right[kind] = _text(made) == _text(whole)
        elif kind not in self._made:
            self._made[kind] = copy.deepcopy(whole)
        return whole

    def _is_value(self, override: Override) -> bool:
        """Whether an override sets a key to a plain value."""
        key = override.key_or_group
        if override.package is not None or override.is_hydra_override() or key.startswith(("hydra.", "hydra/")):
            return False
        is_change = not (override.is_add() or override.is_force_add() or override.is_delete())
        return is_change and not override.is_sweep_override() and _is_plain(override) and not self._is_group(key)

    @functools.cached_property
    def _is_group(self) -> Any:
        return functools.cache(lambda key: bool(self._loader.get_group_options(key)))

    def _derived(
        self, kind: tuple[str, ...], overrides: Iterable[Override], values: Iterable[Override], master: DictConfig
    ) -> DictConfig | None:
        """A job's config made from one of the same kind; None if a value does not fit, which Hydra puts into words."""
        made = copy.deepcopy(self._made[kind])
        config = made.hydra.job.config.override_dirname
        task = [override for override in overrides if not override.is_hydra_override()]
        named = [str(override.input_line) for override in task if override.key_or_group not in config.exclude_keys]
        try:
            for override in values:
                OmegaConf.update(made, override.key_or_group, override.value(), merge=True)
            made.hydra.overrides.task = [str(override.input_line) for override in task]
            if not OmegaConf.is_interpolation(made.hydra.job, "override_dirname"):  # Hydra 1.4 resolves it later
                made.hydra.job.override_dirname = config.item_sep.join(sorted(named)).replace("=", config.kv_sep)
        except Exception:  # noqa: BLE001
            return None
        OmegaConf.copy_cache(from_config=master, to_config=made)
        return made


@functools.cache
def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _is_plain(override: Override) -> bool:
    return isinstance(override.value(), (int, float, str, type(None)))


def _text(config: DictConfig) -> str:
    return OmegaConf.to_yaml(config, resolve=False)
