"""`python -m spectral_ft.extract model=M tuned=DIR budget=params budget.value=N`: LoRA from a fine-tuned model.

`tuned` is a checkpoint, or a run of `full` or `spectrum`; `energy=0.99` and `edge=true` choose ranks too. Leaves
`adapter/`, which stock PEFT opens, `extraction.csv`, and in `extraction.json` how far its logits are from those of the
fine-tuned model.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from spectral_ft.entry import hydra_entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: "DictConfig") -> None:
    """One extraction.

    Args:
        config: As Hydra composed it.

    Raises:
        ConfigError: If no fine-tuned checkpoint is named.
    """
    from spectral_ft.compose import build_experiment
    from spectral_ft.errors import ConfigError
    from spectral_ft.run_folder import claimed
    from spectral_ft.stages.extraction import extract
    from spectral_ft.stages.updates import RankRule

    if config.tuned is None:
        raise ConfigError("tuned= is missing: give the folder of the fine-tuned checkpoint, and its base as model=.")
    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = build_experiment(config)
    rule = RankRule(experiment.budget, config.energy, config.edge)
    with claimed(folder, experiment.run_id):
        checkpoint = experiment.model.locate()
        text, files = extract(experiment, config.tuned, rule, checkpoint=checkpoint, folder=folder)
        print(text, end="")
        print("\n".join(map(str, files)))


def main() -> None:
    """The command."""
    hydra_entry(job, name="extract")


if __name__ == "__main__":
    main()
