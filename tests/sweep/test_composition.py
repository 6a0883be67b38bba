"""Jobs that are made from one composition are those that Hydra composes."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cql import config
from cql.sweep.composition import SweepLoader

GRIDS: dict[str, list[list[str]]] = {
    "numbers": [["seed=0", "seed=1", "seed=17"], ["algorithm.alpha_cql.value=1", "algorithm.alpha_cql.value=0.5"]],
    "arms": [["+arm=base", "+arm=learned_alpha_cql", "+arm=cql_rho"], ["seed=0", "seed=1", "seed=2"]],
    "groups": [
        ["env=Hopper-v5", "env=HalfCheetah-v5"],
        ["algorithm.w_cql=1", "algorithm.w_cql=2"],
        ["seed=0", "seed=1"],
    ],
    "kinds of values": [
        ["n_threads=null", "n_threads=2"],
        ["logger.group='a b, [c]'", "logger.group=plain", "logger.group=null", "logger.group=${env.id}"],
    ],
    "lists and mappings": [
        ["env.reference=[0,1]", "env.reference=null", "env.reference=auto"],
        ["env.kwargs={a:1}", "env.kwargs={b:2}", "env.kwargs=null"],
    ],
    "what is added and removed": [["+extra.key=1", "+extra.key=2", "++seed=4"], ["seed=0", "seed=1"]],
    "the same key twice": [["seed=3 ", "seed=4"], ["seed=0", "seed=1"]],
    "hydra's own": [["hydra.job.name=a", "hydra.job.name=b"], ["seed=0", "seed=1"]],
}


@pytest.fixture(scope="module")
def loader() -> Iterator[Any]:
    config.register()
    with initialize_config_dir(str(config.CONFIG_DIR), **config.VERSION_BASE):
        yield GlobalHydra.instance().config_loader()


def multirun(loader: Any, *overrides: str) -> DictConfig:
    made: DictConfig = loader.load_configuration("train", list(overrides), run_mode=RunMode.MULTIRUN)
    return made


class Counting:
    def __init__(self, loader: Any) -> None:
        self.loader, self.count = loader, 0

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        self.count += 1
        made: DictConfig = self.loader.load_sweep_config(master, overrides)
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_job_is_composed_as_by_hydra(loader: Any, grid: str) -> None:
    master = multirun(loader, "n_steps=1000", "logger=wandb", "hydra.launcher.stack_size=3")
    quick = SweepLoader(loader)
    for job in itertools.product(*GRIDS[grid]):
        overrides = ["n_steps=1000", "logger=wandb", "hydra.launcher.stack_size=3", *job]
        expected, made = (each.load_sweep_config(master, overrides) for each in (loader, quick))
        assert OmegaConf.to_yaml(made) == OmegaConf.to_yaml(expected), job
        assert made._metadata.flags == expected._metadata.flags
    with pytest.raises(ConfigCompositionException):
        quick.load_sweep_config(master, [*overrides, "absent_key=1"])


def test_few_jobs_are_composed_from_files(loader: Any) -> None:
    counting = Counting(loader)
    quick, master = SweepLoader(counting), multirun(loader, "n_steps=1000")
    made = [
        quick.load_sweep_config(master, ["n_steps=1000", f"+arm={arm}", f"seed={seed}", f"algorithm.w_cql={weight}"])
        for arm in ("base", "cql_rho")
        for seed in range(20)
        for weight in (1.0, 2.0)
    ]
    assert counting.count == 4  # two of each kind
    assert [each.seed for each in made[:4]] == [0, 0, 1, 1]
    made[-1].seed = 99  # a job's config is its own
    assert quick.load_sweep_config(master, ["n_steps=1000", "+arm=base", "seed=5", "algorithm.w_cql=1.0"]).seed == 5
    assert pickle.loads(pickle.dumps(SweepLoader(loader)))._made == {}


def test_a_kind_that_hydra_composes_otherwise_is_left_to_hydra(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(loader)
    quick, master = SweepLoader(counting), multirun(loader)
    derived = SweepLoader._derived

    def wrong(self: SweepLoader, *given: Any) -> DictConfig | None:
        made = derived(self, *given)
        if made is not None:
            made.batch_size = 7
        return made

    monkeypatch.setattr(SweepLoader, "_derived", wrong)
    for seed in range(6):
        assert quick.load_sweep_config(master, [f"seed={seed}"]).batch_size == 256
    assert counting.count == 6


def test_a_value_that_does_not_fit_is_hydras_error(loader: Any) -> None:
    quick, master = SweepLoader(loader), multirun(loader)
    for seed in range(3):
        quick.load_sweep_config(master, [f"seed={seed}"])
    with pytest.raises(ConfigCompositionException, match="seed=often"):
        quick.load_sweep_config(master, ["seed=often"])
