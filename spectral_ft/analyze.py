"""`python -m spectral_ft.analyze model=M`: the spectral stage alone, without torch.

Leaves `spectrum.parquet`, `spectrum.csv` and `figures/`, and prints the median of each metric by module
type. On request it compares with quantized weights, reads published scans and writes what other tools
read: the group `analysis`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from spectral_ft.entry import hydra_entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


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


def main() -> None:
    """The command."""
    hydra_entry(job, name="analyze")


if __name__ == "__main__":
    main()
