"""`python -m spectral_ft.run [overrides]`: the whole job; with `-m` a sweep."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from spectral_ft.entry import hydra_entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: "DictConfig") -> float | None:
    """One run.

    Args:
        config: As Hydra composed it.

    Returns:
        The objective for a sweeper: the mean over tasks of the leading score after training.

    Raises:
        ConfigError: If it is given what only `evaluate` reads.
    """
    from spectral_ft.compose import build_experiment
    from spectral_ft.errors import ConfigError
    from spectral_ft.reporting.closing_table import closing_table, objective
    from spectral_ft.run_folder import finished_run

    for option in ("adapter", "rescore"):
        if config[option] is not None:
            raise ConfigError(f"{option}={config[option]} is for `evaluate`: a run trains an adapter of its own.")
    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = build_experiment(config)
    result = finished_run(folder, experiment.run_id)
    if result is None:
        from spectral_ft.pipeline import run  # with torch: not for a run that is done

        result = run(experiment, folder)
    elif HydraConfig.get().mode == RunMode.MULTIRUN:
        return objective(result)  # its table was printed when it ended
    if result is None:
        return None
    print(closing_table(result, folder))
    return objective(result)


def main() -> None:
    """The command."""
    hydra_entry(job, name="run", recorded=True)


if __name__ == "__main__":
    main()
