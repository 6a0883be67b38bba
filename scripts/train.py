"""Train one CQL run: ``python scripts/train.py [+experiment=NAME] [key=value ...]``; see ``--help``."""

import logging
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cql import config

config.register()


@hydra.main(version_base="1.3", config_path=str(Path(__file__).resolve().parents[1] / "configs"), config_name="train")
def train(cfg: DictConfig) -> float:
    """Check the config, then train in Hydra's output folder. Torch is imported once the config is known to be right."""
    train_config = config.checked(cfg)
    directory = Path(HydraConfig.get().runtime.output_dir)
    logging.captureWarnings(True)

    from cql import experiment

    if train_config.resume is not None:
        train_config = experiment.resumed_config(directory)
    return experiment.run(train_config, directory)


def main() -> None:
    """The entry point: config errors become messages."""
    with config.messages():
        train()


if __name__ == "__main__":
    main()
