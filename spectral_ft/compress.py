"""`python -m spectral_ft.compress adapter=DIR budget=params budget.value=N [weighting=W] [model=M]`: a smaller adapter.

Leaves `adapter/`, which stock PEFT opens, and `compression.csv`. With `model=` both adapters are scored on the
benchmark and compared item by item.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from spectral_ft.entry import hydra_entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: "DictConfig") -> None:
    """One compression.

    Args:
        config: As Hydra composed it.

    Raises:
        ConfigError: If no adapter, or several, are named.
    """
    from spectral_ft.compose import build_experiment, is_named
    from spectral_ft.errors import ConfigError
    from spectral_ft.run_folder import claimed
    from spectral_ft.stages.compression import compress
    from spectral_ft.stages.updates import RankRule

    if not isinstance(config.adapter, str):
        raise ConfigError(f"adapter={config.adapter}: `compress` takes one adapter; give adapter=FOLDER.")
    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = build_experiment(config)
    rule = RankRule(experiment.budget, config.energy, config.edge)
    with claimed(folder, experiment.run_id):
        checkpoint = experiment.model.locate() if is_named("model") else None
        text, files = compress(
            experiment,
            config.adapter,
            rule,
            weighting=config.weighting,
            curve=config.curve,
            checkpoint=checkpoint,
            folder=folder,
        )
        print(text, end="")
        print("\n".join(map(str, files)))


def main() -> None:
    """The command."""
    hydra_entry(job, name="compress")


if __name__ == "__main__":
    main()
