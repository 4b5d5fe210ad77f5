"""`python -m spectral_ft.analyze model=M | adapter=FOLDER`: the spectral stage alone, without torch.

Leaves `spectrum.parquet`, `spectrum.csv` and `figures/`, and prints the median of each metric by module
type. On request it compares with quantized weights, reads published scans and writes what other tools
read: the group `analysis`. With `adapter=` it analyses the updates of one or two LoRA adapters instead, and compares
them with the base if `model=` names it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from spectral_ft.entry import hydra_entry

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from spectral_ft.experiment import Experiment


def job(config: "DictConfig") -> None:
    """One analysis.

    Args:
        config: As Hydra composed it.

    Raises:
        CheckpointError: If a matrix is missing or damaged; what could be said of the others is
            written and shown by then.
    """
    from spectral_ft.compose import build_experiment
    from spectral_ft.errors import CheckpointError
    from spectral_ft.reporting.spectrum_table import spectrum_table
    from spectral_ft.run_folder import claimed
    from spectral_ft.stages import inspection
    from spectral_ft.stages.spectrum import faults, listing
    from spectral_ft.storage import csv_text, write_text

    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = build_experiment(config)
    if config.adapter is not None:
        _analyse_adapters(config, experiment, folder)
        return
    with claimed(folder, experiment.run_id):
        checkpoint = experiment.model.locate() if experiment.analysis.scan is None else None
        report = inspection.inspected_report(experiment, checkpoint, folder)
        inspection.check_columns(experiment, report)
        write_text(folder / "spectrum.csv", csv_text(report.frame(), index=False))
        print(spectrum_table(report))
        if experiment.analysis.drift is not None:
            print(inspection.compare(experiment, checkpoint, report, folder))
        written = [folder / "spectrum.csv", *inspection.export(experiment, report, folder)]
        written += inspection.draw(experiment, report, folder) if experiment.figures else []
        print("\n".join(map(str, written)))
        if checkpoint and (wrong := faults(report, checkpoint, experiment.spectrum)):
            raise CheckpointError(listing(wrong))


def _analyse_adapters(config: "DictConfig", experiment: "Experiment", folder: Path) -> None:
    from spectral_ft.compose import is_named
    from spectral_ft.run_folder import claimed
    from spectral_ft.stages.updates import RankRule, analyse_adapters

    rule = RankRule(experiment.budget, config.energy, config.edge)
    named = config.adapter if isinstance(config.adapter, str) else list(config.adapter)
    with claimed(folder, experiment.run_id):
        checkpoint = experiment.model.locate() if is_named("model") else None
        text, files = analyse_adapters(experiment, named, rule, checkpoint=checkpoint, folder=folder)
        print(text, end="")
        print("\n".join(map(str, files)))


def main() -> None:
    """The command."""
    hydra_entry(job, name="analyze")


if __name__ == "__main__":
    main()
