"""Train one CQL run: ``python scripts/train.py [+experiment=NAME] [key=value ...]``; see ``--help``."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cql import config
from cql.commands import is_own, printable, tolerate_narrow_locales

config.register()


@hydra.main(config_path=str(config.CONFIG_DIR), config_name="train", **config.VERSION_BASE)
@config.stackable
def train(cfg: DictConfig) -> float:
    """Check the config, then train in Hydra's output folder; torch is imported once the config is known to be right."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    if cfg.resume is None:
        train_config = config.checked(cfg)
        if train_config.video.enabled:
            from cql.rollout.rendering import begin_to_choose

            begin_to_choose()
        from cql.training import experiment, run_folder
    else:
        from cql.training import experiment, run_folder

        directory = Path(cfg.resume)
        train_config = run_folder.resumed_config(directory, HydraConfig.get().overrides.task)
        train_config.retry_failed = True  # asked for by its name, a failed run is tried again
    return experiment.run(train_config, directory)


def main() -> None:
    """The entry point: a user error ends the program with its message, any other error is raised."""
    tolerate_narrow_locales()
    try:
        with config.friendly_errors():
            sys.argv[1:] = config.arranged(sys.argv[1:])
            train()
    except KeyboardInterrupt:
        # Before the training loop, which catches the first signal itself, or by a second one.
        sys.stderr.write("interrupted at once; the run resumes from its last checkpoint, if it has one\n")
        sys.exit(130)
    except Exception as error:
        if not (is_own(error) or isinstance(error, OSError)):
            raise
        sys.stderr.write(printable(f"{type(error).__name__}: {error}\n"))
        # Of a sweep the number of its runs that failed; the numbers from 126 on have other meanings.
        sys.exit(min(getattr(error, "n_failed", 1), 125))


if __name__ == "__main__":
    main()
