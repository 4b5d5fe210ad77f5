"""`python -m spectral_ft.analyze model=M`: the spectral stage alone, without torch.

Leaves `spectrum.parquet` and `spectrum.csv`, and prints the median of each metric by module type.
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
    """
    from spectral_ft.compose import build_experiment
    from spectral_ft.reporting.closing_table import spectrum_table
    from spectral_ft.run_folder import claimed
    from spectral_ft.stages.spectrum import report_with_spectra
    from spectral_ft.storage import replacing

    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = build_experiment(config)
    with claimed(folder, experiment.run_id):
        report = report_with_spectra(experiment.model.label, experiment.model.locate(), experiment.spectrum, folder)
        with replacing(folder / "spectrum.csv") as part:
            report.frame().to_csv(part, index=False)
    print(spectrum_table(report, folder))


def main() -> None:
    """The command."""
    hydra_entry(job, name="analyze")


if __name__ == "__main__":
    main()
