"""`python -m spectral_ft.evaluate model=M [adapter=DIR] benchmark=B`: scores of what exists already.

Leaves `scores.json` and `samples/`. `adapter=[DIR,DIR]` scores several adapters of one loaded base, each in a folder
of its own; a DIR is an adapter, or a run that has one. `rescore=DIR` reads the answers that are stored in DIR by every
rule that fits them, and generates nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from spectral_ft.entry import hydra_entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: "DictConfig") -> None:
    """One evaluation.

    Args:
        config: As Hydra composed it.
    """
    from spectral_ft.compose import build_experiment
    from spectral_ft.reporting.score_table import score_table
    from spectral_ft.run_folder import claimed, mark_started
    from spectral_ft.stages.adapters import adapter_folders
    from spectral_ft.stages.benchmarks import prepare_tasks, source_tasks
    from spectral_ft.stages.evaluation import Scorer
    from spectral_ft.stages.reading import check_description

    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = build_experiment(config)
    if config.rescore is not None:
        from spectral_ft.stages.rescoring import rescored

        scores = rescored(experiment, Path(config.rescore).expanduser(), folder)
        print(score_table(scores, folder, title=f"answers of {config.rescore}, read again"))
        return
    with claimed(folder, experiment.run_id):
        adapter_folders(config.adapter, experiment.model.label, None)
        checkpoint = experiment.model.locate(weights=False)
        tasks = source_tasks(experiment)
        mark_started(folder, experiment.run_id, experiment.config)
        prepare_tasks(experiment, checkpoint, tasks, folder)
        check_description(experiment, checkpoint)
        checkpoint = experiment.model.complete(checkpoint)
        checkpoint.check_whole()
        adapters = adapter_folders(config.adapter, experiment.model.label, checkpoint)
        scorer = Scorer(experiment, checkpoint, tasks)
        for name, adapter in adapters.items():
            place = folder / name if len(adapters) > 1 else folder
            scores = scorer.score(place, adapter=adapter)
            print(score_table(scores, place, title=f"{experiment.model.label}, {name}"))


def main() -> None:
    """The command."""
    hydra_entry(job, name="evaluate")


if __name__ == "__main__":
    main()
